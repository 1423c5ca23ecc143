//! Batches, in and out, for each API.

use serde_json::{Map, Value, json};

use super::*;
use crate::providers;
use crate::rejection::Rejection;

fn draft(api: Option<Api>, provider: &str) -> Draft<'_> {
    Draft { api, model: "m-1", provider, settings: &[] }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn write(draft: Draft<'_>, body: Value) -> Result<Value, Rejection> {
    let body = object(body);
    let item = Item { position: 3, custom_id: "c", body: &body };
    let made = draft.write(item, |user| Ok(user == "label"))?;
    Ok(serde_json::from_slice(&made.body).unwrap())
}

#[test]
fn every_provider_has_the_api_that_it_has() {
    let api = |name| Api::of(providers::find(name).unwrap());
    assert_eq!(api("openai"), Some(Api::OpenAi));
    assert_eq!(api("neosantara"), Some(Api::OpenAi));
    assert_eq!(api("gateway"), Some(Api::Otari));
    assert_eq!(api("azureanthropic"), Some(Api::Anthropic));
    assert_eq!(api("mistral"), Some(Api::Mistral));
    for none in ["groq", "bedrock", "vertexai", "vertexaianthropic", "together", "ollama", "mock"] {
        assert_eq!(api(none), None, "{none}");
    }
}

#[test]
fn what_steers_is_left_out_and_what_is_unknown_stays() {
    let sent = json!({"model": "x:other", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true}, "api_key": "sk", "base_url": "http://evil", "session_label": "s",
        "extra_headers": {"authorization": "x"}, "mcp_servers": [{}], "brand_new": 7, "user": "somebody"});
    let messages = json!([{"role": "user", "content": "hi"}]);
    let made = write(draft(Some(Api::OpenAi), "openai"), sent.clone()).unwrap();
    assert_eq!(made, json!({"model": "m-1", "messages": messages, "brand_new": 7}));
    let own = write(draft(None, "groq"), sent).unwrap();
    let expected =
        json!({"model": "m-1", "messages": messages, "brand_new": 7, "user": "somebody"});
    assert_eq!(own, expected, "the gateway's own request says who pays by itself");
    let label = json!({"messages": messages, "user": "label"});
    let made = write(draft(Some(Api::OpenAi), "openai"), label).unwrap();
    assert_eq!(made["user"], "label");
}

#[test]
fn a_faulty_item_is_named() {
    let refused = write(draft(Some(Api::OpenAi), "openai"), json!({"messages": []})).unwrap_err();
    assert_eq!(refused.code.status(), 422);
    assert!(refused.message.starts_with("body.requests.3.body.messages"), "{}", refused.message);
    let loc = &refused.detail.unwrap()[0]["loc"];
    assert_eq!(loc, &json!(["body", "requests", 3, "body", "messages"]));
    let odd = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "n": 2});
    let refused = write(draft(Some(Api::Anthropic), "anthropic"), odd);
    assert!(refused.is_ok() || refused.unwrap_err().message.starts_with("requests.3: "));
}

#[test]
fn anthropic_gets_messages_whichever_form_came() {
    let anthropic = draft(Some(Api::Anthropic), "anthropic");
    let chat = json!({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
        "max_completion_tokens": 9, "stop": "END"});
    let made = write(anthropic, chat).unwrap();
    assert_eq!((&made["model"], &made["max_tokens"]), (&json!("m-1"), &json!(9)));
    assert_eq!(made["stop_sequences"], json!(["END"]));
    assert!(made.get("system").is_some() && made["messages"].as_array().unwrap().len() == 1);

    let own = json!({"max_tokens": 5, "system": "S", "thinking": {"type": "disabled"}, "top_k": 3,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let made = write(anthropic, own.clone()).unwrap();
    let mut expected = own;
    expected["model"] = json!("m-1");
    assert_eq!(made, expected, "a message passes as it is");
    let without = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert!(write(anthropic, without).unwrap()["max_tokens"].as_u64() > Some(0));
}

#[test]
fn batches_are_made_as_each_api_has_them() {
    let metadata = object(json!({"k": "v"}));
    let create = |api: Api, items: &[u8]| -> Value {
        serde_json::from_slice(&api.create(items, "m", "48h", Some(&metadata))).unwrap()
    };
    let lines = |api: Api| {
        let mut out = Vec::new();
        api.append("a\"b", b"{\"x\":1}", &mut out);
        api.append("c", b"{}", &mut out);
        out
    };
    let of_openai = String::from_utf8(lines(Api::OpenAi)).unwrap();
    let first: Value = serde_json::from_str(of_openai.lines().next().unwrap()).unwrap();
    assert_eq!(
        first,
        json!({"custom_id": "a\"b", "method": "POST", "url": "/v1/chat/completions", "body": {"x": 1}})
    );
    assert_eq!(
        create(Api::OpenAi, b"file-1"),
        json!({"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "48h",
               "metadata": {"k": "v"}})
    );
    assert_eq!(
        create(Api::Mistral, b"f"),
        json!({"input_files": ["f"], "endpoint": "/v1/chat/completions", "model": "m", "timeout_hours": 48,
               "metadata": {"k": "v"}})
    );
    assert_eq!(
        create(Api::Anthropic, &lines(Api::Anthropic)),
        json!({"requests": [{"custom_id": "a\"b", "params": {"x": 1}}, {"custom_id": "c", "params": {}}]})
    );
    let otari = create(Api::Otari, &lines(Api::Otari));
    assert_eq!(otari["requests"][0], json!({"custom_id": "a\"b", "body": {"x": 1}}));
    assert_eq!((&otari["model"], &otari["metadata"]), (&json!("m"), &json!({"k": "v"})));
    assert_eq!([item::hours("7d"), item::hours("soon"), item::hours("9999h")], [168, 24, 168]);
}

#[test]
fn a_batch_shows_every_field_and_not_whose_it_is() {
    let body = json!({"id": "batch_1", "object": "batch", "status": "in_progress", "created_at": 1, "novel": true,
        "metadata": {"k": "v", "otari_user_id": "u"}, "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "output_file_id": "o", "error_file_id": "e"});
    let read = Api::OpenAi.read_batch(body.to_string().as_bytes()).unwrap();
    assert_eq!((read.id(), read.status(), read.owner()), ("batch_1", "in_progress", Some("u")));
    assert_eq!(read.counts(), Counts { total: 3, completed: 2, failed: 1 });
    assert_eq!(read.result_files().collect::<Vec<_>>(), ["o", "e"]);
    let shown = read.clone().shown("openai", None);
    let names: Vec<&str> = shown.keys().map(String::as_str).collect();
    let expected = "id completion_window created_at endpoint input_file_id object status cancelled_at cancelling_at \
                    completed_at error_file_id errors expired_at expires_at failed_at finalizing_at in_progress_at \
                    metadata model output_file_id request_counts usage novel provider";
    assert_eq!(names.join(" "), expected);
    assert_eq!((&shown["metadata"], &shown["usage"]), (&json!({"k": "v"}), &Value::Null));
    let own = object(json!({"otari_user_id": "mine"}));
    let shown = read.shown("openai", Some(&own));
    assert_eq!(shown["metadata"], json!({"k": "v", "otari_user_id": "mine"}), "as they sent it");
    assert!(Api::OpenAi.read_batch(b"{}").is_none() && Api::OpenAi.read_batch(b"x").is_none());
}

#[test]
fn other_apis_batches_are_openais() {
    let body = json!({"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended",
        "request_counts": {"processing": 1, "succeeded": 2, "errored": 3, "canceled": 4, "expired": 5},
        "created_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:10Z",
        "expires_at": "2026-01-02T00:00:00Z", "cancel_initiated_at": null});
    let read = Api::Anthropic.read_batch(body.to_string().as_bytes()).unwrap();
    assert_eq!(read.counts(), Counts { total: 15, completed: 2, failed: 12 });
    let shown = read.shown("a", None);
    assert_eq!(
        (&shown["status"], &shown["completed_at"]),
        (&json!("completed"), &json!(1_767_225_610))
    );
    assert_eq!((&shown["metadata"], &shown["input_file_id"]), (&Value::Null, &json!("")));

    let body = json!({"id": "j", "object": "batch", "status": "TIMEOUT_EXCEEDED", "input_files": ["f"],
        "created_at": 1, "completed_at": 2, "total_requests": 3, "succeeded_requests": 1, "failed_requests": 2,
        "output_file": "o", "error_file": null, "errors": [], "metadata": {"k": "v"}, "endpoint": "/e"});
    let read = Api::Mistral.read_batch(body.to_string().as_bytes()).unwrap();
    assert_eq!(read.result_files().collect::<Vec<_>>(), ["o"]);
    assert_eq!(read.counts(), Counts { total: 3, completed: 1, failed: 2 });
    let shown = read.shown("m", None);
    assert_eq!((&shown["status"], &shown["expired_at"]), (&json!("expired"), &json!(2)));
    assert_eq!(shown["errors"], Value::Null);

    let page = json!({"data": [{"id": "a"}, {"id": "b"}, 7], "has_more": true});
    let page = Api::OpenAi.read_list(page.to_string().as_bytes()).unwrap();
    assert_eq!((page.batches.len(), page.has_more), (2, true));
}

fn line(api: Api, line: Value) -> Value {
    serde_json::to_value(api.read_line(line.to_string().as_bytes(), 7)).unwrap()
}

#[test]
fn every_result_is_an_answer_or_says_why_not() {
    let openai = |response: Value, error: Value| {
        line(Api::OpenAi, json!({"custom_id": "c", "response": response, "error": error}))
    };
    let completion = json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}});
    let body = json!({"custom_id": "c", "response": {"status_code": 200, "body": completion}});
    let read = Api::OpenAi.read_line(body.to_string().as_bytes(), 0);
    let usage = read.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 4));
    assert_eq!(read.model.as_deref(), Some("m"));
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        json!({"custom_id": "c", "result": completion, "error": null})
    );
    let http =
        json!({"status_code": 429, "body": {"error": {"code": "rate_limit", "message": "slow"}}});
    let refused = openai(http, Value::Null);
    assert_eq!(refused["error"], json!({"code": "rate_limit", "message": "slow"}));
    let leaky = openai(
        Value::Null,
        json!({"code": "x", "message": "Incorrect API key sk-abcdef0123456789abcdef"}),
    );
    assert!(!leaky["error"].to_string().contains("sk-abc"), "{leaky}");
    let bare = openai(json!({"status_code": 500, "body": null}), Value::Null);
    assert_eq!(bare["error"], json!({"code": "500", "message": "The provider answered 500"}));
    let expired = openai(Value::Null, json!({"code": "batch_expired", "message": "too late"}));
    assert_eq!(expired["error"], json!({"code": "batch_expired", "message": "too late"}));
    let odd = openai(Value::Null, Value::Null);
    let unexpected = json!({"code": "unknown", "message": "Unexpected response format"});
    assert_eq!((&odd["error"], &odd["custom_id"]), (&unexpected, &json!("c")));
    assert_eq!(line(Api::OpenAi, json!(7))["error"], unexpected);
    assert_eq!(
        line(
            Api::Otari,
            json!({"custom_id": "c", "result": null, "error": {"code": "a", "message": "b"}})
        )["error"],
        json!({"code": "a", "message": "b"})
    );
}

#[test]
fn a_message_becomes_a_completion() {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 3}});
    let of = |result: Value| json!({"custom_id": "c", "result": result}).to_string();
    let sent = of(json!({"type": "succeeded", "message": message}));
    let read = Api::Anthropic.read_line(sent.as_bytes(), 7);
    let usage = read.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.cache_read_tokens, usage.completion_tokens), (5, 3, 2));
    let shown = serde_json::to_value(&read).unwrap();
    assert_eq!(shown["result"]["choices"][0]["message"]["content"], "hi");
    assert_eq!(
        (&shown["result"]["object"], &shown["result"]["created"]),
        (&json!("chat.completion"), &json!(7))
    );
    let failed = of(json!({"type": "errored",
        "error": {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}}));
    let read = Api::Anthropic.read_line(failed.as_bytes(), 7);
    assert_eq!(
        read.error.unwrap(),
        ItemError { code: "invalid_request_error".into(), message: "no".into() }
    );
    let gone = Api::Anthropic.read_line(of(json!({"type": "expired"})).as_bytes(), 7);
    assert_eq!(
        gone.error.unwrap(),
        ItemError { code: "expired".into(), message: "Request expired".into() }
    );
}
