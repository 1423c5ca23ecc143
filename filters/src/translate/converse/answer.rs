//! Reading a whole answer.

use super::super::fields::error_message;
use super::super::neutral::{
    Answer, Arguments, Failure, Kind, Origin, Part, Seal, Stop, ToolCall, Usage,
};
use super::super::object::Object;
use super::super::text::Text;
use super::STRUCTURED;

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body) {
        return Err(failure);
    }
    if !top.has("output") {
        return Err(Failure::new("The provider's answer has no output"));
    }
    let blocks = top.maybe_object("output").maybe_object("message").maybe_objects("content");
    let mut parts = Vec::with_capacity(blocks.len());
    blocks.iter().for_each(|block| read_block(block, &mut parts));
    let has_calls = parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_)));
    let reason = top.maybe_text("stopReason").unwrap_or_default();
    Ok(Answer {
        id: None,
        model: None,
        created: None,
        parts,
        stop: stop(&reason, has_calls),
        usage: usage(&top),
        is_null_without_text: true,
    })
}

/// Reads a body that reports an error. What kind of error stands in a header.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = Object::document(body).ok()?;
    if top.has("output") {
        return None;
    }
    let own = ["message", "Message"].into_iter().find_map(|name| top.maybe_text(name));
    let (kind, message) = match own {
        Some(message) => (top.maybe_text("__type"), message),
        None => error_message(&top)?,
    };
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

fn read_block<'a>(block: &Object<'a>, parts: &mut Vec<Part<'a>>) {
    if let Some(text) = block.maybe_text("text") {
        parts.push(Kind::Text(text).into());
    }
    if let Some(thought) = block.inner("reasoningContent") {
        if let Some(data) = thought.maybe_text("redactedContent") {
            parts.push(Kind::Redacted(seal(data)).into());
        }
        if let Some(told) = thought.inner("reasoningText") {
            let signature = told.maybe_text("signature").filter(|text| !text.is_empty());
            let text = told.maybe_text("text").unwrap_or_default();
            parts.push(Kind::Thinking(text, signature.map(seal)).into());
        }
    }
    for cited in block.maybe_object("citationsContent").maybe_objects("content") {
        parts.extend(cited.maybe_text("text").map(|text| Kind::Text(text).into()));
    }
    let Some(call) = block.inner("toolUse").filter(is_ours) else { return };
    let name = call.maybe_text("name").unwrap_or_default();
    let input = call.get("input");
    let id = call.maybe_text("toolUseId").filter(|id| !id.is_empty());
    parts.push(if name.is(STRUCTURED) {
        Kind::Text(Text::of(input.map_or("{}", |input| input.get()))).into()
    } else {
        Kind::ToolCall(ToolCall {
            id: id.unwrap_or_else(|| Text::owned(&format!("call_{}", parts.len()))),
            name,
            arguments: input.map_or(Arguments::Quoted(Text::default()), Arguments::Json),
            seal: None,
        })
        .into()
    });
}

/// Whether the caller is to answer the call: some tools are the provider's own.
pub(super) fn is_ours(call: &Object<'_>) -> bool {
    !call.has("type")
}

pub(super) fn seal(value: Text<'_>) -> Seal<'_> {
    Seal { origin: Origin::Anthropic, value }
}

/// Why the answer ended. An answer in the place of a call is no call.
pub(super) fn stop(reason: &Text<'_>, has_calls: bool) -> Stop<'static> {
    match reason.escaped() {
        "tool_use" if has_calls => Stop::ToolUse,
        "max_tokens" => Stop::MaxTokens,
        "stop_sequence" => Stop::Sequence(None),
        "guardrail_intervened" | "content_filtered" => Stop::Filter,
        "model_context_window_exceeded" => Stop::Context,
        _ => Stop::End,
    }
}

/// The counts of `top`: input does not include what was read from the cache or written to it.
pub(super) fn usage(top: &Object<'_>) -> Option<Usage> {
    let usage = top.inner("usage")?;
    let count = |name: &str| usage.count(name).unwrap_or(0);
    let details = usage.maybe_objects("cacheDetails");
    let hour = details.iter().filter(|one| one.maybe_text("ttl").is_some_and(|ttl| ttl.is("1h")));
    let hour = hour.filter_map(|one| one.count("inputTokens")).fold(0, u64::saturating_add);
    let cache_write = count("cacheWriteInputTokens");
    Some(Usage {
        input: count("inputTokens"),
        cache_read: count("cacheReadInputTokens"),
        cache_write,
        cache_write_1h: hour.min(cache_write),
        output: count("outputTokens"),
        reasoning: None,
    })
}
