//! Writing a request for content.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::fields::{
    drop_cache_marks, drop_opaque, is_repeatable, joined, object_schema, refuse_choices,
    write_extras,
};
use super::super::neutral::{
    Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Seal, Source, Target,
    ToolChoice, ToolResult, Turn, Written,
};
use super::super::object::Fault;
use super::super::out::{self, Fields, Items};
use super::super::text::Text;
use crate::rejection::Rejection;

/// Longest picture or document within a request, in decoded bytes.
const MAX_INLINE: usize = 20 << 20;

/// Stands where a call came from elsewhere and has no seal: the provider passes it.
const NO_SEAL: &str = "skip_thought_signature_validator";

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
        Kind::ToolResult(result) => Some(result),
        _ => None,
    });
    results.flat_map(|result| &result.parts).try_for_each(check)?;
    let names = called(conversation);
    let mut dropped = conversation.dropped.clone();
    drop_cache_marks(&mut dropped, conversation);
    drop_opaque(&mut dropped, conversation, None);
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        to.list("contents", |contents| {
            let spoken = |turn: &&Turn<'_>| matches!(turn.role, Role::User | Role::Assistant);
            for turn in conversation.turns.iter().filter(spoken) {
                match turn.role {
                    Role::Assistant => model(contents, turn),
                    _ => user(contents, turn, &names),
                }
            }
        });
        system(to, conversation);
        tools(to, conversation, &mut dropped);
        to.object("generationConfig", |to| config(to, conversation, target, &mut dropped));
        for (name, value) in &conversation.extras {
            if *name == "service_tier" && value.get() != r#""standard_only""# {
                to.raw("serviceTier", value);
            }
        }
    });
    if conversation.user.is_some() {
        dropped.add("user");
    }
    if conversation.parallel_tools.is_some() {
        dropped.add("parallel_tool_calls");
    }
    Ok(Written { body: Bytes::from(body), dropped })
}

/// The names of the tools, by the ids of their calls.
type Names<'c> = HashMap<&'c str, &'c Text<'c>>;

fn called<'c>(conversation: &'c Conversation<'_>) -> Names<'c> {
    let parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    let calls = parts.filter_map(|part| match &part.kind {
        Kind::ToolCall(call) if is_repeatable(&call.name) => Some((call.id.escaped(), &call.name)),
        _ => None,
    });
    calls.collect()
}

fn check(part: &Part<'_>) -> Result<(), Fault> {
    match &part.kind {
        Kind::Image(source, _) | Kind::File(source, _) => match source {
            Source::Upload(_) => Err(Fault::new(
                "messages",
                "name an uploaded file, which this model's provider does not have: send the file \
                 itself, as base64",
            )),
            Source::Base64(_, data) if data.is_empty() => {
                Err(Fault::new("messages", "hold a picture or document without data"))
            }
            Source::Base64(_, data) if data.escaped().len() / 4 * 3 > MAX_INLINE => {
                Err(Fault::new("messages", "hold a picture or document of more than 20 MiB"))
            }
            Source::Base64(..) | Source::Url(_) | Source::Plain(_) => Ok(()),
        },
        Kind::ToolCall(call) if call.arguments.object().is_none() => {
            let id = call.id.plain();
            let problem =
                format!("hold the tool call `{id}`, whose arguments are not a JSON object");
            Err(Fault::new("messages", problem))
        }
        _ => Ok(()),
    }
}

fn system(to: &mut Fields<'_>, conversation: &Conversation<'_>) {
    let is_system = |turn: &&Turn<'_>| matches!(turn.role, Role::System | Role::Developer);
    let texts = conversation.turns.iter().filter(is_system).map(|turn| joined(&turn.parts, ""));
    let texts: Vec<_> = texts.collect();
    if !texts.is_empty() {
        to.object("systemInstruction", |to| {
            to.list("parts", |parts| {
                parts.object(|part| part.text("text", &Text::join(&texts, "\n")));
            });
        });
    }
}

fn content(contents: &mut Items<'_>, role: &str, write: impl FnOnce(&mut Items<'_>)) {
    contents.object(|content| {
        content.word("role", role);
        content.list("parts", write);
    });
}

/// Results go out together, as the calls came; what else is said follows them.
fn user(contents: &mut Items<'_>, turn: &Turn<'_>, names: &Names<'_>) {
    let results: Vec<&ToolResult<'_>> = turn
        .parts
        .iter()
        .filter_map(|part| match &part.kind {
            Kind::ToolResult(result) => Some(result),
            _ => None,
        })
        .collect();
    if !results.is_empty() {
        content(contents, "function", |parts| {
            for result in &results {
                parts.object(|part| {
                    part.object("functionResponse", |to| write_result(to, result, names));
                });
            }
        });
    }
    // A result holds text only: its pictures are shown by the user.
    let is_shown = |part: &&Part<'_>| matches!(part.kind, Kind::Image(..) | Kind::File(..));
    let shown = results.iter().flat_map(|result| &result.parts).filter(is_shown);
    let said = shown.chain(turn.parts.iter().filter(|part| is_written(part)));
    let said: Vec<&Part<'_>> = said.collect();
    if !said.is_empty() {
        content(contents, "user", |parts| {
            said.iter().for_each(|part| write_part(parts, part, None));
        });
    }
}

fn is_written(part: &Part<'_>) -> bool {
    match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => !text.is_empty(),
        Kind::Image(..) | Kind::File(..) | Kind::ToolCall(_) => true,
        Kind::ToolResult(_) | Kind::Thinking(..) | Kind::Redacted(_) | Kind::Opaque(_) => false,
    }
}

fn write_result(to: &mut Fields<'_>, result: &ToolResult<'_>, names: &Names<'_>) {
    let called = names.get(result.id.escaped()).copied();
    let unknown = Text::of("unknown");
    to.text("name", result.name.as_ref().or(called).unwrap_or(&unknown));
    let text = joined(&result.parts, "");
    let plain = text.plain();
    let is_object = plain.trim_start().starts_with('{')
        && serde_json::from_str::<serde::de::IgnoredAny>(&plain).is_ok();
    if is_object {
        to.json("response", plain.trim());
    } else {
        to.object("response", |response| response.text("result", &text));
    }
}

fn model(contents: &mut Items<'_>, turn: &Turn<'_>) {
    if !turn.parts.iter().any(is_written) {
        return;
    }
    let mut seals = turn.parts.iter().filter_map(|part| match &part.kind {
        Kind::Thinking(_, Some(seal)) if seal.origin == Origin::Google => Some(seal),
        _ => None,
    });
    // The thought's seal stands on the first call, or on the text where nothing is called.
    let thought = seals.next_back();
    let has_calls = turn.parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_)));
    let mut is_first = true;
    content(contents, "model", |parts| {
        for part in turn.parts.iter().filter(|part| is_written(part)) {
            let seal = match &part.kind {
                Kind::ToolCall(call) => {
                    let first = std::mem::take(&mut is_first);
                    call.seal
                        .as_ref()
                        .or(thought.filter(|_| first))
                        .map(|seal| seal.value.borrow())
                        .or_else(|| first.then(|| Text::of(NO_SEAL)))
                }
                Kind::Text(_) if !has_calls => {
                    let first = std::mem::take(&mut is_first);
                    thought.filter(|_| first).map(|seal: &Seal<'_>| seal.value.borrow())
                }
                _ => None,
            };
            write_part(parts, part, seal.as_ref());
        }
    });
}

fn write_part(parts: &mut Items<'_>, part: &Part<'_>, seal: Option<&Text<'_>>) {
    parts.object(|to| {
        match &part.kind {
            Kind::Text(text) | Kind::Refusal(text) | Kind::File(Source::Plain(text), _) => {
                to.text("text", text);
            }
            Kind::Image(source, _) => data(to, source, "image/jpeg"),
            Kind::File(source, _) => data(to, source, "application/octet-stream"),
            Kind::ToolCall(call) => to.object("functionCall", |function| {
                function.text("name", &call.name);
                function.json("args", call.arguments.object().as_deref().unwrap_or("{}"));
            }),
            Kind::ToolResult(_) | Kind::Thinking(..) | Kind::Redacted(_) | Kind::Opaque(_) => {}
        }
        to.maybe_text("thoughtSignature", seal);
    });
}

fn data(to: &mut Fields<'_>, source: &Source<'_>, default: &str) {
    match source {
        Source::Base64(media, data) => to.object("inlineData", |to| {
            to.text("mimeType", media);
            to.text("data", data);
        }),
        Source::Url(url) | Source::Upload(url) | Source::Plain(url) => {
            to.object("fileData", |to| {
                to.text("fileUri", url);
                to.word("mimeType", media_type(&url.plain()).unwrap_or(default));
            });
        }
    }
}

/// The type that the name at the end of an address suggests.
fn media_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "html" => "text/html",
        "csv" => "text/csv",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => return None,
    })
}

fn tools(to: &mut Fields<'_>, conversation: &Conversation<'_>, dropped: &mut Dropped) {
    if conversation.tools.is_empty() {
        if conversation.tool_choice.is_some() {
            dropped.add("tool_choice");
        }
        return;
    }
    to.list("tools", |tools| {
        tools.object(|tool| {
            tool.list("functionDeclarations", |functions| {
                for tool in &conversation.tools {
                    functions.object(|to| {
                        to.text("name", &tool.name);
                        to.text(
                            "description",
                            tool.description.as_ref().unwrap_or(&Text::default()),
                        );
                        if tool.is_custom() {
                            to.json("parametersJsonSchema", super::super::names::CUSTOM_SCHEMA);
                        } else {
                            to.json("parametersJsonSchema", &object_schema(tool.schema));
                        }
                    });
                }
            });
        });
    });
    if conversation.tools.iter().any(|tool| tool.strict == Some(true)) {
        dropped.add("tools.strict");
    }
    let Some(choice) = &conversation.tool_choice else { return };
    to.object("toolConfig", |config| {
        config.object("functionCallingConfig", |to| {
            to.word(
                "mode",
                match choice {
                    ToolChoice::Auto => "AUTO",
                    ToolChoice::None => "NONE",
                    ToolChoice::Required | ToolChoice::Tool(_) => "ANY",
                },
            );
            if let ToolChoice::Tool(name) = choice {
                to.list("allowedFunctionNames", |names| names.item().text(name));
            }
        });
    });
}

fn config(
    to: &mut Fields<'_>,
    conversation: &Conversation<'_>,
    target: &Target<'_>,
    dropped: &mut Dropped,
) {
    to.maybe_raw("maxOutputTokens", conversation.max_output);
    to.maybe_raw("temperature", conversation.temperature);
    to.maybe_raw("topP", conversation.top_p);
    to.maybe_raw("topK", conversation.top_k);
    if !conversation.stop.is_empty() {
        to.list("stopSequences", |stop| {
            conversation.stop.iter().for_each(|text| stop.item().text(text));
        });
    }
    let others: Vec<_> =
        conversation.extras.iter().copied().filter(|(name, _)| *name != "service_tier").collect();
    write_extras(to, &others, dropped, |name, _| match name {
        "seed" => Some("seed"),
        "presence_penalty" => Some("presencePenalty"),
        "frequency_penalty" => Some("frequencyPenalty"),
        _ => None,
    });
    if let Some(output) = &conversation.output {
        to.word("responseMimeType", "application/json");
        if let Output::Schema { schema, .. } = output {
            to.raw("responseJsonSchema", schema);
        }
    }
    if let Some(reasoning) = &conversation.reasoning {
        to.object("thinkingConfig", |to| thinking(to, reasoning, target.model));
    }
}

fn thinking(to: &mut Fields<'_>, reasoning: &Reasoning<'_>, model: &str) {
    let Some(effort) = reasoning.effort().filter(|effort| *effort != "none") else {
        // A budget of nothing is refused by models that always think.
        return to.flag("includeThoughts", *reasoning != Reasoning::Off);
    };
    to.flag("includeThoughts", true);
    if has_levels(model) {
        return to.word(
            "thinkingLevel",
            match effort {
                "minimal" => "MINIMAL",
                "low" => "LOW",
                "medium" => "MEDIUM",
                _ => "HIGH",
            },
        );
    }
    to.number(
        "thinkingBudget",
        match (reasoning, effort) {
            (Reasoning::Budget(budget), _) => *budget,
            (_, "minimal") => 256,
            (_, "low") => 1024,
            (_, "medium") => 8192,
            (_, "high") => 24576,
            _ => 32768,
        },
    );
}

/// Whether a model takes levels instead of budgets: from 3.5 on.
fn has_levels(model: &str) -> bool {
    let Some((_, version)) = model.split_once("gemini-") else { return false };
    let version = version.split('-').next().unwrap_or_default();
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) => (major, minor) >= (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_with_version_three_and_a_half() {
        for (model, want) in [
            ("gemini-3.5-pro", true),
            ("models/gemini-4-flash", true),
            ("gemini-3-pro", false),
            ("gemini-2.5-flash", false),
            ("gemini-pro", false),
            ("gemma-3", false),
        ] {
            assert_eq!(has_levels(model), want, "{model}");
        }
    }
}
