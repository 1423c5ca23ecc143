//! `/v1/search`: who may search with which tool, what it costs, and what it leaves.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::manage::names;
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, Step};

/// The key of every engine under test; it must never reach a caller, a row or a log.
const ENGINE_KEY: &str = "sk-engine-0123456789abcdef";

/// Answers as Exa does, for half a cent; what it does otherwise stands in the query.
fn exa() -> Provider {
    Provider::start(|request| match request.json()["query"].as_str() {
        Some("broken") => {
            Reply::json(500, &json!({"error": format!("key {ENGINE_KEY} is over its limit")}))
        }
        Some("refused") => Reply::json(401, &json!({"error": "who are you"})),
        Some("garbage") => Reply::bytes(200, "text/html", "<html>"),
        Some("slow") => Reply::silence(),
        Some("reset") => Reply::reset(),
        Some("late") => Reply::json(200, &json!({"results": []})).before(0, Step::Sleep(100)),
        _ => Reply::json(
            200,
            &json!({"requestId": "r", "results": [
                {"title": "Cats", "url": "https://cats.example/", "publishedDate": "2026-01-01", "text": "purr"},
                {"title": null, "url": "https://b.example/"}], "costDollars": {"total": 0.005}}),
        ),
    })
}

fn tools(start: Builder, engine: &Provider) -> Builder {
    let base = engine.base();
    start.config(&format!(
        "search_tools:\n  web: {{provider: exa, api_base: \"{base}\", api_key: {ENGINE_KEY}, timeout: 1, \
         options: {{type: fast}}}}\n  own: {{provider: searxng, api_base: \"{base}\"}}\n  bare: {{provider: exa, \
         api_base: \"{base}\"}}"
    ))
}

fn only(start: Builder, engine: &Provider) -> Builder {
    let base = engine.base();
    start.config(&format!(
        "search_tools: {{exa: {{api_base: \"{base}\", api_key: {ENGINE_KEY}, timeout: 1}}}}"
    ))
}

async fn a_search_is_sent_answered_and_billed_as_the_engine_says(start: Builder) {
    let engine = exa();
    let mut gateway = tools(start, &engine).price("exa:web", 9000.0, 0.0).await;
    let key = gateway.key("u").await;
    let body = json!({"query": "cats", "max_results": 2, "country": "de", "search_tool_name": "own",
        "search_domain_filter": ["-b.org"], "max_tokens_per_page": 50});
    let answer = gateway.post(&key, "/v1/search/web", body.to_string()).await.expect(200);
    assert_eq!(
        answer.json(),
        json!({"object": "search", "search_tool": "web", "results": [
            {"title": "Cats", "url": "https://cats.example/", "snippet": "purr", "date": "2026-01-01"},
            {"title": null, "url": "https://b.example/", "snippet": null, "date": null}]}),
        "the path wins over the body"
    );
    let sent = engine.only();
    assert_eq!((sent.method.as_str(), sent.path.as_str()), ("POST", "/v1/search"));
    assert_eq!(sent.header("x-api-key"), Some(ENGINE_KEY));
    assert_eq!(sent.header("authorization"), None, "nothing of the caller goes along");
    assert_eq!(
        sent.json(),
        json!({"query": "cats", "numResults": 2, "contents": {"text": {"maxCharacters": 200}},
            "excludeDomains": ["b.org"], "userLocation": "DE", "type": "fast"})
    );
    let row = gateway.usage(1).await.remove(0);
    assert_eq!(
        [&row["provider"], &row["model"], &row["endpoint"], &row["status"], &row["user_id"]],
        [&json!("exa"), &json!("web"), &json!("/v1/search"), &json!("success"), &json!("u")]
    );
    let tokens = [&row["prompt_tokens"], &row["completion_tokens"], &row["total_tokens"]];
    assert_eq!(tokens, [&json!(0); 3]);
    assert_eq!(row["cost"], 0.005, "the engine's word wins over the flat price");
    assert_eq!(gateway.settled("u").await, 0.005);
    gateway.kill9();
    gateway.restart().await;
    assert_eq!(gateway.usage(1).await[0]["id"], row["id"], "what was answered is not forgotten");
    assert_eq!(gateway.settled("u").await, 0.005);
    let models = gateway.read("/v1/models").await;
    assert_eq!(models["data"], json!([]), "a tool with a price is not a model");
    assert!(!gateway.log().contains(ENGINE_KEY), "{}", gateway.log());
}

async fn a_flat_price_is_held_and_a_budget_ends_it(start: Builder) {
    let engine = Provider::start(|request| {
        assert!(request.path.starts_with("/v1/search?q=x%20-site%3Ab.org&format=json&engines=a"));
        Reply::json(
            200,
            &json!({"results": [{"url": "https://b.org/", "title": "B"},
            {"url": "https://a.org/", "title": "A", "content": "c"}]}),
        )
    });
    let gateway = start
        .config(&format!(
            "search_tools: {{own: {{provider: searxng, api_base: \"{}\", api_key: g-1, options: {{engines: a}}}}}}",
            engine.base()
        ))
        .price("searxng:own", 5000.0, 0.0)
        .await;
    let budget = gateway.budget(0.0125).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let body = json!({"query": "x", "search_domain_filter": ["-b.org"]}).to_string();
    for _ in 0..2 {
        let found = gateway.post(&key, "/v1/search", body.clone()).await.expect(200).json();
        assert_eq!(found["results"][0]["url"], "https://a.org/", "{found}");
        assert_eq!(found["results"].as_array().unwrap().len(), 1);
    }
    let refusal = gateway.post(&key, "/v1/search", body).await.refused_for_good(403);
    assert!(refusal["error"]["code"] == "budget_exceeded", "{refusal}");
    assert_eq!(engine.count(), 2, "what cannot be paid is not searched");
    assert_eq!(engine.requests()[0].header("x-gateway-token"), Some("g-1"));
    assert_eq!(gateway.settled("u").await, 0.01);
    let rows = gateway.usage(2).await;
    assert!(rows.iter().all(|row| row["cost"] == 0.005), "{rows:?}");
}

async fn a_tool_is_found_or_the_caller_is_told_which_there_are(start: Builder) {
    let engine = exa();
    let gateway = tools(start, &engine).await;
    let key = gateway.key("u").await;
    let several = "Several search tools are configured; name one in 'search_tool_name' or use POST /v1/search/{tool}. \
                   Available: web, own, bare.";
    for (path, body, detail) in [
        ("/v1/search", json!({"query": "x"}), several),
        (
            "/v1/search",
            json!({"query": "x", "search_tool_name": "none"}),
            "Unknown search tool 'none'. Available: web, own, bare.",
        ),
        (
            "/v1/search/no%20ne",
            json!({"query": "x"}),
            "Unknown search tool 'no ne'. Available: web, own, bare.",
        ),
        (
            "/v1/search/bare",
            json!({"query": "x"}),
            "Search tool 'bare' is not configured correctly.",
        ),
    ] {
        let refusal = gateway.post(&key, path, body.to_string()).await.refused_for_good(400);
        assert_eq!(refusal["detail"], detail, "{path}");
    }
    let named = json!({"query": "x", "search_tool_name": "web"});
    for path in ["/v1/search", "/api/v1/search/", "/v1/search/web/"] {
        gateway.post(&key, path, named.to_string()).await.expect(200);
    }
    let refusal = gateway.post(&key, "/v1/search", "{}").await.refused(422);
    assert_eq!(refusal["detail"][0]["loc"], json!(["body", "query"]));
    assert_eq!(engine.count(), 3);
}

async fn without_tools_the_operator_is_pointed_to(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("u").await;
    let refusal = gateway.post(&key, "/v1/search", r#"{"query": "x"}"#).await.refused(400);
    assert!(refusal["detail"].as_str().unwrap().starts_with("No search tools are configured."));
}

async fn a_failure_says_little_costs_nothing_and_leaves_its_row(start: Builder) {
    let engine = exa();
    let gateway = only(start, &engine).price("exa:exa", 1000.0, 0.0).await;
    let key = gateway.key("u").await;
    let failed = "The search provider failed";
    let late = "The search provider did not answer in time";
    for (at, (query, status, told, kept)) in [
        ("broken", 502, failed, 500),
        ("refused", 502, failed, 401),
        ("garbage", 502, failed, 502),
        ("reset", 502, failed, 502),
        ("slow", 504, late, 504),
    ]
    .into_iter()
    .enumerate()
    {
        let began = Instant::now();
        let body = json!({"query": query}).to_string();
        let refusal = gateway.post(&key, "/v1/search", body).await;
        assert_eq!(refusal.header("otari-error-source"), Some("provider"));
        assert_eq!(refusal.refused(status)["detail"], told, "{query}");
        assert!(began.elapsed().as_secs() < 10, "a tool has its time: {query}");
        let row = gateway.usage(at + 1).await.remove(0);
        assert_eq!(
            (&row["status"], &row["status_code"], &row["cost"]),
            (&json!("error"), &json!(kept), &Value::Null),
            "{query}: {row}"
        );
        assert!(!row.to_string().contains(ENGINE_KEY), "{row}");
    }
    assert_eq!(gateway.settled("u").await, 0.0, "and every hold is given back");
    gateway.post(&key, "/v1/search", r#"{"query": "late"}"#).await.expect(200);
    assert_eq!(gateway.settled("u").await, 0.001, "without the engine's word the flat price holds");
    assert!(!gateway.log().contains(ENGINE_KEY), "{}", gateway.log());
}

async fn the_gates_turn_away_whom_they_turn_away_elsewhere(start: Builder) {
    let engine = exa();
    let gateway = only(start, &engine).config("rate_limit_rpm: 3").await;
    let body = r#"{"query": "x"}"#;
    let json_type = [("content-type", "application/json")];
    gateway.send(Method::POST, "/v1/search", &json_type, body).await.refused(401);
    let refusal = gateway.post(MASTER, "/v1/search", body).await.refused(400);
    assert_eq!(refusal["error"]["code"], "user_required");
    let nobody = r#"{"query": "x", "user": "nobody"}"#;
    gateway.post(MASTER, "/v1/search", nobody).await.refused(404);
    let key = gateway.key("u").await;
    let body_as_u = r#"{"query": "x", "user": "u"}"#;
    let answer = gateway.post(MASTER, "/v1/search", body_as_u).await.expect(200);
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("2"));
    assert_eq!(names(&answer.json()), "object search_tool results");
    gateway.post(&key, "/v1/search", body).await.expect(200);
    gateway.post(&key, "/v1/search", body).await.expect(200);
    gateway.post(&key, "/v1/search", body).await.refused(429);

    for (allowed, status) in
        [(json!(["exa:exa"]), 200), (json!(["exa:other"]), 403), (json!([]), 403)]
    {
        let made = json!({"user_id": "w", "allowed_models": allowed});
        let made = gateway.manage(Method::POST, "/v1/keys", made).await;
        let answer = gateway.post(made["key"].as_str().unwrap(), "/v1/search", body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 403 {
            let told = "Model 'exa:exa' is not permitted for this API key.";
            assert_eq!(answer.refused_for_good(403)["detail"], told);
        }
    }
    let blocked = gateway.key("b").await;
    gateway.patch("/v1/users/b", json!({"blocked": true})).await;
    gateway.post(&blocked, "/v1/search", body).await.refused(403);
    assert_eq!(engine.count(), 4);
}

#[tokio::test]
async fn a_platform_searches_itself() {
    use crate::support::platform::Platform;
    let platform = Platform::start().await;
    let gateway = Gateway::start().connected(&platform).await;
    gateway.post("tk_user-0001", "/v1/search", r#"{"query": "x"}"#).await.refused(404);
    gateway.get("/v1/models").await.refused(404);
}

on_both_databases!(
    a_search_is_sent_answered_and_billed_as_the_engine_says,
    a_flat_price_is_held_and_a_budget_ends_it,
    a_tool_is_found_or_the_caller_is_told_which_there_are,
    without_tools_the_operator_is_pointed_to,
    a_failure_says_little_costs_nothing_and_leaves_its_row,
    the_gates_turn_away_whom_they_turn_away_elsewhere,
);
