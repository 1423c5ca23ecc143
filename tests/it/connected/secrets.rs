//! Tokens and keys go where they must, and nowhere else: no log, no answer, no metric, no file.

use std::path::Path;

use otari::mock::platform::{Rule, Then};
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

#[tokio::test]
async fn they_are_nowhere_they_do_not_belong() {
    for level in ["debug", "trace"] {
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
        // Providers that repeat what they were sent.
        let echoes = |status: u16| {
            Provider::start(move |request| {
                let said = format!("Incorrect API key provided: {KEY}. {:?}", request.headers);
                Reply::json(status, &json!({"error": {"message": said, "type": "t", "code": KEY}}))
            })
        };
        let (denied, invalid) = (echoes(401), echoes(400));
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
            let nobody = {
                let mut offer = refusing(name);
                offer["api_key"] = json!(KEY);
                offer
            };
            let odd = json!({"provider": name, "api_base": format!("http://user:{KEY}@h/"), "api_key": format!("{KEY}\n")});
            for (model, plan) in [
                ("works", vec![by(&works)]),
                ("denied", vec![by(&denied)]),
                ("invalid", vec![by(&invalid)]),
                ("breaks", vec![by(&breaks)]),
                ("walks", vec![nobody, odd, by(&denied), by(&silent), by(&works)]),
                ("fails", vec![by(&invalid), by(&denied)]),
            ] {
                scene.platform.answer(model, Then::plan(plan));
                for streamed in [false, true] {
                    if model == "breaks" && !streamed {
                        continue;
                    }
                    let body = if streamed { api.ask_streamed(model) } else { api.ask(model) };
                    let answer = scene.send(api, &body).await;
                    seen += &format!("{:?} {}\n", answer.headers, answer.text());
                }
            }
        }
        // What goes wrong with the platform itself.
        for then in [
            Then { text: Some(format!("{{\"api_key\": \"{KEY}\", ")), ..Then::status(200) },
            Then::json(200, json!({"request_id": "r", "attempts": [{"api_key": KEY}]})),
            Then::json(500, json!({"detail": format!("{KEY} {USER_TOKEN}")})),
            Then::fault(otari::mock::platform::Fault::Close),
        ] {
            scene.platform.answer("platform", then);
            seen += &scene.ask(Api::Chat, "platform").await.text();
        }
        scene.platform.edit(|script| {
            script.usage = vec![
                Rule::first(3, Then::status(500)),
                Rule::always(Then::json(422, json!({"detail": KEY}))),
            ];
        });
        seen += &scene.ask(Api::Chat, "works").await.text();
        scene.platform.stop();
        seen += &scene.ask(Api::Chat, "works").await.text();
        scene.platform.restart();
        for page in ["/metrics", "/health", "/health/readiness", "/openapi.json", "/"] {
            seen += &scene.gateway.get(page).await.text();
        }
        assert!(scene.gateway.terminate().await.success());
        scene.platform.assert_clean();
        contents(&journal, &mut seen);
        let log = scene.gateway.log();
        assert!(log.contains("\"DEBUG\""), "there is something to look at: {log}");
        for secret in [KEY, EXTRA, GATEWAY_TOKEN, USER_TOKEN] {
            for (what, text) in [("log", &log), ("what callers and files hold", &seen)] {
                let at = text
                    .find(secret)
                    .map(|at| text[at.saturating_sub(300)..].chars().take(400).collect::<String>());
                assert_eq!(at, None, "{level}: {secret} is in the {what}");
            }
        }
        // The tokens went where they belong.
        for asked in works.requests() {
            let text = format!("{:?} {}", asked.headers, asked.text());
            assert!(
                text.contains(KEY) && !text.contains(USER_TOKEN) && !text.contains(GATEWAY_TOKEN),
                "{text}"
            );
            assert!(!text.contains(EXTRA), "settings of a client are no fields: {text}");
        }
    }
}
