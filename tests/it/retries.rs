//! Few repeats, never a long wait (a failure before the first byte is repeated on the only provider).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Provider, Reply, Step};
use crate::support::{COST, ask_streamed, ask_with};

/// A provider that refuses so many times with `status`, then answers.
fn fails_first(times: usize, status: u16, retry_after: Option<&'static str>) -> Provider {
    let seen = Arc::new(AtomicUsize::new(0));
    Provider::start(move |request| {
        if seen.fetch_add(1, Ordering::SeqCst) < times {
            let refused = Reply::json(status, &json!({"error": {"message": "busy"}}));
            return match retry_after {
                Some(seconds) => refused.header("Retry-After", seconds),
                None => refused,
            };
        }
        Reply::chat(request, &["ok"])
    })
}

fn repeating(provider: &Provider, times: u32) -> Builder {
    let address = provider.base();
    Gateway::start().price("r:m", 1000.0, 2000.0).config(&format!(
        "providers:\n  r: {{provider_type: openai, api_base: \"{address}\", api_key: k, client_args: {{max_retries: {times}}}}}"
    ))
}

#[tokio::test]
async fn a_busy_provider_is_asked_again_and_every_try_is_a_row() {
    let provider = fails_first(2, 503, None);
    let gateway = repeating(&provider, 2).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "r:m"}))).await.expect(200);
    assert_eq!(provider.count(), 3);
    let mut rows = gateway.usage(3).await;
    rows.sort_by_key(|row| row["attempt_position"].as_i64());
    let seen: Vec<_> = rows.iter().map(|row| (&row["status"], &row["status_code"])).collect();
    assert_eq!(seen[0], (&json!("absorbed"), &json!(503)));
    assert_eq!(seen[1], (&json!("absorbed"), &json!(503)));
    assert_eq!(seen[2].0, &json!("success"));
    let one = &rows[0]["request_group_id"];
    assert!(rows.iter().all(|row| row["request_group_id"] == *one), "one request: {rows:?}");
    assert!((gateway.settled("u").await - COST).abs() < 1e-9, "only the answer costs");
}

#[tokio::test]
async fn a_stream_is_repeated_too_before_its_first_byte() {
    let provider = fails_first(1, 429, None);
    let gateway = repeating(&provider, 2).await;
    let key = gateway.key("u").await;
    let mut body = ask_streamed();
    body["model"] = json!("r:m");
    let text = gateway.stream(&key, &body).await.text().await.expect("a whole stream");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(provider.count(), 2);
}

#[tokio::test]
async fn zero_retries_means_one_call() {
    let provider = fails_first(1, 500, None);
    let gateway = repeating(&provider, 0).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "r:m"}))).await.refused(502);
    assert_eq!(provider.count(), 1);
}

#[tokio::test]
async fn a_long_retry_after_is_passed_on_at_once() {
    let provider = fails_first(9, 429, Some("30"));
    let gateway = repeating(&provider, 2).await;
    let key = gateway.key("u").await;
    let started = Instant::now();
    let answer = gateway.chat(&key, &ask_with(json!({"model": "r:m"}))).await;
    assert_eq!(answer.header("retry-after"), Some("30"));
    answer.refused(429);
    assert_eq!(provider.count(), 1, "waiting 30 s inside the gateway helps nobody");
    assert!(started.elapsed() < Duration::from_secs(2), "never a long wait");
}

#[tokio::test]
async fn a_clients_mistake_is_not_repeated() {
    let provider = fails_first(9, 400, None);
    let gateway = repeating(&provider, 2).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "r:m"}))).await.refused(400);
    assert_eq!(provider.count(), 1);
}

#[tokio::test]
async fn a_call_that_broke_after_it_was_sent_is_not_repeated() {
    // It may have been billed. The built-in provider closes the connection once it has read the request.
    let start = Gateway::start()
        .price("mock:m", 1.0, 1.0)
        .config("providers:\n  mock: {provider_type: mock}");
    let gateway = start.await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "mock:m?fault=refuse"}))).await.refused(502);
    let rows = gateway.usage(1).await;
    assert_eq!(rows.len(), 1, "one try: {rows:?}");
    assert_eq!(rows[0]["error_message"], json!("connection_broken"));
    assert_eq!(rows[0]["model"], json!("m"), "options are not part of the name");
}

#[tokio::test]
async fn only_a_kept_connection_that_breaks_at_once_is_taken_for_one_that_was_dead() {
    // The second request comes on the first one's connection, which breaks before any answer.
    let provider = |after_ms: u64| {
        let seen = AtomicUsize::new(0);
        Provider::start(move |request| match seen.fetch_add(1, Ordering::SeqCst) {
            1 => Reply::none(Step::Sleep(after_ms)).then(Step::CutNow),
            _ => Reply::chat(request, &["ok"]),
        })
    };
    for (after_ms, status, asked) in [(0, 200, 3), (1500, 502, 2)] {
        let provider = provider(after_ms);
        let gateway = repeating(&provider, 2).await;
        let key = gateway.key("u").await;
        let body = ask_with(json!({"model": "r:m"}));
        gateway.chat(&key, &body).await.expect(200);
        let answer = gateway.chat(&key, &body).await.expect(status);
        assert_eq!(provider.count(), asked, "after {after_ms} ms: {}", answer.text());
    }
}
