//! A real gateway and its neighbours, and the little that every file of facts shares.

pub(crate) mod agent;
pub(crate) mod caller;
pub(crate) mod format;
pub(crate) mod gateway;
pub(crate) mod manage;
pub(crate) mod mcp;
pub(crate) mod mock;
pub(crate) mod model;
pub(crate) mod platform;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod raw;
pub(crate) mod sdk;
pub(crate) mod tls;

use std::time::{Duration, Instant};

use gateway::Builder;
use provider::Provider;
use serde_json::{Value, json};

/// How long anything may take that must happen: long enough for two busy cores, short enough for a hang to be noticed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks at something that will happen.
const LOOK: Duration = Duration::from_millis(5);

/// What one scripted answer costs, in USD, at the price of [`priced`]: 10 tokens in, 5 out.
pub(crate) const COST: f64 = 0.02;

/// A gateway before `provider` as `p`, whose model `p:m` costs 1000 and 2000 USD per million tokens.
pub(crate) fn priced(start: Builder, provider: &Provider) -> Builder {
    start.provider("p", provider).price("p:m", 1000.0, 2000.0)
}

/// A chat request for `p:m`.
pub(crate) fn ask() -> Value {
    json!({"model": "p:m", "messages": [{"role": "user", "content": "hi"}]})
}

/// A chat request for `p:m`, with these fields set.
pub(crate) fn ask_with(fields: Value) -> Value {
    let mut body = ask();
    for (name, value) in fields.as_object().expect("fields of a request") {
        body[name] = value.clone();
    }
    body
}

/// A chat request for `p:m` as a stream.
pub(crate) fn ask_streamed() -> Value {
    ask_with(json!({"stream": true}))
}

/// Asks `look` until it answers; panics with `what` when [`DEADLINE`] has passed.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "still waiting after {DEADLINE:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs a fact on SQLite and on PostgreSQL: `on_both_databases!(a_fact)` makes the tests `a_fact::sqlite` and
/// `a_fact::postgres` of `async fn a_fact(start: Builder)`.
macro_rules! on_both_databases {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use crate::support::gateway::Gateway;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                Box::pin(super::$fact(Gateway::start().sqlite())).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                Box::pin(super::$fact(Gateway::start().postgres())).await;
            }
        }
    )+};
}
pub(crate) use on_both_databases;
