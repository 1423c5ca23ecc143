//! The gates before a generation, in order: whom they turn away, in which words, and that they leave no trace.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::Provider;
use crate::support::{ask, ask_with, on_both_databases, priced};

/// A gateway with a provider that must not be called, and a user `u` with a key.
async fn guarded(start: Builder) -> (Provider, Gateway, String) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    (provider, gateway, key)
}

/// Asserts that a refusal left nothing behind.
async fn untouched(provider: &Provider, gateway: &Gateway) {
    assert_eq!(provider.count(), 0, "a refused request never reaches the provider");
    assert_eq!(gateway.settled("u").await, 0.0, "a refusal costs nothing");
}

async fn a_credential_is_taken_from_every_header_that_clients_use(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    let bearer = format!("Bearer {key}");
    for header in [
        ("authorization", bearer.as_str()),
        ("otari-key", &bearer),
        ("otari-key", &key),
        ("anyllm-key", &bearer),
        ("x-anyllm-key", &bearer),
        ("x-api-key", &key),
    ] {
        let headers = [header, ("content-type", "application/json")];
        let answer =
            gateway.send(Method::POST, "/v1/chat/completions", &headers, ask().to_string()).await;
        assert_eq!(answer.status, 200, "{header:?}: {}", answer.text());
    }
    let headers = [
        ("otari-key", ""),
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let answer =
        gateway.send(Method::POST, "/v1/chat/completions", &headers, ask().to_string()).await;
    assert_eq!(answer.status, 200, "an empty header is as good as none: {}", answer.text());
    assert_eq!(provider.count(), 7);
}

async fn a_missing_or_wrong_credential_is_401(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    let bearer = format!("Bearer {key}");
    let unknown = format!("Bearer gw-{}", "x".repeat(64));
    for (headers, words) in [
        (vec![], "Missing Otari-Key"),
        (vec![("authorization", "")], "Missing Otari-Key"),
        (vec![("authorization", key.as_str())], "Invalid header format. Expected 'Bearer <token>'"),
        (vec![("authorization", "Basic dTpw")], "Invalid header format. Expected 'Bearer <token>'"),
        (vec![("authorization", "Bearer nonsense")], "Invalid API key"),
        (vec![("authorization", unknown.as_str())], "Invalid API key"),
        (vec![("x-api-key", "gw-nobody")], "Invalid API key"),
        (vec![("otari-key", "gw-nobody")], "Invalid API key"),
        (
            vec![("otari-key", unknown.as_str()), ("authorization", bearer.as_str())],
            "Invalid API key",
        ),
    ] {
        let sent = [&headers[..], &[("content-type", "application/json")]].concat();
        let answer =
            gateway.send(Method::POST, "/v1/chat/completions", &sent, ask().to_string()).await;
        let body = answer.refused(401);
        let sentence = body["detail"].as_str().unwrap_or_default();
        assert!(sentence.starts_with(words), "{headers:?}: {sentence}");
        assert_eq!(
            answer.header("www-authenticate"),
            None,
            "a browser must not ask for a password"
        );
    }
    untouched(&provider, &gateway).await;
}

async fn a_credential_is_checked_before_the_body(start: Builder) {
    let (provider, gateway, _) = guarded(start).await;
    for body in ["", "{", "[]", "{\"model\":3}"] {
        gateway.post("gw-nobody", "/v1/chat/completions", body).await.refused(401);
    }
    untouched(&provider, &gateway).await;
}

async fn a_body_of_the_wrong_shape_is_422_and_says_where(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    let no_role = json!({"model": "p:m", "messages": [{"content": "hi"}]}).to_string();
    for (body, kind, place) in [
        ("{", "json_invalid", json!(["body", 1])),
        ("[]", "model_attributes_type", json!(["body"])),
        (r#"{"messages":[{"role":"user","content":"hi"}]}"#, "missing", json!(["body", "model"])),
        (r#"{"model":"p:m"}"#, "missing", json!(["body", "messages"])),
        (r#"{"model":3,"messages":[{"role":"user"}]}"#, "string_type", json!(["body", "model"])),
        (r#"{"model":"p:m","messages":[]}"#, "too_short", json!(["body", "messages"])),
        (r#"{"model":"p:m","messages":"hi"}"#, "list_type", json!(["body", "messages"])),
        (&no_role, "value_error", json!(["body", "messages"])),
        (
            r#"{"model":"p:m","messages":[{"role":"user"}],"max_tokens":"many"}"#,
            "int_parsing",
            json!(["body", "max_tokens"]),
        ),
        (
            r#"{"model":"p:m","messages":[{"role":"user"}],"stream":"maybe"}"#,
            "bool_parsing",
            json!(["body", "stream"]),
        ),
    ] {
        let answer = gateway.post(&key, "/v1/chat/completions", body.to_owned()).await;
        let refusal = answer.refused_for_good(422);
        let first = &refusal["detail"][0];
        assert_eq!((&first["type"], &first["loc"]), (&json!(kind), &place), "{body}: {refusal}");
        assert!(first["msg"].is_string(), "{refusal}");
    }
    let answer =
        gateway.post(&key, "/v1/chat/completions", r#"{"messages":[],"max_tokens":1.5}"#).await;
    let all = answer.refused(422)["detail"].as_array().map_or(0, Vec::len);
    assert_eq!(all, 3, "every fault at once: {}", answer.text());
    untouched(&provider, &gateway).await;
}

async fn a_body_that_is_not_declared_as_json_is_422(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let answer =
        gateway.send(Method::POST, "/v1/chat/completions", &headers, ask().to_string()).await;
    assert_eq!(answer.refused(422)["detail"][0]["type"], "model_attributes_type");
    untouched(&provider, &gateway).await;
}

async fn a_blank_model_is_400(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    for model in ["", "   "] {
        let body =
            gateway.chat(&key, &ask_with(json!({"model": model}))).await.refused_for_good(400);
        assert_eq!(body["detail"], "Invalid request: model is required");
    }
    untouched(&provider, &gateway).await;
}

async fn the_master_key_must_say_who_pays(start: Builder) {
    let (provider, gateway, _) = guarded(start).await;
    for body in [ask(), ask_with(json!({"user": ""})), ask_with(json!({"user": null}))] {
        let refusal = gateway.chat(MASTER, &body).await.refused_for_good(400);
        assert_eq!(
            refusal["detail"],
            "When using master key, 'user' field is required in request body"
        );
    }
    untouched(&provider, &gateway).await;
    gateway.chat(MASTER, &ask_with(json!({"user": "u"}))).await.expect(200);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!((&row["user_id"], &row["api_key_id"]), (&json!("u"), &Value::Null), "{row}");
}

async fn a_key_cannot_spend_anothers_money(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    gateway.user("other", None).await;
    let refusal =
        gateway.chat(&key, &ask_with(json!({"user": "other"}))).await.refused_for_good(403);
    assert_eq!(refusal["detail"], "'user' field does not match the authenticated API key's user");
    untouched(&provider, &gateway).await;

    gateway.chat(&key, &ask_with(json!({"user": "u"}))).await.expect(200);
    gateway.chat(&key, &ask_with(json!({"user": "a label of nobody"}))).await.expect(200);
    for row in gateway.usage(2).await {
        assert_eq!(row["user_id"], "u", "the key's user pays: {row}");
    }
}

async fn a_mismatch_can_be_allowed_and_the_keys_user_still_pays(start: Builder) {
    let (_provider, gateway, key) = guarded(start.config("reject_user_mismatch: false")).await;
    gateway.user("other", None).await;
    gateway.chat(&key, &ask_with(json!({"user": "other"}))).await.expect(200);
    assert_eq!(gateway.usage(1).await[0]["user_id"], "u");
}

async fn too_many_requests_are_told_when_to_come_back(start: Builder) {
    let (provider, gateway, key) = guarded(start.config("rate_limit_rpm: 2")).await;
    for left in ["1", "0"] {
        let answer = gateway.chat(&key, &ask()).await.expect(200);
        assert_eq!(answer.header("x-ratelimit-limit"), Some("2"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left));
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("2"), "OpenAI's name for it");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        let reset = answer.header("x-ratelimit-reset").and_then(|at| at.parse::<u64>().ok());
        assert!(reset.is_some_and(|at| at > 1_700_000_000), "seconds since 1970: {reset:?}");
    }
    let second_key = gateway.key("u").await;
    let answer = gateway.chat(&second_key, &ask()).await;
    assert_eq!(
        answer.refused(429)["detail"],
        "Rate limit exceeded",
        "keys of one user share the limit"
    );
    let wait = answer.header("retry-after").and_then(|wait| wait.parse::<u32>().ok());
    assert!(
        wait.is_some_and(|wait| (1..=60).contains(&wait)),
        "whole seconds: {:?}",
        answer.headers
    );
    assert_eq!(provider.count(), 2);
    let other = gateway.key("other").await;
    gateway.chat(&other, &ask()).await.expect(200);
    gateway.settled("u").await;
}

async fn an_unknown_user_is_404(start: Builder) {
    let (provider, gateway, _) = guarded(start).await;
    let refusal = gateway.chat(MASTER, &ask_with(json!({"user": "ghost"}))).await.refused(404);
    assert_eq!(refusal["detail"], "User 'ghost' not found");
    untouched(&provider, &gateway).await;
}

async fn a_deleted_user_is_refused(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    gateway.manage(Method::DELETE, "/v1/users/u", Value::Null).await;
    let refusal = gateway.chat(&key, &ask()).await.refused(401);
    assert_eq!(refusal["detail"], "API key is inactive", "a deleted user's keys are switched off");
    let refusal = gateway.chat(MASTER, &ask_with(json!({"user": "u"}))).await.refused(404);
    assert_eq!(refusal["detail"], "User 'u' not found");
    assert_eq!(provider.count(), 0);
}

async fn a_blocked_user_is_403_at_once_and_welcome_again_at_once(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    gateway.manage(Method::PATCH, "/v1/users/u", json!({"blocked": true})).await;
    let refusal = gateway.chat(&key, &ask()).await.refused_for_good(403);
    assert_eq!(refusal["detail"], "User 'u' is blocked");
    untouched(&provider, &gateway).await;
    gateway.manage(Method::PATCH, "/v1/users/u", json!({"blocked": false})).await;
    gateway.chat(&key, &ask()).await.expect(200);
}

async fn a_spent_budget_is_403(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    let nothing = gateway.budget(0.0).await;
    gateway.manage(Method::PATCH, "/v1/users/u", json!({"budget_id": nothing})).await;
    for body in [ask(), ask_with(json!({"stream": true}))] {
        let refusal = gateway.chat(&key, &body).await.refused_for_good(403);
        assert_eq!(refusal["detail"], "User 'u' has exceeded budget limit");
    }
    untouched(&provider, &gateway).await;
}

async fn a_model_without_a_price_is_402(start: Builder) {
    let (provider, gateway, key) = guarded(start).await;
    for model in ["p:unpriced", "nope:m", "bare-name"] {
        let refusal = gateway.chat(&key, &ask_with(json!({"model": model}))).await;
        if model == "p:unpriced" {
            let sentence = refusal.refused_for_good(402)["detail"].to_string();
            assert!(
                sentence.contains("p:unpriced") && sentence.starts_with("\"No pric"),
                "{sentence}"
            );
        } else {
            assert!(matches!(refusal.status, 400 | 402), "{model}: {}", refusal.text());
            refusal.refused_for_good(refusal.status);
        }
    }
    untouched(&provider, &gateway).await;
}

async fn an_unknown_model_is_400_when_prices_are_not_required(start: Builder) {
    let (provider, gateway, key) = guarded(start.config("require_pricing: false")).await;
    for model in ["nope:m", "p:", ":m"] {
        let refusal =
            gateway.chat(&key, &ask_with(json!({"model": model}))).await.refused_for_good(400);
        let sentence = refusal["detail"].to_string();
        assert!(sentence.contains(model), "the model is named as sent: {sentence}");
    }
    untouched(&provider, &gateway).await;
    gateway.chat(&key, &ask_with(json!({"model": "p:unpriced"}))).await.expect(200);
    assert_eq!(gateway.usage(1).await[0]["cost"], Value::Null, "unpriced is unknown, not free");
}

async fn a_key_that_ends_is_refused_at_once(start: Builder) {
    let (provider, gateway, _) = guarded(start).await;
    for (change, words) in [
        (Some(json!({"is_active": false})), "API key is inactive"),
        (Some(json!({"expires_at": "2020-01-01T00:00:00Z"})), "API key has expired"),
        (None, "Invalid API key"),
    ] {
        let made = gateway.manage(Method::POST, "/v1/keys", json!({"user_id": "u"})).await;
        let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
        let path = format!("/v1/keys/{id}");
        let before = provider.count();
        gateway.chat(key, &ask()).await.expect(200);
        match change {
            Some(change) => gateway.manage(Method::PATCH, &path, change).await,
            None => gateway.manage(Method::DELETE, &path, Value::Null).await,
        };
        let refusal = gateway.chat(key, &ask()).await.refused(401);
        assert_eq!(refusal["detail"], words);
        assert_eq!(provider.count(), before + 1, "only the call before the change arrived");
    }
    gateway.usage(3).await;
}
on_both_databases!(a_spent_budget_is_403, a_key_that_ends_is_refused_at_once);

on_both_databases!(
    a_credential_is_taken_from_every_header_that_clients_use,
    a_missing_or_wrong_credential_is_401,
    a_credential_is_checked_before_the_body,
    a_body_of_the_wrong_shape_is_422_and_says_where,
    a_body_that_is_not_declared_as_json_is_422,
    a_blank_model_is_400,
    the_master_key_must_say_who_pays,
    a_key_cannot_spend_anothers_money,
    a_mismatch_can_be_allowed_and_the_keys_user_still_pays,
    too_many_requests_are_told_when_to_come_back,
    an_unknown_user_is_404,
    a_deleted_user_is_refused,
    a_blocked_user_is_403_at_once_and_welcome_again_at_once,
    a_model_without_a_price_is_402,
    an_unknown_model_is_400_when_prices_are_not_required,
);
