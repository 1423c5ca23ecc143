//! The operations beside generation as other official clients call them than OpenAI's (`operations.rs`): Otari's own SDK
//! all of them, Cohere's rerank, Perplexity's search.
//!
//! Cohere's SDK has a client for each of its two APIs; that of the first speaks `/v1/rerank` as the gateway does, that of
//! the second asks for `/v2/rerank`, which the gateway has not. The fields of a search are those of Perplexity's API.

use serde_json::{Value, json};

use crate::billable::{before, served};
use crate::operations;
use crate::support::gateway::Builder;
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply};
use crate::support::sdk::Sdk;

/// Runs a script of a client that has an environment of its own.
async fn run(client: &'static str, script: &'static str, arguments: &[&str]) -> Value {
    let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Sdk::Client(client).run(script, &arguments)
    };
    tokio::task::spawn_blocking(run).await.expect("the script ends")
}

async fn otaris_own_sdk_has_all_of_them(start: Builder) {
    let provider = Provider::start(served());
    let start = before(start, &provider).price("p:busy", 1.0, 1.0).price("p:broken", 1.0, 1.0);
    let gateway = start.await;
    let key = gateway.key("u").await;
    let seen = run("otari", "otari_operations", &[&gateway.url(""), &key]).await;
    let expected = json!({
        "embedding": [[0.5, -1.5], 9],
        "moderation": false,
        "rerank": [[1, 0.9], [0, 0.1]],
        "images": ["http://x/1.png", "http://x/2.png"],
        "speech": operations::SOUND.len(),
        "transcription": ["hi", "1\n00:00:00,000 --> 00:00:01,000\nhi\n"],
        "batch": ["completed", "ok", true],
        "search": [["https://a.example", "A"]],
        "errors": [["RateLimitError", 429], ["UpstreamProviderError", 502], ["InsufficientFundsError", 402]],
    });
    assert_eq!(seen, expected);
}

async fn coheres_sdk_reranks(start: Builder) {
    let provider = Provider::start(operations::answers);
    let start = before(start, &provider).price("c:busy", 1.0, 1.0).price("c:broken", 1.0, 1.0);
    let gateway = start.await;
    let key = gateway.key("u").await;
    let seen = run("cohere", "cohere_rerank", &[&gateway.url(""), &key, "c"]).await;
    let errors = json!([
        ["TooManyRequestsError", 429],
        ["ApiError", 502],
        ["ApiError", 402],
        ["UnprocessableEntityError", 422]
    ]);
    let ranked = json!([[1, 0.9], [0, 0.1]]);
    let expected =
        json!({"id": "r-1", "ranked": ranked, "units": 1.0, "tokens": 21.0, "errors": errors});
    assert_eq!(seen, expected);
    let sent = provider.requests().remove(0).json();
    assert_eq!(sent, json!({"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2}));
    assert_eq!(gateway.settled("u").await, 0.021);
}

async fn perplexitys_sdk_searches(start: Builder) {
    let engine = Provider::start(|request| match request.json()["query"].as_str() {
        Some("broken") => Reply::json(500, &json!({"error": "out of luck"})),
        Some("slow") => Reply::silence(),
        _ => Reply::json(
            200,
            &json!({"results": [{"title": "Cats", "url": "https://cats.example/", "text": "purr",
                "publishedDate": "2026-01-01"}], "costDollars": {"total": 0.005}}),
        ),
    });
    let gateway = before(start, &engine).await;
    let key = gateway.key("u").await;
    let seen = run("perplexity", "perplexity_search", &[&gateway.url("/v1"), &key]).await;
    let errors = json!([
        ["InternalServerError", 502],
        ["InternalServerError", 504],
        ["UnprocessableEntityError", 422]
    ]);
    let results = json!([["Cats", "https://cats.example/", "purr", "2026-01-01"]]);
    assert_eq!(seen, json!({"results": results, "errors": errors}));
    let sent = engine.requests().remove(0).json();
    let fields = json!({"query": "cats", "numResults": 2, "contents": {"text": {"maxCharacters": 200}},
        "excludeDomains": ["b.org"], "userLocation": "DE"});
    assert_eq!(sent, fields);
    assert_eq!(gateway.settled("u").await, 0.005);
}

on_both_databases!(otaris_own_sdk_has_all_of_them, coheres_sdk_reranks, perplexitys_sdk_searches);
