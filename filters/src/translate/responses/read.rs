//! Reading a request for a response.

use super::super::fields::{content, drop_unknown, is_repeatable, read_extras, source};
use super::super::names::{self, ToolName};
use super::super::neutral::{
    Arguments, Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Source, Tool,
    ToolCall, ToolChoice, ToolResult, Turn,
};
use super::super::object::{Fault, Object};
use super::super::seal;
use super::super::text::Text;
use crate::rejection::Rejection;

/// Fields that are read one by one.
const KNOWN: &[&str] = &[
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "temperature",
    "top_p",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "response_format",
    "reasoning",
    "user",
    "store",
    "include",
    "background",
    "truncation",
];

/// Fields that other formats may know by the same name.
const EXTRAS: &[&str] = &[
    "top_logprobs",
    "service_tier",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "presence_penalty",
    "frequency_penalty",
    "max_tool_calls",
];

/// Fields that speak of what another call left behind, and what to do instead.
const STATEFUL: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

/// Reads a request.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read, or that needs a state nobody keeps.
pub fn read_request(body: &[u8]) -> Result<Conversation<'_>, Rejection> {
    Ok(conversation(&Object::document(body)?)?)
}

fn conversation<'a>(top: &Object<'a>) -> Result<Conversation<'a>, Fault> {
    if let Some(name) = STATEFUL.into_iter().find(|name| top.has(name)) {
        let advice = "is not available with this model: its provider keeps nothing between calls. \
                      Send the whole conversation in `input`";
        return Err(Fault::new(name, advice));
    }
    if top.flag("background") == Some(true) {
        let advice = "is not available with this model: its provider answers at once. Leave it out";
        return Err(Fault::new("background", advice));
    }
    let mut dropped = Dropped::default();
    drop_unknown(&mut dropped, top, &[KNOWN, EXTRAS]);
    drop_state(top, &mut dropped);
    let text = top.maybe_object("text");
    let mut conversation = Conversation {
        model: top.needs_text("model")?,
        turns: turns(top, &mut dropped)?,
        tools: tools(top, &mut dropped)?,
        tool_choice: tool_choice(top, &mut dropped)?,
        parallel_tools: top.flag("parallel_tool_calls"),
        temperature: top.get("temperature"),
        top_p: top.get("top_p"),
        max_output: top.get("max_output_tokens"),
        output: output(top, &text)?,
        reasoning: reasoning(top)?,
        user: top.text("user")?,
        stream: top.flag("stream").unwrap_or(false),
        include_usage: true,
        dropped,
        ..Conversation::default()
    };
    read_extras(&mut conversation, top, EXTRAS);
    read_extras(&mut conversation, &text, &["verbosity"]);
    Ok(conversation)
}

/// What would be kept, or shown, where there is something to keep or to show.
fn drop_state(top: &Object<'_>, dropped: &mut Dropped) {
    if top.flag("store") == Some(true) {
        dropped.add("store");
    }
    if top.maybe_text("truncation").is_some_and(|text| !text.is("disabled")) {
        dropped.add("truncation");
    }
    // Thoughts come sealed, asked for or not.
    let include = top.list("include").unwrap_or_default();
    if include.iter().any(|raw| raw.get() != r#""reasoning.encrypted_content""#) {
        dropped.add("include");
    }
}

fn turns<'a>(top: &Object<'a>, dropped: &mut Dropped) -> Result<Vec<Turn<'a>>, Fault> {
    let mut turns = Vec::new();
    if let Some(instructions) = top.get("instructions") {
        let (parts, is_plain) = content(top, "instructions", |item| {
            // A list of messages: what they say.
            Ok(Kind::Text(super::super::fields::joined(&content(item, "content", part)?.0, ""))
                .into())
        })?;
        if !parts.is_empty() && instructions.get() != "\"\"" {
            turns.push(Turn { role: Role::System, parts, is_plain });
        }
    }
    let input = top.get("input").ok_or_else(|| Fault::new("input", "is required"))?;
    if let Some(text) = Text::read(input) {
        turns.push(Turn { role: Role::User, parts: vec![Kind::Text(text).into()], is_plain: true });
        return Ok(turns);
    }
    let wrong = |_| Fault::new("input", "must be a string or a list of items");
    for (at, item) in top.objects("input").map_err(wrong)?.iter().enumerate() {
        read_item(item, &mut turns, dropped).map_err(|fault| fault.in_item("input", at))?;
    }
    Ok(turns)
}

fn read_item<'a>(
    item: &Object<'a>,
    turns: &mut Vec<Turn<'a>>,
    dropped: &mut Dropped,
) -> Result<(), Fault> {
    let kind = item.kind();
    match &*kind.plain() {
        "message" | "" => message(item, turns)?,
        "function_call" => add(turns, Role::Assistant, Kind::ToolCall(function_call(item)?)),
        "custom_tool_call" => add(turns, Role::Assistant, Kind::ToolCall(custom_call(item)?)),
        "function_call_output" => add(turns, Role::User, Kind::ToolResult(result(item, false)?)),
        "custom_tool_call_output" => add(turns, Role::User, Kind::ToolResult(result(item, true)?)),
        "reasoning" => {
            if let Some(thought) = thought(item) {
                add(turns, Role::Assistant, thought);
            }
        }
        "item_reference" => {
            let advice = "refers to what an earlier call left behind, and this model's provider keeps \
                          nothing between calls: send the item itself";
            return Err(Fault::new("", advice));
        }
        other => dropped.add_theirs("input.", other),
    }
    Ok(())
}

/// Adds to the last turn what belongs to it: what one answer said, or the results that follow one another.
fn add<'a>(turns: &mut Vec<Turn<'a>>, role: Role, kind: Kind<'a>) {
    let is_results =
        |turn: &Turn<'_>| turn.parts.iter().all(|part| matches!(part.kind, Kind::ToolResult(_)));
    let belongs =
        |turn: &&mut Turn<'a>| turn.role == role && (role == Role::Assistant || is_results(turn));
    match turns.last_mut().filter(belongs) {
        Some(turn) => {
            turn.is_plain = false;
            turn.parts.push(kind.into());
        }
        None => turns.push(Turn { role, parts: vec![kind.into()], is_plain: false }),
    }
}

fn message<'a>(item: &Object<'a>, turns: &mut Vec<Turn<'a>>) -> Result<(), Fault> {
    let role = match &*item.needs_text("role")?.plain() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        "developer" => Role::Developer,
        _ => return Err(Fault::new("role", "must be user, assistant, system or developer")),
    };
    let (parts, is_plain) = content(item, "content", part)?;
    if role == Role::Assistant {
        parts.into_iter().for_each(|part| add(turns, role, part.kind));
    } else {
        turns.push(Turn { role, parts, is_plain });
    }
    Ok(())
}

/// Reads a part of a message or of a result.
pub(super) fn part<'a>(part: &Object<'a>) -> Result<Part<'a>, Fault> {
    let kind = match &*part.kind().plain() {
        "input_text" | "output_text" | "text" => Kind::Text(part.needs_text("text")?),
        "refusal" => Kind::Refusal(part.needs_text("refusal")?),
        "input_image" => {
            let from = match (part.maybe_text("image_url"), part.maybe_text("file_id")) {
                (Some(url), _) => source(url),
                (None, Some(id)) => Source::Upload(id),
                (None, None) => return Err(Fault::new("image_url", "is required: a string")),
            };
            Kind::Image(from, part.maybe_text("detail"))
        }
        "input_file" => {
            let data = part.maybe_text("file_data").or_else(|| part.maybe_text("file_url"));
            let from = match (data, part.maybe_text("file_id")) {
                (Some(data), _) => source(data),
                (None, Some(id)) => Source::Upload(id),
                (None, None) => {
                    return Err(Fault::new("file_data", "is required, or `file_url`: a string"));
                }
            };
            Kind::File(from, part.maybe_text("filename"))
        }
        _ => Kind::Opaque(part.clone()),
    };
    Ok(kind.into())
}

/// The name by which the provider knows the tool of a call.
fn called<'a>(item: &Object<'a>) -> Result<Text<'a>, Fault> {
    let name = item.needs_text("name")?;
    Ok(match item.maybe_text("namespace") {
        Some(namespace) => names::flat(&namespace, &name),
        None => name,
    })
}

/// Reads a call of a function.
pub(super) fn function_call<'a>(item: &Object<'a>) -> Result<ToolCall<'a>, Fault> {
    let arguments = match item.get("arguments") {
        None => Arguments::Quoted(Text::default()),
        Some(raw) => Text::read(raw).map_or(Arguments::Json(raw), Arguments::Quoted),
    };
    Ok(ToolCall { id: item.needs_text("call_id")?, name: called(item)?, arguments, seal: None })
}

fn custom_call<'a>(item: &Object<'a>) -> Result<ToolCall<'a>, Fault> {
    let input = item.maybe_text("input").unwrap_or_default();
    let json = format!(r#"{{"input":"{}"}}"#, input.escaped());
    let arguments = Arguments::Quoted(Text::owned(&json));
    Ok(ToolCall { id: item.needs_text("call_id")?, name: called(item)?, arguments, seal: None })
}

fn result<'a>(item: &Object<'a>, is_custom: bool) -> Result<ToolResult<'a>, Fault> {
    let (parts, is_plain) = content(item, "output", part)?;
    let id = item.needs_text("call_id")?;
    Ok(ToolResult { id, name: None, parts, is_plain, is_error: false, is_custom })
}

/// Reads a thought: what it says, and its seal.
pub(super) fn thought<'a>(item: &Object<'a>) -> Option<Kind<'a>> {
    let seal = item.maybe_text("encrypted_content").filter(|text| !text.is_empty());
    let seal = seal.map(|text| seal::open(&text, Origin::OpenAi));
    if let Some((seal, true)) = seal {
        return Some(Kind::Redacted(seal));
    }
    let texts = |name| {
        let parts = item.maybe_objects(name);
        parts.iter().filter_map(|part| part.maybe_text("text")).collect::<Vec<_>>()
    };
    let (summary, content) = (texts("summary"), texts("content"));
    let text = Text::join(if summary.is_empty() { &content } else { &summary }, "\n\n");
    if text.is_empty() && seal.is_none() {
        return None;
    }
    Some(Kind::Thinking(text, seal.map(|(seal, _)| seal)))
}

fn tools<'a>(top: &Object<'a>, dropped: &mut Dropped) -> Result<Vec<Tool<'a>>, Fault> {
    let mut tools = Vec::new();
    for (at, tool) in top.objects("tools")?.iter().enumerate() {
        read_tool(tool, None, &mut tools, dropped).map_err(|fault| fault.in_item("tools", at))?;
    }
    Ok(tools)
}

fn read_tool<'a>(
    tool: &Object<'a>,
    namespace: Option<&Text<'a>>,
    tools: &mut Vec<Tool<'a>>,
    dropped: &mut Dropped,
) -> Result<(), Fault> {
    let kind = tool.kind();
    let is_custom = kind.is("custom");
    if kind.is("namespace") && namespace.is_none() {
        let name = tool.needs_text("name")?;
        if !is_repeatable(&name) {
            return Err(Fault::new("name", "must be shorter: at most 256 bytes"));
        }
        for (at, inner) in tool.objects("tools")?.iter().enumerate() {
            read_tool(inner, Some(&name), tools, dropped)
                .map_err(|fault| fault.in_item("tools", at))?;
        }
        return Ok(());
    }
    if !is_custom && !kind.is("function") {
        dropped.add_theirs("tools.", &kind.plain());
        return Ok(());
    }
    // The chat format has these fields one level below.
    let inner = tool.object(if is_custom { "custom" } else { "function" })?;
    let function = inner.as_ref().unwrap_or(tool);
    let name = function.needs_text("name")?;
    let flat = match namespace {
        Some(namespace) => names::flat(namespace, &name),
        None => name.clone(),
    };
    let is_renamed = is_custom || namespace.is_some();
    tools.push(Tool {
        description: function.maybe_text("description"),
        schema: function.get("parameters").filter(|_| !is_custom),
        strict: function.flag("strict"),
        cache: None,
        known_as: is_renamed.then(|| ToolName {
            flat: flat.clone().into_owned(),
            namespace: namespace.map(|namespace| namespace.clone().into_owned()),
            name: name.into_owned(),
            is_custom,
        }),
        name: flat,
    });
    Ok(())
}

fn tool_choice<'a>(
    top: &Object<'a>,
    dropped: &mut Dropped,
) -> Result<Option<ToolChoice<'a>>, Fault> {
    let Some(raw) = top.get("tool_choice") else { return Ok(None) };
    let wrong = || {
        Fault::new("tool_choice", "must be auto, none, required, or an object that names a tool")
    };
    if let Some(word) = Text::read(raw) {
        return match &*word.plain() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(wrong()),
        };
    }
    let choice = Object::read(raw).ok_or_else(wrong)?;
    match &*choice.kind().plain() {
        "function" | "custom" => {
            let below = choice.maybe_object("function");
            let name = choice.maybe_text("name").or_else(|| below.maybe_text("name"));
            let name = name.ok_or_else(wrong)?;
            Ok(Some(ToolChoice::Tool(match choice.maybe_text("namespace") {
                Some(namespace) => names::flat(&namespace, &name),
                None => name,
            })))
        }
        "allowed_tools" => {
            dropped.add("tool_choice.allowed_tools");
            let is_required = choice.maybe_text("mode").is_some_and(|mode| mode.is("required"));
            Ok(Some(if is_required { ToolChoice::Required } else { ToolChoice::Auto }))
        }
        // A tool of the provider itself, which is dropped too.
        _ => {
            dropped.add("tool_choice");
            Ok(None)
        }
    }
}

fn output<'a>(top: &Object<'a>, text: &Object<'a>) -> Result<Option<Output<'a>>, Fault> {
    let within = |fault: Fault| fault.inside("format").inside("text");
    let format = match text.object("format").map_err(|fault| fault.inside("text"))? {
        Some(format) => format,
        None => match top.object("response_format")? {
            Some(format) => format,
            None => return Ok(None),
        },
    };
    match &*format.kind().plain() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Output::Json)),
        "json_schema" => {
            let below = format.maybe_object("json_schema");
            let format = if format.has("schema") { &format } else { &below };
            let missing = || within(Fault::new("schema", "is required: an object"));
            Ok(Some(Output::Schema {
                name: format.maybe_text("name"),
                description: format.maybe_text("description"),
                schema: format.get("schema").ok_or_else(missing)?,
                strict: format.flag("strict"),
            }))
        }
        _ => Err(within(Fault::new("type", "must be text, json_object or json_schema"))),
    }
}

fn reasoning<'a>(top: &Object<'a>) -> Result<Option<Reasoning<'a>>, Fault> {
    let Some(reasoning) = top.object("reasoning")? else { return Ok(None) };
    let within = |fault: Fault| fault.inside("reasoning");
    let Some(effort) = reasoning.text("effort").map_err(within)? else { return Ok(None) };
    match &*effort.plain() {
        "none" => Ok(Some(Reasoning::Off)),
        "minimal" | "low" | "medium" | "high" | "xhigh" | "max" => {
            Ok(Some(Reasoning::Effort(effort.clone(), reasoning.maybe_text("summary"))))
        }
        _ => {
            let levels = "must be none, minimal, low, medium, high, xhigh or max";
            Err(within(Fault::new("effort", levels)))
        }
    }
}
