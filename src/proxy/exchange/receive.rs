//! The beginning of the provider's answer: status, header, first piece.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use otari_filters::upstream::{Failure, Upstream};
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{Failed, Step, Watch, out_of_time, stopped};

/// How much of an error's body is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long an error's body is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest `Retry-After` that is believed.
const MAX_RETRY_AFTER_S: u64 = 86_400;

/// What came back.
pub(super) enum Head {
    /// A success whose first piece is here.
    Answer { first: Bytes, is_stream: bool, decoder: Decoder },
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

/// Waits for the answer up to its first piece, within the first-byte timeout.
pub(super) async fn first_piece(
    s: &mut Session,
    watch: &mut Watch,
    up: &mut HttpSession,
    upstream: &Upstream,
) -> Result<Head, Failed> {
    let until = Instant::now() + upstream.first_byte_timeout;
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
    let decoder = decoder.filter(|_| is_stream || is_json).ok_or(Failure::Malformed)?;
    match wait(s, watch, until, up.read_response_body()).await? {
        Some(first) => Ok(Head::Answer { first, is_stream, decoder }),
        None => Err(Failure::Malformed.into()),
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
