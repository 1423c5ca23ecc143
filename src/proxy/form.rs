//! A body of `multipart/form-data`, part by part and piece by piece: nothing of it is held but the piece that is read.
//!
//! Every step may be given up and taken again: a caller's form is read while something else is watched.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::Stream;
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
/// Where a part begins is known if it is no farther than that from the beginning of the body.
const EXACT_WITHIN: u64 = 64 << 10;
/// The end of a part's head.
const END_OF_HEAD: &[u8; 4] = b"\r\n\r\n";

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
pub(super) struct Form {
    multipart: Multipart<'static>,
    /// The part that is being read.
    part: Option<Field<'static>>,
    /// What is here of its text.
    text: Vec<u8>,
    parts: usize,
    boundary_len: usize,
    intake: Intake,
}

/// What a part's head says.
pub(super) struct Part {
    /// Its name; empty when it has none.
    pub(super) name: String,
    /// What the caller calls the file; `None`: it is none.
    pub(super) filename: Option<String>,
    /// Its media type.
    pub(super) content_type: Option<String>,
}

impl Form {
    /// The form of this request; `None` when its body is not declared to be one, or there is none.
    ///
    /// # Errors
    /// When it is too large by its own account, or the caller is gone.
    pub(super) async fn open(s: &mut Session, bounds: Bounds) -> Result<Option<Self>, Stop> {
        let session: &mut ServerSession = &mut s.downstream_session;
        let header = |name| session.get_header(name).and_then(|value| value.to_str().ok());
        let boundary = header(CONTENT_TYPE).and_then(|kind| multer::parse_boundary(kind).ok());
        let declared = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let (Some(boundary), false) = (boundary, session.is_body_empty()) else { return Ok(None) };
        if declared.is_some_and(|length| length > bounds.max_bytes) {
            return Err(too_large(bounds.max_bytes).into());
        }
        body::go_on(session).await.map_err(Error::into_down)?;
        let next = Next::default();
        Ok(Some(Self {
            boundary_len: boundary.len(),
            multipart: Multipart::new(next.clone(), boundary),
            part: None,
            text: Vec::new(),
            parts: 0,
            intake: Intake::new(bounds, declared, next),
        }))
    }

    /// The next part; `None` after the last one. The one before must have been read to its end.
    ///
    /// # Errors
    /// When the body is no form, is too large or too slow, or the caller is gone.
    pub(super) async fn next(&mut self, s: &mut Session) -> Result<Option<Part>, Stop> {
        if self.parts == MAX_PARTS {
            let message = format!("A form has {MAX_PARTS} fields at most");
            return Err(Rejection::new(Code::InvalidValue, message).into());
        }
        if self.part.take().is_some() {
            self.text = Vec::new();
            self.intake.looks_for_head();
        }
        let multipart = &mut self.multipart;
        let field = self.intake.until(s, |cx| multipart.poll_next_field(cx)).await?;
        let Some(field) = field else { return Ok(None) };
        self.parts += 1;
        let part = Part {
            name: field.name().unwrap_or_default().to_owned(),
            filename: field.file_name().map(str::to_owned),
            content_type: field.content_type().map(|kind| kind.to_string()),
        };
        self.intake.reads_body(part.filename.is_some());
        self.part = Some(field);
        Ok(Some(part))
    }

    /// The next piece of the part's body; `None` at its end.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub(super) async fn chunk(&mut self, s: &mut Session) -> Result<Option<Bytes>, Stop> {
        let Some(part) = &mut self.part else { return Ok(None) };
        let read = self.intake.until(s, |cx| match Pin::new(&mut *part).poll_next(cx) {
            Poll::Ready(piece) => Poll::Ready(piece.transpose()),
            Poll::Pending => Poll::Pending,
        });
        read.await
    }

    /// The whole of a short body.
    ///
    /// # Errors
    /// When it is longer than that, or no text.
    pub(super) async fn text(&mut self, s: &mut Session, max_bytes: usize) -> Result<String, Stop> {
        while let Some(piece) = self.chunk(s).await? {
            if self.text.len() + piece.len() > max_bytes {
                let name = self.shown();
                let message = format!("The form's field '{name}' is longer than {max_bytes} bytes");
                return Err(Rejection::new(Code::InvalidValue, message).into());
            }
            self.text.extend_from_slice(&piece);
        }
        String::from_utf8(std::mem::take(&mut self.text)).map_err(|_| {
            let message = format!("The form's field '{}' is not UTF-8", self.shown());
            Rejection::new(Code::InvalidValue, message).into()
        })
    }

    /// Reads the rest of the part away.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub(super) async fn skip(&mut self, s: &mut Session) -> Result<(), Stop> {
        while self.chunk(s).await?.is_some() {}
        Ok(())
    }

    /// How long what separates its parts is.
    pub(super) fn boundary_len(&self) -> usize {
        self.boundary_len
    }

    /// Bytes of the caller's body behind the head of the part that has just begun; `None`: the caller did not say how
    /// long the body is, or the part is far behind its beginning.
    pub(super) fn behind_head(&self) -> Option<u64> {
        let Intake { declared, given, .. } = self.intake;
        declared?.checked_sub(given).filter(|_| given <= EXACT_WITHIN)
    }

    /// The part's name, for a message.
    fn shown(&self) -> String {
        let name = self.part.as_ref().and_then(Field::name);
        name.unwrap_or_default().chars().take(60).collect()
    }
}

/// What the parser gets next. It takes whatever is there before it gives anything away; so it is given one piece at a
/// time.
#[derive(Clone, Default)]
struct Next(Arc<Mutex<Given>>);

#[derive(Default)]
enum Given {
    #[default]
    Nothing,
    Piece(Bytes),
    /// There is no more.
    End,
}

impl Stream for Next {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut given = self.0.lock();
        match std::mem::take(&mut *given) {
            Given::Nothing => Poll::Pending,
            Given::Piece(piece) => Poll::Ready(Some(Ok(piece))),
            Given::End => {
                *given = Given::End;
                Poll::Ready(None)
            }
        }
    }
}

/// Reads the request's body for the parser.
struct Intake {
    bounds: Bounds,
    /// Bytes of the body, as the caller says.
    declared: Option<u64>,
    /// For pieces, all in all.
    waited: Duration,
    total: u64,
    /// What is here and was not given to the parser.
    rest: Bytes,
    /// So many bytes were given.
    given: u64,
    /// How much of [`END_OF_HEAD`] they end in.
    matched: usize,
    next: Next,
    /// Where the parser is.
    at: At,
}

/// Where a parser is in a form.
enum At {
    /// It looks for a part's head, and has been fed so many bytes for it.
    Head(u64),
    /// In a text.
    Text,
    File,
}

impl Intake {
    fn new(bounds: Bounds, declared: Option<u64>, next: Next) -> Self {
        Self {
            bounds,
            declared,
            waited: Duration::ZERO,
            total: 0,
            rest: Bytes::new(),
            given: 0,
            matched: 0,
            next,
            at: At::Head(0),
        }
    }

    fn looks_for_head(&mut self) {
        self.at = At::Head(0);
    }

    fn reads_body(&mut self, is_file: bool) {
        self.at = if is_file { At::File } else { At::Text };
    }

    /// Feeds the parser until it has what it is asked for.
    async fn until<T>(
        &mut self,
        s: &mut Session,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<multer::Result<T>>,
    ) -> Result<T, Stop> {
        loop {
            // Nobody has to be woken: what it waits for is fetched below.
            if let Poll::Ready(done) = poll(&mut Context::from_waker(Waker::noop())) {
                return done.map_err(|error| no_form(&error).into());
            }
            if matches!(*self.next.0.lock(), Given::End) {
                return Err(no_form(&multer::Error::IncompleteStream).into());
            }
            if self.rest.is_empty() {
                let Some(piece) = self.receive(&mut s.downstream_session).await? else {
                    *self.next.0.lock() = Given::End;
                    continue;
                };
                self.rest = piece;
            }
            self.give()?;
        }
    }

    /// Gives the parser what is here. Up to the file that is no more than one head, so that it is known where the part's
    /// body begins: the parser reads on only when it has used what it was given.
    fn give(&mut self) -> Result<(), Rejection> {
        let is_exact = !matches!(self.at, At::File) && self.given <= EXACT_WITHIN;
        let length = if is_exact { self.up_to_head_end() } else { self.rest.len() };
        let piece = self.rest.split_to(length);
        self.given += piece.len() as u64;
        // The parser keeps all of a head, and of what comes before the first one, until it has the end of it.
        if let At::Head(fed) = &mut self.at {
            *fed += piece.len() as u64;
            if *fed > HEAD_ROOM {
                let message = "The head of a part of the form is too long";
                return Err(Rejection::new(Code::InvalidValue, message));
            }
        }
        *self.next.0.lock() = Given::Piece(piece);
        Ok(())
    }

    /// How far it is to the next end of a head, or of what is here.
    fn up_to_head_end(&mut self) -> usize {
        for (at, byte) in self.rest.iter().enumerate() {
            self.matched = match (self.matched, byte) {
                (matched, byte) if *byte == END_OF_HEAD[matched] => matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if self.matched == END_OF_HEAD.len() {
                // Its second half may be the first of another.
                self.matched = END_OF_HEAD.len() / 2;
                return at + 1;
            }
        }
        self.rest.len()
    }

    async fn receive(&mut self, session: &mut ServerSession) -> Result<Option<Bytes>, Stop> {
        let left = self.bounds.deadline.saturating_duration_since(Instant::now());
        // What takes the pieces away may be slow itself; that is not the caller's fault while they keep coming.
        let by_pace = body::time_for(self.total, self.bounds.pace)
            .map(|time| time.saturating_sub(self.waited));
        let wait = left.min(self.bounds.silence).min(by_pace.unwrap_or(left));
        let since = Instant::now();
        let read = tokio::time::timeout(wait, session.read_request_body()).await;
        self.waited += since.elapsed();
        let piece = match read {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(Stop::Broken(error.into_down())),
            Err(_) if by_pace.is_some_and(|time| time <= wait) => {
                return Err(body::below(self.bounds.pace).into());
            }
            Err(_) => return Err(too_slow(wait < left, self.bounds.silence).into()),
        };
        let Some(piece) = piece else { return Ok(None) };
        self.total = self.total.saturating_add(piece.len() as u64);
        if self.total > self.bounds.max_bytes {
            return Err(too_large(self.bounds.max_bytes).into());
        }
        Ok(Some(piece))
    }
}

/// What the parser's error means.
fn no_form(error: &multer::Error) -> Rejection {
    let message = format!("There was an error parsing the body: {error}. Send multipart/form-data");
    Rejection::new(Code::InvalidValue, message)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn intake() -> Intake {
        let bounds = Bounds {
            max_bytes: 1 << 20,
            silence: Duration::ZERO,
            pace: 0,
            deadline: Instant::now(),
        };
        Intake::new(bounds, None, Next::default())
    }

    /// Gives the parser the next piece of `body`, of which so many bytes come at a time.
    fn feed(intake: &mut Intake, body: &mut Bytes, step: usize) {
        if intake.rest.is_empty() {
            intake.rest = body.split_to(step.min(body.len()));
        }
        if intake.rest.is_empty() {
            *intake.next.0.lock() = Given::End;
        } else {
            intake.give().unwrap();
        }
    }

    #[test]
    fn a_parser_never_holds_more_than_a_piece_or_two() {
        let mut body =
            b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
                .to_vec();
        body.extend_from_slice(&[b'x'; 198_000]);
        body.extend_from_slice(b"\r\n--b--\r\n");
        let (mut body, mut intake) = (Bytes::from(body), intake());
        let mut multipart = Multipart::new(intake.next.clone(), "b");
        let mut cx = Context::from_waker(Waker::noop());
        let mut field = loop {
            match multipart.poll_next_field(&mut cx) {
                Poll::Ready(field) => break field.unwrap().unwrap(),
                Poll::Pending => feed(&mut intake, &mut body, 1000),
            }
        };
        intake.reads_body(true);
        let (mut longest, mut total) = (0, 0);
        loop {
            match Pin::new(&mut field).poll_next(&mut cx) {
                Poll::Ready(None) => break,
                Poll::Ready(Some(chunk)) => {
                    let chunk = chunk.unwrap();
                    longest = longest.max(chunk.len());
                    total += chunk.len();
                }
                Poll::Pending => feed(&mut intake, &mut body, 1000),
            }
        }
        assert_eq!(total, 198_000);
        assert!(longest <= 2000, "{longest} bytes were held");
    }

    #[test]
    fn where_a_file_begins_is_known_however_it_comes() {
        let head = "preamble\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na\r\n\r\n\r\nb\r\n--b\r\n\
                    Content-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--b \r\nContent-Disposition: form-data; \
                    name=\"file\"; filename=\"x\"\r\nContent-Type: audio/ogg\r\n\r\n";
        for step in [1, 2, 3, 7, 60, 10_000] {
            let mut body = Bytes::from(format!("{head}\r\n\r\nOggS\r\n--b--\r\n"));
            let mut intake = intake();
            let mut multipart = Multipart::new(intake.next.clone(), "b");
            let mut cx = Context::from_waker(Waker::noop());
            let mut field: Option<Field<'_>> = None;
            loop {
                if let Some(text) = &mut field {
                    match Pin::new(text).poll_next(&mut cx) {
                        Poll::Ready(None) => field = None,
                        Poll::Ready(Some(chunk)) => drop(chunk.unwrap()),
                        Poll::Pending => feed(&mut intake, &mut body, step),
                    }
                    continue;
                }
                match multipart.poll_next_field(&mut cx) {
                    Poll::Ready(next) => {
                        let next = next.unwrap().unwrap();
                        if next.file_name().is_some() {
                            break;
                        }
                        field = Some(next);
                    }
                    Poll::Pending => feed(&mut intake, &mut body, step),
                }
            }
            assert_eq!(intake.given, head.len() as u64, "{step} bytes at a time");
        }
    }
}
