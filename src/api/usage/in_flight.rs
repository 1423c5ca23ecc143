//! `/v1/usage/in-flight`: the calls that this process is waiting for.

use otari_filters::rejection::Rejection;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::openapi::Operation;
use super::super::{Answer, fields};
use crate::app::Standalone;
use crate::clock;

pub(super) static IN_FLIGHT: Operation =
    Operation::new("list_calls_in_flight", "List the calls this process waits for, longest first")
        .answering::<InFlight<'_>>();

/// Calls that are shown.
const SHOWN: usize = 50;

#[derive(Serialize, JsonSchema)]
struct InFlight<'a> {
    requests: Vec<Call<'a>>,
    total: usize,
}

#[derive(Serialize, JsonSchema)]
struct Call<'a> {
    id: &'a str,
    endpoint: &'a str,
    model: &'a str,
    provider: &'a str,
    user_id: &'a str,
    api_key_id: Option<&'a str>,
    policy_name: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    elapsed_ms: u64,
}

pub(super) fn in_flight(app: &Standalone) -> Result<Answer, Rejection> {
    let now_us = clock::now_us();
    let (calls, total) = app.calls.longest(SHOWN);
    let requests = calls.iter().map(|call| {
        let elapsed = call.started.elapsed();
        let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        Call {
            id: &call.id,
            endpoint: call.endpoint,
            model: &call.model,
            provider: &call.provider,
            user_id: &call.user_id,
            api_key_id: call.api_key_id.as_deref(),
            policy_name: call.policy_name.as_deref(),
            started_at: fields::iso(clock::timestamp(now_us.saturating_sub(elapsed_us))),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    });
    Answer::json(&InFlight { requests: requests.collect(), total })
}
