//! Reading a whole answer, of which there are four shapes.

use serde_json::value::RawValue;

use super::super::chat;
use super::super::fields::error_message;
use super::super::neutral::{Answer, Failure, Kind, Stop};
use super::super::object::Object;
use super::super::text::Text;

/// Reads an answer: a chat completion, or a text in one of three fields.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = document(body).ok_or_else(|| Failure::new("The body is not a JSON object"))?;
    if top.has("choices") {
        return chat::read_answer(body, "sagemaker");
    }
    if let Some(text) = ["generated_text", "outputs", "content"]
        .into_iter()
        .find_map(|name| top.get(name).and_then(text))
    {
        let parts = vec![Kind::Text(text).into()];
        let stop = stop(&top).unwrap_or_default();
        return Ok(Answer { parts, stop, ..Answer::default() });
    }
    Err(failure(&top).unwrap_or_else(|| Failure::new("The provider's answer has no text")))
}

/// Reads a body that reports an error.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = document(body)?;
    let is_answer = ["choices", "generated_text", "outputs", "content"];
    if is_answer.iter().any(|name| top.has(name)) {
        return None;
    }
    failure(&top)
}

/// The document, or the first of a list of them, as one of the containers has it.
fn document(body: &[u8]) -> Option<Object<'_>> {
    if body.trim_ascii_start().starts_with(b"[") {
        let list: Vec<Object<'_>> = serde_json::from_slice(body).ok()?;
        return list.into_iter().next();
    }
    Object::document(body).ok()
}

/// The provider's own errors, or those of the container behind it.
pub(super) fn failure(top: &Object<'_>) -> Option<Failure> {
    let own = ["OriginalMessage", "Message", "message"];
    let (kind, message) = match own.into_iter().find_map(|name| top.maybe_text(name)) {
        Some(message) => (top.maybe_text("ErrorCode"), message),
        None => error_message(top)?,
    };
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

/// A text; of a list its first; of an object its `text`.
pub(super) fn text(raw: &RawValue) -> Option<Text<'_>> {
    if let Some(text) = Text::read(raw) {
        return Some(text);
    }
    if let Some(object) = Object::read(raw) {
        return object.maybe_text("text").or_else(|| object.maybe_text("generated_text"));
    }
    let list: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let first = list.first()?;
    Text::read(first).or_else(|| {
        let object = Object::read(first)?;
        object.maybe_text("text").or_else(|| object.maybe_text("generated_text"))
    })
}

/// Why the answer ended, where the container says it.
pub(super) fn stop(top: &Object<'_>) -> Option<Stop<'static>> {
    let details = top.maybe_object("details");
    let reason = details.maybe_text("finish_reason").or_else(|| top.maybe_text("finish_reason"));
    match reason {
        Some(reason) if reason.is("length") => Some(Stop::MaxTokens),
        Some(reason) if reason.is("stop_sequence") => Some(Stop::Sequence(None)),
        Some(reason) if !reason.is_empty() => Some(Stop::End),
        _ => (top.flag("is_finished") == Some(true)).then_some(Stop::End),
    }
}
