//! The series of refusals because of a limit.

use prometheus::IntCounterVec;

use super::Registrar;

/// What a request or a connection may be over: the label of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_connections`.
    Connections,
    /// `max_header_bytes`.
    HeaderBytes,
    /// `max_header_count`.
    HeaderCount,
    /// `header_timeout_s`.
    HeaderTime,
    /// What is no proper HTTP.
    Malformed,
    /// `max_request_bytes`, and what a file may have.
    BodyBytes,
    /// `request_body_timeout_s`, `request_body_min_bytes_per_s`.
    BodyTime,
    /// `max_concurrent_requests`.
    Requests,
    /// `max_concurrent_requests_per_key`.
    KeyRequests,
    /// `max_concurrent_requests_per_user`.
    UserRequests,
    /// `rate_limits`: requests per minute.
    RateRequests,
    /// `rate_limits`: tokens per minute.
    RateTokens,
    /// `rate_limits`: requests under way.
    RateConcurrent,
    /// `max_journal_bytes`.
    Journal,
    /// `auth_failures_per_minute`.
    AuthFailures,
    /// `request_timeout_s`.
    Duration,
}

impl Limit {
    /// The limit that a refusal of this code is about; those that are counted where they happen are not among them.
    pub fn of(code: &str) -> Option<Self> {
        Some(match code {
            "malformed_request" => Self::Malformed,
            "headers_too_large" => Self::HeaderBytes,
            "too_many_headers" => Self::HeaderCount,
            "body_too_large" => Self::BodyBytes,
            "body_timeout" => Self::BodyTime,
            "deadline" => Self::Duration,
            _ => return None,
        })
    }

    const ALL: [Self; 16] = [
        Self::Connections,
        Self::HeaderBytes,
        Self::HeaderCount,
        Self::HeaderTime,
        Self::Malformed,
        Self::BodyBytes,
        Self::BodyTime,
        Self::Requests,
        Self::KeyRequests,
        Self::UserRequests,
        Self::RateRequests,
        Self::RateTokens,
        Self::RateConcurrent,
        Self::Journal,
        Self::AuthFailures,
        Self::Duration,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::HeaderBytes => "header_bytes",
            Self::HeaderCount => "header_count",
            Self::HeaderTime => "header_time",
            Self::Malformed => "malformed",
            Self::BodyBytes => "body_bytes",
            Self::BodyTime => "body_time",
            Self::Requests => "requests",
            Self::KeyRequests => "key_requests",
            Self::UserRequests => "user_requests",
            Self::RateRequests => "rate_requests",
            Self::RateTokens => "rate_tokens",
            Self::RateConcurrent => "rate_concurrent",
            Self::Journal => "journal",
            Self::AuthFailures => "auth_failures",
            Self::Duration => "duration",
        }
    }
}

/// Every one is there from the start: an alert on a series that is not there never fires.
pub(super) fn series(add: &Registrar<'_>) -> prometheus::Result<IntCounterVec> {
    let series = add.counters(
        "gateway_limit_hits_total",
        "Connections and requests that were refused or ended because of a limit",
        &["limit"],
    )?;
    for limit in Limit::ALL {
        series.with_label_values(&[limit.as_str()]);
    }
    Ok(series)
}
