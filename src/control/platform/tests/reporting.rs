//! What becomes of reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use otari_filters::settle::Entry;
use serde_json::json;

use super::support::*;
use crate::clock;
use crate::config::PlatformConfig;
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
        assert_eq!(bench.metrics.platform.waiting.get(), parked, "{says:?}");
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
    assert!(first >= Duration::from_millis(100), "{first:?}");
    assert!(second >= Duration::from_millis(200), "{second:?}");
    assert_eq!(at.len(), 3);
}

/// Ids that the platform took, with how often.
fn taken(platform: &Platform) -> HashMap<String, usize> {
    let mut taken = HashMap::new();
    for seen in platform.seen() {
        *taken.entry(seen.correlation_id()).or_default() += 1;
    }
    taken
}

#[tokio::test]
async fn reports_wait_for_a_platform_that_is_away_and_nobody_waits_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let is_up = Arc::new(AtomicBool::new(false));
    let switch = is_up.clone();
    let platform = Platform::start(move |seen| match switch.load(Ordering::SeqCst) {
        true => settled(seen),
        false => Answer::HangUp,
    })
    .await;
    let pace = Pace { parked: Duration::from_millis(200), ..quick() };
    let bench = Bench::new(&platform.config(), folder.path(), pace).run();
    assert_eq!(bench.report("att-0").unwrap().await, None, "given up for now");
    for n in 1..300 {
        assert!(bench.report(&format!("att-{n}")).is_none(), "the platform is known to be away");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let tries = platform.count();
    assert!(tries <= 3 + 16, "it is asked now and then whether it is back, not {tries} times");
    let mark = platform.seen().len();
    is_up.store(true, Ordering::SeqCst);
    bench.until_done().await;
    let mut ids: Vec<_> = platform.seen()[mark..].iter().map(Seen::correlation_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 300, "every one of them, once");
    assert!(platform.count() <= mark + 301, "and none of them twice");
    assert!(bench.report("att-300").unwrap().await.is_some(), "costs are back");
}

#[tokio::test]
async fn a_crash_repeats_nothing_that_was_noted() {
    let folder = tempfile::tempdir().unwrap();
    {
        let journal = Journal::open(folder.path()).unwrap();
        for n in 0..200 {
            journal.append(&kept(&n.to_string(), clock::now_us())).unwrap();
            // Those that are noted much later than they were made, too.
            if n >= 100 && n % 2 == 0 {
                journal.append(&Entry::Reported(format!("own-{}", n - 100).into())).unwrap();
            }
        }
    }
    let platform = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    assert!(bench.reporter.flush(Duration::from_secs(10)).await, "nothing is left");
    let taken = taken(&platform);
    for n in 0..200 {
        let expected = usize::from(n >= 100 || n % 2 == 1);
        assert_eq!(taken.get(&n.to_string()).copied().unwrap_or(0), expected, "{n}");
    }
    bench.until_done().await;
    let files = std::fs::read_dir(folder.path()).unwrap();
    let segments = files.filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_str().is_some_and(|name| name.ends_with(".journal"))
    });
    assert_eq!(segments.count(), 1, "what is done leaves the disk");
    bench.crash().await;
    let again = Bench::new(&platform.config(), folder.path(), quick()).run();
    assert!(again.reporter.flush(Duration::from_secs(10)).await);
    assert_eq!(platform.count(), 150, "a second start has nothing to repeat");
}

#[tokio::test]
async fn a_crash_in_the_middle_repeats_only_what_was_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let total = 500_usize;
    // Every seventh is answered only after the crash.
    let platform = Platform::start(|seen| {
        match seen.correlation_id().parse::<usize>().is_ok_and(|n| n % 7 == 0) {
            true => Answer::Silence(Duration::from_secs(5)),
            false => say(204),
        }
    })
    .await;
    let config = platform.config();
    let bench = Bench::new(&config, folder.path(), quick()).run();
    for n in 0..total {
        drop(bench.report(&n.to_string()));
    }
    let accepted = |platform: &Platform| {
        taken(platform).keys().filter(|id| id.parse::<usize>().unwrap() % 7 != 0).count()
    };
    within(Duration::from_secs(10), || accepted(&platform) == total - total.div_ceil(7)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.crash().await;
    let second = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&second.config(), folder.path(), quick()).run();
    bench.until_done().await;
    let taken = taken(&second);
    assert_eq!(taken.len(), total.div_ceil(7), "only those without an answer");
    assert!(taken.iter().all(|(id, times)| id.parse::<usize>().unwrap() % 7 == 0 && *times == 1));
}

#[tokio::test]
async fn torn_frames_cost_themselves_only() {
    let folder = tempfile::tempdir().unwrap();
    {
        let journal = Journal::open(folder.path()).unwrap();
        (0..50).for_each(|n| assert!(journal.append(&kept(&n.to_string(), 1)).is_ok()));
    }
    let segment = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "journal"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let frame = bytes.len() / 50;
    // One byte of the eleventh is not what it was, and the last one is cut.
    bytes[frame * 10 + 40] ^= 1;
    bytes.truncate(bytes.len() - 40);
    std::fs::write(&segment, bytes).unwrap();
    let platform = Platform::start(|_| say(204)).await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    drop(bench.report("new"));
    bench.until_done().await;
    let taken = taken(&platform);
    assert!(taken.contains_key("new") && taken.values().all(|times| *times == 1));
    assert!((47..=49).contains(&taken.len()), "{}", taken.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reports_and_a_platform_that_fails_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let accepted: Arc<parking_lot::Mutex<HashMap<String, usize>>> = Arc::default();
    let (log, calls) = (accepted.clone(), AtomicUsize::new(1));
    let platform = Platform::start(move |seen| {
        // As good as random, and the same every time.
        let dice = calls.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57;
        match dice {
            0..40 => say(500),
            40..42 => Answer::HangUp,
            _ => {
                *log.lock().entry(seen.correlation_id()).or_default() += 1;
                say(204)
            }
        }
    })
    .await;
    // On busy cores an answer may take its time; one that comes too late would be asked for again.
    let config = PlatformConfig { usage_timeout: Duration::from_secs(20), ..platform.config() };
    let bench = Bench::new(&config, folder.path(), quick()).run();
    let began = Instant::now();
    let mut most = 0;
    for n in 0..10_000 {
        drop(bench.report(&n.to_string()));
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
        most = most.max(bench.metrics.platform.waiting.get());
    }
    while bench.journal.applied() < bench.journal.end() {
        most = most.max(bench.metrics.platform.waiting.get());
        assert!(began.elapsed() < Duration::from_secs(60), "{} of 10000", accepted.lock().len());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("10000 reports took {:?}, at most {most} in memory", began.elapsed());
    let accepted = accepted.lock();
    assert_eq!(accepted.len(), 10_000);
    assert!(accepted.values().all(|times| *times == 1), "none was accepted twice");
    assert!(most <= IN_HAND as i64 + 512, "one read is all that may come on top");
    assert_eq!(bench.metrics.platform.waiting.get(), 0);
}

#[tokio::test]
async fn one_report_that_the_platform_stumbles_over_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|seen| match seen.correlation_id().as_str() {
        "poison" => say(500),
        _ => settled(seen),
    })
    .await;
    let pace = Pace { behind_bytes: 20_000, ..quick() };
    let bench = Bench::new(&platform.config(), folder.path(), pace).run();
    assert_eq!(bench.report("poison").unwrap().await, None);
    // It was the only one, so nobody knows whether the platform is away. The next report finds out.
    drop(bench.report("first"));
    within(Duration::from_secs(5), || taken(&platform).contains_key("first")).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = bench.journal.applied();
    let mut costs = 0;
    for n in 0..400 {
        if let Some(settling) = bench.report(&n.to_string()) {
            costs += usize::from(settling.await.is_some());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(costs, 400, "everybody else gets their cost");
    within(Duration::from_secs(5), || bench.journal.applied() > before).await;
    within(Duration::from_secs(5), || bench.journal.backlog_bytes() < 40_000).await;
    let taken = taken(&platform);
    assert!(taken["poison"] > 6, "it goes on being tried");
    let twice: Vec<_> = taken.iter().filter(|(id, n)| *id != "poison" && **n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn what_nobody_takes_for_a_week_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let week_us = 7 * 24 * 3600 * 1_000_000;
    let platform = Platform::start(|_| say(500)).await;
    let pace = Pace { parked: Duration::from_secs(60), ..quick() };
    let bench = Bench::new(&platform.config(), folder.path(), pace).run();
    let old = bench.reporter.report(report("old"), clock::now_us() - week_us - 1_000_000);
    assert_eq!(old.unwrap().await, None);
    let path = folder.path().join("rejected.jsonl");
    within(Duration::from_secs(5), || path.exists()).await;
    bench.until_done().await;
    let line = std::fs::read_to_string(path).unwrap();
    let Entry::Report(rejected) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
    assert_eq!(rejected.report, report("old"));
    assert_eq!(platform.count(), 3);
}

#[tokio::test]
async fn leaving_waits_for_what_can_still_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| say(204)).await;
    let address = platform.address;
    let config = platform.config();
    let bench = Bench::new(&config, folder.path(), quick()).run();
    let began = Instant::now();
    assert!(bench.reporter.flush(Duration::from_secs(5)).await, "nothing to tell");
    assert!(began.elapsed() < Duration::from_millis(100));
    drop(platform);
    bench.crash().await;

    let pace = Pace {
        parked: Duration::from_secs(60),
        parked_at_most: Duration::from_secs(60),
        ..quick()
    };
    let bench = Bench::new(&config, folder.path(), pace).run();
    drop(bench.report("att-1"));
    within(Duration::from_secs(5), || bench.metrics.platform.waiting.get() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let (flushed, platform) = tokio::join!(bench.reporter.flush(Duration::from_secs(5)), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Platform::start_at(address, |_| say(204)).await
    });
    assert!(flushed && began.elapsed() < Duration::from_secs(2), "parked ones are tried at once");
    assert_eq!(platform.count(), 1);

    drop(platform);
    drop(bench.report("att-2"));
    let began = Instant::now();
    assert!(!bench.reporter.flush(Duration::from_millis(300)).await, "nobody is there");
    assert!(began.elapsed() < Duration::from_millis(600));
}

#[tokio::test]
async fn a_report_that_the_disk_refuses_is_sent_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(settled).await;
    let bench = Bench::new(&platform.config(), folder.path(), quick()).run();
    let mut long = report("long");
    // Longer than any record may be.
    long.session_label = Some("x".repeat(2 << 20).into());
    let cost = bench.reporter.report(long, clock::now_us()).unwrap().await;
    assert!(cost.is_some());
    assert!(bench.reporter.flush(Duration::from_secs(1)).await);
}
