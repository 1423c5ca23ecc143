//! Requests that end before a model is asked, by a tool or a check: which leave a row, what it says, what it costs.

use serde_json::{Value, json};

use super::ways;
use crate::support::format::both;
use crate::support::gateway::{Builder, Gateway};
use crate::support::mcp::{entry, scripted};
use crate::support::model::{model, says};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply};

/// Nothing of these may be in a row: where a server is, or what it says of its own inside.
const INSIDE: [&str; 4] = ["10.0.0.7", "127.0.0.1", "169.254", "/v1/mcp"];

/// A gateway before one model, of a user `u` with a budget.
async fn scene(start: Builder, model: &Provider) -> (Gateway, String) {
    let gateway = both(start, model).await;
    let budget = gateway.budget(1000.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    (gateway, key)
}

/// What all such rows have in common.
fn is_unpaid(row: &Value, status: u16) {
    assert_eq!((&row["status"], &row["status_code"]), (&json!("error"), &json!(status)), "{row}");
    assert_eq!((&row["model"], &row["provider"]), (&json!("m"), &json!("o")), "{row}");
    assert_eq!(row["user_id"], "u", "{row}");
    for nothing in ["cost", "prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(row[nothing], Value::Null, "{nothing}: {row}");
    }
}

async fn a_server_that_cannot_be_connected_leaves_an_error_row(start: Builder) {
    let model = model(|_| says("never"));
    let (gateway, key) = scene(start, &model).await;
    let gone = Provider::never_answers();
    let nobody = format!("{}/mcp", gone.base());
    drop(gone);
    let failing = scripted(|_, _| Some(Reply::json(500, &json!({"error": "at 10.0.0.7"}))));
    let moved = scripted(|_, _| {
        Some(Reply::bytes(307, "text/plain", "").header("Location", "http://169.254.169.254/"))
    });
    let listless = scripted(|rpc, _| {
        (rpc == "tools/list").then(|| Reply::bytes(500, "text/plain", "at 10.0.0.7"))
    });
    let at = |server: &Provider| format!("{}/mcp", server.base());
    let cases = [
        (nobody, "could not be reached"),
        (at(&failing), "answered with status 500"),
        (at(&moved), ""),
        (at(&listless), "answered with status 500"),
    ];
    let mut rows = 0;
    for (url, said) in cases {
        for way in ways().filter(|way| way.model == "o:m") {
            let body = way.ask(json!({"mcp_servers": [entry("mine", &url)]}));
            let seen = way.api.call(&gateway, &key, &body, way.streams).await;
            assert_eq!(seen.status, 502, "{way:?}: {}", seen.raw);
            rows += 1;
            let row = gateway.usage(rows).await.remove(0);
            is_unpaid(&row, 502);
            assert_eq!(row["endpoint"], way.api.path(), "{row}");
            assert_eq!((&row["attempt_position"], &row["attempt_count"]), (&json!(1), &json!(1)));
            let why = row["error_message"].as_str().unwrap_or_default();
            assert!(why.starts_with("tool_unavailable: MCP server 'mine' "), "{row}");
            assert!(why.contains(said), "{row}");
            for inside in INSIDE {
                assert!(!row.to_string().contains(inside), "{inside} in {row}");
            }
        }
    }
    assert_eq!(model.count(), 0);
    assert!(gateway.settled("u").await.abs() < 1e-12, "nothing is held or charged");
}

async fn a_service_of_the_operators_that_is_away_leaves_none(start: Builder) {
    let model = model(|_| says("ok"));
    let gone = Provider::never_answers();
    let away = format!("http://{}", gone.addr());
    drop(gone);
    let start = start.config(&format!("sandbox_url: {away}\nguardrails_url: {away}"));
    let (gateway, key) = scene(start, &model).await;
    for way in ways().filter(|way| way.model == "o:m") {
        for fields in [
            json!({"tools": [{"type": "otari_code_execution"}]}),
            json!({"guardrails": [{"profile": "p", "mode": "block"}]}),
        ] {
            let seen = way.api.call(&gateway, &key, &way.ask(fields), way.streams).await;
            assert_eq!(seen.status, 502, "{way:?}: {}", seen.raw);
        }
    }
    assert_eq!(model.count(), 0);
    let way = ways().next().expect("some way");
    way.api.call(&gateway, &key, &way.ask(json!({})), false).await.good();
    // The row of the last call is the first one: rows are written in the order of their calls.
    gateway.usage(1).await;
    assert_eq!(gateway.all_usage().await.len(), 1);
}

async fn what_is_refused_leaves_the_row_of_a_refusal(start: Builder) {
    let model = model(|_| says("never"));
    let (gateway, key) = scene(start, &model).await;
    let check =
        json!({"profile": "otari_length", "mode": "block", "validate_kwargs": {"max_chars": 1}});
    let cases = [
        (json!({"guardrails": [check]}), 403, "guardrail_violation: "),
        (json!({"mcp_servers": [entry("s", "http://10.0.0.1/")]}), 400, "invalid_value: "),
        (json!({"tools": [{"type": "otari_code_execution"}]}), 400, "unsupported: "),
    ];
    let mut rows = 0;
    for (fields, status, said) in cases {
        for way in ways().filter(|way| way.model == "o:m") {
            let body = way.ask(fields.clone());
            let seen = way.api.call(&gateway, &key, &body, way.streams).await;
            assert_eq!(seen.status, status, "{way:?}: {}", seen.raw);
            rows += 1;
            let row = crate::support::eventually("the row of a refusal", async || {
                let mut all = gateway.all_usage().await;
                (all.len() >= rows).then(|| all.remove(0))
            });
            let row = row.await;
            is_unpaid(&row, status);
            assert_eq!(row["endpoint"], way.api.path(), "{row}");
            let why = row["error_message"].as_str().unwrap_or_default();
            assert!(why.starts_with(said), "{row}");
        }
    }
    assert_eq!(gateway.all_usage().await.len(), rows, "one each");
    assert_eq!(model.count(), 0);
    assert!(gateway.settled("u").await.abs() < 1e-12);
}

on_both_databases!(
    a_server_that_cannot_be_connected_leaves_an_error_row,
    a_service_of_the_operators_that_is_away_leaves_none,
    what_is_refused_leaves_the_row_of_a_refusal,
);
