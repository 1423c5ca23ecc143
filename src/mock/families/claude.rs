//! Bodies of Anthropic's messages, looked at field by field: for Claude on Vertex AI and in Azure's
//! Foundry, and wherever the script says `strict`.

use serde_json::Value;

use super::Wants;
use super::shape::{At, Object, Read, is_name};
use crate::mock::call::Generation;
use crate::mock::tools;

const BODY: [&str; 21] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "tools",
    "tool_choice",
    "metadata",
    "thinking",
    "service_tier",
    "container",
    "context_management",
    "mcp_servers",
    "output_config",
    "output_format",
    "cache_control",
    "inference_geo",
];

/// Which Vertex AI wants to see.
const VERTEX_VERSION: &str = "vertex-2023-10-16";

/// Reads a body for Vertex AI: the model stands in the path, the version in the body.
pub(super) fn vertex(body: &Value, raw: &[u8], stream: bool) -> Read<Wants> {
    let mut known = BODY.to_vec();
    known.retain(|name| *name != "model");
    known.extend(["anthropic_version", "anthropic_beta"]);
    let object = At::body(body).object(&known)?;
    object.need("anthropic_version")?.word(&[VERTEX_VERSION])?;
    let wants = read_object(&object, raw)?;
    if wants.stream != stream {
        return object.wrong("stream is for streamRawPredict, and only for it");
    }
    Ok(wants)
}

/// Reads a body for Anthropic's own route.
pub(super) fn read(body: &Value, raw: &[u8]) -> Read<Wants> {
    let object = At::body(body).object(&BODY)?;
    object.text("model")?;
    read_object(&object, raw)
}

fn read_object(body: &Object<'_>, raw: &[u8]) -> Read<Wants> {
    let limit = body.need("max_tokens")?;
    if limit.whole()? == 0 {
        return limit.wrong("must be at least 1");
    }
    body.numbers(&["temperature", "top_p"])?;
    body.wholes(&["top_k"])?;
    if let Some(heat) = body.get("temperature")
        && !(0.0..=1.0).contains(&heat.number()?)
    {
        return heat.wrong("range: 0..1");
    }
    body.get("stop_sequences").map_or(Ok(()), |stop| stop.texts())?;
    if let Some(system) = body.get("system")
        && system.text().is_err()
    {
        for block in system.list()? {
            let block = block.object(&["type", "text", "cache_control", "citations"])?;
            block.need("type")?.word(&["text"])?;
            block.text("text")?;
        }
    }
    messages(body)?;
    definitions(body)?;
    settings(body, limit.whole()?)?;
    let call: Generation<'_> =
        serde_json::from_slice(raw).map_err(|error| format!("bad body: {error}"))?;
    let (given, forced) = tools::given(&call);
    Ok(Wants {
        model: body.get("model").map_or(Ok(""), |model| model.text())?.to_owned(),
        stream: call.stream == Some(true),
        chars: call.chars(),
        limit: call.limit(),
        include_usage: false,
        tools: given,
        forced,
        last: call.conversation().last,
    })
}

fn messages(body: &Object<'_>) -> Read<()> {
    let list = body.need("messages")?;
    let messages = list.list()?;
    if messages.is_empty() {
        return list.wrong("at least one message is required");
    }
    // The calls of the message before.
    let mut open: Vec<&str> = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let message = message.object(&["role", "content"])?;
        let role = message.need("role")?.word(&["user", "assistant"])?;
        if n == 0 && role != "user" {
            return message.wrong("the first message must use the user role");
        }
        let content = message.need("content")?;
        let mut calls = Vec::new();
        if let Ok(text) = content.text() {
            if text.is_empty() {
                return content.wrong("all messages must have non-empty content");
            }
        } else {
            for block in content.list()? {
                block_of(&block, role, &mut open, &mut calls)?;
            }
        }
        if !open.is_empty() {
            return message.wrong(&format!(
                "`tool_use` ids were found without `tool_result` blocks immediately after: {open:?}"
            ));
        }
        open = calls;
    }
    match open.is_empty() {
        true => Ok(()),
        false => list.wrong("the last message calls a tool"),
    }
}

/// Looks at one block: `open` loses the call that it answers, `calls` gets the one that it makes.
fn block_of<'a>(
    at: &At<'a>,
    role: &str,
    open: &mut Vec<&'a str>,
    calls: &mut Vec<&'a str>,
) -> Read<()> {
    match at.open_object()?.text("type")? {
        "text" => {
            let block = at.object(&["type", "text", "cache_control", "citations"])?;
            if block.text("text")?.is_empty() {
                return at.wrong("text content blocks must be non-empty");
            }
        }
        "image" => source(&at.object(&["type", "source", "cache_control"])?)?,
        "document" => {
            let known = ["type", "source", "title", "context", "citations", "cache_control"];
            source(&at.object(&known)?)?;
        }
        "tool_use" if role == "assistant" => {
            let call = at.object(&["type", "id", "name", "input", "cache_control", "caller"])?;
            call.need("input")?.open_object()?;
            if !is_name(call.text("id")?, "") || !is_name(call.text("name")?, "") {
                return at.wrong("id and name must be letters, digits, '_' and '-'");
            }
            calls.push(call.text("id")?);
        }
        "tool_result" if role == "user" => {
            let known = ["type", "tool_use_id", "content", "is_error", "cache_control"];
            let result = at.object(&known)?;
            let id = result.text("tool_use_id")?;
            let Some(found) = open.iter().position(|open| *open == id) else {
                return at.wrong(&format!("unexpected `tool_use_id` found in `tool_result`: {id}"));
            };
            open.remove(found);
            if let Some(content) = result.get("content")
                && content.text().is_err()
            {
                for block in content.list()? {
                    block.open_object()?.text("type")?;
                }
            }
        }
        "thinking" if role == "assistant" => {
            let thought = at.object(&["type", "thinking", "signature"])?;
            thought.text("thinking")?;
            if thought.text("signature")?.is_empty() {
                return at.wrong("invalid `signature` in `thinking` block");
            }
        }
        "redacted_thinking" if role == "assistant" => {
            at.object(&["type", "data"])?.text("data")?;
        }
        kind @ ("tool_use" | "tool_result" | "thinking" | "redacted_thinking") => {
            return at.wrong(&format!("`{kind}` blocks cannot be in messages of the role {role}"));
        }
        // Of server tools, of which there are many: their fields are not looked at.
        kind if kind.contains("tool") || kind == "search_result" || kind == "compaction" => {}
        kind => return at.wrong(&format!("unknown type '{kind}'")),
    }
    Ok(())
}

fn source(block: &Object<'_>) -> Read<()> {
    let source = block.need("source")?;
    let known = ["type", "media_type", "data", "url", "file_id", "content"];
    let source = source.object(&known)?;
    match source.need("type")?.word(&["base64", "url", "file", "text", "content"])? {
        "base64" => {
            source.text("media_type")?;
            source.need("data")?.bytes(false)
        }
        "url" => source.text("url").map(|_| ()),
        _ => Ok(()),
    }
}

fn definitions(body: &Object<'_>) -> Read<()> {
    for at in body.get("tools").map_or(Ok(Vec::new()), |tools| tools.list())? {
        let tool = at.open_object()?;
        let name = tool.need("name")?;
        if tool.get("type").is_some_and(|kind| kind.value != "custom") {
            // A tool of Anthropic's own.
            continue;
        }
        let known = [
            "type",
            "name",
            "description",
            "input_schema",
            "cache_control",
            "strict",
            "eager_input_streaming",
            "defer_loading",
            "allowed_callers",
            "input_examples",
        ];
        let tool = at.object(&known)?;
        if !is_name(name.text()?, "") {
            return name.wrong("must be letters, digits, '_' and '-', at most 64");
        }
        tool.get("description").map_or(Ok(""), |text| text.text())?;
        tool.need("input_schema")?.open_object()?.need("type")?.word(&["object"])?;
    }
    Ok(())
}

fn settings(body: &Object<'_>, limit: u64) -> Read<()> {
    if let Some(choice) = body.get("tool_choice") {
        let choice = choice.object(&["type", "name", "disable_parallel_tool_use"])?;
        if choice.need("type")?.word(&["auto", "any", "tool", "none"])? == "tool" {
            choice.text("name")?;
        }
        if !body.has("tools") {
            return choice.wrong("may only be specified while providing `tools`");
        }
    }
    if let Some(thinking) = body.get("thinking") {
        let thinking = thinking.object(&["type", "budget_tokens", "display"])?;
        if thinking.need("type")?.word(&["enabled", "disabled", "adaptive"])? == "enabled" {
            let budget = thinking.need("budget_tokens")?;
            if !(1024..limit).contains(&budget.whole()?) {
                return budget.wrong("must be at least 1024 and less than max_tokens");
            }
        }
    }
    if let Some(config) = body.get("output_config") {
        let config = config.object(&["effort", "format", "task_budget"])?;
        if let Some(effort) = config.get("effort") {
            effort.word(&["low", "medium", "high", "xhigh", "max"])?;
        }
        if let Some(format) = config.get("format") {
            let format = format.object(&["type", "schema"])?;
            format.need("type")?.word(&["json_schema"])?;
            format.need("schema")?.open_object()?;
        }
    }
    body.get("metadata").map_or(Ok(()), |meta| meta.object(&["user_id"]).map(|_| ()))
}
