//! Connected mode: a gateway between callers, providers and a platform that decides and is told what became of it.

mod clouds;
mod crash;
mod endings;
mod failover;
mod faults;
mod gate;
mod outage;
mod reload;
mod reports;
mod resolve;
mod secrets;
mod settlement;
mod surface;
mod walk;

use otari::mock::platform::Seen;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::platform::{Platform, USER_TOKEN};
use crate::support::provider::{Provider, Reply, Request, Step};

/// What the mock platform says an answer of [`served`] cost, and who priced it.
const COST: &str = "0.000020";

/// An API that callers speak in connected mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    Chat,
    Messages,
    Responses,
}

impl Api {
    const ALL: [Self; 3] = [Self::Chat, Self::Messages, Self::Responses];

    /// The API that a provider was asked in.
    fn of(request: &Request) -> Self {
        let api = Self::ALL.into_iter().find(|api| api.path() == request.path);
        api.unwrap_or_else(|| panic!("a provider was asked at {}", request.path))
    }

    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }

    /// A provider that speaks it.
    fn provider(self) -> &'static str {
        if self == Self::Messages { "anthropic" } else { "openai" }
    }

    /// A request for `model`.
    fn ask(self, model: &str) -> Value {
        let turn = json!([{"role": "user", "content": "hi"}]);
        match self {
            Self::Chat => json!({"model": model, "messages": turn}),
            Self::Messages => json!({"model": model, "max_tokens": 64, "messages": turn}),
            Self::Responses => json!({"model": model, "input": "hi"}),
        }
    }

    /// A request for `model` as a stream.
    fn ask_streamed(self, model: &str) -> Value {
        let mut body = self.ask(model);
        body["stream"] = json!(true);
        body
    }

    /// A provider's whole answer, in a spelling that nobody would reproduce by chance.
    fn document(self) -> &'static str {
        match self {
            Self::Chat => {
                r#"{"id": "chatcmpl-1","object":"chat.completion", "model":"m-2026","choices":[{"index":0,"message":{"role":"assistant","content":"H\u00e9llo","refusal":null},"finish_reason":"stop"}], "x_new":1.50,"usage" : {"prompt_tokens":10,"completion_tokens":5, "total_tokens":15 } }"#
            }
            Self::Messages => {
                r#"{"id":"msg_1", "type":"message","role":"assistant","model":"m-2026","content":[{"type":"text","text":"H\u00e9llo"}],"stop_reason":"end_turn","stop_sequence":null,"x_new":1.50,"usage":{ "input_tokens":10,"output_tokens":5}}"#
            }
            Self::Responses => {
                r#"{"id":"resp_1", "object":"response","status":"completed","model":"m-2026","output":[{"type":"message","id":"i","role":"assistant","status":"completed","content":[{"type":"output_text","text":"H\u00e9llo","annotations":[]}]}],"x_new":1.50,"usage":{"input_tokens":10,"output_tokens":5, "total_tokens":15}}"#
            }
        }
    }

    /// A provider's whole stream, event by event.
    fn events(self) -> Vec<String> {
        let named = |data: &str| {
            let kind: Value = serde_json::from_str(data).expect("JSON");
            format!("event: {}\ndata: {data}\n\n", kind["type"].as_str().expect("a type"))
        };
        match self {
            Self::Chat => [
                r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"H\u00e9l"},"finish_reason":null}]}"#,
                r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}"#,
                r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                r#"{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":10, "completion_tokens":5,"total_tokens":15}}"#,
                "[DONE]",
            ]
            .map(|data| format!("data: {data}\n\n"))
            .into(),
            Self::Messages => [
                r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m-2026","content":[],"stop_reason":null,"usage":{"input_tokens":10,"output_tokens":1}}}"#,
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"H\u00e9llo"}}"#,
                r#"{"type":"content_block_stop","index":0}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens": 5}}"#,
                r#"{"type":"message_stop"}"#,
            ]
            .map(named)
            .into(),
            Self::Responses => [
                r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","output":[],"usage":null}}"#,
                r#"{"type":"response.output_text.delta","sequence_number":1,"item_id":"i","output_index":0,"content_index":0,"delta":"H\u00e9llo"}"#,
                r#"{"type":"response.completed","sequence_number":2,"response":{"id":"resp_1","object":"response","status":"completed","output":[],"usage":{"input_tokens":10,"output_tokens":5,"total_tokens": 15}}}"#,
            ]
            .map(named)
            .into(),
        }
    }

    /// Whether the text of a stream ends as the API ends its streams.
    fn is_whole(self, text: &str) -> bool {
        match self {
            Self::Chat => text.ends_with("\n\ndata: [DONE]\n\n"),
            Self::Messages => {
                text.ends_with("\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
            }
            Self::Responses => {
                let last = text.strip_suffix("\n\n").and_then(|text| text.rsplit("\n\n").next());
                last.is_some_and(|last| last.starts_with("event: response.completed\ndata: {"))
            }
        }
    }

    /// Its stream again, up to the last event that comes before the usage.
    fn events_without_usage(self) -> Vec<String> {
        let events = self.events().into_iter();
        match self {
            Self::Chat => events.filter(|event| !event.contains("usage")).collect(),
            Self::Messages | Self::Responses => events
                .map(|event| match event.find(r#","usage":{"#) {
                    Some(at) => {
                        let end = event[at..].find('}').expect("an object") + at + 1;
                        format!("{}{}", &event[..at], &event[end..])
                    }
                    None => event,
                })
                .collect(),
        }
    }

    /// What a provider answers to a request in this API.
    fn served(self, streamed: bool) -> Reply {
        if streamed {
            Reply::events(self.events().into_iter().map(|event| Step::Send(event.into())))
        } else {
            Reply::bytes(200, "application/json", self.document())
        }
    }

    /// An event with which a provider says that it failed.
    fn error_event(self) -> String {
        match self {
            Self::Chat => "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\",\"code\":503}}\n\n",
            Self::Messages => {
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"overloaded\"}}\n\n"
            }
            Self::Responses => {
                "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"overloaded\",\"param\":null}\n\n"
            }
        }
        .to_owned()
    }

    /// A comment or a ping: a sign of life, and no event.
    fn sign_of_life(self) -> &'static str {
        match self {
            Self::Messages => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            Self::Chat | Self::Responses => ": keepalive\n\n",
        }
    }

    /// The sentence in a refusal, both of whose shapes must be there and agree.
    fn sentence(self, answer: &Answer, status: u16) -> String {
        if self != Self::Messages {
            return answer.refused(status)["detail"].as_str().expect("a sentence").to_owned();
        }
        assert_eq!(answer.status, status, "{}", answer.text());
        let body = answer.json();
        assert_eq!(body["type"], "error", "{body}");
        assert_eq!(body["detail"]["error"], body["error"], "the reference's shape says the same");
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400 | 402 | 422 => "invalid_request_error",
            _ => "api_error",
        };
        // The reference calls what has no name of its own `api_error`.
        let known = body["error"]["type"] == kind
            || (status == 402 && body["error"]["type"] != "authentication_error");
        assert!(known, "{body}");
        body["error"]["message"].as_str().expect("a sentence").to_owned()
    }
}

/// Whether a stream was asked for.
fn is_streamed(request: &Request) -> bool {
    request.json()["stream"] == json!(true)
}

/// What a provider answers that works.
fn served(request: &Request) -> Reply {
    Api::of(request).served(is_streamed(request))
}

/// A provider that works, in every API.
fn working() -> Provider {
    Provider::start(served)
}

/// A provider that answers everything with this status and words.
fn failing(status: u16, words: &'static str) -> Provider {
    Provider::answers(status, json!({"error": {"message": words, "type": "scripted"}}))
}

/// An attempt at an address where nobody listens. Every use is another place.
fn refusing(provider: &str) -> Value {
    json!({"provider": provider, "api_base": format!("http://{}/v1", nobody()), "api_key": "sk-nobody"})
}

/// An attempt at this provider with this key.
fn attempt(name: &str, provider: &Provider, key: &str) -> Value {
    json!({"provider": name, "api_base": provider.base(), "api_key": key})
}

/// A port of loopback that takes no connections for as long as the tests run.
fn nobody() -> std::net::SocketAddr {
    use socket2::{Domain, Socket, Type};
    static PORT: std::sync::OnceLock<(Socket, std::net::SocketAddr)> = std::sync::OnceLock::new();
    let (_, addr) = PORT.get_or_init(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port on loopback");
        let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket());
        (socket, addr.expect("a bound socket has an address"))
    });
    *addr
}

/// A report in one line: `att-b success final`, `att-a error http_500`. The number of the plan is left out.
fn line(report: &Seen) -> String {
    let id = report.correlation_id();
    let id = id.rsplit_once('-').map_or(id.as_str(), |(id, _)| id);
    let status = report.text("status").unwrap_or_default();
    let last = if report.is_final() { " final" } else { "" };
    let class = report.error_class().map(|class| format!(" {class}")).unwrap_or_default();
    format!("{id} {status}{last}{class}")
}

/// What the gateway wrote into a usage, taken out again; panics when it is not there exactly once.
fn without_cost(text: &str, cost: &str, source: &str) -> String {
    let fields = format!(r#""cost_usd":"{cost}","pricing_source":"{source}""#);
    let found = text.matches(&fields).count();
    assert_eq!(found, 1, "the cost stands in the answer once: {text}");
    assert_eq!(text.matches("cost_usd").count(), 1, "and no other: {text}");
    text.replace(&format!(",{fields}"), "").replace(&fields, "")
}

/// A platform, a gateway before it, and how many of the reports have been looked at.
struct Scene {
    platform: Platform,
    gateway: Gateway,
    looked_at: usize,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|start| start).await
    }

    /// A gateway whose start `change` has a say in.
    async fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let platform = Platform::start().await;
        // Providers that fail on purpose must not be passed over, where that is not what is looked at.
        let start = Gateway::start().connected(&platform).config("circuit_breaker_failures: 0");
        let gateway = change(start).await;
        Self { platform, gateway, looked_at: 0 }
    }

    async fn send(&self, api: Api, body: &Value) -> Answer {
        self.gateway.post(USER_TOKEN, api.path(), body.to_string()).await
    }

    async fn ask(&self, api: Api, model: &str) -> Answer {
        self.send(api, &api.ask(model)).await
    }

    async fn ask_streamed(&self, api: Api, model: &str) -> Answer {
        self.send(api, &api.ask_streamed(model)).await
    }

    /// The next reports that were accepted, by attempt; panics when there are more by now.
    async fn reports(&mut self, count: usize) -> Vec<Seen> {
        let mut all = self.platform.eventually_reports(self.looked_at + count).await;
        let mut new = all.split_off(self.looked_at);
        let lines: Vec<String> = new.iter().map(line).collect();
        assert_eq!(new.len(), count, "reports: {lines:?}");
        self.looked_at += count;
        new.sort_by_key(Seen::correlation_id);
        new
    }

    /// The same in one line each.
    async fn told(&mut self, count: usize) -> Vec<String> {
        self.reports(count).await.iter().map(line).collect()
    }

    /// Panics unless every report was looked at, and none was wrong.
    async fn finish(mut self) {
        let ended = self.gateway.terminate().await;
        assert!(ended.success(), "{ended}\n{}", self.gateway.log());
        let accepted: Vec<String> =
            self.platform.reports().iter().filter(|report| report.accepted()).map(line).collect();
        assert_eq!(accepted.len(), self.looked_at, "reports nobody expected: {accepted:?}");
        self.platform.assert_clean();
    }
}
