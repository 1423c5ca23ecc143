//! `/v1/scoped-budgets`: ceilings over API keys; and what else a budget says of itself.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::Provider;
use crate::support::{COST, ask, eventually, on_both_databases, priced};

const SHAPE: &str = "id scope_type scope_id provider_key_id budget_id name max_budget current_spend reserved_spend \
                     budget_duration_sec reset_alignment period_start period_end created_at updated_at";

/// A key of user `u`: its id and itself.
async fn key(gateway: &Gateway, fields: Value) -> (String, String) {
    let mut body = json!({"user_id": "u"});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

async fn ceiling(gateway: &Gateway, key_id: &str, budget: &str, fields: Value) -> Value {
    let mut body = json!({"scope_type": "api_token", "scope_id": key_id, "budget_id": budget});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    let made = gateway.manage(Method::POST, "/v1/scoped-budgets", body).await;
    assert_eq!(names(&made), SHAPE);
    made
}

async fn a_ceiling_caps_its_key_and_no_other(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let (capped_id, capped) = key(&gateway, json!({})).await;
    let (_, free) = key(&gateway, json!({})).await;
    let budget = gateway.budget(100.0).await;
    let made = ceiling(&gateway, &capped_id, &budget, json!({"name": "team"})).await;
    let path = format!("/v1/scoped-budgets/{}", made["id"].as_str().unwrap());
    assert_eq!((&made["name"], &made["max_budget"]), (&json!("team"), &json!(100.0)));

    gateway.chat(&capped, &ask()).await.expect(200);
    gateway.chat(&free, &ask()).await.expect(200);
    gateway.settled("u").await;
    assert_eq!(gateway.read(&path).await["current_spend"], json!(COST), "the other key's is not");
    assert_eq!(gateway.read(&path).await["reserved_spend"], json!(0.0));
    gateway.patch(&format!("/v1/budgets/{budget}"), json!({"max_budget": COST})).await;
    let refusal = gateway.chat(&capped, &ask()).await.refused_for_good(403);
    assert_eq!(refusal["detail"], "API key has exceeded budget limit");
    gateway.chat(&free, &ask()).await.expect(200);

    gateway.terminate().await;
    gateway.restart().await;
    gateway.chat(&capped, &ask()).await.refused_for_good(403);
    let larger = gateway.budget(200.0).await;
    let moved = gateway.patch(&path, json!({"budget_id": larger, "name": null})).await;
    assert_eq!((&moved["name"], &moved["current_spend"]), (&Value::Null, &json!(COST)), "kept");
    gateway.chat(&capped, &ask()).await.expect(200);
    gateway.delete(&path).await;
    gateway.refuses((Method::GET, &path, Value::Null), 404, &missing(&path)).await;
    gateway.chat(&capped, &ask()).await.expect(200);
}

fn missing(path: &str) -> String {
    format!("Scoped budget with id '{}' not found", path.rsplit('/').next().unwrap())
}

async fn a_ceiling_for_one_provider_and_the_users_own_budget_count_together(start: Builder) {
    let (first, second) = (Provider::streams(["ok"]), Provider::streams(["ok"]));
    let start = start.provider("q", &second).price("q:m", 1000.0, 2000.0);
    let gateway = priced(start, &first).await;
    let own = gateway.budget(100.0).await;
    gateway.user("u", Some(&own)).await;
    let (id, token) = key(&gateway, json!({})).await;
    let nothing = gateway.budget(0.0).await;
    ceiling(&gateway, &id, &nothing, json!({"provider_key_id": "q"})).await;
    gateway.chat(&token, &ask()).await.expect(200);
    let other = json!({"model": "q:m", "messages": [{"role": "user", "content": "hi"}]});
    gateway.chat(&token, &other).await.refused_for_good(403);
    assert_eq!(second.count(), 0, "refused before the provider");
    assert_eq!(gateway.settled("u").await, COST, "nothing is held by what was refused");
    gateway.patch(&format!("/v1/budgets/{own}"), json!({"max_budget": 0})).await;
    let refusal = gateway.chat(&token, &ask()).await.refused_for_good(403);
    assert_eq!(refusal["detail"], "User 'u' has exceeded budget limit");
}

async fn a_key_that_is_excluded_spends_nobodys_budget(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let nothing = gateway.budget(0.0).await;
    gateway.user("u", Some(&nothing)).await;
    let (id, token) = key(&gateway, json!({"exclude_from_budget": true})).await;
    ceiling(&gateway, &id, &nothing, json!({})).await;
    gateway.chat(&token, &ask()).await.expect(200);
    assert_eq!(gateway.settled("u").await, 0.0);
    let rows = gateway.usage(1).await;
    assert_eq!((&rows[0]["cost"], &rows[0]["counts_toward_budget"]), (&json!(COST), &json!(false)));
    gateway.patch("/v1/users/u", json!({"blocked": true})).await;
    gateway.chat(&token, &ask()).await.refused_for_good(403);
}

async fn ceilings_are_listed_and_their_mistakes_told(start: Builder) {
    let gateway = start.await;
    let (id, _) = key(&gateway, json!({})).await;
    let budget = gateway.budget(1.0).await;
    let made = ceiling(&gateway, &id, &budget, json!({})).await;
    assert_eq!(gateway.read("/v1/scoped-budgets").await, json!([made]));
    let by_key = format!("/v1/scoped-budgets?scope_type=api_token&scope_id={id}");
    assert_eq!(gateway.read(&by_key).await, json!([made]));
    assert_eq!(gateway.read("/v1/scoped-budgets?scope_id=x").await, json!([]));
    assert_eq!(gateway.read("/v1/scoped-budgets?skip=1").await, json!([]));

    let path = "/v1/scoped-budgets";
    let post = |fields: Value| {
        let mut body = json!({"scope_type": "api_token", "scope_id": id, "budget_id": budget});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        (Method::POST, path, body)
    };
    let twice = "A budget already exists for this scope and provider";
    gateway.refuses(post(json!({})), 409, twice).await;
    gateway.refuses(post(json!({"scope_id": "x"})), 404, "API key 'x' not found").await;
    let elsewhere = json!({"scope_type": "workspace", "scope_id": "w"});
    gateway.refuses(post(elsewhere), 404, "Workspace 'w' not found").await;
    let unknown = json!({"provider_key_id": "p", "budget_id": "b"});
    gateway.refuses(post(unknown), 404, "Budget 'b' not found").await;
    let body = |field: &str| json!(["body", field]);
    gateway.faults(post(json!({"scope_type": "key"})), "literal_error", body("scope_type")).await;
    gateway.faults(post(json!({"scope_id": ""})), "string_too_short", body("scope_id")).await;
    gateway.faults(post(json!({"name": "x".repeat(201)})), "string_too_long", body("name")).await;
    gateway.faults((Method::POST, path, json!({})), "missing", body("scope_type")).await;

    let in_use = gateway
        .try_manage(Method::DELETE, &format!("/v1/budgets/{budget}"), Value::Null)
        .await
        .refused(409);
    assert!(in_use["detail"].as_str().unwrap().contains("in use by a scoped budget"), "{in_use}");
    gateway.delete(&format!("/v1/keys/{id}")).await;
    assert_eq!(gateway.read("/v1/scoped-budgets").await, json!([]), "gone with its key");
    gateway.delete(&format!("/v1/budgets/{budget}")).await;
}

async fn a_budget_says_what_is_spent_under_it_and_which_periods_ended(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let body = json!({"name": "team", "max_budget": 100, "budget_duration_sec": 2});
    let made = gateway.manage(Method::POST, "/v1/budgets", body).await;
    let path = format!("/v1/budgets/{}", made["budget_id"].as_str().unwrap());
    assert_eq!((&made["name"], &made["user_count"]), (&json!("team"), &json!(0)));
    for user in ["u", "v"] {
        gateway.user(user, made["budget_id"].as_str()).await;
    }
    let (_, token) = key(&gateway, json!({})).await;
    gateway.chat(&token, &ask()).await.expect(200);
    gateway.settled("u").await;
    let now = gateway.read(&path).await;
    assert_eq!((&now["user_count"], &now["total_spend"]), (&json!(2), &json!(COST)));
    assert_eq!(now["total_reserved"], json!(0.0));

    let logs = format!("{path}/reset-logs");
    let mut calls = 1;
    let ended = eventually("the period to end", async || {
        gateway.chat(&token, &ask()).await.expect(200);
        calls += 1;
        let rows = gateway.read(&logs).await;
        rows.as_array().is_some_and(|rows| !rows.is_empty()).then_some(rows)
    })
    .await;
    let log = &ended[0];
    assert_eq!(names(log), "id user_id budget_id previous_spend reset_at next_reset_at");
    let spent = log["previous_spend"].as_f64().unwrap();
    let user = gateway.settled("u").await;
    let total = COST * f64::from(calls);
    assert!((spent + user - total).abs() < 1e-9, "{spent} before, {user} since, of {total}");
    assert_eq!(gateway.read(&format!("{logs}?skip=5")).await, json!([]));
    let missing = "Budget with id 'x' not found";
    gateway.refuses((Method::GET, "/v1/budgets/x/reset-logs", Value::Null), 404, missing).await;
}

async fn a_period_can_follow_the_calendar(start: Builder) {
    let gateway = start.await;
    let body = json!({"max_budget": 1, "reset_alignment": "calendar_month"});
    let made = gateway.manage(Method::POST, "/v1/budgets", body).await;
    assert_eq!(made["reset_alignment"], "calendar_month");
    let id = made["budget_id"].as_str().unwrap();
    gateway.user("u", Some(id)).await;
    let user = gateway.read("/v1/users/u").await;
    let end = user["next_budget_reset_at"].as_str().unwrap();
    assert!(end.ends_with("-01T00:00:00+00:00"), "the first of a month: {end}");

    let both = "A budget resets on budget_duration_sec or on reset_alignment, not both";
    let path = format!("/v1/budgets/{id}");
    let day = json!({"budget_duration_sec": 60});
    gateway.refuses((Method::PATCH, &path, day), 400, both).await;
    let swap = json!({"budget_duration_sec": 60, "reset_alignment": null});
    assert_eq!(gateway.patch(&path, swap).await["reset_alignment"], Value::Null);
    let body = json!({"budget_duration_sec": 1, "reset_alignment": "calendar_day"});
    gateway.refuses((Method::POST, "/v1/budgets", body), 400, both).await;
    let body = json!({"reset_alignment": "daily"});
    let place = json!(["body", "reset_alignment"]);
    gateway.faults((Method::POST, "/v1/budgets", body), "literal_error", place).await;
}

on_both_databases!(
    a_ceiling_caps_its_key_and_no_other,
    a_ceiling_for_one_provider_and_the_users_own_budget_count_together,
    a_key_that_is_excluded_spends_nobodys_budget,
    ceilings_are_listed_and_their_mistakes_told,
    a_budget_says_what_is_spent_under_it_and_which_periods_ended,
    a_period_can_follow_the_calendar,
);
