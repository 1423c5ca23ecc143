//! What can be told anew while the gateway runs, and the master key that it makes for itself.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway, MASTER};
use crate::support::manage::names;
use crate::support::provider::{Provider, Reply, Step, chat_events};
use crate::support::{ask, ask_streamed, ask_with, eventually, on_both_databases, priced};

const SHAPE: &str = "mode version model_discovery default_pricing require_pricing master_key_source \
                     secret_key_configured config";
const ENTRY: &str = "key value type settable group description options minimum exclusive_minimum";
const SETTABLE: [&str; 14] = [
    "budget_estimate_default_output_tokens",
    "default_pricing",
    "file_understanding_enabled",
    "model_cache_ttl_seconds",
    "model_discovery",
    "model_discovery_negative_ttl_seconds",
    "model_discovery_timeout_seconds",
    "models_dev_metadata",
    "reject_user_mismatch",
    "require_pricing",
    "stream_missing_usage_policy",
    "vision_describe_max_tokens",
    "vision_describe_model",
    "vision_strategy",
];

fn entry<'a>(settings: &'a Value, key: &str) -> &'a Value {
    let found = settings["config"].as_array().unwrap().iter().find(|entry| entry["key"] == key);
    found.unwrap_or_else(|| panic!("{key} is listed: {settings}"))
}

async fn settings_are_listed_with_what_they_may_hold(start: Builder) {
    let gateway = start.config("require_pricing: false\nrate_limit_rpm: 7").await;
    let all = gateway.read("/v1/settings").await;
    assert_eq!(names(&all), SHAPE);
    assert_eq!((&all["mode"], &all["require_pricing"]), (&json!("standalone"), &json!(false)));
    assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&all["model_discovery"], &all["default_pricing"]), (&json!(false), &json!(false)));
    assert_eq!(all["master_key_source"], "configured");
    assert_eq!(all["secret_key_configured"], false);
    let entries = all["config"].as_array().unwrap();
    let mut settable: Vec<&str> = Vec::new();
    for entry in entries {
        assert_eq!(names(entry), ENTRY);
        assert!(entry["description"].as_str().is_some_and(|text| !text.is_empty()), "{entry}");
        if entry["settable"] == json!(true) {
            settable.push(entry["key"].as_str().unwrap());
        }
    }
    settable.sort_unstable();
    assert_eq!(settable, SETTABLE);
    let tokens = entry(&all, "budget_estimate_default_output_tokens");
    assert_eq!(
        (&tokens["value"], &tokens["type"], &tokens["minimum"], &tokens["options"]),
        (&json!(1024), &json!("integer"), &json!(0), &Value::Null)
    );
    let policy = entry(&all, "stream_missing_usage_policy");
    assert_eq!(policy["options"], json!(["allow_free", "estimate", "fail"]));
    assert_eq!((&policy["value"], &policy["type"]), (&json!("estimate"), &json!("enum")));
    assert_eq!(entry(&all, "rate_limit_rpm")["value"], 7);
    assert_eq!(entry(&all, "rate_limit_rpm")["settable"], false);
    assert!(!all.to_string().contains(MASTER), "no secret is listed");
    gateway.get("/v1/settings").await.refused(401);
}

async fn a_changed_setting_holds_at_once_and_after_a_restart(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = start.provider("p", &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.refused(402);
    let changed = gateway.patch("/v1/settings", json!({"require_pricing": false})).await;
    assert_eq!(names(&changed), SHAPE);
    assert_eq!(
        (&changed["require_pricing"], &entry(&changed, "require_pricing")["value"]),
        (&json!(false), &json!(false))
    );
    gateway.chat(&key, &ask()).await.expect(200);

    gateway.terminate().await;
    gateway.restart().await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(
        gateway.patch("/v1/settings", json!({})).await,
        changed,
        "nothing named, nothing changed"
    );
    let back = gateway.patch("/v1/settings", json!({"require_pricing": null})).await;
    assert_eq!(back["require_pricing"], true, "null: the configuration holds again");
    gateway.chat(&key, &ask()).await.refused(402);
}

async fn the_assumed_output_is_that_of_now(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let budget = gateway.budget(1.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    // 1024 tokens at 2000 USD per million are more than a dollar; 100 are not.
    gateway.chat(&key, &ask()).await.refused(403);
    let changed = gateway
        .patch("/v1/settings", json!({"budget_estimate_default_output_tokens": "100"}))
        .await;
    assert_eq!(entry(&changed, "budget_estimate_default_output_tokens")["value"], 100);
    gateway.chat(&key, &ask()).await.expect(200);
}

async fn a_stream_without_usage_costs_what_is_said_now(start: Builder) {
    let provider = Provider::start(|_| {
        let events = chat_events(&["ok"], false);
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let gateway = priced(start, &provider).await;
    let budget = gateway.budget(100.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    gateway.patch("/v1/settings", json!({"stream_missing_usage_policy": "fail"})).await;
    gateway.chat(&key, &ask_streamed()).await.expect(200);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!(row["status"], "error", "{row}");
    gateway.patch("/v1/settings", json!({"stream_missing_usage_policy": "allow_free"})).await;
    gateway.chat(&key, &ask_streamed()).await.expect(200);
    let row = gateway.usage(2).await.remove(0);
    assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &Value::Null), "{row}");
}

/// What is answered 200 is in force, however odd it is.
async fn any_time_that_is_taken_holds(start: Builder) {
    let mut gateway = start.await;
    for (key, sent, kept) in [
        ("model_discovery_timeout_seconds", 1e-300, 1e-9),
        ("model_discovery_timeout_seconds", 2.5, 2.5),
        ("model_discovery_negative_ttl_seconds", 1e300, 2_592_000.0),
        ("model_discovery_negative_ttl_seconds", 0.0, 0.0),
        ("model_discovery_negative_ttl_seconds", 1e300, 2_592_000.0),
    ] {
        let changed = gateway.patch("/v1/settings", json!({(key): sent})).await;
        assert_eq!(entry(&changed, key)["value"], kept, "{key} {sent}");
    }
    gateway.terminate().await;
    gateway.restart().await;
    let settings = gateway.read("/v1/settings").await;
    let kept = &entry(&settings, "model_discovery_negative_ttl_seconds")["value"];
    assert_eq!(*kept, 2_592_000.0);
    assert!(!gateway.log().contains("a stored setting is not one"), "{}", gateway.log());
}

async fn every_wrong_setting_is_named_and_none_is_taken(start: Builder) {
    let gateway = start.await;
    let before = gateway.read("/v1/settings").await;
    let body = json!({
        "require_pricing": false,
        "nonsense": 1,
        "reject_user_mismatch": "perhaps",
        "rate_limit_rpm": 5,
        "budget_estimate_default_output_tokens": -1,
        "stream_missing_usage_policy": "guess",
        "master_key_hash": "x",
    });
    let refusal = gateway.try_manage(Method::PATCH, "/v1/settings", body).await.refused(422);
    let faults: Vec<Value> = refusal["detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| json!([fault["loc"][1], fault["type"]]))
        .collect();
    assert_eq!(
        json!(faults),
        json!([
            ["nonsense", "extra_forbidden"],
            ["reject_user_mismatch", "bool_parsing"],
            ["rate_limit_rpm", "value_error"],
            ["budget_estimate_default_output_tokens", "greater_than_equal"],
            ["stream_missing_usage_policy", "literal_error"],
            ["master_key_hash", "extra_forbidden"],
        ]),
        "{refusal}"
    );
    assert_eq!(refusal["detail"][4]["msg"], "Input should be 'allow_free', 'estimate' or 'fail'");
    let patch = |body: Value| (Method::PATCH, "/v1/settings", body);
    let most = json!({"budget_estimate_default_output_tokens": 1_u64 << 40});
    let place = json!(["body", "budget_estimate_default_output_tokens"]);
    gateway.faults(patch(most), "less_than_equal", place).await;
    gateway.faults(patch(json!([])), "model_attributes_type", json!(["body"])).await;
    assert_eq!(gateway.read("/v1/settings").await, before, "all or nothing");
}

/// The key on its line; it is printed a moment after the gateway listens, and between lines of the log.
pub(crate) async fn shown(gateway: &Gateway) -> String {
    eventually("the master key to be shown", async || {
        let log = gateway.log();
        let key = log.lines().find(|line| line.starts_with("otari-mk-")).map(str::to_owned);
        assert!(key.is_none() || log.contains("No master key is configured. Created one"));
        key
    })
    .await
}

async fn with(gateway: &Gateway, method: Method, path: &str, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    gateway.send(method, path, &[("authorization", bearer.as_str())], "").await
}

async fn a_master_key_is_made_once_and_rotated(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("master_key: null\nbootstrap_api_key: true");
    let mut gateway = priced(start, &provider).await;
    let first = shown(&gateway).await;
    // 32 bytes in base64 are 43 characters.
    assert!(first.starts_with("otari-mk-") && first.len() == 9 + 43, "{first}");
    let settings = with(&gateway, Method::GET, "/v1/settings", &first).await.expect(200).json();
    assert_eq!(settings["master_key_source"], "generated");
    with(&gateway, Method::GET, "/v1/keys", "otari-mk-wrong").await.refused(401);

    gateway.terminate().await;
    gateway.restart().await;
    with(&gateway, Method::GET, "/v1/keys", &first).await.expect(200);
    assert_eq!(gateway.log().matches(&first).count(), 1, "it is shown once");

    let path = "/v1/settings/master-key/rotate";
    let rotated = with(&gateway, Method::POST, path, &first).await.expect(200).json();
    assert_eq!(names(&rotated), "master_key");
    let second = rotated["master_key"].as_str().unwrap();
    assert!(second.starts_with("otari-mk-") && second != first, "{second}");
    let refusal = with(&gateway, Method::GET, "/v1/keys", &first).await.refused(401);
    assert_eq!(refusal["detail"], "Invalid master key", "the old one is dead at once");
    with(&gateway, Method::GET, "/v1/keys", second).await.expect(200);
    let body = ask_with(json!({"user": "nobody"})).to_string();
    let refusal = gateway.post(&first, "/v1/chat/completions", body.clone()).await.refused(401);
    assert_eq!(refusal["error"]["code"], "invalid_format", "for generations, too");
    gateway.post(second, "/v1/chat/completions", body).await.refused(404);

    gateway.terminate().await;
    gateway.restart().await;
    with(&gateway, Method::GET, "/v1/keys", &first).await.refused(401);
    with(&gateway, Method::GET, "/v1/keys", second).await.expect(200);
    assert!(!gateway.log().contains(second), "a rotated key is in its answer alone");
}

async fn a_configured_master_key_is_not_rotated(start: Builder) {
    let gateway = start.await;
    let path = "/v1/settings/master-key/rotate";
    let refusal = gateway.try_manage(Method::POST, path, Value::Null).await.refused(409);
    let sentence = refusal["detail"].as_str().unwrap_or_default();
    assert!(sentence.contains("set in the configuration"), "{sentence}");
    gateway.read("/v1/keys").await;
    assert!(!gateway.log().contains("No master key is configured."));
}

#[tokio::test]
async fn a_damaged_digest_switches_management_off() {
    let start = Gateway::start().config("master_key: null");
    let (folder, _) = start.write();
    let mut gateway = start.await;
    let first = shown(&gateway).await;
    gateway.terminate().await;
    let database = rusqlite::Connection::open(folder.join("otari.db")).unwrap();
    database.execute_batch("UPDATE runtime_settings SET value = 'no digest'").unwrap();
    drop(database);
    gateway.restart().await;
    let refusal = with(&gateway, Method::GET, "/v1/keys", &first).await.refused(503);
    assert_eq!(
        refusal["detail"],
        "Master key not configured. Set OTARI_MASTER_KEY environment variable."
    );
    assert_eq!(refusal["error"]["code"], "master_key_not_configured");
}

on_both_databases!(
    settings_are_listed_with_what_they_may_hold,
    a_changed_setting_holds_at_once_and_after_a_restart,
    the_assumed_output_is_that_of_now,
    a_stream_without_usage_costs_what_is_said_now,
    any_time_that_is_taken_holds,
    every_wrong_setting_is_named_and_none_is_taken,
    a_master_key_is_made_once_and_rotated,
    a_configured_master_key_is_not_rotated,
);
