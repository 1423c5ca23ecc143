//! A value with its place, and readers that either return what was meant or say what is wrong.

use std::ops::RangeInclusive;

use super::problem::{Place, Report};

/// A value as written, after `${…}`.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// For messages: `providers.openai.api_key`, a variable or a flag.
    pub(super) path: String,
    /// Where its key stands.
    pub(super) key_place: Place,
    /// Where the value stands.
    pub(super) place: Place,
    /// What was written.
    pub(super) value: Value,
    /// It came out of a variable, which may hold a secret.
    pub(super) expanded: bool,
}

/// The kinds of YAML and JSON.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(String, Node)>),
    /// Something that was already reported.
    Broken,
}

impl Node {
    /// A value from outside the file.
    pub(super) fn outside(source: &str, name: &str, value: Value) -> Self {
        let place = Place::named(source);
        Self { path: name.to_owned(), key_place: place.clone(), place, value, expanded: false }
    }

    /// The same tree with this node's place: JSON in a variable has no lines.
    pub(super) fn from_json(source: &str, path: &str, json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(b),
            Json::Number(n) => {
                n.as_i128().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int)
            }
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(i, item)| Self::from_json(source, &format!("{path}[{i}]"), item))
                    .collect(),
            ),
            Json::Object(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| {
                        let node = Self::from_json(source, &child_path(path, &key), item);
                        (key, node)
                    })
                    .collect(),
            ),
        };
        Self::outside(source, path, value)
    }

    /// The same tree without places; `None` when something in it was reported already.
    pub(super) fn to_json(&self) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::Number(serde_json::Number::from_i128(*n)?),
            Value::Float(x) => Json::Number(serde_json::Number::from_f64(*x)?),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => {
                Json::Array(items.iter().map(Self::to_json).collect::<Option<_>>()?)
            }
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, item)| Some((key.clone(), item.to_json()?)))
                    .collect::<Option<_>>()?,
            ),
            Value::Broken => return None,
        })
    }

    /// Not `null`.
    pub(super) fn is_set(&self) -> bool {
        !matches!(self.value, Value::Null)
    }

    /// Already reported, itself or something in it.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.value, Value::Broken)
    }

    /// Reports the value.
    pub(super) fn wrong(&self, report: &mut Report, what: &str) {
        report.problem(&self.place, format!("{}: {what}", self.path));
    }

    /// Warns about the key.
    pub(super) fn warn(&self, report: &mut Report, what: &str) {
        report.warn(&self.key_place, format!("{}: {what}", self.path));
    }

    fn expected(&self, report: &mut Report, what: &str, advice: &str) {
        let found = self.found();
        self.wrong(report, &format!("expected {what}, found {found}.{advice}"));
    }

    /// The value for a message: itself only where it cannot be a secret.
    pub(super) fn found(&self) -> String {
        let hide = self.expanded || is_secret(&self.path);
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if hide => "something else".into(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Text(text) if text.is_empty() => "empty text".into(),
            Value::Text(text) if hide || text.chars().count() > 60 => "other text".into(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
            Value::Broken => "an unset variable".into(),
        }
    }

    /// Text. Numbers are not text: `master_key: 0123` would lose its zero.
    pub(super) fn text(&self, report: &mut Report) -> Option<&str> {
        match &self.value {
            Value::Text(text) => return Some(text),
            Value::Null | Value::Broken => {}
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.wrong(report, "expected text, found a bare value. Put it in quotes.");
            }
            _ => self.expected(report, "text", ""),
        }
        None
    }

    /// Text without blanks around it; `None` for one that says nothing.
    pub(super) fn words(&self, report: &mut Report) -> Option<String> {
        let text = self.text(report).map(str::trim).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    }

    /// A whole number in `range`; text with one counts.
    pub(super) fn whole(&self, range: &RangeInclusive<i128>, report: &mut Report) -> Option<i128> {
        let number = match &self.value {
            Value::Null | Value::Broken => return None,
            Value::Text(text) if self.expanded && text.trim().is_empty() => return None,
            Value::Int(n) => Some(*n),
            // Far below 2^53, where every whole double is exact.
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e15 => Some(*x as i128),
            Value::Text(text) => digits(text).parse().ok(),
            _ => None,
        };
        if number.is_none_or(|n| !range.contains(&n)) {
            let what = match (*range.start(), *range.end()) {
                (low, i128::MAX) => format!("a whole number, {low} or more"),
                (i128::MIN, _) => "a whole number".into(),
                (low, high) => format!("a whole number from {low} to {high}"),
            };
            self.expected(report, &what, "");
            return None;
        }
        number
    }

    /// A finite number that is not negative, at most `most`, and not zero if `positive`.
    pub(super) fn number(&self, positive: bool, most: f64, report: &mut Report) -> Option<f64> {
        let number = match &self.value {
            Value::Null | Value::Broken => return None,
            Value::Text(text) if self.expanded && text.trim().is_empty() => return None,
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            Value::Text(text) => digits(text).parse().ok(),
            _ => None,
        };
        let Some(number) = number.filter(|n| n.is_finite()) else {
            self.expected(report, "a number", "");
            return None;
        };
        if number > most {
            self.expected(report, &format!("{most} at most"), "");
        } else if number < 0.0 || (positive && number == 0.0) {
            self.expected(report, if positive { "a number above 0" } else { "0 or more" }, "");
        } else {
            return Some(number);
        }
        None
    }

    /// A switch; the words and digits that the reference takes.
    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        let flag = match &self.value {
            Value::Null | Value::Broken => return None,
            Value::Text(text) if self.expanded && text.trim().is_empty() => return None,
            Value::Bool(b) => Some(*b),
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" | "t" | "y" => Some(true),
                "0" | "false" | "no" | "off" | "f" | "n" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if flag.is_none() {
            self.expected(report, "true or false", "");
        }
        flag
    }

    /// A list of text; empty when unset.
    pub(super) fn texts(&self, report: &mut Report) -> Vec<String> {
        match &self.value {
            Value::List(items) => {
                items.iter().filter_map(|item| item.text(report).map(str::to_owned)).collect()
            }
            Value::Null | Value::Broken => Vec::new(),
            _ => {
                self.expected(report, "a list", " Write it as [\"…\"].");
                Vec::new()
            }
        }
    }

    /// The entries of a mapping; empty when unset.
    pub(super) fn entries(&self, report: &mut Report) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Broken => &[],
            _ => {
                self.expected(report, "a mapping", "");
                &[]
            }
        }
    }
}

/// Python's `1_000`, and blanks around it.
fn digits(text: &str) -> String {
    let text = text.trim();
    // Only between digits, so that `_1` stays the mistake it is.
    if text.starts_with('_') || text.ends_with('_') { text.into() } else { text.replace('_', "") }
}

/// Whether a value with this name may be a secret.
pub(super) fn is_secret(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ["key", "secret", "token", "password", "credential", "header", "url", "base"]
        .iter()
        .any(|word| path.contains(word))
}

/// `parent.key`, the key in quotes unless it is a plain word.
pub(super) fn child_path(parent: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, value: Value) -> Node {
        Node::outside("environment", path, value)
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn values_are_coerced_as_the_reference_does() {
        let report = &mut Report::default();
        let ports = 0..=65535;
        assert_eq!(node("port", text(" 8_000 ")).whole(&ports, report), Some(8000));
        assert_eq!(node("port", Value::Float(80.0)).whole(&ports, report), Some(80));
        assert_eq!(node("t", text("2.5")).number(false, 10.0, report), Some(2.5));
        assert_eq!(node("f", text(" ON ")).flag(report), Some(true));
        assert_eq!(node("f", Value::Int(0)).flag(report), Some(false));
        assert!(node("m", Value::Null).entries(report).is_empty());
        assert!(std::mem::take(report).finish().is_ok());
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for (node, want) in [
            (node("port", text("80a")), "port: expected a whole number, 1 or more, found \"80a\"."),
            (node("n", Value::Int(0)), "n: expected a whole number, 1 or more, found 0."),
            (
                node("my_token", text("hunter2")),
                "my_token: expected a whole number, 1 or more, found other text.",
            ),
        ] {
            let report = &mut Report::default();
            assert_eq!(node.whole(&(1..=i128::MAX), report), None);
            let problems = std::mem::take(report).finish().unwrap_err().problems;
            assert_eq!(problems[0].text, want);
        }
        let report = &mut Report::default();
        node("t", Value::Float(f64::NAN)).number(false, 1.0, report);
        node("t", Value::Int(-1)).number(false, 1.0, report);
        node("t", Value::Int(0)).number(true, 1.0, report);
        node("t", Value::Int(2)).number(true, 1.0, report);
        node("f", text("maybe")).flag(report);
        node("k", Value::Int(1)).text(report);
        node("l", text("https://a")).texts(report);
        let problems = std::mem::take(report).finish().unwrap_err().problems;
        let texts: Vec<_> = problems.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "t: expected a number, found NaN.",
                "t: expected 0 or more, found -1.",
                "t: expected a number above 0, found 0.",
                "t: expected 1 at most, found 2.",
                "f: expected true or false, found \"maybe\".",
                "k: expected text, found a bare value. Put it in quotes.",
                "l: expected a list, found \"https://a\". Write it as [\"…\"].",
            ]
        );
    }

    #[test]
    fn paths_quote_what_is_not_a_word() {
        assert_eq!(child_path("pricing", "openai:gpt-5"), "pricing.\"openai:gpt-5\"");
        assert_eq!(child_path("", "port"), "port");
    }
}
