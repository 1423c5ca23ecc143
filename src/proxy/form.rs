//! A body of `multipart/form-data`, part by part and piece by piece: nothing of it is held but the piece that is read.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use multer::{Field, Multipart};
use otari_filters::rejection::{Code, Rejection};
use parking_lot::Mutex;
use pingora_core::prelude::Error;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;

use crate::proxy::body;
use crate::proxy::call::Stop;

/// Parts of one form; more are no form of ours.
const MAX_PARTS: usize = 64;
/// Bytes that may come before a part's head is whole: the piece it ends in, and more than any head has.
const HEAD_ROOM: u64 = 192 << 10;

/// What a form may be.
pub(super) struct Bounds {
    /// All of it, in bytes.
    pub(super) max_bytes: u64,
    /// Between two pieces.
    pub(super) silence: Duration,
    /// Bytes a second, at least; 0: any.
    pub(super) pace: u32,
    /// When it has to be here.
    pub(super) deadline: Instant,
}

/// A form on its way in.
pub(super) struct Form<'a> {
    multipart: Multipart<'a>,
    shared: Arc<Shared>,
    parts: usize,
}

/// One part of it.
pub(super) struct Part<'a> {
    field: Field<'a>,
    shared: Arc<Shared>,
}

/// Between the parser and what feeds it.
#[derive(Default)]
struct Shared {
    /// Bytes fed since a part's head is looked for; zero while a part's body is read.
    fed: AtomicU64,
    is_in_body: std::sync::atomic::AtomicBool,
    /// Why no more came.
    ended: Mutex<Option<Ended>>,
}

/// Why a form does not come to its end.
enum Ended {
    Gone(Box<Error>),
    Refused(Rejection),
}

/// Stands in the parser's error for what is kept beside it.
#[derive(Debug)]
struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body did not come to its end")
    }
}

impl std::error::Error for Told {}

impl<'a> Form<'a> {
    /// The form of this request; `None` when its body is not declared to be one, or there is none.
    ///
    /// # Errors
    /// When it is too large by its own account, or the caller is gone.
    pub(super) async fn open(s: &'a mut Session, bounds: Bounds) -> Result<Option<Self>, Stop> {
        let session: &'a mut ServerSession = &mut s.downstream_session;
        let header = |name| session.get_header(name).and_then(|value| value.to_str().ok());
        let boundary = header(CONTENT_TYPE).and_then(|kind| multer::parse_boundary(kind).ok());
        let declared = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let (Some(boundary), false) = (boundary, session.is_body_empty()) else { return Ok(None) };
        if declared.is_some_and(|length| length > bounds.max_bytes) {
            return Err(too_large(bounds.max_bytes).into());
        }
        body::go_on(session).await.map_err(Error::into_down)?;
        let shared = Arc::new(Shared::default());
        let feed =
            Feed { session, bounds, waited: Duration::ZERO, total: 0, shared: shared.clone() };
        let pieces = stream::unfold(feed, |mut feed| async move {
            let piece = feed.next().await.transpose()?;
            Some((piece, feed))
        });
        let pieces = OneAtATime { pieces: Box::pin(pieces), is_resting: false };
        Ok(Some(Self { multipart: Multipart::new(pieces, boundary), shared, parts: 0 }))
    }

    /// The next part; `None` after the last one. The one before must have been read to its end.
    ///
    /// # Errors
    /// When the body is no form, is too large or too slow, or the caller is gone.
    pub(super) async fn next(&mut self) -> Result<Option<Part<'a>>, Stop> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            let message = format!("A form has {MAX_PARTS} fields at most");
            return Err(Rejection::new(Code::InvalidValue, message).into());
        }
        self.shared.fed.store(0, Ordering::Relaxed);
        self.shared.is_in_body.store(false, Ordering::Relaxed);
        let field = self.multipart.next_field().await.map_err(|error| self.shared.stop(&error))?;
        self.shared.is_in_body.store(true, Ordering::Relaxed);
        Ok(field.map(|field| Part { field, shared: self.shared.clone() }))
    }
}

impl Part<'_> {
    /// Its name; empty when it has none.
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// What the caller calls the file.
    pub(super) fn filename(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// Its media type.
    pub(super) fn content_type(&self) -> Option<&str> {
        self.field.content_type().map(AsRef::as_ref)
    }

    /// The next piece of its body; `None` at its end.
    ///
    /// # Errors
    /// As for [`Form::next`].
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Stop> {
        self.field.chunk().await.map_err(|error| self.shared.stop(&error))
    }

    /// The whole of a short body.
    ///
    /// # Errors
    /// When it is longer than that, or no text.
    pub(super) async fn text(mut self, max_bytes: usize) -> Result<String, Stop> {
        let mut all = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if all.len() + piece.len() > max_bytes {
                let message = format!(
                    "The form's field '{}' is longer than {max_bytes} bytes",
                    shown(self.name())
                );
                return Err(Rejection::new(Code::InvalidValue, message).into());
            }
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).map_err(|_| {
            let message = format!("The form's field '{}' is not UTF-8", shown(self.name()));
            Rejection::new(Code::InvalidValue, message).into()
        })
    }

    /// Reads the rest away.
    ///
    /// # Errors
    /// As for [`Form::next`].
    pub(super) async fn skip(mut self) -> Result<(), Stop> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }
}

/// A name for a message.
fn shown(name: &str) -> String {
    name.chars().take(60).collect()
}

impl Shared {
    /// What the parser's error means.
    fn stop(&self, error: &multer::Error) -> Stop {
        match self.ended.lock().take() {
            Some(Ended::Gone(error)) => Stop::Broken(error.into_down()),
            Some(Ended::Refused(refused)) => refused.into(),
            None => {
                let message = format!(
                    "There was an error parsing the body: {error}. Send multipart/form-data"
                );
                Rejection::new(Code::InvalidValue, message).into()
            }
        }
    }
}

/// Reads the request's body for the parser.
struct Feed<'a> {
    session: &'a mut ServerSession,
    bounds: Bounds,
    /// For pieces, all in all.
    waited: Duration,
    total: u64,
    shared: Arc<Shared>,
}

impl Feed<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, Told> {
        let end = |why| {
            *self.shared.ended.lock() = Some(why);
            Told
        };
        let left = self.bounds.deadline.saturating_duration_since(Instant::now());
        // What takes the pieces away may be slow itself; that is not the caller's fault while they keep coming.
        let by_pace = body::time_for(self.total, self.bounds.pace)
            .map(|time| time.saturating_sub(self.waited));
        let wait = left.min(self.bounds.silence).min(by_pace.unwrap_or(left));
        let since = Instant::now();
        let read = tokio::time::timeout(wait, self.session.read_request_body()).await;
        self.waited += since.elapsed();
        let piece = match read {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(end(Ended::Gone(error))),
            Err(_) if by_pace.is_some_and(|time| time <= wait) => {
                return Err(end(Ended::Refused(body::below(self.bounds.pace))));
            }
            Err(_) => return Err(end(Ended::Refused(too_slow(wait < left, self.bounds.silence)))),
        };
        let Some(piece) = piece else { return Ok(None) };
        let length = piece.len() as u64;
        self.total = self.total.saturating_add(length);
        if self.total > self.bounds.max_bytes {
            return Err(end(Ended::Refused(too_large(self.bounds.max_bytes))));
        }
        // The parser keeps all of a head, and of what comes before the first one, until it has the end of it.
        if !self.shared.is_in_body.load(Ordering::Relaxed)
            && self.shared.fed.fetch_add(length, Ordering::Relaxed) > HEAD_ROOM
        {
            let message = "The head of a part of the form is too long";
            return Err(end(Ended::Refused(Rejection::new(Code::InvalidValue, message))));
        }
        Ok(Some(piece))
    }
}

fn too_large(limit: u64) -> Rejection {
    let message = format!("The request body is over the limit of {limit} bytes");
    Rejection::new(Code::BodyTooLarge, message)
}

fn too_slow(is_silent: bool, silence: Duration) -> Rejection {
    let message = match is_silent {
        true => format!(
            "Nothing of the request body came for {} s (request_body_timeout_s)",
            silence.as_secs()
        ),
        false => "The request body took longer than request_timeout_s allows".to_owned(),
    };
    Rejection::new(Code::BodyTimeout, message)
}

/// The parser takes whatever is there before it gives anything away; so it gets one piece, and has to come again.
struct OneAtATime<S> {
    pieces: Pin<Box<S>>,
    is_resting: bool,
}

impl<S: Stream> Stream for OneAtATime<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.is_resting {
            self.is_resting = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = self.pieces.as_mut().poll_next(cx);
        self.is_resting = matches!(piece, Poll::Ready(Some(_)));
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_parser_never_holds_more_than_a_piece_or_two() {
        // A source that always has more at hand, as a fast network has.
        let pieces = (0..200_u32).map(|at| {
            let piece = match at {
                0 => b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n".to_vec(),
                199 => b"\r\n--b--\r\n".to_vec(),
                _ => vec![b'x'; 1000],
            };
            Ok::<_, Told>(Bytes::from(piece))
        });
        let pieces = OneAtATime { pieces: Box::pin(stream::iter(pieces)), is_resting: false };
        let mut multipart = Multipart::new(pieces, "b");
        let mut field = multipart.next_field().await.unwrap().unwrap();
        let (mut longest, mut total) = (0, 0);
        while let Some(chunk) = field.chunk().await.unwrap() {
            longest = longest.max(chunk.len());
            total += chunk.len();
        }
        assert_eq!(total, 198_000);
        assert!(longest <= 2000, "{longest} bytes were held");
    }
}
