//! Writes OpenAI responses. The shapes follow OpenAI's API reference.

use super::answer::{Answer, Block, CREATED, Kind, SIGNATURE, put, quoted};
use super::script::Usage;

/// Events before the first block: `response.created`, `response.in_progress`.
const OPENING: u32 = 2;

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
    start(answer, 0, out);
}

/// Appends chunk `index`, and what stands between it and the block before.
pub(super) fn delta(answer: &Answer, index: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(index);
    if at > 0 && index == block.first {
        end(answer, at - 1, out);
        start(answer, at, out);
    }
    let number = started(answer, at) + index - block.first;
    match block.kind {
        Kind::Thought => {
            event("response.reasoning_summary_text.delta", number, out);
            place(answer, at, out);
            put(out, &[r#","summary_index":0,"delta":""#]);
        }
        Kind::Words { .. } => {
            event("response.output_text.delta", number, out);
            place(answer, at, out);
            put(out, &[r#","content_index":0,"logprobs":[],"delta":""#]);
        }
        Kind::Call(_) => {
            event("response.function_call_arguments.delta", number, out);
            place(answer, at, out);
            put(out, &[r#","delta":""#]);
        }
    }
    answer.piece(index, out);
    put(out, &["\"}\n\n"]);
}

/// Appends everything between the last delta and the end of the response.
pub(super) fn close(answer: &Answer, out: &mut Vec<u8>) {
    end(answer, answer.blocks.len() - 1, out);
}

/// Appends the stream's last event.
pub(super) fn done(answer: &Answer, out: &mut Vec<u8>) {
    let kind = if answer.limited { "response.incomplete" } else { "response.completed" };
    event(kind, begun(answer, answer.blocks.len()), out);
    put(out, &[",\"response\":"]);
    response(answer, Stage::End, out);
    put(out, &["}\n\n"]);
}

/// Appends an error in the middle of a stream, after `sent` chunks.
pub(super) fn failure(answer: &Answer, sent: u32, out: &mut Vec<u8>) {
    let (at, block) = answer.block(sent.saturating_sub(1));
    event("error", started(answer, at) + sent - block.first, out);
    put(
        out,
        &[r#","code":"server_error","message":"mock: the stream failed as asked","param":null}"#],
    );
    put(out, &["\n\n"]);
}

/// Appends the events before a block's first delta.
fn start(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let number = begun(answer, at);
    let block = &answer.blocks[at];
    event("response.output_item.added", number, out);
    put(out, &[r#","output_index":"#, itoa::Buffer::new().format(at), r#","item":"#]);
    item(answer, at, Stage::Start, out);
    put(out, &["}\n\n"]);
    match block.kind {
        Kind::Thought => {
            event("response.reasoning_summary_part.added", number + 1, out);
            place(answer, at, out);
            put(out, &[r#","summary_index":0,"part":"#]);
            summary(block, Stage::Start, out);
        }
        Kind::Words { .. } => {
            event("response.content_part.added", number + 1, out);
            place(answer, at, out);
            put(out, &[r#","content_index":0,"part":"#]);
            part(block, Stage::Start, out);
        }
        Kind::Call(_) => return,
    }
    put(out, &["}\n\n"]);
}

/// Appends the events behind a block's last delta.
fn end(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    let number = started(answer, at) + block.pieces;
    match block.kind {
        Kind::Thought => {
            event("response.reasoning_summary_text.done", number, out);
            place(answer, at, out);
            put(out, &[r#","summary_index":0,"text":""#]);
            block.text(out);
            put(out, &["\"}\n\n"]);
            event("response.reasoning_summary_part.done", number + 1, out);
            place(answer, at, out);
            put(out, &[r#","summary_index":0,"part":"#]);
            summary(block, Stage::End, out);
            put(out, &["}\n\n"]);
        }
        Kind::Words { .. } => {
            event("response.output_text.done", number, out);
            place(answer, at, out);
            put(out, &[r#","content_index":0,"logprobs":[],"text":""#]);
            block.text(out);
            put(out, &["\"}\n\n"]);
            event("response.content_part.done", number + 1, out);
            place(answer, at, out);
            put(out, &[r#","content_index":0,"part":"#]);
            part(block, Stage::End, out);
            put(out, &["}\n\n"]);
        }
        Kind::Call(_) => {
            event("response.function_call_arguments.done", number, out);
            place(answer, at, out);
            put(out, &[r#","arguments":""#]);
            block.text(out);
            put(out, &["\"}\n\n"]);
        }
    }
    event("response.output_item.done", begun(answer, at + 1) - 1, out);
    put(out, &[r#","output_index":"#, itoa::Buffer::new().format(at), r#","item":"#]);
    item(answer, at, Stage::End, out);
    put(out, &["}\n\n"]);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    End,
}

/// How many events stand before a block's first delta, and how many behind its last.
fn around(block: &Block) -> (u32, u32) {
    match block.kind {
        Kind::Thought | Kind::Words { .. } => (2, 3),
        Kind::Call(_) => (1, 2),
    }
}

/// The sequence number with which the block at this place begins.
fn begun(answer: &Answer, at: usize) -> u32 {
    let before = answer.blocks[..at].iter().map(|block| {
        let (before, behind) = around(block);
        before + block.pieces + behind
    });
    OPENING + before.sum::<u32>()
}

/// The sequence number of its first delta.
fn started(answer: &Answer, at: usize) -> u32 {
    begun(answer, at) + around(&answer.blocks[at]).0
}

fn event(kind: &str, number: u32, out: &mut Vec<u8>) {
    put(out, &["event: ", kind, "\ndata: {\"type\":\"", kind, "\",\"sequence_number\":"]);
    put(out, &[itoa::Buffer::new().format(number)]);
}

fn place(answer: &Answer, at: usize, out: &mut Vec<u8>) {
    put(out, &[r#","item_id":""#, prefix(&answer.blocks[at])]);
    put(out, &[&answer.numbered(at), r#"","output_index":"#, itoa::Buffer::new().format(at)]);
}

fn prefix(block: &Block) -> &'static str {
    match block.kind {
        Kind::Thought => "rs_",
        Kind::Words { .. } => "msg_",
        Kind::Call(_) => "fc_",
    }
}

fn status(answer: &Answer, stage: Stage) -> &'static str {
    match stage {
        Stage::Start => "in_progress",
        Stage::End if answer.limited => "incomplete",
        Stage::End => "completed",
    }
}

fn part(block: &Block, stage: Stage, out: &mut Vec<u8>) {
    put(out, &[r#"{"type":"output_text","annotations":[],"logprobs":[],"text":""#]);
    if stage == Stage::End {
        block.text(out);
    }
    put(out, &["\"}"]);
}

fn summary(block: &Block, stage: Stage, out: &mut Vec<u8>) {
    put(out, &[r#"{"type":"summary_text","text":""#]);
    if stage == Stage::End {
        block.text(out);
    }
    put(out, &["\"}"]);
}

fn item(answer: &Answer, at: usize, stage: Stage, out: &mut Vec<u8>) {
    let block = &answer.blocks[at];
    put(out, &[r#"{"id":""#, prefix(block), &answer.numbered(at), r#"","type":""#]);
    match &block.kind {
        Kind::Thought => {
            put(out, &[r#"reasoning","summary":["#]);
            if stage == Stage::End {
                summary(block, stage, out);
            }
            put(out, &["]"]);
            if answer.sealed && stage == Stage::End {
                put(out, &[",\"encrypted_content\":\"", SIGNATURE, "\""]);
            }
            put(out, &["}"]);
        }
        Kind::Words { .. } => {
            put(out, &[r#"message","role":"assistant","status":""#, status(answer, stage)]);
            put(out, &[r#"","content":["#]);
            if stage == Stage::End {
                part(block, stage, out);
            }
            put(out, &["]}"]);
        }
        Kind::Call(call) => {
            let id = answer.numbered(block.number as usize);
            put(
                out,
                &[r#"function_call","status":""#, status(answer, stage), r#"","call_id":"call_"#],
            );
            put(out, &[&id, r#"","name":"#, &quoted(&call.name), r#","arguments":""#]);
            if stage == Stage::End {
                block.text(out);
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
        for at in 0..answer.blocks.len() {
            put(out, &[if at == 0 { "" } else { "," }]);
            item(answer, at, stage, out);
        }
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
    let (cached, total, thoughts) = (answer.cached_tokens, input + output, answer.thoughts());
    format!(
        r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{thoughts}}},"total_tokens":{total}}}"#
    )
}
