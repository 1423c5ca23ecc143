//! The official Anthropic SDKs, and the OpenAI SDKs' responses, as people run them, through the gateway.

use serde_json::{Value, json};

use crate::support::COST;
use crate::support::format::{self, Format, both, message, message_stream, response};
use crate::support::gateway::Gateway;
use crate::support::provider::{Provider, Reply, Request, Step, USAGE};
use crate::support::sdk::Sdk;

const SDKS: [Sdk; 2] = [Sdk::Python, Sdk::Node];
const SCRIPTS: [(&str, &str); 2] = [("anthropic_messages", "a:m"), ("openai_responses", "o:m")];

/// A provider that says hello, and calls `weather` when it is offered tools.
fn assistant() -> Provider {
    Provider::start(|request| {
        let format = format::of(request);
        let asked = request.json();
        if !asked["tools"].is_array() {
            return format.reply(request, &["Hel", "lo"]);
        }
        match format {
            Format::Messages => message_with_a_call(request),
            Format::Responses => {
                let call = json!({"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1",
                                  "name": "weather", "arguments": "{\"city\":\"Bern\"}"});
                let usage = format.whole("")["usage"].clone();
                Reply::json(200, &response("completed", json!([call]), usage))
            }
        }
    })
}

fn message_with_a_call(request: &Request) -> Reply {
    let call = |input: Value| json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": input});
    if request.json()["stream"] != json!(true) {
        return Reply::json(200, &message(json!([call(json!({"city": "Bern"}))]), "tool_use"));
    }
    let part = |text: &str| json!({"type": "input_json_delta", "partial_json": text});
    let deltas = vec![part(""), part("{\"city\":"), part("\"Bern\"}")];
    let events = message_stream(&call(json!({})), deltas, "tool_use");
    Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anthropics_sdks_talk_through_the_gateway() {
    let provider = assistant();
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let spent = json!([USAGE.0, USAGE.1]);
    let call = json!({"id": "toolu_1", "name": "weather", "input": {"city": "Bern"}, "finish": "tool_use"});
    let mut rows = 0;
    for sdk in SDKS {
        let root = if sdk == Sdk::Python { "" } else { "/api" };
        let run = |what| sdk.run("anthropic_messages", &[what, &gateway.url(root), &key, "a:m"]);
        // As an API key, as a token, and as older versions send it.
        for how in ["plain", "with_token", "with_header"] {
            let plain = run(how);
            let seen = (&plain["text"], &plain["usage"], &plain["finish"]);
            assert_eq!(
                seen,
                (&json!("Hello"), &spent, &json!("end_turn")),
                "{sdk:?} {how}: {plain}"
            );
            rows += 1;
            assert_eq!(plain["request_id"], gateway.usage(rows).await[0]["request_group_id"]);
        }
        let stream = run("stream");
        let seen = (&stream["text"], &stream["usage"], &stream["finish"]);
        assert_eq!(seen, (&json!("Hello"), &spent, &json!("end_turn")), "{sdk:?}: {stream}");
        assert_eq!(run("raw_stream"), json!({"first": "message_start", "last": "message_stop"}));
        assert_eq!(run("tool"), call, "{sdk:?}");
        assert_eq!(run("tool_stream"), call, "{sdk:?}");
        assert_eq!(run("tool_result")["text"], "Hello", "{sdk:?}");
        assert_eq!(run("count"), 12, "{sdk:?}");
        rows += 5;
        // They close the connection at the last event: that is a success, with its row.
        for row in gateway.usage(rows).await {
            let seen = (&row["status"], &row["cost"], &row["endpoint"]);
            assert_eq!(seen, (&json!("success"), &json!(COST), &json!("/v1/messages")), "{row}");
        }
    }
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openais_sdks_get_responses_through_the_gateway() {
    let provider = assistant();
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let spent = json!([USAGE.0, USAGE.1, USAGE.0 + USAGE.1]);
    let mut rows = 0;
    for sdk in SDKS {
        let root = if sdk == Sdk::Python { "/v1" } else { "/api/v1" };
        let run = |what| sdk.run("openai_responses", &[what, &gateway.url(root), &key, "o:m"]);
        for how in ["plain", "stream", "helped_stream"] {
            let done = run(how);
            let seen = (&done["text"], &done["usage"], &done["finish"]);
            assert_eq!(
                seen,
                (&json!("Hello"), &spent, &json!("completed")),
                "{sdk:?} {how}: {done}"
            );
        }
        let call = json!({"id": "call_1", "name": "weather", "input": {"city": "Bern"}});
        assert_eq!(run("tool"), call, "{sdk:?}");
        rows += 4;
        for row in gateway.usage(rows).await {
            let seen = (&row["status"], &row["cost"], &row["endpoint"]);
            assert_eq!(seen, (&json!("success"), &json!(COST), &json!("/v1/responses")), "{row}");
        }
    }
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_arrive_as_the_right_exception_with_a_sentence() {
    let provider = assistant();
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let nothing = gateway.budget(0.0).await;
    gateway.user("poor", Some(&nothing)).await;
    let poor = gateway.key("poor").await;
    // OpenAI's have no class of their own for 402 and fall back to their base class.
    for (script, model) in SCRIPTS {
        let is_anthropic = script == "anthropic_messages";
        let base = gateway.url(if is_anthropic { "" } else { "/v1" });
        let unpriced = model.replace(":m", ":unpriced");
        for (key, model, class, status, kind, words) in [
            (
                "gw-nobody",
                model,
                "AuthenticationError",
                401,
                "authentication_error",
                "Invalid API key",
            ),
            (
                &poor,
                model,
                "PermissionDeniedError",
                403,
                "permission_error",
                "has exceeded budget limit",
            ),
            (
                &key,
                &unpriced,
                "PaymentRequiredError",
                402,
                "invalid_request_error",
                "No pricing configured",
            ),
            (&key, "", "BadRequestError", 400, "invalid_request_error", "model is required"),
        ] {
            for sdk in SDKS {
                let seen = sdk.run(script, &["error", &base, key, model]);
                let class = match (class, sdk, is_anthropic) {
                    ("PaymentRequiredError", Sdk::Python, false) => "APIStatusError",
                    ("PaymentRequiredError", Sdk::Node, false) => "APIError",
                    _ => class,
                };
                let what = format!("{sdk:?} {script}: {seen}");
                assert_eq!(
                    (&seen["class"], &seen["status"]),
                    (&json!(class), &json!(status)),
                    "{what}"
                );
                assert!(seen["message"].to_string().contains(words), "shows no reason: {what}");
                assert!(seen["request_id"].is_string(), "can quote no id: {what}");
                if is_anthropic {
                    assert_eq!(seen["type"], kind, "{what}");
                }
            }
        }
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_is_an_exception_not_a_short_answer() {
    let provider = Provider::start(|request| {
        format::of(request).reply(request, &["Hel", "lo"]).before(5, Step::CutNow)
    });
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for (script, model) in SCRIPTS {
        let base = gateway.url(if script == "anthropic_messages" { "" } else { "/v1" });
        for sdk in SDKS {
            let seen = sdk.run(script, &["error_stream", &base, &key, model]);
            assert!(seen["class"].is_string(), "{sdk:?} took a cut for the end: {seen}");
            assert_eq!(seen["text"], "Hello", "{sdk:?} {script}: {seen}");
        }
    }
}
