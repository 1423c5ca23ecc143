//! The query strings of the usage routes: filters, windows and choices, checked with all faults at once.

use jiff::{SignedDuration, Timestamp};
use otari_filters::rejection::Rejection;
use otari_filters::validate::{Bounds, Field, Fields, Kind};
use serde_json::{Map, Value, json};

use super::super::openapi::Operation;
use super::super::{Request, fields};
use crate::clock;
use crate::store::UsageFilter;
use crate::store::analytics::{Bucket, Tool, UsageStatus};

/// Any 32 bits: a code that no answer has simply finds nothing.
const STATUS_CODE: Bounds<i64> =
    Bounds { at_least: Some(i32::MIN as i64), above: None, at_most: Some(i32::MAX as i64) };

/// What rows are asked for by.
pub(super) const FIELDS: [Field; 15] = [
    Field::new("start_date", Kind::Instant, "From this instant on"),
    Field::new("end_date", Kind::Instant, "Before this instant"),
    Field::new("user_id", Kind::Texts, "These users', may be repeated"),
    Field::new("status", Kind::Choice(&["success", "error", "absorbed"]), "How the call ended"),
    Field::new("status_code", Kind::Whole(STATUS_CODE), "Errors of this HTTP status"),
    Field::new("model", Kind::Texts, "These models, without their provider, may be repeated"),
    Field::new("endpoint", Kind::Text, "This route"),
    Field::new("provider", Kind::Text, "This provider instance"),
    Field::new("source", Kind::Text, "Written by `gateway`, or by this other program"),
    Field::new("source_label", Kind::Text, "With this label of their writer"),
    Field::new("api_key_id", Kind::Texts, "These keys', may be repeated"),
    Field::new("priced", Kind::Flag, "With or without a cost"),
    Field::new(
        "tool",
        Kind::Choice(&["any", "web_search", "code_execution"]),
        "Runs of a tool of the gateway",
    ),
    Field::new("counts_toward_budget", Kind::Flag, "Counted against budgets, or not"),
    Field::new("request_group_id", Kind::Texts, "Attempts of these requests, may be repeated"),
];

/// And of which page.
pub(super) const PAGE_FIELDS: [Field; 17] = joined(FIELDS, fields::PAGE);

/// One list after the other.
pub(in crate::api) const fn joined<const A: usize, const B: usize, const N: usize>(
    first: [Field; A],
    second: [Field; B],
) -> [Field; N] {
    let mut all = [first[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < A { first[at] } else { second[at - A] };
        at += 1;
    }
    all
}

/// Names that may be repeated, and how many values they take.
const LISTS: [(&str, usize); 5] = [
    ("user_id", 50),
    ("model", 50),
    ("api_key_id", 50),
    ("request_group_id", 1000),
    ("dimensions", 50),
];

const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_hours(30 * 24);
const MAX_WINDOW: SignedDuration = SignedDuration::from_hours(366 * 24);

/// The query as an object: of a repeated name all values, where that means something, else the last.
pub(super) fn query(request: Request<'_>) -> Map<String, Value> {
    let mut query = Map::new();
    for (name, value) in form_urlencoded::parse(request.query.as_bytes()) {
        let value = Value::String(value.into_owned());
        if !LISTS.iter().any(|(list, _)| *list == name) {
            query.insert(name.into_owned(), value);
        } else if let Value::Array(values) =
            query.entry(name.into_owned()).or_insert_with(|| json!([]))
        {
            values.push(value);
        }
    }
    query
}

/// What is asked for, in the order in which faults are listed.
pub(super) fn filter(read: &mut Fields<'_>) -> UsageFilter {
    UsageFilter {
        start: fields::datetime(read, "start_date"),
        end: fields::datetime(read, "end_date"),
        user_ids: list(read, "user_id"),
        status: choice(
            read,
            "status",
            &[
                ("success", UsageStatus::Success),
                ("error", UsageStatus::Error),
                ("absorbed", UsageStatus::Absorbed),
            ],
        ),
        status_code: status_code(read),
        models: list(read, "model"),
        endpoint: fields::string(read, "endpoint"),
        provider: fields::string(read, "provider"),
        source: fields::string(read, "source"),
        source_label: fields::string(read, "source_label"),
        api_key_ids: list(read, "api_key_id"),
        priced: read.boolean("priced", true),
        tool: choice(
            read,
            "tool",
            &[
                ("any", Tool::Any),
                ("web_search", Tool::WebSearch),
                ("code_execution", Tool::CodeExecution),
            ],
        ),
        counts_toward_budget: read.boolean("counts_toward_budget", true),
        request_group_ids: list(read, "request_group_id"),
    }
}

fn status_code(read: &mut Fields<'_>) -> Option<i32> {
    i32::try_from(read.integer("status_code", STATUS_CODE)?).ok()
}

/// One of some words.
pub(super) fn choice<T: Copy>(
    read: &mut Fields<'_>,
    name: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    let text = fields::string(read, name)?;
    let found = choices.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let (message, expected) = literal(choices.iter().map(|(word, _)| *word));
        read.wrong(name, "literal_error", &message, json!({"expected": expected}));
    }
    found.map(|(_, value)| *value)
}

/// Several of some words; an unknown one is named by its place.
pub(super) fn choices<T: Copy>(read: &mut Fields<'_>, name: &str, choices: &[(&str, T)]) -> Vec<T> {
    let mut chosen = Vec::new();
    for (at, text) in list(read, name).into_iter().enumerate() {
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => chosen.push(*value),
            None => {
                let (message, expected) = literal(choices.iter().map(|(word, _)| *word));
                let loc = ["query".into(), name.into(), at.into()];
                let context = json!({"expected": expected});
                read.faults.add("literal_error", &loc, &message, text.into(), context);
            }
        }
    }
    chosen
}

fn literal<'a>(words: impl Iterator<Item = &'a str>) -> (String, String) {
    let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    let expected = match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    };
    (format!("Input should be {expected}"), expected)
}

/// All values of a repeated name.
fn list(read: &mut Fields<'_>, name: &str) -> Vec<String> {
    let Some(Value::Array(values)) = read.get(name) else { return Vec::new() };
    let most = LISTS.iter().find(|(list, _)| *list == name).map_or(0, |(_, most)| *most);
    if values.len() > most {
        let actual = values.len();
        let message =
            format!("List should have at most {most} items after validation, not {actual}");
        let context = json!({"field_type": "List", "max_length": most, "actual_length": actual});
        read.wrong(name, "too_long", &message, context);
        return Vec::new();
    }
    let texts: Vec<String> =
        values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect();
    if texts.iter().any(|text| text.contains('\0')) {
        let message = "Value error, must not contain NUL characters";
        read.wrong(name, "value_error", message, json!({"error": {}}));
    }
    texts
}

/// `day` or `hour`.
pub(super) fn bucket(read: &mut Fields<'_>) -> Bucket {
    choice(read, "bucket", &[("day", Bucket::Day), ("hour", Bucket::Hour)]).unwrap_or(Bucket::Day)
}

/// The window of a report: 30 days when nothing is said, and 366 at most: the start is pulled forward.
pub(super) fn window(filter: &UsageFilter) -> (Timestamp, Timestamp) {
    let end = filter.end.unwrap_or_else(clock::now);
    let back = |by: SignedDuration| end.checked_sub(by).unwrap_or(Timestamp::MIN);
    let start = filter.start.unwrap_or_else(|| back(DEFAULT_WINDOW));
    (start.max(back(MAX_WINDOW)).max(Timestamp::UNIX_EPOCH), end)
}

/// Reads a query with `read` and refuses it with all of its faults.
///
/// # Errors
/// `invalid_fields`.
pub(super) fn checked<T>(
    operation: &Operation,
    request: Request<'_>,
    read: impl FnOnce(&mut Fields<'_>) -> T,
) -> Result<T, Rejection> {
    let query = query(request);
    let mut fields = operation.read_query(&query);
    let value = read(&mut fields);
    fields.faults.check()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::COUNT;
    use super::*;

    fn ask(query: &str) -> Result<UsageFilter, Rejection> {
        let headers = HeaderMap::new();
        checked(
            &COUNT,
            Request {
                id: None,
                query,
                body: &Bytes::new(),
                headers: &headers,
                caller: None,
                address: None,
                request_id: "",
            },
            filter,
        )
    }

    #[test]
    fn a_filter_holds_what_was_asked() {
        let asked = "user_id=a&user_id=&model=m&status=error&status_code=502&priced=no&tool=any\
                     &counts_toward_budget=true&request_group_id=r&endpoint=/v1/x&workspace_id=w&status=absorbed";
        let filter = ask(asked).unwrap();
        assert_eq!(filter.user_ids, ["a", ""]);
        assert_eq!(filter.status, Some(UsageStatus::Absorbed), "not a list: the last counts");
        assert_eq!((filter.status_code, filter.priced), (Some(502), Some(false)));
        assert_eq!((filter.tool, filter.counts_toward_budget), (Some(Tool::Any), Some(true)));
        assert_eq!(filter.endpoint.as_deref(), Some("/v1/x"));
        assert_eq!(ask("").unwrap(), UsageFilter::default());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let many = "model=m&".repeat(51);
        let query =
            format!("{many}start_date=x&status=ok&status_code=no&priced=maybe&tool=x&user_id=%00");
        let refused = ask(&query).unwrap_err().detail.unwrap();
        let faults: Vec<(&str, &str)> = refused
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| (fault["loc"][1].as_str().unwrap(), fault["type"].as_str().unwrap()))
            .collect();
        let expected = [
            ("start_date", "datetime_from_date_parsing"),
            ("user_id", "value_error"),
            ("status", "literal_error"),
            ("status_code", "int_parsing"),
            ("model", "too_long"),
            ("priced", "bool_parsing"),
            ("tool", "literal_error"),
        ];
        assert_eq!(faults, expected);
        let expected = "Input should be 'success', 'error' or 'absorbed'";
        assert_eq!(refused[2]["msg"], expected);
    }

    #[test]
    fn a_window_is_bounded() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let end = Some(at("2026-06-01T00:00:00Z"));
        let window = |start| window(&UsageFilter { start, end, ..UsageFilter::default() });
        assert_eq!(window(None).0, at("2026-05-02T00:00:00Z"));
        assert_eq!(window(Some(at("2020-01-01T00:00:00Z"))).0, at("2025-05-31T00:00:00Z"));
        assert_eq!(window(Some(at("2026-05-31T23:00:00Z"))).0, at("2026-05-31T23:00:00Z"));
    }
}
