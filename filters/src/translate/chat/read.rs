//! Reading a request for a chat completion.

use super::super::fields::{content, drop_unknown, read_extras, source, texts};
use super::super::neutral::{
    Arguments, Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Seal, Source,
    Tool, ToolCall, ToolChoice, ToolResult, Turn,
};
use super::super::object::{Fault, Object};
use super::super::text::Text;
use crate::rejection::Rejection;

/// Fields that are read one by one.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "stop",
    "user",
    "reasoning_effort",
];

/// Fields that other formats may know by the same name.
const EXTRAS: &[&str] = &[
    "n",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "service_tier",
    "metadata",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
];

/// Reads a request.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read.
pub fn read_request(body: &[u8]) -> Result<Conversation<'_>, Rejection> {
    Ok(conversation(&Object::document(body)?)?)
}

fn conversation<'a>(top: &Object<'a>) -> Result<Conversation<'a>, Fault> {
    let mut dropped = Dropped::default();
    drop_unknown(&mut dropped, top, &[KNOWN, EXTRAS]);
    let mut conversation = Conversation {
        model: top.needs_text("model")?,
        turns: turns(&top.objects("messages")?)?,
        tools: tools(&top.objects("tools")?, &mut dropped)?,
        tool_choice: tool_choice(top, &mut dropped)?,
        parallel_tools: top.flag("parallel_tool_calls"),
        temperature: top.get("temperature"),
        top_p: top.get("top_p"),
        top_k: top.get("top_k"),
        stop: texts(top, "stop")?,
        max_output: top.get("max_tokens").or_else(|| top.get("max_completion_tokens")),
        output: output(top)?,
        reasoning: reasoning(top)?,
        user: top.text("user")?,
        stream: top.flag("stream").unwrap_or(false),
        include_usage: top.maybe_object("stream_options").flag("include_usage").unwrap_or(false),
        dropped,
        ..Conversation::default()
    };
    read_extras(&mut conversation, top, EXTRAS);
    Ok(conversation)
}

fn turns<'a>(messages: &[Object<'a>]) -> Result<Vec<Turn<'a>>, Fault> {
    let mut turns: Vec<Turn<'a>> = Vec::with_capacity(messages.len());
    let mut is_after_tool = false;
    for (at, message) in messages.iter().enumerate() {
        let within = |fault: Fault| fault.in_item("messages", at);
        let role = message.needs_text("role").map_err(within)?;
        let is_tool = role.is("tool");
        let role = match &*role.plain() {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" | "tool" => Role::User,
            "assistant" => Role::Assistant,
            _ => {
                let known = "must be system, developer, user, assistant or tool";
                return Err(within(Fault::new("role", known)));
            }
        };
        let turn = if is_tool {
            let result = Kind::ToolResult(tool_result(message).map_err(within)?).into();
            // Results that follow one another answer the same turn.
            if let Some(last) = turns.last_mut().filter(|_| is_after_tool) {
                last.parts.push(result);
                continue;
            }
            Turn { role, parts: vec![result], is_plain: false }
        } else if role == Role::Assistant {
            assistant(message).map_err(within)?
        } else {
            let (parts, is_plain) = content(message, "content", part).map_err(within)?;
            Turn { role, parts, is_plain }
        };
        is_after_tool = is_tool;
        turns.push(turn);
    }
    Ok(turns)
}

fn tool_result<'a>(message: &Object<'a>) -> Result<ToolResult<'a>, Fault> {
    let (parts, is_plain) = content(message, "content", part)?;
    Ok(ToolResult {
        id: message.needs_text("tool_call_id")?,
        name: message.maybe_text("name"),
        parts,
        is_plain,
        is_error: false,
        is_custom: false,
    })
}

fn assistant<'a>(message: &Object<'a>) -> Result<Turn<'a>, Fault> {
    let mut parts = thoughts(message);
    let (mut said, is_plain) = content(message, "content", part)?;
    parts.append(&mut said);
    if let Some(refusal) = message.maybe_text("refusal") {
        parts.push(Kind::Refusal(refusal).into());
    }
    for (at, call) in message.objects("tool_calls")?.iter().enumerate() {
        let call = tool_call(call).map_err(|fault| fault.in_item("tool_calls", at))?;
        parts.push(Kind::ToolCall(call).into());
    }
    Ok(Turn { role: Role::Assistant, parts, is_plain })
}

/// What a client that gives back the whole message knows of the model's thoughts.
fn thoughts<'a>(message: &Object<'a>) -> Vec<Part<'a>> {
    let extra = message.maybe_object("extra_content");
    let anthropic = extra.maybe_object("anthropic");
    let blocks = anthropic.maybe_objects("thinking_blocks");
    if !blocks.is_empty() {
        return blocks.iter().filter_map(thinking_block).collect();
    }
    let seal = [
        (Origin::Anthropic, anthropic.maybe_text("signature")),
        (Origin::OpenAi, extra.maybe_object("openai").maybe_text("signature")),
        (Origin::Google, extra.maybe_object("google").maybe_text("thought_signature")),
        (Origin::Mistral, extra.maybe_object("mistral").maybe_text("signature")),
    ];
    let seal = seal.into_iter().find_map(|(origin, value)| Some(Seal { origin, value: value? }));
    let deepseek = extra.maybe_object("deepseek");
    let text = message
        .maybe_text("reasoning")
        .or_else(|| message.maybe_object("reasoning").maybe_text("content"))
        .or_else(|| message.maybe_text("reasoning_content"))
        .or_else(|| deepseek.maybe_text("reasoning_content"));
    if text.is_none() && seal.is_none() {
        return Vec::new();
    }
    vec![Kind::Thinking(text.unwrap_or_default(), seal).into()]
}

fn thinking_block<'a>(block: &Object<'a>) -> Option<Part<'a>> {
    let seal = |value| Seal { origin: Origin::Anthropic, value };
    let kind = match block.maybe_text("data") {
        Some(data) => Kind::Redacted(seal(data)),
        None => {
            Kind::Thinking(block.maybe_text("thinking")?, block.maybe_text("signature").map(seal))
        }
    };
    Some(kind.into())
}

fn tool_call<'a>(call: &Object<'a>) -> Result<ToolCall<'a>, Fault> {
    let function = call.needs_object("function")?;
    let arguments = match function.get("arguments") {
        None => Arguments::Quoted(Text::default()),
        Some(raw) => match Text::read(raw) {
            Some(text) => Arguments::Quoted(text),
            None => Arguments::Json(raw),
        },
    };
    Ok(ToolCall {
        id: call.needs_text("id")?,
        name: function.needs_text("name").map_err(|fault| fault.inside("function"))?,
        arguments,
        seal: google_seal(call),
    })
}

/// Google's seal on a call.
pub(super) fn google_seal<'a>(call: &Object<'a>) -> Option<Seal<'a>> {
    let google = call.maybe_object("extra_content").maybe_object("google");
    Some(Seal { origin: Origin::Google, value: google.maybe_text("thought_signature")? })
}

fn part<'a>(part: &Object<'a>) -> Result<Part<'a>, Fault> {
    let kind = part.kind();
    let kind = match &*kind.plain() {
        "text" => Kind::Text(part.needs_text("text")?),
        "refusal" => Kind::Refusal(part.needs_text("refusal")?),
        "image_url" => image(part)?,
        "file" if part.has("file") => file(part)?,
        _ => Kind::Opaque(part.clone()),
    };
    Ok(Part { kind, cache: part.get("cache_control") })
}

fn image<'a>(part: &Object<'a>) -> Result<Kind<'a>, Fault> {
    if let Some(url) = part.maybe_text("image_url") {
        return Ok(Kind::Image(source(url), None));
    }
    let image = part.needs_object("image_url")?;
    let url = image.needs_text("url").map_err(|fault| fault.inside("image_url"))?;
    Ok(Kind::Image(source(url), image.maybe_text("detail")))
}

fn file<'a>(part: &Object<'a>) -> Result<Kind<'a>, Fault> {
    let file = part.needs_object("file")?;
    let source = match (file.maybe_text("file_data"), file.maybe_text("file_id")) {
        (Some(data), _) => source(data),
        (None, Some(id)) => Source::Upload(id),
        (None, None) => {
            return Err(Fault::new("file", "must have `file_data`, or the `file_id` of an upload"));
        }
    };
    Ok(Kind::File(source, file.maybe_text("filename")))
}

fn tools<'a>(tools: &[Object<'a>], dropped: &mut Dropped) -> Result<Vec<Tool<'a>>, Fault> {
    let mut kept = Vec::with_capacity(tools.len());
    for (at, tool) in tools.iter().enumerate() {
        let within = |fault: Fault| fault.in_item("tools", at);
        if !tool.kind().is("function") {
            dropped.add_theirs("tools.", &tool.kind().plain());
            continue;
        }
        let function = tool.needs_object("function").map_err(within)?;
        kept.push(Tool {
            name: function.needs_text("name").map_err(|f| within(f.inside("function")))?,
            description: function.maybe_text("description"),
            schema: function.get("parameters"),
            strict: function.flag("strict"),
            cache: tool.get("cache_control"),
            known_as: None,
        });
    }
    Ok(kept)
}

fn tool_choice<'a>(
    top: &Object<'a>,
    dropped: &mut Dropped,
) -> Result<Option<ToolChoice<'a>>, Fault> {
    let Some(raw) = top.get("tool_choice") else { return Ok(None) };
    let wrong = || {
        Fault::new(
            "tool_choice",
            "must be auto, none, required, or an object that names a function",
        )
    };
    if let Some(word) = Text::read(raw) {
        return match &*word.plain() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" | "any" => Ok(Some(ToolChoice::Required)),
            _ => Err(wrong()),
        };
    }
    let choice = Object::read(raw).ok_or_else(wrong)?;
    let named = |of: &str| choice.maybe_object(of).maybe_text("name");
    match &*choice.kind().plain() {
        "function" | "custom" => {
            let name = named("function").or_else(|| named("custom")).ok_or_else(wrong)?;
            Ok(Some(ToolChoice::Tool(name)))
        }
        "allowed_tools" => {
            dropped.add("tool_choice.allowed_tools");
            let mode = choice.maybe_object("allowed_tools").maybe_text("mode");
            let is_required = mode.is_some_and(|mode| mode.is("required"));
            Ok(Some(if is_required { ToolChoice::Required } else { ToolChoice::Auto }))
        }
        _ => Err(wrong()),
    }
}

fn output<'a>(top: &Object<'a>) -> Result<Option<Output<'a>>, Fault> {
    let Some(format) = top.object("response_format")? else { return Ok(None) };
    match &*format.kind().plain() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Output::Json)),
        "json_schema" => {
            let within = |fault: Fault| fault.inside("response_format");
            let schema = format.needs_object("json_schema").map_err(within)?;
            let missing = || {
                let fault = Fault::new("schema", "is required: an object");
                within(fault.inside("json_schema"))
            };
            Ok(Some(Output::Schema {
                name: schema.maybe_text("name"),
                description: schema.maybe_text("description"),
                schema: schema.get("schema").ok_or_else(missing)?,
                strict: schema.flag("strict"),
            }))
        }
        _ => Err(Fault::new("type", "must be text, json_object or json_schema")
            .inside("response_format")),
    }
}

fn reasoning<'a>(top: &Object<'a>) -> Result<Option<Reasoning<'a>>, Fault> {
    let Some(effort) = top.text("reasoning_effort")? else { return Ok(None) };
    match &*effort.plain() {
        "auto" => Ok(None),
        "none" => Ok(Some(Reasoning::Off)),
        "minimal" | "low" | "medium" | "high" | "xhigh" | "max" => {
            Ok(Some(Reasoning::Effort(effort.clone(), None)))
        }
        _ => {
            let levels = "must be none, minimal, low, medium, high, xhigh, max or auto";
            Err(Fault::new("reasoning_effort", levels))
        }
    }
}
