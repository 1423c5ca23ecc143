//! An answer that is an event stream.
//!
//! Bytes pass as they came while the meter looks on; only the usage chunk that the gateway asked for is taken out. What
//! is already here is joined into one write. The record is journalled before the last event leaves (`[DONE]`,
//! `message_stop`, `response.completed`), because that is where callers hang up. Where a platform says what an answer
//! cost, the event with the usage waits for it, and everything behind it.

mod rounds;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use otari_filters::control::Settling;
use otari_filters::meter;
use otari_filters::protocol::Protocol;
use otari_filters::protocol::cost::Carriers;
use otari_filters::protocol::name::ModelName;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::settle::Cost;
use pingora_core::prelude::Error;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{JOIN_BELOW, Relay, join_small};
use crate::app::App;
use crate::proxy::RequestContext;
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::{self, Alive, Answer, Step};
use crate::proxy::open::Ending;
pub(super) use rounds::run as run_rounds;

/// Only small pieces are joined: a large one fills its packets by itself.
const JOIN_FROM: usize = 4 << 10;
const KEEPALIVE: &[u8] = b": keepalive\n\n";
/// What Anthropic's clients know as a sign of life.
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// How a stream ended.
enum End {
    /// The provider said that it is complete.
    Complete,
    /// The same, but the end of its body did not come: the connection is of no more use.
    Unframed,
    /// The provider said itself, in an event, that it failed.
    Reported,
    /// The provider broke off or went silent.
    Broken(&'static str),
    /// The caller left.
    CallerGone(Box<Error>),
    /// The gateway ends it: deadline, draining, budget.
    Ours(&'static str, Rejection),
}

/// What a stream passes on its way: the meter, which looks on, and, if need be, the name that takes another's place, and
/// those who hold back the event that the cost goes into.
struct Passing {
    protocol: Protocol,
    meter: meter::Stream,
    name: Option<ModelName>,
    carriers: Option<Carriers>,
}

impl Passing {
    /// `hides_usage`: the gateway alone asked for the usage.
    fn new(app: &App, call: &Call, hides_usage: bool) -> Self {
        let protocol = call.asked.protocol();
        let is_settled = app.config.platform.is_some();
        // What the platform says of the cost goes into the chunk with the usage: it is shown then.
        let meter = meter::Stream::new(protocol, hides_usage && !is_settled);
        // Whose provider it is, and what it says, is the platform's affair.
        let meter = if is_settled { meter.hiding_errors() } else { meter };
        let carriers = is_settled.then(|| Carriers::new(protocol));
        Self { protocol, meter, name: call.shown_name(), carriers }
    }

    /// Appends to `out` what may leave of a new piece.
    fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        self.meter.feed(piece, out);
        self.pass(out);
    }

    /// The same behind the meter.
    fn pass(&mut self, out: &mut Vec<Bytes>) {
        self.rename(out);
        self.hold_back(out);
    }

    /// Appends to `out` what is left at the end.
    fn finish(&mut self, out: &mut Vec<Bytes>) {
        self.meter.finish(out);
        self.rename(out);
        if let Some(name) = &mut self.name {
            name.finish(out);
        }
        self.hold_back(out);
    }

    fn hold_back(&mut self, out: &mut Vec<Bytes>) {
        if let Some(carriers) = &mut self.carriers {
            for piece in std::mem::take(out) {
                carriers.feed(piece, out);
            }
        }
    }

    /// Appends to `out` what was held back, with the cost in it. Says whether there was a place for it.
    fn release(&mut self, cost: Option<&Cost>, out: &mut Vec<Bytes>) -> bool {
        self.carriers.as_mut().is_some_and(|carriers| carriers.release(cost, out))
    }

    /// What keeps the connection of a waiting caller alive; nothing inside an event that has half left: it would end up
    /// in its data.
    fn alive(&self, app: &App) -> Option<Alive> {
        let every = app.live().limits.streaming_keepalive_interval;
        let may = every > Duration::ZERO && self.is_between_events();
        let sign = match self.protocol {
            Protocol::Messages => PING,
            Protocol::Chat | Protocol::Responses => KEEPALIVE,
        };
        may.then_some(Alive { every, sign })
    }

    fn rename(&mut self, out: &mut Vec<Bytes>) {
        if let Some(name) = &mut self.name {
            for piece in std::mem::take(out) {
                name.feed(piece, out);
            }
        }
    }

    /// How the stream ended that `end` kept from its framing's end: behind its last event there was nothing to come, and
    /// an error would be one too many.
    fn ended_by(&self, end: End) -> End {
        match end {
            End::Broken(_) | End::Ours(..) if self.is_whole() => End::Unframed,
            end => end,
        }
    }

    /// Whether the last event has been seen, and is no error.
    fn is_whole(&self) -> bool {
        self.meter.is_done() && !self.meter.has_failed()
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    fn is_between_events(&self) -> bool {
        match (&self.carriers, &self.name) {
            (Some(carriers), _) => carriers.is_between_events(),
            (None, Some(name)) => name.is_between_events(),
            (None, None) => self.meter.is_between_events(),
        }
    }
}

pub(super) async fn run(relay: &mut Relay<'_>, mut answer: Box<Answer>) -> Result<(), Stop> {
    let head = super::header(&answer, relay.ctx, relay.call, None);
    let mut stream = Passing::new(relay.app, relay.call, relay.call.asked.hides_usage());
    let end = match begin(relay, head).await {
        Ok(()) => pass(relay, &mut answer, &mut stream).await,
        Err(end) => end,
    };
    observe(relay.call, &answer, &stream);
    finish(relay, Some(answer), end, !stream.is_between_events()).await
}

/// Writes the head. From here on the caller may leave, whatever was asked for.
async fn begin(relay: &mut Relay<'_>, head: Box<ResponseHeader>) -> Result<(), End> {
    relay.ctx.outcome.status = head.status.as_u16();
    relay.ctx.outcome.streamed = true;
    relay.watch.caller = true;
    let written = relay.s.write_response_header(head, false).await;
    written.map_err(|error| End::CallerGone(error.into_down()))
}

/// Passes pieces on until the stream ends, one way or another.
async fn pass(relay: &mut Relay<'_>, answer: &mut Answer, stream: &mut Passing) -> End {
    let mut out = Vec::with_capacity(4);
    let (mut broken, mut is_over) = (None, false);
    for piece in std::mem::take(&mut answer.first) {
        stream.feed(piece, &mut out);
    }
    loop {
        if let Err(refused) = account(relay.call, answer, stream).await {
            // What the provider already sent is the caller's, they pay for it.
            let_go(relay.s, stream, &mut out).await;
            return End::Ours("budget_exceeded", refused);
        }
        if let Err(error) = write(relay.s, &mut out).await {
            return End::CallerGone(error.into_down());
        }
        if let Err(end) = settle(relay, stream).await {
            return end;
        }
        if stream.meter.has_hidden_error() {
            broken = Some("provider_error_event");
        }
        if answer.incoming.failure().is_some() {
            broken.get_or_insert("provider_error_event");
        }
        if let Some(reason) = broken {
            let_go(relay.s, stream, &mut out).await;
            return stream.ended_by(End::Broken(reason));
        }
        if is_over {
            break;
        }
        // True after an error as well: errors have returned above.
        let next =
            if answer.up.response_done() { Ok(None) } else { wait(relay, answer, stream).await };
        match next {
            Ok(Some(piece)) => {
                broken = take_in(answer, piece, |plain| stream.feed(plain, &mut out));
            }
            Ok(None) if answer.incoming.translates() => {
                // Once more round: what is left is accounted for like any other piece.
                is_over = true;
                stream.feed(answer.incoming.close(), &mut out);
            }
            Ok(None) => break,
            Err(end) => {
                let_go(relay.s, stream, &mut out).await;
                return stream.ended_by(end);
            }
        }
    }
    stream.finish(&mut out);
    if stream.meter.has_failed() {
        stream.release(None, &mut out);
    }
    if let Err(error) = write(relay.s, &mut out).await {
        return End::CallerGone(error.into_down());
    }
    if stream.meter.has_hidden_error() {
        return End::Broken("provider_error_event");
    }
    if stream.meter.has_failed() {
        return End::Reported;
    }
    observe(relay.call, answer, stream);
    relay.call.open.end(&Ending::Complete { streamed: true });
    match settle(relay, stream).await {
        Ok(()) => End::Complete,
        Err(end) => end,
    }
}

/// Joins a piece with what is here already, and feeds what it becomes. Returns why the stream is broken behind it.
fn take_in(answer: &mut Answer, piece: Bytes, feed: impl FnOnce(Bytes)) -> Option<&'static str> {
    let (piece, broken) = join(answer, piece);
    match answer.incoming.read(piece) {
        Ok(plain) => feed(plain),
        Err(failure) => return Some(failure.as_str()),
    }
    broken
}

/// Lets everything go that was held back: the stream ends here, and its caller gets what the provider sent.
async fn let_go(s: &mut Session, stream: &mut Passing, out: &mut Vec<Bytes>) {
    stream.release(None, out);
    let _ = write(s, out).await;
}

/// Once the answer has been recorded: waits for what the platform says it cost, and lets go of what was held back for it.
async fn settle(relay: &mut Relay<'_>, stream: &mut Passing) -> Result<(), End> {
    let mut out = Vec::new();
    if let Some(settling) = relay.call.open.take_settling() {
        let cost = settlement(relay, stream, settling).await?;
        let is_attached = stream.release(cost.as_ref().and_then(Option::as_ref), &mut out);
        super::count_settlement(relay.app, cost.as_ref(), is_attached);
    } else if relay.call.open.is_settled() {
        stream.release(None, &mut out);
        if relay.call.open.take_unpriced() {
            super::count_settlement(relay.app, Some(&None), false);
        }
    }
    write(relay.s, &mut out).await.map_err(|error| End::CallerGone(error.into_down()))
}

/// Waits for the platform, at most as long as an answer may; keeps the caller's connection alive meanwhile.
async fn settlement(
    relay: &mut Relay<'_>,
    stream: &Passing,
    mut settling: Settling,
) -> Result<Option<Option<Cost>>, End> {
    let Relay { app, s, watch, .. } = relay;
    let end_at = Instant::now() + super::settlement_timeout(app);
    watch.alive = stream.alive(app);
    match watch.step(s, end_at, settling.as_mut()).await {
        Step::Got(cost) => Ok(Some(cost)),
        Step::Gone(error) => Err(End::CallerGone(error)),
        Step::Timeout | Step::Stopped => Ok(None),
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

/// Takes over what was counted.
fn observe(call: &mut Call, answer: &Answer, stream: &Passing) {
    // What was written in another format says less than the provider did, and may say nothing has been counted yet.
    let usage = match answer.incoming.translates() {
        true => answer.incoming.usage(),
        false => stream.meter.usage(),
    };
    call.open.observe(usage, stream.meter.output_tokens());
}

/// Takes over what was counted, lets the hold grow, and records the end before the caller can see it.
async fn account(call: &mut Call, answer: &Answer, stream: &Passing) -> Result<(), Rejection> {
    observe(call, answer, stream);
    if stream.is_whole() {
        call.open.end(&Ending::Complete { streamed: true });
        return Ok(());
    }
    call.open.cover_output().await
}

async fn write(s: &mut Session, out: &mut Vec<Bytes>) -> pingora_core::Result<()> {
    for piece in join_small(std::mem::take(out)) {
        s.write_response_body(Some(piece), false).await?;
    }
    Ok(())
}

/// The next piece. Keeps the caller's connection alive while the provider is silent.
async fn wait(
    relay: &mut Relay<'_>,
    answer: &mut Answer,
    stream: &Passing,
) -> Result<Option<Bytes>, End> {
    let Relay { app, s, watch, .. } = relay;
    let idle_at = Instant::now() + answer.idle_timeout;
    watch.alive = stream.alive(app);
    match watch.step(s, idle_at, answer.up.read_response_body()).await {
        Step::Got(Ok(piece)) => Ok(piece),
        Step::Got(Err(_)) => Err(End::Broken("connection_broken")),
        Step::Gone(error) => Err(End::CallerGone(error)),
        Step::Stopped => Err(ours(exchange::stopped())),
        Step::Timeout if watch.is_over() => Err(ours(exchange::out_of_time())),
        Step::Timeout => Err(End::Broken("idle_timeout")),
    }
}

fn ours(failed: exchange::Failed) -> End {
    match failed {
        exchange::Failed::Ended(reason, refused) => End::Ours(reason, *refused),
        exchange::Failed::CallerGone(error) => End::CallerGone(error),
        exchange::Failed::Attempt(_) => End::Broken("connection_broken"),
    }
}

/// Settles, tells the caller, and gives the connections back.
async fn finish(
    relay: &mut Relay<'_>,
    answer: Option<Box<Answer>>,
    end: End,
    inside_event: bool,
) -> Result<(), Stop> {
    let Relay { app, s, ctx, call, .. } = relay;
    let is_complete = matches!(end, End::Complete | End::Reported);
    let result = match end {
        End::Complete | End::Unframed => {
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
    if let Some(answer) = answer {
        relay.give_back(answer, is_complete).await;
    }
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
