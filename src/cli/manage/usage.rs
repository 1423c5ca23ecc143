//! `otari usage`.

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::Value;

use super::super::client::{Failure, Gateway};
use super::super::table::{self, Column};
use super::{Page, Session, Shown, instant, listed, query, result, shown, usd};

/// `otari usage`.
#[derive(Clone, Debug, Args)]
pub struct Usage {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where.
    #[command(flatten)]
    pub gateway: Gateway,
}

/// What can be asked about usage.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the calls, newest first
    List(List),
    /// Sum the calls up, in all and by model
    Summary(Summary),
}

/// `otari usage list`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct List {
    /// How many.
    #[command(flatten)]
    #[serde(flatten)]
    pub page: Page,
    /// Which calls.
    #[command(flatten)]
    #[serde(flatten)]
    pub filter: Filter,
}

/// `otari usage summary`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Summary {
    /// Length of the steps of `series` [default: day]
    #[arg(long, value_name = "STEP", value_parser = ["day", "hour"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Sums to ask for; can be given several times [default: all, of which by_model is shown]
    #[arg(long, value_name = "NAME", value_parser = DIMENSIONS)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<String>,
    /// Which calls.
    #[command(flatten)]
    #[serde(flatten)]
    pub filter: Filter,
}

const DIMENSIONS: [&str; 10] = [
    "model",
    "user",
    "api_key",
    "source",
    "source_label",
    "endpoint",
    "provider",
    "status_code",
    "tool",
    "none",
];

/// Which calls; several values of one flag mean any of them.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Filter")]
pub struct Filter {
    /// From this time on, such as 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_date: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_date: Option<String>,
    /// Of this user
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_id: Vec<String>,
    /// Of this API key
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_key_id: Vec<String>,
    /// To this model
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<String>,
    /// To this provider
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// On this route, such as /v1/chat/completions
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// With this ending: success, error, absorbed
    #[arg(long, value_name = "WORD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// With this HTTP status
    #[arg(long, value_name = "CODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// With a cost; =false: without one
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priced: Option<bool>,
    /// Counted against budgets; =false: not counted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts_toward_budget: Option<bool>,
    /// Of this request, all of its tries
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_group_id: Vec<String>,
}

const COLUMNS: [(&str, Column, Shown); 10] = [
    ("timestamp", Column::text("TIME (UTC)"), instant),
    ("user_id", Column::cut("USER", 32), shown),
    ("api_key_name", Column::cut("KEY", 24), shown),
    ("provider", Column::text("PROVIDER"), shown),
    ("model", Column::cut("MODEL", 40), shown),
    ("status", Column::text("STATUS"), shown),
    ("prompt_tokens", Column::number("IN"), shown),
    ("completion_tokens", Column::number("OUT"), shown),
    ("cost", Column::number("COST USD"), usd),
    ("latency_ms", Column::number("MS"), shown),
];

/// Does it.
pub(in crate::cli) fn run(verb: &Verb, session: &Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::List(list) => {
            let answer = session.client.call(Method::GET, &["usage"], &query(list), None)?;
            session.many(&answer, "calls", &list.page, &COLUMNS)
        }
        Verb::Summary(summary) => {
            let path = ["usage", "summary"];
            let answer = session.client.call(Method::GET, &path, &query(summary), None);
            let answer = answer.map_err(unknown)?;
            if session.is_json() {
                return session.json(&answer);
            }
            result(&report(&answer.json()?, &summary.dimensions))
        }
    }
}

/// A gateway that is older than this program.
fn unknown(failure: Failure) -> Failure {
    match failure {
        Failure::Refused { status: 404, .. } => Failure::Failed(
            "This gateway has no summary of its usage: it is older than this program. Use `otari usage list`."
                .to_owned(),
        ),
        other => other,
    }
}

const TOTALS: [(&str, Shown); 9] = [
    ("request_count", shown),
    ("error_count", shown),
    ("unpriced_requests", shown),
    ("prompt_tokens", shown),
    ("completion_tokens", shown),
    ("cache_read_tokens", shown),
    ("total_tokens", shown),
    ("avg_latency_ms", milliseconds),
    ("cost", usd),
];

/// Without the digits that nobody measured.
fn milliseconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| shown(value), |ms| format!("{ms:.0}"))
}

/// Totals, then a table for each list of sums that was asked for, else for the models.
fn report(summary: &Value, dimensions: &[String]) -> String {
    let mut pairs: Vec<(String, String)> =
        ["start_date", "end_date"].map(|name| (name.to_owned(), instant(&summary[name]))).to_vec();
    let totals = TOTALS.iter().filter(|(name, _)| !summary["totals"][*name].is_null());
    pairs.extend(totals.map(|(name, show)| ((*name).to_owned(), show(&summary["totals"][*name]))));
    let mut text = table::fields(&pairs);
    let asked: Vec<&str> = match dimensions {
        [] => vec!["model"],
        some => some.iter().map(String::as_str).collect(),
    };
    for dimension in asked {
        let rows = match dimension {
            "status_code" => &summary["errors_by_status_code"],
            other => &summary[format!("by_{other}")],
        };
        let Some(rows) = rows.as_array().filter(|rows| !rows.is_empty()) else { continue };
        text.push('\n');
        text.push_str(&if dimension == "status_code" {
            errors(rows)
        } else {
            sums(dimension, rows)
        });
    }
    text
}

/// The sums by one thing, such as the model.
fn sums(dimension: &str, rows: &[Value]) -> String {
    let title = match dimension {
        "model" => "MODEL",
        "user" => "USER",
        "api_key" => "API KEY",
        "source" => "SOURCE",
        "source_label" => "LABEL",
        "endpoint" => "ENDPOINT",
        "provider" => "PROVIDER",
        _ => "TOOL",
    };
    let columns = [
        Column::cut(title, 60),
        Column::number("REQUESTS"),
        Column::number("TOKENS"),
        Column::number("COST USD"),
    ];
    let cells = |row: &Value| {
        let name = match (&row["label"], &row["key"]) {
            _ if row["is_other"] == true => "(all others)".to_owned(),
            (Value::Null, key) => shown(key),
            (label, _) => shown(label),
        };
        vec![name, shown(&row["requests"]), shown(&row["tokens"]), usd(&row["cost"])]
    };
    table::render(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn errors(rows: &[Value]) -> String {
    let columns: [(&str, Column, Shown); 3] = [
        ("status_code", Column::number("STATUS"), shown),
        ("error_class", Column::text("CLASS"), shown),
        ("requests", Column::number("REQUESTS"), shown),
    ];
    listed(&columns, rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary() -> Value {
        json!({
            "start_date": "2026-01-01T00:00:00+00:00", "end_date": "2026-01-31T00:00:00+00:00",
            "bucket": "day",
            "totals": {"cost": 1.5, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
                "cache_read_tokens": 0, "request_count": 12, "error_count": 1,
                "avg_latency_ms": 41.666, "unpriced_requests": null},
            "by_model": [
                {"key": "openai:gpt", "label": "openai:gpt", "cost": 1.25, "tokens": 12, "requests": 10, "is_other": false},
                {"key": null, "label": null, "cost": 0.25, "tokens": 3, "requests": 2, "is_other": true}],
            "errors_by_status_code": [{"status_code": 429, "error_class": "rate_limit", "requests": 1}],
            "by_user": [{"key": "ada", "label": "Ada", "cost": 1.5, "tokens": 15, "requests": 12}],
        })
    }

    #[test]
    fn a_summary_is_totals_and_models() {
        let expected = "\
start_date         2026-01-01 00:00:00
end_date           2026-01-31 00:00:00
request_count      12
error_count        1
prompt_tokens      10
completion_tokens  5
cache_read_tokens  0
total_tokens       15
avg_latency_ms     42
cost               1.500000

MODEL         REQUESTS  TOKENS  COST USD
openai:gpt          10      12  1.250000
(all others)         2       3  0.250000
";
        assert_eq!(report(&summary(), &[]), expected);
    }

    #[test]
    fn other_sums_are_shown_when_they_are_asked_for() {
        let text = report(&summary(), &["user".into(), "status_code".into(), "tool".into()]);
        assert!(text.contains("USER  REQUESTS  TOKENS  COST USD\nAda         12"), "{text}");
        assert!(
            text.contains("STATUS  CLASS       REQUESTS\n   429  rate_limit         1\n"),
            "{text}"
        );
        assert!(!text.contains("MODEL") && !text.contains("TOOL"), "{text}");
    }

    #[test]
    fn a_gateway_without_the_route_is_named_as_such() {
        let failure = unknown(Failure::Refused { status: 404, message: String::new() });
        assert!(failure.to_string().contains("older than this program"), "{failure}");
        assert_eq!(failure.exit_code(), 1);
    }
}
