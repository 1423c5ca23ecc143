//! Names that stand for models: who has them, where they lead, and what answers show.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::{Provider, Reply, Step, chat_events, completion};
use crate::support::{COST, ask_streamed, ask_with, on_both_databases, priced};

const SHAPE: &str = "name target source user_id created_at updated_at";

async fn put(gateway: &Gateway, body: Value) -> Value {
    let made = gateway.manage(Method::POST, "/v1/aliases", body).await;
    assert_eq!(names(&made), SHAPE);
    made
}

/// Where a call for `name` led.
async fn leads(gateway: &Gateway, provider: &Provider, key: &str, name: &str) -> Value {
    gateway.chat(key, &ask_with(json!({"model": name}))).await.expect(200);
    provider.requests().pop().expect("a request").json()["model"].clone()
}

async fn a_users_alias_wins_then_the_files_then_everybodys(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("require_pricing: false\naliases:\n  fast: p/file\n  only: p:only");
    let mut gateway = priced(start, &provider).await;
    let (u, v) = (gateway.key("u").await, gateway.key("v").await);
    assert_eq!(leads(&gateway, &provider, &u, "fast").await, "file");
    let own = put(&gateway, json!({"name": "fast", "target": "p/own", "user_id": "u"})).await;
    assert_eq!((&own["target"], &own["source"]), (&json!("p:own"), &json!("stored")));
    put(&gateway, json!({"name": "slow", "target": "p:slow", "user_id": null})).await;
    for (key, name, target) in
        [(&u, "fast", "own"), (&v, "fast", "file"), (&u, "slow", "slow"), (&v, "only", "only")]
    {
        assert_eq!(leads(&gateway, &provider, key, name).await, target, "{name}");
    }

    let again = put(&gateway, json!({"name": "fast", "target": "p:new", "user_id": "u"})).await;
    assert_eq!(again["created_at"], own["created_at"]);
    assert!(again["updated_at"].as_str() > own["updated_at"].as_str(), "{again}");
    assert_eq!(leads(&gateway, &provider, &u, "fast").await, "new", "from the next request on");

    let listed = gateway.read("/v1/aliases").await;
    let rows: Vec<Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(names(row), SHAPE);
            json!([
                row["name"],
                row["target"],
                row["source"],
                row["user_id"],
                row["created_at"].is_null()
            ])
        })
        .collect();
    assert_eq!(
        json!(rows),
        json!([
            ["fast", "p:file", "config", null, true],
            ["fast", "p:new", "stored", "u", false],
            ["only", "p:only", "config", null, true],
            ["slow", "p:slow", "stored", null, false],
        ])
    );

    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(leads(&gateway, &provider, &u, "fast").await, "new", "it outlives the process");
    gateway.delete("/v1/aliases/fast?user_id=u").await;
    assert_eq!(leads(&gateway, &provider, &u, "fast").await, "file");
    gateway.delete("/v1/aliases/slow").await;
    let refusal = gateway.chat(&u, &ask_with(json!({"model": "slow"}))).await.refused(400);
    assert_eq!(refusal["error"]["code"], "model_not_found");
}

async fn answers_show_the_alias_and_rows_the_target(start: Builder) {
    let provider = Provider::streams(["a", "b"]);
    let gateway = priced(start.config("aliases: {fast: p:m}"), &provider).await;
    let budget = gateway.budget(100.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let called = gateway.chat(&key, &ask_with(json!({"model": "fast"}))).await.expect(200);
    let mut want = completion("ab");
    let theirs = want["model"].clone();
    want["model"] = json!("fast");
    assert_eq!(called.text(), want.to_string(), "all but the name is as it came");
    assert_eq!(called.header("content-length"), Some(called.body.len().to_string().as_str()));

    let streamed = ask_with(json!({"model": "fast", "stream": true}));
    let called = gateway.chat(&key, &streamed).await.expect(200);
    let name = |text: &str| text.replace(&format!("\"model\":{theirs}"), "\"model\":\"fast\"");
    let want: String = chat_events(&["a", "b"], false).concat();
    assert!(want.contains(&format!("\"model\":{theirs}")), "the script names a model: {want}");
    assert_eq!(called.text(), name(&want));
    let asking =
        json!({"model": "fast", "stream": true, "stream_options": {"include_usage": true}});
    let called = gateway.chat(&key, &ask_with(asking)).await.expect(200);
    assert_eq!(called.text(), name(&chat_events(&["a", "b"], true).concat()));

    let plain = gateway.chat(&key, &ask_streamed()).await.expect(200);
    assert_eq!(plain.text(), want, "whoever names the model itself sees the provider's name");
    for row in gateway.usage(4).await {
        assert_eq!((&row["model"], &row["provider"]), (&json!("m"), &json!("p")), "{row}");
        assert_eq!(row["cost"], COST);
    }
    assert_eq!(gateway.settled("u").await, 4.0 * COST);
}

#[tokio::test]
async fn a_stream_in_awkward_pieces_shows_the_alias() {
    let provider = Provider::start(|_| {
        let text = "data: {\"id\":\"c\",\"model\" : \"x\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"x\\\"\"}}]}\r\n\r\ndata: [DONE]\n\n";
        Reply::events(
            text.as_bytes()
                .chunks(7)
                .flat_map(|piece| [Step::Send(piece.to_vec()), Step::Sleep(1)]),
        )
    });
    let start = Gateway::start().config("aliases: {fast: p:m}\nstreaming_keepalive_interval_ms: 1");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    let streamed = ask_with(json!({"model": "fast", "stream": true}));
    let text = gateway.chat(&key, &streamed).await.expect(200).text();
    assert_eq!(
        text.replace(": keepalive\n\n", ""),
        "data: {\"id\":\"c\",\"model\" : \"fast\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"x\\\"\"}}]}\r\n\r\ndata: [DONE]\n\n"
    );
}

#[tokio::test]
async fn a_long_plain_answer_shows_the_alias() {
    let long = "x".repeat(3 << 20);
    let answer = completion(&long);
    let provider = Provider::answers(200, answer.clone());
    let gateway = priced(Gateway::start().config("aliases: {fast: p:m}"), &provider).await;
    let key = gateway.key("u").await;
    let called = gateway.chat(&key, &ask_with(json!({"model": "fast"}))).await.expect(200);
    let mut want = answer;
    want["model"] = json!("fast");
    let want = want.to_string();
    assert!(called.text() == want, "3 MiB differ in the name alone");
    let row = gateway.usage(1).await.remove(0);
    assert_eq!((&row["model"], &row["cost"]), (&json!("m"), &json!(COST)));
}

async fn a_list_of_models_judges_an_alias_by_its_target(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("aliases: {fast: p:m, slow: p:other}");
    let gateway = priced(start, &provider).await;
    let body = json!({"user_id": "u", "allowed_models": ["p:m"]});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    let key = made["key"].as_str().unwrap();
    gateway.chat(key, &ask_with(json!({"model": "fast"}))).await.expect(200);
    let refusal = gateway.chat(key, &ask_with(json!({"model": "slow"}))).await.refused(403);
    assert_eq!(refusal["detail"], "Model 'slow' is not permitted for this API key.");
}

async fn what_an_alias_cannot_be_is_refused(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start.config("aliases: {fast: p:m}"), &provider).await;
    gateway.user("u", None).await;
    gateway.user("gone", None).await;
    gateway.delete("/v1/users/gone").await;
    let post = |body: Value| (Method::POST, "/v1/aliases", body);
    let form = "must be instance:model (e.g. openai:gpt-4o); an alias cannot stand for another";
    let config = "Alias 'fast' is defined in config.yml; a stored one cannot take its place";
    for (body, status, detail) in [
        (json!({"name": "", "target": "p:m"}), 400, "An alias needs a name".to_owned()),
        (
            json!({"name": "a:b", "target": "p:m"}),
            400,
            "Alias name 'a:b' must not contain ':' or '/'".to_owned(),
        ),
        (
            json!({"name": "p", "target": "p:m"}),
            400,
            "Alias name 'p' is the name of a provider".to_owned(),
        ),
        (
            json!({"name": "openai", "target": "p:m"}),
            400,
            "Alias name 'openai' is the name of a provider".to_owned(),
        ),
        (
            json!({"name": "a", "target": "zzz:m"}),
            400,
            "Alias target 'zzz:m': unknown provider or instance 'zzz'".to_owned(),
        ),
        (json!({"name": "a", "target": "fast"}), 400, format!("Alias target 'fast' {form}")),
        (
            json!({"name": "a/b", "target": "p:"}),
            400,
            format!("Alias name 'a/b' must not contain ':' or '/'; Alias target 'p:' {form}"),
        ),
        (json!({"name": "fast", "target": "p:m"}), 400, config.to_owned()),
        (
            json!({"name": "a", "target": "p:m", "user_id": "nobody"}),
            404,
            "User 'nobody' not found".to_owned(),
        ),
        (
            json!({"name": "a", "target": "p:m", "user_id": "gone"}),
            404,
            "User 'gone' not found".to_owned(),
        ),
    ] {
        gateway.refuses(post(body), status, &detail).await;
    }
    for (body, kind, field) in [
        (json!({"target": "p:m"}), "missing", "name"),
        (json!({"name": "a"}), "missing", "target"),
        (json!({"name": 1, "target": "p:m"}), "string_type", "name"),
        (json!({"name": "a\0", "target": "p:m"}), "value_error", "name"),
        (json!({"name": "a", "target": "p:m", "user_id": 1}), "string_type", "user_id"),
    ] {
        gateway.faults(post(body), kind, json!(["body", field])).await;
    }
    assert_eq!(gateway.read("/v1/aliases").await.as_array().map(Vec::len), Some(1));
    gateway.get("/v1/aliases").await.refused(401);
}

async fn what_is_no_stored_alias_is_neither_deleted_nor_priced(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start.config("aliases: {fast: p:m}"), &provider).await;
    for (path, detail) in [
        ("/v1/aliases/none", "Alias 'none' (global) not found"),
        ("/v1/aliases/none?user_id=u", "Alias 'none' (scoped to user 'u') not found"),
        ("/v1/aliases/fast?user_id=u", "Alias 'fast' (scoped to user 'u') not found"),
        (
            "/v1/aliases/fast",
            "Alias 'fast' is defined in config.yml and cannot be deleted through the API.",
        ),
    ] {
        gateway.refuses((Method::DELETE, path, Value::Null), 404, detail).await;
    }
    let price =
        json!({"model_key": "fast", "input_price_per_million": 1, "output_price_per_million": 1});
    let detail = "'fast' is an alias and has no price of its own; set the price of 'p:m'";
    gateway.refuses((Method::POST, "/v1/pricing", price), 400, detail).await;
}

#[tokio::test]
async fn an_alias_of_a_provider_that_is_not_configured_says_so() {
    let start =
        priced(Gateway::start(), &Provider::streams(["ok"])).config("require_pricing: false");
    let gateway = start.await;
    put(&gateway, json!({"name": "far", "target": "groq:llama"})).await;
    let key = gateway.key("u").await;
    let refusal = gateway.chat(&key, &ask_with(json!({"model": "far"}))).await.refused(400);
    assert_eq!(refusal["detail"], "Alias 'far' stands for a provider that is not configured");
}

#[test]
fn check_names_every_alias_that_is_none() {
    let aliases = "aliases: {a/b: p:m, openai: p:m, c: fast, d: zzz:m, e: , f: 7, g: p:m}";
    let builder = Gateway::start().provider_at("p", "http://127.0.0.1:9/v1", "").config(aliases);
    let (_, file) = builder.write();
    let done = Gateway::run(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(!done.status.success(), "{said}");
    for part in ["a/b", "aliases.openai", "aliases.c:", "aliases.d:", "aliases.e:", "aliases.f:"] {
        assert!(said.contains(part), "`{part}` is not named: {said}");
    }
    assert!(!said.contains("aliases.g"), "{said}");
}

on_both_databases!(
    a_users_alias_wins_then_the_files_then_everybodys,
    answers_show_the_alias_and_rows_the_target,
    a_list_of_models_judges_an_alias_by_its_target,
    what_an_alias_cannot_be_is_refused,
    what_is_no_stored_alias_is_neither_deleted_nor_priced,
);
