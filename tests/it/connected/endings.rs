//! Calls that end in other ways than their provider's: the caller leaves, time is up, the gateway goes. Each leaves the
//! reports it must, and no others.

use std::io::Write as _;
use std::time::Duration;

use otari::mock::platform::Then;
use serde_json::{Value, json};

use super::{Api, COST, Scene, attempt, failing, is_streamed, without_cost, working};
use crate::support::platform::USER_TOKEN;
use crate::support::provider::{Gate, Provider, Reply, Step};

/// Opens a request on a connection of its own, which its test may drop.
async fn opened(scene: &Scene, api: Api, body: &Value) -> crate::support::raw::Raw {
    let body = body.to_string();
    let mut raw = scene.gateway.connect().await;
    raw.send(format!(
        "POST {} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {USER_TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        api.path(),
        body.len()
    ))
    .await;
    raw
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_first_event_ends_the_walk() {
    let mut scene = Scene::new().await;
    let (denied, works) = (failing(401, "no"), working());
    for api in Api::ALL {
        let silent = Provider::start(|_| Reply::events([Step::Silence]));
        let plan =
            [&denied, &silent, &works].map(|provider| attempt(api.provider(), provider, "k"));
        scene.platform.answer("m", Then::plan(plan));
        let raw = opened(&scene, api, &api.ask_streamed("m")).await;
        silent.received(1).await;
        drop(raw);
        silent.aborted(1).await;
        assert_eq!(scene.told(1).await, ["att-a error http_401"], "nothing of the one under way");
    }
    assert_eq!(works.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_reported_though_its_caller_left() {
    let mut scene = Scene::new().await;
    for api in Api::ALL {
        let gate = Gate::closed();
        let held = gate.clone();
        let provider = Provider::start(move |_| api.served(false).gated(0, &held));
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let raw = opened(&scene, api, &api.ask("m")).await;
        provider.received(1).await;
        raw.reset();
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.open(1);
        let report = scene.reports(1).await.remove(0);
        assert_eq!(super::line(&report), "att-a success final");
        assert_eq!(report.json()["usage"]["total_tokens"], 15);
    }
    scene.finish().await;
}

#[tokio::test]
async fn time_that_is_up_ends_the_walk() {
    let mut scene = Scene::with(|start| start.config("request_timeout_s: 1")).await;
    let (silent, works) = (Provider::never_answers(), working());
    scene.platform.plan("m", &[("openai", &silent), ("openai", &works)]);
    let answer = scene.ask(Api::Chat, "m").await;
    assert_eq!(answer.refused(504)["error"]["code"], "deadline");
    assert_eq!(scene.told(1).await, ["att-a error final"], "it was the gateway's doing");
    let began = Api::Chat.events()[0].clone();
    let stalls =
        Provider::start(move |_| Reply::events([Step::Send(began.clone().into()), Step::Silence]));
    scene.platform.plan("m", &[("openai", &stalls), ("openai", &works)]);
    let answer = scene.ask_streamed(Api::Chat, "m").await.expect(200);
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    assert_eq!(scene.told(1).await, ["att-a error final"]);
    assert_eq!(works.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_ends_and_is_settled_while_the_gateway_leaves() {
    for api in Api::ALL {
        let mut scene = Scene::new().await;
        let gate = Gate::closed();
        let held = gate.clone();
        let provider = Provider::start(move |_| api.served(true).gated(1, &held));
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let mut raw = opened(&scene, api, &api.ask_streamed("m")).await;
        raw.until(b"\n\n").await;
        scene.gateway.signal_term();
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open(100);
        let rest = raw.rest().await.expect("an orderly end");
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.contains(&format!(r#""cost_usd":"{COST}""#)), "{api:?}: {rest}");
        assert!(scene.gateway.ended().await.success());
        let reports = scene.reports(1).await;
        assert_eq!(super::line(&reports[0]), "att-a success final");
        scene.platform.assert_clean();
    }
}

#[tokio::test]
async fn a_stream_that_does_not_end_in_time_is_ended_and_reported() {
    let mut scene = Scene::with(|start| start.config("drain_s: 1")).await;
    let began = Api::Chat.events()[0].clone();
    let stalls =
        Provider::start(move |_| Reply::events([Step::Send(began.clone().into()), Step::Silence]));
    scene.platform.plan("m", &[("openai", &stalls)]);
    let mut raw = opened(&scene, Api::Chat, &Api::Chat.ask_streamed("m")).await;
    raw.until(b"\n\n").await;
    scene.gateway.signal_term();
    let rest = raw.rest().await.expect("an orderly end");
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("\"error\"") && rest.contains("data: [DONE]"), "{rest}");
    assert!(scene.gateway.ended().await.success());
    assert_eq!(scene.told(1).await, ["att-a error final"]);
    scene.platform.assert_clean();
}

/// A document of a megabyte and a half.
fn long() -> String {
    let mut document: Value = serde_json::from_str(Api::Chat.document()).expect("JSON");
    document["choices"][0]["message"]["content"] = json!("x".repeat(3 << 19));
    document.to_string()
}

#[tokio::test]
async fn a_long_document_passes_without_its_cost_and_is_reported_however_it_ends() {
    let mut scene = Scene::new().await;
    let whole = Provider::start(|_| Reply::bytes(200, "application/json", long()));
    let cut = Provider::start(|_| {
        let long = long();
        let (begin, rest) = long.split_at(5 << 18);
        let reply = Reply::bytes(200, "application/json", begin).then(Step::Sleep(50));
        reply.then(Step::CutNow).then(Step::Send(rest.into()))
    });
    scene.platform.plan("m", &[("openai", &whole)]);
    let answer = scene.ask(Api::Chat, "m").await.expect(200);
    assert!(answer.text() == long(), "as it came");
    let report = scene.reports(1).await.remove(0);
    assert_eq!(
        (super::line(&report).as_str(), &report.json()["usage"]["total_tokens"]),
        ("att-a success final", &json!(15))
    );
    scene.platform.plan("m", &[("openai", &cut), ("openai", &whole)]);
    let mut raw = opened(&scene, Api::Chat, &Api::Chat.ask("m")).await;
    let wire = raw.rest().await.unwrap_or_default();
    assert!(!wire.ends_with(b"0\r\n\r\n"), "the caller sees that it is not whole");
    assert_eq!(scene.told(1).await, ["att-a error final"]);
    assert_eq!(whole.count(), 1);
    scene.finish().await;
}

#[tokio::test]
async fn a_compressed_answer_is_taken_apart_for_its_cost() {
    let mut scene = Scene::new().await;
    for api in Api::ALL {
        let provider = Provider::start(move |request| {
            let (kind, text) = match is_streamed(request) {
                true => ("text/event-stream", api.events().concat()),
                false => ("application/json", api.document().to_owned()),
            };
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).expect("memory takes bytes");
            let packed = packed.finish().expect("memory takes bytes");
            Reply::bytes(200, kind, packed).header("Content-Encoding", "gzip")
        });
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let plain = scene.ask(api, "m").await.expect(200);
        assert_eq!(without_cost(&plain.text(), COST, "managed"), api.document());
        let stream = scene.ask_streamed(api, "m").await.expect(200);
        assert_eq!(without_cost(&stream.text(), COST, "managed"), api.events().concat());
        assert_eq!(stream.header("content-encoding"), None);
        assert_eq!(scene.told(2).await, ["att-a success final", "att-a success final"]);
    }
    scene.finish().await;
}
