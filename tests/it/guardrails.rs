//! Guardrails: checks of what is asked and of what is answered, by a service or by the gateway itself.

mod output;

use serde_json::{Value, json};

use crate::support::caller::{Api, Seen};
use crate::support::format::both;
use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::model::{model, says};
use crate::support::provider::{Provider, Reply, Step};

const MODELS: [&str; 2] = ["o:m", "a:m"];

fn ways() -> impl Iterator<Item = (Api, &'static str, bool)> {
    Api::ALL.into_iter().flat_map(|api| {
        MODELS.into_iter().flat_map(move |model| [(api, model, false), (api, model, true)])
    })
}

struct Scene {
    gateway: Gateway,
    key: String,
}

impl Scene {
    async fn new(model: &Provider, change: impl FnOnce(Builder) -> Builder) -> Self {
        let gateway = change(both(Gateway::start(), model)).await;
        let key = gateway.key("u").await;
        Self { gateway, key }
    }

    async fn answer(&self, api: Api, body: &Value, streams: bool) -> Answer {
        let body = if streams { api.streamed(body) } else { body.clone() };
        self.gateway.post(&self.key, api.path(), body.to_string()).await
    }

    async fn ask(
        &self,
        (api, model, streams): (Api, &str, bool),
        words: &str,
        checks: Value,
    ) -> Seen {
        let mut body = api.ask(model, words, 50);
        body["guardrails"] = checks;
        api.read(&self.answer(api, &body, streams).await)
    }
}

/// A service that checks; what it says stands in the name of the profile.
fn service() -> Provider {
    Provider::start(|request| {
        let asked = request.json();
        let profile = asked["profile"].as_str().unwrap_or_default().to_owned();
        let says = |result: Value| Reply::json(200, &json!({"result": result}));
        match profile.as_str() {
            "good" => says(json!({"valid": true, "explanation": null, "score": 0.1})),
            "unsure" => says(json!({"valid": null})),
            "list" => says(
                json!([{"valid": false, "score": 0.7, "explanation": "first"}, {"valid": true}]),
            ),
            "none" => says(json!({"score": 1})),
            "word" => says(json!({"valid": "yes"})),
            "shape" => says(json!("text")),
            "page" => Reply::bytes(200, "text/html", "<p>"),
            "broken" => Reply::bytes(500, "text/plain", "at 10.0.0.7"),
            "reset" => Reply::reset(),
            "moved" => {
                Reply::bytes(307, "text/plain", "").header("Location", "http://169.254.169.254/")
            }
            "huge" => Reply::bytes(200, "application/json", "x".repeat(2 << 20)),
            "slow" => says(json!({"valid": true})).before(0, Step::Sleep(300)),
            _ => says(json!({"valid": false, "explanation": {"why": profile}, "score": 0.9})),
        }
    })
}

fn base(service: &Provider) -> String {
    format!("http://{}/guard", service.addr())
}

fn talking() -> Provider {
    model(|_| says("Hello there."))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_about_the_newest_words_of_the_user() {
    let (model, service) = (talking(), service());
    let config = format!("guardrails_url: {}/", base(&service));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    for (at, way) in (1..).zip(ways()) {
        let checks = json!([{"profile": "good", "validate_kwargs": {"level": 2}}, {"profile": "pi", "mode": "monitor"}]);
        let seen = scene.ask(way, "my words", checks).await.good();
        assert_eq!(seen.text, "Hello there.", "{way:?}");
        let asked = service.requests();
        assert_eq!(asked.len(), 2 * at);
        let [first, second] = &asked[2 * at - 2..] else { panic!("two checks") };
        assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/guard/validate"));
        assert_eq!(
            first.json(),
            json!({"profile": "good", "input_text": "my words", "validate_kwargs": {"level": 2}})
        );
        assert_eq!(second.json(), json!({"profile": "pi", "input_text": "my words"}));
        assert_eq!(first.header("authorization"), None);
        assert!(
            !model.requests()[at - 1].text().contains("guardrails"),
            "{}",
            model.requests()[at - 1].text()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_is_told_in_a_header() {
    let (model, service) = (talking(), service());
    let config = format!("guardrails_url: {}", base(&service));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    let checks = json!([{"profile": "pi"}, {"profile": "good", "mode": "block"}, {"profile": "unsure", "mode": "block"},
        {"profile": "list"}, {"profile": "broken"}, {"profile": "otari_length", "validate_kwargs": {"max_chars": 1}}]);
    let told = r#"[{"profile":"pi","mode":"monitor","valid":false,"score":0.9},{"profile":"good","mode":"block","valid":true,"score":0.1},{"profile":"unsure","mode":"block","valid":null,"score":null},{"profile":"list","mode":"monitor","valid":false,"score":0.7},{"profile":"broken","mode":"monitor","valid":null,"score":null},{"profile":"otari_length","mode":"monitor","valid":false,"score":1}]"#;
    for (api, model, streams) in ways() {
        let mut body = api.ask(model, "hi", 50);
        body["guardrails"] = checks.clone();
        let answer = scene.answer(api, &body, streams).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let expected = (!streams).then_some(told);
        assert_eq!(answer.header("x-otari-guardrails"), expected, "{api:?} {model}");
        let plain = scene.answer(api, &api.ask(model, "hi", 50), streams).await;
        assert_eq!(plain.header("x-otari-guardrails"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_blocks_ends_the_request_before_the_model_is_asked() {
    let (model, service) = (talking(), service());
    let config = format!("guardrails_url: {}", base(&service));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    let checks = json!([{"profile": "pi", "mode": "block"}, {"profile": "good", "mode": "block"}, {"profile": "list", "mode": "block"},
        {"profile": "watch", "mode": "monitor"}]);
    let detail = json!({"message": "Request blocked by guardrail policy.", "code": "guardrail_violation", "guardrails": [
        {"profile": "pi", "explanation": {"why": "pi"}, "score": 0.9}, {"profile": "list", "explanation": "first", "score": 0.7}]});
    for (at, (api, name, streams)) in (1..).zip(ways()) {
        let mut body = api.ask(name, "hi", 50);
        body["guardrails"] = checks.clone();
        let answer = scene.answer(api, &body, streams).await.expect(403);
        let said = answer.json();
        assert_eq!(said["detail"], detail, "the same in every format");
        assert_eq!(said["error"]["message"], "Request blocked by guardrail policy.");
        if api == Api::Messages {
            assert_eq!(
                (&said["type"], &said["error"]["type"]),
                (&json!("error"), &json!("permission_error"))
            );
        } else {
            assert_eq!(said["error"]["code"], "guardrail_violation");
        }
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("otari-error-source"), Some("gateway"));
        assert_eq!(answer.header("x-otari-guardrails"), None);
        assert_eq!(service.count(), 4 * at, "all were asked");
    }
    assert_eq!(model.count(), 0);
    assert!(scene.gateway.settled("u").await.abs() < 1e-12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_cannot_be_made_blocks_unless_it_may_be_passed_over() {
    let (model, service) = (talking(), service());
    let config = format!("guardrails_url: {}", base(&service));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    let unreachable = |profile: &str| {
        format!(
            "guardrail profile '{profile}' could not be evaluated: the guardrails service did not answer"
        )
    };
    let way = (Api::Chat, "o:m", false);
    for (profile, said) in [
        ("none", "guardrail profile 'none' returned no 'valid' field: {\"score\":1}".to_owned()),
        ("word", "guardrail profile 'word' returned a non-boolean 'valid': \"yes\"".to_owned()),
        (
            "shape",
            "guardrail profile 'shape' returned an unexpected result shape: \"text\"".to_owned(),
        ),
        ("page", "guardrail profile 'page' returned an unexpected result shape: null".to_owned()),
        ("broken", unreachable("broken")),
        ("reset", unreachable("reset")),
        ("moved", unreachable("moved")),
        ("huge", unreachable("huge")),
    ] {
        let before = service.count();
        let block = json!([{"profile": profile, "mode": "block"}, {"profile": "good"}]);
        for (api, streams) in Api::ALL.into_iter().flat_map(|api| [(api, false), (api, true)]) {
            let seen = scene.ask((api, "o:m", streams), "hi", block.clone()).await;
            assert_eq!(
                (seen.status, seen.error.as_deref()),
                (502, Some(said.as_str())),
                "{}",
                seen.raw
            );
            assert!(
                !seen.raw.contains("10.0.0.7") && !seen.raw.contains("127.0.0.1"),
                "{}",
                seen.raw
            );
        }
        assert_eq!(service.count() - before, 6, "later checks are not made: {profile}");
        for passed in [
            json!([{"profile": profile, "mode": "block", "on_unavailable": "monitor"}]),
            json!([{"profile": profile, "mode": "monitor", "on_unavailable": "block"}]),
            json!([{"profile": profile}]),
        ] {
            let seen = scene.ask(way, "hi", passed.clone()).await;
            assert_eq!(seen.good().text, "Hello there.", "{passed}");
        }
    }
    // No service at all.
    let bare = Scene::new(&model, |start| start).await;
    let said = "guardrail profile 'pi' requested but no guardrails service is configured. Set OTARI_GUARDRAILS_URL on the \
                gateway or pass `url` on the guardrail entry.";
    for way in ways() {
        let seen = bare.ask(way, "hi", json!([{"profile": "pi", "mode": "block"}])).await;
        assert_eq!((seen.status, seen.error.as_deref()), (502, Some(said)), "{}", seen.raw);
        bare.ask(way, "hi", json!([{"profile": "pi"}])).await.good();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_own_service_is_asked_at_its_address() {
    let (model, ours, theirs) = (talking(), service(), service());
    let config = format!("guardrails_url: {}", base(&ours));
    let scene = Scene::new(&model, |start| start.config(&config)).await;
    let url = format!("http://{}/own/", theirs.addr());
    for way in ways() {
        let seen =
            scene.ask(way, "hi", json!([{"profile": "pi", "url": url, "mode": "block"}])).await;
        assert_eq!(seen.status, 403, "{}", seen.raw);
        // The name of a built-in check is the service's own word there.
        scene
            .ask(
                way,
                "hi",
                json!([{"profile": "good", "url": url}, {"profile": "otari_pii", "url": url}]),
            )
            .await
            .good();
    }
    assert_eq!((ours.count(), theirs.count()), (0, 36));
    assert!(theirs.requests().iter().all(|request| request.path == "/own/validate"));
    assert!(theirs.requests().iter().all(|request| request.header("authorization").is_none()));
    let moved = scene
        .ask(
            (Api::Chat, "o:m", false),
            "hi",
            json!([{"profile": "moved", "url": url, "mode": "block"}]),
        )
        .await;
    assert_eq!(moved.status, 502, "a redirect is not followed: {}", moved.raw);
}

/// What each built-in check lets pass and what it refuses, and what it says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_checks_need_no_service() {
    let model = talking();
    let scene = Scene::new(&model, |start| start).await;
    let found = |kind: &str, count: u64| json!({"findings": [{"kind": kind, "count": count}]});
    for (profile, options, good, bad, explanation) in [
        (
            "otari_regex",
            json!({"patterns": [{"name": "digits", "pattern": r"\d{3}"}]}),
            "one two",
            "a 123",
            json!({"findings": [{"pattern": "digits"}]}),
        ),
        (
            "otari_regex",
            json!({"patterns": ["secret"], "ignore_case": true}),
            "nothing",
            "SECRET",
            json!({"findings": [{"pattern": "patterns[0]"}]}),
        ),
        (
            "otari_pii",
            json!({}),
            "call me",
            "ada@example.org and bob@example.org",
            found("email", 2),
        ),
        (
            "otari_pii",
            json!({"entities": ["credit_card"]}),
            "ada@example.org",
            "4111 1111 1111 1111",
            found("credit_card", 1),
        ),
        (
            "otari_pii",
            json!({"entities": ["iban"]}),
            "DE00 0000",
            "DE89 3704 0044 0532 0130 00",
            found("iban", 1),
        ),
        (
            "otari_secrets",
            json!({}),
            "a sentence",
            "AKIAIOSFODNN7EXAMPLE",
            found("aws_access_key", 1),
        ),
        (
            "otari_length",
            json!({"max_chars": 3}),
            "ééé",
            "éééé",
            json!({"findings": [{"chars": 4, "min_chars": 0, "max_chars": 3}]}),
        ),
    ] {
        for (api, name, streams) in ways() {
            let checks = json!([{"profile": profile, "mode": "block", "validate_kwargs": options}]);
            scene.ask((api, name, streams), good, checks.clone()).await.good();
            let seen = scene.ask((api, name, streams), bad, checks).await;
            assert_eq!(seen.status, 403, "{profile} {bad}: {}", seen.raw);
            let hit = &seen.body["detail"]["guardrails"][0];
            assert_eq!(
                (&hit["profile"], &hit["explanation"], &hit["score"]),
                (&json!(profile), &explanation, &json!(1))
            );
            assert!(!seen.raw.contains(bad), "what was found is not repeated: {}", seen.raw);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_built_in_checks_are_checked() {
    let model = talking();
    let scene = Scene::new(&model, |start| start).await;
    for (profile, options, part) in [
        ("otari_regex", json!({}), "give validate_kwargs.patterns"),
        ("otari_regex", json!({"patterns": ["("]}), "a pattern cannot be used"),
        ("otari_pii", json!({"entities": ["shoe size"]}), "must be a list of: email, phone"),
        ("otari_length", json!({}), "give validate_kwargs.max_chars or min_chars"),
    ] {
        let seen = scene
            .ask(
                (Api::Chat, "o:m", false),
                "hi",
                json!([{"profile": profile, "validate_kwargs": options}]),
            )
            .await;
        let said = seen.error.unwrap_or_default();
        assert!(
            seen.status == 400
                && said.starts_with(&format!("guardrail profile '{profile}': "))
                && said.contains(part),
            "{}",
            seen.raw
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_newest_words_of_the_user_are_looked_at() {
    let model = talking();
    let scene = Scene::new(&model, |start| start).await;
    let checks = json!([{"profile": "otari_regex", "mode": "block", "validate_kwargs": {"patterns": ["bad"]}}]);
    let turns = |last: &str| json!([{"role": "user", "content": "bad"}, {"role": "assistant", "content": "bad"}, {"role": "user", "content": last}]);
    for (last, status) in [("fine", 200), ("is bad", 403)] {
        for (path, mut body) in [
            ("/v1/chat/completions", json!({"model": "o:m", "messages": turns(last)})),
            (
                "/v1/messages",
                json!({"model": "a:m", "max_tokens": 9, "system": "bad", "messages": turns(last)}),
            ),
            ("/v1/responses", json!({"model": "o:m", "instructions": "bad", "input": turns(last)})),
        ] {
            body["guardrails"] = checks.clone();
            let answer = scene.gateway.post(&scene.key, path, body.to_string()).await;
            assert_eq!(answer.status, status, "{path} {last}: {}", answer.text());
        }
    }
    // Parts are one text, and what a document says is part of it.
    let parts = json!([{"type": "text", "text": "a b"}, {"type": "text", "text": "bad"}]);
    let body = json!({"model": "o:m", "messages": [{"role": "user", "content": parts}], "guardrails": checks});
    scene.gateway.chat(&scene.key, &body).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_checked() {
    let model = talking();
    let scene = Scene::new(&model, |start| start).await;
    for (checks, kind, place) in [
        (json!([{}]), "missing", json!(["body", "guardrails", 0, "profile"])),
        (json!([{"profile": ""}]), "string_too_short", json!(["body", "guardrails", 0, "profile"])),
        (
            json!([{"profile": "p", "mode": "stop"}]),
            "literal_error",
            json!(["body", "guardrails", 0, "mode"]),
        ),
        (
            json!([{"profile": "p", "on_unavailable": 1}]),
            "literal_error",
            json!(["body", "guardrails", 0, "on_unavailable"]),
        ),
        (
            json!([{"profile": "p", "on": ["middle"]}]),
            "literal_error",
            json!(["body", "guardrails", 0, "on", 0]),
        ),
        (
            json!([{"profile": "p", "url": ""}]),
            "string_too_short",
            json!(["body", "guardrails", 0, "url"]),
        ),
        (
            json!([{"profile": "p", "validate_kwargs": []}]),
            "dict_type",
            json!(["body", "guardrails", 0, "validate_kwargs"]),
        ),
        (json!(vec![json!({"profile": "p"}); 9]), "too_long", json!(["body", "guardrails"])),
    ] {
        let mut body = Api::Chat.ask("o:m", "hi", 9);
        body["guardrails"] = checks;
        let refused = scene.gateway.chat(&scene.key, &body).await.refused(422);
        let fault = &refused["detail"][0];
        assert_eq!((&fault["type"], &fault["loc"]), (&json!(kind), &place), "{refused}");
    }
    assert_eq!(model.count(), 0);
}
