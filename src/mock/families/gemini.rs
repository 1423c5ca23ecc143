//! Speaks Google's `generateContent`, for the Gemini API and for Vertex AI. The shapes follow Google's
//! API reference.

mod read;

use serde_json::{Map, Value, json};

pub(super) use read::{Host, read};

use crate::mock::answer::{Answer, Block, Kind, SIGNATURE, put};
use crate::mock::script::Usage;

/// Appends the answer in one piece.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let mut parts = Vec::new();
    for block in &answer.blocks {
        parts.push(match &block.kind {
            Kind::Thought => json!({"text": block.plain(), "thought": true}),
            Kind::Words { .. } => signed(answer, block, json!({"text": block.plain()})),
            Kind::Call(_) => call(answer, block),
        });
    }
    put(out, &[&frame(answer, parts, Some(finish(answer)), answer.pieces()).to_string()]);
}

/// Appends chunk `index`. Calls come whole, with their first fragment; the others say nothing.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (_, block) = answer.block(index);
    let part = match &block.kind {
        Kind::Thought => json!({"text": answer.plain(index), "thought": true}),
        Kind::Words { .. } => json!({"text": answer.plain(index)}),
        Kind::Call(_) if index == block.first => call(answer, block),
        Kind::Call(_) => return,
    };
    let frame = frame(answer, vec![part], None, index + 1);
    put(out, &["data: ", &frame.to_string(), "\r\n\r\n"]);
}

/// Appends the stream's last event: an empty text, and why it ended.
pub(in crate::mock) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let mut part = json!({"text": ""});
    if answer.thoughts() > 0 && !answer.calls() {
        part["thoughtSignature"] = json!(SIGNATURE);
    }
    let frame = frame(answer, vec![part], Some(finish(answer)), answer.pieces());
    put(out, &["data: ", &frame.to_string(), "\r\n\r\n"]);
}

/// Appends an error in the middle of a stream.
pub(in crate::mock) fn failure(out: &mut Vec<u8>) {
    let error = error(503, "mock: the stream failed as asked");
    put(out, &["data: ", &String::from_utf8_lossy(&error), "\r\n\r\n"]);
}

/// The body of an error answer.
pub(in crate::mock) fn error(status: u16, message: &str) -> Vec<u8> {
    let name = match status {
        400 | 413 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        400..=499 => "FAILED_PRECONDITION",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": name}}).to_string().into_bytes()
}

/// With the signature that follows thoughts, where no call carries it.
fn signed(answer: &Answer, block: &Block, mut part: Value) -> Value {
    let last = block.first + block.pieces == answer.pieces();
    if answer.thoughts() > 0 && last {
        part["thoughtSignature"] = json!(SIGNATURE);
    }
    part
}

/// A call; the first one after thoughts is signed.
fn call(answer: &Answer, block: &Block) -> Value {
    let Kind::Call(call) = &block.kind else { return Value::Null };
    let args: Value = serde_json::from_str(&block.plain()).unwrap_or_default();
    let mut part = json!({"functionCall": {"name": call.name, "args": args}});
    if answer.thoughts() > 0 && block.number == 0 {
        part["thoughtSignature"] = json!(SIGNATURE);
    }
    part
}

fn finish(answer: &Answer) -> &'static str {
    if answer.limited { "MAX_TOKENS" } else { "STOP" }
}

/// One `GenerateContentResponse`, after `sent` pieces: its counts grow with the stream.
fn frame(answer: &Answer, parts: Vec<Value>, finish: Option<&str>, sent: u32) -> Value {
    let model: Value = serde_json::from_str(&answer.model).unwrap_or_default();
    let mut candidate = Map::new();
    candidate.insert("content".into(), json!({"parts": parts, "role": "model"}));
    if let Some(finish) = finish {
        candidate.insert("finishReason".into(), json!(finish));
    }
    candidate.insert("index".into(), json!(0));
    let mut frame = json!({"candidates": [candidate]});
    if answer.usage != Usage::Never {
        let thoughts = sent.min(answer.thoughts());
        let mut usage = json!({"promptTokenCount": answer.prompt_tokens});
        if sent > thoughts {
            usage["candidatesTokenCount"] = json!(sent - thoughts);
        }
        usage["totalTokenCount"] = json!(answer.prompt_tokens + u64::from(sent));
        if answer.cached_tokens > 0 {
            usage["cachedContentTokenCount"] = json!(answer.cached_tokens);
        }
        usage["promptTokensDetails"] =
            json!([{"modality": "TEXT", "tokenCount": answer.prompt_tokens}]);
        if thoughts > 0 {
            usage["thoughtsTokenCount"] = json!(thoughts);
        }
        frame["usageMetadata"] = usage;
    }
    frame["modelVersion"] = model;
    frame["responseId"] = json!(answer.id);
    frame
}
