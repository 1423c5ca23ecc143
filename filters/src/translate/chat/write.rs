//! Writing a request for a chat completion.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::fields::{drop_cache_marks, drop_opaque, refuse_choices, write_extras};
use super::super::neutral::{
    Conversation, Dropped, Kind, Output, Part, Reasoning, Role, Source, Target, ToolChoice, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields};
use super::super::quirks::{self, Effort, Formats, Quirks};
use super::super::schema;
use super::super::text::Text;
use super::turns::messages;
use crate::rejection::Rejection;

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    let quirks = quirks::of(target.provider);
    check(conversation, &quirks, target.provider)?;
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    drop_opaque(&mut dropped, conversation, Some(Role::User));
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        let name = if quirks.is_watsonx { "model_id" } else { "model" };
        to.text(name, &Text::of(target.model));
        to.list("messages", |list| messages(list, conversation, &quirks, &mut dropped));
        parameters(to, conversation, target, &quirks, &mut dropped);
        tools(to, conversation, &quirks, &mut dropped);
    });
    Ok(Written { body: Bytes::from(body), dropped })
}

/// What would have to be left out though the answer depends on it.
fn check(conversation: &Conversation<'_>, quirks: &Quirks, provider: &str) -> Result<(), Fault> {
    refuse_choices(conversation)?;
    let wrong = match (quirks.formats, &conversation.output) {
        (Formats::Refused, Some(_)) => Some(format!("is not supported by `{provider}`")),
        (Formats::Schema, Some(Output::Json)) => {
            Some(format!("must be of type json_schema: `{provider}` knows no other"))
        }
        _ => None,
    };
    if let Some(problem) = wrong {
        return Err(Fault::new("response_format", problem));
    }
    refuse_uploads(conversation)
}

/// # Errors
/// When a picture is named that was uploaded elsewhere.
pub(in crate::translate) fn refuse_uploads(conversation: &Conversation<'_>) -> Result<(), Fault> {
    let is_upload = |part: &Part<'_>| matches!(&part.kind, Kind::Image(Source::Upload(_), _));
    let mut parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    let has_upload = parts.any(|part| match &part.kind {
        // Its pictures are shown too.
        Kind::ToolResult(result) => result.parts.iter().any(is_upload),
        _ => is_upload(part),
    });
    if has_upload {
        let advice = "names an uploaded picture, which this model's provider does not have: \
                      send the picture itself, as base64";
        return Err(Fault::new("messages", advice));
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
    if quirks.switches_thinking {
        let effort = conversation.reasoning.as_ref();
        let effort = effort.map(|reasoning| reasoning.effort().unwrap_or("adaptive"));
        if let Some(word) = quirks::thinking_switch(target.model, effort) {
            to.object("thinking", |thinking| thinking.word("type", word));
        }
    }
    output(to, conversation.output.as_ref(), quirks, dropped);
    match &conversation.user {
        Some(_) if quirks.no_user => dropped.add("user"),
        user => to.maybe_text("user", user.as_ref()),
    }
    let is_anthropic = |value: &RawValue| value.get() == r#""standard_only""#;
    write_extras(to, &conversation.extras, dropped, |name, value| match name {
        "seed" => Some(quirks.seed),
        "service_tier" if is_anthropic(value) => None,
        _ => quirks.accepts.iter().find(|accepted| **accepted == name).copied(),
    });
    if quirks.is_watsonx {
        for name in ["project_id", "space_id"] {
            to.maybe_text(name, target.setting(name).map(Text::of).as_ref());
        }
    } else if target.stream {
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

fn output(
    to: &mut Fields<'_>,
    output: Option<&Output<'_>>,
    quirks: &Quirks,
    dropped: &mut Dropped,
) {
    let Some(output) = output else { return };
    let (default, is_strict) = match quirks.formats {
        Formats::Refused | Formats::Dropped => return dropped.add("response_format"),
        Formats::Schema => ("structured_output", Some(true)),
        Formats::All(name) => (name, None),
    };
    to.object("response_format", |format| match output {
        Output::Json => format.word("type", "json_object"),
        Output::Schema { name, description, schema, strict } => {
            format.word("type", "json_schema");
            format.object("json_schema", |to| {
                to.text("name", name.as_ref().unwrap_or(&Text::of(default)));
                to.maybe_text("description", description.as_ref());
                to.raw("schema", schema);
                if let Some(strict) = strict.or(is_strict) {
                    to.flag("strict", strict);
                }
            });
        }
    });
}

fn tools(
    to: &mut Fields<'_>,
    conversation: &Conversation<'_>,
    quirks: &Quirks,
    dropped: &mut Dropped,
) {
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
                        (Some(schema), _) if quirks.types_one_of => {
                            function.json("parameters", &schema::with_types(schema));
                        }
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
    // Two fields there: one for words, one for a name.
    let word = if quirks.is_watsonx { "tool_choice_option" } else { "tool_choice" };
    match &conversation.tool_choice {
        None => {}
        Some(ToolChoice::Auto) => to.word(word, "auto"),
        Some(ToolChoice::None) => to.word(word, "none"),
        Some(ToolChoice::Required) => to.word(word, "required"),
        Some(ToolChoice::Tool(name)) => to.object("tool_choice", |choice| {
            choice.word("type", "function");
            choice.object("function", |function| function.text("name", name));
        }),
    }
    match conversation.parallel_tools {
        Some(_) if quirks.no_parallel => dropped.add("parallel_tool_calls"),
        Some(parallel) => to.flag("parallel_tool_calls", parallel),
        None => {}
    }
}
