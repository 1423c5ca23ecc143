//! Reading a chat's answer, whole and streamed.

use super::super::fields::{SeenUsage, error_message, plain_error, read_counts};
use super::super::neutral::{Answer, Arguments, Event, Failure, Kind, Part, Stop, ToolCall, Usage};
use super::super::object::Object;
use super::super::text::Text;
use crate::prices::CacheCounting;
use crate::protocol::sse;

/// More calls in one answer than that are no answer.
const MAX_CALLS: usize = 1024;

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body) {
        return Err(failure);
    }
    if !top.has("message") {
        return Err(Failure::new("The provider's answer has no message"));
    }
    let message = top.maybe_object("message");
    let mut parts = Vec::new();
    parts.extend(message.maybe_text("content").filter(filled).map(text));
    parts.extend(message.maybe_objects("content").iter().filter_map(part));
    let calls = message.maybe_objects("tool_calls");
    if !calls.is_empty() {
        parts.extend(message.maybe_text("tool_plan").filter(filled).map(text));
    }
    for (at, call) in calls.iter().enumerate() {
        parts.push(Kind::ToolCall(tool_call(call, at)).into());
    }
    Ok(Answer {
        id: top.maybe_text("id").filter(|id| !id.is_empty()),
        model: None,
        created: None,
        stop: stop(top.maybe_text("finish_reason"), !calls.is_empty()),
        parts,
        usage: usage(&top),
        is_null_without_text: true,
    })
}

/// Reads a body that reports an error: its `message` is a text.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = Object::document(body).ok()?;
    let (kind, message) = error_message(&top).or_else(|| plain_error(&top))?;
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

fn filled(text: &Text<'_>) -> bool {
    !text.is_empty()
}

fn text(text: Text<'_>) -> Part<'_> {
    Kind::Text(text).into()
}

/// A text or a thought.
fn part<'a>(part: &Object<'a>) -> Option<Part<'a>> {
    if let Some(thought) = part.maybe_text("thinking").filter(filled) {
        return Some(Kind::Thinking(thought, None).into());
    }
    part.maybe_text("text").filter(filled).map(text)
}

fn tool_call<'a>(call: &Object<'a>, at: usize) -> ToolCall<'a> {
    let function = call.maybe_object("function");
    let id = call.maybe_text("id").filter(filled);
    ToolCall {
        id: id.unwrap_or_else(|| Text::owned(&format!("call_{at}"))),
        name: function.maybe_text("name").unwrap_or_default(),
        arguments: match function.get("arguments") {
            None => Arguments::Quoted(Text::default()),
            Some(raw) => Text::read(raw).map_or(Arguments::Json(raw), Arguments::Quoted),
        },
        seal: None,
    }
}

fn stop(reason: Option<Text<'_>>, has_calls: bool) -> Stop<'static> {
    match reason.unwrap_or_default().escaped() {
        "MAX_TOKENS" => Stop::MaxTokens,
        "TOOL_CALL" => Stop::ToolUse,
        "ERROR_TOXIC" => Stop::Filter,
        _ if has_calls => Stop::ToolUse,
        "STOP_SEQUENCE" => Stop::Sequence(None),
        _ => Stop::End,
    }
}

/// What was counted; what is billed is told beside it, and stands in where nothing else does. What of the prompt came
/// from a cache is told beside both.
fn usage(of: &Object<'_>) -> Option<Usage> {
    let raw = of.get("usage")?;
    let usage = Object::read(raw)?;
    let counts = usage.get("tokens").or_else(|| usage.get("billed_units"))?;
    let mut seen: Option<SeenUsage> = None;
    read_counts(&mut seen, counts, CacheCounting::Inclusive);
    read_counts(&mut seen, raw, CacheCounting::Inclusive);
    seen.map(|seen| seen.usage())
}

/// Reads the events of a stream, one at a time.
#[derive(Debug, Default)]
pub struct StreamReader {
    /// The provider's numbers of the calls, in the order in which they began.
    calls: Vec<u64>,
}

impl StreamReader {
    /// Reads the data of one event.
    pub fn read(&mut self, name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        let Ok(top) = Object::document(data) else {
            return each(Event::Error(Failure::new(
                "An event of the provider is not a JSON object",
            )));
        };
        let delta = top.maybe_object("delta");
        let message = delta.maybe_object("message");
        match sse::kind(data, name) {
            b"message-start" => each(Event::Start {
                id: top.maybe_text("id").filter(filled),
                model: None,
                created: None,
            }),
            b"content-start" | b"content-delta" => {
                let content = message.maybe_object("content");
                if let Some(text) = content.maybe_text("thinking").filter(filled) {
                    each(Event::Thinking(text));
                }
                if let Some(text) = content.maybe_text("text").filter(filled) {
                    each(Event::Text(text));
                }
            }
            b"content-end" => each(Event::BlockEnd),
            b"tool-call-start" | b"tool-call-delta" => {
                self.read_call(&top, &message.maybe_object("tool_calls"), each);
            }
            b"message-end" => self.end(&delta, each),
            _ => {
                let error = error_message(&top).or_else(|| plain_error(&top));
                if let Some((kind, message)) = error {
                    let kind = kind.map(|kind| kind.plain().into_owned());
                    each(Event::Error(Failure { kind, message: message.plain().into_owned() }));
                }
            }
        }
    }

    fn read_call(&mut self, top: &Object<'_>, call: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let function = call.maybe_object("function");
        let index = top.count("index").unwrap_or(0);
        let known = self.calls.iter().position(|known| *known == index);
        let number = known.unwrap_or(self.calls.len());
        if known.is_none() {
            if number >= MAX_CALLS {
                return each(Event::Error(Failure::new(
                    "The provider's answer has too many calls",
                )));
            }
            let Some(name) = function.maybe_text("name") else { return };
            self.calls.push(index);
            let id = call.maybe_text("id").filter(filled);
            let id = id.unwrap_or_else(|| Text::owned(&format!("call_{number}")));
            each(Event::ToolStart { call: number as u32, id, name, seal: None });
        }
        if let Some(json) = function.maybe_text("arguments").filter(filled) {
            each(Event::ToolArguments { call: number as u32, json });
        }
    }

    /// The one end, however many calls there were.
    fn end(&self, delta: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if let Some(usage) = usage(delta) {
            each(Event::Usage(usage));
        }
        if let Some(error) = delta.maybe_text("error").filter(filled) {
            return each(Event::Error(Failure::new(&error.plain())));
        }
        each(Event::Stop(stop(delta.maybe_text("finish_reason"), !self.calls.is_empty())));
        each(Event::End);
    }
}
