//! Writing JSON: pushed to one buffer, in one pass; what came as JSON goes out as it came.

use serde_json::value::RawValue;

use super::object::Object;
use super::text::Text;

/// A value that is about to be written.
pub(super) struct Slot<'o>(&'o mut Vec<u8>);

/// The fields of an object that is being written.
pub(super) struct Fields<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

/// The items of a list that is being written.
pub(super) struct Items<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

/// Writes an object to the end of `out`.
pub(super) fn object(out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) {
    Slot(out).object(write);
}

/// Writes a list to the end of `out`.
pub(super) fn list(out: &mut Vec<u8>, write: impl FnOnce(&mut Items<'_>)) {
    Slot(out).list(write);
}

impl Slot<'_> {
    pub(super) fn object(self, write: impl FnOnce(&mut Fields<'_>)) {
        self.0.push(b'{');
        write(&mut Fields { out: self.0, is_first: true });
        self.0.push(b'}');
    }

    pub(super) fn list(self, write: impl FnOnce(&mut Items<'_>)) {
        self.0.push(b'[');
        write(&mut Items { out: self.0, is_first: true });
        self.0.push(b']');
    }

    /// A value that is JSON already.
    pub(super) fn json(self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(super) fn text(self, text: &Text<'_>) {
        self.texts(&[text.escaped()]);
    }

    /// One string of several pieces, each escaped already.
    pub(super) fn texts(self, pieces: &[&str]) {
        self.0.push(b'"');
        for piece in pieces {
            self.0.extend_from_slice(piece.as_bytes());
        }
        self.0.push(b'"');
    }
}

impl Fields<'_> {
    /// The value of `name`, a name that needs no escape.
    pub(super) fn field(&mut self, name: &str) -> Slot<'_> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        Slot(self.out)
    }

    pub(super) fn raw(&mut self, name: &str, value: &RawValue) {
        self.field(name).json(value.get());
    }

    pub(super) fn json(&mut self, name: &str, json: &str) {
        self.field(name).json(json);
    }

    pub(super) fn text(&mut self, name: &str, text: &Text<'_>) {
        self.field(name).text(text);
    }

    /// A word of ours: it needs no escape.
    pub(super) fn word(&mut self, name: &str, word: &str) {
        self.field(name).texts(&[word]);
    }

    pub(super) fn number(&mut self, name: &str, number: u64) {
        self.field(name).json(&number.to_string());
    }

    pub(super) fn flag(&mut self, name: &str, flag: bool) {
        self.field(name).json(if flag { "true" } else { "false" });
    }

    pub(super) fn null(&mut self, name: &str) {
        self.field(name).json("null");
    }

    pub(super) fn maybe_raw(&mut self, name: &str, value: Option<&RawValue>) {
        if let Some(value) = value {
            self.raw(name, value);
        }
    }

    pub(super) fn maybe_text(&mut self, name: &str, text: Option<&Text<'_>>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(super) fn object(&mut self, name: &str, write: impl FnOnce(&mut Fields<'_>)) {
        self.field(name).object(write);
    }

    pub(super) fn list(&mut self, name: &str, write: impl FnOnce(&mut Items<'_>)) {
        self.field(name).list(write);
    }

    /// Every field of `object`.
    pub(super) fn copy(&mut self, object: &Object<'_>) {
        for (name, value) in object.fields() {
            self.raw(Text::of(name).escaped(), value);
        }
    }

    /// Fields that are JSON already, without braces.
    pub(super) fn splice(&mut self, fields: &str) {
        if fields.is_empty() {
            return;
        }
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.extend_from_slice(fields.as_bytes());
    }
}

impl Items<'_> {
    pub(super) fn item(&mut self) -> Slot<'_> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        Slot(self.out)
    }

    pub(super) fn object(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        self.item().object(write);
    }
}
