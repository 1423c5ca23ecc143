//! Reading a request for a message.

use super::super::fields::{content, drop_unknown, read_extras, texts};
use super::super::neutral::{
    Arguments, Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Source, Tool,
    ToolCall, ToolChoice, ToolResult, Turn,
};
use super::super::object::{Fault, Object};
use super::super::seal;
use super::super::text::Text;
use crate::rejection::Rejection;

/// Fields that are read one by one. What else there is has no place elsewhere and is named.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "system",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stream",
    "stop_sequences",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
];

/// Fields that other formats may know by the same name.
const EXTRAS: &[&str] = &["service_tier", "prompt_cache_key"];

/// Tokens to think for where a request does not say.
const DEFAULT_BUDGET: u64 = 8192;

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
    let (tool_choice, parallel_tools) = tool_choice(top)?;
    let mut conversation = Conversation {
        model: top.needs_text("model")?,
        turns: turns(top)?,
        tools: tools(&top.objects("tools")?, &mut dropped)?,
        tool_choice,
        parallel_tools,
        temperature: top.get("temperature"),
        top_p: top.get("top_p"),
        top_k: top.get("top_k"),
        stop: texts(top, "stop_sequences")?,
        max_output: top.get("max_tokens"),
        output: output(top),
        reasoning: reasoning(top)?,
        stream: top.flag("stream").unwrap_or(false),
        include_usage: true,
        dropped,
        ..Conversation::default()
    };
    read_extras(&mut conversation, top, EXTRAS);
    Ok(conversation)
}

fn turns<'a>(top: &Object<'a>) -> Result<Vec<Turn<'a>>, Fault> {
    let messages = top.objects("messages")?;
    let mut turns = Vec::with_capacity(messages.len() + 1);
    let (system, is_plain) = content(top, "system", part)?;
    if !system.is_empty() {
        turns.push(Turn { role: Role::System, parts: system, is_plain });
    }
    for (at, message) in messages.iter().enumerate() {
        let within = |fault: Fault| fault.in_item("messages", at);
        let role = match &*message.needs_text("role").map_err(within)?.plain() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            // Instructions that change on the way.
            "system" => Role::System,
            _ => return Err(within(Fault::new("role", "must be user, assistant or system"))),
        };
        let (parts, is_plain) = content(message, "content", part).map_err(within)?;
        turns.push(Turn { role, parts, is_plain });
    }
    Ok(turns)
}

/// Reads a block of content.
pub(super) fn part<'a>(block: &Object<'a>) -> Result<Part<'a>, Fault> {
    let kind = match &*block.kind().plain() {
        "text" => Kind::Text(block.needs_text("text")?),
        "image" => Kind::Image(source(block)?, None),
        "document" if is_one_document(block) => {
            Kind::File(source(block)?, block.maybe_text("title"))
        }
        "tool_use" => Kind::ToolCall(ToolCall {
            id: block.needs_text("id")?,
            name: block.needs_text("name")?,
            arguments: block
                .get("input")
                .map_or(Arguments::Quoted(Text::default()), Arguments::Json),
            seal: None,
        }),
        "tool_result" => {
            let (parts, is_plain) = content(block, "content", part)?;
            Kind::ToolResult(ToolResult {
                id: block.needs_text("tool_use_id")?,
                name: None,
                parts,
                is_plain,
                is_error: block.flag("is_error").unwrap_or(false),
                is_custom: false,
            })
        }
        "thinking" => {
            let signature = block.maybe_text("signature").filter(|text| !text.is_empty());
            let seal = signature.map(|text| seal::open(&text, Origin::Anthropic).0);
            Kind::Thinking(block.maybe_text("thinking").unwrap_or_default(), seal)
        }
        "redacted_thinking" => {
            let (seal, _) = seal::open(&block.needs_text("data")?, Origin::Anthropic);
            match seal.origin {
                Origin::Anthropic => Kind::Redacted(seal),
                Origin::OpenAi | Origin::Google | Origin::Mistral => {
                    Kind::Thinking(Text::default(), Some(seal))
                }
            }
        }
        _ => Kind::Opaque(block.clone()),
    };
    Ok(Part { kind, cache: block.get("cache_control") })
}

/// Whether the document is one thing, not a list of blocks.
fn is_one_document(block: &Object<'_>) -> bool {
    !block.maybe_object("source").kind().is("content")
}

fn source<'a>(block: &Object<'a>) -> Result<Source<'a>, Fault> {
    let source = block.needs_object("source")?;
    let needs = |name: &str| source.needs_text(name).map_err(|fault| fault.inside("source"));
    let media = || source.maybe_text("media_type").unwrap_or_else(|| Text::of("image/png"));
    match &*source.kind().plain() {
        "base64" => Ok(Source::Base64(media(), needs("data")?)),
        "url" => Ok(Source::Url(needs("url")?)),
        "file" => Ok(Source::Upload(needs("file_id")?)),
        "text" => Ok(Source::Plain(needs("data")?)),
        _ => Err(Fault::new("type", "must be base64, url, file or text").inside("source")),
    }
}

fn tools<'a>(tools: &[Object<'a>], dropped: &mut Dropped) -> Result<Vec<Tool<'a>>, Fault> {
    let mut kept = Vec::with_capacity(tools.len());
    for (at, tool) in tools.iter().enumerate() {
        let kind = tool.kind();
        if let (true, Some(function)) = (kind.is("function"), tool.object("function")?) {
            // Some callers send tools as the chat format has them.
            kept.push(Tool {
                name: function.needs_text("name").map_err(|fault| fault.in_item("tools", at))?,
                description: function.maybe_text("description"),
                schema: function.get("parameters"),
                strict: None,
                cache: tool.get("cache_control"),
                known_as: None,
            });
        } else if kind.is_empty() || kind.is("custom") {
            kept.push(Tool {
                name: tool.needs_text("name").map_err(|fault| fault.in_item("tools", at))?,
                description: tool.maybe_text("description"),
                schema: tool.get("input_schema"),
                strict: tool.flag("strict"),
                cache: tool.get("cache_control"),
                known_as: None,
            });
        } else {
            // A tool of the provider itself.
            dropped.add_theirs("tools.", &kind.plain());
        }
    }
    Ok(kept)
}

type Choice<'a> = (Option<ToolChoice<'a>>, Option<bool>);

fn tool_choice<'a>(top: &Object<'a>) -> Result<Choice<'a>, Fault> {
    let Some(choice) = top.object("tool_choice")? else { return Ok((None, None)) };
    let is_single = choice.flag("disable_parallel_tool_use").unwrap_or(false);
    let parallel = is_single.then_some(false);
    let named = match &*choice.kind().plain() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Tool(choice.needs_text("name").map_err(|f| f.inside("tool_choice"))?),
        _ => {
            return Err(Fault::new("type", "must be auto, any, tool or none").inside("tool_choice"));
        }
    };
    Ok((Some(named), parallel))
}

fn output<'a>(top: &Object<'a>) -> Option<Output<'a>> {
    let format =
        top.maybe_object("output_config").get("format").or_else(|| top.get("output_format"))?;
    let format = Object::read(format)?;
    let schema = format.get("schema")?;
    let name = Object::read(schema).and_then(|schema| schema.maybe_text("title"));
    // A title may be a sentence; a name may not.
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let name = name.filter(|name| {
        let name = name.escaped();
        !name.is_empty() && name.len() <= 64 && name.bytes().all(is_fine)
    });
    Some(Output::Schema { name, description: None, schema, strict: None })
}

fn reasoning<'a>(top: &Object<'a>) -> Result<Option<Reasoning<'a>>, Fault> {
    let effort = top.maybe_object("output_config").maybe_text("effort");
    let effort = effort.map(|effort| Reasoning::Effort(effort, None));
    let Some(thinking) = top.object("thinking")? else { return Ok(effort) };
    Ok(match &*thinking.kind().plain() {
        "disabled" => Some(Reasoning::Off),
        "enabled" => {
            let budget = thinking.count("budget_tokens").unwrap_or(DEFAULT_BUDGET);
            effort.or(Some(Reasoning::Budget(budget)))
        }
        _ => effort.or(Some(Reasoning::Adaptive)),
    })
}
