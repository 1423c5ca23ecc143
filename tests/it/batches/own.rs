//! Batches that the gateway runs itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use super::{get, id, make, order, results, rows, until};
use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::{Gate, Provider, Reply, Step};
use crate::support::sdk::Sdk;
use crate::support::{COST, eventually, on_both_databases, postgres};

/// A gateway before `provider` as `p`, which has no batches, and whose model `m` is priced so that an answer costs [`COST`].
fn before(start: Builder, provider: &Provider) -> Builder {
    start.provider_of("groq", "p", &provider.base(), "").price("p:m", 1000.0, 2000.0)
}

fn named(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("item-{n}")).collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Every item once, in order.
fn once_each(found: &[Value], names: &[String]) {
    let ids: Vec<&str> = found.iter().map(|it| it["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, texts(names));
}

async fn items_are_calls_like_any_other(start: Builder) {
    let provider = Provider::streams(["Hel", "lo"]);
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let mut body = order("p:m", &["a", "b"]);
    body["metadata"] = json!({"k": "v"});
    body["requests"][0]["body"] = json!({"model": "other:thing", "messages": [{"role": "user", "content": "first"}],
        "stream": true, "api_key": "sk-mine", "mcp_servers": [{"url": "x"}], "temperature": 0.5});
    let made = gateway.post(&key, "/v1/batches", body.to_string()).await.expect(200).json();
    assert_eq!((&made["status"], &made["provider"]), (&json!("validating"), &json!("p")));
    assert_eq!((&made["metadata"], &made["model"]), (&json!({"k": "v"}), &json!("p:m")));
    assert_eq!(made["request_counts"], json!({"completed": 0, "failed": 0, "total": 2}));
    let created = made["created_at"].as_i64().unwrap();
    assert_eq!(made["expires_at"].as_i64().unwrap() - created, 86_400);

    let done = until(&gateway, &key, id(&made), "completed").await;
    assert!(
        done["in_progress_at"].as_i64() >= Some(created)
            && done["completed_at"].as_i64() >= Some(created)
    );
    assert_eq!(done["request_counts"], json!({"completed": 2, "failed": 0, "total": 2}));
    let found = results(&gateway, &key, id(&made)).await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["result"]["choices"][0]["message"]["content"], "Hello");
    assert_eq!(found[1]["error"], Value::Null);
    let mut sent: Vec<Value> = provider.requests().iter().map(|it| it.json()).collect();
    sent.sort_by_key(|body| body["messages"][0]["content"] != "first");
    let expected = json!({"model": "m", "messages": [{"role": "user", "content": "first"}], "temperature": 0.5});
    assert_eq!(sent[0], expected);

    let calls = rows(&gateway, "/v1/chat/completions", 2).await;
    assert!(calls.iter().all(|row| row["cost"] == COST && row["user_id"] == "u"), "{calls:#?}");
    let fetched = rows(&gateway, "/v1/batches/results", 1).await;
    assert_eq!((&fetched[0]["cost"], &fetched[0]["model"]), (&Value::Null, &json!("m-2026")));
    assert!((gateway.settled("u").await - 2.0 * COST).abs() < 1e-9, "items alone are charged");
    gateway.key("other").await;
    let other = gateway.key("other").await;
    get(&gateway, &other, &format!("/v1/batches/{}?provider=p", id(&made))).await.refused(404);

    // The operator says for whom.
    let mut theirs = order("p:m", &["a"]);
    theirs["user"] = json!("u");
    let made = gateway.post(MASTER, "/v1/batches", theirs.to_string()).await.expect(200).json();
    until(&gateway, &key, id(&made), "completed").await;
    assert!((gateway.settled("u").await - 3.0 * COST).abs() < 1e-9);
}

async fn items_survive_a_kill_and_have_one_result_each(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(shared.clone()))
    });
    let mut gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let names = named(12);
    let made = make(&gateway, &key, "p:m", &texts(&names)).await;
    gate.open(5);
    eventually("some items to be done", async || {
        let batch = get(&gateway, &key, &format!("/v1/batches/{}", id(&made))).await.json();
        (batch["request_counts"]["completed"].as_i64()? >= 5).then_some(())
    })
    .await;
    gateway.kill9();
    // A lease outlives who held it; nobody waits a minute here.
    gateway.sql("UPDATE otari_batch_items SET lease_until = NULL");
    gate.open(1000);
    gateway.restart().await;
    let done = until(&gateway, &key, id(&made), "completed").await;
    assert_eq!(done["request_counts"], json!({"completed": 12, "failed": 0, "total": 12}));
    once_each(&results(&gateway, &key, id(&made)).await, &names);
    let (most, asked) = (provider.most_at_once(), provider.count());
    assert!(most <= 4 + 4, "four at once in each life: {most}");
    assert!((12..=16).contains(&asked), "what was done is not done again: {asked}");
}

async fn a_budget_ends_in_the_middle(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = before(start, &provider).config("batch_concurrency: 1").await;
    let budget = gateway.budget(3.0 * COST).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let mut body = order("p:m", &texts(&named(8)));
    for item in body["requests"].as_array_mut().unwrap() {
        item["body"]["max_tokens"] = json!(5);
    }
    let made = gateway.post(&key, "/v1/batches", body.to_string()).await.expect(200).json();
    let done = until(&gateway, &key, id(&made), "completed").await;
    let found = results(&gateway, &key, id(&made)).await;
    let refused: Vec<&Value> =
        found.iter().map(|it| &it["error"]).filter(|it| !it.is_null()).collect();
    let answered = 8 - refused.len();
    assert!((1..=3).contains(&answered), "{found:#?}");
    assert!(refused.iter().all(|error| error["code"] == "budget_exceeded"), "{refused:#?}");
    assert_eq!(refused[0]["message"], "User 'u' has exceeded budget limit");
    assert_eq!(
        done["request_counts"],
        json!({"completed": answered, "failed": refused.len(), "total": 8})
    );
    assert!(gateway.settled("u").await <= 3.0 * COST + 1e-9);
    assert_eq!(provider.count(), answered);
}

async fn a_key_that_is_revoked_calls_no_more(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(shared.clone()))
    });
    let gateway = before(start, &provider).config("batch_concurrency: 1").await;
    let body = json!({"user_id": "u"});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    let (key, key_id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let other = gateway.key("u").await;
    let made = make(&gateway, key, "p:m", &texts(&named(3))).await;
    provider.received(1).await;
    gateway.patch(&format!("/v1/keys/{key_id}"), json!({"is_active": false})).await;
    gate.open(100);
    until(&gateway, &other, id(&made), "completed").await;
    let found = results(&gateway, &other, id(&made)).await;
    assert_eq!(found[0]["error"], Value::Null, "what was under way ended well");
    for item in &found[1..] {
        assert_eq!(
            item["error"],
            json!({"code": "inactive_key", "message": "API key is inactive"})
        );
    }
    assert_eq!(provider.count(), 1);
}

async fn a_busy_provider_is_left_alone_and_asked_again(start: Builder) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let provider = Provider::start(move |request| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => {
            Reply::json(429, &json!({"error": {"message": "slow down"}})).header("Retry-After", "1")
        }
        1 => Reply::json(503, &json!({"error": {"message": "later"}})).header("Retry-After", "1"),
        2 => Reply::json(400, &json!({"error": {"message": "a bad one", "code": "bad_one"}})),
        _ => Reply::chat(request, &["ok"]),
    });
    let gateway = before(start, &provider).config("batch_concurrency: 1").await;
    let key = gateway.key("u").await;
    let names = named(3);
    let made = make(&gateway, &key, "p:m", &texts(&names)).await;
    until(&gateway, &key, id(&made), "completed").await;
    let found = results(&gateway, &key, id(&made)).await;
    once_each(&found, &names);
    let failed: Vec<&Value> =
        found.iter().map(|it| &it["error"]).filter(|it| !it.is_null()).collect();
    assert_eq!(failed.len(), 1, "{found:#?}");
    assert_eq!(failed[0]["message"], "a bad one");
    assert_eq!(calls.load(Ordering::SeqCst), 5, "three, and two again");
}

async fn a_cancelled_batch_ends_with_what_it_has(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(shared.clone()))
    });
    let gateway = before(start, &provider).config("batch_concurrency: 2").await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "p:m", &texts(&named(6))).await;
    let path = format!("/v1/batches/{}", id(&made));
    provider.received(2).await;
    get(&gateway, &key, &format!("{path}/results")).await.refused(409);
    let cancelled = gateway.post(&key, &format!("{path}/cancel"), "").await.expect(200).json();
    assert_eq!(cancelled["status"], "cancelling");
    assert!(cancelled["cancelling_at"].is_i64());
    gate.open(100);
    let ended = until(&gateway, &key, id(&made), "cancelled").await;
    assert!(ended["cancelled_at"].is_i64());
    assert_eq!(results(&gateway, &key, id(&made)).await.len(), 2);
    let again = gateway.post(&key, &format!("{path}/cancel"), "").await.expect(200).json();
    assert_eq!(again["status"], "cancelled");
    assert_eq!(provider.count(), 2, "no others were begun");
}

async fn a_batch_whose_time_is_over_expires(start: Builder) {
    let provider = Provider::never_answers();
    let mut gateway = before(start, &provider).config("batch_concurrency: 1").await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "p:m", &texts(&named(2))).await;
    provider.received(1).await;
    gateway.kill9();
    gateway.sql("UPDATE otari_batches SET expires_at = '2020-01-01 00:00:00.000000'");
    gateway.sql("UPDATE otari_batch_items SET lease_until = NULL");
    gateway.restart().await;
    let ended = until(&gateway, &key, id(&made), "expired").await;
    assert!(ended["expired_at"].is_i64());
    assert!(results(&gateway, &key, id(&made)).await.is_empty());
}

async fn the_official_client_makes_them_of_its_files(start: Builder) {
    let provider = Provider::streams(["Hel", "lo"]);
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    let base = gateway.url("/v1");
    let run = move || Sdk::Python.run("openai_batches", &[&base, &key, "p:m"]);
    let seen = tokio::task::spawn_blocking(run).await.expect("the script ends");
    let texts = json!([["a", "Hello"], ["b", "Hello"], ["c", "Hello"]]);
    let made = json!(["batch", "/v1/chat/completions", {"job": "nightly"}, 3]);
    let output = json!([["a", 200, "Hello"], ["b", 200, "Hello"], ["c", 200, "Hello"]]);
    let kept = json!([true, "batch_output", true]);
    let expected = json!({"made": made, "status": "completed", "counts": [3, 0], "texts": texts,
        "output": output, "kept": kept, "no_errors": null, "listed": true, "cancelled": true, "missing": 422, "no_file": 404});
    assert_eq!(seen, expected);
}

async fn answers_and_errors_are_files_of_their_makers(start: Builder) {
    let provider = Provider::start(|request| match request.text().contains("bad") {
        true => Reply::json(400, &json!({"error": {"message": "a bad one"}})),
        false => Reply::chat(request, &["ok"]),
    });
    let mut gateway = before(start, &provider).await;
    let (key, other) = (gateway.key("u").await, gateway.key("other").await);
    let mut body = order("p:m", &["a", "b"]);
    body["requests"][1]["body"]["messages"][0]["content"] = json!("bad");
    let made = gateway.post(&key, "/v1/batches", body.to_string()).await.expect(200).json();
    let done = until(&gateway, &key, id(&made), "completed").await;
    let listed = get(&gateway, &key, "/v1/batches").await.expect(200).json();
    assert_eq!(listed["data"][0]["output_file_id"], done["output_file_id"]);
    let line = async |gateway: &Gateway, field: &str| {
        let path = format!("/v1/files/{}/content", done[field].as_str().unwrap());
        get(gateway, &other, &path).await.refused(404);
        get(gateway, &key, &path).await.expect(200).json()
    };
    let (output, error) =
        (line(&gateway, "output_file_id").await, line(&gateway, "error_file_id").await);
    assert_eq!(
        (&output["custom_id"], &output["response"]["status_code"]),
        (&json!("a"), &json!(200))
    );
    assert_eq!((&error["custom_id"], &error["error"]), (&json!("b"), &Value::Null));
    let told = &error["response"];
    let told = (&told["status_code"], &told["body"]["error"]["message"]);
    assert_eq!(told, (&json!(400), &json!("a bad one")));
    let files = get(&gateway, &key, "/v1/files?purpose=batch_output").await.expect(200).json();
    assert_eq!(files["data"].as_array().map(Vec::len), Some(2));

    // The same ones after a restart; a deleted one is not made again.
    gateway.kill9();
    gateway.restart().await;
    let path = format!("/v1/batches/{}", id(&made));
    let again = get(&gateway, &key, &path).await.expect(200).json();
    assert_eq!(again, done);
    let bearer = format!("Bearer {key}");
    let file = format!("/v1/files/{}", done["output_file_id"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    gateway.send(Method::DELETE, &file, &headers, "").await.expect(200);
    let less = get(&gateway, &key, &path).await.expect(200).json();
    assert_eq!((&less["output_file_id"], &less["status"]), (&Value::Null, &json!("completed")));
    assert_eq!(results(&gateway, &key, id(&made)).await.len(), 2, "the results are there");
}

on_both_databases!(
    answers_and_errors_are_files_of_their_makers,
    the_official_client_makes_them_of_its_files,
    items_are_calls_like_any_other,
    items_survive_a_kill_and_have_one_result_each,
    a_budget_ends_in_the_middle,
    a_key_that_is_revoked_calls_no_more,
    a_busy_provider_is_left_alone_and_asked_again,
    a_cancelled_batch_ends_with_what_it_has,
    a_batch_whose_time_is_over_expires,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_the_work_and_one_takes_over() {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(shared.clone()))
    });
    let database = postgres::database();
    let url = format!("database_url: {}", database.url);
    let start = || before(Gateway::start().config(&url), &provider).config("batch_concurrency: 3");
    let (one, mut two) = (start().await, start().await);
    let key = one.key("u").await;
    let names = named(30);
    let made = make(&one, &key, "p:m", &texts(&names)).await;
    provider.received(6).await;
    assert_eq!(provider.most_at_once(), 6, "three each");
    two.kill9();
    // A lease outlives who held it; nobody waits a minute here.
    postgres::execute(&database.url, "UPDATE otari_batch_items SET lease_until = now() WHERE lease_until IS NOT NULL AND NOT is_done
        AND lease_owner <> (SELECT lease_owner FROM otari_batch_items WHERE lease_owner IS NOT NULL LIMIT 1)").unwrap();
    gate.open(1000);
    until(&one, &key, id(&made), "completed").await;
    once_each(&results(&one, &key, id(&made)).await, &names);
}
