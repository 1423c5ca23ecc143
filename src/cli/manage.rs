//! `keys`, `users`, `budgets`, `usage`: flags into a call of the management API, its answer into a table.
//!
//! Flags are the API's own fields: a struct of flags is serialised into the body or the query as it stands.

pub(super) mod keys;
pub(super) mod users;
pub(super) mod budgets;
pub(super) mod usage;

use std::io::{self, Write};

use clap::Args;
use http::Method;
use serde::Serialize;
use serde_json::{Map, Value};

use super::client::{Answer, Client, Failure, Gateway};
use super::table::{self, Column, NOTHING};
use super::{EXIT_FAILED, EXIT_OK};

/// Which rows of a list.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Page {
    /// Rows to leave out at the beginning
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: u64,
    /// Rows to show, 1000 at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// An id as it stands in a path.
pub(super) fn id(text: &str) -> Result<String, String> {
    if matches!(text, "" | "." | "..") {
        return Err("an id is neither empty nor dots".to_owned());
    }
    Ok(text.to_owned())
}

/// A JSON object.
fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text)
        .map_err(|_| "expected a JSON object such as '{\"team\": \"a\"}'".into())
}

/// An amount in USD. The gateway judges what is in range.
fn amount(text: &str) -> Result<serde_json::Number, String> {
    let number = text.trim().parse().ok().and_then(serde_json::Number::from_f64);
    number.ok_or_else(|| "expected an amount in USD such as 25 or 0.5".to_owned())
}

/// The fields that were given: flags left out are not among them.
fn given(flags: &impl Serialize) -> Map<String, Value> {
    // Structs of texts, numbers and lists: they always become an object.
    match serde_json::to_value(flags) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A body with the fields that were given. An empty entry of a list is none: `--allowed-models ""` is the empty list.
fn body(flags: &impl Serialize) -> Map<String, Value> {
    let mut fields = given(flags);
    for value in fields.values_mut() {
        if let Value::Array(items) = value {
            items.retain(|item| item.as_str() != Some(""));
        }
    }
    fields
}

/// The body of a change: the fields that were given, and `null` for those to clear.
fn change(flags: &impl Serialize, clear: &[String]) -> Result<Value, Failure> {
    let mut fields = body(flags);
    for name in clear {
        if fields.insert(name.replace('-', "_"), Value::Null).is_some_and(|old| !old.is_null()) {
            return Err(Failure::Usage(format!("--{name} is set and cleared at once.")));
        }
    }
    if fields.is_empty() {
        return Err(Failure::Usage("Nothing to change: give at least one field.".to_owned()));
    }
    Ok(Value::Object(fields))
}

/// A query with the fields that were given; lists are repeated.
fn query(flags: &impl Serialize) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let pairs = given(flags).into_iter().flat_map(|(name, value)| match value {
        Value::Array(items) => items.iter().map(|item| (name.clone(), text(item))).collect(),
        value => vec![(name, text(&value))],
    });
    pairs.collect()
}

/// Connects, does it, and tells how it went as an exit code.
pub(super) fn run(gateway: &Gateway, work: impl FnOnce(&Session<'_>) -> Result<(), Failure>) -> u8 {
    let done = Client::new(gateway).and_then(|client| work(&Session { client, gateway }));
    match done {
        Ok(()) => EXIT_OK,
        Err(failure) => {
            remark(&format!("Error: {failure}"));
            failure.exit_code()
        }
    }
}

/// What is not a result goes to standard error.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes a result to standard output.
///
/// # Errors
/// When it cannot be written; a reader that has seen enough is no failure.
pub(super) fn result(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("Standard output cannot be written: {error}.")))
        }
        _ => Ok(()),
    }
}

/// A gateway to talk to, and how to print.
pub(super) struct Session<'a> {
    /// The connection.
    pub(super) client: Client,
    gateway: &'a Gateway,
}

impl Session<'_> {
    /// Whether programs read the output.
    pub(super) fn is_json(&self) -> bool {
        self.gateway.json
    }

    /// The gateway's JSON as it came; what has no body prints nothing.
    fn json(&self, answer: &Answer) -> Result<(), Failure> {
        match answer.text.trim_end() {
            "" => Ok(()),
            text => result(&format!("{text}\n")),
        }
    }

    /// Shows one thing with all of its fields.
    fn one(&self, answer: &Answer) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(answer);
        }
        let answer = answer.json()?;
        let fields = answer.as_object().into_iter().flatten();
        let pairs: Vec<_> = fields.map(|(name, value)| (name.clone(), shown(value))).collect();
        result(&table::fields(&pairs))
    }

    /// Shows a sentence about what was done.
    fn done(&self, answer: &Answer, sentence: &str) -> Result<(), Failure> {
        if self.is_json() {
            self.json(answer)
        } else {
            result(&format!("{}\n", table::plain(sentence)))
        }
    }

    /// Shows a page of a list; `what` are they.
    fn many(
        &self,
        answer: &Answer,
        what: &str,
        page: &Page,
        columns: &[(&str, Column, Shown)],
    ) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(answer);
        }
        let rows = answer.json()?;
        let Some(rows) = rows.as_array() else {
            let message = "The answer is not a list. Is there an otari gateway at --url?";
            return Err(Failure::Failed(message.to_owned()));
        };
        if rows.is_empty() {
            remark(&format!("No {what}{}.", if page.skip == 0 { "" } else { " here" }));
            return Ok(());
        }
        result(&listed(columns, rows))?;
        if rows.len() as u64 == page.limit {
            let next = page.skip.saturating_add(page.limit);
            remark(&format!("{} shown. There may be more: --skip {next}", rows.len()));
        }
        Ok(())
    }

    /// Deletes what stands at a path.
    fn delete(&self, path: &[&str], sentence: &str) -> Result<(), Failure> {
        let answer = self.client.call(Method::DELETE, path, &[], None)?;
        self.done(&answer, sentence)
    }
}

/// How a field is shown in a list.
type Shown = fn(&Value) -> String;

/// A table of these fields of the rows.
fn listed(columns: &[(&str, Column, Shown)], rows: &[Value]) -> String {
    let cells = |row: &Value| columns.iter().map(|(field, _, show)| show(&row[*field])).collect();
    let titles: Vec<Column> = columns.iter().map(|(_, column, _)| *column).collect();
    table::render(&titles, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// A value as it is, without quotes around a text.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// USD with six places, so that points stand below each other.
fn usd(value: &Value) -> String {
    let amount = value.as_f64().and_then(otari_filters::money::MicroUsd::from_f64);
    amount.map_or_else(|| shown(value), |amount| amount.to_string())
}

/// An instant, to the second; the gateway writes UTC.
fn instant(value: &Value) -> String {
    let text = shown(value);
    match text.get(..19) {
        Some(second) if text.ends_with("+00:00") => second.replacen('T', " ", 1),
        _ => text,
    }
}

/// `yes` or `no`.
fn yes_no(value: &Value) -> String {
    value.as_bool().map_or_else(|| shown(value), |yes| if yes { "yes" } else { "no" }.to_owned())
}

/// Which models: without a list all of them.
fn models(value: &Value) -> String {
    if value.is_null() { "all".to_owned() } else { shown(value) }
}

/// Ends with a complaint when there is one.
pub(super) fn code(done: Result<(), Failure>) -> u8 {
    match done {
        Ok(()) => EXIT_OK,
        Err(failure) => {
            remark(&format!("Error: {failure}"));
            failure.exit_code().max(EXIT_FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_become_fields_and_lists_are_repeated() {
        let flags = json!({"user_id": ["a", "b&c"], "skip": 0, "status": "error", "priced": true});
        let pairs = query(&flags);
        let text: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["user_id=a", "user_id=b&c", "skip=0", "status=error", "priced=true"]);
    }

    #[test]
    fn a_change_sets_and_clears() {
        let flags = json!({"alias": "x", "allowed_models": [""]});
        let body = change(&flags, &["budget-id".to_owned()]).unwrap();
        assert_eq!(body, json!({"alias": "x", "allowed_models": [], "budget_id": null}));
        assert_eq!(change(&flags, &["alias".to_owned()]).unwrap_err().exit_code(), 2);
        assert_eq!(change(&json!({}), &[]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn values_are_shown_as_people_read_them() {
        assert_eq!(usd(&json!(0.02)), "0.020000");
        assert_eq!(usd(&Value::Null), "-");
        assert_eq!(instant(&json!("2026-01-02T03:04:05.678901+00:00")), "2026-01-02 03:04:05");
        assert_eq!(instant(&json!("soon")), "soon");
        assert_eq!(yes_no(&json!(false)), "no");
        assert_eq!((models(&Value::Null), models(&json!([]))), ("all".into(), "none".into()));
        assert_eq!(shown(&json!(["a", "b"])), "a, b");
        assert_eq!(shown(&json!({"a": 1})), r#"{"a":1}"#);
    }

    #[test]
    fn ids_that_a_path_would_swallow_are_refused() {
        assert!(id("..").is_err() && id("").is_err() && id("a/b").is_ok());
    }
}
