//! The loop that asks for credentials: what requests wait for, and what is to be renewed.

use std::cell::LazyCell;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::client::Http;
use super::kept::{Issued, Kept, micros};
use super::{Clock, CredentialFailure, Pace, Shared};

/// What asks, or why nothing can.
type Client = Result<Http, CredentialFailure>;
type Make = fn() -> Client;

/// Works for as long as it is polled.
pub(super) async fn run(shared: &Arc<Shared>, mut queued: mpsc::Receiver<Arc<Kept>>) {
    // Made when somebody needs it: it reads the machine's root certificates.
    let http = LazyCell::new(Http::new as Make);
    let mut flights = JoinSet::new();
    let mut looks = interval(shared.pace.look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(kept) = queued.recv(), if flights.len() < shared.pace.at_once => {
                flights.spawn(flight(Flight::new(shared, kept), Client::clone(&http)));
            }
            // What it came to is in the entry, a panic included.
            Some(_) = flights.join_next() => {}
            _ = looks.tick() => look(shared, &mut flights, &http),
        }
    }
}

/// Begins to renew what is due and was used, and forgets what was not.
fn look(shared: &Arc<Shared>, flights: &mut JoinSet<()>, http: &LazyCell<Client, Make>) {
    let now = (shared.clock)();
    let forget_before = now.saturating_sub(micros(shared.pace.unused));
    let all = shared.kept.pin();
    for (key, kept) in &all {
        if kept.used_us() < forget_before {
            if !kept.is_asked_for() {
                let _adding = shared.adding.lock();
                // Another may have its place by now.
                let _ = all.remove_if(key, |_, there| Arc::ptr_eq(there, kept));
            }
        } else if flights.len() < shared.pace.at_once && kept.is_due(now) && kept.begin() {
            flights.spawn(flight(Flight::new(shared, kept.clone()), Client::clone(http)));
        }
    }
}

/// An entry that is being asked for. Dropping it without an outcome is an outcome: nobody waits for ever.
struct Flight {
    kept: Arc<Kept>,
    pace: Pace,
    clock: Clock,
    has_ended: bool,
}

impl Flight {
    fn new(shared: &Shared, kept: Arc<Kept>) -> Self {
        Self { kept, pace: shared.pace, clock: shared.clock.clone(), has_ended: false }
    }

    fn end(&mut self, result: Result<Issued, CredentialFailure>) {
        self.has_ended = true;
        let provider = &*self.kept.instance;
        if let Err(failure) = &result {
            tracing::warn!(provider, reason = failure.as_str(), %failure, "no new credential");
        } else {
            tracing::debug!(provider, "a credential was issued");
        }
        self.kept.end(result, (self.clock)(), &self.pace);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Err(CredentialFailure::unavailable("asking for a credential was given up")));
        }
    }
}

async fn flight(mut flight: Flight, http: Client) {
    // The life of a credential counts from when it was asked for, not from when it came.
    let now = (flight.clock)();
    let fetched = async { flight.kept.source.fetch(&http?, now).await };
    let result = match timeout(flight.pace.fetch, fetched).await {
        Ok(result) => result,
        Err(_) => {
            Err(CredentialFailure::unavailable("getting a credential took longer than it may"))
        }
    };
    flight.end(result);
}
