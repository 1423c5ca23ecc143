//! Writes Anthropic messages. The shapes follow Anthropic's API reference.

use super::answer::{Answer, Block, Kind, SIGNATURE, put, quoted};
use super::script::Usage;

/// Appends the answer in one piece.
pub(super) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    message_head(answer, out);
    for (at, block) in answer.blocks.iter().enumerate() {
        put(out, &[if at == 0 { "[" } else { "," }]);
        match &block.kind {
            Kind::Thought => {
                put(out, &[r#"{"type":"thinking","thinking":""#]);
                block.text(out);
                put(out, &["\",\"signature\":\"", SIGNATURE, "\"}"]);
            }
            Kind::Words { .. } => {
                put(out, &[r#"{"type":"text","text":""#]);
                block.text(out);
                put(out, &["\"}"]);
            }
            Kind::Call(call) => {
                call_head(answer, block, out);
                put(out, &[&quoted(&call.name), r#","input":"#, &block.plain(), "}"]);
            }
        }
    }
    put(out, &[r#"],"stop_reason":""#, stop_reason(answer), r#"","stop_sequence":null"#]);
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
    put(out, &["}}\n\n"]);
    start(answer, 0, out);
    put(out, &["event: ping\ndata: {\"type\": \"ping\"}\n\n"]);
}

/// Appends chunk `index`, and what stands between it and the block before.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(index);
    if at > 0 && index == block.first {
        stop(answer, at - 1, out);
        start(answer, at, out);
    }
    delta_head(at, out);
    put(
        out,
        &[match block.kind {
            Kind::Thought => r#"{"type":"thinking_delta","thinking":""#,
            Kind::Words { .. } => r#"{"type":"text_delta","text":""#,
            Kind::Call(_) => r#"{"type":"input_json_delta","partial_json":""#,
        }],
    );
    answer.piece(index, out);
    put(out, &["\"}}\n\n"]);
}

/// Appends `content_block_stop` and `message_delta`.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
    stop(answer, answer.blocks.len() - 1, out);
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

/// Appends the `content_block_start` of the block at this place.
fn start(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    let mut number = itoa::Buffer::new();
    put(out, &["event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":"]);
    put(out, &[number.format(at), ",\"content_block\":"]);
    match &block.kind {
        Kind::Thought => put(out, &[r#"{"type":"thinking","thinking":"","signature":""}"#]),
        Kind::Words { .. } => put(out, &[r#"{"type":"text","text":""}"#]),
        Kind::Call(call) => {
            call_head(answer, block, out);
            put(out, &[&quoted(&call.name), r#","input":{}}"#]);
        }
    }
    put(out, &["}\n\n"]);
}

/// Appends the end of the block at this place, a thought's signature before it.
fn stop(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    if matches!(answer.blocks[at].kind, Kind::Thought) {
        delta_head(at, out);
        put(out, &[r#"{"type":"signature_delta","signature":""#, SIGNATURE, "\"}}\n\n"]);
    }
    let mut number = itoa::Buffer::new();
    put(out, &["event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":"]);
    put(out, &[number.format(at), "}\n\n"]);
}

fn delta_head(at: usize, out: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    put(out, &["event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":"]);
    put(out, &[number.format(at), ",\"delta\":"]);
}

fn message_head(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &[r#"{"id":"msg_"#, &answer.id, r#"","type":"message","role":"assistant","model":"#]);
    put(out, &[&answer.model, r#","content":"#]);
}

/// Everything of a tool call up to its name.
fn call_head(answer: &Answer, block: &Block, out: &mut Vec<u8>) {
    let id = answer.numbered(block.number as usize);
    put(out, &[r#"{"type":"tool_use","id":"toolu_"#, &id, r#"","name":"#]);
}

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.calls(), answer.limited) {
        (true, _) => "tool_use",
        (_, true) => "max_tokens",
        _ => "end_turn",
    }
}

/// Cached tokens stand beside `input_tokens` here, not in it.
fn usage(answer: &Answer, output: u64) -> String {
    let (cached, fresh) = (answer.cached_tokens, answer.prompt_tokens - answer.cached_tokens);
    format!(
        r#"{{"input_tokens":{fresh},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cached},"output_tokens":{output}}}"#
    )
}
