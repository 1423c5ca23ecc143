//! What is true of messages and of responses alike: bytes, doors, gates, and what a provider's refusal becomes.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::format::{self, FORMATS, Format, both};
use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::{Framing, Provider, Reply, Step, USAGE};
use crate::support::{COST, on_both_databases};

/// A gateway before a provider that answers `ok`, and a user `u` with a key.
async fn served(start: Builder) -> (Provider, Gateway, String) {
    let provider = Provider::start(|request| format::of(request).reply(request, &["ok"]));
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    (provider, gateway, key)
}

async fn the_usage_row_says_what_happened(start: Builder) {
    let (_provider, gateway, key) = served(start).await;
    let mut rows = 0;
    for format in FORMATS {
        for body in [format.ask(), format.streamed(0)] {
            let answer = format.call(&gateway, &key, &body).await.expect(200);
            rows += 1;
            let row = gateway.usage(rows).await.remove(0);
            assert_eq!(row["request_group_id"], answer.request_id(), "{row}");
            let facts = json!([
                row["user_id"],
                row["model"],
                row["provider"],
                row["endpoint"],
                row["status"]
            ]);
            let want = json!(["u", "m", format.provider(), format.route(), "success"]);
            assert_eq!(facts, want);
            let tokens =
                json!([row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]]);
            assert_eq!(tokens, json!([USAGE.0, USAGE.1, USAGE.0 + USAGE.1]));
            assert_eq!(row["cost"], COST, "{row}");
        }
    }
    assert!((gateway.settled("u").await - 4.0 * COST).abs() < 1e-9);
}

#[tokio::test]
async fn a_plain_answer_passes_byte_for_byte() {
    let odd = "{ \"id\":\"x\",\n \"content\" : [{\"type\":\"text\",\"text\":\"h\\u00e9\"}], \"output\":[], \
               \"model\":\"m\",\"x_new\":1.50e0,\"usage\":{\"input_tokens\":10,\"output_tokens\":5}}\r\n";
    let provider = Provider::start(move |_| Reply::bytes(200, "application/json", odd));
    let gateway = both(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for (before, format) in FORMATS.into_iter().enumerate() {
        let answer = format.call(&gateway, &key, &format.ask()).await.expect(200);
        assert_eq!(answer.text(), odd, "nothing in an answer is ours to rewrite");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("otari-provider"), Some(format.provider()));
        assert_eq!(gateway.usage(before + 1).await[0]["cost"], COST);
    }
}

/// The stream with comments, an unknown event, and every line end there is.
fn odd_wire(format: Format, line_end: &str) -> String {
    let events = format.events(&["h\u{e9}llo \u{1f600}", " fin"]);
    let (first, rest) = events.split_first().expect("events");
    let news = "event: news\nid: 7\nretry: 10\ndata: {\"a\":\ndata: 1}\n\n";
    let wire = format!(": hello\n\n{first}{news}:\n\n{}", rest.concat());
    wire.replace('\n', line_end)
}

async fn a_stream_passes_byte_for_byte_in_whatever_pieces(start: Builder) {
    let provider = Provider::start(move |request| {
        let asked = request.json();
        let line_end = if asked["crlf"] == true { "\r\n" } else { "\n" };
        let whole = odd_wire(format::of(request), line_end).into_bytes();
        let pieces = match asked["case"].as_u64().and_then(|size| usize::try_from(size).ok()) {
            // Single bytes: every line, every character of more than one byte, and the ends themselves are torn.
            Some(size @ 1..) => {
                whole.chunks(size).map(|piece| Step::Send(piece.to_vec())).collect()
            }
            _ => vec![Step::Send(whole)],
        };
        let framing = if asked["close"] == true { Framing::Close } else { Framing::Chunked };
        Reply::events(pieces).framing(framing)
    });
    let gateway = both(start, &provider).config("streaming_keepalive_interval_ms: 0").await;
    let key = gateway.key("u").await;
    let mut rows = 0;
    for format in FORMATS {
        for (size, crlf, close) in [
            (1, false, false),
            (1, true, true),
            (7, true, false),
            (0, false, true),
            (0, true, false),
        ] {
            let mut body = format.streamed(size);
            body["crlf"] = json!(crlf);
            body["close"] = json!(close);
            let answer = format.call(&gateway, &key, &body).await.expect(200);
            let wire = odd_wire(format, if crlf { "\r\n" } else { "\n" });
            assert_eq!(answer.text(), wire, "{format:?} in pieces of {size}");
            let kind = answer.header("content-type").unwrap_or_default();
            assert!(kind.starts_with("text/event-stream"), "{kind}");
            rows += 1;
            let row = gateway.usage(rows).await.remove(0);
            assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(COST)), "{row}");
        }
    }
}

#[tokio::test]
async fn every_door_leads_to_the_same_room() {
    let (_provider, gateway, key) = served(Gateway::start()).await;
    let mut rows = 0;
    for format in FORMATS {
        let route = format.route();
        let bare = route.trim_start_matches("/v1");
        for path in [
            route.to_owned(),
            format!("{route}/"),
            format!("/api{route}"),
            format!("/api{route}/"),
            bare.to_owned(),
            format!("{bare}/"),
            format!("{route}?beta=true"),
        ] {
            let answer = gateway.post(&key, &path, format.ask().to_string()).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            rows += 1;
            let row = gateway.usage(rows).await.remove(0);
            assert_eq!(row["endpoint"], route, "rows name the route, not the door");
            for method in ["HEAD", "OPTIONS"] {
                let answer =
                    gateway.raw(&format!("{method} {path} HTTP/1.1\r\nHost: g"), b"").await;
                assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.status);
            }
            // Whatever the door, the refusal speaks the caller's dialect.
            let answer = gateway.post("gw-nobody", &path, "{}").await;
            format.refused(&answer, 401);
        }
        let answer = gateway.send(Method::PUT, route, &[], "").await;
        format.refused(&answer, 405);
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}

#[tokio::test]
async fn a_key_is_taken_from_every_header_that_clients_use() {
    let (provider, gateway, key) = served(Gateway::start()).await;
    let bearer = format!("Bearer {key}");
    for format in FORMATS {
        for header in [
            ("authorization", bearer.as_str()),
            ("x-api-key", &key),
            ("otari-key", &bearer),
            ("otari-key", &key),
        ] {
            let headers = [header, ("content-type", "application/json")];
            let sent = format.ask().to_string();
            let answer = gateway.send(Method::POST, format.route(), &headers, sent).await;
            assert_eq!(answer.status, 200, "{header:?}: {}", answer.text());
        }
    }
    assert_eq!(provider.count(), 8);
}

async fn every_gate_speaks_the_callers_dialect(start: Builder) {
    let (provider, gateway, key) = served(start).await;
    let nothing = gateway.budget(0.0).await;
    gateway.user("poor", Some(&nothing)).await;
    gateway.user("blocked", None).await;
    gateway.user("bound", None).await;
    let (poor, blocked) = (gateway.key("poor").await, gateway.key("blocked").await);
    let bound = gateway.key("bound").await;
    gateway.patch("/v1/users/blocked", json!({"blocked": true})).await;
    gateway.patch("/v1/users/bound", json!({"allowed_models": ["o:other"]})).await;
    for format in FORMATS {
        let unpriced = format!("{}:unpriced", format.provider());
        for (who, fields, status, kind, words) in [
            ("gw-nobody", json!({}), 401, "authentication_error", "Invalid API key"),
            ("", json!({}), 401, "authentication_error", "Invalid header format"),
            (&poor, json!({}), 403, "permission_error", "User 'poor' has exceeded budget limit"),
            (&blocked, json!({}), 403, "permission_error", "User 'blocked' is blocked"),
            (&bound, json!({}), 403, "permission_error", "is not permitted"),
            (
                &key,
                json!({"model": unpriced}),
                402,
                "invalid_request_error",
                "No pricing configured",
            ),
            (&key, json!({"model": " "}), 400, "invalid_request_error", "model is required"),
            (
                &key,
                json!({"mcp_server_ids": ["0193e5a2-7f0e-7d3c-8a4b-5c6d7e8f9012"]}),
                400,
                "invalid_request_error",
                "mcp_server_ids is only available in platform mode",
            ),
            (
                &key,
                json!({"guardrails": [{"profile": "p", "mode": "block"}]}),
                502,
                "api_error",
                "no guardrails service is configured",
            ),
            (
                MASTER,
                json!({"user": "ghost", "metadata": {"user_id": "ghost"}}),
                404,
                "not_found_error",
                "User 'ghost' not found",
            ),
        ] {
            // A budget refuses streams and plain calls alike.
            for stream in [false, true] {
                let mut body = format.ask_with(fields.clone());
                body["stream"] = json!(stream);
                let answer = format.call(&gateway, who, &body).await;
                let refusal = format.refused(&answer, status);
                let sentence = format.sentence(&refusal);
                assert!(sentence.contains(words), "{format:?} {fields}: {sentence}");
                assert_eq!(refusal["error"]["message"], sentence);
                if format == Format::Messages {
                    assert_eq!(refusal["error"]["type"], kind, "{fields}");
                }
                assert_eq!(answer.header("otari-error-source"), Some("gateway"));
                assert_eq!(answer.header("x-should-retry"), Some("false"), "{refusal}");
            }
        }
    }
    assert_eq!(provider.count(), 0, "a refused request never reaches the provider");
    for user in ["u", "poor", "blocked", "bound"] {
        assert_eq!(gateway.settled(user).await, 0.0, "a refusal costs nothing");
    }
}

async fn too_many_requests_are_told_when_to_come_back(start: Builder) {
    let (provider, gateway, _) = served(start.config("rate_limit_rpm: 3")).await;
    let busy = gateway.key("busy").await;
    for format in FORMATS {
        let mut last = None;
        for _ in 0..4 {
            last = Some(format.call(&gateway, &busy, &format.ask()).await);
        }
        let last = last.expect("four calls");
        let refusal = format.refused(&last, 429);
        assert_eq!(format.sentence(&refusal), "Rate limit exceeded");
        assert_eq!(refusal["error"]["type"], "rate_limit_error");
        assert!(last.header("retry-after").is_some(), "{:?}", last.headers);
    }
    assert_eq!(provider.count(), 3, "the formats share the limit");
}

async fn wrong_fields_are_listed(start: Builder) {
    let (provider, gateway, key) = served(start).await;
    for (format, body, faults) in [
        (Format::Messages, "{", &["json_invalid"][..]),
        (Format::Messages, "[]", &["model_attributes_type"]),
        (Format::Messages, "{}", &["missing", "missing", "missing"]),
        (
            Format::Messages,
            r#"{"model":"a:m","messages":[],"max_tokens":"many","metadata":7}"#,
            &["too_short", "int_parsing", "dict_type"],
        ),
        (
            Format::Messages,
            r#"{"model":"a:m","messages":[{}],"max_tokens":1,"model":"a:dear"}"#,
            &["value_error"],
        ),
        (Format::Responses, "{", &["json_invalid"]),
        (Format::Responses, "{}", &["missing", "missing"]),
        (Format::Responses, r#"{"model":"o:m","input":null}"#, &["missing"]),
        (
            Format::Responses,
            r#"{"model":3,"input":"hi","stream":"maybe","tools":"x"}"#,
            &["string_type", "bool_parsing", "list_type"],
        ),
    ] {
        let answer = gateway.post(&key, format.route(), body.to_owned()).await;
        let refusal = format.refused(&answer, 422);
        let kinds: Vec<&Value> = (refusal["detail"].as_array().expect("a list").iter())
            .map(|fault| &fault["type"])
            .collect();
        assert_eq!(kinds, faults, "{format:?} {body}: {refusal}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    for format in FORMATS {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
        let sent = format.ask().to_string();
        let answer = gateway.send(Method::POST, format.route(), &headers, sent).await;
        format.refused(&answer, 422);
        for wrong in ["", "{", "[]"] {
            format.refused(&gateway.post("gw-nobody", format.route(), wrong).await, 401);
        }
    }
    assert_eq!((provider.count(), gateway.settled("u").await), (0, 0.0));
}

/// (provider's status, what the caller sees, Anthropic's type of it, whether waiting advice is passed on)
const REFUSALS: [(u16, u16, &str, bool); 11] = [
    (400, 400, "invalid_request_error", false),
    (401, 502, "api_error", false),
    (402, 502, "api_error", false),
    (403, 502, "api_error", false),
    (404, 404, "not_found_error", false),
    (413, 400, "invalid_request_error", false),
    (422, 400, "invalid_request_error", false),
    (429, 429, "rate_limit_error", true),
    (500, 502, "api_error", false),
    (503, 502, "api_error", true),
    (529, 502, "api_error", false),
];

async fn a_providers_refusal_is_told_apart_and_free(start: Builder) {
    let provider = Provider::start(|request| {
        let status = request.json()["case"].as_u64().unwrap_or_default();
        let said = "the voice sk-abcdefghijklmnopqrstuvwxyz0123456789 is not known";
        let body = json!({"type": "error", "error": {"type": "t", "message": said}, "request_id": "req_1"});
        Reply::json(u16::try_from(status).unwrap_or_default(), &body)
            .header("Retry-After", "7")
            .header("anthropic-ratelimit-tokens-reset", "6s")
            .header("anthropic-organization-id", "org-of-the-operator")
    });
    let gateway = both(start, &provider).await;
    let key = gateway.key("u").await;
    let mut rows = 0;
    for format in FORMATS {
        for (upstream, seen, kind, advice) in REFUSALS {
            for stream in [false, true] {
                let body = format.ask_with(json!({"case": upstream, "stream": stream}));
                let answer = format.call(&gateway, &key, &body).await;
                let what = format!("{format:?} {upstream}, stream: {stream}: {}", answer.text());
                assert_eq!(answer.status, seen, "{what}");
                let refusal = format.refused(&answer, seen);
                if format == Format::Messages {
                    assert_eq!(refusal["error"]["type"], kind, "{what}");
                }
                assert_eq!(answer.header("otari-error-source"), Some("provider"), "{what}");
                assert_eq!(answer.header("retry-after"), advice.then_some("7"), "{what}");
                let limits = answer.header("anthropic-ratelimit-tokens-reset");
                assert_eq!(limits, advice.then_some("6s"), "{what}");
                assert_eq!(answer.header("anthropic-organization-id"), None, "{what}");
                assert!(!refusal.to_string().contains("sk-abc"), "keys are redacted: {what}");
                if matches!(upstream, 400 | 404 | 413 | 422) {
                    let sentence = format.sentence(&refusal);
                    assert!(sentence.contains("is not known"), "the reason is told: {what}");
                }
                rows += 1;
                let row = gateway.usage(rows).await.remove(0);
                assert_eq!(
                    (&row["status"], &row["status_code"], &row["cost"]),
                    (&json!("error"), &json!(upstream), &Value::Null),
                    "{row}"
                );
            }
        }
    }
    assert_eq!(gateway.settled("u").await, 0.0, "a refused call costs nothing");
}

on_both_databases!(
    the_usage_row_says_what_happened,
    a_stream_passes_byte_for_byte_in_whatever_pieces,
    every_gate_speaks_the_callers_dialect,
    too_many_requests_are_told_when_to_come_back,
    wrong_fields_are_listed,
    a_providers_refusal_is_told_apart_and_free,
);
