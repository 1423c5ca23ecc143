//! Writing a request to an endpoint.

use bytes::Bytes;

use super::super::chat;
use super::super::fields::{drop_cache_marks, joined, refuse_choices, write_extras};
use super::super::neutral::{
    Conversation, Kind, Part, Reasoning, Role, Source, Target, Turn, Written,
};
use super::super::object::{Fault, Object};
use super::super::out;
use super::super::text::Text;
use crate::rejection::Rejection;

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    refuse_choices(conversation)?;
    if conversation.output.is_some() {
        return Err(
            Fault::new("response_format", "is not supported by this model's provider").into()
        );
    }
    refuse_uploads(conversation)?;
    let is_system = |turn: &Turn<'_>| matches!(turn.role, Role::System | Role::Developer);
    let (system, spoken): (Vec<_>, Vec<_>) =
        conversation.turns.iter().partition(|turn| is_system(turn));
    let known = Conversation {
        turns: spoken.into_iter().cloned().collect(),
        tools: conversation.tools.clone(),
        tool_choice: conversation.tool_choice.clone(),
        temperature: conversation.temperature,
        top_p: conversation.top_p,
        top_k: conversation.top_k,
        stop: conversation.stop.clone(),
        max_output: conversation.max_output,
        dropped: conversation.dropped.clone(),
        ..Conversation::default()
    };
    let Written { body: chat, mut dropped } =
        chat::write_request(&known, &Target { stream: false, ..*target })?;
    // Instructions may be marked, too.
    drop_cache_marks(&mut dropped, conversation);
    if !matches!(conversation.reasoning, None | Some(Reasoning::Off)) {
        dropped.add("reasoning_effort");
    }
    let fields = Object::document(&chat)?;
    let mut body = Vec::with_capacity(chat.len());
    out::object(&mut body, |to| {
        to.maybe_raw("messages", fields.get("messages"));
        let texts: Vec<_> = system.iter().map(|turn| joined(&turn.parts, "")).collect();
        if !texts.is_empty() {
            to.text("system", &Text::join(&texts, "\n"));
        }
        to.maybe_raw("max_tokens", conversation.max_output);
        for name in ["temperature", "top_p", "stop", "tools", "tool_choice"] {
            to.maybe_raw(name, fields.get(name));
        }
        // Most containers stream only when the body says so, too.
        if target.stream {
            to.flag("stream", true);
        }
        write_extras(to, &conversation.extras, &mut dropped, |_, _| None);
    });
    if conversation.user.is_some() {
        dropped.add("user");
    }
    if conversation.parallel_tools.is_some() {
        dropped.add("parallel_tool_calls");
    }
    Ok(Written { body: Bytes::from(body), dropped })
}

/// # Errors
/// When a document is named that was uploaded: an endpoint has no files. Pictures are refused with what is written.
fn refuse_uploads(conversation: &Conversation<'_>) -> Result<(), Fault> {
    let is_upload = |part: &Part<'_>| matches!(&part.kind, Kind::File(Source::Upload(_), _));
    let mut parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    let has_upload = parts.any(|part| match &part.kind {
        Kind::ToolResult(result) => result.parts.iter().any(is_upload),
        _ => is_upload(part),
    });
    if has_upload {
        let advice = "name an uploaded document, which this model's provider does not have: \
                      send the document itself, as base64";
        return Err(Fault::new("messages", advice));
    }
    Ok(())
}
