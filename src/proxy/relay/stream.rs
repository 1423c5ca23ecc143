//! An answer that is an event stream.
//!
//! Bytes pass as they came while the meter looks on; only the usage chunk that the gateway asked for is taken out. What
//! is already here is joined into one write. The record is journalled before `[DONE]` leaves, because that is where
//! callers hang up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use otari_filters::meter::ChatStream;
use otari_filters::protocol::name::ModelName;
use otari_filters::rejection::{Code, Rejection};
use pingora_core::prelude::Error;
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::{self, Answer, Step, Watch};
use crate::proxy::open::Ending;

/// Pieces are joined up to this size.
const JOIN_BELOW: usize = 16 << 10;
/// Only small pieces are joined: a large one fills its packets by itself.
const JOIN_FROM: usize = 4 << 10;
const KEEPALIVE: &[u8] = b": keepalive\n\n";

/// How a stream ended.
enum End {
    /// The provider said that it is complete.
    Complete,
    /// The provider said itself, in an event, that it failed.
    Reported,
    /// The provider broke off or went silent.
    Broken(&'static str),
    /// The caller left.
    CallerGone(Box<Error>),
    /// The gateway ends it: deadline, draining, budget.
    Ours(&'static str, Rejection),
}

/// What a stream passes on its way: the meter, which looks on, and, if need be, the name that takes another's place.
struct Passing {
    meter: ChatStream,
    name: Option<ModelName>,
}

impl Passing {
    /// Appends to `out` what may leave of a new piece.
    fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        self.meter.feed(piece, out);
        self.rename(out);
    }

    /// Appends to `out` what is left at the end.
    fn finish(&mut self, out: &mut Vec<Bytes>) {
        self.meter.finish(out);
        self.rename(out);
        if let Some(name) = &mut self.name {
            name.finish(out);
        }
    }

    fn rename(&mut self, out: &mut Vec<Bytes>) {
        if let Some(name) = &mut self.name {
            for piece in std::mem::take(out) {
                name.feed(piece, out);
            }
        }
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    fn is_between_events(&self) -> bool {
        match &self.name {
            Some(name) => name.is_between_events(),
            None => self.meter.is_between_events(),
        }
    }
}

pub(super) async fn run(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    watch: &mut Watch,
    mut answer: Answer,
) -> Result<(), Stop> {
    let head = super::header(&answer, ctx, None)?;
    ctx.outcome.status = head.status.as_u16();
    ctx.outcome.streamed = true;
    let meter = ChatStream::new(call.request.hides_usage());
    let mut stream = Passing { meter, name: call.shown_name() };
    // From here on the caller may leave, whatever was asked for.
    watch.caller = true;
    let end = match s.write_response_header(Box::new(head), false).await {
        Ok(()) => relay(app, s, call, watch, &mut answer, &mut stream).await,
        Err(error) => End::CallerGone(error.into_down()),
    };
    call.open.observe(stream.meter.usage(), stream.meter.output_tokens());
    finish(app, s, ctx, call, answer, end, !stream.is_between_events()).await
}

/// Passes pieces on until the stream ends, one way or another.
async fn relay(
    app: &App,
    s: &mut Session,
    call: &mut Call,
    watch: &mut Watch,
    answer: &mut Answer,
    stream: &mut Passing,
) -> End {
    let mut next = Some(std::mem::take(&mut answer.first));
    let mut out = Vec::with_capacity(4);
    loop {
        let mut broken = None;
        if let Some(piece) = next.take() {
            let (piece, error) = join(answer, piece);
            broken = error;
            match answer.decoder.decode(piece) {
                Some(plain) => stream.feed(plain, &mut out),
                None => broken = Some("malformed_answer"),
            }
            if let Err(refused) = account(call, &stream.meter).await {
                // What the provider already sent is the caller's, they pay for it.
                let _ = write(s, &mut out).await;
                return End::Ours("budget_exceeded", refused);
            }
            if let Err(error) = write(s, &mut out).await {
                return End::CallerGone(error.into_down());
            }
        }
        if let Some(reason) = broken {
            return End::Broken(reason);
        }
        // True after an error as well: errors have returned above.
        if answer.up.response_done() {
            break;
        }
        match wait(app, s, watch, answer, stream.is_between_events()).await {
            Ok(Some(piece)) => next = Some(piece),
            Ok(None) => break,
            Err(end) => return end,
        }
    }
    stream.finish(&mut out);
    match write(s, &mut out).await {
        Ok(()) if stream.meter.has_failed() => End::Reported,
        Ok(()) => End::Complete,
        Err(error) => End::CallerGone(error.into_down()),
    }
}

/// Joins `piece` with what is already here: one write instead of several, and no delay.
///
/// An error met on the way is returned beside the bytes before it, so that a cut stream stays cut.
fn join(answer: &mut Answer, piece: Bytes) -> (Bytes, Option<&'static str>) {
    if piece.len() >= JOIN_FROM {
        return (piece, None);
    }
    let mut joined = BytesMut::new();
    let mut broken = None;
    while joined.len() < JOIN_BELOW && !answer.up.response_done() {
        match answer.up.read_response_body().now_or_never() {
            Some(Ok(Some(more))) => {
                if joined.is_empty() {
                    joined.extend_from_slice(&piece);
                }
                joined.extend_from_slice(&more);
            }
            Some(Err(_)) => {
                broken = Some("connection_broken");
                break;
            }
            Some(Ok(None)) | None => break,
        }
    }
    (if joined.is_empty() { piece } else { joined.freeze() }, broken)
}

/// Takes over what the meter saw: lets the hold grow, and records the end before the caller can see it.
async fn account(call: &mut Call, stream: &ChatStream) -> Result<(), Rejection> {
    call.open.observe(stream.usage(), stream.output_tokens());
    if stream.is_done() && !stream.has_failed() {
        call.open.end(&Ending::Complete { streamed: true });
        return Ok(());
    }
    call.open.cover_output().await
}

async fn write(s: &mut Session, out: &mut Vec<Bytes>) -> pingora_core::Result<()> {
    for piece in out.drain(..) {
        s.write_response_body(Some(piece), false).await?;
    }
    Ok(())
}

/// The next piece. Keeps the caller's connection alive while the provider is silent.
async fn wait(
    app: &App,
    s: &mut Session,
    watch: &mut Watch,
    answer: &mut Answer,
    may_comment: bool,
) -> Result<Option<Bytes>, End> {
    let idle_at = Instant::now() + answer.idle_timeout;
    let every = app.config.limits.streaming_keepalive_interval;
    loop {
        // A comment inside an event that has half left would end up in its data.
        let comments = may_comment && every > Duration::ZERO;
        let keepalive_at = if comments { Instant::now() + every } else { idle_at };
        let until = idle_at.min(keepalive_at);
        match watch.step(s, until, answer.up.read_response_body()).await {
            Step::Got(Ok(piece)) => return Ok(piece),
            Step::Got(Err(_)) => return Err(End::Broken("connection_broken")),
            Step::Gone(error) => return Err(End::CallerGone(error)),
            Step::Stopped => return Err(ours(exchange::stopped())),
            Step::Timeout if watch.is_over() => return Err(ours(exchange::out_of_time())),
            Step::Timeout if Instant::now() >= idle_at => return Err(End::Broken("idle_timeout")),
            Step::Timeout => {
                let comment = Bytes::from_static(KEEPALIVE);
                s.write_response_body(Some(comment), false)
                    .await
                    .map_err(|error| End::CallerGone(error.into_down()))?;
            }
        }
    }
}

fn ours(failed: exchange::Failed) -> End {
    match failed {
        exchange::Failed::Ended(reason, refused) => End::Ours(reason, refused),
        _ => End::Broken("connection_broken"),
    }
}

/// Settles, tells the caller, and gives the connections back.
async fn finish(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    answer: Answer,
    end: End,
    inside_event: bool,
) -> Result<(), Stop> {
    let is_complete = matches!(end, End::Complete | End::Reported);
    let result = match end {
        End::Complete => {
            call.open.end(&Ending::Complete { streamed: true });
            s.write_response_body(None, true).await.map_err(Stop::Broken)
        }
        End::Reported => {
            // The caller has the provider's own event: a second one would say less.
            call.open.end(&Ending::Broken("provider_error_event"));
            app.metrics.stream_abort("provider");
            ctx.outcome.code = Some(Code::ProviderError.as_str());
            s.write_response_body(None, true).await.map_err(Stop::Broken)
        }
        End::Broken(reason) => {
            call.open.end(&Ending::Broken(reason));
            app.metrics.stream_abort("provider");
            ctx.outcome.error = Some(reason.to_owned());
            let message = "An error occurred during streaming";
            cut(s, ctx, Rejection::new(Code::ProviderError, message), inside_event).await
        }
        End::Ours(reason, refused) => {
            call.open.end(&Ending::Cut { reason, status: refused.code.status().as_u16() });
            app.metrics.stream_abort("gateway");
            cut(s, ctx, refused, inside_event).await
        }
        End::CallerGone(error) => {
            // After `[DONE]` there is nothing left to miss: that is how the official clients leave.
            call.open.end(&Ending::Cut { reason: "client_disconnected", status: 499 });
            if call.open.was_complete() {
                ctx.outcome.error = None;
                s.downstream_session.set_keepalive(None);
                Ok(())
            } else {
                app.metrics.stream_abort("caller");
                ctx.outcome.code = Some("client_disconnected");
                Err(Stop::Broken(error))
            }
        }
    };
    exchange::give_back(app, answer.up, &answer.peer, is_complete).await;
    result
}

/// Ends a stream that is not complete: an event says why, in the caller's dialect.
async fn cut(
    s: &mut Session,
    ctx: &mut RequestContext,
    refused: Rejection,
    inside_event: bool,
) -> Result<(), Stop> {
    ctx.outcome.code = Some(refused.code.as_str());
    let end = Bytes::from(refused.stream_end(ctx.protocol, inside_event));
    s.write_response_body(Some(end), true).await?;
    Ok(())
}
