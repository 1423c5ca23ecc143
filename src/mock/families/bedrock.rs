//! Speaks Amazon Bedrock's Converse. The shapes follow the Bedrock Runtime API reference.

use serde_json::{Value, json};

use super::Wants;
use super::frames::{event, exception};
use super::shape::{At, Object, Read, chars, is_name};
use crate::mock::answer::{Answer, Block, Kind, SIGNATURE, put};
use crate::mock::call::Speaker;
use crate::mock::script::Usage;
use crate::mock::tools::{Forced, Tool};

const BODY: [&str; 13] = [
    "messages",
    "system",
    "inferenceConfig",
    "toolConfig",
    "guardrailConfig",
    "additionalModelRequestFields",
    "additionalModelResponseFieldPaths",
    "promptVariables",
    "requestMetadata",
    "performanceConfig",
    "serviceTier",
    "outputConfig",
    "modelId",
];

/// What a message is made of.
const BLOCKS: [&str; 11] = [
    "text",
    "image",
    "document",
    "video",
    "audio",
    "toolUse",
    "toolResult",
    "guardContent",
    "cachePoint",
    "reasoningContent",
    "searchResult",
];

/// What a tool's result is made of.
const RESULTS: [&str; 6] = ["text", "json", "image", "document", "video", "searchResult"];

/// Reads a call.
pub(super) fn read(body: &Value) -> Read<Wants> {
    let body = At::body(body).object(&BODY)?;
    if body.has("modelId") {
        return body.wrong("the model stands in the path, not in the body");
    }
    let mut wants = Wants::default();
    for block in body.get("system").map_or(Ok(Vec::new()), |system| system.list())? {
        let known = ["text", "guardContent", "cachePoint"];
        let block = block.object(&known)?;
        if block.one_of(&known)? == "text" {
            wants.chars += text(&block)?;
        }
    }
    let used = messages(&body, &mut wants)?;
    if let Some(config) = body.get("inferenceConfig") {
        let config = config.object(&["maxTokens", "temperature", "topP", "stopSequences"])?;
        config.numbers(&["temperature", "topP"])?;
        config.get("stopSequences").map_or(Ok(()), |stop| stop.texts())?;
        wants.limit = config.get("maxTokens").map(|limit| limit.whole()).transpose()?;
        if wants.limit == Some(0) {
            return config.wrong("maxTokens must be at least 1");
        }
    }
    match body.get("toolConfig") {
        Some(config) => tools(&config, &mut wants)?,
        None if used => {
            return body.wrong(
                "the toolConfig field must be defined when using toolUse and toolResult content blocks",
            );
        }
        None => {}
    }
    if let Some(more) = body.get("additionalModelRequestFields") {
        budget(&more, wants.limit)?;
    }
    Ok(wants)
}

/// Reads the conversation; answers whether tools were used in it.
fn messages(body: &Object<'_>, wants: &mut Wants) -> Read<bool> {
    let list = body.need("messages")?;
    let messages = list.list()?;
    let mut used = false;
    let mut before = "assistant";
    // The calls of the message before.
    let mut open: Vec<&str> = Vec::new();
    for message in &messages {
        let message = message.object(&["role", "content"])?;
        let role = message.need("role")?.word(&["user", "assistant"])?;
        if role == before {
            return message.wrong("a conversation must start with a user message and alternate between user and assistant roles");
        }
        before = role;
        let content = message.need("content")?;
        let blocks = content.list()?;
        if blocks.is_empty() {
            return content.wrong("must not be empty");
        }
        let (mut calls, mut results) = (Vec::new(), Vec::new());
        for block in &blocks {
            match block_of(block, role, wants)? {
                Part::Call(id) => calls.push(id),
                Part::Result(id) => results.push(id),
                Part::Other => {}
            }
        }
        if role == "user" {
            let mut wanted = std::mem::take(&mut open);
            wanted.sort_unstable();
            let mut given = results.clone();
            given.sort_unstable();
            if wanted != given {
                return content.wrong(&format!(
                    "expected toolResult blocks for the ids {wanted:?} of the turn before, got {given:?}"
                ));
            }
        }
        used |= !calls.is_empty() || !results.is_empty();
        wants.last = match role {
            "assistant" => Speaker::Other,
            _ if results.is_empty() => Speaker::User,
            _ => Speaker::Tool,
        };
        open = calls;
    }
    if messages.is_empty() || before == "assistant" {
        return list.wrong("a conversation must end with a user message");
    }
    Ok(used)
}

enum Part<'a> {
    Call(&'a str),
    Result(&'a str),
    Other,
}

fn block_of<'a>(at: &At<'a>, role: &str, wants: &mut Wants) -> Read<Part<'a>> {
    let block = at.object(&BLOCKS)?;
    let kind = block.one_of(&BLOCKS)?;
    let inside = block.need(kind)?;
    match kind {
        "text" => wants.chars += text(&block)?,
        "image" => image(&inside)?,
        "toolUse" if role == "assistant" => {
            let call = inside.object(&["toolUseId", "name", "input", "type"])?;
            call.need("input")?.open_object()?;
            name(&call)?;
            return Ok(Part::Call(id(&call)?));
        }
        "toolResult" if role == "user" => {
            let result = inside.object(&["toolUseId", "content", "status", "type"])?;
            result.get("status").map_or(Ok(""), |status| status.word(&["success", "error"]))?;
            for part in result.need("content")?.list()? {
                let part = part.object(&RESULTS)?;
                match part.one_of(&RESULTS)? {
                    "text" => wants.chars += chars(part.text("text")?),
                    "json" => {
                        let json = part.need("json")?;
                        json.open_object()?;
                        wants.chars += chars(&json.value.to_string());
                    }
                    "image" => image(&part.need("image")?)?,
                    _ => {}
                }
            }
            return Ok(Part::Result(id(&result)?));
        }
        "reasoningContent" if role == "assistant" => {
            let known = ["reasoningText", "redactedContent"];
            let thought = inside.object(&known)?;
            if thought.one_of(&known)? == "reasoningText" {
                let thought = thought.need("reasoningText")?.object(&["text", "signature"])?;
                thought.text("text")?;
            } else {
                thought.need("redactedContent")?.bytes(false)?;
            }
        }
        "toolUse" | "toolResult" | "reasoningContent" => {
            return at.wrong(&format!("the role {role} has no {kind} blocks"));
        }
        _ => {
            inside.open_object()?;
        }
    }
    Ok(Part::Other)
}

/// Characters of a block's text, which must not be blank.
fn text(block: &Object<'_>) -> Read<u64> {
    let at = block.need("text")?;
    let text = at.text()?;
    if text.trim().is_empty() {
        return at.wrong("the text field in the ContentBlock object is blank");
    }
    Ok(chars(text))
}

fn image(at: &At<'_>) -> Read<()> {
    let image = at.object(&["format", "source"])?;
    image.need("format")?.word(&["png", "jpeg", "gif", "webp"])?;
    let known = ["bytes", "s3Location"];
    let source = image.need("source")?.object(&known)?;
    if source.one_of(&known)? == "bytes" { source.need("bytes")?.bytes(false) } else { Ok(()) }
}

fn id<'a>(call: &Object<'a>) -> Read<&'a str> {
    let at = call.need("toolUseId")?;
    let id = at.text()?;
    if is_name(id, ".:") { Ok(id) } else { at.wrong("is no tool use id") }
}

fn name<'a>(call: &Object<'a>) -> Read<&'a str> {
    let at = call.need("name")?;
    let name = at.text()?;
    if is_name(name, "") { Ok(name) } else { at.wrong("is no name of a tool") }
}

fn tools(config: &At<'_>, wants: &mut Wants) -> Read<()> {
    let config = config.object(&["tools", "toolChoice"])?;
    let list = config.need("tools")?;
    for tool in list.list()? {
        let known = ["toolSpec", "cachePoint", "systemTool"];
        let tool = tool.object(&known)?;
        if tool.one_of(&known)? != "toolSpec" {
            continue;
        }
        let tool =
            tool.need("toolSpec")?.object(&["name", "description", "inputSchema", "strict"])?;
        if let Some(description) = tool.get("description")
            && description.text()?.is_empty()
        {
            return description.wrong("must have at least one character");
        }
        let schema = tool.need("inputSchema")?.object(&["json"])?.need("json")?;
        if schema.open_object()?.text("type")? != "object" {
            return schema.wrong("must have the type object");
        }
        let name = name(&tool)?.to_owned();
        wants.tools.push(Tool { name, schema: Some(schema.value.clone()) });
    }
    if wants.tools.is_empty() {
        return list.wrong("must hold at least one tool");
    }
    if let Some(choice) = config.get("toolChoice") {
        let known = ["auto", "any", "tool"];
        let choice = choice.object(&known)?;
        wants.forced = match choice.one_of(&known)? {
            "any" => Forced::Any,
            "tool" => {
                Forced::Named(choice.need("tool")?.object(&["name"])?.text("name")?.to_owned())
            }
            _ => Forced::No,
        };
    }
    Ok(())
}

/// Looks whether a budget of thought leaves room for the answer.
fn budget(more: &At<'_>, limit: Option<u64>) -> Read<()> {
    let more = more.open_object()?;
    for name in ["reasoning_config", "thinking"] {
        let Some(config) = more.get(name) else { continue };
        let config = config.object(&["type", "budget_tokens"])?;
        let kind = config.need("type")?.word(&["enabled", "disabled", "adaptive"])?;
        if kind != "enabled" {
            continue;
        }
        let budget = config.need("budget_tokens")?;
        if budget.whole()? < 1024 {
            return budget.wrong("must be at least 1024");
        }
        if limit.is_none_or(|limit| limit <= budget.whole().unwrap_or(u64::MAX)) {
            return budget.wrong("maxTokens must be greater than budget_tokens");
        }
    }
    Ok(())
}

/// Appends the answer in one piece.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let content: Vec<Value> = (answer.blocks.iter())
        .map(|block| match &block.kind {
            Kind::Thought => json!({"reasoningContent": {"reasoningText":
                {"text": block.plain(), "signature": SIGNATURE}}}),
            Kind::Words { .. } => json!({"text": block.plain()}),
            Kind::Call(call) => {
                let input: Value = serde_json::from_str(&block.plain()).unwrap_or_default();
                json!({"toolUse": {"toolUseId": use_id(answer, block), "name": call.name,
                    "input": input}})
            }
        })
        .collect();
    let mut body = json!({
        "metrics": {"latencyMs": 1},
        "output": {"message": {"content": content, "role": "assistant"}},
        "stopReason": stop_reason(answer),
    });
    if answer.usage != Usage::Never {
        body["usage"] = usage(answer);
    }
    put(out, &[&body.to_string()]);
}

/// Appends `messageStart`, and `contentBlockStart` where a call comes first.
pub(in crate::mock) fn open(answer: &Answer, out: &mut Vec<u8>) {
    event("messageStart", r#"{"p":"abcdefgh","role":"assistant"}"#, out);
    start(answer, 0, out);
}

/// Appends chunk `index`, and what stands between it and the block before.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(index);
    if at > 0 && index == block.first {
        stop(answer, at - 1, out);
        start(answer, at, out);
    }
    let text = answer.plain(index);
    let delta = match block.kind {
        Kind::Thought => json!({"reasoningContent": {"text": text}}),
        Kind::Words { .. } => json!({"text": text}),
        Kind::Call(_) => json!({"toolUse": {"input": text}}),
    };
    block_delta(at, &delta, out);
}

/// Appends the end of the last block.
pub(in crate::mock) fn close(answer: &Answer, out: &mut Vec<u8>) {
    stop(answer, answer.blocks.len() - 1, out);
}

/// Appends why the answer ended, and what it cost.
pub(in crate::mock) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let stop = json!({"p": "abcd", "stopReason": stop_reason(answer)});
    event("messageStop", &stop.to_string(), out);
    if answer.usage != Usage::Never {
        let end = json!({"metrics": {"latencyMs": 1}, "p": "abcde", "usage": usage(answer)});
        event("metadata", &end.to_string(), out);
    }
}

/// Appends an error in the middle of a stream.
pub(in crate::mock) fn failure(out: &mut Vec<u8>) {
    let payload = json!({"message": "mock: the stream failed as asked", "originalStatusCode": 500});
    exception("modelStreamErrorException", &payload.to_string(), out);
}

/// The header lines of an error answer.
pub(in crate::mock) fn error_fields(status: u16) -> &'static str {
    match status {
        400 | 413 => "x-amzn-errortype: ValidationException:http://internal.amazon.com/coral/\r\n",
        403 => "x-amzn-errortype: AccessDeniedException\r\n",
        404 => "x-amzn-errortype: ResourceNotFoundException\r\n",
        408 => "x-amzn-errortype: ModelTimeoutException\r\n",
        424 => "x-amzn-errortype: ModelErrorException\r\n",
        429 => "x-amzn-errortype: ThrottlingException\r\n",
        503 => "x-amzn-errortype: ServiceUnavailableException\r\n",
        400..=499 => "x-amzn-errortype: UnknownOperationException\r\n",
        _ => "x-amzn-errortype: InternalServerException\r\n",
    }
}

/// The body of an error answer.
pub(in crate::mock) fn error(message: &str) -> Vec<u8> {
    json!({"message": message}).to_string().into_bytes()
}

fn start(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    // Texts and thoughts begin with their first delta.
    let Kind::Call(call) = &block.kind else { return };
    let tool = json!({"name": call.name, "toolUseId": use_id(answer, block)});
    let start = json!({"contentBlockIndex": at, "p": "ab", "start": {"toolUse": tool}});
    event("contentBlockStart", &start.to_string(), out);
}

fn stop(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    if matches!(answer.blocks[at].kind, Kind::Thought) {
        block_delta(at, &json!({"reasoningContent": {"signature": SIGNATURE}}), out);
    }
    let stop = json!({"contentBlockIndex": at, "p": "abc"});
    event("contentBlockStop", &stop.to_string(), out);
}

fn block_delta(at: usize, delta: &Value, out: &mut Vec<u8>) {
    let payload = json!({"contentBlockIndex": at, "delta": delta, "p": "abcdef"});
    event("contentBlockDelta", &payload.to_string(), out);
}

fn use_id(answer: &Answer, block: &Block) -> String {
    format!("tooluse_{}", answer.numbered(block.number as usize))
}

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.calls(), answer.limited) {
        (true, _) => "tool_use",
        (_, true) => "max_tokens",
        _ => "end_turn",
    }
}

/// Cached tokens stand beside `inputTokens` here, not in it.
fn usage(answer: &Answer) -> Value {
    let output = u64::from(answer.pieces());
    json!({
        "cacheReadInputTokens": answer.cached_tokens,
        "cacheWriteInputTokens": 0,
        "inputTokens": answer.prompt_tokens - answer.cached_tokens,
        "outputTokens": output,
        "totalTokens": answer.prompt_tokens + output,
    })
}
