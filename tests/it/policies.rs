//! Names of routing policies beside aliases: who sees them, what they may be called, and who may use them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Gate, Provider, Reply, Step};
use crate::support::{COST, ask_with, on_both_databases, priced};

/// `any` begins at `p:m` and goes on at `q:m`; `far` knows `q:m` alone.
const POLICIES: &str = "routing:\n  policies:\n    any: {select: [{default: p/m}], on_failure: [q:m]}\n    \
                        far: {select: [{default: q:m}]}";

/// A gateway with both policies before one provider, which is `p` and `q`. `q:m` has no price of its own.
fn policies(start: Builder, provider: &Provider) -> Builder {
    priced(start, provider)
        .provider("q", provider)
        .config(POLICIES)
        .config("require_pricing: false")
}

async fn key_of(gateway: &Gateway, allowed: Value) -> String {
    let body = json!({"user_id": "u", "allowed_models": allowed});
    let made = gateway.manage(Method::POST, "/v1/keys", body).await;
    made["key"].as_str().unwrap().to_owned()
}

async fn ask(gateway: &Gateway, key: &str, path: &str) -> crate::support::gateway::Answer {
    let bearer = format!("Bearer {key}");
    gateway.send(Method::GET, path, &[("authorization", bearer.as_str())], "").await
}

async fn ids(gateway: &Gateway, key: &str) -> Vec<String> {
    let list = ask(gateway, key, "/v1/models").await.expect(200).json();
    let models = list["data"].as_array().unwrap().iter();
    models.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

async fn a_policy_is_listed_for_whoever_may_have_one_of_its_targets(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = policies(start, &provider).await;
    let everything = key_of(&gateway, Value::Null).await;
    assert_eq!(ids(&gateway, &everything).await, ["any", "far", "p:m"]);
    let any = ask(&gateway, &everything, "/v1/models/any").await.expect(200).json();
    assert_eq!(
        json!([any["id"], any["object"], any["owned_by"], any["created"], any["pricing_source"]]),
        json!(["any", "model", "otari", 0, "configured"])
    );
    assert_eq!(any["pricing"]["output_price_per_million"], 2000.0, "its first target's price");
    let far = ask(&gateway, &everything, "/v1/models/far").await.expect(200).json();
    assert_eq!((&far["pricing"], &far["pricing_source"]), (&Value::Null, &json!("none")));
    let of_otari = ask(&gateway, &everything, "/v1/models?provider=otari").await.expect(200).json();
    assert_eq!(of_otari["data"].as_array().map(Vec::len), Some(2));

    let near = key_of(&gateway, json!(["p:*"])).await;
    assert_eq!(ids(&gateway, &near).await, ["any", "p:m"]);
    ask(&gateway, &near, "/v1/models/far").await.refused(404);
    let q = key_of(&gateway, json!(["q:m"])).await;
    assert_eq!(ids(&gateway, &q).await, ["any", "far"]);
    let any = ask(&gateway, &q, "/v1/models/any").await.expect(200).json();
    assert_eq!(any["pricing"], Value::Null, "the first one that this caller may have");
    let none = key_of(&gateway, json!([])).await;
    assert_eq!(ids(&gateway, &none).await, [""; 0]);
    ask(&gateway, &none, "/v1/models/any").await.refused(404);
}

async fn targets_outside_a_list_of_models_are_left_out(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = policies(start, &provider).await;
    for (allowed, model, led) in [
        (Value::Null, "any", "p"),
        (json!(["p:m"]), "any", "p"),
        (json!(["q:*"]), "any", "q"),
        (json!(["q:m"]), "far", "q"),
    ] {
        let key = key_of(&gateway, allowed).await;
        let answer = gateway.chat(&key, &ask_with(json!({"model": model}))).await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some(led));
        assert_eq!(answer.json()["model"], model);
    }
    let before = provider.count();
    for (allowed, model) in [(json!(["p:m"]), "far"), (json!([]), "any"), (json!(["p:x"]), "any")] {
        let key = key_of(&gateway, allowed).await;
        let refusal = gateway.chat(&key, &ask_with(json!({"model": model}))).await.refused(403);
        assert_eq!(
            refusal["detail"],
            format!("Model '{model}' is not permitted for this API key.")
        );
    }
    assert_eq!(provider.count(), before);
    // The user's list binds a key that has none of its own.
    gateway.patch("/v1/users/u", json!({"allowed_models": ["q:m"]})).await;
    let key = gateway.key("u").await;
    let answer = gateway.chat(&key, &ask_with(json!({"model": "any"}))).await.expect(200);
    assert_eq!(answer.header("otari-provider"), Some("q"));
}

async fn a_policys_name_is_no_model_alias_or_price(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = policies(start, &provider).await;
    gateway.user("u", None).await;
    let taken = "Alias name 'any' is the name of a routing policy; choose another one";
    for user_id in [Value::Null, json!("u")] {
        let alias = json!({"name": "any", "target": "p:m", "user_id": user_id});
        gateway.refuses((Method::POST, "/v1/aliases", alias), 400, taken).await;
    }
    assert_eq!(gateway.read("/v1/aliases").await, json!([]));
    let price =
        json!({"model_key": "any", "input_price_per_million": 1, "output_price_per_million": 1});
    let own =
        "'any' is a routing policy and has no price of its own; set the prices of its targets";
    gateway.refuses((Method::POST, "/v1/pricing", price), 400, own).await;
    let list =
        "'any' is the name of a routing policy; use the instance:model targets that it may reach";
    let allowed = json!({"user_id": "u", "allowed_models": ["any"]});
    gateway.refuses((Method::POST, "/v1/keys", allowed), 400, list).await;
    let allowed = json!({"allowed_models": ["any"]});
    gateway.refuses((Method::PATCH, "/v1/users/u", allowed), 400, list).await;
}

/// The alias was stored before the file had a policy of its name.
async fn a_stored_alias_wins_and_the_log_says_so(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = policies(start, &provider).await;
    let (u, v) = (gateway.key("u").await, gateway.key("v").await);
    assert!(!gateway.log().contains("name of a routing policy"), "{}", gateway.log());
    let alias = json!({"name": "old", "target": "p:m", "user_id": "u"});
    gateway.manage(Method::POST, "/v1/aliases", alias).await;
    gateway.terminate().await;
    gateway.sql("UPDATE model_aliases SET name = 'far' WHERE name = 'old'");
    gateway.restart().await;
    let warned: Vec<String> = gateway
        .log()
        .lines()
        .filter(|line| line.contains("has the name of a routing policy"))
        .map(str::to_owned)
        .collect();
    assert!(warned.len() == 1 && warned[0].contains("far"), "{warned:?}");
    for (key, led) in [(&u, "p"), (&v, "q")] {
        let answer = gateway.chat(key, &ask_with(json!({"model": "far"}))).await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some(led));
        let model = ask(&gateway, key, "/v1/models/far").await.expect(200).json();
        assert_eq!(model["pricing"].is_null(), led == "q", "{model}");
    }
    assert_eq!(ids(&gateway, &u).await, ["any", "far"], "the alias hides its target");
    assert_eq!(ids(&gateway, &v).await, ["any", "far", "p:m"]);
    gateway.delete("/v1/aliases/far?user_id=u").await;
    let answer = gateway.chat(&u, &ask_with(json!({"model": "far"}))).await.expect(200);
    assert_eq!(answer.header("otari-provider"), Some("q"), "the policy is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_names_its_policy() {
    let gate = Gate::closed();
    let door = gate.clone();
    let provider = Provider::start(move |request| {
        Reply::chat(request, &["ok"]).before(0, Step::WaitFor(door.clone()))
    });
    let gateway = policies(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let (named, plain) = (ask_with(json!({"model": "any"})), ask_with(json!({})));
    let look = async {
        provider.received(2).await;
        let calls = gateway.read("/v1/usage/in-flight").await;
        gate.open(2);
        calls
    };
    let (first, second, calls) =
        tokio::join!(gateway.chat(&key, &named), gateway.chat(&key, &plain), look);
    assert_eq!((first.status, second.status), (200, 200));
    let mut names: Vec<&Value> =
        calls["requests"].as_array().unwrap().iter().map(|call| &call["policy_name"]).collect();
    names.sort_by_key(|name| name.is_null());
    assert_eq!(names, [&json!("any"), &Value::Null], "{calls}");
    assert_eq!(calls["requests"][0]["model"], "m");
    assert!((gateway.settled("u").await - 2.0 * COST).abs() < 1e-9);
}

on_both_databases!(
    a_policy_is_listed_for_whoever_may_have_one_of_its_targets,
    targets_outside_a_list_of_models_are_left_out,
    a_policys_name_is_no_model_alias_or_price,
    a_stored_alias_wins_and_the_log_says_so,
);
