//! `/v1/usage/count`, `/summary`, `/series`, `/summary.csv`, `/in-flight`, the filters of all of them, and how old rows go.

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::{Gate, Provider, Reply};
use crate::support::{COST, ask, ask_streamed, ask_with, eventually, on_both_databases, priced};

const ENTRY: &str = "id user_id user_alias api_key_id api_key_name timestamp model provider endpoint prompt_tokens \
                     completion_tokens total_tokens cache_read_tokens cache_write_tokens cache_write_1h_tokens \
                     billing_meters pricing_breakdown cost status error_message status_code latency_ms source \
                     source_label counts_toward_budget policy_name selection_reason attempt_position attempt_count \
                     request_group_id";

/// A row of this age, written behind the gateway's back.
fn plant(gateway: &Gateway, id: &str, at: Timestamp, cost: i64) {
    let at = at.strftime("%Y-%m-%d %H:%M:%S.000000");
    // SQLite holds micro-dollars; whole dollars of PostgreSQL are told apart by the test that asks.
    gateway.sql(&format!(
        "INSERT INTO usage_logs (id, timestamp, model, provider, endpoint, total_tokens, cost, status)
         VALUES ('{id}', '{at}', 'old', 'p', '/v1/chat/completions', 7, {cost}, 'success')"
    ));
}

/// Two users with two calls each, one of `u` with a refused one of the provider, and one call of `v` with another model.
async fn lived_in(start: Builder) -> (Provider, Gateway) {
    let provider = Provider::start(|request| match request.json()["model"].as_str() {
        Some("broken") => Reply::json(400, &json!({"error": {"message": "no"}})),
        _ => Reply::chat(request, &["ok"]),
    });
    let gateway =
        priced(start, &provider).price("p:other", 0.0, 0.0).price("p:broken", 1.0, 1.0).await;
    gateway.manage(Method::POST, "/v1/users", json!({"user_id": "u", "alias": "Ada"})).await;
    let (u, v) = (gateway.key("u").await, gateway.key("v").await);
    gateway.chat(&u, &ask()).await.expect(200);
    gateway.chat(&u, &ask()).await.expect(200);
    gateway.chat(&v, &ask()).await.expect(200);
    gateway.chat(&v, &ask_with(json!({"model": "p:other"}))).await.expect(200);
    gateway.chat(&u, &ask_with(json!({"model": "p:broken"}))).await.refused(400);
    gateway.usage(5).await;
    (provider, gateway)
}

async fn every_route_takes_the_same_filters(start: Builder) {
    let (_provider, gateway) = lived_in(start).await;
    let rows = gateway.usage(5).await;
    assert_eq!(names(&rows[0]), ENTRY);
    assert_eq!((&rows[0]["source"], &rows[0]["billing_meters"]), (&json!("gateway"), &Value::Null));
    let group = rows[1]["request_group_id"].as_str().expect("a request");
    let key = rows[0]["api_key_id"].as_str().expect("a key");
    let later = rows[2]["timestamp"].as_str().expect("a time").replace('+', "%2B");
    let cases = [
        (String::new(), 5),
        ("user_id=u".into(), 3),
        ("user_id=u&user_id=v&user_id=".into(), 5),
        ("model=m&model=broken".into(), 4),
        ("status=success".into(), 4),
        ("status=absorbed".into(), 0),
        ("status_code=400".into(), 1),
        ("status_code=200".into(), 0),
        ("endpoint=/v1/chat/completions".into(), 5),
        ("provider=p&source=gateway".into(), 5),
        ("provider=q".into(), 0),
        ("source_label=x".into(), 0),
        (format!("api_key_id={key}"), 3),
        ("priced=false".into(), 1),
        ("priced=true".into(), 4),
        ("tool=any".into(), 0),
        ("counts_toward_budget=false".into(), 0),
        (format!("request_group_id={group}&request_group_id=x"), 1),
        (format!("start_date={later}"), 3),
        ("workspace_id=whatever".into(), 5),
        ("user_id=v&model=m".into(), 1),
    ];
    for (query, expected) in cases {
        let listed = gateway.read(&format!("/v1/usage?{query}")).await;
        assert_eq!(listed.as_array().expect("a list").len(), expected, "{query}");
        let count = gateway.read(&format!("/v1/usage/count?{query}")).await;
        assert_eq!(count, json!({"total": expected}), "{query}");
        let summary = gateway.read(&format!("/v1/usage/summary?{query}")).await;
        assert_eq!(summary["totals"]["request_count"], expected, "{query}");
    }
}

async fn a_summary_adds_up(start: Builder) {
    let (_provider, gateway) = lived_in(start).await;
    let summary = gateway.read("/v1/usage/summary").await;
    assert_eq!(
        names(&summary),
        "start_date end_date bucket totals by_model by_user by_api_key by_source by_source_label by_endpoint \
         by_provider by_tool errors_by_status_code series"
    );
    let totals = &summary["totals"];
    assert_eq!(
        names(totals),
        "cost prompt_tokens completion_tokens total_tokens cache_read_tokens cache_write_tokens \
         cache_write_1h_tokens request_count error_count avg_latency_ms unpriced_requests billed_input_tokens \
         billed_output_tokens"
    );
    assert_eq!((&totals["cost"], &totals["prompt_tokens"]), (&json!(0.06), &json!(40)));
    assert_eq!((&totals["request_count"], &totals["error_count"]), (&json!(5), &json!(1)));
    assert_eq!(
        (&totals["unpriced_requests"], &totals["billed_output_tokens"]),
        (&json!(0), &json!(20))
    );
    assert!(totals["avg_latency_ms"].is_f64(), "{totals}");
    let model = json!({"key": "m", "label": "m", "cost": 0.06, "tokens": 45, "requests": 3, "is_other": false});
    assert_eq!(summary["by_model"][0], model);
    assert_eq!(names(&summary["by_model"][0]), "key label cost tokens requests is_other");
    let users: Vec<(&Value, &Value, &Value)> = summary["by_user"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (&row["key"], &row["label"], &row["cost"]))
        .collect();
    let (u, v) = (json!("u"), json!("v"));
    assert_eq!(
        users,
        [(&u, &json!("Ada"), &json!(2.0 * COST)), (&v, &json!("User v"), &json!(COST))],
        "the dearest first"
    );
    assert_eq!(summary["by_tool"], json!([]));
    let errors = json!([{"status_code": 400, "error_class": "client_error", "requests": 1}]);
    assert_eq!(summary["errors_by_status_code"], errors);
    let series = summary["series"].as_array().expect("a list");
    assert!((30..=31).contains(&series.len()), "dense: {}", series.len());
    let today = series.last().expect("today");
    assert_eq!(
        names(today),
        "bucket_start cost tokens requests errors input_tokens cache_read_tokens cache_write_tokens output_tokens"
    );
    assert_eq!(
        (&today["cost"], &today["requests"], &today["errors"]),
        (&json!(0.06), &json!(5), &json!(1))
    );
    assert!(today["bucket_start"].as_str().is_some_and(|at| at.ends_with("T00:00:00Z")), "{today}");
    assert_eq!(series[0]["requests"], 0);

    let few =
        gateway.read("/v1/usage/summary?dimensions=user&dimensions=provider&bucket=hour").await;
    assert_eq!(
        (few["by_model"].as_array().map(Vec::len), few["by_user"].as_array().map(Vec::len)),
        (Some(0), Some(2))
    );
    assert!(few["series"].as_array().is_some_and(|series| (720..=721).contains(&series.len())));
    assert_eq!(gateway.read("/v1/usage/summary?dimensions=none").await["by_provider"], json!([]));
    let year = gateway.read("/v1/usage/summary?start_date=2000-01-01&bucket=hour").await;
    assert_eq!(year["bucket"], "day", "8784 hours are too many");
    assert!(year["series"].as_array().is_some_and(|series| (366..=367).contains(&series.len())));
}

async fn a_summary_is_a_file_for_a_spreadsheet(start: Builder) {
    let (_provider, gateway) = lived_in(start).await;
    let key = gateway.key("w").await;
    gateway.chat(&key, &ask_with(json!({"model": "=HYPERLINK(\"x\"),1"}))).await.refused(402);
    let file =
        gateway.try_manage(Method::GET, "/v1/usage/summary.csv", Value::Null).await.expect(200);
    assert!(file.header("content-type").is_some_and(|kind| kind.starts_with("text/csv")));
    let name = file.header("content-disposition");
    assert_eq!(name, Some("attachment; filename=\"usage-summary.csv\""));
    let text = file.text();
    assert!(
        text.starts_with("dimension,key,cost,tokens,requests\r\nmodel,m,0.060000,45,3\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\nmodel,\"'=HYPERLINK(\"\"x\"\"),1\",0.000000,0,1\r\n"), "{text}");
    assert!(text.contains("\r\nuser,u,0.040000,30,3\r\n"), "{text}");
}

async fn a_series_shows_the_dearest_groups(start: Builder) {
    let (_provider, gateway) = lived_in(start).await;
    let series = gateway.read("/v1/usage/series?group_by=user_id&bucket=hour").await;
    assert_eq!(names(&series), "start_date end_date bucket group_by groups points");
    assert_eq!(series["groups"][0]["label"], "Ada");
    let points = series["points"].as_array().expect("a list");
    assert_eq!(names(&points[0]), "bucket_start key is_other cost tokens requests");
    let of = |user: &str| -> i64 {
        points.iter().filter(|p| p["key"] == user).filter_map(|p| p["requests"].as_i64()).sum()
    };
    assert_eq!((of("u"), of("v")), (3, 2));
    for n in 0..8 {
        let at = Timestamp::now() - SignedDuration::from_mins(1);
        plant(&gateway, &format!("x{n}"), at, 1);
        gateway.sql(&format!("UPDATE usage_logs SET model = 'x{n}' WHERE id = 'x{n}'"));
    }
    let series = gateway.read("/v1/usage/series").await;
    let groups = series["groups"].as_array().expect("a list");
    assert_eq!((series["group_by"].as_str(), groups.len()), (Some("model"), 9), "{groups:?}");
    assert_eq!((&groups[8]["key"], &groups[8]["is_other"]), (&Value::Null, &json!(true)));
    let told = "The window has 1440 buckets of one hour, and a series has at most 1000. Ask for a shorter window or a \
                longer bucket";
    let path = "/v1/usage/series?bucket=hour&start_date=2026-01-01&end_date=2026-03-02";
    gateway.refuses((Method::GET, path, Value::Null), 422, told).await;
}

async fn what_cannot_be_asked_is_refused(start: Builder) {
    let gateway = start.await;
    let many = "user_id=x&".repeat(51);
    for (path, kind, place) in [
        (format!("/v1/usage?{many}"), "too_long", json!(["query", "user_id"])),
        ("/v1/usage/count?status=ok".into(), "literal_error", json!(["query", "status"])),
        ("/v1/usage/summary?bucket=week".into(), "literal_error", json!(["query", "bucket"])),
        (
            "/v1/usage/summary?dimensions=user&dimensions=x".into(),
            "literal_error",
            json!(["query", "dimensions", 1]),
        ),
        ("/v1/usage/summary.csv?priced=perhaps".into(), "bool_parsing", json!(["query", "priced"])),
        (
            "/v1/usage/series?group_by=endpoint".into(),
            "literal_error",
            json!(["query", "group_by"]),
        ),
    ] {
        gateway.faults((Method::GET, &path, Value::Null), kind, place).await;
    }
    let refusal =
        gateway.try_manage(Method::GET, "/v1/usage?tool=x&priced=x&skip=-1", Value::Null).await;
    assert_eq!(refusal.refused(422)["detail"].as_array().map(Vec::len), Some(3), "all at once");
    let key = gateway.key("u").await;
    for path in ["count", "summary", "series", "summary.csv", "in-flight"] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        gateway.send(Method::GET, &format!("/v1/usage/{path}"), &headers, "").await.refused(401);
    }
}

async fn calls_under_way_are_seen_until_they_end(start: Builder) {
    let gate = Gate::closed();
    let provider = {
        let gate = gate.clone();
        Provider::start(move |request| Reply::chat(request, &["a", "b"]).gated(1, &gate))
    };
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    assert_eq!(gateway.read("/v1/usage/in-flight").await, json!({"requests": [], "total": 0}));
    let mut first = gateway.stream(&key, &ask_streamed()).await;
    first.chunk().await.expect("the first piece");
    let mut second = gateway.stream(&key, &ask_streamed()).await;
    second.chunk().await.expect("the first piece");
    let seen = gateway.read("/v1/usage/in-flight").await;
    assert_eq!(seen["total"], 2);
    let call = &seen["requests"][0];
    assert_eq!(
        names(call),
        "id endpoint model provider user_id api_key_id policy_name started_at elapsed_ms"
    );
    assert_eq!(
        call["id"],
        first.headers()["x-request-id"].to_str().expect("an id"),
        "the longest first"
    );
    assert_eq!(
        (&call["model"], &call["provider"], &call["user_id"]),
        (&json!("m"), &json!("p"), &json!("u"))
    );
    assert!(call["started_at"].as_str().is_some_and(|at| at.ends_with("+00:00")), "{call}");
    drop(second);
    gate.open(100);
    while first.chunk().await.expect("the stream goes on").is_some() {}
    eventually("both calls to be gone", async || {
        let seen = gateway.read("/v1/usage/in-flight").await;
        (seen == json!({"requests": [], "total": 0})).then_some(())
    })
    .await;
}

/// What the summary of everything says of the planted rows.
async fn planted(gateway: &Gateway) -> Vec<(String, i64)> {
    let from =
        (Timestamp::now() - SignedDuration::from_hours(24 * 300)).strftime("%Y-%m-%d").to_string();
    let summary = gateway.read(&format!("/v1/usage/summary?start_date={from}&model=old")).await;
    let whole = gateway.read(&format!("/v1/usage/summary?start_date={from}")).await;
    let of = |summary: &Value| -> Vec<(String, i64)> {
        summary["series"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|point| point["requests"] != 0)
            .map(|point| {
                (
                    point["bucket_start"].as_str().unwrap().to_owned(),
                    point["requests"].as_i64().unwrap(),
                )
            })
            .collect()
    };
    assert_eq!(of(&summary), of(&whole), "rows and sums say the same");
    of(&whole)
}

async fn sums_outlive_a_restart_and_know_of_late_rows(start: Builder) {
    let mut gateway = start.await;
    let days = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    for (id, day) in [("a", 200), ("b", 100), ("c", 100), ("d", 3)] {
        plant(&gateway, id, days(day), 1);
    }
    let before = planted(&gateway).await;
    assert_eq!(before.iter().map(|(_, requests)| requests).collect::<Vec<_>>(), [&1, &2, &1]);
    gateway.terminate().await;
    gateway.restart().await;
    // The sums are made soon after the start; both ways must say the same all along.
    for _ in 0..20 {
        assert_eq!(planted(&gateway).await, before);
    }
    plant(&gateway, "late", days(100), 1);
    let after = planted(&gateway).await;
    assert_eq!((after[1].1, after.len()), (3, 3), "{after:?}");
    gateway.sql("DELETE FROM usage_logs WHERE id = 'a'");
    assert_eq!(planted(&gateway).await, after[1..], "what is removed by hand leaves the sums");
}

async fn old_rows_are_removed(start: Builder) {
    let mut gateway = start.config("usage_retention_days: 30\nenable_metrics: true").await;
    let days = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    // More than one batch.
    for n in 0..12 {
        let at = days(40 + n).strftime("%Y-%m-%d %H:%M:%S.000000");
        let rows: Vec<String> = (0..100)
            .map(|m| format!("('{n}-{m}', '{at}', 'old', '/v1/chat/completions', 1, 'success')"))
            .collect();
        gateway.sql(&format!(
            "INSERT INTO usage_logs (id, timestamp, model, endpoint, cost, status) VALUES {}",
            rows.join(", ")
        ));
    }
    plant(&gateway, "young", days(29), 1);
    gateway.terminate().await;
    gateway.restart().await;
    eventually("the old rows to go", async || {
        let left = gateway.read("/v1/usage/count").await;
        (left == json!({"total": 1})).then_some(())
    })
    .await;
    assert_eq!(planted(&gateway).await.len(), 1);
    let rows = gateway.usage(1).await;
    assert_eq!(rows[0]["id"], "young");
    eventually("the count of removed rows", async || {
        let page = gateway.get("/metrics").await.text();
        page.contains("gateway_usage_rows_expired_total 1200").then_some(())
    })
    .await;
    eventually("a line that says so", async || {
        gateway.log().contains("older than usage_retention_days").then_some(())
    })
    .await;
}

on_both_databases!(
    every_route_takes_the_same_filters,
    a_summary_adds_up,
    a_summary_is_a_file_for_a_spreadsheet,
    a_series_shows_the_dearest_groups,
    what_cannot_be_asked_is_refused,
    calls_under_way_are_seen_until_they_end,
    sums_outlive_a_restart_and_know_of_late_rows,
    old_rows_are_removed,
);
