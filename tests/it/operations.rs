//! The operations beside generation: embeddings, moderations, rerank, images, speech, transcriptions. What providers
//! get, what callers get, and what it costs; and that no gate is missing before any of them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway, MASTER, UPSTREAM_KEY};
use crate::support::provider::{Framing, Provider, Reply, Request, Step};
use crate::support::sdk::Sdk;
use crate::support::{eventually, on_both_databases};

/// One route, with a request, what its provider answers, and what the answer costs where the model's input costs 1000
/// USD a million: an image costs as much by itself.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    provider: &'static str,
    fields: fn() -> Value,
    /// The field of the answer that shows it arrived; `None`: it is sound.
    shows: Option<&'static str>,
    cost: f64,
    tokens: [Value; 3],
    needs_price: bool,
}

pub(crate) const BOUNDARY: &str = "------------------------d74496d66958873e";

/// All six.
pub(crate) fn routes() -> [Route; 6] {
    let none = || [json!(0), json!(0), json!(0)];
    [
        Route {
            path: "/v1/embeddings",
            provider: "p",
            fields: || json!({"input": ["one", "two"]}),
            shows: Some("data"),
            cost: 0.009,
            tokens: [json!(9), json!(0), json!(9)],
            needs_price: true,
        },
        Route {
            path: "/v1/moderations",
            provider: "p",
            fields: || json!({"input": "harmless"}),
            shows: Some("results"),
            cost: 0.001,
            tokens: [Value::Null, json!(0), Value::Null],
            needs_price: false,
        },
        Route {
            path: "/v1/rerank",
            provider: "c",
            fields: || json!({"query": "q", "documents": ["a", "b"]}),
            shows: Some("results"),
            cost: 0.021,
            tokens: [json!(21), json!(0), json!(21)],
            needs_price: true,
        },
        Route {
            path: "/v1/images/generations",
            provider: "p",
            fields: || json!({"prompt": "a cat", "n": 2}),
            shows: Some("data"),
            cost: 2000.0,
            tokens: none(),
            needs_price: true,
        },
        Route {
            path: "/v1/audio/speech",
            provider: "p",
            fields: || json!({"input": "hello", "voice": "alloy"}),
            shows: None,
            cost: 0.001,
            tokens: none(),
            needs_price: false,
        },
        Route {
            path: "/v1/audio/transcriptions",
            provider: "p",
            fields: || json!({"language": "en"}),
            shows: Some("text"),
            cost: 0.001,
            tokens: none(),
            needs_price: false,
        },
    ]
}

impl Route {
    /// The content type and the body of a call of this model, with these fields besides.
    pub(crate) fn body(&self, model: &str, more: Value) -> (String, Vec<u8>) {
        let mut body = (self.fields)();
        body["model"] = model.into();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        if !self.path.ends_with("transcriptions") {
            return ("application/json".into(), body.to_string().into());
        }
        // The file first, as openai-node has it: the model is not known before it has come.
        let fields: Vec<(&str, &str)> = (body.as_object().unwrap().iter())
            .map(|(name, value)| (name.as_str(), value.as_str().expect("a form has texts")))
            .collect();
        form(Some(("speech é.ogg", b"\x00OggS\r\n--not the boundary\r\n\xff")), &fields)
    }

    /// A model of the provider that serves it here.
    pub(crate) fn model(&self, name: &str) -> String {
        format!("{}:{name}", self.provider)
    }

    /// Its name in the description of the routes.
    pub(crate) fn operation(&self) -> &'static str {
        match self.path {
            "/v1/embeddings" => "create_embeddings",
            "/v1/moderations" => "create_moderation",
            "/v1/rerank" => "create_rerank",
            "/v1/images/generations" => "create_image",
            "/v1/audio/speech" => "create_speech",
            _ => "create_transcription",
        }
    }

    /// Calls it.
    pub(crate) async fn call(&self, gateway: &Gateway, key: &str, more: Value) -> Answer {
        let model = more.get("model").and_then(Value::as_str).map(str::to_owned);
        let model = model.unwrap_or_else(|| self.model("m"));
        let (kind, body) = self.body(&model, more);
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("content-type", kind.as_str())];
        if !key.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        gateway.send(Method::POST, self.path, &headers, body).await
    }

    fn shows(&self, answer: &Answer) -> bool {
        match self.shows {
            Some(field) => answer.json().get(field).is_some(),
            None => answer.body == SOUND,
        }
    }
}

pub(crate) const SOUND: &[u8] = b"ID3\x04\x00\xff\xfb\x90sound";

/// A form; the file first.
pub(crate) fn form(file: Option<(&str, &[u8])>, fields: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    if let Some((name, bytes)) = file {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: \
             audio/ogg\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    for (name, value) in fields {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

/// Whether a provider is asked for one of them.
pub(crate) fn is_one(request: &Request) -> bool {
    const NAMES: [&str; 6] =
        ["embeddings", "moderations", "rerank", "generations", "speech", "transcriptions"];
    NAMES.contains(&request.path.rsplit('/').next().unwrap_or_default())
}

/// What a provider answers to any of them; of the models `busy` and `broken` errors.
pub(crate) fn answers(request: &Request) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let text = request.text();
    let asks_for = |model: &str| {
        request.json()["model"] == model || text.contains(&format!("\r\n\r\n{model}\r\n"))
    };
    if asks_for("busy") {
        return Reply::json(429, &json!({"error": {"message": "slow down"}}));
    }
    if asks_for("broken") {
        return Reply::json(500, &json!({"error": {"message": "broken"}}));
    }
    match path.rsplit('/').next().unwrap_or_default() {
        "embeddings" => Reply::json(
            200,
            &json!({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.5]}],
                "model": "m-2026", "usage": {"prompt_tokens": 9, "total_tokens": 9}, "novelty": 1}),
        ),
        "moderations" => Reply::json(
            200,
            &json!({"id": "modr-1", "model": "m-2026", "results": [{"flagged": false,
                "categories": {"hate": false, "odd": null}, "category_scores": {"hate": 0.1, "odd": null},
                "category_applied_input_types": {"hate": ["text"]}}]}),
        ),
        "rerank" => Reply::json(
            200,
            &json!({"id": "r-1", "results": [{"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.9}],
                "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 21}}}),
        ),
        "generations" => Reply::json(
            200,
            &json!({"created": 1, "data": [{"url": "http://x/1.png"}, {"url": "http://x/2.png"}]}),
        ),
        "speech" => Reply::bytes(200, "audio/mpeg", SOUND),
        "transcriptions" => {
            let text = request.text();
            match text.contains("\r\n\r\nsrt\r\n") {
                true => Reply::bytes(
                    200,
                    "text/plain; charset=utf-8",
                    "1\n00:00:00,000 --> 00:00:01,000\nhi\n",
                ),
                false => Reply::json(
                    200,
                    &json!({"text": "hi", "usage": {"type": "duration", "seconds": 3}}),
                ),
            }
        }
        _ => Reply::json(404, &json!({"error": {"message": format!("no {path}")}})),
    }
}

/// A gateway before `provider` as OpenAI (`p`) and as Cohere (`c`), with a price for the model `m` of each.
pub(crate) async fn gateway(start: Builder, provider: &Provider) -> Gateway {
    before(start, provider).await
}

fn before(start: Builder, provider: &Provider) -> Builder {
    let root = format!("http://{}", provider.addr());
    start
        .provider("p", provider)
        .provider_of("cohere", "c", &root, "")
        .price("p:m", 1000.0, 0.0)
        .price("c:m", 1000.0, 0.0)
}

async fn every_operation_reaches_its_provider_and_is_billed_by_its_unit(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    for (at, route) in routes().iter().enumerate() {
        let user = format!("u{at}");
        let key = gateway.key(&user).await;
        let answer = route.call(&gateway, &key, json!({})).await.expect(200);
        assert!(route.shows(&answer), "{}: {}", route.path, answer.text());
        assert_eq!(gateway.settled(&user).await, route.cost, "{}", route.path);
        let row = &gateway.usage(at + 1).await[0];
        let tokens =
            ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| row[name].clone());
        assert_eq!(tokens, route.tokens, "{}: {row}", route.path);
        assert_eq!(row["cost"], route.cost, "{}", route.path);
        assert_eq!((&row["endpoint"], &row["model"]), (&json!(route.path), &json!("m")));
        assert_eq!((&row["status"], &row["provider"]), (&json!("success"), &json!(route.provider)));
        let sent = provider.requests().pop().unwrap();
        let authorization = sent.header("authorization").unwrap();
        assert_eq!(authorization, format!("Bearer {UPSTREAM_KEY}"), "{}", route.path);
        assert!(!sent.text().contains(&key), "{}", route.path);
    }
}

async fn fields_that_nobody_has_heard_of_pass_and_steering_ones_do_not(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let more = json!({"user": "u", "dimensions": 2, "encoding_format": "base64", "future": {"a": [1]},
        "api_key": "sk-mine", "api_base": "http://evil.example", "extra_headers": {"a": "b"}});
    let [embeddings, ..] = routes();
    let answer = embeddings.call(&gateway, &key, more).await.expect(200);
    let sent = provider.requests().pop().unwrap();
    let fields = json!({"input": ["one", "two"], "model": "m", "dimensions": 2, "encoding_format": "base64",
        "future": {"a": [1]}});
    assert_eq!(sent.json(), fields);
    assert!(
        answer.text().contains("\"novelty\":1"),
        "the answer is the provider's: {}",
        answer.text()
    );
    let listed = json!({"input": [[1, 2, 3], [4]], "model": "p:m"});
    gateway.post(&key, "/v1/embeddings", listed.to_string()).await.expect(200);
    assert_eq!(provider.requests().pop().unwrap().json()["input"], listed["input"]);
}

async fn every_gate_stands_before_every_operation(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = before(start, &provider).config("rate_limit_rpm: 1").await;
    let broke = gateway.budget(0.0).await;
    for (at, route) in routes().iter().enumerate() {
        let what = route.path;
        route.call(&gateway, "", json!({})).await.refused(401);
        route.call(&gateway, "gw-nobody", json!({})).await.refused(401);
        let refusal = route.call(&gateway, MASTER, json!({})).await.refused(400);
        assert!(refusal["detail"].as_str().unwrap().contains("'user' field is required"), "{what}");
        // A user who does not exist has a rate too.
        route.call(&gateway, MASTER, json!({"user": format!("nobody{at}")})).await.refused(404);
        let name = format!("blocked{at}");
        gateway.user(&name, None).await;
        let blocked = gateway.key(&name).await;
        gateway.patch(&format!("/v1/users/{name}"), json!({"blocked": true})).await;
        route.call(&gateway, &blocked, json!({})).await.refused_for_good(403);
        let (poor, fine) = (format!("poor{at}"), format!("fine{at}"));
        gateway.user(&poor, Some(&broke)).await;
        let poor = gateway.key(&poor).await;
        let refusal = route.call(&gateway, &poor, json!({})).await.refused_for_good(403);
        assert!(refusal["detail"].as_str().unwrap().contains("budget"), "{what}: {refusal}");
        let fine = gateway.key(&fine).await;
        route.call(&gateway, &fine, json!({})).await.expect(200);
        let limited = route.call(&gateway, &fine, json!({})).await;
        limited.refused(429);
        assert!(limited.header("retry-after").is_some(), "{what}");
        let unpriced = gateway.key(&format!("unpriced{at}")).await;
        let model = route.model("unpriced");
        let answer = route.call(&gateway, &unpriced, json!({"model": model})).await;
        assert_eq!(
            answer.status,
            if route.needs_price { 402 } else { 200 },
            "{what}: {}",
            answer.text()
        );
        let lost = gateway.key(&format!("lost{at}")).await;
        let nowhere = route.call(&gateway, &lost, json!({"model": "nowhere-m"})).await;
        nowhere.refused(if route.needs_price { 402 } else { 400 });
        let other = gateway.key(&format!("other{at}")).await;
        let mismatch = route.call(&gateway, &other, json!({"user": name})).await;
        mismatch.refused_for_good(403);
    }
    assert_eq!(provider.count(), 6 + 3, "only the calls that were let through");
}

async fn what_a_request_lacks_is_said_as_the_reference_says_it(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    for (path, body, missing) in [
        ("/v1/embeddings", json!({}), ["model", "input"]),
        ("/v1/rerank", json!({"model": "c:m"}), ["query", "documents"]),
        ("/v1/audio/speech", json!({"model": "p:m"}), ["input", "voice"]),
        ("/v1/audio/transcriptions", json!({"model": "p:m"}), ["file", "model"]),
    ] {
        let refusal = gateway.post(&key, path, body.to_string()).await.refused(422);
        for (at, field) in missing.iter().enumerate() {
            let fault = &refusal["detail"][at];
            assert_eq!(
                (&fault["type"], &fault["loc"]),
                (&json!("missing"), &json!(["body", field])),
                "{path}"
            );
        }
    }
    let (kind, body) = form(None, &[("model", "p:m"), ("temperature", "warm")]);
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", kind.as_str()), ("authorization", bearer.as_str())];
    let answer = gateway.send(Method::POST, "/v1/audio/transcriptions", &headers, body).await;
    let faults = answer.refused(422);
    assert_eq!(faults["detail"][0]["loc"], json!(["body", "file"]), "{faults}");
    assert_eq!(faults["detail"][1]["type"], "float_parsing", "{faults}");
    let cut = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc"
    );
    gateway.send(Method::POST, "/v1/audio/transcriptions", &headers, cut).await.refused(400);
    assert_eq!(provider.count(), 0);
}

async fn a_provider_that_does_not_offer_it_is_not_asked(start: Builder) {
    let provider = Provider::start(answers);
    let start = before(start, &provider).provider_of("anthropic", "a", &provider.base(), "");
    let gateway = start.price("a:m", 1.0, 1.0).price("a:n", 1.0, 1.0).await;
    let key = gateway.key("u").await;
    for route in &routes() {
        let refusal =
            route.call(&gateway, &key, json!({"model": "a:m"})).await.refused_for_good(400);
        let words = refusal["detail"].as_str().unwrap();
        let expected = match route.path {
            "/v1/moderations" => "Provider a does not support moderation",
            _ => "does not offer",
        };
        assert!(words.contains(expected), "{}: {words}", route.path);
    }
    assert_eq!((provider.count(), gateway.settled("u").await), (0, 0.0));
    let rows = gateway.all_usage().await;
    assert!(
        rows.iter().any(|row| row["endpoint"] == "/v1/moderations" && row["status"] == "error")
    );
}

async fn a_providers_failure_is_told_and_costs_nothing(start: Builder) {
    for (status, seen) in [(400, 400), (401, 502), (404, 404), (429, 429), (500, 502), (503, 502)] {
        let provider = Provider::start(move |_| {
            Reply::json(status, &json!({"error": {"message": "out of luck"}}))
                .header("Retry-After", "7")
        });
        let gateway = gateway(again(&start), &provider).await;
        for (at, route) in routes().iter().enumerate() {
            let key = gateway.key("u").await;
            let answer = route.call(&gateway, &key, json!({})).await;
            let refusal = answer.refused(seen);
            let words = refusal["detail"].as_str().unwrap();
            match status {
                500 | 503 => {
                    assert_eq!(words, "The request could not be completed by the provider")
                }
                400 | 404 => assert!(words.contains("out of luck"), "{words}"),
                _ => assert!(!words.contains("out of luck"), "{words}"),
            }
            let relays = matches!(status, 429 | 503).then_some("7");
            assert_eq!(answer.header("retry-after"), relays, "{} {status}", route.path);
            let row = &gateway.usage(at + 1).await[0];
            assert_eq!(
                (&row["status"], &row["status_code"]),
                (&json!("error"), &json!(status)),
                "{row}"
            );
            assert_eq!((&row["cost"], &row["endpoint"]), (&Value::Null, &json!(route.path)));
        }
        assert_eq!(gateway.settled("u").await, 0.0);
    }
}

/// Another gateway of the same kind.
fn again(start: &Builder) -> Builder {
    if start.is_postgres() { Gateway::start().postgres() } else { Gateway::start().sqlite() }
}

async fn a_provider_that_hangs_or_breaks_off_is_told_from_one_that_answers(start: Builder) {
    let hangs = Provider::never_answers();
    let gateway = gateway(start.config("first_byte_timeout_s: 1\nidle_timeout_s: 1"), &hangs).await;
    let key = gateway.key("u").await;
    for route in &routes() {
        route.call(&gateway, &key, json!({})).await.refused(504);
    }
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn a_speech_that_breaks_off_is_cut_and_not_charged(start: Builder) {
    let provider = Provider::start(|_| {
        Reply::bytes(200, "audio/mpeg", SOUND).framing(Framing::Chunked).then(Step::CutNow)
    });
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let (kind, body) = routes()[4].body("p:m", json!({}));
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", kind.as_str()), ("authorization", bearer.as_str())];
    let answer = gateway.open(Method::POST, "/v1/audio/speech", &headers, body).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "what is not whole does not look whole");
    let row = &gateway.usage(1).await[0];
    assert_eq!((&row["status"], &row["cost"]), (&json!("error"), &Value::Null), "{row}");
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn a_caller_who_leaves_pays_for_what_the_provider_did(start: Builder) {
    let provider = Provider::start(|request| answers(request).before(0, Step::Sleep(300)));
    let gateway = gateway(start, &provider).await;
    for (at, route) in routes().iter().enumerate() {
        let user = format!("u{at}");
        let key = gateway.key(&user).await;
        let (kind, body) = route.body(&route.model("m"), json!({}));
        let mut raw = gateway.connect().await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\ncontent-length: \
             {}\r\n\r\n",
            route.path,
            body.len()
        );
        raw.send(head).await;
        raw.send(body).await;
        eventually("the provider to be asked", async || (provider.count() > at).then_some(()))
            .await;
        raw.reset();
        let row = gateway.usage(at + 1).await[0].clone();
        assert_eq!(row["endpoint"], route.path, "{row}");
        assert_eq!(gateway.settled(&user).await, route.cost, "{}: {row}", route.path);
    }
}

async fn an_alias_is_shown_and_a_policy_fails_over(start: Builder) {
    let broken = Provider::answers(500, json!({"error": {"message": "down"}}));
    let provider = Provider::start(answers);
    let gateway = before(start, &provider)
        .provider("b", &broken)
        .price("b:m", 1000.0, 0.0)
        .config("routing:\n  policies:\n    safe:\n      select: [{default: \"b:m\"}]\n      on_failure: [\"p:m\"]")
        .config("aliases:\n  mine: p:m")
        .await;
    let key = gateway.key("u").await;
    let [embeddings, .., transcription] = routes();
    let answer = embeddings.call(&gateway, &key, json!({"model": "mine"})).await.expect(200);
    assert_eq!(answer.json()["model"], "mine");
    let answer = embeddings.call(&gateway, &key, json!({"model": "safe"})).await.expect(200);
    assert_eq!(answer.json()["model"], "safe");
    // A file that was sent once is there for the second provider too.
    transcription.call(&gateway, &key, json!({"model": "safe"})).await.expect(200);
    let sent = provider.requests().pop().unwrap();
    assert!(sent.body.windows(4).any(|four| four == b"OggS"));
    let rows = gateway.usage(5).await;
    let absorbed = rows.iter().filter(|row| row["status"] == "absorbed").count();
    assert_eq!(absorbed, 2, "{rows:#?}");
}

async fn official_clients_call_them(start: Builder) {
    let provider = Provider::start(|request| {
        if request.json()["encoding_format"] == "base64" && request.json()["model"] == "m" {
            // 0.5 and -1.5 as little-endian floats.
            return Reply::json(
                200,
                &json!({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAwL8="}],
                    "model": "m-2026", "usage": {"prompt_tokens": 9, "total_tokens": 9}}),
            );
        }
        answers(request)
    });
    let start = before(start, &provider);
    let gateway = start.price("p:busy", 1.0, 1.0).price("p:broken", 1.0, 1.0).await;
    let key = gateway.key("u").await;
    for (at, sdk) in [Sdk::Python, Sdk::Node].into_iter().enumerate() {
        let base = gateway.url("/v1");
        let key = key.clone();
        let seen =
            tokio::task::spawn_blocking(move || sdk.run("openai_operations", &[&base, &key, "p"]));
        let seen = seen.await.expect("the script ends");
        let errors = json!([
            ["RateLimitError", 429],
            ["InternalServerError", 502],
            [if sdk == Sdk::Python { "APIStatusError" } else { "APIError" }, 402]
        ]);
        let expected = json!({"vector": [0.5, -1.5], "tokens": 9, "few": [0.5, -1.5], "flagged": false,
            "images": ["http://x/1.png", "http://x/2.png"], "heard": "hi",
            "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nhi\n", "sound": SOUND.len(), "errors": errors});
        assert_eq!(seen, expected, "{sdk:?}");
        // Seven calls that were answered, and two that their provider refused.
        gateway.usage(9 * (at + 1)).await;
    }
}

on_both_databases!(
    every_operation_reaches_its_provider_and_is_billed_by_its_unit,
    fields_that_nobody_has_heard_of_pass_and_steering_ones_do_not,
    every_gate_stands_before_every_operation,
    what_a_request_lacks_is_said_as_the_reference_says_it,
    a_provider_that_does_not_offer_it_is_not_asked,
    a_providers_failure_is_told_and_costs_nothing,
    a_provider_that_hangs_or_breaks_off_is_told_from_one_that_answers,
    a_speech_that_breaks_off_is_cut_and_not_charged,
    a_caller_who_leaves_pays_for_what_the_provider_did,
    an_alias_is_shown_and_a_policy_fails_over,
    official_clients_call_them,
);
