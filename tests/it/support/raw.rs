//! HTTP by hand: a caller that sends exact bytes, reads as far as it likes and hangs up where it likes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEADLINE;

/// Header lines in the order sent.
pub(crate) type Headers = Vec<(String, String)>;

/// The first header of this name, any case.
pub(crate) fn header_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A whole answer, its framing taken off.
#[derive(Clone, Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl RawReply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }
}

/// A caller's connection. Dropping it closes it; every wait has a deadline.
pub(crate) struct Raw {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).await.expect("a listener on loopback takes connections"))
    }

    /// The other side: of a connection that was taken.
    pub(crate) fn of(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("nodelay on a fresh socket");
        Self { socket, unread: Vec::new() }
    }

    /// Sends these bytes; panics when the peer does not take them.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the peer takes what is sent");
    }

    /// Sends these bytes as far as the peer takes them.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within(self.socket.write_all(bytes.as_ref())).await
    }

    /// Whatever arrives next; empty at the end.
    pub(crate) async fn some(&mut self) -> Vec<u8> {
        if self.unread.is_empty() {
            within(fill(&mut self.socket, &mut self.unread))
                .await
                .expect("the peer does not reset");
        }
        std::mem::take(&mut self.unread)
    }

    /// Everything up to and including `needle`; what follows is kept for the next read.
    pub(crate) async fn until(&mut self, needle: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, needle) {
                let rest = self.unread.split_off(at + needle.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let read = within(fill(&mut self.socket, &mut self.unread))
                .await
                .expect("the peer does not reset");
            let (needle, seen) =
                (String::from_utf8_lossy(needle), String::from_utf8_lossy(&self.unread));
            assert!(read > 0, "the connection ended before {needle:?}; seen: {seen}");
        }
    }

    /// Waits until this many bytes are here; the next read has them.
    pub(crate) async fn holds(&mut self, bytes: usize) {
        while self.unread.len() < bytes {
            let read = within(fill(&mut self.socket, &mut self.unread)).await;
            assert!(
                read.expect("the peer does not reset") > 0,
                "of {bytes} bytes: {}",
                self.unread.len()
            );
        }
    }

    /// The first line and the headers of a request.
    pub(crate) async fn request_head(&mut self) -> (String, Headers) {
        let head = within(read_head(&mut self.socket, &mut self.unread)).await;
        head.expect("a readable head").expect("a request before the close")
    }

    /// The body that these headers announce.
    pub(crate) async fn request_body(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        within(read_body(&mut self.socket, &mut self.unread, headers, false)).await
    }

    /// Everything until the peer closes.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while within(fill(&mut self.socket, &mut self.unread)).await? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Reads one whole answer. Interim (1xx) answers are skipped.
    pub(crate) async fn reply(&mut self) -> RawReply {
        self.reply_to("POST").await
    }

    /// Reads the answer to a request of this method: one to `HEAD` has no body, whatever it declares.
    pub(crate) async fn reply_to(&mut self, method: &str) -> RawReply {
        loop {
            let head = within(read_head(&mut self.socket, &mut self.unread)).await;
            let (first, headers) =
                head.expect("a readable head").expect("an answer before the close");
            let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {first}"));
            if (100..200).contains(&status) {
                continue;
            }
            if method == "HEAD" || status == 204 || status == 304 {
                return RawReply { status, headers, body: Vec::new() };
            }
            let body = within(read_body(&mut self.socket, &mut self.unread, &headers, true)).await;
            return RawReply { status, headers, body: body.expect("a whole body") };
        }
    }

    /// Closes with RST, as a caller does whose process or machine is gone.
    pub(crate) fn reset(self) {
        self.socket.set_zero_linger().expect("linger on an open socket");
    }
}

/// Reads what there is, in pieces large enough that 20 MB do not take minutes; 0 at the end.
pub(crate) async fn fill<R: AsyncRead + Unpin>(
    reader: &mut R,
    unread: &mut Vec<u8>,
) -> io::Result<usize> {
    unread.reserve(64 * 1024);
    reader.read_buf(unread).await
}

/// Waits no longer than a test may take.
async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing happened on the connection");
    tokio::time::timeout(DEADLINE + Duration::from_secs(5), work).await.map_err(late)?
}

/// Reads a first line and headers; `None` when the peer closed before either.
pub(crate) async fn read_head<R: AsyncRead + Unpin>(
    reader: &mut R,
    unread: &mut Vec<u8>,
) -> io::Result<Option<(String, Headers)>> {
    let end = loop {
        if let Some(at) = memchr::memmem::find(unread, b"\r\n\r\n") {
            break at;
        }
        if fill(reader, unread).await? == 0 {
            return if unread.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    };
    let rest = unread.split_off(end + 4);
    let head = std::mem::replace(unread, rest);
    let head = String::from_utf8_lossy(&head[..end]).into_owned();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    let headers = (lines.filter_map(|line| {
        line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    }))
    .collect();
    Ok(Some((first, headers)))
}

/// Reads the body that `headers` announce. Without an announcement it is empty, or runs `to_close`.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    unread: &mut Vec<u8>,
    headers: &Headers,
    to_close: bool,
) -> io::Result<Vec<u8>> {
    if header_of(headers, "transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        return read_chunks(reader, unread).await;
    }
    match header_of(headers, "content-length").map(str::parse::<usize>) {
        Some(Ok(length)) => take(reader, unread, length).await,
        Some(Err(_)) => Err(io::ErrorKind::InvalidData.into()),
        None if to_close => {
            while fill(reader, unread).await? > 0 {}
            Ok(std::mem::take(unread))
        }
        None => Ok(Vec::new()),
    }
}

async fn read_chunks<R: AsyncRead + Unpin>(
    reader: &mut R,
    unread: &mut Vec<u8>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(at) = memchr::memmem::find(unread, b"\r\n") {
                break take(reader, unread, at + 2).await?;
            }
            if fill(reader, unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let size = String::from_utf8_lossy(&line);
        let size = size.trim().split(';').next().unwrap_or_default().to_owned();
        let size = usize::from_str_radix(&size, 16)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let piece = take(reader, unread, size + 2).await?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&piece[..size]);
    }
}

/// Takes exactly `length` bytes.
async fn take<R: AsyncRead + Unpin>(
    reader: &mut R,
    unread: &mut Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    while unread.len() < length {
        if fill(reader, unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = unread.split_off(length);
    Ok(std::mem::replace(unread, rest))
}
