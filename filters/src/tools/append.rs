//! The next round of a request: what the model said and what came of it, behind what was asked.

use bytes::Bytes;

use super::doc::{Doc, Edits};
use super::{ToolResult, Turn};

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
