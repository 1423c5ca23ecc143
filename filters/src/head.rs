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
    let mut first = lines.next().unwrap_or(Ok(Line::default()))?;
    if first.text.is_empty() {
        first = lines.next().unwrap_or(Ok(Line::default()))?;
    }
    if first.has_cr() {
        return Err(cr_within());
    }
    let request_line = first.text;
    let is_1_1 = request_line.ends_with(b" HTTP/1.1");
    let Some(target) = second_of_three(request_line) else {
        return Err(malformed("the request line is not three words"));
    };
    let is_target = target.starts_with(b"/")
        || target == b"*"
        || [&b"http://"[..], b"https://"].iter().any(|start| target.starts_with(start));
    if !is_target {
        return Err(malformed("what is asked for is neither a path nor an address"));
    }
    let mut framing = Framing::default();
    let mut fields = 0;
    for line in lines {
        let line = line?;
        if line.text.is_empty() {
            break;
        }
        fields += 1;
        let read = match fields <= bounds.max_fields {
            true => framing.read(&line),
            false => Err(too_many(bounds)),
        };
        // No field passes with a CR in it; looked for first, it would cost every good one a second look.
        read.map_err(|refused| if line.has_cr() { cr_within() } else { refused })?;
    }
    framing.judge(is_1_1)
}

/// The second of three words with one blank between them.
fn second_of_three(line: &[u8]) -> Option<&[u8]> {
    let first = line.iter().position(|byte| *byte == b' ')?;
    let last = line.iter().rposition(|byte| *byte == b' ')?;
    let target = line.get(first + 1..last)?;
    memchr::memchr(b' ', target).is_none().then_some(target)
}

fn cr_within() -> Rejection {
    malformed("there is a CR within a line")
}

fn too_many(bounds: Bounds) -> Rejection {
    let message = format!("The request has over {} headers (max_header_count)", bounds.max_fields);
    Rejection::new(Code::TooManyHeaders, message)
}

impl Framing {
    /// Takes in one field.
    fn read(&mut self, whole: &Line<'_>) -> Result<(), Rejection> {
        let line = whole.text;
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(malformed("a header is folded over several lines"));
        }
        let colon = line.iter().position(|byte| !is(*byte, TOKEN)).unwrap_or(line.len());
        if line.get(colon) != Some(&b':') || colon == 0 {
            return Err(malformed(match memchr::memchr(b':', line) {
                None => "a header has no colon",
                Some(_) => "the name of a header has a character that no name may have",
            }));
        }
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if !whole.is_clean && value.iter().any(|byte| is(*byte, CONTROL)) {
            return Err(malformed("a header has a control character"));
        }
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.lengths += 1;
                // A sign, a blank or a list is read differently by different parsers.
                if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                    return Err(malformed("Content-Length is not a number"));
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings += 1;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(malformed("Transfer-Encoding is not 'chunked'"));
                }
            }
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if value.iter().any(|byte| is(*byte, NO_HOST)) {
                    return Err(malformed("Host is not a name and a port"));
                }
            }
            _ => {}
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

/// A line of a head, without what ends it.
#[derive(Default)]
struct Line<'a> {
    text: &'a [u8],
    /// It has no control character, not even a CR within. Where this is not set it may have none either.
    is_clean: bool,
}

impl Line<'_> {
    fn has_cr(&self) -> bool {
        !self.is_clean && memchr::memchr(b'\r', self.text).is_some()
    }
}

/// The lines of a head.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        // The first control character should be the line's end.
        let end = until_control(self.0);
        if let Some(rest) = self.0[end..].strip_prefix(b"\r\n") {
            let text = &self.0[..end];
            self.0 = rest;
            return Some(Ok(Line { text, is_clean: true }));
        }
        let end = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = (&self.0[..end], &self.0[end + 1..]);
        self.0 = rest;
        let Some(text) = line.strip_suffix(b"\r") else {
            return Some(Err(malformed("a line ends without CR")));
        };
        Some(Ok(Line { text, is_clean: false }))
    }
}

/// How many bytes at the beginning are no control characters. Eight are looked at at once.
fn until_control(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The highest bit of the first byte below 32 or of 127, and perhaps of later ones.
        let odd = word.wrapping_sub(ONES * 32) | (word ^ (ONES * 127)).wrapping_sub(ONES);
        let odd = odd & !word & (ONES << 7);
        if odd != 0 {
            return at * 8 + odd.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().position(u8::is_ascii_control).unwrap_or(rest.len())
}

/// Without blanks around it: not every blank of ASCII is one in HTTP.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A character of a header's name: RFC 9110, 5.6.2.
const TOKEN: u8 = 1;
/// What no name and port has.
const NO_HOST: u8 = 2;
/// What no value has.
const CONTROL: u8 = 4;

/// What each byte is.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            classes[byte as usize] = TOKEN;
        } else if byte.is_ascii_control() && byte != b'\t' {
            classes[byte as usize] = CONTROL;
        }
        byte += 1;
    }
    let mut at = 0;
    let tokens = b"!#$%&'*+-.^_`|~";
    while at < tokens.len() {
        classes[tokens[at] as usize] |= TOKEN;
        at += 1;
    }
    at = 0;
    let odd = b" \t,/\\?#@<>\"";
    while at < odd.len() {
        classes[odd[at] as usize] |= NO_HOST;
        at += 1;
    }
    classes
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

fn malformed(what: &str) -> Rejection {
    Rejection::new(Code::MalformedRequest, format!("Malformed HTTP request: {what}"))
}

#[cfg(test)]
mod tests;
