//! What the deltas of a chat completion add up to, so that the next round can repeat it.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::chat::is_thought;
use super::super::doc::quoted;
use super::super::tally::overlay;
use crate::protocol::json::is_null;
use crate::translate::text::Text;

/// Fields of a part whose texts come in pieces.
const PIECES: [&str; 5] = ["text", "summary", "data", "thinking", "signature"];

/// The text and the thoughts of a message, field by field, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Said(Vec<(String, Sum)>);

#[derive(Debug)]
enum Sum {
    /// As it stands between its quotes.
    Text(Text<'static>),
    /// Parts.
    List(Vec<Value>),
    /// An object.
    Other(Option<Value>),
}

impl Said {
    /// Adds a field of a delta; those that nobody has to repeat are passed over.
    pub(super) fn add(&mut self, name: &str, raw: &RawValue) {
        if is_null(raw) || !(name == "content" || is_thought(name)) {
            return;
        }
        if let Some(text) = Text::read(raw) {
            if !text.is_empty() {
                self.push_text(name, &text);
            }
            return;
        }
        match serde_json::from_str(raw.get()).unwrap_or_default() {
            Value::Array(items) => self.push_items(name, items),
            other => match self.sum(name, || Sum::Other(None)) {
                Sum::Other(sum) => overlay(sum, other),
                Sum::Text(_) | Sum::List(_) => {}
            },
        }
    }

    /// The fields as they stand in an object, with commas before each.
    pub(super) fn write(&self, out: &mut String) {
        for (name, sum) in &self.0 {
            let value = match sum {
                Sum::Text(text) => format!("\"{}\"", text.escaped()),
                Sum::List(items) => Value::from(items.clone()).to_string(),
                Sum::Other(Some(value)) => value.to_string(),
                Sum::Other(None) => continue,
            };
            out.push_str(&format!(",{}:{value}", quoted(name)));
        }
    }

    fn sum(&mut self, name: &str, new: impl FnOnce() -> Sum) -> &mut Sum {
        let at = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    fn push_text(&mut self, name: &str, text: &Text<'_>) {
        match self.sum(name, || Sum::Text(Text::default())) {
            Sum::Text(sum) => sum.push(text),
            Sum::List(items) => push(items, part(text)),
            Sum::Other(_) => {}
        }
    }

    fn push_items(&mut self, name: &str, items: Vec<Value>) {
        let sum = self.sum(name, || Sum::List(Vec::new()));
        if let Sum::Text(text) = sum {
            // A provider whose thoughts are parts and whose text is none.
            *sum = Sum::List(vec![part(text)]);
        }
        if let Sum::List(known) = sum {
            items.into_iter().for_each(|item| push(known, item));
        }
    }
}

fn part(text: &Text<'_>) -> Value {
    serde_json::json!({"type": "text", "text": text.plain()})
}

/// Adds a part, or a piece of one: pieces have the type, and the index where there is one, of the part they belong to.
fn push(items: &mut Vec<Value>, item: Value) {
    let is_same = |known: &Value| {
        known["type"] == item["type"] && known["index"] == item["index"] && known.is_object()
    };
    let at = match item.get("index").is_some_and(|index| !index.is_null()) {
        true => items.iter().rposition(is_same),
        false => items.len().checked_sub(1).filter(|last| is_same(&items[*last])),
    };
    match (at.and_then(|at| items[at].as_object_mut()), item) {
        (Some(known), Value::Object(more)) => merge(known, more),
        (_, item) => items.push(item),
    }
}

fn merge(known: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, value) in more {
        match (known.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(sum)), Value::String(piece)) if PIECES.contains(&&*name) => {
                sum.push_str(&piece);
            }
            (Some(Value::Array(items)), Value::Array(pieces)) => {
                pieces.into_iter().for_each(|piece| push(items, piece));
            }
            (_, value) => {
                known.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(deltas: &[(&str, &str)]) -> String {
        let mut said = Said::default();
        for (name, raw) in deltas {
            said.add(name, serde_json::from_str(raw).unwrap());
        }
        let mut out = String::new();
        said.write(&mut out);
        out
    }

    #[test]
    fn pieces_add_up_to_what_was_said() {
        let deltas = [
            ("role", "\"assistant\""),
            ("content", "\"\""),
            ("reasoning", r#""h\u00e9""#),
            ("reasoning", r#""\ud83d""#),
            ("reasoning", r#""\ude00""#),
            ("content", "null"),
            ("content", "\"a\""),
            ("content", "\"b\""),
            ("refusal", "\"no\""),
        ];
        assert_eq!(said(&deltas), r#","reasoning":"h\u00e9\ud83d\ude00","content":"ab""#);
    }

    #[test]
    fn parts_are_joined_by_type_and_index() {
        let deltas = [
            ("reasoning_details", r#"[{"type":"reasoning.text","index":0,"text":"a"}]"#),
            (
                "reasoning_details",
                r#"[{"type":"reasoning.text","index":0,"text":"b","signature":null}]"#,
            ),
            (
                "reasoning_details",
                r#"[{"type":"reasoning.text","index":0,"signature":"s"},{"type":"reasoning.encrypted","index":1,"data":"d"}]"#,
            ),
        ];
        assert_eq!(
            said(&deltas),
            r#","reasoning_details":[{"type":"reasoning.text","index":0,"text":"ab","signature":"s"},{"type":"reasoning.encrypted","index":1,"data":"d"}]"#
        );
        let mistral = [
            ("content", r#"[{"type":"thinking","thinking":[{"type":"text","text":"h"}]}]"#),
            ("content", r#"[{"type":"thinking","thinking":[{"type":"text","text":"m"}]}]"#),
            ("content", "\"a\""),
            ("content", "\"b\""),
        ];
        assert_eq!(
            said(&mistral),
            r#","content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"ab"}]"#
        );
    }

    #[test]
    fn seals_are_kept() {
        let deltas = [
            ("extra_content", r#"{"google":{"thought_signature":"a"}}"#),
            ("extra_content", r#"{"anthropic":{"signature":"b"}}"#),
        ];
        assert_eq!(
            said(&deltas),
            r#","extra_content":{"google":{"thought_signature":"a"},"anthropic":{"signature":"b"}}"#
        );
    }
}
