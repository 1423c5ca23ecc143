//! Leaving: signals, draining, and the one place that ends the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::background::BackgroundService;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::Mutex;

use super::{Leaving, heard};
use crate::app::{App, Mode, StartError};
use crate::life::Life;
use crate::proxy::door::LAST_REQUESTS;

/// Streams that are told to end may take so long.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The store may take so long; what it misses is replayed at the next start.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// For kept connections to end with an answer, before those that nobody uses are closed: a call that is sent to a
/// connection while that closes is lost.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// TERM, INT and QUIT: somebody wants this process to end. None is lost that comes after these are heard.
pub(super) struct Ending([Signal; 3]);

impl Ending {
    /// Hears them from here on.
    pub(super) fn heard_on(runtime: &Runtime) -> Result<Self, StartError> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
        let [term, int, quit] = kinds.map(|kind| heard(runtime, kind));
        Ok(Self([term?, int?, quit?]))
    }

    /// What becomes of `work`; nothing, and it is dropped, if one of them comes first.
    pub(super) async fn unless_wished<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.wish() => None,
        }
    }

    /// The next of them.
    pub(super) async fn wish(&mut self) {
        let any = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(any).await;
    }
}

/// All of them end gracefully, and so does a process whose place another one has taken.
pub(super) struct Signals {
    pub(super) ending: Arc<Mutex<Ending>>,
    pub(super) life: Arc<Life>,
    pub(super) lame_duck: Duration,
    pub(super) leaving: Leaving,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut ending = self.ending.lock().await;
        tokio::select! {
            () = ending.wish() => {
                self.leaving.notify.stopping("open calls may end");
                // Balancers see 503 and turn away while the port still answers.
                self.life.start_draining();
                tokio::time::sleep(self.lame_duck).await;
            }
            () = self.leaving.handed.done() => {
                // Nobody needs to turn away: the port goes on answering, here too for a moment.
                self.life.end_connections();
                tokio::time::sleep(LAST_ANSWERS).await;
                self.life.start_draining();
            }
        }
        self.leaving.sockets.close();
        ShutdownSignal::GracefulTerminate
    }
}

/// Waits for open requests, then for the journal, then ends the process.
///
/// Pingora by itself sleeps its whole grace period and then drops what is left, records included.
pub(super) struct Drain {
    pub(super) app: Arc<App>,
    pub(super) ending: Arc<Mutex<Ending>>,
    pub(super) leaving: Leaving,
}

#[async_trait]
impl BackgroundService for Drain {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.changed().await.is_err() {
            return;
        }
        let app = &self.app;
        app.life.start_draining();
        let limits = app.live().limits.clone();
        let open = app.life.in_flight();
        tracing::info!(requests = open, up_to_s = limits.drain.as_secs(), "draining");
        let mut ending = self.ending.lock().await;
        let second = async {
            ending.wish().await;
            if self.leaving.handed.is_done() {
                // It was the first, and meant for the whole service: this process is leaving already.
                tracing::info!("a signal: open requests have as long as they had");
                ending.wish().await;
            }
        };
        tokio::pin!(second);
        let patience = async {
            if self.leaving.is_held || self.leaving.handed.is_done() {
                // Whoever has just come here does not know that this process leaves.
                tokio::time::sleep(LAST_REQUESTS).await;
            }
            idle(&app.life, limits.drain).await;
        };
        tokio::select! {
            () = patience => {}
            () = &mut second => tracing::warn!("a second signal: open requests are ended now"),
        }
        app.life.stop();
        idle(&app.life, STOP_TIMEOUT).await;
        // Requests journal before they stop counting, so nothing can come after this.
        hand_over(&app.mode).await;
        tracing::info!("bye");
        app.access.flush();
        #[expect(
            clippy::disallowed_methods,
            reason = "everything is written; Pingora would sleep on"
        )]
        std::process::exit(0);
    }
}

/// Brings what is journalled to where it belongs. What does not get there is replayed at the next start.
async fn hand_over(mode: &Mode) {
    match mode {
        Mode::Standalone(standalone) => {
            if !standalone.local.journal.flush(FLUSH_TIMEOUT).await {
                tracing::warn!(
                    "the database did not take all usage; the rest waits in the journal"
                );
            } else if let Some(shared) = standalone.store.shared() {
                // Its part of the budgets is the others' from now on.
                let _ = tokio::time::timeout(FLUSH_TIMEOUT, shared.leave()).await;
            }
        }
        Mode::Connected(connected) => {
            if !connected.flush(connected.config.usage_timeout).await {
                tracing::warn!(
                    "the platform did not take all reports; the rest waits in the journal"
                );
            }
        }
    }
}

/// Until nothing is in flight, at most so long.
async fn idle(life: &Life, at_most: Duration) {
    let until = Instant::now() + at_most;
    while life.in_flight() > 0 && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}
