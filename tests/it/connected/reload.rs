//! Reading the configuration again before a platform: what takes effect, what waits for a restart, what is refused.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Api, Scene, working};
use crate::reload::{edit, reload, said, series};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::platform::{GATEWAY_TOKEN, Platform, USER_TOKEN};
use crate::support::provider::{Gate, Provider, Reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_effect_is_in_force_and_a_stream_goes_on() {
    let mut scene =
        Scene::with(|start| start.config("reload_interval_s: 0\nenable_metrics: true")).await;
    let gate = Gate::closed();
    let held = gate.clone();
    let slow = Provider::start(move |request| Reply::chat(request, &["Hel", "lo"]).gated(1, &held));
    let (works, silent) = (working(), Provider::never_answers());
    for (model, provider) in [("slow", &slow), ("works", &works), ("silent", &silent)] {
        scene.platform.plan(model, &[("openai", provider)]);
    }
    let mut stream = scene.gateway.stream(USER_TOKEN, &Api::Chat.ask_streamed("slow")).await;
    assert_eq!(stream.status(), 200);
    let mut got = stream.chunk().await.unwrap().expect("a first piece").to_vec();

    let line = reload(&scene.gateway, |text| {
        text.replace("enable_metrics: true", "enable_metrics: false")
            .replace("circuit_breaker_failures: 0", "circuit_breaker_failures: 1")
            + "first_byte_timeout_s: 1\nmax_request_bytes: 2000\ncors_allow_origins: ['https://a.test']\n\
               rate_limits:\n  - {per: key, requests_per_minute: 30, burst_s: 6}\n"
    })
    .await;
    for part in [
        "enable_metrics: true -> false",
        "first_byte_timeout_s: set to 1",
        "max_request_bytes: set to 2000",
        "cors_allow_origins",
        "rate_limits",
        "circuit_breaker_failures",
    ] {
        assert!(line.contains(part), "{part} is said: {line}");
    }
    assert!(!line.contains("restart"), "{line}");

    // In connected mode too the times of a call are those that are in force when it begins.
    let begun = Instant::now();
    let answer = scene.ask(Api::Chat, "silent").await;
    assert!(answer.status >= 500, "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(scene.told(1).await.len(), 1);
    let long = "a".repeat(3000);
    let body = json!({"model": "works", "messages": [{"role": "user", "content": long}]});
    assert_eq!(scene.send(Api::Chat, &body).await.status, 413);
    scene.gateway.get("/metrics").await.expect(404);
    // Three a burst of six seconds: this token's first was the silent one.
    let mut passed = 0;
    for _ in 0..4 {
        passed += u64::from(scene.ask(Api::Chat, "works").await.status == 200);
    }
    assert!((1..=3).contains(&passed), "{passed}");
    assert_eq!(scene.told(usize::try_from(passed).unwrap()).await.len() as u64, passed);

    gate.open(100);
    while let Some(piece) = stream.chunk().await.expect("the stream is whole") {
        got.extend(piece);
    }
    let got = String::from_utf8(got).unwrap();
    assert!(got.contains("lo") && got.ends_with("data: [DONE]\n\n"), "{got}");
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_said_and_waits() {
    let mut scene =
        Scene::with(|start| start.config("reload_interval_s: 0\nenable_metrics: true")).await;
    let works = working();
    scene.platform.plan("m", &[("openai", &works)]);
    let line = reload(&scene.gateway, |text| {
        text.replace("port: 0", "port: 1")
            + "platform: {usage_max_retries: 9}\nthreads: 7\nrouting: {policies: {best: {select: [{default: \"openai:m\"}]}}}\n"
    })
    .await;
    let (_, restart) = line.split_once("restart needed for: ").unwrap_or_else(|| panic!("{line}"));
    for key in ["platform", "port", "routing", "threads"] {
        assert!(restart.contains(key), "{key} is said: {line}");
    }
    scene.ask(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    // What this mode does not read takes effect by no restart either, and nothing says so.
    let line = reload(&scene.gateway, |text| {
        text + "providers:\n  q: {provider_type: openai, api_key: sk-of-nobody}\npricing:\n  \"q:m\": {input_price_per_million: 1, output_price_per_million: 2}\n"
    })
    .await;
    assert!(!line.contains("pricing") && !line.contains("sk-of-nobody"), "{line}");
    assert!(!scene.gateway.log().contains(GATEWAY_TOKEN));
    scene.ask(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_refused_and_calls_go_on() {
    let mut scene =
        Scene::with(|start| start.config("reload_interval_s: 0\nenable_metrics: true")).await;
    let works = working();
    scene.platform.plan("m", &[("openai", &works)]);
    let good = std::fs::read_to_string(scene.gateway.folder().join("config.yml")).unwrap();
    let before = scene.gateway.log().len();
    let line = reload(&scene.gateway, |text| {
        text.replace("enable_metrics: true", "enable_metrics: maybe")
            + "max_request_bytes: 10\nfirst_byte_timeout_s: never\n"
    })
    .await;
    assert!(line.contains("was not reloaded"), "{line}");
    let all = scene.gateway.log()[before..].to_owned();
    for part in ["enable_metrics", "first_byte_timeout_s", "2 problems. Nothing was changed."] {
        assert!(all.contains(part), "{part}: {all}");
    }
    // Nothing of it: also what was right in it.
    scene.ask(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    assert_eq!(series(&scene.gateway, "gateway_config_reload_success").await, 0.0);

    // Another mode is another gateway: with the token in the environment it is a contradiction.
    let line = reload(&scene.gateway, |_| good.clone() + "mode: standalone\n").await;
    assert!(line.contains("was not reloaded"), "{line}");
    scene.ask(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);

    // No file at all is one without a key: the gateway needs none. What cannot be read is refused.
    let line = reload(&scene.gateway, |_| "{ not yaml".into()).await;
    assert!(line.contains("was not reloaded"), "{line}");
    let line = reload(&scene.gateway, |_| good).await;
    assert!(line.contains("nothing to put into effect"), "{line}");
    assert_eq!(series(&scene.gateway, "gateway_config_reload_success").await, 1.0);
    scene.ask(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_file_is_looked_at() {
    let platform = Platform::start().await;
    let gateway = Gateway::start()
        .connected(&platform)
        .config("reload_interval_s: 0.1\nlog_level: info")
        .await;
    let before = gateway.log().len();
    edit(&gateway, |text| text + "max_request_bytes: 10\n");
    let line = said(&gateway, before).await;
    assert!(line.contains("max_request_bytes: set to 10"), "{line}");
    let body = Api::Chat.ask("m");
    let answer = gateway.post(USER_TOKEN, Api::Chat.path(), body.to_string()).await;
    assert_eq!(answer.status, 413);
    // A wrong one is refused once, not at every look.
    edit(&gateway, |text| text.replace("max_request_bytes: 10", "max_request_bytes: ten"));
    eventually("the refusal", async || gateway.log().contains("was not reloaded").then_some(()))
        .await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(gateway.log().matches("was not reloaded").count(), 1, "{}", gateway.log());
}
