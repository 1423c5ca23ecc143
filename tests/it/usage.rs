//! `/v1/usage` and `/v1/users/{id}/usage`: who called what.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::Builder;
use crate::support::provider::Provider;
use crate::support::{ask, on_both_databases, priced};

async fn a_users_rows_are_theirs_alone_and_newest_first(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let (key, other) = (gateway.key("u").await, gateway.key("v").await);
    for key in [&key, &other, &key, &key] {
        gateway.chat(key, &ask()).await.expect(200);
    }
    gateway.user("idle", None).await;
    let all = gateway.usage(4).await;
    let theirs = gateway.read("/v1/users/u/usage").await;
    let theirs = theirs.as_array().expect("a list");
    let expected: Vec<Value> = all.iter().filter(|row| row["user_id"] == "u").cloned().collect();
    assert_eq!(*theirs, expected, "the same rows in the same shape and order");
    assert_eq!(theirs.len(), 3);
    assert!(theirs[0]["timestamp"].as_str() > theirs[2]["timestamp"].as_str(), "{theirs:?}");
    let page = gateway.read("/v1/users/u/usage?skip=1&limit=1").await;
    assert_eq!(page, json!([theirs[1]]));
    assert_eq!(gateway.read("/v1/usage?user_id=u").await, json!(theirs));
    assert_eq!(gateway.read("/v1/users/idle/usage").await, json!([]));
    let at = theirs[1]["timestamp"].as_str().expect("a time").replace('+', "%2B");
    let since = gateway.read(&format!("/v1/usage?user_id=u&start_date={at}")).await;
    assert_eq!(since, json!(theirs[..2]), "start is inclusive");
    let until = gateway.read(&format!("/v1/usage?user_id=u&end_date={at}")).await;
    assert_eq!(until, json!(theirs[2..]), "end is exclusive");
}

async fn rows_outlive_their_key_and_their_user(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    let row = gateway.usage(1).await.remove(0);
    let path = format!("/v1/keys/{}", row["api_key_id"].as_str().expect("a key"));
    gateway.delete(&path).await;
    gateway.delete("/v1/users/u").await;
    gateway.terminate().await;
    gateway.restart().await;
    let kept = gateway.read("/v1/users/u/usage").await.as_array().expect("a list").clone();
    assert_eq!((kept.len(), &kept[0]["id"], &kept[0]["user_id"]), (1, &row["id"], &json!("u")));
    assert_eq!((&kept[0]["api_key_id"], &kept[0]["api_key_name"]), (&Value::Null, &Value::Null));
    assert_eq!(kept[0]["cost"], row["cost"]);
}

async fn what_cannot_be_asked_is_refused(start: Builder) {
    let gateway = start.await;
    let told = "User with id 'no/body' not found";
    gateway.refuses((Method::GET, "/v1/users/no%2Fbody/usage", Value::Null), 404, told).await;
    for (path, kind, place) in [
        ("/v1/usage?user_id=a%00", "value_error", json!(["query", "user_id"])),
        ("/v1/usage?start_date=soon", "datetime_from_date_parsing", json!(["query", "start_date"])),
        (
            "/v1/usage?end_date=2025-01-01T00:00:00+00:00",
            "datetime_from_date_parsing",
            json!(["query", "end_date"]),
        ),
        ("/v1/users/x/usage?limit=1001", "less_than_equal", json!(["query", "limit"])),
        ("/v1/users/x/usage?skip=-1", "greater_than_equal", json!(["query", "skip"])),
        ("/v1/users/x/usage?skip=99999999999999999999", "int_parsing", json!(["query", "skip"])),
    ] {
        gateway.faults((Method::GET, path, Value::Null), kind, place).await;
    }
}

on_both_databases!(
    a_users_rows_are_theirs_alone_and_newest_first,
    rows_outlive_their_key_and_their_user,
    what_cannot_be_asked_is_refused,
);
