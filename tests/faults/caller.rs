//! Callers: HTTP by hand, so that a frame that is broken is seen as such, and whoever leaves leaves.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::dice::Dice;
use crate::link::Link;
use crate::scene::{Api, Call, MAX_TOKENS};
use crate::support::raw::{self, header_of};

/// Longer than any wait that the gateway is configured with, one after the other.
const PATIENCE: Duration = Duration::from_secs(25);

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing says.
    Whole,
    /// The connection ended before that.
    Cut(String),
    /// What came is no HTTP.
    Malformed(String),
    /// The caller left.
    Left,
    /// Nothing more came for longer than anything may take.
    Hung,
}

/// What a caller received.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// 0: no header came.
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

/// Connections that wait for their next call, each with the age of the link when it was last good.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<(TcpStream, usize)>>);

impl Idle {
    async fn take(&self, link: &Link) -> io::Result<TcpStream> {
        let age = link.age();
        let kept = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // What was open when something broke may be broken, and not know it yet.
            all.retain(|(_, then)| *then == age);
            all.pop()
        };
        if let Some((socket, _)) = kept {
            return Ok(socket);
        }
        let socket = TcpStream::connect(link.addr()).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    fn keep(&self, socket: TcpStream, age: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((socket, age));
    }

    /// Closes them all.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Makes the call and reads its answer as far as it comes, or as far as the caller stays.
pub(crate) async fn call(link: &Link, idle: &Idle, call: &Call, model: &str, key: &str) -> Got {
    let began = Instant::now();
    let age = link.age();
    let mut seen = Seen::default();
    let end = tokio::time::timeout(PATIENCE, make(link, idle, call, (model, key), &mut seen)).await;
    let end = match end {
        Ok(Ok((end, socket))) => {
            if let Some(socket) = socket {
                idle.keep(socket, age);
            }
            end
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            End::Malformed(error.to_string())
        }
        Ok(Err(error)) => End::Cut(error.to_string()),
        Err(_) => End::Hung,
    };
    Got { began, ended: Instant::now(), status: seen.status, body: seen.body, end }
}

#[derive(Default)]
struct Seen {
    status: u16,
    body: Vec<u8>,
}

fn request(addr: SocketAddr, call: &Call, model: &str, key: &str) -> Vec<u8> {
    let words =
        format!("This is call <{}> of the fault suite; answer it piece by piece.", call.name);
    let turn = json!([{"role": "user", "content": words}]);
    let mut body = json!({"model": model, "messages": turn, "max_tokens": MAX_TOKENS});
    if call.streams {
        body["stream"] = json!(true);
        if call.api == Api::Chat {
            body["stream_options"] = json!({"include_usage": true});
        }
    }
    let (path, body) = match call.api {
        Api::Chat => ("/v1/chat/completions", body.to_string()),
        Api::Messages => ("/v1/messages", body.to_string()),
    };
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Returns how it ended, and the connection where another call may follow.
async fn make(
    link: &Link,
    idle: &Idle,
    call: &Call,
    (model, key): (&str, &str),
    seen: &mut Seen,
) -> io::Result<(End, Option<TcpStream>)> {
    let mut socket = idle.take(link).await?;
    socket.write_all(&request(link.addr(), call, model, key)).await?;
    if call.leaves_after == Some(0) {
        tokio::time::sleep(call.pace).await;
        return Ok((leave(call, socket), None));
    }
    let mut unread = Vec::new();
    let head = raw::read_head(&mut socket, &mut unread).await?;
    let (first, headers) = head.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    seen.status = status.ok_or_else(|| malformed(&first))?;
    let is_chunked = header_of(&headers, "transfer-encoding").is_some_and(|it| it == "chunked");
    let length = header_of(&headers, "content-length").and_then(|text| text.parse().ok());
    let mut body = Body { socket, unread, leaves_after: call.leaves_after };
    let is_whole = match (is_chunked, length) {
        (true, None) => body.chunks(&mut seen.body).await?,
        (false, Some(length)) => body.take(length, &mut seen.body).await?,
        _ => return Err(malformed(&format!("{headers:?}"))),
    };
    if !is_whole {
        return Ok((leave(call, body.socket), None));
    }
    if !body.unread.is_empty() {
        return Err(malformed("more than the answer came"));
    }
    let closes = header_of(&headers, "connection").is_some_and(|it| it == "close");
    Ok((End::Whole, (!closes).then_some(body.socket)))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Half of those who leave say so, the others are gone.
fn leave(call: &Call, socket: TcpStream) -> End {
    if Dice::of(0, &call.name).chance(50) {
        let _ = socket.set_zero_linger();
    }
    End::Left
}

/// The body of an answer, as it comes.
struct Body {
    socket: TcpStream,
    unread: Vec<u8>,
    leaves_after: Option<usize>,
}

impl Body {
    fn leaves(&self, body: &[u8]) -> bool {
        self.leaves_after.is_some_and(|after| body.len() >= after)
    }

    async fn fill(&mut self) -> io::Result<()> {
        match raw::fill(&mut self.socket, &mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Moves so many bytes to the body, piece by piece. Says whether the caller stayed.
    async fn take(&mut self, mut length: usize, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let here = length.min(self.unread.len());
            body.extend(self.unread.drain(..here));
            length -= here;
            if self.leaves(body) {
                return Ok(false);
            }
            if length == 0 {
                return Ok(true);
            }
            self.fill().await?;
        }
    }

    /// The same for a chunked body, up to its end.
    async fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let line = loop {
                if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n") {
                    break self.unread.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.fill().await?;
            };
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(&text, 16).map_err(|_| malformed(&text))?;
            if size > 0 && !self.take(size, body).await? {
                return Ok(false);
            }
            while self.unread.len() < 2 {
                self.fill().await?;
            }
            if self.unread.drain(..2).ne(*b"\r\n") {
                return Err(malformed("a chunk without its end"));
            }
            if size == 0 {
                return Ok(true);
            }
        }
    }
}
