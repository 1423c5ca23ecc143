//! Bodies that are OpenAI's chat with other words: which fields, roles and parts each family knows.

use serde_json::Value;

use super::Wants;
use super::shape::{At, Object, Read};
use crate::mock::call::{Generation, Speaker};
use crate::mock::tools;

/// How a family tells the arguments of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    /// As JSON in a string.
    Text,
    /// As the object itself.
    Object,
}

/// What a family's body may hold.
pub(super) struct Shape {
    pub(super) body: &'static [&'static str],
    /// Roles, and the fields of a message of that role beside `role`.
    pub(super) roles: &'static [(&'static str, &'static [&'static str])],
    /// Types of parts, and the field that holds each one's content; none: content is a text.
    pub(super) parts: &'static [(&'static str, &'static str)],
    pub(super) arguments: Arguments,
    /// The values of `tool_choice` that are words.
    pub(super) choices: &'static [&'static str],
    /// A tool's answer names the call; Ollama's names the tool, if anything.
    pub(super) paired: bool,
}

const TEXT_AND_CALLS: &[&str] = &["content", "name", "refusal", "audio", "tool_calls"];

/// Azure OpenAI: everything that OpenAI documents.
pub(super) const OPENAI: Shape = Shape {
    body: &[
        "model",
        "messages",
        "audio",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
        "data_sources",
        "user_security_context",
    ],
    roles: &[
        ("system", &["content", "name"]),
        ("developer", &["content", "name"]),
        ("user", &["content", "name"]),
        ("assistant", TEXT_AND_CALLS),
        ("tool", &["content", "tool_call_id"]),
    ],
    parts: &[
        ("text", "text"),
        ("image_url", "image_url"),
        ("input_audio", "input_audio"),
        ("file", "file"),
        ("refusal", "refusal"),
    ],
    arguments: Arguments::Text,
    choices: &["auto", "none", "required"],
    paired: true,
};

/// Azure AI Inference; more needs the header `extra-parameters`.
pub(super) const INFERENCE: Shape = Shape {
    body: &[
        "model",
        "messages",
        "frequency_penalty",
        "presence_penalty",
        "max_tokens",
        "modalities",
        "response_format",
        "seed",
        "stop",
        "stream",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    ],
    ..OPENAI
};

/// SageMaker's containers, as far as every one of them agrees.
pub(super) const SAGEMAKER: Shape = Shape {
    body: &[
        "messages",
        "system",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "stream",
        "stream_options",
    ],
    ..OPENAI
};

/// Mistral.
pub(super) const MISTRAL: Shape = Shape {
    body: &[
        "model",
        "messages",
        "frequency_penalty",
        "guardrails",
        "max_tokens",
        "metadata",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_mode",
        "random_seed",
        "reasoning_effort",
        "response_format",
        "safe_prompt",
        "stop",
        "stream",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    ],
    roles: &[
        ("system", &["content"]),
        ("user", &["content"]),
        ("assistant", &["content", "tool_calls", "prefix"]),
        ("tool", &["content", "tool_call_id", "name"]),
    ],
    parts: &[
        ("text", "text"),
        ("image_url", "image_url"),
        ("document_url", "document_url"),
        ("input_audio", "input_audio"),
        ("file", "file_id"),
        ("reference", "reference_ids"),
        ("thinking", "thinking"),
    ],
    choices: &["auto", "none", "any", "required"],
    ..OPENAI
};

/// watsonx.ai.
pub(super) const WATSONX: Shape = Shape {
    body: &[
        "model_id",
        "messages",
        "project_id",
        "space_id",
        "chat_template_kwargs",
        "context",
        "crypto",
        "frequency_penalty",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "include_reasoning",
        "length_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "time_limit",
        "tool_choice",
        "tool_choice_option",
        "tools",
        "top_logprobs",
        "top_p",
    ],
    roles: &[
        ("system", &["content", "name"]),
        ("developer", &["content", "name"]),
        ("user", &["content", "name"]),
        ("assistant", TEXT_AND_CALLS),
        ("tool", &["content", "tool_call_id"]),
    ],
    parts: &[
        ("text", "text"),
        ("image_url", "image_url"),
        ("video_url", "video_url"),
        ("input_audio", "input_audio"),
    ],
    choices: &[],
    ..OPENAI
};

/// Cohere.
pub(super) const COHERE: Shape = Shape {
    body: &[
        "model",
        "messages",
        "stream",
        "tools",
        "strict_tools",
        "tool_choice",
        "documents",
        "citation_options",
        "response_format",
        "safety_mode",
        "max_tokens",
        "stop_sequences",
        "temperature",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "k",
        "p",
        "logprobs",
        "thinking",
        "priority",
    ],
    roles: &[
        ("system", &["content"]),
        ("developer", &["content"]),
        ("user", &["content"]),
        ("assistant", &["content", "tool_calls", "tool_plan", "citations"]),
        ("tool", &["content", "tool_call_id"]),
    ],
    parts: &[
        ("text", "text"),
        ("image_url", "image_url"),
        ("thinking", "thinking"),
        ("document", "document"),
    ],
    choices: &["REQUIRED", "NONE"],
    ..OPENAI
};

/// Ollama.
pub(super) const OLLAMA: Shape = Shape {
    body: &[
        "model",
        "messages",
        "tools",
        "format",
        "options",
        "stream",
        "keep_alive",
        "think",
        "logprobs",
        "top_logprobs",
        "truncate",
        "shift",
    ],
    roles: &[
        ("system", &["content"]),
        ("user", &["content", "images"]),
        ("assistant", &["content", "thinking", "tool_calls", "images"]),
        ("tool", &["content", "tool_name", "tool_call_id"]),
    ],
    parts: &[],
    arguments: Arguments::Object,
    choices: &[],
    paired: false,
};

/// Reads a body of this shape; `raw` is the same body.
pub(super) fn read(body: &Value, raw: &[u8], shape: &Shape) -> Read<Wants> {
    let body = check(body, shape)?;
    wants(&body, raw)
}

/// Looks at a body of this shape.
pub(super) fn check<'v>(body: &'v Value, shape: &Shape) -> Read<Object<'v>> {
    let body = At::body(body).object(shape.body)?;
    messages(&body, shape)?;
    body.numbers(&["temperature", "top_p", "p", "frequency_penalty", "presence_penalty"])?;
    body.wholes(&["max_tokens", "max_completion_tokens", "n", "k", "top_logprobs"])?;
    if let Some(stop) = body.get("stop")
        && stop.text().is_err()
    {
        stop.texts()?;
    }
    body.get("stop_sequences").map_or(Ok(()), |stop| stop.texts())?;
    definitions(&body)?;
    if let Some(choice) = body.get("tool_choice") {
        match choice.value.as_str() {
            Some(_) => {
                choice.word(shape.choices)?;
            }
            None => {
                let choice = choice.object(&["type", "function"])?;
                choice.need("type")?.word(&["function"])?;
                choice.need("function")?.object(&["name"])?.text("name")?;
            }
        }
    }
    Ok(body)
}

/// What a body that was looked at asks for.
fn wants(body: &Object<'_>, raw: &[u8]) -> Read<Wants> {
    let call: Generation<'_> =
        serde_json::from_slice(raw).map_err(|error| format!("bad body: {error}"))?;
    let (given, forced) = tools::given(&call);
    Ok(Wants {
        model: body.get("model").map_or(Ok(""), |model| model.text())?.to_owned(),
        stream: call.stream == Some(true),
        chars: call.chars(),
        limit: call.limit(),
        include_usage: call.include_usage(),
        tools: given,
        forced,
        last: call.conversation().last,
    })
}

/// Looks at the conversation.
fn messages(body: &Object<'_>, shape: &Shape) -> Read<()> {
    let list = body.need("messages")?;
    let messages = list.list()?;
    if messages.is_empty() {
        return list.wrong("must not be empty");
    }
    // The calls that wait for their answers.
    let mut open: Vec<&str> = Vec::new();
    let mut last = Speaker::User;
    for message in &messages {
        let role = message.open_object()?.need("role")?;
        let known: Vec<&str> = shape.roles.iter().map(|(role, _)| *role).collect();
        let role = role.word(&known)?;
        let fields =
            shape.roles.iter().find(|(known, _)| *known == role).map(|(_, fields)| *fields);
        let message = message.object(&[&["role"], fields.unwrap_or_default()].concat())?;
        if role == "tool" {
            if shape.paired {
                let id = message.text("tool_call_id")?;
                let Some(at) = open.iter().position(|open| *open == id) else {
                    return message.wrong(&format!("answers no tool call: '{id}'"));
                };
                open.remove(at);
            }
        } else if !open.is_empty() {
            return message.wrong(&format!("the tool calls {open:?} must be answered first"));
        }
        if role == "user" && last == Speaker::Tool && shape.body == MISTRAL.body {
            return message.wrong("Unexpected role 'user' after role 'tool'");
        }
        content(&message, role, shape)?;
        if let Some(calls) = message.get("tool_calls") {
            for call in calls.list()? {
                let id = tool_call(&call, shape)?;
                if shape.paired {
                    open.push(id);
                }
            }
        }
        last = if role == "tool" { Speaker::Tool } else { Speaker::Other };
    }
    match open.is_empty() {
        true => Ok(()),
        false => list.wrong(&format!("the tool calls {open:?} must be answered")),
    }
}

fn content(message: &Object<'_>, role: &str, shape: &Shape) -> Read<()> {
    if let Some(images) = message.get("images") {
        for image in images.list()? {
            image.bytes(false)?;
        }
    }
    let said = ["tool_calls", "tool_plan", "refusal", "thinking", "images"];
    let Some(content) = message.get("content") else {
        let elsewhere = role == "assistant" && said.iter().any(|name| message.has(name));
        return if elsewhere { Ok(()) } else { message.need("content").map(|_| ()) };
    };
    if content.text().is_ok() {
        return Ok(());
    }
    if shape.parts.is_empty() {
        return content.wrong("must be a string");
    }
    for part in content.list()? {
        let kind = part.open_object()?.need("type")?;
        let known: Vec<&str> = shape.parts.iter().map(|(kind, _)| *kind).collect();
        let kind = kind.word(&known)?;
        let field = shape.parts.iter().find(|(known, _)| *known == kind).map_or(kind, |(_, f)| *f);
        let part = part.object(&["type", field, "detail", "signature", "closed"])?;
        let inside = part.need(field)?;
        if field == "text" {
            inside.text()?;
        }
    }
    Ok(())
}

/// Looks at a call in the conversation; answers its id.
fn tool_call<'a>(call: &At<'a>, shape: &Shape) -> Read<&'a str> {
    let call = call.object(&["id", "type", "function", "index"])?;
    let function = call.need("function")?.object(&["name", "arguments", "index"])?;
    function.text("name")?;
    let arguments = function.need("arguments")?;
    match shape.arguments {
        Arguments::Object => {
            arguments.open_object()?;
        }
        Arguments::Text => {
            arguments.text()?;
            call.get("type").map_or(Ok(""), |kind| kind.word(&["function"]))?;
        }
    }
    if shape.paired { call.text("id") } else { Ok("") }
}

/// Looks at the definitions of tools.
fn definitions(body: &Object<'_>) -> Read<()> {
    for tool in body.get("tools").map_or(Ok(Vec::new()), |tools| tools.list())? {
        let tool = tool.object(&["type", "function"])?;
        tool.need("type")?.word(&["function"])?;
        let known = ["name", "description", "parameters", "strict"];
        let function = tool.need("function")?.object(&known)?;
        function.text("name")?;
        if let Some(parameters) = function.get("parameters") {
            parameters.open_object()?;
        }
    }
    Ok(())
}
