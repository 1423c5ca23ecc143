//! Who may call, and where to: only the platform knows, and what it says reaches the caller.

use otari::mock::platform::{Fault, Rule, Then, When};
use reqwest::Method;
use serde_json::json;

use super::{Api, Scene, attempt, failing, working};
use crate::support::platform::{GATEWAY_TOKEN, USER_TOKEN, api_key};

const COUNT: &str = "/v1/messages/count_tokens";

#[tokio::test]
async fn only_a_bearer_token_is_a_credential_and_it_comes_first() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.plan("m", &[("openai", &provider)]);
    let paths = Api::ALL.iter().map(|api| (*api, api.path())).chain([(Api::Messages, COUNT)]);
    for (api, path) in paths {
        for headers in [
            &[][..],
            &[("authorization", "bearer tk")],
            &[("authorization", "Bearer   ")],
            &[("authorization", "Basic tk")],
            &[("authorization", "Bearertk")],
            &[("otari-key", "Bearer tk"), ("x-api-key", "tk"), ("anyllm-key", "Bearer tk")],
        ] {
            // A body that is none: it is not looked at.
            let answer = scene.gateway.send(Method::POST, path, headers, "{").await;
            let sentence = api.sentence(&answer, 401);
            assert_eq!(sentence, "Missing authentication token", "{path} {headers:?}");
            assert_eq!(answer.header("x-should-retry"), Some("false"));
        }
    }
    assert_eq!(scene.platform.counts().resolves, 0, "the platform is not asked");
    // The token is trimmed, and passed on untouched.
    let headers = [
        ("authorization", "Bearer  tk_odd:~+/= "),
        ("x-api-key", "other"),
        ("content-type", "application/json"),
    ];
    let body = Api::Chat.ask("openai:m").to_string();
    scene.gateway.send(Method::POST, Api::Chat.path(), &headers, body).await.expect(200);
    let asked = &scene.platform.resolves()[0];
    assert_eq!(asked.header("x-user-token"), Some("tk_odd:~+/="));
    assert_eq!(asked.header("x-gateway-token"), Some(GATEWAY_TOKEN));
    assert_eq!(asked.json(), json!({"model": "m", "provider": "openai"}));
    assert_eq!(scene.told(1).await, ["att-a success final"]);
    scene.finish().await;
}

#[tokio::test]
async fn whoever_guesses_tokens_waits_and_known_ones_pass() {
    let mut scene = Scene::with(|start| start.config("auth_failures_per_minute: 5")).await;
    let provider = working();
    scene.platform.plan("m", &[("openai", &provider)]);
    let guess = "tk_guess".to_owned();
    scene.platform.edit(|script| {
        let when = When { user_token: Some(guess.clone()), ..When::default() };
        script.resolve.insert(0, Rule { when, then: Then::status(401) });
    });
    let ask = Api::Chat.ask("openai:m").to_string();
    scene.gateway.post(USER_TOKEN, Api::Chat.path(), ask.clone()).await.expect(200);
    for _ in 0..5 {
        scene.gateway.post(&guess, Api::Chat.path(), ask.clone()).await.refused(401);
    }
    let asked = scene.platform.counts().resolves;
    for token in [guess.as_str(), "tk_another"] {
        let refused = scene.gateway.post(token, Api::Chat.path(), ask.clone()).await;
        assert_eq!(refused.refused(429)["error"]["code"], "too_many_failed_authentications");
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(scene.platform.counts().resolves, asked, "the platform is not asked");
    scene.gateway.post(USER_TOKEN, Api::Chat.path(), ask).await.expect(200);
    assert_eq!(scene.told(2).await, ["att-a success final", "att-a success final"]);
    scene.finish().await;
}

#[tokio::test]
async fn a_wrong_body_asks_nobody() {
    let scene = Scene::new().await;
    for api in Api::ALL {
        let wrong = scene.gateway.post(USER_TOKEN, api.path(), "{").await;
        assert_eq!(wrong.status, 422, "{}", wrong.text());
        let mut body = api.ask("m");
        body["session_label"] = json!("x".repeat(256));
        let wrong = scene.send(api, &body).await;
        assert_eq!(wrong.status, 422, "{}", wrong.text());
    }
    let blank = scene.ask(Api::Chat, "  ").await;
    assert_eq!(Api::Chat.sentence(&blank, 400), "Invalid request: model is required");
    assert_eq!(scene.platform.counts().resolves, 0);
    scene.finish().await;
}

/// What the platform answers, and what the caller is told.
fn answers() -> Vec<(&'static str, Then, u16, &'static str)> {
    const UNAVAILABLE: &str = "Authorization service unavailable";
    const FALLBACK: &str = "Authorization request rejected";
    let said = |status| Then::json(status, json!({"detail": "as the platform says"}));
    let mut answers = vec![
        ("422", said(422), 502, UNAVAILABLE),
        ("409", said(409), 502, UNAVAILABLE),
        ("500", said(500), 502, UNAVAILABLE),
        ("503", Then::status(503), 502, UNAVAILABLE),
        ("201", said(201), 502, UNAVAILABLE),
        ("204", Then::status(204), 502, UNAVAILABLE),
        ("redirect", Then::fault(Fault::Redirect), 502, UNAVAILABLE),
        ("closed", Then::fault(Fault::Close), 502, UNAVAILABLE),
        ("reset", Then::fault(Fault::Reset), 502, UNAVAILABLE),
        ("half", Then::fault(Fault::Half), 502, UNAVAILABLE),
        ("hangs", Then::fault(Fault::Hang), 502, UNAVAILABLE),
        ("late", Then::status(200).delayed(1500), 502, UNAVAILABLE),
        ("no-json", Then { text: Some("<html>".into()), ..Then::status(200) }, 502, UNAVAILABLE),
        ("list", Then::json(200, json!([])), 502, UNAVAILABLE),
        ("no-id", Then::json(200, json!({"attempts": []})), 502, UNAVAILABLE),
        (
            "no-key",
            Then::json(
                200,
                json!({"request_id": "r", "attempts": [
            {"attempt_id": "a", "position": 0, "provider": "openai", "model": "m"}]}),
            ),
            502,
            UNAVAILABLE,
        ),
        (
            "none",
            Then::json(200, json!({"request_id": "r", "attempts": []})),
            502,
            "Authorization service returned no resolvable provider",
        ),
        ("number", Then::json(403, json!({"detail": 7})), 403, FALLBACK),
        ("words", Then { text: Some("nope".into()), ..Then::status(404) }, 404, FALLBACK),
        ("bodyless", Then::status(401), 401, FALLBACK),
    ];
    for status in [400, 401, 402, 403, 404] {
        let name: &'static str = ["400", "401", "402", "403", "404"][usize::from(status - 400)];
        answers.push((name, said(status), status, "as the platform says"));
    }
    answers
}

/// Models for which there is no room, and how long the platform says to wait.
const BUSY: [(&str, Option<&str>); 3] = [
    ("busy", Some("30")),
    ("busy-until", Some("Wed, 21 Oct 2026 07:28:00 GMT")),
    ("busy-somehow", None),
];

#[tokio::test]
async fn what_the_platform_refuses_reaches_the_caller_in_their_dialect() {
    let mut scene = Scene::with(|start| start.env("PLATFORM_RESOLVE_TIMEOUT_MS", "400")).await;
    let answers = answers();
    scene.platform.edit(|script| {
        let rules = answers.iter().map(|(model, then, ..)| Rule::model(model, then.clone()));
        script.resolve.extend(rules);
        for (model, wait) in BUSY {
            let busy = Then::json(429, json!({"detail": "too many"}));
            let busy = wait.map_or(busy.clone(), |wait| busy.header("Retry-After", wait));
            script.resolve.push(Rule::model(model, busy));
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for (model, _, status, sentence) in &answers {
        for (api, path) in
            Api::ALL.map(|api| (api, api.path())).into_iter().chain([(Api::Messages, COUNT)])
        {
            let (http, url) = (scene.gateway.http().clone(), scene.gateway.url(path));
            let (model, status, sentence) = (*model, *status, *sentence);
            let body = api.ask(model);
            calls.spawn(async move {
                let sent = http.post(url).bearer_auth(USER_TOKEN).json(&body).send().await;
                let answer = sent.expect("an answer");
                let answer = crate::support::gateway::Answer {
                    status: answer.status().as_u16(),
                    headers: answer.headers().clone(),
                    body: answer.bytes().await.expect("a whole answer").to_vec(),
                };
                assert_eq!(api.sentence(&answer, status), sentence, "{path} {model}");
                assert_eq!(answer.header("otari-error-source"), Some("gateway"), "{path} {model}");
                assert_eq!(answer.header("retry-after"), None, "{path} {model}");
            });
        }
    }
    while let Some(done) = calls.join_next().await {
        done.expect("every answer is as it should be");
    }
    for (api, path) in
        Api::ALL.map(|api| (api, api.path())).into_iter().chain([(Api::Messages, COUNT)])
    {
        for (model, wait) in BUSY {
            let body = api.ask(model);
            let answer = scene.gateway.post(USER_TOKEN, path, body.to_string()).await;
            assert_eq!(api.sentence(&answer, 429), "too many");
            assert_eq!(answer.header("retry-after"), wait, "{path}: as the platform says");
        }
    }
    let asked = (answers.len() + BUSY.len()) as u64 * 4;
    assert_eq!(scene.platform.counts().resolves, asked, "asked once each: never repeated");
    scene.finish().await;
}

#[tokio::test]
async fn selectors_are_split_as_the_reference_splits_them() {
    let mut scene = Scene::new().await;
    scene.platform.edit(|script| script.resolve = vec![Rule::always(Then::status(404))]);
    for (selector, asked) in [
        ("gpt", json!({"model": "gpt"})),
        ("openai:gpt-4o", json!({"model": "gpt-4o", "provider": "openai"})),
        ("openai/gpt-4o", json!({"model": "gpt-4o", "provider": "openai"})),
        ("openrouter/meta/x", json!({"model": "meta/x", "provider": "openrouter"})),
        ("openrouter/meta:free", json!({"model": "free", "provider": "openrouter/meta"})),
        (":gpt", json!({"model": "gpt"})),
        ("ft:gpt-4o:org", json!({"model": "gpt-4o:org", "provider": "ft"})),
    ] {
        scene.ask(Api::Chat, selector).await.expect(404);
        let last = scene.platform.resolves().pop().expect("the platform was asked");
        assert_eq!(last.json(), asked, "{selector}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn the_older_flat_answer_is_a_plan_of_one() {
    let mut scene = Scene::new().await;
    let provider = working();
    for (model, id, told) in
        [("opaque", json!("not-a-uuid"), "not-a-uuid"), ("number", json!(7), "7")]
    {
        let flat = json!({"provider": "openai", "model": "there", "api_key": "k-flat", "correlation_id": id,
            "api_base": provider.base(), "managed": true, "user_id": "u", "workspace_id": "w",
            "organization_id": "o", "attempts": null, "new": {"field": 1}});
        scene.platform.answer(model, Then::json(200, flat));
        let answer = scene.ask(Api::Chat, model).await.expect(200);
        assert_eq!(answer.header("x-correlation-id"), Some(told));
        assert_eq!(answer.header("x-otari-request-id"), Some(told));
        assert_eq!(scene.reports(1).await[0].correlation_id(), told);
    }
    let asked = &provider.requests()[0];
    assert_eq!(asked.json()["model"], "there", "the platform's name for the model");
    assert_eq!(asked.header("authorization"), Some("Bearer k-flat"));
    for tenant in ["\"u\"", "\"w\"", "\"o\"", "user_id", "workspace_id"] {
        assert!(!asked.text().contains(tenant), "tenants stay here: {}", asked.text());
    }
    scene.finish().await;
}

#[tokio::test]
async fn tokens_are_counted_by_leave_of_the_platform_and_nobody_is_called() {
    let mut scene = Scene::new().await;
    let provider = working();
    scene.platform.plan("m", &[("anthropic", &provider)]);
    let body = json!({"model": "anthropic:m", "system": "be brief",
        "messages": [{"role": "user", "content": "one two three four"}]});
    let answer = scene.gateway.post(USER_TOKEN, COUNT, body.to_string()).await.expect(200);
    let tokens = answer.json()["input_tokens"].as_u64().expect("a number");
    assert!((5..40).contains(&tokens), "{}", answer.text());
    assert_eq!(answer.header("x-correlation-id"), None);
    assert_eq!(scene.platform.counts().resolves, 1);
    assert_eq!(provider.count(), 0);
    // Where the platform names a model whose tokenizer is known, that counts.
    scene.platform.plan("gpt-4o", &[("openai", &provider)]);
    let body = json!({"model": "openai:gpt-4o",
        "messages": [{"role": "user", "content": "tiktoken is great!"}]});
    let answer = scene.gateway.post(USER_TOKEN, COUNT, body.to_string()).await.expect(200);
    assert_eq!(answer.text(), r#"{"input_tokens":12}"#);
    assert_eq!(provider.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_routing_policy_is_no_model_here() {
    let policy = "routing:\n  policies:\n    fast: {select: [{default: openai:gpt}]}";
    let scene = Scene::with(|start| start.config(policy)).await;
    let answer = scene.ask(Api::Chat, "fast").await;
    let sentence = Api::Chat.sentence(&answer, 400);
    assert!(sentence.contains("routing policy"), "{sentence}");
    assert_eq!(scene.platform.counts().resolves, 0);
    scene.finish().await;
}

#[tokio::test]
async fn the_platforms_credentials_and_address_are_the_only_ones() {
    let mut scene = Scene::with(|start| {
        start.env("OPENAI_API_KEY", "sk-of-the-environment").env("ANTHROPIC_API_KEY", "sk-env")
    })
    .await;
    let (provider, trap) = (working(), failing(500, "not here"));
    let caller = json!({
        "api_key": "sk-of-the-caller", "api_base": trap.base(), "base_url": trap.base(), "provider": "trap",
        "organization": "org-1", "api_version": "v", "client": {"x": 1}, "credentials": {"x": 1},
        "extra_body": {"api_key": "sk-of-the-caller"}, "extra_headers": {"authorization": "Bearer sk-of-the-caller"},
        "aws_access_key_id": "AKIA", "aws_secret_access_key": "secret", "client_args": {"base_url": trap.base()},
        "user": "somebody", "session_label": " label ", "guardrails": null, "mcp_servers": null,
    });
    for api in Api::ALL {
        let by = |key: &str| attempt(api.provider(), &provider, key);
        scene.platform.answer("m", Then::plan([by(&api_key(0))]));
        for streamed in [false, true] {
            let mut body = if streamed { api.ask_streamed("m") } else { api.ask("m") };
            body["metadata"] = json!({"user_id": "{\"agent\":1}"});
            body["x_unheard_of"] = json!({"a": [1, null]});
            for (name, value) in caller.as_object().expect("an object") {
                body[name] = value.clone();
            }
            scene.send(api, &body).await.expect(200);
            let asked = provider.requests().pop().expect("the provider was asked");
            let sent = asked.json();
            for name in caller.as_object().expect("an object").keys() {
                assert!(sent.get(name).is_none(), "{api:?} {name}: {sent}");
            }
            assert_eq!(sent["x_unheard_of"], json!({"a": [1, null]}), "new fields pass");
            assert_eq!(sent["metadata"], json!({"user_id": "{\"agent\":1}"}));
            let text = format!("{} {:?}", asked.text(), asked.headers);
            for secret in
                [USER_TOKEN, GATEWAY_TOKEN, "sk-of-the-caller", "sk-of-the-env", "sk-env", "label"]
            {
                assert!(!text.contains(secret), "{api:?} {secret}: {text}");
            }
            let header = if api == Api::Messages { "x-api-key" } else { "authorization" };
            assert!(asked.header(header).is_some_and(|key| key.ends_with(&api_key(0))), "{text}");
            assert_eq!(asked.path, api.path());
            let report = scene.reports(1).await.remove(0);
            assert_eq!(report.text("session_label").as_deref(), Some("label"), "trimmed");
            assert!(report.json().get("user").is_none() && !report.body.contains("somebody"));
        }
    }
    assert_eq!(trap.count(), 0);
    scene.finish().await;
}
