//! Calls that the gateway itself turns away: the row each leaves, what it costs, and that hammering leaves few.

use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::Provider;
use crate::support::{ask, ask_with, eventually, on_both_databases, priced};

/// The rows that name this code, once there is one.
async fn refused_rows(gateway: &Gateway, code: &str) -> Vec<Value> {
    eventually("the row of a refusal", async || {
        let rows = gateway.all_usage().await;
        let of_code = |row: &Value| {
            row["error_message"].as_str().is_some_and(|text| text.starts_with(&format!("{code}: ")))
        };
        let found: Vec<Value> = rows.into_iter().filter(of_code).collect();
        (!found.is_empty()).then_some(found)
    })
    .await
}

async fn a_refusal_leaves_one_row_that_costs_nothing(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let poor = gateway.budget(0.0).await;
    gateway.user("poor", Some(&poor)).await;
    let (rich, poor) = (gateway.key("rich").await, gateway.key("poor").await);
    gateway.user("blocked", None).await;
    let blocked = gateway.key("blocked").await;
    gateway.patch("/v1/users/blocked", json!({"blocked": true})).await;
    let long = format!("p:{}", "é".repeat(500));
    for (key, body, status, code, user, model, provider) in [
        (&poor, ask(), 403, "budget_exceeded", json!("poor"), "m", json!("p")),
        (&blocked, ask(), 403, "user_blocked", json!("blocked"), "m", json!("p")),
        (
            &rich,
            ask_with(json!({"user": "poor"})),
            403,
            "user_mismatch",
            json!("rich"),
            "m",
            json!("p"),
        ),
        (&rich, ask_with(json!({"model": "p:x"})), 402, "no_price", json!("rich"), "x", json!("p")),
        (&MASTER.to_owned(), ask(), 400, "user_required", Value::Null, "m", json!("p")),
    ] {
        gateway.chat(key, &body).await.refused(status);
        let rows = refused_rows(&gateway, code).await;
        assert_eq!(rows.len(), 1, "{code}: {rows:?}");
        let row = &rows[0];
        assert_eq!(
            (&row["status"], &row["status_code"]),
            (&json!("error"), &json!(status)),
            "{code}"
        );
        assert_eq!((&row["user_id"], &row["cost"]), (&user, &Value::Null), "{code}");
        assert_eq!((&row["model"], &row["provider"]), (&json!(model), &provider), "{code}");
        assert_eq!(row["api_key_id"].is_null(), key == MASTER, "{code}");
        assert_eq!(row["endpoint"], "/v1/chat/completions");
    }
    gateway.chat(&rich, &ask_with(json!({"model": long}))).await.refused(402);
    let rows = refused_rows(&gateway, "no_price").await;
    let kept =
        rows.iter().filter_map(|row| row["model"].as_str()).map(|model| model.chars().count());
    assert_eq!(kept.max(), Some(200), "a name is whatever the caller typed");
    for user in ["rich", "poor", "blocked"] {
        assert_eq!(gateway.settled(user).await, 0.0, "{user}");
    }
    assert_eq!(provider.count(), 0);
}

async fn what_is_no_refusal_of_a_known_caller_leaves_no_row(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).config("rate_limit_rpm: 1").await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"mcp_server_ids": ["no uuid"]}))).await.refused(422);
    gateway.chat("gw-nobody", &ask()).await.refused(401);
    gateway.post(&key, "/v1/chat/completions", "{").await.refused(422);
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.chat(&key, &ask()).await.refused(429);
    let rows = gateway.all_usage().await;
    let statuses: Vec<&Value> = rows.iter().map(|row| &row["status"]).collect();
    assert_eq!(statuses, ["success"], "the list waits for what is journalled");
}

async fn hammering_leaves_few_rows(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).config("enable_metrics: true").await;
    let none = gateway.budget(0.0).await;
    gateway.user("poor", Some(&none)).await;
    let (poor, other) = (gateway.key("poor").await, gateway.key("other").await);
    for _ in 0..60 {
        gateway.chat(&poor, &ask()).await.refused(403);
    }
    gateway.chat(&other, &ask_with(json!({"model": "p:x"}))).await.refused(402);
    assert_eq!(refused_rows(&gateway, "no_price").await.len(), 1, "others are not held back");
    let rows = refused_rows(&gateway, "budget_exceeded").await.len();
    assert!((30..=32).contains(&rows), "30, and one more every ten seconds: {rows}");
    let page = gateway.get("/metrics").await.text();
    let dropped = page
        .lines()
        .find_map(|line| line.strip_prefix("gateway_refusal_rows_dropped_total "))
        .and_then(|count| count.parse::<usize>().ok());
    assert_eq!(dropped, Some(60 - rows), "{page}");
}

on_both_databases!(
    a_refusal_leaves_one_row_that_costs_nothing,
    what_is_no_refusal_of_a_known_caller_leaves_no_row,
    hammering_leaves_few_rows,
);
