//! What the platform is told of usage, and how it is told.

use otari::mock::platform::{Fault, Rule, Then, When};
use serde_json::{Value, json};

use super::{Api, Scene, failing, is_streamed, line, working};
use crate::support::platform::USER_TOKEN;
use crate::support::provider::{Gate, Provider, Reply, Step};

/// A provider of this API whose answers have this usage, which goes into `x-usage` of its whole answers and streams.
fn telling(api: Api, usage: Value) -> Provider {
    Provider::start(move |request| {
        if !is_streamed(request) {
            let mut document: Value = serde_json::from_str(api.document()).expect("JSON");
            document["usage"] = usage.clone();
            return Reply::json(200, &document);
        }
        let events =
            api.events_without_usage().into_iter().map(|event| match event.split_once("data: ") {
                Some((name, data)) if carries(api, data) => {
                    let mut data: Value = serde_json::from_str(data).expect("JSON");
                    let into =
                        if api == Api::Responses { &mut data["response"] } else { &mut data };
                    into["usage"] = usage.clone();
                    format!("{name}data: {data}\n\n")
                }
                _ => event,
            });
        let mut events: Vec<String> = events.collect();
        if api == Api::Chat {
            let last = json!({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": usage});
            events.insert(events.len() - 1, format!("data: {last}\n\n"));
        }
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    })
}

/// Whether the event is the one in which the API tells its usage.
fn carries(api: Api, data: &str) -> bool {
    match api {
        Api::Chat => false,
        Api::Messages => data.contains("\"message_delta\""),
        Api::Responses => data.contains("\"response.completed\""),
    }
}

#[tokio::test]
async fn usage_is_told_as_each_format_counts_it() {
    let mut scene = Scene::new().await;
    let told = |prompt: u64, completion: u64, total: u64, read: u64, write: u64| {
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
               "cache_read_tokens": read, "cache_write_tokens": write})
    };
    for (api, usage, expected) in [
        (
            Api::Chat,
            json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}),
            told(10, 7, 17, 0, 0),
        ),
        (
            Api::Chat,
            json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
                   "prompt_tokens_details": {"cached_tokens": 6, "audio_tokens": null},
                   "completion_tokens_details": {"reasoning_tokens": 3}}),
            told(10, 7, 17, 6, 0),
        ),
        (
            Api::Messages,
            json!({"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 100,
                   "cache_creation_input_tokens": 30, "cache_creation": {"ephemeral_5m_input_tokens": 10,
                   "ephemeral_1h_input_tokens": 20}}),
            told(10, 7, 17, 100, 30),
        ),
        (
            Api::Messages,
            json!({"input_tokens": 1, "output_tokens": 1, "iterations": [
                {"type": "compaction", "input_tokens": 100, "output_tokens": 20},
                {"type": "message", "input_tokens": 30, "output_tokens": 4}]}),
            told(130, 24, 154, 0, 0),
        ),
        (
            Api::Responses,
            json!({"input_tokens": 10, "output_tokens": 7, "total_tokens": 17,
                   "input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 2}}),
            told(10, 7, 17, 4, 0),
        ),
    ] {
        let provider = telling(api, usage.clone());
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        for streamed in [false, true] {
            let body = if streamed { api.ask_streamed("m") } else { api.ask("m") };
            scene.send(api, &body).await.expect(200);
            let report = scene.reports(1).await.remove(0).json();
            assert_eq!(report["usage"], expected, "{api:?} streamed {streamed} {usage}");
            assert_eq!(report["is_final_attempt"], true);
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn usage_that_nobody_knows_is_left_out() {
    let mut scene = Scene::new().await;
    for api in Api::ALL {
        let provider = Provider::start(move |request| {
            if is_streamed(request) {
                let events = api.events_without_usage().into_iter();
                return Reply::events(events.map(|event| Step::Send(event.into())));
            }
            let mut document: Value = serde_json::from_str(api.document()).expect("JSON");
            document.as_object_mut().expect("an object").remove("usage");
            Reply::json(200, &document)
        });
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        for streamed in [false, true] {
            let body = if streamed { api.ask_streamed("m") } else { api.ask("m") };
            let answer = scene.send(api, &body).await.expect(200);
            assert!(
                !answer.text().contains("cost_usd"),
                "no usage, no place for a cost: {}",
                answer.text()
            );
            let report = scene.reports(1).await.remove(0);
            assert_eq!(line(&report), "att-a success final");
            assert_eq!(report.json().get("usage"), None, "{api:?} streamed {streamed}");
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn streams_of_chat_always_ask_for_usage() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.plan("m", &[("openai", &provider)]);
    for (options, sent) in [
        (json!(null), json!({"include_usage": true})),
        (json!({"include_usage": false, "x": 1}), json!({"include_usage": true, "x": 1})),
        (json!({"include_usage": true}), json!({"include_usage": true})),
    ] {
        let mut body = Api::Chat.ask_streamed("m");
        if !options.is_null() {
            body["stream_options"] = options.clone();
        }
        let answer = scene.send(Api::Chat, &body).await.expect(200);
        assert!(answer.text().contains(r#""cost_usd":"0.000020""#), "{}", answer.text());
        let asked = provider.requests().pop().expect("the provider was asked").json();
        assert_eq!(asked["stream_options"], sent, "{options}");
        scene.reports(1).await;
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_report_is_repeated_when_the_platform_fails_and_not_when_it_refuses() {
    let mut scene = Scene::with(|start| start.env("PLATFORM_USAGE_TIMEOUT_MS", "300")).await;
    let (provider, denied) = (working(), failing(401, "no"));
    scene.platform.plan("m", &[("openai", &denied), ("openai", &provider)]);
    let tries = async |scene: &mut Scene, then: Then| {
        let only = When { status: Some("success".into()), first: Some(1), ..When::default() };
        scene.platform.edit(|script| script.usage = vec![Rule { when: only, then }]);
        let before = scene.platform.counts().reports;
        scene.ask(Api::Chat, "m").await.expect(200);
        before
    };
    for failure in [
        Then::status(500),
        Then::status(503),
        Then::fault(Fault::Close),
        Then::fault(Fault::Reset),
        Then::fault(Fault::Hang),
        Then::fault(Fault::Half),
    ] {
        let before = tries(&mut scene, failure.clone()).await;
        assert_eq!(
            scene.told(2).await,
            ["att-a error http_401", "att-b success final"],
            "{failure:?}"
        );
        assert_eq!(scene.platform.counts().reports - before, 3, "twice and once: {failure:?}");
    }
    for answer in [400, 401, 402, 403, 404, 409, 410, 422, 429, 302] {
        let before = tries(&mut scene, Then::status(answer)).await;
        assert_eq!(scene.told(1).await, ["att-a error http_401"], "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(scene.platform.counts().reports - before, 2, "{answer} is final");
    }
    for accepted in [200, 202, 204] {
        let before = tries(&mut scene, Then::status(accepted)).await;
        assert_eq!(scene.told(2).await.len(), 2);
        assert_eq!(scene.platform.counts().reports - before, 2, "{accepted}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn opaque_ids_of_any_kind_come_back_as_they_were() {
    let mut scene = Scene::new().await;
    let provider = working();
    for (id, told) in [
        (json!("9f1c\u{e9}/ x"), "9f1c\u{e9}/ x"),
        (json!(42), "42"),
        (json!("x".repeat(300)), &"x".repeat(300)),
    ] {
        let offer = json!({"attempt_id": id, "position": "3", "provider": "openai", "model": "there",
            "api_base": provider.base(), "api_key": "k", "managed": 1, "new": []});
        scene.platform.answer("m", Then::plan([offer]).field("tenant", json!({"id": 1})));
        scene.ask(Api::Chat, "m").await.expect(200);
        assert_eq!(scene.reports(1).await[0].correlation_id(), told);
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_reported_only_when_asked_for() {
    for wanted in [false, true] {
        let yaml = if wanted { "platform:\n  report_disconnects: true" } else { "drain_s: 1" };
        let mut scene = Scene::with(|start| start.config(yaml)).await;
        let (gate, denied) = (Gate::closed(), failing(401, "no"));
        let held = gate.clone();
        let provider = Provider::start(move |_| Api::Chat.served(true).gated(1, &held));
        scene.platform.plan("m", &[("openai", &denied), ("openai", &provider)]);
        let mut stream = scene.gateway.stream(USER_TOKEN, &Api::Chat.ask_streamed("m")).await;
        assert_eq!(stream.status(), 200);
        stream.chunk().await.expect("the first event").expect("an event");
        drop(stream);
        provider.aborted(1).await;
        let expected: &[&str] = if wanted {
            &["att-a error http_401", "att-b error final"]
        } else {
            &["att-a error http_401"]
        };
        assert_eq!(scene.told(expected.len()).await, expected);
        scene.finish().await;
    }
}
