//! `/v1/models`: what can be called, for each caller.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::manage::names;
use crate::support::on_both_databases;
use crate::support::provider::Provider;

async fn ask(gateway: &Gateway, key: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    gateway.send(Method::GET, path, &headers, String::new()).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

async fn models_are_those_with_a_price_a_declaration_or_an_alias(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = start
        .provider_at("p", &provider.base(), "models: [declared]")
        .price("p:a/b", 1.5, 2.0)
        .config("aliases: {fast: \"p:cheap\"}")
        .await;
    let body = json!({"model_key": "p:cheap", "input_price_per_million": 1, "output_price_per_million": 2,
        "effective_at": "2090-01-01"});
    gateway.manage(Method::POST, "/v1/pricing", body).await;
    let key = gateway.key("u").await;

    let list = ask(&gateway, &key, "/v1/models", &[]).await.expect(200).json();
    assert_eq!((names(&list).as_str(), &list["object"]), ("object data", &json!("list")));
    assert_eq!(ids(&list), ["fast", "p:a/b", "p:declared"], "the alias stands for its target");
    let [alias, priced, declared] = [0, 1, 2].map(|at| &list["data"][at]);
    assert_eq!(names(priced), "id object created owned_by pricing pricing_source context_window");
    assert_eq!((&alias["owned_by"], &alias["created"]), (&json!("otari"), &json!(0)));
    assert_eq!(alias["pricing"]["output_price_per_million"], 2.0, "its target's, to come");
    assert!(priced["created"].as_i64() > Some(1_700_000_000), "{priced}");
    assert_eq!(
        (&priced["owned_by"], &priced["pricing_source"]),
        (&json!("p"), &json!("configured"))
    );
    assert_eq!((&declared["pricing"], &declared["pricing_source"]), (&Value::Null, &json!("none")));
    assert_eq!(ids(&ask(&gateway, &key, "/v1/models?provider=x", &[]).await.json()), [""; 0]);
    let of_p = ask(&gateway, &key, "/v1/models?provider=p", &[]).await.json();
    assert_eq!(ids(&of_p), ["p:a/b", "p:declared"]);

    for (asked, found) in
        [("p:a/b", "p:a/b"), ("p/a/b", "p:a/b"), ("fast", "fast"), ("p:cheap", "p:cheap")]
    {
        let model = ask(&gateway, &key, &format!("/v1/models/{asked}"), &[]).await.expect(200);
        assert_eq!(model.json()["id"], found);
    }
    let refusal = ask(&gateway, &key, "/v1/models/p:none", &[]).await.refused(404);
    assert_eq!(refusal["detail"], "Model 'p:none' not found");
    gateway.get("/v1/models").await.refused(401);

    let version = [("anthropic-version", "2023-06-01")];
    let list = ask(&gateway, &key, "/v1/models", &version).await.expect(200).json();
    assert_eq!(names(&list), "data has_more first_id last_id");
    assert_eq!((&list["first_id"], &list["last_id"]), (&json!("fast"), &json!("p:declared")));
    assert_eq!(names(&list["data"][0]), "type id display_name created_at");
}

async fn what_a_caller_may_not_call_is_not_listed(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = start
        .provider("p", &provider)
        .price("p:one", 1.0, 1.0)
        .price("p:two", 1.0, 1.0)
        .config("aliases: {first: \"p:one\", second: \"p:two\"}")
        .await;
    let body = json!({"user_id": "u", "allowed_models": ["p:one"]});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    let key = made["key"].as_str().unwrap();
    let list = ask(&gateway, key, "/v1/models", &[]).await.expect(200).json();
    assert_eq!(ids(&list), ["first"]);
    ask(&gateway, key, "/v1/models/p:one", &[]).await.expect(200);
    for hidden in ["p:two", "second"] {
        ask(&gateway, key, &format!("/v1/models/{hidden}"), &[]).await.refused(404);
    }
    let master = gateway.read("/v1/models").await;
    assert_eq!(ids(&master), ["first", "second"], "the operator sees all");
}

on_both_databases!(
    models_are_those_with_a_price_a_declaration_or_an_alias,
    what_a_caller_may_not_call_is_not_listed,
);
