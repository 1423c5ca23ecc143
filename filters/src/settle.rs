//! What became of an attempt, as the record that outlives it.
//!
//! A record is made once, when the outcome is known; it is journalled before the last byte of the answer leaves, and
//! its `id` makes applying it twice the same as applying it once.

mod write;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::{Reservation, Scope};
use crate::money::MicroUsd;

/// How an attempt ended, as `usage_logs.status` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The answer was complete.
    Success,
    /// The caller saw an error, a cut stream, or left.
    Error,
    /// The attempt failed and another one answered.
    Absorbed,
}

impl Status {
    /// The text in the `status` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Absorbed => "absorbed",
        }
    }
}

/// One finished attempt: one row of `usage_logs`, and what it adds to the user's spend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Row id, a UUIDv7: unique, so that a replayed record leaves one row.
    pub id: Box<str>,
    /// The request the attempt belongs to; all attempts of one request share it.
    pub request_group_id: Box<str>,
    /// `None` for the master key.
    pub api_key_id: Option<Arc<str>>,
    /// The billed user.
    pub user_id: Option<Arc<str>>,
    /// When the attempt ended: microseconds since 1970, UTC.
    pub timestamp_us: i64,
    /// Model name as sent upstream, without its provider.
    pub model: Box<str>,
    /// Provider instance.
    pub provider: Option<Box<str>>,
    /// Route template, such as `/v1/chat/completions`.
    pub endpoint: Cow<'static, str>,
    /// Input tokens, cached ones included; `None` when unknown.
    pub prompt_tokens: Option<u64>,
    /// Output tokens, reasoning included.
    pub completion_tokens: Option<u64>,
    /// The provider's own total.
    pub total_tokens: Option<u64>,
    /// Input tokens read from the provider's cache (part of `prompt_tokens`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// Input tokens written to the provider's cache for five minutes (part of `prompt_tokens`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Input tokens written to the provider's cache for an hour (part of `prompt_tokens`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h_tokens: Option<u64>,
    /// What the attempt costs; `None` when unpriced or failed. Added to the user's spend.
    pub cost: Option<MicroUsd>,
    /// How it ended.
    pub status: Status,
    /// Why it failed: an outcome code such as `client_disconnected`, then what is known. Never a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<Box<str>>,
    /// The provider's HTTP status, or the one the caller saw when the provider gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// From the arrival of the request to the end of the attempt.
    pub latency_ms: u32,
    /// 1 for the first attempt of the request.
    pub attempt_position: u16,
    /// How many attempts the request could have walked.
    pub attempt_count: u16,
    /// Whether `cost` is added to the user's spend.
    pub counts_toward_budget: bool,
    /// `cost` came out of this gateway's lease on the user's budget.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leased: bool,
    /// The ceilings that `cost` counts against too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ceilings: Vec<Charge>,
    /// The routing policy that the request named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<Arc<str>>,
    /// Why the attempt was made: `default`, `router:weighted`, `on_failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_reason: Option<Cow<'static, str>>,
}

impl UsageRecord {
    /// A row of which only this is known: it is the only attempt of its request, used and cost nothing, and counts.
    ///
    /// `id`: a UUIDv7, the row's and its request's. `timestamp_us`: now. `endpoint`: a route's template. `model`: as
    /// the row shall show it.
    pub fn new(
        id: Box<str>,
        timestamp_us: i64,
        endpoint: &'static str,
        model: Box<str>,
        status: Status,
    ) -> Self {
        Self {
            request_group_id: id.clone(),
            id,
            api_key_id: None,
            user_id: None,
            timestamp_us,
            model,
            provider: None,
            endpoint: Cow::Borrowed(endpoint),
            prompt_tokens: None,
            completion_tokens: None,
            total_tokens: None,
            cache_read_tokens: None,
            cache_write_tokens: None,
            cache_write_1h_tokens: None,
            cost: None,
            status,
            error_message: None,
            status_code: None,
            latency_ms: 0,
            attempt_position: 1,
            attempt_count: 1,
            counts_toward_budget: true,
            leased: false,
            ceilings: Vec::new(),
            policy_name: None,
            selection_reason: None,
        }
    }

    /// With the time that its request has taken so far.
    #[must_use]
    pub fn after(mut self, elapsed: Duration) -> Self {
        self.latency_ms = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
        self
    }
}

/// A finished attempt, for whoever keeps the books.
#[derive(Debug)]
pub struct Finished {
    /// For the gateway's own books.
    pub record: UsageRecord,
    /// The hold, with the last attempt of the request.
    pub reservation: Option<Reservation>,
    /// For the platform's; `None`: it is not told.
    pub report: Option<Report>,
}

/// What a platform is told of an attempt, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The attempt, in the platform's words.
    pub correlation_id: Box<str>,
    /// Whether it served.
    pub status: ReportStatus,
    /// No other attempt of the request follows.
    pub is_final_attempt: bool,
    /// The caller's own label for the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_label: Option<Arc<str>>,
    /// Tokens of an attempt that served, when they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ReportUsage>,
    /// How the provider failed: `timeout`, `conn_err`, `http_429`, `http_400_billing`, `unknown`; `None` when it is
    /// the gateway that failed, or a stream that had begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_class: Option<Box<str>>,
}

/// Whether an attempt served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// It did.
    Success,
    /// It did not.
    Error,
}

/// Tokens as the provider counts them: whether cached ones are part of the prompt depends on its API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportUsage {
    /// Input.
    pub prompt_tokens: u64,
    /// Output.
    pub completion_tokens: u64,
    /// The provider's total.
    pub total_tokens: u64,
    /// Read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Written to it.
    pub cache_write_tokens: u64,
}

/// What a platform says an attempt cost; goes into the answer's `usage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// US dollars with six decimals, as the platform wrote them.
    pub cost_usd: Box<str>,
    /// Where the price is from, such as `managed`.
    pub pricing_source: Box<str>,
}

/// A ceiling that an attempt counts against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Id of the ceiling.
    pub id: Arc<str>,
    /// The cost came out of this gateway's lease on it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leased: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A budget period that ended: spend went back to zero. What was spent before `reset_at_us` is the old period's,
/// whenever its record is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetReset {
    /// Whose period.
    pub scope: Scope,
    /// The budget that set the period.
    pub budget_id: Arc<str>,
    /// The deadline that passed, in microseconds since 1970: applied only while the store still holds it.
    pub due_at_us: i64,
    /// When the new period started.
    pub reset_at_us: i64,
    /// When the new period ends; `None` when the budget lost its duration.
    pub next_reset_at_us: Option<i64>,
}

/// What the journal holds, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A finished attempt.
    Usage(UsageRecord),
    /// A budget period rolled over.
    Reset(BudgetReset),
    /// A report that the platform must have.
    Report(KeptReport),
    /// The platform has a report, or will never take it: its [`KeptReport::id`].
    Reported(Box<str>),
}

/// A report on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    /// Ours: a platform may use a name for an attempt twice.
    pub id: Box<str>,
    /// When the attempt ended: microseconds since 1970, UTC.
    pub made_at_us: i64,
    /// What is told.
    pub report: Report,
}
