//! Reading the configuration again: what takes effect, what is refused, what is said, and what goes on untouched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::{Gate, Provider, Reply};
use crate::support::{COST, ask, ask_streamed, ask_with, eventually, on_both_databases, priced};

/// Changes the file of a running gateway, whole at once as editors and Kubernetes do.
pub(crate) fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let (file, new) = (gateway.folder().join("config.yml"), gateway.folder().join("new.yml"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&new, change(text)).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Waits for the next line that says what became of a reading; `before` is the log's length before it was asked for.
pub(crate) async fn said(gateway: &Gateway, before: usize) -> String {
    eventually("the gateway to say what became of it", async || {
        let log = gateway.log()[before..].to_owned();
        let line = log.lines().find(|line| line.contains("reloaded"));
        line.filter(|_| log.ends_with('\n')).map(str::to_owned)
    })
    .await
}

/// Changes the file and tells the gateway; returns what it says.
pub(crate) async fn reload(gateway: &Gateway, change: impl FnOnce(String) -> String) -> String {
    let before = gateway.log().len();
    edit(gateway, change);
    gateway.signal("HUP");
    said(gateway, before).await
}

pub(crate) async fn series(gateway: &Gateway, name: &str) -> f64 {
    let text = gateway.get("/metrics").await.expect(200).text();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
}

async fn a_new_file_takes_effect_and_a_stream_goes_on(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let old = Provider::start(move |request| Reply::chat(request, &["Hel", "lo"]).gated(1, &held));
    let new = Provider::streams(["new"]);
    let start = start.config(
        "reload_interval_s: 0\nenable_metrics: true\nrequire_pricing: true\naliases:\n  fast: p:m",
    );
    let gateway = priced(start, &old).await;
    let key = gateway.key("u").await;
    let mut stream =
        gateway.stream(&key, &ask_with(json!({"model": "fast", "stream": true}))).await;
    assert_eq!(stream.status(), 200);
    let mut got = stream.chunk().await.unwrap().expect("a first piece").to_vec();

    let base = new.base();
    let line = reload(&gateway, |text| {
        let entry = format!(
            "providers:\n  q: {{provider_type: openai, api_base: \"{base}\", api_key: sk-brand-new, client_args: {{max_retries: 0}}}}\n"
        );
        // The old provider goes while a stream of it is open.
        let text = text.replace("fast: p:m", "fast: q:m").replace("port: 0", "port: 1");
        let (above, rest) = text.split_once("providers:\n").unwrap();
        let (_, pricing) = rest.split_once("pricing:\n").unwrap();
        format!("{above}{entry}pricing:\n{}rate_limit_rpm: 2\n", pricing.replace("p:m", "q:m"))
    })
    .await;
    for part in [
        "aliases.fast: p:m -> q:m",
        "providers.p: removed",
        "providers.q: added",
        "rate_limit_rpm: set to 2",
        "restart needed for: port",
    ] {
        assert!(line.contains(part), "{part} is said: {line}");
    }
    assert!(!gateway.log().contains("sk-brand-new"), "no secret is said: {line}");

    let answer = gateway.chat(&key, &ask_with(json!({"model": "fast"}))).await.expect(200);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "new");
    assert_eq!(new.only().header("authorization"), Some("Bearer sk-brand-new"));
    gateway.chat(&key, &ask()).await.expect(402);
    gateway.chat(&key, &ask_with(json!({"model": "fast"}))).await.expect(429);

    gate.open(100);
    while let Some(piece) = stream.chunk().await.expect("the stream is whole") {
        got.extend(piece);
    }
    let got = String::from_utf8(got).unwrap();
    assert!(got.contains("lo") && got.ends_with("data: [DONE]\n\n"), "{got}");
    // Both at their price: the stream's is the one that it began with.
    gateway.usage(2).await;
    assert_eq!(gateway.settled("u").await, 2.0 * COST);
    assert_eq!(series(&gateway, "gateway_config_reload_success").await, 1.0);
    assert_eq!(series(&gateway, "gateway_config_reloads_total{outcome=\"success\"}").await, 1.0);
}

async fn a_bad_file_is_refused_with_every_problem(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("reload_interval_s: 0\nenable_metrics: true");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    let read_at = series(&gateway, "gateway_config_reload_timestamp_seconds").await;
    assert!(read_at > 1e9, "the start counts: {read_at}");
    let before = gateway.log().len();
    let good = std::fs::read_to_string(gateway.folder().join("config.yml")).unwrap();
    let line = reload(&gateway, |text| {
        text.replace("enable_metrics: true", "enable_metrics: maybe") + "rate_limit_rpm: none\n"
    })
    .await;
    assert!(line.contains("was not reloaded"), "{line}");
    let said = gateway.log()[before..].to_owned();
    for part in ["enable_metrics", "rate_limit_rpm", "2 problems. Nothing was changed."] {
        assert!(said.contains(part), "{part}: {said}");
    }
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(series(&gateway, "gateway_config_reload_success").await, 0.0);
    assert_eq!(series(&gateway, "gateway_config_reloads_total{outcome=\"failure\"}").await, 1.0);

    let line = reload(&gateway, |_| good).await;
    assert!(line.contains("nothing to put into effect"), "{line}");
    assert_eq!(series(&gateway, "gateway_config_reload_success").await, 1.0);

    // Another mode is another gateway.
    std::fs::write(gateway.folder().join(".env"), "OTARI_AI_TOKEN=gw-token\n").unwrap();
    let line = reload(&gateway, |text| text).await;
    assert!(line.contains("was not reloaded"), "{line}");
    gateway.chat(&key, &ask()).await.expect(200);
}

async fn files_are_looked_at(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let key_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key_file.path(), "sk-first").unwrap();
    let yaml = format!(
        "reload_interval_s: 0.1\nproviders:\n  p: {{provider_type: openai, api_base: \"{}\", api_key_file: {}}}",
        provider.base(),
        key_file.path().display()
    );
    let gateway = start.config(&yaml).price("p:m", 1.0, 1.0).await;
    let key = gateway.key("u").await;
    let before = gateway.log().len();
    edit(&gateway, |text| text + "max_request_bytes: 10\n");
    let line = said(&gateway, before).await;
    assert!(line.contains("max_request_bytes: set to 10"), "{line}");
    gateway.chat(&key, &ask()).await.expect(413);

    let before = gateway.log().len();
    edit(&gateway, |text| text.replace("max_request_bytes: 10\n", ""));
    assert!(said(&gateway, before).await.contains("max_request_bytes: removed"));
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(provider.requests()[0].header("authorization"), Some("Bearer sk-first"));

    // A credential in a file of its own is a part of the configuration.
    let before = gateway.log().len();
    std::fs::write(key_file.path(), "sk-second").unwrap();
    let line = said(&gateway, before).await;
    assert!(line.contains("providers.p: credential changed"), "{line}");
    gateway.chat(&key, &ask()).await.expect(200);
    assert_eq!(provider.requests()[1].header("authorization"), Some("Bearer sk-second"));
    assert!(!gateway.log().contains("sk-second"), "no secret is said");
}

async fn no_call_sees_half_of_a_change(start: Builder) {
    let providers = [Provider::streams(["one"]), Provider::streams(["two"])];
    let start = start.config(
        "reload_interval_s: 0\nlog_level: info\nrequire_pricing: false\naliases:\n  fast: one:m",
    );
    let entry = |name: &str, at: usize| {
        format!(
            "{name}: {{provider_type: openai, api_base: \"{}\", api_key: k}}",
            providers[at].base()
        )
    };
    let (one, two) = (entry("one", 0), entry("two", 1));
    let gateway = Arc::new(start.config(&format!("providers:\n  {one}")).await);
    let key = gateway.key("u").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (gateway, key, stop) = (gateway.clone(), key.clone(), stop.clone());
        callers.spawn(async move {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let body = ask_with(json!({"model": "fast"}));
                gateway.chat(&key, &body).await.expect(200);
                calls += 1;
            }
            calls
        });
    }
    for turn in 0..20 {
        let (from, to, name, other) = match turn % 2 {
            0 => (&one, &two, "two", "one"),
            _ => (&two, &one, "one", "two"),
        };
        let line = reload(&gateway, |text| {
            text.replace(from, to).replace(&format!("fast: {other}:m"), &format!("fast: {name}:m"))
        })
        .await;
        assert!(line.contains(&format!("providers.{name}: added")), "{line}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(callers.join_all().await.iter().all(|calls| *calls > 0), "there was load");
    assert!(providers.iter().all(|provider| provider.count() > 0));
}

async fn settings_prices_and_the_master_key_follow(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("reload_interval_s: 0\nrequire_pricing: true\nlog_level: info");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "p:n"}))).await.expect(402);
    let line = reload(&gateway, |text| {
        text.replace("require_pricing: true", "require_pricing: false")
            .replace(MASTER, "otari-mk-another-one-0123456789")
            .replace("input_price_per_million: 1000", "input_price_per_million: 5000")
            + "  \"p:n\": {input_price_per_million: 1000, output_price_per_million: 2000}\n"
    })
    .await;
    assert!(line.contains("master_key: changed") && !line.contains("another-one"), "{line}");
    // What is in the database counts, as at a start; what it has not is taken from the file.
    assert!(gateway.log().contains("pricing.p:m: the database has a price"), "{}", gateway.log());
    gateway.chat(&key, &ask_with(json!({"model": "p:n"}))).await.expect(200);
    gateway.chat(&key, &ask_with(json!({"model": "p:unpriced"}))).await.expect(200);
    gateway.chat(&key, &ask()).await.expect(200);
    let spent = async |master: &str| {
        let bearer = format!("Bearer {master}");
        let headers = [("authorization", bearer.as_str())];
        gateway.send(Method::GET, "/v1/users/u", &headers, "").await
    };
    spent(MASTER).await.expect(401);
    eventually("the spend", async || {
        let user = spent("otari-mk-another-one-0123456789").await.expect(200).json();
        (user["spend"].as_f64() == Some(2.0 * COST)).then_some(())
    })
    .await;
}

on_both_databases!(
    a_new_file_takes_effect_and_a_stream_goes_on,
    settings_prices_and_the_master_key_follow,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file() {
    Box::pin(a_bad_file_is_refused_with_every_problem(Gateway::start())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_files() {
    Box::pin(files_are_looked_at(Gateway::start())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_whole() {
    Box::pin(no_call_sees_half_of_a_change(Gateway::start())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_of_the_log_follows() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start().config("reload_interval_s: 0"), &provider).await;
    let key = gateway.key("u").await;
    let lines = |gateway: &Gateway| gateway.log().matches("chat/completions").count();
    gateway.chat(&key, &ask_streamed()).await.expect(200);
    eventually("a line of the call", async || (lines(&gateway) == 1).then_some(())).await;
    edit(&gateway, |text| text + "log_level: error\n");
    gateway.signal("HUP");
    // Its own word about it is below the new level: what shows it is what is not there.
    eventually("the new level", async || {
        let settings: Value = gateway.manage(Method::GET, "/v1/settings", Value::Null).await;
        let before = lines(&gateway);
        gateway.chat(&key, &ask_streamed()).await.expect(200);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        (settings.is_object() && lines(&gateway) == before).then_some(())
    })
    .await;
}
