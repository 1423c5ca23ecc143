//! What an import would change: the file's prices held against those that the gateway goes by.

use std::collections::HashMap;

use jiff::Timestamp;
use otari_filters::money::Rate;
use otari_filters::prices::{Prices, Tier};
use serde_json::{Map, Value};

use super::super::client::Failure;
use crate::config::{FilePrice, Place};

const INPUT: &str = "input_price_per_million";
const OUTPUT: &str = "output_price_per_million";
const CACHE_READ: &str = "cache_read_price_per_million";
const CACHE_WRITE: &str = "cache_write_price_per_million";
const CACHE_WRITE_1H: &str = "cache_write_1h_price_per_million";
const TIERS: &str = "pricing_tiers";
const THRESHOLD: &str = "min_input_tokens";

/// What a price of the file is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The model has no price then.
    New,
    /// It has another one.
    Changed,
    /// It has this one.
    Same,
}

impl Change {
    /// For people and programs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Same => "same",
        }
    }
}

/// One price of the file, whole: what it does not say is what the model has.
#[derive(Debug)]
pub(super) struct Step<'a> {
    file: &'a FilePrice,
    before: Option<Prices>,
    wanted: Prices,
}

/// The steps, in the order of the file. `in_force` answers with the gateway's price of a model at an instant, now by
/// default.
///
/// # Errors
/// Those of `in_force`, and a price that is none.
pub(super) fn plan<'a>(
    prices: &'a [FilePrice],
    mut in_force: impl FnMut(&str, Option<Timestamp>) -> Result<Option<Value>, Failure>,
) -> Result<Vec<Step<'a>>, Failure> {
    // A later price of a model follows an earlier one of the same file, which the gateway does not know yet.
    let mut order: Vec<(usize, &FilePrice)> = prices.iter().enumerate().collect();
    let now = crate::clock::now();
    let from = |file: &FilePrice| file.price.effective_at.unwrap_or(now);
    order.sort_by_key(|(at, file)| (from(file), *at));
    let mut planned: HashMap<&str, (Timestamp, Prices)> = HashMap::new();
    let mut steps = Vec::with_capacity(prices.len());
    for (at, file) in order {
        let key = file.price.model_key.as_str();
        let known = match in_force(key, file.price.effective_at)? {
            Some(row) => Some(read(&row).ok_or_else(|| {
                Failure::Failed(format!(
                    "The gateway's price of {key} is none that this program knows."
                ))
            })?),
            None => None,
        };
        let earlier = planned.get(key).cloned();
        let before = match (known, earlier) {
            (Some(known), Some(earlier)) if known.0 > earlier.0 => Some(known.1),
            (_, Some(earlier)) => Some(earlier.1),
            (known, None) => known.map(|known| known.1),
        };
        let wanted = complete(file, before.as_ref());
        planned.insert(key, (from(file), wanted.clone()));
        steps.push((at, Step { file, before, wanted }));
    }
    steps.sort_by_key(|(at, _)| *at);
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

/// As the API does it: what is left out is taken over, `null` clears.
fn complete(file: &FilePrice, before: Option<&Prices>) -> Prices {
    let said = &file.price.prices;
    let rate = |name: &str, said: Option<Rate>, before: Option<Rate>| {
        if file.names(name) { said } else { before }
    };
    let tiers = if file.names(TIERS) { Some(said) } else { before };
    Prices::new(said.input, said.output)
        .with_cache(
            rate(CACHE_READ, said.cache_read, before.and_then(|before| before.cache_read)),
            rate(CACHE_WRITE, said.cache_write, before.and_then(|before| before.cache_write)),
            rate(
                CACHE_WRITE_1H,
                said.cache_write_1h,
                before.and_then(|before| before.cache_write_1h),
            ),
        )
        .with_tiers(tiers.map(|prices| prices.tiers().to_vec()).unwrap_or_default())
}

impl Step<'_> {
    /// Where it stands in the file.
    pub(super) fn place(&self) -> &Place {
        &self.file.place
    }

    /// `provider:model`.
    pub(super) fn model_key(&self) -> &str {
        &self.file.price.model_key
    }

    /// From when on; `None`: from its arrival on.
    pub(super) fn effective_at(&self) -> Option<Timestamp> {
        self.file.price.effective_at
    }

    /// What it is to the gateway.
    pub(super) fn change(&self) -> Change {
        match &self.before {
            None => Change::New,
            Some(before) if *before == self.wanted => Change::Same,
            Some(_) => Change::Changed,
        }
    }

    /// The request: every field, so that what was shown is what is kept.
    pub(super) fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("model_key".to_owned(), self.model_key().into());
        if let Some(at) = self.effective_at() {
            body.insert("effective_at".to_owned(), at.to_string().into());
        }
        for (name, rate) in rates(&self.wanted) {
            body.insert(name.to_owned(), usd(rate));
        }
        body.insert(TIERS.to_owned(), tiers(&self.wanted));
        Value::Object(body)
    }

    /// The rates that are new or other than before, `old -> new`.
    pub(super) fn difference(&self) -> String {
        let before = self.before.as_ref().map(rates);
        let mut parts = Vec::new();
        for (at, (name, rate)) in rates(&self.wanted).into_iter().enumerate() {
            let name = name.trim_end_matches("_price_per_million");
            match before.map(|before| before[at].1) {
                Some(old) if old == rate => {}
                Some(old) => parts.push(format!("{name} {} -> {}", text(old), text(rate))),
                None if rate.is_some() => parts.push(format!("{name} {}", text(rate))),
                None => {}
            }
        }
        let old = self.before.as_ref().map_or(&[][..], |before| before.tiers());
        if old != self.wanted.tiers() {
            let of = |tiers: &[Tier]| {
                if tiers.is_empty() { "none".to_owned() } else { tiers.len().to_string() }
            };
            let new = of(self.wanted.tiers());
            parts.push(match &self.before {
                Some(_) => format!("tiers {} -> {new}", of(old)),
                None => format!("tiers {new}"),
            });
        }
        parts.join(", ")
    }
}

fn rates(prices: &Prices) -> [(&'static str, Option<Rate>); 5] {
    [
        (INPUT, Some(prices.input)),
        (OUTPUT, Some(prices.output)),
        (CACHE_READ, prices.cache_read),
        (CACHE_WRITE, prices.cache_write),
        (CACHE_WRITE_1H, prices.cache_write_1h),
    ]
}

fn usd(rate: Option<Rate>) -> Value {
    rate.map_or(Value::Null, |rate| rate.to_f64().into())
}

fn text(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "none".to_owned(), |rate| rate.to_f64().to_string())
}

fn tiers(prices: &Prices) -> Value {
    let tier = |tier: &Tier| {
        let mut shown = Map::new();
        shown.insert(THRESHOLD.to_owned(), tier.min_input_tokens.into());
        let named = [
            (INPUT, tier.input),
            (OUTPUT, tier.output),
            (CACHE_READ, tier.cache_read),
            (CACHE_WRITE, tier.cache_write),
            (CACHE_WRITE_1H, tier.cache_write_1h),
        ];
        for (name, rate) in named.into_iter().filter(|(_, rate)| rate.is_some()) {
            shown.insert(name.to_owned(), usd(rate));
        }
        Value::Object(shown)
    };
    prices.tiers().iter().map(tier).collect()
}

/// A price as the API shows it, and since when it holds.
fn read(row: &Value) -> Option<(Timestamp, Prices)> {
    let since = row["effective_at"].as_str()?.parse().ok()?;
    let rate = |of: &Value, name: &str| of[name].as_f64().and_then(Rate::from_f64);
    let tier = |of: &Value| {
        Some(Tier {
            min_input_tokens: of[THRESHOLD].as_u64()?,
            input: rate(of, INPUT),
            output: rate(of, OUTPUT),
            cache_read: rate(of, CACHE_READ),
            cache_write: rate(of, CACHE_WRITE),
            cache_write_1h: rate(of, CACHE_WRITE_1H),
        })
    };
    let tiers: Option<Vec<Tier>> = row[TIERS].as_array().into_iter().flatten().map(tier).collect();
    let prices = Prices::new(rate(row, INPUT)?, rate(row, OUTPUT)?)
        .with_cache(rate(row, CACHE_READ), rate(row, CACHE_WRITE), rate(row, CACHE_WRITE_1H))
        .with_tiers(tiers?);
    Some((since, prices))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Env, load_prices};

    fn file(yaml: &str) -> Vec<FilePrice> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.yml");
        std::fs::write(&path, yaml).unwrap();
        load_prices(&path, &Env::default()).unwrap()
    }

    fn row(input: f64, since: &str) -> Value {
        json!({"effective_at": since, INPUT: input, OUTPUT: 2.0, CACHE_READ: 0.5, CACHE_WRITE: null,
            TIERS: [{THRESHOLD: 10, INPUT: 9.0, OUTPUT: null}]})
    }

    fn planned(yaml: &str, known: Option<Value>) -> Vec<(Change, String, Value)> {
        let file = file(yaml);
        let steps = plan(&file, |_, _| Ok(known.clone())).unwrap();
        steps.iter().map(|step| (step.change(), step.difference(), step.body())).collect()
    }

    const SINCE: &str = "2020-01-01T00:00:00+00:00";

    #[test]
    fn what_the_file_does_not_say_stays() {
        let yaml = format!("openai:a: {{{INPUT}: 1, {OUTPUT}: 2}}");
        let same = planned(&yaml, Some(row(1.0, SINCE)));
        assert_eq!((same[0].0, same[0].1.as_str()), (Change::Same, ""));
        let changed = planned(&yaml, Some(row(3.0, SINCE)));
        assert_eq!((changed[0].0, changed[0].1.as_str()), (Change::Changed, "input 3 -> 1"));
        assert_eq!(changed[0].2[CACHE_READ], 0.5);
        assert_eq!(changed[0].2[TIERS], json!([{THRESHOLD: 10, INPUT: 9.0}]));
        let new = planned(&yaml, None);
        assert_eq!((new[0].0, new[0].1.as_str()), (Change::New, "input 1, output 2"));
        assert_eq!(new[0].2[CACHE_WRITE_1H], Value::Null);
    }

    #[test]
    fn null_clears_and_a_list_replaces() {
        let yaml =
            format!("openai:a: {{{INPUT}: 1, {OUTPUT}: 2, {CACHE_READ}: null, {TIERS}: []}}");
        let steps = planned(&yaml, Some(row(1.0, SINCE)));
        assert_eq!(steps[0].1, "cache_read 0.5 -> none, tiers 1 -> none");
        assert_eq!((&steps[0].2[CACHE_READ], &steps[0].2[TIERS]), (&Value::Null, &json!([])));
    }

    #[test]
    fn a_later_price_is_held_against_the_earlier_one_of_the_file() {
        // The gateway's price is that of the second entry, but the first one comes in between.
        let yaml = format!(
            "openai:a: {{{INPUT}: 1, {OUTPUT}: 2, effective_at: 2040-01-01}}\n\
             openai/a: {{{INPUT}: 7, {OUTPUT}: 2, effective_at: 2030-01-01}}"
        );
        let steps = planned(&yaml, Some(row(1.0, SINCE)));
        assert_eq!((steps[0].0, steps[1].0), (Change::Changed, Change::Changed));
        assert_eq!((steps[0].1.as_str(), steps[1].1.as_str()), ("input 7 -> 1", "input 1 -> 7"));
        assert_eq!(steps[0].2["effective_at"], "2040-01-01T00:00:00Z");
    }

    #[test]
    fn a_price_of_another_kind_is_not_guessed() {
        let file = file(&format!("openai:a: {{{INPUT}: 1, {OUTPUT}: 2}}"));
        assert_eq!(plan(&file, |_, _| Ok(Some(json!({})))).unwrap_err().exit_code(), 1);
    }
}
