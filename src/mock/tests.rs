//! The mock over real sockets, as a raw caller sees it: the caller, and the shapes of answers.

mod blocks;
mod faults;
mod operations;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Options, serve_with};

/// Longer than any answer here takes, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(5);

struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    /// Chunks joined.
    body: Vec<u8>,
    /// The body ended as its framing says.
    complete: bool,
    /// The connection ended with an error.
    failed: bool,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The `data:` lines, `[DONE]` as a string.
    fn events(&self) -> Vec<Value> {
        let data = self.text().lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|d| serde_json::from_str(d).unwrap_or_else(|_| json!(d))).collect()
    }

    fn content(&self) -> String {
        let delta = |e: &Value| e["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
        self.events().iter().filter_map(delta).collect()
    }
}

impl Server {
    async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            serve_with(listener, options, std::future::pending()).await.unwrap();
        });
        Self { address, _task: task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = self.connect().await;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer sk-secret-1234\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        finish(stream).await
    }

    async fn chat(&self, model: &str, stream: bool) -> Reply {
        let body = json!({"model": model, "stream": stream,
            "messages": [{"role": "user", "content": "Hello there"}]});
        self.ask("POST", "/v1/chat/completions", &body.to_string()).await
    }
}

/// Reads to the end of the connection and takes the answer apart.
async fn finish(mut stream: TcpStream) -> Reply {
    let mut raw = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut raw)).await;
    let failed = !matches!(read, Ok(Ok(_)));
    let Some(end) = memchr::memmem::find(&raw, b"\r\n\r\n") else {
        return Reply { status: 0, head: String::new(), body: raw, complete: false, failed };
    };
    let head = String::from_utf8(raw[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let rest = &raw[end + 4..];
    let header = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
    let (body, complete) = match header("content-length: ") {
        Some(length) => (rest.to_vec(), rest.len() == length.parse::<usize>().unwrap()),
        None if header("transfer-encoding: ").is_some() => joined(rest),
        None => (rest.to_vec(), !failed),
    };
    Reply { status, head, body, complete, failed }
}

fn joined(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(line) = memchr::memmem::find(rest, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, rest == b"0\r\n\r\n");
        }
        let Some(data) = rest.get(line + 2..line + 2 + size) else { break };
        body.extend_from_slice(data);
        rest = &rest[line + 2 + size + 2..];
    }
    (body, false)
}

#[tokio::test]
async fn chat_answers_in_openai_shape() {
    let reply = Server::start().await.chat("gpt?chunks=3&cached=2", false).await;
    let answer = reply.json();
    assert_eq!(reply.status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt?chunks=3&cached=2");
    assert_eq!(answer["choices"][0]["message"]["content"], "lorem ipsum dolor");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], 3, "eleven characters");
    assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(3), &json!(6)));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 2);
}

#[tokio::test]
async fn chat_streams_role_words_finish_and_done() {
    let server = Server::start().await;
    let reply = server.chat("gpt?chunks=3", true).await;
    let events = reply.events();
    assert!(reply.complete && reply.head.contains("text/event-stream"), "{reply:?}");
    assert_eq!(events.len(), 6, "role, three words, finish, done");
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(reply.content(), "lorem ipsum dolor");
    assert_eq!(events[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[5], "[DONE]");
    assert!(!reply.text().contains("usage"), "nobody asked for usage");
    assert_eq!(reply.text(), server.chat("gpt?chunks=3", true).await.text(), "deterministic");
}

#[tokio::test]
async fn stamps_say_when_a_word_was_written() {
    let server = Server::start().await;
    let begun = crate::clock::monotonic_ns();
    let reply = server.chat("gpt?stamp&chunks=4&interval_ms=5", true).await;
    let ended = crate::clock::monotonic_ns();
    let text = reply.content();
    let stamps: Vec<u64> = text.split('t').skip(1).map(|stamp| stamp.parse().unwrap()).collect();
    assert_eq!(stamps.len(), 4, "{text}");
    assert!(begun < stamps[0] && stamps[3] < ended, "{begun} {stamps:?} {ended}");
    assert!(stamps.windows(2).all(|pair| pair[1] - pair[0] >= 4_000_000), "{stamps:?}");
}

#[tokio::test]
async fn usage_follows_include_usage_and_the_option() {
    let server = Server::start().await;
    let ask = async |model: &str| {
        let body = json!({"model": model, "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "Hi"}]});
        server.ask("POST", "/chat/completions", &body.to_string()).await.events()
    };
    let usual = ask("m?chunks=2").await;
    assert_eq!(usual[usual.len() - 2]["choices"], json!([]));
    assert_eq!(usual[usual.len() - 2]["usage"]["completion_tokens"], 2);
    assert_eq!(usual[0]["usage"], Value::Null);
    let never = ask("m?usage=none").await;
    assert!(never.iter().all(|e| e["usage"].is_null()));
    let last = server.chat("m?chunks=2&usage=last", true).await.events();
    assert_eq!(last[2]["usage"]["total_tokens"], 5, "in the last content chunk, unasked");
}

#[tokio::test]
async fn max_tokens_cuts_the_words() {
    let server = Server::start().await;
    let body = |limit: &str| {
        json!({"model": "m", limit: 2, "messages": [{"role": "user", "content": "Hi"}],
            "input": "Hi"})
        .to_string()
    };
    for limit in ["max_tokens", "max_completion_tokens"] {
        let answer = server.ask("POST", "/v1/chat/completions", &body(limit)).await.json();
        assert_eq!(answer["choices"][0]["message"]["content"], "lorem ipsum");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
    let answer = server.ask("POST", "/v1/messages", &body("max_tokens")).await.json();
    assert_eq!(answer["stop_reason"], "max_tokens");
    let answer = server.ask("POST", "/v1/responses", &body("max_output_tokens")).await.json();
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn messages_answer_in_anthropic_shape() {
    let server = Server::start().await;
    let body = |stream: bool| {
        json!({"model": "claude?chunks=2&cached=1", "max_tokens": 9, "stream": stream, "system": "abcd",
            "messages": [{"role": "user", "content": "abcd"}]})
        .to_string()
    };
    let answer = server.ask("POST", "/v1/messages?beta=true", &body(false)).await.json();
    assert_eq!(answer["content"], json!([{"type": "text", "text": "lorem ipsum"}]));
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(answer["usage"]["input_tokens"], 1, "cached tokens stand apart");
    assert_eq!(answer["usage"]["cache_read_input_tokens"], 1);
    let reply = server.ask("POST", "/v1/messages", &body(true)).await;
    let names: Vec<_> = reply.text().lines().filter_map(|l| l.strip_prefix("event: ")).collect();
    let expected = "message_start content_block_start ping content_block_delta content_block_delta \
                    content_block_stop message_delta message_stop";
    assert_eq!(names.join(" "), expected);
    for (name, event) in names.iter().zip(reply.events()) {
        assert_eq!(event["type"], *name);
    }
    let count = server.ask("POST", "/v1/messages/count_tokens", &body(false)).await.json();
    assert_eq!(count, json!({"input_tokens": 2}));
}

#[tokio::test]
async fn responses_number_their_events() {
    let server = Server::start().await;
    let body = |stream: bool| json!({"model": "m?chunks=2", "stream": stream, "input": "abcd"});
    let answer = server.ask("POST", "/v1/responses", &body(false).to_string()).await.json();
    assert_eq!(answer["output"][0]["content"][0]["text"], "lorem ipsum");
    assert_eq!(answer["output"][0]["content"][0]["annotations"], json!([]));
    assert_eq!(answer["usage"]["total_tokens"], 3);
    let reply = server.ask("POST", "/v1/responses", &body(true).to_string()).await;
    let events = reply.events();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[0]["response"]["status"], "in_progress");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["status"], "completed");
    assert_eq!(last["response"]["output"][0]["content"], answer["output"][0]["content"]);
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64() {
    let server = Server::start().await;
    let ask =
        async |body: Value| server.ask("POST", "/v1/embeddings", &body.to_string()).await.json();
    let floats = ask(json!({"model": "e", "input": ["abcde", "x"], "dimensions": 3})).await;
    assert_eq!(floats["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    let vector: Vec<f64> = floats["data"][0]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    let encoded =
        ask(json!({"model": "e", "input": "abcde", "dimensions": 3, "encoding_format": "base64"}))
            .await;
    let text = encoded["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
    let decoded: Vec<f64> =
        bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    assert_eq!(decoded, vector, "one text, one vector, in both encodings");
    let tokens = ask(json!({"model": "e", "input": [[1, 2, 3], [4]]})).await;
    assert_eq!(tokens["usage"]["prompt_tokens"], 4);
}

#[tokio::test]
async fn tools_are_called_once_in_every_protocol() {
    let server = Server::start().await;
    let schema = json!({"type": "object", "required": ["city", "days"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let mut chat = json!({"model": "m?tools", "stream": true,
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema}}],
        "messages": [{"role": "user", "content": "Hi"}]});
    let reply = server.ask("POST", "/v1/chat/completions", &chat.to_string()).await;
    let calls: Vec<_> =
        reply.events().iter().map(|e| e["choices"][0]["delta"]["tool_calls"][0].clone()).collect();
    assert_eq!(calls[0]["function"]["name"], "weather");
    let arguments: String =
        calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, r#"{"city":"lorem","days":1}"#);
    assert!(calls.len() > 5, "the arguments come in fragments: {calls:?}");
    chat["messages"].as_array_mut().unwrap().push(json!({"role": "tool", "content": "1"}));
    chat["stream"] = json!(false);
    let after = server.ask("POST", "/v1/chat/completions", &chat.to_string()).await.json();
    assert_eq!(after["choices"][0]["finish_reason"], "stop", "a tool result is answered with text");
    chat["model"] = json!("m?tools=always");
    let after = server.ask("POST", "/v1/chat/completions", &chat.to_string()).await.json();
    assert_eq!(after["choices"][0]["finish_reason"], "tool_calls");
    let messages = json!({"model": "m", "max_tokens": 9, "tool_choice": {"type": "tool", "name": "b"},
        "tools": [{"name": "a"}, {"name": "b", "input_schema": schema}],
        "messages": [{"role": "user", "content": "Hi"}]});
    let answer = server.ask("POST", "/v1/messages", &messages.to_string()).await.json();
    assert_eq!(answer["content"][0]["name"], "b");
    assert_eq!(answer["content"][0]["input"], json!({"city": "lorem", "days": 1}));
    let responses = json!({"model": "m", "input": "Hi", "tool_choice": "required",
        "tools": [{"type": "function", "name": "a", "parameters": schema}]});
    let answer = server.ask("POST", "/v1/responses", &responses.to_string()).await.json();
    assert_eq!(answer["output"][0]["type"], "function_call");
    assert_eq!(answer["output"][0]["arguments"], r#"{"city":"lorem","days":1}"#);
}

#[tokio::test]
async fn errors_have_the_protocols_shape() {
    let server = Server::start().await;
    let reply = server.chat("m?status=429&retry_after=7", true).await;
    assert_eq!(reply.status, 429);
    assert!(reply.head.contains("retry-after: 7"), "{}", reply.head);
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    let body = r#"{"model":"m?status=529","max_tokens":1,"messages":[{"role":"user"}]}"#;
    let reply = server.ask("POST", "/v1/messages", body).await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (529, &json!("overloaded_error")));
    let reply = server.chat("m?colour=red", false).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("first_delay_ms"), "the known options are named");
    let reply =
        server.ask("POST", "/v1/messages", r#"{"model":"m","messages":[{"role":"user"}]}"#).await;
    assert!(reply.text().contains("'max_tokens'"), "required as by the real service");
    assert_eq!(server.ask("POST", "/v1/chat/completions", "{").await.status, 400);
    assert_eq!(server.ask("GET", "/v1/chat/completions", "").await.status, 405);
    assert_eq!(server.ask("GET", "/nowhere", "").await.status, 404);
    assert_eq!(server.ask("GET", "/models", "").await.json()["data"][0]["object"], "model");
}
