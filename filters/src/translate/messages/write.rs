//! Writing a request for a message.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::fields::{joined, object_schema, refuse_choices, write_extras};
use super::super::names::CUSTOM_SCHEMA;
use super::super::neutral::{
    Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Source, Target, ToolChoice,
    Turn, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields, Items};
use super::super::schema;
use super::super::text::Text;
use crate::rejection::Rejection;

/// The version that Claude on Vertex must be told.
pub(crate) const VERTEX_VERSION: &str = "vertex-2023-10-16";

/// Longest answer where the caller does not say: the provider wants to be told.
const DEFAULT_MAX_TOKENS: u64 = 8192;

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    check(conversation)?;
    let mut dropped = conversation.dropped.clone();
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        if target.provider == "vertexaianthropic" {
            // The address names the model there.
            to.word("anthropic_version", VERTEX_VERSION);
        } else {
            to.text("model", &Text::of(target.model));
        }
        match conversation.max_output {
            Some(max) => to.raw("max_tokens", max),
            None => to.number("max_tokens", DEFAULT_MAX_TOKENS),
        }
        system(to, conversation);
        to.list("messages", |messages| {
            let spoken = |turn: &&Turn<'_>| matches!(turn.role, Role::User | Role::Assistant);
            conversation.turns.iter().filter(spoken).for_each(|turn| write_turn(messages, turn));
        });
        tools(to, conversation, &mut dropped);
        parameters(to, conversation, target, &mut dropped);
    });
    Ok(Written { body: Bytes::from(body), dropped })
}

/// What would have to be left out though the answer depends on it.
fn check(conversation: &Conversation<'_>) -> Result<(), Fault> {
    refuse_choices(conversation)?;
    if let Some(Output::Json) = conversation.output {
        let advice = "must be json_schema: this model's provider has no json_object";
        return Err(Fault::new("response_format", advice));
    }
    conversation.turns.iter().flat_map(|turn| &turn.parts).try_for_each(check_part)
}

fn check_part(part: &Part<'_>) -> Result<(), Fault> {
    match &part.kind {
        Kind::ToolCall(call) if call.arguments.object().is_none() => {
            let id = call.id.plain();
            let problem =
                format!("hold the tool call `{id}`, whose arguments are not a JSON object");
            Err(Fault::new("messages", problem))
        }
        Kind::Image(Source::Upload(_), _) | Kind::File(Source::Upload(_), _) => {
            let advice = "name an uploaded file, which this model's provider does not have: \
                          send the file itself, as base64";
            Err(Fault::new("messages", advice))
        }
        Kind::ToolResult(result) => result.parts.iter().try_for_each(check_part),
        _ => Ok(()),
    }
}

/// All instructions, wherever they stand: one text, or blocks where one of them has parts or a mark.
fn system(to: &mut Fields<'_>, conversation: &Conversation<'_>) {
    let is_system = |turn: &&Turn<'_>| matches!(turn.role, Role::System | Role::Developer);
    let turns: Vec<_> = conversation.turns.iter().filter(is_system).collect();
    let is_simple = |turn: &&Turn<'_>| {
        turn.parts.len() <= 1 && turn.parts.iter().all(|part| part.cache.is_none())
    };
    if turns.is_empty() {
        return;
    }
    if turns.iter().all(is_simple) {
        let texts: Vec<_> = turns.iter().map(|turn| joined(&turn.parts, "")).collect();
        return to.text("system", &Text::join(&texts, "\n"));
    }
    to.list("system", |blocks| {
        for turn in turns {
            turn.parts.iter().for_each(|part| write_part(blocks, part));
        }
    });
}

fn write_turn(messages: &mut Items<'_>, turn: &Turn<'_>) {
    let is_assistant = turn.role == Role::Assistant;
    let parts: Vec<&Part<'_>> = turn.parts.iter().filter(|part| is_written(part)).collect();
    // Of a turn of unsealed thoughts nothing is left, and a turn of nothing is refused.
    if is_assistant && parts.is_empty() {
        return;
    }
    messages.object(|message| {
        message.word("role", if is_assistant { "assistant" } else { "user" });
        match &parts[..] {
            [] => message.word("content", ""),
            [Part { kind: Kind::Text(text), cache: None }] if turn.is_plain => {
                message.text("content", text);
            }
            parts => message.list("content", |blocks| {
                parts.iter().for_each(|part| write_part(blocks, part));
            }),
        }
    });
}

/// Whether a part becomes a block: empty texts are refused, and thoughts are only for who sealed them.
fn is_written(part: &Part<'_>) -> bool {
    match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => !text.is_empty(),
        Kind::Thinking(_, seal) => {
            seal.as_ref().is_some_and(|seal| seal.origin == Origin::Anthropic)
        }
        Kind::Redacted(seal) => seal.origin == Origin::Anthropic,
        _ => true,
    }
}

fn write_part(blocks: &mut Items<'_>, part: &Part<'_>) {
    blocks.object(|to| {
        match &part.kind {
            Kind::Text(text) | Kind::Refusal(text) => {
                to.word("type", "text");
                to.text("text", text);
            }
            Kind::Image(from, _) => {
                to.word("type", "image");
                source(to, from);
            }
            Kind::File(from, name) => {
                to.word("type", "document");
                source(to, from);
                to.maybe_text("title", name.as_ref());
            }
            Kind::ToolCall(call) => {
                to.word("type", "tool_use");
                to.text("id", &call.id);
                to.text("name", &call.name);
                to.json("input", call.arguments.object().as_deref().unwrap_or("{}"));
            }
            Kind::ToolResult(result) => {
                to.word("type", "tool_result");
                to.text("tool_use_id", &result.id);
                match &result.parts[..] {
                    [Part { kind: Kind::Text(text), .. }] if result.is_plain => {
                        to.text("content", text);
                    }
                    parts => to.list("content", |blocks| {
                        let kept = parts.iter().filter(|part| is_written(part));
                        kept.for_each(|part| write_part(blocks, part));
                    }),
                }
                if result.is_error {
                    to.flag("is_error", true);
                }
            }
            Kind::Thinking(text, seal) => {
                to.word("type", "thinking");
                to.text("thinking", text);
                to.maybe_text("signature", seal.as_ref().map(|seal| &seal.value));
            }
            Kind::Redacted(seal) => {
                to.word("type", "redacted_thinking");
                to.text("data", &seal.value);
            }
            // The provider says best what it makes of it. A mark is among its fields.
            Kind::Opaque(object) => return to.copy(object),
        }
        to.maybe_raw("cache_control", part.cache);
    });
}

fn source(to: &mut Fields<'_>, source: &Source<'_>) {
    to.object("source", |to| match source {
        Source::Base64(media, data) => {
            to.word("type", "base64");
            to.text("media_type", media);
            to.text("data", data);
        }
        Source::Url(url) => {
            to.word("type", "url");
            to.text("url", url);
        }
        Source::Upload(id) => {
            to.word("type", "file");
            to.text("file_id", id);
        }
        Source::Plain(text) => {
            to.word("type", "text");
            to.word("media_type", "text/plain");
            to.text("data", text);
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
                to.text("name", &tool.name);
                to.text("description", tool.description.as_ref().unwrap_or(&Text::default()));
                let custom = tool.is_custom() && tool.schema.is_none();
                if custom {
                    to.json("input_schema", CUSTOM_SCHEMA);
                } else {
                    to.json("input_schema", &object_schema(tool.schema));
                }
                to.maybe_raw("cache_control", tool.cache);
            });
            if tool.strict == Some(true) {
                dropped.add("tools.strict");
            }
        }
    });
    let parallel = conversation.parallel_tools;
    let disable = |to: &mut Fields<'_>| {
        to.flag("disable_parallel_tool_use", !parallel.unwrap_or(true));
    };
    match &conversation.tool_choice {
        None if parallel.is_none() => {}
        None | Some(ToolChoice::Auto) => to.object("tool_choice", |choice| {
            choice.word("type", "auto");
            disable(choice);
        }),
        Some(ToolChoice::Required) => to.object("tool_choice", |choice| {
            choice.word("type", "any");
            disable(choice);
        }),
        Some(ToolChoice::None) => to.object("tool_choice", |choice| choice.word("type", "none")),
        Some(ToolChoice::Tool(name)) => to.object("tool_choice", |choice| {
            choice.word("type", "tool");
            choice.text("name", name);
        }),
    }
}

fn parameters(
    to: &mut Fields<'_>,
    conversation: &Conversation<'_>,
    target: &Target<'_>,
    dropped: &mut Dropped,
) {
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("top_p", conversation.top_p);
    to.maybe_raw("top_k", conversation.top_k);
    if !conversation.stop.is_empty() {
        to.list("stop_sequences", |stop| {
            conversation.stop.iter().for_each(|text| stop.item().text(text));
        });
    }
    if let Some(user) = &conversation.user {
        to.object("metadata", |metadata| metadata.text("user_id", user));
    }
    thinking(to, conversation);
    let is_ours = |value: &RawValue| matches!(value.get(), r#""auto""# | r#""standard_only""#);
    write_extras(to, &conversation.extras, dropped, |name, value| {
        (name == "service_tier" && is_ours(value)).then_some("service_tier")
    });
    if target.stream {
        to.flag("stream", true);
    }
}

fn thinking(to: &mut Fields<'_>, conversation: &Conversation<'_>) {
    let effort = match &conversation.reasoning {
        None => None,
        Some(Reasoning::Off) => {
            to.object("thinking", |thinking| thinking.word("type", "disabled"));
            None
        }
        Some(Reasoning::Budget(budget)) => {
            to.object("thinking", |thinking| {
                thinking.word("type", "enabled");
                thinking.number("budget_tokens", *budget);
            });
            None
        }
        Some(Reasoning::Adaptive) => {
            to.object("thinking", |thinking| thinking.word("type", "adaptive"));
            None
        }
        Some(Reasoning::Effort(level, _)) => {
            to.object("thinking", |thinking| thinking.word("type", "adaptive"));
            Some(if level.is("minimal") { Text::of("low") } else { level.borrow() })
        }
    };
    let format = match &conversation.output {
        Some(Output::Schema { schema, .. }) => Some(schema),
        Some(Output::Json) | None => None,
    };
    if effort.is_none() && format.is_none() {
        return;
    }
    to.object("output_config", |config| {
        config.maybe_text("effort", effort.as_ref());
        if let Some(schema) = format {
            config.object("format", |format| {
                format.word("type", "json_schema");
                format.json("schema", &schema::closed(schema));
            });
        }
    });
}
