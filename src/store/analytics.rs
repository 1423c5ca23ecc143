//! Usage rows as they are asked for: which of them, and what they add up to. Shared by both backends.
//!
//! Sums of whole hours, days and weeks are kept; a report reads them where they are good and the rows themselves elsewhere: at
//! the edges of its window, in the running hour, and where rows came late. Both ways give the same numbers.

mod filter;
pub(super) mod condense;
pub(super) mod plan;
mod split;
pub(super) mod sql;

use std::ops::AddAssign;

use jiff::Timestamp;
use otari_filters::money::MicroUsd;

pub(super) use filter::Param;
pub use filter::{Tool, UsageFilter, UsageStatus};

/// A page that begins so many rows down is looked for by hours: passing over rows one by one would take longer.
pub(super) const SEEK_FROM: i64 = 2000;

/// A column that reports are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Model name.
    Model,
    /// Billed user; its label is the alias.
    User,
    /// API key; its label is the name.
    ApiKey,
    /// Who wrote the row.
    Source,
    /// The writer's own label; rows without one are left out.
    SourceLabel,
    /// Route template.
    Endpoint,
    /// Provider instance.
    Provider,
    /// Status code of `error` rows; empty when there is none. Other rows are left out.
    StatusCode,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Model,
        Self::User,
        Self::ApiKey,
        Self::Source,
        Self::SourceLabel,
        Self::Endpoint,
        Self::Provider,
        Self::StatusCode,
    ];

    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::Source => "source",
            Self::SourceLabel => "source_label",
            Self::Endpoint => "endpoint",
            Self::Provider => "provider",
            Self::StatusCode => "status_code",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == name)
    }
}

/// Length of a point of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// A day in UTC.
    Day,
    /// An hour.
    Hour,
}

impl Bucket {
    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    /// Its length in microseconds.
    pub fn micros(self) -> i64 {
        match self {
            Self::Day => 86_400_000_000,
            Self::Hour => 3_600_000_000,
        }
    }
}

/// What a report is to say.
#[derive(Clone, Debug)]
pub struct Report {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// Of the totals, and of the groups when they are split.
    pub bucket: Bucket,
    /// Wanted groups.
    pub dimensions: Vec<Dimension>,
    /// Groups by name; what is beyond is folded into one.
    pub top: i64,
    /// The same for [`Dimension::SourceLabel`].
    pub top_labels: i64,
    /// Groups per bucket.
    pub is_split: bool,
}

/// The numbers of a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    /// Buckets that have rows, oldest first.
    pub totals: Vec<(Timestamp, Totals)>,
    /// By dimension in the order of their names, then by place (the dearest first, the fold last), then by bucket.
    pub groups: Vec<Group>,
}

/// Sums over rows. A single row counts at most 1e12 tokens and a billion dollars: absurd ones must not break a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows but absorbed attempts, which were followed by another.
    pub requests: i64,
    /// Rows that ended in an error.
    pub errors: i64,
    /// Of all rows.
    pub cost: MicroUsd,
    /// Input.
    pub prompt_tokens: i64,
    /// Output.
    pub completion_tokens: i64,
    /// As the provider counts.
    pub total_tokens: i64,
    /// Input out of a cache.
    pub cache_read_tokens: i64,
    /// Input into a cache, for minutes.
    pub cache_write_tokens: i64,
    /// Input into a cache, for an hour.
    pub cache_write_1h_tokens: i64,
    /// Sum over `latency_count` requests.
    pub latency_ms: i64,
    /// Requests whose latency is known.
    pub latency_count: i64,
    /// Successes without a cost.
    pub unpriced: i64,
    /// Input of rows with a cost.
    pub billed_input_tokens: i64,
    /// Output of rows with a cost.
    pub billed_output_tokens: i64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.cost += other.cost;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.total_tokens += other.total_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.cache_write_1h_tokens += other.cache_write_1h_tokens;
        self.latency_ms += other.latency_ms;
        self.latency_count += other.latency_count;
        self.unpriced += other.unpriced;
        self.billed_input_tokens += other.billed_input_tokens;
        self.billed_output_tokens += other.billed_output_tokens;
    }
}

/// One value of a dimension, or all beyond the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Of which column.
    pub dimension: Dimension,
    /// `None`: rows without a value, or the fold.
    pub key: Option<String>,
    /// A name for people, where there is one.
    pub label: Option<String>,
    /// The fold of everything beyond the top.
    pub is_other: bool,
    /// When the groups are split.
    pub bucket: Option<Timestamp>,
    /// Of all rows.
    pub cost: MicroUsd,
    /// Total tokens.
    pub tokens: i64,
    /// As in [`Totals`].
    pub requests: i64,
}

/// What one step of condensing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condensed {
    /// An hour, or some longer sums; there may be more.
    One,
    /// Nothing is left to do.
    Done,
    /// Another gateway is at it.
    Busy,
}
