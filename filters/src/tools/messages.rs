//! The tool loop in Anthropic messages.

use bytes::Bytes;
use memchr::memmem;
use serde_json::json;
use serde_json::value::RawValue;

use super::append::{behind, each};
use super::doc::{Doc, Edits, list, list_of, quoted};
use super::marks::MESSAGES_ID;
use super::offer::{Shape, joined, offer_tools};
use super::{Answered, Offer, Owned, Step, Tally, ToolCall, ToolDef, ToolResult, Turn, Wanted};

const SHAPE: Shape = Shape {
    name: |tool| {
        // A caller may have sent a chat completion's entry, which is taken too.
        tool.text("name").or_else(|| tool.doc("function").and_then(|inner| inner.text("name")))
    },
    tool: |ToolDef { name, description, parameters }| json!({"name": name, "description": description, "input_schema": parameters}),
    choice: |name| json!({"type": "tool", "name": name}),
};

/// Why an answer stopped in the middle: its calls may not be whole.
const CUT: [&str; 4] = ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"];

/// See [`super::prepare`].
pub(super) fn prepare(body: &Bytes, wanted: &Wanted, offer: &Offer) -> Option<Bytes> {
    let doc = Doc::read(body)?;
    let mut edits = Edits::new(body);
    offer_tools(&doc, &mut edits, wanted, offer, &SHAPE);
    if let Some(block) = offer.block(wanted) {
        hint(&doc, &mut edits, &block);
    }
    Some(edits.apply())
}

/// Puts the hints in front of the system prompt.
fn hint(doc: &Doc<'_>, edits: &mut Edits<'_>, block: &str) {
    match doc.raw("system") {
        Some(system) if system.get().starts_with('"') => {
            edits.replace(system, joined(system, block, false));
        }
        Some(system) if system.get().starts_with('[') => {
            let leading = json!({"type": "text", "text": block}).to_string();
            edits.lead_item(system, &leading);
        }
        _ => edits.set(None, doc, "system", &quoted(block)),
    }
}

/// See [`super::read_answer`].
pub(super) fn read_answer(answer: &[u8], owned: &Owned) -> Option<Answered> {
    let doc = Doc::read(answer)?;
    let usage = doc.get("usage").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let blocks = doc.list("content")?;
    let is_cut = CUT.iter().any(|reason| doc.is("stop_reason", reason));
    let blocks: Vec<&str> = blocks.into_iter().map(RawValue::get).collect();
    let (ours, has_foreign) = calls(&blocks, owned);
    Some(Answered { step: Step::of(ours, has_foreign, is_cut), turn: turn(&blocks), usage })
}

/// The gateway's calls, and whether the caller has some.
pub(super) fn calls(blocks: &[&str], owned: &Owned) -> (Vec<ToolCall>, bool) {
    let (mut ours, mut has_foreign) = (Vec::new(), false);
    for block in blocks {
        let block: Doc<'_> = serde_json::from_str(block).unwrap_or_default();
        match owned_call(&block, owned) {
            Some(call) => ours.push(call),
            None => has_foreign |= block.is("type", "tool_use"),
        }
    }
    (ours, has_foreign)
}

/// A call of one of the gateway's tools.
fn owned_call(block: &Doc<'_>, owned: &Owned) -> Option<ToolCall> {
    let name = block.text("name").filter(|name| owned.has(name) && block.is("type", "tool_use"))?;
    let input = block.get("input").and_then(|raw| serde_json::from_str(raw.get()).ok());
    Some(ToolCall {
        id: block.text("id").unwrap_or_default(),
        name,
        arguments: input.unwrap_or_default(),
    })
}

/// The answer's blocks as the next round repeats them: as they came, because thoughts are signed. Empty texts are
/// refused by the API that wrote them.
pub(super) fn turn(blocks: &[&str]) -> Turn {
    let is_empty = |block: &&&str| {
        let block: Doc<'_> = serde_json::from_str(block).unwrap_or_default();
        block.is("type", "text") && block.is("text", "")
    };
    let kept = blocks.iter().filter(|block| !is_empty(block)).copied();
    Turn::new(format!("{{\"role\":\"assistant\",\"content\":{}}}", list_of(kept)))
}

/// See [`super::append`].
pub(super) fn append(body: &Bytes, turn: &Turn, results: &[ToolResult]) -> Option<Bytes> {
    let doc = Doc::read(body)?;
    let messages = doc.get("messages").filter(|raw| raw.get().starts_with('['))?;
    let mut edits = Edits::new(body);
    let results: Vec<String> = each(results, |ToolResult { id, text, .. }| {
        json!({"type": "tool_result", "tool_use_id": id, "content": text})
    })
    .collect();
    let answer = format!(
        "{{\"role\":\"user\",\"content\":{}}}",
        list_of(results.iter().map(String::as_str))
    );
    edits.push_items(messages, &behind(turn, [answer].into_iter()));
    free(&doc, &mut edits);
    Some(edits.apply())
}

/// Sets a choice free that forces a tool.
fn free(doc: &Doc<'_>, edits: &mut Edits<'_>) {
    let Some(choice) = doc.doc("tool_choice") else { return };
    let Some(kind) = choice.get("type") else { return };
    if choice.is("type", "any") || choice.is("type", "tool") {
        edits.replace(kind, "\"auto\"");
        if let Some(name) = choice.raw("name") {
            edits.remove(name);
        }
    }
}

/// See [`super::write_answer`].
pub(super) fn write_answer(
    answer: &Bytes,
    owned: &Owned,
    tally: &Tally,
    marks: &[String],
) -> Option<Bytes> {
    let doc = Doc::read(answer)?;
    let mut edits = Edits::new(answer);
    tally.write(&mut edits, doc.get("usage"));
    let content = doc.get("content")?;
    let blocks = list(content)?;
    let mut left: Vec<&str> = marks.iter().map(String::as_str).collect();
    let mut has_calls = false;
    for raw in &blocks {
        let block = Doc::of(raw).unwrap_or_default();
        if owned_call(&block, owned).is_none() {
            has_calls |= block.is("type", "tool_use");
            left.push(raw.get());
        }
    }
    let has_hidden = left.len() < marks.len() + blocks.len();
    if has_hidden || !marks.is_empty() {
        edits.replace(content, list_of(left));
        if let Some(reason) = doc.get("stop_reason").filter(|_| doc.is("stop_reason", "tool_use"))
            && has_hidden
            && !has_calls
        {
            edits.replace(reason, "\"end_turn\"");
        }
    }
    Some(edits.apply())
}

/// See [`super::strip_marks`].
pub(super) fn strip_marks(body: &Bytes) -> Option<Bytes> {
    memmem::find(body, MESSAGES_ID.as_bytes())?;
    let doc = Doc::read(body)?;
    let messages = doc.get("messages")?;
    let mut is_changed = false;
    let mut kept: Vec<String> = Vec::new();
    for message in list(messages)? {
        let content = Doc::of(message).and_then(|message| message.get("content"));
        let blocks = content.and_then(list).unwrap_or_default();
        let left: Vec<&str> =
            blocks.iter().filter(|block| !is_mark(block)).map(|block| block.get()).collect();
        if left.len() == blocks.len() {
            kept.push(message.get().to_owned());
            continue;
        }
        is_changed = true;
        if left.is_empty() {
            continue;
        }
        let (head, tail) = around(message, content?);
        kept.push(format!("{head}{}{tail}", list_of(left)));
    }
    let mut edits = Edits::new(body);
    edits.replace(messages, list_of(kept.iter().map(String::as_str)));
    is_changed.then(|| edits.apply())
}

/// What stands before and behind a value within the one around it.
pub(super) fn around<'a>(whole: &'a RawValue, value: &RawValue) -> (&'a str, &'a str) {
    let range = crate::protocol::json::range_of(whole.get().as_bytes(), value);
    let text = whole.get();
    (text.get(..range.start).unwrap_or_default(), text.get(range.end..).unwrap_or_default())
}

/// Whether a block is one that this gateway made.
fn is_mark(block: &RawValue) -> bool {
    let Some(block) = Doc::of(block) else { return false };
    let of_ours = |name| block.text(name).is_some_and(|id| id.starts_with(MESSAGES_ID));
    (block.is("type", "server_tool_use") && of_ours("id"))
        || (block.is("type", "web_search_tool_result") && of_ours("tool_use_id"))
}
