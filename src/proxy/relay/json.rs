//! An answer that is one JSON document.
//!
//! Up to a megabyte it is read whole before anything is written: it can then still be refused, and its record is
//! journalled before its first byte. A larger one passes as it comes, its last piece held until the record is there.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use otari_filters::meter::{self, Reply};
use otari_filters::protocol::name::ModelName;
use otari_filters::upstream::Failure;
use pingora_core::prelude::Error;
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::{self, Answer, Failed, Step, Watch};
use crate::proxy::open::Ending;

/// Answers up to this size are read whole first.
const WHOLE_BELOW: usize = 1 << 20;
/// Of longer ones, so much is kept to read the usage from; it is shared with the pieces sent, not copied.
const KEEP_BELOW: usize = 64 << 20;

/// Pieces received and not yet sent.
struct Pieces {
    /// All of them, to be read at the end.
    all: Vec<Bytes>,
    bytes: usize,
    /// How many were sent.
    sent: usize,
    /// To be put in the place of the provider's name for the model.
    name: Option<ModelName>,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if self.bytes <= KEEP_BELOW || self.sent == self.all.len() {
            self.all.push(piece);
        } else if let Some(last) = self.all.last_mut() {
            // Too long to be kept: only what must still be sent.
            *last = piece;
        }
    }

    fn whole(&self) -> Bytes {
        match self.all.as_slice() {
            [one] => one.clone(),
            several => {
                let mut whole = BytesMut::with_capacity(self.bytes);
                several.iter().for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        }
    }

    /// `document` as it may leave.
    fn named(&self, document: Bytes) -> Vec<Bytes> {
        match &self.name {
            Some(name) => name.in_document(&document),
            None => vec![document],
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
    let mut pieces = Pieces { all: Vec::new(), bytes: 0, sent: 0, name: call.shown_name() };
    let mut next = Some(std::mem::take(&mut answer.first));
    let mut is_committed = false;
    let end = loop {
        if let Some(piece) = next.take() {
            let Some(plain) = answer.decoder.decode(piece) else {
                break Err(Failure::Malformed.into());
            };
            pieces.push(plain);
        }
        if pieces.bytes > WHOLE_BELOW {
            if !std::mem::replace(&mut is_committed, true) {
                let head = super::header(&answer, ctx, None)?;
                ctx.outcome.status = head.status.as_u16();
                s.write_response_header(Box::new(head), false).await?;
                // The name stands in the head of a document, or is not looked for: what has left cannot be changed.
                if pieces.name.is_some() {
                    pieces.all = pieces.named(pieces.whole());
                }
            }
            if let Err(error) = send_all_but_last(s, &mut pieces).await {
                caller_gone(app, ctx, call);
                exchange::give_back(app, answer.up, &answer.peer, false).await;
                return Err(Stop::Broken(error));
            }
        }
        if answer.up.response_done() {
            break Ok(());
        }
        let until = Instant::now() + answer.idle_timeout;
        match watch.step(s, until, answer.up.read_response_body()).await {
            Step::Got(Ok(Some(piece))) => next = Some(piece),
            Step::Got(Ok(None)) => break Ok(()),
            Step::Got(Err(_)) => break Err(Failure::Broken.into()),
            Step::Gone(error) => break Err(Failed::CallerGone(error)),
            Step::Stopped => break Err(exchange::stopped()),
            Step::Timeout if watch.is_over() => break Err(exchange::out_of_time()),
            Step::Timeout => break Err(Failure::IdleTimeout.into()),
        }
    };
    match end {
        Ok(()) => finish(app, s, ctx, call, answer, &pieces, is_committed).await,
        Err(failed) => {
            exchange::give_back(app, answer.up, &answer.peer, false).await;
            fail(app, ctx, call, failed, is_committed)
        }
    }
}

/// The caller may have everything but the last piece, which waits for the record.
async fn send_all_but_last(s: &mut Session, pieces: &mut Pieces) -> Result<(), Box<Error>> {
    while pieces.sent + 1 < pieces.all.len() {
        s.write_response_body(Some(pieces.all[pieces.sent].clone()), false).await?;
        pieces.sent += 1;
    }
    Ok(())
}

/// The document is complete: it is read, recorded, and sent.
async fn finish(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    answer: Answer,
    pieces: &Pieces,
    is_committed: bool,
) -> Result<(), Stop> {
    let whole = if pieces.bytes <= KEEP_BELOW { pieces.whole() } else { Bytes::new() };
    match meter::read_reply(&whole) {
        Reply::Completion(usage) => call.open.observe(usage, 0),
        // What has been sent cannot be taken back.
        Reply::NotACompletion if is_committed => {}
        Reply::NotACompletion => {
            exchange::give_back(app, answer.up, &answer.peer, false).await;
            return fail(app, ctx, call, Failure::Malformed.into(), false);
        }
    }
    call.open.end(&Ending::Complete { streamed: false });
    if is_committed {
        for piece in &pieces.all[pieces.sent..] {
            s.write_response_body(Some(piece.clone()), false).await?;
        }
        s.write_response_body(None, true).await?;
    } else {
        let named = pieces.named(whole);
        let head = super::header(&answer, ctx, Some(named.iter().map(Bytes::len).sum()))?;
        ctx.outcome.status = head.status.as_u16();
        s.write_response_header(Box::new(head), false).await?;
        let last = named.len().saturating_sub(1);
        for (at, piece) in named.into_iter().enumerate() {
            s.write_response_body(Some(piece), at == last).await?;
        }
    }
    exchange::give_back(app, answer.up, &answer.peer, true).await;
    Ok(())
}

/// The document broke off. Before the header left the caller gets an error, afterwards a cut connection.
fn fail(
    app: &App,
    ctx: &mut RequestContext,
    call: &mut Call,
    failed: Failed,
    is_committed: bool,
) -> Result<(), Stop> {
    let (reason, refused) = match failed {
        Failed::Attempt(failed) => failed.into_parts(),
        Failed::Ended(reason, refused) => (reason.into(), refused),
        Failed::CallerGone(error) => {
            caller_gone(app, ctx, call);
            return Err(Stop::Broken(error));
        }
    };
    ctx.outcome.error = Some(reason.clone().into_owned());
    let status = refused.code.status().as_u16();
    call.open.end(&Ending::Failed { reason, status });
    if !is_committed {
        return Err(refused.into());
    }
    app.metrics.stream_abort("provider");
    ctx.outcome.code = Some(refused.code.as_str());
    Err(Stop::Broken(Error::explain(
        pingora_core::ErrorType::ConnectionClosed,
        "the provider's answer broke off",
    )))
}

fn caller_gone(app: &App, ctx: &mut RequestContext, call: &mut Call) {
    app.metrics.stream_abort("caller");
    ctx.outcome.code = Some("client_disconnected");
    call.open.end(&Ending::Cut { reason: "client_disconnected", status: 499 });
}
