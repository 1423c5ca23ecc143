//! A request that is a form: a recording with the fields beside it. Whoever receives it takes it apart; here it is
//! checked, and put together again for a provider, around a file that is never looked at.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use super::{Asked, Kind, Units, fields};
use crate::protocol::top::{GATEWAY_FIELDS, STEERING_FIELDS};
use crate::rejection::{Code, Rejection};
use crate::validate::{self, Faults, Field, Kind as Holds};

/// The field with the recording.
pub const FILE: &str = "file";
/// More parts than that no caller sends.
pub const MAX_PARTS: usize = 128;
/// All fields together, the file not counted.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Fewer digits than that could be guessed.
const MIN_BOUNDARY: usize = 24;
/// No boundary is longer.
const MAX_BOUNDARY: usize = 70;

/// The parts of a form, in their order.
#[derive(Clone, Debug, Default)]
pub struct Form {
    parts: Vec<Part>,
    text_bytes: usize,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The field's name; several parts may have the same.
    pub name: String,
    /// The part's own content type, where it says one.
    pub content_type: Option<String>,
    /// What it holds.
    pub holds: Content,
}

/// What a part holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A value.
    Text(Bytes),
    /// A file of this name. Its bytes are kept elsewhere.
    File(String),
}

impl Form {
    /// Takes the next part.
    ///
    /// # Errors
    /// `invalid_value` when there are too many, or too long ones, or a second file.
    pub fn push(&mut self, part: Part) -> Result<(), Rejection> {
        let refuse = |message| Err(Rejection::new(Code::InvalidValue, message));
        match &part.holds {
            Content::Text(text) => {
                self.text_bytes = self.text_bytes.saturating_add(text.len() + part.name.len());
                if self.text_bytes > MAX_TEXT_BYTES {
                    return refuse("the fields beside the file are longer than 1 MB");
                }
            }
            Content::File(_) if part.name != FILE => {
                return refuse("only the field 'file' can hold a file");
            }
            Content::File(_) if self.file().is_some() => {
                return refuse("the form has more than one file: send one at a time");
            }
            Content::File(_) => {}
        }
        if self.parts.len() == MAX_PARTS {
            return refuse("the form has more than 128 fields");
        }
        self.parts.push(part);
        Ok(())
    }

    /// The part with the file.
    pub fn file(&self) -> Option<&Part> {
        self.parts.iter().find(|part| matches!(part.holds, Content::File(_)))
    }

    /// The parts up to the file, and those behind it.
    fn halves(&self) -> (&[Part], &[Part]) {
        let at = self.parts.iter().position(|part| matches!(part.holds, Content::File(_)));
        self.parts.split_at(at.map_or(self.parts.len(), |at| at + 1))
    }

    /// The text of a field; an empty one is none. Of several the last.
    fn text(&self, name: &str) -> Option<&str> {
        let mut texts = self.parts.iter().rev().filter(|part| part.name == name);
        let text = texts.find_map(|part| match &part.holds {
            Content::Text(text) => std::str::from_utf8(text).ok(),
            Content::File(_) => None,
        });
        text.filter(|text| !text.is_empty())
    }

    /// Checks the form, and says what it asks.
    ///
    /// # Errors
    /// `invalid_fields` with every fault at once.
    pub fn read(&self) -> Result<Asked, Rejection> {
        let mut faults = Faults::default();
        for field in fields::of(Kind::Transcription) {
            self.check(&mut faults, field);
        }
        faults.check()?;
        let text = |name| self.text(name).map(str::to_owned);
        let stream = self.text("stream").map(|text| validate::lax_bool(&text.into()));
        Ok(Asked {
            kind: Kind::Transcription,
            model: text("model").unwrap_or_default(),
            user: text("user"),
            units: Units::Call,
            include_raw: false,
            base64: false,
            format: text("response_format"),
            stream: stream == Some(Ok(true)),
            model_at: 0..0,
            user_at: None,
            unwanted: Vec::new(),
            nulls: Vec::new(),
        })
    }

    fn check(&self, faults: &mut Faults, field: &Field) {
        let loc = ["body".into(), field.name.into()];
        let given = self.parts.iter().rev().find(|part| part.name == field.name);
        let text = match given.map(|part| &part.holds) {
            Some(Content::File(_)) => return,
            Some(Content::Text(text)) => String::from_utf8_lossy(text),
            None => "".into(),
        };
        if text.is_empty() {
            if field.is_required {
                faults.add("missing", &loc, "Field required", Value::Null, Value::Null);
            }
            return;
        }
        if field.name == FILE {
            let message = "Value error, Expected UploadFile, received: <class 'str'>";
            return faults.add("value_error", &loc, message, Value::Null, json!({"error": {}}));
        }
        let value = Value::from(text.as_ref());
        let fault = match field.kind {
            Holds::Number => validate::lax_float(&value).err(),
            Holds::Flag => validate::lax_bool(&value).err(),
            _ => None,
        };
        if let Some((kind, message)) = fault {
            faults.add(kind, &loc, message, value, Value::Null);
        }
    }
}

/// How a form is put together for a provider: every field in its order, with the provider's name of the model and
/// without those that only the gateway is meant to get.
///
/// In two halves, because the file between them may still be on its way when the first one leaves.
#[derive(Clone, Debug)]
pub struct Frame {
    model: String,
    boundary: String,
}

impl Frame {
    /// `model`: the provider's own name of it. `random` must be fresh: then the boundary stands in no recording, and
    /// nobody can put one into theirs. `like`: how long the caller's boundary is. This one is as long, within reason, so
    /// that nothing else makes the form longer or shorter than it came.
    pub fn new(model: &str, random: u128, like: usize) -> Self {
        let length = like.clamp(MIN_BOUNDARY, MAX_BOUNDARY);
        let digits = format!("{random:032x}");
        let digits = &digits[digits.len().saturating_sub(length)..];
        Self { model: model.to_owned(), boundary: format!("{digits:->length$}") }
    }

    /// `multipart/form-data`, with the boundary.
    pub fn content_type(&self) -> HeaderValue {
        // Digits, letters and hyphens.
        HeaderValue::try_from(format!("multipart/form-data; boundary={}", self.boundary))
            .unwrap_or_else(|_| HeaderValue::from_static("multipart/form-data"))
    }

    /// How long what separates the parts is.
    pub fn boundary_len(&self) -> usize {
        self.boundary.len()
    }

    /// Everything up to the first byte of the file. It is known when the file begins.
    pub fn head(&self, form: &Form) -> Bytes {
        let mut out: Vec<u8> = Vec::with_capacity(512);
        for part in form.halves().0.iter().filter(|part| goes_on(part)) {
            self.write(part, &mut out);
        }
        out.into()
    }

    /// Everything behind the last byte of the file.
    pub fn tail(&self, form: &Form) -> Bytes {
        let mut out = b"\r\n".to_vec();
        for part in form.halves().1.iter().filter(|part| goes_on(part)) {
            self.write(part, &mut out);
        }
        out.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        out.into()
    }

    /// One part; of a file its head alone.
    fn write(&self, part: &Part, out: &mut Vec<u8>) {
        let head = format!("--{}\r\nContent-Disposition: form-data; name=\"", self.boundary);
        out.extend_from_slice(head.as_bytes());
        quote(out, &part.name);
        out.push(b'"');
        if let Content::File(file_name) = &part.holds {
            out.extend_from_slice(b"; filename=\"");
            quote(out, file_name);
            out.push(b'"');
        }
        out.extend_from_slice(b"\r\n");
        let default = matches!(part.holds, Content::File(_)).then_some("application/octet-stream");
        let content_type = part.content_type.as_deref().filter(|kind| is_plain(kind)).or(default);
        if let Some(kind) = content_type {
            out.extend_from_slice(format!("Content-Type: {kind}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        match &part.holds {
            Content::File(_) => return,
            Content::Text(_) if part.name == "model" => {
                out.extend_from_slice(self.model.as_bytes())
            }
            Content::Text(text) => out.extend_from_slice(text),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a provider gets this field.
fn goes_on(part: &Part) -> bool {
    let name = part.name.as_str();
    name != "user" && !GATEWAY_FIELDS.contains(&name) && !STEERING_FIELDS.contains(&name)
}

/// A name between quotes, as forms are written by browsers: what would end it, or its line, is escaped.
fn quote(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'\r' => out.extend_from_slice(b"%0D"),
            b'\n' => out.extend_from_slice(b"%0A"),
            _ => out.push(byte),
        }
    }
}

/// Whether a content type can stand in a line of its own.
fn is_plain(kind: &str) -> bool {
    kind.len() <= 256 && kind.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
