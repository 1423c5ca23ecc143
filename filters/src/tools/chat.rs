//! The tool loop in OpenAI chat completions.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::append::{behind, each, free_word, readable};
use super::doc::{Doc, Edits, list, list_of, quoted};
use super::offer::{Shape, joined, offer_tools};
use super::{Answered, Offer, Owned, Step, Tally, ToolCall, ToolDef, ToolResult, Turn, Wanted};
use crate::protocol::json::is_null;
use crate::rejection::{Code, Rejection};

const SHAPE: Shape = Shape {
    name: |tool| tool.doc("function").and_then(|function| function.text("name")),
    tool: |ToolDef { name, description, parameters }| {
        let function = json!({"name": name, "description": description, "parameters": parameters});
        json!({"type": "function", "function": function})
    },
    choice: |name| json!({"type": "function", "function": {"name": name}}),
};

/// Finish reasons of an answer that stopped in the middle: its calls may not be whole.
const CUT: [&str; 2] = ["length", "content_filter"];

/// See [`super::prepare`].
pub(super) fn prepare(
    body: &Bytes,
    wanted: &Wanted,
    offer: &Offer,
) -> Result<Option<Bytes>, Rejection> {
    let Some(doc) = Doc::read(body) else { return Ok(None) };
    if doc.number("n").is_some_and(|n| n > 1) {
        let message = "n must be 1 where the gateway runs tools: it follows one answer";
        return Err(Rejection::new(Code::InvalidValue, message));
    }
    let mut edits = Edits::new(body);
    offer_tools(&doc, &mut edits, wanted, offer, &SHAPE);
    if let Some(block) = offer.block(wanted) {
        hint(&doc, &mut edits, &block);
    }
    Ok(Some(edits.apply()))
}

/// Puts the hints into the first message when it is the system's, else in front of all.
fn hint(doc: &Doc<'_>, edits: &mut Edits<'_>, block: &str) {
    let Some(messages) = doc.get("messages") else { return };
    let items = list(messages).unwrap_or_default();
    let first = items.first().and_then(|first| Some((*first, Doc::of(first)?)));
    let is_system =
        |message: &Doc<'_>| ["system", "developer"].iter().any(|role| message.is("role", role));
    let Some((raw, message)) = first.filter(|(_, message)| is_system(message)) else {
        let message = json!({"role": "system", "content": block}).to_string();
        return edits.lead_item(messages, &message);
    };
    match message.raw("content") {
        Some(content) if content.get().starts_with('"') => {
            edits.replace(content, joined(content, block, true));
        }
        Some(content) if content.get().starts_with('[') => {
            edits.push_items(content, &json!({"type": "text", "text": block}).to_string());
        }
        _ => edits.set(Some(raw), &message, "content", &quoted(block)),
    }
}

/// See [`super::read_answer`].
pub(super) fn read_answer(answer: &[u8], owned: &Owned) -> Option<Answered> {
    let doc = Doc::read(answer)?;
    let usage = doc.get("usage").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let choices = doc.list("choices")?;
    let Some(choice) = choices.first().copied().and_then(Doc::of) else {
        return Some(Answered { step: Step::Done, turn: Turn::default(), usage });
    };
    let message = choice.doc("message").unwrap_or_default();
    let (mut ours, mut has_foreign) = (Vec::new(), false);
    for raw in message.list("tool_calls").unwrap_or_default() {
        match owned_call(&Doc::of(raw).unwrap_or_default(), owned) {
            Some(call) => ours.push(call),
            None => has_foreign = true,
        }
    }
    let is_cut = CUT.iter().any(|reason| choice.is("finish_reason", reason));
    Some(Answered { step: Step::of(ours, has_foreign, is_cut), turn: turn(&message), usage })
}

/// A call of one of the gateway's tools.
fn owned_call(call: &Doc<'_>, owned: &Owned) -> Option<ToolCall> {
    let function = call.doc("function")?;
    let name = function.text("name").filter(|name| owned.has(name))?;
    let arguments = match function.text("arguments") {
        Some(text) => arguments(&text),
        None => function.get("arguments").map(|raw| arguments(raw.get())).unwrap_or_default(),
    };
    Some(ToolCall { id: call.text("id").unwrap_or_default(), name, arguments })
}

/// Arguments that are no JSON object are none.
pub(super) fn arguments(text: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// Whether a field of an answer is of the model's thoughts, which some providers must get back to go on from.
pub(super) fn is_thought(name: &str) -> bool {
    ["reasoning", "thinking", "thought"].iter().any(|word| name.starts_with(word))
        || name == "extra_content"
}

/// The message as the next round repeats it: its text, its thoughts and its calls, not what only answers have.
fn turn(message: &Doc<'_>) -> Turn {
    let mut fields = vec!["\"role\":\"assistant\"".to_owned()];
    for (name, raw) in message.fields() {
        let is_empty = is_null(raw) || matches!(raw.get(), "\"\"" | "[]" | "{}");
        if !is_empty && (name == "content" || name == "tool_calls" || is_thought(name)) {
            fields.push(format!("{}:{}", quoted(name), raw.get()));
        }
    }
    Turn::new(format!("{{{}}}", fields.join(",")))
}

/// See [`super::append`].
pub(super) fn append(body: &Bytes, turn: &Turn, results: &[ToolResult]) -> Option<Bytes> {
    let doc = Doc::read(body)?;
    let messages = doc.get("messages").filter(|raw| raw.get().starts_with('['))?;
    let mut edits = Edits::new(body);
    let results = each(
        results,
        |ToolResult { id, text, .. }| json!({"role": "tool", "tool_call_id": id, "content": text}),
    );
    edits.push_items(messages, &behind(&readable(turn, arguments_of), results));
    free_word(&doc, &mut edits);
    Some(edits.apply())
}

/// The arguments of a message's calls.
fn arguments_of<'a>(message: &Doc<'a>) -> Vec<&'a RawValue> {
    let calls = message.list("tool_calls").unwrap_or_default();
    calls.into_iter().filter_map(|call| Doc::of(call)?.doc("function")?.get("arguments")).collect()
}

/// See [`super::write_answer`].
pub(super) fn write_answer(answer: &Bytes, owned: &Owned, tally: &Tally) -> Option<Bytes> {
    let doc = Doc::read(answer)?;
    let mut edits = Edits::new(answer);
    tally.write(&mut edits, doc.get("usage"));
    let choices = doc.list("choices").unwrap_or_default();
    if let Some(choice) = choices.first().copied().and_then(Doc::of) {
        hide_calls(&choice, owned, &mut edits);
    }
    Some(edits.apply())
}

/// Takes the gateway's calls out of a choice.
fn hide_calls(choice: &Doc<'_>, owned: &Owned, edits: &mut Edits<'_>) {
    let Some(message) = choice.doc("message") else { return };
    let Some(calls) = message.get("tool_calls") else { return };
    let all = list(calls).unwrap_or_default();
    let is_foreign =
        |raw: &&&RawValue| Doc::of(raw).is_none_or(|call| owned_call(&call, owned).is_none());
    let left: Vec<&str> = all.iter().filter(is_foreign).map(|raw| raw.get()).collect();
    if left.len() == all.len() {
        return;
    }
    if !left.is_empty() {
        return edits.replace(calls, list_of(left));
    }
    edits.replace(calls, "null");
    if let Some(reason) =
        choice.get("finish_reason").filter(|_| choice.is("finish_reason", "tool_calls"))
    {
        edits.replace(reason, "\"stop\"");
    }
}
