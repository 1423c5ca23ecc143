//! A build that reads plain text only.

use std::io::{Read, Write};

use super::out::Out;
use super::{Format, Reading, Unread, Wanted, charset};

/// Reads a document.
///
/// # Errors
/// `Unknown` for everything but plain text.
pub fn read(wanted: Wanted, bytes: &[u8]) -> Result<Reading, Unread> {
    if wanted.format != Format::Text {
        return Err(Unread::Unknown);
    }
    let mut out = Out::new();
    out.push(&charset::decode(bytes).ok_or(Unread::Unknown)?);
    Ok(Reading { text: out.finish(), pages: Vec::new() })
}

/// There is nothing that a process of its own would read.
///
/// # Errors
/// Always.
pub fn child(_: impl Read, _: impl Write) -> std::io::Result<()> {
    Err(std::io::Error::other(
        "this build reads no documents: build it with the feature `documents`",
    ))
}
