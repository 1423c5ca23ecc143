//! Writes answers to the socket: head, framing, pauses, and everything that is meant to go wrong.

use std::borrow::Cow;
use std::future::pending;
use std::io::{self, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use memchr::memmem;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::answer::{Answer, CRAB, put};
use super::protocol::{Protocol, Wire};
use super::script::{Fault, Script};

/// Unpaced events are written when so many bytes wait.
const FLUSH_BYTES: usize = 64 * 1024;

/// Scratch space above this size is given back after the answer.
pub(super) const KEEP_BYTES: usize = 2 * 1024 * 1024;

/// Longest wait for a peer that does not read, or that is kept in silence: an hour.
const MAX_HOLD: Duration = Duration::from_secs(3600);

/// Between the halves of a character in `half_utf8`, and before a reset, so that the peer sees what
/// was sent before.
const GAP: Duration = Duration::from_millis(20);

/// Bytes of each segment in `split_lines`.
const SPLIT_BYTES: usize = 3;

/// What happens to the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// One content type and its extra header lines.
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8\r\ncache-control: no-cache";
const GZIP: &str = "content-encoding: gzip\r\n";

/// Where one answer goes.
pub(super) struct Outlet<'c> {
    pub(super) stream: &'c TcpStream,
    /// Bytes that wait to be written.
    pub(super) out: &'c mut Vec<u8>,
    pub(super) keep_alive: bool,
    /// The caller understands chunks.
    pub(super) modern: bool,
}

impl Outlet<'_> {
    /// Appends the response head; `extra` are whole header lines.
    pub(super) fn head(&mut self, status: u16, kind: &str, extra: &str, framing: Framing) {
        if status == 200 {
            put(self.out, &["HTTP/1.1 200 OK\r\ncontent-type: ", kind, "\r\n", extra]);
        } else {
            let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
            let status = status.to_string();
            put(self.out, &["HTTP/1.1 ", &status, " ", reason.unwrap_or("Status")]);
            put(self.out, &["\r\ncontent-type: ", kind, "\r\n", extra]);
        }
        if framing == Framing::UntilClose {
            self.keep_alive = false;
        }
        if !self.keep_alive {
            put(self.out, &["connection: close\r\n"]);
        }
        match framing {
            Framing::Length(length) => {
                let mut number = itoa::Buffer::new();
                put(self.out, &["content-length: ", number.format(length), "\r\n\r\n"]);
            }
            Framing::Chunked => put(self.out, &["transfer-encoding: chunked\r\n\r\n"]),
            Framing::UntilClose => put(self.out, &["\r\n"]),
        }
    }

    /// Writes what waits.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        write_all(self.stream, self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Answers with a complete body.
    pub(super) async fn fixed(
        &mut self,
        status: u16,
        kind: &str,
        extra: &str,
        body: &[u8],
    ) -> io::Result<Next> {
        self.head(status, kind, extra, Framing::Length(body.len()));
        self.out.extend_from_slice(body);
        self.flush().await?;
        Ok(self.next())
    }

    /// Answers with complete JSON.
    pub(super) async fn json(&mut self, status: u16, body: &[u8]) -> io::Result<Next> {
        self.fixed(status, JSON, "", body).await
    }

    pub(super) fn next(&self) -> Next {
        if self.keep_alive { Next::Keep } else { Next::Close }
    }

    /// Writes what waits, then waits; fails as soon as the peer leaves.
    pub(super) async fn pause(&mut self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            return Ok(());
        }
        self.flush().await?;
        tokio::select! {
            () = sleep(time) => Ok(()),
            error = gone(self.stream) => Err(error),
        }
    }

    /// Writes what waits, then nothing until the peer leaves.
    pub(super) async fn hold(&mut self) -> io::Result<Next> {
        self.flush().await?;
        drain(self.stream, MAX_HOLD).await;
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Ends the connection with a reset instead of an end of data.
    pub(super) async fn reset(&mut self) -> io::Result<Next> {
        self.flush().await?;
        sleep(GAP).await;
        self.stream.set_zero_linger()?;
        Ok(Next::Close)
    }

    /// Sends a JSON answer the way the script asks for.
    pub(super) async fn whole(&mut self, script: &Script<'_>, body: &[u8]) -> io::Result<Next> {
        let fault = script.fault;
        let zipped = (fault == Some(Fault::Gzip)).then(|| gzip(body));
        let mut body = zipped.as_deref().unwrap_or(body);
        if fault == Some(Fault::BadJson) {
            body = &body[..body.len() / 2];
        }
        let framing = match fault {
            Some(Fault::CloseDelimited) => Framing::UntilClose,
            _ => Framing::Length(body.len()),
        };
        self.head(200, JSON, if zipped.is_some() { GZIP } else { "" }, framing);
        if fault == Some(Fault::HeaderThenSilent) {
            return self.hold().await;
        }
        self.pause(script.first_delay).await?;
        match fault {
            Some(Fault::Cut(_) | Fault::Reset(_) | Fault::Stall(_)) => {
                self.out.extend_from_slice(&body[..body.len() / 2]);
                return self.break_off(fault).await;
            }
            Some(Fault::SplitLines) => {
                for part in body.chunks(SPLIT_BYTES) {
                    self.out.extend_from_slice(part);
                    self.segment().await?;
                }
            }
            Some(Fault::HalfUtf8) => {
                let (start, end) = halves(body);
                self.out.extend_from_slice(start);
                self.pause(GAP).await?;
                self.out.extend_from_slice(end);
            }
            _ => self.out.extend_from_slice(body),
        }
        self.flush().await?;
        Ok(self.next())
    }

    /// Writes what waits as a segment of its own, as far as that can be had.
    async fn segment(&mut self) -> io::Result<()> {
        self.flush().await?;
        tokio::task::yield_now().await;
        Ok(())
    }

    pub(super) async fn break_off(&mut self, fault: Option<Fault>) -> io::Result<Next> {
        match fault {
            Some(Fault::Stall(_)) => self.hold().await,
            Some(Fault::Reset(_)) => self.reset().await,
            _ => {
                self.flush().await?;
                Ok(Next::Close)
            }
        }
    }

    /// Sends an event stream the way the script asks for.
    pub(super) async fn events(
        &mut self,
        script: &Script<'_>,
        answer: &Answer,
        protocol: Protocol,
    ) -> io::Result<Next> {
        let fault = script.fault;
        let wire = protocol.wire();
        let mut events = Events::new(self, fault, wire);
        if fault == Some(Fault::HeaderThenSilent) {
            return self.hold().await;
        }
        events.outlet.pause(script.first_delay).await?;
        let mut event = Vec::with_capacity(512);
        protocol.open(answer, &mut event);
        events.send(&event).await?;
        for index in 0..=answer.pieces() {
            if breaks_after(fault, answer) == Some(index) {
                if let Some(Fault::ErrorEvent(_)) = fault {
                    event.clear();
                    protocol.failure(answer, index, &mut event);
                    events.send(&event).await?;
                    return events.end().await;
                }
                return events.outlet.break_off(fault).await;
            }
            if index == answer.pieces() {
                break;
            }
            if index > 0 {
                events.outlet.pause(script.interval).await?;
            }
            event.clear();
            protocol.delta(answer, index, &mut event);
            match fault {
                Some(Fault::BadJson) if index == 0 => wire.halve(&mut event),
                Some(Fault::BadCrc) if index == 0 => wire.spoil(&mut event),
                _ => {}
            }
            events.send(&event).await?;
        }
        event.clear();
        protocol.close(answer, &mut event);
        if fault != Some(Fault::NoDone) {
            protocol.done(answer, &mut event);
        }
        events.send(&event).await?;
        events.end().await
    }
}

/// After how many chunks the stream ends badly.
fn breaks_after(fault: Option<Fault>, answer: &Answer) -> Option<u32> {
    match fault? {
        Fault::Cut(n) | Fault::Reset(n) | Fault::Stall(n) | Fault::ErrorEvent(n) => {
            Some(n.min(answer.pieces()))
        }
        _ => None,
    }
}

/// An event stream on its way out.
struct Events<'o, 'c> {
    outlet: &'o mut Outlet<'c>,
    fault: Option<Fault>,
    wire: Wire,
    gzip: Option<GzEncoder<Vec<u8>>>,
    chunked: bool,
}

impl<'o, 'c> Events<'o, 'c> {
    fn new(outlet: &'o mut Outlet<'c>, fault: Option<Fault>, wire: Wire) -> Self {
        let chunked = outlet.modern && fault != Some(Fault::CloseDelimited);
        let framing = if chunked { Framing::Chunked } else { Framing::UntilClose };
        let gzip =
            (fault == Some(Fault::Gzip)).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        let kind = if wire == Wire::Sse { EVENTS } else { wire.kind() };
        outlet.head(200, kind, if gzip.is_some() { GZIP } else { "" }, framing);
        Self { outlet, fault, wire, gzip, chunked }
    }

    /// Sends one or more whole events.
    async fn send(&mut self, raw: &[u8]) -> io::Result<()> {
        let dressed = match self.fault {
            None => Cow::Borrowed(raw),
            Some(fault) => dress(fault, self.wire, self.gzip.as_mut(), raw)?,
        };
        match self.fault {
            Some(Fault::SplitLines) => {
                for line in dressed.split_inclusive(|&b| b == b'\n') {
                    for part in line.chunks(SPLIT_BYTES) {
                        self.frame(part);
                        self.outlet.segment().await?;
                    }
                }
            }
            Some(Fault::HalfUtf8) if memmem::find(&dressed, CRAB.as_bytes()).is_some() => {
                let (start, end) = halves(&dressed);
                self.frame(start);
                self.outlet.pause(GAP).await?;
                self.frame(end);
            }
            _ => self.frame(&dressed),
        }
        if self.outlet.out.len() >= FLUSH_BYTES {
            self.outlet.flush().await?;
        }
        Ok(())
    }

    async fn end(mut self) -> io::Result<Next> {
        if let Some(encoder) = self.gzip.take() {
            let tail = encoder.finish()?;
            self.frame(&tail);
        }
        if self.chunked {
            put(self.outlet.out, &["0\r\n\r\n"]);
        }
        self.outlet.flush().await?;
        Ok(self.outlet.next())
    }

    fn frame(&mut self, part: &[u8]) {
        let out = &mut *self.outlet.out;
        if !self.chunked {
            out.extend_from_slice(part);
        } else if !part.is_empty() {
            write!(out, "{:x}\r\n", part.len()).expect("a Vec takes every byte");
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Events as a fault wants them written.
fn dress<'a>(
    fault: Fault,
    wire: Wire,
    gzip: Option<&mut GzEncoder<Vec<u8>>>,
    raw: &'a [u8],
) -> io::Result<Cow<'a, [u8]>> {
    if let Some(encoder) = gzip {
        encoder.write_all(raw)?;
        encoder.flush()?;
        return Ok(std::mem::take(encoder.get_mut()).into());
    }
    Ok(match fault {
        _ if wire == Wire::Frames => raw.into(),
        Fault::Crlf if memmem::find(raw, b"\r\n").is_some() => raw.into(),
        Fault::Crlf => raw.split(|&b| b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]).into(),
        Fault::Comments if wire == Wire::Sse => {
            let mut out = Vec::with_capacity(raw.len() * 2);
            let mut rest = raw;
            while !rest.is_empty() {
                let end = memmem::find(rest, b"\n\n").map_or(rest.len(), |at| at + 2);
                out.extend_from_slice(b": mock comment\n\n");
                out.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
            }
            out.into()
        }
        _ => raw.into(),
    })
}

/// Splits in the middle of the first four-byte character put there for that.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = memmem::find(bytes, CRAB.as_bytes()).map_or(bytes.len(), |at| at + 2);
    bytes.split_at(at)
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("a Vec takes every byte")
}

/// Writes all bytes; fails when the peer does not read for an hour.
pub(super) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout(MAX_HOLD, stream.writable()).await??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads and forgets until the peer leaves or the time is over.
pub(super) async fn drain(stream: &TcpStream, time: Duration) {
    let mut scratch = vec![0; 16 * 1024];
    let reading = async {
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // Either way the connection ends now.
    let _ = timeout(time, reading).await;
}

/// Resolves when the peer has closed its side with nothing left to read.
async fn gone(stream: &TcpStream) -> io::Error {
    match stream.peek(&mut [0]).await {
        Ok(0) => io::ErrorKind::ConnectionAborted.into(),
        // The next request is already here: the peer is alive, and watching it would spin.
        Ok(_) => pending().await,
        Err(error) => error,
    }
}
