//! A small answer over HTTP/1, wanted whole: Pingora's session keeps state for streams of any length, which costs more
//! than such an answer by itself.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderValue;
use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use httparse::{EMPTY_HEADER, Header, Response, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::control::platform::wire::{Answer, MAX_ANSWER_BYTES};

/// Of all heads before a body, 1xx answers included; of the trailers; of the line before a chunk.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_FIELDS: usize = 100;
/// Room for the next read.
const PIECE: usize = 4096;

/// Reads one answer. Says whether the connection may carry another call.
///
/// # Errors
/// What is wrong with it, without a part of it.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Answer, bool), String> {
    let mut wire = Reading { stream, bytes: BytesMut::with_capacity(PIECE) };
    let head = wire.head().await?;
    let body = match head.length {
        Length::Of(length) => wire.exactly(length).await?,
        Length::Chunks => wire.chunks().await?,
        Length::UntilClosed => wire.rest().await?,
    };
    // What nobody asked for makes the connection useless.
    let is_kept = head.is_kept && wire.bytes.is_empty();
    Ok((Answer { status: head.status, retry_after: head.retry_after, body }, is_kept))
}

struct Head {
    status: u16,
    retry_after: Option<HeaderValue>,
    length: Length,
    is_kept: bool,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Of(usize),
    Chunks,
    UntilClosed,
}

impl Head {
    /// How many bytes the first head takes, and what it says: nothing where it is a 1xx. `None` while it is not whole.
    fn find(bytes: &[u8]) -> Result<Option<(usize, Option<Self>)>, String> {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = Response::new(&mut fields);
        let Status::Complete(length) = response.parse(bytes).map_err(|_| "its head is none")?
        else {
            return Ok(None);
        };
        match response.code {
            Some(100 | 102..200) => Ok(Some((length, None))),
            Some(200..) => Ok(Some((length, Some(Self::new(&response)?)))),
            _ => Err("its status is none".to_owned()),
        }
    }

    fn new(response: &Response<'_, '_>) -> Result<Self, String> {
        let status = response.code.unwrap_or_default();
        let mut head = Self {
            status,
            retry_after: None,
            length: Length::UntilClosed,
            is_kept: response.version == Some(1),
        };
        let (mut length, mut is_chunked) = (None, false);
        for Header { name, value } in &*response.headers {
            if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str()) {
                let bytes = number(value).ok_or("a length that is none")?;
                if length.replace(bytes).is_some_and(|other| other != bytes) {
                    return Err("two lengths".to_owned());
                }
            } else if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_str()) {
                if is_chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err("an encoding that nobody asked for".to_owned());
                }
                is_chunked = true;
            } else if name.eq_ignore_ascii_case(CONNECTION.as_str()) {
                let mut options = value.split(|byte| *byte == b',');
                head.is_kept &= !options.any(|it| it.trim_ascii().eq_ignore_ascii_case(b"close"));
            } else if name.eq_ignore_ascii_case(RETRY_AFTER.as_str()) {
                head.retry_after = HeaderValue::from_bytes(value).ok();
            }
        }
        head.length = match (status, length) {
            (204 | 304, _) => Length::Of(0),
            _ if is_chunked => Length::Chunks,
            (_, Some(bytes)) => Length::Of(bytes),
            _ => Length::UntilClosed,
        };
        // Both say that somebody on the way does not know what it does.
        head.is_kept &= head.length != Length::UntilClosed && !(is_chunked && length.is_some());
        Ok(head)
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(digits.trim_ascii()).ok()?;
    // `parse` takes a sign too.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// What has come and is not used yet.
struct Reading<'a, S> {
    stream: &'a mut S,
    bytes: BytesMut,
}

impl<S: AsyncRead + Unpin> Reading<'_, S> {
    /// Says whether there was anything.
    async fn more(&mut self) -> Result<bool, String> {
        if self.bytes.capacity() == self.bytes.len() {
            self.bytes.reserve(PIECE);
        }
        let read = self.stream.read_buf(&mut self.bytes).await;
        read.map(|bytes| bytes > 0).map_err(|error| error.kind().to_string())
    }

    /// Waits for more of something that must not be longer.
    async fn more_of(&mut self, most: usize) -> Result<(), String> {
        if self.bytes.len() > most {
            return Err("a part of it is too long".to_owned());
        }
        match self.more().await? {
            true => Ok(()),
            false => Err("it was closed before its end".to_owned()),
        }
    }

    /// The one behind all 1xx.
    async fn head(&mut self) -> Result<Head, String> {
        let mut left = MAX_HEAD_BYTES;
        loop {
            match Head::find(&self.bytes)? {
                None => self.more_of(left).await?,
                Some((bytes, head)) => {
                    self.bytes.advance(bytes);
                    match head {
                        Some(head) => return Ok(head),
                        None => {
                            left = left.checked_sub(bytes).ok_or("too much goes ahead of it")?
                        }
                    }
                }
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Bytes, String> {
        fits(length)?;
        if self.bytes.len() < length {
            self.bytes.reserve(length - self.bytes.len());
        }
        while self.bytes.len() < length {
            self.more_of(length).await?;
        }
        Ok(self.bytes.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> Result<Bytes, String> {
        let mut body = BytesMut::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.bytes).map_err(|_| "a chunk is none")? {
                    Status::Complete(chunk) => break chunk,
                    Status::Partial => self.more_of(MAX_HEAD_BYTES).await?,
                }
            };
            self.bytes.advance(line);
            if size == 0 {
                break;
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            fits(body.len().saturating_add(size))?;
            while self.bytes.len() < size + 2 {
                self.more_of(size + 2).await?;
            }
            body.extend_from_slice(&self.bytes.split_to(size));
            if !self.bytes.starts_with(b"\r\n") {
                return Err("a chunk does not end where it should".to_owned());
            }
            self.bytes.advance(2);
        }
        loop {
            match trailers(&self.bytes)? {
                Some(bytes) => {
                    self.bytes.advance(bytes);
                    return Ok(body.freeze());
                }
                None => self.more_of(MAX_HEAD_BYTES).await?,
            }
        }
    }

    async fn rest(&mut self) -> Result<Bytes, String> {
        while self.more().await? {
            fits(self.bytes.len())?;
        }
        fits(self.bytes.len())?;
        Ok(self.bytes.split().freeze())
    }
}

/// How long they are; `None`: they are not whole.
fn trailers(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut fields).map_err(|_| "its trailers are none")? {
        Status::Complete((length, _)) => Ok(Some(length)),
        Status::Partial => Ok(None),
    }
}

fn fits(bytes: usize) -> Result<(), String> {
    match bytes <= MAX_ANSWER_BYTES {
        true => Ok(()),
        false => Err("it is longer than 1 MiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// What comes of these bytes, in pieces of at most so many, with an end behind them.
    async fn come(bytes: &[u8], piece: usize) -> Result<(Answer, bool), String> {
        let (mut ours, mut theirs) = duplex(piece);
        let bytes = bytes.to_vec();
        let sending = async move {
            // It may well be that not all of it is wanted.
            let _ = theirs.write_all(&bytes).await;
        };
        let reading = async move { read(&mut ours).await };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn an_answer_ends_where_it_says() {
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n{}", "x".repeat(20000));
        let table: [(&str, u16, usize, bool); 12] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, 2, true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length:2 \r\n\r\n{}", 200, 2, true),
            (&long, 200, 20000, true),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, 0, true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 H\r\na: b\r\n\r\nHTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n",
                404,
                0,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                200,
                5,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nsum: 1\r\n\r\n",
                200,
                0,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                200,
                1,
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nto the end", 200, 10, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", 200, 2, false),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\n{}",
                200,
                2,
                false,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n", 200, 2, false),
        ];
        for (bytes, status, length, is_kept) in table {
            for piece in [1, 7, 1 << 20] {
                let (answer, kept) = come(bytes.as_bytes(), piece).await.expect(bytes);
                assert_eq!((answer.status, answer.body.len()), (status, length), "{bytes}");
                // In small pieces nothing comes that was not asked for.
                assert!(kept == is_kept || piece < 1 << 20, "{bytes}");
            }
        }
        let bytes = b"HTTP/1.1 503 S\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n";
        let (answer, _) = come(bytes, 1 << 20).await.unwrap();
        assert_eq!(answer.retry_after.unwrap(), "7");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let mebibyte = 1 << 20;
        let table = [
            String::new(),
            "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
            "nothing\r\n\r\n".to_owned(),
            "HTTP/1.1 101 Switching\r\n\r\n".to_owned(),
            "HTTP/1.1 099 S\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n{}".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n{}".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffff\r\na".to_owned(),
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", mebibyte + 1),
            format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(mebibyte + 1)),
            format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(2 * MAX_HEAD_BYTES)),
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
        ];
        for bytes in table {
            let shown = &bytes[..bytes.len().min(80)];
            assert!(come(bytes.as_bytes(), 1 << 20).await.is_err(), "{shown}");
        }
    }
}
