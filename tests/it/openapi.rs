//! `/openapi.json` is true: every route answers as its schema says, and reads the fields that it declares.

use std::collections::BTreeSet;

use otari::routes::ROUTES;
use reqwest::Method;
use serde_json::{Value, json};

use self::proof::{Call, Proof};
use crate::support::format::{self, FORMATS, Format};
use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Provider, Reply};
use crate::support::sdk::Sdk;
use crate::support::{ask, eventually, on_both_databases, priced};

mod proof;
mod rooms;
mod wrong;

/// A call with this body.
fn with(body: Value) -> Call<'static> {
    Call { body, ..Call::default() }
}

/// A call of what is named in the path.
fn of(id: &str) -> Call<'_> {
    Call { id, ..Call::default() }
}

async fn every_route_answers_as_its_schema_says(start: Builder) {
    let provider = Provider::start(|request| match request.json()["model"].as_str() {
        Some("busy") => Reply::json(429, &json!({"error": {"message": "slow down"}})),
        _ if crate::operations::is_one(request) => crate::operations::answers(request),
        Some("m") if request.path.ends_with("/chat/completions") => Reply::chat(request, &["ok"]),
        Some("m") => format::of(request).reply(request, &["ok"]),
        None if request.text().contains("\"model\":\"busy\"") => {
            Reply::json(429, &json!({"error": {"message": "slow down"}}))
        }
        _ => Reply::json(500, &json!({"error": {"message": "broken"}})),
    });
    let mut start = format::both(priced(start, &provider), &provider);
    let root = format!("http://{}", provider.addr());
    start = start.provider_of("cohere", "c", &root, "").price("c:m", 1.0, 1.0);
    for name in ["p", "a", "o", "c"] {
        let price = |model: &str| format!("{name}:{model}");
        start = start.price(&price("busy"), 1.0, 1.0).price(&price("broken"), 1.0, 1.0);
    }
    let start = start.provider_of("groq", "g", &provider.base(), "").price("g:m", 1.0, 1.0);
    // Nobody runs the items of batches: each stays as it is asked for.
    let gateway =
        start.config("enable_metrics: true\nfiles_max_bytes: 100\nbatch_concurrency: 0").await;
    let mut proof = Proof::new(gateway.get("/openapi.json").await.expect(200).json());
    pages(&mut proof, &gateway).await;
    management(&mut proof, &gateway).await;
    prices_and_names(&mut proof, &gateway).await;
    generations(&mut proof, &gateway).await;
    rooms::operations(&mut proof, &gateway).await;
    rooms::files(&mut proof, &gateway).await;
    rooms::searches(&mut proof).await;
    rooms::batches(&mut proof, &gateway).await;
    without_a_good_key(&mut proof, &gateway).await;
    without_what_is_named(&mut proof, &gateway).await;
    with_wrong_fields(&mut proof, &gateway).await;
    switched_off_and_leaving(&mut proof).await;
    let unseen = proof.unseen();
    assert!(
        unseen.is_empty(),
        "the document declares it, and nothing here provokes it: add a call, or take it out of the operation\n{}",
        unseen.join("\n")
    );
}

async fn pages(proof: &mut Proof, gateway: &Gateway) {
    for id in ["home", "openapi", "docs", "redoc", "docs_script", "health", "liveness"] {
        proof.expect(gateway, 200, id, Call::default()).await;
    }
    for id in ["readiness", "metrics"] {
        proof.expect(gateway, 200, id, Call::default()).await;
    }
    proof.expect(gateway, 405, "responses_socket", Call::default()).await;
    let headers = &[("upgrade", "websocket"), ("connection", "upgrade")];
    proof.expect(gateway, 426, "responses_socket", Call { headers, ..Call::default() }).await;
}

async fn management(proof: &mut Proof, gateway: &Gateway) {
    let budget = json!({"name": "b", "max_budget": 5, "budget_duration_sec": 60});
    let budget = proof.expect(gateway, 200, "create_budget", with(budget)).await;
    let budget = budget["budget_id"].as_str().unwrap();
    let both = json!({"budget_duration_sec": 60, "reset_alignment": "calendar_day"});
    proof.expect(gateway, 400, "create_budget", with(both.clone())).await;
    let body = json!({"name": null, "max_budget": 6});
    proof.expect(gateway, 200, "update_budget", Call { body, ..of(budget) }).await;
    proof.expect(gateway, 400, "update_budget", Call { body: both, ..of(budget) }).await;
    proof.expect(gateway, 200, "get_budget", of(budget)).await;

    let body = json!({"user_id": "u", "alias": "U", "budget_id": budget, "allowed_models": ["p:*"],
        "blocked": false, "metadata": {"any": [1]}});
    proof.expect(gateway, 200, "create_user", with(body.clone())).await;
    proof.expect(gateway, 409, "create_user", with(body)).await;
    let body = json!({"user_id": "v", "allowed_models": [""]});
    proof.expect(gateway, 400, "create_user", with(body)).await;
    let body = json!({"user_id": "v", "budget_id": "none"});
    proof.expect(gateway, 404, "create_user", with(body)).await;
    let body = json!({"alias": null, "metadata": {}});
    proof.expect(gateway, 200, "update_user", Call { body, ..of("u") }).await;
    let body = json!({"allowed_models": [""]});
    proof.expect(gateway, 400, "update_user", Call { body, ..of("u") }).await;
    proof.expect(gateway, 200, "get_user", of("u")).await;
    proof
        .expect(gateway, 200, "list_users", Call { query: "skip=0&limit=5", ..Call::default() })
        .await;

    let body = json!({"key_name": "k", "user_id": "u", "expires_at": "2090-01-01T00:00:00Z",
        "metadata": {"a": null}, "allowed_models": ["p:m"], "exclude_from_budget": true,
        "reject_user_mismatch": false});
    let key = proof.expect(gateway, 200, "create_key", with(body)).await;
    let key = key["id"].as_str().unwrap();
    let body = json!({"user_id": "u", "allowed_models": ["*"]});
    proof.expect(gateway, 400, "create_key", with(body)).await;
    let body = json!({"is_active": false, "expires_at": null});
    proof.expect(gateway, 200, "update_key", Call { body, ..of(key) }).await;
    let body = json!({"allowed_models": ["*"]});
    proof.expect(gateway, 400, "update_key", Call { body, ..of(key) }).await;
    proof.expect(gateway, 200, "rotate_key", of(key)).await;
    proof.expect(gateway, 200, "get_key", of(key)).await;
    proof.expect(gateway, 200, "list_keys", Call::default()).await;
    proof.expect(gateway, 200, "create_user", with(json!({"user_id": "gone"}))).await;
    proof.expect(gateway, 204, "delete_user", of("gone")).await;
    proof.expect(gateway, 404, "create_key", with(json!({"user_id": "gone"}))).await;

    let ceiling = json!({"scope_type": "api_token", "scope_id": key, "provider_key_id": "p",
        "budget_id": budget, "name": "c"});
    let made = proof.expect(gateway, 200, "create_scoped_budget", with(ceiling.clone())).await;
    proof.expect(gateway, 409, "create_scoped_budget", with(ceiling)).await;
    let body = json!({"scope_type": "api_token", "scope_id": "none", "budget_id": budget});
    proof.expect(gateway, 404, "create_scoped_budget", with(body)).await;
    let id = made["id"].as_str().unwrap();
    let body = json!({"name": null});
    proof.expect(gateway, 200, "update_scoped_budget", Call { body, ..of(id) }).await;
    proof.expect(gateway, 200, "get_scoped_budget", of(id)).await;
    let query = "scope_type=api_token&limit=9";
    proof.expect(gateway, 200, "list_scoped_budgets", Call { query, ..Call::default() }).await;
    proof.expect(gateway, 409, "delete_budget", of(budget)).await;
    proof.expect(gateway, 204, "delete_scoped_budget", of(id)).await;

    proof.expect(gateway, 204, "delete_key", of(key)).await;
    proof.expect(gateway, 200, "list_budgets", Call::default()).await;
    proof.expect(gateway, 200, "list_budget_resets", of(budget)).await;
    proof.expect(gateway, 204, "delete_budget", of(budget)).await;
    proof.expect(gateway, 200, "get_settings", Call::default()).await;
    let body = json!({"require_pricing": true, "stream_missing_usage_policy": null});
    proof.expect(gateway, 200, "update_settings", with(body)).await;
    proof.expect(gateway, 409, "rotate_master_key", Call::default()).await;
    audit_log(proof, gateway).await;
}

async fn audit_log(proof: &mut Proof, gateway: &Gateway) {
    let query = "start_date=2020-01-01T00:00:00Z&end_date=2999-01-01T00:00:00Z&actor=master_key&actor_id=x\
                 &action=user.delete&object_kind=user&object_id=gone&request_id=x&skip=0&limit=5";
    proof.expect(gateway, 200, "list_audit_log", Call { query, ..Call::default() }).await;
    let query = "object_kind=user";
    let noted =
        proof.expect(gateway, 200, "list_audit_log", Call { query, ..Call::default() }).await;
    assert!(noted.as_array().is_some_and(|rows| rows.len() > 1), "{noted}");
}

async fn prices_and_names(proof: &mut Proof, gateway: &Gateway) {
    let tier = json!({"min_input_tokens": 1000, "input_price_per_million": 2});
    let body = json!({"model_key": "p/a/b", "input_price_per_million": 1.5, "output_price_per_million": 2,
        "cache_read_price_per_million": 0.5, "effective_at": "2020-01-01T00:00:00+00:00",
        "pricing_tiers": [tier]});
    proof.expect(gateway, 200, "set_price", with(body)).await;
    proof.expect(gateway, 200, "list_prices", Call::default()).await;
    proof.expect(gateway, 200, "list_price_history", of("p:a/b")).await;
    let query = "as_of=2021-01-01T00:00:00Z";
    proof.expect(gateway, 200, "get_price", Call { query, ..of("p:a/b") }).await;
    proof.expect(gateway, 204, "delete_price", of("p:a/b")).await;

    let body = json!({"name": "fast", "target": "p:m", "user_id": null});
    proof.expect(gateway, 200, "set_alias", with(body)).await;
    let body = json!({"name": "slow", "target": "p:m", "user_id": "none"});
    proof.expect(gateway, 404, "set_alias", with(body)).await;
    let body = json!({"name": "p:x", "target": "p:m"});
    proof.expect(gateway, 400, "set_alias", with(body)).await;
    let body =
        json!({"model_key": "fast", "input_price_per_million": 1, "output_price_per_million": 2});
    proof.expect(gateway, 400, "set_price", with(body)).await;
    proof.expect(gateway, 200, "list_aliases", Call::default()).await;
    proof.expect(gateway, 200, "list_tools", Call::default()).await;
    proof
        .expect(gateway, 200, "list_models", Call { query: "provider=p", ..Call::default() })
        .await;
    let anthropic = [("anthropic-version", "2023-06-01")];
    proof
        .expect(gateway, 200, "list_models", Call { headers: &anthropic, ..Call::default() })
        .await;
    proof.expect(gateway, 200, "get_model", of("p:m")).await;
    proof.expect(gateway, 200, "get_model", Call { headers: &anthropic, ..of("p/m") }).await;
    for id in ["list_discoverable_models", "get_models_metadata"] {
        proof.expect(gateway, 200, id, Call::default()).await;
    }
    proof.expect(gateway, 204, "delete_alias", of("fast")).await;
}

async fn generations(proof: &mut Proof, gateway: &Gateway) {
    gateway.user("w", None).await;
    let key = gateway.key("w").await;
    let [messages, responses] = FORMATS.map(Format::ask);
    let asks = [
        ("create_chat_completion", "p", ask()),
        ("create_message", "a", messages),
        ("create_response", "o", responses),
    ];
    for (id, provider, ask) in &asks {
        let asking = |fields: Value| {
            let mut body = ask.clone();
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            Call { body, key: Some(&key), ..Call::default() }
        };
        proof.expect(gateway, 200, id, asking(json!({"future_field": 1}))).await;
        let streamed = proof.call(gateway, id, asking(json!({"stream": true}))).await;
        assert!(streamed.header("content-type").unwrap().starts_with("text/event-stream"));
        for (status, model) in [(402, "unpriced"), (429, "busy"), (502, "broken")] {
            let model = format!("{provider}:{model}");
            proof.expect(gateway, status, id, asking(json!({"model": model}))).await;
        }
        let nobody = json!({"user": "nobody", "metadata": {"user_id": "nobody"}});
        let call = Call { key: None, ..asking(nobody) };
        proof.expect(gateway, 404, id, call).await;
        proof.expect(gateway, 400, id, with(ask.clone())).await;
    }
    let count = json!({"model": "m", "messages": [{"role": "user", "content": "Hello, world!"}]});
    let counted = proof.expect(gateway, 200, "count_message_tokens", with(count)).await;
    assert_eq!(counted, json!({"input_tokens": 12}));
    gateway.patch("/v1/users/w", json!({"blocked": true})).await;
    for (id, _, body) in asks {
        let call = Call { body, key: Some(&key), ..Call::default() };
        proof.expect(gateway, 403, id, call).await;
    }
    proof.expect(gateway, 200, "list_usage", Call { query: "user_id=w", ..Call::default() }).await;
    let filters = "status=error&status_code=403&user_id=w&user_id=v&priced=false";
    let filtered = Call { query: filters, ..Call::default() };
    proof.expect(gateway, 200, "count_usage", filtered.clone()).await;
    for id in ["summarize_usage", "usage_series"] {
        proof.expect(gateway, 200, id, Call::default()).await;
        proof.expect(gateway, 200, id, filtered.clone()).await;
    }
    let query = "bucket=hour&start_date=2020-01-01&end_date=2021-01-01";
    proof.expect(gateway, 422, "usage_series", Call { query, ..Call::default() }).await;
    let query = "dimensions=user&dimensions=model&bucket=hour";
    proof.call(gateway, "summarize_usage_csv", Call { query, ..Call::default() }).await;
    proof.expect(gateway, 200, "list_calls_in_flight", Call::default()).await;
    let rows = proof.expect(gateway, 200, "list_user_usage", of("w")).await;
    assert!(rows.as_array().is_some_and(|rows| !rows.is_empty()), "rows to look at: {rows}");
}

/// Every operation that needs a key, without one, with a wrong one, and, if only the master may, with an API key.
async fn without_a_good_key(proof: &mut Proof, gateway: &Gateway) {
    let key = gateway.key("somebody").await;
    for (id, operation) in proof.operations.clone() {
        if !operation.is_guarded() {
            assert!(!operation.declares(401), "{id}");
            continue;
        }
        let only_master = operation.shown["description"] == "The master key.";
        for wrong in ["", "gw-wrong", key.as_str()] {
            let call = Call { key: Some(wrong), ..of("x") };
            let answer = proof.call(gateway, &id, call).await;
            assert_eq!(answer.status == 401, wrong != key || only_master, "{id} with `{wrong}`");
        }
    }
}

/// Every operation on something that is not there.
async fn without_what_is_named(proof: &mut Proof, gateway: &Gateway) {
    for (id, operation) in proof.operations.clone() {
        // A tool that is not there is no path that is not there, as in the reference.
        if operation.variable().is_some() && id != "search_with_tool" {
            assert!(operation.declares(404), "{id} of something that may not be there");
            let body = operation.body().map(|_| json!({})).unwrap_or_default();
            // The master key says whose files it asks for; of a batch nobody knows its provider must be said.
            let names_user = operation.query().iter().any(|one| one["name"] == "user");
            let query = match names_user {
                true => "user=somebody",
                false if id.contains("batch") => "provider=p",
                false => "",
            };
            let call = Call { body, query, ..of("nothing:there") };
            proof.expect(gateway, 404, &id, call).await;
        }
    }
}

/// Every declared field with every kind of value that is declared to be wrong: the answer names the field.
async fn with_wrong_fields(proof: &mut Proof, gateway: &Gateway) {
    let mut tried = 0;
    for (id, operation) in proof.operations.clone() {
        if let Some(name) = operation.variable() {
            let refusal = proof.expect(gateway, 422, &id, of("a%00")).await;
            assert_eq!(refusal["detail"][0]["loc"], json!(["path", name]), "{id}");
        }
        for (name, query) in wrong::queries(&operation) {
            let call = Call { query: &query, ..of("x") };
            let refusal = proof.expect(gateway, 422, &id, call).await;
            assert_eq!(refusal["detail"][0]["loc"], json!(["query", name]), "{id} {query}");
            tried += 1;
        }
        let Some(schema) = operation.body() else { continue };
        let refusal = proof.expect(gateway, 422, &id, Call { body: json!([]), ..of("x") }).await;
        assert_eq!(refusal["detail"][0]["loc"], json!(["body"]), "{id}");
        tried += fields(proof, gateway, &id, schema).await;
    }
    assert!(tried > 100, "the fields were not found: {tried}");
}

async fn fields(proof: &mut Proof, gateway: &Gateway, id: &str, schema: &Value) -> usize {
    let base = wrong::valid(schema);
    let mut tried = 0;
    for (name, field) in schema["properties"].as_object().expect("fields") {
        for (value, place) in wrong::values(field) {
            let mut body = base.clone();
            body[name] = value;
            let loc = [vec![json!("body"), json!(name)], place].concat();
            let what = format!("{id} {body}");
            let refusal = proof.expect(gateway, 422, id, Call { body, ..of("x") }).await;
            assert!(has_fault(&refusal, &loc), "{what}: {loc:?} is not named: {refusal}");
            tried += 1;
        }
        let nullable = field["type"].as_array().is_some_and(|kinds| kinds.contains(&json!("null")));
        if nullable {
            let mut body = base.clone();
            body[name] = Value::Null;
            let answer = proof.call(gateway, id, Call { body, ..of("x") }).await;
            let refusal: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let loc = [json!("body"), json!(name)];
            assert!(!has_fault(&refusal, &loc), "{id} {name}: null is declared: {refusal}");
        }
    }
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for name in required {
        let refusal = proof.expect(gateway, 422, id, Call { body: json!({}), ..of("x") }).await;
        assert!(has_fault(&refusal, &[json!("body"), name.clone()]), "{id} without {name}");
    }
    if schema["additionalProperties"] == false {
        let body = json!({"no_such_field": 1});
        let refusal = proof.expect(gateway, 422, id, Call { body, ..of("x") }).await;
        assert!(has_fault(&refusal, &[json!("body"), json!("no_such_field")]), "{id}: {refusal}");
    }
    tried
}

/// Whether `detail` has a fault at this place.
fn has_fault(refusal: &Value, loc: &[Value]) -> bool {
    let faults = refusal["detail"].as_array().map(Vec::as_slice).unwrap_or_default();
    faults.iter().any(|fault| fault["loc"].as_array().is_some_and(|at| at == loc))
}

/// A gateway with a master key of its own making, without these pages, on its way out.
async fn switched_off_and_leaving(proof: &mut Proof) {
    let start = Gateway::start().config("master_key: null\nenable_docs: false\nlame_duck_s: 20");
    let gateway = start.await;
    for id in ["openapi", "docs", "redoc", "docs_script", "metrics"] {
        proof.expect(&gateway, 404, id, Call::default()).await;
    }
    let key = crate::settings::shown(&gateway).await;
    let call = Call { key: Some(&key), ..Call::default() };
    proof.expect(&gateway, 200, "rotate_master_key", call).await;
    gateway.signal_term();
    eventually("the gateway to say that it leaves", async || {
        (gateway.get("/health").await.status == 503).then_some(())
    })
    .await;
    proof.expect(&gateway, 503, "health", Call::default()).await;
    proof.expect(&gateway, 503, "readiness", Call::default()).await;
    let mut gateway = gateway;
    gateway.kill9();
}

#[tokio::test]
async fn the_document_is_one_and_names_every_route() {
    let gateway = Gateway::start().await;
    let document = gateway.get("/openapi.json").await.expect(200);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, &document.body).unwrap();
    let version = Sdk::Python.run("openapi", &[file.to_str().unwrap()]);
    assert_eq!(version, "3.1.0");

    let proof = Proof::new(document.json());
    assert_eq!(proof.document["info"]["title"], "otari");
    for (name, schema) in proof.document["components"]["schemas"].as_object().unwrap() {
        proof.compiled(schema, name);
    }
    for (id, operation) in &proof.operations {
        if let Some(schema) = operation.body() {
            proof.compiled(schema, id);
        }
    }
    // The names of variable parts are those of the faults; the templates have shorter ones.
    let plain = |path: &str| match path.split_once('{') {
        Some((before, rest)) => format!("{before}{{}}{}", rest.split_once('}').unwrap().1),
        None => path.to_owned(),
    };
    let listed: BTreeSet<(String, String)> = proof
        .operations
        .values()
        .map(|operation| (operation.method.to_string(), plain(&operation.path)))
        .collect();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.method.to_string(), plain(route.template))).collect();
    assert_eq!(listed, routes);
    assert_eq!(proof.operations.len(), ROUTES.len(), "one operation a route");
}

#[tokio::test]
async fn the_document_is_sent_once() {
    let gateway = Gateway::start().await;
    let first = gateway.get("/openapi.json").await.expect(200);
    let etag = first.header("etag").expect("a tag").to_owned();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let headers = [("if-none-match", etag.as_str())];
    let again = gateway.send(Method::GET, "/openapi.json", &headers, "").await.expect(304);
    assert_eq!((again.body.len(), again.header("etag")), (0, Some(etag.as_str())));
    let other = [("if-none-match", "\"other\"")];
    let other = gateway.send(Method::GET, "/openapi.json", &other, "").await.expect(200);
    assert_eq!(other.body, first.body);
}

#[tokio::test]
async fn the_page_needs_nothing_from_outside() {
    let gateway = Gateway::start().await;
    for path in ["/docs", "/redoc"] {
        let page = gateway.get(path).await.expect(200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        for outside in ["http:", "https:", "*", "unsafe-eval"] {
            assert!(!policy.contains(outside), "{outside} in {policy}");
        }
        let text = page.text();
        for after in text.split("src=\"").skip(1) {
            assert!(after.starts_with("/docs/scalar.js?v="), "{after}");
        }
        assert!(!text.contains("://"), "an address of somebody else: {text}");
    }
    let path = "/docs/scalar.js?v=1";
    let plain = gateway.get(path).await.expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    assert!(plain.header("cache-control").unwrap().contains("max-age=31536000"));
    assert!(plain.text().contains("@scalar/api-reference"), "the script itself");
    let headers = [("accept-encoding", "gzip, deflate")];
    let packed = gateway.send(Method::GET, path, &headers, "").await.expect(200);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.starts_with(&[0x1f, 0x8b]) && packed.body.len() < plain.body.len() / 2);
    let head = gateway.send(Method::HEAD, path, &headers, "").await.expect(200);
    assert_eq!(head.header("content-length"), Some(packed.body.len().to_string().as_str()));
    gateway.get("/docs/oauth2-redirect").await.refused(404);
}

on_both_databases!(every_route_answers_as_its_schema_says);
