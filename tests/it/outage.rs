//! The database goes away and comes back: requests go on, readiness says so, no row is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::gateway::Gateway;
use crate::support::postgres::Cluster;
use crate::support::provider::Provider;
use crate::support::{COST, ask, ask_streamed, eventually, priced};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute without a database; run it with --ignored"]
async fn half_a_minute_without_postgresql_under_load_loses_nothing() {
    away_under_load(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_seconds_without_postgresql_under_load_lose_nothing() {
    away_under_load(Duration::from_secs(3)).await;
}

/// Eight callers, one of them under a cap, call without a pause while the server is stopped and started again.
async fn away_under_load(away: Duration) {
    let server = Cluster::new();
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start().postgres_at(server.database()), &provider).await;
    let budget = gateway.budget(1_000_000.0).await;
    gateway.user("u", Some(&budget)).await;
    let (capped, free) = (gateway.key("u").await, gateway.key("v").await);
    for key in [&capped, &free] {
        gateway.chat(key, &ask()).await.expect(200);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let key = if number % 2 == 0 { capped.clone() } else { free.clone() };
        let (http, url) = (gateway.http().clone(), gateway.url("/v1/chat/completions"));
        let stop = stop.clone();
        callers.spawn(async move {
            let mut calls = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                let call = http.post(&url).bearer_auth(&key).json(&ask());
                let answer = call.send().await.expect("an answer");
                let status = answer.status().as_u16();
                assert_eq!(status, 200, "{}", answer.text().await.unwrap_or_default());
                let _ = answer.bytes().await.expect("all of it");
                calls += 1;
                // Some hundreds a second: the scripted provider keeps every request.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            calls
        });
    }
    let ready = async || gateway.get("/health/readiness").await.status;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ready().await, 200);
    server.stop();
    tokio::time::sleep(away / 2).await;
    assert_eq!(ready().await, 503, "readiness tells the truth");
    tokio::time::sleep(away / 2).await;
    server.start();
    eventually("ready again", async || (ready().await == 200).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = 2;
    while let Some(done) = callers.join_next().await {
        calls += done.expect("no caller was ever refused");
    }
    eventually("every row", async || {
        let both = [gateway.settled("u").await, gateway.settled("v").await];
        let rows = (both[0] + both[1]) / COST;
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        ((rows - calls as f64).abs() < 1e-6).then_some(())
    })
    .await;
    println!("{calls} calls, every one answered and billed, with {away:?} without the database");
}

#[tokio::test]
async fn requests_go_on_while_postgresql_is_down_and_their_rows_come_later() {
    let server = Cluster::new();
    let provider = Provider::streams(["Hel", "lo"]);
    let start = Gateway::start().postgres_at(server.database());
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(gateway.usage(1).await.len(), 1);

    server.stop();
    for _ in 0..20 {
        gateway.chat(&key, &ask()).await.expect(200);
        let stream = gateway.stream(&key, &ask_streamed()).await;
        assert!(stream.text().await.expect("a whole stream").ends_with("data: [DONE]\n\n"));
    }
    let ready = gateway.get("/health/readiness").await.expect(503).json();
    assert_eq!(ready["detail"]["database"], "unavailable", "readiness tells the truth: {ready}");
    gateway.get("/health").await.expect(200);

    server.start();
    eventually("ready again", async || {
        let ready = gateway.get("/health/readiness").await;
        (ready.status == 200).then_some(())
    })
    .await;
    let rows = eventually("all rows", async || {
        let rows = gateway.all_usage().await;
        (rows.len() >= 41).then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), 41, "every answer has one row, none has two");
    assert!(rows.iter().all(|row| row["status"] == json!("success")), "{rows:?}");
    let spent = gateway.settled("u").await;
    assert!((spent - 41.0 * COST).abs() < 1e-9, "spend is exact: {spent}");
}
