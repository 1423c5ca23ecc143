//! `/v1/batches`: made, shown, listed, cancelled, read, and charged once.

mod own;
mod passed;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway, MASTER};
use crate::support::{eventually, on_both_databases};

/// A GET with this key.
async fn get(gateway: &Gateway, key: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    gateway.send(Method::GET, path, &[("authorization", bearer.as_str())], String::new()).await
}

/// Makes a batch of chat completions with these names.
async fn make(gateway: &Gateway, key: &str, model: &str, names: &[&str]) -> Value {
    gateway.post(key, "/v1/batches", order(model, names).to_string()).await.expect(200).json()
}

/// What makes such a batch.
fn order(model: &str, names: &[&str]) -> Value {
    let item = |name: &&str| json!({"custom_id": name, "body": {"messages": [{"role": "user", "content": "hi"}]}});
    json!({"model": model, "requests": names.iter().map(item).collect::<Vec<_>>()})
}

fn id(batch: &Value) -> &str {
    batch["id"].as_str().expect("a batch has an id")
}

/// Looks at a batch until it has this status.
async fn until(gateway: &Gateway, key: &str, id: &str, status: &str) -> Value {
    eventually(&format!("a batch that is {status}"), async || {
        let batch = get(gateway, key, &format!("/v1/batches/{id}")).await.expect(200).json();
        (batch["status"] == status).then_some(batch)
    })
    .await
}

async fn results(gateway: &Gateway, key: &str, id: &str) -> Vec<Value> {
    let path = format!("/v1/batches/{id}/results");
    let answer = get(gateway, key, &path).await.expect(200).json();
    answer["results"].as_array().expect("a list").clone()
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(id).collect()
}

/// Rows of this endpoint, newest first.
async fn rows(gateway: &Gateway, endpoint: &str, count: usize) -> Vec<Value> {
    let rows = eventually("usage rows", async || {
        let mut rows = gateway.all_usage().await;
        rows.retain(|row| row["endpoint"] == endpoint);
        (rows.len() >= count).then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), count, "{rows:#?}");
    rows
}

async fn post(gateway: &Gateway, key: &str, body: Value) -> Answer {
    gateway.post(key, "/v1/batches", body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_batch_is_refused_before_anything_is_sent() {
    let gateway = Gateway::start()
        .provider_at("oa", "http://127.0.0.1:9/v1", "")
        .price("oa:m", 1.0, 1.0)
        .await;
    let key = gateway.key("u").await;
    let post = async |key: &str, body: Value| post(&gateway, key, body).await;
    let faulty = post(&key, json!({"requests": [], "metadata": {"k": 1}})).await.refused(422);
    let faults: Vec<(&Value, &Value)> = faulty["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (&fault["type"], &fault["loc"]))
        .collect();
    let expected = [
        (json!("missing"), json!(["body", "model"])),
        (json!("too_short"), json!(["body", "requests"])),
        (json!("string_type"), json!(["body", "metadata", "k"])),
    ];
    assert_eq!(faults, expected.each_ref().map(|(kind, loc)| (kind, loc)));
    let odd = json!({"model": "oa:m", "requests": [{"body": {}}, 7, {"custom_id": 1, "body": []}]});
    let faulty = post(&key, odd).await.refused(422);
    let places: Vec<&Value> =
        faulty["detail"].as_array().unwrap().iter().map(|fault| &fault["loc"]).collect();
    let expected = [
        json!(["body", "requests", 0, "custom_id"]),
        json!(["body", "requests", 1]),
        json!(["body", "requests", 2, "custom_id"]),
        json!(["body", "requests", 2, "body"]),
    ];
    assert_eq!(places, expected.iter().collect::<Vec<_>>());
    let many: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    post(&key, order("oa:m", &many)).await.refused(422);

    // An item is looked at before anything is sent.
    let mut order_of = order("oa:m", &["a", "b"]);
    order_of["requests"][1]["body"]["messages"] = json!([]);
    let faulty = post(&key, order_of.clone()).await.refused(422);
    let loc = json!(["body", "requests", 1, "body", "messages"]);
    assert_eq!(faulty["detail"][0]["loc"], loc);
    order_of["endpoint"] = json!("/v1/embeddings");
    post(&key, order_of).await.refused(400);
    assert_eq!(gateway.all_usage().await, Vec::<Value>::new(), "no row of a faulty body");
}

async fn every_gate_stands_before_a_batch(start: Builder) {
    let gateway = start
        .provider_at("oa", "http://127.0.0.1:9/v1", "")
        .provider_of("groq", "gq", "http://127.0.0.1:9/v1", "")
        .provider_of("voyage", "vo", "http://127.0.0.1:9/v1", "")
        .price("oa:m", 1.0, 1.0)
        .config("rate_limit_rpm: 5")
        .await;
    let key = gateway.key("u").await;
    let post =
        async |key: &str, body: Value| gateway.post(key, "/v1/batches", body.to_string()).await;
    gateway.post("", "/v1/batches", order("oa:m", &["a"]).to_string()).await.refused(401);
    post("gw-nobody", order("oa:m", &["a"])).await.refused(401);

    assert_eq!(
        post(&key, order("nowhere:m", &["a"])).await.refused(400)["error"]["code"],
        "model_not_found"
    );
    let refused = post(&key, order("vo:m", &["a"])).await.refused(422);
    assert_eq!(refused["detail"], "Provider 'vo' does not support batch operations");
    let refused = post(&key, order("gq:m", &["a"])).await.refused(402);
    assert!(
        refused["detail"].as_str().unwrap().contains("gq:m"),
        "what the gateway runs is priced"
    );
    // Nobody listens there.
    post(&key, order("oa:m", &["a"])).await.refused(502);
    post(&key, order("oa:m", &["a"])).await.refused(502);
    post(&key, order("oa:m", &["a"])).await.refused(429);

    post(MASTER, order("oa:m", &["a"])).await.refused(400);
    let mut theirs = order("oa:m", &["a"]);
    theirs["user"] = json!("ghost");
    assert_eq!(post(MASTER, theirs).await.refused(404)["detail"], "User 'ghost' not found");
    let budget = gateway.budget(0.0).await;
    gateway.user("poor", Some(&budget)).await;
    let poor = gateway.key("poor").await;
    assert_eq!(
        post(&poor, order("oa:m", &["a"])).await.refused(403)["error"]["code"],
        "budget_exceeded"
    );
    gateway.user("bad", None).await;
    gateway.patch("/v1/users/bad", json!({"blocked": true})).await;
    let bad = gateway.key("bad").await;
    assert_eq!(
        post(&bad, order("oa:m", &["a"])).await.refused(403)["error"]["code"],
        "user_blocked"
    );
    let narrow = json!({"user_id": "v", "allowed_models": ["oa:other"]});
    let narrow = gateway.manage(Method::POST, "/v1/keys", narrow).await;
    let narrow = narrow["key"].as_str().unwrap();
    assert_eq!(
        post(narrow, order("oa:m", &["a"])).await.refused(403)["error"]["code"],
        "model_not_permitted"
    );

    let failed = rows(&gateway, "/v1/batches", 8).await;
    assert!(
        failed.iter().all(|row| row["status"] == "error" && row["cost"].is_null()),
        "{failed:#?}"
    );
}

on_both_databases!(every_gate_stands_before_a_batch);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_must_be_known_and_a_batch_there() {
    let gateway = Gateway::start()
        .provider_of("groq", "gq", "http://127.0.0.1:9/v1", "")
        .provider_at("oa", "http://127.0.0.1:9/v1", "")
        .await;
    let key = gateway.key("u").await;
    for path in ["/v1/batches/b1", "/v1/batches/b1/results"] {
        let missing = get(&gateway, &key, path).await.refused(422);
        let fault = json!([{"type": "missing", "loc": ["query", "provider"], "msg": "Field required",
                            "input": null}]);
        assert_eq!(missing["detail"], fault);
        let unknown = get(&gateway, &key, &format!("{path}?provider=Nix")).await.refused(400);
        let text = unknown["detail"].as_str().unwrap();
        assert!(
            text.starts_with("'Nix' is not a supported provider. Supported providers: anthropic, "),
            "{text}"
        );
        let other = get(&gateway, &key, &format!("{path}?provider=gemini")).await.refused(400);
        assert!(other["detail"].as_str().unwrap().contains("not configured"), "{other}");
        let none = get(&gateway, &key, &format!("{path}?provider=gq")).await.refused(404);
        assert_eq!(none["detail"], "Batch 'b1' not found");
        get(&gateway, &key, &format!("{path}?provider=%20GQ")).await.refused(404);
        get(&gateway, &key, &format!("{path}?provider=oa")).await.refused(502);
    }
    let odd = get(&gateway, &key, "/v1/batches/..%2Ffiles?provider=oa").await.refused(404);
    assert_eq!(odd["detail"], "Batch '../files' not found", "nothing is asked at another address");
    let empty = get(&gateway, &key, "/v1/batches").await.expect(200).json();
    let expected =
        json!({"data": [], "object": "list", "has_more": false, "first_id": null, "last_id": null});
    assert_eq!(empty, expected);
}
