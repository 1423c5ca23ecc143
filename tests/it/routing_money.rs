//! What routing policies cost: prices, budgets and rate limits while a request walks from target to target.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Gate, Provider, Reply, Step, chat_events, chunk, completion};
use crate::support::{COST, ask_with, on_both_databases, priced};

/// `any` begins at `first:m` and goes on at `p:m`.
const ANY: &str =
    "routing: {policies: {any: {select: [{default: \"first:m\"}], on_failure: [\"p:m\"]}}}";

fn fails() -> Provider {
    Provider::answers(500, json!({"error": {"message": "no"}}))
}

/// A gateway whose policy begins at `first` and goes on at the [`priced`] one.
fn any(start: Builder, first: &Provider, second: &Provider) -> Builder {
    priced(start.provider("first", first), second).config(ANY).config("circuit_breaker_failures: 0")
}

async fn key_with(gateway: &Gateway, usd: f64) -> String {
    let budget = gateway.budget(usd).await;
    gateway.user("u", Some(&budget)).await;
    gateway.key("u").await
}

async fn a_dearer_target_is_not_tried_without_the_money_for_it(start: Builder) {
    let (first, second) = (fails(), Provider::streams(["ok"]));
    // 100 declared tokens: 0.001 at the first, 0.2 at the second.
    let gateway = any(start, &first, &second).price("first:m", 0.0, 10.0).await;
    let key = key_with(&gateway, 0.1).await;
    for (at, body) in [
        json!({"model": "any", "max_tokens": 100}),
        json!({"model": "any", "max_tokens": 100, "stream": true}),
    ]
    .into_iter()
    .enumerate()
    {
        let refusal = gateway.chat(&key, &ask_with(body)).await.refused_for_good(403);
        assert_eq!(refusal["error"]["code"], "budget_exceeded", "{refusal}");
        assert_eq!(refusal["detail"], "User 'u' has exceeded budget limit");
        assert_eq!(gateway.settled("u").await, 0.0);
        let rows = gateway.usage(at + 1).await;
        assert_eq!(
            json!([
                rows[0]["status"],
                rows[0]["provider"],
                rows[0]["status_code"],
                rows[0]["cost"]
            ]),
            json!(["error", "first", 500, null]),
            "{rows:?}"
        );
    }
    assert_eq!((first.count(), second.count()), (2, 0));
    // Fewer tokens fit: what is held grows to the price of the second, and its cost is what is spent.
    gateway.chat(&key, &ask_with(json!({"model": "any", "max_tokens": 30}))).await.expect(200);
    assert!((gateway.settled("u").await - COST).abs() < 1e-9);
}

/// Requests sent at once.
const CALLERS: usize = 64;
/// How many of them the budget holds at the second target.
const FIT: usize = 5;
/// What each costs there: 100 output tokens at 1000 USD per million.
const EACH: f64 = 0.1;

/// The first target always fails, at this price for a million output tokens; says how many were served.
async fn never_overspent(start: Builder, first_price: f64, streams: bool) -> usize {
    let (first, gate) = (fails(), Gate::closed());
    let door = gate.clone();
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 100, "total_tokens": 101});
    let second = Provider::start(move |_| {
        let reply = if streams {
            let mut events = chat_events(&["ok"], false);
            events.insert(2, chunk(json!([]), Some(usage.clone())));
            Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
        } else {
            let mut body = completion("ok");
            body["usage"] = usage.clone();
            Reply::json(200, &body)
        };
        reply.before(0, Step::WaitFor(door.clone()))
    });
    let gateway = start
        .provider("first", &first)
        .provider("p", &second)
        .price("first:m", 0.0, first_price)
        .price("p:m", 0.0, 1000.0)
        .config(ANY)
        .config("circuit_breaker_failures: 0")
        .await;
    let key = key_with(&gateway, EACH * FIT as f64 + EACH / 2.0).await;
    let body = ask_with(json!({"model": "any", "max_tokens": 100, "stream": streams}));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let call =
            gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key).json(&body);
        callers.spawn(async move {
            let answer = call.send().await.expect("every caller gets an answer");
            let status = answer.status().as_u16();
            (status, answer.text().await.expect("and all of it"))
        });
    }
    for _ in FIT..CALLERS {
        let (status, text) =
            callers.join_next().await.expect("callers are left").expect("a caller");
        assert_eq!(status, 403, "only {FIT} fit, and they are still held: {text}");
        assert!(text.contains("budget_exceeded"), "{text}");
    }
    gate.open(CALLERS);
    let mut served = 0;
    while let Some(done) = callers.join_next().await {
        let (status, text) = done.expect("a caller");
        assert!(matches!(status, 200 | 403), "{status}: {text}");
        served += usize::from(status == 200);
    }
    assert_eq!(second.count(), served);
    let spend = gateway.settled("u").await;
    assert!((spend - EACH * served as f64).abs() < 1e-9, "the sum of the costs: {spend}");
    let served_rows = gateway.all_usage().await;
    let count = |status: &str| served_rows.iter().filter(|row| row["status"] == status).count();
    assert_eq!((count("success"), count("absorbed")), (served, served));
    served
}

async fn parallel_walks_never_overspend(start: Builder) {
    // Holding 64 times the price of the first leaves room for four of the second, however they come.
    let served = never_overspent(start, 10.0, false).await;
    assert!((4..=FIT).contains(&served), "{served}");
}

async fn parallel_streams_never_overspend(start: Builder) {
    let served = never_overspent(start, 10.0, true).await;
    assert!((4..=FIT).contains(&served), "{served}");
}

/// Nothing would have to be held for the first alone.
async fn a_free_first_target_is_no_way_around_the_budget(start: Builder) {
    assert_eq!(never_overspent(start, 0.0, false).await, FIT);
}

async fn who_has_nothing_left_still_has_the_targets_that_are_free(start: Builder) {
    let (first, second) = (Provider::streams(["free"]), Provider::streams(["ok"]));
    let down = fails();
    let policies = "routing: {policies: {any: {select: [{default: \"first:m\"}], on_failure: [\"p:m\"]}, \
                    dead: {select: [{default: \"down:m\"}], on_failure: [\"p:m\"]}}}";
    let gateway = any(start, &first, &second)
        .provider("down", &down)
        .config(policies)
        .price("first:m", 0.0, 0.0)
        .price("down:m", 0.0, 0.0)
        .await;
    let key = key_with(&gateway, 0.0).await;
    gateway.chat(&key, &ask_with(json!({"model": "any"}))).await.expect(200);
    gateway.chat(&key, &ask_with(json!({"model": "dead"}))).await.refused_for_good(403);
    gateway.chat(&key, &ask_with(json!({"model": "p:m"}))).await.refused_for_good(403);
    assert_eq!((first.count(), down.count(), second.count()), (1, 1, 0));
    assert_eq!(gateway.settled("u").await, 0.0);
    let path = "/v1/users/u";
    let budget = gateway.budget(1.0).await;
    gateway.patch(path, json!({"budget_id": budget})).await;
    gateway.chat(&key, &ask_with(json!({"model": "dead", "max_tokens": 10}))).await.expect(200);
    assert!((gateway.settled("u").await - COST).abs() < 1e-9);
}

/// A cap over a key that is for one provider counts that provider's calls, wherever in a walk they come.
async fn a_ceiling_for_one_provider_counts_its_part_of_a_walk(start: Builder) {
    let (first, second) = (fails(), Provider::streams(["ok"]));
    let gateway = any(start, &first, &second).price("first:m", 0.0, 10.0).await;
    let made = gateway.manage(Method::POST, "/v1/keys", json!({"user_id": "u"})).await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let budget = gateway.budget(0.05).await;
    let ceiling = json!({"scope_type": "api_token", "scope_id": id, "provider_key_id": "p", "budget_id": budget});
    let ceiling = gateway.manage(Method::POST, "/v1/scoped-budgets", ceiling).await;
    let path = format!("/v1/scoped-budgets/{}", ceiling["id"].as_str().unwrap());
    let body = ask_with(json!({"model": "any", "max_tokens": 10}));
    for _ in 0..2 {
        gateway.chat(key, &body).await.expect(200);
    }
    // 0.04 are spent; the estimate of a third is more than what is left.
    let refusal = gateway.chat(key, &body).await.refused_for_good(403);
    assert_eq!(refusal["error"]["code"], "budget_exceeded");
    assert_eq!((first.count(), second.count()), (3, 2));
    gateway.usage(5).await;
    let now = gateway.read(&path).await;
    assert!((now["current_spend"].as_f64().unwrap() - 2.0 * COST).abs() < 1e-9, "{now}");
    assert_eq!(now["reserved_spend"], 0.0, "{now}");
}

/// A cap for the provider of a later target says nothing of the first.
async fn a_ceiling_that_is_reached_leaves_other_providers_alone(start: Builder) {
    let (first, second) = (Provider::streams(["first"]), Provider::streams(["ok"]));
    let down = fails();
    let policies = "routing: {policies: {any: {select: [{default: \"first:m\"}], on_failure: [\"p:m\"]}, \
                    goes-on: {select: [{default: \"down:m\"}], on_failure: [\"p:m\"]}}}";
    let start = any(start, &first, &second).provider("down", &down).config(policies);
    let gateway = start.price("first:m", 0.0, 10.0).price("down:m", 0.0, 10.0).await;
    let made = gateway.manage(Method::POST, "/v1/keys", json!({"user_id": "u"})).await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let budget = gateway.budget(0.0).await;
    let ceiling = json!({"scope_type": "api_token", "scope_id": id, "provider_key_id": "p", "budget_id": budget});
    gateway.manage(Method::POST, "/v1/scoped-budgets", ceiling).await;
    gateway.chat(key, &ask_with(json!({}))).await.refused_for_good(403);
    let answer = gateway.chat(key, &ask_with(json!({"model": "any"}))).await.expect(200);
    assert_eq!(answer.header("otari-provider"), Some("first"));
    // Its call is none of that cap's.
    let answer = gateway.chat(key, &ask_with(json!({"model": "goes-on"}))).await;
    assert_eq!(answer.refused_for_good(403)["detail"], "API key has exceeded budget limit");
    assert_eq!((down.count(), second.count()), (1, 0));
    // A cap for the first one's provider is its own.
    let ceiling = json!({"scope_type": "api_token", "scope_id": id, "provider_key_id": "first", "budget_id": budget});
    gateway.manage(Method::POST, "/v1/scoped-budgets", ceiling).await;
    gateway.chat(key, &ask_with(json!({"model": "any"}))).await.refused_for_good(403);
    assert_eq!((first.count(), second.count()), (1, 0));
}

/// At the price of the target that served, whatever was held for one before it; without a budget nothing is held.
async fn a_stream_without_usage_costs_what_its_target_held(start: Builder) {
    let dear = fails();
    let silent = Provider::start(|_| {
        let events = chat_events(&["ok"], false);
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let gateway = any(start, &dear, &silent).price("first:m", 0.0, 9000.0).await;
    let capped = key_with(&gateway, 10.0).await;
    let uncapped = gateway.key("v").await;
    // One token in for "hi" at 1000, ten out at 2000 USD per million.
    let body = ask_with(json!({"model": "any", "stream": true, "max_tokens": 10}));
    for (key, user, cost) in [(&capped, "u", 0.021), (&uncapped, "v", 0.0)] {
        gateway.chat(key, &body).await.expect(200);
        let spend = gateway.settled(user).await;
        assert!((spend - cost).abs() < 1e-9, "{user}: {spend}");
    }
}

async fn targets_without_a_price_are_left_out_where_prices_are_required(start: Builder) {
    let (first, second) = (Provider::streams(["first"]), Provider::streams(["ok"]));
    let none = "routing: {policies: {any: {select: [{default: \"first:m\"}], on_failure: [\"p:m\"]}, \
                none: {select: [{default: \"first:m\"}], on_failure: [\"first:n\"]}}}";
    let gateway = any(start, &first, &second).config(none).await;
    let key = gateway.key("u").await;
    let answer = gateway.chat(&key, &ask_with(json!({"model": "any"}))).await.expect(200);
    assert_eq!(answer.header("otari-provider"), Some("p"));
    let rows = gateway.usage(1).await;
    assert_eq!(
        json!([rows[0]["attempt_count"], rows[0]["selection_reason"]]),
        json!([1, "on_failure"])
    );
    let refusal =
        gateway.chat(&key, &ask_with(json!({"model": "none"}))).await.refused_for_good(402);
    assert_eq!(refusal["error"]["code"], "no_price");
    gateway.patch("/v1/settings", json!({"require_pricing": false})).await;
    for model in ["any", "none"] {
        let answer = gateway.chat(&key, &ask_with(json!({"model": model}))).await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some("first"));
    }
    assert!((gateway.settled("u").await - COST).abs() < 1e-9);
}

async fn a_walk_is_one_request_of_the_rate_limit(start: Builder) {
    let (first, second) = (fails(), Provider::streams(["ok"]));
    let start = start.config("rate_limit_rpm: 3");
    let gateway = any(start, &first, &second).price("first:m", 0.0, 10.0).await;
    let key = gateway.key("u").await;
    let body = ask_with(json!({"model": "any"}));
    for left in ["2", "1", "0"] {
        let answer = gateway.chat(&key, &body).await.expect(200);
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left));
    }
    gateway.chat(&key, &body).await.refused(429);
    assert_eq!((first.count(), second.count()), (3, 3));
    let rows: Vec<Value> = gateway.usage(6).await;
    assert!(rows.iter().all(|row| row["policy_name"] == "any"));
    // Attempts that failed are no requests of their own.
    let totals = gateway.read("/v1/usage/summary").await["totals"].clone();
    assert_eq!(totals["request_count"], 3, "{totals}");
}

on_both_databases!(
    a_dearer_target_is_not_tried_without_the_money_for_it,
    parallel_walks_never_overspend,
    parallel_streams_never_overspend,
    a_free_first_target_is_no_way_around_the_budget,
    who_has_nothing_left_still_has_the_targets_that_are_free,
    a_ceiling_for_one_provider_counts_its_part_of_a_walk,
    a_ceiling_that_is_reached_leaves_other_providers_alone,
    a_stream_without_usage_costs_what_its_target_held,
    targets_without_a_price_are_left_out_where_prices_are_required,
    a_walk_is_one_request_of_the_rate_limit,
);
