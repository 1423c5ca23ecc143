//! Callers of every API before providers of another one: what reaches the provider, what comes back, what is recorded.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::format::{self, Format};
use crate::support::gateway::{Answer, Builder, Gateway, UPSTREAM_KEY};
use crate::support::platform::{Platform, USER_TOKEN};
use crate::support::provider::{Gate, Provider, Reply, Request, Step, USAGE};
use crate::support::{COST, on_both_databases};

/// The APIs that callers speak: route, and a request for `model`.
const ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];
/// The providers of [`gateway`]: one of each API.
const PROVIDERS: [&str; 3] = ["c", "a", "g"];

/// A request by `route`.
fn ask(route: &str, model: &str, stream: bool) -> Value {
    let turns = json!([{"role": "user", "content": "hi"}]);
    match route {
        "/v1/messages" => {
            json!({"model": model, "max_tokens": 100, "messages": turns, "stream": stream})
        }
        "/v1/responses" => json!({"model": model, "input": turns, "stream": stream}),
        _ => json!({"model": model, "messages": turns, "stream": stream}),
    }
}

/// A chat provider `c` (without the Responses API), Anthropic `a`, Gemini `g`; their model `m` costs [`COST`] an answer.
fn before(start: Builder, provider: &Provider) -> Builder {
    let (base, origin) = (provider.base(), provider.base().replace("/v1", ""));
    start
        .provider_of("deepinfra", "c", &base, "")
        .provider_of("anthropic", "a", &base, "")
        .provider_of("gemini", "g", &origin, "")
        .price("c:m", 1000.0, 2000.0)
        .price("a:m", 1000.0, 2000.0)
        .price("g:m", 1000.0, 2000.0)
}

fn gemini(text: &str, stop: Value, usage: bool) -> Value {
    let mut answer = json!({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]},
        "finishReason": stop, "index": 0}], "modelVersion": "m-2026", "responseId": "g-1"});
    if usage {
        answer["usageMetadata"] = json!({"promptTokenCount": USAGE.0, "candidatesTokenCount": USAGE.1,
            "totalTokenCount": USAGE.0 + USAGE.1});
    }
    answer
}

/// The answer of whichever provider `request` is meant for.
fn answer(request: &Request, pieces: &[&str]) -> Reply {
    if !request.path.contains("/v1beta/") {
        return match request.path.as_str() {
            "/v1/messages" => Format::Messages.reply(request, pieces),
            _ => Reply::chat(request, pieces),
        };
    }
    if request.path.contains(":generateContent") {
        return Reply::json(200, &gemini(&pieces.concat(), json!("STOP"), true));
    }
    let (last, first) = pieces.split_last().expect("pieces");
    let mut frames: Vec<Value> =
        first.iter().map(|piece| gemini(piece, Value::Null, false)).collect();
    frames.push(gemini(last, json!("STOP"), true));
    Reply::events(frames.iter().map(|frame| Step::Send(format!("data: {frame}\r\n\r\n").into())))
}

/// The text of a whole answer.
fn text_of(route: &str, answer: &Value) -> String {
    let text = match route {
        "/v1/messages" => &answer["content"][0]["text"],
        "/v1/responses" => &answer["output"][0]["content"][0]["text"],
        _ => &answer["choices"][0]["message"]["content"],
    };
    text.as_str().unwrap_or_else(|| panic!("no text: {answer}")).to_owned()
}

/// The data of a stream's events; `[DONE]` as a text.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
}

/// The text of a stream.
fn streamed(route: &str, stream: &str) -> String {
    let piece = |event: &Value| {
        let text = match route {
            "/v1/messages" => &event["delta"]["text"],
            "/v1/responses" if event["type"] == "response.output_text.delta" => &event["delta"],
            "/v1/responses" => &Value::Null,
            _ => &event["choices"][0]["delta"]["content"],
        };
        text.as_str().unwrap_or_default().to_owned()
    };
    events(stream).iter().map(piece).collect()
}

/// Whether a stream ends as its API ends.
fn is_whole(route: &str, stream: &str) -> bool {
    let events = events(stream);
    match route {
        "/v1/messages" => events.last().is_some_and(|it| it["type"] == "message_stop"),
        "/v1/responses" => events.last().is_some_and(|it| it["type"] == "response.completed"),
        _ => events.last() == Some(&json!("[DONE]")),
    }
}

async fn every_api_is_answered_by_every_provider(start: Builder) {
    let provider = Provider::start(|request| answer(request, &["Hel", "lo ", "there"]));
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let mut rows = 0;
    for name in PROVIDERS {
        for route in ROUTES {
            for stream in [false, true] {
                let case = format!("{route} to {name}, stream: {stream}");
                let body = ask(route, &format!("{name}:m"), stream).to_string();
                let answer = gateway.post(&key, route, body).await.expect(200);
                let kind = answer.header("content-type").unwrap_or_default();
                if stream {
                    assert!(kind.starts_with("text/event-stream"), "{case}: {kind}");
                    assert_eq!(streamed(route, &answer.text()), "Hello there", "{case}");
                    assert!(is_whole(route, &answer.text()), "{case}: {}", answer.text());
                } else {
                    assert!(kind.starts_with("application/json"), "{case}: {kind}");
                    assert_eq!(text_of(route, &answer.json()), "Hello there", "{case}");
                }
                assert_eq!(answer.header("otari-provider"), Some(name), "{case}");
                rows += 1;
                let row = gateway.usage(rows).await.remove(0);
                let facts = json!([row["endpoint"], row["provider"], row["model"], row["status"]]);
                assert_eq!(facts, json!([route, name, "m", "success"]), "{case}");
                let tokens = json!([row["prompt_tokens"], row["completion_tokens"], row["cost"]]);
                assert_eq!(tokens, json!([USAGE.0, USAGE.1, COST]), "{case}: {row}");
                let sent = provider.requests().pop().expect("a call");
                assert!(!sent.text().contains("\"user\":\"u\""), "{case}: {}", sent.text());
            }
        }
    }
}

#[tokio::test]
async fn a_provider_sees_its_own_api_and_its_own_credential() {
    let provider = Provider::start(|request| answer(request, &["ok"]));
    let gateway = before(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let body = json!({"model": "a:m", "stop": "END", "logit_bias": {"1": 2}, "x_new": 1,
        "session_label": "s", "api_base": "http://evil.example", "extra_headers": {"a": "b"},
        "messages": [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": "hi"}]});
    let answer = gateway.chat(&key, &body).await.expect(200);
    let sent = provider.requests().pop().expect("a call");
    assert_eq!((sent.method.as_str(), sent.path.as_str()), ("POST", "/v1/messages"));
    assert_eq!(sent.header("x-api-key"), Some(UPSTREAM_KEY));
    assert_eq!(sent.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(sent.header("authorization"), None);
    let want = json!({"model": "m", "max_tokens": 8192, "system": "Be brief", "stop_sequences": ["END"],
        "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(sent.json(), want);
    let dropped = answer.header("x-otari-dropped-params").unwrap_or_default();
    assert_eq!(dropped, "x_new, logit_bias", "what was asked and cannot be had is named");

    let body = json!({"model": "g:m", "input": "hi", "max_output_tokens": 7});
    let answer = gateway.post(&key, "/v1/responses", body.to_string()).await.expect(200);
    assert_eq!(answer.header("x-otari-dropped-params"), None);
    let sent = provider.requests().pop().expect("a call");
    assert_eq!(sent.path, "/v1beta/models/m:generateContent");
    assert_eq!(sent.header("x-goog-api-key"), Some(UPSTREAM_KEY));
    assert_eq!(sent.json()["generationConfig"]["maxOutputTokens"], 7);
}

#[tokio::test]
async fn a_model_cannot_steer_where_the_credential_goes() {
    let provider = Provider::start(|request| answer(request, &["ok"]));
    let gateway = before(Gateway::start(), &provider).config("require_pricing: false").await;
    let key = gateway.key("u").await;
    for evil in ["../../admin", "m:x?key=1", "a/../b#c", "m%2f..%2f.."] {
        let answer = gateway.chat(&key, &ask("", &format!("g:{evil}"), false)).await;
        if answer.status == 200 {
            let sent = provider.requests().pop().expect("a call");
            let tail = sent.path.strip_prefix("/v1beta/models/").expect("within the models");
            assert!(
                tail.ends_with(":generateContent") && !tail.contains(['/', '?', '#']),
                "{tail}"
            );
        }
    }
    for nothing in ["..", "."] {
        let refused = gateway.chat(&key, &ask("", &format!("g:{nothing}"), false)).await;
        assert_eq!(refused.refused(400)["error"]["code"], "model_not_found");
    }
}

/// The counts that the caller's API has no field for are billed all the same.
async fn costs_come_from_the_providers_own_counts(start: Builder) {
    let provider = Provider::start(|request| {
        let mut message = format::message(json!([{"type": "text", "text": "ok"}]), "end_turn");
        message["usage"] = json!({"input_tokens": 340, "output_tokens": 10,
            "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 240,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 40}});
        if request.json()["stream"] != json!(true) {
            return Reply::json(200, &message);
        }
        let (usage, delta) = (message["usage"].take(), json!({"type": "text_delta", "text": "ok"}));
        let block = json!({"type": "text", "text": ""});
        let mut events = format::message_stream(&block, vec![delta], "end_turn");
        let mut start: Value =
            serde_json::from_str(&events[0][events[0].find('{').unwrap()..]).unwrap();
        start["message"]["usage"] = usage;
        start["message"]["usage"]["output_tokens"] = json!(1);
        events[0] = format::event(&start);
        let at = events.len() - 2;
        events[at] = format::event(&json!({"type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 10}}));
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let gateway = start.provider_of("anthropic", "a", &provider.base(), "").await;
    let key = gateway.key("u").await;
    let price = json!({"model_key": "a:m", "input_price_per_million": 3, "output_price_per_million": 15,
        "cache_read_price_per_million": 0.3, "cache_write_price_per_million": 3.75,
        "cache_write_1h_price_per_million": 6});
    gateway.manage(Method::POST, "/v1/pricing", price).await;
    for (at, (route, stream)) in [
        ("/v1/chat/completions", false),
        ("/v1/chat/completions", true),
        ("/v1/responses", false),
        ("/v1/responses", true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = ask(route, "a:m", stream);
        if route == ROUTES[0] && stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        let answer = gateway.post(&key, route, body.to_string()).await.expect(200);
        assert!(answer.text().contains("1580"), "the whole prompt is told: {}", answer.text());
        let row = gateway.usage(at + 1).await.remove(0);
        let tokens =
            ["prompt_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"]
                .map(|name| row[name].clone());
        assert_eq!(tokens, [1580, 1000, 200, 40].map(|count| json!(count)), "{route} {row}");
        assert_eq!(row["cost"], json!(0.00246), "{route}, stream: {stream}: {row}");
    }
}

#[tokio::test]
async fn usage_is_shown_to_those_who_ask_for_it() {
    let provider = Provider::start(|request| answer(request, &["ok"]));
    let gateway = before(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for name in ["a", "g"] {
        let mut body = ask(ROUTES[0], &format!("{name}:m"), true);
        let hidden = gateway.chat(&key, &body).await.expect(200).text();
        assert!(!hidden.contains("usage"), "{name}: {hidden}");
        body["stream_options"] = json!({"include_usage": true});
        let shown = events(&gateway.chat(&key, &body).await.expect(200).text());
        let chunk = &shown[shown.len() - 2];
        assert_eq!(chunk["choices"], json!([]), "{chunk}");
        assert_eq!(chunk["usage"]["total_tokens"], USAGE.0 + USAGE.1, "{chunk}");
    }
}

#[tokio::test]
async fn an_alias_is_shown_in_the_place_of_the_model() {
    let provider = Provider::start(|request| answer(request, &["ok"]));
    let gateway = before(Gateway::start(), &provider).config("aliases: {swift: \"g:m\"}").await;
    let key = gateway.key("u").await;
    for route in ROUTES {
        for stream in [false, true] {
            let body = ask(route, "swift", stream).to_string();
            let text = gateway.post(&key, route, body).await.expect(200).text();
            assert!(text.contains(r#""model":"swift""#), "{route}: {text}");
            assert!(!text.contains("m-2026"), "{route}: {text}");
        }
    }
}

/// A provider's refusal, in its own shape, as a caller of each API sees it.
#[tokio::test]
async fn a_providers_refusal_is_told_in_the_callers_words() {
    let provider = Provider::start(|request| {
        let (status, body) = match request.path.as_str() {
            "/v1/messages" => (
                429,
                json!({"type": "error",
                "error": {"type": "rate_limit_error", "message": "slow down"}}),
            ),
            _ => (
                400,
                json!({"error": {"code": 400, "message": "temperature is too high",
                "status": "INVALID_ARGUMENT"}}),
            ),
        };
        Reply::json(status, &body).header("retry-after", "3")
    });
    let gateway = before(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for route in ROUTES {
        let body = ask(route, "g:m", false).to_string();
        let refused = gateway.post(&key, route, body).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains("temperature is too high"), "{}", refused.text());
    }
    for route in [ROUTES[0], ROUTES[2]] {
        let refused = gateway.post(&key, route, ask(route, "a:m", true).to_string()).await;
        refused.refused(429);
        assert_eq!(refused.header("retry-after"), Some("3"));
    }
}

fn failing(request: &Request, text: &str) -> Reply {
    let mut steps = vec![];
    if request.path == "/v1/messages" {
        let events = Format::Messages.events(&[text]);
        if !text.is_empty() {
            steps.extend(events[..4].iter().map(|event| Step::Send(event.clone().into())));
        }
        steps.push(Step::Send(Format::Messages.failure().into()));
    } else {
        if !text.is_empty() {
            let frame = gemini(text, Value::Null, false);
            steps.push(Step::Send(format!("data: {frame}\n\n").into()));
        }
        let error =
            json!({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}});
        steps.push(Step::Send(format!("data: {error}\n\n").into()));
    }
    Reply::events(steps)
}

async fn a_failure_in_a_stream_ends_it_in_the_callers_dialect(start: Builder) {
    let provider = Provider::start(|request| failing(request, "half"));
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let mut rows = 0;
    for (name, route) in
        [("a", ROUTES[0]), ("a", ROUTES[2]), ("g", ROUTES[0]), ("g", ROUTES[1]), ("g", ROUTES[2])]
    {
        let body = ask(route, &format!("{name}:m"), true).to_string();
        let answer = gateway.post(&key, route, body).await.expect(200).text();
        assert_eq!(streamed(route, &answer), "half", "{name} {route}: {answer}");
        assert!(!is_whole(route, &answer.replace("data: [DONE]\n", "")), "{answer}");
        assert!(answer.contains("An error occurred during streaming"), "{answer}");
        rows += 1;
        let row = gateway.usage(rows).await.remove(0);
        let facts = json!([row["status"], row["status_code"], row["error_message"]]);
        assert_eq!(facts, json!(["error", 502, "provider_error_event"]), "{name} {route}: {row}");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_is_told_from_one_that_is_whole() {
    let provider = Provider::start(|request| match request.path.as_str() {
        "/v1/messages" => {
            let events = Format::Messages.events(&["half"]);
            let mut steps: Vec<_> =
                events[..4].iter().map(|it| Step::Send(it.clone().into())).collect();
            steps.push(Step::CutNow);
            Reply::events(steps)
        }
        _ => {
            let frame = gemini("half", Value::Null, false);
            Reply::events([Step::Send(format!("data: {frame}\n\n").into())])
        }
    });
    let gateway = before(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for (rows, (name, route)) in
        [("a", ROUTES[0]), ("g", ROUTES[1]), ("g", ROUTES[2])].into_iter().enumerate()
    {
        let body = ask(route, &format!("{name}:m"), true).to_string();
        let answer = gateway.post(&key, route, body).await.expect(200).text();
        assert_eq!(streamed(route, &answer), "half", "{answer}");
        assert!(answer.contains("An error occurred during streaming"), "{answer}");
        let row = gateway.usage(rows + 1).await.remove(0);
        assert_eq!(row["status"], "error", "{row}");
    }
}

/// What fails before anything was said is followed by the next target, whatever that one speaks.
#[tokio::test]
async fn targets_of_several_formats_follow_one_another() {
    let provider = Provider::start(|request| match request.path.as_str() {
        "/v1/messages" => failing(request, ""),
        path if path.contains("/v1beta/") => Reply::json(500, &json!({"error": {"message": "no"}})),
        _ => answer(request, &["at ", "last"]),
    });
    let routing = "routing: {policies: {any: {select: [{default: \"a:m\"}], on_failure: [\"g:m\", \"c:m\"]}}}";
    let gateway = before(Gateway::start(), &provider)
        .config(routing)
        .config("circuit_breaker_failures: 0")
        .await;
    let key = gateway.key("u").await;
    for (at, route) in ROUTES.into_iter().enumerate() {
        let body = ask(route, "any", true).to_string();
        let answer = gateway.post(&key, route, body).await.expect(200).text();
        assert_eq!(streamed(route, &answer), "at last", "{route}: {answer}");
        assert!(is_whole(route, &answer), "{answer}");
        let rows = gateway.usage(3 * (at + 1)).await;
        let facts: Vec<_> =
            rows[..3].iter().map(|row| json!([row["provider"], row["status"]])).collect();
        let want = [json!(["c", "success"]), json!(["g", "absorbed"]), json!(["a", "absorbed"])];
        assert_eq!(facts, want, "{route}");
    }
}

#[tokio::test]
async fn what_a_provider_cannot_be_asked_is_refused_before_it_is() {
    let provider = Provider::start(|request| answer(request, &["ok"]));
    let gateway = before(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let mut stateful = ask(ROUTES[2], "a:m", false);
    stateful["previous_response_id"] = json!("resp_1");
    let refused = gateway.post(&key, ROUTES[2], stateful.to_string()).await;
    let refusal = refused.refused(400);
    let said = refusal["detail"].as_str().unwrap_or_default();
    assert!(said.contains("previous_response_id"), "{refusal}");
    let mut body = ask(ROUTES[0], "a:m", false);
    body["n"] = json!(2);
    gateway.chat(&key, &body).await.refused(400);
    assert_eq!(provider.count(), 0, "nobody was asked");
    let rows = gateway.usage(2).await;
    assert!(rows.iter().all(|row| row["cost"].is_null() && row["status"] == "error"), "{rows:?}");
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn a_caller_who_leaves_pays_for_what_was_made(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider =
        Provider::start(move |request| answer(request, &["twelve chars", "more"]).gated(1, &held));
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let body = ask(ROUTES[1], "g:m", true).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut stream = gateway.open(Method::POST, ROUTES[1], &headers, body).await;
    let mut seen = String::new();
    while !seen.contains("twelve") {
        let piece = stream.chunk().await.expect("a stream").expect("a piece");
        seen += &String::from_utf8_lossy(&piece);
    }
    drop(stream);
    let row = gateway.usage(1).await.remove(0);
    let facts = json!([row["error_message"], row["completion_tokens"], row["status_code"]]);
    assert_eq!(facts, json!(["client_disconnected", 3, 499]), "{row}");
    gate.open(10);
}

/// The cost goes into the caller's own events, whoever answered.
#[tokio::test]
async fn a_platform_is_told_and_says_what_it_cost() {
    let provider = Provider::start(|request| answer(request, &["Hel", "lo"]));
    let mut platform = Platform::start().await;
    platform.plan("claude-x", &[("anthropic", &provider)]);
    let gateway = Gateway::start().connected(&platform).await;
    for (at, (route, stream)) in
        ROUTES.into_iter().flat_map(|route| [(route, false), (route, true)]).enumerate()
    {
        let body = ask(route, "claude-x", stream).to_string();
        let answer: Answer = gateway.post(USER_TOKEN, route, body).await.expect(200);
        let text = answer.text();
        assert!(text.contains("cost_usd"), "{route}, stream: {stream}: {text}");
        let said = if stream { streamed(route, &text) } else { text_of(route, &answer.json()) };
        assert_eq!(said, "Hello", "{route}");
        let reports = platform.eventually_reports(at + 1).await;
        let report = reports[at].json();
        assert_eq!(report["status"], "success", "{report}");
        let usage = &report["usage"];
        let told = json!([usage["prompt_tokens"], usage["completion_tokens"]]);
        assert_eq!(told, json!([USAGE.0, USAGE.1]), "{route}: {report}");
    }
    platform.assert_clean();
}

on_both_databases!(
    every_api_is_answered_by_every_provider,
    costs_come_from_the_providers_own_counts,
    a_failure_in_a_stream_ends_it_in_the_callers_dialect,
    a_caller_who_leaves_pays_for_what_was_made,
);
