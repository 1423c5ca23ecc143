//! Chat completions: what passes untouched, what is edited, and the doors they are reached by.

use reqwest::Method;
use serde_json::json;

use crate::support::gateway::{Builder, Gateway, UPSTREAM_KEY};
use crate::support::provider::{Provider, Reply, Step, USAGE, chat_events};
use crate::support::{COST, ask, ask_streamed, ask_with, on_both_databases, priced};

const TWENTY_MB: usize = 20 * 1024 * 1024;

#[tokio::test]
async fn a_plain_answer_passes_byte_for_byte() {
    let odd = "{ \"id\":\"x\",\n \"choices\" : [{\"index\":0,\"message\":{\"role\":\"assistant\",\
               \"content\":\"h\\u00e9\"},\"finish_reason\":\"stop\"}], \"model\":\"m\",\"x_new\":1.50e0,\
               \"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}}\n";
    let provider = Provider::start(move |_| Reply::bytes(200, "application/json", odd));
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;

    let answer = gateway.chat(&key, &ask()).await.expect(200);

    assert_eq!(answer.text(), odd, "nothing in an answer is ours to rewrite");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn only_the_model_of_a_request_is_edited() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let body = |model: &str| {
        format!(
            "{{\"messages\" : [ {{\"role\":\"user\",\"content\":\"h\\u00e9 \\ud83d\\ude00 \\/ é\"}} ],\r\n\t\
             \"temperature\":1.0e0, \"model\" :  \"{model}\" ,\"seed\":12345678901234567890,\n\
             \"x_unknown\":{{\"model\":\"p:m\",\"user\":\"deep\",\"b\":[1.50,-0,0.10]}},\"top_p\":0.30000000000000004 }}"
        )
    };

    gateway.post(&key, "/v1/chat/completions", body("p:m")).await.expect(200);

    assert_eq!(provider.only().text(), body("m"), "every other byte is the caller's");
}

#[tokio::test]
async fn the_slash_spelling_and_an_escaped_model_name_reach_the_same_model() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for selector in ["p/m", "p:\\u006d", "p\\/m"] {
        let body = format!(
            "{{\"model\":\"{selector}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}"
        );
        gateway.post(&key, "/v1/chat/completions", body).await.expect(200);
    }
    for request in provider.requests() {
        assert_eq!(
            request.json()["model"],
            "m",
            "the provider sees its own name: {}",
            request.text()
        );
    }
}

#[tokio::test]
async fn fields_that_are_not_the_providers_are_taken_out() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let body = concat!(
        r#"{"user":"u","api_key":"sk-evil","model":"p:m","api_base":"http://127.0.0.1:9","base_url":"http://127.0.0.1:9","#,
        r#""messages":[{"role":"user","content":"hi"}],"client_args":{"default_headers":{"x-evil":"1"}},"n":1,"#,
        r#""extra_headers":{"x-evil":"1"},"extra_body":{"x":1},"organization":"o","provider":"q","api_version":"1","#,
        r#""client":"c","credentials":{"k":"v"},"mcp_servers":null,"mcp_server_ids":null,"guardrails":null,"#,
        r#""tools_header":null,"max_tool_iterations":null,"session_label":null,"store":null}"#
    );

    gateway.post(&key, "/v1/chat/completions", body).await.expect(200);

    let seen = provider.only();
    let kept = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"n":1,"store":null}"#;
    assert_eq!(
        seen.text(),
        kept,
        "gateway fields and whatever could steer the call are never sent on"
    );
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {UPSTREAM_KEY}").as_str()));
    assert_eq!(seen.header("x-evil"), None, "a caller cannot add headers");
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/v1/chat/completions"),
        "nor move it"
    );
}

#[tokio::test]
async fn callers_headers_stay_with_the_gateway() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1.2.3.4"),
        ("openai-organization", "org-evil"),
    ];
    gateway
        .send(Method::POST, "/v1/chat/completions", &headers, ask().to_string())
        .await
        .expect(200);
    let seen = provider.only();
    for name in ["cookie", "x-forwarded-for", "openai-organization", "otari-key", "x-api-key"] {
        assert_eq!(seen.header(name), None, "`{name}` must not reach the provider");
    }
    assert!(
        !format!("{:?}", seen.headers).contains(&key),
        "nor the caller's key: {:?}",
        seen.headers
    );
}

#[tokio::test]
async fn a_model_named_twice_is_refused() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).price("p:dear", 9e6, 9e6).await;
    let key = gateway.key("u").await;
    for body in [
        r#"{"model":"p:m","messages":[{"role":"user","content":"hi"}],"model":"p:dear"}"#,
        r#"{"model":"p:m","messages":[{"role":"user","content":"hi"}],"mod\u0065l":"p:dear"}"#,
    ] {
        let answer = gateway.post(&key, "/v1/chat/completions", body).await;
        assert!(
            matches!(answer.status, 400 | 422),
            "billed as one, served as the other: {}",
            answer.text()
        );
    }
    assert_eq!(provider.count(), 0, "nothing reaches the provider");
}

#[tokio::test]
async fn twenty_megabytes_arrive_as_sent() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).config("max_request_bytes: 33554432").await;
    let key = gateway.key("u").await;
    let text = "é0123456789ABCD".repeat(TWENTY_MB / 16);
    let body = |model: &str| {
        format!(
            "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
        )
    };
    gateway.post(&key, "/v1/chat/completions", body("p:m")).await.expect(200);
    let seen = provider.only();
    assert_eq!(seen.body.len(), body("m").len());
    assert!(seen.body == body("m").into_bytes(), "a large body must arrive unchanged");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_declared_or_not() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).config("max_request_bytes: 1024").await;
    let key = gateway.key("u").await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json"
    );
    let body = ask_with(json!({"x": "y".repeat(2000)})).to_string();
    let declared =
        gateway.raw(&format!("{head}\r\nContent-Length: {}", body.len()), body.as_bytes()).await;
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let undeclared =
        gateway.raw(&format!("{head}\r\nTransfer-Encoding: chunked"), chunked.as_bytes()).await;
    for answer in [declared, undeclared] {
        assert_eq!(answer.status, 413, "{}", answer.text());
        let sentence = answer.json()["error"]["message"].to_string();
        assert!(sentence.contains("1024"), "the limit is named: {sentence}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn a_caller_who_expects_100_continue_is_told_so_at_once() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let body = ask().to_string();
    let mut raw = gateway.connect().await;
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    ))
    .await;
    let interim = raw.until(b"\r\n\r\n").await;
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&interim));
    raw.send(&body).await;
    assert_eq!(raw.reply().await.status, 200);
}

#[tokio::test]
async fn a_refusal_can_be_read_by_a_caller_who_is_still_sending() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer gw-nobody\r\n\
         Content-Type: application/json\r\nContent-Length: {TWENTY_MB}"
    );
    let answer = gateway.raw(&head, &vec![b' '; TWENTY_MB]).await;
    assert_eq!(answer.status, 401, "a reset would hide the reason: {}", answer.text());
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn a_stream_passes_unchanged() {
    let wire: &[&str] = &[
        ": hello\r\n\r\n",
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\\u00e9\"}}],\"x\":1.0}\r\n\r\n",
        "event: news\nid: 7\nretry: 10\ndata: {\"a\":\ndata: 1}\n\n",
        ":\n\n",
        "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}}\n\n",
        "data: [DONE]\n\n",
    ];
    let provider = Provider::start(|_| {
        Reply::events(wire.iter().map(|event| Step::Send(event.as_bytes().to_vec())))
    });
    let gateway =
        priced(Gateway::start(), &provider).config("streaming_keepalive_interval_ms: 0").await;
    let key = gateway.key("u").await;

    let asked = ask_with(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = gateway.chat(&key, &asked).await.expect(200);

    assert_eq!(
        answer.text(),
        wire.concat(),
        "comments, line ends and unknown events are the provider's"
    );
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/event-stream"), "{kind}");
    assert_eq!(gateway.usage(1).await[0]["cost"], COST);
}

#[tokio::test]
async fn the_usage_chunk_is_seen_only_by_those_who_asked() {
    let provider = Provider::streams(["Hel", "lo"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let events = |with_usage: bool| chat_events(&["Hel", "lo"], with_usage).concat();
    for (options, visible) in [
        (json!(null), false),
        (json!({}), false),
        (json!({"include_usage": false}), false),
        (json!({"include_usage": true}), true),
    ] {
        let asked = ask_with(json!({"stream": true, "stream_options": options}));
        let answer = gateway.chat(&key, &asked).await.expect(200);
        assert_eq!(answer.text(), events(visible), "stream_options: {options}");
    }
    assert_eq!(
        gateway.chat(&key, &ask_streamed()).await.text(),
        events(false),
        "no stream_options"
    );
    for request in provider.requests() {
        let asked = &request.json()["stream_options"]["include_usage"];
        assert_eq!(asked, true, "the gateway asks for itself, or the call is free");
    }
    for row in gateway.usage(5).await {
        assert_eq!(row["cost"], COST, "{row}");
    }
}

async fn the_usage_row_says_what_happened(start: Builder) {
    let provider = Provider::streams(["Hel", "lo"]);
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    for (before, body) in [ask(), ask_streamed()].into_iter().enumerate() {
        let answer = gateway.chat(&key, &body).await.expect(200);
        let row = gateway.usage(before + 1).await.remove(0);
        assert_eq!(
            row["request_group_id"],
            answer.request_id(),
            "one id from answer to row: {row}"
        );
        let facts =
            json!([row["user_id"], row["model"], row["provider"], row["endpoint"], row["status"]]);
        assert_eq!(facts, json!(["u", "m", "p", "/v1/chat/completions", "success"]));
        let tokens = json!([row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]]);
        assert_eq!(tokens, json!([USAGE.0, USAGE.1, USAGE.0 + USAGE.1]));
        assert_eq!(row["cost"], COST, "{row}");
        let at = row["timestamp"].as_str().unwrap_or_default();
        assert!(at.ends_with("+00:00"), "times are UTC and say so: {at}");
    }
    assert!((gateway.settled("u").await - 2.0 * COST).abs() < 1e-9);
}
on_both_databases!(the_usage_row_says_what_happened);

#[tokio::test]
async fn every_door_leads_to_the_same_room() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for path in [
        "/v1/chat/completions",
        "/api/v1/chat/completions",
        "/v1/chat/completions/",
        "/api/v1/chat/completions/",
        "/chat/completions",
        "/v1/chat/completions?beta=true",
    ] {
        let answer = gateway.post(&key, path, ask().to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    for row in gateway.usage(6).await {
        assert_eq!(row["endpoint"], "/v1/chat/completions", "rows name the route, not the door");
    }
}

#[tokio::test]
async fn head_and_options_need_no_key() {
    let gateway = Gateway::start().await;
    for path in ["/", "/v1/chat/completions", "/health"] {
        for method in ["HEAD", "OPTIONS"] {
            let answer = gateway.raw(&format!("{method} {path} HTTP/1.1\r\nHost: g"), b"").await;
            assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn an_unknown_path_names_the_nearest() {
    let gateway = Gateway::start().await;
    let key = gateway.key("u").await;
    for (path, near) in [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/completionss", "/v1/chat/completions"),
        ("/v1/budgts", "/v1/budgets"),
    ] {
        let body = gateway.post(&key, path, "{}").await.refused(404);
        let sentence = body["error"]["message"].to_string();
        assert!(sentence.contains(near), "{path}: {sentence}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let gateway = Gateway::start().await;
    let answer = gateway.get("/v1/chat/completions").await;
    answer.refused(405);
    assert!(
        answer.header("allow").is_some_and(|allow| allow.contains("POST")),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn a_websocket_on_responses_is_told_to_use_http() {
    let gateway = Gateway::start().await;
    let answer = gateway
        .raw(
            "GET /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            b"",
        )
        .await;
    assert_eq!(answer.status, 426, "Codex falls back at once on 426 only: {}", answer.text());
}

#[tokio::test]
async fn every_answer_carries_its_request_id() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let plain = gateway.chat(&key, &ask()).await;
    let streamed = gateway.chat(&key, &ask_streamed()).await;
    let refused = gateway.chat("gw-nobody", &ask()).await;
    let missing = gateway.get("/nowhere").await;
    let mut ids: Vec<String> = Vec::new();
    for answer in [&plain, &streamed, &refused, &missing] {
        let id = answer.request_id();
        for name in ["request-id", "otari-request-id"] {
            assert_eq!(answer.header(name), Some(id), "`{name}` of {}", answer.status);
        }
        ids.push(id.into());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each request has its own");
}

#[tokio::test]
async fn an_error_says_who_made_it() {
    let provider = Provider::answers(400, json!({"error": {"message": "no such voice"}}));
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let theirs = gateway.chat(&key, &ask()).await;
    theirs.refused(400);
    assert_eq!(theirs.header("otari-error-source"), Some("provider"));
    gateway.chat(&key, &json!({"messages": []})).await.refused_for_good(422);
}
