//! Writing a request for a response.

use bytes::Bytes;

use super::super::chat::url;
use super::super::fields::{drop_cache_marks, file_name, refuse_choices, write_extras};
use super::super::names::CUSTOM_SCHEMA;
use super::super::neutral::{
    Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Source, Target, ToolChoice,
    ToolResult, Turn, Written,
};
use super::super::out::{self, Fields, Items};
use super::super::text::Text;
use crate::rejection::Rejection;

/// Shared fields that this format has.
const ACCEPTS: &[&str] = &[
    "top_logprobs",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
    "max_tool_calls",
];

/// Writes a request. It asks the provider to keep nothing, as the other formats do.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    refuse_choices(conversation)?;
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        to.text("model", &Text::of(target.model));
        to.list("input", |items| {
            conversation.turns.iter().for_each(|turn| write_turn(items, turn));
        });
        parameters(to, conversation, &mut dropped);
        tools(to, conversation, &mut dropped);
        if target.stream {
            to.flag("stream", true);
        }
    });
    Ok(Written { body: Bytes::from(body), dropped })
}

fn parameters(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    to.maybe_raw("max_output_tokens", conversation.max_output);
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("top_p", conversation.top_p);
    if conversation.top_k.is_some() {
        dropped.add("top_k");
    }
    if !conversation.stop.is_empty() {
        dropped.add("stop");
    }
    to.maybe_text("user", conversation.user.as_ref());
    reasoning(to, conversation.reasoning.as_ref());
    text(to, conversation);
    let has_store = conversation.extras.iter().any(|(name, _)| *name == "store");
    if !has_store {
        to.flag("store", false);
    }
    write_extras(to, &conversation.extras, dropped, |name, value| match name {
        "service_tier" => (value.get() != r#""standard_only""#).then_some("service_tier"),
        // It stands in `text`.
        "verbosity" => None,
        _ => ACCEPTS.iter().find(|accepted| **accepted == name).copied(),
    });
}

fn reasoning(to: &mut Fields<'_>, reasoning: Option<&Reasoning<'_>>) {
    let Some(effort) = reasoning.and_then(Reasoning::effort) else { return };
    to.object("reasoning", |to| {
        to.word("effort", effort);
        if let Some(Reasoning::Effort(_, Some(summary))) = reasoning {
            to.text("summary", summary);
        }
    });
    if effort != "none" {
        // Thoughts go back with the next call, so they must come with this one.
        to.list("include", |include| include.item().texts(&["reasoning.encrypted_content"]));
    }
}

fn text(to: &mut Fields<'_>, conversation: &Conversation<'_>) {
    let verbosity = conversation.extras.iter().find(|(name, _)| *name == "verbosity");
    if verbosity.is_none() && conversation.output.is_none() {
        return;
    }
    to.object("text", |text| {
        match &conversation.output {
            None => {}
            Some(Output::Json) => {
                text.object("format", |format| format.word("type", "json_object"));
            }
            Some(Output::Schema { name, description, schema, strict }) => {
                text.object("format", |format| {
                    let default = Text::of("structured_output");
                    format.word("type", "json_schema");
                    format.text("name", name.as_ref().unwrap_or(&default));
                    format.maybe_text("description", description.as_ref());
                    format.raw("schema", schema);
                    format.flag("strict", strict.unwrap_or(false));
                });
            }
        }
        if let Some((_, verbosity)) = verbosity {
            text.raw("verbosity", verbosity);
        }
    });
}

fn tools(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    if conversation.tools.is_empty() {
        if conversation.tool_choice.is_some() {
            dropped.add("tool_choice");
        }
        return;
    }
    to.list("tools", |tools| {
        for tool in &conversation.tools {
            tools.object(|to| {
                to.word("type", "function");
                to.text("name", &tool.name);
                to.maybe_text("description", tool.description.as_ref());
                match tool.schema {
                    Some(schema) => to.raw("parameters", schema),
                    None if tool.is_custom() => to.json("parameters", CUSTOM_SCHEMA),
                    None => to.json("parameters", r#"{"type":"object","properties":{}}"#),
                }
                // Here silence means strict; elsewhere it means not.
                to.flag("strict", tool.strict.unwrap_or(false));
            });
        }
    });
    match &conversation.tool_choice {
        None => {}
        Some(ToolChoice::Auto) => to.word("tool_choice", "auto"),
        Some(ToolChoice::None) => to.word("tool_choice", "none"),
        Some(ToolChoice::Required) => to.word("tool_choice", "required"),
        Some(ToolChoice::Tool(name)) => to.object("tool_choice", |choice| {
            choice.word("type", "function");
            choice.text("name", name);
        }),
    }
    if let Some(parallel) = conversation.parallel_tools {
        to.flag("parallel_tool_calls", parallel);
    }
}

/// Messages, calls, results and thoughts are items of their own, in their order.
fn write_turn(items: &mut Items<'_>, turn: &Turn<'_>) {
    let mut said: Vec<&Part<'_>> = Vec::new();
    for part in &turn.parts {
        match &part.kind {
            Kind::ToolCall(call) => {
                flush(items, turn, &mut said);
                items.object(|item| {
                    item.word("type", "function_call");
                    item.text("call_id", &call.id);
                    item.text("name", &call.name);
                    item.text("arguments", &call.arguments.quoted());
                });
            }
            Kind::ToolResult(result) => {
                flush(items, turn, &mut said);
                items.object(|item| write_result(item, result));
            }
            Kind::Thinking(text, Some(seal)) if seal.origin == Origin::OpenAi => {
                flush(items, turn, &mut said);
                items.object(|item| {
                    item.word("type", "reasoning");
                    item.list("summary", |summary| write_summary(summary, text));
                    item.text("encrypted_content", &seal.value);
                });
            }
            Kind::Thinking(..) | Kind::Redacted(_) => {}
            _ => said.push(part),
        }
    }
    flush(items, turn, &mut said);
}

/// What was thought, as the parts of a summary.
pub(super) fn write_summary(summary: &mut Items<'_>, text: &Text<'_>) {
    if !text.is_empty() {
        summary.object(|part| {
            part.word("type", "summary_text");
            part.text("text", text);
        });
    }
}

fn flush(items: &mut Items<'_>, turn: &Turn<'_>, said: &mut Vec<&Part<'_>>) {
    let is_filled = |part: &&Part<'_>| !matches!(&part.kind, Kind::Text(text) if text.is_empty());
    if turn.role == Role::Assistant {
        said.retain(is_filled);
    }
    if said.is_empty() {
        return;
    }
    items.object(|item| {
        item.word("type", "message");
        item.word(
            "role",
            match turn.role {
                Role::System => "system",
                Role::Developer => "developer",
                Role::User => "user",
                Role::Assistant => "assistant",
            },
        );
        if let ([Part { kind: Kind::Text(text), .. }], true) = (&said[..], turn.is_plain) {
            return item.text("content", text);
        }
        item.list("content", |content| {
            said.iter().for_each(|part| write_part(content, part, turn.role));
        });
    });
    said.clear();
}

fn write_result(item: &mut Fields<'_>, result: &ToolResult<'_>) {
    item.word("type", "function_call_output");
    item.text("call_id", &result.id);
    match &result.parts[..] {
        [] => item.word("output", ""),
        [Part { kind: Kind::Text(text), .. }] => item.text("output", text),
        parts => item.list("output", |output| {
            parts.iter().for_each(|part| write_part(output, part, Role::User));
        }),
    }
}

fn write_part(content: &mut Items<'_>, part: &Part<'_>, role: Role) {
    content.object(|to| match &part.kind {
        Kind::Refusal(text) if role == Role::Assistant => {
            to.word("type", "refusal");
            to.text("refusal", text);
        }
        Kind::Text(text) | Kind::Refusal(text) | Kind::File(Source::Plain(text), _) => {
            to.word("type", if role == Role::Assistant { "output_text" } else { "input_text" });
            to.text("text", text);
        }
        Kind::Image(source, detail) => {
            to.word("type", "input_image");
            match source {
                Source::Upload(id) => to.text("file_id", id),
                _ => url(to, "image_url", source),
            }
            to.maybe_text("detail", detail.as_ref());
        }
        Kind::File(source, name) => {
            to.word("type", "input_file");
            match source {
                Source::Upload(id) => to.text("file_id", id),
                Source::Url(address) => to.text("file_url", address),
                Source::Base64(media, _) => {
                    to.text("filename", &file_name(name.as_ref(), media));
                    url(to, "file_data", source);
                }
                Source::Plain(_) => {}
            }
        }
        // The provider says best what it makes of it.
        Kind::Opaque(object) => to.copy(object),
        Kind::ToolCall(_) | Kind::ToolResult(_) | Kind::Thinking(..) | Kind::Redacted(_) => {}
    });
}
