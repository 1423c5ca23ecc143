//! Public list prices for models that nobody has priced: the data set `conf/prices.json`, inside the binary.
//!
//! It is read when the fall-back is switched on. A model is looked up once per provider instance; after that a request
//! finds what was found.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use otari_filters::money::Rate;
use otari_filters::prices::{Prices, Tier};
use otari_filters::providers::Provider;
use serde::Deserialize;

/// Written by `conf/update-prices.py`.
static DATA: &[u8] = include_bytes!("../../conf/prices.json");

/// Names of models come from callers and are endless: past this many the found ones are looked up again.
const MAX_FOUND: usize = 4096;

/// Longest model name that is looked up; none in the data set is half as long.
const MAX_NAME: usize = 256;

static DATA_SET: LazyLock<DataSet> = LazyLock::new(|| {
    DataSet::read(DATA).unwrap_or_else(|error| {
        tracing::error!(%error, "the default prices in this binary cannot be read: there are none");
        DataSet::default()
    })
});

/// A list price.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What the model costs.
    pub prices: Arc<Prices>,
    /// The data set spells the name exactly so. Otherwise it was recognised: a dated version, another capitalisation.
    pub is_exact: bool,
}

/// The fall-back, on or off.
#[derive(Debug, Default)]
pub struct DefaultPrices {
    is_on: AtomicBool,
    /// By `instance:model`.
    found: papaya::HashMap<Box<str>, Option<Listed>>,
}

impl DefaultPrices {
    /// Switches the fall-back on or off, from the next request on. The first time it reads the data set, which takes a
    /// few milliseconds.
    pub fn switch(&self, on: bool) {
        if on {
            LazyLock::force(&DATA_SET);
        }
        self.is_on.store(on, Ordering::Relaxed);
    }

    /// Whether unpriced models are billed at list prices.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// The list price of `model` at this provider; `key` is `instance:model`. Nothing while switched off.
    pub fn price(&self, key: &str, kind: &Provider, model: &str) -> Option<Listed> {
        if !self.is_on() || model.len() > MAX_NAME {
            return None;
        }
        let found = self.found.pin();
        if let Some(listed) = found.get(key) {
            return listed.clone();
        }
        let listed = DATA_SET.price(kind.name, model);
        if found.len() >= MAX_FOUND {
            found.clear();
        }
        found.insert(key.into(), listed.clone());
        listed
    }
}

/// Where the data set comes from and of which day it is: `genai-prices 0.2.3, 2026-11-22`.
pub fn source() -> String {
    format!("{}, {}", DATA_SET.source, DATA_SET.date)
}

/// The data set, borrowed from the binary.
#[derive(Debug, Default)]
struct DataSet {
    source: &'static str,
    date: &'static str,
    /// The sections in which a provider's models are looked up, by the name of its row.
    kinds: HashMap<&'static str, Vec<&'static str>>,
    sections: HashMap<&'static str, Section>,
}

#[derive(Debug, Default)]
struct Section {
    prices: Vec<Arc<Prices>>,
    /// Whole names, in lower case, to a place in `prices`.
    exact: HashMap<&'static str, usize>,
    /// Conditions that must all hold, in the data set's order.
    patterns: Vec<(Vec<Pattern>, usize)>,
}

/// A condition for a name in lower case.
#[derive(Debug)]
enum Pattern {
    Is(&'static str),
    Begins(&'static str),
    Ends(&'static str),
    Holds(&'static str),
    Lacks(&'static str),
}

/// The file.
#[derive(Deserialize)]
struct File<'a> {
    source: &'a str,
    date: &'a str,
    #[serde(borrow)]
    kinds: HashMap<&'a str, Vec<&'a str>>,
    #[serde(borrow)]
    sections: HashMap<&'a str, Vec<Row<'a>>>,
}

/// Names, rates, and tiers if there are any.
#[derive(Deserialize)]
struct Row<'a>(#[serde(borrow)] Vec<Names<'a>>, RateList, #[serde(default)] Vec<Vec<Option<f64>>>);

/// USD per million: input, output, cache read, write, write for an hour; shorter when the last are missing.
type RateList = Vec<Option<f64>>;

/// `=is`, `^begins`, `$ends`, `*holds` or `!lacks`; of a list all must hold.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names<'a> {
    One(&'a str),
    #[serde(borrow)]
    All(Vec<&'a str>),
}

impl DataSet {
    fn read(data: &'static [u8]) -> Result<Self, String> {
        let file: File<'static> =
            serde_json::from_slice(data).map_err(|error| error.to_string())?;
        let sections = file.sections.into_iter();
        let sections = sections
            .map(|(name, rows)| Ok((name, Section::read(rows).ok_or(format!("section {name}"))?)))
            .collect::<Result<_, String>>()?;
        Ok(Self { source: file.source, date: file.date, kinds: file.kinds, sections })
    }

    fn price(&self, kind: &str, model: &str) -> Option<Listed> {
        let name = model.to_lowercase();
        let sections = self.kinds.get(kind)?.iter().filter_map(|name| self.sections.get(name));
        let mut undated = None;
        for section in sections {
            if let Some(at) = section.exact.get(&*name) {
                return Some(section.listed(*at, name == model));
            }
            if let Some(at) = section.recognise(&name) {
                return Some(section.listed(at, false));
            }
            if undated.is_none() {
                undated = without_date(&name).and_then(|name| {
                    let at = section.exact.get(name).copied();
                    Some(section.listed(at.or_else(|| section.recognise(name))?, false))
                });
            }
        }
        undated
    }
}

impl Section {
    fn read(rows: Vec<Row<'static>>) -> Option<Self> {
        let mut section = Self::default();
        for Row(names, rates, tiers) in rows {
            let at = section.prices.len();
            section.prices.push(Arc::new(prices(&rates, &tiers)?));
            for names in names {
                let all = match names {
                    Names::One(name) => vec![name],
                    Names::All(all) => all,
                };
                let mut all = all.into_iter().map(pattern).collect::<Option<Vec<_>>>()?;
                match all.as_mut_slice() {
                    // The first row that spells a name has it.
                    [Pattern::Is(name)] => {
                        section.exact.entry(*name).or_insert(at);
                    }
                    _ => section.patterns.push((all, at)),
                }
            }
        }
        Some(section)
    }

    fn recognise(&self, name: &str) -> Option<usize> {
        let fits = |patterns: &[Pattern]| patterns.iter().all(|pattern| pattern.fits(name));
        self.patterns.iter().find(|(patterns, _)| fits(patterns)).map(|(_, at)| *at)
    }

    fn listed(&self, at: usize, is_exact: bool) -> Listed {
        Listed { prices: self.prices[at].clone(), is_exact }
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Is(text) => name == *text,
            Self::Begins(text) => name.starts_with(text),
            Self::Ends(text) => name.ends_with(text),
            Self::Holds(text) => name.contains(text),
            Self::Lacks(text) => !name.contains(text),
        }
    }
}

fn pattern(text: &'static str) -> Option<Pattern> {
    let (sign, text) = text.split_at_checked(1)?;
    Some(match sign {
        "=" => Pattern::Is(text),
        "^" => Pattern::Begins(text),
        "$" => Pattern::Ends(text),
        "*" => Pattern::Holds(text),
        "!" => Pattern::Lacks(text),
        _ => return None,
    })
}

fn prices(rates: &[Option<f64>], tiers: &[Vec<Option<f64>>]) -> Option<Prices> {
    let [input, output, cache_read, cache_write, cache_write_1h] = five(rates)?;
    let tiers = tiers.iter().map(|tier| {
        let (threshold, rates) = tier.split_first()?;
        // A whole number far below 2^53; its text is its digits.
        let min_input_tokens = format!("{:.0}", (*threshold)?).parse().ok()?;
        let [input, output, cache_read, cache_write, cache_write_1h] = five(rates)?;
        Some(Tier { min_input_tokens, input, output, cache_read, cache_write, cache_write_1h })
    });
    let prices = Prices::new(input?, output?).with_cache(cache_read, cache_write, cache_write_1h);
    Some(prices.with_tiers(tiers.collect::<Option<_>>()?))
}

fn five(rates: &[Option<f64>]) -> Option<[Option<Rate>; 5]> {
    let mut five = [None; 5];
    if rates.len() > five.len() {
        return None;
    }
    for (place, rate) in five.iter_mut().zip(rates) {
        *place = match rate {
            None => None,
            Some(usd) => Some(Rate::from_f64(*usd).filter(|rate| rate.0 >= 0)?),
        };
    }
    Some(five)
}

/// A name without the date of its version: `-2025-12-11`, `-20251211` or `@20251211` at its end.
fn without_date(name: &str) -> Option<&str> {
    let is_date = |text: &str| text.starts_with("20") && text.bytes().all(|b| b.is_ascii_digit());
    for (length, dashes) in [(9, 0), (11, 2)] {
        let Some((stem, date)) =
            name.len().checked_sub(length).and_then(|at| name.split_at_checked(at))
        else {
            continue;
        };
        let digits = date.get(1..).unwrap_or_default();
        let is_dashed = dashes == 0
            || (digits.as_bytes().get(4) == Some(&b'-') && digits.as_bytes().get(7) == Some(&b'-'));
        if date.starts_with(['-', '@']) && is_dashed && is_date(&digits.replacen('-', "", dashes)) {
            return Some(stem).filter(|stem| !stem.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use otari_filters::providers;

    #[test]
    fn the_data_set_in_the_binary_can_be_read() {
        let data = DataSet::read(DATA).unwrap();
        assert!(data.source.starts_with("genai-prices ") && data.date.len() == 10, "{}", source());
        for (kind, sections) in &data.kinds {
            assert_eq!(
                providers::find(kind).map(|found| found.name),
                Some(*kind),
                "not in the table"
            );
            assert!(sections.iter().all(|name| !data.sections[name].prices.is_empty()), "{kind}");
        }
        let models: usize = data.sections.values().map(|section| section.prices.len()).sum();
        assert!(models > 1000, "{models}");
    }

    fn cost(kind: &str, model: &str) -> Option<(i64, i64, Option<i64>, bool)> {
        let listed = DATA_SET.price(kind, model)?;
        let prices = listed.prices;
        let read = prices.cache_read.map(|rate| rate.0);
        Some((prices.input.0, prices.output.0, read, listed.is_exact))
    }

    #[test]
    fn models_are_found_by_name_by_pattern_and_without_their_date() {
        let mini = (15_000_000, 60_000_000, Some(7_500_000));
        let with = |is_exact| Some((mini.0, mini.1, mini.2, is_exact));
        assert_eq!(cost("openai", "gpt-4o-mini"), with(true));
        assert_eq!(cost("openai", "gpt-4o-mini-2024-07-18"), with(true));
        assert_eq!(cost("openai", "GPT-4o-mini"), with(false), "whatever the capitals");
        assert_eq!(cost("openai", "gpt-4o-mini-20301231"), with(false), "a date nobody knows yet");
        assert_eq!(cost("azureopenai", "gpt-4o-mini"), with(true), "where else it is sold");
        assert_eq!(cost("openai", "gpt-4o-mini-20301231-x"), None);
        assert_eq!(cost("openai", "my-own-model"), None);
        assert_eq!(cost("vllm", "gpt-4o-mini"), None, "a server of one's own has no list price");
        assert_eq!(cost("mock", "demo"), None);
        let sonnet = Some((300_000_000, 1_500_000_000, Some(30_000_000), false));
        assert_eq!(cost("anthropic", "claude-sonnet-4-5-20250929"), sonnet);
        assert_eq!(cost("openai", ""), None);
    }

    #[test]
    fn tiers_and_all_five_rates_are_taken_over() {
        let sonnet = DATA_SET.price("anthropic", "claude-sonnet-4-5").unwrap().prices;
        let rates = |usd: [f64; 3]| usd.map(Rate::from_f64);
        assert_eq!(
            [sonnet.cache_read, sonnet.cache_write, sonnet.cache_write_1h],
            rates([0.3, 3.75, 6.0])
        );
        let [tier] = sonnet.tiers() else { panic!("{:?}", sonnet.tiers()) };
        assert_eq!(tier.min_input_tokens, 200_001, "beyond 200,000");
        assert_eq!(
            [tier.cache_read, tier.cache_write, tier.cache_write_1h],
            rates([0.6, 7.5, 12.0])
        );
        let pro = DATA_SET.price("gemini", "gemini-2.5-pro").unwrap().prices;
        assert_eq!(pro.tiers()[0].input, Rate::from_f64(2.5));
        let speech = DATA_SET.price("gemini", "gemini-2.5-pro-preview-tts").unwrap().prices;
        assert_eq!(speech.output, Rate::from_f64(20.0).unwrap(), "not what begins the same");
    }

    #[test]
    fn a_found_price_is_kept_and_the_switch_counts_at_once() {
        let prices = DefaultPrices::default();
        let openai = providers::find("openai").unwrap();
        let look = |model: &str| prices.price(&format!("o:{model}"), openai, model);
        assert!(look("gpt-4o").is_none(), "off until it is switched on");
        prices.switch(true);
        let (first, second) = (look("gpt-4o").unwrap(), look("gpt-4o").unwrap());
        assert!(Arc::ptr_eq(&first.prices, &second.prices));
        for number in 0..2 * MAX_FOUND {
            assert!(look(&format!("none-{number}")).is_none());
        }
        assert!(prices.found.len() <= MAX_FOUND, "what callers type does not stay for ever");
        assert!(look("gpt-4o").is_some());
        prices.switch(false);
        assert!(look("gpt-4o").is_none());
    }

    #[test]
    fn dates_are_told_from_names() {
        for (name, stem) in [
            ("m-2025-12-11", Some("m")),
            ("m-20251211", Some("m")),
            ("m@20251211", Some("m")),
            ("m-2025-12", None),
            ("m-2025a12-11", None),
            ("m-12345678", None),
            ("m20251211", None),
            ("-20251211", None),
            ("é-20251211", Some("é")),
            ("éééééé", None),
        ] {
            assert_eq!(without_date(name), stem, "{name}");
        }
    }
}
