//! `/v1/keys`: shapes, changes, and secrets that are replaced.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::Provider;
use crate::support::{ask, eventually, on_both_databases, priced};

const WITH_SECRET: &str = "id key key_prefix key_name user_id created_at expires_at is_active allowed_models \
     exclude_from_budget reject_user_mismatch metadata";
const LISTED: &str = "id key_prefix key_name user_id created_at last_used_at expires_at is_active allowed_models \
     exclude_from_budget reject_user_mismatch metadata";

async fn a_rotated_key_has_a_new_secret_and_the_old_one_is_dead(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let body = json!({"key_name": "n", "user_id": "u", "metadata": {"team": "red"}});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    assert_eq!(names(&made), WITH_SECRET);
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let old = made["key"].as_str().unwrap();
    assert_eq!(made["key_prefix"], old[..10]);
    gateway.chat(old, &ask()).await.expect(200);
    // Written behind the request; afterwards nothing writes it again for minutes.
    eventually("last_used_at", async || {
        (!gateway.read(&path).await["last_used_at"].is_null()).then_some(())
    })
    .await;

    let rotated = gateway.manage(Method::POST, &format!("{path}/rotate"), Value::Null).await;
    assert_eq!(names(&rotated), WITH_SECRET);
    let new = rotated["key"].as_str().unwrap();
    assert!(new.starts_with("gw-") && new.len() == 67 && new != old, "{new}");
    for kept in ["id", "key_name", "user_id", "created_at", "is_active", "metadata"] {
        assert_eq!(rotated[kept], made[kept], "{kept}");
    }
    let listed = gateway.read(&path).await;
    assert_eq!(names(&listed), LISTED);
    assert_eq!((&listed["key_prefix"], &listed["last_used_at"]), (&new[..10].into(), &Value::Null));
    gateway.chat(old, &ask()).await.refused(401);
    gateway.chat(new, &ask()).await.expect(200);

    gateway.terminate().await;
    gateway.restart().await;
    gateway.chat(old, &ask()).await.refused(401);
    gateway.chat(new, &ask()).await.expect(200);
    assert!(!gateway.log().contains(&new[10..]), "a secret is shown once, and never logged");
}

#[tokio::test]
async fn a_key_that_was_off_is_off_after_its_rotation() {
    let gateway = Gateway::start().await;
    let made = gateway.manage(Method::POST, "/v1/keys", json!({})).await;
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    gateway.patch(&path, json!({"is_active": false})).await;
    let rotated = gateway.manage(Method::POST, &format!("{path}/rotate"), Value::Null).await;
    assert_eq!(rotated["is_active"], false);
    let refusal = gateway.chat(rotated["key"].as_str().unwrap(), &ask()).await.refused(401);
    assert_eq!(refusal["detail"], "API key is inactive");
}

async fn a_key_change_keeps_clears_and_sets(start: Builder) {
    let gateway = start.await;
    let body = json!({"key_name": "n", "expires_at": "2099-01-01T00:00:00+02:00"});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    assert_eq!(made["expires_at"], "2098-12-31T22:00:00+00:00", "offsets are converted");
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let same = gateway.patch(&path, json!({})).await;
    assert_eq!(names(&same), LISTED);
    assert_eq!((&same["key_name"], &same["expires_at"]), (&json!("n"), &made["expires_at"]));
    let cleared = gateway.patch(&path, json!({"key_name": null, "expires_at": null})).await;
    assert_eq!((&cleared["key_name"], &cleared["expires_at"]), (&Value::Null, &Value::Null));
    let set = gateway.patch(&path, json!({"metadata": {"a": 1}, "is_active": null})).await;
    assert_eq!((&set["metadata"], &set["is_active"]), (&json!({"a": 1}), &json!(true)));
    assert_eq!(gateway.read("/v1/keys").await, json!([set]));
}

async fn what_a_key_cannot_be_is_refused(start: Builder) {
    let gateway = start.await;
    for (method, path) in [
        (Method::GET, "/v1/keys/no%2Fbody"),
        (Method::PATCH, "/v1/keys/no%2Fbody"),
        (Method::DELETE, "/v1/keys/no%2Fbody"),
        (Method::POST, "/v1/keys/no%2Fbody/rotate"),
    ] {
        gateway
            .refuses((method, path, json!({})), 404, "API key with id 'no/body' not found")
            .await;
    }
    let post = |body: Value| (Method::POST, "/v1/keys", body);
    for (call, kind, place) in [
        (post(json!({"key_name": "a\0b"})), "value_error", json!(["body", "key_name"])),
        (post(json!({"user_id": "\0"})), "value_error", json!(["body", "user_id"])),
        (post(json!({"user_id": 7})), "string_type", json!(["body", "user_id"])),
        (post(json!({"metadata": null})), "dict_type", json!(["body", "metadata"])),
        (
            post(json!({"expires_at": -1e14})),
            "datetime_from_date_parsing",
            json!(["body", "expires_at"]),
        ),
        (
            (Method::PATCH, "/v1/keys/x", json!({"key_name": "\0"})),
            "value_error",
            json!(["body", "key_name"]),
        ),
        ((Method::GET, "/v1/keys/a%00b", Value::Null), "value_error", json!(["path", "key_id"])),
        (
            (Method::GET, "/v1/keys?limit=0", Value::Null),
            "greater_than_equal",
            json!(["query", "limit"]),
        ),
    ] {
        gateway.faults(call, kind, place).await;
    }
}

on_both_databases!(
    a_rotated_key_has_a_new_secret_and_the_old_one_is_dead,
    a_key_change_keeps_clears_and_sets,
    what_a_key_cannot_be_is_refused,
);
