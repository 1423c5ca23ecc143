//! What became of an attempt, as the record that outlives it.
//!
//! A record is made once, when the outcome is known; it is journalled before the last byte of the answer leaves, and
//! its `id` makes applying it twice the same as applying it once.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::Scope;
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
    pub error_message: Option<Box<str>>,
    /// The provider's HTTP status, or the one the caller saw when the provider gave none.
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
}
