//! What every call costs, in instructions: runs one of the steps of a small chat call so many times.
//!
//! ```text
//! cargo bench -p otari-filters --bench hot --no-run
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/deps/hot-… reply 1000
//! ```
//!
//! The difference between 1,000 and 2,000 rounds, by 1,000, is what a round costs. Times on a shared machine say little
//! of so short a step; counts are the same every time.

#![expect(clippy::print_stdout, reason = "its result is what it prints")]

use std::hint::black_box;

use bytes::Bytes;
use http::HeaderMap;
use otari_filters::authenticate::credential;
use otari_filters::head::{self, Bounds};
use otari_filters::meter::{self, read_reply};
use otari_filters::money::MicroUsd;
use otari_filters::protocol::{Protocol, Request};
use otari_filters::settle::{Entry, Status, UsageRecord};
use otari_filters::translate::neutral::AsCaller;
use otari_filters::translate::{Stream, Wire};

const REPLY: &str = r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1763800000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog. ","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":10,"total_tokens":138,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_mock"}"#;

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer gw-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP\r\ncontent-type: application/json\r\naccept: application/json\r\nuser-agent: otari-bench/1\r\ncontent-length: 598\r\n\r\n";

const CHAT_EVENT: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1763800000,\"model\":\"m\",\"system_fingerprint\":\"fp_mock\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";

const GEMINI_EVENT: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"word \"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":128,\"candidatesTokenCount\":10,\"totalTokenCount\":138},\"modelVersion\":\"m\",\"responseId\":\"0123456789abcdef\"}\n\n";

const MESSAGES_EVENT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word \"}}\n\n";

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let step = arguments.first().map_or("all", String::as_str);
    let rounds = arguments.get(1).and_then(|word| word.parse().ok()).unwrap_or(1_usize);
    for (name, run) in steps() {
        if step == "all" || step == name {
            (0..rounds).for_each(|_| run());
            println!("{name}: {rounds} rounds");
        }
    }
}

type Step = (&'static str, Box<dyn Fn()>);

fn steps() -> Vec<Step> {
    let prompt = "Tell me a story. ".repeat(31);
    let request = Bytes::from(format!(
        r#"{{"model":"mock:m","messages":[{{"role":"user","content":"{}"}}],"stream":false}}"#,
        &prompt[..512]
    ));
    let bounds = Bounds { max_bytes: 64 << 10, max_fields: 100 };
    let entry = entry();
    let headers = headers();
    vec![
        (
            "reply",
            Box::new(|| {
                black_box(read_reply(Protocol::Chat, black_box(REPLY.as_bytes())));
            }),
        ),
        (
            "request",
            Box::new(move || drop(black_box(Request::read(Protocol::Chat, black_box(&request))))),
        ),
        (
            "head",
            Box::new(move || drop(black_box(head::check(black_box(HEAD.as_bytes()), bounds)))),
        ),
        ("entry", Box::new(move || record(&entry))),
        ("credential", Box::new(move || drop(black_box(credential(black_box(&headers)))))),
        ("meter", Box::new(|| metered(Protocol::Chat, CHAT_EVENT))),
        ("meter-messages", Box::new(|| metered(Protocol::Messages, MESSAGES_EVENT))),
        ("gemini", Box::new(|| translated(Wire::Gemini, Protocol::Chat, GEMINI_EVENT))),
        ("messages", Box::new(|| translated(Wire::Messages, Protocol::Chat, MESSAGES_EVENT))),
        ("chat-messages", Box::new(|| translated(Wire::Chat, Protocol::Messages, CHAT_EVENT))),
    ]
}

fn record(entry: &Entry) {
    let mut out = Vec::with_capacity(1024);
    black_box(entry).write_json(&mut out).expect("a record is JSON");
    black_box(out);
}

/// A hundred events that pass.
fn metered(protocol: Protocol, event: &'static str) {
    let mut meter = meter::Stream::new(protocol, true);
    let mut out = Vec::new();
    for _ in 0..100 {
        out.clear();
        meter.feed(Bytes::from_static(event.as_bytes()), &mut out);
        black_box(&out);
    }
}

/// A hundred events that are translated.
fn translated(from: Wire, to: Protocol, event: &'static str) {
    let id = "019aa000-0000-7000-8000-000000000000".to_owned();
    let mut stream =
        Stream::new(from, to, AsCaller { id, model: "m".to_owned(), ..AsCaller::default() });
    for _ in 0..100 {
        black_box(stream.push(Bytes::from_static(event.as_bytes())));
    }
}

fn headers() -> HeaderMap {
    let lines = HEAD.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| {
            (name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value"))
        })
        .collect()
}

fn entry() -> Entry {
    let id: Box<str> = "019aa000-0000-7000-8000-000000000000".into();
    let mut record = UsageRecord::new(
        id,
        1_763_800_000_123_456,
        "/v1/chat/completions",
        "m".into(),
        Status::Success,
    );
    record.api_key_id = Some("019aa000-0000-7000-8000-000000000001".into());
    record.user_id = Some("bench-user".into());
    record.provider = Some("mock".into());
    (record.prompt_tokens, record.completion_tokens) = (Some(128), Some(10));
    (record.total_tokens, record.cache_read_tokens) = (Some(138), Some(0));
    (record.cost, record.status_code) = (Some(MicroUsd(123)), Some(200));
    record.latency_ms = 12;
    record.selection_reason = Some("default".into());
    Entry::Usage(record)
}
