//! Writes OpenAI responses. The shapes follow OpenAI's API reference.

use super::answer::{Answer, CREATED, Content, put, quoted};
use super::script::Usage;

/// Appends the answer in one piece.
pub(super) fn whole(answer: &Answer, out: &mut Vec<u8>) {
    response(answer, Stage::End, out);
}

/// Appends everything up to the first delta.
pub(super) fn open(answer: &Answer, out: &mut Vec<u8>) {
    for (number, kind) in ["response.created", "response.in_progress"].iter().enumerate() {
        event(kind, number as u32, out);
        put(out, &[",\"response\":"]);
        response(answer, Stage::Start, out);
        put(out, &["}\n\n"]);
    }
    event("response.output_item.added", 2, out);
    put(out, &[r#","output_index":0,"item":"#]);
    item(answer, Stage::Start, out);
    put(out, &["}\n\n"]);
    if matches!(answer.content, Content::Words { .. }) {
        event("response.content_part.added", 3, out);
        place(answer, out);
        put(out, &[r#","content_index":0,"part":"#]);
        part(answer, Stage::Start, out);
        put(out, &["}\n\n"]);
    }
}

/// Appends chunk `index`.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let number = opened(answer) + index;
    match answer.content {
        Content::Words { .. } => {
            event("response.output_text.delta", number, out);
            place(answer, out);
            put(out, &[r#","content_index":0,"logprobs":[],"delta":""#]);
        }
        Content::Call { .. } => {
            event("response.function_call_arguments.delta", number, out);
            place(answer, out);
            put(out, &[r#","delta":""#]);
        }
    }
    answer.piece(index, out);
    put(out, &["\"}\n\n"]);
}

/// Appends everything between the last delta and the end of the response.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
    let number = opened(answer) + answer.pieces();
    match answer.content {
        Content::Words { .. } => {
            event("response.output_text.done", number, out);
            place(answer, out);
            put(out, &[r#","content_index":0,"logprobs":[],"text":""#]);
            answer.text(out);
            put(out, &["\"}\n\n"]);
            event("response.content_part.done", number + 1, out);
            place(answer, out);
            put(out, &[r#","content_index":0,"part":"#]);
            part(answer, Stage::End, out);
            put(out, &["}\n\n"]);
        }
        Content::Call { .. } => {
            event("response.function_call_arguments.done", number, out);
            place(answer, out);
            put(out, &[r#","arguments":""#]);
            answer.text(out);
            put(out, &["\"}\n\n"]);
        }
    }
    event("response.output_item.done", end_number(answer) - 1, out);
    put(out, &[r#","output_index":0,"item":"#]);
    item(answer, Stage::End, out);
    put(out, &["}\n\n"]);
}

/// Appends the stream's last event.
pub(super) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let kind = if answer.limited { "response.incomplete" } else { "response.completed" };
    event(kind, end_number(answer), out);
    put(out, &[",\"response\":"]);
    response(answer, Stage::End, out);
    put(out, &["}\n\n"]);
}

/// Appends an error in the middle of a stream, after `sent` chunks.
pub(super) fn failure(answer: &Answer, sent: u32, out: &mut Vec<u8>) {
    event("error", opened(answer) + sent, out);
    put(
        out,
        &[r#","code":"server_error","message":"mock: the stream failed as asked","param":null}"#],
    );
    put(out, &["\n\n"]);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    End,
}

/// Events before the first delta.
fn opened(answer: &Answer) -> u32 {
    match answer.content {
        Content::Words { .. } => 4,
        Content::Call { .. } => 3,
    }
}

/// The last event's sequence number.
fn end_number(answer: &Answer) -> u32 {
    let closing = match answer.content {
        Content::Words { .. } => 3,
        Content::Call { .. } => 2,
    };
    opened(answer) + answer.pieces() + closing
}

fn event(kind: &str, number: u32, out: &mut Vec<u8>) {
    put(out, &["event: ", kind, "\ndata: {\"type\":\"", kind, "\",\"sequence_number\":"]);
    put(out, &[itoa::Buffer::new().format(number)]);
}

fn place(answer: &Answer, out: &mut Vec<u8>) {
    put(out, &[r#","item_id":""#, prefix(answer), &answer.id, r#"","output_index":0"#]);
}

fn prefix(answer: &Answer) -> &'static str {
    match answer.content {
        Content::Words { .. } => "msg_",
        Content::Call { .. } => "fc_",
    }
}

fn status(answer: &Answer, stage: Stage) -> &'static str {
    match stage {
        Stage::Start => "in_progress",
        Stage::End if answer.limited => "incomplete",
        Stage::End => "completed",
    }
}

fn part(answer: &Answer, stage: Stage, out: &mut Vec<u8>) {
    put(out, &[r#"{"type":"output_text","annotations":[],"logprobs":[],"text":""#]);
    if stage == Stage::End {
        answer.text(out);
    }
    put(out, &["\"}"]);
}

fn item(answer: &Answer, stage: Stage, out: &mut Vec<u8>) {
    put(out, &[r#"{"id":""#, prefix(answer), &answer.id, r#"","type":""#]);
    match &answer.content {
        Content::Words { .. } => {
            put(out, &[r#"message","role":"assistant","status":""#, status(answer, stage)]);
            put(out, &[r#"","content":["#]);
            if stage == Stage::End {
                part(answer, stage, out);
            }
            put(out, &["]}"]);
        }
        Content::Call { name, .. } => {
            put(
                out,
                &[r#"function_call","status":""#, status(answer, stage), r#"","call_id":"call_"#],
            );
            put(out, &[&answer.id, r#"","name":"#, &quoted(name), r#","arguments":""#]);
            if stage == Stage::End {
                answer.text(out);
            }
            put(out, &["\"}"]);
        }
    }
}

fn response(answer: &Answer, stage: Stage, out: &mut Vec<u8>) {
    put(out, &[r#"{"id":"resp_"#, &answer.id, r#"","object":"response","created_at":"#, CREATED]);
    put(out, &[r#","status":""#, status(answer, stage), r#"","background":false,"error":null"#]);
    let cut = stage == Stage::End && answer.limited;
    let details = if cut { r#"{"reason":"max_output_tokens"}"# } else { "null" };
    put(out, &[r#","incomplete_details":"#, details, r#","instructions":null,"model":"#]);
    put(out, &[&answer.model, r#","output":["#]);
    if stage == Stage::End {
        item(answer, stage, out);
    }
    put(out, &[r#"],"parallel_tool_calls":true,"previous_response_id":null,"#]);
    put(out, &[r#""reasoning":{"effort":null,"summary":null},"store":false,"temperature":1.0,"#]);
    put(
        out,
        &[r#""text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,"#],
    );
    put(out, &[r#""truncation":"disabled","max_output_tokens":null,"usage":"#]);
    if stage == Stage::End && answer.usage != Usage::Never {
        put(out, &[&usage(answer)]);
    } else {
        put(out, &["null"]);
    }
    put(out, &[r#","user":null,"metadata":{}}"#]);
}

fn usage(answer: &Answer) -> String {
    let (input, output) = (answer.prompt_tokens, u64::from(answer.pieces()));
    let (cached, total) = (answer.cached_tokens, input + output);
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{total}}}"#
    )
}
