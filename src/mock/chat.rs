//! Writes OpenAI chat completions. The shapes follow OpenAI's API reference; thoughts are told in one of
//! the ways of those who copied it.

use super::answer::{Answer, Block, CREATED, Kind, SIGNATURE, put, quoted};
use super::script::{Thinking, Usage};

/// Appends the answer in one piece.
pub(super) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let head = [r#"{"id":"chatcmpl-"#, &answer.id, r#"","object":"chat.completion","created":"#];
    put(out, &head);
    put(out, &[CREATED, r#","model":"#, &answer.model]);
    put(out, &[r#","choices":[{"index":0,"message":"#]);
    message(answer, out);
    put(out, &[r#","logprobs":null,"finish_reason":""#, finish(answer), "\"}]"]);
    if answer.usage != Usage::Never {
        put(out, &[",\"usage\":", &usage(answer)]);
    }
    put(out, &[r#","service_tier":"default","system_fingerprint":"fp_mock"}"#]);
}

/// Appends the assistant's message in one piece.
pub(super) fn message(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &[r#"{"role":"assistant","content":"#]);
    let in_content =
        answer.thoughts() > 0 && matches!(answer.thinking, Thinking::Tags | Thinking::Chunks);
    if in_content && answer.thinking == Thinking::Chunks {
        content_chunks(answer, out);
    } else if in_content || answer.blocks.iter().any(|b| matches!(b.kind, Kind::Words { .. })) {
        put(out, &["\""]);
        for block in &answer.blocks {
            match block.kind {
                Kind::Thought if in_content => {
                    put(out, &["<think>"]);
                    block.text(out);
                    put(out, &["</think>"]);
                }
                Kind::Words { .. } => block.text(out),
                _ => {}
            }
        }
        put(out, &["\""]);
    } else {
        put(out, &["null"]);
    }
    if answer.calls() {
        put(out, &[",\"tool_calls\":["]);
        for block in &answer.blocks {
            let Kind::Call(call) = &block.kind else { continue };
            put(out, &[if block.number == 0 { "{" } else { ",{" }]);
            call_head(answer, block, &call.name, out);
            block.text(out);
            put(out, &["\"}}"]);
        }
        put(out, &["]"]);
    }
    if let (Some(field), Some(thought)) = (field(answer), answer.blocks.first()) {
        put(out, &[",\"", field, "\":\""]);
        thought.text(out);
        put(out, &["\""]);
    }
    put(out, &[r#","refusal":null,"annotations":[]}"#]);
}

/// Appends what precedes the first chunk: the role, and the tool call's name.
pub(super) fn open(answer: &Answer, out: &mut Vec<u8>) {
    chunk_head(answer, out);
    put(out, &[r#"{"role":"assistant","content":"#]);
    let first = &answer.blocks[0];
    match &first.kind {
        Kind::Thought if answer.thinking == Thinking::Tags => put(out, &["\"<thi\""]),
        Kind::Thought | Kind::Words { .. } => put(out, &["\"\""]),
        Kind::Call(call) => {
            put(out, &["null,\"tool_calls\":[{\"index\":0,"]);
            call_head(answer, first, &call.name, out);
            put(out, &["\"}}]"]);
        }
    }
    put(out, &[r#","refusal":null}"#]);
    chunk_tail(answer, "null", None, out);
}

/// Appends chunk `index`, and what stands between it and the block before.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(index);
    let begins = at > 0 && index == block.first;
    if begins {
        between(answer, block, out);
    }
    chunk_head(answer, out);
    match &block.kind {
        Kind::Words { .. } => {
            put(out, &[r#"{"content":""#]);
            if begins && at == 1 && tagged(answer) {
                put(out, &["ink>"]);
            }
            answer.piece(index, out);
            put(out, &["\"}"]);
        }
        Kind::Call(_) => {
            let mut number = itoa::Buffer::new();
            put(out, &[r#"{"tool_calls":[{"index":"#, number.format(block.number)]);
            put(out, &[r#","function":{"arguments":""#]);
            answer.piece(index, out);
            put(out, &["\"}}]}"]);
        }
        Kind::Thought => thought(answer, block, index, out),
    }
    let last = answer.usage == Usage::Last && index + 1 == answer.pieces();
    chunk_tail(answer, "null", last.then(|| usage(answer)), out);
}

/// Appends the finish and, when asked for, the usage chunk.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
    if answer.blocks.len() == 1 && tagged(answer) {
        close_tag(answer, out);
    }
    chunk_head(answer, out);
    put(out, &["{}"]);
    chunk_tail(answer, &["\"", finish(answer), "\""].concat(), None, out);
    if answer.include_usage && answer.usage == Usage::Usual {
        let head =
            [r#"data: {"id":"chatcmpl-"#, &answer.id, r#"","object":"chat.completion.chunk""#];
        put(out, &head);
        put(out, &[r#","created":"#, CREATED, r#","model":"#, &answer.model]);
        put(out, &[r#","choices":[],"usage":"#, &usage(answer), "}\n\n"]);
    }
}

/// The stream's last event.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// An error in the middle of a stream.
pub(super) const FAILURE: &str = concat!(
    r#"data: {"error":{"message":"mock: the stream failed as asked","type":"server_error","#,
    r#""param":null,"code":null}}"#,
    "\n\n"
);

/// Why the answer ended.
pub(super) fn finish(answer: &Answer) -> &'static str {
    match (answer.calls(), answer.limited) {
        (true, _) => "tool_calls",
        (_, true) => "length",
        _ => "stop",
    }
}

/// Appends what a block behind the first begins with: a closing tag, a tool's name.
fn between(answer: &Answer, block: &Block, out: &mut Vec<u8>) {
    let Kind::Call(call) = &block.kind else { return };
    if block.first == answer.thoughts() && tagged(answer) {
        close_tag(answer, out);
    }
    chunk_head(answer, out);
    let mut number = itoa::Buffer::new();
    put(out, &[r#"{"tool_calls":[{"index":"#, number.format(block.number), ","]);
    call_head(answer, block, &call.name, out);
    put(out, &["\"}}]}"]);
    chunk_tail(answer, "null", None, out);
}

/// Appends the second half of the tag that ends a thought, as a chunk of its own.
fn close_tag(answer: &Answer, out: &mut Vec<u8>) {
    chunk_head(answer, out);
    put(out, &[r#"{"content":"ink>"}"#]);
    chunk_tail(answer, "null", None, out);
}

/// Appends the delta of a thought.
fn thought(answer: &Answer, block: &Block, index: u32, out: &mut Vec<u8>) {
    match answer.thinking {
        Thinking::Chunks => {
            put(out, &[r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":""#]);
            answer.piece(index, out);
            put(out, &["\"}]"]);
            if block.ends_with(index) {
                put(out, &[",\"signature\":\"", SIGNATURE, "\""]);
            }
            put(out, &["}]}"]);
        }
        Thinking::Tags => {
            put(out, &[r#"{"content":""#, if index == 0 { "nk>" } else { "" }]);
            answer.piece(index, out);
            put(out, &[if block.ends_with(index) { "</th" } else { "" }, "\"}"]);
        }
        Thinking::Content | Thinking::Field => {
            put(out, &["{\"", field(answer).unwrap_or_default(), "\":\""]);
            answer.piece(index, out);
            put(out, &["\"}"]);
        }
    }
}

/// Mistral's content: a list of chunks.
fn content_chunks(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &["["]);
    for (at, block) in answer.blocks.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        match block.kind {
            Kind::Thought => {
                put(out, &[comma, r#"{"type":"thinking","thinking":[{"type":"text","text":""#]);
                block.text(out);
                put(out, &["\"}],\"signature\":\"", SIGNATURE, "\"}"]);
            }
            Kind::Words { .. } => {
                put(out, &[comma, r#"{"type":"text","text":""#]);
                block.text(out);
                put(out, &["\"}"]);
            }
            Kind::Call(_) => {}
        }
    }
    put(out, &["]"]);
}

/// The field of its own in which thoughts are told.
fn field(answer: &Answer) -> Option<&'static str> {
    match answer.thinking {
        _ if answer.thoughts() == 0 => None,
        Thinking::Content => Some("reasoning_content"),
        Thinking::Field => Some("reasoning"),
        Thinking::Tags | Thinking::Chunks => None,
    }
}

fn tagged(answer: &Answer) -> bool {
    answer.thinking == Thinking::Tags && answer.thoughts() > 0
}

fn chunk_head(answer: &Answer, out: &mut Vec<u8>) {
    put(
        out,
        &[
            r#"data: {"id":"chatcmpl-"#,
            &answer.id,
            r#"","object":"chat.completion.chunk","created":"#,
            CREATED,
            r#","model":"#,
            &answer.model,
            r#","system_fingerprint":"fp_mock","choices":[{"index":0,"delta":"#,
        ],
    );
}

fn chunk_tail(answer: &Answer, finish: &str, usage: Option<String>, out: &mut Vec<u8>) {
    put(out, &[r#","logprobs":null,"finish_reason":"#, finish, "}]"]);
    match usage {
        Some(usage) => put(out, &[",\"usage\":", &usage]),
        // Every chunk carries the field once the caller asked for usage.
        None if answer.include_usage => put(out, &[",\"usage\":null"]),
        None => {}
    }
    put(out, &["}\n\n"]);
}

/// Everything of a tool call up to the inside of its arguments.
fn call_head(answer: &Answer, block: &Block, name: &str, out: &mut Vec<u8>) {
    let id = answer.numbered(block.number as usize);
    put(out, &[r#""id":"call_"#, &id, r#"","type":"function","function":{"name":"#]);
    put(out, &[&quoted(name), r#","arguments":""#]);
}

pub(super) fn usage(answer: &Answer) -> String {
    let (input, output) = (answer.prompt_tokens, u64::from(answer.pieces()));
    let mut text = String::with_capacity(256);
    let mut number = itoa::Buffer::new();
    text.push_str(r#"{"prompt_tokens":"#);
    text.push_str(number.format(input));
    text.push_str(r#","completion_tokens":"#);
    text.push_str(number.format(output));
    text.push_str(r#","total_tokens":"#);
    text.push_str(number.format(input + output));
    text.push_str(r#","prompt_tokens_details":{"cached_tokens":"#);
    text.push_str(number.format(answer.cached_tokens));
    text.push_str(r#","audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":"#);
    text.push_str(number.format(answer.thoughts()));
    text.push_str(
        r#","audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
    );
    text
}
