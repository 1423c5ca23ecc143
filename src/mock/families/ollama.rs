//! Speaks Ollama's own chat: a line of JSON per piece. The shapes follow Ollama's API reference.

use serde_json::{Value, json};

use super::Wants;
use super::chatlike::{self, OLLAMA};
use super::shape::{At, Read};
use crate::mock::answer::{Answer, Kind, put};
use crate::mock::script::Usage;

/// When every answer was made.
const CREATED_AT: &str = "2026-01-01T00:00:00.000000Z";

/// Reads a call. The server ignores options it does not know, but not values of the wrong type.
pub(super) fn read(body: &Value, raw: &[u8]) -> Read<Wants> {
    let mut wants = chatlike::read(body, raw, &OLLAMA)?;
    let body = At::body(body).open_object()?;
    // A body that says nothing gets a stream.
    wants.stream = body.get("stream").map_or(Ok(true), |stream| stream.flag())?;
    if let Some(think) = body.get("think")
        && think.flag().is_err()
    {
        think.word(&["low", "medium", "high", "max"])?;
    }
    if let Some(format) = body.get("format")
        && format.open_object().is_err()
    {
        format.word(&["json", ""])?;
    }
    if let Some(options) = body.get("options") {
        let options = options.open_object()?;
        options.numbers(&["temperature", "top_p", "min_p", "presence_penalty", "seed", "top_k"])?;
        options.wholes(&["num_ctx"])?;
        options.get("stop").map_or(Ok(()), |stop| stop.texts())?;
        if let Some(limit) = options.get("num_predict") {
            limit.number()?;
            // Negative: no limit.
            wants.limit = limit.value.as_u64();
        }
    }
    Ok(wants)
}

/// Appends the answer in one piece.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let mut message = json!({"role": "assistant", "content": ""});
    let mut calls = Vec::new();
    for block in &answer.blocks {
        match &block.kind {
            Kind::Thought => message["thinking"] = json!(block.plain()),
            Kind::Words { .. } => message["content"] = json!(block.plain()),
            Kind::Call(call) => calls.push(self::call(&call.name, &block.plain())),
        }
    }
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    put(out, &[&end(answer, message).to_string()]);
}

/// Appends chunk `index`. Calls come whole, with their first fragment; the others say nothing.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (_, block) = answer.block(index);
    let message = match &block.kind {
        Kind::Thought => {
            json!({"role": "assistant", "content": "", "thinking": answer.plain(index)})
        }
        Kind::Words { .. } => json!({"role": "assistant", "content": answer.plain(index)}),
        Kind::Call(call) if index == block.first => {
            let call = self::call(&call.name, &block.plain());
            json!({"role": "assistant", "content": "", "tool_calls": [call]})
        }
        Kind::Call(_) => return,
    };
    let mut line = head(answer, message);
    line["done"] = json!(false);
    put(out, &[&line.to_string(), "\n"]);
}

/// Appends the last line: why it ended, and the counts.
pub(in crate::mock) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let line = end(answer, json!({"role": "assistant", "content": ""}));
    put(out, &[&line.to_string(), "\n"]);
}

/// Appends an error in the middle of a stream.
pub(in crate::mock) fn failure(out: &mut Vec<u8>) {
    put(out, &[&String::from_utf8_lossy(&error("mock: the stream failed as asked")), "\n"]);
}

/// The body of an error answer.
pub(in crate::mock) fn error(message: &str) -> Vec<u8> {
    json!({"error": message}).to_string().into_bytes()
}

fn call(name: &str, arguments: &str) -> Value {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    json!({"function": {"name": name, "arguments": arguments}})
}

fn head(answer: &Answer, message: Value) -> Value {
    let model: Value = serde_json::from_str(&answer.model).unwrap_or_default();
    json!({"model": model, "created_at": CREATED_AT, "message": message})
}

fn end(answer: &Answer, message: Value) -> Value {
    let mut line = head(answer, message);
    line["done_reason"] = json!(if answer.limited { "length" } else { "stop" });
    line["done"] = json!(true);
    line["total_duration"] = json!(3_000_000);
    line["load_duration"] = json!(1_000_000);
    if answer.usage != Usage::Never {
        line["prompt_eval_count"] = json!(answer.prompt_tokens);
        line["prompt_eval_duration"] = json!(1_000_000);
        line["eval_count"] = json!(answer.pieces());
        line["eval_duration"] = json!(1_000_000);
    }
    line
}
