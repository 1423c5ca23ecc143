//! What translating costs: requests, answers and streams, from every format to every other.
//!
//! ```text
//! cargo bench -p otari-filters --bench translate                  # a table of all
//! cargo bench -p otari-filters --bench translate -- stream gemini # only rows with both words
//! cargo bench -p otari-filters --bench translate -- --smoke       # does it run at all?
//! ```
//!
//! A request is a conversation of twenty rounds with ten tools, an answer four kilobytes of text and two calls, a
//! stream a thousand pieces of a word and two calls, one event at a time. A row is the best of some rounds: what others
//! do on the machine only makes it slower. MB/s counts what is read.

#![expect(clippy::print_stdout, reason = "its result is what it prints")]

#[path = "../tests/translate/packets.rs"]
mod packets;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use otari_filters::protocol::Protocol::{self, Chat, Messages, Responses};
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::translate::{self, State, Stream, Wire};
use serde_json::{Value, json};

/// Formats that callers speak.
const PROTOCOLS: [Protocol; 3] = [Chat, Messages, Responses];

/// Formats that providers speak.
const WIRES: [Wire; 8] = [
    Wire::Chat,
    Wire::Messages,
    Wire::Responses,
    Wire::Gemini,
    Wire::Cohere,
    Wire::Ollama,
    Wire::Converse,
    Wire::SageMaker,
];

/// Pieces of text in a stream.
const PIECES: usize = 1000;

const TARGET: Target<'_> = Target { model: "m", provider: "openai", stream: true, settings: &[] };

/// How long is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    each: Duration,
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_smoke = arguments.iter().any(|word| word == "--smoke");
    let words: Vec<String> =
        arguments.into_iter().filter(|word| word != "--smoke").map(|w| w.to_lowercase()).collect();
    let (rounds, each) =
        if is_smoke { (1, Duration::ZERO) } else { (7, Duration::from_millis(50)) };
    let effort = Effort { rounds, each };
    println!("| what | from | to | bytes in | bytes out | MB/s | per document | ns per event |");
    println!("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |");
    let is_wanted = |what: &str, from: &str, to: &str| {
        let row = format!("{what} {from} {to}").to_lowercase();
        words.iter().all(|word| row.contains(word.as_str()))
    };
    for from in PROTOCOLS {
        let body = request_of(from);
        for to in WIRES {
            let (from_name, to_name) = (format!("{from:?}"), format!("{to:?}"));
            if is_wanted("request", &from_name, &to_name) {
                let work = || translated(from, to, &body).len();
                row(effort, ["request", &from_name, &to_name], body.len(), 0, work);
            }
        }
    }
    for from in WIRES {
        let body = answer_of(from);
        for to in PROTOCOLS {
            let (from_name, to_name) = (format!("{from:?}"), format!("{to:?}"));
            if is_wanted("answer", &from_name, &to_name) {
                let caller = caller();
                let work = || {
                    let answer = translate::answer(from, to, &body, &caller);
                    answer.expect("the answer is one").body.len()
                };
                row(effort, ["answer", &from_name, &to_name], body.len(), 0, work);
            }
        }
    }
    for from in WIRES {
        let events = stream_of(from);
        let bytes = events.iter().map(Bytes::len).sum();
        for to in PROTOCOLS {
            let (from_name, to_name) = (format!("{from:?}"), format!("{to:?}"));
            if is_wanted("stream", &from_name, &to_name) {
                let work = || streamed(from, to, &events).len();
                row(effort, ["stream", &from_name, &to_name], bytes, events.len(), work);
            }
        }
    }
}

/// Measures and prints a row. `work` gives the number of bytes it wrote.
fn row(effort: Effort, names: [&str; 3], bytes: usize, events: usize, work: impl Fn() -> usize) {
    // Once for the caches, and to know how often fits.
    let started = Instant::now();
    let written = black_box(work());
    let once = started.elapsed().max(Duration::from_nanos(1));
    let times = (effort.each.as_nanos() / once.as_nanos()).clamp(1, 100_000);
    let best = (0..effort.rounds).map(|_| {
        let started = Instant::now();
        for _ in 0..times {
            black_box(work());
        }
        started.elapsed().as_secs_f64() / times as f64
    });
    let best = best.fold(f64::INFINITY, f64::min);
    let [what, from, to] = names;
    let speed = bytes as f64 / best / 1e6;
    let each = match events {
        0 => String::new(),
        events => format!("{:.0}", best * 1e9 / events as f64),
    };
    println!(
        "| {what} | {from} | {to} | {bytes} | {written} | {speed:.0} | {:.1} µs | {each} |",
        best * 1e6
    );
}

fn translated(from: Protocol, to: Wire, body: &[u8]) -> Bytes {
    translate::request(from, to, body, &TARGET).expect("the request can be said").body
}

fn streamed(from: Wire, to: Protocol, events: &[Bytes]) -> Vec<u8> {
    let mut stream = Stream::new(from, to, caller());
    let mut out = Vec::new();
    for event in events {
        out.extend_from_slice(&stream.push(event.clone()));
    }
    out.extend_from_slice(&stream.finish());
    assert_eq!(*stream.state(), State::Ended, "{from:?}");
    out
}

fn caller() -> AsCaller {
    AsCaller {
        include_usage: true,
        now: 1_763_800_000,
        id: "019aa000-0000-7000-8000-000000000000".to_owned(),
        model: "m".to_owned(),
        ..AsCaller::default()
    }
}

/// A conversation with tools, as a coding tool has it.
fn request_of(format: Protocol) -> Vec<u8> {
    let words = "The quick \"brown\" fox jumps over the lazy dog.\n\tlet x = 1; // é\n".repeat(8);
    let mut messages = vec![json!({"role": "system", "content": words.repeat(8)})];
    for round in 0..20 {
        let id = format!("call_{round}");
        messages.push(json!({"role": "user", "content": [{"type": "text", "text": words}]}));
        let arguments = json!({"path": "/src/main.rs", "line": round, "text": words}).to_string();
        messages.push(json!({"role": "assistant", "content": words, "tool_calls": [{"id": id,
            "type": "function", "function": {"name": "read", "arguments": arguments}}]}));
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": words}));
    }
    messages.push(json!({"role": "user", "content": "Go on"}));
    let tools = (0..10).map(|at| {
        json!({"type": "function", "function": {"name": format!("tool{at}"), "description": words,
            "parameters": {"type": "object", "properties": {"path": {"type": "string", "description": words},
                "line": {"type": "integer"}}, "required": ["path"]}}})
    });
    let tools: Value = tools.collect();
    let chat = json!({"model": "m", "max_tokens": 4096, "temperature": 0.5, "stream": true,
        "messages": messages, "tools": tools})
    .to_string()
    .into_bytes();
    if format == Chat { chat } else { translated(Chat, format.into(), &chat).to_vec() }
}

fn answer_of(format: Wire) -> Vec<u8> {
    let text = "The quick \"brown\" fox jumps over the lazy dog.\n\tlet x = 1; // é\n".repeat(64);
    let arguments = json!({"path": "/src/main.rs", "line": 7});
    let call = |at: usize| {
        json!({"id": format!("call_{at}"), "type": "function",
            "function": {"name": "read", "arguments": arguments.to_string()}})
    };
    let chat = || {
        json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
            "finish_reason": "tool_calls", "message": {"role": "assistant", "content": text,
            "tool_calls": [call(0), call(1)]}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}})
    };
    let of = |to: Protocol| {
        let body = chat().to_string();
        let answer = translate::answer(Chat, to, body.as_bytes(), &caller());
        answer.expect("a chat completion").body.to_vec()
    };
    let document = match format {
        Wire::Messages => return of(Messages),
        Wire::Responses => return of(Responses),
        Wire::Gemini => {
            let call = json!({"functionCall": {"name": "read", "args": arguments}});
            json!({"candidates": [{"content": {"role": "model", "parts": [{"text": text}, call, call]},
                "finishReason": "STOP"}], "modelVersion": "m", "responseId": "r",
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 8}})
        }
        Wire::Cohere => {
            json!({"id": "c", "finish_reason": "TOOL_CALL", "message": {"role": "assistant",
                "content": [{"type": "text", "text": text}], "tool_calls": [call(0), call(1)]},
                "usage": {"tokens": {"input_tokens": 9, "output_tokens": 8}}})
        }
        Wire::Ollama => {
            let call = json!({"function": {"name": "read", "arguments": arguments}});
            json!({"model": "m", "created_at": "2026-11-23T03:14:05.1Z", "done": true, "done_reason": "stop",
                "message": {"role": "assistant", "content": text, "tool_calls": [call, call]},
                "prompt_eval_count": 9, "eval_count": 8})
        }
        Wire::Converse => {
            let call = json!({"toolUse": {"toolUseId": "t", "name": "read", "input": arguments}});
            json!({"output": {"message": {"role": "assistant", "content": [{"text": text}, call, call]}},
                "stopReason": "tool_use", "usage": {"inputTokens": 9, "outputTokens": 8}})
        }
        _ => chat(),
    };
    document.to_string().into_bytes()
}

/// The events of a stream, one by one.
fn stream_of(format: Wire) -> Vec<Bytes> {
    let event = |data: Value| Bytes::from(format!("data: {data}\n\n"));
    match format {
        Wire::Messages => framed(Messages),
        Wire::Responses => framed(Responses),
        Wire::Gemini => {
            let chunk = |part: Value| {
                json!({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}],
                    "modelVersion": "m", "responseId": "r", "usageMetadata": {"promptTokenCount": 9}})
            };
            let call = json!({"functionCall": {"name": "read", "args": {"path": "/src/main.rs"}}});
            let mut events = vec![event(chunk(json!({"text": "word "}))); PIECES];
            events.extend([event(chunk(call.clone())), event(chunk(call))]);
            let mut last = chunk(json!({"text": ""}));
            last["candidates"][0]["finishReason"] = "STOP".into();
            events.push(event(last));
            events
        }
        Wire::Cohere => {
            let delta = |kind: &str, message: Value| {
                let data = json!({"type": kind, "index": 0, "delta": {"message": message}});
                Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
            };
            let text = |text: &str| json!({"content": {"type": "text", "text": text}});
            let mut events = vec![
                delta("message-start", json!({"role": "assistant", "content": []})),
                delta("content-start", text("")),
            ];
            events.extend(vec![delta("content-delta", text("word ")); PIECES]);
            let end = json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE",
                "usage": {"tokens": {"input_tokens": 9, "output_tokens": 8}}}});
            events.extend([event(json!({"type": "content-end", "index": 0})), event(end)]);
            events
        }
        Wire::Ollama => {
            let line = |text: &str, is_done: bool| {
                let data = json!({"model": "m", "created_at": "2026-11-23T03:14:05.1Z", "done": is_done,
                    "message": {"role": "assistant", "content": text}});
                Bytes::from(format!("{data}\n"))
            };
            let mut events = vec![line("word ", false); PIECES];
            events.push(line("", true));
            events
        }
        Wire::Converse => {
            let delta = json!({"delta": {"text": "word "}, "contentBlockIndex": 0});
            let mut events = vec![packet("contentBlockDelta", &delta); PIECES];
            events.push(packet("messageStop", &json!({"stopReason": "end_turn"})));
            let usage = json!({"usage": {"inputTokens": 9, "outputTokens": 8}});
            events.push(packet("metadata", &usage));
            events
        }
        // The container's own stream, in parts.
        Wire::SageMaker => {
            let part =
                |event: Bytes| packet("PayloadPart", &String::from_utf8_lossy(&event).into());
            chat_events().into_iter().map(part).collect()
        }
        _ => chat_events(),
    }
}

/// An event in AWS's framing.
fn packet(kind: &str, payload: &Value) -> Bytes {
    Bytes::from(packets::stream(format!("{kind}\t{payload}").as_bytes()))
}

fn chat_events() -> Vec<Bytes> {
    let chunk = |delta: Value, finish: Value| {
        let data = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        Bytes::from(format!("data: {data}\n\n"))
    };
    let mut events = vec![chunk(json!({"content": "word "}), Value::Null); PIECES];
    for at in 0..2 {
        let call = json!({"index": at, "id": format!("call_{at}"), "type": "function",
            "function": {"name": "read", "arguments": "{\"path\":\"/src/main.rs\"}"}});
        events.push(chunk(json!({"tool_calls": [call]}), Value::Null));
    }
    events.push(chunk(json!({}), "tool_calls".into()));
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

/// The events of a format that callers have too: as the gateway writes them.
fn framed(format: Protocol) -> Vec<Bytes> {
    let whole = streamed(Wire::Chat, format, &chat_events());
    let text = String::from_utf8(whole).expect("frames are text");
    text.split_inclusive("\n\n").map(|event| Bytes::copy_from_slice(event.as_bytes())).collect()
}
