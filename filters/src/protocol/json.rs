//! Looking into a JSON body and editing it without building a tree.
//!
//! The body is scanned once; unknown fields are skipped, and an edit is a splice of byte ranges, so that number
//! spellings, key order, white space and fields nobody has heard of survive.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use serde_json::value::RawValue;

use super::scan::plain_bytes;

/// Whether the raw value is the literal `null`.
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// The text of a JSON string value; `None` for any other type.
pub fn text(raw: &RawValue) -> Option<String> {
    let inside = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match memchr::memchr(b'\\', inside.as_bytes()) {
        None => Some(inside.to_owned()),
        Some(_) => serde_json::from_str(raw.get()).ok(),
    }
}

/// Appends a text as a JSON string. One that needs no escape, as nearly all do, is copied at once.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    if plain_bytes::<false>(text.as_bytes()) == text.len() {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to a vector cannot fail, nor can a text.
        let _ = serde_json::to_writer(out, text);
    }
}

/// One replacement in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go.
    pub range: Range<usize>,
    /// The bytes that come.
    pub with: Bytes,
}

/// Where `value`, borrowed from `body`, stands in it.
pub fn range_of(body: &[u8], value: &RawValue) -> Range<usize> {
    place_of(body, value.get())
}

/// The same of a value that was cut out.
pub(crate) fn place_of(body: &[u8], value: &str) -> Range<usize> {
    let start = value.as_ptr() as usize - body.as_ptr() as usize;
    start..start + value.len()
}

/// The edits that remove top-level fields, their keys and one comma each, given the ranges of their values.
///
/// A field takes the comma before it; one that has nothing left before it takes the comma behind it.
pub fn removals(body: &[u8], mut values: Vec<Range<usize>>) -> Vec<Edit> {
    values.sort_by_key(|value| value.start);
    let mut edits: Vec<Edit> = Vec::with_capacity(values.len());
    for value in values {
        let key_start = key_start(body, value.start);
        let before = skip_back(body, key_start);
        let comma_is_ours = before > 0
            && body[before - 1] == b','
            && edits.last().is_none_or(|previous| previous.range.end < before);
        let range = if comma_is_ours {
            before - 1..value.end
        } else {
            let after = skip_forward(body, value.end);
            key_start..if body.get(after) == Some(&b',') { after + 1 } else { value.end }
        };
        edits.push(Edit { range, with: Bytes::new() });
    }
    edits
}

/// Where the key of the value at `value_start` begins, its quote included.
///
/// Walks back over the colon and the white space to the closing quote, then to the opening one: the fields that are
/// removed have no quote in their names, escaped or not.
fn key_start(body: &[u8], value_start: usize) -> usize {
    let colon = skip_back(body, value_start).saturating_sub(1);
    let close = skip_back(body, colon).saturating_sub(1);
    memchr::memrchr(b'"', &body[..close]).unwrap_or(close)
}

fn skip_back(body: &[u8], mut at: usize) -> usize {
    while at > 0 && body[at - 1].is_ascii_whitespace() {
        at -= 1;
    }
    at
}

fn skip_forward(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the string value of the field at `path` stands, its quotes included: a top-level field, or one of the objects
/// on the way to it. Of several the first.
///
/// `document` may be the beginning of one: what follows the value is not looked at, and nothing is validated.
pub fn string_at(document: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let (last, objects) = path.split_last()?;
    let mut start = 0;
    for name in objects {
        start += value_of(&document[start..], name)?;
        document.get(start).filter(|byte| **byte == b'{')?;
    }
    let value = start + value_of(&document[start..], last)?;
    document.get(value).filter(|byte| **byte == b'"')?;
    Some(value..string_end(document, value)?)
}

/// Where the string value of a top-level field stands. See [`string_at`].
pub fn string_field(document: &[u8], name: &str) -> Option<Range<usize>> {
    string_at(document, &[name])
}

/// Where the value of a top-level field begins.
fn value_of(document: &[u8], name: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_u32);
    while let Some(byte) = document.get(at) {
        match byte {
            b'"' => {
                let end = string_end(document, at)?;
                let after = skip_forward(document, end);
                let is_key = depth == 1 && document.get(after) == Some(&b':');
                if is_key && document[at + 1..end - 1] == *name.as_bytes() {
                    return Some(skip_forward(document, after + 1));
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth = depth.saturating_add(1),
            // The document is over.
            b'}' | b']' if depth <= 1 => return None,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// What is looked for in every event of a stream: made once, because that takes longer than to look.
pub(crate) type Needles<const N: usize> = LazyLock<[Finder<'static>; N]>;
/// The field `usage`.
pub(crate) static USAGE: Needles<1> = LazyLock::new(|| [Finder::new(b"\"usage\"")]);
/// The field `error`.
pub(crate) static ERROR: Needles<1> = LazyLock::new(|| [Finder::new(b"\"error\"")]);

/// Whether `document` has, anywhere, the field `key` (quotes included) with another value than null; of several the
/// first is looked at.
pub(crate) fn mentions(document: &[u8], [key]: &[Finder<'_>; 1]) -> bool {
    key.find(document).is_some_and(|at| is_set(&document[at + key.needle().len()..]))
}

/// As [`mentions`], and of several every one is looked at.
pub(crate) fn mentions_any(document: &[u8], [key]: &[Finder<'_>; 1]) -> bool {
    key.find_iter(document).any(|at| is_set(&document[at + key.needle().len()..]))
}

/// Whether what follows a key is another value than null.
fn is_set(rest: &[u8]) -> bool {
    let value = rest.iter().position(|byte| !matches!(byte, b' ' | b':'));
    value.is_some_and(|skip| !rest[skip..].starts_with(b"null"))
}

/// Behind the closing quote of the string that opens at `open`.
fn string_end(document: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', document.get(at..)?)?;
        if document[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Bodies up to this size are joined into one piece: an upstream write is a packet.
const JOIN_BELOW: usize = 64 << 10;

/// `body` with `edits` applied, as pieces to send one after the other; large unchanged stretches are not copied.
///
/// Edits must not overlap.
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Vec<Bytes> {
    // An insertion goes before a removal that begins at the same place.
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut pieces = Pieces::new(body.len() <= JOIN_BELOW, body.len());
    let mut at = 0;
    for edit in edits {
        pieces.push(body.slice(at..edit.range.start));
        pieces.push(edit.with);
        at = edit.range.end;
    }
    pieces.push(body.slice(at..));
    pieces.finish()
}

/// Collects pieces, copying small ones together.
struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
    join_all: bool,
}

impl Pieces {
    fn new(join_all: bool, len: usize) -> Self {
        let open = if join_all { BytesMut::with_capacity(len + 64) } else { BytesMut::new() };
        Self { done: Vec::new(), open, join_all }
    }

    fn push(&mut self, piece: Bytes) {
        if self.join_all || piece.len() < 4096 {
            self.open.extend_from_slice(&piece);
        } else {
            if !self.open.is_empty() {
                // A small insert travels with the beginning of the large stretch behind it.
                let head = piece.len().min(JOIN_BELOW - self.open.len().min(JOIN_BELOW - 1));
                self.open.extend_from_slice(&piece[..head]);
                self.done.push(self.open.split().freeze());
                if head < piece.len() {
                    self.done.push(piece.slice(head..));
                }
                return;
            }
            self.done.push(piece);
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn without(body: &'static str, field: &str) -> String {
        let value: std::collections::HashMap<&str, &RawValue> = serde_json::from_str(body).unwrap();
        let bytes = Bytes::from_static(body.as_bytes());
        let edits = removals(&bytes, vec![range_of(&bytes, value[field])]);
        String::from_utf8(splice(&bytes, edits).concat()).unwrap()
    }

    #[test]
    fn a_field_is_removed_with_one_comma_wherever_it_stands() {
        assert_eq!(without(r#"{"a":1,"b":2,"c":3}"#, "a"), r#"{"b":2,"c":3}"#);
        assert_eq!(without(r#"{"a":1,"b":2,"c":3}"#, "b"), r#"{"a":1,"c":3}"#);
        assert_eq!(without(r#"{"a":1,"b":2,"c":3}"#, "c"), r#"{"a":1,"b":2}"#);
        assert_eq!(without("{ \"a\" : {\"x\":1} }", "a"), "{  }");
        assert_eq!(without("{\n \"a\": 1 ,\n \"b\": 2\n}", "b"), "{\n \"a\": 1 \n}");
    }

    #[test]
    fn adjoining_removals_leave_valid_json() {
        let body = Bytes::from_static(br#"{"a":1,"b":2,"c":3}"#);
        let value: std::collections::HashMap<&str, &RawValue> =
            serde_json::from_slice(&body).unwrap();
        for gone in [vec!["a", "b"], vec!["b", "c"], vec!["a", "c"], vec!["a", "b", "c"]] {
            let ranges = gone.iter().map(|field| range_of(&body, value[field])).collect();
            let out = splice(&body, removals(&body, ranges)).concat();
            let left: Value = serde_json::from_slice(&out)
                .unwrap_or_else(|e| panic!("{gone:?}: {e}: {}", String::from_utf8_lossy(&out)));
            assert_eq!(left.as_object().unwrap().len(), 3 - gone.len());
        }
    }

    #[test]
    fn an_insertion_stands_before_a_removal_at_the_same_place() {
        let body = Bytes::from_static(br#"{"a":1,"b":2}"#);
        let gone = Edit { range: 1..7, with: Bytes::new() };
        let new = Edit { range: 1..1, with: Bytes::from_static(br#""c":3,"#) };
        assert_eq!(splice(&body, vec![gone, new]).concat(), br#"{"c":3,"b":2}"#);
    }

    #[test]
    fn a_top_level_string_is_found_in_the_beginning_of_a_document() {
        let found = |document: &'static str| {
            string_field(document.as_bytes(), "model").map(|range| &document[range])
        };
        assert_eq!(found(r#"{"id":"model","model":"a\"b","x":"#), Some(r#""a\"b""#));
        assert_eq!(found("{ \"a\": [{\"model\": \"inner\"}],\n \"model\" : \"m\"}"), Some("\"m\""));
        assert_eq!(found(r#"{"a":"\\","model":"m"}"#), Some(r#""m""#));
        assert_eq!(found(r#"{"text":"\"model\":\"no\"","model":"m"}"#), Some(r#""m""#));
        for none in [
            "",
            "{}",
            r#"{"model":null}"#,
            r#"{"model":"cut"#,
            r#"{"model":"cut\"#,
            r#"{"model":"#,
            r#"{"choices":[{"model":"inner"}]}"#,
            r#"["model"]"#,
            r#""model":"m""#,
            "]]}}",
            r#"{"a":1}{"model":"next"}"#,
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn a_string_below_an_object_is_found() {
        let found = |document: &'static str| {
            string_at(document.as_bytes(), &["message", "model"]).map(|range| &document[range])
        };
        assert_eq!(
            found(r#"{"model":"outer","message":{"a":{},"model" : "m","x":"#),
            Some("\"m\"")
        );
        for none in [
            r#"{"message":{"a":1},"other":{"model":"m"}}"#,
            r#"{"message":"{","other":{"model":"m"}}"#,
            r#"{"message":[{"model":"m"}]}"#,
            r#"{"message":null,"model":"m"}"#,
            r#"{"message":{"model":7}}"#,
            r#"{"message""#,
            r#"{"message":"#,
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_written_as_serde_writes_it(text in "(\\PC|[a-z\"\\\\\\x00-\\x20\\x7f]){0,40}") {
            let mut out = b"x".to_vec();
            write_text(&mut out, &text);
            proptest::prop_assert_eq!(&out[1..], serde_json::to_vec(&text).unwrap());
        }
    }

    #[test]
    fn large_stretches_are_not_copied() {
        let mut text = String::from(r#"{"a":1,"b":""#);
        text.push_str(&"x".repeat(300_000));
        text.push_str(r#"","c":2}"#);
        let body = Bytes::from(text);
        let edit = Edit { range: 5..6, with: Bytes::from_static(b"22") };
        let pieces = splice(&body, vec![edit]);
        assert_eq!(pieces.concat().len(), body.len() + 1);
        assert!(pieces.len() <= 3, "few writes: {}", pieces.len());
        assert!(pieces[0].len() >= 60_000, "the small insert travels with what follows it");
    }
}
