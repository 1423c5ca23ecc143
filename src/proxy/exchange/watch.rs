//! The waits of one request: whatever is waited for, the caller may leave, draining may end, and time runs out.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_core::prelude::{Error, ErrorType};
use pingora_proxy::Session;
use tokio::sync::watch;

use super::Failed;
use super::failed::{out_of_time, stopped};
use crate::app::App;

/// What a wait ended with.
pub(in crate::proxy) enum Step<T> {
    Got(T),
    /// The caller left.
    Gone(Box<Error>),
    /// Draining is over.
    Stopped,
    Timeout,
}

/// What keeps the connection of a waiting caller alive.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Alive {
    /// So often.
    pub(in crate::proxy) every: Duration,
    /// What is written.
    pub(in crate::proxy) sign: &'static [u8],
}

/// What every wait of one request watches.
pub(in crate::proxy) struct Watch {
    stop: watch::Receiver<bool>,
    /// Whether a caller who leaves ends the wait. Off for answers that are not streamed: the provider bills those
    /// whole, so they are read to the end and recorded exactly.
    pub(in crate::proxy) caller: bool,
    /// End of the whole request.
    pub(in crate::proxy) deadline: Instant,
    /// What the caller gets while they wait; `None` while nothing may be written.
    pub(in crate::proxy) alive: Option<Alive>,
}

impl Watch {
    /// `caller`: see the field.
    pub(in crate::proxy) fn new(app: &App, started: Instant, caller: bool) -> Self {
        let deadline = started + app.live().limits.request_timeout;
        Self { stop: app.life.stopped(), caller, deadline, alive: None }
    }

    /// Waits for `f`, the caller's leaving, the end of draining or `until`, whichever comes first; a result that is
    /// there already wins. `f` is dropped when it loses: it must be cancel-safe.
    pub(in crate::proxy) async fn step<T>(
        &mut self,
        s: &mut Session,
        until: Instant,
        f: impl Future<Output = T>,
    ) -> Step<T> {
        let until = until.min(self.deadline);
        tokio::pin!(f);
        loop {
            let sign_at = self.alive.map(|alive| Instant::now() + alive.every);
            let wake_at = sign_at.map_or(until, |sign_at| sign_at.min(until));
            tokio::select! {
                biased;
                value = &mut f => return Step::Got(value),
                _ = self.stop.wait_for(|stop| *stop) => return Step::Stopped,
                idle = s.downstream_session.read_body_or_idle(true), if self.caller => {
                    return Step::Gone(match idle {
                        Err(error) => error.into_down(),
                        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "unexpected data").into_down(),
                    });
                }
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
            let Some(alive) = self.alive.filter(|_| Instant::now() < until) else {
                return Step::Timeout;
            };
            let sign = Bytes::from_static(alive.sign);
            if let Err(error) = s.write_response_body(Some(sign), false).await {
                return Step::Gone(error.into_down());
            }
        }
    }

    /// Waits for what the caller is sending, which bounds itself, and whose end `f` sees by itself.
    ///
    /// # Errors
    /// Draining is over, or the whole request is out of time.
    pub(in crate::proxy) async fn body<T>(
        &mut self,
        f: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        tokio::select! {
            biased;
            value = f => Ok(value),
            _ = self.stop.wait_for(|stop| *stop) => Err(stopped()),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(out_of_time()),
        }
    }

    /// Waits for something of the gateway's own, which bounds itself.
    ///
    /// # Errors
    /// The caller left, draining is over, or the whole request is out of time.
    pub(in crate::proxy) async fn own<T>(
        &mut self,
        s: &mut Session,
        f: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        match self.step(s, self.deadline, f).await {
            Step::Got(value) => Ok(value),
            Step::Gone(error) => Err(Failed::CallerGone(error)),
            Step::Stopped => Err(stopped()),
            Step::Timeout => Err(out_of_time()),
        }
    }

    /// Whether the whole request is out of time.
    pub(in crate::proxy) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}
