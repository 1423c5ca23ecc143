//! Whether the head of a request means the same to everybody who reads it.
//!
//! A proxy in front of the gateway may read two requests where one was meant, or one where two were, when a head breaks
//! the rules of RFC 9112 in a way that parsers forgive differently. Nothing here is forgiven: such a request is refused
//! and its connection closed, whoever is right.

use crate::rejection::{Code, Rejection};

/// What a head may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, from the request line to the empty line.
    pub max_bytes: usize,
    /// Fields.
    pub max_fields: usize,
}

/// What decides where a request ends and whom it is for.
#[derive(Default)]
struct Framing {
    hosts: usize,
    lengths: usize,
    codings: usize,
}

/// Judges a head as it came: the bytes up to and including the empty line.
///
/// # Errors
/// `headers_too_large`, `too_many_headers`, `malformed_request`.
pub fn check(raw: &[u8], bounds: Bounds) -> Result<(), Rejection> {
    if raw.len() > bounds.max_bytes {
        let message = format!(
            "The request's headers are over the limit of {} bytes (max_header_bytes)",
            bounds.max_bytes
        );
        return Err(Rejection::new(Code::HeadersTooLarge, message));
    }
    let mut lines = Lines(raw);
    // One empty line before a request is a leftover of old clients.
    let mut request_line = lines.next().unwrap_or(Ok(b""))?;
    if request_line.is_empty() {
        request_line = lines.next().unwrap_or(Ok(b""))?;
    }
    let is_1_1 = request_line.ends_with(b" HTTP/1.1");
    if request_line.iter().filter(|byte| **byte == b' ').count() != 2 {
        return Err(malformed("the request line is not three words"));
    }
    let target = request_line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let is_target = target == b"*"
        || [&b"/"[..], b"http://", b"https://"].iter().any(|start| target.starts_with(start));
    if !is_target {
        return Err(malformed("what is asked for is neither a path nor an address"));
    }
    let mut framing = Framing::default();
    let mut fields = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > bounds.max_fields {
            let message =
                format!("The request has over {} headers (max_header_count)", bounds.max_fields);
            return Err(Rejection::new(Code::TooManyHeaders, message));
        }
        framing.read(line)?;
    }
    framing.judge(is_1_1)
}

impl Framing {
    /// Takes in one field.
    fn read(&mut self, line: &[u8]) -> Result<(), Rejection> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(malformed("a header is folded over several lines"));
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(malformed("a header has no colon"));
        };
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(malformed("the name of a header has a character that no name may have"));
        }
        if value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
            return Err(malformed("a header has a control character"));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            // A sign, a blank or a list is read differently by different parsers.
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err(malformed("Content-Length is not a number"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("Transfer-Encoding is not 'chunked'"));
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            if value.iter().any(|byte| b" \t,/\\?#@<>\"".contains(byte)) {
                return Err(malformed("Host is not a name and a port"));
            }
        }
        Ok(())
    }

    fn judge(&self, is_1_1: bool) -> Result<(), Rejection> {
        if self.lengths > 1 {
            return Err(malformed("there are several Content-Length headers"));
        }
        if self.codings > 1 {
            return Err(malformed("there are several Transfer-Encoding headers"));
        }
        if self.codings > 0 && self.lengths > 0 {
            return Err(malformed("there are both Content-Length and Transfer-Encoding"));
        }
        if self.hosts > 1 {
            return Err(malformed("there are several Host headers"));
        }
        if self.hosts == 0 && is_1_1 {
            return Err(malformed("there is no Host header"));
        }
        Ok(())
    }
}

/// The lines of a head, without what ends them.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = (&self.0[..end], &self.0[end + 1..]);
        self.0 = rest;
        let Some(line) = line.strip_suffix(b"\r") else {
            return Some(Err(malformed("a line ends without CR")));
        };
        if memchr::memchr(b'\r', line).is_some() {
            return Some(Err(malformed("there is a CR within a line")));
        }
        Some(Ok(line))
    }
}

/// Without blanks around it: not every blank of ASCII is one in HTTP.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A character of a header's name: RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn malformed(what: &str) -> Rejection {
    Rejection::new(Code::MalformedRequest, format!("Malformed HTTP request: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { max_bytes: 400, max_fields: 5 };

    fn code(head: &str) -> Option<Code> {
        check(head.as_bytes(), BOUNDS).err().map(|refused| refused.code)
    }

    #[test]
    fn what_clients_send_passes() {
        for head in [
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nhost:a:8000\r\ntransfer-encoding:  Chunked \r\n\r\n",
            "GET /v1/models?a=b%20c HTTP/1.1\r\nHost: [::1]:8000\r\nX: \u{e9}\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\nEmpty:\r\n\r\n",
        ] {
            assert_eq!(code(head), None, "{head:?}");
        }
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for fields in [
            "Host: a\nX: y",
            "Host: a\r\nX: y\r\n z",
            "Host: a\r\nX : y",
            "Host: a\r\nX",
            "Host: a\r\n: y",
            "Host: a\r\nX: a\rb",
            "Host: a\r\nX: a\u{1}b",
            "Host: a\r\nHost: a",
            "Host: a b",
            "Host: a, b",
            "X: y",
            "Host: a\r\nContent-Length: 5\r\nContent-Length: 5",
            "Host: a\r\nContent-Length: 5, 5",
            "Host: a\r\nContent-Length: +5",
            "Host: a\r\nContent-Length: 0x5",
            "Host: a\r\nContent-Length: ",
            "Host: a\r\nContent-Length: 99999999999999999999",
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Host: a\r\nTransfer-Encoding: gzip, chunked",
            "Host: a\r\nTransfer-Encoding: xchunked",
            "Host: a\r\nTransfer-Encoding: \u{b}chunked",
            "Host: a\r\nTransfer_Encoding\u{0}: chunked",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(code(&head), Some(Code::MalformedRequest), "{fields:?}");
        }
        assert_eq!(code("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
        assert_eq!(code("GET %20/ HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
        assert_eq!(code("GET / HTTP/1.1\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
    }

    #[test]
    fn the_bounds_hold() {
        let fields = |n: usize| "X: y\r\n".repeat(n);
        let head = |n| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(n));
        assert_eq!(code(&head(4)), None);
        assert_eq!(code(&head(5)), Some(Code::TooManyHeaders));
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(400));
        assert_eq!(code(&long), Some(Code::HeadersTooLarge));
    }
}
