//! The beginning of the provider's answer: status, header, first piece.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use otari_filters::control::Attempt;
use otari_filters::meter::{First, FirstEvent};
use otari_filters::operations::Measured;
use otari_filters::upstream::Failure;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::failed::{failed_event, malformed, reported};
use super::incoming::{Incoming, Reading};
use super::{Failed, Step, Watch, out_of_time, stopped};

/// Documents up to this size are read whole.
const WHOLE_BELOW: usize = 1 << 20;
/// Longest document that is translated. Vectors are the longest: thousands of them, of thousands of numbers.
const TRANSLATED_BELOW: usize = 128 << 20;
/// How much of an error's body is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long an error's body is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is believed.
const MAX_RETRY_AFTER_S: u64 = 86_400;

/// What came back.
pub(super) enum Head {
    /// A success, as far as can be seen.
    Answer { first: Vec<Bytes>, whole: Option<Measured>, is_stream: bool, incoming: Incoming },
    /// An error status, with the beginning of its body.
    Error { refusal: Refusal, complete: bool },
}

/// What a provider said when it refused.
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The beginning of its body.
    pub(super) body: Bytes,
    pub(super) retry_after_s: Option<u64>,
    /// Its rate-limit headers, of a 429 or 503.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Waits for the answer: its header and, of a document, the first piece; of a stream, the first event.
///
/// Two waits, whatever the provider: up to the header as long as a first byte may take, then up to the first event as
/// long as the attempt allows, which is the same where it says nothing.
pub(super) async fn first_piece(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    attempt: &Attempt,
    reading: &Reading,
) -> Result<Head, Failed> {
    let until = Instant::now() + attempt.upstream.first_byte_timeout;
    // It may be here, because it came before the end of the request. 1xx answers come one by one before the real one.
    while !has_answered(up) {
        wait(s, watch, until, up.read_response_header()).await?;
    }
    let head = up.response_header().ok_or(Failure::Broken)?;
    let status = head.status.as_u16();
    let refusal = Refusal {
        status,
        body: Bytes::new(),
        retry_after_s: retry_after(head),
        headers: if matches!(status, 429 | 503) { limits(head) } else { Vec::new() },
    };
    let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
    let is_json = kind.as_deref().is_none_or(|kind| kind.windows(4).any(|four| four == b"json"));
    let is_unread = reading.is_unread(is_json);
    let is_stream = !is_unread && kind.as_deref().is_some_and(|kind| is_events(kind, reading));
    let incoming = Incoming::new(head, reading, is_stream);
    if !head.status.is_success() {
        let (body, complete) = error_body(up).await;
        return Ok(Head::Error { refusal: Refusal { body, ..refusal }, complete });
    }
    let mut incoming =
        incoming.filter(|_| is_stream || is_json || is_unread).ok_or(Failure::Malformed)?;
    if is_unread {
        // It is the answer as soon as there is something of it.
        let piece = wait(s, watch, until, up.read_response_body()).await.map_err(begun)?;
        let piece = piece.ok_or(Failure::Malformed)?;
        let first = vec![incoming.read(piece)?];
        return Ok(Head::Answer { first, whole: None, is_stream, incoming });
    }
    if is_stream {
        let until = attempt.first_event_timeout.map_or(until, |within| Instant::now() + within);
        let is_gated = attempt.first_event_timeout.is_some();
        let first = first_event(s, watch, up, &mut incoming, (until, is_gated)).await;
        let first = vec![first.map_err(begun)?];
        return Ok(Head::Answer { first, whole: None, is_stream, incoming });
    }
    let idle = attempt.upstream.idle_timeout;
    let (first, whole) =
        document(s, watch, up, &mut incoming, (until, idle)).await.map_err(begun)?;
    Ok(Head::Answer { first, whole, is_stream, incoming })
}

/// Whether the head of the answer is here.
pub(super) fn has_answered(up: &HttpSession) -> bool {
    up.response_header().is_some_and(|head| !head.status.is_informational())
}

/// Whether an answer of this type comes in events.
fn is_events(kind: &[u8], reading: &Reading) -> bool {
    let is_translated = matches!(reading, Reading::Generation(_, Some(_)));
    kind.starts_with(b"text/event-stream")
        || is_translated
            && (kind.starts_with(b"application/vnd.amazon.eventstream")
                || kind.starts_with(b"application/x-ndjson"))
}

/// A whole document, so that one that breaks off, or is none, can be followed by another try; of one longer than a
/// megabyte its beginning, unless it must be translated.
async fn document(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    incoming: &mut Incoming,
    (mut until, idle): (Instant, Duration),
) -> Result<(Vec<Bytes>, Option<Measured>), Failed> {
    let (mut pieces, mut bytes) = (Vec::with_capacity(1), 0);
    while let Some(piece) = wait(s, watch, until, up.read_response_body()).await? {
        let piece = incoming.read(piece)?;
        bytes += piece.len();
        pieces.push(piece);
        if bytes > WHOLE_BELOW && !incoming.translates() {
            return Ok((pieces, None));
        }
        if bytes > TRANSLATED_BELOW {
            return Err(Failure::Malformed.into());
        }
        if up.response_done() {
            break;
        }
        until = Instant::now() + idle;
    }
    if pieces.len() != 1 {
        pieces = vec![pieces.concat().into()];
    }
    let (body, told) = incoming.document(&pieces[0]).map_err(|none| malformed(&none))?;
    Ok((body.map_or(pieces, |body| vec![body]), Some(told)))
}

/// Everything up to the first event, decoded. Comments and pings before it are kept, and prove nothing.
///
/// A megabyte of comments is no answer. A stream that ends without an event is one where a platform asked for it, as the
/// reference gateway has it, else a failure.
async fn first_event(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    incoming: &mut Incoming,
    (until, is_gated): (Instant, bool),
) -> Result<Bytes, Failed> {
    let mut look = FirstEvent::new(incoming.protocol());
    let mut all: Option<BytesMut> = None;
    loop {
        let piece = wait(s, watch, until, up.read_response_body()).await?;
        let is_last = piece.is_none();
        let piece = match piece {
            Some(piece) => incoming.read(piece)?,
            None => incoming.close(),
        };
        let seen = look.feed(piece.clone());
        if let (First::Waiting, Some(failure)) = (&seen, incoming.failure()) {
            return Err(failed_event(failure));
        }
        if is_last {
            let seen = if matches!(seen, First::Waiting) { look.finish() } else { seen };
            let mut kept = all.unwrap_or_default();
            kept.extend_from_slice(&piece);
            return match seen {
                First::Failed { status, body } => Err(reported(status, &body)),
                First::Waiting if !is_gated => Err(Failure::Malformed.into()),
                _ => Ok(kept.freeze()),
            };
        }
        // Nearly always the first piece is enough, and is not copied.
        let first = match &mut all {
            None if !matches!(seen, First::Waiting) => piece,
            _ => {
                let kept = all.get_or_insert_default();
                kept.extend_from_slice(&piece);
                if kept.len() > WHOLE_BELOW {
                    return Err(Failure::Malformed.into());
                }
                if matches!(seen, First::Waiting) { continue } else { kept.split().freeze() }
            }
        };
        match seen {
            First::Failed { status, body } => return Err(reported(status, &body)),
            _ => return Ok(first),
        }
    }
}

/// The provider had accepted the call.
fn begun(failed: Failed) -> Failed {
    match failed {
        Failed::Attempt(mut attempt) => {
            attempt.had_begun = true;
            Failed::Attempt(attempt)
        }
        other => other,
    }
}

async fn wait<T>(
    s: &mut Session,
    watch: &mut Watch,
    until: Instant,
    f: impl Future<Output = pingora_core::Result<T>>,
) -> Result<T, Failed> {
    match watch.step(s, until, f).await {
        Step::Got(Ok(value)) => Ok(value),
        Step::Got(Err(error)) => {
            tracing::debug!(%error, "a provider's connection broke before its answer");
            Err(Failure::Broken.into())
        }
        Step::Gone(error) => Err(Failed::CallerGone(error)),
        Step::Stopped => Err(stopped()),
        Step::Timeout if watch.is_over() => Err(out_of_time()),
        Step::Timeout => Err(Failure::FirstByteTimeout.into()),
    }
}

/// Seconds of `Retry-After`; dates and nonsense are left out.
fn retry_after(head: &ResponseHeader) -> Option<u64> {
    let seconds: u64 = head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.min(MAX_RETRY_AFTER_S))
}

/// The headers in which a provider tells its limits.
fn limits(head: &ResponseHeader) -> Vec<(HeaderName, HeaderValue)> {
    let is_limit = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-")
    };
    head.headers
        .iter()
        .filter(|(name, _)| is_limit(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The beginning of an error's body, and whether the connection can be used again.
async fn error_body(up: &mut HttpSession) -> (Bytes, bool) {
    let mut body = BytesMut::new();
    let read = async {
        while let Ok(Some(piece)) = up.read_response_body().await {
            let room = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                return false;
            }
        }
        true
    };
    let read_all = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await.unwrap_or(false);
    // An early answer to an unfinished request also ends here; its connection is not complete.
    let complete = read_all && up.response_done();
    (body.freeze(), complete)
}
