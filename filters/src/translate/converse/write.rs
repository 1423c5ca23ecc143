//! Writing a request to converse.

use bytes::Bytes;

use super::super::fields::{object_schema, refuse_choices, write_extras};
use super::super::names::CUSTOM_SCHEMA;
use super::super::neutral::{
    Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Target, Tool, ToolChoice,
    ToolResult, Turn, Written,
};
use super::super::object::{Fault, Object};
use super::super::out::{self, Fields, Items};
use super::super::text::Text;
use super::STRUCTURED;
use super::media::{self, Names};
use crate::rejection::Rejection;

/// What is told of a tool without a description: an empty one is refused.
const NO_DESCRIPTION: &str = " ";

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    check(conversation, target.model)?;
    let mut dropped = conversation.dropped.clone();
    let mut body = Vec::with_capacity(4096);
    out::object(&mut body, |to| {
        let mut writer = Writer {
            model: Model::of(target.model),
            names: Names::default(),
            dropped: &mut dropped,
        };
        writer.system(to, conversation);
        writer.messages(to, conversation);
        inference(to, conversation);
        writer.tools(to, conversation);
        writer.additional(to, conversation);
        write_extras(to, &conversation.extras, writer.dropped, |_, _| None);
    });
    if conversation.user.is_some() {
        dropped.add("user");
    }
    if conversation.parallel_tools.is_some() {
        dropped.add("parallel_tool_calls");
    }
    Ok(Written { body: Bytes::from(body), dropped })
}

/// What would have to be left out though the answer depends on it.
fn check(conversation: &Conversation<'_>, model: &str) -> Result<(), Fault> {
    refuse_choices(conversation)?;
    if conversation.tools.iter().any(|tool| tool.name.is(STRUCTURED)) {
        let problem = format!(
            "hold a tool called `{STRUCTURED}`, a name that is taken here: call it something else"
        );
        return Err(Fault::new("tools", problem));
    }
    match &conversation.output {
        None => {}
        Some(Output::Json) => {
            let advice = "must be json_schema: this model's provider has no json_object";
            return Err(Fault::new("response_format", advice));
        }
        Some(Output::Schema { .. }) if !model.contains("anthropic.") => {
            let advice = "is not supported by this model's provider: on Bedrock only Anthropic's \
                          models can be asked for it";
            return Err(Fault::new("response_format", advice));
        }
        Some(Output::Schema { .. }) if thinks(conversation) => {
            let advice = "cannot be combined with reasoning for this model: leave out one of them";
            return Err(Fault::new("response_format", advice));
        }
        Some(Output::Schema { .. }) => {}
    }
    for turn in &conversation.turns {
        turn.parts.iter().try_for_each(|part| check_part(part, turn.role))?;
    }
    Ok(())
}

fn thinks(conversation: &Conversation<'_>) -> bool {
    !matches!(conversation.reasoning, None | Some(Reasoning::Off))
}

fn check_part(part: &Part<'_>, role: Role) -> Result<(), Fault> {
    match &part.kind {
        Kind::Image(source, _) => media::check_image(source),
        Kind::File(source, name) => media::check_document(source, name.as_ref()),
        Kind::ToolResult(result) => {
            result.parts.iter().try_for_each(|part| check_part(part, Role::Assistant))
        }
        Kind::ToolCall(call) if call.arguments.object().is_none() => {
            let id = call.id.plain();
            let problem =
                format!("hold the tool call `{id}`, whose arguments are not a JSON object");
            Err(Fault::new("messages", problem))
        }
        // What the model or a tool said before may go missing, what the user says now may not.
        Kind::Opaque(object) if role != Role::Assistant => {
            let kind = object.kind();
            let problem = format!(
                "hold a part of the type `{}`, which this model's provider does not take",
                kind.plain()
            );
            Err(Fault::new("messages", problem))
        }
        _ => Ok(()),
    }
}

/// What models can that the address names.
#[derive(Clone, Copy)]
struct Model {
    /// Perhaps Anthropic's: who made it is not told by the name of a profile.
    is_claude: bool,
    /// It caches the prefixes of prompts.
    caches: bool,
    /// It caches tools, too.
    caches_tools: bool,
}

impl Model {
    fn of(name: &str) -> Self {
        let is_any = |words: &[&str]| words.iter().any(|word| name.contains(word));
        let is_claude = is_any(&[
            "anthropic.",
            "claude",
            "application-inference-profile/",
            "provisioned-model/",
        ]);
        let caches = is_claude || name.contains("amazon.nova");
        Self { is_claude, caches, caches_tools: is_claude }
    }
}

struct Writer<'d> {
    model: Model,
    names: Names,
    dropped: &'d mut Dropped,
}

impl Writer<'_> {
    /// A point up to which the provider caches, where the caller has set a mark.
    fn cache_point<'p>(
        &mut self,
        blocks: &mut Items<'_>,
        marks: impl IntoIterator<Item = Option<&'p serde_json::value::RawValue>>,
        can: bool,
    ) {
        let Some(mark) = marks.into_iter().flatten().next() else { return };
        if !can {
            return self.dropped.add("cache_control");
        }
        let ttl = Object::read(mark).and_then(|mark| mark.maybe_text("ttl"));
        blocks.object(|block| {
            block.object("cachePoint", |point| {
                point.word("type", "default");
                if ttl.is_some_and(|ttl| ttl.is("1h")) {
                    point.word("ttl", "1h");
                }
            });
        });
    }

    /// All instructions, wherever they stand.
    fn system(&mut self, to: &mut Fields<'_>, conversation: &Conversation<'_>) {
        let is_system = |turn: &&Turn<'_>| matches!(turn.role, Role::System | Role::Developer);
        let parts = conversation.turns.iter().filter(is_system).flat_map(|turn| &turn.parts);
        let mut texts = Vec::new();
        for part in parts {
            match &part.kind {
                Kind::Text(text) | Kind::Refusal(text) if text.is_empty() => {}
                Kind::Text(text) | Kind::Refusal(text) => texts.push((text, part.cache)),
                _ => self.dropped.add("system.image"),
            }
        }
        if texts.is_empty() {
            return;
        }
        to.list("system", |blocks| {
            for (text, mark) in texts {
                blocks.object(|block| block.text("text", text));
                self.cache_point(blocks, [mark], self.model.caches);
            }
        });
    }

    /// Turns of one side that follow one another are one message: the provider wants the sides to alternate.
    fn messages(&mut self, to: &mut Fields<'_>, conversation: &Conversation<'_>) {
        let mut messages: Vec<(Role, Vec<&Part<'_>>)> = Vec::new();
        for turn in &conversation.turns {
            if !matches!(turn.role, Role::User | Role::Assistant) {
                continue;
            }
            let written = turn.parts.iter().filter(|part| self.is_written(part, turn.role));
            let parts: Vec<_> = written.collect();
            match messages.last_mut() {
                _ if parts.is_empty() => {}
                Some((role, last)) if *role == turn.role => last.extend(parts),
                _ => messages.push((turn.role, parts)),
            }
        }
        to.list("messages", |list| {
            for (role, parts) in messages {
                list.object(|message| {
                    message.word("role", if role == Role::User { "user" } else { "assistant" });
                    message.list("content", |blocks| {
                        parts.iter().for_each(|part| self.part(blocks, part));
                    });
                });
            }
        });
    }

    /// Whether a part becomes a block: empty texts are refused, and thoughts are only for who sealed them.
    fn is_written(&mut self, part: &Part<'_>, role: Role) -> bool {
        let is_assistant = role == Role::Assistant;
        match &part.kind {
            Kind::Text(text) | Kind::Refusal(text) => !text.is_empty(),
            Kind::Image(..) | Kind::File(..) if is_assistant => {
                self.dropped.add("assistant.image");
                false
            }
            Kind::Image(..) | Kind::File(..) => true,
            Kind::ToolCall(_) => is_assistant,
            Kind::ToolResult(_) => !is_assistant,
            Kind::Thinking(_, Some(seal)) | Kind::Redacted(seal) => {
                is_assistant && self.model.is_claude && seal.origin == Origin::Anthropic
            }
            Kind::Thinking(_, None) => false,
            Kind::Opaque(object) => {
                self.dropped.add_theirs("messages.", &object.kind().plain());
                false
            }
        }
    }

    fn part(&mut self, blocks: &mut Items<'_>, part: &Part<'_>) {
        blocks.object(|to| match &part.kind {
            Kind::Text(text) | Kind::Refusal(text) => to.text("text", text),
            Kind::Image(source, _) => media::image(to, source),
            Kind::File(source, name) => media::document(to, source, name.as_ref(), &mut self.names),
            Kind::ToolCall(call) => to.object("toolUse", |to| {
                to.text("toolUseId", &call.id);
                to.text("name", &call.name);
                to.json("input", call.arguments.object().as_deref().unwrap_or("{}"));
            }),
            Kind::ToolResult(result) => to.object("toolResult", |to| self.result(to, result)),
            Kind::Thinking(text, seal) => to.object("reasoningContent", |to| {
                to.object("reasoningText", |to| {
                    to.text("text", text);
                    to.maybe_text("signature", seal.as_ref().map(|seal| &seal.value));
                });
            }),
            Kind::Redacted(seal) => to.object("reasoningContent", |to| {
                to.text("redactedContent", &seal.value);
            }),
            Kind::Opaque(_) => {}
        });
        // A result cannot hold a point: one that is marked within stands behind it.
        let within = match &part.kind {
            Kind::ToolResult(result) => &result.parts[..],
            _ => &[],
        };
        let marks = std::iter::once(part.cache).chain(within.iter().map(|part| part.cache));
        self.cache_point(blocks, marks, self.model.caches);
    }

    fn result(&mut self, to: &mut Fields<'_>, result: &ToolResult<'_>) {
        to.text("toolUseId", &result.id);
        to.list("content", |blocks| {
            let mut is_empty = true;
            for part in &result.parts {
                match &part.kind {
                    Kind::Text(text) | Kind::Refusal(text) if !text.is_empty() => {
                        blocks.object(|to| result_text(to, text, result.parts.len() == 1));
                    }
                    Kind::Image(source, _) => blocks.object(|to| media::image(to, source)),
                    Kind::File(source, name) => blocks.object(|to| {
                        media::document(to, source, name.as_ref(), &mut self.names);
                    }),
                    Kind::Opaque(object) => {
                        self.dropped.add_theirs("messages.", &object.kind().plain());
                        continue;
                    }
                    _ => continue,
                }
                is_empty = false;
            }
            // No block at all is refused by some models; of a result the text may be empty.
            if is_empty {
                blocks.object(|block| block.word("text", ""));
            }
        });
        if result.is_error {
            to.word("status", "error");
        }
    }

    fn tools(&mut self, to: &mut Fields<'_>, conversation: &Conversation<'_>) {
        let forced = match &conversation.output {
            Some(Output::Schema { schema, description, .. }) => Some((schema, description)),
            _ => None,
        };
        let called = called(conversation);
        let choice = conversation.tool_choice.as_ref();
        let has_tools = !conversation.tools.is_empty();
        let is_silent = forced.is_none() && called.is_empty();
        if is_silent && (!has_tools || choice == Some(&ToolChoice::None)) {
            if choice.is_some() && !has_tools {
                self.dropped.add("tool_choice");
            }
            return;
        }
        to.object("toolConfig", |config| {
            config.list("tools", |tools| {
                conversation.tools.iter().for_each(|tool| self.tool(tools, tool));
                if !has_tools {
                    // A conversation with calls is refused unless it has tools.
                    called.iter().for_each(|name| spec(tools, name, None, &object_schema(None)));
                }
                if let Some((schema, description)) = forced {
                    let name = Text::of(STRUCTURED);
                    spec(tools, &name, description.as_ref(), &object_schema(Some(schema)));
                }
            });
            let name = Text::of(STRUCTURED);
            let choice =
                if forced.is_some() { Some(ToolChoice::Tool(name)) } else { choice.cloned() };
            match choice {
                None => {}
                // The tools must stay, so that the calls before can be told.
                Some(ToolChoice::None) => self.dropped.add("tool_choice"),
                Some(_) if !has_tools && forced.is_none() => self.dropped.add("tool_choice"),
                Some(choice) => config.object("toolChoice", |to| tool_choice(to, &choice)),
            }
        });
    }

    fn tool(&mut self, tools: &mut Items<'_>, tool: &Tool<'_>) {
        let schema = if tool.is_custom() && tool.schema.is_none() {
            CUSTOM_SCHEMA.to_owned()
        } else {
            object_schema(tool.schema)
        };
        spec(tools, &tool.name, tool.description.as_ref(), &schema);
        if tool.strict == Some(true) {
            self.dropped.add("tools.strict");
        }
        self.cache_point(tools, [tool.cache], self.model.caches_tools);
    }

    /// What only models of one family know.
    fn additional(&mut self, to: &mut Fields<'_>, conversation: &Conversation<'_>) {
        let top_k = conversation.top_k.filter(|_| self.model.is_claude);
        if top_k.is_none() && conversation.top_k.is_some() {
            self.dropped.add("top_k");
        }
        if top_k.is_none() && !thinks(conversation) {
            return;
        }
        to.object("additionalModelRequestFields", |to| {
            match conversation.reasoning.as_ref().map(|reasoning| (reasoning, budget(reasoning))) {
                Some((_, Some(budget))) => to.object("reasoning_config", |config| {
                    config.word("type", "enabled");
                    config.number("budget_tokens", budget);
                }),
                Some((Reasoning::Adaptive, None)) => {
                    to.object("thinking", |thinking| thinking.word("type", "adaptive"));
                }
                Some(_) | None => {}
            }
            to.maybe_raw("top_k", top_k);
        });
    }
}

/// A result that is an object goes out as one; anything else is text.
fn result_text(to: &mut Fields<'_>, text: &Text<'_>, is_whole: bool) {
    let plain = text.plain();
    let is_object = is_whole
        && plain.trim_start().starts_with('{')
        && serde_json::from_str::<serde::de::IgnoredAny>(&plain).is_ok();
    if is_object {
        to.json("json", plain.trim());
    } else {
        to.text("text", text);
    }
}

/// The names of the tools that are called in the conversation, each once.
fn called<'c, 'a>(conversation: &'c Conversation<'a>) -> Vec<&'c Text<'a>> {
    let mut names: Vec<&Text<'_>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for part in conversation.turns.iter().flat_map(|turn| &turn.parts) {
        if let Kind::ToolCall(call) = &part.kind
            && seen.insert(call.name.escaped())
        {
            names.push(&call.name);
        }
    }
    names
}

fn spec(tools: &mut Items<'_>, name: &Text<'_>, description: Option<&Text<'_>>, schema: &str) {
    tools.object(|tool| {
        tool.object("toolSpec", |to| {
            to.text("name", name);
            let none = Text::of(NO_DESCRIPTION);
            to.text("description", description.filter(|text| !text.is_empty()).unwrap_or(&none));
            to.object("inputSchema", |input| input.json("json", schema));
        });
    });
}

fn tool_choice(to: &mut Fields<'_>, choice: &ToolChoice<'_>) {
    match choice {
        ToolChoice::Auto | ToolChoice::None => to.object("auto", |_| {}),
        ToolChoice::Required => to.object("any", |_| {}),
        ToolChoice::Tool(name) => to.object("tool", |tool| tool.text("name", name)),
    }
}

fn inference(to: &mut Fields<'_>, conversation: &Conversation<'_>) {
    let numbers = [
        ("maxTokens", conversation.max_output),
        ("temperature", conversation.temperature),
        ("topP", conversation.top_p),
    ];
    if conversation.stop.is_empty() && numbers.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    to.object("inferenceConfig", |config| {
        numbers.iter().for_each(|(name, value)| config.maybe_raw(name, *value));
        if !conversation.stop.is_empty() {
            config.list("stopSequences", |stop| {
                conversation.stop.iter().for_each(|text| stop.item().text(text));
            });
        }
    });
}

/// Tokens to think with.
fn budget(reasoning: &Reasoning<'_>) -> Option<u64> {
    if let Reasoning::Budget(budget) = reasoning {
        return Some(*budget);
    }
    Some(match reasoning.effort()? {
        "none" => return None,
        "minimal" => 1024,
        "low" => 2048,
        "medium" => 8192,
        "high" => 24576,
        _ => 32768,
    })
}
