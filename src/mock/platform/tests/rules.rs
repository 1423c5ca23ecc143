//! What rules say, and what they break.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::{Fault, Platform, Rule, Script, Then, When};
use super::{RESOLVE, Server, USAGE, answered, failure, success};

async fn resolving(rules: Vec<Rule>) -> Server {
    Server::start(Script { resolve: rules, ..Script::default() }).await
}

async fn reporting(rules: Vec<Rule>) -> Server {
    Server::start(Script { usage: rules, ..Script::default() }).await
}

#[tokio::test]
async fn plans_are_answered_with_their_gaps_filled() {
    let server = resolving(vec![Rule::always(
        Then::plan([
            json!({"attempt_id": "first-{n}", "provider": "anthropic", "model": "claude",
                   "api_key": "k1", "api_base": null, "odd": [1, "{n}"]}),
            json!({"position": 7, "managed": true, "extra_params": {"region_name": "eu-west-1"}}),
        ])
        .field("user_id", json!("u-{n}")),
    )])
    .await;
    let (_, plan) = server.resolve("gpt-4o").await;
    assert_eq!(
        plan,
        json!({"request_id": "req-1", "fallback_enabled": true, "user_id": "u-1", "attempts": [
            {"attempt_id": "first-1", "position": 0, "provider": "anthropic", "model": "claude",
             "api_key": "k1", "api_base": null, "managed": false, "odd": [1, "1"]},
            {"attempt_id": "att-b-1", "position": 7, "provider": "openai", "model": "gpt-4o",
             "api_key": "sk-mock", "api_base": "http://127.0.0.1:9100/v1", "managed": true,
             "extra_params": {"region_name": "eu-west-1"}}]})
    );
    assert_eq!(server.resolve("gpt-4o").await.1["attempts"][0]["attempt_id"], "first-2");
    for id in ["first-1", "att-b-1"] {
        server.report(&failure(id)).await;
    }
    assert_eq!(server.platform.violations(), [""; 0], "both ids are known");
    let shown = format!("{:?}", server.platform.resolves());
    assert!(!shown.contains("eu-west-1"), "extra parameters may be secret: {shown}");
}

#[tokio::test]
async fn the_older_flat_shape_is_answered() {
    let mut then = Then::plan([json!({"attempt_id": "c-{n}", "api_key": "k"})]);
    then.legacy = true;
    let server = resolving(vec![Rule::always(then)]).await;
    let (_, plan) = server.resolve("m").await;
    assert_eq!(
        plan,
        json!({"provider": "openai", "model": "m", "api_key": "k", "managed": false,
               "api_base": "http://127.0.0.1:9100/v1", "correlation_id": "c-1"})
    );
    server.report(&success("c-1")).await;
    assert_eq!(server.platform.violations(), [""; 0]);
}

#[tokio::test]
async fn statuses_bodies_and_headers_are_answered_as_scripted() {
    let server = resolving(vec![
        Rule::model("slow", Then::json(429, json!({"detail": "slow"})).header("Retry-After", "30")),
        Rule::model("bare", Then::status(503)),
        Rule::model("none", Then::status(204)),
        Rule::model("text", Then { text: Some("{\"attempts\":".into()), ..Then::default() }),
        Rule::model(
            "page",
            Then { text: Some("<html>".into()), ..Then::default() }
                .header("content-type", "text/html"),
        ),
        Rule::model("odd", Then::json(200, json!([1]))),
        Rule::model("empty", Then::plan([])),
    ])
    .await;
    let ask = |model: &str| server.post(RESOLVE, &json!({"model": model})).send();
    let slow = ask("slow").await.unwrap();
    assert_eq!(
        (slow.status().as_u16(), &slow.headers()["retry-after"]),
        (429, &"30".parse().unwrap())
    );
    assert_eq!(slow.json::<Value>().await.unwrap(), json!({"detail": "slow"}));
    for (model, status, body) in
        [("bare", 503, ""), ("none", 204, ""), ("text", 200, "{\"attempts\":"), ("odd", 200, "[1]")]
    {
        let answer = ask(model).await.unwrap();
        assert_eq!(answer.status(), status, "{model}");
        assert_eq!(answer.text().await.unwrap(), body, "{model}");
    }
    assert_eq!(ask("page").await.unwrap().headers()["content-type"], "text/html");
    assert_eq!(server.resolve("empty").await.1["attempts"], json!([]));
    assert_eq!(server.resolve("other").await.0, 200, "no rule, the default");
}

#[tokio::test]
async fn reports_are_told_apart() {
    let when = |when: Value, then: Then| Rule { when: serde_json::from_value(when).unwrap(), then };
    let server = reporting(vec![
        when(json!({"correlation_id": "att-a-2"}), Then::status(404)),
        when(json!({"status": "error", "first": 1}), Then::status(500)),
        when(
            json!({"status": "success"}),
            Then::default().field("pricing", json!({"source": null})).field("cost_usd", json!("1")),
        ),
    ])
    .await;
    let (a, b) = (server.attempt().await, server.attempt().await);
    assert_eq!(server.report(&failure(&b)).await.0, 404);
    assert_eq!(server.report(&failure(&a)).await.0, 500);
    assert_eq!(server.report(&failure(&a)).await.0, 204, "only the first");
    let (_, settled) = server.report(&success(&a)).await;
    assert_eq!((&settled["pricing"]["source"], &settled["cost_usd"]), (&Value::Null, &json!("1")));
    assert_eq!(settled["correlation_id"], json!(a), "the rest is the default");
    let told: Vec<u16> = server.platform.reports().iter().map(|seen| seen.status).collect();
    assert_eq!(told, [404, 500, 204, 200]);
}

#[tokio::test]
async fn every_endpoint_takes_rules() {
    let script = json!({
        "mcp": [{"then": {"fields": {"servers": [{"name": "s", "url": "https://h"}]}}}],
        "web_search": [{"when": {"user_token": "tk_user-0001"}, "then": {"fields": {"enabled": true}}}],
        "code_execution": [{"then": {"status": 403}}],
        "health": [{"when": {"first": 1}, "then": {"status": 503}}],
        "price": {"input": 0.15, "output": 1000.5},
    });
    let script = Script::from_json(script.to_string().as_bytes()).unwrap();
    let server = Server::start(script).await;
    let ids = json!({"mcp_server_ids": ["6f1c2b5e-0d0a-4a53-9d7a-2f6b1c9f4c11"]});
    let (_, mcp) = answered(server.post("/gateway/mcp-servers/resolve", &ids)).await;
    assert_eq!(mcp["servers"][0]["name"], "s");
    let (_, search) = answered(server.post("/gateway/web-search/resolve", &json!({}))).await;
    assert_eq!(search["enabled"], true);
    let (status, _) = answered(server.post("/gateway/code-execution/resolve", &json!({}))).await;
    assert_eq!(status, 403);
    for expected in [503, 200] {
        let probe = server.bare(reqwest::Method::GET, "/api/v1/utils/health-check/");
        assert_eq!(probe.send().await.unwrap().status(), expected);
    }
    let id = server.attempt().await;
    assert_eq!(server.report(&success(&id)).await.1["cost_usd"], "0.007005", "exact, half up");
}

#[tokio::test]
async fn connections_break_as_scripted() {
    let of = |name: &str, fault| Rule::model(name, Then::fault(fault));
    let server = resolving(vec![
        of("close", Fault::Close),
        of("reset", Fault::Reset),
        of("half", Fault::Half),
        of("redirect", Fault::Redirect),
        of("hang", Fault::Hang),
    ])
    .await;
    let ask = |model: &str| server.post(RESOLVE, &json!({"model": model}));
    for model in ["close", "reset"] {
        let error = ask(model).send().await.expect_err("there is no answer");
        assert!(!error.is_timeout(), "{model}: {error:?}");
    }
    let half = ask("half").send().await.unwrap();
    assert_eq!(half.status(), 200);
    half.bytes().await.expect_err("the body is cut");
    let redirect = ask("redirect").send().await.unwrap();
    assert_eq!(redirect.status(), 307);
    let to = redirect.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(server.platform.violations(), [""; 0]);
    server.bare(reqwest::Method::POST, &to).send().await.unwrap();
    let found = server.platform.violations();
    assert!(found.len() == 1 && found[0].ends_with("a redirect was followed"), "{found:?}");
    let patience = std::time::Duration::from_millis(100);
    let error = ask("hang").timeout(patience).send().await.expect_err("it never answers");
    assert!(error.is_timeout());
    let seen = server.platform.resolves();
    let statuses: Vec<u16> = seen.iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [0, 0, 200, 307, 0], "what callers see");
    assert!(seen.iter().all(|seen| !seen.accepted() && seen.fault.is_some()));
    left(&server.platform, 4).await;
}

/// Waits until the platform has noticed that the caller of this resolve call has left.
async fn left(platform: &Platform, at: usize) {
    let until = Instant::now() + std::time::Duration::from_secs(5);
    while !platform.resolves()[at].abandoned {
        assert!(Instant::now() < until, "the caller has left");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn answers_are_delayed_and_callers_who_leave_noticed() {
    let server = resolving(vec![Rule::first(2, Then::default().delayed(150))]).await;
    let started = Instant::now();
    assert_eq!(server.resolve("m").await.0, 200);
    assert!(started.elapsed().as_millis() >= 150);
    let patience = std::time::Duration::from_millis(50);
    let asked = server.post(RESOLVE, &json!({"model": "m"})).timeout(patience).send();
    assert!(asked.await.expect_err("too slow").is_timeout());
    left(&server.platform, 1).await;
    assert!(!server.platform.resolves()[0].abandoned);
}

#[tokio::test]
async fn reports_on_one_connection_are_answered_one_by_one() {
    let server = reporting(vec![Rule::first(1, Then::status(204))]).await;
    let id = server.attempt().await;
    for expected in [204, 200, 200] {
        assert_eq!(answered(server.report_to(USAGE, &success(&id))).await.0, expected);
    }
}

#[test]
fn scripts_with_mistakes_are_refused_by_place() {
    for (script, place) in [
        (json!({"resolve": [{}, {"then": {"status": 199}}]}), "resolve[1].then.status: 200 to 599"),
        (json!({"usage": [{"when": {"model": "m"}}]}), "usage[0].when.model: "),
        (json!({"usage": [{"when": {"provider": "m"}}]}), "usage[0].when.provider: "),
        (json!({"health": [{"when": {"user_token": "t"}}]}), "health[0].when.user_token: "),
        (json!({"resolve": [{"when": {"status": "error"}}]}), "resolve[0].when.status: "),
        (json!({"mcp": [{"when": {"correlation_id": "a"}}]}), "mcp[0].when.correlation_id: "),
        (json!({"usage": [{"when": {"status": "ok"}}]}), "usage[0].when.status: `success`"),
        (json!({"usage": [{"when": {"chance": 101}}]}), "usage[0].when.chance: 0 to 100"),
        (json!({"usage": [{"then": {"attempts": []}}]}), "usage[0].then.attempts: only"),
        (json!({"usage": [{"then": {"delay_ms": 600_001}}]}), "usage[0].then.delay_ms: 0 to"),
        (
            json!({"usage": [{"then": {"status": 204, "text": "a"}}]}),
            "usage[0].then.body: an answer",
        ),
        (json!({"mcp": [{"then": {"body": {}, "text": "a"}}]}), "mcp[0].then.body: leave it out"),
        (
            json!({"mcp": [{"then": {"body": {}, "fields": {"a": 1}}}]}),
            "mcp[0].then.body: leave it",
        ),
        (
            json!({"mcp": [{"then": {"status": 500, "fields": {"a": 1}}}]}),
            "mcp[0].then.status: only",
        ),
        (
            json!({"resolve": [{"then": {"legacy": true, "attempts": []}}]}),
            "resolve[0].then.legacy: ",
        ),
        (
            json!({"mcp": [{"then": {"headers": {"a": "b\r\nc: d"}}}]}),
            "mcp[0].then.headers: `a` is no",
        ),
        (
            json!({"mcp": [{"then": {"headers": {"Connection": "close"}}}]}),
            "mcp[0].then.headers: `Con",
        ),
        (
            json!({"mcp": [{"then": {"fault": "redirect", "status": 200}}]}),
            "mcp[0].then.status: a red",
        ),
    ] {
        let error = Script::from_json(script.to_string().as_bytes()).expect_err(place);
        assert!(error.starts_with(place), "{place}: {error}");
    }
    for (script, word) in [
        (r#"{"colour": 1}"#, "unknown field `colour`"),
        (r#"{"usage": [{"then": {"fault": "burn"}}]}"#, "unknown variant `burn`"),
        (r#"{"price": {"input": -1}}"#, "0 or more"),
    ] {
        let error = Script::from_json(script.as_bytes()).expect_err(word);
        assert!(error.contains(word) && error.contains("line 1"), "{error}");
    }
}

#[test]
fn a_script_survives_json_and_hides_credentials() {
    let script = Script {
        gateway_token: Some("gw_secret-token".into()),
        resolve: vec![Rule {
            when: When { user_token: Some("tk_secret-token".into()), ..When::default() },
            then: Then::plan([json!({"api_key": "sk-secret-key"})]).delayed(5),
        }],
        ..Script::default()
    };
    let text = serde_json::to_vec(&script).unwrap();
    assert_eq!(Script::from_json(&text), Ok(script.clone()));
    for shown in [format!("{script:?}"), format!("{:?}", script.resolve)] {
        assert!(!shown.contains("secret-") && shown.contains("***"), "{shown}");
    }
}
