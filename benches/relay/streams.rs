//! Readers of paced streams. Every delta carries the moment at which the mock wrote it, on a clock that all processes of
//! the machine share: what is measured is its way from there to here, whatever the pace was.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use otari::clock::monotonic_ns;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::load::{Connection, Histogram, parse_head};
use crate::numbers::Dice;

/// A stream that is silent for so long is broken.
const PATIENCE: Duration = Duration::from_secs(15);

/// A delta that comes so much later than its pace has it was stalled.
const STALL: Duration = Duration::from_secs(1);

/// What precedes a stamp.
const STAMP: &[u8] = b"\"content\":\"t";

/// Streams to be read.
pub(crate) struct Streams {
    pub(crate) address: SocketAddr,
    pub(crate) request: Vec<u8>,
    pub(crate) connections: usize,
    /// Read on each connection, one after the other.
    pub(crate) each: usize,
    pub(crate) deltas: u64,
    pub(crate) pace: Duration,
    pub(crate) seed: u64,
}

/// What was read.
pub(crate) struct Seen {
    /// From the request to the first byte of the body.
    pub(crate) first: Histogram,
    /// From the provider to the reader, each delta.
    pub(crate) delta: Histogram,
    pub(crate) counts: Counts,
}

/// What became of streams and of their deltas.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Answered with 200; of these, read to their end.
    pub(crate) begun: u64,
    pub(crate) whole: u64,
    /// Failed, cut, refused or silent.
    pub(crate) broken: u64,
    /// Deltas that did not come, of streams that were whole.
    pub(crate) lost: u64,
    /// Deltas that came a second or more behind their pace, and the longest wait for one.
    pub(crate) stalled: u64,
    pub(crate) longest_ms: f64,
    /// Streams open at one time.
    pub(crate) at_once: u64,
}

impl Seen {
    fn new() -> Self {
        let counts = Counts::default();
        Self { first: Histogram::new(), delta: Histogram::new(), counts }
    }

    fn merge(&mut self, other: &Self) {
        self.first.merge(&other.first);
        self.delta.merge(&other.delta);
        let (mine, theirs) = (&mut self.counts, &other.counts);
        mine.begun += theirs.begun;
        mine.whole += theirs.whole;
        mine.broken += theirs.broken;
        mine.lost += theirs.lost;
        mine.stalled += theirs.stalled;
        mine.longest_ms = mine.longest_ms.max(theirs.longest_ms);
    }
}

impl Streams {
    /// Reads all of them; their beginnings are spread over the length of one, so that their deltas are apart.
    pub(crate) async fn run(self) -> Outcome<Seen> {
        let (mut readers, mut dice) = (JoinSet::new(), Dice::new(self.seed));
        let length = self.pace.mul_f64(self.deltas as f64);
        let this = Arc::new(self);
        for _ in 0..this.connections {
            let (this, after) = (Arc::clone(&this), length.mul_f64(dice.share()));
            readers.spawn(async move {
                sleep(after).await;
                this.read().await
            });
        }
        let (mut all, mut spans) = (Seen::new(), Vec::new());
        while let Some(done) = readers.join_next().await {
            let (seen, of_one) = done?;
            all.merge(&seen);
            spans.extend(of_one);
        }
        all.counts.at_once = at_once(&mut spans);
        Ok(all)
    }

    /// Reads those of one connection; also when each began and ended.
    async fn read(&self) -> (Seen, Vec<[u64; 2]>) {
        let (mut seen, mut spans) = (Seen::new(), Vec::new());
        let mut kept = None;
        for _ in 0..self.each {
            let connection = match kept.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(self.address).await,
            };
            let begun = monotonic_ns();
            let read = match connection {
                Ok(connection) => self.stream(connection, &mut seen).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(connection) => kept = Some(connection),
                Err(_) => seen.counts.broken += 1,
            }
            spans.push([begun, monotonic_ns()]);
        }
        (seen, spans)
    }

    async fn stream(&self, mut connection: Connection, seen: &mut Seen) -> io::Result<Connection> {
        let sent = monotonic_ns();
        connection.stream.write_all(&self.request).await?;
        let raw = &mut connection.buffer;
        raw.clear();
        let head = loop {
            fill(&mut connection.stream, raw).await?;
            if let Some(at) = memmem::find(raw, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let (status, _) = parse_head(&raw[..head])?;
        if status != 200 {
            return Err(io::Error::other(format!("status {status}")));
        }
        seen.counts.begun += 1;
        raw.drain(..head);
        let (mut body, mut stream) = (Body::default(), OneStream::new(self.pace));
        while !body.is_whole {
            body.feed(raw)?;
            raw.clear();
            let now = monotonic_ns();
            if stream.last == 0 && !body.text.is_empty() {
                seen.first.add(Duration::from_nanos(now - sent));
                stream.last = now;
            }
            stream.events(&mut body.text, now, seen);
            if !body.is_whole {
                fill(&mut connection.stream, raw).await?;
            }
        }
        if !stream.is_done {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.counts.whole += 1;
        seen.counts.lost += self.deltas.saturating_sub(stream.deltas);
        Ok(connection)
    }
}

async fn fill(stream: &mut tokio::net::TcpStream, raw: &mut Vec<u8>) -> io::Result<()> {
    match timeout(PATIENCE, stream.read_buf(raw)).await?? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The most streams that were open at one time.
fn at_once(spans: &mut [[u64; 2]]) -> u64 {
    let mut moments: Vec<(u64, i64)> =
        spans.iter().flat_map(|[begun, ended]| [(*begun, 1), (*ended, -1)]).collect();
    moments.sort_unstable();
    let (mut open, mut most) = (0, 0);
    for (_, change) in moments {
        open += change;
        most = most.max(open);
    }
    most.unsigned_abs()
}

/// What one stream has told so far.
struct OneStream {
    pace: Duration,
    /// When something was last read.
    last: u64,
    deltas: u64,
    is_done: bool,
}

impl OneStream {
    fn new(pace: Duration) -> Self {
        Self { pace, last: 0, deltas: 0, is_done: false }
    }

    /// Takes whole events out of `text`, which were read `now`.
    fn events(&mut self, text: &mut Vec<u8>, now: u64, seen: &mut Seen) {
        let mut from = 0;
        while let Some(length) = memmem::find(&text[from..], b"\n\n") {
            let event = &text[from..from + length];
            from += length + 2;
            if let Some(written) = stamp(event) {
                self.deltas += 1;
                seen.delta.add(Duration::from_nanos(now.saturating_sub(written)));
                let wait = Duration::from_nanos(now - self.last);
                let counts = &mut seen.counts;
                counts.longest_ms = counts.longest_ms.max(wait.as_secs_f64() * 1e3);
                counts.stalled += u64::from(wait > self.pace + STALL);
                self.last = now;
            } else if event.ends_with(b"data: [DONE]") {
                self.is_done = true;
            }
        }
        text.drain(..from);
    }
}

/// When the event says that it was written.
fn stamp(event: &[u8]) -> Option<u64> {
    let digits = &event[memmem::find(event, STAMP)? + STAMP.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// A chunked body, piece by piece.
#[derive(Default)]
struct Body {
    /// Without the framing; whoever reads it takes it out.
    text: Vec<u8>,
    /// A line of the framing that is not complete.
    line: Vec<u8>,
    /// Bytes of this chunk that are missing.
    left: usize,
    is_last: bool,
    is_whole: bool,
}

impl Body {
    fn feed(&mut self, mut raw: &[u8]) -> io::Result<()> {
        while !raw.is_empty() && !self.is_whole {
            if self.left > 0 {
                let taken = self.left.min(raw.len());
                self.text.extend_from_slice(&raw[..taken]);
                (self.left, raw) = (self.left - taken, &raw[taken..]);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', raw) else {
                self.line.extend_from_slice(raw);
                return Ok(());
            };
            self.line.extend_from_slice(&raw[..end]);
            raw = &raw[end + 1..];
            self.framing()?;
            self.line.clear();
        }
        Ok(())
    }

    /// A line of the framing: the end of a chunk, the size of the next, or the end of all.
    fn framing(&mut self) -> io::Result<()> {
        let line = self.line.trim_ascii();
        if line.is_empty() {
            self.is_whole = self.is_last;
            return Ok(());
        }
        let digits = std::str::from_utf8(line).unwrap_or_default();
        let digits = digits.split(';').next().unwrap_or_default();
        let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size");
        self.left = usize::from_str_radix(digits.trim(), 16).map_err(bad)?;
        self.is_last = self.left == 0;
        Ok(())
    }
}
