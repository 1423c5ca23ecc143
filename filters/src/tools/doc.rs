//! JSON objects as their fields, each where it stands, and edits of them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::json::{Edit, is_null, range_of, removals, splice, text};
use crate::protocol::top::Key;
use crate::translate::text::Text;

/// The fields of an object, in their order, null ones included. Of a repeated one the last counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Doc<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Doc<'a> {
    /// A whole document; `None` when it is no object.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// A value; `None` when it is no object.
    pub(super) fn of(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A field as it was sent, null included.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// A field that is not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| !is_null(raw))
    }

    /// A string, unescaped.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(text)
    }

    /// A string as it stands between its quotes.
    pub(super) fn escaped(&self, name: &str) -> Option<Text<'a>> {
        self.get(name).and_then(Text::read)
    }

    /// Whether a field is this string.
    pub(super) fn is(&self, name: &str, word: &str) -> bool {
        self.escaped(name).is_some_and(|text| text.is(word))
    }

    pub(super) fn doc(&self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::of)
    }

    pub(super) fn list(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        self.get(name).and_then(list)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|raw| raw.get().parse().ok())
    }
}

/// The items of a list.
pub(super) fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

impl<'de: 'a, 'a> Deserialize<'de> for Doc<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Doc<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Doc<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Doc(fields))
            }
        }
        from.deserialize_map(All)
    }
}

/// Edits of one document.
#[derive(Debug)]
pub(super) struct Edits<'b> {
    bytes: &'b Bytes,
    edits: Vec<Edit>,
    gone: Vec<Range<usize>>,
}

impl<'b> Edits<'b> {
    pub(super) fn new(bytes: &'b Bytes) -> Self {
        Self { bytes, edits: Vec::new(), gone: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.gone.is_empty()
    }

    /// `with` in place of a value of the document.
    pub(super) fn replace(&mut self, value: &RawValue, with: impl Into<Bytes>) {
        let range = range_of(self.bytes, value);
        self.edits.push(Edit { range, with: with.into() });
    }

    /// `with` between the bytes.
    pub(super) fn insert(&mut self, at: usize, with: impl Into<Bytes>) {
        self.edits.push(Edit { range: at..at, with: with.into() });
    }

    /// A field in front of all others of the object `within`, or of the whole document.
    pub(super) fn add_field(&mut self, within: Option<&RawValue>, name: &str, value: &str) {
        let start = within.map_or(0, |raw| range_of(self.bytes, raw).start);
        let Some(brace) = memchr::memchr(b'{', &self.bytes[start..]).map(|at| start + at) else {
            return;
        };
        let rest = self.bytes[brace + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
        let comma = if rest == Some(&b'}') { "" } else { "," };
        self.insert(brace + 1, format!("\"{name}\":{value}{comma}"));
    }

    /// `value` for the field `name`, whether it is there or not.
    pub(super) fn set(
        &mut self,
        within: Option<&RawValue>,
        doc: &Doc<'_>,
        name: &str,
        value: &str,
    ) {
        match doc.raw(name) {
            Some(raw) => self.replace(raw, value.to_owned()),
            None => self.add_field(within, name, value),
        }
    }

    /// Takes a field out, given its value.
    pub(super) fn remove(&mut self, value: &RawValue) {
        self.gone.push(range_of(self.bytes, value));
    }

    /// `items`, with commas between them, behind the last item of a list.
    pub(super) fn push_items(&mut self, list: &RawValue, items: &str) {
        if !items.is_empty() {
            let comma = if has_items(list) { "," } else { "" };
            self.insert(range_of(self.bytes, list).end - 1, format!("{comma}{items}"));
        }
    }

    /// An item in front of all others of a list.
    pub(super) fn lead_item(&mut self, list: &RawValue, item: &str) {
        let comma = if has_items(list) { "," } else { "" };
        self.insert(range_of(self.bytes, list).start + 1, format!("{item}{comma}"));
    }

    /// The document with all of it.
    pub(super) fn apply(mut self) -> Bytes {
        if self.is_empty() {
            return self.bytes.clone();
        }
        self.edits.extend(removals(self.bytes, self.gone));
        let mut pieces = splice(self.bytes, self.edits);
        match pieces.len() {
            1 => pieces.swap_remove(0),
            _ => pieces.concat().into(),
        }
    }
}

/// Whether a list has any.
fn has_items(list: &RawValue) -> bool {
    let inside = list.get().get(1..list.get().len() - 1).unwrap_or_default();
    !inside.trim().is_empty()
}

/// A list of these items.
pub(super) fn list_of<'t>(items: impl IntoIterator<Item = &'t str>) -> String {
    let items: Vec<&str> = items.into_iter().collect();
    format!("[{}]", items.join(","))
}

/// A plain text as JSON.
pub(super) fn quoted(plain: &str) -> String {
    format!("\"{}\"", Text::of(plain).escaped())
}
