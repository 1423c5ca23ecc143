//! Writes OpenAI chat completions. The shapes follow OpenAI's API reference.

use super::answer::{Answer, CREATED, Content, put};
use super::script::Usage;

/// Appends the answer in one piece.
pub(super) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    let head = [r#"{"id":"chatcmpl-"#, &answer.id, r#"","object":"chat.completion","created":"#];
    put(out, &head);
    put(out, &[CREATED, r#","model":"#, &answer.model]);
    put(out, &[r#","choices":[{"index":0,"message":{"role":"assistant","content":"#]);
    match &answer.content {
        Content::Words { .. } => {
            put(out, &["\""]);
            answer.text(out);
            put(out, &["\""]);
        }
        Content::Call { name, .. } => {
            put(out, &["null,\"tool_calls\":[{"]);
            call_head(answer, name, out);
            answer.text(out);
            put(out, &["\"}}]"]);
        }
    }
    put(out, &[r#","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":""#]);
    put(out, &[finish(answer), "\"}]"]);
    if answer.usage != Usage::Never {
        put(out, &[",\"usage\":", &usage(answer)]);
    }
    put(out, &[r#","service_tier":"default","system_fingerprint":"fp_mock"}"#]);
}

/// Appends what precedes the first chunk: the role, and the tool call's name.
pub(super) fn open(answer: &Answer, out: &mut Vec<u8>) {
    chunk_head(answer, out);
    put(out, &[r#"{"role":"assistant","content":"#]);
    match &answer.content {
        Content::Words { .. } => put(out, &["\"\""]),
        Content::Call { name, .. } => {
            put(out, &["null,\"tool_calls\":[{\"index\":0,"]);
            call_head(answer, name, out);
            put(out, &["\"}}]"]);
        }
    }
    put(out, &[r#","refusal":null}"#]);
    chunk_tail(answer, "null", None, out);
}

/// Appends chunk `index`.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    chunk_head(answer, out);
    match &answer.content {
        Content::Words { .. } => {
            put(out, &[r#"{"content":""#]);
            answer.piece(index, out);
            put(out, &["\"}"]);
        }
        Content::Call { .. } => {
            put(out, &[r#"{"tool_calls":[{"index":0,"function":{"arguments":""#]);
            answer.piece(index, out);
            put(out, &["\"}}]}"]);
        }
    }
    let last = answer.usage == Usage::Last && index + 1 == answer.pieces();
    chunk_tail(answer, "null", last.then(|| usage(answer)), out);
}

/// Appends the finish and, when asked for, the usage chunk.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
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
fn call_head(answer: &Answer, name: &str, out: &mut Vec<u8>) {
    put(out, &[r#""id":"call_"#, &answer.id, r#"","type":"function","function":{"name":"#]);
    put(out, &[&super::answer::quoted(name), r#","arguments":""#]);
}

fn finish(answer: &Answer) -> &'static str {
    match answer.content {
        Content::Call { .. } => "tool_calls",
        Content::Words { .. } if answer.limited => "length",
        Content::Words { .. } => "stop",
    }
}

fn usage(answer: &Answer) -> String {
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
    text.push_str(r#","audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"#);
    text.push_str(
        r#""audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
    );
    text
}
