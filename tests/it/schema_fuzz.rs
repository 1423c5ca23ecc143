//! schemathesis reads `/openapi.json` and sends whatever it allows and forbids, to every route: no answer is a fault of the
//! gateway, and answers are what the document says they are.
//!
//! `OTARI_FUZZ_SECONDS` says for how long on each database, `OTARI_FUZZ_SEED` which calls; `make test-fuzz` takes ten minutes
//! and a new seed. What schemathesis is told beyond the document is in `clients/schema_hooks.py`.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::billable::{before, served};
use crate::operations;
use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::{Provider, Reply};
use crate::support::sdk::installed;
use crate::support::{ask, on_both_databases, process};

/// On each of the two databases, which are fuzzed at the same time.
const SECONDS: u64 = 40;

/// Beyond its time it ends a request, undoes what it has made smaller, and writes a report.
const GRACE: Duration = Duration::from_secs(120);

/// Not among them: that what the document forbids is refused, and what it allows is taken (fields are read leniently, and rules
/// between fields are not in it); that what was made can be found (404 is also said of what a body names); and that `Allow`
/// names every method of a path (as in the reference gateway it names the first).
const CHECKS: &str = "no_fault_of_the_gateway,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth,\
                      use_after_free";

async fn no_call_is_answered_with_a_fault(start: Builder) {
    let provider = provider();
    // It guesses credentials from one address for as long as it runs.
    let config = "auth_failures_per_minute: 0\nenable_metrics: true";
    let gateway = before(start, &provider).config(config).await;
    let budget = gateway.budget(1e9).await;
    gateway.user("fuzzer", Some(&budget)).await;
    let key = create(&gateway, "/v1/keys", json!({"user_id": "fuzzer"})).await;
    let known = known(&gateway).await;
    let told = json!({
        "key": key["key"], "master": MASTER, "own": ["fuzzer", key["id"], budget], "known": known,
    });

    let home = tempfile::TempDir::new().expect("a temporary folder");
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/schema_hooks.py");
    let seconds = number("OTARI_FUZZ_SECONDS").unwrap_or(SECONDS);
    let seed = number("OTARI_FUZZ_SEED").unwrap_or(1);
    let program = installed("clients/schemathesis/bin/schemathesis");
    let mut command = process::client(&program, home.path());
    command.args(["--no-color", "run", &gateway.url("/openapi.json"), "--checks", CHECKS]);
    command.args(["--generation-with-security-parameters", "false", "--continue-on-failure"]);
    command.args(["--generation-database", "none", "--report-json-path", "report.json"]);
    command.args(["--max-time", &seconds.to_string(), "--seed", &seed.to_string()]);
    command.env("SCHEMATHESIS_HOOKS", hooks).env("OTARI_FUZZ", told.to_string());
    // The hooks stand among the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let limit = Duration::from_secs(seconds) + GRACE;
    let ended = tokio::task::spawn_blocking(move || process::run_for(command, limit)).await;
    let ended = ended.expect("it does not panic");
    assert!(ended.ok(), "schemathesis, with OTARI_FUZZ_SEED={seed}: {}{}", ended.out, ended.err);

    let report = std::fs::read(home.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    println!("{}: {}", report["operations"], report["test_cases"]);
    // All but the document itself, which it does not ask for again.
    assert_eq!(report["operations"]["tested"], otari::routes::ROUTES.len() - 1, "{report}");
    assert!(report["test_cases"]["generated"].as_u64() > Some(300), "hardly anything: {report}");

    // It is as well as before.
    gateway.get("/health/readiness").await.expect(200);
    let log = gateway.log();
    let is_error = |line: &&str| line.contains("panicked") || line.contains("\"level\":\"ERROR\"");
    let errors: Vec<&str> = log.lines().filter(is_error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let key = key["key"].as_str().expect("a key");
    let answer = gateway.chat(key, &ask()).await;
    assert_eq!(answer.status, 200, "nobody has taken its own key away: {}", answer.text());
}

/// A provider of everything that is asked of one here; of what it does not know it says so.
fn provider() -> Provider {
    const ENDS: [&str; 4] = ["/files", "/content", "/search", "/chat/completions"];
    const PATHS: [&str; 2] = ["/v1/messages", "/v1/responses"];
    let served = served();
    Provider::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let is_known = operations::is_one(request)
            || path.starts_with("/v1/batches")
            || PATHS.contains(&path)
            || ENDS.iter().any(|end| path.ends_with(end));
        match (request.method.as_str(), path) {
            ("POST", "/v1/messages/batches") => Reply::json(200, &message_batch()),
            (_, "/v1/messages/batches") => {
                Reply::json(200, &json!({"data": [message_batch()], "has_more": false}))
            }
            _ if is_known => served(request),
            _ => Reply::json(
                404,
                &json!({"error": {"message": "not found", "type": "not_found_error"}}),
            ),
        }
    })
}

fn message_batch() -> Value {
    json!({"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress",
        "request_counts": {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "ended_at": null,
        "archived_at": null, "cancel_initiated_at": null, "results_url": null})
}

/// What stands in the paths of some calls, by the names of their variable parts; anything may happen to it.
async fn known(gateway: &Gateway) -> Value {
    let budget = gateway.budget(5.0).await;
    gateway.user("spare", Some(&budget)).await;
    let key = create(gateway, "/v1/keys", json!({"user_id": "spare"})).await;
    let ceiling = json!({"scope_type": "api_token", "scope_id": key["id"], "budget_id": budget,
        "provider_key_id": "p"});
    let ceiling = create(gateway, "/v1/scoped-budgets", ceiling).await;
    json!({"user_id": "spare", "key_id": key["id"], "budget_id": budget, "id": ceiling["id"],
        "model_id": "p:m", "model_key": "p:x", "tool": "exa", "name": "fast"})
}

async fn create(gateway: &Gateway, path: &str, body: Value) -> Value {
    let bearer = format!("Bearer {MASTER}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    gateway.send(Method::POST, path, &headers, body.to_string()).await.expect(200).json()
}

#[expect(clippy::disallowed_methods, reason = "tests have no configuration; this is theirs")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

on_both_databases!(no_call_is_answered_with_a_fault);
