//! Reports that requests post themselves, and what becomes of those that they leave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::support::*;
use crate::control::platform::reporter::Pace;

/// What arrived, with how often.
fn arrived(platform: &Platform) -> HashMap<String, usize> {
    let mut arrived = HashMap::new();
    for seen in platform.seen() {
        *arrived.entry(seen.correlation_id()).or_default() += 1;
    }
    arrived
}

fn late(ms: u64) -> Answer {
    Answer::Late(Duration::from_millis(ms), 204)
}

#[tokio::test]
async fn what_nobody_waits_for_is_posted_all_the_same_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| late(50)).await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    // Before it was begun; as soon as it was; while the platform thinks about it.
    drop(bench.report("idle").unwrap());
    let mut begun = bench.report("begun").unwrap();
    assert!(begun.as_mut().now_or_never().is_none());
    drop(begun);
    let waited = timeout(Duration::from_millis(25), bench.report("under-way").unwrap()).await;
    assert!(waited.is_err());
    // The loop has come by before it is left.
    let passed = bench.report("passed").unwrap();
    let next = bench.report("next").unwrap();
    assert_eq!(next.await, None);
    sleep(Duration::from_millis(40)).await;
    drop(passed);
    assert!(bench.reporter.flush(Duration::from_secs(5)).await);
    bench.until_done().await;
    let arrived = arrived(&platform);
    assert_eq!(arrived.len(), 5, "{arrived:?}");
    assert!(arrived.values().all(|times| *times == 1), "{arrived:?}");
}

#[tokio::test]
async fn a_request_posts_without_the_loop() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| say(204)).await;
    // Nobody runs the loop.
    let bench = Bench::new(&platform.config(), folder.path(), quick());
    let first = bench.report("first").unwrap();
    assert_eq!(timeout(Duration::from_secs(5), first).await, Ok(None));
    assert_eq!(platform.count(), 1);
    // Another attempt follows: that one waits for the loop, as there may be nobody else for it.
    let mut absorbed = report("absorbed");
    absorbed.is_final_attempt = false;
    let settling = bench.reporter.report(absorbed, 1).unwrap();
    assert!(timeout(Duration::from_millis(50), settling).await.is_err());
    assert_eq!(platform.count(), 1);
    let bench = bench.run();
    bench.until_done().await;
    assert_eq!(platform.count(), 2, "and the first is not repeated");
}

#[tokio::test]
async fn what_fails_is_tried_again_by_the_loop() {
    let folder = tempfile::tempdir().unwrap();
    let calls = AtomicUsize::new(0);
    let platform = Platform::start(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::HangUp,
        1..5 => say(503),
        _ => say(204),
    })
    .await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    assert_eq!(bench.report("att-1").unwrap().await, None, "three tries");
    assert_eq!(platform.count(), 3);
    bench.until_done().await;
    assert_eq!(platform.count(), 6);
    assert!(bench.reporter.flush(Duration::from_secs(1)).await);
    bench.crash().await;
    let again = Bench::new(&platform.config(), folder.path(), quick()).run();
    assert!(again.reporter.flush(Duration::from_secs(5)).await);
    assert_eq!(platform.count(), 6, "it is noted as done");
}

#[tokio::test]
async fn a_crash_before_the_post_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    assert_eq!(bench.report("before").unwrap().await, None);
    // Journalled, and never posted.
    let never: Vec<_> = (0..20).map(|n| bench.report(&n.to_string())).collect();
    assert_eq!(bench.report("behind").unwrap().await, None);
    within(Duration::from_secs(5), || bench.journal.applied() > Default::default()).await;
    sleep(Duration::from_millis(60)).await;
    bench.crash().await;
    drop(never);
    let second = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&second.config(), folder.path(), quick()).run();
    bench.until_done().await;
    let arrived = arrived(&second);
    assert_eq!(arrived.len(), 20, "all of those, and not what was noted behind them: {arrived:?}");
    assert!(arrived.values().all(|times| *times == 1));
}

#[tokio::test]
async fn what_was_accepted_is_noted_before_long() {
    let folder = tempfile::tempdir().unwrap();
    // One that does not get done holds the cursor back all the while.
    let platform = Platform::start(|seen| match seen.correlation_id().as_str() {
        "stuck" => Answer::Silence(Duration::from_secs(10)),
        _ => say(204),
    })
    .await;
    let pace = Pace { tidy: Duration::from_secs(60), ..Pace::default() };
    let bench = Bench::new(&platform.config(), folder.path(), pace).run();
    let mut stuck = bench.report("stuck").unwrap();
    assert!(stuck.as_mut().now_or_never().is_none());
    for n in 0..100 {
        assert_eq!(bench.report(&n.to_string()).unwrap().await, None);
    }
    // Twice as long as it says, and what a busy machine needs.
    sleep(pace.note * 2 + Duration::from_millis(80)).await;
    bench.crash().await;
    drop(stuck);
    let second = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&second.config(), folder.path(), quick()).run();
    bench.until_done().await;
    let arrived = arrived(&second);
    assert_eq!(arrived.into_keys().collect::<Vec<_>>(), ["stuck"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn callers_who_leave_at_any_time_lose_nothing_and_repeat_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dice = |n: usize| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    let calls = AtomicUsize::new(1);
    let platform = Platform::start(move |_| match dice(calls.fetch_add(1, Ordering::SeqCst)) {
        0..20 => late(5),
        20..30 => say(500),
        _ => say(204),
    })
    .await;
    let bench = Arc::new(Bench::new(&platform.config(), folder.path(), quick()).run());
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..40 {
        let bench = bench.clone();
        callers.spawn(async move {
            for n in 0..50 {
                let number = caller * 50 + n;
                let Some(settling) = bench.report(&number.to_string()) else { continue };
                let patience = Duration::from_micros(40 * dice(number + 1) as u64);
                match dice(number + 7) {
                    0..40 => drop(settling),
                    40..120 => drop(timeout(patience, settling).await),
                    _ => drop(settling.await),
                }
            }
        });
    }
    callers.join_all().await;
    bench.until_done().await;
    assert!(bench.reporter.flush(Duration::from_secs(5)).await);
    let accepted = bench.metrics.platform.waiting.get();
    assert_eq!(accepted, 0);
    let mut taken: HashMap<String, usize> = HashMap::new();
    for (seen, status) in platform.answered() {
        if status == 204 {
            *taken.entry(seen).or_default() += 1;
        }
    }
    assert_eq!(taken.len(), 2000);
    assert!(taken.values().all(|times| *times == 1));
}
