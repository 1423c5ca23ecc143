//! What an operator looks at: health, metrics, headers, the first lines of the log, `otari check`.

use crate::support::gateway::{Builder, Gateway, MASTER, UPSTREAM_KEY};
use crate::support::provider::Provider;
use crate::support::{ask, ask_streamed, eventually, on_both_databases, priced};

async fn health_needs_no_key_and_no_provider(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;

    assert_eq!(gateway.get("/health").await.expect(200).text(), r#"{"status":"healthy"}"#);
    let live = gateway.get("/health/liveness").await.expect(200);
    assert_eq!(live.text(), "\"I'm alive!\"", "a JSON string, quotes included");
    assert_eq!(live.header("content-type"), Some("application/json"));
    let ready = gateway.get("/health/readiness").await.expect(200).json();
    assert_eq!(
        (&ready["status"], &ready["database"]),
        (&"healthy".into(), &"connected".into()),
        "{ready}"
    );
    assert!(ready["version"].is_string(), "{ready}");
    gateway.get("/api/v1/health").await.expect(200);

    assert_eq!(provider.connections(), 0, "health never calls a provider");
}
on_both_databases!(health_needs_no_key_and_no_provider);

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for answer in [
        gateway.chat(&key, &ask()).await,
        gateway.chat(&key, &ask_streamed()).await,
        gateway.chat("gw-nobody", &ask()).await,
        gateway.get("/nowhere").await,
        gateway.get("/health").await,
    ] {
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{:?}",
            answer.headers
        );
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{:?}", answer.headers);
        assert_eq!(answer.header("referrer-policy"), Some("strict-origin-when-cross-origin"));
        let (cache, vary) =
            (answer.header("cache-control"), answer.header("vary").unwrap_or_default());
        if answer.text() == r#"{"status":"healthy"}"# {
            assert_eq!(cache, None, "health may be cached");
        } else {
            assert_eq!(cache, Some("private, no-store, no-cache"), "{:?}", answer.headers);
            assert!(vary.contains("Authorization"), "{:?}", answer.headers);
        }
    }
}

#[tokio::test]
async fn metrics_keep_their_names() {
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start().config("enable_metrics: true\nrate_limit_rpm: 2");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.chat(&key, &ask_streamed()).await.expect(200);
    gateway.chat(&key, &ask()).await.expect(429);
    gateway.chat("gw-nobody", &ask()).await.expect(401);
    gateway.get("/a-path-of-nobody").await.expect(404);
    gateway.usage(2).await;

    let expected = [
        r#"gateway_requests_total{endpoint="/v1/chat/completions",method="POST",status="200"} 2"#,
        r#"gateway_requests_total{endpoint="/v1/chat/completions",method="POST",status="401"} 1"#,
        r#"gateway_requests_total{endpoint="/v1/chat/completions",method="POST",status="429"} 1"#,
        r#"gateway_request_duration_seconds_count{endpoint="/v1/chat/completions",method="POST"} 4"#,
        r#"gateway_tokens_total{model="m",provider="p",type="input"} 20"#,
        r#"gateway_tokens_total{model="m",provider="p",type="output"} 10"#,
        r#"gateway_request_cost_dollars_count{model="m",provider="p"} 2"#,
        "gateway_rate_limit_hits_total 1",
        "gateway_budget_exceeded_total 0",
        "gateway_auth_failures_total{reason=",
        "gateway_active_requests ",
        "gateway_usage_log_queue_depth ",
        "gateway_usage_log_rows_total{",
    ];
    let text = eventually("the metrics of five requests", async || {
        let answer = gateway.get("/metrics").await.expect(200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        // A request is counted after its last byte: the caller may look before that.
        expected[..4].iter().all(|line| answer.text().contains(line)).then(|| answer.text())
    })
    .await;
    for line in expected {
        assert!(text.contains(line), "missing: {line}\n{text}");
    }
    assert!(!text.contains("a-path-of-nobody"), "labels are closed sets (D14): {text}");
}

#[tokio::test]
async fn metrics_are_off_unless_switched_on() {
    let gateway = Gateway::start().await;
    gateway.get("/metrics").await.expect(404);
}

#[tokio::test]
async fn the_first_lines_say_what_runs_and_no_secret() {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    assert!(gateway.terminate().await.success(), "SIGTERM is a normal end:\n{}", gateway.log());
    let log = gateway.log();
    let port = gateway.addr().port().to_string();
    for word in ["listening", port.as_str(), "otari.db", "config.yml"] {
        assert!(log.contains(word), "`{word}` is missing:\n{log}");
    }
    for secret in [MASTER, UPSTREAM_KEY, key.as_str()] {
        assert!(!log.contains(secret), "a secret in the log:\n{log}");
    }
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_the_second_does_not() {
    let mut gateway = Gateway::start().config("bootstrap_api_key: true").await;
    let made = gateway.manage(reqwest::Method::GET, "/v1/keys", ().into()).await;
    assert_eq!(made.as_array().map(Vec::len), Some(1), "{made}");
    assert_eq!(made[0]["key_name"], "bootstrap", "{made}");
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(gateway.manage(reqwest::Method::GET, "/v1/keys", ().into()).await, made);
}

#[test]
fn check_accepts_a_good_configuration() {
    let builder =
        Gateway::start().provider_at("p", "http://127.0.0.1:9/v1", "").price("p:m", 1.0, 2.0);
    let (_, file) = builder.write();
    let done = Gateway::run(&["check", &file.display().to_string()]);
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn check_names_every_problem_at_once() {
    let builder = Gateway::start()
        .config("rate_limit_rpm: 0\nbudget_estimate_default_output_tokens: many")
        .price("missing:m", 1.0, 2.0);
    let (_, file) = builder.write();
    let done = Gateway::run(&["check", &file.display().to_string()]);
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{said}");
    for word in ["rate_limit_rpm", "budget_estimate_default_output_tokens"] {
        assert!(said.contains(word), "`{word}` is not named: {said}");
    }
    assert!(!said.contains(MASTER), "no secret is printed: {said}");
    assert!(!said.contains("panicked"), "a mistake of the operator is not a crash: {said}");
}

#[test]
fn a_missing_file_is_a_sentence() {
    for verb in
        [&["check", "/nowhere/config.yml"][..], &["serve", "--config", "/nowhere/config.yml"]]
    {
        let done = Gateway::run(verb);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!done.status.success() && said.contains("/nowhere/config.yml"), "{verb:?}: {said}");
    }
}
