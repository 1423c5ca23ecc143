//! The budget gate's arithmetic: what a request may cost, before anybody knows what it will.
//!
//! The prompt counts as the reference gateway counts it: a quarter of its characters. Nobody knows yet how much of it is
//! cached, so it is held at the dearest of the input's rates.

use crate::money::MicroUsd;
use crate::prices::Prices;

/// What a call is charged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// The tokens that the provider counts.
    #[default]
    Tokens,
    /// So many images; the input's price is USD for one.
    Images(u64),
    /// The call itself; the input's price is USD for a million. It is recorded as free where there is no price.
    Moderation,
    /// The call itself; the input's price is USD for a million.
    Call,
    /// The call itself, at what its provider says that it costs.
    Said(MicroUsd),
}

impl Measure {
    /// What the call costs, whatever the provider counts; `None`: nobody knows, or it is for its tokens.
    pub fn cost(self, prices: Option<&Prices>) -> Option<MicroUsd> {
        match self {
            Self::Tokens => None,
            Self::Images(images) => prices.map(|prices| prices.images(images)),
            Self::Moderation => Some(prices.map_or(MicroUsd::ZERO, |prices| prices.calls(1))),
            Self::Call => prices.map(|prices| prices.calls(1)),
            Self::Said(cost) => Some(cost),
        }
    }

    /// Prompt, completion and total of a row whose call is not charged by tokens, as the reference gateway has them.
    pub fn row_tokens(self) -> (Option<u64>, Option<u64>, Option<u64>) {
        match self {
            Self::Tokens => (None, None, None),
            Self::Moderation => (None, Some(0), None),
            Self::Images(_) | Self::Call | Self::Said(_) => (Some(0), Some(0), Some(0)),
        }
    }
}

/// What a request is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// A quarter of the characters of the text, rounded up.
    pub prompt_tokens: u64,
    /// Declared or default output, for all choices together.
    pub output_tokens: u64,
    /// What the call is charged by.
    pub measure: Measure,
}

impl Estimate {
    /// `declared`: the output limit in the request; `choices`: `n`, at least 1.
    pub fn new(
        prompt_chars: u64,
        declared: Option<u64>,
        default_output: u64,
        choices: u64,
    ) -> Self {
        Self {
            prompt_tokens: prompt_chars.div_ceil(4),
            output_tokens: declared.unwrap_or(default_output).saturating_mul(choices),
            measure: Measure::Tokens,
        }
    }

    /// Of a call without output, such as embeddings; `tokens`: input that came as numbers, beside the text.
    pub fn of_input(chars: u64, tokens: u64) -> Self {
        Self { prompt_tokens: chars.div_ceil(4).saturating_add(tokens), ..Self::default() }
    }

    /// Of a call that is not charged by tokens.
    pub fn by(measure: Measure) -> Self {
        Self { measure, ..Self::default() }
    }

    /// What a stream holds at first: its output grows in steps of `step`.
    #[must_use]
    pub fn first_step(self, step: u64) -> Self {
        Self { output_tokens: self.output_tokens.min(step), ..self }
    }

    /// The hold; nothing for an unpriced model.
    pub fn cost(&self, prices: Option<&Prices>) -> MicroUsd {
        if self.measure != Measure::Tokens {
            return self.measure.cost(prices).unwrap_or_default();
        }
        prices.map_or(MicroUsd::ZERO, |prices| self.with_output(self.output_tokens, prices))
    }

    /// What the prompt and so much output cost at most.
    pub fn with_output(&self, output_tokens: u64, prices: &Prices) -> MicroUsd {
        prices.ceiling(self.prompt_tokens).cost(self.prompt_tokens, output_tokens)
    }

    /// What so much more output behind this prompt costs at most.
    pub fn more_output(&self, output_tokens: u64, prices: &Prices) -> MicroUsd {
        prices.ceiling(self.prompt_tokens).cost(0, output_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Rate;
    use crate::prices::Tier;

    #[test]
    fn declared_output_counts_even_when_zero() {
        let prices = Prices::new(Rate(100_000_000), Rate(100_000_000_000));
        let undeclared = Estimate::new(44, None, 1024, 1);
        assert_eq!(undeclared.cost(Some(&prices)), MicroUsd(1_024_011));
        assert_eq!(Estimate::new(44, Some(0), 1024, 1).cost(Some(&prices)), MicroUsd(11));
        assert_eq!(Estimate::new(0, Some(10), 1024, 3).output_tokens, 30, "every choice counts");
        assert_eq!(undeclared.cost(None), MicroUsd::ZERO);
    }

    #[test]
    fn a_prompt_is_held_at_the_dearest_rate_that_its_length_allows() {
        let dollars = |usd: i64| Rate(usd * 100_000_000);
        let prices = Prices::new(dollars(3), dollars(10)).with_cache(
            Some(dollars(1)),
            Some(dollars(4)),
            None,
        );
        let estimate = Estimate::new(397, Some(10), 0, 1);
        assert_eq!(
            estimate.cost(Some(&prices)),
            MicroUsd(100 * 4 + 100),
            "all of it may be written"
        );
        let tier = |min_input_tokens| Tier {
            min_input_tokens,
            output: Some(dollars(20)),
            cache_write_1h: Some(dollars(8)),
            ..Tier::default()
        };
        let with = |threshold| prices.clone().with_tiers(vec![tier(threshold)]);
        assert_eq!(estimate.cost(Some(&with(101))), MicroUsd(500), "not reached");
        assert_eq!(estimate.cost(Some(&with(100))), MicroUsd(100 * 8 + 200));
        assert_eq!(estimate.more_output(7, &with(100)), MicroUsd(140));
    }

    #[test]
    fn images_and_calls_are_held_at_their_own_price() {
        // 0.04 USD an image; as a price of a million calls it is next to nothing.
        let prices = Prices::new(Rate(4_000_000), Rate::default());
        let held = |measure| Estimate::by(measure).cost(Some(&prices));
        assert_eq!(held(Measure::Images(3)), MicroUsd(120_000));
        assert_eq!(held(Measure::Call), MicroUsd::ZERO);
        let dear = Prices::new(Rate(600_000_000_000), Rate::default());
        assert_eq!(Estimate::by(Measure::Call).cost(Some(&dear)), MicroUsd(6_000));
        assert_eq!(Measure::Moderation.cost(None), Some(MicroUsd::ZERO));
        assert_eq!(Measure::Call.cost(None), None);
        assert_eq!(Estimate::of_input(397, 100).cost(Some(&prices)), MicroUsd(8));
    }

    #[test]
    fn a_stream_holds_its_first_step() {
        let coding_agent = Estimate::new(400, Some(64_000), 1024, 1).first_step(4096);
        assert_eq!((coding_agent.prompt_tokens, coding_agent.output_tokens), (100, 4096));
        assert_eq!(Estimate::new(400, Some(100), 1024, 1).first_step(4096).output_tokens, 100);
    }
}
