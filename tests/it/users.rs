//! `/v1/users`: changes that never touch what was spent, deletion, and return.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::Builder;
use crate::support::manage::names;
use crate::support::provider::{Gate, Provider, Reply, Step};
use crate::support::{COST, ask, ask_with, on_both_databases, priced};

const SHAPE: &str = "user_id alias spend reserved budget_id allowed_models budget_started_at \
                     next_budget_reset_at blocked created_at updated_at metadata";

async fn a_user_change_keeps_clears_and_sets(start: Builder) {
    let gateway = start.await;
    let body = json!({"user_id": "u", "alias": "A", "metadata": {"a": 1}});
    let made = gateway.manage(Method::POST, "/v1/users", body).await;
    assert_eq!(names(&made), SHAPE);
    let same = gateway.patch("/v1/users/u", json!({})).await;
    assert_eq!(same, made, "nothing named, nothing changed, `updated_at` included");
    let set = gateway.patch("/v1/users/u", json!({"blocked": true, "metadata": null})).await;
    assert_eq!((&set["alias"], &set["blocked"]), (&json!("A"), &json!(true)));
    assert_eq!(set["metadata"], json!({"a": 1}), "metadata cannot be null: it stays");
    assert!(set["updated_at"].as_str() > made["updated_at"].as_str(), "{set}");
    assert_eq!(set["created_at"], made["created_at"]);
    let cleared = gateway.patch("/v1/users/u", json!({"alias": null, "metadata": {}})).await;
    assert_eq!((&cleared["alias"], &cleared["metadata"]), (&Value::Null, &json!({})));
    assert_eq!(cleared["blocked"], true);
    assert_eq!(gateway.read("/v1/users/u").await, cleared);
}

async fn a_change_of_budget_restarts_the_period_and_keeps_the_spend(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let body = json!({"max_budget": 100, "budget_duration_sec": 3600});
    let budget = gateway.manage(Method::POST, "/v1/budgets", body).await["budget_id"].clone();
    let endless = gateway.budget(100.0).await;
    let body = json!({"user_id": "u", "budget_id": budget});
    let made = gateway.manage(Method::POST, "/v1/users", body).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(gateway.settled("u").await, COST);

    let same = gateway.patch("/v1/users/u", json!({"budget_id": budget})).await;
    assert_eq!(same["spend"], COST);
    for date in ["budget_started_at", "next_budget_reset_at"] {
        assert!(same[date].as_str() > made[date].as_str(), "{date}: {same}");
    }
    let alias = gateway.patch("/v1/users/u", json!({"alias": "A"})).await;
    assert_eq!(alias["budget_started_at"], same["budget_started_at"], "only a budget restarts it");
    let other = gateway.patch("/v1/users/u", json!({"budget_id": endless})).await;
    assert_eq!((&other["budget_id"], &other["spend"]), (&json!(endless), &json!(COST)));
    assert_eq!(other["next_budget_reset_at"], Value::Null, "a budget without a duration");
    let detached = gateway.patch("/v1/users/u", json!({"budget_id": null})).await;
    for cleared in ["budget_id", "budget_started_at", "next_budget_reset_at"] {
        assert_eq!(detached[cleared], Value::Null, "{cleared}");
    }
    assert_eq!(detached["spend"], COST);

    gateway.terminate().await;
    gateway.restart().await;
    // The row is also touched by the spend on its way to the store, so `updated_at` may differ.
    let after = gateway.read("/v1/users/u").await;
    for kept in ["alias", "spend", "budget_id", "budget_started_at", "next_budget_reset_at"] {
        assert_eq!(after[kept], detached[kept], "{kept} is what the store has, too");
    }
}

async fn a_change_leaves_a_request_in_flight_its_hold(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(held.clone()))
    });
    let gateway = priced(start, &provider).await;
    let budget = gateway.budget(100.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let mut caller = JoinSet::new();
    let call = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
    caller.spawn(call.json(&ask_with(json!({"max_tokens": 100}))).send());
    provider.received(1).await;

    let before = gateway.read("/v1/users/u").await["reserved"].clone();
    assert!(before.as_f64() > Some(0.0), "{before}");
    for change in [json!({"alias": "A"}), json!({"budget_id": budget}), json!({"blocked": true})] {
        let changed = gateway.patch("/v1/users/u", change).await;
        assert_eq!(changed["reserved"], before, "{changed}");
    }
    gateway.chat(&key, &ask()).await.refused(403);
    gate.open(1);
    let answer = caller.join_next().await.expect("a caller").expect("a caller").expect("an answer");
    assert_eq!(answer.status(), 200, "blocked while in flight: it ends as it would have");
    assert_eq!(gateway.settled("u").await, COST);
}

async fn a_deleted_user_is_gone_at_once_and_can_return(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let budget = gateway.budget(100.0).await;
    let body = json!({"user_id": "u", "alias": "A", "budget_id": budget});
    let made = gateway.manage(Method::POST, "/v1/users", body).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.settled("u").await;

    gateway.delete("/v1/users/u").await;
    assert_eq!(gateway.chat(&key, &ask()).await.refused(401)["detail"], "API key is inactive");
    assert_eq!(gateway.read("/v1/keys").await[0]["is_active"], false);
    assert_eq!(gateway.read("/v1/users").await, json!([]));
    let missing = "User with id 'u' not found";
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        gateway.refuses((method, "/v1/users/u", json!({"alias": "B"})), 404, missing).await;
    }
    let rows = gateway.read("/v1/users/u/usage").await;
    assert_eq!((rows.as_array().map(Vec::len), &rows[0]["cost"]), (Some(1), &json!(COST)));
    let told = "User 'u' has been deleted. Recreate via POST /v1/users first.";
    gateway.refuses((Method::POST, "/v1/keys", json!({"user_id": "u"})), 404, told).await;
    // A key that is switched on again lets its holder in, but nobody is there to pay.
    let path = format!("/v1/keys/{}", gateway.read("/v1/keys").await[0]["id"].as_str().unwrap());
    gateway.patch(&path, json!({"is_active": true})).await;
    assert_eq!(gateway.chat(&key, &ask()).await.refused(404)["detail"], "User 'u' not found");
    gateway.patch(&path, json!({"is_active": false})).await;

    let back = gateway.manage(Method::POST, "/v1/users", json!({"user_id": "u"})).await;
    assert_eq!((&back["spend"], &back["reserved"]), (&json!(0.0), &json!(0.0)));
    assert_eq!(back["created_at"], made["created_at"]);
    for cleared in ["alias", "budget_id", "budget_started_at", "next_budget_reset_at"] {
        assert_eq!(back[cleared], Value::Null, "{cleared}");
    }
    let twice = "User with id 'u' already exists";
    gateway.refuses((Method::POST, "/v1/users", json!({"user_id": "u"})), 409, twice).await;
    gateway.chat(&key, &ask()).await.refused(401);
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(gateway.settled("u").await, COST, "what was spent before is forgotten");
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(gateway.read("/v1/users/u").await["spend"], COST, "in the store, too");
}

async fn what_is_spent_on_the_way_to_the_store_is_not_the_returned_users(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    for _ in 0..5 {
        let key = gateway.key("u").await;
        gateway.chat(&key, &ask()).await.expect(200);
        // At once: the row of this call is still in the journal.
        gateway.delete("/v1/users/u").await;
        gateway.user("u", None).await;
    }
    assert_eq!(gateway.usage(5).await.len(), 5);
    let seen = gateway.read("/v1/users/u").await["spend"].clone();
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(gateway.read("/v1/users/u").await["spend"], seen, "memory and store agree");
}

async fn ids_are_any_text(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    for (id, sent) in [
        ("team/anna@example.com", "team%2Fanna@example.com"),
        ("100% 用户+?#", "100%25%20%E7%94%A8%E6%88%B7+%3F%23"),
        ("a%2Fb", "a%252Fb"),
        ("usage", "usage"),
    ] {
        let key = gateway.key(id).await;
        gateway.chat(&key, &ask()).await.expect(200);
        let path = format!("/v1/users/{sent}");
        assert_eq!(gateway.read(&path).await["user_id"], id);
        assert_eq!(gateway.patch(&path, json!({"alias": "A"})).await["alias"], "A", "{id}");
        let rows = gateway.read(&format!("{path}/usage")).await;
        assert_eq!((&rows[0]["user_id"], rows.as_array().map(Vec::len)), (&json!(id), Some(1)));
        gateway.delete(&path).await;
        gateway.chat(&key, &ask()).await.refused(401);
    }
    assert_eq!(gateway.try_manage(Method::GET, "/v1/users/a/b", Value::Null).await.status, 404);
}

async fn what_a_user_cannot_be_is_refused(start: Builder) {
    let gateway = start.await;
    gateway.user("u", None).await;
    let missing = "User with id 'x' not found";
    let change = json!({"budget_id": "nothing"});
    gateway.refuses((Method::PATCH, "/v1/users/x", change.clone()), 404, missing).await;
    let no_budget = "Budget with id 'nothing' not found";
    gateway.refuses((Method::PATCH, "/v1/users/u", change), 404, no_budget).await;
    let empty = "Budget with id '' not found";
    gateway.refuses((Method::PATCH, "/v1/users/u", json!({"budget_id": ""})), 404, empty).await;
    let patch = |body: Value| (Method::PATCH, "/v1/users/u", body);
    let post = |body: Value| (Method::POST, "/v1/users", body);
    for (call, kind, place) in [
        (post(json!({})), "missing", json!(["body", "user_id"])),
        (post(json!({"user_id": "a\0"})), "value_error", json!(["body", "user_id"])),
        (patch(json!({"alias": "\0"})), "value_error", json!(["body", "alias"])),
        (patch(json!({"alias": 1})), "string_type", json!(["body", "alias"])),
        (patch(json!({"budget_id": "\0"})), "value_error", json!(["body", "budget_id"])),
        (patch(json!({"blocked": "maybe"})), "bool_parsing", json!(["body", "blocked"])),
        (patch(json!({"metadata": []})), "dict_type", json!(["body", "metadata"])),
        (patch(json!([])), "model_attributes_type", json!(["body"])),
        (patch(Value::Null), "missing", json!(["body"])),
        ((Method::DELETE, "/v1/users/%00", Value::Null), "value_error", json!(["path", "user_id"])),
    ] {
        gateway.faults(call, kind, place).await;
    }
    let user = gateway.read("/v1/users/u").await;
    assert_eq!((&user["alias"], &user["blocked"]), (&Value::Null, &json!(false)), "untouched");
    let answer = gateway.try_manage(Method::PUT, "/v1/users/u", json!({})).await;
    answer.refused(405);
    assert_eq!(answer.header("allow"), Some("GET"));
}

/// Changes that arrive together leave memory and store with the same outcome.
async fn concurrent_changes_agree_with_the_store(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    for _ in 0..5 {
        let flip = |blocked: bool| gateway.patch("/v1/users/u", json!({"blocked": blocked}));
        tokio::join!(flip(true), flip(false), flip(true), flip(false), flip(true), flip(false));
        let blocked = gateway.read("/v1/users/u").await["blocked"] == true;
        let status = if blocked { 403 } else { 200 };
        gateway.chat(&key, &ask()).await.expect(status);
    }
}

on_both_databases!(
    a_user_change_keeps_clears_and_sets,
    a_change_of_budget_restarts_the_period_and_keeps_the_spend,
    a_change_leaves_a_request_in_flight_its_hold,
    a_deleted_user_is_gone_at_once_and_can_return,
    what_is_spent_on_the_way_to_the_store_is_not_the_returned_users,
    ids_are_any_text,
    what_a_user_cannot_be_is_refused,
    concurrent_changes_agree_with_the_store,
);
