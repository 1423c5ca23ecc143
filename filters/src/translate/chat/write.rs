//! Writing a request for a chat completion.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::fields::{drop_cache_marks, file_name, joined, write_extras};
use super::super::neutral::{
    Conversation, Dropped, Kind, Output, Part, Reasoning, Role, Source, Target, ToolChoice,
    ToolResult, Turn, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields, Items};
use super::super::quirks::{self, Effort, Quirks};
use super::super::text::Text;
use crate::rejection::Rejection;

/// Shared fields that this format has.
const ACCEPTS: &[&str] = &[
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "metadata",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
];

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    let quirks = quirks::of(target.provider);
    check(conversation, &quirks)?;
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        to.text("model", &Text::of(target.model));
        to.list("messages", |messages| {
            for turn in &conversation.turns {
                write_turn(messages, turn, &quirks, &mut dropped);
            }
        });
        parameters(to, conversation, target, &quirks, &mut dropped);
        tools(to, conversation, &mut dropped);
    });
    Ok(Written { body: Bytes::from(body), dropped })
}

/// What would have to be left out though the answer depends on it.
fn check(conversation: &Conversation<'_>, quirks: &Quirks) -> Result<(), Fault> {
    if quirks.no_response_format && conversation.output.is_some() {
        return Err(Fault::new("response_format", "is not supported by this model's provider"));
    }
    let parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    for part in parts {
        if let Kind::Image(Source::Upload(_), _) = &part.kind {
            let advice = "names an uploaded picture, which this model's provider does not have: \
                          send the picture itself, as base64";
            return Err(Fault::new("messages", advice));
        }
    }
    Ok(())
}

fn parameters(
    to: &mut Fields<'_>,
    conversation: &Conversation<'_>,
    target: &Target<'_>,
    quirks: &Quirks,
    dropped: &mut Dropped,
) {
    if let Some(max) = conversation.max_output {
        let kept = quirks.keeps_max_tokens;
        to.raw(if kept { "max_tokens" } else { "max_completion_tokens" }, max);
    }
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("top_p", conversation.top_p);
    if conversation.top_k.is_some() {
        dropped.add("top_k");
    }
    if !conversation.stop.is_empty() {
        to.list("stop", |stop| {
            conversation.stop.iter().for_each(|text| stop.item().text(text));
        });
    }
    reasoning(to, conversation.reasoning.as_ref(), quirks);
    output(to, conversation.output.as_ref());
    to.maybe_text("user", conversation.user.as_ref());
    let is_anthropic = |value: &RawValue| value.get() == r#""standard_only""#;
    write_extras(to, &conversation.extras, dropped, |name, value| match name {
        "seed" => Some(quirks.seed),
        "service_tier" => (!is_anthropic(value)).then_some("service_tier"),
        _ => ACCEPTS.iter().find(|accepted| **accepted == name).copied(),
    });
    if target.stream {
        to.flag("stream", true);
        if !quirks.no_stream_options {
            to.object("stream_options", |options| options.flag("include_usage", true));
        }
    }
}

fn reasoning(to: &mut Fields<'_>, reasoning: Option<&Reasoning<'_>>, quirks: &Quirks) {
    let Some(effort) = reasoning.and_then(Reasoning::effort) else { return };
    match (quirks.effort, effort) {
        (Effort::NoNone | Effort::High, "none") => {}
        (Effort::High, _) => to.word("reasoning_effort", "high"),
        (Effort::Object, "low" | "medium" | "high") => {
            to.object("reasoning", |reasoning| reasoning.word("effort", effort));
        }
        (Effort::Plain | Effort::NoNone | Effort::Object, _) => {
            to.word("reasoning_effort", effort);
        }
    }
}

fn output(to: &mut Fields<'_>, output: Option<&Output<'_>>) {
    match output {
        None => {}
        Some(Output::Json) => {
            to.object("response_format", |format| format.word("type", "json_object"));
        }
        Some(Output::Schema { name, description, schema, strict }) => {
            to.object("response_format", |format| {
                format.word("type", "json_schema");
                format.object("json_schema", |to| {
                    let default = Text::of("structured_output");
                    to.text("name", name.as_ref().unwrap_or(&default));
                    to.maybe_text("description", description.as_ref());
                    to.raw("schema", schema);
                    if let Some(strict) = strict {
                        to.flag("strict", *strict);
                    }
                });
            });
        }
    }
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
                to.object("function", |function| {
                    function.text("name", &tool.name);
                    function
                        .text("description", tool.description.as_ref().unwrap_or(&Text::default()));
                    match (tool.schema, tool.is_custom()) {
                        (Some(schema), _) => function.raw("parameters", schema),
                        (None, true) => {
                            function.json("parameters", super::super::names::CUSTOM_SCHEMA)
                        }
                        (None, false) => function.json("parameters", "{}"),
                    }
                    if let Some(strict) = tool.strict {
                        function.flag("strict", strict);
                    }
                });
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
            choice.object("function", |function| function.text("name", name));
        }),
    }
    if let Some(parallel) = conversation.parallel_tools {
        to.flag("parallel_tool_calls", parallel);
    }
}

fn write_turn(messages: &mut Items<'_>, turn: &Turn<'_>, quirks: &Quirks, dropped: &mut Dropped) {
    match turn.role {
        Role::System | Role::Developer => messages.object(|message| {
            // Few providers know `developer`, all know this.
            message.word("role", "system");
            message.text("content", &joined(&turn.parts, ""));
        }),
        Role::User => user(messages, turn),
        // Of a turn of thoughts nothing is left.
        Role::Assistant if turn.parts.iter().all(is_thought) => {}
        Role::Assistant => messages.object(|message| assistant(message, turn, quirks, dropped)),
    }
}

fn is_thought(part: &Part<'_>) -> bool {
    matches!(part.kind, Kind::Thinking(..) | Kind::Redacted(_))
}

/// Results of tools become messages of their own; what is said before and after stays before and after.
fn user(messages: &mut Items<'_>, turn: &Turn<'_>) {
    if let ([Part { kind: Kind::Text(text), .. }], true) = (&turn.parts[..], turn.is_plain) {
        messages.object(|message| {
            message.word("role", "user");
            message.text("content", text);
        });
        return;
    }
    let mut pending: Vec<&Part<'_>> = Vec::new();
    // A tool's message holds text only: its pictures are shown by the user, behind the last result.
    let mut shown: Vec<&Part<'_>> = Vec::new();
    for part in &turn.parts {
        if let Kind::ToolResult(result) = &part.kind {
            flush(messages, &mut pending);
            tool(messages, result);
            shown.extend(
                result
                    .parts
                    .iter()
                    .filter(|part| matches!(part.kind, Kind::Image(..) | Kind::File(..))),
            );
        } else {
            pending.append(&mut shown);
            pending.push(part);
        }
    }
    pending.append(&mut shown);
    flush(messages, &mut pending);
}

fn tool(messages: &mut Items<'_>, result: &ToolResult<'_>) {
    messages.object(|message| {
        message.word("role", "tool");
        message.text("tool_call_id", &result.id);
        message.text("content", &joined(&result.parts, ""));
    });
}

fn flush(messages: &mut Items<'_>, parts: &mut Vec<&Part<'_>>) {
    parts.retain(|part| !is_thought(part) && !matches!(part.kind, Kind::ToolCall(_)));
    if parts.is_empty() {
        return;
    }
    messages.object(|message| {
        message.word("role", "user");
        message.list("content", |content| {
            parts.drain(..).for_each(|part| write_part(content, part));
        });
    });
}

fn write_part(content: &mut Items<'_>, part: &Part<'_>) {
    content.object(|to| match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => {
            to.word("type", "text");
            to.text("text", text);
        }
        Kind::Image(source, detail) => {
            to.word("type", "image_url");
            to.object("image_url", |image| {
                url(image, "url", source);
                image.maybe_text("detail", detail.as_ref());
            });
        }
        Kind::File(Source::Plain(text), _) => {
            to.word("type", "text");
            to.text("text", text);
        }
        Kind::File(source, name) => {
            to.word("type", "file");
            to.object("file", |file| {
                if let Source::Base64(media, _) = source {
                    file.text("filename", &file_name(name.as_ref(), media));
                } else {
                    file.maybe_text("filename", name.as_ref());
                }
                match source {
                    Source::Upload(id) => file.text("file_id", id),
                    _ => url(file, "file_data", source),
                }
            });
        }
        // The provider says best what it makes of it.
        Kind::Opaque(object) => to.copy(object),
        Kind::ToolCall(_) | Kind::ToolResult(_) | Kind::Thinking(..) | Kind::Redacted(_) => {}
    });
}

/// A field that holds an address, or the thing itself as one.
pub(in crate::translate) fn url(to: &mut Fields<'_>, name: &str, source: &Source<'_>) {
    match source {
        Source::Base64(media, data) => {
            to.field(name).texts(&["data:", media.escaped(), ";base64,", data.escaped()]);
        }
        Source::Url(url) | Source::Upload(url) | Source::Plain(url) => to.text(name, url),
    }
}

fn assistant(message: &mut Fields<'_>, turn: &Turn<'_>, quirks: &Quirks, dropped: &mut Dropped) {
    message.word("role", "assistant");
    let calls = || {
        turn.parts.iter().filter_map(|part| match &part.kind {
            Kind::ToolCall(call) => Some(call),
            _ => None,
        })
    };
    let has_calls = calls().next().is_some();
    let text = joined(&turn.parts, "");
    if text.is_empty() && has_calls {
        message.null("content");
    } else {
        message.text("content", &text);
    }
    if quirks.replays_reasoning && has_calls {
        let thoughts = turn.parts.iter().filter_map(|part| match &part.kind {
            Kind::Thinking(text, _) => Some(text),
            _ => None,
        });
        message.text("reasoning_content", &Text::join(thoughts, ""));
    }
    if turn.parts.iter().any(|part| matches!(part.kind, Kind::Image(..) | Kind::File(..))) {
        dropped.add("assistant.image");
    }
    if has_calls {
        message.list("tool_calls", |list| {
            for call in calls() {
                list.object(|to| {
                    to.text("id", &call.id);
                    to.word("type", "function");
                    to.object("function", |function| {
                        function.text("name", &call.name);
                        function.text("arguments", &call.arguments.quoted());
                    });
                });
            }
        });
    }
}
