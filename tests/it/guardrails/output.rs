//! Checks of what is answered. What is refused never reaches the caller, streamed or not.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Scene, base, service, ways};
use crate::support::caller::Api;
use crate::support::mcp::{Real, entry};
use crate::support::model::{calls, model, provider, says, sum, tokens};
use crate::support::provider::{Gate, Provider, Reply, Step};

/// A model whose words are the caller's own.
fn echoing() -> Provider {
    model(|asked| says(&asked.words()))
}

fn bad(mode: &str, on: Value) -> Value {
    json!([{"profile": "otari_regex", "mode": mode, "on": on, "validate_kwargs": {"patterns": ["forbidden"]}}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_does_not_reach_the_caller_and_is_paid_for() {
    let model = echoing();
    let scene = Scene::new(&model, |start| start).await;
    for (rows, way) in (1..).step_by(2).zip(ways()) {
        let (api, _, streams) = way;
        let checks = bad("block", json!(["output"]));
        let seen = scene.ask(way, "some forbidden words", checks.clone()).await;
        assert!(
            !seen.raw.contains("forbidden") && !seen.raw.contains("some"),
            "{way:?}: {}",
            seen.raw
        );
        let said = seen.error.clone().unwrap_or_default();
        assert!(said.contains("blocked by guardrail policy"), "{way:?}: {}", seen.raw);
        if streams && seen.status == 200 {
            assert!(seen.finish.is_empty() || seen.finish == "failed", "{way:?}: {}", seen.raw);
        } else {
            assert_eq!(seen.status, 403, "{way:?}: {}", seen.raw);
        }
        let row = scene.gateway.usage(rows).await.remove(0);
        let (input, output) = tokens(0);
        let counts = (&row["prompt_tokens"], &row["completion_tokens"]);
        assert_eq!(counts, (&json!(input), &json!(output)), "{row}");
        let seen = scene.ask(way, "some fine words", checks).await.good();
        assert_eq!((&*seen.text, &*seen.finish), ("some fine words", api.done()), "{}", seen.raw);
        assert_eq!(seen.usage, Some(tokens(0)));
        scene.gateway.usage(rows + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitored_output_passes_and_is_told_where_it_can_be() {
    let model = echoing();
    let scene = Scene::new(&model, |start| start).await;
    for (api, name, streams) in ways() {
        let mut body = api.ask(name, "some forbidden words", 50);
        body["guardrails"] = bad("monitor", json!(["output"]));
        let answer = scene.answer(api, &body, streams).await;
        let seen = api.read(&answer).good();
        assert_eq!(seen.text, "some forbidden words", "{api:?} {name}: {}", seen.raw);
        if !streams {
            let told = r#"[{"profile":"otari_regex","mode":"monitor","valid":false,"score":1}]"#;
            assert_eq!(answer.header("x-otari-guardrails"), Some(told));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_for_both_is_asked_twice() {
    let model = model(|_| says("the answer"));
    let service = service();
    let config = format!("guardrails_url: {}", base(&service));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    let both = json!([{"profile": "good", "mode": "block", "on": ["input", "output"]}]);
    for (at, way) in (1..).zip(ways()) {
        scene.ask(way, "the question", both.clone()).await.good();
        let asked = service.requests();
        let texts: Vec<Value> = asked[2 * at - 2..]
            .iter()
            .map(|request| request.json()["input_text"].clone())
            .collect();
        assert_eq!(texts, ["the question", "the answer"], "{way:?}");
    }
    for way in ways() {
        let block = json!([{"profile": "broken", "mode": "block", "on": ["output"]}]);
        let seen = scene.ask(way, "hi", block).await;
        let said = seen.error.clone().unwrap_or_default();
        assert!(said.contains("could not be evaluated"), "{way:?}: {}", seen.raw);
        assert!(!seen.raw.contains("the answer"), "{way:?}: {}", seen.raw);
        let pass = json!([{"profile": "broken", "mode": "block", "on": ["output"], "on_unavailable": "monitor"}]);
        assert_eq!(scene.ask(way, "hi", pass).await.good().text, "the answer");
    }
}

/// A stream that will be checked says nothing before it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checked_stream_waits_for_its_check() {
    let gate = Gate::closed();
    let held = gate.clone();
    let model = provider(move |asked| {
        let events = asked.events(&says("some forbidden words").using([20, 0, 5]));
        let events = events.into_iter().map(|event| Step::Send(event.into()));
        Reply::events(events).before(5, Step::WaitFor(held.clone()))
    });
    let scene =
        Scene::new(&model, |start| start.config("streaming_keepalive_interval_ms: 100")).await;
    for (at, api) in (1..).zip(Api::ALL) {
        let mut body = api.ask(if api == Api::Messages { "a:m" } else { "o:m" }, "hi", 50);
        body["guardrails"] = bad("block", json!(["output"]));
        let opened = api.open(&scene.gateway, &scene.key, &body);
        let late = async {
            model.received(at).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            gate.open(1);
        };
        let (stream, ()) = tokio::join!(opened, late);
        let text = stream.text().await.expect("whole");
        assert!(!text.contains("some") && !text.contains("forbidden"), "{api:?}: {text}");
        assert!(text.contains("blocked by guardrail policy"), "{api:?}: {text}");
    }
}

/// The rounds of a loop are one answer: their words are looked at before any of them leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loops_answer_is_checked_at_its_end() {
    let model = model(|asked| match asked.round {
        0 => calls([("echo", json!({"text": "x"}))]).saying("fine so far, "),
        _ => says("but forbidden."),
    });
    let scene = Scene::new(&model, |start| start).await;
    for (rows, way) in (1..).zip(ways()) {
        let (api, name, streams) = way;
        let server = Real::new("json", format!("checked-{api:?}-{}-{streams}", &name[..1]));
        let mut body = api.ask(name, "hi", 50);
        body["mcp_servers"] = json!([entry("s", &server.url())]);
        body["guardrails"] = bad("block", json!(["output"]));
        let seen = api.read(&scene.answer(api, &body, streams).await);
        assert!(!seen.raw.contains("forbidden"), "{way:?}: {}", seen.raw);
        let said = seen.error.clone().unwrap_or_default();
        assert!(said.contains("blocked by guardrail policy"), "{way:?}: {}", seen.raw);
        server.ended(1).await;
        let row = scene.gateway.usage(rows).await.remove(0);
        let (input, output) = sum(2);
        let counts = (&row["prompt_tokens"], &row["completion_tokens"]);
        assert_eq!(counts, (&json!(input), &json!(output)), "{row}");
    }
}
