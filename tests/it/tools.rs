//! The tools that the gateway runs for a model: loops in three formats, before providers of either kind, streamed and not.

mod addresses;
mod code;
mod connected;
mod endings;
mod entries;
mod loops;
mod money;
mod policies;
mod search;
mod servers;
mod sse;
mod unasked;

use serde_json::{Value, json};

use crate::support::caller::{Api, Seen};
use crate::support::format::both;
use crate::support::gateway::{Builder, Gateway};
use crate::support::mcp::{Real, entry};
use crate::support::provider::Provider;

/// What every loop is tried in: the caller's format, the model, and whether it is streamed. `o` speaks OpenAI's formats,
/// `a` Anthropic's, so that half of the loops are translated.
fn ways() -> impl Iterator<Item = Way> {
    let models = ["o:m", "a:m"];
    Api::ALL.into_iter().flat_map(move |api| {
        models.into_iter().flat_map(move |model| {
            [false, true].into_iter().map(move |streams| Way { api, model, streams })
        })
    })
}

#[derive(Clone, Copy, Debug)]
struct Way {
    api: Api,
    model: &'static str,
    streams: bool,
}

impl Way {
    /// A word for it, as part of an address.
    fn tag(self, test: &str) -> String {
        let kind = if self.streams { "stream" } else { "whole" };
        format!("{test}-{:?}-{}-{kind}", self.api, &self.model[..1])
    }

    /// A request with these fields.
    fn ask(self, fields: Value) -> Value {
        let mut body = self.api.ask(self.model, "hi", 50);
        for (name, value) in fields.as_object().expect("fields of a request") {
            body[name] = value.clone();
        }
        body
    }
}

/// A gateway before one model, whose rounds cost 1000 USD per million tokens in and 2000 out, and a key of its user `u`.
struct Scene {
    gateway: Gateway,
    key: String,
}

impl Scene {
    async fn new(model: &Provider) -> Self {
        Self::with(model, |start| start).await
    }

    async fn with(model: &Provider, change: impl FnOnce(Builder) -> Builder) -> Self {
        // Providers that fail on purpose must not be passed over.
        let start = both(Gateway::start(), model).config("circuit_breaker_failures: 0");
        let gateway = change(start).await;
        let key = gateway.key("u").await;
        Self { gateway, key }
    }

    async fn call(&self, way: Way, fields: Value) -> Seen {
        way.api.call(&self.gateway, &self.key, &way.ask(fields), way.streams).await
    }

    /// The newest row, once there are `count`.
    async fn row(&self, count: usize) -> Value {
        self.gateway.usage(count).await.remove(0)
    }
}

/// The fields of a request that brings this server along.
fn servers(server: &Real) -> Value {
    json!({"mcp_servers": [entry("s", &server.url())]})
}

/// What so many tokens cost, in USD.
fn cost((input, output): (u64, u64)) -> f64 {
    (input as f64).mul_add(0.001, output as f64 * 0.002)
}

/// Checks that a row says what these tokens are and cost.
fn is_billed(row: &Value, tokens: (u64, u64), status: &str) {
    let seen = (row["prompt_tokens"].as_u64(), row["completion_tokens"].as_u64());
    assert_eq!(seen, (Some(tokens.0), Some(tokens.1)), "{row}");
    assert_eq!(row["total_tokens"], tokens.0 + tokens.1, "{row}");
    assert_eq!(row["status"], status, "{row}");
    let told = row["cost"].as_f64().unwrap_or_default();
    assert!((told - cost(tokens)).abs() < 1e-9, "{row}");
}
