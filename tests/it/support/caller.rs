//! What callers of the three formats send, and what they make of the answer: what is true of all three is written once.

use reqwest::Method;
use serde_json::{Value, json};

use super::gateway::{Answer, Gateway};

/// A format of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Messages,
    Responses,
}

/// A call of a tool, as the caller sees it: its name and its arguments.
pub(crate) type Called = (String, Value);

/// An answer as its caller reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) calls: Vec<Called>,
    /// Why it stops, in the format's own word; responses: its status.
    pub(crate) finish: String,
    /// Tokens in, those from a cache included, and out.
    pub(crate) usage: Option<(u64, u64)>,
    /// What is wrong, in the words that are meant for the caller.
    pub(crate) error: Option<String>,
    /// The error's `code`, where the format has one.
    pub(crate) code: Option<String>,
    /// Types of the events of a stream, in their order; of chat nothing.
    pub(crate) events: Vec<String>,
    /// The last whole answer: of responses its object, of the others what was sent.
    pub(crate) body: Value,
    /// Everything, as it came.
    pub(crate) raw: String,
}

impl Api {
    pub(crate) const ALL: [Self; 3] = [Self::Chat, Self::Messages, Self::Responses];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// A request for `model` with these words, which uses at most `max` tokens.
    pub(crate) fn ask(self, model: &str, words: &str, max: u64) -> Value {
        let turn = json!([{"role": "user", "content": words}]);
        match self {
            Self::Chat => json!({"model": model, "messages": turn, "max_tokens": max}),
            Self::Messages => json!({"model": model, "messages": turn, "max_tokens": max}),
            Self::Responses => json!({"model": model, "input": words, "max_output_tokens": max}),
        }
    }

    /// An entry for a tool of the caller's own, without arguments.
    pub(crate) fn tool(self, name: &str) -> Value {
        let schema = json!({"type": "object", "properties": {}});
        match self {
            Self::Chat => {
                json!({"type": "function", "function": {"name": name, "description": "", "parameters": schema}})
            }
            Self::Messages => json!({"name": name, "description": "", "input_schema": schema}),
            Self::Responses => {
                json!({"type": "function", "name": name, "description": "", "parameters": schema})
            }
        }
    }

    /// Sends `body` as it is or, with `streams`, as a stream that shows its usage, and reads the answer to its end.
    pub(crate) async fn call(
        self,
        gateway: &Gateway,
        key: &str,
        body: &Value,
        streams: bool,
    ) -> Seen {
        let body = if streams { self.streamed(body) } else { body.clone() };
        let answer = gateway.post(key, self.path(), body.to_string()).await;
        self.read(&answer)
    }

    /// The same request as a stream that shows its usage.
    pub(crate) fn streamed(self, body: &Value) -> Value {
        let mut body = body.clone();
        body["stream"] = json!(true);
        if self == Self::Chat {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }

    /// Opens a stream.
    pub(crate) async fn open(
        self,
        gateway: &Gateway,
        key: &str,
        body: &Value,
    ) -> reqwest::Response {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        gateway.open(Method::POST, self.path(), &headers, self.streamed(body).to_string()).await
    }

    /// Reads an answer, whichever form it has.
    pub(crate) fn read(self, answer: &Answer) -> Seen {
        let is_stream =
            answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut seen =
            if is_stream { self.read_stream(&answer.text()) } else { self.whole(answer) };
        (seen.status, seen.raw) = (answer.status, answer.text());
        seen
    }

    fn whole(self, answer: &Answer) -> Seen {
        let body = answer.json();
        if answer.status != 200 {
            let error = &body["error"];
            let code = error["code"].as_str().map(str::to_owned);
            let error = error["message"].as_str().map(str::to_owned);
            return Seen { error, code, body, ..Seen::default() };
        }
        self.read_whole(body)
    }

    fn read_whole(self, body: Value) -> Seen {
        let mut seen = Seen::default();
        match self {
            Self::Chat => {
                let choice = &body["choices"][0];
                seen.text = word(&choice["message"]["content"]);
                seen.finish = word(&choice["finish_reason"]);
                for call in items(&choice["message"]["tool_calls"]) {
                    let function = &call["function"];
                    seen.calls.push((word(&function["name"]), parsed(&function["arguments"])));
                }
            }
            Self::Messages => {
                seen.finish = word(&body["stop_reason"]);
                for block in items(&body["content"]) {
                    match block["type"].as_str() {
                        Some("text") => seen.text += &word(&block["text"]),
                        Some("tool_use") => {
                            seen.calls.push((word(&block["name"]), block["input"].clone()));
                        }
                        _ => {}
                    }
                }
            }
            Self::Responses => {
                seen.finish = word(&body["status"]);
                for item in items(&body["output"]) {
                    match item["type"].as_str() {
                        Some("message") => {
                            items(&item["content"])
                                .for_each(|part| seen.text += &word(&part["text"]));
                        }
                        Some("function_call") => {
                            seen.calls.push((word(&item["name"]), parsed(&item["arguments"])));
                        }
                        _ => {}
                    }
                }
            }
        }
        seen.usage = self.usage(&body["usage"]);
        seen.body = body;
        seen
    }

    /// Tokens in and out, as this format counts them.
    pub(crate) fn usage(self, usage: &Value) -> Option<(u64, u64)> {
        let count = |name: &str| usage[name].as_u64();
        match self {
            Self::Chat => Some((count("prompt_tokens")?, count("completion_tokens")?)),
            Self::Messages => {
                let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"];
                let cached: u64 = cached.into_iter().filter_map(count).sum();
                Some((count("input_tokens")? + cached, count("output_tokens")?))
            }
            Self::Responses => Some((count("input_tokens")?, count("output_tokens")?)),
        }
    }

    fn read_stream(self, text: &str) -> Seen {
        let mut data: Vec<Value> = Vec::new();
        for line in text.lines() {
            let Some(event) = line.strip_prefix("data: ") else { continue };
            if event == "[DONE]" {
                continue;
            }
            let parsed = serde_json::from_str(event);
            data.push(parsed.unwrap_or_else(|error| panic!("{error} in an event: {event}")));
        }
        let mut seen = match self {
            Self::Chat => read_chat(&data),
            Self::Messages => self.read_messages(&data),
            Self::Responses => self.read_responses(&data),
        };
        seen.events = data.iter().map(|event| word(&event["type"])).collect();
        for event in &data {
            let failed = &event["response"]["error"];
            let error = if failed.is_object() { failed } else { &event["error"] };
            let is_event = self == Self::Responses && event["type"] == "error";
            if error.is_object() || is_event {
                let error = if is_event && !error.is_object() { event } else { error };
                seen.error = error["message"].as_str().map(str::to_owned);
                seen.code = error["code"].as_str().map(str::to_owned);
            }
        }
        seen
    }

    fn read_messages(self, data: &[Value]) -> Seen {
        let mut blocks: Vec<(Value, String)> = Vec::new();
        let (mut seen, mut usage) = (Seen::default(), json!({}));
        for event in data {
            match event["type"].as_str() {
                Some("message_start") => usage = event["message"]["usage"].clone(),
                Some("content_block_start") => {
                    assert_eq!(event["index"], blocks.len(), "blocks are numbered: {event}");
                    blocks.push((event["content_block"].clone(), String::new()));
                }
                Some("content_block_delta") => {
                    let delta = &event["delta"];
                    let (_, text) = blocks.last_mut().expect("a delta has a block");
                    *text += &word(&delta["text"]);
                    *text += &word(&delta["partial_json"]);
                }
                Some("message_delta") => {
                    seen.finish = word(&event["delta"]["stop_reason"]);
                    let later = event["usage"].as_object().cloned().unwrap_or_default();
                    usage.as_object_mut().expect("usage").extend(later);
                }
                _ => {}
            }
        }
        for (block, text) in blocks {
            match block["type"].as_str() {
                Some("text") => seen.text += &text,
                Some("tool_use") => {
                    let input = if text.is_empty() { json!({}) } else { parsed(&json!(text)) };
                    seen.calls.push((word(&block["name"]), input));
                }
                _ => {}
            }
        }
        seen.usage = if seen.finish.is_empty() { None } else { self.usage(&usage) };
        seen
    }

    fn read_responses(self, data: &[Value]) -> Seen {
        let (mut text, mut numbers) = (String::new(), Vec::new());
        let mut seen = Seen::default();
        for event in data {
            numbers.push(event["sequence_number"].as_u64());
            match event["type"].as_str() {
                Some("response.output_text.delta") => text += &word(&event["delta"]),
                Some("response.completed" | "response.incomplete" | "response.failed") => {
                    seen = self.read_whole(event["response"].clone());
                }
                _ => {}
            }
        }
        let in_order = numbers.iter().flatten().zip(numbers.iter().flatten().skip(1));
        assert!(in_order.clone().all(|(a, b)| a < b), "sequence numbers rise: {numbers:?}");
        if seen.body["status"] == "completed" {
            assert_eq!(seen.text, text, "the end repeats what was said");
        }
        Seen { text, ..seen }
    }

    /// How this format says that an answer ended by itself.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Chat => "stop",
            Self::Messages => "end_turn",
            Self::Responses => "completed",
        }
    }

    /// How it says that the caller shall run a tool.
    pub(crate) fn wants_tools(self) -> &'static str {
        match self {
            Self::Chat => "tool_calls",
            Self::Messages => "tool_use",
            Self::Responses => "completed",
        }
    }
}

fn read_chat(data: &[Value]) -> Seen {
    let mut seen = Seen::default();
    let mut calls: Vec<(Value, String, String)> = Vec::new();
    for event in data {
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        seen.text += &word(&delta["content"]);
        for call in items(&delta["tool_calls"]) {
            let known = calls.iter().position(|(index, ..)| *index == call["index"]);
            let at = known.unwrap_or_else(|| {
                calls.push((call["index"].clone(), String::new(), String::new()));
                calls.len() - 1
            });
            calls[at].1 += &word(&call["function"]["name"]);
            calls[at].2 += &word(&call["function"]["arguments"]);
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            assert!(seen.finish.is_empty(), "an answer stops once: {data:#?}");
            finish.clone_into(&mut seen.finish);
        }
        if event["usage"].is_object() {
            assert!(seen.usage.is_none(), "the usage is told once: {data:#?}");
            seen.usage = Api::Chat.usage(&event["usage"]);
        }
    }
    for (at, (index, name, arguments)) in calls.into_iter().enumerate() {
        assert_eq!(index, at, "calls are numbered from 0");
        seen.calls.push((name, parsed(&json!(arguments))));
    }
    seen
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text of JSON; null when it is none.
fn parsed(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or_default()
}

impl Seen {
    /// Panics unless the answer is whole and without a fault.
    pub(crate) fn good(self) -> Self {
        assert_eq!((self.status, &self.error), (200, &None), "{}", self.raw);
        self
    }

    /// How often an event of this type came.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| *event == kind).count()
    }
}
