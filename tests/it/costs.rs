//! What calls cost: a worked number for every rule of a price, to the micro-dollar, in the row and in the user's spend.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Provider, Reply, Step, chat_events, chunk, completion};
use crate::support::{ask_with, eventually, on_both_databases, postgres};

/// A provider that reports as usage whatever the request's `report` says; none when it says nothing.
fn echo() -> Provider {
    Provider::start(|request| {
        let asked = request.json();
        let report = asked.get("report").cloned();
        if asked["stream"] != json!(true) {
            let mut body = completion("ok");
            body["usage"] = report.unwrap_or_default();
            return Reply::json(200, &body);
        }
        let mut events = chat_events(&["ok"], false);
        events.splice(2..2, report.map(|report| chunk(json!([]), Some(report))));
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    })
}

/// A gateway, a user, and what they must have spent.
struct Till {
    gateway: Gateway,
    _provider: Provider,
    key: String,
    rows: usize,
    micros: i64,
}

impl Till {
    /// Of a provider `p` that is of OpenAI's kind.
    async fn open(start: Builder) -> Self {
        let provider = echo();
        let gateway = start.provider("p", &provider).await;
        let key = gateway.key("u").await;
        Self { gateway, _provider: provider, key, rows: 0, micros: 0 }
    }

    /// Sets a price that has applied since 2020.
    async fn price(&self, model: &str, input: f64, output: f64, further: Value) {
        let mut body = json!({"model_key": format!("p:{model}"), "input_price_per_million": input,
                              "output_price_per_million": output, "effective_at": "2020-01-01"});
        for (name, value) in further.as_object().expect("fields of a price") {
            body[name] = value.clone();
        }
        self.gateway.manage(Method::POST, "/v1/pricing", body).await;
    }

    /// Checks that a call whose provider reports `usage` costs so many micro-dollars; `None`: nobody knows.
    async fn costs(&mut self, model: &str, usage: Value, micros: impl Into<Option<i64>>) {
        self.rings_up(json!({"model": format!("p:{model}"), "report": usage}), micros.into()).await;
    }

    /// As [`Self::costs`], streamed.
    async fn stream_costs(&mut self, model: &str, usage: Value, micros: i64) {
        let model = format!("p:{model}");
        self.rings_up(json!({"model": model, "report": usage, "stream": true}), Some(micros)).await;
    }

    async fn rings_up(&mut self, fields: Value, micros: Option<i64>) {
        self.gateway.chat(&self.key, &ask_with(fields.clone())).await.expect(200);
        self.rows += 1;
        self.micros += micros.unwrap_or(0);
        let rows = self.gateway.usage(self.rows).await;
        let cost = micros.map_or(Value::Null, |micros| json!(usd(micros)));
        assert_eq!(rows[0]["cost"], cost, "{fields}: {}", rows[0]);
        assert_eq!(self.gateway.settled("u").await, usd(self.micros), "spend after {fields}");
    }

    async fn is_refused(&self, model: &str) {
        let body = ask_with(json!({"model": format!("p:{model}")}));
        self.gateway.chat(&self.key, &body).await.refused_for_good(402);
    }

    /// What the database has as spend, which outlives this process.
    async fn restarts(&mut self) {
        self.gateway.terminate().await;
        self.gateway.restart().await;
        assert_eq!(self.gateway.settled("u").await, usd(self.micros), "spend after a restart");
    }
}

/// The number that JSON shows.
fn usd(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// A report of prompt and completion tokens.
fn used(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// A report with `fields` besides.
fn used_with(prompt: u64, completion: u64, fields: Value) -> Value {
    let mut usage = used(prompt, completion);
    for (name, value) in fields.as_object().expect("fields of a report") {
        usage[name] = value.clone();
    }
    usage
}

/// OpenAI's details of a prompt.
fn details(fields: Value) -> Value {
    json!({"prompt_tokens_details": fields})
}

async fn tokens_are_billed_at_their_rates_and_rounded_once(start: Builder) {
    let mut till = Till::open(start).await;
    till.price("plain", 1.0, 1000.0, json!({})).await;
    till.costs("plain", used(100, 50), 50_100).await;
    till.stream_costs("plain", used(100, 50), 50_100).await;
    till.costs("plain", used(0, 0), 0).await;
    till.costs("plain", used(3_000_000_000, 0), 3_000_000_000).await;
    till.price("half", 0.5, 0.5, json!({})).await;
    till.costs("half", used(1, 0), 1).await;
    till.costs("half", used(1, 1), 1).await;
    till.costs("half", used(1, 2), 2).await;
    till.price("below", 0.49999999, 0.00000001, json!({})).await;
    till.costs("below", used(1, 0), 0).await;
    till.costs("below", used(1, 1), 1).await;
    // A tenth and a fifth: what doubles cannot add.
    till.price("tenth", 0.1, 0.2, json!({})).await;
    till.costs("tenth", used(5, 0), 1).await;
    till.costs("tenth", used(4, 0), 0).await;
    till.costs("tenth", used(1_000_001, 1_000_001), 300_000).await;
    till.price("tiny", 0.00000001, 0.0, json!({})).await;
    till.costs("tiny", used(49_999_999, 0), 0).await;
    till.costs("tiny", used(50_000_000, 0), 1).await;
    till.restarts().await;
}

async fn a_price_of_zero_is_a_price_and_no_price_is_none(start: Builder) {
    let mut till = Till::open(start).await;
    till.price("zero", 0.0, 0.0, json!({})).await;
    till.costs("zero", used(1_000_000, 1_000_000), 0).await;
    till.is_refused("unpriced").await;
    till.gateway.usage(1).await;
}

async fn without_the_need_of_a_price_its_cost_is_unknown(start: Builder) {
    let mut till = Till::open(start.config("require_pricing: false")).await;
    till.costs("unpriced", used(1_000_000, 1_000_000), None).await;
    till.price("priced", 1.0, 0.0, json!({})).await;
    till.costs("priced", used(7, 0), 7).await;
}

async fn the_price_of_the_moment_counts(start: Builder) {
    let mut till = Till::open(start).await;
    till.price("m", 9.0, 0.0, json!({"effective_at": "2090-01-01"})).await;
    till.is_refused("m").await;
    till.price("m", 2.0, 0.0, json!({"effective_at": "2021-01-01"})).await;
    till.costs("m", used(10, 0), 20).await;
    till.price("m", 1.0, 0.0, json!({"effective_at": "2020-01-01"})).await;
    till.costs("m", used(10, 0), 20).await;
    till.price("m", 3.0, 0.0, json!({"effective_at": null})).await;
    till.costs("m", used(10, 0), 30).await;
    till.price("m", 5.0, 0.0, json!({"effective_at": "2021-01-01"})).await;
    till.costs("m", used(10, 0), 30).await;
    till.gateway.delete("/v1/pricing/p:m").await;
    till.is_refused("m").await;
    till.restarts().await;
    till.is_refused("m").await;
}

async fn cached_tokens_have_rates_of_their_own(start: Builder) {
    let mut till = Till::open(start).await;
    let rates = json!({"cache_read_price_per_million": 0.3, "cache_write_price_per_million": 3.75,
                       "cache_write_1h_price_per_million": 6.0});
    till.price("five", 3.0, 15.0, rates).await;
    let read = details(json!({"cached_tokens": 1000}));
    // 340 fresh, 1000 read, 10 out.
    till.costs("five", used_with(1340, 10, read.clone()), 1020 + 300 + 150).await;
    till.stream_costs("five", used_with(1340, 10, read.clone()), 1020 + 300 + 150).await;
    till.costs("five", used_with(1000, 0, read.clone()), 300).await;
    let write = details(json!({"cached_tokens": 1000, "cache_write_tokens": 200}));
    till.costs("five", used_with(1340, 10, write), 420 + 300 + 750 + 150).await;
    let hour = json!({"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 240,
                      "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 40}});
    till.costs("five", used_with(1340, 10, hour.clone()), 300 + 300 + 750 + 240 + 150).await;
    till.costs("five", used_with(10, 0, json!({"prompt_cache_hit_tokens": 4})), 18 + 1).await;
    till.costs("five", used_with(10, 0, json!({"cached_tokens": 5})), 15 + 2).await;

    // Counts that are more than the prompt contradict it: the prompt is billed.
    till.costs("five", used_with(999, 0, read.clone()), 2997).await;
    till.costs("five", used_with(1239, 0, hour.clone()), 3717).await;
    till.costs("five", used_with(1240, 0, hour.clone()), 300 + 750 + 240).await;

    till.price("read-only", 3.0, 15.0, json!({"cache_read_price_per_million": 0.3})).await;
    till.costs("read-only", used_with(1340, 0, hour.clone()), 340 * 3 + 300).await;
    till.price("write", 3.0, 15.0, json!({"cache_write_price_per_million": 3.75})).await;
    till.costs("write", used_with(1340, 0, hour.clone()), 1100 * 3 + 240 * 15 / 4).await;
    till.price("hour", 3.0, 15.0, json!({"cache_write_1h_price_per_million": 6.0})).await;
    till.costs("hour", used_with(1340, 0, hour.clone()), 1300 * 3 + 240).await;
    till.price("none", 3.0, 15.0, json!({})).await;
    till.costs("none", used_with(1340, 0, hour), 4020).await;
    till.price("free-reads", 3.0, 15.0, json!({"cache_read_price_per_million": 0})).await;
    till.costs("free-reads", used_with(1340, 0, read), 1020).await;
    // Five sums of a third of a micro-dollar are rounded as one.
    let thirds = json!({"cache_read_price_per_million": 0.3, "cache_write_price_per_million": 0.3,
                        "cache_write_1h_price_per_million": 0.3});
    till.price("thirds", 0.3, 0.3, thirds).await;
    let one_each = json!({"cache_read_input_tokens": 1, "cache_creation_input_tokens": 2,
                          "cache_creation": {"ephemeral_1h_input_tokens": 1}});
    till.costs("thirds", used_with(4, 1, one_each), 2).await;
    till.restarts().await;
    let row = &till.gateway.usage(till.rows).await[till.rows - 1];
    assert_eq!(row["cache_read_tokens"], 1000, "{row}");
}

async fn a_long_prompt_is_billed_at_its_tier(start: Builder) {
    let mut till = Till::open(start).await;
    let tiers = json!({"cache_read_price_per_million": 0.3, "pricing_tiers": [
        {"min_input_tokens": 2000, "input_price_per_million": 12},
        {"min_input_tokens": 1000, "input_price_per_million": 6, "output_price_per_million": 22.5},
    ]});
    till.price("m", 3.0, 15.0, tiers).await;
    till.costs("m", used(999, 2), 2997 + 30).await;
    till.costs("m", used(1000, 2), 6000 + 45).await;
    till.costs("m", used(1001, 2), 6006 + 45).await;
    till.costs("m", used(1999, 2), 11_994 + 45).await;
    // The highest tier alone counts, and what it does not name is the model's own.
    till.costs("m", used(2000, 2), 24_000 + 30).await;
    till.stream_costs("m", used(2000, 2), 24_000 + 30).await;
    // Cached input counts for the threshold and keeps its rate.
    let read = details(json!({"cached_tokens": 900}));
    till.costs("m", used_with(1000, 0, read.clone()), 600 + 270).await;
    till.costs("m", used_with(999, 0, read), 297 + 270).await;
    till.price(
        "cheaper",
        3.0,
        0.0,
        json!({"pricing_tiers":
        [{"min_input_tokens": 1000, "input_price_per_million": 1}]}),
    )
    .await;
    till.costs("cheaper", used(999, 0), 2997).await;
    till.costs("cheaper", used(1000, 0), 1000).await;
    till.restarts().await;
    till.costs("m", used(1000, 2), 6000 + 45).await;
}

async fn a_hold_covers_the_dearest_that_a_prompt_can_cost(start: Builder) {
    let till = Till::open(start).await;
    till.price("writes", 1.0, 0.0, json!({"cache_write_1h_price_per_million": 100})).await;
    till.price(
        "tier",
        1.0,
        0.0,
        json!({"pricing_tiers":
        [{"min_input_tokens": 1000, "input_price_per_million": 100}]}),
    )
    .await;
    till.price(
        "free",
        0.0,
        0.0,
        json!({"cache_read_price_per_million": 0, "pricing_tiers":
        [{"min_input_tokens": 1, "output_price_per_million": 0}]}),
    )
    .await;
    till.price(
        "not-free",
        0.0,
        0.0,
        json!({"pricing_tiers":
        [{"min_input_tokens": 1_000_000, "output_price_per_million": 1}]}),
    )
    .await;
    // 1000 tokens at 100 USD per million are 10 cents.
    for (user, cap, status) in [("a", 0.1, 200), ("b", 0.099_999, 403)] {
        let budget = till.gateway.budget(cap).await;
        till.gateway.user(user, Some(&budget)).await;
        let key = till.gateway.key(user).await;
        for model in ["writes", "tier"] {
            let body = json!({"model": format!("p:{model}"), "max_tokens": 0, "report": used(0, 0),
                              "messages": [{"role": "user", "content": "x".repeat(4000)}]});
            till.gateway.chat(&key, &body).await.expect(status);
        }
    }
    let budget = till.gateway.budget(0.0).await;
    till.gateway.user("broke", Some(&budget)).await;
    let key = till.gateway.key("broke").await;
    let ask = |model: &str| ask_with(json!({"model": model, "report": used(2, 2)}));
    till.gateway.chat(&key, &ask("p:free")).await.expect(200);
    till.gateway.chat(&key, &ask("p:not-free")).await.refused_for_good(403);
}

async fn a_stream_without_usage_costs_what_it_held(start: Builder) {
    let mut till = Till::open(start).await;
    till.price("m", 1000.0, 2000.0, json!({"cache_write_price_per_million": 3000})).await;
    // One token of prompt at its dearest, and ten of output.
    let body = json!({"model": "p:m", "max_tokens": 10, "stream": true});
    till.rings_up(body.clone(), Some(0)).await;
    let budget = till.gateway.budget(1.0).await;
    till.gateway.user("capped", Some(&budget)).await;
    let key = till.gateway.key("capped").await;
    till.gateway.chat(&key, &ask_with(body)).await.expect(200);
    assert_eq!(till.gateway.usage(2).await[0]["cost"], json!(0.023));
    assert_eq!(till.gateway.settled("capped").await, 0.023);
}

async fn list_prices_count_where_none_is_set_and_only_when_asked_for(start: Builder) {
    let mut till = Till::open(start.config("default_pricing: true")).await;
    // OpenAI's public prices of gpt-4o-mini: 0.15 in, 0.60 out, 0.075 from the cache.
    let usage = used_with(1000, 100, details(json!({"cached_tokens": 400})));
    till.costs("gpt-4o-mini", usage.clone(), 90 + 30 + 60).await;
    till.costs("gpt-4o-mini-2024-07-18", usage.clone(), 180).await;
    till.stream_costs("GPT-4o-mini-20301231", usage.clone(), 180).await;
    till.is_refused("somebodys-own-model").await;
    let listed =
        till.gateway.try_manage(Method::GET, "/v1/pricing/p:gpt-4o-mini", Value::Null).await;
    assert_eq!(listed.status, 404, "only stored prices are shown");
    assert_eq!(till.gateway.read("/v1/pricing").await, json!([]));

    till.price("gpt-4o-mini", 1.0, 0.0, json!({"effective_at": "2090-01-01"})).await;
    till.costs("gpt-4o-mini", usage.clone(), 180).await;
    till.price("gpt-4o-mini", 1.0, 0.0, json!({})).await;
    till.costs("gpt-4o-mini", usage.clone(), 1000).await;
    till.price("gpt-4o-mini", 0.0, 0.0, json!({"effective_at": "2021-01-01"})).await;
    till.costs("gpt-4o-mini", usage.clone(), 0).await;
    till.gateway.delete("/v1/pricing/p:gpt-4o-mini").await;
    till.costs("gpt-4o-mini", usage.clone(), 180).await;

    // The gate knows them too: 1024 tokens of output and one of input are 615 micro-dollars.
    for (user, cap, status) in [("a", 0.000_615, 200), ("b", 0.000_614, 403)] {
        let budget = till.gateway.budget(cap).await;
        till.gateway.user(user, Some(&budget)).await;
        let key = till.gateway.key(user).await;
        let body = ask_with(json!({"model": "p:gpt-4o-mini", "report": used(0, 0)}));
        till.gateway.chat(&key, &body).await.expect(status);
    }
    assert!(till.gateway.log().contains("public list prices where none is set (genai-prices "));
}

async fn without_list_prices_a_model_has_none(start: Builder) {
    let till = Till::open(start).await;
    till.is_refused("gpt-4o-mini").await;
}

async fn what_a_caller_types_becomes_no_label(start: Builder) {
    let mut till = Till::open(start.config("default_pricing: true\nenable_metrics: true")).await;
    for model in ["gpt-4o-mini", "gpt-4o-mini-20301231", "GPT-4o-mini"] {
        till.costs(model, used(10, 0), 2).await;
    }
    let metrics = till.gateway.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("\"gpt-4o-mini\"") && metrics.contains("\"other\""), "{metrics}");
    assert!(!metrics.contains("20301231") && !metrics.contains("GPT"), "{metrics}");
}

async fn a_price_of_the_file_is_taken_once(start: Builder) {
    let seeds = "pricing:\n  p:m:\n    input_price_per_million: 2\n    output_price_per_million: 0\n    \
                 cache_read_price_per_million: 0.5\n    pricing_tiers:\n      - {min_input_tokens: 100, \
                 input_price_per_million: 4}\n";
    let mut till = Till::open(start.config(seeds)).await;
    till.costs("m", used_with(50, 0, details(json!({"cached_tokens": 10}))), 80 + 5).await;
    till.costs("m", used(100, 0), 400).await;
    till.restarts().await;
    let history = till.gateway.read("/v1/pricing/p:m/history").await;
    assert_eq!(history.as_array().map(Vec::len), Some(1), "not once more at each start");
    till.price("m", 3.0, 0.0, json!({"effective_at": null, "pricing_tiers": null})).await;
    till.restarts().await;
    till.costs("m", used(100, 0), 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_the_older_spelling_is_a_price() {
    let database = postgres::database();
    let url = database.url.clone();
    let seed =
        "pricing:\n  p:m:\n    input_price_per_million: 9\n    output_price_per_million: 0\n";
    let mut till = Till::open(Gateway::start().postgres_at(database).config(seed)).await;
    till.gateway.terminate().await;
    let sql = "UPDATE model_pricing SET model_key = 'p/m', input_price_per_million = 2, pricing_tiers = \
               '[{\"min_input_tokens\": \"100\", \"input_price_per_million\": \"4.0\"}]'";
    postgres::execute(&url, sql).expect("the database is there");
    till.gateway.restart().await;
    till.costs("m", used(10, 0), 20).await;
    till.costs("m", used(100, 0), 400).await;
    let read = till.gateway.read("/v1/pricing").await;
    assert_eq!(read[0]["model_key"], "p/m", "no seed beside it: {read}");
    // A newer price inherits from it, and then the newer spelling counts.
    till.price("m", 3.0, 0.0, json!({})).await;
    till.costs("m", used(10, 0), 30).await;
    till.costs("m", used(100, 0), 400).await;
    eventually("both rows", async || {
        let rows = till.gateway.read("/v1/pricing").await;
        (rows.as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;
}

on_both_databases!(
    tokens_are_billed_at_their_rates_and_rounded_once,
    a_price_of_zero_is_a_price_and_no_price_is_none,
    without_the_need_of_a_price_its_cost_is_unknown,
    the_price_of_the_moment_counts,
    cached_tokens_have_rates_of_their_own,
    a_long_prompt_is_billed_at_its_tier,
    a_hold_covers_the_dearest_that_a_prompt_can_cost,
    a_stream_without_usage_costs_what_it_held,
    list_prices_count_where_none_is_set_and_only_when_asked_for,
    without_list_prices_a_model_has_none,
    what_a_caller_types_becomes_no_label,
    a_price_of_the_file_is_taken_once,
);
