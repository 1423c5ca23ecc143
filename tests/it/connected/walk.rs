//! From attempt to attempt: what fails before its answer begins is followed by the next, and each is reported once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use otari::mock::platform::{Seen, Then};
use serde_json::{Value, json};

use super::{
    Api, COST, Scene, attempt, failing, is_streamed, refusing, served, without_cost, working,
};
use crate::support::platform::api_key;
use crate::support::provider::{Provider, Reply, Step};

#[tokio::test]
async fn a_success_is_answered_with_its_cost_and_reported_once() {
    let mut scene = Scene::new().await;
    let provider = working();
    for (n, api) in (1..).zip(Api::ALL) {
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let answer = scene.ask(api, &format!("{}:m", api.provider())).await.expect(200);
        assert_eq!(answer.header("x-correlation-id"), Some(format!("att-a-{n}").as_str()));
        assert_eq!(answer.header("x-otari-request-id"), Some(format!("req-{n}").as_str()));
        assert_eq!(answer.header("otari-attempt-id"), Some(format!("att-a-{n}").as_str()));
        assert_eq!(without_cost(&answer.text(), COST, "managed"), api.document());
        assert_eq!(answer.json()["usage"]["cost_usd"], COST);
        let asked = provider.requests().pop().expect("the provider was asked");
        assert_eq!(asked.json()["model"], "m");
        let report = scene.reports(1).await.remove(0);
        assert_eq!(
            report.json(),
            json!({"correlation_id": format!("att-a-{n}"), "status": "success", "is_final_attempt": true,
                   "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
                             "cache_read_tokens": 0, "cache_write_tokens": 0}})
        );
    }
    assert_eq!(provider.count(), 3);
    scene.finish().await;
}

/// Ways to fail before an answer begins, and what the platform is told of each.
fn ways(of: Api) -> Vec<(&'static str, Value, Option<Provider>)> {
    let mut ways = Vec::new();
    for (class, status, words) in [
        ("http_400", 400, "max_tokens is too large"),
        ("http_400_billing", 400, "Your credit balance is too low"),
        ("http_401", 401, "bad key"),
        ("http_402_billing", 402, "pay"),
        ("http_403", 403, "not you"),
        ("http_404", 404, "no such model"),
        ("http_409", 409, "conflict"),
        ("http_413", 413, "too long"),
        ("http_422", 422, "unprocessable"),
        ("http_422_billing", 422, "insufficient_quota"),
        ("http_429", 429, "exceeded your current quota"),
        ("http_500", 500, "boom"),
        ("http_503", 503, "busy"),
    ] {
        let provider = failing(status, words);
        ways.push((
            class,
            attempt(of.provider(), &provider, &format!("sk-{class}")),
            Some(provider),
        ));
    }
    let mut broken = |class, key, provider: Provider| {
        ways.push((class, attempt(of.provider(), &provider, key), Some(provider)));
    };
    broken("conn_err", "sk-reset", Provider::start(|_| Reply::events([Step::Reset])));
    broken("timeout", "sk-silent", Provider::never_answers());
    broken("unknown", "sk-html", Provider::start(|_| Reply::bytes(200, "text/html", "<p>hi")));
    ways.push(("conn_err", refusing(of.provider()), None));
    if of != Api::Responses {
        // Of responses the whole plan would be refused.
        ways.push(("unknown", json!({"provider": "of-tomorrow", "api_base": null}), None));
    }
    ways
}

#[tokio::test]
async fn every_failure_before_the_answer_is_followed_by_the_next_attempt() {
    let mut scene = Scene::with(|start| start.config("first_byte_timeout_s: 1")).await;
    let works = working();
    for api in Api::ALL {
        let good = attempt(api.provider(), &works, &api_key(1));
        let ways = ways(api);
        for (at, (_, bad, _)) in ways.iter().enumerate() {
            scene.platform.answer(&format!("m{at}"), Then::plan([bad.clone(), good.clone()]));
        }
        for streamed in [false, true] {
            let models = (0..ways.len()).map(|at| format!("m{at}"));
            let ask = |model: String| {
                let (scene, body) =
                    (&scene, if streamed { api.ask_streamed(&model) } else { api.ask(&model) });
                async move { scene.send(api, &body).await }
            };
            let answers = futures_util::future::join_all(models.map(ask)).await;
            let what =
                |at: usize| format!("{api:?} streamed {streamed} {} {}", ways[at].0, ways[at].1);
            for (at, answer) in answers.iter().enumerate() {
                assert_eq!(answer.status, 200, "{}: {}", what(at), answer.text());
            }
            let all = scene.reports(2 * ways.len()).await;
            for (at, (answer, (class, ..))) in answers.into_iter().zip(&ways).enumerate() {
                let what = what(at);
                let id = answer.header("x-correlation-id").expect("whose answer it is").to_owned();
                let n = id.strip_prefix("att-b-").unwrap_or_else(|| panic!("{what}: {id}"));
                let about = |id: String| {
                    let about: Vec<&Seen> =
                        all.iter().filter(|r| r.correlation_id() == id).collect();
                    assert_eq!(about.len(), 1, "{what}: reports about {id}");
                    about[0].json()
                };
                let failed = about(format!("att-a-{n}"));
                let expected = json!({"correlation_id": format!("att-a-{n}"), "status": "error",
                    "is_final_attempt": false, "error_class": class});
                assert_eq!(failed, expected, "{what}");
                assert_eq!(about(format!("att-b-{n}"))["status"], "success", "{what}");
            }
        }
        for (class, bad, provider) in &ways {
            let asked = provider.as_ref().map_or(0, Provider::count);
            assert!(
                provider.is_none() || asked == 2,
                "{class} {bad}: asked {asked} times for two requests"
            );
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn when_all_fail_the_last_one_decides_and_each_is_reported_before_the_answer() {
    let mut scene = Scene::with(|start| {
        let start = start.config("first_byte_timeout_s: 1");
        start.env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "200")
    })
    .await;
    let (denied, gone) = (failing(401, "a"), failing(404, "x"));
    let silent = Provider::start(|request| match is_streamed(request) {
        true => Reply::events([Step::Silence]),
        false => Reply::silence(),
    });
    for api in Api::ALL {
        let at = |provider: &Provider, key: &str| attempt(api.provider(), provider, key);
        let [denied, gone, silent] = [at(&denied, "k1"), at(&gone, "k2"), at(&silent, "k3")];
        scene.platform.answer("failed", Then::plan([denied.clone(), gone.clone()]));
        scene.platform.answer("late", Then::plan([gone, denied, silent]));
        for (model, streamed, status, sentence, told) in [
            ("failed", false, 502, "All upstream providers failed", &TWO_FAILED[..]),
            ("failed", true, 502, "All upstream providers failed", &TWO_FAILED),
            ("late", false, 504, "All upstream providers timed out", &LAST_LATE),
            ("late", true, 504, "All upstream providers timed out", &LAST_LATE),
        ] {
            let body = if streamed { api.ask_streamed(model) } else { api.ask(model) };
            let answer = scene.send(api, &body).await;
            let there = scene.platform.counts().accepted;
            let expected = scene.looked_at + told.len();
            assert_eq!(there, expected as u64, "reported before the caller knows");
            assert_eq!(api.sentence(&answer, status), sentence);
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            assert_eq!(answer.header("otari-error-source"), Some("provider"));
            assert_eq!(scene.told(told.len()).await, told, "{api:?} streamed {streamed}");
        }
    }
    scene.finish().await;
}

const TWO_FAILED: [&str; 2] = ["att-a error http_401", "att-b error final http_404"];
const LAST_LATE: [&str; 3] =
    ["att-a error http_404", "att-b error http_401", "att-c error final timeout"];

#[tokio::test]
async fn a_single_attempt_that_fails_says_why() {
    let mut scene = Scene::with(|start| start.config("first_byte_timeout_s: 1")).await;
    let billing = "The upstream provider account is out of credit or over its billing limit. Top up the provider \
                   account, or route this model to a provider that has credit.";
    let invalid =
        "The provider rejected the request as invalid (check the model name and parameters)";
    let cases = [
        (Some(failing(400, "max_tokens: too many")), 400, "max_tokens: too many", "http_400"),
        (Some(failing(422, "messages: [secret]")), 400, invalid, "http_422"),
        (Some(failing(400, "please PURCHASE CREDITS")), 502, billing, "http_400_billing"),
        (Some(failing(402, "x")), 502, billing, "http_402_billing"),
        (Some(failing(404, "model m is gone")), 404, "model m is gone", "http_404"),
        (
            Some(failing(401, "key sk-abcdefghijkl")),
            502,
            "The provider rejected the gateway's credentials",
            "http_401",
        ),
        (Some(Provider::never_answers()), 504, "LLM provider timeout", "timeout"),
        (None, 502, "LLM provider error", "conn_err"),
    ];
    for api in Api::ALL {
        for (at, (provider, status, sentence, class)) in cases.iter().enumerate() {
            let offer = match provider {
                Some(provider) => attempt(api.provider(), provider, &format!("k{at}")),
                None => refusing(api.provider()),
            };
            scene.platform.answer("m", Then::plan([offer]));
            let streamed = at % 2 == 1;
            let body = if streamed { api.ask_streamed("m") } else { api.ask("m") };
            let answer = scene.send(api, &body).await;
            assert_eq!(api.sentence(&answer, *status), *sentence, "{api:?} {class}");
            assert_eq!(scene.told(1).await, [format!("att-a error final {class}")], "{api:?}");
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn repeats_of_the_last_attempt_are_one_attempt_for_the_platform() {
    let mut scene = Scene::with(|start| start.config("circuit_breaker_failures: 0")).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let recovers = Provider::start(move |request| match counted.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::json(503, &json!({"error": {"message": "busy"}})),
        _ => served(request),
    });
    let (fails, first) = (failing(500, "boom"), failing(500, "boom"));
    scene.platform.plan("recovers", &[("openai", &first), ("openai", &recovers)]);
    scene.platform.plan("fails", &[("openai", &first), ("openai", &fails)]);
    let began = std::time::Instant::now();
    scene.ask(Api::Chat, "recovers").await.expect(200);
    assert_eq!((first.count(), tries.load(Ordering::SeqCst)), (1, 3), "only the last is repeated");
    assert_eq!(scene.told(2).await, ["att-a error http_500", "att-b success final"]);
    scene.ask_streamed(Api::Chat, "fails").await.expect(502);
    assert_eq!((first.count(), fails.count()), (2, 3));
    assert_eq!(scene.told(2).await, ["att-a error http_500", "att-b error final http_500"]);
    assert!(began.elapsed().as_secs() < 5, "at most two seconds of waiting each");
    scene.finish().await;
}

#[tokio::test]
async fn a_busy_last_provider_is_not_waited_for_longer_than_two_seconds() {
    let mut scene = Scene::new().await;
    let busy = Provider::start(|_| {
        Reply::json(429, &json!({"error": {"message": "slow down"}})).header("Retry-After", "60")
    });
    scene.platform.plan("m", &[("openai", &busy)]);
    let answer = scene.ask(Api::Chat, "m").await;
    let sentence = Api::Chat.sentence(&answer, 429);
    assert_eq!(sentence, "The provider rate-limited this request");
    assert_eq!(answer.header("retry-after"), Some("60"), "for the caller to wait");
    assert_eq!(busy.count(), 1);
    assert_eq!(scene.told(1).await, ["att-a error final http_429"]);
    scene.finish().await;
}

#[tokio::test]
async fn a_plan_for_responses_may_name_any_provider() {
    let mut scene = Scene::new().await;
    let provider = working();
    let body = Api::Responses.ask("m");
    // One without that API is asked in its own; one that embeds, or that nobody knows, is passed over.
    for (names, path) in [
        (&["deepseek"][..], "/v1/chat/completions"),
        (&["anthropic"], "/v1/messages"),
        (&["of-tomorrow", "deepseek"], "/v1/chat/completions"),
        (&["voyage", "openai"], "/v1/responses"),
    ] {
        let plan: Vec<_> = names.iter().map(|name| (*name, &provider)).collect();
        scene.platform.plan("m", &plan);
        let answer = scene.send(Api::Responses, &body).await.expect(200).json();
        assert_eq!(answer["object"], "response", "{names:?}: {answer}");
        assert_eq!(provider.requests().pop().expect("a call").path, path, "{names:?}");
        let told = scene.told(names.len()).await;
        let last = if names.len() == 1 { "att-a success final" } else { "att-b success final" };
        assert_eq!(told.last().map(String::as_str), Some(last), "{told:?}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn codex_tells_its_own_things_to_openai_alone() {
    let mut scene = Scene::new().await;
    let (openai, groq) = (working(), working());
    let busy = failing(401, "no");
    let body = json!({"model": "m", "client_metadata": {"k": "v"}, "input": [
        {"type": "message", "role": "user", "content": "hi", "internal_chat_message_metadata_passthrough": {"t": 1}}]});
    scene.platform.plan("m", &[("openai", &openai)]);
    scene.send(Api::Responses, &body).await.expect(200);
    let sent = openai.only().json();
    assert_eq!(sent["client_metadata"], json!({"k": "v"}));
    assert_eq!(sent["input"], body["input"]);
    scene.platform.plan("m", &[("openai", &busy), ("groq", &groq)]);
    scene.send(Api::Responses, &body).await.expect(200);
    assert_eq!(busy.only().json()["client_metadata"], json!({"k": "v"}));
    let sent = groq.only().json();
    assert!(sent.get("client_metadata").is_none(), "{sent}");
    assert_eq!(sent["input"], json!([{"type": "message", "role": "user", "content": "hi"}]));
    assert_eq!(
        scene.told(3).await,
        ["att-a success final", "att-a error http_401", "att-b success final"]
    );
    scene.finish().await;
}

#[tokio::test]
async fn the_label_of_a_session_is_on_every_report() {
    let mut scene = Scene::new().await;
    let (denied, works) = (failing(401, "no"), working());
    for api in Api::ALL {
        let name = api.provider();
        scene.platform.plan("m", &[(name, &denied), (name, &works)]);
        scene.platform.plan("none", &[(name, &denied), (name, &denied)]);
        for (model, label, told) in [
            ("m", json!("  ünï 1 "), Some("ünï 1")),
            ("none", json!("x".repeat(255)), Some("x".repeat(255).as_str())),
            ("m", json!("   "), None),
            ("m", Value::Null, None),
        ] {
            let mut body = api.ask_streamed(model);
            body["session_label"] = label;
            body["user"] = json!("not a label");
            scene.send(api, &body).await;
            for report in scene.reports(2).await {
                assert_eq!(report.text("session_label").as_deref(), told, "{api:?}");
            }
        }
    }
    for asked in works.requests().iter().chain(&denied.requests()) {
        assert!(!asked.text().contains("session_label"), "{}", asked.text());
        assert!(!asked.text().contains("not a label"), "{}", asked.text());
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_provider_that_keeps_failing_is_passed_over_and_not_reported() {
    let mut scene = Scene::with(|start| {
        start.config(
            "circuit_breaker_failures: 3\ncircuit_breaker_cooldown_s: 60\nenable_metrics: true",
        )
    })
    .await;
    let (dead, works) = (failing(500, "dead"), working());
    scene.platform.plan("m", &[("openai", &dead), ("openai", &works)]);
    for _ in 0..3 {
        scene.ask(Api::Chat, "m").await.expect(200);
        assert_eq!(scene.told(2).await, ["att-a error http_500", "att-b success final"]);
    }
    for _ in 0..3 {
        scene.ask(Api::Chat, "m").await.expect(200);
        assert_eq!(scene.told(1).await, ["att-b success final"], "not tried, not reported");
    }
    assert_eq!(dead.count(), 3);
    let metrics = scene.gateway.get("/metrics").await.text();
    let skips = "gateway_circuit_breaker_skips_total{provider=\"openai\"} 3";
    assert!(metrics.contains(skips), "{metrics}");
    let abandoned = "gateway_abandoned_attempts_total{";
    let line = metrics
        .lines()
        .find(|line| line.starts_with(abandoned))
        .expect("abandoned ones are counted");
    assert!(line.contains("reason=\"upstream_error\"") && line.ends_with(" 3"), "{line}");
    scene.finish().await;
}

#[tokio::test]
async fn unknown_providers_and_addresses_that_are_none_are_walked_past() {
    let mut scene = Scene::new().await;
    let works = working();
    let good = attempt("openai", &works, "k");
    for bad in [
        json!({"provider": "of-tomorrow", "api_base": null}),
        json!({"provider": "openai", "api_base": "ftp://nowhere"}),
        json!({"provider": "openai", "api_base": works.base(), "api_key": "bad\nkey"}),
        json!({"provider": "azureopenai", "api_base": null}),
    ] {
        scene.platform.answer("m", Then::plan([bad.clone(), good.clone()]));
        scene.ask(Api::Chat, "m").await.expect(200);
        assert_eq!(scene.told(2).await, ["att-a error unknown", "att-b success final"], "{bad}");
    }
    assert_eq!(works.count(), 4);
    scene.finish().await;
}
