//! Reading and writing a whole chat completion.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::fields::{error_message, plain_error, read_usage};
use super::super::neutral::{
    Answer, Arguments, AsCaller, Failure, Kind, Origin, Part, Seal, Stop, ToolCall, Usage,
};
use super::super::object::Object;
use super::super::out::{self, Fields};
use super::super::text::Text;
use super::read::google_seal;
use crate::prices::CacheCounting;

/// Where providers put what the model thought.
const THOUGHTS: [&str; 5] =
    ["reasoning_content", "thinking", "think", "chain_of_thought", "reasoning"];

/// Reads an answer. Of several choices the first.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer<'a>(body: &'a [u8], provider: &str) -> Result<Answer<'a>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body).filter(|_| !top.has("choices")) {
        return Err(failure);
    }
    if ["id", "choices", "model"].into_iter().all(|name| !top.has(name)) {
        return Err(Failure::new("The provider's answer has neither id, choices nor model"));
    }
    let choices = top.maybe_objects("choices");
    let choice = choices.first().cloned().unwrap_or_default();
    let message = choice.maybe_object("message");
    let mut parts = Vec::new();
    if let Some(part) = thinking(&message) {
        parts.push(part);
    }
    said(&message, provider, &mut parts);
    for (at, call) in message.maybe_objects("tool_calls").iter().enumerate() {
        parts.push(Kind::ToolCall(tool_call(call, at)).into());
    }
    let reason = choice.maybe_text("finish_reason");
    if let Some(failure) = reason.as_ref().and_then(failed) {
        return Err(failure);
    }
    let mut usage = None;
    read_usage(&mut usage, &top, CacheCounting::Inclusive);
    Ok(Answer {
        id: top.maybe_text("id").filter(|id| !id.is_empty()),
        model: top.maybe_text("model"),
        created: top.get("created").and_then(seconds),
        parts,
        stop: reason.map_or(Stop::End, |reason| stop(&reason)),
        usage: usage.map(|seen| seen.usage()),
        is_null_without_text: false,
    })
}

/// Reads a body that reports an error.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = Object::document(body).ok()?;
    let (kind, message) = error_message(&top).or_else(|| plain_error(&top))?;
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

/// Whole seconds of a number that may have a fraction.
pub(super) fn seconds(raw: &RawValue) -> Option<u64> {
    raw.get().split('.').next()?.parse().ok()
}

/// The model's thoughts in a message or in a delta.
pub(super) fn thoughts<'a>(message: &Object<'a>) -> Option<Text<'a>> {
    THOUGHTS.into_iter().find_map(|name| message.maybe_text(name))
}

fn thinking<'a>(message: &Object<'a>) -> Option<Part<'a>> {
    let text = thoughts(message);
    let extra = message.maybe_object("extra_content");
    let seal = extra.maybe_object("google").maybe_text("thought_signature");
    let seal = seal.map(|value| Seal { origin: Origin::Google, value });
    if seal.is_none() && text.as_ref().is_none_or(Text::is_empty) {
        return None;
    }
    Some(Kind::Thinking(text.unwrap_or_default(), seal).into())
}

/// The text of a message, which some providers send in parts.
fn said<'a>(message: &Object<'a>, provider: &str, parts: &mut Vec<Part<'a>>) {
    if let Some(text) = message.maybe_text("content").filter(|text| !text.is_empty()) {
        parts.push(Kind::Text(text).into());
    }
    for part in message.maybe_objects("content") {
        if let Some(text) = part.maybe_text("text") {
            parts.push(Kind::Text(text).into());
        } else if part.kind().is("thinking") {
            let pieces = part.maybe_objects("thinking");
            let pieces: Vec<_> = pieces.iter().filter_map(|one| one.maybe_text("text")).collect();
            let seal = mistral_seal(&part, provider);
            parts.push(Kind::Thinking(Text::join(&pieces, "\n"), seal).into());
        }
    }
    if provider == "mistral" && !parts.iter().any(|part| matches!(part.kind, Kind::Text(_))) {
        let answer = parts.iter().find_map(|part| match &part.kind {
            Kind::Thinking(text, _) => within_response(text),
            _ => None,
        });
        parts.extend(answer.map(|text| Kind::Text(text).into()));
    }
    if let Some(refusal) = message.maybe_text("refusal").filter(|text| !text.is_empty()) {
        parts.push(Kind::Refusal(refusal).into());
    }
}

/// Mistral's seal on a thought.
pub(super) fn mistral_seal<'a>(part: &Object<'a>, provider: &str) -> Option<Seal<'a>> {
    let value =
        part.maybe_text("signature").filter(|text| !text.is_empty() && provider == "mistral");
    Some(Seal { origin: Origin::Mistral, value: value? })
}

/// The answer that a model has given within its thoughts.
fn within_response(thought: &Text<'_>) -> Option<Text<'static>> {
    let plain = thought.plain();
    let (_, rest) = plain.split_once("<response>")?;
    let (answer, _) = rest.split_once("</response>")?;
    Some(Text::owned(answer.trim()))
}

fn tool_call<'a>(call: &Object<'a>, at: usize) -> ToolCall<'a> {
    let function = call.maybe_object("function");
    let id = call.maybe_text("id").filter(|id| !id.is_empty());
    ToolCall {
        id: id.unwrap_or_else(|| Text::owned(&format!("call_{at}"))),
        name: function.maybe_text("name").unwrap_or_default(),
        arguments: match function.get("arguments") {
            None => Arguments::Quoted(Text::default()),
            Some(raw) => Text::read(raw).map_or(Arguments::Json(raw), Arguments::Quoted),
        },
        seal: google_seal(call),
    }
}

/// A reason to end that is none.
pub(super) fn failed(reason: &Text<'_>) -> Option<Failure> {
    matches!(reason.escaped(), "error" | "network_error").then(|| Failure {
        kind: Some(reason.escaped().to_owned()),
        message: "The provider ended the answer with an error".to_owned(),
    })
}

/// Why the answer ended, in the words of the providers of this format.
pub(super) fn stop(reason: &Text<'_>) -> Stop<'static> {
    match reason.escaped() {
        "length" | "model_length" | "model_context_window_exceeded" => Stop::MaxTokens,
        "tool_calls" | "function_call" => Stop::ToolUse,
        "content_filter" | "sensitive" => Stop::Filter,
        _ => Stop::End,
    }
}

/// The word for it in this format.
pub(super) fn finish_reason(stop: &Stop<'_>) -> &'static str {
    match stop {
        Stop::MaxTokens => "length",
        Stop::ToolUse => "tool_calls",
        Stop::Filter => "content_filter",
        Stop::End | Stop::Sequence(_) | Stop::Refusal | Stop::Pause | Stop::Context => "stop",
    }
}

/// Writes an answer.
pub fn write_answer(answer: &Answer<'_>, caller: &AsCaller) -> Bytes {
    let mut body = Vec::with_capacity(1024);
    out::object(&mut body, |to| {
        let ours = Text::of(&caller.id);
        to.text("id", answer.id.as_ref().unwrap_or(&ours));
        to.word("object", "chat.completion");
        to.number("created", answer.created.unwrap_or(caller.now));
        to.text("model", answer.model.as_ref().unwrap_or(&Text::default()));
        to.list("choices", |choices| {
            choices.object(|choice| {
                choice.number("index", 0);
                choice.word("finish_reason", finish_reason(&answer.stop));
                choice.null("logprobs");
                choice.object("message", |message| write_message(message, answer));
            });
        });
        if let Some(usage) = &answer.usage {
            to.object("usage", |to| write_usage(to, usage));
        }
    });
    Bytes::from(body)
}

fn write_message(to: &mut Fields<'_>, answer: &Answer<'_>) {
    let parts = &answer.parts[..];
    to.word("role", "assistant");
    let texts = parts.iter().filter_map(|part| match &part.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    });
    let has_calls = parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_)));
    let text = Text::join(texts, "");
    if answer.is_null_without_text && has_calls && text.is_empty() {
        to.null("content");
    } else {
        to.text("content", &text);
    }
    let refusals: Vec<_> =
        parts.iter().filter(|part| matches!(part.kind, Kind::Refusal(_))).collect();
    if let [refusal, ..] = &refusals[..] {
        to.maybe_text("refusal", super::super::fields::text_of(refusal));
    }
    let thoughts = parts.iter().filter_map(|part| match &part.kind {
        Kind::Thinking(text, _) => Some(text),
        _ => None,
    });
    let thought = Text::join(thoughts, "");
    if !thought.is_empty() {
        to.text("reasoning", &thought);
    }
    write_seals(to, parts);
    if has_calls {
        to.list("tool_calls", |calls| {
            for part in parts {
                let Kind::ToolCall(call) = &part.kind else { continue };
                calls.object(|to| {
                    to.text("id", &call.id);
                    to.word("type", "function");
                    to.object("function", |function| {
                        function.text("name", &call.name);
                        function.text("arguments", &call.arguments.quoted());
                    });
                    if let Some(seal) = &call.seal {
                        to.object("extra_content", |extra| write_seal(extra, seal));
                    }
                });
            }
        });
    }
}

/// The last seal; and where one text with one seal cannot say it, all of Anthropic's blocks.
fn write_seals(to: &mut Fields<'_>, parts: &[Part<'_>]) {
    let mut seals = parts.iter().filter_map(|part| match &part.kind {
        Kind::Thinking(_, seal) => seal.as_ref(),
        _ => None,
    });
    let blocks: Vec<_> = parts
        .iter()
        .filter_map(|part| match &part.kind {
            Kind::Thinking(text, Some(seal)) if seal.origin == Origin::Anthropic => {
                Some((Some(text), seal))
            }
            Kind::Redacted(seal) if seal.origin == Origin::Anthropic => Some((None, seal)),
            _ => None,
        })
        .collect();
    let last = seals.next_back();
    if last.is_none() && blocks.is_empty() {
        return;
    }
    to.object("extra_content", |extra| {
        let has_more = blocks.len() > 1 || blocks.iter().any(|(text, _)| text.is_none());
        if !has_more {
            return last.into_iter().for_each(|seal| write_seal(extra, seal));
        }
        extra.object("anthropic", |anthropic| {
            if let Some(seal) = last.filter(|seal| seal.origin == Origin::Anthropic) {
                anthropic.text("signature", &seal.value);
            }
            anthropic.list("thinking_blocks", |list| {
                for (text, seal) in &blocks {
                    list.object(|block| match text {
                        Some(text) => {
                            block.word("type", "thinking");
                            block.text("thinking", text);
                            block.text("signature", &seal.value);
                        }
                        None => {
                            block.word("type", "redacted_thinking");
                            block.text("data", &seal.value);
                        }
                    });
                }
            });
        });
    });
}

/// A seal, within `extra_content`.
pub(super) fn write_seal(extra: &mut Fields<'_>, seal: &Seal<'_>) {
    let name = if seal.origin == Origin::Google { "thought_signature" } else { "signature" };
    extra.object(seal.origin.word(), |to| to.text(name, &seal.value));
}

pub(super) fn write_usage(to: &mut Fields<'_>, usage: &Usage) {
    to.number("prompt_tokens", usage.prompt());
    to.number("completion_tokens", usage.output);
    to.number("total_tokens", usage.prompt().saturating_add(usage.output));
    if usage.cache_read > 0 {
        to.object("prompt_tokens_details", |details| {
            details.number("cached_tokens", usage.cache_read);
        });
    }
    if let Some(reasoning) = usage.reasoning {
        to.object("completion_tokens_details", |details| {
            details.number("reasoning_tokens", reasoning);
        });
    }
}
