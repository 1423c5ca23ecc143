//! Text out of documents: bytes in, text much like Markdown out. Nothing here knows requests, files or models.
//!
//! What a caller uploads is hostile until shown otherwise, and the libraries that read PDF, spreadsheets and HTML recurse,
//! allocate and loop as the bytes say. So every format but plain text is read by a process of its own, which has bounds
//! on memory and processor time and can be killed: see [`Readers`].

mod charset;
mod format;
mod out;
#[cfg(feature = "documents")]
mod child;
#[cfg(feature = "documents")]
mod formats;
#[cfg(not(feature = "documents"))]
#[path = "documents/no_formats.rs"]
mod formats;
mod readers;

use serde::{Deserialize, Serialize};

pub use format::{Format, image_mime};
pub use formats::{child, read};
pub use readers::Readers;

/// Larger ones are not read: the APIs of the providers take no larger ones either.
pub const MAX_BYTES: usize = 50 << 20;

/// Text beyond this is cut off: half a million tokens, more than nearly every model reads.
pub const MAX_CHARS: usize = 2_000_000;

/// Pages of a scanned document that are made into pictures.
pub const MAX_PICTURES: usize = 10;

/// What was read of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Its text; blank where it has none.
    pub text: String,
    /// Where it has none: its first pages, as PNG.
    pub pages: Vec<Vec<u8>>,
}

/// What is asked of a document, beside its bytes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// How its bytes are read.
    pub format: Format,
    /// Of a document without text, make pictures of its pages.
    pub pictures: bool,
}

/// The line with which a reading process answers; text and pictures follow.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Head {
    /// Bytes of the text.
    text: usize,
    /// Bytes of each picture.
    pages: Vec<usize>,
    /// There is neither, because of this.
    broken: Option<String>,
}

/// Why a document was not read. The text is for the log and names no contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Neither its name nor its type nor its first bytes are those of a format that is read.
    #[error("no format that is read")]
    Unknown,
    /// It is larger than [`MAX_BYTES`].
    #[error("too large")]
    TooLarge,
    /// It is not what it says, or asks for more than a document may.
    #[error("broken: {0}")]
    Broken(String),
    /// Too many others are being read, or this one took too long.
    #[error("out of time")]
    OutOfTime,
    /// The reading process could not be started or talked to.
    #[error("no reader: {0}")]
    NoReader(String),
}

impl Unread {
    /// The document is at fault, and no other try will read it.
    fn broken(why: impl ToString) -> Self {
        // Messages of libraries may repeat what they read: the beginning says enough.
        Self::Broken(why.to_string().chars().take(120).collect())
    }
}
