//! A body with its attachments replaced.

use bytes::Bytes;

use super::{Block, Kind};
use crate::protocol::Protocol;
use crate::protocol::json::{Edit, splice};

/// What takes the place of a block.
#[derive(Clone, Copy, Debug)]
pub enum Replacement<'a> {
    /// The bytes themselves, in the form that the caller's format has for them.
    Inline(Inline<'a>),
    /// A text block.
    Text(&'a str),
}

/// Bytes within a request.
#[derive(Clone, Copy, Debug)]
pub struct Inline<'a> {
    /// The media type.
    pub mime: &'a str,
    /// The bytes in base64.
    pub base64: &'a str,
    /// The name of the stored file.
    pub filename: &'a str,
}

/// The edit that puts `with` in the place of `block`, in the body that the block was found in.
pub fn edit(protocol: Protocol, body: &[u8], block: &Block, with: &Replacement<'_>) -> Edit {
    match (with, protocol, &block.source_at) {
        // Title, citations and marks of a cache stay: only the source is another one.
        (Replacement::Inline(inline), Protocol::Messages, Some(source)) => {
            let mut out = Vec::with_capacity(inline.base64.len() + 96);
            out.extend_from_slice(br#"{"type":"base64","media_type":"#);
            quote(&mut out, inline.mime);
            out.extend_from_slice(br#","data":"#);
            quote(&mut out, inline.base64);
            out.push(b'}');
            Edit { range: source.clone(), with: out.into() }
        }
        (Replacement::Inline(inline), ..) => {
            Edit { range: block.range.clone(), with: openai(protocol, body, block, inline).into() }
        }
        (Replacement::Text(text), ..) => {
            let mut out = Vec::with_capacity(text.len() + 64);
            let kind = if protocol == Protocol::Responses { "input_text" } else { "text" };
            out.extend_from_slice(format!(r#"{{"type":"{kind}","text":"#).as_bytes());
            quote(&mut out, text);
            field(&mut out, body, "cache_control", block.cache_control.as_ref());
            out.push(b'}');
            Edit { range: block.range.clone(), with: out.into() }
        }
    }
}

/// OpenAI's forms of bytes within a request.
fn openai(protocol: Protocol, body: &[u8], block: &Block, inline: &Inline<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(inline.base64.len() + 160);
    let url = format!("data:{};base64,{}", inline.mime, inline.base64);
    let is_nested = protocol != Protocol::Responses;
    let head: &[u8] = match (block.kind, is_nested) {
        (Kind::Image, true) => br#"{"type":"image_url","image_url":{"url":"#,
        (Kind::Image, false) => br#"{"type":"input_image","image_url":"#,
        (Kind::Document, true) => br#"{"type":"file","file":{"file_data":"#,
        (Kind::Document, false) => br#"{"type":"input_file","file_data":"#,
    };
    out.extend_from_slice(head);
    quote(&mut out, &url);
    match block.kind {
        Kind::Image => field(&mut out, body, "detail", block.detail.as_ref()),
        Kind::Document => {
            let name = block.filename.as_deref().unwrap_or(inline.filename);
            if !name.is_empty() {
                out.extend_from_slice(br#","filename":"#);
                quote(&mut out, name);
            }
        }
    }
    if is_nested {
        out.push(b'}');
    }
    field(&mut out, body, "cache_control", block.cache_control.as_ref());
    out.push(b'}');
    out
}

/// A field as the caller sent it.
fn field(out: &mut Vec<u8>, body: &[u8], name: &str, at: Option<&std::ops::Range<usize>>) {
    if let Some(value) = at.and_then(|at| body.get(at.clone())) {
        out.extend_from_slice(format!(r#","{name}":"#).as_bytes());
        out.extend_from_slice(value);
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is JSON, and memory takes every byte");
}

/// `body` with `edits` applied, in one piece.
pub fn render(body: &Bytes, edits: Vec<Edit>) -> Bytes {
    let mut pieces = splice(body, edits);
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    pieces.concat().into()
}

/// What stands in the place of an attachment that the model cannot take by itself.
pub mod texts {
    use std::fmt::Write as _;

    use super::super::Kind;

    /// A document's text. `name`: default `document`.
    pub fn document(name: Option<&str>, text: &str) -> String {
        let name = name.unwrap_or("document");
        format!("[Attached file: {name}]\n{text}\n[End of {name}]")
    }

    /// The pages of a document that is pictures only, from the first on. `name`: default `document.pdf`.
    pub fn scanned(name: Option<&str>, pages: &[Option<Box<str>>]) -> String {
        let name = name.unwrap_or("document.pdf");
        let mut out = format!("[Attached scanned file: {name}]\n");
        for (at, page) in pages.iter().enumerate() {
            let page_text = page.as_deref().unwrap_or_default();
            let _ = writeln!(out, "-- Page {} --\n{page_text}", at + 1);
        }
        let _ = write!(out, "[End of {name}]");
        out
    }

    /// What a model said of an image.
    pub fn described(caption: &str) -> String {
        format!("[Attached image description]\n{caption}")
    }

    /// That there was something.
    pub fn omitted(kind: Kind) -> &'static str {
        match kind {
            Kind::Image => "[Unprocessable image attachment omitted]",
            Kind::Document => "[Unprocessable document attachment omitted]",
        }
    }
}
