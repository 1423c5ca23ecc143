//! Whether the report is whole: what is on the disk is read again and held beside the list of rows.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Outcome;
use crate::report::{MARKDOWN, RAW};
use crate::rows::Kind;

/// Everything that is missing in the report in this folder.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn holes(folder: &Path, wanted: &[&Kind]) -> Outcome<Vec<String>> {
    let raw: Value = serde_json::from_slice(&fs::read(folder.join(RAW))?)?;
    let text = fs::read_to_string(folder.join(MARKDOWN))?;
    let rows = raw["rows"].as_array().ok_or("the raw report has no rows")?;
    let mut holes = Vec::new();
    for kind in wanted {
        match rows.iter().find(|row| row["id"] == kind.id) {
            None => holes.push(format!("{}: no such row", kind.id)),
            Some(row) => of_row(kind, row, &text, folder, &mut holes),
        }
    }
    Ok(holes)
}

fn of_row(kind: &Kind, row: &Value, text: &str, folder: &Path, holes: &mut Vec<String>) {
    let mut hole = |what: String| holes.push(format!("{}: {what}", kind.id));
    let list = |name: &str| row[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let figures = list("figures");
    let aims = figures.iter().filter(|figure| !figure["aim"].is_null()).count();
    if aims != kind.aims {
        hole(format!("{aims} figures with a target instead of {}", kind.aims));
    }
    for figure in figures {
        let what = figure["what"].as_str().unwrap_or_default();
        // What is no number (a division by nothing) is `null` in JSON.
        let rounds = figure["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_measured = !rounds.is_empty() && rounds.iter().all(Value::is_number);
        if !is_measured || !figure["value"].is_number() {
            hole(format!("{what}: not a number in every round"));
        }
        if !text.contains(what) {
            hole(format!("{what}: not in the report for people"));
        }
    }
    if !row["samples"].as_object().is_some_and(|samples| samples.values().all(is_full)) {
        hole("no samples".into());
    }
    if list("plots").is_empty() {
        hole("no plot".into());
    }
    for plot in list("plots").iter().filter_map(Value::as_str) {
        let svg = fs::read_to_string(folder.join(plot)).unwrap_or_default();
        let is_whole = svg.starts_with("<svg") && svg.ends_with("</svg>\n");
        if !is_whole || svg.contains("NaN") || svg.contains("inf") {
            hole(format!("{plot} is no picture"));
        }
        if !text.contains(&format!("]({plot})")) {
            hole(format!("{plot} is not in the report for people"));
        }
    }
}

fn is_full(samples: &Value) -> bool {
    samples.as_array().is_some_and(|samples| !samples.is_empty())
}
