//! `rate_limits` and `rate_limit_store`.

use std::num::NonZeroU32;
use std::time::Duration;

use otari_filters::allow::AllowList;
use otari_filters::gcra::Rate;
use otari_filters::providers;
use otari_filters::rates::{Per, Rule};

use super::layers::Fields;
use super::node::{Node, Value, child_path};
use super::problem::{Report, suggestion};
use super::{Database, ProviderConfig};

const KEYS: [&str; 6] =
    ["per", "models", "requests_per_minute", "tokens_per_minute", "concurrent", "burst_s"];
/// Every request meets every entry.
const MOST: usize = 100;
/// A tenth of a minute: a client may begin with a few calls at once, and any minute has at most a tenth more than the
/// limit says.
const BURST_S: i128 = 6;

/// Where what was used is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateStore {
    /// In this process: each gateway has the whole limit.
    #[default]
    Local,
    /// In the PostgreSQL database: all gateways on it have the limit together.
    Postgres,
}

/// The entries in the file's order. `configured`: `None` where a platform knows the providers.
pub(super) fn read(
    fields: &Fields,
    configured: Option<&[ProviderConfig]>,
    report: &mut Report,
) -> Vec<Rule> {
    let Some(node) = fields.get("rate_limits") else { return Vec::new() };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Null | Value::Broken => &[],
        _ => {
            node.wrong(report, "expected a list. Write `- {per: key, requests_per_minute: 60}`.");
            &[]
        }
    };
    if items.len() > MOST {
        node.wrong(report, &format!("{} entries; {MOST} at most.", items.len()));
    }
    items.iter().filter_map(|item| rule(item, configured, report)).collect()
}

fn rule(item: &Node, configured: Option<&[ProviderConfig]>, report: &mut Report) -> Option<Rule> {
    let entries = item.entries(report);
    // A limit that is misspelt would be none.
    for (key, node) in entries.iter().filter(|(key, _)| !KEYS.contains(&key.as_str())) {
        let hint = match suggestion(key, KEYS) {
            hint if hint.is_empty() => format!(" Known: {}.", KEYS.join(", ")),
            hint => hint,
        };
        report.problem(&node.key_place, format!("{}: unknown key.{hint}", node.path));
    }
    let get = |key: &str| {
        entries.iter().find(|(known, node)| known == key && node.is_set()).map(|(_, node)| node)
    };
    let count = |key: &str, report: &mut Report| {
        let n = get(key)?.whole(&(1..=u32::MAX.into()), report)?;
        NonZeroU32::new(u32::try_from(n).ok()?)
    };
    let per = per(item, get("per"), configured.is_none(), report)?;
    let models = get("models").map(|node| models(node, configured, report));
    let burst = get("burst_s").and_then(|node| node.whole(&(1..=3600), report));
    let burst = Duration::from_secs(u64::try_from(burst.unwrap_or(BURST_S)).unwrap_or(1));
    let requests = count("requests_per_minute", report).map(|n| Rate::new(n, burst));
    let tokens = count("tokens_per_minute", report).map(|n| Rate::new(n, burst));
    let concurrent = count("concurrent", report);
    let limits = ["requests_per_minute", "tokens_per_minute", "concurrent"];
    if limits.iter().all(|key| get(key).is_none()) {
        item.wrong(report, &format!("limits nothing. Set one of {}.", limits.join(", ")));
    }
    Some(Rule { per, models, requests, tokens, concurrent })
}

fn per(item: &Node, node: Option<&Node>, is_connected: bool, report: &mut Report) -> Option<Per> {
    let words = Per::ALL.map(Per::as_str).join(", ");
    let Some(node) = node else {
        let path = child_path(&item.path, "per");
        report.problem(&item.place, format!("{path} is missing. Write one of {words}."));
        return None;
    };
    let text = node.text(report)?.trim();
    let found = Per::ALL.into_iter().find(|per| per.as_str() == text);
    match found {
        None => node.wrong(report, &format!("expected one of {words}.")),
        Some(Per::User) if is_connected => {
            node.warn(report, "no effect in connected mode, where only the platform knows users.");
        }
        Some(_) => {}
    }
    found
}

fn models(node: &Node, configured: Option<&[ProviderConfig]>, report: &mut Report) -> AllowList {
    let is_instance = |name: &str| {
        configured.is_none_or(|all| all.iter().any(|provider| provider.instance == name))
            || providers::find(name).is_some()
    };
    let texts = node.texts(report);
    if texts.is_empty() && matches!(node.value, Value::List(_)) {
        node.wrong(report, "an empty list limits nothing. Remove the key to count all models.");
    }
    AllowList::read(&texts, is_instance, |_| false, |_| false).unwrap_or_else(|faults| {
        node.wrong(report, &format!("{}.", faults.join("; ")));
        AllowList::default()
    })
}

/// `rate_limit_store`. `database`: `None` in connected mode, which has none.
pub(super) fn store(
    fields: &Fields,
    database: Option<&Database>,
    report: &mut Report,
) -> RateStore {
    let Some(node) = fields.get("rate_limit_store") else { return RateStore::Local };
    let Some(text) = node.text(report) else { return RateStore::Local };
    match (text.trim(), database) {
        ("" | "local", _) => RateStore::Local,
        ("postgres", Some(Database::Postgres { .. })) => RateStore::Postgres,
        ("postgres", Some(_)) => {
            let text = "postgres needs the database_url of a PostgreSQL database, which the gateways share. \
                        Set it, or use local.";
            node.wrong(report, text);
            RateStore::Local
        }
        ("postgres", None) => {
            node.wrong(report, "a connected gateway has no database. Use local.");
            RateStore::Local
        }
        _ => {
            node.wrong(report, "expected local or postgres.");
            RateStore::Local
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, Env, Sources, load};

    fn loaded(yaml: &str, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = [("OTARI_CONFIG_YAML", yaml)];
        let env = Env::from_pairs(own.iter().chain(more).copied());
        load(&Sources { env, ..Sources::default() })
    }

    #[test]
    fn limits_are_read_with_their_bursts() {
        let yaml = "rate_limit_store: postgres\ndatabase_url: postgresql://h/d\nrate_limits:\n  \
                    - {per: key, requests_per_minute: 60, concurrent: 3}\n  \
                    - {per: model, models: ['openai:gpt-4*'], tokens_per_minute: 90000, burst_s: 60}";
        let config = loaded(yaml, &[]).unwrap();
        assert_eq!(config.rate_limit_store, RateStore::Postgres);
        let [key, model] = &config.rate_limits[..] else { panic!() };
        assert_eq!((key.per, key.concurrent.map(NonZeroU32::get)), (Per::Key, Some(3)));
        assert_eq!(key.requests.map(Rate::burst_ns), Some(6_000_000_000));
        assert!(model.covers("openai", "gpt-4o") && !model.covers("openai", "o3"));
        assert_eq!(model.tokens.map(Rate::burst_ns), Some(60_000_000_000));
        assert!(model.requests.is_none() && model.concurrent.is_none());
        assert_eq!(loaded("rate_limits: ", &[]).unwrap().rate_limits, []);
    }

    #[test]
    fn mistakes_are_named() {
        for (yaml, want) in [
            ("rate_limits: {per: key}", "expected a list"),
            ("rate_limits: [{per: key}]", "limits nothing"),
            ("rate_limits: [{requests_per_minute: 1}]", "per is missing"),
            ("rate_limits: [{per: keys, concurrent: 1}]", "expected one of key, user, model, all."),
            ("rate_limits: [{per: key, request_per_minute: 1}]", "\"requests_per_minute\"?"),
            ("rate_limits: [{per: key, tokens_per_minute: 0}]", "a whole number from 1 to"),
            ("rate_limits: [{per: key, concurrent: 1, models: [gpt]}]", "must be instance:model"),
            ("rate_limits: [{per: key, concurrent: 1, models: ['x:y']}]", "unknown provider"),
            ("rate_limits: [{per: key, concurrent: 1, models: []}]", "an empty list"),
            ("rate_limits: [{per: key, concurrent: 1, burst_s: 0}]", "a whole number from 1 to"),
            ("rate_limit_store: postgres", "needs the database_url of a PostgreSQL database"),
            ("rate_limit_store: redis", "expected local or postgres."),
        ] {
            let error = loaded(yaml, &[]).unwrap_err().to_string();
            assert!(error.contains(want), "{yaml}: {error}");
        }
        let token = [("OTARI_AI_TOKEN", "t")];
        let config = loaded("rate_limits: [{per: user, concurrent: 1}]", &token).unwrap();
        assert!(config.warnings.join("\n").contains("only the platform knows users"));
        let error = loaded("rate_limit_store: postgres", &token).unwrap_err().to_string();
        assert!(error.contains("a connected gateway has no database"), "{error}");
    }
}
