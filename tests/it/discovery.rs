//! What providers say they have: asked for, kept, renewed, and never in anybody's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway, MASTER, UPSTREAM_KEY};
use crate::support::provider::{Gate, Provider, Reply, Request, Step};
use crate::support::sdk::Sdk;
use crate::support::{ask_with, eventually, on_both_databases};

/// A list in OpenAI's shape.
fn list(ids: &[&str]) -> Value {
    let model =
        |id: &&str| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "x"});
    json!({"object": "list", "data": ids.iter().map(model).collect::<Vec<_>>()})
}

fn asks_for_list(request: &Request) -> bool {
    request.method == "GET"
}

/// Lists these models, and says hello to whoever chats.
fn lister<const N: usize>(ids: [&'static str; N]) -> Provider {
    Provider::start(move |request| match asks_for_list(request) {
        true => Reply::json(200, &list(&ids)),
        false => Reply::chat(request, &["hello"]),
    })
}

fn discovering(start: Builder) -> Builder {
    start.config("model_discovery: true\nrequire_pricing: false")
}

async fn get(gateway: &Gateway, key: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    gateway.send(Method::GET, path, &headers, String::new()).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

async fn listed(gateway: &Gateway) -> Vec<String> {
    let list = get(gateway, MASTER, "/v1/models", &[]).await.expect(200).json();
    ids(&list).into_iter().map(str::to_owned).collect()
}

async fn models_of_providers_stand_beside_those_with_a_price(start: Builder) {
    let plain = lister(["b", "a/x", "priced"]);
    let claude = Provider::start(|request| {
        let model = |id: &str| {
            json!({"type": "model", "id": id, "display_name": format!("The {id}"),
            "created_at": "2025-09-29T00:00:00Z", "max_input_tokens": 200_000, "max_tokens": 64_000})
        };
        let second = request.path.ends_with("&after_id=claude-a");
        let (id, more) = if second { ("claude-b", false) } else { ("claude-a", true) };
        Reply::json(200, &json!({"data": [model(id)], "has_more": more, "last_id": id}))
    });
    let gateway = discovering(start)
        .provider_at("p", &plain.base(), "models: [declared, b]")
        .provider_of("anthropic", "c", &claude.base(), "")
        .price("p:priced", 1.0, 2.0)
        .price("p:only-priced", 1.0, 2.0)
        .config("aliases: {fast: \"c:claude-b\"}")
        .await;
    let key = gateway.key("u").await;
    let all = get(&gateway, &key, "/v1/models", &[]).await.expect(200).json();
    let want = ["c:claude-a", "fast", "p:a/x", "p:b", "p:declared", "p:only-priced", "p:priced"];
    assert_eq!(ids(&all), want, "sorted, each once");
    let of = |id: &str| {
        let models = all["data"].as_array().unwrap();
        models.iter().find(|model| model["id"] == id).unwrap()
    };
    let shown = of("c:claude-a");
    assert_eq!(
        (&shown["created"], &shown["owned_by"], &shown["context_window"]),
        (&json!(1_759_104_000), &json!("c"), &json!(200_000))
    );
    assert_eq!((&shown["pricing"], &shown["pricing_source"]), (&Value::Null, &json!("none")));
    assert_eq!(of("p:priced")["created"], 1_700_000_000, "the provider's word");
    assert_eq!(of("p:priced")["pricing"]["cache_read_price_per_million"], Value::Null);
    assert_eq!(of("fast")["context_window"], 200_000, "an alias is as wide as its target");
    let of_p = get(&gateway, &key, "/v1/models?provider=p", &[]).await.json();
    assert_eq!(ids(&of_p), ["p:a/x", "p:b", "p:declared", "p:only-priced", "p:priced"]);
    assert_eq!(ids(&get(&gateway, &key, "/v1/models?provider=x", &[]).await.json()), [""; 0]);
    assert_eq!(plain.count(), 1, "one question for all of this");
    assert_eq!(plain.only().header("authorization").unwrap(), format!("Bearer {UPSTREAM_KEY}"));
    let pages: Vec<String> = claude.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(pages, ["/v1/models?limit=1000", "/v1/models?limit=1000&after_id=claude-a"]);
    assert_eq!(claude.requests()[0].header("x-api-key"), Some(UPSTREAM_KEY));

    let body = json!({"user_id": "u", "allowed_models": ["p:a*", "c:claude-b"]});
    let narrow = gateway.manage(Method::POST, "/v1/keys", body).await;
    let narrow = narrow["key"].as_str().unwrap();
    let list = get(&gateway, narrow, "/v1/models", &[]).await.expect(200).json();
    assert_eq!(ids(&list), ["fast", "p:a/x"]);
    get(&gateway, narrow, "/v1/models/p:b", &[]).await.refused(404);
    get(&gateway, narrow, "/v1/models/p:a/x", &[]).await.expect(200);

    let about = gateway.read("/v1/models/metadata").await;
    assert_eq!((&about["source"], &about["available"]), (&json!("providers"), &json!(true)));
    let claude = &about["models"]["c:claude-a"];
    assert_eq!(claude["name"], "The claude-a");
    assert_eq!(claude["limits"], json!({"context": 200_000, "output": 64_000}));
    gateway.patch("/v1/settings", json!({"models_dev_metadata": false})).await;
    let about = gateway.read("/v1/models/metadata").await;
    assert_eq!((&about["available"], &about["models"]), (&json!(false), &json!({})));
    for path in ["/v1/models/metadata", "/v1/models/discoverable"] {
        get(&gateway, &key, path, &[]).await.refused(401);
    }
}

async fn one_provider_in_trouble_hides_no_other(start: Builder) {
    let good = lister(["m"]);
    let hanging = Provider::never_answers();
    let broken = Provider::answers(500, json!({"error": {"message": "key sk-leaked-0123456789"}}));
    let refusing = Provider::answers(401, json!({}));
    let page = Provider::start(|_| Reply::bytes(200, "text/html", "<html>hello</html>"));
    let large = Provider::start(|_| {
        let model = |n: usize| json!({"id": format!("m{n}"), "description": "x".repeat(2_500)});
        Reply::json(200, &json!({"data": (0..2_000).map(model).collect::<Vec<_>>()}))
    });
    let endless = Provider::start(|_| {
        Reply::json(200, &json!({"models": [{"name": "x"}], "next_page_token": "again"}))
    });
    let gateway = discovering(start)
        .config("model_discovery_timeout_seconds: 2")
        .provider("good", &good)
        .provider("hanging", &hanging)
        .provider("broken", &broken)
        .provider("refusing", &refusing)
        .provider("page", &page)
        .provider("large", &large)
        .provider_of("cohere", "endless", &endless.base(), "")
        .provider_of("perplexity", "listless", &good.base(), "")
        .await;
    let began = Instant::now();
    let models = listed(&gateway).await;
    assert!(began.elapsed().as_secs() < 8, "the timeout bounds it: {:?}", began.elapsed());
    assert!(models.contains(&"good:m".to_owned()) && models.contains(&"large:m1999".to_owned()));
    assert_eq!(models.len(), 2_000 + 1 + 1);
    assert!(endless.count() <= 50, "pages have an end: {}", endless.count());
    let began = Instant::now();
    listed(&gateway).await;
    assert!(began.elapsed().as_secs() < 2, "who failed is left alone for a while");

    let sources = gateway.read("/v1/models/discoverable").await;
    let source = |name: &str| {
        let all = sources["providers"].as_array().unwrap();
        all.iter().find(|source| source["provider"] == name).unwrap()
    };
    for (name, error) in [
        ("hanging", "no answer in time"),
        ("broken", "it answers 500"),
        ("refusing", "credential refused (401)"),
        ("page", "the answer is no list of models. Is api_base right?"),
        ("listless", "no list endpoint"),
    ] {
        assert_eq!((&source(name)["ok"], &source(name)["error"]), (&json!(false), &json!(error)));
    }
    let good = source("good");
    assert_eq!((&good["ok"], &good["error"]), (&json!(true), &Value::Null));
    assert_eq!(good["models"], json!([{"id": "m", "key": "good:m"}]));
    assert!(good["checked_at"].as_str().unwrap().ends_with("+00:00"));
    let unsupported = |name: &str| source(name)["discovery_unsupported"].clone();
    assert_eq!((unsupported("good"), unsupported("listless")), (json!(false), json!(true)));
    assert!(!sources.to_string().contains("leaked"), "no text of a provider is passed on");
}

async fn a_failure_is_remembered_and_then_tried_again(start: Builder) {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let flaky = Provider::start(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::json(503, &json!({})),
        _ => Reply::json(200, &list(&["m"])),
    });
    let gateway = discovering(start)
        .config("model_discovery_negative_ttl_seconds: 600")
        .provider("p", &flaky)
        .await;
    for _ in 0..3 {
        assert_eq!(listed(&gateway).await, [""; 0]);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "asked once, by whoever was first");
    get(&gateway, MASTER, "/v1/models/p:m", &[]).await.refused(404);
    gateway.patch("/v1/settings", json!({"model_discovery_negative_ttl_seconds": 0})).await;
    assert_eq!(listed(&gateway).await, ["p:m"]);
    gateway
        .faults(
            (Method::PATCH, "/v1/settings", json!({"model_discovery_timeout_seconds": 0})),
            "greater_than",
            json!(["body", "model_discovery_timeout_seconds"]),
        )
        .await;
}

async fn without_a_cache_every_question_is_passed_on(start: Builder) {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let changing = Provider::start(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::json(200, &list(&["first"])),
        1 => Reply::json(200, &list(&["second"])),
        _ => Reply::json(500, &json!({})),
    });
    let gateway = discovering(start)
        .config("model_discovery: false\nmodel_cache_ttl_seconds: 0")
        .provider("p", &changing)
        .await;
    assert_eq!(listed(&gateway).await, [""; 0]);
    assert_eq!(calls.load(Ordering::SeqCst), 0, "switched off, nobody is asked");
    gateway.patch("/v1/settings", json!({"model_discovery": true})).await;
    assert_eq!(listed(&gateway).await, ["p:first"]);
    assert_eq!(listed(&gateway).await, ["p:second"]);
    assert_eq!(listed(&gateway).await, [""; 0], "and a failure shows nothing");
    gateway.patch("/v1/settings", json!({"model_discovery": false})).await;
    assert_eq!(listed(&gateway).await, [""; 0]);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

async fn an_old_list_is_shown_while_a_newer_one_is_on_its_way(start: Builder) {
    let gate = Gate::closed();
    let (held, calls) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = calls.clone();
    let slow = Provider::start(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::json(200, &list(&["old"])),
        _ => Reply::json(200, &list(&["new"])).before(0, Step::WaitFor(held.clone())),
    });
    let mut gateway =
        discovering(start).config("model_cache_ttl_seconds: 1").provider("p", &slow).await;
    assert_eq!(listed(&gateway).await, ["p:old"]);
    // The first may have waited for it; this one asks for what is there.
    assert_eq!(listed(&gateway).await, ["p:old"]);
    // It was asked for, and so it is renewed ahead of its end, without anybody waiting.
    slow.received(2).await;
    let began = Instant::now();
    assert_eq!(listed(&gateway).await, ["p:old"]);
    assert!(began.elapsed().as_secs() < 2, "nobody waits for what is merely newer");
    gate.open(100);
    eventually("the newer list", async || (listed(&gateway).await == ["p:new"]).then_some(()))
        .await;
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(listed(&gateway).await, ["p:new"], "after a restart it is asked for anew");
}

async fn one_model_is_found_before_any_list_was_asked_for(start: Builder) {
    let (one, other) = (lister(["a/x", "m"]), Provider::never_answers());
    let gateway = discovering(start)
        .config("model_discovery: false")
        .provider("p", &one)
        .provider("q", &other)
        .await;
    let key = gateway.key("u").await;
    get(&gateway, &key, "/v1/models/p:m", &[]).await.refused(404);
    gateway.patch("/v1/settings", json!({"model_discovery": true})).await;
    let began = Instant::now();
    for (path, id) in [
        ("p:m", "p:m"),
        ("p/m", "p:m"),
        ("p:a/x", "p:a/x"),
        ("p/a/x", "p:a/x"),
        ("p%2Fa%2Fx", "p:a/x"),
        ("p%3Am", "p:m"),
    ] {
        let model =
            get(&gateway, &key, &format!("/v1/models/{path}"), &[]).await.expect(200).json();
        assert_eq!((&model["id"], &model["owned_by"]), (&json!(id), &json!("p")), "{path}");
        assert_eq!(model["created"], 1_700_000_000);
    }
    assert!(began.elapsed().as_secs() < 5, "the other provider is none of its business");
    assert_eq!((one.count(), other.count()), (1, 0), "only the one that decides is asked");
    let refusal = get(&gateway, &key, "/v1/models/p:none", &[]).await.refused(404);
    assert_eq!(refusal["detail"], "Model 'p:none' not found");
    let bare = get(&gateway, &key, "/v1/models/m", &[]).await.expect(200).json();
    assert_eq!(bare["id"], "p:m", "a bare name is the only one's who has it");
}

async fn a_bare_name_leads_to_the_only_provider_that_lists_it(start: Builder) {
    let (one, other) = (lister(["mine", "shared"]), lister(["shared"]));
    let gateway = discovering(start).provider("p", &one).provider("q", &other).await;
    let key = gateway.key("u").await;
    listed(&gateway).await;
    let asking = |model: &str| ask_with(json!({"model": model}));
    gateway.chat(&key, &asking("mine")).await.expect(200);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!((&row["provider"], &row["model"]), (&json!("p"), &json!("mine")));
    let refusal = gateway.chat(&key, &asking("shared")).await.refused(400);
    assert_eq!(refusal["detail"], "Model 'shared' is ambiguous: write one of p:shared, q:shared");
    gateway.chat(&key, &asking("nobodys")).await.refused(400);
}

async fn lists_of_providers_that_are_signed_for_or_want_a_token(start: Builder) {
    let amazon = Provider::start(|request| match request.path.as_str() {
        "/foundation-models" => Reply::json(
            200,
            &json!({"modelSummaries": [
            {"modelId": "amazon.nova-lite-v1:0", "inferenceTypesSupported": ["ON_DEMAND"]}]}),
        ),
        _ => Reply::json(500, &json!({})),
    });
    let ibm = Provider::start(|request| match request.path.split('?').next() {
        Some("/identity/token") => {
            Reply::json(200, &json!({"access_token": "t-1", "expires_in": 3600}))
        }
        _ if request.header("authorization") == Some("Bearer t-1") => {
            Reply::json(200, &json!({"resources": [{"model_id": "ibm/granite"}]}))
        }
        _ => Reply::json(401, &json!({})),
    });
    let root = |provider: &Provider| format!("http://{}", provider.addr());
    let keys = ", region_name: eu-west-1, aws_access_key_id: AKIDEXAMPLE, aws_secret_access_key: s";
    let token = format!("api_key: k, project_id: p, iam_url: \"{}\"", root(&ibm));
    let gateway = discovering(start)
        .provider_without_key("bedrock", &root(&amazon), keys)
        .provider_without_key("watsonx", &root(&ibm), &format!(", {token}"))
        .await;
    assert_eq!(listed(&gateway).await, ["bedrock:amazon.nova-lite-v1:0", "watsonx:ibm/granite"]);
    let asked = &amazon.requests()[0];
    let signature = asked.header("authorization").unwrap();
    assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{signature}");
    assert!(signature.contains("/eu-west-1/bedrock/aws4_request"), "{signature}");
    assert_eq!(asked.method, "GET");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anthropics_list_is_given_in_pages() {
    let provider = lister(["a", "b", "c", "d"]);
    let gateway = discovering(Gateway::start()).provider("p", &provider).await;
    let version = [("anthropic-version", "2023-06-01")];
    for (query, want, more) in [
        ("", vec!["p:a", "p:b", "p:c", "p:d"], false),
        ("?limit=1000", vec!["p:a", "p:b", "p:c", "p:d"], false),
        ("?limit=2", vec!["p:a", "p:b"], true),
        ("?limit=2&after_id=p:b", vec!["p:c", "p:d"], false),
        ("?limit=1&after_id=p:bb", vec!["p:c"], true),
        ("?limit=2&before_id=p:d", vec!["p:b", "p:c"], true),
        ("?limit=2&before_id=p:c", vec!["p:a", "p:b"], false),
        ("?after_id=p:d", vec![], false),
    ] {
        let path = format!("/v1/models{query}");
        let list = get(&gateway, MASTER, &path, &version).await.expect(200).json();
        assert_eq!((ids(&list), &list["has_more"]), (want.clone(), &json!(more)), "{query}");
        assert_eq!(list["first_id"].as_str(), want.first().copied(), "{query}");
        assert_eq!(list["last_id"].as_str(), want.last().copied(), "{query}");
    }
    let refusal = get(&gateway, MASTER, "/v1/models?limit=1001", &version).await;
    assert_eq!(refusal.status, 422, "{}", refusal.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_list_and_find_models() {
    let provider = lister(["a/x", "b", "c"]);
    let gateway = discovering(Gateway::start()).provider("p", &provider).await;
    let key = gateway.key("u").await;
    for sdk in [Sdk::Python, Sdk::Node] {
        let base = gateway.url("");
        let seen = sdk.run("models", &[&base, &key, "p:a/x"]);
        let all = json!(["p:a/x", "p:b", "p:c"]);
        assert_eq!((&seen["openai"], &seen["anthropic"]), (&all, &all), "{sdk:?}");
        assert_eq!(
            (&seen["openai_one"], &seen["anthropic_one"]),
            (&json!("p:a/x"), &json!("p:a/x")),
            "{sdk:?}"
        );
        assert_eq!(seen["missing"], "NotFoundError", "{sdk:?}");
    }
}

on_both_databases!(
    models_of_providers_stand_beside_those_with_a_price,
    one_provider_in_trouble_hides_no_other,
    a_failure_is_remembered_and_then_tried_again,
    without_a_cache_every_question_is_passed_on,
    an_old_list_is_shown_while_a_newer_one_is_on_its_way,
    one_model_is_found_before_any_list_was_asked_for,
    a_bare_name_leads_to_the_only_provider_that_lists_it,
    lists_of_providers_that_are_signed_for_or_want_a_token,
);
