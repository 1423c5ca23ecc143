//! Budgets under load: never overspent, never leaking a hold.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Gate, Provider, Reply, Step, chat_events, chunk, completion};
use crate::support::{ask_with, eventually, on_both_databases};

/// Requests sent at once.
const CALLERS: usize = 64;
/// How many of them the budget holds.
const FIT: usize = 5;
/// What each holds and, as all declared tokens are used, costs: 100 output tokens at 1000 USD per million.
const EACH: f64 = 0.1;

/// A provider that waits for the gate, then uses exactly the declared 100 tokens.
fn spender(gate: &Gate) -> Provider {
    let gate = gate.clone();
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 100, "total_tokens": 101});
    Provider::start(move |request| {
        let reply = if request.json()["stream"] == json!(true) {
            let mut events = chat_events(&["ok"], false);
            events.insert(2, chunk(json!([]), Some(usage.clone())));
            Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
        } else {
            let mut body = completion("ok");
            body["usage"] = usage.clone();
            Reply::json(200, &body)
        };
        reply.before(0, Step::WaitFor(gate.clone()))
    })
}

async fn never_overspent(start: Builder, body: Value) {
    let gate = Gate::closed();
    let provider = spender(&gate);
    let gateway = start.provider("p", &provider).price("p:m", 0.0, 1000.0).await;
    // Half a hold more than fits: a sixth call would pass the cap by less than one hold.
    let budget = gateway.budget(EACH * FIT as f64 + EACH / 2.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;

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
        assert_eq!(status, 403, "only {FIT} holds fit, and they are still held: {text}");
    }
    provider.received(FIT).await;
    gate.open(CALLERS);
    while let Some(done) = callers.join_next().await {
        let (status, text) = done.expect("a caller");
        assert_eq!(status, 200, "{text}");
    }

    assert_eq!((provider.count(), provider.most_at_once()), (FIT, FIT), "exactly those that fit");
    let spend = gateway.settled("u").await;
    let exact = EACH * FIT as f64;
    assert!((spend - exact).abs() < 1e-9, "spend is the sum of the costs: {spend}");
    let rows = gateway.all_usage().await;
    let served = rows.iter().filter(|row| row["status"] == "success").count();
    assert_eq!(served, FIT, "one row for each call that was served");

    let answer = gateway.chat(&key, &body).await;
    answer.refused_for_good(403);
    assert_eq!(provider.count(), FIT, "what is left is less than a hold");
}

async fn parallel_requests_never_overspend(start: Builder) {
    never_overspent(start, ask_with(json!({"max_tokens": 100}))).await;
}

async fn parallel_streams_never_overspend(start: Builder) {
    never_overspent(start, ask_with(json!({"max_completion_tokens": 100, "stream": true}))).await;
}

async fn a_budget_that_fits_exactly_is_used_to_the_last_cent(start: Builder) {
    let gate = Gate::closed();
    gate.open(CALLERS);
    let provider = spender(&gate);
    let gateway = start.provider("p", &provider).price("p:m", 0.0, 1000.0).await;
    let budget = gateway.budget(EACH * FIT as f64).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    for _ in 0..FIT {
        gateway.chat(&key, &ask_with(json!({"max_tokens": 100}))).await.expect(200);
    }
    gateway.chat(&key, &ask_with(json!({"max_tokens": 0}))).await.refused_for_good(403);
    assert!((gateway.settled("u").await - EACH * FIT as f64).abs() < 1e-9);
}

async fn a_raised_budget_counts_at_once(start: Builder) {
    let gate = Gate::closed();
    gate.open(CALLERS);
    let provider = spender(&gate);
    let gateway = start.provider("p", &provider).price("p:m", 0.0, 1000.0).await;
    let budget = gateway.budget(0.05).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let body = ask_with(json!({"max_tokens": 100}));
    gateway.chat(&key, &body).await.refused_for_good(403);
    let path = format!("/v1/budgets/{budget}");
    gateway.manage(reqwest::Method::PATCH, &path, json!({"max_budget": 1.0})).await;
    gateway.chat(&key, &body).await.expect(200);
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_visible_while_it_is_held() {
    let gate = Gate::closed();
    let provider = spender(&gate);
    let gateway = Gateway::start().provider("p", &provider).price("p:m", 0.0, 1000.0).await;
    let budget = gateway.budget(1.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let call = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
    let mut caller = JoinSet::new();
    caller.spawn(call.json(&ask_with(json!({"max_tokens": 100}))).send());
    provider.received(1).await;
    eventually("the hold in GET /v1/users/u", async || {
        let user = gateway.manage(reqwest::Method::GET, "/v1/users/u", Value::Null).await;
        (user["reserved"].as_f64().unwrap_or_default() >= EACH).then_some(())
    })
    .await;
    gate.open(1);
    let answer = caller.join_next().await.expect("a caller").expect("a caller").expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!((gateway.settled("u").await - EACH).abs() < 1e-9);
}

on_both_databases!(
    parallel_requests_never_overspend,
    parallel_streams_never_overspend,
    a_budget_that_fits_exactly_is_used_to_the_last_cent,
    a_raised_budget_counts_at_once,
);
