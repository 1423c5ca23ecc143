//! Reading a chat's answer, whole and streamed: the lines of a stream are documents of the same form.

use super::super::fields::error_message;
use super::super::neutral::{Answer, Arguments, Event, Failure, Kind, Stop, ToolCall, Usage};
use super::super::object::Object;
use super::super::text::Text;

/// More calls in one answer than that are no answer.
const MAX_CALLS: u32 = 1024;

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
    if let Some(text) = message.maybe_text("thinking").filter(filled) {
        parts.push(Kind::Thinking(text, None).into());
    }
    if let Some(text) = message.maybe_text("content").filter(filled) {
        parts.push(Kind::Text(text).into());
    }
    let calls = message.maybe_objects("tool_calls");
    for (at, call) in (0..).zip(&calls) {
        parts.push(Kind::ToolCall(tool_call(&top, call, at)).into());
    }
    Ok(Answer {
        id: None,
        model: top.maybe_text("model").filter(filled),
        created: None,
        parts,
        stop: stop(top.maybe_text("done_reason"), !calls.is_empty()),
        usage: usage(&top),
        is_null_without_text: false,
    })
}

/// Reads a body that reports an error.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    failure(&Object::document(body).ok()?)
}

fn failure(top: &Object<'_>) -> Option<Failure> {
    let (kind, message) = error_message(top)?;
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

fn filled(text: &Text<'_>) -> bool {
    !text.is_empty()
}

/// A call. It has no id there: the time of the answer, to the nanosecond, tells it from those of other answers.
fn tool_call<'a>(top: &Object<'a>, call: &Object<'a>, number: u32) -> ToolCall<'a> {
    let function = call.maybe_object("function");
    let own = call.maybe_text("id").filter(filled);
    let made = || {
        let time = top.maybe_text("created_at").unwrap_or_default();
        let digits: String = time.escaped().chars().filter(char::is_ascii_digit).take(32).collect();
        let between = if digits.is_empty() { "" } else { "_" };
        Text::owned(&format!("call_{digits}{between}{number}"))
    };
    ToolCall {
        id: own.unwrap_or_else(made),
        name: function.maybe_text("name").unwrap_or_default(),
        arguments: match function.get("arguments") {
            None => Arguments::Quoted(Text::default()),
            Some(raw) => Text::read(raw).map_or(Arguments::Json(raw), Arguments::Quoted),
        },
        seal: None,
    }
}

/// Why the answer ended; `load` is an answer to nothing.
fn stop(reason: Option<Text<'_>>, has_calls: bool) -> Stop<'static> {
    match reason.unwrap_or_default().escaped() {
        _ if has_calls => Stop::ToolUse,
        "length" => Stop::MaxTokens,
        _ => Stop::End,
    }
}

/// A prompt that is still in memory is not counted again, and then not told.
fn usage(top: &Object<'_>) -> Option<Usage> {
    let (input, output) = (top.count("prompt_eval_count"), top.count("eval_count"));
    if input.is_none() && output.is_none() {
        return None;
    }
    Some(Usage { input: input.unwrap_or(0), output: output.unwrap_or(0), ..Usage::default() })
}

/// Reads the lines of a stream, one at a time.
#[derive(Debug, Default)]
pub struct StreamReader {
    has_started: bool,
    calls: u32,
}

impl StreamReader {
    /// Reads one line.
    pub fn read(&mut self, _name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        let Ok(top) = Object::document(data) else {
            return each(Event::Error(Failure::new("A line of the provider is not a JSON object")));
        };
        if let Some(failure) = failure(&top) {
            return each(Event::Error(failure));
        }
        if !std::mem::replace(&mut self.has_started, true) {
            let model = top.maybe_text("model").filter(filled);
            each(Event::Start { id: None, model, created: None });
        }
        let message = top.maybe_object("message");
        if let Some(text) = message.maybe_text("thinking").filter(filled) {
            each(Event::Thinking(text));
        }
        if let Some(text) = message.maybe_text("content").filter(filled) {
            each(Event::Text(text));
        }
        for call in message.maybe_objects("tool_calls") {
            if self.calls >= MAX_CALLS {
                return each(Event::Error(Failure::new(
                    "The provider's answer has too many calls",
                )));
            }
            let number = self.calls;
            self.calls += 1;
            let call = tool_call(&top, &call, number);
            let json = call.arguments.quoted();
            each(Event::ToolStart {
                call: number,
                id: call.id.borrow(),
                name: call.name.borrow(),
                seal: None,
            });
            each(Event::ToolArguments { call: number, json });
        }
        if let Some(usage) = usage(&top) {
            each(Event::Usage(usage));
        }
        if top.flag("done") == Some(true) {
            each(Event::Stop(stop(top.maybe_text("done_reason"), self.calls > 0)));
            each(Event::End);
        }
    }
}
