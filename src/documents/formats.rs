//! The formats that are read, each in a file of its own.

mod archive;
mod html;
mod markdown;
mod office;
mod pdf;
mod sheets;

use super::out::Out;
use super::{Format, MAX_BYTES, Reading, Unread, Wanted, charset};

pub use super::child::run as child;

/// Reads a document, here and now. What is hostile may recurse, allocate and loop without end: only in a process that
/// nobody else needs.
///
/// # Errors
/// See [`Unread`].
pub fn read(wanted: Wanted, bytes: &[u8]) -> Result<Reading, Unread> {
    if bytes.len() > MAX_BYTES {
        return Err(Unread::TooLarge);
    }
    let mut out = Out::new();
    match wanted.format {
        Format::Text => out.push(&charset::decode(bytes).ok_or(Unread::Unknown)?),
        Format::Html => html::read(&charset::decode(bytes).ok_or(Unread::Unknown)?, &mut out)?,
        Format::Docx => office::docx(bytes, &mut out)?,
        Format::Pptx => office::pptx(bytes, &mut out)?,
        Format::Sheets => sheets::read(bytes, &mut out)?,
        Format::Pdf => return pdf::read(bytes, wanted.pictures),
    }
    Ok(Reading { text: out.finish(), pages: Vec::new() })
}

#[cfg(test)]
mod tests;
