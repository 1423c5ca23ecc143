//! Writes Anthropic messages. The shapes follow Anthropic's API reference.

use super::answer::{Answer, Content, put, quoted};
use super::script::Usage;

/// Appends the answer in one piece.
pub(super) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    message_head(answer, out);
    match &answer.content {
        Content::Words { .. } => {
            put(out, &[r#"[{"type":"text","text":""#]);
            answer.text(out);
            put(out, &["\"}]"]);
        }
        Content::Call { name, .. } => {
            let mut arguments = Vec::new();
            answer.text(&mut arguments);
            let head = [r#"[{"type":"tool_use","id":"toolu_"#, &answer.id, r#"","name":"#];
            put(out, &head);
            put(out, &[&quoted(name), r#","input":"#, &unescaped(&arguments), "}]"]);
        }
    }
    put(out, &[r#","stop_reason":""#, stop_reason(answer), r#"","stop_sequence":null"#]);
    if answer.usage != Usage::Never {
        put(out, &[",\"usage\":", &usage(answer, u64::from(answer.pieces()))]);
    }
    put(out, &["}"]);
}

/// Appends `message_start`, `content_block_start` and a `ping`.
pub(super) fn open(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &["event: message_start\ndata: {\"type\":\"message_start\",\"message\":"]);
    message_head(answer, out);
    put(out, &[r#"[],"stop_reason":null,"stop_sequence":null"#]);
    if answer.usage != Usage::Never {
        // The real service counts the first output token here.
        put(out, &[",\"usage\":", &usage(answer, 1)]);
    }
    put(out, &["}}\n\nevent: content_block_start\ndata: "]);
    put(out, &[r#"{"type":"content_block_start","index":0,"content_block":"#]);
    match &answer.content {
        Content::Words { .. } => put(out, &[r#"{"type":"text","text":""}"#]),
        Content::Call { name, .. } => {
            put(out, &[r#"{"type":"tool_use","id":"toolu_"#, &answer.id, r#"","name":"#]);
            put(out, &[&quoted(name), r#","input":{}}"#]);
        }
    }
    put(out, &["}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n"]);
}

/// Appends chunk `index`.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    put(out, &["event: content_block_delta\ndata: "]);
    put(out, &[r#"{"type":"content_block_delta","index":0,"delta":"#]);
    match &answer.content {
        Content::Words { .. } => put(out, &[r#"{"type":"text_delta","text":""#]),
        Content::Call { .. } => put(out, &[r#"{"type":"input_json_delta","partial_json":""#]),
    }
    answer.piece(index, out);
    put(out, &["\"}}\n\n"]);
}

/// Appends `content_block_stop` and `message_delta`.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
    put(
        out,
        &["event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"],
    );
    put(
        out,
        &["event: message_delta\ndata: ", r#"{"type":"message_delta","delta":{"stop_reason":""#],
    );
    put(out, &[stop_reason(answer), r#"","stop_sequence":null}"#]);
    if answer.usage != Usage::Never {
        put(out, &[r#","usage":{"output_tokens":"#, &answer.pieces().to_string(), "}"]);
    }
    put(out, &["}\n\n"]);
}

/// The stream's last event.
pub(super) const DONE: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// An error in the middle of a stream.
pub(super) const FAILURE: &str = concat!(
    "event: error\ndata: ",
    r#"{"type":"error","error":{"type":"overloaded_error","message":"mock: the stream failed as asked"}}"#,
    "\n\n"
);

fn message_head(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &[r#"{"id":"msg_"#, &answer.id, r#"","type":"message","role":"assistant","model":"#]);
    put(out, &[&answer.model, r#","content":"#]);
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.content {
        Content::Call { .. } => "tool_use",
        Content::Words { .. } if answer.limited => "max_tokens",
        Content::Words { .. } => "end_turn",
    }
}

/// Cached tokens stand beside `input_tokens` here, not in it.
fn usage(answer: &Answer, output: u64) -> String {
    let (cached, fresh) = (answer.cached_tokens, answer.prompt_tokens - answer.cached_tokens);
    format!(
        r#"{{"input_tokens":{fresh},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cached},"output_tokens":{output}}}"#
    )
}

/// The JSON inside an escaped string.
fn unescaped(inside: &[u8]) -> String {
    let string = [b"\"", inside, b"\""].concat();
    serde_json::from_slice(&string).unwrap_or_else(|_| "{}".to_owned())
}
