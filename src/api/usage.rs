//! `/v1/usage`: what was called, by whom, and what it cost.

pub(super) mod filter;
mod in_flight;
mod summary;

use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use schemars::JsonSchema;
use serde::Serialize;

use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::{FLUSH_AT_MOST, Standalone};
use crate::routes::Question;
use crate::store::{Page, UsageFilter, UsageRow};

static LIST: Operation = Operation::new("list_usage", "List usage, newest first")
    .with_query(&filter::PAGE_FIELDS)
    .answering::<Vec<Usage<'_>>>();

static COUNT: Operation = Operation::new("count_usage", "Count usage rows")
    .with_query(&filter::FIELDS)
    .answering::<Count>();

pub(super) static OF_USER: Operation =
    Operation::new("list_user_usage", "List one user's usage, deleted or not, newest first")
        .with_query(&fields::PAGE)
        .answering::<Vec<Usage<'_>>>()
        .refusing(&[404]);
/// Answers a question.
pub(super) async fn answer(
    app: &Standalone,
    question: Question,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    match question {
        Question::List => list(app, request).await,
        Question::Count => count(app, request).await,
        Question::Summary => summary::summary(app, request).await,
        Question::Series => summary::series(app, request).await,
        Question::Csv => summary::csv(app, request).await,
        Question::InFlight => in_flight::in_flight(app),
    }
}

/// What a question says of itself.
pub(super) fn operation(question: Question) -> &'static Operation {
    match question {
        Question::List => &LIST,
        Question::Count => &COUNT,
        Question::Summary => &summary::SUMMARY,
        Question::Series => &summary::SERIES,
        Question::Csv => &summary::CSV,
        Question::InFlight => &in_flight::IN_FLIGHT,
    }
}

/// A row, in the order of the reference's later version.
#[derive(Serialize, JsonSchema)]
struct Usage<'a> {
    id: &'a str,
    user_id: Option<&'a str>,
    user_alias: Option<&'a str>,
    api_key_id: Option<&'a str>,
    api_key_name: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    timestamp: String,
    model: &'a str,
    provider: Option<&'a str>,
    endpoint: &'a str,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    total_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    cache_write_tokens: Option<i64>,
    cache_write_1h_tokens: Option<i64>,
    /// How the cost came about is not kept.
    billing_meters: Option<()>,
    pricing_breakdown: Option<()>,
    cost: Option<f64>,
    status: &'a str,
    error_message: Option<&'a str>,
    status_code: Option<i32>,
    latency_ms: Option<i64>,
    source: &'a str,
    source_label: Option<&'a str>,
    counts_toward_budget: bool,
    policy_name: Option<&'a str>,
    selection_reason: Option<&'a str>,
    attempt_position: Option<i32>,
    attempt_count: Option<i32>,
    request_group_id: Option<&'a str>,
}

impl<'a> From<&'a UsageRow> for Usage<'a> {
    fn from(row: &'a UsageRow) -> Self {
        Self {
            id: &row.id,
            user_id: row.user_id.as_deref(),
            user_alias: row.user_alias.as_deref(),
            api_key_id: row.api_key_id.as_deref(),
            api_key_name: row.api_key_name.as_deref(),
            timestamp: fields::iso(row.timestamp),
            model: &row.model,
            provider: row.provider.as_deref(),
            endpoint: &row.endpoint,
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.completion_tokens,
            total_tokens: row.total_tokens,
            cache_read_tokens: row.cache_read_tokens,
            cache_write_tokens: row.cache_write_tokens,
            cache_write_1h_tokens: row.cache_write_1h_tokens,
            billing_meters: None,
            pricing_breakdown: None,
            cost: row.cost.map(MicroUsd::to_f64),
            status: &row.status,
            error_message: row.error_message.as_deref(),
            status_code: row.status_code,
            latency_ms: row.latency_ms,
            source: &row.source,
            source_label: row.source_label.as_deref(),
            counts_toward_budget: row.counts_toward_budget,
            policy_name: row.policy_name.as_deref(),
            selection_reason: row.selection_reason.as_deref(),
            attempt_position: row.attempt_position,
            attempt_count: row.attempt_count,
            request_group_id: row.request_group_id.as_deref(),
        }
    }
}

async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let (filter, page) =
        filter::checked(&LIST, request, |read| (filter::filter(read), fields::page(read)))?;
    rows(app, &filter, page).await
}

#[derive(Serialize, JsonSchema)]
struct Count {
    total: i64,
}

/// How many rows all pages have.
async fn count(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let filter = filter::checked(&COUNT, request, filter::filter)?;
    app.local.journal.flush(FLUSH_AT_MOST).await;
    Answer::json(&Count { total: app.store.usage_count(&filter).await? })
}

/// One user's rows, deleted or not.
pub(super) async fn of_user(
    app: &Standalone,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = OF_USER.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    // Memory knows deleted users too; only another process may have made one that it does not know.
    if app.local.ledger.counters(id).is_none() && app.store.user_get(id).await?.is_none() {
        return Err(Rejection::new(Code::NotFound, format!("User with id '{id}' not found")));
    }
    let filter = UsageFilter { user_ids: vec![id.to_owned()], ..UsageFilter::default() };
    rows(app, &filter, page).await
}

async fn rows(app: &Standalone, filter: &UsageFilter, page: Page) -> Result<Answer, Rejection> {
    // Whoever asks after an answer expects to find its row.
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let rows = app.store.usage_list(filter, page).await?;
    Answer::json(&rows.iter().map(Usage::from).collect::<Vec<_>>())
}
