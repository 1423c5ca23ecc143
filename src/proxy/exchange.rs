//! Generation calls: walks the attempts over Pingora's connector, up to the first byte of an answer.
//!
//! Not Pingora's proxy loop: that one commits at the response header, has one timeout for two waits and cannot send
//! keepalives. Nothing reaches the caller before `relay` is entered, so every failure up to there can be followed by
//! another try.

mod outgoing;
mod connect;
mod send;
mod receive;
mod incoming;
mod failed;
mod watch;

use connect::Proof;
pub(super) use connect::give_back;
pub(super) use failed::{Failed, FailedAttempt, out_of_time, stopped};
use failed::{Stale, refused, unproved};
use outgoing::Outgoing;
use send::{Sending, Sent};
pub(super) use watch::{Alive, Step, Watch};

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use otari_filters::control::Attempt;
use otari_filters::operations::Measured;
use otari_filters::upstream::{self, ErrorClass, Upstream};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::Session;

use crate::app::App;
use crate::credentials::CredentialFailure;
use crate::proxy::call::{Call, Stop};
use crate::proxy::open::Ending;
use crate::proxy::{RequestContext, attach, upload};

/// Pause before the first repeat on the same provider; doubles, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How long a credential is waited for at most.
const CREDENTIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection from the pool that the provider had closed shows it in a round trip. One that breaks later was alive, and
/// the provider may have worked on the request: it is not sent again as if it had never arrived.
const STALE_WITHIN: Duration = Duration::from_secs(1);
/// All pauses of one request together.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A provider's answer that nothing stands against any more.
pub(super) struct Answer {
    pub(super) up: HttpSession,
    pub(super) peer: Arc<HttpPeer>,
    /// What further pieces pass first.
    pub(super) incoming: incoming::Incoming,
    pub(super) is_stream: bool,
    /// What is here of the body, decoded: of a stream up to the first event, of a document up to a megabyte.
    pub(super) first: Vec<Bytes>,
    /// The document is here to its end; with what it tells.
    pub(super) whole: Option<Measured>,
    pub(super) idle_timeout: Duration,
    /// It came before the request was sent to its end: nothing else may follow on that connection.
    pub(super) is_early: bool,
}

/// The first answer, or what the caller is told instead. Whatever failed has been settled.
pub(super) async fn run(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    watch: &mut Watch,
) -> Result<Box<Answer>, Stop> {
    let refused = match walk(app, s, watch, call, ctx).await {
        Ok(answer) => return Ok(answer),
        Err(Failed::Attempt(failed)) => {
            fail(call, ctx, &failed);
            let rejection = call.asked.worded(failed.rejection);
            // A budget that stopped the walk is said as it is.
            match call.plan.attempts.len() {
                2.. if rejection.code.is_providers() => upstream::exhausted(&rejection),
                _ => rejection,
            }
        }
        Err(Failed::CallerGone(error)) => {
            app.metrics.stream_abort("caller");
            ctx.outcome.code = Some("client_disconnected");
            // The provider was told to stop; what it read of the prompt is the caller's to pay.
            call.open.cancel();
            return Err(Stop::Broken(error));
        }
        Err(Failed::Ended(reason, rejection)) => {
            let status = rejection.code.status().as_u16();
            call.open.end(&Ending::Failed { reason: reason.into(), status, class: None });
            *rejection
        }
    };
    call.open.flush_reports().await;
    Err(refused.into())
}

/// Tries the attempts in order; the last one is repeated while that makes sense.
async fn walk(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    call: &mut Call,
    ctx: &mut RequestContext,
) -> Result<Box<Answer>, Failed> {
    // Where every one of them is passed over, the best is tried all the same: a caller is better served by its error
    // than by ours.
    call.at = next(app, call, 0).unwrap_or(0);
    let mut waited = Duration::ZERO;
    loop {
        let upstream = call.attempt().upstream.clone();
        ctx.outcome.provider = Some(upstream.instance.clone());
        let failed = match repeat(app, s, watch, call, ctx, &mut waited).await {
            Ok(answer) => {
                note_answer(app, &upstream);
                return Ok(answer);
            }
            Err(Failed::Attempt(failed)) => failed,
            Err(other) => return Err(other),
        };
        let Some(next) = next(app, call, call.at + 1) else {
            return Err(Failed::Attempt(failed));
        };
        // The next one may be dearer; when it may not be paid for, this one was the last. So it was when the disk does
        // not have the file that it would be sent.
        let covered = match call.can_be_sent() {
            true => call.open.cover_attempt(&call.plan.attempts[next]).await,
            false => Err(upload::not_kept()),
        };
        if let Err(refused) = covered {
            return Err(Failed::Attempt(Box::new(FailedAttempt { rejection: refused, ..*failed })));
        }
        call.open.absorb(&failed.reason, failed.status(), failed.class, false);
        call.at = next;
    }
}

/// The first attempt from `from` on that is not passed over.
fn next(app: &App, call: &Call, from: usize) -> Option<usize> {
    let now = Instant::now();
    let attempts = &call.plan.attempts;
    let found = (from..attempts.len()).find(|at| app.breakers.admits(&attempts[*at].upstream, now));
    let end = match found {
        Some(at) => at,
        // The first is tried all the same; the others are seen when it has failed.
        None if from == 0 => 0,
        None => attempts.len(),
    };
    for attempt in &attempts[from..end] {
        app.metrics.passed_over(&attempt.upstream.instance);
    }
    found
}

/// The circuit breaker, after an answer.
fn note_answer(app: &App, upstream: &Upstream) {
    if app.breakers.works(upstream) {
        tracing::info!(provider = &*upstream.instance, "a provider answers again");
    }
}

/// Tries one attempt; the last or only one several times, while that makes sense.
async fn repeat(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    call: &mut Call,
    ctx: &mut RequestContext,
    waited: &mut Duration,
) -> Result<Box<Answer>, Failed> {
    let attempt = call.attempt().clone();
    let upstream = &attempt.upstream;
    // Boxed, and only where there is something to do: every open stream would carry its state.
    if call.attachments.is_some()
        && let Err(refused) = Box::pin(attach::fit(app, ctx, call, &attempt)).await
    {
        call.open.begin(&attempt);
        return Err(outgoing::refused(refused));
    }
    let outgoing = match outgoing::prepare(call, &attempt, betas(s).as_deref(), &ctx.id) {
        Ok(outgoing) => outgoing,
        Err(failed) => {
            call.open.begin(&attempt);
            if let Failed::Attempt(failed) = &failed {
                note_failure(app, call, upstream, failed);
            }
            return Err(failed);
        }
    };
    let is_last = call.at + 1 == call.plan.attempts.len();
    let (mut repeats, mut was_stale) = (0, None);
    loop {
        call.open.begin(&attempt);
        let failed = match try_once(app, s, watch, call, &attempt, &outgoing).await {
            Ok(answer) => {
                ctx.dropped = outgoing.dropped;
                return Ok(answer);
            }
            Err(Failed::Attempt(failed)) => failed,
            Err(other) => return Err(other),
        };
        let is_free = failed.stale.is_some() && failed.stale != was_stale && call.can_be_sent();
        let again = if is_free {
            was_stale = failed.stale;
            Some(Duration::ZERO)
        } else {
            note_failure(app, call, upstream, &failed);
            repeats += 1;
            let may = is_last
                && repeats <= upstream.max_retries
                && !app.breakers.is_open(upstream)
                && call.can_be_sent();
            may.then(|| pause(app, &failed, repeats, *waited)).flatten()
        };
        let Some(pause) = again else { return Err(Failed::Attempt(failed)) };
        *waited += pause;
        match watch.step(s, Instant::now() + pause, std::future::pending::<()>()).await {
            Step::Gone(error) => {
                fail(call, ctx, &failed);
                return Err(Failed::CallerGone(error));
            }
            Step::Stopped => {
                fail(call, ctx, &failed);
                return Err(stopped());
            }
            _ if watch.is_over() => {
                fail(call, ctx, &failed);
                return Err(out_of_time());
            }
            _ if is_free => {
                // With all of it here its length is known.
                if let (Some(Stale::Length), Some(upload)) = (failed.stale, call.upload_mut()) {
                    send::take_in(s, watch, upload).await?;
                }
                call.open.forget();
            }
            _ => call.open.absorb(&failed.reason, failed.status(), failed.class, true),
        }
    }
}

/// The trials of Anthropic's API that the caller's headers ask for.
fn betas(s: &Session) -> Option<String> {
    let values = s.req_header().headers.get_all("anthropic-beta");
    let values: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The attempt that failed was the last one.
fn fail(call: &mut Call, ctx: &mut RequestContext, failed: &FailedAttempt) {
    ctx.outcome.error = Some(failed.reason.clone().into_owned());
    let (reason, status, class) = (failed.reason.clone(), failed.status(), Some(failed.class));
    call.open.end(&Ending::Failed { reason, status, class });
}

/// Metrics, and the circuit breaker.
fn note_failure(app: &App, call: &Call, upstream: &Upstream, failed: &FailedAttempt) {
    let reason = match failed.class {
        class if class.is_timeout() => "timeout",
        _ if call.asked.streams() && !failed.had_begun => "build_error",
        _ => "upstream_error",
    };
    let attempt = call.attempt();
    let model = if attempt.is_listed { &*attempt.billed_model } else { "other" };
    app.metrics.abandoned(&upstream.instance, model, reason, attempt.position);
    if failed.class == ErrorClass::Unknown {
        // Neither that it works nor that it does not; perhaps it was not even asked.
    } else if !failed.class.blames_provider() {
        note_answer(app, upstream);
    } else if app.breakers.fails(upstream, Instant::now()) {
        tracing::warn!(
            provider = &*upstream.instance,
            reason = &*failed.reason,
            "a provider keeps failing; it is passed over for a while where there is another one"
        );
    }
}

/// How long to wait before the same provider is tried again; `None`: not at all.
fn pause(app: &App, failed: &FailedAttempt, repeats: u32, waited: Duration) -> Option<Duration> {
    let repeatable = failed.repeatable || (failed.status.is_none() && app.live().retry_after_sent);
    let asked = failed.rejection.retry_after_s.map(Duration::from_secs);
    let backoff = FIRST_BACKOFF * 2_u32.saturating_pow(repeats - 1);
    // Callers who failed together must not come back together.
    let jitter = f64::from(u32::from(uuid::Uuid::now_v7().as_bytes()[15])) / 255.0;
    let pause = asked.unwrap_or(backoff.mul_f64(0.75 + 0.25 * jitter));
    (repeatable && waited + pause <= MAX_WAIT).then_some(pause)
}

/// One try on one provider: connect, send, receive up to the first piece.
async fn try_once(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    call: &mut Call,
    attempt: &Attempt,
    outgoing: &Outgoing,
) -> Result<Box<Answer>, Failed> {
    let upstream = &*attempt.upstream;
    let proof = authorize(app, s, watch, upstream).await?;
    let (connect_timeout, idle_timeout) = {
        let limits = &app.live().limits;
        (limits.connect_timeout, limits.idle_timeout)
    };
    let known = app.addresses.find(upstream, connect_timeout).await?;
    let (mut up, peer, reused) = connect::connect(app, s, watch, &known.peers).await?;
    up.set_read_timeout(None);
    up.set_write_timeout(Some(idle_timeout));
    // A provider that has half a form cannot work on it.
    let (is_coming, has_length) = (call.is_coming(), outgoing.payload.len(call.upload()).is_some());
    call.open.mark_sent(!is_coming);
    let sending = Sending { upstream, outgoing, proof: &proof, upload: call.upload_mut() };
    let (mut up, sent) = send::send(s, watch, up, &peer, sending).await;
    if sent.is_ok() {
        call.open.mark_sent(true);
    }
    let sent_at = Instant::now();
    let is_early = !matches!(sent, Ok(Sent::Whole));
    let received = match sent {
        Ok(_) => receive::first_piece(s, watch, &mut up, attempt, &outgoing.reading).await,
        Err(failed) => Err(failed),
    };
    match received {
        Ok(receive::Head::Answer { first, whole, is_stream, incoming }) => {
            let idle_timeout = upstream.idle_timeout;
            // Boxed: it is handed from one to the next, and each would have room for it twice.
            let answer =
                Answer { up, peer, incoming, is_stream, first, whole, idle_timeout, is_early };
            Ok(Box::new(answer))
        }
        Ok(receive::Head::Error { refusal, complete }) => {
            if refusal.status == 401 && !matches!(proof, Proof::Known) {
                app.credentials.spurn(upstream);
            }
            connect::give_back(app, up, &peer, complete && !is_early).await;
            let wants_length = refusal.status == 411 && !has_length;
            Err(excused(call, refused(refusal), wants_length.then_some(Stale::Length)))
        }
        Err(failed) => {
            connect::give_back(app, up, &peer, false).await;
            let was_dead = |broken: &FailedAttempt| {
                broken.reason == "connection_broken"
                    && !broken.had_begun
                    && sent_at.elapsed() < STALE_WITHIN
            };
            let is_stale = matches!(&failed, Failed::Attempt(broken) if reused
                && broken.status.is_none()
                && was_dead(broken));
            Err(excused(call, failed, is_stale.then_some(Stale::Connection)))
        }
    }
}

/// What a failure says of its provider. One that got tired of waiting for the rest of a form is not to blame: its caller
/// was slow.
fn excused(call: &Call, failed: Failed, stale: Option<Stale>) -> Failed {
    let Failed::Attempt(mut attempt) = failed else { return failed };
    attempt.stale = attempt.stale.or(stale);
    if call.is_coming() && matches!(attempt.status, None | Some(408)) {
        attempt.class = ErrorClass::Unknown;
    }
    Failed::Attempt(attempt)
}

/// What proves who calls, where a credential is not a header by itself. It is nearly always here already.
async fn authorize(
    app: &App,
    s: &mut Session,
    watch: &mut Watch,
    upstream: &Upstream,
) -> Result<Proof, Failed> {
    let proof = async {
        Ok(match upstream.proof() {
            upstream::Proof::Header => Proof::Known,
            upstream::Proof::Token => Proof::Bearer(app.credentials.bearer(upstream).await?),
            upstream::Proof::Signature => Proof::Keys(app.credentials.aws(upstream).await?),
        })
    };
    // It is bounded itself; our own bound is a net below it.
    let until = Instant::now() + CREDENTIAL_TIMEOUT;
    match watch.step(s, until, proof).await {
        Step::Got(proof) => {
            proof.map_err(|failure: CredentialFailure| unproved(upstream, &failure))
        }
        Step::Gone(error) => Err(Failed::CallerGone(error)),
        Step::Stopped => Err(stopped()),
        Step::Timeout if watch.is_over() => Err(out_of_time()),
        Step::Timeout => Err(unproved(upstream, &CredentialFailure::Timeout)),
    }
}
