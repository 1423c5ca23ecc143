//! What tokens cost: five rates, context tiers, and the two ways in which providers count cached input.

use crate::money::{MicroUsd, Rate, cost};

/// What a model costs, in USD per million tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Input that came from no cache.
    pub input: Rate,
    /// Output.
    pub output: Rate,
    /// Input read from the provider's cache; `None`: at the input's rate.
    pub cache_read: Option<Rate>,
    /// Input written to the cache for five minutes; `None`: at the input's rate.
    pub cache_write: Option<Rate>,
    /// Input written to the cache for an hour; `None`: at the rate of a five minutes' write.
    pub cache_write_1h: Option<Rate>,
    /// By threshold, ascending; no two of the same. Written by [`Prices::with_tiers`] alone.
    tiers: Vec<Tier>,
}

/// Other rates for requests with a long input. They hold for the whole request, not for what is beyond the threshold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    /// Total input from which on the tier applies, above 0.
    pub min_input_tokens: u64,
    /// `None`: the model's own rate; so with all five.
    pub input: Option<Rate>,
    /// Output.
    pub output: Option<Rate>,
    /// Input read from the cache.
    pub cache_read: Option<Rate>,
    /// Input written for five minutes.
    pub cache_write: Option<Rate>,
    /// Input written for an hour.
    pub cache_write_1h: Option<Rate>,
}

/// How a provider's input count and its cache counts belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheCounting {
    /// The input contains what was read from and written to the cache (OpenAI).
    #[default]
    Inclusive,
    /// The input is only what came from no cache; the total is the sum (Anthropic's messages).
    Additive,
}

/// Tokens of one request, as its provider counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input; what it contains says the [`CacheCounting`].
    pub input: u64,
    /// Output.
    pub output: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written for five minutes.
    pub cache_write: u64,
    /// Input written for an hour.
    pub cache_write_1h: u64,
}

/// A bound on what tokens of an input of known length can cost, whatever of it is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    input: Rate,
    output: Rate,
}

/// The rates that hold for one request.
struct Rates {
    input: Rate,
    output: Rate,
    cache_read: Option<Rate>,
    cache_write: Option<Rate>,
    cache_write_1h: Option<Rate>,
}

impl Prices {
    /// Prices of input and output alone.
    pub fn new(input: Rate, output: Rate) -> Self {
        Self { input, output, ..Self::default() }
    }

    /// Sets the rates of a read from the cache, a write for five minutes and a write for an hour.
    #[must_use]
    pub fn with_cache(
        self,
        cache_read: Option<Rate>,
        cache_write: Option<Rate>,
        cache_write_1h: Option<Rate>,
    ) -> Self {
        Self { cache_read, cache_write, cache_write_1h, ..self }
    }

    /// Sets the tiers, in any order; of two with one threshold the later counts.
    #[must_use]
    pub fn with_tiers(mut self, mut tiers: Vec<Tier>) -> Self {
        tiers.reverse();
        tiers.sort_by_key(|tier| tier.min_input_tokens);
        tiers.dedup_by_key(|tier| tier.min_input_tokens);
        self.tiers = tiers;
        self
    }

    /// The tiers, by threshold.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// What `tokens` cost, exactly, rounded once, half up, to a micro-dollar. Never negative.
    pub fn cost(&self, tokens: &Tokens, counting: CacheCounting) -> MicroUsd {
        let tokens = tokens.as_additive(counting);
        let rates = self.rates(tokens.total_input());
        let (read, write, write_1h) = rates.cached();
        // A meter without a rate stays in the fresh input. Same rate, same sum: nothing has to be moved.
        let input = rates.input;
        cost(&[
            (tokens.input, input),
            (tokens.output, rates.output),
            (tokens.cache_read, read.unwrap_or(input)),
            (tokens.cache_write, write.unwrap_or(input)),
            (tokens.cache_write_1h, write_1h.unwrap_or(input)),
        ])
        .or_zero()
    }

    /// What so many images cost: the input's price is USD for one.
    pub fn images(&self, images: u64) -> MicroUsd {
        cost(&[(images.saturating_mul(1_000_000), self.input)]).or_zero()
    }

    /// What so many calls cost that are charged by the call: the input's price is USD for a million.
    pub fn calls(&self, calls: u64) -> MicroUsd {
        cost(&[(calls, self.input)]).or_zero()
    }

    /// The dearest rates that a request of at most so many input tokens can meet: cached or not, whichever of the tiers
    /// up to there its true length falls into.
    pub fn ceiling(&self, input_tokens: u64) -> Ceiling {
        let within = self.tiers.iter().filter(|tier| tier.min_input_tokens <= input_tokens);
        std::iter::once(self.rates(0))
            .chain(within.map(|tier| self.rates(tier.min_input_tokens)))
            .map(|rates| {
                let (read, write, write_1h) = rates.cached();
                let cached = read.max(write).max(write_1h);
                Ceiling {
                    input: cached.map_or(rates.input, |cached| cached.max(rates.input)),
                    output: rates.output,
                }
            })
            .reduce(|a, b| Ceiling { input: a.input.max(b.input), output: a.output.max(b.output) })
            .unwrap_or_default()
    }

    /// Whether nothing can ever be charged: every rate, those of the tiers included, is zero.
    pub fn is_free(&self) -> bool {
        let free = |rate: Option<Rate>| rate.is_none_or(|rate| rate == Rate::default());
        let is_free = |tier: &Tier| {
            [tier.input, tier.output, tier.cache_read, tier.cache_write, tier.cache_write_1h]
                .into_iter()
                .all(free)
        };
        [
            Some(self.input),
            Some(self.output),
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
        ]
        .into_iter()
        .all(free)
            && self.tiers.iter().all(is_free)
    }

    /// The rates of a request with so much input: the model's own, and over them those that the highest threshold
    /// reached names.
    fn rates(&self, total_input: u64) -> Rates {
        let reached = self.tiers.partition_point(|tier| tier.min_input_tokens <= total_input);
        let own = Rates {
            input: self.input,
            output: self.output,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            cache_write_1h: self.cache_write_1h,
        };
        let Some(tier) = reached.checked_sub(1).and_then(|at| self.tiers.get(at)) else {
            return own;
        };
        Rates {
            input: tier.input.unwrap_or(own.input),
            output: tier.output.unwrap_or(own.output),
            cache_read: tier.cache_read.or(own.cache_read),
            cache_write: tier.cache_write.or(own.cache_write),
            cache_write_1h: tier.cache_write_1h.or(own.cache_write_1h),
        }
    }
}

impl Rates {
    /// Of a read, a write for five minutes, a write for an hour; `None`: at the input's rate.
    fn cached(&self) -> (Option<Rate>, Option<Rate>, Option<Rate>) {
        (self.cache_read, self.cache_write, self.cache_write_1h.or(self.cache_write))
    }
}

impl Tokens {
    /// The same tokens with the cached ones taken out of the input. Inclusive counts that are more than the input
    /// contradict each other; then the input, which every provider counts, is believed and the others are not.
    fn as_additive(&self, counting: CacheCounting) -> Self {
        if counting == CacheCounting::Additive {
            return *self;
        }
        let cached = self
            .cache_read
            .checked_add(self.cache_write)
            .and_then(|cached| cached.checked_add(self.cache_write_1h));
        match cached.and_then(|cached| self.input.checked_sub(cached)) {
            Some(input) => Self { input, ..*self },
            None => Self { input: self.input, output: self.output, ..Self::default() },
        }
    }

    fn total_input(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
            .saturating_add(self.cache_write_1h)
    }
}

impl Ceiling {
    /// At most what so many tokens cost.
    pub fn cost(&self, input_tokens: u64, output_tokens: u64) -> MicroUsd {
        cost(&[(input_tokens, self.input), (output_tokens, self.output)]).or_zero()
    }
}

#[cfg(test)]
mod tests;
