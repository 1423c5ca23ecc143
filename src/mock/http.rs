//! Reads HTTP/1.1 requests off a socket, within limits. Knows nothing of models.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use memchr::{memchr, memmem};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::emit::{KEEP_BYTES, write_all};
use super::form::Form;

/// Largest request line with headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Largest request body: bounds the memory of one connection.
const MAX_BODY_BYTES: u64 = 256 * 1024 * 1024;

/// Longest line of a chunked body that is not data.
const MAX_CHUNK_LINE_BYTES: usize = 1024;

/// How far into an unfinished body `early_413` is looked for; the model stands near the start.
const EARLY_LOOK_BYTES: usize = 64 * 1024;

/// A connection that sends nothing for one to two of these is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Free space before each read: a small request arrives in one piece.
const READ_BYTES: usize = 8 * 1024;

/// Read at once of a body that is given away piece by piece.
const DRAIN_BYTES: usize = 64 * 1024;

/// Growth towards a declared length: nobody gets memory for bytes that were only promised.
const GROWTH_BYTES: usize = 1024 * 1024;

/// Why a request could not be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The peer left, fell silent, or the socket failed: there is nobody to tell.
    Gone,
    /// It must be told this status and sentence, and the connection closed.
    Refuse(u16, &'static str),
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Exact(usize),
    Chunked,
}

/// A request line and its headers; ranges point into the inbox.
#[derive(Clone, Debug)]
pub(super) struct Head {
    bytes: usize,
    method: Range<usize>,
    target: Range<usize>,
    fields: Range<usize>,
    length: Length,
    expects_continue: bool,
    /// May the connection serve another request?
    pub(super) keep_alive: bool,
    /// HTTP/1.1 or later: chunked answers are understood.
    pub(super) modern: bool,
    /// Carries `anthropic-version`.
    pub(super) anthropic: bool,
}

/// A complete request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Path and query as sent.
    pub(super) target: &'a str,
    /// Header lines, raw.
    pub(super) fields: &'a [u8],
    pub(super) body: &'a [u8],
    pub(super) anthropic: bool,
}

/// What has arrived on one connection and is not answered yet.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    /// The body, when it came in chunks.
    decoded: Vec<u8>,
    /// End of the current request in `buffer`.
    end: usize,
    // One timer for the life of the connection: a new one per read would cost more than the read.
    idle: Pin<Box<Sleep>>,
    heard: bool,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(READ_BYTES),
            decoded: Vec::new(),
            end: 0,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            heard: false,
        }
    }

    /// Waits for the next request head; `None` when the peer left between requests.
    pub(super) async fn head(&mut self, stream: &mut TcpStream) -> Result<Option<Head>, Trouble> {
        let mut searched = 0;
        loop {
            if let Some(at) = memmem::find(&self.buffer[searched..], b"\r\n\r\n") {
                return parse_head(&self.buffer[..searched + at + 4]).map(Some);
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(Trouble::Refuse(431, "the request head is too large"));
            }
            searched = self.buffer.len().saturating_sub(3);
            if self.fill(stream, READ_BYTES).await? == 0 {
                let cut = !self.buffer.is_empty();
                return if cut { Err(Trouble::Gone) } else { Ok(None) };
            }
        }
    }

    /// Reads the body that follows `head`.
    pub(super) async fn body(
        &mut self,
        stream: &mut TcpStream,
        head: &Head,
    ) -> Result<(), Trouble> {
        let complete =
            matches!(head.length, Length::Exact(n) if self.buffer.len() >= head.bytes + n);
        if head.expects_continue && !complete {
            write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match head.length {
            Length::Exact(length) => self.exact(stream, head.bytes, length).await,
            Length::Chunked => self.chunked(stream, head.bytes, None).await,
        }
    }

    /// What takes the body that follows `head` apart, where it is a recording with its fields.
    pub(super) fn form(&self, head: &Head) -> Option<Form> {
        let request = self.request_head(head);
        let path = request.target.split('?').next().unwrap_or_default();
        if request.method != "POST" || !path.ends_with("/audio/transcriptions") {
            return None;
        }
        let mut fields = lines(request.fields).filter_map(field);
        let (_, kind) = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"content-type"))?;
        Form::new(std::str::from_utf8(kind).ok()?)
    }

    /// Reads the body that follows `head` and gives it away piece by piece; the request has none then.
    pub(super) async fn drain(
        &mut self,
        stream: &mut TcpStream,
        head: &mut Head,
        form: &mut Form,
    ) -> Result<(), Trouble> {
        if head.expects_continue {
            write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let start = head.bytes;
        match head.length {
            Length::Exact(length) => {
                let mut missing = length;
                loop {
                    let here = (self.buffer.len() - start).min(missing);
                    self.look_early(start)?;
                    form.feed(&self.buffer[start..start + here]);
                    self.buffer.drain(start..start + here);
                    missing -= here;
                    if missing == 0 {
                        break;
                    }
                    if self.fill(stream, missing.min(DRAIN_BYTES)).await? == 0 {
                        return Err(Trouble::Gone);
                    }
                }
                head.length = Length::Exact(0);
                self.end = start;
            }
            Length::Chunked => {
                self.chunked(stream, start, Some(form)).await?;
                self.decoded.clear();
            }
        }
        Ok(())
    }

    /// The request read last.
    pub(super) fn request(&self, head: &Head) -> Request<'_> {
        let body = match head.length {
            Length::Exact(length) => &self.buffer[head.bytes..head.bytes + length],
            Length::Chunked => &self.decoded,
        };
        Request { body, ..self.request_head(head) }
    }

    fn request_head(&self, head: &Head) -> Request<'_> {
        let text = |range: &Range<usize>| {
            std::str::from_utf8(&self.buffer[range.clone()]).unwrap_or_default()
        };
        Request {
            method: text(&head.method),
            target: text(&head.target),
            fields: &self.buffer[head.fields.clone()],
            body: b"",
            anthropic: head.anthropic,
        }
    }

    /// Forgets the request read last; what follows it stays.
    pub(super) fn consume(&mut self) {
        let rest = self.buffer.len() - self.end;
        if self.buffer.capacity() > KEEP_BYTES {
            self.buffer = self.buffer[self.end..].to_vec();
        } else {
            self.buffer.copy_within(self.end.., 0);
            self.buffer.truncate(rest);
        }
        if self.decoded.capacity() > KEEP_BYTES {
            self.decoded = Vec::new();
        }
        self.end = 0;
    }

    async fn exact(
        &mut self,
        stream: &mut TcpStream,
        start: usize,
        length: usize,
    ) -> Result<(), Trouble> {
        let end = start + length;
        while self.buffer.len() < end {
            self.look_early(start)?;
            let missing = end - self.buffer.len();
            if self.fill(stream, missing.min(GROWTH_BYTES)).await? == 0 {
                return Err(Trouble::Gone);
            }
        }
        self.end = end;
        Ok(())
    }

    /// `form`: gets the body, of which nothing is kept then.
    async fn chunked(
        &mut self,
        stream: &mut TcpStream,
        start: usize,
        mut form: Option<&mut Form>,
    ) -> Result<(), Trouble> {
        self.decoded.clear();
        let (mut at, mut total) = (start, 0);
        loop {
            let line = self.line(stream, at).await?;
            let size = chunk_size(&self.buffer[at..line])?;
            at = line + 2;
            if size == 0 {
                break;
            }
            total += size;
            if total as u64 > MAX_BODY_BYTES {
                return Err(Trouble::Refuse(413, "the request body is too large"));
            }
            while self.buffer.len() < at + size + 2 {
                self.look_early(start)?;
                if self.fill(stream, (at + size + 2 - self.buffer.len()).min(GROWTH_BYTES)).await?
                    == 0
                {
                    return Err(Trouble::Gone);
                }
            }
            match &mut form {
                Some(form) => form.feed(&self.buffer[at..at + size]),
                None => self.decoded.extend_from_slice(&self.buffer[at..at + size]),
            }
            at += size + 2;
            // Decoded bytes are dropped from the front in large steps, so they are not held twice.
            if at - start > GROWTH_BYTES {
                self.buffer.drain(start..at);
                at = start;
            }
        }
        // Trailers, to the empty line.
        let limit = at + MAX_HEAD_BYTES;
        loop {
            let line = self.line(stream, at).await?;
            let empty = line == at;
            at = line + 2;
            if empty {
                self.end = at;
                return Ok(());
            }
            if at > limit {
                return Err(Trouble::Refuse(431, "the trailers are too large"));
            }
        }
    }

    /// Position of the line end at or after `at`.
    async fn line(&mut self, stream: &mut TcpStream, at: usize) -> Result<usize, Trouble> {
        loop {
            if let Some(found) = memmem::find(&self.buffer[at..], b"\r\n") {
                return Ok(at + found);
            }
            if self.buffer.len() - at > MAX_CHUNK_LINE_BYTES {
                return Err(Trouble::Refuse(400, "a line of the chunked body is too long"));
            }
            if self.fill(stream, READ_BYTES).await? == 0 {
                return Err(Trouble::Gone);
            }
        }
    }

    /// Refuses an unfinished body whose model asks for that.
    fn look_early(&self, start: usize) -> Result<(), Trouble> {
        let seen = self.buffer.len() - start;
        if seen <= EARLY_LOOK_BYTES
            && memmem::find(&self.buffer[start..], b"fault=early_413").is_some()
        {
            return Err(Trouble::Refuse(413, "mock: refused before the body was read, as asked"));
        }
        Ok(())
    }

    /// Reads once; 0 at the end of the peer's data.
    async fn fill(&mut self, stream: &mut TcpStream, space: usize) -> io::Result<usize> {
        self.buffer.reserve(space);
        loop {
            tokio::select! {
                biased;
                read = stream.read_buf(&mut self.buffer) => {
                    self.heard = true;
                    return read;
                }
                () = self.idle.as_mut() => {
                    if !self.heard {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.heard = false;
                    self.idle.as_mut().reset(Instant::now() + IDLE);
                }
            }
        }
    }
}

/// Splits a raw header line into name and trimmed value.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// The header lines of a request, without line ends.
pub(super) fn lines(fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    fields
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|l| !l.is_empty())
}

fn chunk_size(line: &[u8]) -> Result<usize, Trouble> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    let size = std::str::from_utf8(digits).ok().and_then(|d| u64::from_str_radix(d, 16).ok());
    match size {
        Some(size) if size <= MAX_BODY_BYTES => Ok(size as usize),
        Some(_) => Err(Trouble::Refuse(413, "the request body is too large")),
        None => Err(Trouble::Refuse(400, "bad chunk size")),
    }
}

fn parse_head(bytes: &[u8]) -> Result<Head, Trouble> {
    const BAD_LINE: Trouble = Trouble::Refuse(400, "bad request line");
    let line_end = memmem::find(bytes, b"\r\n").ok_or(BAD_LINE)?;
    let line = &bytes[..line_end];
    let first = memchr(b' ', line).ok_or(BAD_LINE)?;
    let second = first + 1 + memchr(b' ', &line[first + 1..]).ok_or(BAD_LINE)?;
    let modern = match &line[second + 1..] {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(Trouble::Refuse(505, "only HTTP/1.1 is spoken here")),
    };
    let mut head = Head {
        bytes: bytes.len(),
        method: 0..first,
        target: first + 1..second,
        fields: line_end + 2..bytes.len() - 2,
        length: Length::Exact(0),
        expects_continue: false,
        keep_alive: modern,
        modern,
        anthropic: false,
    };
    let mut declared = None;
    // Fields past the last are an empty range when there are none.
    let fields = bytes.get(head.fields.clone()).unwrap_or_default();
    for line in lines(fields) {
        let (name, value) = field(line).ok_or(Trouble::Refuse(400, "bad header line"))?;
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"expect") => {
                head.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                if value.eq_ignore_ascii_case(b"close") {
                    head.keep_alive = false;
                } else if value.eq_ignore_ascii_case(b"keep-alive") {
                    head.keep_alive = true;
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
                let length = length.ok_or(Trouble::Refuse(400, "bad content-length"))?;
                if declared.replace(length).is_some_and(|other| other != length) {
                    return Err(Trouble::Refuse(400, "two different lengths"));
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Trouble::Refuse(501, "only chunked transfer coding is known"));
                }
                head.length = Length::Chunked;
            }
            17 if name.eq_ignore_ascii_case(b"anthropic-version") => head.anthropic = true,
            _ => {}
        }
    }
    match (declared, head.length) {
        (Some(_), Length::Chunked) => Err(Trouble::Refuse(400, "length and chunks at once")),
        (Some(length), _) if length > MAX_BODY_BYTES => {
            Err(Trouble::Refuse(413, "the request body is too large"))
        }
        (Some(length), _) => {
            head.length = Length::Exact(length as usize);
            Ok(head)
        }
        (None, _) => Ok(head),
    }
}
