//! The first event of a stream: until it is here another attempt may follow; after it nothing can.

use std::time::{Duration, Instant};

use otari::mock::platform::Then;

use super::{Api, COST, Scene, attempt, without_cost, working};
use crate::support::provider::{Provider, Reply, Step};

/// A stream of these steps, whatever was asked.
fn plays(steps: Vec<Step>) -> Provider {
    Provider::start(move |_| Reply::events(steps.clone()))
}

fn send(text: impl Into<String>) -> Step {
    Step::Send(text.into().into_bytes())
}

#[tokio::test]
async fn silence_behind_the_header_leads_to_the_next_attempt_and_signs_of_life_are_no_events() {
    let mut scene = Scene::with(|start| {
        start.env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "250").config("enable_metrics: true")
    })
    .await;
    let works = working();
    for api in Api::ALL {
        let alive = [send(api.sign_of_life()), send(": hi\n\n"), send("\n"), Step::Sleep(100)];
        for steps in [
            vec![Step::Silence],
            vec![send(api.sign_of_life()), Step::Silence],
            (0..20).flat_map(|_| alive.clone()).chain([Step::Silence]).collect(),
            vec![send("data: {\"half"), Step::Silence],
        ] {
            let silent = plays(steps);
            scene.platform.plan("m", &[(api.provider(), &silent), (api.provider(), &works)]);
            let began = Instant::now();
            let answer = scene.ask_streamed(api, "m").await.expect(200);
            let took = began.elapsed();
            assert!(
                took >= Duration::from_millis(240) && took < Duration::from_secs(2),
                "{took:?}"
            );
            assert_eq!(without_cost(&answer.text(), COST, "managed"), api.events().concat());
            assert_eq!(scene.told(2).await, ["att-a error timeout", "att-b success final"]);
            silent.aborted(1).await;
        }
        // What comes in time is the answer, signs of life before it included.
        let mut steps = vec![send(api.sign_of_life()), Step::Sleep(60)];
        steps.extend(api.events().into_iter().map(send));
        let slow = plays(steps);
        scene.platform.plan("m", &[(api.provider(), &slow), (api.provider(), &works)]);
        let answer = scene.ask_streamed(api, "m").await.expect(200);
        let text = without_cost(&answer.text(), COST, "managed");
        assert_eq!(text, format!("{}{}", api.sign_of_life(), api.events().concat()));
        assert_eq!(scene.told(1).await, ["att-a success final"]);
    }
    let metrics = scene.gateway.get("/metrics").await.text();
    let counted: u64 = metrics
        .lines()
        .filter(|line| {
            line.starts_with("gateway_abandoned_attempts_total{") && line.contains("\"timeout\"")
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    assert_eq!(counted, 12, "{metrics}");
    scene.finish().await;
}

#[tokio::test]
async fn when_all_are_silent_the_caller_is_told_so_and_the_last_has_its_grace() {
    let mut scene = Scene::with(|start| {
        start
            .env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "150")
            .env("STREAMING_FALLBACK_FINAL_ATTEMPT_EXTRA_FIRST_CHUNK_TIMEOUT_MS", "400")
    })
    .await;
    let silent = plays(vec![Step::Silence]);
    for api in Api::ALL {
        let late = plays(
            [Step::Sleep(300)].into_iter().chain(api.events().into_iter().map(send)).collect(),
        );
        let name = api.provider();
        scene.platform.plan("silent", &[(name, &silent), (name, &silent)]);
        let began = Instant::now();
        let answer = scene.ask_streamed(api, "silent").await;
        assert_eq!(api.sentence(&answer, 504), "All upstream providers timed out");
        assert!(began.elapsed() >= Duration::from_millis(690), "{:?}", began.elapsed());
        assert_eq!(scene.told(2).await, ["att-a error timeout", "att-b error final timeout"]);
        scene.platform.plan("one", &[(name, &silent)]);
        let answer = scene.ask_streamed(api, "one").await;
        assert_eq!(api.sentence(&answer, 504), "LLM provider timeout");
        assert_eq!(scene.told(1).await, ["att-a error final timeout"]);
        // Too late for the first, in time for the last.
        scene.platform.plan("late", &[(name, &late), (name, &late)]);
        scene.ask_streamed(api, "late").await.expect(200);
        assert_eq!(scene.told(2).await, ["att-a error timeout", "att-b success final"]);
        scene.platform.plan("only", &[(name, &late)]);
        scene.ask_streamed(api, "only").await.expect(200);
        assert_eq!(scene.told(1).await, ["att-a success final"]);
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_provider_that_is_slow_to_open_is_not_hurried_by_the_gate() {
    let mut scene =
        Scene::with(|start| start.env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "100")).await;
    let provider = Provider::start(move |_| {
        // The script is asked before the header leaves.
        std::thread::sleep(Duration::from_millis(300));
        Api::Chat.served(true)
    });
    scene.platform.plan("m", &[("openai", &provider)]);
    scene.ask_streamed(Api::Chat, "m").await.expect(200);
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    scene.finish().await;
}

#[tokio::test]
async fn an_error_as_the_first_event_leads_to_the_next_attempt() {
    let mut scene = Scene::new().await;
    let works = working();
    for api in Api::ALL {
        let class = match api {
            Api::Chat => "http_503",
            Api::Messages => "http_529",
            Api::Responses => "http_500",
        };
        let name = api.provider();
        for steps in [
            vec![send(api.error_event())],
            vec![send(api.sign_of_life()), send(api.error_event()), Step::Silence],
            vec![send(api.error_event().replace('\n', "\r\n")), Step::CutNow],
        ] {
            let fails = plays(steps);
            scene.platform.plan("m", &[(name, &fails), (name, &works)]);
            let answer = scene.ask_streamed(api, "m").await.expect(200);
            assert_eq!(without_cost(&answer.text(), COST, "managed"), api.events().concat());
            let told = [format!("att-a error {class}"), "att-b success final".into()];
            assert_eq!(scene.told(2).await, told);
        }
        let fails = plays(vec![send(api.error_event())]);
        scene.platform.plan("m", &[(name, &fails), (name, &fails)]);
        let answer = scene.ask_streamed(api, "m").await;
        assert_eq!(api.sentence(&answer, 502), "All upstream providers failed");
        let told = [format!("att-a error {class}"), format!("att-b error final {class}")];
        assert_eq!(scene.told(2).await, told);
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_stream_without_any_event_is_an_answer() {
    let mut scene = Scene::new().await;
    let works = working();
    for api in Api::ALL {
        for steps in [vec![], vec![send(api.sign_of_life())]] {
            let said: Vec<u8> = steps
                .iter()
                .flat_map(|step| match step {
                    Step::Send(bytes) => bytes.clone(),
                    _ => Vec::new(),
                })
                .collect();
            let empty = plays(steps);
            scene.platform.plan("m", &[(api.provider(), &empty), (api.provider(), &works)]);
            let answer = scene.ask_streamed(api, "m").await.expect(200);
            assert_eq!(answer.body, said, "{api:?}");
            assert_eq!(scene.told(1).await, ["att-a success final"]);
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn after_the_first_event_a_failure_ends_the_stream_in_the_callers_dialect() {
    let mut scene = Scene::with(|start| start.config("idle_timeout_s: 1")).await;
    let works = working();
    for api in Api::ALL {
        let words = "An error occurred during streaming";
        let name = api.provider();
        for (what, last) in
            [("cut", Step::CutNow), ("reset", Step::Reset), ("silent", Step::Silence)]
        {
            for carrier in [false, true] {
                let events = api.events();
                // Up to the event with the usage, or with it.
                let at =
                    events.iter().rposition(|event| event.contains("usage")).expect("a carrier");
                if carrier && api == Api::Responses {
                    // Its usage is in the last event: what follows is no failure.
                    continue;
                }
                let sent = if carrier { &events[..=at] } else { &events[..at] };
                let steps =
                    sent.iter().cloned().map(send).chain([Step::Sleep(30), last.clone()]).collect();
                let breaks = plays(steps);
                scene.platform.plan("m", &[(name, &breaks), (name, &works)]);
                let answer = scene.ask_streamed(api, "m").await.expect(200);
                assert_eq!(answer.header("x-correlation-id").map(|id| &id[..5]), Some("att-a"));
                let text = answer.text();
                let rest =
                    text.strip_prefix(&sent.concat()).unwrap_or_else(|| panic!("{what}: {text}"));
                let (event, end) = match api {
                    Api::Chat => (rest.strip_suffix("data: [DONE]\n\n"), ""),
                    _ => (Some(rest), "event: error\n"),
                };
                let event =
                    event.unwrap_or_else(|| panic!("{what}: the done marker is missing: {text}"));
                let data = event.strip_prefix(end).and_then(|event| event.strip_prefix("data: "));
                let data: serde_json::Value =
                    serde_json::from_str(data.unwrap_or_default().trim_end()).unwrap_or_default();
                assert_eq!(data["error"]["message"], words, "{api:?} {what}: {text}");
                assert!(event.ends_with("\n\n") && !text.contains("cost_usd"), "{text}");
                assert_eq!(scene.told(1).await, ["att-a error final"], "{api:?} {what}");
            }
        }
    }
    let before = works.count();
    // Whole again.
    scene.platform.answer("m", Then::plan([attempt("openai", &works, "k")]));
    scene.ask_streamed(Api::Chat, "m").await.expect(200);
    assert_eq!((before, works.count()), (0, 1), "nobody else was asked");
    scene.told(1).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_error_event_in_the_middle_ends_the_stream_and_is_a_failure() {
    let mut scene = Scene::new().await;
    for api in Api::ALL {
        let events = api.events();
        let breaks = plays(vec![send(events[0].clone()), Step::Sleep(20), send(api.error_event())]);
        scene.platform.plan("m", &[(api.provider(), &breaks)]);
        let answer = scene.ask_streamed(api, "m").await.expect(200);
        let text = answer.text();
        assert!(text.starts_with(&events[0]), "{text}");
        let end = &text[events[0].len()..];
        assert!(end.contains("An error occurred during streaming"), "{text}");
        assert!(!end.contains("overloaded"), "the provider's words are not for the caller: {text}");
        assert_eq!(end.ends_with("data: [DONE]\n\n"), api == Api::Chat, "{text}");
        assert!(text.ends_with("\n\n") && !text.contains("cost_usd"), "{text}");
        assert_eq!(scene.told(1).await, ["att-a error final"], "{api:?}: {text}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_waiting_caller_gets_signs_of_life_in_their_dialect() {
    let mut scene = Scene::with(|start| start.config("streaming_keepalive_interval_ms: 60")).await;
    for api in Api::ALL {
        let events = api.events();
        let slow = plays(
            [send(events[0].clone()), Step::Sleep(250)]
                .into_iter()
                .chain(events[1..].iter().cloned().map(send))
                .collect(),
        );
        scene.platform.plan("m", &[(api.provider(), &slow)]);
        let text = scene.ask_streamed(api, "m").await.expect(200).text();
        let signs = text.matches(api.sign_of_life()).count();
        assert!((2..=5).contains(&signs), "{text}");
        let text = without_cost(&text.replace(api.sign_of_life(), ""), COST, "managed");
        assert_eq!(text, events.concat());
        scene.told(1).await;
    }
    scene.finish().await;
}
