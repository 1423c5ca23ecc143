//! The official OpenAI SDKs, as people run them, through the gateway.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::provider::{Provider, Reply, Request, Step, USAGE, chunk, completion, usage};
use crate::support::sdk::Sdk;
use crate::support::{COST, priced};

const BOTH: [Sdk; 2] = [Sdk::Python, Sdk::Node];

/// A provider that says hello, and calls `weather` when it is offered tools.
fn assistant() -> Provider {
    Provider::start(|request| {
        let asked = request.json();
        match (asked["tools"].is_array(), asked["stream"] == json!(true)) {
            (false, _) => Reply::chat(request, &["Hel", "lo"]),
            (true, false) => {
                let mut body = completion("");
                let function = json!({"name": "weather", "arguments": "{\"city\":\"Bern\"}"});
                body["choices"][0]["message"]["content"] = Value::Null;
                body["choices"][0]["message"]["tool_calls"] =
                    json!([{"id": "call_1", "type": "function", "function": function}]);
                body["choices"][0]["finish_reason"] = json!("tool_calls");
                Reply::json(200, &body)
            }
            (true, true) => streamed_tool_call(request),
        }
    })
}

fn streamed_tool_call(request: &Request) -> Reply {
    let call = |call: Value| {
        let delta = json!({"role": "assistant", "tool_calls": [call]});
        json!([{"index": 0, "delta": delta, "finish_reason": null}])
    };
    let start = json!({"index": 0, "id": "call_1", "type": "function",
                       "function": {"name": "weather", "arguments": ""}});
    let part = |text: &str| json!({"index": 0, "function": {"arguments": text}});
    let end = json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]);
    let choices = [call(start), call(part("{\"city\":")), call(part("\"Bern\"}")), end];
    let mut events: Vec<String> = choices.into_iter().map(|choices| chunk(choices, None)).collect();
    if request.json()["stream_options"]["include_usage"] == json!(true) {
        events.push(chunk(json!([]), Some(usage())));
    }
    events.push("data: [DONE]\n\n".into());
    Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
}

/// What each SDK must report of the assistant at `base`; returns how many calls were made.
fn conversation(sdk: Sdk, base: &str, key: &str, model: &str) -> usize {
    let run = |what| sdk.run("openai_chat", &[what, base, key, model]);
    let spent = json!([USAGE.0, USAGE.1, USAGE.0 + USAGE.1]);
    let call = json!({"id": "call_1", "name": "weather", "arguments": "{\"city\":\"Bern\"}"});

    let plain = run("plain");
    assert_eq!((&plain["text"], &plain["usage"]), (&json!("Hello"), &spent), "{sdk:?}: {plain}");
    let stream = run("stream");
    assert_eq!(
        (&stream["text"], &stream["finish"]),
        (&json!("Hello"), &json!("stop")),
        "{sdk:?}: {stream}"
    );
    assert_eq!(stream["usage"], Value::Null, "{sdk:?} did not ask for usage: {stream}");
    let with_usage = run("stream_usage");
    assert_eq!(with_usage["usage"], spent, "{sdk:?} asked for usage: {with_usage}");
    assert_eq!(run("tool"), call, "{sdk:?}");
    let streamed = run("tool_stream");
    for part in ["id", "name", "arguments"] {
        assert_eq!(streamed[part], call[part], "{sdk:?}: {streamed}");
    }
    assert_eq!(streamed["finish"], "tool_calls", "{sdk:?}: {streamed}");
    5
}

#[test]
fn the_scripts_work_without_a_gateway() {
    let provider = assistant();
    for sdk in BOTH {
        conversation(sdk, &provider.base(), "sk-any", "m");
    }
    let broken = Provider::answers(401, json!({"error": {"message": "who are you", "code": null}}));
    let silent = Provider::cuts_after(2);
    for sdk in BOTH {
        let seen = sdk.run("openai_chat", &["error", &broken.base(), "sk-any", "m"]);
        assert_eq!(
            (&seen["class"], &seen["status"]),
            (&json!("AuthenticationError"), &json!(401)),
            "{seen}"
        );
        assert!(seen["message"].to_string().contains("who are you"), "{seen}");
        let seen = sdk.run("openai_chat", &["error_stream", &silent.base(), "sk-any", "m"]);
        assert_eq!(seen["text"], "Hello ", "what came before the cut: {seen}");
        assert!(seen["class"].is_string(), "a cut is an error to {sdk:?}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_talk_through_the_gateway() {
    let provider = assistant();
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let mut calls = 0;
    for sdk in BOTH {
        for root in ["/v1", "/api/v1"] {
            calls += conversation(sdk, &gateway.url(root), &key, "p:m");
            // Python closes its connection at [DONE]: that is a success, with its row.
            for row in gateway.usage(calls).await {
                assert_eq!(
                    (&row["status"], &row["cost"]),
                    (&json!("success"), &json!(COST)),
                    "{sdk:?}: {row}"
                );
            }
        }
    }
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_see_the_request_id_of_the_row() {
    let provider = assistant();
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for (before, sdk) in BOTH.into_iter().enumerate() {
        let seen = sdk.run("openai_chat", &["plain", &gateway.url("/v1"), &key, "p:m"]);
        assert_eq!(
            seen["request_id"],
            gateway.usage(before + 1).await[0]["request_group_id"],
            "{sdk:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_arrive_as_the_right_exception_with_a_sentence() {
    let provider = assistant();
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let nothing = gateway.budget(0.0).await;
    gateway.user("poor", Some(&nothing)).await;
    let poor = gateway.key("poor").await;
    for (key, model, class, status, words) in [
        ("gw-nobody", "p:m", "AuthenticationError", 401, "API key"),
        (&poor, "p:m", "PermissionDeniedError", 403, "has exceeded budget limit"),
        (&key, "p:unpriced", "APIStatusError", 402, "p:unpriced"),
        (&key, "", "BadRequestError", 400, "model is required"),
    ] {
        for sdk in BOTH {
            let seen = sdk.run("openai_chat", &["error", &gateway.url("/v1"), key, model]);
            // Node has no class of its own for 402; both fall back to their base class.
            let class = if status == 402 && sdk == Sdk::Node { "APIError" } else { class };
            assert_eq!(
                (&seen["class"], &seen["status"]),
                (&json!(class), &json!(status)),
                "{sdk:?}: {seen}"
            );
            assert!(seen["message"].to_string().contains(words), "{sdk:?} shows no reason: {seen}");
            assert!(seen["request_id"].is_string(), "{sdk:?} can quote no id: {seen}");
        }
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_refusal_arrives_as_the_right_exception() {
    let provider = Provider::start(|request| {
        let model = request.json()["model"].as_str().unwrap_or_default().to_owned();
        let status = model.trim_start_matches('m').parse().unwrap_or(200);
        let error = json!({"error": {"message": "not known here", "type": "t", "param": null, "code": null}});
        Reply::json(status, &error).header("Retry-After", "0")
    });
    let gateway =
        (Gateway::start().provider("p", &provider)).config("require_pricing: false").await;
    let key = gateway.key("u").await;
    for (upstream, class, status) in [
        (404, "NotFoundError", 404),
        (422, "BadRequestError", 400),
        (429, "RateLimitError", 429),
        (500, "InternalServerError", 502),
    ] {
        for sdk in BOTH {
            let model = format!("p:m{upstream}");
            let seen = sdk.run("openai_chat", &["error", &gateway.url("/v1"), &key, &model]);
            assert_eq!(
                (&seen["class"], &seen["status"]),
                (&json!(class), &json!(status)),
                "{sdk:?}: {seen}"
            );
            assert!(!seen["message"].to_string().contains("{"), "a sentence, not JSON: {seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_refusal_is_not_asked_again() {
    let provider = assistant();
    let gateway = priced(Gateway::start().config("enable_metrics: true"), &provider).await;
    let key = gateway.key("u").await;
    gateway.manage(Method::PATCH, "/v1/users/u", json!({"blocked": true})).await;
    for (asked, sdk) in BOTH.into_iter().enumerate() {
        sdk.run("openai_chat", &["error", &gateway.url("/v1"), &key, "p:m"]);
        let metrics = gateway.get("/metrics").await.text();
        let line = format!(
            "gateway_requests_total{{endpoint=\"/v1/chat/completions\",method=\"POST\",status=\"403\"}} {}",
            asked + 1
        );
        assert!(metrics.contains(&line), "{sdk:?} repeated a refusal that stands:\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_is_an_exception_not_a_short_answer() {
    let provider = Provider::cuts_after(2);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for sdk in BOTH {
        let seen = sdk.run("openai_chat", &["error_stream", &gateway.url("/v1"), &key, "p:m"]);
        assert!(seen["class"].is_string(), "{sdk:?} took a cut for the end: {seen}");
        assert_eq!(seen["text"], "Hello ", "{sdk:?}: {seen}");
    }
}
