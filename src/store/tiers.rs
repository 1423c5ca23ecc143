//! Context tiers as the JSON of their column, in the names of the management API: a list of
//! `{"min_input_tokens": 200000, "input_price_per_million": 6.0, …}`, with the rates that a tier names.

use otari_filters::money::Rate;
use otari_filters::prices::Tier;
use serde_json::{Map, Value};

/// The column's JSON.
pub(super) fn json(tiers: &[Tier]) -> Value {
    tiers.iter().map(|tier| Value::Object(object(tier))).collect()
}

fn object(tier: &Tier) -> Map<String, Value> {
    let rates = [
        ("input_price_per_million", tier.input),
        ("output_price_per_million", tier.output),
        ("cache_read_price_per_million", tier.cache_read),
        ("cache_write_price_per_million", tier.cache_write),
        ("cache_write_1h_price_per_million", tier.cache_write_1h),
    ];
    let named = rates.into_iter().filter_map(|(name, rate)| Some((name, rate?.to_f64().into())));
    std::iter::once(("min_input_tokens", tier.min_input_tokens.into()))
        .chain(named)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Reads the column. Numbers may be texts, as other software writes decimals. What is no tier was written by hand: it
/// is left out and told, because one such entry must not keep the gateway from starting.
pub(super) fn read(model_key: &str, column: Value) -> Vec<Tier> {
    let entries = match column {
        Value::Array(entries) => entries,
        Value::Null => Vec::new(),
        other => vec![other],
    };
    let read = |entry: &Value| {
        let tier = tier(entry);
        if tier.is_none() {
            tracing::warn!(price = model_key, %entry, "not a price tier: left out");
        }
        tier
    };
    entries.iter().filter_map(read).collect()
}

fn tier(entry: &Value) -> Option<Tier> {
    let rate = |name: &str| match entry.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => {
            let usd = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
            Rate::from_f64(usd).filter(|rate| rate.0 >= 0).map(Some)
        }
    };
    let threshold = entry.get("min_input_tokens")?;
    let threshold = threshold.as_u64().or_else(|| threshold.as_str()?.trim().parse().ok())?;
    Some(Tier {
        min_input_tokens: Some(threshold).filter(|threshold| *threshold > 0)?,
        input: rate("input_price_per_million")?,
        output: rate("output_price_per_million")?,
        cache_read: rate("cache_read_price_per_million")?,
        cache_write: rate("cache_write_price_per_million")?,
        cache_write_1h: rate("cache_write_1h_price_per_million")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tier_names_what_it_names() {
        let tier = Tier {
            min_input_tokens: 200_001,
            input: Some(Rate(7_500_001)),
            cache_write_1h: Some(Rate(0)),
            ..Tier::default()
        };
        let written = json(std::slice::from_ref(&tier));
        let expected = json!([{"min_input_tokens": 200_001, "input_price_per_million": 0.07500001,
                               "cache_write_1h_price_per_million": 0.0}]);
        assert_eq!(written, expected);
        assert_eq!(read("p:m", written), [tier]);
    }

    #[test]
    fn what_others_wrote_is_read_as_far_as_it_is_a_tier() {
        let column = json!([
            {"min_input_tokens": "5", "output_price_per_million": "1.50", "input_price_per_million": null, "note": 1},
            {"min_input_tokens": 0}, {"min_input_tokens": 7, "input_price_per_million": -1}, {}, "x", null,
        ]);
        let tier = Tier { min_input_tokens: 5, output: Some(Rate(150_000_000)), ..Tier::default() };
        assert_eq!(read("p:m", column), [tier]);
        assert!(read("p:m", json!(null)).is_empty() && read("p:m", json!({"a": 1})).is_empty());
    }
}
