//! Writing a request for a chat.

use bytes::Bytes;

use super::super::chat::{Messages, refuse_uploads, write_calls};
use super::super::fields::{
    drop_cache_marks, drop_opaque, joined, object_schema, refuse_choices, write_extras,
};
use super::super::neutral::{
    Conversation, Dropped, Kind, Output, Part, Reasoning, Role, Source, Target, Tool, ToolChoice,
    Turn, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields};
use super::super::quirks;
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
    refuse_uploads(conversation)?;
    refuse_documents(conversation)?;
    let tools = offered(conversation)?;
    let quirks = quirks::of(target.provider);
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    drop_opaque(&mut dropped, conversation, Some(Role::User));
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        to.text("model", &Text::of(target.model));
        to.flag("stream", target.stream);
        to.list("messages", |list| {
            let mut messages = Messages::new(list, &quirks);
            for turn in &conversation.turns {
                match turn.role {
                    Role::System | Role::Developer => messages.system(turn),
                    Role::User => messages.user(turn),
                    Role::Assistant if !turn.parts.iter().any(is_written) => {}
                    Role::Assistant => messages.message(|to| assistant(to, turn, &mut dropped)),
                }
            }
        });
        parameters(to, conversation, &mut dropped);
        write_tools(to, conversation, &tools, &mut dropped);
    });
    Ok(Written { body: Bytes::from(body), dropped })
}

/// # Errors
/// When a document is shown: text and pictures are all that can be.
fn refuse_documents(conversation: &Conversation<'_>) -> Result<(), Fault> {
    let is_document = |part: &Part<'_>| matches!(&part.kind, Kind::File(source, _) if !matches!(source, Source::Plain(_)));
    let within = |part: &Part<'_>| match &part.kind {
        Kind::ToolResult(result) => result.parts.iter().any(is_document),
        _ => is_document(part),
    };
    if conversation.turns.iter().flat_map(|turn| &turn.parts).any(within) {
        let advice = "hold a document, which this model's provider does not take: send its text";
        return Err(Fault::new("messages", advice));
    }
    Ok(())
}

/// The tools that may be called: of one that must be, that one alone, because the provider cannot be told a name.
fn offered<'c, 'a>(conversation: &'c Conversation<'a>) -> Result<Vec<&'c Tool<'a>>, Fault> {
    let Some(ToolChoice::Tool(name)) = &conversation.tool_choice else {
        return Ok(conversation.tools.iter().collect());
    };
    let one: Vec<_> =
        conversation.tools.iter().filter(|tool| tool.name.escaped() == name.escaped()).collect();
    if one.is_empty() && !conversation.tools.is_empty() {
        return Err(Fault::new("tool_choice", "names a function that `tools` does not have"));
    }
    Ok(one)
}

fn is_written(part: &Part<'_>) -> bool {
    matches!(part.kind, Kind::Text(_) | Kind::Refusal(_) | Kind::ToolCall(_))
}

/// What is said beside calls is their plan.
fn assistant(message: &mut Fields<'_>, turn: &Turn<'_>, dropped: &mut Dropped) {
    message.word("role", "assistant");
    let text = joined(&turn.parts, "");
    if !turn.parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_))) {
        message.text("content", &text);
    } else {
        if !text.is_empty() {
            message.text("tool_plan", &text);
        }
        write_calls(message, turn);
    }
    if turn.parts.iter().any(|part| matches!(part.kind, Kind::Image(..) | Kind::File(..))) {
        dropped.add("assistant.image");
    }
}

fn parameters(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    to.maybe_raw("max_tokens", conversation.max_output);
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("p", conversation.top_p);
    to.maybe_raw("k", conversation.top_k);
    if !conversation.stop.is_empty() {
        to.list("stop_sequences", |stop| {
            conversation.stop.iter().for_each(|text| stop.item().text(text));
        });
    }
    if let Some(output) = &conversation.output {
        to.object("response_format", |format| {
            format.word("type", "json_object");
            if let Output::Schema { schema, .. } = output {
                format.raw("schema", schema);
            }
        });
    }
    if let Some(reasoning) = &conversation.reasoning {
        to.object("thinking", |to| thinking(to, reasoning));
    }
    write_extras(to, &conversation.extras, dropped, |name, _| {
        ["seed", "presence_penalty", "frequency_penalty"].into_iter().find(|known| *known == name)
    });
    if conversation.user.is_some() {
        dropped.add("user");
    }
}

fn thinking(to: &mut Fields<'_>, reasoning: &Reasoning<'_>) {
    if *reasoning == Reasoning::Off {
        return to.word("type", "disabled");
    }
    to.word("type", "enabled");
    let budget = match reasoning {
        Reasoning::Budget(budget) => Some(*budget),
        _ => reasoning.effort().map(|effort| match effort {
            "minimal" => 256,
            "low" => 1024,
            "medium" => 8192,
            "high" => 24576,
            _ => 32768,
        }),
    };
    if let Some(budget) = budget {
        to.number("token_budget", budget);
    }
}

fn write_tools(
    to: &mut Fields<'_>,
    conversation: &Conversation<'_>,
    tools: &[&Tool<'_>],
    dropped: &mut Dropped,
) {
    if conversation.parallel_tools.is_some() {
        dropped.add("parallel_tool_calls");
    }
    if tools.is_empty() {
        if conversation.tool_choice.is_some() {
            dropped.add("tool_choice");
        }
        return;
    }
    to.list("tools", |list| {
        for tool in tools {
            list.object(|to| {
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
    // Either all tools are strict there, or none.
    if tools.iter().all(|tool| tool.strict == Some(true)) {
        to.flag("strict_tools", true);
    } else if tools.iter().any(|tool| tool.strict == Some(true)) {
        dropped.add("tools.strict");
    }
    match &conversation.tool_choice {
        None | Some(ToolChoice::Auto) => {}
        Some(ToolChoice::None) => to.word("tool_choice", "NONE"),
        Some(ToolChoice::Required | ToolChoice::Tool(_)) => to.word("tool_choice", "REQUIRED"),
    }
}
