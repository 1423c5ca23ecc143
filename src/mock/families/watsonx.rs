//! Speaks IBM watsonx.ai's text chat. The shapes follow IBM's API reference and the answers its SDKs are
//! tested with.

use serde_json::{Map, Value, json};

use super::Wants;
use super::chatlike::{self, WATSONX};
use super::shape::{At, Read};
use crate::mock::answer::{Answer, Block, CREATED, Kind, put};
use crate::mock::chat;
use crate::mock::script::Usage;
use crate::mock::tools::Forced;

/// Reads a call.
pub(super) fn read(body: &Value, raw: &[u8]) -> Read<Wants> {
    let mut wants = chatlike::read(body, raw, &WATSONX)?;
    let body = At::body(body).open_object()?;
    wants.model = body.text("model_id")?.to_owned();
    let known = ["project_id", "space_id"];
    body.need(body.one_of(&known)?)?.text()?;
    if let Some(option) = body.get("tool_choice_option") {
        if body.has("tool_choice") {
            return option.wrong("cannot stand together with tool_choice");
        }
        wants.forced = match option.word(&["auto", "none", "required"])? {
            "none" => Forced::Never,
            "required" => Forced::Any,
            _ => Forced::No,
        };
    }
    Ok(wants)
}

/// Appends the answer in one piece.
pub(in crate::mock) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let mut message = Vec::new();
    chat::message(answer, &mut message);
    let message: Value = serde_json::from_slice(&message).unwrap_or_default();
    let mut said = Map::new();
    for name in ["role", "content", "reasoning_content", "tool_calls"] {
        if let Some(value) = message.get(name).filter(|value| !value.is_null()) {
            said.insert(name.into(), value.clone());
        }
    }
    let choice = json!({"index": 0, "message": said, "finish_reason": chat::finish(answer)});
    let mut body = head(answer, "chat.completion", json!([choice]));
    if answer.usage != Usage::Never {
        body["usage"] = usage(answer);
    }
    put(out, &[&body.to_string()]);
}

/// Appends the first event, which says the role.
pub(in crate::mock) fn open(answer: &Answer, out: &mut Vec<u8>) {
    event(answer, 1, &json!({"role": "assistant", "content": ""}), None, out);
}

/// Appends chunk `index`, behind the name of a call that begins.
pub(in crate::mock) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (_, block) = answer.block(index);
    let mut number = 2 + index + calls_before(answer, index);
    let text = answer.plain(index);
    let delta = match &block.kind {
        Kind::Thought => json!({"reasoning_content": text}),
        Kind::Words { .. } => json!({"content": text}),
        Kind::Call(call) => {
            if index == block.first {
                let function = json!({"name": call.name, "arguments": ""});
                let call = json!({"index": block.number, "id": id(answer, block),
                    "type": "function", "function": function});
                event(answer, number, &json!({"tool_calls": [call]}), None, out);
                number += 1;
            }
            // The real service repeats the name as an empty text.
            let function = json!({"name": "", "arguments": text});
            json!({"tool_calls": [{"index": block.number, "function": function}]})
        }
    };
    event(answer, number, &delta, None, out);
}

/// Appends why the answer ended, and the counts.
pub(in crate::mock) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let number = 2 + answer.pieces() + calls_before(answer, answer.pieces());
    event(answer, number, &json!({"content": ""}), Some(chat::finish(answer)), out);
    if answer.usage != Usage::Never {
        let mut chunk = head(answer, "chat.completion.chunk", json!([]));
        chunk["usage"] = usage(answer);
        write(number + 1, "message", &chunk, out);
    }
}

/// Appends an error after `sent` chunks.
pub(in crate::mock) fn failure(answer: &Answer, sent: u32, out: &mut Vec<u8>) {
    let error = errors(500, "mock: the stream failed as asked");
    write(2 + sent + calls_before(answer, sent), "error", &error, out);
}

/// The body of an error answer.
pub(in crate::mock) fn error(status: u16, message: &str) -> Vec<u8> {
    errors(status, message).to_string().into_bytes()
}

fn errors(status: u16, message: &str) -> Value {
    let code = match status {
        401 => "authentication_token_not_valid",
        403 => "authorization_rejected",
        404 => "model_not_supported",
        429 => "consumption_limit_reached",
        500.. => "downstream_request_failed",
        _ => "invalid_request_entity",
    };
    json!({"errors": [{"code": code, "message": message,
        "more_info": "https://cloud.ibm.com/apidocs/watsonx-ai#text-chat"}],
        "trace": "mock", "status_code": status})
}

/// How many calls begin before chunk `index`: the name of each is an event of its own.
fn calls_before(answer: &Answer, index: u32) -> u32 {
    let calls = answer.blocks.iter().filter(|block| matches!(block.kind, Kind::Call(_)));
    calls.filter(|block| block.first < index).count() as u32
}

fn event(answer: &Answer, number: u32, delta: &Value, finish: Option<&str>, out: &mut Vec<u8>) {
    let choice = json!({"index": 0, "finish_reason": finish, "delta": delta});
    write(number, "message", &head(answer, "chat.completion.chunk", json!([choice])), out);
}

fn write(number: u32, kind: &str, data: &Value, out: &mut Vec<u8>) {
    let number = number.to_string();
    put(out, &["id: ", &number, "\nevent: ", kind, "\ndata: ", &data.to_string(), "\n\n"]);
}

fn head(answer: &Answer, object: &str, choices: Value) -> Value {
    let model: Value = serde_json::from_str(&answer.model).unwrap_or_default();
    let created: Value = serde_json::from_str(CREATED).unwrap_or_default();
    json!({"id": format!("chatcmpl-{}", answer.id), "object": object, "model_id": model,
        "model": model, "choices": choices, "created": created, "model_version": "1.0.0",
        "created_at": "2026-01-01T00:00:00.000Z"})
}

fn id(answer: &Answer, block: &Block) -> String {
    format!("chatcmpl-tool-{}", answer.numbered(block.number as usize))
}

fn usage(answer: &Answer) -> Value {
    let (input, output) = (answer.prompt_tokens, u64::from(answer.pieces()));
    json!({"completion_tokens": output, "prompt_tokens": input, "total_tokens": input + output})
}
