//! What is wrong with a configuration, and where: every problem at once, never only the first.

use std::fmt::{self, Display};
use std::sync::Arc;

/// Where a value was written. Orders by source, then by line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    source: Arc<str>,
    line: u32,
    column: u32,
}

impl Place {
    /// A source without lines: `environment`, `command line`.
    pub(super) fn named(source: &str) -> Self {
        Self { source: source.into(), line: 0, column: 0 }
    }

    /// A position, counted from one, in the text called `source`.
    pub(super) fn at(source: &Arc<str>, line: u32, column: u32) -> Self {
        Self { source: Arc::clone(source), line, column }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// One thing to repair, or to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value stands.
    pub place: Place,
    /// The key path, what is wrong with it, and what to do. Never a secret.
    pub text: String,
}

/// A configuration nothing can be started with.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", block(.problems))]
pub struct ConfigError {
    /// Never empty; in the order of the file.
    pub problems: Vec<Problem>,
    /// What would have been a warning, in the form of `Config::warnings`.
    pub warnings: Vec<String>,
}

/// Collects while everything is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Report {
    /// Notes something that prevents the start.
    pub(super) fn problem(&mut self, place: &Place, text: impl Into<String>) {
        self.problems.push(Problem { place: place.clone(), text: text.into() });
    }

    /// Notes something the operator should know.
    pub(super) fn warn(&mut self, place: &Place, text: impl Into<String>) {
        self.warnings.push(Problem { place: place.clone(), text: text.into() });
    }

    /// Notes a consequence, unless its cause was noted before.
    pub(super) fn problem_if_none(&mut self, place: &Place, text: &str) {
        if self.problems.is_empty() {
            self.problem(place, text);
        }
    }

    /// Makes every warning a problem: where nothing is guessed.
    pub(super) fn strict(mut self) -> Self {
        self.problems.append(&mut self.warnings);
        self
    }

    /// The warnings, or with a problem the error.
    pub(super) fn finish(mut self) -> Result<Vec<String>, ConfigError> {
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        self.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        let warnings = lines(&self.warnings);
        if self.problems.is_empty() {
            return Ok(warnings);
        }
        Err(ConfigError { problems: self.problems, warnings })
    }
}

/// One line each, the places as wide as the widest.
fn lines(problems: &[Problem]) -> Vec<String> {
    let places: Vec<String> = problems.iter().map(|p| p.place.to_string()).collect();
    let width = places.iter().map(|p| p.chars().count()).max().unwrap_or(0);
    places.iter().zip(problems).map(|(place, p)| format!("{place:width$}  {}", p.text)).collect()
}

fn block(problems: &[Problem]) -> String {
    listing(problems, "Nothing was started.")
}

fn listing(problems: &[Problem], outcome: &str) -> String {
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    format!("{}\n{count} {noun}. {outcome}", lines(problems).join("\n"))
}

impl ConfigError {
    /// Every problem on a line, then how many there are and `outcome`.
    pub fn listing(&self, outcome: &str) -> String {
        listing(&self.problems, outcome)
    }
}

/// The candidate that `name` is most likely a misspelling of.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    // A third of the letters may be wrong; beyond that a suggestion is a guess.
    let limit = name.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit.max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ` Did you mean "…"?`, or nothing.
pub(super) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|n| format!(" Did you mean \"{n}\"?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_listed_in_the_order_of_the_file() {
        let file: Arc<str> = "otari.yml".into();
        let mut report = Report::default();
        report.problem(&Place::at(&file, 22, 14), "b: wrong.");
        report.problem(&Place::at(&file, 3, 1), "a: wrong.");
        report.warn(&Place::named("environment"), "w");
        let error = report.finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "otari.yml:3:1    a: wrong.\notari.yml:22:14  b: wrong.\n2 problems. Nothing was started."
        );
        assert_eq!(error.warnings, ["environment  w"]);
    }

    #[test]
    fn only_close_names_are_suggested() {
        assert_eq!(nearest("prot", ["host", "port"]), Some("port"));
        assert_eq!(nearest("require-pricing", ["require_pricing"]), Some("require_pricing"));
        assert_eq!(nearest("zebra", ["host", "port"]), None);
    }
}
