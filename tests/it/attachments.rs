//! Images and documents in requests: what the provider gets of them, and who pays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::documents::word;
use crate::support::gateway::{Builder, Gateway};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, completion};

/// Of `p:m`: it takes nothing but text.
const BLIND: &str = "model_capabilities: {'p:m': {supports_image: false}}";

const PIXEL: &str = "data:image/png;base64,iVBORw0KGgo=";

fn data_url(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(bytes))
}

/// The three routes, and how each says "see" and then `part`.
fn asks(chat: &Value, messages: &Value) -> [(&'static str, Value); 3] {
    let items = |kind: &str, part: &Value| json!([{"role": "user", "content": [{"type": kind, "text": "see"}, part]}]);
    [
        ("/v1/chat/completions", json!({"model": "p:m", "messages": items("text", chat)})),
        (
            "/v1/messages",
            json!({"model": "p:m", "max_tokens": 9, "messages": items("text", messages)}),
        ),
        ("/v1/responses", json!({"model": "p:m", "input": items("input_text", chat)})),
    ]
}

/// Every text of what the provider got last.
fn texts(provider: &Provider) -> String {
    let request = provider.requests().pop().expect("a request");
    let mut all = Vec::new();
    collect(&request.json(), &mut all);
    all.join("\n")
}

fn collect(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, all)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, all)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_a_document_reaches_a_model_that_takes_only_text() {
    let provider = Provider::answers(200, completion("ok"));
    let gateway =
        Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0).config(BLIND).await;
    gateway.user("u", None).await;
    let key = gateway.key("u").await;
    let html = b"<!doctype html><h1>Head</h1><p>Buy <b>milk</b>.</p>";
    for (name, mime, bytes, want) in [
        (
            "a.txt",
            "text/plain",
            b"Buy milk.".to_vec(),
            "[Attached file: a.txt]\nBuy milk.\n[End of a.txt]",
        ),
        (
            "a.docx",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            word("Buy milk."),
            "[Attached file: a.docx]\nBuy milk.\n[End of a.docx]",
        ),
        (
            "a.html",
            "text/html",
            html.to_vec(),
            "[Attached file: a.html]\n# Head\n\nBuy **milk**.\n[End of a.html]",
        ),
        (
            "a.pdf",
            "application/pdf",
            include_bytes!("../../src/documents/formats/tests/small.pdf").to_vec(),
            "[Attached file: a.pdf]\nThe secret word is heliotrope.\nSecond line.\n\nPage two.\n[End of a.pdf]",
        ),
        (
            "a.xls",
            "application/vnd.ms-excel",
            include_bytes!("../../src/documents/formats/tests/old.xls").to_vec(),
            "[Attached file: a.xls]\n## Old\n\n| name | n |\n| --- | --- |\n| ada | 7 |\n[End of a.xls]",
        ),
    ] {
        let chat = json!({"type": "file", "file": {"file_data": data_url(mime, &bytes), "filename": name}});
        let source = json!({"type": "base64", "media_type": mime, "data": STANDARD.encode(&bytes)});
        let messages = json!({"type": "document", "title": name, "source": source});
        for (route, ask) in asks(&chat, &messages) {
            gateway.post(&key, route, ask.to_string()).await;
            let got = texts(&provider);
            assert!(got.contains(want), "{route} {name}: {got}");
            assert!(got.contains("see") && !got.contains(&STANDARD.encode(&bytes)), "{got}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_model_takes_by_itself_reaches_it_byte_for_byte() {
    let provider = Provider::answers(200, completion("ok"));
    let gateway = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0).await;
    gateway.user("u", None).await;
    let key = gateway.key("u").await;
    let part = json!({"invented": 1.50, "type": "file", "file": {"file_data": data_url("text/plain", b"Buy milk."), "x": null}});
    let image = json!({"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}});
    let ask = json!({"model": "p:m", "messages": [{"role": "user", "content": [part, image]}]});
    gateway.chat(&key, &ask).await.expect(200);
    let got = provider.only().text();
    let sent = ask.to_string();
    let content = &sent[sent.find("\"messages\"").unwrap()..];
    assert!(got.contains(content.trim_end_matches('}')), "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_is_said_to_be_left_out() {
    let provider = Provider::answers(200, completion("ok"));
    let gateway =
        Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0).config(BLIND).await;
    gateway.user("u", None).await;
    let key = gateway.key("u").await;
    let deep = "<div>".repeat(500_000);
    for (part, want) in [
        (
            json!({"type": "image_url", "image_url": {"url": PIXEL}}),
            "[Unprocessable image attachment omitted]",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "https://e.test/a.png"}}),
            "[Unprocessable image attachment omitted]",
        ),
        (
            json!({"type": "file", "file": {"file_data": data_url("text/html", deep.as_bytes())}}),
            "[Unprocessable document attachment omitted]",
        ),
        (
            json!({"type": "file", "file": {"file_data": data_url("application/pdf", b"%PDF-1.4")}}),
            "[Unprocessable document attachment omitted]",
        ),
        (json!({"type": "file", "file": {"file_id": "file-providers-own"}}), "file-providers-own"),
    ] {
        let ask = json!({"model": "p:m", "messages": [{"role": "user", "content": [part]}]});
        gateway.chat(&key, &ask).await.expect(200);
        let got = texts(&provider);
        assert!(got.contains(want), "{got}");
    }
    let off = json!({"file_understanding_enabled": false});
    gateway.manage(Method::PATCH, "/v1/settings", off).await;
    let image = json!({"type": "image_url", "image_url": {"url": PIXEL}});
    let ask = json!({"model": "p:m", "messages": [{"role": "user", "content": [image]}]});
    gateway.chat(&key, &ask).await.expect(200);
    assert!(texts(&provider).contains(PIXEL), "switched off, everything goes on as it came");
}

async fn text_that_does_not_fit_the_budget_is_refused_and_nothing_stays_held(start: Builder) {
    let provider = Provider::answers(200, completion("ok"));
    // A dollar for a thousand tokens of the prompt; a file alone is held as 1,600 tokens.
    let gateway = start.provider("p", &provider).price("p:m", 1000.0, 0.0).config(BLIND).await;
    let budget = gateway.budget(10.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let ask = |words: usize| {
        let file = data_url("application/x", &word(&"milk ".repeat(words)));
        let part = json!({"type": "file", "file": {"file_data": file, "filename": "a.docx"}});
        json!({"model": "p:m", "messages": [{"role": "user", "content": [part]}]})
    };
    let refused = gateway.chat(&key, &ask(20_000)).await.refused_for_good(403);
    assert_eq!(refused["detail"], "User 'u' has exceeded budget limit", "{refused}");
    assert_eq!(provider.count(), 0, "nothing was asked");
    assert!(gateway.settled("u").await.abs() < 1e-9, "no spend, and no hold is left");
    gateway.chat(&key, &ask(2_000)).await.expect(200);
    assert_eq!(provider.count(), 1);
}

/// Uploads a file; returns its id.
async fn upload(gateway: &Gateway, key: &str, name: &str, bytes: &[u8]) -> String {
    let mut form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
    )
    .into_bytes();
    form.extend_from_slice(bytes);
    form.extend_from_slice(b"\r\n--b--\r\n");
    let bearer = format!("Bearer {key}");
    let headers =
        [("content-type", "multipart/form-data; boundary=b"), ("authorization", bearer.as_str())];
    let answer = gateway.send(Method::POST, "/v1/files", &headers, form).await.expect(200);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn a_stored_file_is_put_into_the_requests_of_its_owner(start: Builder) {
    let provider = Provider::answers(200, completion("ok"));
    let start = start.provider("p", &provider).provider("q", &provider);
    let start = start.price("p:m", 1.0, 1.0).price("q:m", 1.0, 1.0);
    let gateway = start.config("model_capabilities: {'q:m': {supports_image: false}}").await;
    let (key, other) = (gateway.key("u").await, gateway.key("v").await);
    let id = upload(&gateway, &key, "a.docx", &word("Buy milk.")).await;
    let chat = json!({"type": "file", "file": {"file_id": id}});
    let messages = json!({"type": "document", "source": {"type": "file", "file_id": id}});
    let inline = data_url(
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        &word("Buy milk."),
    );
    for (route, mut ask) in asks(&chat, &messages) {
        gateway.post(&key, route, ask.to_string()).await;
        let got = texts(&provider);
        let base64 = inline.split(',').nth(1).expect("a data URL");
        assert!(
            got.contains(base64) && !got.contains(&id),
            "{route}: a model that takes it: {got}"
        );
        ask["model"] = "q:m".into();
        gateway.post(&key, route, ask.to_string()).await;
        let got = texts(&provider);
        assert!(
            got.contains("[Attached file: a.docx]\nBuy milk."),
            "{route}: one that does not: {got}"
        );
    }
    let ask = json!({"model": "p:m", "messages": [{"role": "user", "content": [chat]}]});
    gateway.chat(&other, &ask).await.expect(200);
    let got = texts(&provider);
    assert!(got.contains(&id) && !got.contains("milk"), "nobody else's: {got}");
}

/// A provider that describes images, and one that is asked.
fn painter_and_blind() -> (Provider, Provider) {
    let eye = Provider::start(|request| {
        if request.json()["model"] == "broken" {
            return Reply::json(500, &json!({"error": {"message": "no eyes"}}));
        }
        Reply::json(200, &completion("A red cat."))
    });
    (eye, Provider::answers(200, completion("ok")))
}

async fn an_image_is_described_for_a_model_that_cannot_see(start: Builder) {
    let (eye, blind) = painter_and_blind();
    let gateway = start
        .provider("v", &eye)
        .provider("p", &blind)
        .price("p:m", 1000.0, 2000.0)
        .price("v:eye", 1000.0, 2000.0)
        .config(BLIND)
        .config("vision_describe_model: 'v:eye'\nrate_limit_rpm: 3")
        .await;
    gateway
        .manage(Method::POST, "/v1/users", json!({"user_id": "u", "allowed_models": ["p:m"]}))
        .await;
    let key = gateway.key("u").await;
    let image = json!({"type": "image_url", "image_url": {"url": PIXEL}});
    let source = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
    let messages = json!({"type": "image", "source": source});
    for (at, (route, ask)) in asks(&image, &messages).into_iter().enumerate() {
        gateway.post(&key, route, ask.to_string()).await.expect(200);
        let got = texts(&blind);
        assert!(got.contains("[Attached image description]\nA red cat."), "{route}: {got}");
        assert!(!got.contains("iVBORw0KGgo="), "{route}: {got}");
        let seen = eye.requests().pop().expect("it was asked").json();
        assert_eq!(seen["model"], "eye");
        assert_eq!(seen["messages"][0]["content"][1]["image_url"]["url"], PIXEL, "{route}");
        let rows = gateway.usage(2 * (at + 1)).await;
        let models: Vec<&Value> = rows[..2].iter().map(|row| &row["model"]).collect();
        assert!(models.contains(&&json!("eye")) && models.contains(&&json!("m")), "{rows:?}");
        for row in &rows[..2] {
            assert_eq!((&row["endpoint"], &row["user_id"]), (&json!(route), &json!("u")));
            assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(0.02)));
        }
        let spend = gateway.settled("u").await;
        assert!((spend - 0.04 * (at + 1) as f64).abs() < 1e-9, "both are paid for: {spend}");
    }
}

async fn an_image_that_nobody_can_describe_is_left_out(start: Builder) {
    let (eye, blind) = painter_and_blind();
    let gateway = start
        .provider("v", &eye)
        .provider("p", &blind)
        .price("p:m", 1.0, 1.0)
        .price("v:broken", 1.0, 1.0)
        .config(BLIND)
        .config("vision_describe_model: 'v:broken'")
        .await;
    let key = gateway.key("u").await;
    let image = json!({"type": "image_url", "image_url": {"url": PIXEL}});
    let ask = json!({"model": "p:m", "messages": [{"role": "user", "content": [image]}]});
    gateway.chat(&key, &ask).await.expect(200);
    let got = texts(&blind);
    assert!(got.contains("[Unprocessable image attachment omitted]"), "{got}");
    assert_eq!(eye.count(), 1, "once, and not for ever");
    gateway.usage(2).await;
}

async fn each_attempt_gets_what_its_model_can_take(start: Builder) {
    let sees = Provider::answers(500, json!({"error": {"message": "down"}}));
    let (eye, blind) = painter_and_blind();
    let policy = "routing:\n  policies:\n    safe:\n      select: [{default: \"s:m\"}]\n      on_failure: [\"p:m\"]";
    let gateway = start
        .provider("v", &eye)
        .provider("p", &blind)
        .provider("s", &sees)
        .config("require_pricing: false")
        .config(BLIND)
        .config("vision_describe_model: 'v:eye'")
        .config(policy)
        .await;
    let key = gateway.key("u").await;
    let image = json!({"type": "image_url", "image_url": {"url": PIXEL}});
    let ask = json!({"model": "safe", "messages": [{"role": "user", "content": [image]}]});
    gateway.chat(&key, &ask).await.expect(200);
    assert!(texts(&sees).contains(PIXEL), "the first one sees");
    assert!(texts(&blind).contains("[Attached image description]\nA red cat."));
    let rows = gateway.usage(3).await;
    let absorbed = rows.iter().filter(|row| row["status"] == "absorbed").count();
    assert_eq!(absorbed, 1, "{rows:#?}");
}

on_both_databases!(
    text_that_does_not_fit_the_budget_is_refused_and_nothing_stays_held,
    a_stored_file_is_put_into_the_requests_of_its_owner,
    an_image_is_described_for_a_model_that_cannot_see,
    an_image_that_nobody_can_describe_is_left_out,
    each_attempt_gets_what_its_model_can_take,
);
