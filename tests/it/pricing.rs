//! `/v1/pricing`: what a model cost when, and prices that go.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::manage::names;
use crate::support::provider::Provider;
use crate::support::{ask, ask_with, on_both_databases, priced};

const SHAPE: &str = "model_key effective_at input_price_per_million output_price_per_million \
                     cache_read_price_per_million cache_write_price_per_million \
                     cache_write_1h_price_per_million pricing_tiers created_at updated_at";
const TIER: &str = "min_input_tokens input_price_per_million output_price_per_million \
                    cache_read_price_per_million cache_write_price_per_million \
                    cache_write_1h_price_per_million";

async fn price(gateway: &Gateway, key: &str, from: &str, input: f64) -> Value {
    let body = json!({"model_key": key, "effective_at": from, "input_price_per_million": input,
                      "output_price_per_million": 0});
    gateway.manage(Method::POST, "/v1/pricing", body).await
}

/// The input prices in a list.
fn inputs(rows: &Value) -> Vec<f64> {
    let rows = rows.as_array().expect("a list");
    rows.iter().map(|row| row["input_price_per_million"].as_f64().expect("a number")).collect()
}

async fn a_price_is_found_by_every_spelling_of_its_key(start: Builder) {
    let gateway = start.await;
    let made = price(&gateway, "openrouter/meta/llama:free", "2020-01-01", 1.0).await;
    assert_eq!(names(&made), SHAPE);
    assert_eq!(made["model_key"], "openrouter:meta/llama:free", "stored in one spelling");
    for sent in [
        "openrouter:meta/llama:free",
        "openrouter/meta/llama:free",
        "openrouter:meta%2Fllama%3Afree",
        "openrouter%2fmeta%2fllama:free",
    ] {
        let path = format!("/v1/pricing/{sent}");
        assert_eq!(gateway.read(&path).await, made, "{sent}");
        assert_eq!(gateway.read(&format!("{path}/history")).await, json!([made]), "{sent}");
    }
    gateway.delete("/v1/pricing/openrouter/meta/llama:free").await;
    assert_eq!(gateway.read("/v1/pricing").await, json!([]));
}

/// A price of 1 and 2 with these fields besides.
fn with(fields: Value) -> Value {
    let mut body = json!({"model_key": "openai:gpt", "input_price_per_million": 1,
                          "output_price_per_million": 2});
    for (name, value) in fields.as_object().expect("fields of a price") {
        body[name] = value.clone();
    }
    body
}

async fn cache_rates_and_tiers_come_back_and_are_inherited(start: Builder) {
    let gateway = start.await;
    let put = async |fields| gateway.manage(Method::POST, "/v1/pricing", with(fields)).await;
    let bare = put(json!({"effective_at": "2020-01-01"})).await;
    for name in ["cache_read", "cache_write", "cache_write_1h"] {
        assert_eq!(bare[format!("{name}_price_per_million")], Value::Null, "{name}");
    }
    assert_eq!(bare["pricing_tiers"], json!([]));

    let full = put(json!({
        "effective_at": "2021-01-01", "cache_read_price_per_million": "0.075",
        "cache_write_price_per_million": 0, "cache_write_1h_price_per_million": 6.00000001,
        "pricing_tiers": [
            {"min_input_tokens": 400_000, "output_price_per_million": 0.00000001},
            {"min_input_tokens": "200000", "input_price_per_million": 3, "cache_read_price_per_million": null},
        ],
    }))
    .await;
    assert_eq!(names(&full), SHAPE);
    assert_eq!(full["cache_read_price_per_million"], 0.075);
    assert_eq!(full["cache_write_price_per_million"], 0.0, "zero is a rate");
    assert_eq!(full["cache_write_1h_price_per_million"], 6.00000001);
    let tiers = &full["pricing_tiers"];
    assert_eq!(names(&tiers[0]), TIER);
    assert_eq!(
        (&tiers[0]["min_input_tokens"], &tiers[0]["input_price_per_million"]),
        (&json!(200_000), &json!(3.0))
    );
    assert_eq!(tiers[0]["cache_read_price_per_million"], Value::Null);
    assert_eq!(tiers[1]["output_price_per_million"], 0.00000001);
    assert_eq!(gateway.read("/v1/pricing/openai:gpt").await, full);

    // The newest row is what is inherited from, also by one that applies earlier.
    let heir = put(json!({"effective_at": "2020-06-01", "input_price_per_million": 7})).await;
    assert_eq!(
        (&heir["pricing_tiers"], heir["input_price_per_million"].as_f64()),
        (tiers, Some(7.0))
    );
    assert_eq!(heir["cache_write_1h_price_per_million"], 6.00000001);
    let partly = put(json!({"effective_at": "2022-01-01", "cache_read_price_per_million": null,
                            "pricing_tiers": null}))
    .await;
    assert_eq!(partly["cache_read_price_per_million"], Value::Null, "null clears");
    assert_eq!(partly["pricing_tiers"], json!([]));
    assert_eq!(partly["cache_write_price_per_million"], 0.0, "and what is not given stays");
    let other = price(&gateway, "openai:gpt-2", "2020-01-01", 1.0).await;
    assert_eq!(
        other["cache_write_price_per_million"],
        Value::Null,
        "another model inherits nothing"
    );
    let history = gateway.read("/v1/pricing/openai:gpt/history").await;
    assert_eq!(history, json!([partly, full, heir, bare]));
    assert_eq!(gateway.read("/v1/pricing?limit=1").await, json!([partly]));
}

async fn what_a_tier_cannot_be_is_refused(start: Builder) {
    let gateway = start.await;
    let tier = |name: &str, value: Value| {
        let mut tier = json!({"min_input_tokens": 5, "input_price_per_million": 1});
        tier[name] = value;
        json!([{"min_input_tokens": 7}, tier])
    };
    let many: Vec<Value> = (1..66).map(|n| json!({"min_input_tokens": n})).collect();
    let at = |field: &str| json!(["body", "pricing_tiers", 1, field]);
    let list = json!(["body", "pricing_tiers"]);
    for (tiers, kind, place) in [
        (json!({}), "list_type", list.clone()),
        (json!("x"), "list_type", list.clone()),
        (json!(many), "too_long", list),
        (json!([5]), "model_attributes_type", json!(["body", "pricing_tiers", 0])),
        (
            json!([{"input_price_per_million": 1}]),
            "missing",
            json!(["body", "pricing_tiers", 0, "min_input_tokens"]),
        ),
        (tier("min_input_tokens", json!(0)), "greater_than", at("min_input_tokens")),
        (tier("min_input_tokens", json!(-5)), "greater_than", at("min_input_tokens")),
        (tier("min_input_tokens", json!(1.5)), "int_from_float", at("min_input_tokens")),
        (tier("min_input_tokens", Value::Null), "int_type", at("min_input_tokens")),
        (tier("min_input_tokens", json!(7)), "value_error", at("min_input_tokens")),
        (
            tier("input_price_per_million", json!(-1)),
            "greater_than_equal",
            at("input_price_per_million"),
        ),
        (
            tier("output_price_per_million", json!(1e10)),
            "less_than_equal",
            at("output_price_per_million"),
        ),
        (
            tier("cache_read_price_per_million", json!("x")),
            "float_parsing",
            at("cache_read_price_per_million"),
        ),
        (
            tier("cache_write_price_per_million", json!([])),
            "float_type",
            at("cache_write_price_per_million"),
        ),
        (
            tier("cache_write_1h_price_per_million", json!("nan")),
            "greater_than_equal",
            at("cache_write_1h_price_per_million"),
        ),
    ] {
        let call = (Method::POST, "/v1/pricing", with(json!({"pricing_tiers": tiers})));
        gateway.faults(call, kind, place).await;
    }
    assert_eq!(gateway.read("/v1/pricing").await, json!([]));
}

async fn all_that_is_wrong_with_a_price_is_told_at_once(start: Builder) {
    let gateway = start.await;
    for name in ["cache_read", "cache_write", "cache_write_1h"] {
        let name = format!("{name}_price_per_million");
        for (value, kind) in [
            (json!(-0.1), "greater_than_equal"),
            (json!({}), "float_type"),
            (json!(1e10), "less_than_equal"),
        ] {
            let call = (Method::POST, "/v1/pricing", with(json!({&name: value})));
            gateway.faults(call, kind, json!(["body", name])).await;
        }
    }
    let all = json!({"model_key": 5, "input_price_per_million": -1, "cache_read_price_per_million": -1,
                     "pricing_tiers": [{"min_input_tokens": 0}, 5], "effective_at": "soon"});
    let refusal = gateway.try_manage(Method::POST, "/v1/pricing", with(all)).await.refused(422);
    let places: Vec<String> = (refusal["detail"].as_array().expect("a list").iter())
        .map(|fault| fault["loc"].to_string())
        .collect();
    let expected = [
        r#"["body","model_key"]"#,
        r#"["body","input_price_per_million"]"#,
        r#"["body","cache_read_price_per_million"]"#,
        r#"["body","pricing_tiers",0,"min_input_tokens"]"#,
        r#"["body","pricing_tiers",1]"#,
        r#"["body","effective_at"]"#,
    ];
    assert_eq!(places, expected, "all faults at once, in the order of the fields");
    assert_eq!(gateway.read("/v1/pricing").await, json!([]));
}

async fn a_price_is_that_of_the_instant(start: Builder) {
    let gateway = start.await;
    for (from, input) in
        [("2020-01-01", 1.0), ("2090-01-01", 3.0), ("2021-01-01T02:00:00+02:00", 2.0)]
    {
        price(&gateway, "openai:gpt", from, input).await;
    }
    let path = "/v1/pricing/openai:gpt";
    let as_of = async |instant: &str| {
        let price = gateway.read(&format!("{path}?as_of={instant}")).await;
        price["input_price_per_million"].clone()
    };
    assert_eq!(gateway.read(path).await["input_price_per_million"], 2.0, "now");
    assert_eq!(as_of("2020-12-31T23:59:59.999999").await, 1.0);
    assert_eq!(as_of("2021-01-01").await, 2.0);
    assert_eq!(as_of("2090-01-01T01:00:00%2B01:00").await, 3.0, "from that instant on");
    let missing = "Pricing for model 'openai:gpt' not found";
    let early = format!("{path}?as_of=2019-12-31");
    gateway.refuses((Method::GET, &early, Value::Null), 404, missing).await;
    let history = gateway.read(&format!("{path}/history")).await;
    assert_eq!(inputs(&history), [3.0, 2.0, 1.0], "newest first");

    gateway.delete(&format!("{path}?effective_at=2021-01-01T00:00:00Z")).await;
    assert_eq!(gateway.read(path).await["input_price_per_million"], 1.0);
    let gone = format!("{path}?effective_at=2021-01-01T00:00:00.5Z");
    let told = "Pricing for model 'openai:gpt' with effective_at 2021-01-01T00:00:00.500000+00:00 not found";
    gateway.refuses((Method::DELETE, &gone, Value::Null), 404, told).await;
    gateway.delete(path).await;
    gateway.refuses((Method::DELETE, path, Value::Null), 404, missing).await;
    let history = format!("{path}/history");
    gateway.refuses((Method::GET, &history, Value::Null), 404, missing).await;
}

/// A clock that was ahead when prices were made, and has been set right since: what was in force is in force.
async fn a_clock_that_is_set_back_takes_no_price_away(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let start = start.provider("p", &provider).config("require_pricing: true");
    let mut gateway = start.price("p:seeded", 1000.0, 2000.0).await;
    let key = gateway.key("u").await;
    price(&gateway, "p:made", "2090-01-01", 1000.0).await;
    price(&gateway, "p:made", "2091-01-01", 2000.0).await;
    price(&gateway, "p:planned", "2090-01-01", 1000.0).await;
    gateway.sql("UPDATE model_pricing SET effective_at = (SELECT max(effective_at) FROM model_pricing) WHERE model_key = 'p:seeded'");
    // As it is when the instant was left out.
    gateway
        .sql("UPDATE model_pricing SET created_at = effective_at WHERE model_key <> 'p:planned'");
    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    for (model, status) in [("p:seeded", 200), ("p:made", 200), ("p:planned", 402)] {
        gateway.chat(&key, &ask_with(json!({"model": model}))).await.expect(status);
    }
    let shown = gateway.read("/v1/pricing/p:made").await;
    assert_eq!(shown["input_price_per_million"], 2000.0, "the newest of them: {shown}");
    let path = "/v1/pricing/p:made?as_of=2090-06-01T00:00:00Z";
    assert_eq!(
        gateway.read(path).await["input_price_per_million"],
        1000.0,
        "asked by the calendar"
    );
    gateway
        .manage(Method::DELETE, "/v1/pricing/p:made?effective_at=2091-01-01T00:00:00Z", Value::Null)
        .await;
    assert_eq!(gateway.read("/v1/pricing/p:made").await["input_price_per_million"], 1000.0);
}

async fn a_deleted_price_counts_no_more_at_once(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    let free = price(&gateway, "p:m", "2021-01-01", 0.0).await;
    assert_eq!(free["model_key"], "p:m", "a provider of the configuration's own name");
    gateway.delete("/v1/pricing/p:m?effective_at=2021-01-01").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.delete("/v1/pricing/p%2Fm").await;
    gateway.chat(&key, &ask()).await.refused_for_good(402);
    assert_eq!(provider.count(), 2);
}

async fn what_a_price_cannot_be_is_refused(start: Builder) {
    let gateway = start.await;
    for key in ["zzz:z", "zzz/z", "bare", ":", "openai:none"] {
        let told = format!("Pricing for model '{key}' not found");
        let path = format!("/v1/pricing/{key}");
        gateway.refuses((Method::GET, &path, Value::Null), 404, &told).await;
        gateway.refuses((Method::DELETE, &path, Value::Null), 404, &told).await;
        let path = format!("/v1/pricing/{key}/history");
        gateway.refuses((Method::GET, &path, Value::Null), 404, &told).await;
    }
    let with = |name: &str, value: Value| {
        let mut body = json!({"model_key": "openai:gpt", "input_price_per_million": 1,
                              "output_price_per_million": 1});
        body[name] = value;
        (Method::POST, "/v1/pricing", body)
    };
    let get = |path| (Method::GET, path, Value::Null);
    let place = |name: &str| json!(["body", name]);
    let (input, output) = ("input_price_per_million", "output_price_per_million");
    let instant = "datetime_from_date_parsing";
    for (call, kind, place) in [
        (with("model_key", json!("bare")), "value_error", place("model_key")),
        (with("model_key", json!("")), "value_error", place("model_key")),
        (with("model_key", json!("zzz:z")), "value_error", place("model_key")),
        (with("model_key", json!("openai:a\0")), "value_error", place("model_key")),
        (with("model_key", Value::Null), "string_type", place("model_key")),
        (with(input, json!(1e10)), "less_than_equal", place(input)),
        (with(input, json!(-1)), "greater_than_equal", place(input)),
        (with(output, json!("inf")), "less_than_equal", place(output)),
        (with(output, Value::Null), "float_type", place(output)),
        (with("effective_at", json!("soon")), instant, place("effective_at")),
        (get("/v1/pricing/openai:a?as_of=soon"), instant, json!(["query", "as_of"])),
        (get("/v1/pricing/openai:%00"), "value_error", json!(["path", "model_key"])),
    ] {
        gateway.faults(call, kind, place).await;
    }
    assert_eq!(gateway.read("/v1/pricing").await, json!([]));
}

#[tokio::test]
async fn a_key_may_read_prices_and_not_delete_them() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let bearer = format!("Bearer {}", gateway.key("u").await);
    let headers = [("authorization", bearer.as_str())];
    for path in ["/v1/pricing", "/v1/pricing/p:m", "/v1/pricing/p:m/history"] {
        gateway.send(Method::GET, path, &headers, "").await.expect(200);
        gateway.get(path).await.refused(401);
    }
    let answer = gateway.send(Method::DELETE, "/v1/pricing/p:m", &headers, "").await;
    assert_eq!(answer.refused(401)["detail"], "Invalid master key");
}

on_both_databases!(
    a_clock_that_is_set_back_takes_no_price_away,
    a_price_is_found_by_every_spelling_of_its_key,
    cache_rates_and_tiers_come_back_and_are_inherited,
    what_a_tier_cannot_be_is_refused,
    all_that_is_wrong_with_a_price_is_told_at_once,
    a_price_is_that_of_the_instant,
    a_deleted_price_counts_no_more_at_once,
    what_a_price_cannot_be_is_refused,
);
