//! The life of the process: who is in flight, and when it is time to go.

mod calls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;

pub use calls::{Call, Calls, Entered};

/// Shared by all requests and by the services that end the process.
#[derive(Debug)]
pub struct Life {
    in_flight: AtomicUsize,
    draining: AtomicBool,
    ends_connections: AtomicBool,
    accepted: AtomicBool,
    stop: watch::Sender<bool>,
}

/// One request in flight; counts down when dropped, also by a panic.
#[derive(Debug)]
pub struct InFlight(Arc<Life>);

impl Default for Life {
    fn default() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            ends_connections: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            stop: watch::Sender::new(false),
        }
    }
}

impl Life {
    /// Counts a request in.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A connection has come.
    pub fn accept(&self) {
        if !self.accepted.load(Ordering::Relaxed) {
            self.accepted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any connection has come to this process.
    pub fn has_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on every answer is the last of its connection.
    pub fn end_connections(&self) {
        self.ends_connections.store(true, Ordering::Release);
    }

    /// Whether a connection ends with the next answer.
    pub fn ends_connections(&self) -> bool {
        self.ends_connections.load(Ordering::Acquire)
    }

    /// From now on `/health` says that the gateway is leaving, and connections end with their next answer.
    pub fn start_draining(&self) {
        self.end_connections();
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the gateway is leaving.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Ends every open request now.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ready when open requests must end.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
