//! The request on its way to the provider. An answer that comes early ends the sending.
//!
//! A form is sent from what the disk has of it, and then as the caller sends it. Behind its file it ends only when all of
//! it is here: what breaks off on the way to us breaks off on the way to the provider too.

use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt as _;
use otari_filters::operations::Frame;
use otari_filters::upstream::{Failure, Upstream};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::io::AsyncWriteExt as _;

use super::connect::{self, Proof};
use super::failed::{Stale, not_kept};
use super::outgoing::{Outgoing, Payload};
use super::receive::has_answered;
use super::{Failed, Step, Watch, out_of_time, stopped};
use crate::proxy::upload::{Came, Upload};

/// Upstream writes are unbuffered: larger pieces than this are cut, so that an early answer is noticed in between.
const PIECE_BYTES: usize = 64 << 10;
/// Up to so long a request is written at once, header and body: copying it costs less than a second write.
const AT_ONCE_BYTES: u64 = 16 << 10;

/// What is sent.
pub(super) struct Sending<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) outgoing: &'a Outgoing,
    pub(super) proof: &'a Proof,
    /// The caller's form, where there is one.
    pub(super) upload: Option<&'a mut Upload>,
}

/// How the sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it.
    Whole,
    /// There is an answer already, or perhaps one behind a broken pipe, such as a 413 or 401: reading finds out.
    Answered,
}

/// Sends header and body, and gives the connection back. An answer that comes early is read next.
pub(super) async fn send(
    s: &mut Session,
    watch: &mut Watch,
    up: HttpSession,
    peer: &HttpPeer,
    sending: Sending<'_>,
) -> (HttpSession, Result<Sent, Failed>) {
    let Sending { upstream, outgoing, proof, upload } = sending;
    let length = outgoing.payload.len(upload.as_deref());
    let Ok(header) = connect::header(s, &up, upstream, outgoing, proof, length) else {
        return (up, Err(Failure::Connect.into()));
    };
    let is_short = length.is_some_and(|length| length <= AT_ONCE_BYTES);
    // What is not a short request is boxed: every call would carry its state.
    let mut up = match (&outgoing.payload, up) {
        (Payload::Pieces(body), HttpSession::H1(session)) if is_short => {
            let mut stream = session.into_inner();
            let sent = send_at_once(s, watch, &mut stream, upstream, &header, body).await;
            return (
                HttpSession::H1(v1::client::HttpSession::new_with_options(stream, peer)),
                sent,
            );
        }
        (_, up) => up,
    };
    let sent = match (&outgoing.payload, upload) {
        (Payload::Pieces(pieces), _) => {
            Box::pin(send_pieces(s, watch, &mut up, header, pieces)).await
        }
        (Payload::Form { head, frame }, Some(upload)) => {
            let form = Form { head, frame, promised: length, upload };
            Box::pin(send_form(s, watch, &mut up, header, form)).await
        }
        (Payload::Form { .. }, None) => Err(Failure::Connect.into()),
    };
    (up, sent)
}

/// Sends a short request over HTTP/1 with one write.
async fn send_at_once(
    s: &mut Session,
    watch: &mut Watch,
    stream: &mut Stream,
    upstream: &Upstream,
    header: &RequestHeader,
    body: &[Bytes],
) -> Result<Sent, Failed> {
    let mut bytes = http_req_header_to_wire(header).ok_or(Failure::Connect)?;
    body.iter().for_each(|piece| bytes.extend_from_slice(piece));
    let writing = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    match watch.step(s, Instant::now() + upstream.idle_timeout, writing).await {
        Step::Got(Ok(())) => Ok(Sent::Whole),
        Step::Got(Err(_)) => Ok(Sent::Answered),
        Step::Gone(error) => Err(Failed::CallerGone(error)),
        Step::Stopped => Err(stopped()),
        Step::Timeout if watch.is_over() => Err(out_of_time()),
        Step::Timeout => Err(Failure::Broken.into()),
    }
}

async fn send_pieces(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    header: RequestHeader,
    pieces: &[Bytes],
) -> Result<Sent, Failed> {
    begin(up, header).await?;
    let is_large = pieces.iter().map(Bytes::len).sum::<usize>() > PIECE_BYTES;
    for piece in pieces {
        if send_piece(s, watch, up, piece.clone(), is_large).await? == Sent::Answered {
            return Ok(Sent::Answered);
        }
    }
    finish(up).await
}

/// A form, as it is sent.
struct Form<'a> {
    head: &'a Bytes,
    frame: &'a Frame,
    /// The length that was said; `None`: none was.
    promised: Option<u64>,
    upload: &'a mut Upload,
}

async fn send_form(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    header: RequestHeader,
    form: Form<'_>,
) -> Result<Sent, Failed> {
    let Form { head, frame, promised, upload } = form;
    begin(up, header).await?;
    if send_piece(s, watch, up, head.clone(), true).await? == Sent::Answered {
        return Ok(Sent::Answered);
    }
    let mut at = 0;
    loop {
        let kept = watch.body(upload.kept(at)).await?.map_err(|error| {
            tracing::error!(%error, "a file that was being passed on cannot be read");
            not_kept(None)
        })?;
        let piece = match kept {
            Some(piece) => piece,
            None => match receive(s, watch, up, upload).await? {
                Received::Piece(piece) => piece,
                Received::Answered => return Ok(Sent::Answered),
                Received::End => break,
            },
        };
        at += piece.len() as u64;
        if send_piece(s, watch, up, piece, true).await? == Sent::Answered {
            return Ok(Sent::Answered);
        }
    }
    let promised = promised.map(|length| length.saturating_sub(head.len() as u64));
    // Another length than was said: now that all of it is here, it can be said anew.
    let tail = upload.tail(frame, promised).ok_or_else(|| not_kept(Some(Stale::Length)))?;
    match send_piece(s, watch, up, tail, false).await? {
        Sent::Answered => Ok(Sent::Answered),
        Sent::Whole => finish(up).await,
    }
}

/// What became of waiting for the caller.
enum Received {
    Piece(Bytes),
    End,
    Answered,
}

/// The next piece of a file that is still coming, kept for other attempts. An answer of the provider may come before it.
async fn receive(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    upload: &mut Upload,
) -> Result<Received, Failed> {
    while upload.is_coming() {
        let came = watch.body(async {
            tokio::select! {
                biased;
                answered = up.read_response_header() => Err(answered),
                came = upload.next(s) => Ok(came),
            }
        });
        match came.await? {
            Err(read) => {
                if answers(up, read)? {
                    return Ok(Received::Answered);
                }
            }
            Ok(Ok(Came::Head | Came::End)) => {}
            Ok(Ok(Came::Piece(piece))) => {
                keep(watch, upload, piece.clone()).await?;
                return Ok(Received::Piece(piece));
            }
            Ok(Err(stop)) => return Err(stop.into()),
        }
    }
    Ok(Received::End)
}

/// Takes in what has not come yet of a form, so that it can be sent with its length.
pub(super) async fn take_in(
    s: &mut Session,
    watch: &mut Watch,
    upload: &mut Upload,
) -> Result<(), Failed> {
    while upload.is_coming() {
        if let Came::Piece(piece) = watch.body(upload.next(s)).await?? {
            keep(watch, upload, piece).await?;
        }
    }
    if upload.can_be_sent() { Ok(()) } else { Err(not_kept(None)) }
}

/// Writes a piece to disk. A disk that takes no more is no reason to end a call that perhaps needs nothing of it.
async fn keep(watch: &mut Watch, upload: &mut Upload, piece: Bytes) -> Result<(), Failed> {
    if let Err(error) = watch.body(upload.keep(piece)).await? {
        tracing::warn!(
            %error,
            "a recording cannot be kept: it is passed on, but no second attempt can be made"
        );
    }
    Ok(())
}

async fn begin(up: &mut HttpSession, header: RequestHeader) -> Result<(), Failed> {
    let begun = up.write_request_header(Box::new(header)).await;
    begun.map_err(|_| Failure::Broken.into())
}

async fn finish(up: &mut HttpSession) -> Result<Sent, Failed> {
    match up.finish_request_body().await {
        Ok(()) => Ok(Sent::Whole),
        Err(_) => Err(Failure::Broken.into()),
    }
}

/// Sends a piece. `is_large`: of a body long enough that an early answer is looked for in between.
async fn send_piece(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    mut rest: Bytes,
    is_large: bool,
) -> Result<Sent, Failed> {
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        match watch.step(s, watch.deadline, up.write_request_body(piece, false)).await {
            Step::Got(Ok(())) => {}
            Step::Got(Err(_)) => return Ok(Sent::Answered),
            Step::Gone(error) => return Err(Failed::CallerGone(error)),
            Step::Stopped => return Err(stopped()),
            Step::Timeout => return Err(out_of_time()),
        }
        let early = is_large.then(|| up.read_response_header().now_or_never()).flatten();
        if let Some(read) = early
            && answers(up, read)?
        {
            return Ok(Sent::Answered);
        }
    }
    Ok(Sent::Whole)
}

/// Whether what was read while sending is the answer. A 1xx is none.
fn answers(up: &HttpSession, read: pingora_core::Result<()>) -> Result<bool, Failed> {
    match read {
        Ok(()) => Ok(has_answered(up)),
        Err(_) => Err(Failure::Broken.into()),
    }
}
