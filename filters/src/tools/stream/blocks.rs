//! The blocks of a message as they come in pieces, put together as they were made: thoughts are signed.

use serde_json::value::RawValue;

use super::super::doc::{Doc, quoted};
use crate::translate::text::Text;

/// A block, and whether the caller sees it.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The provider's number.
    pub(super) index: u64,
    /// The number that the caller knows it by; nothing where it is hidden.
    pub(super) shown: Option<u64>,
    /// The fields that it began with, as JSON.
    fields: Vec<(String, String)>,
    /// What its texts grew by, as it stands between quotes.
    texts: Vec<(&'static str, Text<'static>)>,
    /// The input of a call, in pieces of a text.
    input: Text<'static>,
    citations: Vec<String>,
}

/// Texts that grow: the field of a delta, which is the field of the block too.
const TEXTS: [&str; 3] = ["text", "thinking", "signature"];

impl Block {
    /// A block begins.
    pub(super) fn new(index: u64, shown: Option<u64>, start: &Doc<'_>) -> Self {
        let fields =
            start.fields().map(|(name, raw)| (name.to_owned(), raw.get().to_owned())).collect();
        Self { index, shown, fields, ..Self::default() }
    }

    /// Adds a piece.
    pub(super) fn add(&mut self, delta: &Doc<'_>) {
        for name in TEXTS {
            let Some(piece) = delta.escaped(name) else { continue };
            match self.texts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, text)) => text.push(&piece),
                None => self.texts.push((name, piece.into_owned())),
            }
        }
        if let Some(piece) = delta.escaped("partial_json") {
            self.input.push(&piece);
        }
        self.citations.extend(delta.get("citation").map(|raw| raw.get().to_owned()));
    }

    /// The whole block as JSON.
    pub(super) fn write(&self) -> String {
        let mut fields: Vec<(&str, String)> =
            self.fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        for (name, text) in &self.texts {
            set(&mut fields, name, |old| {
                let begun = old.and_then(|old| old.strip_prefix('"')?.strip_suffix('"'));
                format!("\"{}{}\"", begun.unwrap_or_default(), text.escaped())
            });
        }
        let input = self.input.plain();
        if let Ok(input) = serde_json::from_str::<&RawValue>(&input) {
            set(&mut fields, "input", |_| input.get().to_owned());
        }
        if !self.citations.is_empty() {
            set(&mut fields, "citations", |_| format!("[{}]", self.citations.join(",")));
        }
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn set<'f>(
    fields: &mut Vec<(&'f str, String)>,
    name: &'f str,
    value: impl FnOnce(Option<&str>) -> String,
) {
    match fields.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value(Some(old)),
        None => fields.push((name, value(None))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(start: &str, deltas: &[&str]) -> String {
        let mut block = Block::new(0, None, &Doc::read(start.as_bytes()).unwrap());
        for delta in deltas {
            block.add(&Doc::read(delta.as_bytes()).unwrap());
        }
        block.write()
    }

    #[test]
    fn blocks_are_what_their_pieces_say() {
        for (start, deltas, want) in [
            (
                r#"{"type":"thinking","thinking":"","signature":""}"#,
                &[
                    r#"{"type":"thinking_delta","thinking":"h\u00e9\ud83d"}"#,
                    r#"{"type":"thinking_delta","thinking":"\ude00"}"#,
                    r#"{"type":"signature_delta","signature":"Ab/+=="}"#,
                ][..],
                r#"{"type":"thinking","thinking":"h\u00e9\ud83d\ude00","signature":"Ab/+=="}"#,
            ),
            (
                r#"{"type":"thinking","thinking":"a"}"#,
                &[r#"{"thinking":"b"}"#, r#"{"signature":"s"}"#],
                r#"{"type":"thinking","thinking":"ab","signature":"s"}"#,
            ),
            (
                r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#,
                &[
                    r#"{"partial_json":""}"#,
                    r#"{"partial_json":"{\"a\": 1."}"#,
                    r#"{"partial_json":"10}"}"#,
                ],
                r#"{"type":"tool_use","id":"t","name":"f","input":{"a": 1.10}}"#,
            ),
            (
                r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#,
                &[r#"{"partial_json":"{\"a\""}"#],
                r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#,
            ),
            (
                r#"{"type":"text","text":"","citations":[]}"#,
                &[r#"{"text":"a"}"#, r#"{"citation":{"x":1}}"#],
                r#"{"type":"text","text":"a","citations":[{"x":1}]}"#,
            ),
            (
                r#"{"type":"redacted_thinking","data":"xyz"}"#,
                &[],
                r#"{"type":"redacted_thinking","data":"xyz"}"#,
            ),
        ] {
            assert_eq!(block(start, deltas), want);
        }
    }
}
