//! Writing a request for a chat.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::fields::{
    drop_cache_marks, drop_opaque, is_repeatable, joined, object_schema, refuse_choices, text_of,
    write_extras,
};
use super::super::neutral::{
    Conversation, Dropped, Kind, Output, Part, Reasoning, Role, Source, Target, ToolCall,
    ToolChoice, ToolResult, Turn, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields, Items};
use super::super::text::Text;
use crate::rejection::Rejection;

/// The context that a model gets: the server's own default cuts longer conversations off without a word.
const CONTEXT: u64 = 32_000;

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    refuse_choices(conversation)?;
    let parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    parts.clone().try_for_each(check)?;
    let results = parts.filter_map(|part| match &part.kind {
        Kind::ToolResult(result) => Some(&result.parts),
        _ => None,
    });
    results.flatten().try_for_each(check)?;
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    drop_opaque(&mut dropped, conversation, None);
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        to.text("model", &Text::of(target.model));
        to.list("messages", |messages| {
            let mut names = HashMap::new();
            for turn in &conversation.turns {
                write_turn(messages, turn, &mut names, &mut dropped);
            }
        });
        tools(to, conversation, &mut dropped);
        think(to, conversation.reasoning.as_ref());
        match &conversation.output {
            None => {}
            Some(Output::Json) => to.word("format", "json"),
            Some(Output::Schema { schema, .. }) => to.raw("format", schema),
        }
        to.flag("stream", target.stream);
        to.object("options", |to| options(to, conversation, &mut dropped));
    });
    if conversation.user.is_some() {
        dropped.add("user");
    }
    Ok(Written { body: Bytes::from(body), dropped })
}

fn check(part: &Part<'_>) -> Result<(), Fault> {
    match &part.kind {
        Kind::File(source, _) if !matches!(source, Source::Plain(_)) => {
            let advice = "hold a document, which this model's provider does not take: send its \
                          text, or its pages as pictures";
            Err(Fault::new("messages", advice))
        }
        Kind::ToolCall(call) if call.arguments.object().is_none() => {
            let id = call.id.plain();
            let problem =
                format!("hold the tool call `{id}`, whose arguments are not a JSON object");
            Err(Fault::new("messages", problem))
        }
        _ => Ok(()),
    }
}

/// The names of the tools that were called so far, by the ids of their calls: of two calls of one id the last counts.
type Names<'c> = HashMap<&'c str, &'c Text<'c>>;

fn write_turn<'c>(
    messages: &mut Items<'_>,
    turn: &'c Turn<'_>,
    names: &mut Names<'c>,
    dropped: &mut Dropped,
) {
    match turn.role {
        Role::System | Role::Developer => messages.object(|message| {
            message.word("role", "system");
            message.text("content", &joined(&turn.parts, ""));
        }),
        Role::User => user(messages, turn, names, dropped),
        Role::Assistant => assistant(messages, turn, names, dropped),
    }
}

/// Results come first, each a message; their pictures are shown with what else is said.
fn user(messages: &mut Items<'_>, turn: &Turn<'_>, names: &Names<'_>, dropped: &mut Dropped) {
    let mut said: Vec<&Part<'_>> = Vec::new();
    let mut has_results = false;
    for part in &turn.parts {
        if let Kind::ToolResult(result) = &part.kind {
            has_results = true;
            tool(messages, result, names);
            let is_image = |part: &&Part<'_>| matches!(part.kind, Kind::Image(..));
            said.extend(result.parts.iter().filter(is_image));
        } else {
            said.push(part);
        }
    }
    if has_results && said.is_empty() {
        return;
    }
    messages.object(|message| {
        message.word("role", "user");
        let texts = said.iter().filter_map(|part| readable(part));
        message.text("content", &Text::join(texts, " "));
        images(message, &said, dropped);
    });
}

/// The text of a part that is one, or of a document that is plain text.
fn readable<'p, 'a>(part: &'p Part<'a>) -> Option<&'p Text<'a>> {
    match &part.kind {
        Kind::File(Source::Plain(text), _) => Some(text),
        _ => text_of(part),
    }
}

fn images(message: &mut Fields<'_>, parts: &[&Part<'_>], dropped: &mut Dropped) {
    let mut inline = Vec::new();
    for part in parts {
        match &part.kind {
            Kind::Image(Source::Base64(media, data), _) if media.escaped().starts_with("image") => {
                inline.push(data);
            }
            Kind::Image(..) => dropped.add("image_url"),
            _ => {}
        }
    }
    if !inline.is_empty() {
        message.list("images", |list| inline.iter().for_each(|data| list.item().text(data)));
    }
}

fn tool(messages: &mut Items<'_>, result: &ToolResult<'_>, names: &Names<'_>) {
    messages.object(|message| {
        message.word("role", "tool");
        message.text("content", &Text::join(result.parts.iter().filter_map(readable), ""));
        let called = names.get(result.id.escaped()).copied();
        message.maybe_text("tool_name", result.name.as_ref().or(called));
    });
}

fn assistant<'c>(
    messages: &mut Items<'_>,
    turn: &'c Turn<'_>,
    names: &mut Names<'c>,
    dropped: &mut Dropped,
) {
    let calls: Vec<&ToolCall<'_>> = turn
        .parts
        .iter()
        .filter_map(|part| match &part.kind {
            Kind::ToolCall(call) => Some(call),
            _ => None,
        })
        .collect();
    if calls.is_empty() && !turn.parts.iter().any(|part| text_of(part).is_some()) {
        return;
    }
    if turn.parts.iter().any(|part| matches!(part.kind, Kind::Image(..))) {
        dropped.add("assistant.image");
    }
    messages.object(|message| {
        message.word("role", "assistant");
        message.text("content", &joined(&turn.parts, ""));
        if calls.is_empty() {
            return;
        }
        message.list("tool_calls", |list| {
            for call in &calls {
                list.object(|to| {
                    to.object("function", |function| {
                        function.text("name", &call.name);
                        let arguments = call.arguments.object();
                        function.json("arguments", arguments.as_deref().unwrap_or("{}"));
                    });
                });
            }
        });
    });
    let known = calls.iter().filter(|call| is_repeatable(&call.name));
    names.extend(known.map(|call| (call.id.escaped(), &call.name)));
}

/// The provider cannot be told which tool to call; one that may call none is told of none.
fn tools(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    if conversation.parallel_tools.is_some() {
        dropped.add("parallel_tool_calls");
    }
    match &conversation.tool_choice {
        None | Some(ToolChoice::Auto) => {}
        Some(ToolChoice::None) => return,
        Some(ToolChoice::Required | ToolChoice::Tool(_)) => dropped.add("tool_choice"),
    }
    if conversation.tools.is_empty() {
        return;
    }
    if conversation.tools.iter().any(|tool| tool.strict == Some(true)) {
        dropped.add("tools.strict");
    }
    to.list("tools", |tools| {
        for tool in &conversation.tools {
            tools.object(|to| {
                to.word("type", "function");
                to.object("function", |function| {
                    function.text("name", &tool.name);
                    let none = Text::default();
                    function.text("description", tool.description.as_ref().unwrap_or(&none));
                    if tool.is_custom() {
                        function.json("parameters", super::super::names::CUSTOM_SCHEMA);
                    } else {
                        function.json("parameters", &object_schema(tool.schema));
                    }
                });
            });
        }
    });
}

fn think(to: &mut Fields<'_>, reasoning: Option<&Reasoning<'_>>) {
    let Some(effort) = reasoning.and_then(Reasoning::effort) else { return };
    match effort {
        "none" => to.flag("think", false),
        "minimal" | "low" => to.word("think", "low"),
        "medium" => to.word("think", "medium"),
        _ => to.word("think", "high"),
    }
}

fn options(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    to.number("num_ctx", CONTEXT);
    to.maybe_raw("num_predict", conversation.max_output);
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("top_p", conversation.top_p);
    to.maybe_raw("top_k", conversation.top_k);
    if !conversation.stop.is_empty() {
        to.list("stop", |stop| {
            conversation.stop.iter().for_each(|text| stop.item().text(text));
        });
    }
    write_extras(to, &conversation.extras, dropped, |name, _| {
        ["seed", "presence_penalty", "frequency_penalty"].into_iter().find(|known| *known == name)
    });
}
