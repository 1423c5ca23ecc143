//! Generation calls: walks the attempts over Pingora's connector, up to the first byte of an answer.
//!
//! Not Pingora's proxy loop: that one commits at the response header, has one timeout for two waits and cannot send
//! keepalives. Nothing reaches the caller before `relay` is entered, so every failure up to there can be followed by
//! another try.

mod connect;
mod receive;

pub(super) use connect::give_back;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use otari_filters::control::Attempt;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::{self, Failure};
use pingora_core::prelude::{Error, ErrorType};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::Session;
use tokio::sync::watch;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::proxy::call::{Call, Stop};
use crate::proxy::open::Ending;

/// Pause before the first repeat on the same provider; doubles, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// All pauses of one request together.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A provider's answer whose header and first piece are here.
pub(super) struct Answer {
    pub(super) up: HttpSession,
    pub(super) peer: Arc<HttpPeer>,
    /// Decoded when the provider compressed although it was told not to.
    pub(super) decoder: receive::Decoder,
    pub(super) is_stream: bool,
    /// First piece, as received.
    pub(super) first: Bytes,
    pub(super) idle_timeout: Duration,
}

/// Why an attempt ended without an answer.
pub(super) enum Failed {
    /// Nothing reached the caller: another try may.
    Attempt(FailedAttempt),
    /// The caller left.
    CallerGone(Box<Error>),
    /// The gateway is leaving, or the whole request took too long.
    Ended(&'static str, Rejection),
}

/// A try that failed.
pub(super) struct FailedAttempt {
    /// For the row: a code, then what is known.
    reason: Cow<'static, str>,
    /// The provider's status, if it gave one.
    status: Option<u16>,
    rejection: Rejection,
    /// Worth repeating on the same provider.
    repeatable: bool,
    /// The connection came from the pool and broke before an answer: says nothing of the provider.
    stale: bool,
}

impl FailedAttempt {
    /// Why, for the row; and what the caller is told.
    pub(super) fn into_parts(self) -> (Cow<'static, str>, Rejection) {
        (self.reason, self.rejection)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Attempt(FailedAttempt {
            reason: failure.as_str().into(),
            status: None,
            rejection: failure.rejection(),
            repeatable: !failure.was_sent(),
            stale: false,
        })
    }
}

/// What a wait ended with.
pub(super) enum Step<T> {
    Got(T),
    /// The caller left.
    Gone(Box<Error>),
    /// Draining is over.
    Stopped,
    Timeout,
}

/// What every wait of one request watches.
pub(super) struct Watch {
    stop: watch::Receiver<bool>,
    /// Whether a caller who leaves ends the wait. Off for answers that are not streamed: the provider bills those
    /// whole, so they are read to the end and recorded exactly.
    pub(super) caller: bool,
    /// End of the whole request.
    pub(super) deadline: Instant,
}

impl Watch {
    /// `caller`: see the field.
    pub(super) fn new(app: &App, started: Instant, caller: bool) -> Self {
        let deadline = started + app.config.limits.request_timeout;
        Self { stop: app.life.stopped(), caller, deadline }
    }

    /// Waits for `f`, the caller's leaving, the end of draining or `until`, whichever comes first; a result that is
    /// there already wins. `f` is dropped when it loses: it must be cancel-safe.
    pub(super) async fn step<T>(
        &mut self,
        s: &mut Session,
        until: Instant,
        f: impl Future<Output = T>,
    ) -> Step<T> {
        let until = until.min(self.deadline);
        tokio::pin!(f);
        tokio::select! {
            biased;
            value = &mut f => Step::Got(value),
            _ = self.stop.wait_for(|stop| *stop) => Step::Stopped,
            idle = s.downstream_session.read_body_or_idle(true), if self.caller => Step::Gone(match idle {
                Err(error) => error.into_down(),
                Ok(_) => Error::explain(ErrorType::ConnectionClosed, "unexpected data").into_down(),
            }),
            () = tokio::time::sleep_until(until.into()) => Step::Timeout,
        }
    }

    /// Whether the whole request is out of time.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// The first answer, or what the caller is told instead. Whatever failed has been settled.
pub(super) async fn run(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    watch: &mut Watch,
) -> Result<Answer, Stop> {
    match walk(app, s, watch, call, ctx).await {
        Ok(answer) => Ok(answer),
        Err(Failed::Attempt(failed)) => {
            let status = failed.status.unwrap_or(failed.rejection.code.status().as_u16());
            ctx.outcome.error = Some(failed.reason.clone().into_owned());
            call.open.end(&Ending::Failed { reason: failed.reason, status });
            Err(failed.rejection.into())
        }
        Err(Failed::CallerGone(error)) => {
            app.metrics.stream_abort("caller");
            ctx.outcome.code = Some("client_disconnected");
            // The provider was told to stop; what it read of the prompt is the caller's to pay.
            call.open.end(&Ending::Cut { reason: "client_disconnected", status: 499 });
            Err(Stop::Broken(error))
        }
        Err(Failed::Ended(reason, rejection)) => {
            let status = rejection.code.status().as_u16();
            call.open.end(&Ending::Failed { reason: reason.into(), status });
            Err(rejection.into())
        }
    }
}

/// Tries the attempts in order; the last one is repeated while that makes sense.
async fn walk(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    call: &mut Call,
    ctx: &mut RequestContext,
) -> Result<Answer, Failed> {
    let count = call.attempts.len();
    let mut waited = Duration::ZERO;
    for at in 0..count {
        let attempt = call.attempts[at].clone();
        ctx.outcome.provider = Some(attempt.upstream.instance.clone());
        let body = call.request.write_same(&call.body, &attempt.model, call.keeps_user);
        let mut repeats = 0;
        let mut was_stale = false;
        loop {
            call.open.begin(&attempt);
            let failed = match try_once(app, s, watch, call, &attempt, &body).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Attempt(failed)) => failed,
                Err(other) => return Err(other),
            };
            let again = if failed.stale && !was_stale {
                was_stale = true;
                Some(Duration::ZERO)
            } else if at + 1 == count && repeats < attempt.upstream.max_retries {
                repeats += 1;
                pause(app, &failed, repeats, waited)
            } else {
                None
            };
            let Some(pause) = again else {
                if at + 1 == count {
                    return Err(Failed::Attempt(failed));
                }
                absorb(call, &failed);
                break;
            };
            if failed.stale {
                call.open.forget();
            } else {
                absorb(call, &failed);
            }
            waited += pause;
            match watch.step(s, Instant::now() + pause, std::future::pending::<()>()).await {
                Step::Gone(error) => return Err(Failed::CallerGone(error)),
                Step::Stopped => return Err(stopped()),
                _ if watch.is_over() => return Err(out_of_time()),
                _ => {}
            }
        }
    }
    // `attempts` is never empty, and its last one returns from the loop.
    Err(Failure::Malformed.into())
}

fn absorb(call: &mut Call, failed: &FailedAttempt) {
    let status = failed.status.unwrap_or(failed.rejection.code.status().as_u16());
    call.open.absorb(&failed.reason, status);
}

/// How long to wait before the same provider is tried again; `None`: not at all.
fn pause(app: &App, failed: &FailedAttempt, repeats: u32, waited: Duration) -> Option<Duration> {
    let repeatable = failed.repeatable || (failed.status.is_none() && app.config.retry_after_sent);
    let asked = failed.rejection.retry_after_s.map(Duration::from_secs);
    let backoff = FIRST_BACKOFF * 2_u32.saturating_pow(repeats - 1);
    // Callers who failed together must not come back together.
    let jitter = f64::from(u32::from(uuid::Uuid::now_v7().as_bytes()[15])) / 255.0;
    let pause = asked.unwrap_or(backoff.mul_f64(0.75 + 0.25 * jitter));
    (repeatable && waited + pause <= MAX_WAIT).then_some(pause)
}

pub(super) fn stopped() -> Failed {
    let message = "The gateway is shutting down. Try again";
    Failed::Ended("draining", Rejection::new(Code::Draining, message))
}

pub(super) fn out_of_time() -> Failed {
    let message = "The request took longer than request_timeout_s allows";
    Failed::Ended("deadline", Rejection::new(Code::Deadline, message))
}

/// One try on one provider: connect, send, receive up to the first piece.
async fn try_once(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    call: &mut Call,
    attempt: &Attempt,
    body: &[Bytes],
) -> Result<Answer, Failed> {
    let upstream = &attempt.upstream;
    let limits = &app.config.limits;
    let known = app.addresses.find(upstream, limits.connect_timeout, Instant::now()).await?;
    let (mut up, peer, reused) = connect::connect(app, s, watch, &known.peers).await?;
    up.set_read_timeout(None);
    up.set_write_timeout(Some(limits.idle_timeout));
    call.open.mark_sent();
    let sent = connect::send(s, watch, &mut up, upstream, &known, body).await;
    let received = match sent {
        Ok(()) => receive::first_piece(s, watch, &mut up, upstream).await,
        Err(failed) => Err(failed),
    };
    match received {
        Ok(receive::Head::Answer { first, is_stream, decoder }) => {
            let idle_timeout = upstream.idle_timeout;
            Ok(Answer { up, peer, decoder, is_stream, first, idle_timeout })
        }
        Ok(receive::Head::Error { refusal, complete }) => {
            connect::give_back(app, up, &peer, complete).await;
            Err(refused(refusal))
        }
        Err(failed) => {
            connect::give_back(app, up, &peer, false).await;
            Err(match failed {
                Failed::Attempt(broken) if reused && broken.status.is_none() => {
                    Failed::Attempt(FailedAttempt {
                        stale: broken.reason == "connection_broken",
                        ..broken
                    })
                }
                other => other,
            })
        }
    }
}

/// The provider answered with an error status.
fn refused(refusal: receive::Refusal) -> Failed {
    let receive::Refusal { status, body, retry_after_s, headers } = refusal;
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let words = upstream::redact(&text).unwrap_or_default();
    let rejection = Rejection { headers, ..upstream::refusal(status, &body, retry_after_s) };
    Failed::Attempt(FailedAttempt {
        reason: format!("provider_status: {status} {words}").into(),
        status: Some(status),
        rejection,
        repeatable: upstream::is_retryable(status),
        stale: false,
    })
}
