//! The budget gate's arithmetic: what a request may cost, before anybody knows what it will.
//!
//! The prompt counts as the reference gateway counts it: a quarter of its characters.

use crate::control::Prices;
use crate::money::MicroUsd;

/// What a request is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// A quarter of the characters of the text, rounded up.
    pub prompt_tokens: u64,
    /// Declared or default output, for all choices together.
    pub output_tokens: u64,
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
        }
    }

    /// What a stream holds at first: its output grows in steps of `step`.
    #[must_use]
    pub fn first_step(self, step: u64) -> Self {
        Self { output_tokens: self.output_tokens.min(step), ..self }
    }

    /// The hold; nothing for an unpriced model.
    pub fn cost(&self, prices: Option<Prices>) -> MicroUsd {
        prices.map_or(MicroUsd::ZERO, |p| p.cost(self.prompt_tokens, self.output_tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Rate;

    #[test]
    fn declared_output_counts_even_when_zero() {
        let prices = Prices { input: Rate(100_000_000), output: Rate(100_000_000_000) };
        let undeclared = Estimate::new(44, None, 1024, 1);
        assert_eq!(undeclared.cost(Some(prices)), MicroUsd(1_024_011), "management 3.6");
        assert_eq!(Estimate::new(44, Some(0), 1024, 1).cost(Some(prices)), MicroUsd(11));
        assert_eq!(Estimate::new(0, Some(10), 1024, 3).output_tokens, 30, "every choice counts");
        assert_eq!(undeclared.cost(None), MicroUsd::ZERO);
    }

    #[test]
    fn a_stream_holds_its_first_step() {
        let coding_agent = Estimate::new(400, Some(64_000), 1024, 1).first_step(4096);
        assert_eq!((coding_agent.prompt_tokens, coding_agent.output_tokens), (100, 4096));
        assert_eq!(Estimate::new(400, Some(100), 1024, 1).first_step(4096).output_tokens, 100);
    }
}
