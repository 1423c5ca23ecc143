//! Speaks Azure: OpenAI's chat with content filters around it, and AI Inference without.

use serde_json::{Value, json};

use super::Wants;
use super::chatlike::{INFERENCE, OPENAI, read};
use super::shape::{At, Read};
use crate::mock::answer::{Answer, put};
use crate::mock::call::Generation;
use crate::mock::{chat, tools};

const FILTERS: &str = r#"{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}"#;

/// Reads a call to a deployment of Azure OpenAI.
pub(super) fn openai(body: &Value, raw: &[u8]) -> Read<Wants> {
    read(body, raw, &OPENAI)
}

/// Reads a call to Azure AI Inference; `extra`: the caller asked that other parameters be passed on.
pub(super) fn inference(body: &Value, raw: &[u8], extra: bool) -> Read<Wants> {
    let known = if extra { &OPENAI } else { &INFERENCE };
    if let Some(format) = At::body(body).open_object()?.get("response_format") {
        let format = format.object(&["type", "json_schema"])?;
        let kind = format.need("type")?.word(&["text", "json_object", "json_schema"])?;
        if kind == "json_schema" {
            let known = ["name", "schema", "description", "strict"];
            let schema = format.need("json_schema")?.object(&known)?;
            schema.text("name")?;
            schema.need("schema")?.open_object()?;
        }
    }
    read(body, raw, known)
}

/// Reads a response to Azure OpenAI, whose body is OpenAI's.
pub(super) fn responses(body: &Value, raw: &[u8]) -> Read<Wants> {
    let body = At::body(body).open_object()?;
    body.need("input")?;
    if body.has("messages") {
        return body.wrong("unknown parameter: 'messages'");
    }
    let call: Generation<'_> =
        serde_json::from_slice(raw).map_err(|error| format!("bad body: {error}"))?;
    let (given, forced) = tools::given(&call);
    Ok(Wants {
        model: body.text("model")?.to_owned(),
        stream: call.stream == Some(true),
        chars: call.chars(),
        limit: call.limit(),
        include_usage: false,
        tools: given,
        forced,
        last: call.conversation().last,
    })
}

/// Appends the answer in one piece.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    chat::whole(answer, &mut plain);
    plain.pop();
    out.extend_from_slice(&plain);
    put(out, &[r#","prompt_filter_results":[{"prompt_index":0,"content_filter_results":"#]);
    put(out, &[FILTERS, "}]}"]);
}

/// Appends what the filters found in the prompt, then what chat begins with.
pub(in crate::mock) fn open(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &[r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","#]);
    put(out, &[r#""prompt_filter_results":[{"prompt_index":0,"content_filter_results":"#]);
    put(out, &[FILTERS, "}]}\n\n"]);
    chat::open(answer, out);
}

/// The body of an error answer.
pub(in crate::mock) fn error(status: u16, message: &str) -> Vec<u8> {
    let code = match status {
        401 => "401",
        404 => "DeploymentNotFound",
        429 => "429",
        500.. => "InternalServerError",
        _ => "BadRequest",
    };
    json!({"error": {"code": code, "message": message}}).to_string().into_bytes()
}
