//! The tool loop in OpenAI responses.

use bytes::Bytes;
use memchr::memmem;
use serde_json::json;
use serde_json::value::RawValue;

use super::append::{behind, each, free_word, readable};
use super::chat::arguments;
use super::doc::{Doc, Edits, list, list_of, quoted};
use super::marks::RESPONSES_ID;
use super::offer::{Shape, joined, offer_tools};
use super::{Answered, Offer, Owned, Step, Tally, ToolCall, ToolDef, ToolResult, Turn, Wanted};

const SHAPE: Shape = Shape {
    name: |tool| {
        // A caller may have sent a chat completion's entry, which is taken too.
        tool.text("name").or_else(|| tool.doc("function").and_then(|inner| inner.text("name")))
    },
    tool: |ToolDef { name, description, parameters }| {
        // Unsaid it is true, and then every property of a schema becomes required.
        json!({"type": "function", "name": name, "description": description,
            "parameters": parameters, "strict": false})
    },
    choice: |name| json!({"type": "function", "name": name}),
};

/// Items that ask the caller for something; others of a provider's own tools are done when they come.
const FOREIGN: [&str; 7] = [
    "function_call",
    "custom_tool_call",
    "computer_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
    "mcp_approval_request",
];
/// What a caller who keeps nothing at the provider must get of its thoughts, or it cannot give them back.
const THOUGHTS: &str = "reasoning.encrypted_content";

/// See [`super::prepare`].
pub(super) fn prepare(body: &Bytes, wanted: &Wanted, offer: &Offer) -> Option<Bytes> {
    let doc = Doc::read(body)?;
    let mut edits = Edits::new(body);
    offer_tools(&doc, &mut edits, wanted, offer, &SHAPE);
    if let Some(block) = offer.block(wanted) {
        hint(&doc, &mut edits, &block);
    }
    if !offer.tools.is_empty() && doc.get("store").is_some_and(|raw| raw.get() == "false") {
        include_thoughts(&doc, &mut edits);
    }
    Some(edits.apply())
}

/// Puts the hints in front of the instructions.
fn hint(doc: &Doc<'_>, edits: &mut Edits<'_>, block: &str) {
    match doc.raw("instructions") {
        Some(old) if old.get().starts_with('"') => edits.replace(old, joined(old, block, false)),
        Some(old) if old.get().starts_with('[') => {
            let leading = json!({"role": "developer", "content": block}).to_string();
            edits.lead_item(old, &leading);
        }
        _ => edits.set(None, doc, "instructions", &quoted(block)),
    }
}

/// Asks for the thoughts in a form that the next round can repeat.
fn include_thoughts(doc: &Doc<'_>, edits: &mut Edits<'_>) {
    let wanted = quoted(THOUGHTS);
    match doc.get("include") {
        Some(old)
            if list(old).is_some_and(|items| items.iter().any(|item| item.get() == wanted)) => {}
        Some(old) if old.get().starts_with('[') => edits.push_items(old, &wanted),
        _ => edits.set(None, doc, "include", &format!("[{wanted}]")),
    }
}

/// See [`super::read_answer`].
pub(super) fn read_answer(answer: &[u8], owned: &Owned) -> Option<Answered> {
    let doc = Doc::read(answer)?;
    let usage = doc.get("usage").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let items = doc.list("output")?;
    let items: Vec<&str> = items.into_iter().map(RawValue::get).collect();
    let is_cut = ["incomplete", "failed", "cancelled"].iter().any(|word| doc.is("status", word));
    let (ours, has_foreign) = calls(&items, owned);
    Some(Answered { step: Step::of(ours, has_foreign, is_cut), turn: turn(&items), usage })
}

/// The gateway's calls, and whether the caller has some.
pub(super) fn calls(items: &[&str], owned: &Owned) -> (Vec<ToolCall>, bool) {
    let (mut ours, mut has_foreign) = (Vec::new(), false);
    for item in items {
        let item: Doc<'_> = serde_json::from_str(item).unwrap_or_default();
        match owned_call(&item, owned) {
            Some(call) => ours.push(call),
            None => has_foreign |= is_foreign(&item),
        }
    }
    (ours, has_foreign)
}

/// Whether an item asks the caller for something.
fn is_foreign(item: &Doc<'_>) -> bool {
    FOREIGN.iter().any(|kind| item.is("type", kind))
}

/// A call of one of the gateway's tools.
pub(super) fn owned_call(item: &Doc<'_>, owned: &Owned) -> Option<ToolCall> {
    let is_call = item.is("type", "function_call");
    let name = item.text("name").filter(|name| is_call && owned.has(name))?;
    let text = item.text("arguments").unwrap_or_default();
    let id = item.text("call_id").or_else(|| item.text("id")).unwrap_or_default();
    Some(ToolCall { id, name, arguments: arguments(&text) })
}

/// The answer's items as the next round repeats them, thoughts included.
pub(super) fn turn(items: &[&str]) -> Turn {
    Turn::new(items.join(","))
}

/// See [`super::append`].
pub(super) fn append(body: &Bytes, turn: &Turn, results: &[ToolResult]) -> Option<Bytes> {
    let doc = Doc::read(body)?;
    let input = doc.get("input")?;
    let mut edits = Edits::new(body);
    let results = each(
        results,
        |ToolResult { id, text, .. }| json!({"type": "function_call_output", "call_id": id, "output": text}),
    );
    // What a conversation holds is not said again: the provider has put the question and the answer into it.
    if doc.get("conversation").is_some() {
        edits.replace(input, format!("[{}]", behind(&Turn::default(), results)));
    } else if input.get().starts_with('[') {
        edits.push_items(input, &behind(&readable(turn, arguments_of), results));
    } else {
        let first = match input.get().starts_with('"') {
            true => format!("{{\"role\":\"user\",\"content\":{}}}", input.get()),
            false => input.get().to_owned(),
        };
        let said = behind(&readable(turn, arguments_of), results);
        edits.replace(input, format!("[{first},{said}]"));
    }
    free_word(&doc, &mut edits);
    Some(edits.apply())
}

/// The arguments of an item that is a call.
fn arguments_of<'a>(item: &Doc<'a>) -> Vec<&'a RawValue> {
    let arguments = item.get("arguments").filter(|_| item.is("type", "function_call"));
    arguments.into_iter().collect()
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
    let output = doc.get("output")?;
    let items = list(output)?;
    let is_left =
        |raw: &&&RawValue| Doc::of(raw).is_none_or(|item| owned_call(&item, owned).is_none());
    let left: Vec<&str> = items.iter().filter(is_left).map(|raw| raw.get()).collect();
    if left.len() < items.len() || !marks.is_empty() {
        let all = marks.iter().map(String::as_str).chain(left);
        edits.replace(output, list_of(all));
    }
    Some(edits.apply())
}

/// See [`super::strip_marks`].
pub(super) fn strip_marks(body: &Bytes) -> Option<Bytes> {
    memmem::find(body, RESPONSES_ID.as_bytes())?;
    let doc = Doc::read(body)?;
    let input = doc.get("input")?;
    let items = list(input)?;
    let left: Vec<&str> =
        items.iter().filter(|item| !is_mark(item)).map(|item| item.get()).collect();
    if left.len() == items.len() {
        return None;
    }
    let mut edits = Edits::new(body);
    edits.replace(input, list_of(left));
    Some(edits.apply())
}

/// Whether an item is one that this gateway made.
fn is_mark(item: &RawValue) -> bool {
    let Some(item) = Doc::of(item) else { return false };
    item.is("type", "web_search_call")
        && item.text("id").is_some_and(|id| id.starts_with(RESPONSES_ID))
}
