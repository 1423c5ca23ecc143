//! An answer that is one JSON document.
//!
//! Up to a megabyte it has been read whole before anything is written: its record is journalled before its first byte.
//! A larger one passes as it comes, its last piece held until the record is there; and so do the answers that are no
//! JSON: sound, transcripts.

mod rounds;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use otari_filters::protocol::cost;
use otari_filters::protocol::name::ModelName;
use otari_filters::upstream::Failure;
use pingora_core::prelude::Error;
use pingora_proxy::Session;

use super::{Relay, count_settlement, join_small, settlement_timeout};
use crate::proxy::call::Stop;
use crate::proxy::exchange::{self, Answer, Failed, Step};
use crate::proxy::open::Ending;
pub(super) use rounds::run as run_rounds;

/// Of longer ones, so much is kept to read the usage from.
const KEEP_BELOW: usize = 64 << 20;

pub(super) async fn run(relay: &mut Relay<'_>, mut answer: Box<Answer>) -> Result<(), Stop> {
    let document = join(&std::mem::take(&mut answer.first));
    if let Some(told) = answer.whole {
        relay.call.open.observe_whole(told, answer.incoming.is_uncounted());
        return pass_whole(relay, answer, document).await;
    }
    // The name stands in the head of a document, or is not looked for: what has left cannot be changed.
    let mut pieces =
        Pieces::new(named(relay.call.shown_name(), document), answer.incoming.wants_whole());
    let head = super::header(&answer, relay.ctx, relay.call, None);
    relay.ctx.outcome.status = head.status.as_u16();
    relay.s.write_response_header(head, false).await?;
    let passed = pass(relay, &mut answer, &mut pieces).await;
    match passed {
        Ok(()) => {
            let whole = pieces.kept.take().map(|kept| join(&kept));
            let open = &mut relay.call.open;
            open.observe_whole(answer.incoming.passed(whole.as_ref()), false);
            open.end(&Ending::Complete { streamed: false });
            // Its usage has left: what it cost can be said no more.
            if open.take_settling().is_some() || open.take_unpriced() {
                count_settlement(relay.app, Some(&None), false);
            }
            send(relay.s, pieces.waiting.into()).await?;
            relay.give_back(answer, true).await;
            Ok(())
        }
        Err(failed) => {
            relay.give_back(answer, false).await;
            Err(fail(relay, failed))
        }
    }
}

/// A document that is here: recorded, and sent.
async fn pass_whole(
    relay: &mut Relay<'_>,
    answer: Box<Answer>,
    document: Bytes,
) -> Result<(), Stop> {
    let Relay { app, s, ctx, call, .. } = relay;
    call.open.end(&Ending::Complete { streamed: false });
    let mut out = None;
    if let Some(settling) = call.open.take_settling() {
        let cost = pingora_timeout::timeout(settlement_timeout(app), settling).await.ok();
        let priced = cost.as_ref().and_then(Option::as_ref);
        out = priced.and_then(|cost| cost::attach(call.asked.protocol(), &document, cost));
        count_settlement(app, cost.as_ref(), out.is_some());
    } else if call.open.take_unpriced() {
        count_settlement(app, Some(&None), false);
    }
    let out = out.unwrap_or_else(|| named(call.shown_name(), document));
    let head = super::header(&answer, ctx, call, Some(out.iter().map(Bytes::len).sum()));
    ctx.outcome.status = head.status.as_u16();
    s.write_response_header(head, false).await?;
    send(s, out).await?;
    relay.give_back(answer, true).await;
    Ok(())
}

/// Writes the rest of an answer.
async fn send(s: &mut Session, pieces: Vec<Bytes>) -> Result<(), Stop> {
    let pieces = join_small(pieces);
    let last = pieces.len().saturating_sub(1);
    for (at, piece) in pieces.into_iter().enumerate() {
        s.write_response_body(Some(piece), at == last).await?;
    }
    Ok(())
}

fn named(name: Option<ModelName>, document: Bytes) -> Vec<Bytes> {
    match name {
        Some(name) => name.in_document(&document),
        None => vec![document],
    }
}

fn join(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        several => {
            let mut whole = BytesMut::with_capacity(several.iter().map(Bytes::len).sum());
            several.iter().for_each(|piece| whole.extend_from_slice(piece));
            whole.freeze()
        }
    }
}

/// Pieces received.
struct Pieces {
    /// Not yet sent; the last of them waits for the record.
    waiting: VecDeque<Bytes>,
    /// All of them, to be read at the end; shared with the pieces sent, not copied. `None`: nobody will, or too long.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
}

impl Pieces {
    fn new(first: Vec<Bytes>, keeps: bool) -> Self {
        let mut pieces = Self { waiting: VecDeque::new(), kept: keeps.then(Vec::new), bytes: 0 };
        first.into_iter().for_each(|piece| pieces.push(piece));
        pieces
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        match &mut self.kept {
            Some(kept) if self.bytes <= KEEP_BELOW => kept.push(piece.clone()),
            kept => *kept = None,
        }
        self.waiting.push_back(piece);
    }

    /// The next one that need not wait.
    fn next(&mut self) -> Option<Bytes> {
        if self.waiting.len() > 1 { self.waiting.pop_front() } else { None }
    }
}

/// Passes pieces on as they come. The caller may have everything but the last one, which waits for the record.
async fn pass(
    relay: &mut Relay<'_>,
    answer: &mut Answer,
    pieces: &mut Pieces,
) -> Result<(), Failed> {
    let Relay { s, watch, .. } = relay;
    loop {
        while let Some(piece) = pieces.next() {
            let written = s.write_response_body(Some(piece), false).await;
            written.map_err(Failed::CallerGone)?;
        }
        if answer.up.response_done() {
            return Ok(());
        }
        let until = Instant::now() + answer.idle_timeout;
        match watch.step(s, until, answer.up.read_response_body()).await {
            Step::Got(Ok(Some(piece))) => {
                pieces.push(answer.incoming.read(piece)?);
            }
            Step::Got(Ok(None)) => return Ok(()),
            Step::Got(Err(_)) => return Err(Failure::Broken.into()),
            Step::Gone(error) => return Err(Failed::CallerGone(error)),
            Step::Stopped => return Err(exchange::stopped()),
            Step::Timeout if watch.is_over() => return Err(exchange::out_of_time()),
            Step::Timeout => return Err(Failure::IdleTimeout.into()),
        }
    }
}

/// The document broke off behind its beginning: the caller's connection is cut.
fn fail(relay: &mut Relay<'_>, failed: Failed) -> Stop {
    let Relay { app, ctx, call, .. } = relay;
    let (reason, refused) = match failed {
        // For a platform it is like a stream that had begun: nobody's class of failure.
        Failed::Attempt(failed) => {
            let (reason, refused) = failed.into_parts();
            (reason, refused)
        }
        Failed::Ended(reason, refused) => (reason.into(), *refused),
        Failed::CallerGone(error) => {
            app.metrics.stream_abort("caller");
            ctx.outcome.code = Some("client_disconnected");
            call.open.cancel();
            return Stop::Broken(error);
        }
    };
    ctx.outcome.error = Some(reason.clone().into_owned());
    let status = refused.code.status().as_u16();
    call.open.end(&Ending::Failed { reason, status, class: None });
    app.metrics.stream_abort("provider");
    ctx.outcome.code = Some(refused.code.as_str());
    Stop::Broken(Error::explain(
        pingora_core::ErrorType::ConnectionClosed,
        "the provider's answer broke off",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_lost_when_a_document_is_too_long_to_be_kept() {
        let piece = |n: usize| Bytes::from(vec![n as u8; KEEP_BELOW / 4]);
        let mut pieces = Pieces::new(vec![piece(0)], true);
        let mut sent = Vec::new();
        for n in 1..8 {
            pieces.push(piece(n));
            sent.extend(std::iter::from_fn(|| pieces.next()));
            assert_eq!(pieces.waiting.len(), 1, "the last one waits");
            assert_eq!(pieces.kept.is_some(), n < 4);
        }
        sent.extend(pieces.waiting);
        let seen: Vec<u8> = sent.iter().map(|piece| piece[0]).collect();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
