//! Images and documents in a request: where they stand, what becomes of each for a given model, and the body with that
//! done.
//!
//! A body is edited by splicing byte ranges: what is no attachment, and fields nobody has heard of, stay as they came.
//! Where bytes come from, and how text is read out of them, is not known here.

mod capabilities;
mod find;
mod write;

use std::borrow::Cow;
use std::ops::Range;

use crate::protocol::Protocol;

pub use capabilities::{Capabilities, Native};
pub use find::find;
pub use write::{Inline, Replacement, edit, render, texts};

/// What a block is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A picture.
    Image,
    /// Anything else: PDF, office documents, tables, plain text.
    Document,
}

/// An attachment of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where the whole block stands in the body that was read.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
    /// Where its bytes are.
    pub source: Source,
    /// What the caller calls it: `filename`, in messages `title`.
    pub filename: Option<Box<str>>,
    /// How closely the model is to look, as sent.
    detail: Option<Range<usize>>,
    /// A mark of the provider's cache, as sent.
    cache_control: Option<Range<usize>>,
    /// Messages: where the value of `source` stands.
    source_at: Option<Range<usize>>,
}

/// Where the bytes of an attachment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file of this name, which may be ours or the provider's.
    File(Box<str>),
    /// In the body.
    Data(Data),
    /// In the body, as text.
    Text(Text),
    /// Behind an address. It is never fetched.
    Remote,
}

/// Bytes in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The media type as sent, lower case, without parameters.
    pub mime: Option<Box<str>>,
    /// Otherwise the payload is percent-encoded.
    pub is_base64: bool,
    /// Where the JSON string stands, its quotes included.
    string: Range<usize>,
    /// Bytes of the string, read, before the payload.
    skip: usize,
}

impl Data {
    /// The payload, in the body that was read.
    pub fn payload<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        match string(body, &self.string)? {
            Cow::Borrowed(text) => text.get(self.skip..).map(Cow::Borrowed),
            Cow::Owned(mut text) => {
                text.get(self.skip..)?;
                text.drain(..self.skip);
                Some(Cow::Owned(text))
            }
        }
    }

    /// The whole as a data URL, in the body that was read; `mime` stands in where the caller named none.
    pub fn url(&self, body: &[u8], mime: &str) -> Option<String> {
        let payload = self.payload(body)?;
        let mime = self.mime.as_deref().unwrap_or(mime);
        let base64 = if self.is_base64 { ";base64" } else { "" };
        Some(format!("data:{mime}{base64},{payload}"))
    }
}

/// A text in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    string: Range<usize>,
}

impl Text {
    /// The text, in the body that was read.
    pub fn get<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        string(body, &self.string)
    }
}

/// A JSON string, copied only when it has escapes.
fn string<'b>(body: &'b [u8], at: &Range<usize>) -> Option<Cow<'b, str>> {
    let raw = body.get(at.clone())?;
    if let Ok(text) = serde_json::from_slice::<&'b str>(raw) {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_slice::<String>(raw).ok().map(Cow::Owned)
}

/// Whether a file of this name can be one of this gateway's: `file-` and 32 hexadecimal digits.
pub fn is_own_file(id: &str) -> bool {
    id.strip_prefix("file-")
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What becomes of a block for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on as it came.
    Keep,
    /// The bytes of a stored file take the place of its name.
    Inline,
    /// A text takes its place: what the bytes say, or that there was something.
    Text {
        /// Whether there are bytes to read.
        has_bytes: bool,
    },
}

/// What becomes of `block` for a model that understands `native` by itself. `is_known`: the bytes of a stored file were
/// found; of no meaning for other sources.
pub fn step(protocol: Protocol, block: &Block, native: Native, is_known: bool) -> Step {
    let has_bytes = match block.source {
        Source::File(_) => is_known,
        Source::Data(_) | Source::Text(_) => true,
        Source::Remote => false,
    };
    if native.takes(block.kind) {
        let is_stored = matches!(block.source, Source::File(_));
        return if is_stored && has_bytes { Step::Inline } else { Step::Keep };
    }
    // A name that is not ours may be one of the provider's own; a document behind an address may be fetched by it.
    let is_foreign = match block.kind {
        Kind::Document => true,
        Kind::Image => matches!(block.source, Source::File(_)),
    };
    if !has_bytes && is_foreign && protocol != Protocol::Messages {
        return Step::Keep;
    }
    Step::Text { has_bytes }
}

#[cfg(test)]
mod tests;
