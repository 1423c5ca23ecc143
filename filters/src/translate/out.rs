//! Writing JSON: pushed to one buffer, in one pass; what came as JSON goes out as it came.

use serde_json::value::RawValue;

use super::object::Object;
use super::text::Text;

/// A value that is about to be written.
pub(crate) struct Slot<'o>(&'o mut Vec<u8>);

/// The fields of an object that is being written.
pub(crate) struct Fields<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

/// The items of a list that is being written.
pub(crate) struct Items<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

/// Writes an object to the end of `out`.
pub(crate) fn object(out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) {
    Slot(out).object(write);
}

/// Writes a list to the end of `out`.
pub(crate) fn list(out: &mut Vec<u8>, write: impl FnOnce(&mut Items<'_>)) {
    Slot(out).list(write);
}

impl Slot<'_> {
    pub(crate) fn object(self, write: impl FnOnce(&mut Fields<'_>)) {
        self.0.push(b'{');
        write(&mut Fields { out: self.0, is_first: true });
        self.0.push(b'}');
    }

    pub(crate) fn list(self, write: impl FnOnce(&mut Items<'_>)) {
        self.0.push(b'[');
        write(&mut Items { out: self.0, is_first: true });
        self.0.push(b']');
    }

    /// A value that is JSON already.
    pub(crate) fn json(self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(crate) fn text(self, text: &Text<'_>) {
        self.texts(&[text.escaped()]);
    }

    /// One string of several pieces, each escaped already.
    pub(crate) fn texts(self, pieces: &[&str]) {
        self.0.push(b'"');
        for piece in pieces {
            self.0.extend_from_slice(piece.as_bytes());
        }
        self.0.push(b'"');
    }
}

impl Fields<'_> {
    /// The value of `name`, a name that needs no escape.
    pub(crate) fn field(&mut self, name: &str) -> Slot<'_> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        Slot(self.out)
    }

    pub(crate) fn raw(&mut self, name: &str, value: &RawValue) {
        self.field(name).json(value.get());
    }

    pub(crate) fn json(&mut self, name: &str, json: &str) {
        self.field(name).json(json);
    }

    pub(crate) fn text(&mut self, name: &str, text: &Text<'_>) {
        self.field(name).text(text);
    }

    /// A word of ours: it needs no escape.
    pub(crate) fn word(&mut self, name: &str, word: &str) {
        self.field(name).texts(&[word]);
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.field(name).json(itoa::Buffer::new().format(number));
    }

    pub(crate) fn flag(&mut self, name: &str, flag: bool) {
        self.field(name).json(if flag { "true" } else { "false" });
    }

    pub(crate) fn null(&mut self, name: &str) {
        self.field(name).json("null");
    }

    pub(crate) fn maybe_raw(&mut self, name: &str, value: Option<&RawValue>) {
        if let Some(value) = value {
            self.raw(name, value);
        }
    }

    pub(crate) fn maybe_text(&mut self, name: &str, text: Option<&Text<'_>>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(crate) fn object(&mut self, name: &str, write: impl FnOnce(&mut Fields<'_>)) {
        self.field(name).object(write);
    }

    pub(crate) fn list(&mut self, name: &str, write: impl FnOnce(&mut Items<'_>)) {
        self.field(name).list(write);
    }

    /// Every field of `object`.
    pub(crate) fn copy(&mut self, object: &Object<'_>) {
        for (name, value) in object.fields() {
            self.json(Text::of(name).escaped(), value);
        }
    }

    /// Fields that are JSON already, without braces.
    pub(crate) fn splice(&mut self, fields: &str) {
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
    pub(crate) fn item(&mut self) -> Slot<'_> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        Slot(self.out)
    }

    pub(crate) fn object(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        self.item().object(write);
    }
}
