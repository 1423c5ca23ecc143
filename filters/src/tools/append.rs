//! The next round of a request: what the model said and what came of it, behind what was asked.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::doc::{Doc, Edits};
use super::{ToolResult, Turn};
use crate::protocol::json::text;

impl Turn {
    /// Items that are JSON, with commas between them.
    pub(super) fn new(items: impl Into<Bytes>) -> Self {
        Self(items.into())
    }

    /// The items; nothing that has been read was no text.
    pub(super) fn items(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As it stands in a list, without brackets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes the next round gets longer by, beside the results.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the model said nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The turn and what came of it, with commas between them.
pub(super) fn behind(turn: &Turn, results: impl Iterator<Item = String>) -> String {
    let mut items = turn.items().to_owned();
    for result in results {
        if !items.is_empty() {
            items.push(',');
        }
        items.push_str(&result);
    }
    items
}

/// The turn with calls that every provider can read: arguments that are no JSON object were taken for none, and are
/// repeated so. `of`: the arguments in an item of the turn.
pub(super) fn readable(turn: &Turn, of: for<'a> fn(&Doc<'a>) -> Vec<&'a RawValue>) -> Turn {
    let whole = Bytes::from(format!("[{}]", turn.items()));
    let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(&whole) else { return turn.clone() };
    let mut edits = Edits::new(&whole);
    for arguments in items.into_iter().filter_map(Doc::of).flat_map(|item| of(&item)) {
        // Some providers write an object, and some nothing for no arguments.
        let Some(said) = text(arguments).filter(|said| !said.trim().is_empty()) else { continue };
        if serde_json::from_str::<Map<String, Value>>(&said).is_err() {
            edits.replace(arguments, "\"{}\"");
        }
    }
    if edits.is_empty() {
        return turn.clone();
    }
    let written = edits.apply();
    Turn::new(written.slice(1..written.len().saturating_sub(1)))
}

/// The results as list items, each written by `write`.
pub(super) fn each(
    results: &[ToolResult],
    write: fn(&ToolResult) -> serde_json::Value,
) -> impl Iterator<Item = String> {
    results.iter().map(move |result| write(result).to_string())
}

/// Sets a choice free that is one of these words.
pub(super) fn free_word(doc: &Doc<'_>, edits: &mut Edits<'_>) {
    let Some(choice) = doc.get("tool_choice") else { return };
    let is_function = Doc::of(choice).is_some_and(|choice| choice.is("type", "function"));
    if doc.is("tool_choice", "required") || is_function {
        edits.replace(choice, "\"auto\"");
    }
}

#[cfg(test)]
mod tests {
    use super::super::append as next;
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn arguments_that_no_provider_reads_are_repeated_as_none() {
        let call = |id: &str, arguments: &str| {
            format!(
                r#"{{"id":"{id}","type":"function","function":{{"name":"f","arguments":{arguments}}}}}"#
            )
        };
        let said = |a: &str, b: &str| {
            format!(
                r#"{{"role":"assistant","content":"x","tool_calls":[{},{}]}}"#,
                call("a", a),
                call("b", b)
            )
        };
        let append = |protocol, body: &str, turn: String| {
            let body = next(protocol, &Bytes::from(body.to_owned()), &Turn::new(turn), &[]);
            String::from_utf8(body.unwrap().to_vec()).unwrap()
        };
        let chat = |turn: String| append(Protocol::Chat, r#"{"messages":[]}"#, turn);
        let fine = said(r#""{ \"a\":1}""#, r#""""#);
        assert_eq!(chat(fine.clone()), format!(r#"{{"messages":[{fine}]}}"#));
        let object = said(r#"{"a":1}"#, r#""{}""#);
        assert_eq!(chat(object.clone()), format!(r#"{{"messages":[{object}]}}"#));
        let mended = said(r#""{}""#, r#""{}""#);
        assert_eq!(chat(said(r#""{\"a\":""#, r#""[1]""#)), format!(r#"{{"messages":[{mended}]}}"#));
        let item = |arguments: &str| {
            format!(
                r#"{{"type":"reasoning","id":"r"}},{{"type":"function_call","call_id":"a","arguments":{arguments}}}"#
            )
        };
        let list = append(Protocol::Responses, r#"{"input":[]}"#, item(r#""{""#));
        assert_eq!(list, format!(r#"{{"input":[{}]}}"#, item(r#""{}""#)));
    }
}
