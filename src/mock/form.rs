//! Takes a multipart form apart while it arrives. Of a file nothing is kept but its length and checksum.

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// Longest head of a part.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Longest value of a field that is kept.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// More parts than that are refused.
const MAX_PARTS: usize = 256;

/// One part of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Part {
    pub(super) name: String,
    /// `None`: it is a field.
    pub(super) filename: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) bytes: u64,
    /// CRC-32, as eight hexadecimal digits.
    pub(super) crc32: String,
    /// The beginning of a field's value; nothing of a file.
    pub(super) text: String,
}

/// A form that is being read.
pub(super) struct Form {
    /// CR LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    /// What has arrived and is not told apart yet.
    window: Vec<u8>,
    place: Place,
    parts: Vec<Part>,
    text: Vec<u8>,
    hasher: crc32fast::Hasher,
    error: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter, or within a part.
    Data,
    /// Behind a delimiter.
    Delimiter,
    Head,
    /// Behind the last delimiter.
    Over,
}

impl Form {
    /// A reader of a body with this content type; `None`: it is no form.
    pub(super) fn new(content_type: &str) -> Option<Self> {
        let (kind, rest) = content_type.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = rest.split(';').find_map(|pair| pair.trim().strip_prefix("boundary="))?;
        let boundary = boundary.trim_matches('"');
        (1..=70).contains(&boundary.len()).then(|| Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may stand at the very beginning.
            window: b"\r\n".to_vec(),
            place: Place::Data,
            parts: Vec::new(),
            text: Vec::new(),
            hasher: crc32fast::Hasher::new(),
            error: None,
        })
    }

    /// Reads the next piece.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.error.is_some() || self.place == Place::Over {
            return;
        }
        self.window.extend_from_slice(piece);
        while self.error.is_none() && self.step() {}
    }

    /// The parts, or what is wrong with them.
    pub(super) fn finish(self) -> Result<Vec<Part>, &'static str> {
        match (self.error, self.place) {
            (Some(error), _) => Err(error),
            (None, Place::Over) => Ok(self.parts),
            (None, _) => Err("the form has no end"),
        }
    }

    /// Whether there was something to do.
    fn step(&mut self) -> bool {
        match self.place {
            Place::Data => {
                let found = memmem::find(&self.window, &self.delimiter);
                let keep = self.delimiter.len() - 1;
                let end = found.unwrap_or(self.window.len().saturating_sub(keep));
                self.data(end);
                let skip = if found.is_some() { end + self.delimiter.len() } else { end };
                self.window.drain(..skip);
                if found.is_some() {
                    self.end_part();
                    self.place = Place::Delimiter;
                }
                found.is_some()
            }
            Place::Delimiter => match self.window.get(..2) {
                None => false,
                Some(b"--") => {
                    self.place = Place::Over;
                    false
                }
                Some(b"\r\n") => {
                    // The line end stays: it begins the empty line of a head without fields.
                    self.place = Place::Head;
                    true
                }
                Some(_) => self.wrong("a delimiter is followed by neither a line end nor '--'"),
            },
            Place::Head => match memmem::find(&self.window, b"\r\n\r\n") {
                Some(end) => {
                    let head: Vec<u8> = self.window.drain(..end + 4).collect();
                    self.begin_part(&head);
                    self.place = Place::Data;
                    true
                }
                None if self.window.len() > MAX_HEAD_BYTES => {
                    self.wrong("the head of a part is too long")
                }
                None => false,
            },
            Place::Over => false,
        }
    }

    fn wrong(&mut self, what: &'static str) -> bool {
        self.error = Some(what);
        false
    }

    fn data(&mut self, end: usize) {
        let Some(part) = self.parts.last_mut() else { return };
        let data = &self.window[..end];
        part.bytes += data.len() as u64;
        self.hasher.update(data);
        if part.filename.is_none() {
            let room = MAX_TEXT_BYTES - self.text.len();
            self.text.extend_from_slice(&data[..data.len().min(room)]);
        }
    }

    fn end_part(&mut self) {
        let hasher = std::mem::replace(&mut self.hasher, crc32fast::Hasher::new());
        let text = std::mem::take(&mut self.text);
        if let Some(part) = self.parts.last_mut() {
            part.crc32 = format!("{:08x}", hasher.finalize());
            part.text = String::from_utf8_lossy(&text).into_owned();
        }
    }

    fn begin_part(&mut self, head: &[u8]) {
        let mut part = Part::default();
        let head = String::from_utf8_lossy(head);
        let mut is_named = false;
        for line in head.split("\r\n").filter(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                self.wrong("a line in the head of a part is no header");
                return;
            };
            if name.eq_ignore_ascii_case("content-type") {
                part.content_type = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("content-disposition") {
                let value = value.trim();
                is_named = value.starts_with("form-data");
                part.name = parameter(value, "name").unwrap_or_default();
                part.filename = parameter(value, "filename");
            }
        }
        if !is_named || part.name.is_empty() {
            self.wrong("a part has no name");
        } else if self.parts.len() == MAX_PARTS {
            self.wrong("the form has too many parts");
        }
        self.parts.push(part);
    }
}

/// The quoted parameter `name` of a header's value, with its escapes.
fn parameter(value: &str, name: &str) -> Option<String> {
    let start = format!("; {name}=\"");
    let at = value.find(&start)? + start.len();
    let rest = &value[at..];
    Some(rest[..rest.find('"')?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n\
        --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a%22 é.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\n\r\n--bx\r\n-\r\n--b--\r\nafter";

    fn read(body: &[u8], step: usize) -> Result<Vec<Part>, &'static str> {
        let mut form = Form::new("multipart/form-data; boundary=b").unwrap();
        body.chunks(step).for_each(|piece| form.feed(piece));
        form.finish()
    }

    #[test]
    fn a_form_is_told_apart_however_it_arrives() {
        // `\r\n--bx` is data: only a line end or `--` may follow a delimiter, so it is refused.
        let body = BODY.replace("--bx", "--cx");
        for step in [1, 2, 3, 7, 1000] {
            let parts = read(body.as_bytes(), step).unwrap();
            assert_eq!((&*parts[0].name, &*parts[0].text, parts[0].bytes), ("model", "m", 1));
            let file = &parts[1];
            assert_eq!(file.filename.as_deref(), Some("a%22 é.wav"));
            assert_eq!(file.content_type.as_deref(), Some("audio/wav"));
            assert_eq!((file.bytes, &*file.text), (9, ""));
            assert_eq!(file.crc32, format!("{:08x}", crc32fast::hash(b"\r\n--cx\r\n-")));
        }
    }

    #[test]
    fn broken_forms_are_refused() {
        assert!(read(BODY.as_bytes(), 5).unwrap_err().contains("neither"));
        assert_eq!(read(b"--b\r\n\r\nx\r\n--b--", 1), Err("a part has no name"));
        assert_eq!(
            read(b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx", 9),
            Err("the form has no end")
        );
        assert!(
            Form::new("application/json").is_none() && Form::new("multipart/form-data").is_none()
        );
        assert!(Form::new("multipart/form-data; charset=x; boundary=\"q\"").is_some());
    }
}
