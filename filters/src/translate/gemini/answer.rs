//! Reading content, whole and streamed: the events of a stream are documents of the same form.

use super::super::fields::{error_message, is_repeatable};
use super::super::neutral::{
    Answer, Arguments, Event, Failure, Kind, Origin, Part, Seal, Stop, ToolCall, Usage,
};
use super::super::object::Object;
use super::super::text::Text;

/// More calls in one answer than that are no answer.
const MAX_CALLS: u32 = 1024;

/// Reads an answer. Of several candidates the first.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body) {
        return Err(failure);
    }
    if !top.has("candidates") && !top.has("promptFeedback") {
        return Err(Failure::new("The provider's answer has neither candidates nor a reason"));
    }
    let id = top.maybe_text("responseId").filter(|id| !id.is_empty() && is_repeatable(id));
    let (mut parts, mut calls) = (Vec::new(), 0);
    let candidate = first(&top);
    for part in candidate.maybe_object("content").maybe_objects("parts") {
        read_part(&part, id.as_ref(), &mut calls, &mut parts);
    }
    Ok(Answer {
        id,
        model: top.maybe_text("modelVersion"),
        created: None,
        parts,
        stop: stop(&top, &candidate, calls > 0).unwrap_or_default(),
        usage: usage(&top),
        is_null_without_text: true,
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

/// The first candidate.
fn first<'a>(top: &Object<'a>) -> Object<'a> {
    top.maybe_objects("candidates").into_iter().next().unwrap_or_default()
}

fn seal<'a>(part: &Object<'a>) -> Option<Seal<'a>> {
    let value = part.maybe_text("thoughtSignature").filter(|text| !text.is_empty())?;
    Some(Seal { origin: Origin::Google, value })
}

fn read_part<'a>(
    part: &Object<'a>,
    id: Option<&Text<'a>>,
    calls: &mut u32,
    parts: &mut Vec<Part<'a>>,
) {
    if let Some(call) = part.inner("functionCall") {
        parts.push(Kind::ToolCall(tool_call(part, &call, id, *calls)).into());
        *calls = calls.saturating_add(1);
        return;
    }
    let text = part.maybe_text("text").filter(|text| !text.is_empty());
    if part.flag("thought") == Some(true) {
        parts.push(Kind::Thinking(text.unwrap_or_default(), seal(part)).into());
        return;
    }
    if let Some(seal) = seal(part) {
        parts.push(Kind::Thinking(Text::default(), Some(seal)).into());
    }
    parts.extend(text.map(|text| Kind::Text(text).into()));
}

fn tool_call<'a>(
    part: &Object<'a>,
    call: &Object<'a>,
    id: Option<&Text<'a>>,
    number: u32,
) -> ToolCall<'a> {
    let own = call.maybe_text("id").filter(|id| !id.is_empty());
    let made = || {
        let mut made = Text::owned("call_");
        if let Some(id) = id {
            made.push(id);
            made.push(&Text::of("_"));
        }
        made.push(&Text::of(&number.to_string()));
        made
    };
    ToolCall {
        id: own.unwrap_or_else(made),
        name: call.maybe_text("name").unwrap_or_default(),
        arguments: call.get("args").map_or(Arguments::Quoted(Text::default()), Arguments::Json),
        seal: seal(part),
    }
}

/// Why the answer ended; `None` while it has not.
fn stop(top: &Object<'_>, candidate: &Object<'_>, has_calls: bool) -> Option<Stop<'static>> {
    if top.maybe_object("promptFeedback").has("blockReason") {
        return Some(Stop::Filter);
    }
    let reason = candidate.maybe_text("finishReason")?;
    Some(match reason.escaped() {
        "MAX_TOKENS" => Stop::MaxTokens,
        "SAFETY"
        | "RECITATION"
        | "PROHIBITED_CONTENT"
        | "BLOCKLIST"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Stop::Filter,
        _ if has_calls => Stop::ToolUse,
        _ => Stop::End,
    })
}

/// Thoughts are counted apart there, and are output.
fn usage(top: &Object<'_>) -> Option<Usage> {
    let usage = top.inner("usageMetadata")?;
    let count = |name: &str| usage.count(name).unwrap_or(0);
    let prompt = count("promptTokenCount");
    let cache_read = count("cachedContentTokenCount").min(prompt);
    let thoughts = usage.count("thoughtsTokenCount");
    Some(Usage {
        input: prompt - cache_read,
        cache_read,
        output: count("candidatesTokenCount").saturating_add(thoughts.unwrap_or(0)),
        reasoning: thoughts,
        ..Usage::default()
    })
}

/// Reads the events of a stream, one at a time. The stream ends with the connection.
#[derive(Debug, Default)]
pub struct StreamReader {
    has_started: bool,
    calls: u32,
}

impl StreamReader {
    /// Reads the data of one event.
    pub fn read(&mut self, _name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        let Ok(top) = Object::document(data) else {
            return each(Event::Error(Failure::new(
                "An event of the provider is not a JSON object",
            )));
        };
        if let Some((kind, message)) = error_message(&top) {
            let kind = kind.map(|kind| kind.plain().into_owned());
            return each(Event::Error(Failure { kind, message: message.plain().into_owned() }));
        }
        let id = top.maybe_text("responseId").filter(|id| !id.is_empty() && is_repeatable(id));
        if !std::mem::replace(&mut self.has_started, true) {
            let model = top.maybe_text("modelVersion");
            each(Event::Start { id: id.clone(), model, created: None });
        }
        let mut parts = Vec::new();
        let candidate = first(&top);
        for part in candidate.maybe_object("content").maybe_objects("parts") {
            let number = self.calls;
            read_part(&part, id.as_ref(), &mut self.calls, &mut parts);
            parts.drain(..).for_each(|part| said(part.kind, number, each));
            if self.calls > MAX_CALLS {
                return each(Event::Error(Failure::new(
                    "The provider's answer has too many calls",
                )));
            }
        }
        if let Some(usage) = usage(&top) {
            each(Event::Usage(usage));
        }
        if let Some(stop) = stop(&top, &candidate, self.calls > 0) {
            each(Event::Stop(stop));
        }
    }
}

fn said(kind: Kind<'_>, number: u32, each: &mut dyn FnMut(Event<'_>)) {
    match kind {
        Kind::Thinking(text, seal) => {
            if !text.is_empty() {
                each(Event::Thinking(text));
            }
            if let Some(seal) = seal {
                each(Event::Seal(seal));
            }
        }
        Kind::Text(text) => each(Event::Text(text)),
        Kind::ToolCall(call) => {
            let json = call.arguments.quoted();
            each(Event::ToolStart {
                call: number,
                id: call.id.borrow(),
                name: call.name.borrow(),
                seal: call.seal.clone(),
            });
            each(Event::ToolArguments { call: number, json });
        }
        _ => {}
    }
}
