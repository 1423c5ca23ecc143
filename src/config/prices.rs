//! `pricing:`, the seeds for models without a price.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use otari_filters::money::Rate;

use super::layers::{Fields, warn_unknown};
use super::node::{Node, Value};
use super::problem::Report;
use super::{PriceSeed, ProviderConfig};

/// The keys that are read.
const KEYS: &[&str] = &["input_price_per_million", "output_price_per_million", "effective_at"];
/// The later release's rates: known, but not billed yet.
const LATER: &[&str] = &[
    "cache_read_price_per_million",
    "cache_write_price_per_million",
    "cache_write_1h_price_per_million",
    "pricing_tiers",
];

/// The entries whose provider can be called, in the file's order.
pub(super) fn read(
    fields: &Fields,
    providers: &[ProviderConfig],
    report: &mut Report,
) -> Vec<PriceSeed> {
    let entries = fields.get("pricing").map_or(&[][..], |node| node.entries(report));
    entries.iter().filter_map(|(key, node)| seed(key, node, providers, report)).collect()
}

fn seed(
    key: &str,
    node: &Node,
    providers: &[ProviderConfig],
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
    let known: Vec<&str> = KEYS.iter().chain(LATER).copied().collect();
    warn_unknown(entries, &known, "ignored", report);
    for (name, node) in entries.iter().filter(|(n, v)| LATER.contains(&n.as_str()) && v.is_set()) {
        node.warn(report, &format!("this version does not bill by {name} yet."));
    }
    let input = rate(node, entries, "input_price_per_million", report);
    let output = rate(node, entries, "output_price_per_million", report);
    let effective_at = instant(entries, report);
    if !providers.iter().any(|p| p.instance == provider) {
        let text = format!(
            "Cannot set pricing for model '{key}': provider '{provider}' is not configured in the providers section. Skipped."
        );
        report.warn(&node.key_place, text);
        return None;
    }
    let model_key = format!("{provider}:{model}");
    Some(PriceSeed { model_key, input: input?, output: output?, effective_at })
}

fn rate(parent: &Node, entries: &[(String, Node)], key: &str, report: &mut Report) -> Option<Rate> {
    let Some((_, node)) = entries.iter().find(|(k, n)| k == key && n.is_set()) else {
        // A mapping that could not be read was reported already.
        if matches!(parent.value, Value::Map(_) | Value::Null) {
            parent.wrong(report, &format!("{key} is missing. Set the USD per million."));
        }
        return None;
    };
    let usd = node.number(false, f64::MAX, report)?;
    let rate = Rate::from_f64(usd);
    if rate.is_none() {
        node.wrong(report, "too large for a price.");
    }
    rate
}

/// RFC 3339; without an offset UTC; a day alone is its midnight; a number is seconds since 1970.
fn instant(entries: &[(String, Node)], report: &mut Report) -> Option<Timestamp> {
    let (_, node) = entries.iter().find(|(k, n)| k == "effective_at" && n.is_set())?;
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
