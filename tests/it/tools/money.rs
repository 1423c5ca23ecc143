//! Budgets: each round is held for before it is asked, and what was done is paid for.

use serde_json::{Value, json};

use super::{Scene, cost, is_billed, ways};
use crate::support::caller::Api;
use crate::support::format::both;
use crate::support::gateway::{Builder, Gateway};
use crate::support::mcp::{entry, result_of, scripted, text_result};
use crate::support::model::{calls, model, says, sum, tokens};
use crate::support::on_both_databases;
use crate::support::provider::Provider;

/// A server whose tool tells so many characters.
fn telling(chars: usize) -> Provider {
    let text = "x".repeat(chars);
    scripted(move |rpc, request| {
        (rpc == "tools/call").then(|| result_of(request, text_result(&text)))
    })
}

fn fields(server: &Provider) -> Value {
    json!({"mcp_servers": [entry("s", &format!("{}/mcp", server.base()))]})
}

async fn a_budget_that_ends_between_rounds_ends_the_loop(start: Builder) {
    let provider = model(|asked| match asked.round {
        0 => calls([("one", json!({}))]).saying("One. "),
        _ => says("never"),
    });
    // The second round would cost 20 USD for its prompt alone.
    let server = telling(80_000);
    let gateway = both(start, &provider).config("enable_metrics: true").await;
    let budget = gateway.budget(5.0).await;
    for (at, way) in (1..).zip(ways()) {
        let user = way.tag("u");
        gateway.user(&user, Some(&budget)).await;
        let key = gateway.key(&user).await;
        let seen = way.api.call(&gateway, &key, &way.ask(fields(&server)), way.streams).await;
        assert_eq!(provider.count(), at, "the second round is not asked: {way:?}");
        let why = seen.error.clone().unwrap_or_default();
        assert!(why.to_lowercase().contains("budget"), "{way:?}: {}", seen.raw);
        if way.streams {
            assert_eq!((seen.status, &*seen.text), (200, "One. "), "{way:?}: {}", seen.raw);
        } else {
            assert_eq!(seen.status, 403, "{way:?}: {}", seen.raw);
        }
        if way.api != Api::Messages {
            assert_eq!(seen.code.as_deref(), Some("budget_exceeded"), "{way:?}: {}", seen.raw);
        }
        let row = gateway.usage(at).await.remove(0);
        is_billed(&row, tokens(0), "error");
        assert!(
            row["error_message"].as_str().is_some_and(|why| why.contains("budget_exceeded")),
            "{row}"
        );
        assert!((gateway.settled(&user).await - cost(tokens(0))).abs() < 1e-9);
    }
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains("gateway_budget_exceeded_total 12"), "{metrics}");
}

/// What is held is given back: a budget that one loop fits into serves many, one after the other.
async fn holds_of_a_loop_are_given_back(start: Builder) {
    let provider = model(|asked| match asked.round {
        round @ 0..3 => calls([("one", json!({"round": round}))]),
        _ => says("done"),
    });
    let server = telling(4_000);
    let gateway = both(start, &provider).await;
    let each = cost(sum(4));
    // The last round holds about 3 USD, of which 0.3 are used.
    let budget = gateway.budget(12.0f64.mul_add(each, 4.0)).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    for (rows, way) in (1..).zip(ways()) {
        way.api.call(&gateway, &key, &way.ask(fields(&server)), way.streams).await.good();
        is_billed(&gateway.usage(rows).await[0], sum(4), "success");
        let spent = gateway.settled("u").await;
        assert!((spent - each * rows as f64).abs() < 1e-6, "after {rows} loops {spent}");
    }
}

on_both_databases!(a_budget_that_ends_between_rounds_ends_the_loop, holds_of_a_loop_are_given_back);

/// A budget that is used up is told before any server is spoken to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_connected_for_who_may_not_spend() {
    let provider = model(|_| says("never"));
    let server = telling(1);
    let gateway = both(Gateway::start(), &provider).await;
    let budget = gateway.budget(0.001).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    for way in ways() {
        let seen = way.api.call(&gateway, &key, &way.ask(fields(&server)), way.streams).await;
        assert_eq!(seen.status, 403, "{way:?}: {}", seen.raw);
    }
    assert_eq!((provider.count(), server.count()), (0, 0));
}

/// The prices of a policy's second target hold for its rounds; the first is not asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_stays_with_the_target_that_began_it() {
    use crate::support::model::provider as with;
    use crate::support::provider::Reply;
    let down = with(|_| Reply::json(500, &json!({"error": {"message": "down"}})));
    let up = with(|asked| match (asked.round, asked.words().as_str()) {
        (0, _) => asked.answer(calls([("one", json!({}))]).saying("One. ")),
        (_, "breaks") => Reply::json(500, &json!({"error": {"message": "down"}})),
        _ => asked.answer(says("Two.")),
    });
    let server = telling(4);
    let start = Gateway::start().provider("d", &down).provider("u", &up);
    let start = start.price("d:m", 9000.0, 9000.0).price("u:m", 1000.0, 2000.0);
    let start = start.config(
        "circuit_breaker_failures: 0\nrouting:\n  policies:\n    both: {select: [{default: \"d:m\"}], on_failure: [\"u:m\"]}",
    );
    let scene = {
        let gateway = start.await;
        let key = gateway.key("u").await;
        Scene { gateway, key }
    };
    let mut rows = 0;
    for (api, streams) in Api::ALL.into_iter().flat_map(|api| [(api, false), (api, true)]) {
        let asked = (down.count(), up.count());
        for (words, ends) in [("goes", "success"), ("breaks", "error")] {
            let mut body = api.ask("both", words, 50);
            body["mcp_servers"] = fields(&server)["mcp_servers"].clone();
            let seen = api.call(&scene.gateway, &scene.key, &body, streams).await;
            assert_eq!(seen.error.is_some(), words == "breaks", "{}", seen.raw);
            rows += 2;
            let all = scene.gateway.usage(rows).await;
            let newest = |model: &str| {
                let is_its = |row: &&Value| row["provider"] == *model;
                all.iter()
                    .find(is_its)
                    .unwrap_or_else(|| panic!("no row of {model}: {all:#?}"))
                    .clone()
            };
            is_billed(&newest("u"), if words == "goes" { sum(2) } else { tokens(0) }, ends);
            assert_eq!(newest("d")["status"], "absorbed");
        }
        assert_eq!((down.count() - asked.0, up.count() - asked.1), (2, 4), "{api:?} {streams}");
    }
}
