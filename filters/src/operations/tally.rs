//! Looks at an answer that passes as it came, however long it is: how many items its `data` has, and its `usage`.
//!
//! Vectors and images may be a hundred megabytes; nothing but the usage is kept.

use super::Kind;
use super::inbound::usage_of;
use super::price::Measured;

/// The longest `usage` that is read.
const MAX_USAGE: usize = 16 << 10;
/// The longest key that is looked for is shorter, with each of its letters as an escape.
const MAX_KEY: usize = 32;

/// See above. Fed with a document piece by piece.
#[derive(Clone, Debug)]
pub struct Tally {
    kind: Kind,
    /// Brackets that are open.
    depth: u32,
    is_object: bool,
    in_string: bool,
    is_escaped: bool,
    /// The next string at the top level is a key.
    key_comes: bool,
    key: Vec<u8>,
    field: Field,
    items: u64,
    /// Something stands in `data` since its bracket or its last comma.
    has_item: bool,
    saw_data: bool,
    usage: Vec<u8>,
}

/// The top-level field whose value passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Usage,
    Other,
}

impl Tally {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            depth: 0,
            is_object: false,
            in_string: false,
            is_escaped: false,
            key_comes: false,
            key: Vec::new(),
            field: Field::Other,
            items: 0,
            has_item: false,
            saw_data: false,
            usage: Vec::new(),
        }
    }

    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(&byte) = rest.first() {
            if self.in_string && !self.is_escaped {
                // Images are one long string.
                let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                if plain > 0 {
                    self.inside(&rest[..plain]);
                    rest = &rest[plain..];
                    continue;
                }
            }
            self.look(byte);
            rest = &rest[1..];
        }
    }

    /// What was seen. Nothing of what is no object.
    pub fn finish(self) -> Measured {
        let usage = (!self.usage.is_empty() && self.usage.len() < MAX_USAGE)
            .then(|| usage_of(self.kind, &self.usage))
            .flatten();
        let images = (self.kind == Kind::Images && self.saw_data).then_some(self.items);
        Measured { usage, images }
    }

    /// Bytes of a string.
    fn inside(&mut self, bytes: &[u8]) {
        if self.key_comes && self.key.len() < MAX_KEY {
            self.key.extend_from_slice(&bytes[..bytes.len().min(MAX_KEY)]);
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.field == Field::Usage && self.usage.len() < MAX_USAGE {
            self.usage.extend_from_slice(&bytes[..bytes.len().min(MAX_USAGE)]);
        }
    }

    fn look(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return self.inside_or_end(byte);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.item();
                self.keep(&[byte]);
            }
            b'{' | b'[' => {
                self.item();
                if self.depth == 0 {
                    self.is_object = byte == b'{';
                    self.key_comes = self.is_object;
                } else {
                    self.saw_data |= self.depth == 1 && self.field == Field::Data && byte == b'[';
                    self.keep(&[byte]);
                }
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 && self.field == Field::Data && self.has_item {
                    self.items = self.items.saturating_add(1);
                    self.has_item = false;
                }
                if self.depth > 0 {
                    self.keep(&[byte]);
                }
            }
            b',' if self.depth == 1 => {
                self.field = Field::Other;
                self.key_comes = self.is_object;
                self.key.clear();
            }
            b',' if self.depth == 2 && self.field == Field::Data => {
                self.items = self.items.saturating_add(1);
                self.has_item = false;
            }
            b':' if self.depth == 1 && self.key_comes => self.value_comes(),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                self.item();
                self.keep(&[byte]);
            }
        }
    }

    /// One byte of a string that needs care, or its end.
    fn inside_or_end(&mut self, byte: u8) {
        if self.in_string {
            self.inside(&[byte]);
        } else {
            self.keep(&[byte]);
        }
    }

    /// A key is over.
    fn value_comes(&mut self) {
        self.key_comes = false;
        let escaped = memchr::memchr(b'\\', &self.key).and_then(|_| {
            let quoted = [b"\"", self.key.as_slice(), b"\""].concat();
            serde_json::from_slice::<String>(&quoted).ok()
        });
        self.field = match escaped.as_deref().map_or(self.key.as_slice(), str::as_bytes) {
            // Of several the first, as the rest of the gateway has it.
            b"data" if !self.saw_data => Field::Data,
            b"usage" if self.usage.is_empty() => Field::Usage,
            _ => Field::Other,
        };
    }

    /// Something begins that may be an item of `data`.
    fn item(&mut self) {
        self.has_item |= self.depth == 2 && self.field == Field::Data;
    }
}
