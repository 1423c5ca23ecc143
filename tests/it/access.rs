//! Which models a key and a user may call, and whose name a request may carry.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::Provider;
use crate::support::{ask, ask_with, on_both_databases, priced};

const BROADER: &str = "This key's allowed_models exceeds its user's default; a key can only narrow the user's model \
                       access, not broaden it.";

/// A gateway before one provider as `p` and as `q`, with prices for `p:m`, `p:gpt-4o` and `q:m`.
async fn two_instances(start: Builder, provider: &Provider) -> Gateway {
    let start = priced(start, provider).provider("q", provider);
    start.price("p:gpt-4o", 1.0, 1.0).price("q:m", 1.0, 1.0).await
}

/// A new key made of `body`: its path and the key itself.
async fn key(gateway: &Gateway, body: Value) -> (String, String) {
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    (path, made["key"].as_str().unwrap().to_owned())
}

/// What a call for `model` is answered: 200, or the refusal of a model that is not permitted.
async fn may(gateway: &Gateway, key: &str, model: &str) -> bool {
    let answer = gateway.chat(key, &ask_with(json!({"model": model}))).await;
    if answer.status == 200 {
        return true;
    }
    let refusal = answer.refused_for_good(403);
    assert_eq!(refusal["error"]["code"], "model_not_permitted", "{refusal}");
    assert_eq!(refusal["error"]["type"], "permission_error");
    assert_eq!(refusal["detail"], format!("Model '{model}' is not permitted for this API key."));
    false
}

async fn a_list_permits_what_it_names_and_nothing_else(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = two_instances(start, &provider).await;
    let (free, everything) = key(&gateway, json!({"user_id": "u"})).await;
    assert_eq!(gateway.read(&free).await["allowed_models"], Value::Null);
    let list = json!(["p/m", "p:m", "p:gpt-4*"]);
    let (path, some) = key(&gateway, json!({"user_id": "u", "allowed_models": list})).await;
    assert_eq!(gateway.read(&path).await["allowed_models"], json!(["p:m", "p:gpt-4*"]));
    let (_, none) = key(&gateway, json!({"user_id": "u", "allowed_models": []})).await;
    let (_, all_of_q) = key(&gateway, json!({"user_id": "u", "allowed_models": ["q:*"]})).await;

    for (key, permitted) in [
        (&everything, [true, true, true]),
        (&some, [true, true, false]),
        (&none, [false, false, false]),
        (&all_of_q, [false, false, true]),
    ] {
        for (model, permitted) in ["p:m", "p/gpt-4o", "q:m"].into_iter().zip(permitted) {
            assert_eq!(may(&gateway, key, model).await, permitted, "{model}");
        }
    }
    assert!(may(&gateway, &some, "gpt-4o").await, "a bare name is judged by where it leads");
    assert!(!may(&gateway, &some, "m").await, "one that leads to several places is not");
    assert!(!may(&gateway, &some, "nobody:m").await, "and neither is one that leads nowhere");
    gateway.chat(&everything, &ask_with(json!({"model": "nobody:m"}))).await.refused(402);

    let before = provider.count();
    gateway.terminate().await;
    gateway.restart().await;
    assert!(!may(&gateway, &some, "q:m").await, "the list outlives the process");
    assert!(!may(&gateway, &none, "p:m").await);
    assert_eq!(provider.count(), before, "no provider was asked");
    gateway.patch(&path, json!({"allowed_models": null})).await;
    assert!(may(&gateway, &some, "q:m").await, "null clears, from the next request on");
}

async fn a_keys_own_list_takes_the_place_of_its_users(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = two_instances(start, &provider).await;
    let body = json!({"user_id": "u", "allowed_models": ["p/*", "p:*"]});
    let made = gateway.manage(Method::POST, "/v1/users", body).await;
    assert_eq!(made["allowed_models"], json!(["p:*"]));
    let (inherits_path, inherits) = key(&gateway, json!({"user_id": "u"})).await;
    let (_, own) = key(&gateway, json!({"user_id": "u", "allowed_models": ["p:m"]})).await;
    assert_eq!(gateway.read(&inherits_path).await["allowed_models"], Value::Null);
    assert!(may(&gateway, &inherits, "p:gpt-4o").await && !may(&gateway, &inherits, "q:m").await);
    assert!(may(&gateway, &own, "p:m").await && !may(&gateway, &own, "p:gpt-4o").await);

    let same = gateway.patch("/v1/users/u", json!({"alias": "A"})).await;
    assert_eq!(same["allowed_models"], json!(["p:*"]), "absent keeps");
    gateway.patch("/v1/users/u", json!({"allowed_models": ["q:m"]})).await;
    assert!(may(&gateway, &inherits, "q:m").await && !may(&gateway, &inherits, "p:m").await);
    assert!(may(&gateway, &own, "p:m").await, "the user's later list does not touch the key's");

    gateway.terminate().await;
    gateway.restart().await;
    assert!(may(&gateway, &inherits, "q:m").await && !may(&gateway, &inherits, "p:m").await);
    let cleared = gateway.patch("/v1/users/u", json!({"allowed_models": null})).await;
    assert_eq!(cleared["allowed_models"], Value::Null);
    assert!(may(&gateway, &inherits, "p:m").await);

    gateway.patch("/v1/users/u", json!({"allowed_models": []})).await;
    gateway.delete("/v1/users/u").await;
    gateway.user("u", None).await;
    let (_, new) = key(&gateway, json!({"user_id": "u"})).await;
    assert!(may(&gateway, &new, "p:m").await, "a user who returns has the list of their return");
}

async fn a_key_cannot_broaden_its_users_list(start: Builder) {
    let gateway = two_instances(start, &Provider::streams(["ok"])).await;
    let body = json!({"user_id": "u", "allowed_models": ["p:gpt-4*", "q:m"]});
    gateway.manage(Method::POST, "/v1/users", body).await;
    let post =
        |list: Value| (Method::POST, "/v1/keys", json!({"user_id": "u", "allowed_models": list}));
    for broader in [json!(["p:*"]), json!(["q:m", "p:m"]), json!(["q:m*"])] {
        gateway.refuses(post(broader), 400, BROADER).await;
    }
    assert_eq!(gateway.read("/v1/keys").await, json!([]), "nothing was made");
    let (path, _) = key(&gateway, post(json!(["p:gpt-4o*", "q:m"])).2).await;
    gateway.refuses((Method::PATCH, &path, json!({"allowed_models": ["p:*"]})), 400, BROADER).await;
    assert_eq!(gateway.read(&path).await["allowed_models"], json!(["p:gpt-4o*", "q:m"]));
    let narrowed = gateway.patch(&path, json!({"allowed_models": []})).await;
    assert_eq!(narrowed["allowed_models"], json!([]));
}

async fn what_is_no_entry_is_refused_by_name(start: Builder) {
    let gateway = two_instances(start, &Provider::streams(["ok"])).await;
    gateway.manage(Method::POST, "/v1/aliases", json!({"name": "fast", "target": "p:m"})).await;
    gateway.user("u", None).await;
    let (path, _) = key(&gateway, json!({"user_id": "u"})).await;
    let form = "must be instance:model (e.g. openai:gpt-4o, openai:*, or openai:gpt-4*)";
    for (list, detail) in [
        (json!(["zzz:m"]), "'zzz:m': unknown provider or instance 'zzz'".to_owned()),
        (json!(["m"]), format!("'m' {form}")),
        (json!(["p*:m"]), format!("'p*:m' {form}")),
        (
            json!(["fast"]),
            "'fast' is an alias name; use its canonical instance:model target".to_owned(),
        ),
        (
            json!(["p:m", "*", "zzz:m"]),
            format!("'*' {form}; 'zzz:m': unknown provider or instance 'zzz'"),
        ),
    ] {
        for (method, path) in [
            (Method::POST, "/v1/keys"),
            (Method::POST, "/v1/users"),
            (Method::PATCH, path.as_str()),
            (Method::PATCH, "/v1/users/u"),
        ] {
            let body = json!({"user_id": "new", "allowed_models": list});
            gateway.refuses((method, path, body), 400, &detail).await;
        }
    }
    let place = |at: Value| at;
    for (list, kind, at) in [
        (json!("p:m"), "list_type", place(json!(["body", "allowed_models"]))),
        (json!(["p:m", 7]), "string_type", place(json!(["body", "allowed_models", 1]))),
    ] {
        for path in ["/v1/keys", "/v1/users"] {
            let body = json!({"user_id": "new", "allowed_models": list});
            gateway.faults((Method::POST, path, body), kind, at.clone()).await;
        }
    }
    let users = gateway.read("/v1/users").await;
    assert_eq!(users.as_array().map(Vec::len), Some(1), "nobody was made on the way: {users}");
}

async fn the_operator_is_bound_by_no_list(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = two_instances(start, &provider).await;
    let body = json!({"user_id": "u", "allowed_models": []});
    gateway.manage(Method::POST, "/v1/users", body).await;
    gateway.chat(MASTER, &ask_with(json!({"user": "u"}))).await.expect(200);
}

async fn a_forbidden_model_is_refused_before_the_budget_is_asked(start: Builder) {
    let gateway = two_instances(start, &Provider::streams(["ok"])).await;
    let empty = gateway.budget(0.0).await;
    gateway.user("u", Some(&empty)).await;
    let (path, key) = key(&gateway, json!({"user_id": "u", "allowed_models": ["q:m"]})).await;
    assert!(!may(&gateway, &key, "p:m").await);
    gateway.patch(&path, json!({"allowed_models": null})).await;
    let refusal = gateway.chat(&key, &ask()).await.refused(403);
    assert_eq!(refusal["error"]["code"], "budget_exceeded");
}

async fn a_key_may_say_for_itself_whose_name_it_takes(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start.config("reject_user_mismatch: false"), &provider).await;
    gateway.user("other", None).await;
    let named = ask_with(json!({"user": "other"}));
    let (inherits, lax) = key(&gateway, json!({"user_id": "u"})).await;
    let body = json!({"user_id": "u", "reject_user_mismatch": true, "exclude_from_budget": true});
    let (path, strict) = key(&gateway, body).await;
    let shown = gateway.read(&path).await;
    assert_eq!(shown["reject_user_mismatch"], true);
    assert_eq!(shown["exclude_from_budget"], true);
    let shown = gateway.read(&inherits).await;
    assert_eq!(shown["reject_user_mismatch"], Value::Null);
    assert_eq!(shown["exclude_from_budget"], false);
    let mismatch = async |gateway: &Gateway, key: &str| {
        let answer = gateway.chat(key, &named).await;
        if answer.status == 403 {
            assert_eq!(answer.refused(403)["error"]["code"], "user_mismatch");
        }
        answer.status
    };
    assert_eq!((mismatch(&gateway, &lax).await, mismatch(&gateway, &strict).await), (200, 403));
    gateway.patch(&path, json!({"reject_user_mismatch": null})).await;
    assert_eq!(mismatch(&gateway, &strict).await, 200, "null inherits");
    gateway.patch(&path, json!({"reject_user_mismatch": true})).await;
    let same = gateway.patch(&path, json!({"key_name": "n"})).await;
    assert_eq!(same["reject_user_mismatch"], true, "absent keeps");
    gateway.patch(&inherits, json!({"reject_user_mismatch": false})).await;
    gateway.manage(Method::PATCH, "/v1/settings", json!({"reject_user_mismatch": true})).await;
    assert_eq!((mismatch(&gateway, &lax).await, mismatch(&gateway, &strict).await), (200, 403));
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!((mismatch(&gateway, &lax).await, mismatch(&gateway, &strict).await), (200, 403));
    let body = json!({"reject_user_mismatch": "perhaps"});
    let place = json!(["body", "reject_user_mismatch"]);
    gateway.faults((Method::PATCH, &path, body), "bool_parsing", place).await;
    let body = json!({"exclude_from_budget": null});
    let place = json!(["body", "exclude_from_budget"]);
    gateway.faults((Method::POST, "/v1/keys", body), "bool_type", place).await;
}

on_both_databases!(
    a_list_permits_what_it_names_and_nothing_else,
    a_keys_own_list_takes_the_place_of_its_users,
    a_key_cannot_broaden_its_users_list,
    what_is_no_entry_is_refused_by_name,
    the_operator_is_bound_by_no_list,
    a_forbidden_model_is_refused_before_the_budget_is_asked,
    a_key_may_say_for_itself_whose_name_it_takes,
);
