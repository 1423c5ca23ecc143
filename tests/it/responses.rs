//! OpenAI responses: what reaches the provider, what comes back, and what it costs.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::format::{Format, both, numbered, response};
use crate::support::gateway::{Builder, Gateway, UPSTREAM_KEY};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, Step};

const FORMAT: Format = Format::Responses;

/// A provider that answers, and a gateway before it with the key of a user.
async fn served(start: Builder) -> (Provider, Gateway, String) {
    let provider = Provider::start(|request| FORMAT.reply(request, &["ok"]));
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    (provider, gateway, key)
}

#[tokio::test]
async fn a_request_arrives_as_sent_but_for_what_is_the_gateways() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    // What Codex sends: its own metadata, nested tools, items with ids of its own, encrypted reasoning.
    let body = |model: &str, gateways: &str| {
        format!(
            "{{ \"input\":[{{\"type\":\"message\",\"role\":\"developer\",\"content\":[{{\"type\":\"input_text\",\
             \"text\":\"h\\u00e9 \\/ é\"}}]}},{{\"type\":\"reasoning\",\"id\":\"rs_1\",\"encrypted_content\":\"gAAAA==\",\
             \"summary\":[]}},{{\"type\":\"function_call\",\"id\":\"fc_1\",\"call_id\":\"c\",\"name\":\"f\",\
             \"arguments\":\"{{\\\"model\\\":1.50}}\"}}],\r\n\t\"model\" :  \"{model}\" ,{gateways}\
             \"client_metadata\":{{\"a\":1}},\"store\":false,\"include\":[\"reasoning.encrypted_content\"],\
             \"tools\":[{{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{{\"type\":\"function\",\"name\":\"f\"}}]}}],\
             \"reasoning\":{{\"summary\":\"auto\"}},\"max_output_tokens\":1.0e2,\"temperature\":1.0e0,\
             \"seed\":12345678901234567890,\"stream_options\":null }}"
        )
    };
    let gateways = "\"session_label\":\"s\",\"mcp_servers\":null,\"api_key\":\"sk-evil\",\"user\":\"u\",\
                    \"organization\":\"o\",\"extra_headers\":{\"x-evil\":\"1\"},";

    gateway.post(&key, "/v1/responses?a=b", body("o:m", gateways)).await.expect(200);

    let seen = provider.only();
    assert_eq!(seen.text(), body("m", ""), "every other byte is the caller's");
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/responses"));
    assert_eq!(seen.header("x-evil"), None);
}

#[tokio::test]
async fn a_stream_is_asked_for_as_the_caller_does() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    let body = r#"{"model":"o:m","input":"hi","stream":true}"#;
    gateway.post(&key, "/v1/responses", body).await.expect(200);
    assert_eq!(provider.only().text(), r#"{"model":"m","input":"hi","stream":true}"#);
}

#[tokio::test]
async fn headers_are_those_of_the_providers_api() {
    let provider = Provider::start(|request| FORMAT.reply(request, &["ok"]));
    let start = both(Gateway::start(), &provider).config("require_pricing: false");
    let gateway = start.provider_of("groq", "g", &provider.base(), "").await;
    let key = gateway.key("u").await;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("openai-beta", "responses=v1"),
        ("openai-organization", "org-evil"),
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-version", "2026-10-21"),
        ("user-agent", "codex_exec/0"),
        ("originator", "codex_exec"),
        ("cookie", "a=b"),
    ];
    for model in ["o:m", "g:m"] {
        let body = FORMAT.ask_with(json!({"model": model, "client_metadata": {"a": 1}}));
        gateway.send(Method::POST, "/v1/responses", &headers, body.to_string()).await.expect(200);
    }
    let seen = provider.requests();
    for request in &seen {
        let sent = format!("Bearer {UPSTREAM_KEY}");
        assert_eq!(request.header("authorization"), Some(sent.as_str()));
        for name in [
            "x-api-key",
            "anthropic-beta",
            "anthropic-version",
            "openai-organization",
            "cookie",
            "originator",
        ] {
            assert_eq!(request.header(name), None, "`{name}` must not reach the provider");
        }
        assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("otari/")));
        assert!(!format!("{:?}", request.headers).contains(&key), "{:?}", request.headers);
    }
    // What is OpenAI's own goes to OpenAI alone.
    assert_eq!(seen[0].header("openai-beta"), Some("responses=v1"));
    assert_eq!(seen[0].json()["client_metadata"], json!({"a": 1}));
    assert_eq!(
        (seen[1].header("openai-beta"), seen[1].json().get("client_metadata")),
        (None, None)
    );
}

#[tokio::test]
async fn a_socket_is_not_offered() {
    let (provider, gateway, _) = served(Gateway::start()).await;
    for path in ["/v1/responses", "/api/v1/responses", "/v1/responses/", "/responses"] {
        let socket = format!(
            "GET {path} HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        );
        assert_eq!(gateway.raw(&socket, b"").await.status, 426, "{path}");
        let answer = gateway.get(path).await;
        answer.refused_for_good(405);
        assert_eq!(answer.header("allow"), Some("POST"), "{path}");
    }
    assert_eq!(provider.count(), 0);
}

/// A provider that reports the request's `report`.
fn echo() -> Provider {
    Provider::start(|request| {
        let asked = request.json();
        let done = response("completed", json!([]), asked["report"].clone());
        if asked["stream"] != json!(true) {
            return Reply::json(200, &done);
        }
        let begun = response("in_progress", json!([]), Value::Null);
        let events = numbered(vec![
            json!({"type": "response.created", "response": begun}),
            json!({"type": "response.completed", "response": done}),
        ]);
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    })
}

async fn cached_tokens_are_billed_at_their_rate(start: Builder) {
    let provider = echo();
    let gateway = start.provider_of("openai", "o", &provider.base(), "").await;
    let key = gateway.key("u").await;
    let price = json!({"model_key": "o:m", "input_price_per_million": 3, "output_price_per_million": 15,
        "cache_read_price_per_million": 0.3});
    gateway.manage(Method::POST, "/v1/pricing", price).await;
    let report = json!({"input_tokens": 1340, "input_tokens_details": {"cached_tokens": 1000},
        "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 1350});
    // Fresh 340, read 1000, out 10 with its reasoning.
    let cost = 1020 + 300 + 150;
    for (rows, stream) in [false, true].into_iter().enumerate() {
        let body = FORMAT.ask_with(json!({"report": report, "stream": stream}));
        FORMAT.call(&gateway, &key, &body).await.expect(200);
        let row = gateway.usage(rows + 1).await.remove(0);
        let tokens = ["prompt_tokens", "completion_tokens", "total_tokens", "cache_read_tokens"]
            .map(|name| row[name].clone());
        assert_eq!(tokens, [1340, 10, 1350, 1000].map(|count| json!(count)), "{row}");
        assert_eq!(row["cost"], json!(f64::from(cost) / 1e6), "stream: {stream}: {row}");
        assert_eq!(row["endpoint"], "/v1/responses");
    }
    assert_eq!(gateway.settled("u").await, f64::from(2 * cost) / 1e6);
}

/// Codex and others stop at a length: that is an answer, with its usage.
async fn an_incomplete_response_is_a_success_and_a_failed_one_is_none(start: Builder) {
    let provider = Provider::start(|request| {
        let status = request.json()["ending"].as_str().unwrap_or_default().to_owned();
        let usage = json!({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15});
        let begun = response("in_progress", json!([]), Value::Null);
        let ended = response(&status, json!([]), usage);
        let events = numbered(vec![
            json!({"type": "response.created", "response": begun}),
            json!({"type": format!("response.{status}"), "response": ended}),
        ]);
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    for (rows, (ending, status)) in
        [("incomplete", "success"), ("failed", "error")].into_iter().enumerate()
    {
        let body = FORMAT.ask_with(json!({"stream": true, "ending": ending}));
        let answer = FORMAT.call(&gateway, &key, &body).await.expect(200);
        assert!(answer.text().contains(&format!("event: response.{ending}\n")));
        assert_eq!(answer.text().matches("event: ").count(), 2, "one end: {}", answer.text());
        let row = gateway.usage(rows + 1).await.remove(0);
        assert_eq!((&row["status"], &row["cost"]), (&json!(status), &json!(0.02)), "{row}");
    }
}

on_both_databases!(
    cached_tokens_are_billed_at_their_rate,
    an_incomplete_response_is_a_success_and_a_failed_one_is_none,
);
