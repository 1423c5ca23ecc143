//! A model that speaks every format and follows a script: what it says and calls, round by round.

use serde_json::{Value, json};

use super::caller::Api;
use super::format::{event, message, numbered, response};
use super::provider::{Provider, Reply, Request, Step, chunk};

/// What the model says in a round.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    text: String,
    /// Names and arguments, which are JSON unless a test wants them broken.
    calls: Vec<(String, String)>,
    /// Tokens in, of these from a cache, and out.
    usage: [u64; 3],
}

/// It says this, and no more.
pub(crate) fn says(text: &str) -> Turn {
    Turn { text: text.to_owned(), calls: Vec::new(), usage: [0; 3] }
}

/// It calls these.
pub(crate) fn calls<const N: usize>(calls: [(&str, Value); N]) -> Turn {
    let calls = calls.map(|(name, arguments)| (name.to_owned(), arguments.to_string()));
    Turn { calls: calls.into(), ..says("") }
}

impl Turn {
    /// And says this before.
    pub(crate) fn saying(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// And calls one more, with arguments that are whatever they are.
    pub(crate) fn calling(mut self, name: &str, arguments: &str) -> Self {
        self.calls.push((name.to_owned(), arguments.to_owned()));
        self
    }

    /// It uses so many tokens: in, of these from a cache, and out.
    pub(crate) fn using(mut self, usage: [u64; 3]) -> Self {
        self.usage = usage;
        self
    }
}

/// Tokens of the round with this number when the script says nothing: in and out.
pub(crate) fn tokens(round: usize) -> (u64, u64) {
    let round = round as u64;
    (20 + 3 * round, 5 + round)
}

/// The sum of the tokens of so many rounds.
pub(crate) fn sum(rounds: usize) -> (u64, u64) {
    (0..rounds).map(tokens).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

/// One round of a conversation, as the model is asked.
pub(crate) struct Asked {
    /// What the provider is spoken to in.
    pub(crate) api: Api,
    /// How often the model has called tools in it already.
    pub(crate) round: usize,
    body: Value,
}

/// A model that does what `script` says.
pub(crate) fn model(script: impl Fn(&Asked) -> Turn + Send + Sync + 'static) -> Provider {
    provider(move |asked| asked.answer(script(asked)))
}

/// The same, where the script may do other things than answer.
pub(crate) fn provider(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Provider {
    Provider::start(move |request| script(&Asked::of(request)))
}

/// The tools that a request offers, by name.
pub(crate) fn offered(request: &Request) -> Vec<String> {
    let body = request.json();
    let tools = body["tools"].as_array().cloned().unwrap_or_default();
    let name = |tool: &Value| {
        tool["function"]["name"].as_str().or(tool["name"].as_str()).map(str::to_owned)
    };
    tools.iter().filter_map(name).collect()
}

/// The results of tools that a request brings, each with the id of its call, in their order.
pub(crate) fn results(request: &Request) -> Vec<(String, String)> {
    let body = request.json();
    let text = |value: &Value| match value {
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let pair =
        |id: &Value, content: &Value| (id.as_str().unwrap_or_default().to_owned(), text(content));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match Asked::of(request).api {
        Api::Chat => (list(&body["messages"]).iter())
            .filter(|message| message["role"] == "tool")
            .map(|message| pair(&message["tool_call_id"], &message["content"]))
            .collect(),
        Api::Messages => (list(&body["messages"]).iter())
            .flat_map(|message| list(&message["content"]))
            .filter(|block| block["type"] == "tool_result")
            .map(|block| pair(&block["tool_use_id"], &block["content"]))
            .collect(),
        Api::Responses => (list(&body["input"]).iter())
            .filter(|item| item["type"] == "function_call_output")
            .map(|item| pair(&item["call_id"], &item["output"]))
            .collect(),
    }
}

impl Asked {
    fn of(request: &Request) -> Self {
        let api = Api::ALL.into_iter().find(|api| request.path.starts_with(api.path()));
        let api = api.unwrap_or_else(|| panic!("a model was asked at {}", request.path));
        let body = request.json();
        let list = |name: &str| body[name].as_array().cloned().unwrap_or_default();
        let is_use = |block: &Value| block["type"] == "tool_use";
        let round = match api {
            Api::Chat => {
                list("messages").iter().filter(|message| message["tool_calls"].is_array()).count()
            }
            Api::Messages => (list("messages").iter())
                .filter(|turn| turn["content"].as_array().is_some_and(|all| all.iter().any(is_use)))
                .count(),
            Api::Responses => {
                let is_result: Vec<bool> = (list("input").iter())
                    .map(|item| item["type"] == "function_call_output")
                    .collect();
                let begins = is_result.windows(2).filter(|pair| !pair[0] && pair[1]).count();
                begins + usize::from(is_result.first() == Some(&true))
            }
        };
        Self { api, round, body }
    }

    /// The first words of the user's.
    pub(crate) fn words(&self) -> String {
        let of = |turn: &Value| match &turn["content"] {
            Value::Array(parts) => parts[0]["text"].as_str().map(str::to_owned),
            other => other.as_str().map(str::to_owned),
        };
        let turns =
            if self.api == Api::Responses { &self.body["input"] } else { &self.body["messages"] };
        if let Some(text) = turns.as_str() {
            return text.to_owned();
        }
        let users = turns.as_array().and_then(|all| all.iter().find(|turn| turn["role"] == "user"));
        users.and_then(of).unwrap_or_default()
    }

    /// Whether a stream is asked for.
    pub(crate) fn is_streamed(&self) -> bool {
        self.body["stream"] == json!(true)
    }

    /// What the provider answers.
    pub(crate) fn answer(&self, mut turn: Turn) -> Reply {
        if turn.usage == [0; 3] {
            let (input, output) = tokens(self.round);
            turn.usage = [input, 0, output];
        }
        if self.is_streamed() {
            return Reply::events(
                self.events(&turn).into_iter().map(|text| Step::Send(text.into())),
            );
        }
        Reply::json(200, &self.whole(&turn))
    }

    /// The events of the answer, for scripts that put something between them.
    pub(crate) fn events(&self, turn: &Turn) -> Vec<String> {
        match self.api {
            Api::Chat => self.chat_events(turn),
            Api::Messages => self.message_events(turn),
            Api::Responses => self.response_events(turn),
        }
    }

    fn whole(&self, turn: &Turn) -> Value {
        match self.api {
            Api::Chat => {
                let calls = self.numbered(turn, |id, name, arguments| {
                    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
                });
                let mut message = json!({"role": "assistant", "content": turn.text});
                if turn.text.is_empty() {
                    message["content"] = Value::Null;
                }
                if !calls.is_empty() {
                    message["tool_calls"] = json!(calls);
                }
                json!({"id": format!("chatcmpl-{}", self.round), "object": "chat.completion", "created": 1_763_800_000,
                       "model": "m-2026", "usage": chat_usage(turn),
                       "choices": [{"index": 0, "message": message, "finish_reason": finish(turn)}]})
            }
            Api::Messages => {
                let mut whole = message(json!(self.blocks(turn)), stop_reason(turn));
                whole["usage"] = message_usage(turn);
                whole
            }
            Api::Responses => response("completed", json!(self.items(turn)), response_usage(turn)),
        }
    }

    /// What `write` makes of the calls: of an id, a name, and arguments.
    fn numbered(&self, turn: &Turn, write: impl Fn(String, &str, &str) -> Value) -> Vec<Value> {
        let id = |at: usize| match self.api {
            Api::Messages => format!("toolu_{}_{at}", self.round),
            _ => format!("call_{}_{at}", self.round),
        };
        (turn.calls.iter().enumerate())
            .map(|(at, (name, arguments))| write(id(at), name, arguments))
            .collect()
    }

    fn chat_events(&self, turn: &Turn) -> Vec<String> {
        let one = |delta: Value, finish: Value| {
            chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), None)
        };
        let mut events = vec![one(json!({"role": "assistant", "content": ""}), Value::Null)];
        for piece in halves(&turn.text) {
            events.push(one(json!({"content": piece}), Value::Null));
        }
        let calls = self.numbered(turn, |id, name, arguments| json!([id, name, arguments]));
        for (at, call) in calls.iter().enumerate() {
            let begun = json!({"index": at, "id": call[0], "type": "function",
                               "function": {"name": call[1], "arguments": ""}});
            events.push(one(json!({"tool_calls": [begun]}), Value::Null));
            for piece in halves(call[2].as_str().expect("a text")) {
                let more = json!({"index": at, "function": {"arguments": piece}});
                events.push(one(json!({"tool_calls": [more]}), Value::Null));
            }
        }
        events.push(one(json!({}), json!(finish(turn))));
        if self.body["stream_options"]["include_usage"] == json!(true) {
            events.push(chunk(json!([]), Some(chat_usage(turn))));
        }
        events.push("data: [DONE]\n\n".into());
        events
    }

    fn blocks(&self, turn: &Turn) -> Vec<Value> {
        let mut blocks = Vec::new();
        if !turn.text.is_empty() {
            blocks.push(json!({"type": "text", "text": turn.text}));
        }
        blocks.extend(self.numbered(turn, |id, name, arguments| {
            let input: Value = serde_json::from_str(arguments).unwrap_or(json!(arguments));
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }));
        blocks
    }

    fn message_events(&self, turn: &Turn) -> Vec<String> {
        let mut start = message(json!([]), "");
        start["stop_reason"] = Value::Null;
        start["usage"] = message_usage(turn);
        start["usage"]["output_tokens"] = json!(1);
        let mut events = vec![json!({"type": "message_start", "message": start})];
        for (at, mut block) in self.blocks(turn).into_iter().enumerate() {
            let (kind, name, text) = if block["type"] == "text" {
                let text = std::mem::replace(&mut block["text"], json!(""));
                ("text_delta", "text", text.as_str().expect("a text").to_owned())
            } else {
                // As they were written, also where they are no JSON.
                let call = at - usize::from(!turn.text.is_empty());
                block["input"] = json!({});
                ("input_json_delta", "partial_json", turn.calls[call].1.clone())
            };
            events
                .push(json!({"type": "content_block_start", "index": at, "content_block": block}));
            for piece in halves(&text) {
                let delta = json!({"type": kind, name: piece});
                events.push(json!({"type": "content_block_delta", "index": at, "delta": delta}));
            }
            events.push(json!({"type": "content_block_stop", "index": at}));
        }
        let delta = json!({"stop_reason": stop_reason(turn), "stop_sequence": null});
        let usage = json!({"output_tokens": turn.usage[2]});
        events.push(json!({"type": "message_delta", "delta": delta, "usage": usage}));
        events.push(json!({"type": "message_stop"}));
        events.iter().map(event).collect()
    }

    fn items(&self, turn: &Turn) -> Vec<Value> {
        let round = self.round;
        let mut items = Vec::new();
        if !turn.text.is_empty() {
            items.push(json!({"id": format!("msg_{round}"), "type": "message", "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}]}));
        }
        items.extend(self.numbered(turn, |id, name, arguments| {
            json!({"id": format!("fc_{id}"), "type": "function_call", "status": "completed", "call_id": id,
                   "name": name, "arguments": arguments})
        }));
        items
    }

    fn response_events(&self, turn: &Turn) -> Vec<String> {
        let open = response("in_progress", json!([]), Value::Null);
        let mut events = vec![
            json!({"type": "response.created", "response": open}),
            json!({"type": "response.in_progress", "response": open}),
        ];
        let items = self.items(turn);
        for (at, item) in items.iter().enumerate() {
            let place = |kind: &str, mut more: Value| {
                more["type"] = json!(kind);
                more["item_id"] = item["id"].clone();
                more["output_index"] = json!(at);
                more
            };
            let mut begun = item.clone();
            begun["status"] = json!("in_progress");
            let is_call = item["type"] == "function_call";
            begun[if is_call { "arguments" } else { "content" }] =
                if is_call { json!("") } else { json!([]) };
            events.push(
                json!({"type": "response.output_item.added", "output_index": at, "item": begun}),
            );
            if is_call {
                for piece in halves(item["arguments"].as_str().expect("a text")) {
                    events.push(place(
                        "response.function_call_arguments.delta",
                        json!({"delta": piece}),
                    ));
                }
                let whole = json!({"arguments": item["arguments"]});
                events.push(place("response.function_call_arguments.done", whole));
            } else {
                let part = |text: &str| {
                    json!({"content_index": 0, "part": {"type": "output_text", "text": text,
                    "annotations": [], "logprobs": []}})
                };
                events.push(place("response.content_part.added", part("")));
                for piece in halves(&turn.text) {
                    let delta = json!({"content_index": 0, "delta": piece, "logprobs": []});
                    events.push(place("response.output_text.delta", delta));
                }
                let whole = json!({"content_index": 0, "text": turn.text, "logprobs": []});
                events.push(place("response.output_text.done", whole));
                events.push(place("response.content_part.done", part(&turn.text)));
            }
            events.push(
                json!({"type": "response.output_item.done", "output_index": at, "item": item}),
            );
        }
        let done = response("completed", json!(items), response_usage(turn));
        events.push(json!({"type": "response.completed", "response": done}));
        numbered(events)
    }
}

/// A text in two pieces; nothing of an empty one.
fn halves(text: &str) -> Vec<&str> {
    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (a, b) = text.split_at(middle);
    [a, b].into_iter().filter(|piece| !piece.is_empty()).collect()
}

fn finish(turn: &Turn) -> &'static str {
    if turn.calls.is_empty() { "stop" } else { "tool_calls" }
}

fn stop_reason(turn: &Turn) -> &'static str {
    if turn.calls.is_empty() { "end_turn" } else { "tool_use" }
}

fn chat_usage(turn: &Turn) -> Value {
    let [input, cached, output] = turn.usage;
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
           "prompt_tokens_details": {"cached_tokens": cached}})
}

fn message_usage(turn: &Turn) -> Value {
    let [input, cached, output] = turn.usage;
    json!({"input_tokens": input - cached, "cache_read_input_tokens": cached,
           "cache_creation_input_tokens": 0, "output_tokens": output})
}

fn response_usage(turn: &Turn) -> Value {
    let [input, cached, output] = turn.usage;
    json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cached}, "output_tokens": output,
           "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output})
}
