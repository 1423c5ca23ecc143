//! The `usage` object of an answer, in the spellings of all formats and of the providers that speak them.
//!
//! A count that is no count is passed over: it must not turn an answer into none.

pub(super) mod plain;

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::prices::{CacheCounting, Tokens};
use crate::settle::ReportUsage;

/// Token counts as a provider reported them. What the counts contain says [`Usage::counting`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input; with cached tokens where they are counted inclusively, without where additively.
    pub prompt_tokens: u64,
    /// Output, reasoning included.
    pub completion_tokens: u64,
    /// The provider's total, else the sum of input and output as they are counted. Anthropic has no total.
    pub total_tokens: u64,
    /// Input that came from the provider's cache.
    pub cache_read_tokens: u64,
    /// Input that was written to the cache for five minutes.
    pub cache_write_tokens: u64,
    /// Input that was written to the cache for an hour.
    pub cache_write_1h_tokens: u64,
    /// Whether `prompt_tokens` contains the cached ones.
    pub counting: CacheCounting,
}

impl Usage {
    /// Nothing yet.
    pub(crate) fn new(counting: CacheCounting) -> Self {
        Self { counting, ..Self::default() }
    }

    /// This call's tokens and another's of the same provider, which counts both alike.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
            total_tokens: self.total_tokens.saturating_add(other.total_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
            cache_write_1h_tokens: self
                .cache_write_1h_tokens
                .saturating_add(other.cache_write_1h_tokens),
            counting: other.counting,
        }
    }

    /// Takes over what a later report says; a zero keeps what is known.
    pub(crate) fn merge(&mut self, later: &WireUsage) {
        let newer = |now: &mut u64, then: Option<u64>| {
            if let Some(tokens) = then.filter(|tokens| *tokens > 0) {
                *now = tokens;
            }
        };
        let sum = |usage: &Self| usage.prompt_tokens.saturating_add(usage.completion_tokens);
        let was_sum = self.total_tokens == sum(self);
        let counts = later.counts();
        newer(&mut self.prompt_tokens, counts.input);
        newer(&mut self.completion_tokens, counts.output);
        newer(&mut self.cache_read_tokens, counts.cache_read);
        newer(&mut self.cache_write_tokens, counts.cache_write);
        newer(&mut self.cache_write_1h_tokens, counts.cache_write_1h);
        if was_sum || self.counting == CacheCounting::Additive {
            self.total_tokens = sum(self);
        }
        if self.counting == CacheCounting::Inclusive {
            newer(&mut self.total_tokens, later.total_tokens.0);
        }
    }

    /// The counts that are billed, as they are counted: to be priced with `counting`.
    pub fn tokens(&self) -> Tokens {
        Tokens {
            input: self.prompt_tokens,
            output: self.completion_tokens,
            cache_read: self.cache_read_tokens,
            cache_write: self.cache_write_tokens,
            cache_write_1h: self.cache_write_1h_tokens,
        }
    }

    /// The counts as a platform is told them: as the provider counts. What was written to the cache is told where it is
    /// counted apart.
    pub fn for_report(&self) -> ReportUsage {
        ReportUsage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.total_tokens,
            cache_read_tokens: self.cache_read_tokens,
            cache_write_tokens: match self.counting {
                CacheCounting::Additive => self.all_cache_write_tokens(),
                CacheCounting::Inclusive => 0,
            },
        }
    }

    /// Input written to the cache, for however long.
    pub fn all_cache_write_tokens(&self) -> u64 {
        self.cache_write_tokens.saturating_add(self.cache_write_1h_tokens)
    }

    /// The same usage with cached tokens as a part of the prompt and of the total, whatever the provider's way. It costs
    /// the same.
    #[must_use]
    pub fn inclusive(self) -> Self {
        if self.counting == CacheCounting::Inclusive {
            return self;
        }
        let cached = self.cache_read_tokens.saturating_add(self.all_cache_write_tokens());
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(cached),
            total_tokens: self.total_tokens.saturating_add(cached),
            counting: CacheCounting::Inclusive,
            ..self
        }
    }
}

/// `usage` on the wire.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct WireUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Lenient<WireDetails>,
    /// Anthropic's messages, OpenAI's responses.
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Lenient<WireDetails>,
    /// Anthropic, where the provider itself made several calls of one: their sum is billed.
    iterations: Iterations,
    /// Anthropic's names, kept by gateways and by providers of both APIs.
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_creation: Lenient<WireCreation>,
    /// DeepSeek.
    prompt_cache_hit_tokens: Count,
    /// Moonshot, and Anthropic behind some gateways.
    cached_tokens: Count,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct WireDetails {
    cached_tokens: Count,
    /// OpenAI, OpenRouter.
    cache_write_tokens: Count,
    /// LiteLLM.
    cache_creation_tokens: Count,
    cache_creation_token_details: Lenient<WireCreation>,
}

/// Writes by lifetime.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct WireCreation {
    ephemeral_5m_input_tokens: Count,
    ephemeral_1h_input_tokens: Count,
}

/// What one report says.
#[derive(Clone, Copy, Default)]
struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        let plus = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        Self {
            input: plus(self.input, other.input),
            output: plus(self.output, other.output),
            cache_read: plus(self.cache_read, other.cache_read),
            cache_write: plus(self.cache_write, other.cache_write),
            cache_write_1h: plus(self.cache_write_1h, other.cache_write_1h),
        }
    }

    fn or(self, other: Self) -> Self {
        let or = |a: Option<u64>, b: Option<u64>| a.filter(|tokens| *tokens > 0).or(b);
        Self {
            input: or(self.input, other.input),
            output: or(self.output, other.output),
            cache_read: or(self.cache_read, other.cache_read),
            cache_write: or(self.cache_write, other.cache_write),
            cache_write_1h: or(self.cache_write_1h, other.cache_write_1h),
        }
    }
}

impl WireUsage {
    fn counts(&self) -> Counts {
        let hour = self.cache_write_1h();
        let own = Counts {
            input: first([self.prompt_tokens.0, self.input_tokens.0]),
            output: first([self.completion_tokens.0, self.output_tokens.0]),
            cache_read: self.cache_read(),
            cache_write: self.cache_write(hour.unwrap_or(0)),
            cache_write_1h: hour,
        };
        let all = self.iterations.0.iter().map(Self::counts).reduce(Counts::plus);
        all.map_or(own, |all| all.or(own))
    }

    fn details(&self) -> Option<&WireDetails> {
        self.prompt_tokens_details.0.as_ref().or(self.input_tokens_details.0.as_ref())
    }

    /// Writes by lifetime, wherever they stand.
    fn creations(&self) -> impl Iterator<Item = &WireCreation> {
        let below =
            self.details().and_then(|details| details.cache_creation_token_details.0.as_ref());
        below.into_iter().chain(&self.cache_creation.0)
    }

    fn cache_read(&self) -> Option<u64> {
        first([
            self.details().and_then(|details| details.cached_tokens.0),
            self.cache_read_input_tokens.0,
            self.prompt_cache_hit_tokens.0,
            self.cached_tokens.0,
        ])
    }

    fn cache_write_1h(&self) -> Option<u64> {
        self.creations().find_map(|creation| first([creation.ephemeral_1h_input_tokens.0]))
    }

    /// The plain count is of all writes; `hour` of them are told apart.
    fn cache_write(&self, hour: u64) -> Option<u64> {
        let five_minutes =
            self.creations().find_map(|creation| first([creation.ephemeral_5m_input_tokens.0]));
        let all = first([
            self.details().and_then(|details| details.cache_write_tokens.0),
            self.details().and_then(|details| details.cache_creation_tokens.0),
            self.cache_creation_input_tokens.0,
        ]);
        five_minutes.or(all.map(|all| all.saturating_sub(hour)))
    }
}

/// The first count above zero.
fn first<const N: usize>(counts: [Option<u64>; N]) -> Option<u64> {
    counts.into_iter().flatten().find(|count| *count > 0)
}

/// A number of tokens; whatever is none reads as nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any(PhantomData)).map(|found: Found<IgnoredAny>| match found {
            Found::Number(count) => Self(Some(count)),
            Found::Object(_) | Found::List(_) | Found::Other => Self(None),
        })
    }
}

/// An object; anything else reads as nothing.
#[derive(Debug)]
pub(crate) struct Lenient<T>(pub(crate) Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any(PhantomData)).map(|found| match found {
            Found::Object(object) => Self(Some(object)),
            Found::Number(_) | Found::List(_) | Found::Other => Self(None),
        })
    }
}

/// A list of reports; anything else reads as none.
#[derive(Debug, Default)]
struct Iterations(Vec<WireUsage>);

impl<'de> Deserialize<'de> for Iterations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any(PhantomData)).map(|found| match found {
            Found::List(reports) => Self(reports),
            Found::Number(_) | Found::Object(_) | Found::Other => Self::default(),
        })
    }
}

enum Found<T> {
    Number(u64),
    Object(T),
    /// The objects of it.
    List(Vec<T>),
    Other,
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
    type Value = Found<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Found::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Found::Other)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        // Some providers write `12.0`. The text of a whole double is its digits; beyond 2^53 nobody counts.
        let is_count = (0.0..9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0;
        let count = is_count.then(|| format!("{number:.0}").parse().ok()).flatten();
        Ok(count.map_or(Found::Other, Found::Number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Found::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Found::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Found::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(item) = list.next_element::<Lenient<T>>()? {
            objects.extend(item.0);
        }
        Ok(Found::List(objects))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Found::Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(reports: &[Value]) -> Usage {
        counted(CacheCounting::Inclusive, reports)
    }

    fn counted(counting: CacheCounting, reports: &[Value]) -> Usage {
        let mut usage = Usage::new(counting);
        for report in reports {
            usage.merge(&serde_json::from_value(report.clone()).unwrap());
        }
        usage
    }

    /// Reads, writes for five minutes, writes for an hour.
    fn cached(report: Value) -> (u64, u64, u64) {
        let usage = read(&[report]);
        (usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens)
    }

    #[test]
    fn every_spelling_of_a_cached_token_is_read() {
        for (report, want) in [
            (json!({"prompt_tokens_details": {"cached_tokens": 7}}), (7, 0, 0)),
            (json!({"cache_read_input_tokens": 7, "cache_creation_input_tokens": 5}), (7, 5, 0)),
            (json!({"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3}), (7, 0, 0)),
            (json!({"cached_tokens": 7}), (7, 0, 0)),
            (json!({"input_tokens_details": {"cached_tokens": 7}}), (7, 0, 0)),
            (
                json!({"prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 5}}),
                (7, 5, 0),
            ),
            (json!({"prompt_tokens_details": {"cache_creation_tokens": 5}}), (0, 5, 0)),
            (
                json!({"cache_creation_input_tokens": 9, "cache_creation":
                       {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4}}),
                (0, 5, 4),
            ),
            (
                json!({"prompt_tokens_details": {"cache_creation_tokens": 9, "cache_creation_token_details":
                       {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 4}}}),
                (0, 5, 4),
            ),
            (
                json!({"cache_creation_input_tokens": 4, "cache_creation":
                       {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 4}}),
                (0, 0, 4),
            ),
            (json!({"cache_creation": {"ephemeral_5m_input_tokens": 5}}), (0, 5, 0)),
            // The same count under two names is one count.
            (
                json!({"prompt_tokens_details": {"cached_tokens": 7}, "cache_read_input_tokens": 7}),
                (7, 0, 0),
            ),
            (
                json!({"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 7}),
                (7, 0, 0),
            ),
        ] {
            assert_eq!(cached(report.clone()), want, "{report}");
        }
    }

    #[test]
    fn what_is_no_count_is_passed_over() {
        let odd = json!({
            "prompt_tokens": 12.0, "completion_tokens": "5", "total_tokens": -1, "prompt_tokens_details": [1, {"a": 2}],
            "cache_creation": 9, "cached_tokens": {"n": 1}, "cache_read_input_tokens": true,
            "prompt_cache_hit_tokens": 1.5, "cache_creation_input_tokens": 1e300,
        });
        assert_eq!(read(&[odd]), Usage { prompt_tokens: 12, total_tokens: 12, ..Usage::default() });
        let null =
            json!({"prompt_tokens": null, "prompt_tokens_details": null, "cache_creation": null});
        assert_eq!(read(&[null]), Usage::default());
    }

    #[test]
    fn a_later_zero_keeps_what_is_known() {
        let first = json!({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2}});
        let last = json!({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}});
        let usage = read(&[first, last]);
        assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (3, 2));
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (9, 4));
        let tokens =
            Tokens { input: 9, output: 4, cache_read: 3, cache_write: 2, cache_write_1h: 0 };
        assert_eq!(usage.tokens(), tokens);
    }
    #[test]
    fn a_sum_follows_its_parts_and_a_total_is_believed() {
        let sum = read(&[json!({"prompt_tokens": 9}), json!({"completion_tokens": 4})]);
        assert_eq!(sum.total_tokens, 13);
        let told = read(&[json!({"input_tokens": 9, "output_tokens": 4, "total_tokens": 20})]);
        assert_eq!((told.prompt_tokens, told.completion_tokens, told.total_tokens), (9, 4, 20));
    }

    #[test]
    fn anthropic_counts_the_cache_beside_the_input() {
        let start = json!({"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 12,
            "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 10}, "output_tokens": 1,
            "service_tier": "standard"});
        let delta = json!({"output_tokens": 4, "input_tokens": 0, "server_tool_use": {"web_search_requests": 1}});
        let usage = counted(CacheCounting::Additive, &[start, delta]);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (7, 4, 11));
        assert_eq!((usage.cache_read_tokens, usage.all_cache_write_tokens()), (3, 12));
        let inclusive = usage.inclusive();
        assert_eq!((inclusive.prompt_tokens, inclusive.total_tokens), (22, 26));
        assert_eq!(inclusive.inclusive(), inclusive);

        let rate = |usd: i64| crate::money::Rate(usd * 100_000_000);
        let prices = crate::prices::Prices::new(rate(3), rate(15)).with_cache(
            Some(rate(1)),
            Some(rate(4)),
            Some(rate(6)),
        );
        let cost = |usage: Usage| prices.cost(&usage.tokens(), usage.counting);
        assert_eq!(cost(usage), crate::money::MicroUsd(7 * 3 + 4 * 15 + 3 + 2 * 4 + 10 * 6));
        assert_eq!(cost(inclusive), cost(usage), "it costs the same");
    }

    #[test]
    fn the_providers_own_iterations_are_summed_up() {
        let report = json!({"input_tokens": 23, "output_tokens": 10, "cache_read_input_tokens": 5, "iterations": [
            {"type": "compaction", "input_tokens": 180, "output_tokens": 3},
            {"type": "message", "input_tokens": 23, "output_tokens": 10, "cache_creation_input_tokens": 8}, null]});
        let usage = counted(CacheCounting::Additive, &[report]);
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
            (203, 13, 216)
        );
        assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (5, 8));
        for none in [json!([]), json!(null), json!(7), json!({"a": 1}), json!([1, "x"])] {
            let report = json!({"input_tokens": 23, "iterations": none});
            assert_eq!(read(&[report]).prompt_tokens, 23);
        }
    }
}
