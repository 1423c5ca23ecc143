//! Anthropic messages: what reaches the provider, what comes back, what it costs, and the count of tokens.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::format::{Format, both, event, message, message_stream};
use crate::support::gateway::{Answer, Builder, Gateway, MASTER, UPSTREAM_KEY};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, Step};

const FORMAT: Format = Format::Messages;

/// A provider that answers, and a gateway before it with the key of a user.
async fn served(start: Builder) -> (Provider, Gateway, String) {
    let provider = Provider::start(|request| FORMAT.reply(request, &["ok"]));
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    (provider, gateway, key)
}

#[tokio::test]
async fn a_request_arrives_as_sent_but_for_what_is_the_gateways() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    // What agents send: signed thinking, a system turn between others, betas, texts in `user_id`, numbers as they like.
    let body = |model: &str, gateways: &str| {
        format!(
            "{{ \"max_tokens\" : 1.0e2,\"messages\":[{{\"role\":\"user\",\"content\":\"h\\u00e9 \\/ é\"}},\
             {{\"role\":\"assistant\",\"content\":[{{\"type\":\"thinking\",\"thinking\":\"hm\",\
             \"signature\":\"EqQBCgIYAh+/=\"}},{{\"type\":\"redacted_thinking\",\"data\":\"x==\"}},\
             {{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{{\"b\":1.50,\"a\":-0,\"model\":\"a:m\"}}}}]}},\
             {{\"role\":\"system\",\"content\":\"later\"}}],\r\n\t\"model\" :  \"{model}\" ,{gateways}\
             \"metadata\":{{\"user_id\":\"{{\\\"device\\\":\\\"d\\\"}}\",\"x\":1}},\
             \"thinking\":{{\"type\":\"adaptive\"}},\"context_management\":{{\"edits\":[]}},\
             \"seed\":12345678901234567890,\"cache_control\":null,\"stop_sequences\":null }}"
        )
    };
    let gateways = "\"session_label\":\"s\",\"guardrails\":null,\"api_key\":\"sk-evil\",\
                    \"base_url\":\"http://127.0.0.1:9\",\"mcp_server_ids\":null,";

    gateway.post(&key, "/v1/messages?beta=true", body("a:m", gateways)).await.expect(200);

    let seen = provider.only();
    assert_eq!(seen.text(), body("m", ""), "every other byte is the caller's");
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/messages"));
}

#[tokio::test]
async fn the_user_of_the_gateway_is_not_the_providers() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    gateway.user("other", None).await;
    let ask = |user: Value| FORMAT.ask_with(json!({"metadata": {"user_id": user, "x": 1}}));
    FORMAT.call(&gateway, &key, &ask(json!("u"))).await.expect(200);
    FORMAT.call(&gateway, &key, &ask(json!("nobody here"))).await.expect(200);
    FORMAT.call(&gateway, MASTER, &ask(json!("u"))).await.expect(200);
    let seen: Vec<Value> =
        provider.requests().iter().map(|request| request.json()["metadata"].clone()).collect();
    let own = json!({"x": 1});
    assert_eq!(seen, [own.clone(), json!({"user_id": "nobody here", "x": 1}), own]);
    for row in gateway.usage(3).await {
        assert_eq!(row["user_id"], "u", "{row}");
    }
    let refusal = FORMAT.call(&gateway, &key, &ask(json!("other"))).await;
    assert_eq!(
        FORMAT.sentence(&FORMAT.refused(&refusal, 403)),
        "'metadata.user_id' does not match the authenticated API key's user"
    );
    for nobody in [FORMAT.ask(), ask(Value::Null), ask(json!(""))] {
        let refusal = FORMAT.refused(&FORMAT.call(&gateway, MASTER, &nobody).await, 400);
        assert_eq!(
            FORMAT.sentence(&refusal),
            "When using master key, 'metadata.user_id' is required in request body"
        );
    }
    let twice = r#"{"model":"a:m","max_tokens":1,"messages":[{"role":"user","content":"x"}],
                    "metadata":{"user_id":"u","user_id":"other"}}"#;
    FORMAT.refused(&gateway.post(&key, "/v1/messages", twice).await, 422);
    assert_eq!(provider.count(), 3);
}

#[tokio::test]
async fn headers_are_those_of_the_providers_api() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        (
            "anthropic-beta",
            "interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14",
        ),
        ("anthropic-beta", "context-1m-2025-08-07"),
        ("anthropic-version", "2026-10-21"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("openai-beta", "responses=v1"),
        ("user-agent", "claude-cli/2"),
        ("x-stainless-lang", "js"),
        ("cookie", "a=b"),
    ];
    gateway
        .send(Method::POST, "/v1/messages", &headers, FORMAT.ask().to_string())
        .await
        .expect(200);
    let own_key = [("x-api-key", key.as_str()), ("content-type", "application/json")];
    gateway
        .send(Method::POST, "/v1/messages", &own_key, FORMAT.ask().to_string())
        .await
        .expect(200);

    let [first, second] = &provider.requests()[..] else { panic!("two requests") };
    for seen in [first, second] {
        assert_eq!(seen.header("x-api-key"), Some(UPSTREAM_KEY));
        for name in ["authorization", "openai-beta", "cookie", "x-stainless-lang"] {
            assert_eq!(seen.header(name), None, "`{name}` must not reach the provider");
        }
        assert!(seen.header("user-agent").is_some_and(|agent| agent.starts_with("otari/")));
        assert!(!format!("{:?}", seen.headers).contains(&key), "{:?}", seen.headers);
    }
    let betas: Vec<&str> = (first.headers.iter())
        .filter(|(name, _)| name.eq_ignore_ascii_case("anthropic-beta"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(betas, [headers[2].1, headers[3].1], "every beta, as the caller wrote them");
    assert_eq!(first.header("anthropic-version"), Some("2026-10-21"));
    assert_eq!(first.header("anthropic-dangerous-direct-browser-access"), None);
    assert_eq!(second.header("anthropic-version"), Some("2023-06-01"), "for who asks for none");
    assert_eq!(second.header("anthropic-beta"), None);
}

#[tokio::test]
async fn what_a_provider_says_of_the_operators_account_stays_with_the_gateway() {
    let provider = Provider::start(|request| {
        FORMAT
            .reply(request, &["ok"])
            .header("anthropic-organization-id", "org-of-the-operator")
            .header("anthropic-ratelimit-tokens-remaining", "7")
            .header("request-id", "req_theirs")
            .header("x-new", "kept")
    });
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for body in [FORMAT.ask(), FORMAT.streamed(0)] {
        let answer = FORMAT.call(&gateway, &key, &body).await.expect(200);
        for name in ["anthropic-organization-id", "anthropic-ratelimit-tokens-remaining"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
        assert_eq!(answer.header("request-id"), Some(answer.request_id()), "one id: ours");
        assert_eq!(answer.header("x-new"), Some("kept"));
    }
}

#[tokio::test]
async fn providers_that_generate_no_text_are_named_in_the_refusal() {
    let provider = Provider::never_answers();
    let start = Gateway::start().config("require_pricing: false");
    let gateway = start.provider_of("voyage", "v", &provider.base(), "").await;
    let key = gateway.key("u").await;
    let answer = FORMAT.call(&gateway, &key, &FORMAT.ask_with(json!({"model": "v:m"}))).await;
    let sentence = FORMAT.sentence(&FORMAT.refused(&answer, 400));
    assert!(sentence.contains("'v'") && sentence.contains("does not generate text"), "{sentence}");
    assert_eq!((answer.header("x-should-retry"), provider.count()), (Some("false"), 0));
    assert_eq!(gateway.settled("u").await, 0.0);
}

/// A provider whose message reports the request's `report`; streamed, `start` at the beginning and `report` at the end.
fn echo() -> Provider {
    Provider::start(|request| {
        let asked = request.json();
        if asked["stream"] != json!(true) {
            let mut body = message(json!([]), "end_turn");
            body["usage"] = asked["report"].clone();
            return Reply::json(200, &body);
        }
        let mut events = message_stream(&json!({"type": "text", "text": ""}), vec![], "end_turn");
        let mut start = message(json!([]), "");
        start["usage"] = asked["start"].clone();
        events[0] = event(&json!({"type": "message_start", "message": start}));
        let at = events.len() - 2;
        events[at] =
            event(&json!({"type": "message_delta", "delta": {}, "usage": asked["report"]}));
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    })
}

async fn cached_tokens_are_billed_at_their_rates_and_counted_into_the_prompt(start: Builder) {
    let provider = echo();
    let gateway = start.provider_of("anthropic", "a", &provider.base(), "").await;
    let key = gateway.key("u").await;
    let price = json!({"model_key": "a:m", "input_price_per_million": 3, "output_price_per_million": 15,
        "cache_read_price_per_million": 0.3, "cache_write_price_per_million": 3.75,
        "cache_write_1h_price_per_million": 6});
    gateway.manage(Method::POST, "/v1/pricing", price).await;
    let whole = json!({"input_tokens": 340, "output_tokens": 10, "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 240,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 40}});
    let mut begun = whole.clone();
    begun["output_tokens"] = json!(1);
    let output = json!({"output_tokens": 10});
    let plain_writes =
        json!({"input_tokens": 340, "output_tokens": 10, "cache_creation_input_tokens": 240});
    // Fresh 340, read 1000, written 200 and 40, out 10.
    let cost = 1020 + 300 + 750 + 240 + 150;
    let mut spent = 0;
    for (rows, (fields, [prompt, read, write, hour], cost)) in [
        (json!({"report": whole}), [1580, 1000, 200, 40], cost),
        (json!({"start": begun, "report": output, "stream": true}), [1580, 1000, 200, 40], cost),
        // The end repeats everything: nothing is counted twice.
        (json!({"start": begun, "report": whole, "stream": true}), [1580, 1000, 200, 40], cost),
        (json!({"report": plain_writes}), [580, 0, 240, 0], 1020 + 900 + 150),
    ]
    .into_iter()
    .enumerate()
    {
        FORMAT.call(&gateway, &key, &FORMAT.ask_with(fields.clone())).await.expect(200);
        let row = gateway.usage(rows + 1).await.remove(0);
        let tokens =
            ["prompt_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"]
                .map(|name| row[name].clone());
        assert_eq!(
            tokens,
            [prompt, read, write, hour].map(|count| json!(count)),
            "{fields}: {row}"
        );
        assert_eq!(row["completion_tokens"], 10, "{row}");
        assert_eq!(row["total_tokens"], prompt + 10, "{row}");
        assert_eq!(row["cost"], json!(f64::from(cost) / 1e6), "{fields}: {row}");
        assert_eq!(row["endpoint"], "/v1/messages");
        spent += cost;
        assert_eq!(gateway.settled("u").await, f64::from(spent) / 1e6);
    }
}

async fn tokens_are_counted_without_asking_anybody(start: Builder) {
    let provider = Provider::never_answers();
    let gateway = both(start, &provider).config("rate_limit_rpm: 1").await;
    let key = gateway.key("u").await;
    let broke = gateway.budget(0.0).await;
    gateway.patch("/v1/users/u", json!({"budget_id": broke})).await;
    let hello =
        json!({"model": "no:such", "messages": [{"role": "user", "content": "Hello, world!"}]});
    for path in [
        "/v1/messages/count_tokens",
        "/v1/messages/count_tokens?beta=true",
        "/v1/messages/count_tokens/",
        "/api/v1/messages/count_tokens",
        "/messages/count_tokens",
    ] {
        let answer = gateway.post(&key, path, hello.to_string()).await.expect(200);
        assert_eq!(answer.text(), r#"{"input_tokens":12}"#, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-ratelimit-limit"), None, "it takes no turn");
    }
    let count = async |key: &str, body: &str| {
        gateway.post(key, "/v1/messages/count_tokens", body.to_owned()).await
    };
    count(MASTER, &hello.to_string()).await.expect(200);
    let with_system = json!({"model": "m", "messages": [{}], "system": "héllo",
        "tools": [{"name": "f", "strict": true}], "max_tokens": "?", "future": {}});
    // 4 + 5 + 31 characters.
    assert_eq!(count(&key, &with_system.to_string()).await.expect(200).json()["input_tokens"], 10);

    for wrong in ["", "gw-nobody"] {
        let refusal = FORMAT.refused(&count(wrong, "{").await, 401);
        assert_eq!(refusal["error"]["type"], "authentication_error", "before the body: {refusal}");
    }
    let answer = count(&key, r#"{"messages":[],"system":4}"#).await;
    let refusal = FORMAT.refused(&answer, 422);
    let kinds: Vec<&Value> =
        refusal["detail"].as_array().expect("a list").iter().map(|fault| &fault["type"]).collect();
    assert_eq!(kinds, ["missing", "too_short", "string_type", "list_type"], "{refusal}");
    assert_eq!(refusal["error"]["type"], "invalid_request_error");
    FORMAT.refused(&count(&key, "{").await, 422);
    let answer = gateway.get("/v1/messages/count_tokens").await;
    FORMAT.refused(&answer, 405);
    assert_eq!(answer.header("allow"), Some("POST"));

    assert_eq!(provider.count(), 0, "no provider is asked");
    assert_eq!(gateway.all_usage().await, Vec::<Value>::new(), "and no row says so");
    assert_eq!(gateway.settled("u").await, 0.0);
}

on_both_databases!(
    cached_tokens_are_billed_at_their_rates_and_counted_into_the_prompt,
    tokens_are_counted_without_asking_anybody,
);

#[tokio::test]
async fn tokens_are_counted_by_the_models_own_tokenizer_where_it_is_known() {
    let provider = Provider::never_answers();
    let config = "aliases: {fast: \"o:gpt-4o\"}\nrouting:\n  policies:\n    \
                  either: {select: [{default: \"o:gpt-4\"}]}";
    let gateway = both(Gateway::start().config(config), &provider).await;
    let key = gateway.key("u").await;
    let count = async |key: &str, model: &str| {
        let body = json!({"model": model, "system": "Now.",
            "messages": [{"role": "user", "content": "お誕生日おめでとう"}]});
        let path = "/v1/messages/count_tokens";
        let answer = gateway.post(key, path, body.to_string()).await.expect(200).json();
        answer["input_tokens"].as_u64().expect("a number")
    };
    // 9 tokens in the older vocabulary, 8 in the newer one; two of the instructions; 3 for each message and the answer.
    let by_characters = 12;
    for (model, want) in [
        ("o:gpt-4", 9 + 2 + 9),
        ("o:gpt-4o", 8 + 2 + 9),
        ("fast", 8 + 2 + 9),
        ("either", 9 + 2 + 9),
        ("o:my-own", by_characters),
        ("a:claude-opus-5-5", by_characters),
        ("no:gpt-4o", by_characters),
    ] {
        assert_eq!(count(&key, model).await, want, "{model}");
        assert_eq!(count(MASTER, model).await, want, "{model}");
    }
    // What the key may not call is counted as what leads nowhere.
    let all = json!({"allowed_models": ["a:*"]});
    gateway.patch("/v1/users/u", all).await;
    assert_eq!(count(&key, "o:gpt-4o").await, by_characters);
    // What cannot be read for a tokenizer has a count as before.
    let odd = json!({"model": "o:gpt-4o", "messages": [{}], "system": "héllo"}).to_string();
    let odd = gateway.post(&key, "/v1/messages/count_tokens", odd).await.expect(200);
    assert_eq!(odd.text(), r#"{"input_tokens":3}"#);
    assert_eq!(provider.count(), 0, "no provider is asked");
}

#[tokio::test]
async fn an_alias_is_shown_in_the_answer() {
    let provider = Provider::start(|request| FORMAT.reply(request, &["a", "b"]));
    let gateway = both(Gateway::start().config("aliases: {fast: \"a:m\"}"), &provider).await;
    let key = gateway.key("u").await;
    let shown = |text: &str| text.replace("\"model\":\"m-2026\"", "\"model\":\"fast\"");
    let ask = |stream: bool| FORMAT.ask_with(json!({"model": "fast", "stream": stream}));
    let whole: Answer = FORMAT.call(&gateway, &key, &ask(false)).await.expect(200);
    assert_eq!(whole.text(), shown(&FORMAT.whole("ab").to_string()));
    let stream = FORMAT.call(&gateway, &key, &ask(true)).await.expect(200);
    assert_eq!(stream.text(), shown(&FORMAT.events(&["a", "b"]).concat()));
    for row in gateway.usage(2).await {
        assert_eq!((&row["model"], &row["provider"]), (&json!("m"), &json!("a")), "{row}");
    }
}
