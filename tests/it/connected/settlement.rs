//! What an answer cost, said by the platform in time and written into the answer's usage; nothing else is touched.

use std::time::{Duration, Instant};

use otari::mock::platform::{Rule, Then, When};
use serde_json::{Value, json};

use super::{Api, COST, Scene, without_cost, working};
use crate::support::platform::USER_TOKEN;
use crate::support::provider::{Provider, Reply, Step};

#[tokio::test]
async fn the_cost_is_attached_and_every_other_byte_is_the_providers() {
    let mut scene = Scene::with(|start| start.config("enable_metrics: true")).await;
    let provider = working();
    for api in Api::ALL {
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let plain = scene.ask(api, "m").await.expect(200);
        assert_eq!(without_cost(&plain.text(), COST, "managed"), api.document());
        let length = plain.header("content-length").expect("a length");
        assert_eq!(length.parse(), Ok(plain.body.len()));
        let stream = scene.ask_streamed(api, "m").await.expect(200);
        assert_eq!(without_cost(&stream.text(), COST, "managed"), api.events().concat());
        let carrier = stream.text();
        let carrier = carrier.split("\n\n").find(|event| event.contains("cost_usd")).expect("one");
        let data = carrier.split_once("data: ").expect("data").1;
        let event: Value = serde_json::from_str(data).expect("JSON");
        let usage =
            if api == Api::Responses { &event["response"]["usage"] } else { &event["usage"] };
        assert_eq!(usage["cost_usd"], COST, "{carrier}");
        assert_eq!(usage["pricing_source"], "managed");
        scene.reports(2).await;
    }
    let metrics = scene.gateway.get("/metrics").await.text();
    assert!(
        metrics.contains("gateway_inline_cost_settlements_total{outcome=\"attached\"} 6"),
        "{metrics}"
    );
    scene.finish().await;
}

#[tokio::test]
async fn amounts_and_sources_are_passed_on_verbatim() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.plan("m", &[("openai", &provider)]);
    for (amount, source) in [
        ("0.000000", "organization"),
        ("-0.000001", "genai_prices"),
        ("123456789012.000001", "of \"tomorrow\"é"),
    ] {
        scene.platform.edit(|script| {
            let then = Then::default()
                .field("cost_usd", json!(amount))
                .field("pricing", json!({"source": source, "x": 1}));
            script.usage = vec![Rule::always(then.field("new", json!([1])))];
        });
        let usage = scene.ask(Api::Chat, "m").await.expect(200).json()["usage"].clone();
        assert_eq!(
            (&usage["cost_usd"], &usage["pricing_source"]),
            (&json!(amount), &json!(source))
        );
        scene.reports(1).await;
    }
    scene.finish().await;
}

#[tokio::test]
async fn each_condition_keeps_the_cost_out_and_nothing_is_sent_again() {
    let mut scene = Scene::with(|start| start.config("enable_metrics: true")).await;
    let provider = working();
    let laid = |name: &str, value: Value| Then::default().field(name, value);
    let mut gates = vec![
        laid("correlation_id", json!("another")),
        laid("correlation_id", Value::Null),
        laid("status", json!("pending")),
        laid("outcome", json!("error")),
        laid("cost_usd", json!(0.00002)),
        laid("cost_usd", json!("0.00002")),
        laid("cost_usd", json!("0.0000200")),
        laid("cost_usd", json!("1e-6")),
        laid("cost_usd", json!(".000020")),
        laid("cost_usd", json!("+0.000020")),
        laid("cost_usd", json!("0.000020\n")),
        laid("cost_usd", Value::Null),
        laid("currency", json!("EUR")),
        laid("currency", json!("usd")),
        laid("usage_status", json!("unavailable")),
        laid("pricing", json!({"source": null})),
        laid("pricing", json!({"source": 1})),
        laid("pricing", json!({})),
        laid("pricing", json!("managed")),
        Then::status(202),
        Then::status(204),
        Then::json(200, json!([])),
        Then { text: Some("{".into()), ..Then::status(200) },
        Then { text: Some(String::new()), ..Then::status(200) },
    ];
    gates.push(Then::status(404));
    for (at, gate) in gates.iter().enumerate() {
        let api = Api::ALL[at % 3];
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        scene.platform.edit(|script| script.usage = vec![Rule::always(gate.clone())]);
        let before = scene.platform.counts().reports;
        let plain = scene.ask(api, "m").await.expect(200);
        assert_eq!(plain.text(), api.document(), "{gate:?}");
        let stream = scene.ask_streamed(api, "m").await.expect(200);
        assert_eq!(stream.text(), api.events().concat(), "{gate:?}");
        assert_eq!(scene.platform.counts().reports - before, 2, "each reported once: {gate:?}");
    }
    let accepted = scene.platform.counts().accepted;
    scene.looked_at = usize::try_from(accepted).expect("some");
    let metrics = scene.gateway.get("/metrics").await.text();
    let outcome = format!(
        "gateway_inline_cost_settlements_total{{outcome=\"unattached\"}} {}",
        gates.len() * 2
    );
    assert!(metrics.contains(&outcome), "{outcome}: {metrics}");
    scene.finish().await;
}

#[tokio::test]
async fn a_slow_settlement_is_not_waited_for_longer_than_allowed_and_still_arrives() {
    let mut scene = Scene::with(|start| {
        start
            .env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "300")
            .config("enable_metrics: true\nstreaming_keepalive_interval_ms: 50")
    })
    .await;
    let provider = working();
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::default().delayed(900))]);
    for api in Api::ALL {
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        for streamed in [false, true] {
            let began = Instant::now();
            let body = if streamed { api.ask_streamed("m") } else { api.ask("m") };
            let answer = scene.send(api, &body).await.expect(200);
            let took = began.elapsed();
            let (least, most) = (Duration::from_millis(280), Duration::from_millis(880));
            assert!(took >= least && took < most, "{api:?} {streamed}: {took:?}");
            if !streamed {
                assert_eq!(answer.text(), api.document());
                continue;
            }
            let text = answer.text();
            let signs = text.matches(api.sign_of_life()).count();
            assert!((2..=7).contains(&signs), "a sign of life every 50 ms: {text}");
            assert_eq!(text.replace(api.sign_of_life(), ""), api.events().concat());
        }
    }
    let reports = scene.reports(6).await;
    assert!(reports.iter().all(|report| !report.abandoned), "nobody hung up on the platform");
    let metrics = scene.gateway.get("/metrics").await.text();
    assert!(
        metrics.contains("gateway_inline_cost_settlements_total{outcome=\"timeout\"} 6"),
        "{metrics}"
    );
    scene.finish().await;
}

#[tokio::test]
async fn the_events_before_the_usage_do_not_wait_for_the_cost() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::default().delayed(600))]);
    for api in Api::ALL {
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let began = Instant::now();
        let bearer = format!("Bearer {USER_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = api.ask_streamed("m").to_string();
        let mut answer =
            scene.gateway.open(reqwest::Method::POST, api.path(), &headers, body).await;
        let mut early = String::new();
        while began.elapsed() < Duration::from_millis(300) {
            let piece = tokio::time::timeout(Duration::from_millis(300), answer.chunk()).await;
            let Ok(piece) = piece else { break };
            early += &String::from_utf8_lossy(&piece.expect("no error").expect("not the end"));
        }
        let events = api.events();
        let free = events.len() - if api == Api::Responses { 1 } else { 2 };
        assert_eq!(early, events[..free].concat(), "{api:?}");
        let mut rest = String::new();
        while let Some(piece) = answer.chunk().await.expect("no error") {
            rest += &String::from_utf8_lossy(&piece);
        }
        assert_eq!(without_cost(&rest, COST, "managed"), events[free..].concat());
        scene.reports(1).await;
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_usage_is_never_invented() {
    let mut scene = Scene::new().await;
    // Priced all the same, as a platform may that knows better.
    scene.platform.edit(|script| {
        let then = Then::default()
            .field("usage_status", json!("reported"))
            .field("pricing", json!({"source": "managed"}));
        script.usage = vec![Rule { when: When::default(), then }];
    });
    for api in Api::ALL {
        let silent = Provider::start(move |_| {
            Reply::events(
                api.events_without_usage().into_iter().map(|event| Step::Send(event.into())),
            )
        });
        scene.platform.plan("m", &[(api.provider(), &silent)]);
        let answer = scene.ask_streamed(api, "m").await.expect(200);
        assert_eq!(answer.text(), api.events_without_usage().concat());
        scene.reports(1).await;
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_it_is_settled_loses_nothing_of_the_report() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.plan("m", &[("openai", &provider)]);
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::default().delayed(400))]);
    for streamed in [false, true] {
        let mut body = Api::Chat.ask("m");
        body["stream"] = json!(streamed);
        let body = body.to_string();
        let mut raw = scene.gateway.connect().await;
        raw.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {USER_TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let asked = scene.looked_at + 1;
        crate::support::eventually("the report to be under way", async || {
            (scene.platform.counts().reports >= asked as u64).then_some(())
        })
        .await;
        raw.reset();
        let report = scene.reports(1).await.remove(0);
        assert_eq!(super::line(&report), "att-a success final");
        tokio::time::sleep(Duration::from_millis(450)).await;
        assert!(!scene.platform.reports().iter().any(|report| report.abandoned));
    }
    scene.finish().await;
}
