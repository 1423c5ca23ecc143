//! The beginning of the provider's answer: status, header, first piece.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use otari_filters::control::Attempt;
use otari_filters::meter::{self, First, FirstEvent, Reply, Usage};
use otari_filters::protocol::Protocol;
use otari_filters::upstream::Failure;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{Failed, Step, Watch, out_of_time, reported, stopped};

/// Documents up to this size are read whole.
const WHOLE_BELOW: usize = 1 << 20;
/// How much of an error's body is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long an error's body is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is believed.
const MAX_RETRY_AFTER_S: u64 = 86_400;

/// What came back.
pub(super) enum Head {
    /// A success, as far as can be seen.
    Answer { first: Vec<Bytes>, whole: Option<Option<Usage>>, is_stream: bool, decoder: Decoder },
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

/// Takes a content coding off. Providers are asked for none; some send one all the same, and the meter and the caller
/// need plain bytes.
pub(in crate::proxy) enum Decoder {
    /// No coding: pieces pass as they are.
    Plain,
    /// `gzip`.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate`.
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Decoder {
    fn new(head: &ResponseHeader) -> Option<Self> {
        let Some(coding) = head.headers.get(CONTENT_ENCODING) else { return Some(Self::Plain) };
        match coding.as_bytes().to_ascii_lowercase().as_slice() {
            b"identity" | b"" => Some(Self::Plain),
            b"gzip" | b"x-gzip" => Some(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            b"deflate" => Some(Self::Deflate(Box::new(ZlibDecoder::new(Vec::new())))),
            _ => None,
        }
    }

    /// The plain bytes of a piece; `None` when it is corrupt.
    pub(in crate::proxy) fn decode(&mut self, piece: Bytes) -> Option<Bytes> {
        match self {
            Self::Plain => Some(piece),
            Self::Gzip(decoder) => {
                decoder.write_all(&piece).and_then(|()| decoder.flush()).ok()?;
                Some(std::mem::take(decoder.get_mut()).into())
            }
            Self::Deflate(decoder) => {
                decoder.write_all(&piece).and_then(|()| decoder.flush()).ok()?;
                Some(std::mem::take(decoder.get_mut()).into())
            }
        }
    }
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
    protocol: Protocol,
) -> Result<Head, Failed> {
    let until = Instant::now() + attempt.upstream.first_byte_timeout;
    loop {
        wait(s, watch, until, up.read_response_header()).await?;
        // 1xx answers come one by one before the real one.
        if up.response_header().is_none_or(|head| !head.status.is_informational()) {
            break;
        }
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
    let decoder = Decoder::new(head);
    if !head.status.is_success() {
        let (body, complete) = error_body(up).await;
        return Ok(Head::Error { refusal: Refusal { body, ..refusal }, complete });
    }
    let is_stream = kind.as_deref().is_some_and(|kind| kind.starts_with(b"text/event-stream"));
    let is_json = kind.as_deref().is_none_or(|kind| kind.windows(4).any(|four| four == b"json"));
    let mut decoder = decoder.filter(|_| is_stream || is_json).ok_or(Failure::Malformed)?;
    if is_stream {
        let until = attempt.first_event_timeout.map_or(until, |within| Instant::now() + within);
        let is_gated = attempt.first_event_timeout.is_some();
        let first = first_event(s, watch, up, &mut decoder, (until, is_gated), protocol).await;
        let first = vec![first.map_err(begun)?];
        return Ok(Head::Answer { first, whole: None, is_stream, decoder });
    }
    let idle = attempt.upstream.idle_timeout;
    let (first, whole) =
        document(s, watch, up, &mut decoder, (until, idle), protocol).await.map_err(begun)?;
    Ok(Head::Answer { first, whole, is_stream, decoder })
}

/// A whole document, so that one that breaks off, or is none, can be followed by another try; of one longer than a
/// megabyte its beginning.
async fn document(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    decoder: &mut Decoder,
    (mut until, idle): (Instant, Duration),
    protocol: Protocol,
) -> Result<(Vec<Bytes>, Option<Option<Usage>>), Failed> {
    let (mut pieces, mut bytes) = (Vec::with_capacity(1), 0);
    while let Some(piece) = wait(s, watch, until, up.read_response_body()).await? {
        let piece = decoder.decode(piece).ok_or(Failure::Malformed)?;
        bytes += piece.len();
        pieces.push(piece);
        if bytes > WHOLE_BELOW {
            return Ok((pieces, None));
        }
        if up.response_done() {
            break;
        }
        until = Instant::now() + idle;
    }
    if pieces.len() != 1 {
        pieces = vec![pieces.concat().into()];
    }
    match meter::read_reply(protocol, &pieces[0]) {
        Reply::Completion(usage) => Ok((pieces, Some(usage))),
        Reply::NotACompletion => Err(Failure::Malformed.into()),
    }
}

/// Everything up to the first event, decoded. Comments and pings before it are kept, and prove nothing.
///
/// A megabyte of comments is no answer. A stream that ends without an event is one where a platform asked for it, as the
/// reference gateway has it, else a failure.
async fn first_event(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    decoder: &mut Decoder,
    (until, is_gated): (Instant, bool),
    protocol: Protocol,
) -> Result<Bytes, Failed> {
    let mut look = FirstEvent::new(protocol);
    let mut all: Option<BytesMut> = None;
    loop {
        let Some(piece) = wait(s, watch, until, up.read_response_body()).await? else {
            return match look.finish() {
                First::Failed { status, body } => Err(reported(status, &body)),
                First::Waiting if !is_gated => Err(Failure::Malformed.into()),
                _ => Ok(all.unwrap_or_default().freeze()),
            };
        };
        let piece = decoder.decode(piece).ok_or(Failure::Malformed)?;
        let seen = look.feed(piece.clone());
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
