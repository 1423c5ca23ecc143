//! Values on their way into a database: instants in whole microseconds, and journal entries in which nothing is left
//! that a column could refuse. An entry that cannot be written would hold up all entries behind it for ever.

use std::borrow::Cow;

use jiff::Timestamp;
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::settle::UsageRecord;
use serde_json::{Map, Value};

use super::StoreError;
use super::analytics::plan::Grain;

/// The words of a `scope` column and the one beside it.
pub(super) fn word(scope: &Scope) -> (&'static str, &str) {
    match scope {
        Scope::User(id) => ("user", id),
        Scope::Ceiling(id) => ("ceiling", id),
    }
}

/// The scope of such words.
pub(super) fn scope(word: &str, id: &str) -> Option<Scope> {
    match word {
        "user" => Some(Scope::User(id.into())),
        "ceiling" => Some(Scope::Ceiling(id.into())),
        _ => None,
    }
}

/// The largest amount of `NUMERIC(18,6)`, in micro-dollars. SQLite keeps to it too: two of them still fit an `i64`.
pub(super) const MAX_AMOUNT: i64 = 999_999_999_999_999_999;

/// An instant as both databases hold it: microseconds since 1970, cut (not rounded) as `as_microsecond` cuts, because
/// a reset is recognised by a deadline that the request path computed with that method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(pub(super) i64);

impl Instant {
    /// An instant out of the journal; one before 1970 or beyond the calendar becomes 1970.
    pub(super) fn journalled(microseconds: i64) -> Self {
        match Timestamp::from_microsecond(microseconds) {
            Ok(_) => Self(microseconds.max(0)),
            Err(_) => Self(0),
        }
    }

    /// Start of the hour, day or week it lies in.
    pub(super) fn start_of(self, grain: Grain) -> Self {
        Self(grain.start_of(self.0))
    }

    /// An hour, a day or a week later.
    pub(super) fn after(self, grain: Grain) -> Self {
        Self(self.0.saturating_add(grain.micros()))
    }

    /// The instant itself.
    pub(super) fn timestamp(self) -> Result<Timestamp, jiff::Error> {
        Timestamp::from_microsecond(self.0)
    }
}

impl From<Timestamp> for Instant {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond())
    }
}

/// A `UsageRecord` as the columns of `usage_logs` take it.
#[derive(Debug)]
pub(super) struct Usage<'a> {
    pub(super) id: Cow<'a, str>,
    pub(super) api_key_id: Option<Cow<'a, str>>,
    pub(super) user_id: Option<Cow<'a, str>>,
    pub(super) timestamp: Instant,
    pub(super) model: Cow<'a, str>,
    pub(super) provider: Option<Cow<'a, str>>,
    pub(super) endpoint: Cow<'a, str>,
    pub(super) prompt_tokens: Option<i64>,
    pub(super) completion_tokens: Option<i64>,
    pub(super) total_tokens: Option<i64>,
    /// Micro-dollars, from zero to [`MAX_AMOUNT`].
    pub(super) cost: Option<i64>,
    pub(super) status: &'static str,
    pub(super) error_message: Option<Cow<'a, str>>,
    pub(super) cache_read_tokens: Option<i64>,
    pub(super) cache_write_tokens: Option<i64>,
    pub(super) cache_write_1h_tokens: Option<i64>,
    pub(super) status_code: Option<i32>,
    pub(super) latency_ms: i64,
    pub(super) attempt_position: i32,
    pub(super) attempt_count: i32,
    pub(super) request_group_id: Cow<'a, str>,
    pub(super) counts_toward_budget: bool,
    pub(super) policy_name: Option<Cow<'a, str>>,
    pub(super) selection_reason: Option<Cow<'a, str>>,
}

impl<'a> From<&'a UsageRecord> for Usage<'a> {
    fn from(record: &'a UsageRecord) -> Self {
        Self {
            id: clean(&record.id),
            api_key_id: record.api_key_id.as_deref().map(clean),
            user_id: record.user_id.as_deref().map(clean),
            timestamp: Instant::journalled(record.timestamp_us),
            model: clean(&record.model),
            provider: record.provider.as_deref().map(clean),
            endpoint: clean(&record.endpoint),
            prompt_tokens: record.prompt_tokens.map(count),
            completion_tokens: record.completion_tokens.map(count),
            total_tokens: record.total_tokens.map(count),
            cost: record.cost.map(amount),
            status: record.status.as_str(),
            error_message: record.error_message.as_deref().map(clean),
            cache_read_tokens: record.cache_read_tokens.map(count),
            cache_write_tokens: record.cache_write_tokens.map(count),
            cache_write_1h_tokens: record.cache_write_1h_tokens.map(count),
            status_code: record.status_code.map(i32::from),
            latency_ms: i64::from(record.latency_ms),
            attempt_position: i32::from(record.attempt_position),
            attempt_count: i32::from(record.attempt_count),
            request_group_id: clean(&record.request_group_id),
            counts_toward_budget: record.counts_toward_budget,
            policy_name: record.policy_name.as_deref().map(clean),
            selection_reason: record.selection_reason.as_deref().map(clean),
        }
    }
}

/// `text` without NUL, which PostgreSQL's text cannot hold.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "")) } else { Cow::Borrowed(text) }
}

/// An amount that the money columns hold.
pub(super) fn amount(amount: MicroUsd) -> i64 {
    amount.0.clamp(0, MAX_AMOUNT)
}

fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// `metadata` as an object. The columns hold objects only; anything else was written by hand and reads as empty.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `allowed_models` as a list. JSON's `null` is none, as the reference writes it; what is no list was written by hand
/// and permits nothing, and so does an entry that is no text.
pub(super) fn models(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Null => None,
        Value::Array(entries) => {
            Some(entries.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => Some(Vec::new()),
    }
}

impl StoreError {
    /// The same error; a conflict names `identity` instead of what the driver said.
    pub(super) fn naming(self, identity: &str) -> Self {
        match self {
            Self::Conflict(_) => Self::Conflict(identity.to_owned()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_models_that_was_damaged_permits_less_and_never_more() {
        assert_eq!(models(json!(null)), None, "as the reference writes no list");
        assert_eq!(models(json!([])), Some(Vec::new()));
        assert_eq!(models(json!(["a:b", 7, null])), Some(vec!["a:b".to_owned()]));
        for damaged in [json!("a:b"), json!({}), json!(true)] {
            assert_eq!(models(damaged), Some(Vec::new()));
        }
    }
}
