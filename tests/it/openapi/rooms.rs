//! Calls of the operations beside generation: embeddings and their kin, files, search, batches.

use serde_json::{Value, json};

use super::proof::{Call, Proof};
use super::{of, with};
use crate::support::gateway::Gateway;
use crate::support::provider::{Provider, Reply};

pub(super) async fn operations(proof: &mut Proof, gateway: &Gateway) {
    gateway.user("x", None).await;
    let key = gateway.key("x").await;
    for route in crate::operations::routes() {
        let id = route.operation();
        let asking = |model: &str, more: Value| {
            let (kind, sent) = route.body(model, more);
            let call = match kind.as_str() {
                "application/json" => with(serde_json::from_slice(&sent).expect("JSON")),
                _ => Call { form: Some((kind, sent)), ..Call::default() },
            };
            Call { key: Some(&key), ..call }
        };
        let own = |model: &str| route.model(model);
        proof.call(gateway, id, asking(&own("m"), json!({}))).await.expect(200);
        proof.expect(gateway, 429, id, asking(&own("busy"), json!({}))).await;
        proof.expect(gateway, 502, id, asking(&own("broken"), json!({}))).await;
        proof.expect(gateway, 400, id, asking("a:m", json!({}))).await;
        if proof.operation(id).declares(402) {
            proof.expect(gateway, 402, id, asking(&own("unpriced"), json!({}))).await;
        }
        if proof.operation(id).declares(413) {
            let form = crate::operations::form(Some(("a", &vec![0; (25 << 20) + 1])), &[]);
            let call = Call { form: Some(form), key: Some(&key), ..Call::default() };
            proof.expect(gateway, 413, id, call).await;
        }
        proof.expect(gateway, 403, id, asking(&own("m"), json!({"user": "w"}))).await;
        let call = asking(&own("m"), json!({"user": "nobody"}));
        proof.expect(gateway, 404, id, Call { key: None, ..call }).await;
        proof.expect(gateway, 422, id, with(json!({}))).await;
    }
}

/// A form with the boundary `b`.
fn b(form: &str) -> Option<(String, Vec<u8>)> {
    Some(("multipart/form-data; boundary=b".into(), form.into()))
}

pub(super) async fn files(proof: &mut Proof, gateway: &Gateway) {
    let key = &gateway.key("reader").await;
    gateway.key("somebody").await;
    let form = |fields: &[(&str, &str)]| {
        let parts = fields.iter().map(|(name, text)| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        });
        parts.collect::<String>() + "--b--\r\n"
    };
    let whole = [
        ("file", "0123456789"),
        ("purpose", "p"),
        ("user", "reader"),
        ("expires_after[anchor]", "created_at"),
        ("expires_after[seconds]", "3600"),
    ];
    let whole = form(&whole);
    let made = Call { form: b(&whole), ..Call::default() };
    let made = proof.expect(gateway, 200, "create_file", made).await;
    let id = made["id"].as_str().unwrap();
    let long = "x".repeat(200);
    for (status, fields) in [
        (400, [("file", ""), ("purpose", "p")]),
        (403, [("file", "x"), ("user", "somebody")]),
        (413, [("file", long.as_str()), ("purpose", "p")]),
        (422, [("purpose", "p"), ("user", "reader")]),
    ] {
        let call = Call { form: b(&form(&fields)), key: Some(key), ..Call::default() };
        proof.expect(gateway, status, "create_file", call).await;
    }
    let nobody = form(&[("file", "x"), ("user", "nobody")]);
    let call = Call { form: b(&nobody), ..Call::default() };
    proof.expect(gateway, 404, "create_file", call).await;

    let of_reader = Call { key: Some(key), ..of(id) };
    let query = "user=reader&purpose=p&limit=5&order=asc";
    proof.expect(gateway, 200, "list_files", Call { query, ..Call::default() }).await;
    proof.expect(gateway, 200, "get_file", of_reader.clone()).await;
    proof.call(gateway, "get_file_content", of_reader.clone()).await.expect(200);
    let headers = &[("range", "bytes=20-")];
    proof.expect(gateway, 416, "get_file_content", Call { headers, ..of_reader.clone() }).await;
    for id in ["list_files", "get_file", "get_file_content", "delete_file"] {
        let call = of("file-x");
        proof.expect(gateway, 400, id, call.clone()).await;
        let call = Call { query: "user=somebody", key: Some(key), ..call };
        proof.expect(gateway, 403, id, call).await;
    }
    proof.expect(gateway, 200, "delete_file", of_reader).await;
}

/// Searches, before an engine that is told by the query what to do.
pub(super) async fn searches(proof: &mut Proof) {
    let engine = Provider::start(|request| match request.json()["query"].as_str() {
        Some("slow") => Reply::silence(),
        Some("broken") => Reply::json(500, &json!({"error": "broken"})),
        _ => Reply::json(200, &json!({"results": [{"url": "https://a.example", "title": "A"}]})),
    });
    let tools = format!(
        "search_tools: {{exa: {{api_base: \"{}\", api_key: k, timeout: 0.3}}}}",
        engine.base()
    );
    let gateway = Gateway::start().config(&tools).await;
    gateway.user("s", None).await;
    let key = gateway.key("s").await;
    let limited = Gateway::start().config(&tools).config("rate_limit_rpm: 1").await;
    limited.user("s", None).await;
    let limited_key = limited.key("s").await;
    for id in ["search", "search_with_tool"] {
        let asking = |query: &str| Call {
            body: json!({"query": query, "max_results": 3, "country": "DE", "user": null,
                "search_domain_filter": ["a.example", "-b.example"], "max_tokens_per_page": 9}),
            key: Some(&key),
            ..of("exa")
        };
        for (status, query) in [(200, "cats"), (502, "broken"), (504, "slow")] {
            proof.expect(&gateway, status, id, asking(query)).await;
        }
        let body = json!({"query": "x", "search_tool_name": "other"});
        proof.expect(&gateway, 400, id, Call { body, ..of("another") }).await;
        let body = json!({"query": "x", "user": "nobody"});
        proof.expect(&gateway, 404, id, Call { body, ..of("exa") }).await;
        let mut refusal = json!(null);
        for _ in 0..2 {
            let call = Call { key: Some(&limited_key), ..asking("cats") };
            let answer = proof.call(&limited, id, call).await;
            refusal = json!(answer.status);
        }
        assert_eq!(refusal, 429);
    }
    gateway.patch("/v1/users/s", json!({"blocked": true})).await;
    for id in ["search", "search_with_tool"] {
        let body = json!({"query": "x"});
        let call = Call { body, key: Some(&key), ..of("exa") };
        proof.expect(&gateway, 403, id, call).await;
    }
}

pub(super) async fn batches(proof: &mut Proof, gateway: &Gateway) {
    gateway.user("y", None).await;
    let key = gateway.key("y").await;
    let order = |model: &str| {
        json!({"model": model, "completion_window": "24h", "metadata": {"k": "v"}, "requests": [
            {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "hi"}]}}]})
    };
    let by = |body: Value| Call { body, key: Some(&key), ..Call::default() };
    for (status, model) in
        [(400, "nowhere:m"), (402, "g:unpriced"), (429, "p:busy"), (502, "p:broken")]
    {
        proof.expect(gateway, status, "create_batch", by(order(model))).await;
    }
    let mut nobodys = order("g:m");
    nobodys["user"] = json!("nobody");
    proof.expect(gateway, 404, "create_batch", with(nobodys)).await;
    let made = proof.expect(gateway, 200, "create_batch", by(order("g:m"))).await;
    let made = made["id"].as_str().unwrap();
    proof.expect(gateway, 200, "list_batches", by(Value::Null)).await;
    let query = "provider=g&after=none&limit=5";
    proof.expect(gateway, 200, "list_batches", Call { query, ..by(Value::Null) }).await;
    proof.expect(gateway, 200, "get_batch", of(made)).await;
    proof.expect(gateway, 409, "get_batch_results", of(made)).await;
    proof.expect(gateway, 200, "cancel_batch", of(made)).await;
    proof.expect(gateway, 200, "get_batch_results", of(made)).await;
    for id in ["list_batches", "get_batch", "cancel_batch", "get_batch_results"] {
        for (status, query) in [(400, "provider=nobody"), (502, "provider=p")] {
            proof.expect(gateway, status, id, Call { query, ..of("b1") }).await;
        }
    }
    gateway.patch("/v1/users/y", json!({"blocked": true})).await;
    proof.expect(gateway, 403, "create_batch", by(order("g:m"))).await;
}
