//! What one caller, or all of them together, may take of the gateway; and that what is under way goes on.

use std::time::{Duration, Instant};

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::postgres::Cluster;
use crate::support::provider::{Gate, Provider, Reply};
use crate::support::raw::Raw;
use crate::support::{ask, ask_streamed, eventually, priced};

/// A provider whose streams stop after their first event until the gate opens.
fn held() -> (Provider, Gate) {
    let gate = Gate::closed();
    let kept = gate.clone();
    let provider =
        Provider::start(move |request| Reply::chat(request, &["a", "b"]).gated(1, &kept));
    (provider, gate)
}

async fn limited(provider: &Provider, keys: &str) -> Gateway {
    let config = format!("enable_metrics: true\n{keys}");
    priced(Gateway::start().config(&config), provider).await
}

async fn hits(gateway: &Gateway, limit: &str) -> u64 {
    let page = gateway.get("/metrics").await.text();
    let series = format!("gateway_limit_hits_total{{limit=\"{limit}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.expect("every limit has its series from the start").parse().expect("a count")
}

fn chat_head(key: &str, length: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

/// Two streams fill the place; the third is refused in these words; then the two end whole, and there is room again.
async fn fills_up(start_keys: &str, status: u16, code: &str, limit: &str, one_key: bool) {
    let (provider, gate) = held();
    let gateway = limited(&provider, start_keys).await;
    let first = gateway.key("u").await;
    let second = if one_key { first.clone() } else { gateway.key("u").await };
    let mut a = gateway.stream(&first, &ask_streamed()).await;
    let mut b = gateway.stream(&second, &ask_streamed()).await;
    assert!(
        a.chunk().await.expect("a piece").is_some() && b.chunk().await.expect("a piece").is_some()
    );

    // Nothing of the body has to come for the refusal.
    let mut raw = gateway.connect().await;
    raw.send(chat_head(&first, 1 << 20) + "\r\n").await;
    let refused = raw.reply().await;
    assert_eq!(refused.status, status, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], code);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(provider.count(), 2, "what is refused never reaches the provider");
    assert_eq!(hits(&gateway, limit).await, 1);
    assert_eq!(gateway.get("/health").await.status, 200, "others are served");

    gate.open(100);
    let a = a.text().await.expect("whole");
    let b = b.text().await.expect("whole");
    assert!(a.ends_with("data: [DONE]\n\n") && b.ends_with("data: [DONE]\n\n"), "{a}{b}");
    eventually("room for one more", async || {
        (gateway.chat(&first, &ask()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_bounded_in_all() {
    fills_up("max_concurrent_requests: 2", 503, "overloaded", "requests", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_bounded_per_key() {
    let code = "too_many_concurrent_requests";
    fills_up("max_concurrent_requests_per_key: 2", 429, code, "key_requests", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_bounded_per_user() {
    let code = "too_many_concurrent_requests";
    fills_up("max_concurrent_requests_per_user: 2", 429, code, "user_requests", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_full_leaves_room_for_others() {
    let (provider, gate) = held();
    let gateway = limited(&provider, "max_concurrent_requests_per_key: 1").await;
    let (one, other) = (gateway.key("u").await, gateway.key("u").await);
    let mut open = gateway.stream(&one, &ask_streamed()).await;
    open.chunk().await.expect("a piece");
    assert_eq!(gateway.stream(&one, &ask_streamed()).await.status(), 429);
    assert_eq!(gateway.stream(&other, &ask_streamed()).await.status(), 200);
    // Whoever hangs up leaves.
    drop(open);
    gate.open(100);
    eventually("room again", async || {
        (gateway.chat(&one, &ask()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited(&provider, "max_connections: 3").await;
    let mut open = Vec::new();
    // Those of the test's own client are there too; they are closed by and by.
    let refused = eventually("a connection too many", async || {
        let mut raw = gateway.connect().await;
        raw.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = raw.reply_to("GET").await;
        if reply.status == 200 {
            open.push(raw);
            return None;
        }
        Some(reply)
    })
    .await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "too_many_connections");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(open.len() <= 3);
    open.clear();
    eventually("room again", async || {
        let mut raw = gateway.connect().await;
        raw.send("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        (raw.reply_to("GET").await.status == 200).then_some(())
    })
    .await;
    eventually("the count", async || {
        let mut raw = gateway.connect().await;
        raw.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let page = raw.reply_to("GET").await.text();
        // More than one, where the gateway had not yet seen that the others were gone.
        let hits = page.lines().find_map(|line| {
            line.strip_prefix("gateway_limit_hits_total{limit=\"connections\"} ")
        })?;
        (hits.parse::<f64>().ok()? >= 1.0).then_some(())
    })
    .await;
}

/// Sends a piece every now and then until the gateway has had enough; returns what it says, and after how long.
async fn drip(mut raw: Raw, piece: &[u8]) -> (String, Duration) {
    let since = Instant::now();
    for _ in 0..200 {
        if raw.try_send(piece).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if since.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    let text = raw.rest().await.unwrap_or_default();
    (String::from_utf8_lossy(&text).into_owned(), since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_drips_is_cut_off() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited(&provider, "header_timeout_s: 1").await;
    let mut fresh = gateway.connect().await;
    fresh.send("GET /health HTTP/1.1\r\nHost: a\r\nX: ").await;
    let (said, took) = drip(fresh, b"").await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("header_timeout"), "{said:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");

    let mut steady = gateway.connect().await;
    steady.send("GET /health HTTP/1.1\r\nHost: a\r\nX: ").await;
    let (said, took) = drip(steady, b"x").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");

    // The second request of a connection is held to it as well.
    let mut second = gateway.connect().await;
    second.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(second.reply_to("GET").await.status, 200);
    second.send("GET /health HTT").await;
    let (said, _) = drip(second, b"").await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said:?}");
    assert_eq!(hits(&gateway, "header_time").await, 3);

    // An idle connection is none of that.
    let mut idle = gateway.connect().await;
    idle.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.reply_to("GET").await.status, 200);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    idle.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.reply_to("GET").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited(&provider, "max_header_bytes: 2048\nmax_header_count: 20").await;
    let get = |more: &str| format!("GET /health HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    for (more, status, code) in [
        (format!("X: {}\r\n", "y".repeat(1500)), 200, ""),
        (format!("X: {}\r\n", "y".repeat(2100)), 431, "headers_too_large"),
        ("X: y\r\n".repeat(19), 200, ""),
        ("X: y\r\n".repeat(20), 431, "too_many_headers"),
    ] {
        let mut raw = gateway.connect().await;
        raw.send(get(&more)).await;
        let reply = raw.reply_to("GET").await;
        assert_eq!(reply.status, status, "{}", reply.text());
        if status == 431 {
            assert_eq!(reply.json()["error"]["code"], code);
            assert!(raw.rest().await.expect("a close").is_empty(), "the connection is closed");
        }
    }
    // One that never ends is not kept until it does.
    let mut endless = gateway.connect().await;
    endless.send("GET /health HTTP/1.1\r\nHost: a\r\n").await;
    let line = format!("X: {}\r\n", "y".repeat(1000));
    let cut = eventually("the end of an endless head", async || {
        endless.try_send(&line).await.err().map(|_| ())
    });
    cut.await;
    assert!(hits(&gateway, "header_bytes").await >= 2);
    assert_eq!(hits(&gateway, "header_count").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_drips_is_refused() {
    let provider = Provider::streams(["ok"]);
    let start = "request_body_timeout_s: 1\nmax_request_bytes: 1000";
    let gateway = limited(&provider, start).await;
    let key = gateway.key("u").await;
    let mut raw = gateway.connect().await;
    raw.send(chat_head(&key, 500) + "\r\n{").await;
    let (said, took) = drip(raw, b" ").await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("body_timeout"), "{said:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    gateway.post(&key, "/v1/chat/completions", "x".repeat(2000)).await.refused(413);
    assert_eq!((hits(&gateway, "body_time").await, hits(&gateway, "body_bytes").await), (1, 1));
    assert_eq!(provider.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_below_the_least_pace_is_refused_long_before_its_time_is_over() {
    let provider = Provider::streams(["ok"]);
    let gateway = limited(&provider, "request_body_min_bytes_per_s: 1000").await;
    let key = gateway.key("u").await;
    let mut raw = gateway.connect().await;
    raw.send(chat_head(&key, 500) + "\r\n{").await;
    let since = Instant::now();
    let refused = raw.reply().await;
    assert_eq!(refused.status, 408);
    assert!(refused.text().contains("request_body_min_bytes_per_s"), "{}", refused.text());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

/// Asks with this credential, as a caller behind a proxy.
async fn ask_as(gateway: &Gateway, path: &str, key: &str, from: &str) -> (u16, Option<String>) {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-forwarded-for", from),
    ];
    let method = if path == "/v1/users" { reqwest::Method::GET } else { reqwest::Method::POST };
    let body = if path == "/v1/users" { String::new() } else { ask().to_string() };
    let answer = gateway.send(method, path, &headers, body).await;
    (answer.status, answer.header("retry-after").map(str::to_owned))
}

async fn guessing(start: Builder) -> (Provider, Gateway, String) {
    let provider = Provider::streams(["ok"]);
    let start = start.config("enable_metrics: true\nauth_failures_per_minute: 5");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    (provider, gateway, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_guesses_waits_and_good_keys_pass() {
    let start = Gateway::start().config("trusted_proxies: [127.0.0.0/8]");
    let (_provider, gateway, key) = guessing(start).await;
    let chat = "/v1/chat/completions";
    let wrong = format!("gw-{}", "x".repeat(64));
    for _ in 0..5 {
        assert_eq!(ask_as(&gateway, chat, &wrong, "2001:db8::1").await.0, 401);
    }
    let (status, wait) = ask_as(&gateway, "/v1/users", "guess", "2001:db8::2").await;
    assert_eq!(status, 429, "the same network of one customer");
    let wait: u64 = wait.expect("Retry-After").parse().expect("seconds");
    assert!((1..=12).contains(&wait), "{wait}");
    assert_eq!(
        ask_as(&gateway, "/v1/users", MASTER, "2001:db8::1").await.0,
        429,
        "nor the right one"
    );
    assert_eq!(ask_as(&gateway, chat, &key, "2001:db8::1").await.0, 200, "its neighbours call on");
    assert_eq!(ask_as(&gateway, "/v1/users", MASTER, "2001:db8:0:1::1").await.0, 200);
    assert_eq!(ask_as(&gateway, chat, &wrong, "192.0.2.1").await.0, 401, "another place");
    assert_eq!(hits(&gateway, "auth_failures").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_somebody_else_without_a_trusted_proxy() {
    let (_, gateway, _) = guessing(Gateway::start()).await;
    for n in 0..5 {
        let from = format!("192.0.2.{n}");
        assert_eq!(ask_as(&gateway, "/v1/users", "guess", &from).await.0, 401);
    }
    assert_eq!(ask_as(&gateway, "/v1/users", "guess", "192.0.2.9").await.0, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_full_refuses_new_work() {
    let provider = Provider::streams(["ok"]);
    let server = Cluster::new();
    let start = Gateway::start().postgres_at(server.database()).config("max_journal_bytes: 5000");
    let gateway = priced(start.config("enable_metrics: true"), &provider).await;
    let key = gateway.key("u").await;
    assert_eq!(gateway.chat(&key, &ask()).await.status, 200);
    server.stop();
    assert_eq!(gateway.chat(&key, &ask()).await.status, 200, "it is written down");
    let refused = eventually("a refusal", async || {
        let answer = gateway.chat(&key, &ask()).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.refused(503)["error"]["code"], "overloaded");
    assert_eq!(refused.header("retry-after"), Some("10"));
    assert_eq!(gateway.get("/health/liveness").await.status, 200);
}
