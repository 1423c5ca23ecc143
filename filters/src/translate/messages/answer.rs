//! Reading and writing a whole message.

use bytes::Bytes;

use super::super::fields::{error_message, read_usage};
use super::super::neutral::{Answer, AsCaller, Failure, Kind, Origin, Part, Seal, Stop, Usage};
use super::super::object::Object;
use super::super::out::{self, Fields, Items};
use super::super::seal;
use super::super::text::Text;
use super::read::part;
use crate::prices::CacheCounting;

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body).filter(|_| !top.has("content")) {
        return Err(failure);
    }
    if ["id", "content", "model"].into_iter().all(|name| !top.has(name)) {
        return Err(Failure::new("The provider's answer has neither id, content nor model"));
    }
    let blocks = top.maybe_objects("content");
    let parts = blocks.iter().filter_map(|block| part(block).ok());
    let parts = parts.filter(|part| !matches!(part.kind, Kind::Opaque(_))).collect();
    let mut usage = None;
    read_usage(&mut usage, &top, CacheCounting::Additive);
    Ok(Answer {
        id: top.maybe_text("id").filter(|id| !id.is_empty()),
        model: top.maybe_text("model"),
        created: None,
        parts,
        stop: stop(top.maybe_text("stop_reason"), top.maybe_text("stop_sequence")),
        usage: usage.map(|seen| seen.usage()),
        is_null_without_text: false,
    })
}

/// Reads a body that reports an error.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = Object::document(body).ok()?;
    let (kind, message) = error_message(&top)?;
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

/// Why the answer ended.
pub(super) fn stop<'a>(reason: Option<Text<'a>>, sequence: Option<Text<'a>>) -> Stop<'a> {
    match reason.unwrap_or_default().escaped() {
        "max_tokens" => Stop::MaxTokens,
        "tool_use" => Stop::ToolUse,
        "stop_sequence" => Stop::Sequence(sequence),
        "refusal" => Stop::Refusal,
        "pause_turn" => Stop::Pause,
        "model_context_window_exceeded" => Stop::Context,
        _ => Stop::End,
    }
}

/// The word for it in this format.
pub(super) fn stop_reason(stop: &Stop<'_>, has_calls: bool) -> &'static str {
    match stop {
        Stop::MaxTokens => "max_tokens",
        Stop::ToolUse => "tool_use",
        // Some providers say that they are done though they call tools.
        Stop::End if has_calls => "tool_use",
        Stop::Sequence(Some(_)) => "stop_sequence",
        Stop::Refusal => "refusal",
        Stop::Pause => "pause_turn",
        Stop::Context => "model_context_window_exceeded",
        Stop::End | Stop::Sequence(None) | Stop::Filter => "end_turn",
    }
}

/// Writes an answer.
pub fn write_answer(answer: &Answer<'_>, caller: &AsCaller) -> Bytes {
    let mut body = Vec::with_capacity(1024);
    out::object(&mut body, |to| {
        let ours = Text::of(&caller.id);
        to.text("id", answer.id.as_ref().unwrap_or(&ours));
        to.word("type", "message");
        to.word("role", "assistant");
        to.text("model", answer.model.as_ref().unwrap_or(&Text::default()));
        let is_empty = !answer.parts.iter().any(is_block);
        to.list("content", |blocks| {
            answer.parts.iter().filter(|part| is_block(part)).for_each(|part| block(blocks, part));
            if is_empty {
                blocks.object(|to| {
                    to.word("type", "text");
                    to.word("text", "");
                });
            }
        });
        let has_calls = answer.parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_)));
        to.word("stop_reason", stop_reason(&answer.stop, has_calls));
        write_sequence(to, &answer.stop);
        to.object("usage", |to| write_usage(to, &answer.usage.unwrap_or_default()));
    });
    Bytes::from(body)
}

pub(super) fn write_sequence(to: &mut Fields<'_>, stop: &Stop<'_>) {
    match stop {
        Stop::Sequence(Some(text)) => to.text("stop_sequence", text),
        _ => to.null("stop_sequence"),
    }
}

fn is_block(part: &Part<'_>) -> bool {
    match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => !text.is_empty(),
        Kind::Thinking(..) | Kind::Redacted(_) | Kind::ToolCall(_) => true,
        Kind::Image(..) | Kind::File(..) | Kind::ToolResult(_) | Kind::Opaque(_) => false,
    }
}

fn block(blocks: &mut Items<'_>, part: &Part<'_>) {
    if let Kind::ToolCall(call) = &part.kind
        && let Some(seal) = &call.seal
    {
        blocks.object(|to| redacted(to, seal, false));
    }
    blocks.object(|to| match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => {
            to.word("type", "text");
            to.text("text", text);
        }
        Kind::Thinking(text, Some(seal)) if text.is_empty() && seal.origin != Origin::Anthropic => {
            redacted(to, seal, false);
        }
        Kind::Thinking(text, seal) => {
            to.word("type", "thinking");
            to.text("thinking", text);
            let seal = seal.as_ref().map(|seal| seal::carry(seal, Origin::Anthropic, false));
            to.text("signature", &seal.unwrap_or_default());
        }
        Kind::Redacted(seal) => redacted(to, seal, seal.origin != Origin::Anthropic),
        Kind::ToolCall(call) => {
            to.word("type", "tool_use");
            to.text("id", &call.id);
            to.text("name", &call.name);
            to.json("input", call.arguments.object().as_deref().unwrap_or("{}"));
        }
        Kind::Image(..) | Kind::File(..) | Kind::ToolResult(_) | Kind::Opaque(_) => {}
    });
}

/// A block that a client gives back as it came.
pub(super) fn redacted(to: &mut Fields<'_>, seal: &Seal<'_>, is_redacted: bool) {
    to.word("type", "redacted_thinking");
    to.text("data", &seal::carry(seal, Origin::Anthropic, is_redacted));
}

pub(super) fn write_usage(to: &mut Fields<'_>, usage: &Usage) {
    to.number("input_tokens", usage.input);
    to.number("output_tokens", usage.output);
    if usage.cache_read > 0 {
        to.number("cache_read_input_tokens", usage.cache_read);
    }
    if usage.cache_write > 0 {
        to.number("cache_creation_input_tokens", usage.cache_write);
    }
}
