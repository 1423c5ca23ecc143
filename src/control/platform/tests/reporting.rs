//! What becomes of reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use otari_filters::settle::Entry;
use serde_json::json;

use super::support::*;
use crate::clock;
use crate::control::journal::Journal;
use crate::control::platform::reporter::{IN_HAND, Pace};

fn settled(seen: &Seen) -> Answer {
    let body = json!({"correlation_id": seen.correlation_id(), "status": "completed", "outcome": "success",
        "cost_usd": "0.012345", "currency": "USD", "usage_status": "reported", "pricing": {"source": "managed"}});
    Answer::Say(200, body.to_string())
}

#[tokio::test]
async fn a_report_goes_out_at_once_and_its_cost_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(settled).await;
    let bench = Bench::new(&platform.config(), folder.path(), Pace::default()).run();
    let mut took = Vec::new();
    for n in 0..200 {
        let began = Instant::now();
        let cost = bench.report(&format!("att-{n}")).unwrap().await.unwrap();
        assert_eq!((&*cost.cost_usd, &*cost.pricing_source), ("0.012345", "managed"));
        took.push((platform.seen().last().unwrap().at - began, began.elapsed()));
    }
    took.sort_unstable();
    println!("settle to arrival: median {:?}, worst {:?}", took[100].0, took[199].0);
    assert!(took[100].0 < Duration::from_millis(20), "no timer is in the way");
    let seen = &platform.seen()[0];
    assert_eq!(seen.line, "POST /api/v1/gateway/usage HTTP/1.1");
    assert_eq!(seen.header("x-gateway-token"), Some(GATEWAY_TOKEN));
    assert_eq!(seen.header("x-user-token"), None);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(
        seen.body,
        json!({"correlation_id": "att-0", "status": "success", "is_final_attempt": true, "session_label": "label",
            "usage": {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
                "cache_read_tokens": 0, "cache_write_tokens": 0}})
    );
    bench.until_done().await;
}

#[tokio::test]
async fn a_report_is_tried_as_often_as_it_should_be() {
    // What the platform says, call by call; how many calls there are in the first round; whether one is parked.
    let table: [(&[u16], usize, i64); 12] = [
        (&[204], 1, 0),
        (&[202], 1, 0),
        (&[200], 1, 0),
        (&[201], 1, 0),
        (&[500, 204], 2, 0),
        (&[503, 599, 204], 3, 0),
        (&[500, 402], 2, 0),
        (&[402], 1, 0),
        (&[401], 1, 0),
        (&[429], 1, 0),
        (&[302], 1, 0),
        (&[500, 500, 500], 3, 1),
    ];
    for (says, calls, parked) in table {
        let folder = tempfile::tempdir().unwrap();
        let at = AtomicUsize::new(0);
        let says_now = says.to_vec();
        let platform = Platform::start(move |_| {
            say(*says_now.get(at.fetch_add(1, Ordering::SeqCst)).unwrap_or(&500))
        })
        .await;
        let pace = Pace { parked: Duration::from_secs(60), ..quick() };
        let bench = Bench::new(&platform.config(), folder.path(), pace).run();
        assert_eq!(bench.report("att-1").unwrap().await, None, "{says:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(platform.count(), calls, "{says:?}");
        assert_eq!(bench.metrics.reports_waiting.get(), parked, "{says:?}");
    }
}

#[tokio::test]
async fn pauses_between_tries_double() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| say(500)).await;
    let pace =
        Pace { between: Duration::from_millis(100), parked: Duration::from_secs(60), ..quick() };
    let bench = Bench::new(&platform.config(), folder.path(), pace).run();
    assert_eq!(bench.report("att-1").unwrap().await, None);
    let at: Vec<Instant> = platform.seen().iter().map(|seen| seen.at).collect();
    let (first, second) = (at[1] - at[0], at[2] - at[1]);
    assert!(first >= Duration::from_millis(100) && first < Duration::from_millis(190), "{first:?}");
    assert!(
        second >= Duration::from_millis(200) && second < Duration::from_millis(390),
        "{second:?}"
    );
}
