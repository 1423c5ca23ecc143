//! Checks against a scripted service on loopback.

use otari_filters::guardrails::{Guardrail, Judged, Mode};
use otari_filters::rejection::Rejection;
use serde_json::{Map, Value, json};

use super::{Guardrails, Moment};
use crate::config::{Env, Sources, load};
use crate::credentials::Credentials;
use crate::outbound::Outbound;
use crate::safety::Safety;
use crate::scripted::{Scripted, on_one_thread, respond, respond_json};

fn guardrails(yaml: &str) -> Guardrails {
    let env = Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]);
    let config = load(&Sources { env, ..Sources::default() }).unwrap();
    Guardrails::new(&config, Safety::default(), Outbound::new(Credentials::new(None)))
}

fn guardrail(profile: &str, mode: Mode) -> Guardrail {
    Guardrail {
        profile: profile.into(),
        url: None,
        on_input: true,
        on_output: false,
        mode,
        on_unavailable: Mode::Block,
        validate_kwargs: Map::new(),
    }
}

async fn check(
    checks: &Guardrails,
    all: &[Guardrail],
    text: &str,
) -> Result<Vec<Judged>, Rejection> {
    let ready = checks.ready(all).await?;
    assert!(ready.has(Moment::Input) && !ready.has(Moment::Output));
    assert_eq!(checks.check(&ready, Moment::Output, text).await?, []);
    checks.check(&ready, Moment::Input, text).await
}

/// A service that refuses the word `bad`, and breaks on `broken`.
async fn service() -> Scripted {
    Scripted::new(|asked| {
        assert_eq!(asked.path, "/v1/validate");
        let body = asked.json();
        match body["profile"].as_str().unwrap() {
            "broken" => respond(500, "", "at 10.0.0.7"),
            "away" => respond(302, "location: http://169.254.169.254/\r\n", ""),
            "odd" => respond(200, "", "{}"),
            _ => {
                let valid = body["input_text"] != "bad";
                respond_json(
                    200,
                    &json!({"result": {"valid": valid, "explanation": "e", "score": 0.5}}),
                )
            }
        }
    })
    .await
}

#[test]
fn services_are_asked_one_after_the_other() {
    on_one_thread(async {
        let service = service().await;
        let url = format!("{}/v1/", service.url);
        let checks = guardrails(&format!("guardrails_url: '{url}'"));
        let theirs = Guardrail { url: Some(url), ..guardrail("b", Mode::Block) };
        let mut options = guardrail("a", Mode::Monitor);
        options.validate_kwargs.insert("k".into(), 1.into());
        let all = [options, theirs];
        let judged = check(&checks, &all, "fine").await.unwrap();
        assert_eq!(judged.len(), 2);
        assert!(judged.iter().all(|one| one.verdict.valid == Some(true)));
        let asked: Vec<Value> = service.asked().iter().map(|asked| asked.json()).collect();
        assert_eq!(
            asked,
            [
                json!({"profile": "a", "input_text": "fine", "validate_kwargs": {"k": 1}}),
                json!({"profile": "b", "input_text": "fine"}),
            ]
        );
        let refused = check(&checks, &all, "bad").await.unwrap_err();
        assert_eq!(refused.code.status().as_u16(), 403);
        let detail = refused.detail.unwrap();
        assert_eq!(
            detail["guardrails"],
            json!([{"profile": "b", "explanation": "e", "score": 0.5}])
        );
        let judged = check(&checks, &all[..1], "bad").await.unwrap();
        assert_eq!(judged[0].verdict.valid, Some(false), "who watches does not refuse");
    });
}

#[test]
fn a_check_that_cannot_be_made_blocks_or_is_noted() {
    on_one_thread(async {
        let service = service().await;
        let checks = guardrails(&format!("guardrails_url: '{}/v1'", service.url));
        for profile in ["broken", "away", "odd"] {
            let block = guardrail(profile, Mode::Block);
            let later = guardrail("a", Mode::Block);
            let asked = service.asked().len();
            let refused = check(&checks, &[block.clone(), later.clone()], "x").await.unwrap_err();
            assert_eq!(refused.code.status().as_u16(), 502, "{profile}");
            let words = &refused.message;
            assert!(words.starts_with(&format!("guardrail profile '{profile}' ")), "{words}");
            assert!(!words.contains("127.0.0.1") && !words.contains("10.0.0.7"), "{words}");
            assert_eq!(service.asked().len(), asked + 1, "the later one is not made");
            let lenient = Guardrail { on_unavailable: Mode::Monitor, ..block };
            let judged = check(&checks, &[lenient, later], "x").await.unwrap();
            assert_eq!((judged[0].verdict.valid, judged[1].verdict.valid), (None, Some(true)));
        }
        let nowhere = guardrails("{}");
        let refused = check(&nowhere, &[guardrail("a", Mode::Block)], "x").await.unwrap_err();
        assert!(refused.message.contains("no guardrails service is configured"));
    });
}

#[test]
fn some_checks_need_no_service() {
    on_one_thread(async {
        let checks = guardrails("{}");
        let secrets = guardrail("otari_pii", Mode::Block);
        assert!(check(&checks, std::slice::from_ref(&secrets), "hello").await.is_ok());
        let refused =
            check(&checks, &[secrets], "write to jane.doe@example.com").await.unwrap_err();
        assert_eq!(refused.code.status().as_u16(), 403);
        let odd = guardrail("otari_regex", Mode::Block);
        let refused = check(&checks, &[odd], "x").await.unwrap_err();
        assert_eq!(refused.code.status().as_u16(), 400);
        assert!(refused.message.contains("validate_kwargs.patterns"), "{}", refused.message);
        let inside =
            Guardrail { url: Some("http://10.0.0.1/".into()), ..guardrail("a", Mode::Block) };
        let refused = check(&checks, &[inside], "x").await.unwrap_err();
        assert_eq!(refused.code.status().as_u16(), 400);
        assert!(refused.message.starts_with("MCP server host '10.0.0.1'"), "{}", refused.message);
    });
}
