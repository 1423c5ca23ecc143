//! Tokens and keys go where they must, and nowhere else: no log, no answer, no metric, no file.

use std::path::Path;

use otari::mock::platform::{Fault, Rule, Then};
use serde_json::json;

use super::{Api, Scene, attempt, refusing, working};
use crate::support::platform::{GATEWAY_TOKEN, USER_TOKEN};
use crate::support::provider::{Provider, Reply, Step};

const KEY: &str = "sk-of-the-platform-0123456789abcdef";
const EXTRA: &str = "an-extra-param-that-is-secret";

/// Everything below a folder, as text.
fn contents(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            contents(&path, into);
        } else {
            *into += &String::from_utf8_lossy(&std::fs::read(&path).expect("a readable file"));
        }
    }
}

/// A provider that answers with what it was sent.
fn echoing(status: u16) -> Provider {
    Provider::start(move |request| {
        let said = format!("Incorrect API key provided: {KEY}. {:?}", request.headers);
        Reply::json(status, &json!({"error": {"message": said, "type": "t", "code": KEY}}))
    })
}

/// Every way in which a call can end; what callers then see.
async fn calls(scene: &mut Scene, works: &Provider) -> String {
    let (denied, invalid) = (echoing(401), echoing(400));
    let breaks = Provider::start(|request| {
        let event = Api::of(request).events().remove(0);
        Reply::events([Step::Send(event.into()), Step::Sleep(20), Step::CutNow])
    });
    let silent = Provider::start(|_| Reply::events([Step::Silence]));
    let mut seen = String::new();
    for api in Api::ALL {
        let name = api.provider();
        let by = |provider: &Provider| {
            let mut offer = attempt(name, provider, KEY);
            offer["extra_params"] = json!({"secret": EXTRA});
            offer
        };
        let mut nobody = refusing(name);
        nobody["api_key"] = json!(KEY);
        let base = format!("http://user:{KEY}@h/");
        let odd = json!({"provider": name, "api_base": base, "api_key": format!("{KEY}\n")});
        for (model, plan) in [
            ("works", vec![by(works)]),
            ("denied", vec![by(&denied)]),
            ("invalid", vec![by(&invalid)]),
            ("breaks", vec![by(&breaks)]),
            ("walks", vec![nobody, odd, by(&denied), by(&silent), by(works)]),
            ("fails", vec![by(&invalid), by(&denied)]),
        ] {
            scene.platform.answer(model, Then::plan(plan));
            let bodies = [api.ask_streamed(model), api.ask(model)];
            // A stream in place of a document would only be waited for.
            for body in &bodies[..if model == "breaks" { 1 } else { 2 }] {
                let answer = scene.send(api, body).await;
                seen += &format!("{:?} {}\n", answer.headers, answer.text());
            }
        }
    }
    seen
}

/// Every way in which the platform itself can go wrong; what callers then see.
async fn troubles(scene: &mut Scene) -> String {
    let mut seen = String::new();
    for then in [
        Then { text: Some(format!("{{\"api_key\": \"{KEY}\", ")), ..Then::status(200) },
        Then::json(200, json!({"request_id": "r", "attempts": [{"api_key": KEY}]})),
        Then::json(500, json!({"detail": format!("{KEY} {USER_TOKEN}")})),
        Then::fault(Fault::Close),
    ] {
        scene.platform.answer("platform", then);
        seen += &scene.ask(Api::Chat, "platform").await.text();
    }
    scene.platform.edit(|script| {
        let refused = Then::json(422, json!({"detail": KEY}));
        script.usage = vec![Rule::first(3, Then::status(500)), Rule::always(refused)];
    });
    seen += &scene.ask(Api::Chat, "works").await.text();
    scene.platform.stop();
    seen += &scene.ask(Api::Chat, "works").await.text();
    scene.platform.restart();
    seen
}

async fn they_stay_where_they_belong(level: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let journal = folder.path().join("journal");
    let yaml = format!(
        "log_level: {level}\nenable_metrics: true\nfirst_byte_timeout_s: 1\njournal_dir: {}",
        journal.display()
    );
    let mut scene = Scene::with(|start| {
        start.config(&yaml).env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "200")
    })
    .await;
    let works = working();
    let mut seen = calls(&mut scene, &works).await;
    seen += &troubles(&mut scene).await;
    for page in ["/metrics", "/health", "/health/readiness", "/openapi.json", "/"] {
        seen += &scene.gateway.get(page).await.text();
    }
    assert!(scene.gateway.terminate().await.success());
    scene.platform.assert_clean();
    contents(&journal, &mut seen);
    let log = scene.gateway.log();
    assert!(log.contains("\"DEBUG\""), "there is something to look at: {log}");
    assert!(seen.contains("att-a-1"), "the journal is looked at");
    for secret in [KEY, EXTRA, GATEWAY_TOKEN, USER_TOKEN] {
        for (what, text) in [("log", &log), ("what callers and files hold", &seen)] {
            let around = |at: usize| {
                String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(300)..at]).into_owned()
            };
            assert_eq!(text.find(secret).map(around), None, "{level}: {secret} is in the {what}");
        }
    }
    // And are where they belong.
    for asked in works.requests() {
        let text = format!("{:?} {}", asked.headers, asked.text());
        assert!(text.contains(KEY), "{text}");
        for foreign in [USER_TOKEN, GATEWAY_TOKEN, EXTRA] {
            assert!(!text.contains(foreign), "{foreign} is not for a provider: {text}");
        }
    }
}

#[tokio::test]
async fn nothing_leaks_into_a_debug_log_an_answer_or_a_file() {
    they_stay_where_they_belong("debug").await;
}

#[tokio::test]
async fn nor_into_the_most_talkative_log() {
    they_stay_where_they_belong("trace").await;
}
