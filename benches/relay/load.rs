//! HTTP/1.1 callers on one thread, their closed loop, and the histogram of what they waited.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Outcome;

/// No answer here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Failed requests after which a load gives up.
const MAX_ERRORS: u64 = 100;

/// Steps per doubling: about 1.5 % apart.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Durations in nanoseconds, counted in steps that grow with them.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    pub(crate) total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * (64 - STEP_BITS as usize + 1)], total: 0 }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let shift = (64 - STEP_BITS).saturating_sub(nanos.leading_zeros() + 1);
        let step = (nanos >> shift) as usize;
        // Small values have a step each; a larger one keeps its leading bits, STEPS to 2 x STEPS - 1.
        let index = if shift == 0 { step } else { shift as usize * STEPS + step };
        let last = self.counts.len() - 1;
        self.counts[index.min(last)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
    }

    /// The time that `share` of all stayed below, in microseconds; 0 when nothing was counted.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && rank > 0 {
                let shift = (index / STEPS).saturating_sub(1);
                let step = index - shift * STEPS;
                return (step as f64 + 0.5) * (1u64 << shift) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// What a load came to.
pub(crate) struct Tally {
    pub(crate) latency: Histogram,
    pub(crate) errors: u64,
    pub(crate) time: Duration,
}

impl Tally {
    fn new() -> Self {
        Self { latency: Histogram::new(), errors: 0, time: Duration::ZERO }
    }

    /// Requests answered.
    pub(crate) fn requests(&self) -> u64 {
        self.latency.total
    }
}

/// Requests to be sent over and over, and the connections to send them on.
pub(crate) struct Load {
    address: SocketAddr,
    /// Each connection begins at a place of its own.
    requests: Arc<[Vec<u8>]>,
    idle: Vec<Connection>,
    connections: usize,
}

impl Load {
    pub(crate) fn new(address: SocketAddr, requests: Vec<Vec<u8>>, connections: usize) -> Self {
        Self { address, requests: requests.into(), idle: Vec::new(), connections }
    }

    /// Sends one request and insists that the answer is whole and contains `mark`.
    pub(crate) async fn try_once(&mut self, mark: &str) -> Outcome<Tally> {
        let mut connection = Connection::open(self.address).await?;
        let mut tally = Tally::new();
        let start = Instant::now();
        let request = self.requests.first().ok_or("no request")?;
        let reply = timeout(PATIENCE, connection.exchange(request)).await??;
        tally.latency.add(start.elapsed());
        let body = connection.body(&reply);
        if reply.status != 200 || memmem::find(&body, mark.as_bytes()).is_none() {
            let text = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
            return Err(format!("{} answered {}: {text}", self.address, reply.status).into());
        }
        Ok(tally)
    }

    /// Keeps every connection busy for `time`; connections stay open for the next run.
    pub(crate) async fn run(&mut self, time: Duration) -> Outcome<Tally> {
        while self.idle.len() < self.connections {
            self.idle.push(Connection::open(self.address).await?);
        }
        let start = Instant::now();
        let mut callers = JoinSet::new();
        let apart = self.requests.len() / self.connections.max(1);
        for (at, connection) in self.idle.drain(..).enumerate() {
            let requests = Arc::clone(&self.requests);
            callers.spawn(call_until(connection, requests, at * apart, start + time));
        }
        let mut all = Tally::new();
        while let Some(done) = callers.join_next().await {
            let (connection, tally) = done??;
            self.idle.push(connection);
            all.latency.merge(&tally.latency);
            all.errors += tally.errors;
        }
        all.time = start.elapsed();
        if all.errors > MAX_ERRORS {
            return Err(format!("{} requests to {} failed", all.errors, self.address).into());
        }
        Ok(all)
    }
}

async fn call_until(
    mut connection: Connection,
    requests: Arc<[Vec<u8>]>,
    mut at: usize,
    end: Instant,
) -> Outcome<(Connection, Tally)> {
    let mut tally = Tally::new();
    let mut start = Instant::now();
    while start < end && tally.errors <= MAX_ERRORS {
        let reply = timeout(PATIENCE, connection.exchange(&requests[at % requests.len()])).await;
        at += 1;
        let now = Instant::now();
        match reply {
            Ok(Ok(reply)) if reply.status == 200 => tally.latency.add(now - start),
            Ok(Ok(_)) => tally.errors += 1,
            _ => {
                tally.errors += 1;
                connection = Connection::open(connection.address).await?;
            }
        }
        start = now;
    }
    Ok((connection, tally))
}

/// One keep-alive connection; it remembers the last answer.
pub(crate) struct Connection {
    address: SocketAddr,
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

/// Where in the connection's buffer an answer lies.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Range<usize>,
    chunked: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a request and reads its whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        let head = loop {
            if let Some(at) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let (status, length) = parse_head(&self.buffer[..head])?;
        if let Some(length) = length {
            while self.buffer.len() < head + length {
                self.fill().await?;
            }
            return Ok(Reply { status, body: head..head + length, chunked: false });
        }
        let mut at = head;
        loop {
            match chunk(&self.buffer[at..])? {
                Some((_, 0)) => return Ok(Reply { status, body: head..at, chunked: true }),
                Some((line, size)) => {
                    at += line + size + 2;
                    while self.buffer.len() < at {
                        self.fill().await?;
                    }
                }
                None => self.fill().await?,
            }
        }
    }

    /// The body of the answer read last, chunks joined.
    pub(crate) fn body(&self, reply: &Reply) -> Vec<u8> {
        let mut rest = &self.buffer[reply.body.clone()];
        if !reply.chunked {
            return rest.to_vec();
        }
        let mut body = Vec::with_capacity(rest.len());
        while let Ok(Some((line, size))) = chunk(rest) {
            body.extend_from_slice(&rest[line..line + size]);
            rest = &rest[line + size + 2..];
        }
        body
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(16 * 1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Status, and the length if one is declared; otherwise the body is chunked.
pub(crate) fn parse_head(head: &[u8]) -> io::Result<(u16, Option<usize>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "bad answer head");
    let head = std::str::from_utf8(head).map_err(|_| bad())?;
    let status = head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok((status, Some(value.trim().parse().map_err(|_| bad())?)));
        }
    }
    Ok((status, None))
}

/// Length of the size line and size of the chunk at the start of `bytes`, if both are there. The last
/// chunk counts only with the empty line after it.
fn chunk(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(line) = memmem::find(bytes, b"\r\n") else { return Ok(None) };
    let digits = std::str::from_utf8(&bytes[..line]).unwrap_or_default();
    let digits = digits.split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(digits.trim(), 16)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size"))?;
    let whole = size > 0 || memmem::find(&bytes[line..], b"\r\n\r\n").is_some();
    Ok(whole.then_some((line + 2, size)))
}

/// Whether `bytes` begin with a whole answer: its status.
pub(crate) fn answered(bytes: &[u8]) -> io::Result<Option<u16>> {
    let Some(head) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let (status, length) = parse_head(&bytes[..head])?;
    if let Some(length) = length {
        return Ok((bytes.len() >= head + length).then_some(status));
    }
    let mut at = head;
    while let Some((line, size)) = bytes.get(at..).map_or(Ok(None), chunk)? {
        if size == 0 {
            return Ok(Some(status));
        }
        at += line + size + 2;
    }
    Ok(None)
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, key: &str, body: &[u8]) -> Vec<u8> {
    request_with(method, path, key, "", body)
}

/// The same with further header lines.
pub(crate) fn request_with(
    method: &str,
    path: &str,
    key: &str,
    extra: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\naccept: application/json\r\n\
         user-agent: otari-bench/1\r\n{extra}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
