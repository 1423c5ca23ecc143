//! `pricing:`, the seeds for models without a price.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use otari_filters::money::Rate;
use otari_filters::prices::{Prices, Tier};

use super::layers::{Fields, warn_unknown};
use super::node::{Node, Value};
use super::problem::Report;
use super::{PriceSeed, ProviderConfig, SearchTool};

/// The keys that are read.
pub(super) const KEYS: &[&str] = &[
    "input_price_per_million",
    "output_price_per_million",
    "cache_read_price_per_million",
    "cache_write_price_per_million",
    "cache_write_1h_price_per_million",
    "pricing_tiers",
    "effective_at",
];

/// The entries whose provider can be called, in the file's order.
pub(super) fn read(
    fields: &Fields,
    providers: &[ProviderConfig],
    search_tools: &[SearchTool],
    report: &mut Report,
) -> Vec<PriceSeed> {
    let entries = fields.get("pricing").map_or(&[][..], |node| node.entries(report));
    let is_known = |name: &str| {
        providers.iter().any(|provider| provider.instance == name)
            || search_tools.iter().any(|tool| tool.provider.as_str() == name)
    };
    entries.iter().filter_map(|(key, node)| seed(key, node, &is_known, report)).collect()
}

fn seed(
    key: &str,
    node: &Node,
    is_known: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Option<PriceSeed> {
    let seed = entry(key, node, "ignored", report);
    let provider = key.split([':', '/']).next().unwrap_or_default();
    let is_selector = provider.len() + 1 < key.len() && !provider.is_empty();
    if is_selector && !is_known(provider) {
        let text = format!(
            "Cannot set pricing for model '{key}': provider '{provider}' is not configured in the providers section. Skipped."
        );
        report.warn(&node.key_place, text);
        return None;
    }
    seed
}

/// One entry, of whichever provider; `effect` says what becomes of a key that is not known.
pub(super) fn entry(
    key: &str,
    node: &Node,
    effect: &str,
    report: &mut Report,
) -> Option<PriceSeed> {
    let split = key.find([':', '/']).map(|at| (&key[..at], &key[at + 1..]));
    let Some((provider, model)) = split.filter(|(p, m)| !p.is_empty() && !m.is_empty()) else {
        let text = format!(
            "{}: Invalid model format. Expected 'provider:model' or 'provider/model', got '{key}'",
            node.path
        );
        report.problem(&node.key_place, text);
        return None;
    };
    let entries = node.entries(report);
    warn_unknown(entries, KEYS, effect, report);
    let input = rate(node, entries, "input_price_per_million", report);
    let output = rate(node, entries, "output_price_per_million", report);
    let cache_read = optional_rate(entries, "cache_read_price_per_million", report);
    let cache_write = optional_rate(entries, "cache_write_price_per_million", report);
    let cache_write_1h = optional_rate(entries, "cache_write_1h_price_per_million", report);
    let tiers = tiers(entries, effect, report);
    let effective_at = instant(entries, report);
    let model_key = format!("{provider}:{model}");
    let prices = Prices::new(input?, output?)
        .with_cache(cache_read, cache_write, cache_write_1h)
        .with_tiers(tiers);
    Some(PriceSeed { model_key, prices, effective_at })
}

fn rate(parent: &Node, entries: &[(String, Node)], key: &str, report: &mut Report) -> Option<Rate> {
    if find(entries, key).is_none() {
        // A mapping that could not be read was reported already.
        if matches!(parent.value, Value::Map(_) | Value::Null) {
            parent.wrong(report, &format!("{key} is missing. Set the USD per million."));
        }
        return None;
    }
    optional_rate(entries, key, report)
}

fn optional_rate(entries: &[(String, Node)], key: &str, report: &mut Report) -> Option<Rate> {
    let node = find(entries, key)?;
    let usd = node.number(false, f64::MAX, report)?;
    let rate = Rate::from_f64(usd).filter(|_| usd <= Rate::MAX_USD);
    if rate.is_none() {
        node.wrong(report, "too large for a price.");
    }
    rate
}

/// A list of mappings, each with its threshold and the rates that it changes.
fn tiers(entries: &[(String, Node)], effect: &str, report: &mut Report) -> Vec<Tier> {
    let Some(node) = find(entries, "pricing_tiers") else { return Vec::new() };
    let Value::List(items) = &node.value else {
        if !node.is_broken() {
            node.wrong(report, "expected a list of tiers.");
        }
        return Vec::new();
    };
    let mut tiers: Vec<Tier> = Vec::new();
    for item in items {
        let Some(tier) = tier(item, effect, report) else { continue };
        if tiers.iter().any(|other| other.min_input_tokens == tier.min_input_tokens) {
            let text =
                format!("a second tier from {} tokens on. Remove one.", tier.min_input_tokens);
            item.wrong(report, &text);
        }
        tiers.push(tier);
    }
    tiers
}

fn tier(node: &Node, effect: &str, report: &mut Report) -> Option<Tier> {
    const THRESHOLD: &str = "min_input_tokens";
    let entries = node.entries(report);
    let rates = &KEYS[..5];
    let known: Vec<&str> = rates.iter().copied().chain([THRESHOLD]).collect();
    warn_unknown(entries, &known, effect, report);
    let mut rate = |key: &str| optional_rate(entries, key, report);
    let tier = Tier {
        input: rate(rates[0]),
        output: rate(rates[1]),
        cache_read: rate(rates[2]),
        cache_write: rate(rates[3]),
        cache_write_1h: rate(rates[4]),
        min_input_tokens: 0,
    };
    let Some(threshold) = find(entries, THRESHOLD) else {
        // Anything but a mapping was reported already.
        if matches!(node.value, Value::Map(_) | Value::Null) {
            node.wrong(
                report,
                "min_input_tokens is missing. Set the input from which on the tier applies.",
            );
        }
        return None;
    };
    let tokens = threshold.whole(&(1..=i128::from(i64::MAX)), report)?;
    Some(Tier { min_input_tokens: u64::try_from(tokens).ok()?, ..tier })
}

fn find<'a>(entries: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    entries.iter().find(|(name, node)| name == key && node.is_set()).map(|(_, node)| node)
}

/// RFC 3339; without an offset UTC; a day alone is its midnight; a number is seconds since 1970.
fn instant(entries: &[(String, Node)], report: &mut Report) -> Option<Timestamp> {
    let node = find(entries, "effective_at")?;
    let instant = match &node.value {
        Value::Int(seconds) => {
            let seconds = i64::try_from(*seconds).ok();
            seconds.and_then(|s| Timestamp::from_duration(SignedDuration::from_secs(s)).ok())
        }
        Value::Broken => return None,
        Value::Text(text) => {
            let text = text.trim();
            let civil = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
            text.parse().ok().or_else(|| Some(civil()?.timestamp()))
        }
        _ => None,
    };
    if instant.is_none() {
        node.wrong(report, "expected a time such as 2026-01-01T00:00:00Z.");
    }
    instant
}
