//! Speaks Cohere's chat, version 2. The shapes follow Cohere's API reference.

use serde_json::{Value, json};

use super::Wants;
use super::chatlike::{self, COHERE};
use super::shape::{At, Read};
use crate::mock::answer::{Answer, Block, Kind, put};
use crate::mock::script::Usage;

/// Reads a call.
pub(super) fn read(body: &Value, raw: &[u8]) -> Read<Wants> {
    let wants = chatlike::read(body, raw, &COHERE)?;
    let body = At::body(body).open_object()?;
    body.need("model")?;
    if let Some(thinking) = body.get("thinking") {
        let thinking = thinking.object(&["type", "token_budget"])?;
        thinking.need("type")?.word(&["enabled", "disabled"])?;
        thinking.wholes(&["token_budget"])?;
    }
    if let Some(format) = body.get("response_format") {
        let format = format.object(&["type", "json_schema", "schema"])?;
        format.need("type")?.word(&["text", "json_object"])?;
        for name in ["json_schema", "schema"] {
            if let Some(schema) = format.get(name) {
                schema.open_object()?.need("type")?;
            }
        }
    }
    if let Some(choice) = body.get("tool_choice") {
        choice.text()?;
        if wants.tools.is_empty() {
            return choice.wrong("needs tools");
        }
    }
    Ok(wants)
}

/// Appends the answer in one piece. Words before a call are its plan.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let mut message = json!({"role": "assistant"});
    let mut content = Vec::new();
    let mut calls = Vec::new();
    for block in &answer.blocks {
        match &block.kind {
            Kind::Thought => content.push(json!({"type": "thinking", "thinking": block.plain()})),
            Kind::Words { .. } if answer.calls() => message["tool_plan"] = json!(block.plain()),
            Kind::Words { .. } => content.push(json!({"type": "text", "text": block.plain()})),
            Kind::Call(call) => {
                calls.push(json!({"id": id(answer, block), "type": "function",
                    "function": {"name": call.name, "arguments": block.plain()}}));
            }
        }
    }
    if !content.is_empty() {
        message["content"] = json!(content);
    }
    if !calls.is_empty() {
        message["tool_calls"] = json!(calls);
    }
    let mut body = json!({"id": answer.id, "finish_reason": finish(answer), "message": message});
    if answer.usage != Usage::Never {
        body["usage"] = usage(answer);
    }
    put(out, &[&body.to_string()]);
}

/// Appends `message-start` and the start of the first block.
pub(in crate::mock) fn open(answer: &Answer, out: &mut Vec<u8>) {
    let message = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [],
        "citations": []});
    let start = json!({"id": answer.id, "type": "message-start", "delta": {"message": message}});
    event(&start, out);
    start_of(answer, 0, out);
}

/// Appends chunk `index`, and what stands between it and the block before.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(index);
    if at > 0 && index == block.first {
        end_of(answer, at - 1, out);
        start_of(answer, at, out);
    }
    let text = answer.plain(index);
    match block.kind {
        Kind::Thought => content(at, &json!({"thinking": text}), out),
        Kind::Words { .. } if answer.calls() => {
            let message = json!({"tool_plan": text});
            event(&json!({"type": "tool-plan-delta", "delta": {"message": message}}), out);
        }
        Kind::Words { .. } => content(at, &json!({"text": text}), out),
        Kind::Call(_) => {
            let message = json!({"tool_calls": {"function": {"arguments": text}}});
            event(
                &json!({"type": "tool-call-delta", "index": block.number,
                    "delta": {"message": message}}),
                out,
            );
        }
    }
}

/// Appends the end of the last block.
pub(in crate::mock) fn close(answer: &Answer, out: &mut Vec<u8>) {
    end_of(answer, answer.blocks.len() - 1, out);
}

/// Appends `message-end`.
pub(in crate::mock) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let mut delta = json!({"finish_reason": finish(answer)});
    if answer.usage != Usage::Never {
        delta["usage"] = usage(answer);
    }
    event(&json!({"type": "message-end", "delta": delta}), out);
    put(out, &["data: [DONE]\n\n"]);
}

/// Appends an error in the middle of a stream: an end like others, with another reason.
pub(in crate::mock) fn failure(out: &mut Vec<u8>) {
    let delta = json!({"finish_reason": "ERROR", "error": "mock: the stream failed as asked"});
    event(&json!({"type": "message-end", "delta": delta}), out);
}

/// The body of an error answer.
pub(in crate::mock) fn error(message: &str) -> Vec<u8> {
    json!({"id": "mock", "message": message}).to_string().into_bytes()
}

fn start_of(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    let content = match &block.kind {
        Kind::Thought => json!({"type": "thinking", "thinking": ""}),
        Kind::Words { .. } if answer.calls() => return,
        Kind::Words { .. } => json!({"type": "text", "text": ""}),
        Kind::Call(call) => {
            let call = json!({"id": id(answer, block), "type": "function",
                "function": {"name": call.name, "arguments": ""}});
            let start = json!({"type": "tool-call-start", "index": block.number,
                "delta": {"message": {"tool_calls": call}}});
            return event(&start, out);
        }
    };
    let delta = json!({"message": {"content": content}});
    event(&json!({"type": "content-start", "index": at, "delta": delta}), out);
}

fn end_of(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    match block.kind {
        Kind::Call(_) => event(&json!({"type": "tool-call-end", "index": block.number}), out),
        Kind::Words { .. } if answer.calls() => {}
        _ => event(&json!({"type": "content-end", "index": at}), out),
    }
}

fn content(at: usize, content: &Value, out: &mut Vec<u8>) {
    let delta = json!({"message": {"content": content}});
    event(&json!({"type": "content-delta", "index": at, "delta": delta}), out);
}

fn event(event: &Value, out: &mut Vec<u8>) {
    let name = event["type"].as_str().unwrap_or_default();
    put(out, &["event: ", name, "\ndata: ", &event.to_string(), "\n\n"]);
}

fn id(answer: &Answer, block: &Block) -> String {
    format!("call_{}", answer.numbered(block.number as usize))
}

fn finish(answer: &Answer) -> &'static str {
    match (answer.calls(), answer.limited) {
        (true, _) => "TOOL_CALL",
        (_, true) => "MAX_TOKENS",
        _ => "COMPLETE",
    }
}

fn usage(answer: &Answer) -> Value {
    let (input, output) = (answer.prompt_tokens, answer.pieces());
    // What is billed differs from what was counted, so that nobody takes the one for the other.
    json!({
        "billed_units": {"input_tokens": input.saturating_sub(1), "output_tokens": output},
        "tokens": {"input_tokens": input, "output_tokens": output},
        "cached_tokens": answer.cached_tokens,
    })
}
