//! Limits of rates: of whose and of what, what a caller is told of them, and that gateways hold them together.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Answer, Builder, Gateway, MASTER};
use crate::support::platform::Platform;
use crate::support::postgres::{self, Cluster, Database};
use crate::support::provider::{Gate, Provider, Reply, completion};
use crate::support::{ask, ask_streamed, ask_with, eventually, priced};

async fn limited(rules: &str, provider: &Provider) -> Gateway {
    let config = format!("enable_metrics: true\nreload_interval_s: 0\nrate_limits:\n{rules}");
    priced(Gateway::start().config(&config), provider).price("p:n", 1.0, 1.0).await
}

async fn series(gateway: &Gateway, name: &str) -> f64 {
    let page = gateway.get("/metrics").await.text();
    let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("{name}: {page}")).parse().expect("a number")
}

fn refused(answer: &Answer, limit: &str) -> u64 {
    let body = answer.refused(429);
    assert_eq!(body["error"]["code"], "rate_limited");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(limit), "{message}");
    answer.header("retry-after").expect("a wait").parse().expect("whole seconds")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_key_are_limited_and_the_caller_is_told() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited("  - {per: key, requests_per_minute: 20}", &provider).await;
    let (one, other) = (gateway.key("u").await, gateway.key("u").await);
    let first = gateway.chat(&one, &ask()).await.expect(200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("20"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"), "a tenth of a minute");
    assert_eq!(first.header("x-ratelimit-reset-requests"), Some("3s"));
    assert_eq!(first.header("x-ratelimit-limit"), None, "that is of rate_limit_rpm");
    gateway.chat(&one, &ask()).await.expect(200);
    let third = gateway.chat(&one, &ask()).await;
    let wait = refused(&third, "20 requests per minute with this API key");
    assert!((1..=3).contains(&wait), "{wait}");
    let text = third.text();
    assert!(!text.contains(&one) && !text.contains("p:m"), "{text}");
    gateway.chat(&other, &ask()).await.expect(200);
    // Every format of callers is told in its own words.
    let body =
        json!({"model": "p:m", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]});
    let answer = gateway.post(&one, "/v1/messages", body.to_string()).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    // The operator's own calls are of no key.
    for _ in 0..5 {
        gateway.chat(MASTER, &ask_with(json!({"user": "u"}))).await.expect(200);
    }
    assert_eq!(series(&gateway, "gateway_rate_limit_hits_total").await, 2.0);
    assert_eq!(series(&gateway, "gateway_limit_hits_total{limit=\"rate_requests\"}").await, 2.0);
    let page = gateway.get("/metrics").await.text();
    for secret in [&one[..], &other, "\"u\""] {
        assert!(!page.contains(secret), "{page}");
    }
    assert_eq!(gateway.usage(8).await.len(), 8, "refused calls leave no row");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    gateway.chat(&one, &ask()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_models_and_everybody_are_counted_by_themselves() {
    let provider = Provider::streams(["ok"]);
    let rules = "  - {per: user, requests_per_minute: 30}\n  \
                 - {per: model, models: ['p:m'], requests_per_minute: 50}\n  \
                 - {per: all, requests_per_minute: 90}";
    let gateway = limited(rules, &provider).await;
    let (u, v, w) = (gateway.key("u").await, gateway.key("v").await, gateway.key("w").await);
    let also_u = gateway.key("u").await;
    let other = ask_with(json!({"model": "p:n"}));
    for key in [&u, &also_u, &u] {
        gateway.chat(key, &ask()).await.expect(200);
    }
    refused(&gateway.chat(&also_u, &other).await, "30 requests per minute of this user");
    for _ in 0..2 {
        gateway.chat(&v, &ask()).await.expect(200);
    }
    refused(&gateway.chat(&v, &ask()).await, "50 requests per minute of this model for these");
    // What the model's limit refused has taken nothing of the user's.
    gateway.chat(&v, &other).await.expect(200);
    for _ in 0..3 {
        gateway.chat(&w, &other).await.expect(200);
    }
    let x = gateway.key("x").await;
    refused(&gateway.chat(&x, &other).await, "Rate limit exceeded: 90 requests per minute. Try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_count_as_estimated_until_they_are_known() {
    let provider = Provider::start(|request| {
        let used = request.json()["max_tokens"].as_u64().unwrap_or(0).min(60);
        let mut body = completion("ok");
        body["usage"] =
            json!({"prompt_tokens": 40, "completion_tokens": used, "total_tokens": 40 + used});
        Reply::json(200, &body)
    });
    // 1000 at once.
    let gateway = limited("  - {per: user, tokens_per_minute: 10000}", &provider).await;
    let key = gateway.key("u").await;
    let of = |max: u64| ask_with(json!({"max_tokens": max}));
    let first = gateway.chat(&key, &of(800)).await.expect(200);
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("10000"));
    let left: u64 = first.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    assert!((180..200).contains(&left), "the estimate: {left}");
    // It used 100 of them: the rest is there again.
    let left = async || {
        let answer = gateway.chat(&key, &of(0)).await.expect(200);
        answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap()
    };
    let now = left().await;
    assert!((850..=1000).contains(&now), "{now}");
    // More than can be at once passes when all of it is there.
    let large = gateway.chat(&key, &of(2000)).await;
    refused(&large, "10000 tokens per minute of this user");
    eventually("all of it", async || {
        (gateway.chat(&key, &of(2000)).await.status == 200).then_some(())
    })
    .await;
    let hits = series(&gateway, "gateway_limit_hits_total{limit=\"rate_tokens\"}").await;
    assert!(hits >= 1.0);
    assert_eq!(gateway.usage(provider.count()).await.len(), provider.count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_limited() {
    let gate = Gate::closed();
    let kept = gate.clone();
    let provider =
        Provider::start(move |request| Reply::chat(request, &["a", "b"]).gated(1, &kept));
    let gateway = limited("  - {per: model, concurrent: 2}", &provider).await;
    let key = gateway.key("u").await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = gateway.stream(&key, &ask_streamed()).await;
        assert!(stream.chunk().await.expect("a piece").is_some());
        open.push(stream);
    }
    let third = gateway.chat(&key, &ask()).await;
    assert_eq!(refused(&third, "2 requests at once of this model"), 1);
    // Whoever leaves, or ends, makes room.
    drop(open.pop());
    gate.open(100);
    for stream in open {
        assert!(stream.text().await.expect("whole").ends_with("data: [DONE]\n\n"));
    }
    eventually("room again", async || {
        (gateway.chat(&key, &ask()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_changed_without_a_restart() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited("  - {per: key, requests_per_minute: 10}", &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.chat(&key, &ask()).await.expect(429);
    let file = gateway.folder().join("config.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    let change = |to: &str| {
        std::fs::write(&file, text.replace("requests_per_minute: 10", to)).unwrap();
        gateway.signal("HUP");
    };
    change("requests_per_minute: 20");
    eventually("the new limit", async || {
        (gateway.chat(&key, &ask()).await.status == 200).then_some(())
    })
    .await;
    assert!(gateway.log().contains("rate_limits"), "{}", gateway.log());
    change("requests_per_minuten: 30");
    eventually("the mistake", async || gateway.log().contains("unknown key").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_platform_are_told_apart_without_being_kept() {
    let provider = Provider::streams(["ok"]);
    let mut platform = Platform::start().await;
    platform.plan("m", &[("openai", &provider)]);
    let rules = "enable_metrics: true\nrate_limits:\n  - {per: key, requests_per_minute: 10}";
    let gateway = Gateway::start().config(rules).connected(&platform).await;
    let body = ask_with(json!({"model": "openai:m"}));
    gateway.chat("tk_one", &body).await.expect(200);
    refused(&gateway.chat("tk_one", &body).await, "10 requests per minute");
    gateway.chat("tk_two", &body).await.expect(200);
    assert_eq!(provider.count(), 2);
    let page = gateway.get("/metrics").await.text() + &gateway.log();
    assert!(!page.contains("tk_one") && !page.contains("tk_two"), "{page}");
}

/// Three gateways that share their limits, and a key that all of them know; they have just started.
async fn three_at_once(
    rules: &str,
    database: &Database,
    provider: &Provider,
) -> (Vec<Gateway>, String) {
    let mut all = Vec::new();
    for _ in 0..3 {
        let config = format!(
            "database_url: {}\nenable_metrics: true\nrate_limit_store: postgres\nrate_limits:\n{rules}",
            database.url
        );
        let start: Builder = Gateway::start().config(&config);
        all.push(priced(start, provider).await);
    }
    let key = all[0].key("u").await;
    for gateway in &all {
        knows(gateway, &key).await;
    }
    (all, key)
}

async fn knows(gateway: &Gateway, key: &str) {
    eventually("the gateway to know the key", async || {
        let answer = gateway.http().get(gateway.url("/v1/pricing")).bearer_auth(key).send().await;
        (answer.expect("an answer").status() == 200).then_some(())
    })
    .await;
}

/// The same, and each has heard that there are three.
async fn three(rules: &str, database: &Database, provider: &Provider) -> (Vec<Gateway>, String) {
    let three = three_at_once(rules, database, provider).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    three
}

/// Calls evenly, `rates` of them a second at each gateway for `span`; how many passed, and when the last one was sent.
async fn load(
    all: &[Gateway],
    key: &str,
    body: &Value,
    rates: [f64; 3],
    span: Duration,
) -> (u64, Duration) {
    let begun = Instant::now();
    let of = async |gateway: &Gateway, rate: f64| {
        let mut calls = JoinSet::new();
        let mut sent = 0.0;
        while begun.elapsed() < span && rate > 0.0 {
            while sent / rate <= begun.elapsed().as_secs_f64() {
                sent += 1.0;
                let call = gateway.http().post(gateway.url("/v1/chat/completions"));
                let call = call.bearer_auth(key).json(body).send();
                calls.spawn(async move {
                    let answer = call.await.expect("an answer");
                    let status = answer.status().as_u16();
                    answer.bytes().await.expect("whole");
                    status
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut passed = 0;
        while let Some(call) = calls.join_next().await {
            match call.expect("no panic") {
                200 => passed += 1,
                429 => {}
                other => panic!("{other}"),
            }
        }
        passed
    };
    let (a, b, c) =
        tokio::join!(of(&all[0], rates[0]), of(&all[1], rates[1]), of(&all[2], rates[2]));
    println!("passed at each: {a} {b} {c}");
    (a + b + c, begun.elapsed())
}

fn within_two_percent(what: &str, passed: u64, expected: f64) {
    let off = (passed as f64 - expected) / expected;
    println!("{what}: {passed} passed, {expected:.0} expected: {:+.2} %", off * 100.0);
    // Each gateway may have one more in its hands when the time is over.
    let is_near = off <= 0.02 && passed as f64 + 3.0 >= 0.98 * expected;
    assert!(is_near, "{what}: {passed} passed, and {expected:.0} should have");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_hold_a_limit_of_requests_together() {
    let (database, provider) = (postgres::database(), Provider::streams(["ok"]));
    let rules = "  - {per: key, requests_per_minute: 900}";
    let (all, key) = three(rules, &database, &provider).await;
    let (passed, took) =
        load(&all, &key, &ask(), [10.0, 10.0, 10.0], Duration::from_secs(25)).await;
    within_two_percent("even load", passed, 15.0 * took.as_secs_f64() + 90.0);
    let hits = "gateway_limit_hits_total{limit=\"rate_requests\"}";
    for gateway in &all {
        assert!(series(gateway, hits).await > 0.0);
        assert_eq!(series(gateway, "gateway_rate_limit_exchange_failures_total").await, 0.0);
    }
}

/// So many calls at once, shared out over the gateways; how many passed, and how long the longest took.
async fn flood(all: &[Gateway], key: &str, calls: usize) -> (u64, Duration) {
    let mut flood = JoinSet::new();
    for number in 0..calls {
        let gateway = &all[number % all.len()];
        let call = gateway.http().post(gateway.url("/v1/chat/completions"));
        let call = call.bearer_auth(key).json(&ask()).send();
        flood.spawn(async move {
            let begun = Instant::now();
            let status = call.await.expect("an answer").status();
            (status == 200, begun.elapsed())
        });
    }
    let (mut passed, mut longest) = (0, Duration::ZERO);
    while let Some(call) = flood.join_next().await {
        let (is_passed, took) = call.expect("no panic");
        passed += u64::from(is_passed);
        longest = longest.max(took);
    }
    (passed, longest)
}

/// Whether one has gone on with its part, which is beside what all of them have together: on a machine with much else to do
/// the database may be silent for a second.
fn was_unheard(all: &[Gateway]) -> bool {
    let is_said = all.iter().any(|gateway| gateway.log().contains("parts of each rate limit"));
    if is_said {
        println!("the database was silent for a second: nothing is judged");
    }
    is_said
}

/// Everybody at once, at gateways that have started a moment ago and have not heard of the caller: nothing passes that
/// one gateway would refuse, but one call at each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_flood_passes_too_much_is_paid_off() {
    let (database, provider) = (postgres::database(), Provider::streams(["ok"]));
    let rules = "  - {per: key, requests_per_minute: 300, burst_s: 12}";
    let (all, key) = three_at_once(rules, &database, &provider).await;
    let begun = Instant::now();
    let (passed, longest) = flood(&all, &key, 300).await;
    let expected = 60.0 + 5.0 * begun.elapsed().as_secs_f64();
    println!("a flood: {passed} passed, {expected:.0} expected; the longest took {longest:?}");
    if was_unheard(&all) {
        return;
    }
    assert!(passed as f64 <= 1.02 * expected + 3.0, "{passed}, not {expected}");
    assert!(passed >= 60, "{passed}: whatever is there passes, wherever it is asked for");
    let (more, _) = load(&all, &key, &ask(), [5.0; 3], Duration::from_secs(6)).await;
    let expected = 60.0 + 5.0 * begun.elapsed().as_secs_f64();
    if !was_unheard(&all) {
        within_two_percent("after a flood", passed + more, expected);
    }
}

/// A limit of which there is one call at once is not divided, and not multiplied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_limit_is_whole_at_every_gateway() {
    let (database, provider) = (postgres::database(), Provider::streams(["ok"]));
    let rules = "  - {per: key, requests_per_minute: 30, burst_s: 8}";
    let (all, key) = three_at_once(rules, &database, &provider).await;
    // What is there, what comes back meanwhile, and one call a gateway: whoever has not heard of the others for a moment.
    let fits = |begun: Instant, at: u64, passed: u64| {
        was_unheard(&all) || (4..=4 + at + begun.elapsed().as_secs() / 2).contains(&passed)
    };
    // All four at one gateway.
    let (begun, passed) = (Instant::now(), flood(&all[..1], &key, 10).await.0);
    assert!(fits(begun, 1, passed), "{passed}, not 4");
    let others = flood(&all[1..], &key, 10).await.0;
    assert!(fits(begun, 3, passed + others), "{others} elsewhere");
    // One each at three, of which there is one.
    let other = all[0].key("v").await;
    for gateway in &all {
        knows(gateway, &other).await;
    }
    let (begun, passed) = (Instant::now(), flood(&all, &other, 30).await.0);
    assert!(fits(begun, 3, passed), "{passed}, not 4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_matter_which_gateway_is_called() {
    let (database, provider) = (postgres::database(), Provider::streams(["ok"]));
    let rules = "  - {per: user, requests_per_minute: 900}";
    let (all, key) = three(rules, &database, &provider).await;
    let begun = Instant::now();
    let mut passed = 0;
    for rates in [[30.0, 0.0, 0.0], [0.0, 30.0, 0.0], [1.0, 2.0, 27.0]] {
        passed += load(&all, &key, &ask(), rates, Duration::from_secs(8)).await.0;
    }
    within_two_percent("moving load", passed, 15.0 * begun.elapsed().as_secs_f64() + 90.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_hold_a_limit_of_tokens_together() {
    let provider = Provider::start(|_| {
        let mut body = completion("ok");
        body["usage"] = json!({"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100});
        Reply::json(200, &body)
    });
    let database = postgres::database();
    // 15 calls of 100 tokens a second.
    let rules = "  - {per: model, tokens_per_minute: 90000}";
    let (all, key) = three(rules, &database, &provider).await;
    // Estimated at 200, so that a half of it comes back.
    let body = ask_with(json!({"max_tokens": 200}));
    let (passed, took) = load(&all, &key, &body, [10.0; 3], Duration::from_secs(25)).await;
    within_two_percent("tokens", passed, 15.0 * took.as_secs_f64() + 90.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_are_shared_and_those_of_a_dead_gateway_come_back() {
    let gate = Gate::closed();
    let kept = gate.clone();
    let provider =
        Provider::start(move |request| Reply::chat(request, &["a", "b"]).gated(1, &kept));
    let database = postgres::database();
    let rules = "  - {per: user, concurrent: 9}";
    let (mut all, key) = three(rules, &database, &provider).await;
    let mut open: Vec<Vec<reqwest::Response>> = vec![Vec::new(), Vec::new(), Vec::new()];
    // Everybody at once, for as long as gateways need to hear of each other: no more than there are.
    for _ in 0..10 {
        for (gateway, open) in all.iter().zip(&mut open) {
            let stream = gateway.stream(&key, &ask_streamed()).await;
            if stream.status() == 200 {
                open.push(stream);
            }
        }
        assert!(open.iter().map(Vec::len).sum::<usize>() <= 9);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As many as there are, wherever they come from.
    for _ in 0..8 {
        for (gateway, open) in all.iter().zip(&mut open) {
            let stream = gateway.stream(&key, &ask_streamed()).await;
            if stream.status() == 200 {
                open.push(stream);
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(open.iter().map(Vec::len).sum::<usize>(), 9);
    let lost = open[2].len();
    assert!(lost > 0);
    all[2].kill9();
    let mut again = Vec::new();
    eventually("the dead gateway's places", async || {
        let stream = all[0].stream(&key, &ask_streamed()).await;
        if stream.status() == 200 {
            again.push(stream);
        }
        (again.len() == lost).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(all[1].stream(&key, &ask_streamed()).await.status(), 429);
    gate.open(1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_each_gateway_goes_on_with_its_part() {
    let (cluster, provider) = (Cluster::new(), Provider::streams(["ok"]));
    let database = cluster.database();
    let rules = "  - {per: key, requests_per_minute: 1800}";
    let (all, key) = three(rules, &database, &provider).await;
    cluster.stop();
    eventually("the gateway to notice", async || {
        all[0].log().contains("one of 3 parts of each rate limit").then_some(())
    })
    .await;
    let (passed, took) = load(&all, &key, &ask(), [20.0, 0.0, 0.0], Duration::from_secs(8)).await;
    let expected = 10.0 * took.as_secs_f64() + 60.0;
    assert!((passed as f64 - expected).abs() <= 0.05 * expected, "{passed}, not {expected}");
    cluster.start();
    eventually("word that they are shared", async || {
        all[0].log().contains("rate limits are shared again").then_some(())
    })
    .await;
    assert_eq!(all[0].log().matches("parts of each rate limit").count(), 1, "{}", all[0].log());
    assert!(series(&all[0], "gateway_rate_limit_exchange_failures_total").await > 0.0);
}
