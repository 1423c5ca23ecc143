//! `/v1/usage/summary`, `/series` and `/summary.csv`: what usage adds up to.

use std::collections::HashMap;

use http::HeaderValue;
use http::header::CONTENT_DISPOSITION;
use jiff::Timestamp;
use jiff::tz::Offset;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Fields, Kind};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::openapi::Operation;
use super::super::{Answer, Request, fields};
use super::filter;
use crate::app::{FLUSH_AT_MOST, Standalone};
use crate::clock;
use crate::store::UsageFilter;
use crate::store::analytics::{Bucket, Dimension, Group, Report, Reported, Totals};

const BUCKET: Field = Field::new("bucket", Kind::Choice(&["day", "hour"]), "Length of a point");

static SUMMARY_FIELDS: [Field; 17] = filter::joined(
    filter::FIELDS,
    [
        Field::new("dimensions", Kind::Texts, "Groups to list, may be repeated; all when left out"),
        BUCKET,
    ],
);
static SERIES_FIELDS: [Field; 17] = filter::joined(
    filter::FIELDS,
    [
        BUCKET,
        Field::new(
            "group_by",
            Kind::Choice(&["model", "user_id", "api_key_id", "source"]),
            "What the groups are of",
        ),
    ],
);

pub(super) static SUMMARY: Operation =
    Operation::new("summarize_usage", "Sum usage up, by group and over time")
        .with_query(&SUMMARY_FIELDS)
        .answering::<Summary<'_>>();
pub(super) static CSV: Operation =
    Operation::new("summarize_usage_csv", "Sum usage up by group, for a spreadsheet")
        .with_query(&SUMMARY_FIELDS)
        .answering_page("text/csv; charset=utf-8");
pub(super) static SERIES: Operation =
    Operation::new("usage_series", "Sum usage up by one column over time")
        .with_query(&SERIES_FIELDS)
        .answering::<Series<'_>>()
        .or_refusing_as_a_whole();

/// Points of a series.
const MAX_POINTS: i64 = 1000;
/// Groups that are named; the others are folded into one.
const TOP: i64 = 100;
/// The same for sessions, of which there are more.
const TOP_LABELS: i64 = 250;
/// Groups of a series.
const TOP_SERIES: i64 = 8;

#[derive(Serialize, JsonSchema)]
struct Summary<'a> {
    #[schemars(extend("format" = "date-time"))]
    start_date: String,
    #[schemars(extend("format" = "date-time"))]
    end_date: String,
    bucket: &'static str,
    totals: Sums,
    by_model: Vec<Row<'a>>,
    by_user: Vec<Row<'a>>,
    by_api_key: Vec<Row<'a>>,
    by_source: Vec<Row<'a>>,
    by_source_label: Vec<Row<'a>>,
    by_endpoint: Vec<Row<'a>>,
    by_provider: Vec<Row<'a>>,
    /// No tools are run by this version: always empty.
    by_tool: Vec<Row<'a>>,
    errors_by_status_code: Vec<Errors>,
    series: Vec<Point>,
}

#[derive(Serialize, JsonSchema)]
struct Sums {
    cost: f64,
    prompt_tokens: i64,
    completion_tokens: i64,
    total_tokens: i64,
    cache_read_tokens: i64,
    cache_write_tokens: i64,
    cache_write_1h_tokens: i64,
    request_count: i64,
    error_count: i64,
    avg_latency_ms: Option<f64>,
    unpriced_requests: i64,
    billed_input_tokens: i64,
    billed_output_tokens: i64,
}

#[derive(Serialize, JsonSchema)]
struct Row<'a> {
    key: Option<&'a str>,
    label: Option<&'a str>,
    cost: f64,
    tokens: i64,
    requests: i64,
    is_other: bool,
}

#[derive(Serialize, JsonSchema)]
struct Errors {
    status_code: Option<i32>,
    error_class: &'static str,
    requests: i64,
}

#[derive(Serialize, JsonSchema)]
struct Point {
    bucket_start: String,
    cost: f64,
    tokens: i64,
    requests: i64,
    errors: i64,
    input_tokens: i64,
    cache_read_tokens: i64,
    cache_write_tokens: i64,
    output_tokens: i64,
}

#[derive(Serialize, JsonSchema)]
struct Series<'a> {
    #[schemars(extend("format" = "date-time"))]
    start_date: String,
    #[schemars(extend("format" = "date-time"))]
    end_date: String,
    bucket: &'static str,
    group_by: &'static str,
    groups: Vec<Row<'a>>,
    points: Vec<SeriesPoint<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct SeriesPoint<'a> {
    bucket_start: String,
    key: Option<&'a str>,
    is_other: bool,
    cost: f64,
    tokens: i64,
    requests: i64,
}

impl From<Totals> for Sums {
    fn from(totals: Totals) -> Self {
        // A mean for people: no sum is made of it.
        let mean = totals.latency_ms as f64 / totals.latency_count as f64;
        Self {
            cost: totals.cost.to_f64(),
            prompt_tokens: totals.prompt_tokens,
            completion_tokens: totals.completion_tokens,
            total_tokens: totals.total_tokens,
            cache_read_tokens: totals.cache_read_tokens,
            cache_write_tokens: totals.cache_write_tokens,
            cache_write_1h_tokens: totals.cache_write_1h_tokens,
            request_count: totals.requests,
            error_count: totals.errors,
            avg_latency_ms: (totals.latency_count > 0).then_some(mean),
            unpriced_requests: totals.unpriced,
            billed_input_tokens: totals.billed_input_tokens,
            billed_output_tokens: totals.billed_output_tokens,
        }
    }
}

impl<'a> From<&'a Group> for Row<'a> {
    fn from(group: &'a Group) -> Self {
        let key = group.key.as_deref();
        Self {
            key,
            label: group.label.as_deref().or(key),
            cost: group.cost.to_f64(),
            tokens: group.tokens,
            requests: group.requests,
            is_other: group.is_other,
        }
    }
}

impl Point {
    fn new(bucket: Timestamp, totals: Totals) -> Self {
        Self {
            bucket_start: hour(bucket),
            cost: totals.cost.to_f64(),
            tokens: totals.total_tokens,
            requests: totals.requests,
            errors: totals.errors,
            input_tokens: totals.prompt_tokens,
            cache_read_tokens: totals.cache_read_tokens,
            cache_write_tokens: totals
                .cache_write_tokens
                .saturating_add(totals.cache_write_1h_tokens),
            output_tokens: totals.completion_tokens,
        }
    }
}

/// `2026-01-31T23:00:00Z`.
fn hour(at: Timestamp) -> String {
    Offset::UTC.to_datetime(at).strftime("%Y-%m-%dT%H:00:00Z").to_string()
}

/// Starts of the buckets of a window.
fn buckets(start: Timestamp, end: Timestamp, bucket: Bucket) -> impl Iterator<Item = i64> {
    let (length, start, end) = (bucket.micros(), start.as_microsecond(), end.as_microsecond());
    let first = start - start.rem_euclid(length);
    let count = if start < end { (end - first + length - 1) / length } else { 0 };
    (0..count).map(move |n| first + n * length)
}

fn count(start: Timestamp, end: Timestamp, bucket: Bucket) -> i64 {
    i64::try_from(buckets(start, end, bucket).count()).unwrap_or(i64::MAX)
}

/// A summary's question.
fn read(operation: &Operation, request: Request<'_>) -> Result<(UsageFilter, Report), Rejection> {
    const CHOICES: [(&str, Option<Dimension>); 10] = [
        ("model", Some(Dimension::Model)),
        ("user", Some(Dimension::User)),
        ("api_key", Some(Dimension::ApiKey)),
        ("source", Some(Dimension::Source)),
        ("source_label", Some(Dimension::SourceLabel)),
        ("endpoint", Some(Dimension::Endpoint)),
        ("provider", Some(Dimension::Provider)),
        ("status_code", Some(Dimension::StatusCode)),
        // No tools are run: that group is always empty.
        ("tool", None),
        ("none", None),
    ];
    filter::checked(operation, request, |read| {
        let filter = filter::filter(read);
        let chosen = filter::choices(read, "dimensions", &CHOICES);
        let mut bucket = filter::bucket(read);
        let (start, end) = filter::window(&filter);
        if count(start, end, bucket) > MAX_POINTS {
            // The answer says so in `bucket`.
            bucket = Bucket::Day;
        }
        let mut dimensions = Dimension::ALL.to_vec();
        if !chosen.is_empty() {
            dimensions.retain(|dimension| chosen.contains(&Some(*dimension)));
        }
        let (top, top_labels) = (TOP, TOP_LABELS);
        let report = Report { start, end, bucket, dimensions, top, top_labels, is_split: false };
        (filter, report)
    })
}

async fn ask(
    app: &Standalone,
    filter: &UsageFilter,
    report: &Report,
) -> Result<Reported, Rejection> {
    // Whoever asks after an answer expects to find its row.
    app.local.journal.flush(FLUSH_AT_MOST).await;
    Ok(app.store.usage_report(filter, report).await?)
}

fn rows(reported: &Reported, dimension: Dimension) -> Vec<Row<'_>> {
    reported.groups.iter().filter(|group| group.dimension == dimension).map(Row::from).collect()
}

fn errors(reported: &Reported) -> Vec<Errors> {
    let codes = reported.groups.iter().filter(|group| group.dimension == Dimension::StatusCode);
    let mut errors: Vec<Errors> = codes
        .map(|group| {
            let status_code = group.key.as_deref().and_then(|code| code.parse().ok());
            let error_class = class(status_code);
            Errors { status_code, error_class, requests: group.requests }
        })
        .collect();
    errors.sort_by_key(|row| (std::cmp::Reverse(row.requests), row.status_code));
    errors
}

fn class(status_code: Option<i32>) -> &'static str {
    match status_code {
        Some(402) => "pricing",
        Some(429) => "rate_limit",
        Some(401 | 403 | 407) => "auth",
        Some(500..=599) => "provider_error",
        Some(400..=499) => "client_error",
        _ => "unknown",
    }
}

/// Totals, groups and a dense series.
pub(super) async fn summary(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let (filter, report) = read(&SUMMARY, request)?;
    let reported = ask(app, &filter, &report).await?;
    let mut totals = Totals::default();
    reported.totals.iter().for_each(|(_, bucket)| totals += *bucket);
    let known: HashMap<i64, Totals> =
        reported.totals.iter().map(|(at, totals)| (at.as_microsecond(), *totals)).collect();
    let series = buckets(report.start, report.end, report.bucket)
        .map(|at| Point::new(clock::timestamp(at), known.get(&at).copied().unwrap_or_default()));
    let by = |dimension| rows(&reported, dimension);
    Answer::json(&Summary {
        start_date: fields::iso(report.start),
        end_date: fields::iso(report.end),
        bucket: report.bucket.as_str(),
        totals: totals.into(),
        by_model: by(Dimension::Model),
        by_user: by(Dimension::User),
        by_api_key: by(Dimension::ApiKey),
        by_source: by(Dimension::Source),
        by_source_label: by(Dimension::SourceLabel),
        by_endpoint: by(Dimension::Endpoint),
        by_provider: by(Dimension::Provider),
        by_tool: Vec::new(),
        errors_by_status_code: errors(&reported),
        series: series.collect(),
    })
}

/// The groups of a summary for a spreadsheet.
pub(super) async fn csv(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let (filter, report) = read(&CSV, request)?;
    let reported = ask(app, &filter, &report).await?;
    let mut text = String::from("dimension,key,cost,tokens,requests\r\n");
    // In the order of the summary.
    for dimension in Dimension::ALL {
        for group in reported.groups.iter().filter(|group| group.dimension == dimension) {
            let key = if group.is_other { "other" } else { group.key.as_deref().unwrap_or("") };
            let MicroUsd(micros) = group.cost;
            text += &format!(
                "{},{},{}.{:06},{},{}\r\n",
                dimension.as_str(),
                cell(key),
                micros / 1_000_000,
                micros % 1_000_000,
                group.tokens,
                group.requests
            );
        }
    }
    let mut answer = Answer::page("text/csv; charset=utf-8", text);
    let name = HeaderValue::from_static("attachment; filename=\"usage-summary.csv\"");
    answer.headers.push((CONTENT_DISPOSITION, name));
    Ok(answer)
}

/// A spreadsheet takes what begins with one of these for a formula, and callers choose model names.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// The groups of one column over time; buckets without rows are left out.
pub(super) async fn series(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    const CHOICES: [(&str, (&str, Dimension)); 4] = [
        ("model", ("model", Dimension::Model)),
        ("user_id", ("user_id", Dimension::User)),
        ("api_key_id", ("api_key_id", Dimension::ApiKey)),
        ("source", ("source", Dimension::Source)),
    ];
    let (filter, bucket, (group_by, dimension)) =
        filter::checked(&SERIES, request, |read: &mut Fields<'_>| {
            let filter = filter::filter(read);
            let bucket = filter::bucket(read);
            let group_by = filter::choice(read, "group_by", &CHOICES);
            (filter, bucket, group_by.unwrap_or(CHOICES[0].1))
        })?;
    let (start, end) = filter::window(&filter);
    let points = count(start, end, bucket);
    if points > MAX_POINTS {
        let message = format!(
            "The window has {points} buckets of one {}, and a series has at most {MAX_POINTS}. Ask for a shorter \
             window or a longer bucket",
            bucket.as_str()
        );
        return Err(Rejection::new(Code::InvalidFields, message));
    }
    let (top, top_labels) = (TOP_SERIES, TOP_SERIES);
    let dimensions = vec![dimension];
    let report = Report { start, end, bucket, dimensions, top, top_labels, is_split: true };
    let reported = ask(app, &filter, &report).await?;
    let groups = whole(&reported.groups);
    let mut points: Vec<&Group> = reported.groups.iter().collect();
    // Stable: within a bucket the dearest of the window comes first.
    points.sort_by_key(|group| group.bucket);
    let points = points.into_iter().map(|group| SeriesPoint {
        bucket_start: group.bucket.map(hour).unwrap_or_default(),
        key: group.key.as_deref(),
        is_other: group.is_other,
        cost: group.cost.to_f64(),
        tokens: group.tokens,
        requests: group.requests,
    });
    Answer::json(&Series {
        start_date: fields::iso(start),
        end_date: fields::iso(end),
        bucket: bucket.as_str(),
        group_by,
        groups: groups.iter().map(Row::from).collect(),
        points: points.collect(),
    })
}

/// Groups over all of their buckets, in their order.
fn whole(split: &[Group]) -> Vec<Group> {
    let mut whole: Vec<Group> = Vec::new();
    for group in split {
        match whole.last_mut() {
            Some(last) if (last.is_other, &last.key) == (group.is_other, &group.key) => {
                last.cost += group.cost;
                last.tokens += group.tokens;
                last.requests += group.requests;
            }
            _ => whole.push(Group { bucket: None, ..group.clone() }),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_covered_by_its_buckets() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (start, end) = (at("2026-03-01T22:30:00Z"), at("2026-03-03T00:00:00Z"));
        assert_eq!((count(start, end, Bucket::Day), count(start, end, Bucket::Hour)), (2, 26));
        let first = buckets(start, end, Bucket::Hour).next().unwrap();
        assert_eq!(hour(clock::timestamp(first)), "2026-03-01T22:00:00Z");
        assert_eq!(count(end, end, Bucket::Day), 0);
        assert_eq!(count(end, start, Bucket::Day), 0);
    }

    #[test]
    fn a_spreadsheet_sees_no_formula() {
        assert_eq!(cell("gpt-5"), "gpt-5");
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("@SUM(A1),\"x\""), "\"'@SUM(A1),\"\"x\"\"\"");
        assert_eq!(cell("a\nb"), "\"a\nb\"");
    }

    #[test]
    fn errors_have_a_class() {
        let classes = [402, 429, 401, 403, 407, 502, 404, 200].map(|code| class(Some(code)));
        let expected = [
            "pricing",
            "rate_limit",
            "auth",
            "auth",
            "auth",
            "provider_error",
            "client_error",
            "unknown",
        ];
        assert_eq!(classes, expected);
        assert_eq!(class(None), "unknown");
    }
}
