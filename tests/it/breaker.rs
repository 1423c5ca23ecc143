//! The circuit breaker: a provider that keeps failing is passed over where there is another one, and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Gate, Provider, Reply, Step};
use crate::support::{ask_with, eventually, on_both_databases};

/// A provider that answers with this status, which can be changed. 200: it serves; 0: it is silent; 299: a page.
fn switched(status: &Arc<AtomicU16>) -> Provider {
    let status = status.clone();
    Provider::start(move |request| match status.load(Ordering::SeqCst) {
        200 => Reply::chat(request, &["ok"]),
        0 => Reply::silence(),
        299 => Reply::bytes(200, "text/html", "<html>"),
        status => Reply::json(status, &json!({"error": {"message": "no"}})),
    })
}

fn status(now: u16) -> Arc<AtomicU16> {
    Arc::new(AtomicU16::new(now))
}

/// Instances with their addresses and credentials, tried `any: [first, ...]`. Three failures in a row are enough.
fn breaking(start: Builder, instances: &[(&str, &Provider, &str)], client: &str) -> Builder {
    let providers: String = instances
        .iter()
        .map(|(name, provider, key)| {
            let base = provider.base();
            format!(
                "  {name}: {{provider_type: openai, api_base: \"{base}\", api_key: {key}, client_args: {{{client}}}}}\n"
            )
        })
        .collect();
    let targets: Vec<String> = instances.iter().map(|(name, ..)| format!("{name}:m")).collect();
    let policies = format!(
        "routing: {{policies: {{any: {{select: [{{default: {:?}}}], on_failure: {:?}}}}}}}",
        targets[0],
        &targets[1..]
    );
    let start = targets.iter().fold(start, |start, target| start.price(target, 1.0, 1.0));
    start
        .config(&format!("providers:\n{providers}"))
        .config(&policies)
        .config("circuit_breaker_failures: 3\ncircuit_breaker_cooldown_s: 30\nenable_metrics: true")
}

async fn ask(gateway: &Gateway, key: &str) -> Answer {
    gateway.chat(key, &ask_with(json!({"model": "any"}))).await
}

/// Asks for `any` so many times; each must be served by `by`.
async fn served(gateway: &Gateway, key: &str, times: usize, by: &str) {
    for _ in 0..times {
        let answer = ask(gateway, key).await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some(by));
    }
}

/// The value of a series; 0 when there is none.
async fn metric(gateway: &Gateway, series: &str) -> u64 {
    let text = gateway.get("/metrics").await.expect(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().expect("a whole number"))
}

/// Checks how often something was logged; what the process wrote may be on its way.
async fn logged(gateway: &Gateway, words: &str, times: usize) {
    let count = || gateway.log().lines().filter(|line| line.contains(words)).count();
    eventually(words, async || (count() >= times).then_some(())).await;
    assert_eq!(count(), times, "{words}");
}

const OPENS: &str = "a provider keeps failing";
const CLOSES: &str = "a provider answers again";

async fn a_dead_provider_is_passed_over_until_one_call_finds_it_alive(start: Builder) {
    let (now, gate) = (status(500), Gate::closed());
    let (state, door) = (now.clone(), gate.clone());
    let dead = Provider::start(move |request| match state.load(Ordering::SeqCst) {
        200 => Reply::chat(request, &["ok"]).before(0, Step::WaitFor(door.clone())),
        status => Reply::json(status, &json!({"error": {"message": "no"}})),
    });
    let good = Provider::streams(["ok"]);
    let instances = [("dead", &dead, "k"), ("good", &good, "k")];
    let start = breaking(start, &instances, "max_retries: 0");
    // A breaker's time is the process's: long enough for fifty calls on a busy machine.
    let gateway = start.config("circuit_breaker_cooldown_s: 3").await;
    let key = gateway.key("u").await;

    served(&gateway, &key, 3, "good").await;
    logged(&gateway, OPENS, 1).await;
    served(&gateway, &key, 7, "good").await;
    assert_eq!((dead.count(), good.count()), (3, 10), "it is left alone");
    let skips = "gateway_circuit_breaker_skips_total{provider=\"dead\"}";
    assert_eq!(metric(&gateway, skips).await, 7);
    let abandoned = "gateway_abandoned_attempts_total{model=\"m\",position=\"0\",provider=\"dead\",reason=\"upstream_error\"}";
    assert_eq!(metric(&gateway, abandoned).await, 3);
    let rows = gateway.usage(13).await;
    let skipping = rows.iter().filter(|row| row["selection_reason"] == "on_failure");
    assert_eq!(skipping.filter(|row| row["attempt_position"] == 1).count(), 7);

    // Still dead: one call finds that out, and pays with nothing but a second try.
    tokio::time::sleep(Duration::from_millis(3100)).await;
    served(&gateway, &key, 5, "good").await;
    assert_eq!(dead.count(), 4);

    now.store(200, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let body = ask_with(json!({"model": "any"}));
        let call =
            gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key).json(&body);
        callers.spawn(async move {
            let answer = call.send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            answer.headers()["otari-provider"].to_str().expect("a name").to_owned()
        });
    }
    for _ in 0..49 {
        let by = callers.join_next().await.expect("callers are left").expect("a caller");
        assert_eq!(by, "good", "one finds out, the others do not wait for it");
    }
    assert_eq!(dead.count(), 5);
    logged(&gateway, CLOSES, 0).await;
    gate.open(100);
    let by = callers.join_next().await.expect("the one").expect("a caller");
    assert_eq!(by, "dead");
    served(&gateway, &key, 5, "dead").await;
    assert_eq!(dead.count(), 10);
    // Once each way.
    logged(&gateway, CLOSES, 1).await;
    logged(&gateway, OPENS, 1).await;
    let spend = gateway.settled("u").await;
    assert!((spend - 70.0 * 15e-6).abs() < 1e-9, "70 calls were served once each: {spend}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_is_to_blame_for_opens_nothing() {
    let now = status(400);
    let (first, good) = (switched(&now), Provider::streams(["ok"]));
    let instances = [("first", &first, "k"), ("good", &good, "k")];
    let gateway = breaking(Gateway::start(), &instances, "max_retries: 0").await;
    let key = gateway.key("u").await;
    served(&gateway, &key, 10, "good").await;
    assert_eq!(first.count(), 10, "a 400 says that it works");
    // Two failures, and an answer in between: never three in a row.
    for answer in [500, 500, 404, 500, 500, 200, 500, 500] {
        now.store(answer, Ordering::SeqCst);
        ask(&gateway, &key).await.expect(200);
    }
    assert_eq!(first.count(), 18);
    logged(&gateway, OPENS, 0).await;
    // A page instead of an answer says neither.
    for answer in [299, 429, 200] {
        now.store(answer, Ordering::SeqCst);
        served(&gateway, &key, 1, "good").await;
    }
    assert_eq!(first.count(), 20);
    logged(&gateway, OPENS, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_credential_has_a_breaker_and_every_name_of_it_the_same() {
    let place = Provider::start(|request| match request.header("authorization") {
        Some("Bearer works") => Reply::chat(request, &["ok"]),
        _ => Reply::json(401, &json!({"error": {"message": "no"}})),
    });
    let instances =
        [("one", &place, "revoked"), ("same", &place, "revoked"), ("other", &place, "works")];
    let gateway = breaking(Gateway::start(), &instances, "max_retries: 0").await;
    let key = gateway.key("u").await;
    served(&gateway, &key, 10, "other").await;
    let revoked = place
        .requests()
        .iter()
        .filter(|request| request.header("authorization") == Some("Bearer revoked"))
        .count();
    assert_eq!((revoked, place.count()), (3, 13), "the first two names stand for one place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_passed_over_the_first_is_tried_all_the_same() {
    let (first, second) = (status(500), status(503));
    let (one, other) = (switched(&first), switched(&second));
    let instances = [("one", &one, "k"), ("other", &other, "k")];
    let gateway = breaking(Gateway::start(), &instances, "max_retries: 0").await;
    let key = gateway.key("u").await;
    for _ in 0..3 {
        let refusal = ask(&gateway, &key).await.refused(502);
        assert_eq!(refusal["detail"], "All upstream providers failed");
    }
    logged(&gateway, OPENS, 2).await;
    let (ones, others) = (one.count(), other.count());
    first.store(429, Ordering::SeqCst);
    let refusal = ask(&gateway, &key).await.refused(502);
    assert_eq!(refusal["detail"], "All upstream providers failed", "whatever was passed over");
    assert_eq!((one.count(), other.count()), (ones + 1, others));
    let skipped = async |name: &str| {
        metric(&gateway, &format!("gateway_circuit_breaker_skips_total{{provider=\"{name}\"}}"))
            .await
    };
    assert_eq!(
        (skipped("one").await, skipped("other").await),
        (0, 1),
        "what is tried is not skipped"
    );
    first.store(200, Ordering::SeqCst);
    served(&gateway, &key, 2, "one").await;
    logged(&gateway, CLOSES, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_provider_is_always_called_but_not_again_and_again() {
    let now = status(503);
    let provider = switched(&now);
    let gateway = breaking(Gateway::start(), &[("p", &provider, "k")], "max_retries: 2").await;
    let key = gateway.key("u").await;
    let direct = ask_with(json!({"model": "p:m"}));
    gateway.chat(&key, &direct).await.refused(502);
    assert_eq!(provider.count(), 3, "repeated while it may be a hiccup");
    for tries in 4..8 {
        let begun = Instant::now();
        let refusal = gateway.chat(&key, &direct).await.refused(502);
        assert_eq!(refusal["detail"], "LLM provider error");
        assert_eq!(provider.count(), tries, "once each, now that it is known");
        assert!(begun.elapsed() < Duration::from_millis(180), "and without a pause");
    }
    // A policy of one target is no different.
    ask(&gateway, &key).await.refused(502);
    assert_eq!(provider.count(), 8);
    assert!(!gateway.get("/metrics").await.text().contains("breaker_skips_total{"));
    now.store(200, Ordering::SeqCst);
    gateway.chat(&key, &direct).await.expect(200);
    now.store(503, Ordering::SeqCst);
    gateway.chat(&key, &direct).await.refused(502);
    assert_eq!(provider.count(), 12, "it had worked: repeated again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zero_failures_switch_it_off() {
    let (dead, good) = (switched(&status(500)), Provider::streams(["ok"]));
    let instances = [("dead", &dead, "k"), ("good", &good, "k")];
    let start = breaking(Gateway::start(), &instances, "max_retries: 0");
    let gateway = start.config("circuit_breaker_failures: 0").await;
    let key = gateway.key("u").await;
    served(&gateway, &key, 12, "good").await;
    assert_eq!(dead.count(), 12);
    logged(&gateway, OPENS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_silence_of_a_dead_provider_is_paid_for_a_few_times_only() {
    let (dead, good) = (switched(&status(0)), Provider::streams(["ok"]));
    let instances = [("dead", &dead, "k"), ("good", &good, "k")];
    let gateway = breaking(Gateway::start(), &instances, "max_retries: 0, timeout: 0.3").await;
    let key = gateway.key("u").await;
    let begun = Instant::now();
    served(&gateway, &key, 3, "good").await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let begun = Instant::now();
    served(&gateway, &key, 20, "good").await;
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "20 calls waited as if there were 6 s of silence: {took:?}"
    );
    assert_eq!(dead.count(), 3);
    let timeouts = "gateway_abandoned_attempts_total{model=\"m\",position=\"0\",provider=\"dead\",reason=\"timeout\"}";
    assert_eq!(metric(&gateway, timeouts).await, 3);
}

/// Why an attempt was given up, where it stood, and whose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_attempts_are_counted_by_reason_and_position() {
    let refuses = Provider::answers(500, json!({"error": {"message": "no"}}));
    let reports = Provider::start(|_| {
        Reply::events([Step::Send(
            b"data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\n".to_vec(),
        )])
    });
    let good = Provider::streams(["ok"]);
    let instances = [("refuses", &refuses, "k"), ("reports", &reports, "k"), ("good", &good, "k")];
    let gateway = breaking(Gateway::start(), &instances, "max_retries: 0").await;
    let key = gateway.key("u").await;
    for stream in [json!(true), Value::Null] {
        let body = ask_with(json!({"model": "any", "stream": stream}));
        gateway.chat(&key, &body).await.expect(200);
    }
    for (provider, position, reason, count) in [
        ("refuses", 0, "build_error", 1),
        ("refuses", 0, "upstream_error", 1),
        ("reports", 1, "upstream_error", 2),
        ("good", 2, "upstream_error", 0),
    ] {
        let series = format!(
            "gateway_abandoned_attempts_total{{model=\"m\",position=\"{position}\",provider=\"{provider}\",reason=\"{reason}\"}}"
        );
        assert_eq!(metric(&gateway, &series).await, count, "{series}");
    }
}

on_both_databases!(a_dead_provider_is_passed_over_until_one_call_finds_it_alive);
