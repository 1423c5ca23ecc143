//! `/v1/budgets`: caps that change, and budgets that go.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::Provider;
use crate::support::{COST, ask, eventually, on_both_databases, priced};

const SHAPE: &str = "budget_id name max_budget budget_duration_sec reset_alignment created_at updated_at user_count \
                     total_spend total_reserved";

/// A user `u` under a new budget made of `body`: their key, and the budget's path.
async fn under(gateway: &Gateway, body: Value) -> (String, String) {
    let made = gateway.manage(Method::POST, "/v1/budgets", body).await;
    assert_eq!(names(&made), SHAPE);
    let id = made["budget_id"].as_str().unwrap();
    gateway.user("u", Some(id)).await;
    (gateway.key("u").await, format!("/v1/budgets/{id}"))
}

async fn a_budget_change_keeps_clears_and_sets(start: Builder) {
    let gateway = start.await;
    let (_, path) = under(&gateway, json!({"max_budget": 1.5, "budget_duration_sec": 60})).await;
    let dates = gateway.read("/v1/users/u").await["next_budget_reset_at"].clone();
    let made = gateway.read(&path).await;
    assert_eq!(gateway.patch(&path, json!({})).await, made, "nothing named, nothing changed");
    let set = gateway.patch(&path, json!({"max_budget": 0.000001})).await;
    assert_eq!(names(&set), SHAPE);
    assert_eq!((&set["max_budget"], &set["budget_duration_sec"]), (&json!(1e-6), &json!(60)));
    assert!(set["updated_at"].as_str() > made["updated_at"].as_str(), "{set}");
    let set = gateway.patch(&path, json!({"budget_duration_sec": 7200})).await;
    assert_eq!(set["budget_duration_sec"], 7200);
    let user = gateway.read("/v1/users/u").await;
    assert_eq!(user["next_budget_reset_at"], dates, "a period that runs is not rescheduled");
    let cleared = json!({"max_budget": null, "budget_duration_sec": null});
    let cleared = gateway.patch(&path, cleared).await;
    assert_eq!(cleared["max_budget"], Value::Null);
    assert_eq!(cleared["budget_duration_sec"], Value::Null);
    assert_eq!(gateway.read("/v1/budgets").await, json!([cleared]));
}

async fn a_changed_cap_counts_at_once(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let (key, path) = under(&gateway, json!({"max_budget": 100})).await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.settled("u").await;
    gateway.patch(&path, json!({"max_budget": COST})).await;
    gateway.chat(&key, &ask()).await.refused_for_good(403);
    gateway.patch(&path, json!({"max_budget": null})).await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.patch(&path, json!({"max_budget": 0})).await;
    gateway.chat(&key, &ask()).await.refused_for_good(403);
    gateway.settled("u").await;
    gateway.terminate().await;
    gateway.restart().await;
    gateway.chat(&key, &ask()).await.refused_for_good(403);
}

async fn a_deleted_budget_caps_nobody_and_leaves_the_dates(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let (key, path) = under(&gateway, json!({"max_budget": 0, "budget_duration_sec": 1})).await;
    let began = gateway.read("/v1/users/u").await["budget_started_at"].clone();
    // The refused request ends the period that is over; the log of it names the budget.
    eventually("the period to end", async || {
        gateway.chat(&key, &ask()).await.refused(403);
        (gateway.read("/v1/users/u").await["budget_started_at"] != began).then_some(())
    })
    .await;
    gateway.patch(&path, json!({"budget_duration_sec": 3600})).await;
    let before = gateway.read("/v1/users/u").await;

    gateway.delete(&path).await;
    let id = path.rsplit('/').next().unwrap();
    let missing = format!("Budget with id '{id}' not found");
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        gateway.refuses((method, &path, json!({})), 404, &missing).await;
    }
    assert_eq!(gateway.read("/v1/budgets").await, json!([]));
    let check = async |gateway: &Gateway| {
        let user = gateway.read("/v1/users/u").await;
        assert_eq!(user["budget_id"], Value::Null);
        for date in ["budget_started_at", "next_budget_reset_at"] {
            assert_eq!(user[date], before[date], "{date}");
        }
        gateway.chat(&key, &ask()).await.expect(200);
    };
    check(&gateway).await;
    gateway.terminate().await;
    gateway.restart().await;
    check(&gateway).await;
}

async fn what_a_budget_cannot_be_is_refused(start: Builder) {
    let gateway = start.await;
    let id = gateway.budget(999_999_999_999.0).await;
    let path = format!("/v1/budgets/{id}");
    for (method, path) in [(Method::POST, "/v1/budgets"), (Method::PATCH, path.as_str())] {
        let call = |body: Value| (method.clone(), path, body);
        for (value, kind) in [
            (json!(-0.01), "greater_than_equal"),
            (json!(1e12), "less_than_equal"),
            (json!("inf"), "less_than_equal"),
            (json!("nan"), "greater_than_equal"),
            (json!("much"), "float_parsing"),
            (json!([]), "float_type"),
        ] {
            let body = json!({"max_budget": value});
            gateway.faults(call(body), kind, json!(["body", "max_budget"])).await;
        }
        for (value, kind) in [
            (json!(0), "greater_than"),
            (json!(2_147_483_648_u32), "less_than_equal"),
            (json!(1.5), "int_from_float"),
            (json!("soon"), "int_parsing"),
        ] {
            let body = json!({"budget_duration_sec": value});
            gateway.faults(call(body), kind, json!(["body", "budget_duration_sec"])).await;
        }
    }
    let nul = (Method::GET, "/v1/budgets/%00", Value::Null);
    gateway.faults(nul, "value_error", json!(["path", "budget_id"])).await;
    assert_eq!(gateway.read(&path).await["max_budget"], 999_999_999_999.0, "untouched");
}

on_both_databases!(
    a_budget_change_keeps_clears_and_sets,
    a_changed_cap_counts_at_once,
    a_deleted_budget_caps_nobody_and_leaves_the_dates,
    what_a_budget_cannot_be_is_refused,
);
