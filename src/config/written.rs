//! What was written, value by value: to say what changed between two readings, without saying a secret.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::layers::Fields;
use super::node::{Node, Value, child_path, is_secret};

/// Below these keys no value is shown: an option of a provider may be a credential of a kind nobody has heard of.
const HIDDEN: [&str; 3] = ["providers", "search_tools", "platform"];

/// The values of one reading, by path.
#[derive(Clone, Debug, Default)]
pub struct Written(BTreeMap<String, Leaf>);

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    /// The key of the file it is part of.
    key: &'static str,
    /// `None`: it may be a secret.
    shown: Option<String>,
    digest: [u8; 32],
}

/// A difference between two readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key of the file.
    pub key: &'static str,
    /// `rate_limit_rpm: 60 -> 120`, `providers.mistral: added`, `providers.openai.api_key: changed`.
    pub text: String,
}

impl Written {
    pub(super) fn of(fields: &Fields) -> Self {
        let mut written = Self::default();
        for (key, node) in fields.all() {
            written.add(key, key, node);
        }
        written
    }

    fn add(&mut self, key: &'static str, path: &str, node: &Node) {
        match &node.value {
            Value::Map(entries) if !entries.is_empty() => {
                for (name, node) in entries {
                    self.add(key, &child_path(path, name), node);
                }
            }
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                for (at, item) in items.iter().enumerate() {
                    // By its name where it has one: then a new entry does not look as if all of them had changed.
                    let name = name_of(item).map_or(at.to_string(), str::to_owned);
                    self.add(key, &child_path(path, &name), item);
                }
            }
            _ => {
                let text = text(node);
                let digest = Sha256::digest(text.as_bytes()).into();
                let is_hidden = HIDDEN.contains(&key) || is_secret(path) || has_variable(node);
                let shown = (!is_hidden).then_some(text);
                self.0.insert(path.to_owned(), Leaf { key, shown, digest });
            }
        }
    }

    /// What is different in `newer`, by path. An entry of a mapping that came or went is one change.
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let mut note = |key, text: String| {
            if !changes.iter().any(|change| change.text == text) {
                changes.push(Change { key, text });
            }
        };
        let mut paths: Vec<&String> = self.0.keys().chain(newer.0.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            let show = |leaf: &Leaf| leaf.shown.clone().unwrap_or_else(|| "…".into());
            match (self.0.get(path), newer.0.get(path)) {
                (Some(old), Some(new)) if old == new => {}
                (Some(Leaf { shown: Some(old), key, .. }), Some(Leaf { shown: Some(new), .. })) => {
                    note(key, format!("{path}: {old} -> {new}"));
                }
                (Some(old), Some(_)) => note(old.key, format!("{path}: changed")),
                (None, Some(new)) => match entry(path).filter(|entry| !self.has(entry)) {
                    Some(entry) => note(new.key, format!("{entry}: added")),
                    None => note(new.key, format!("{path}: set to {}", show(new))),
                },
                (Some(old), None) => match entry(path).filter(|entry| !newer.has(entry)) {
                    Some(entry) => note(old.key, format!("{entry}: removed")),
                    None => note(old.key, format!("{path}: removed")),
                },
                (None, None) => {}
            }
        }
        changes
    }

    /// Whether there is anything at this path or below it.
    fn has(&self, path: &str) -> bool {
        let below = self.0.range(path.to_owned()..).next();
        below.is_some_and(|(found, _)| {
            found.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// `providers.mistral` of `providers.mistral.api_key`; `None` for a key that is no mapping. Names in quotes may hold dots.
fn entry(path: &str) -> Option<&str> {
    let (key, rest) = path.split_once('.')?;
    // The entries of `routing.policies` are one step further down.
    let from = if rest.starts_with("policies.") { key.len() + 10 } else { key.len() + 1 };
    let mut is_quoted = false;
    let end = path[from..].find(|c| {
        is_quoted ^= c == '"';
        c == '.' && !is_quoted
    });
    Some(end.map_or(path, |end| &path[..from + end]))
}

/// What an entry of a list calls itself.
fn name_of(node: &Node) -> Option<&str> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key == "name").and_then(|(_, node)| match &node.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    })
}

/// Whether a variable is in it, which may hold a secret.
fn has_variable(node: &Node) -> bool {
    match &node.value {
        Value::List(items) => items.iter().any(has_variable),
        _ => node.expanded,
    }
}

fn text(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.clone(),
        _ => node.to_json().map_or_else(String::new, |json| json.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Env, Sources, load_written};
    use super::*;

    fn written(yaml: &str) -> Written {
        let env = [("OTARI_CONFIG_YAML", yaml), ("SECRET", "sk-variable"), ("RPM", "7")];
        let sources = Sources { env: Env::from_pairs(env), ..Sources::default() };
        load_written(&sources).unwrap().1
    }

    fn texts(old: &str, new: &str) -> Vec<String> {
        written(old).changes(&written(new)).into_iter().map(|change| change.text).collect()
    }

    #[test]
    fn changes_are_named_by_their_path() {
        let old = "port: 1\nrate_limit_rpm: 60\naliases: {fast: 'mock:a', slow: 'mock:b'}\nproviders: {mock: {models: [a, b, c]}}";
        let new = "port: 2\nenable_metrics: true\naliases: {fast: 'mock:c', slow: 'mock:b'}\nproviders: {mock: {models: [a, b, c]}, openai: {api_key: k}}";
        let want = [
            "aliases.fast: mock:a -> mock:c",
            "enable_metrics: set to true",
            "port: 1 -> 2",
            "providers.openai: added",
            "rate_limit_rpm: removed",
        ];
        assert_eq!(texts(old, new), want);
        assert_eq!(texts(new, old)[3], "providers.openai: removed");
        assert!(texts(new, new).is_empty());
    }

    #[test]
    fn a_secret_is_changed_and_never_said() {
        let old = "master_key: otari-mk-one-1234567890\nproviders: {openai: {api_key: sk-one, client_args: {organization: org-one}}}\nrate_limit_rpm: 5";
        let new = "master_key: ${SECRET}-1234567890\nproviders: {openai: {api_key: '${SECRET}', client_args: {organization: org-two}}}\nrate_limit_rpm: ${RPM}";
        let texts = texts(old, new);
        let want = [
            "master_key: changed",
            "providers.openai.api_key: changed",
            "providers.openai.client_args.organization: changed",
            "rate_limit_rpm: changed",
        ];
        assert_eq!(texts, want);
    }

    #[test]
    fn an_entry_in_quotes_is_one_entry() {
        assert_eq!(entry("pricing.\"p:m-1.5\".input"), Some("pricing.\"p:m-1.5\""));
        assert_eq!(entry("providers.p.api_key"), Some("providers.p"));
        assert_eq!(entry("routing.policies.best.targets.0"), Some("routing.policies.best"));
        assert_eq!(entry("port"), None);
    }
}
