//! How a loop may end otherwise: too many rounds, a provider that fails, a caller who leaves, results that are too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Scene, cost, is_billed, servers, ways};
use crate::support::caller::Api;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::mcp::{Real, entry, methods, result_of, scripted, text_result};
use crate::support::model::{calls, model, provider, results, says, sum, tokens};
use crate::support::provider::{Gate, Provider, Reply, Step};

/// A model that always wants another round.
fn tireless() -> Provider {
    model(|_| calls([("echo", json!({"text": "again"}))]).saying("."))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_has_so_many_rounds() {
    let provider = tireless();
    let scene = Scene::new(&provider).await;
    for (at, way) in (1..).zip(ways()) {
        let server = Real::new("json", way.tag("cap"));
        let mut fields = servers(&server);
        fields["max_tool_iterations"] = json!(2);
        let seen = scene.call(way, fields).await;
        assert_eq!(seen.error.as_deref(), Some("Exceeded max_tool_iterations=2"), "{}", seen.raw);
        assert_eq!(seen.status, if way.streams { 200 } else { 422 }, "{way:?}");
        if way.api == Api::Chat || !way.streams {
            let code = (way.api != Api::Messages).then_some("too_many_tool_rounds");
            assert_eq!(seen.code.as_deref(), code, "{way:?}: {}", seen.raw);
        }
        assert_eq!(provider.count(), 2 * at, "two calls of the provider: {way:?}");
        server.ended(1).await;
        is_billed(&scene.row(at).await, sum(2), "error");
    }
    let total: f64 =
        scene.gateway.all_usage().await.iter().filter_map(|row| row["cost"].as_f64()).sum();
    assert!((scene.gateway.settled("u").await - total).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rounds_unless_the_request_says_more_and_never_more_than_25() {
    let provider = tireless();
    let scene = Scene::new(&provider).await;
    let way = ways().next().expect("some way");
    let server = Real::new("json", "default-cap");
    let seen = scene.call(way, servers(&server)).await;
    assert_eq!(seen.error.as_deref(), Some("Exceeded max_tool_iterations=10"), "{}", seen.raw);
    assert_eq!(provider.count(), 10);
    let mut fields = servers(&server);
    fields["max_tool_iterations"] = json!(25);
    let seen = scene.call(way, fields.clone()).await;
    assert_eq!(seen.error.as_deref(), Some("Exceeded max_tool_iterations=25"), "{}", seen.raw);
    assert_eq!(provider.count(), 35);
    for (wrong, kind) in [
        (json!(26), "less_than_equal"),
        (json!(0), "greater_than_equal"),
        (json!("x"), "int_parsing"),
    ] {
        fields["max_tool_iterations"] = wrong;
        let refused = scene.gateway.chat(&scene.key, &way.ask(fields.clone())).await.refused(422);
        let fault = &refused["detail"][0];
        assert_eq!(
            (&fault["type"], &fault["loc"]),
            (&json!(kind), &json!(["body", "max_tool_iterations"]))
        );
    }
    assert_eq!(provider.count(), 35);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_fails_in_the_second_round_ends_the_loop_and_the_first_is_billed() {
    let failing = provider(|asked| match asked.round {
        0 => asked.answer(calls([("add", json!({"a": 1, "b": 1}))]).saying("One. ")),
        _ => Reply::json(500, &json!({"error": {"message": "boom", "type": "server_error"}})),
    });
    let scene = Scene::new(&failing).await;
    for (rows, way) in (1..).zip(ways()) {
        let server = Real::new("sse", way.tag("fails"));
        let seen = scene.call(way, servers(&server)).await;
        assert!(seen.error.is_some(), "{way:?}: {}", seen.raw);
        assert!(!seen.raw.contains("boom"), "a provider's trouble is its own: {}", seen.raw);
        if way.streams {
            assert_eq!((seen.status, &*seen.text), (200, "One. "), "{way:?}: {}", seen.raw);
            let is_ended = seen.raw.ends_with("data: [DONE]\n\n");
            assert_eq!(is_ended, way.api == Api::Chat, "{}", seen.raw);
        } else {
            assert_eq!(seen.status, 502, "{way:?}: {}", seen.raw);
        }
        assert_eq!(failing.count(), 2 * rows);
        is_billed(&scene.row(rows).await, tokens(0), "error");
        server.ended(1).await;
    }
    assert_eq!(scene.gateway.settled("u").await, {
        let rows = scene.gateway.all_usage().await;
        (rows.iter().filter_map(|row| row["cost"].as_f64()).sum::<f64>() * 1e6).round() / 1e6
    });
}

/// The stream of the second round breaks off, or says that it failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_in_the_second_round_ends_with_an_error() {
    let breaking = provider(|asked| match asked.round {
        0 => asked.answer(calls([("add", json!({"a": 1, "b": 1}))]).saying("One. ")),
        _ => {
            let turn = says("Two words.").using([30, 0, 8]);
            let events = asked.events(&turn).into_iter().map(|event| Step::Send(event.into()));
            // After some of its text.
            Reply::events(events).before(4, Step::CutNow)
        }
    });
    let scene = Scene::new(&breaking).await;
    for (rows, way) in (1..).zip(ways().filter(|way| way.streams)) {
        let server = Real::new("json", way.tag("cut"));
        let seen = scene.call(way, servers(&server)).await;
        assert!(seen.error.is_some() && seen.text.starts_with("One. "), "{way:?}: {}", seen.raw);
        assert!(seen.finish.is_empty() || seen.finish == "failed", "{way:?}: {}", seen.raw);
        let row = scene.row(rows).await;
        assert_eq!(row["status"], "error", "{row}");
        let (input, output) = tokens(0);
        assert!(row["prompt_tokens"].as_u64() >= Some(input), "the first round counts: {row}");
        assert!(row["completion_tokens"].as_u64() >= Some(output), "{row}");
        server.ended(1).await;
    }
}

/// A round's last event has come, the end of its body never does: nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_is_whole_with_its_last_event() {
    let broken = provider(|asked| {
        let turn = match asked.round {
            0 => calls([("add", json!({"a": 1, "b": 1}))]).saying("One. "),
            _ => says("Two words."),
        };
        let events = asked.events(&turn);
        let last = events.len();
        let step = if asked.round == 0 { Step::Reset } else { Step::CutNow };
        Reply::events(events.into_iter().map(|event| Step::Send(event.into()))).before(last, step)
    });
    let scene = Scene::new(&broken).await;
    for (rows, way) in (1..).zip(ways().filter(|way| way.streams)) {
        let server = Real::new("json", way.tag("whole"));
        let seen = scene.call(way, servers(&server)).await;
        assert_eq!(
            (seen.error, seen.text.as_str()),
            (None, "One. Two words."),
            "{way:?}: {}",
            seen.raw
        );
        assert_eq!(scene.row(rows).await["status"], "success");
        server.ended(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_between_rounds_pays_for_those_that_were() {
    let provider = model(|asked| match asked.round {
        0 => calls([("one", json!({}))]).saying("Wait. "),
        _ => says("too late"),
    });
    let scene = Scene::new(&provider).await;
    for (at, way) in (1..).zip(ways().filter(|way| way.streams)) {
        let gate = Gate::closed();
        let held = gate.clone();
        let server = scripted(move |rpc, request| {
            let reply = result_of(request, text_result("late"));
            (rpc == "tools/call").then(|| reply.before(0, Step::WaitFor(held.clone())))
        });
        let url = format!("{}/mcp", server.base());
        let body = way.ask(json!({"mcp_servers": [entry("s", &url)]}));
        let mut stream = way.api.open(&scene.gateway, &scene.key, &body).await;
        let mut text = String::new();
        while !text.contains("t. ") {
            let piece = stream.chunk().await.expect("a stream").expect("its first words");
            text += &String::from_utf8_lossy(&piece);
        }
        eventually("the call of the tool", async || {
            methods(&server).contains(&"tools/call".to_owned()).then_some(())
        })
        .await;
        drop(stream);
        let row = scene.row(at).await;
        is_billed(&row, tokens(0), "error");
        assert!(
            row["error_message"].as_str().is_some_and(|why| why.contains("client_disconnected")),
            "{row}"
        );
        assert_eq!(provider.count(), at, "the model is not asked again: {way:?}");
        gate.open(1);
    }
    scene.gateway.settled("u").await;
}

/// A plain answer is not cut off while the provider makes it, because it is billed whole; while tools run, nothing is
/// lost that anybody would bill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_a_loop_that_is_not_streamed_ends_it_at_its_tools() {
    for (name, rounds) in [("first", 1), ("second", 2)] {
        let slow = Gate::closed();
        let held = slow.clone();
        let model = provider(move |asked| {
            let turn = calls([("one", json!({"round": asked.round}))]).saying("Wait. ");
            match asked.round + 1 == rounds {
                true => asked.answer(turn).before(0, Step::WaitFor(held.clone())),
                false => asked.answer(turn),
            }
        });
        let scene = Scene::new(&model).await;
        for (at, way) in (1..).zip(ways().filter(|way| !way.streams)) {
            // The last call of the loop never comes back.
            let server = scripted(move |rpc, request| {
                let is_last = request.json()["params"]["arguments"]["round"] == rounds - 1;
                (rpc == "tools/call" && is_last).then(Reply::silence)
            });
            let url = format!("{}/mcp", server.base());
            let body = way.ask(json!({"mcp_servers": [entry("s", &url)]}));
            let asking = way.api.call(&scene.gateway, &scene.key, &body, false);
            let answered = tokio::select! {
                seen = asking => Some(seen.raw),
                () = model.received(at * rounds) => None,
            };
            assert_eq!(answered, None, "{name} {way:?}");
            // The caller is gone, and the provider is still at work: it is waited for.
            slow.open(1);
            let row = scene.row(at).await;
            is_billed(&row, sum(rounds), "error");
            assert_eq!(row["error_message"], "client_disconnected", "{name} {way:?}: {row}");
            assert_eq!(model.count(), at * rounds, "the model is not asked again: {way:?}");
            eventually("the end of the MCP session", async || {
                methods(&server).contains(&"DELETE".to_owned()).then_some(())
            })
            .await;
        }
        let total = 6.0 * cost(sum(rounds));
        assert!((scene.gateway.settled("u").await - total).abs() < 1e-9, "{name}");
    }
}

/// The only target is asked again in any round, as it is in the first: each try that failed is a row, and costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_asked_again_in_the_second_round() {
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = tries.clone();
    let busy = provider(move |asked| {
        let failures = if asked.words() == "never" { usize::MAX } else { 1 };
        match asked.round {
            0 => asked.answer(calls([("one", json!({}))]).saying("One. ")),
            _ if tried.fetch_add(1, Ordering::SeqCst) < failures => {
                Reply::json(503, &json!({"error": {"message": "busy"}}))
            }
            _ => asked.answer(says("Two.")),
        }
    });
    let config = format!(
        "circuit_breaker_failures: 0\nproviders:\n  o: {{provider_type: openai, api_base: \"{0}\", api_key: k, client_args: {{max_retries: 2}}}}\n  \
         a: {{provider_type: anthropic, api_base: \"{0}\", api_key: k, client_args: {{max_retries: 2}}}}",
        busy.base()
    );
    let start = Gateway::start().price("o:m", 1000.0, 2000.0).price("a:m", 1000.0, 2000.0);
    let gateway = start.config(&config).await;
    let key = gateway.key("u").await;
    let server = scripted(|_, _| None);
    let url = format!("{}/mcp", server.base());
    let (mut rows, mut spent) = (0, 0.0);
    for way in ways() {
        for (words, failed, tokens, status) in
            [("hi", 1, sum(2), "success"), ("never", 2, tokens(0), "error")]
        {
            tries.store(0, Ordering::SeqCst);
            let asked = busy.count();
            let mut body = way.api.ask(way.model, words, 50);
            body["mcp_servers"] = json!([entry("s", &url)]);
            let seen = way.api.call(&gateway, &key, &body, way.streams).await;
            assert_eq!(seen.error.is_some(), status == "error", "{way:?}: {}", seen.raw);
            assert_eq!(busy.count() - asked, 3 + usize::from(failed == 2), "{way:?}");
            rows += failed + 1;
            let mut all = gateway.usage(rows).await;
            all.truncate(failed + 1);
            let is_end = |row: &Value| row["status"] != "absorbed";
            let (ends, absorbed): (Vec<Value>, Vec<Value>) = all.into_iter().partition(is_end);
            assert_eq!((ends.len(), absorbed.len()), (1, failed), "{way:?} {words}");
            is_billed(&ends[0], tokens, status);
            for row in &absorbed {
                assert_eq!((&row["status_code"], &row["cost"]), (&json!(503), &Value::Null));
                assert_eq!(
                    row["prompt_tokens"],
                    Value::Null,
                    "what is paid is the last one's: {row}"
                );
                assert_eq!(row["request_group_id"], ends[0]["request_group_id"]);
            }
            assert_eq!(ends[0]["attempt_position"], failed + 1, "{way:?} {words}");
            spent += cost(tokens);
            assert!((gateway.settled("u").await - spent).abs() < 1e-6, "{way:?} {words}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_lives_while_a_tool_takes_its_time() {
    let provider = model(|asked| match asked.round {
        0 => calls([("one", json!({}))]).saying("Wait. "),
        _ => says("Here."),
    });
    let scene =
        Scene::with(&provider, |start| start.config("streaming_keepalive_interval_ms: 100")).await;
    for way in ways().filter(|way| way.streams) {
        let server = scripted(|rpc, request| {
            let reply = result_of(request, text_result("late"));
            (rpc == "tools/call").then(|| reply.before(0, Step::Sleep(700)))
        });
        let url = format!("{}/mcp", server.base());
        let seen = scene.call(way, json!({"mcp_servers": [entry("s", &url)]})).await.good();
        assert_eq!(seen.text, "Wait. Here.", "{way:?}");
        let sign = if way.api == Api::Messages { "event: ping\n" } else { ": keepalive\n\n" };
        let signs = seen.raw.matches(sign).count();
        assert!((3..20).contains(&signs), "{signs} signs of life, {way:?}: {}", seen.raw);
        let between = seen.raw.split_once("Wai").is_some_and(|(_, rest)| rest.contains(sign));
        assert!(between, "{way:?}: {}", seen.raw);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_reaches_the_caller_before_its_tools_are_run() {
    let provider = model(|asked| match asked.round {
        0 => calls([("one", json!({}))]).saying("At once. "),
        _ => says("Later."),
    });
    let scene = Scene::new(&provider).await;
    for way in ways().filter(|way| way.streams) {
        let gate = Gate::closed();
        let held = gate.clone();
        let server = scripted(move |rpc, request| {
            let reply = result_of(request, text_result("late"));
            (rpc == "tools/call").then(|| reply.before(0, Step::WaitFor(held.clone())))
        });
        let url = format!("{}/mcp", server.base());
        let body = way.ask(json!({"mcp_servers": [entry("s", &url)]}));
        let mut stream = way.api.open(&scene.gateway, &scene.key, &body).await;
        let mut text = String::new();
        while !text.contains("ce. ") {
            let piece = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await;
            text += &String::from_utf8_lossy(
                &piece.expect("in time").expect("a stream").expect("words"),
            );
        }
        gate.open(1);
        let rest = stream.text().await.expect("the rest");
        assert!(rest.contains("Lat"), "{way:?}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_too_long_is_cut() {
    let provider = model(|asked| match asked.round {
        0 => calls([("long", json!({"chars": 250_000}))]),
        _ => says("ok"),
    });
    let scene = Scene::new(&provider).await;
    for way in ways() {
        let server = Real::new("sse", way.tag("long"));
        scene.call(way, servers(&server)).await.good();
        let last = provider.requests().pop().expect("two rounds");
        let (_, text) = results(&last).remove(0);
        let cut = format!("{}\n[cut: the first 100000 of 250000 characters]", "x".repeat(100_000));
        assert!(
            text == cut,
            "{way:?}: {} characters, {}",
            text.len(),
            &text[text.len().min(99_990)..]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_checks_are_counted() {
    let provider = model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 1, "b": 1})), ("fails", json!({}))]),
        _ => says("ok"),
    });
    let scene = Scene::with(&provider, |start| start.config("enable_metrics: true")).await;
    let length = |mode: &str, most: u64| json!({"profile": "otari_length", "mode": mode, "on": ["input", "output"], "validate_kwargs": {"max_chars": most}});
    for way in ways().take(2) {
        let server = Real::new("json", way.tag("counted"));
        let mut fields = servers(&server);
        fields["guardrails"] =
            json!([length("block", 9), length("monitor", 1), {"profile": "nobody's"}]);
        scene.call(way, fields).await.good();
        let refused = scene.call(way, json!({"guardrails": [length("block", 1)]})).await;
        assert_eq!(refused.status, 403, "{}", refused.raw);
    }
    let metrics = scene.gateway.get("/metrics").await.text();
    for line in [
        "gateway_tool_calls_total{outcome=\"success\",tool=\"mcp\"} 2",
        "gateway_tool_calls_total{outcome=\"error\",tool=\"mcp\"} 2",
        "gateway_guardrail_checks_total{mode=\"block\",moment=\"input\",verdict=\"valid\"} 2",
        "gateway_guardrail_checks_total{mode=\"monitor\",moment=\"input\",verdict=\"invalid\"} 2",
        "gateway_guardrail_checks_total{mode=\"monitor\",moment=\"input\",verdict=\"unknown\"} 2",
        "gateway_guardrail_checks_total{mode=\"block\",moment=\"input\",verdict=\"invalid\"} 2",
        "gateway_guardrail_checks_total{mode=\"block\",moment=\"output\",verdict=\"valid\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
