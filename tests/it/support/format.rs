//! Messages and responses as their providers write them, and a gateway before one of each: what is true of both formats
//! is written once.

use reqwest::Method;
use serde_json::{Value, json};

use super::gateway::{Answer, Builder, Gateway};
use super::provider::{Provider, Reply, Request, Step, USAGE};

/// A format that is not chat's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Anthropic messages, at the provider `a`.
    Messages,
    /// OpenAI responses, at the provider `o`.
    Responses,
}

pub(crate) const FORMATS: [Format; 2] = [Format::Messages, Format::Responses];

/// A gateway before `provider` as `a` (Anthropic's kind) and `o` (OpenAI's), whose models `a:m` and `o:m` cost 1000 and
/// 2000 USD per million tokens: [`super::COST`] per scripted answer.
pub(crate) fn both(start: Builder, provider: &Provider) -> Builder {
    let (a, o) = (provider.base(), provider.base());
    let start = start.provider_of("anthropic", "a", &a, "").provider_of("openai", "o", &o, "");
    start.price("a:m", 1000.0, 2000.0).price("o:m", 1000.0, 2000.0)
}

impl Format {
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// The name of the provider of this format's kind.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::Messages => "a",
            Self::Responses => "o",
        }
    }

    /// A request for the priced model.
    pub(crate) fn ask(self) -> Value {
        match self {
            Self::Messages => {
                json!({"model": "a:m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]})
            }
            Self::Responses => json!({"model": "o:m", "max_output_tokens": 100, "input": "hi"}),
        }
    }

    /// A request with these fields set.
    pub(crate) fn ask_with(self, fields: Value) -> Value {
        let mut body = self.ask();
        for (name, value) in fields.as_object().expect("fields of a request") {
            body[name] = value.clone();
        }
        body
    }

    /// The same number under a name that either format passes on: what a script reads to decide.
    pub(crate) fn streamed(self, case: usize) -> Value {
        self.ask_with(json!({"stream": true, "case": case}))
    }

    /// Sends a request; returns the answer once it is whole.
    pub(crate) async fn call(self, gateway: &Gateway, key: &str, body: &Value) -> Answer {
        gateway.post(key, self.route(), body.to_string()).await
    }

    /// Opens a stream; read it with `chunk()`, leave it by dropping it.
    pub(crate) async fn open(
        self,
        gateway: &Gateway,
        key: &str,
        body: &Value,
    ) -> reqwest::Response {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        gateway.open(Method::POST, self.route(), &headers, body.to_string()).await
    }

    /// The whole answer with this text.
    pub(crate) fn whole(self, text: &str) -> Value {
        match self {
            Self::Messages => message(json!([{"type": "text", "text": text}]), "end_turn"),
            Self::Responses => response("completed", json!([spoken(text)]), usage()),
        }
    }

    /// The events of a whole stream of these pieces.
    pub(crate) fn events(self, pieces: &[&str]) -> Vec<String> {
        match self {
            Self::Messages => message_events(pieces),
            Self::Responses => response_events(pieces),
        }
    }

    /// The event that a provider fails with.
    pub(crate) fn failure(self) -> &'static str {
        match self {
            Self::Messages => {
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
                 \"message\":\"Overloaded\"}}\n\n"
            }
            Self::Responses => {
                "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"Overloaded\",\
                 \"param\":null,\"sequence_number\":7}\n\n"
            }
        }
    }

    /// What answers `request`: a stream of `pieces` when it asked for one, else the whole.
    pub(crate) fn reply(self, request: &Request, pieces: &[&str]) -> Reply {
        if request.json()["stream"] != json!(true) {
            return Reply::json(200, &self.whole(&pieces.concat()));
        }
        Reply::events(self.events(pieces).into_iter().map(|event| Step::Send(event.into())))
    }

    /// Checks that this is a refusal of this status in the format's own shape, with the reference's `detail`; returns its
    /// JSON.
    pub(crate) fn refused(self, answer: &Answer, status: u16) -> Value {
        if self == Self::Responses {
            return answer.refused(status);
        }
        assert_eq!(answer.status, status, "{}", answer.text());
        let body = answer.json();
        assert_eq!(
            (&body["type"], &body["request_id"]),
            (&json!("error"), &json!(answer.request_id()))
        );
        let error = &body["error"];
        assert!(error["type"].is_string(), "Anthropic's error object: {body}");
        assert!(error["message"].as_str().is_some_and(|said| !said.is_empty()), "{body}");
        assert_eq!(error.as_object().map(serde_json::Map::len), Some(2), "{body}");
        let detail = &body["detail"];
        assert!(
            detail.is_array() || *detail == json!({"type": "error", "error": error}),
            "the reference's `detail` says the same: {body}"
        );
        body
    }

    /// The sentence in a refusal's `detail`.
    pub(crate) fn sentence(self, refusal: &Value) -> String {
        let detail = match self {
            Self::Messages => &refusal["detail"]["error"]["message"],
            Self::Responses => &refusal["detail"],
        };
        detail.as_str().unwrap_or_default().to_owned()
    }
}

/// The format of a request, by its path.
pub(crate) fn of(request: &Request) -> Format {
    match request.path.as_str() {
        "/v1/messages" => Format::Messages,
        "/v1/responses" => Format::Responses,
        other => panic!("no provider of a format is called at {other}"),
    }
}

/// A message with this content.
pub(crate) fn message(content: Value, stop_reason: &str) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m-2026", "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {"input_tokens": USAGE.0, "output_tokens": USAGE.1, "service_tier": "standard"},
    })
}

/// A named event.
pub(crate) fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type"))
}

fn message_events(pieces: &[&str]) -> Vec<String> {
    let block = json!({"type": "text", "text": ""});
    let deltas = pieces.iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect();
    message_stream(&block, deltas, "end_turn")
}

/// A stream of a message with one block: its start, the block's, a ping, the deltas, the block's end, usage, the end.
pub(crate) fn message_stream(block: &Value, deltas: Vec<Value>, stop_reason: &str) -> Vec<String> {
    let mut start = message(json!([]), "");
    start["stop_reason"] = Value::Null;
    start["usage"] = json!({"input_tokens": USAGE.0, "output_tokens": 1});
    let mut events = vec![
        event(&json!({"type": "message_start", "message": start})),
        event(&json!({"type": "content_block_start", "index": 0, "content_block": block})),
        "event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned(),
    ];
    events.extend(
        deltas.iter().map(|delta| {
            event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
        }),
    );
    events.push(event(&json!({"type": "content_block_stop", "index": 0})));
    let delta = json!({"stop_reason": stop_reason, "stop_sequence": null});
    let usage = json!({"output_tokens": USAGE.1});
    events.push(event(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
    events.push(event(&json!({"type": "message_stop"})));
    events
}

fn usage() -> Value {
    json!({"input_tokens": USAGE.0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": USAGE.1,
           "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": USAGE.0 + USAGE.1})
}

/// A response in this state.
pub(crate) fn response(status: &str, output: Value, usage: Value) -> Value {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_763_800_000, "status": status, "error": null,
        "incomplete_details": null, "instructions": null, "metadata": {}, "model": "m-2026", "output": output,
        "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": usage,
    })
}

fn spoken(text: &str) -> Value {
    json!({"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
           "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]})
}

fn response_events(pieces: &[&str]) -> Vec<String> {
    let text = pieces.concat();
    let place = |kind: &str, more: Value| {
        let mut event =
            json!({"type": kind, "item_id": "msg_1", "output_index": 0, "content_index": 0});
        event
            .as_object_mut()
            .expect("made above")
            .extend(more.as_object().expect("fields").clone());
        event
    };
    let empty = json!({"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []});
    let part = |text: &str| json!({"part": {"type": "output_text", "text": text, "annotations": [], "logprobs": []}});
    let mut events = vec![
        json!({"type": "response.created", "response": response("in_progress", json!([]), Value::Null)}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": empty}),
        place("response.content_part.added", part("")),
    ];
    events.extend(
        pieces.iter().map(|piece| {
            place("response.output_text.delta", json!({"delta": piece, "logprobs": []}))
        }),
    );
    events.push(place("response.output_text.done", json!({"text": text, "logprobs": []})));
    events.push(place("response.content_part.done", part(&text)));
    events.push(
        json!({"type": "response.output_item.done", "output_index": 0, "item": spoken(&text)}),
    );
    let done = response("completed", json!([spoken(&text)]), usage());
    events.push(json!({"type": "response.completed", "response": done}));
    numbered(events)
}

/// These events of a response, in their order.
pub(crate) fn numbered(events: Vec<Value>) -> Vec<String> {
    let number = |(at, mut data): (usize, Value)| {
        data["sequence_number"] = json!(at);
        event(&data)
    };
    events.into_iter().enumerate().map(number).collect()
}
