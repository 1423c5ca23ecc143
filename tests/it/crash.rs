//! `kill -9` under load: whatever a caller received whole is in the usage rows, once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::Provider;
use crate::support::{ask, ask_streamed, eventually, on_both_databases, priced};

const ROUNDS: usize = 20;
const CONNECTIONS: usize = 8;
/// Of load before each kill: some hundred requests, several batches of the journal.
const LOAD: Duration = Duration::from_millis(400);

/// Asks again and again on one connection; returns the ids of the answers that were received whole.
async fn caller(
    http: reqwest::Client,
    url: String,
    key: String,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut whole = Vec::new();
    for turn in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let stream = turn % 2 == 1;
        let body = if stream { ask_streamed() } else { ask() };
        // Any failure here is the kill; what counts is what was whole before it.
        let Ok(answer) = http.post(&url).bearer_auth(&key).json(&body).send().await else { break };
        let id =
            answer.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let status = answer.status();
        let Ok(text) = answer.text().await else { break };
        assert_eq!(status, 200, "{text}");
        assert!(
            !stream || text.ends_with("data: [DONE]\n\n"),
            "a whole stream ends with [DONE]: {text}"
        );
        whole.push(id.expect("every answer carries x-request-id"));
        answers.fetch_add(1, Ordering::Relaxed);
    }
    whole
}

/// One round of load that ends with a kill; returns the ids of the whole answers.
async fn round(gateway: &mut Gateway, key: &str) -> Vec<String> {
    let stop = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (http, url) = (gateway.http().clone(), gateway.url("/v1/chat/completions"));
        callers.spawn(caller(http, url, key.to_owned(), stop.clone(), answers.clone()));
    }
    tokio::time::sleep(LOAD).await;
    // On a busy machine a round may take longer to begin.
    eventually("some answers", async || (answers.load(Ordering::Relaxed) > 0).then_some(())).await;
    gateway.kill9();
    stop.store(true, Ordering::Relaxed);
    callers.join_all().await.concat()
}

async fn a_kill_loses_no_row_and_doubles_none(start: Builder) {
    let provider = Provider::streams(["Hel", "lo"]);
    let mut gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    let mut expected = HashSet::new();
    for number in 0..ROUNDS {
        let whole = round(&mut gateway, &key).await;
        assert!(!whole.is_empty(), "round {number} had no load:\n{}", gateway.log());
        expected.extend(whole);
        gateway.restart().await;
        let rows = eventually("the rows of all whole answers", async || {
            let rows = gateway.all_usage().await;
            let known: HashSet<&str> =
                rows.iter().filter_map(|row| row["request_group_id"].as_str()).collect();
            expected.iter().all(|id| known.contains(id.as_str())).then_some(rows)
        })
        .await;
        once_each(&rows, number);
        right(&rows, &expected);
    }
    spend_agrees(&gateway).await;
}
on_both_databases!(a_kill_loses_no_row_and_doubles_none);

fn once_each(rows: &[Value], number: usize) {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for row in rows {
        *seen
            .entry(row["request_group_id"].as_str().expect("every row names its request"))
            .or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "round {number}: rows written twice: {twice:?}");
}

fn right(rows: &[Value], expected: &HashSet<String>) {
    for row in rows {
        if row["request_group_id"].as_str().is_some_and(|id| expected.contains(id)) {
            assert_eq!(row["status"], "success", "the caller had all of it: {row}");
            assert_eq!(row["cost"], crate::support::COST, "{row}");
        }
    }
}

/// A replayed record adds to the spend once, as it adds one row.
async fn spend_agrees(gateway: &Gateway) {
    eventually("spend to be the sum of the rows", async || {
        let rows = gateway.all_usage().await;
        let sum: f64 = rows.iter().filter_map(|row| row["cost"].as_f64()).sum();
        let user = gateway.manage(reqwest::Method::GET, "/v1/users/u", json!(null)).await;
        ((user["spend"].as_f64()? - sum).abs() < 1e-4).then_some(())
    })
    .await;
}
