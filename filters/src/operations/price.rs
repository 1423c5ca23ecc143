//! What operations cost: before anybody knows, and when it is known.

use super::{Kind, RowTokens};
use crate::meter::Usage;
use crate::money::{MicroUsd, Rate, cost};
use crate::prices::{CacheCounting, Prices};

/// What a request is expected to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Text to be read: its characters, and tokens that came as numbers.
    Text {
        /// Unicode code points.
        chars: u64,
        /// Numbers.
        tokens: u64,
    },
    /// So many images, at least 1.
    Images(u64),
    /// One call, whatever its size.
    Call,
}

/// What an answer has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Tokens, where the provider counts them.
    pub usage: Option<Usage>,
    /// Images that came; `None`: it was not seen.
    pub images: Option<u64>,
}

impl Units {
    /// The hold: at most what the request is expected to cost; nothing for an unpriced model. Four characters count as a
    /// token.
    pub fn estimate(&self, prices: Option<&Prices>) -> MicroUsd {
        let Some(prices) = prices else { return MicroUsd::ZERO };
        match *self {
            Self::Text { chars, tokens } => {
                let tokens = chars.div_ceil(4).saturating_add(tokens);
                prices.ceiling(tokens).cost(tokens, 0)
            }
            Self::Images(images) => per_image(images, prices.input),
            Self::Call => per_call(prices.input),
        }
    }
}

impl Kind {
    /// What an answer costs; `None`: not known, because the model has no price or the provider counts nothing.
    ///
    /// Of embeddings and rerank the input's tokens are priced. Of images, the input's price is that of one image, in USD.
    /// The others cost the price of one token for each call; a moderation without a price costs nothing.
    pub fn cost(
        self,
        asked: &Units,
        measured: &Measured,
        prices: Option<&Prices>,
    ) -> Option<MicroUsd> {
        match self {
            Self::Embeddings => {
                let usage = measured.usage?;
                Some(prices?.cost(&usage.tokens(), usage.counting))
            }
            Self::Rerank => {
                let usage = measured.usage.filter(|usage| usage.total_tokens > 0)?;
                let tokens = super::input_only(usage.total_tokens, usage.total_tokens).tokens();
                Some(prices?.cost(&tokens, CacheCounting::Inclusive))
            }
            Self::Images => {
                let asked = if let Units::Images(images) = asked { *images } else { 1 };
                Some(per_image(measured.images.unwrap_or(asked), prices?.input))
            }
            Self::Moderations => {
                Some(prices.map_or(MicroUsd::ZERO, |prices| per_call(prices.input)))
            }
            Self::Speech | Self::Transcription => Some(per_call(prices?.input)),
        }
    }

    /// Input, output and total, as the row of a success has them.
    pub fn row_tokens(self, measured: &Measured) -> RowTokens {
        match (self, measured.usage) {
            (Self::Embeddings, Some(usage)) => {
                (Some(usage.prompt_tokens), Some(0), Some(usage.total_tokens))
            }
            (Self::Rerank, Some(usage)) => {
                (Some(usage.total_tokens), Some(0), Some(usage.total_tokens))
            }
            (Self::Embeddings | Self::Rerank, None) => (None, None, None),
            (Self::Moderations, _) => (None, Some(0), None),
            (Self::Images | Self::Speech | Self::Transcription, _) => (Some(0), Some(0), Some(0)),
        }
    }
}

/// Images are priced in USD each.
fn per_image(images: u64, rate: Rate) -> MicroUsd {
    cost(&[(images.saturating_mul(1_000_000), rate)]).or_zero()
}

/// A call costs what a millionth of the price is.
fn per_call(rate: Rate) -> MicroUsd {
    cost(&[(1, rate)]).or_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dollars(usd: f64) -> Prices {
        Prices::new(Rate::from_f64(usd).unwrap(), Rate::from_f64(99.0).unwrap())
    }

    fn used(prompt: u64, total: u64) -> Measured {
        Measured { usage: Some(super::super::input_only(prompt, total)), images: None }
    }

    #[test]
    fn what_each_operation_costs() {
        let call = Units::Call;
        let text = Units::Text { chars: 9, tokens: 0 };
        let images = |came| Measured { usage: None, images: came };
        let nothing = Measured::default();
        for (kind, asked, measured, usd, want) in [
            (Kind::Embeddings, text, used(1_000_000, 1_000_000), 0.02, Some(20_000)),
            // Rounded once, half up: half a micro-dollar is one.
            (Kind::Embeddings, text, used(25, 25), 0.02, Some(1)),
            (Kind::Embeddings, text, used(24, 24), 0.02, Some(0)),
            (Kind::Embeddings, text, nothing, 0.02, None),
            (Kind::Rerank, text, used(0, 500), 2.0, Some(1000)),
            (Kind::Rerank, text, used(0, 0), 2.0, None),
            (Kind::Rerank, text, nothing, 2.0, None),
            // USD per image.
            (Kind::Images, Units::Images(3), images(Some(2)), 0.04, Some(80_000)),
            (Kind::Images, Units::Images(3), images(None), 0.04, Some(120_000)),
            (Kind::Images, Units::Images(1), images(Some(1)), 0.000_000_5, Some(1)),
            (Kind::Moderations, call, nothing, 5.0, Some(5)),
            (Kind::Moderations, call, nothing, 0.49, Some(0)),
            (Kind::Speech, call, nothing, 15_000.0, Some(15_000)),
            (Kind::Transcription, call, nothing, 6_000.5, Some(6_001)),
        ] {
            let got = kind.cost(&asked, &measured, Some(&dollars(usd)));
            assert_eq!(got, want.map(MicroUsd), "{kind:?} {measured:?}");
        }
        for kind in Kind::ALL {
            let unpriced = kind.cost(&call, &used(5, 5), None);
            let want = (kind == Kind::Moderations).then_some(MicroUsd::ZERO);
            assert_eq!(unpriced, want, "{kind:?} without a price");
        }
    }

    #[test]
    fn an_estimate_holds_what_it_will_cost() {
        let prices = dollars(2.0);
        let estimate = |units: Units| units.estimate(Some(&prices));
        assert_eq!(estimate(Units::Text { chars: 9, tokens: 7 }), MicroUsd(20), "3 and 7 tokens");
        assert_eq!(estimate(Units::Images(2)), MicroUsd(4_000_000));
        assert_eq!(estimate(Units::Call), MicroUsd(2));
        assert_eq!(Units::Images(2).estimate(None), MicroUsd::ZERO);
        assert_eq!(estimate(Units::Images(u64::MAX)), MicroUsd(i64::MAX), "saturates");
    }

    #[test]
    fn rows_have_the_counts_of_their_operation() {
        let told = used(3, 4);
        assert_eq!(Kind::Embeddings.row_tokens(&told), (Some(3), Some(0), Some(4)));
        assert_eq!(Kind::Rerank.row_tokens(&told), (Some(4), Some(0), Some(4)));
        assert_eq!(Kind::Rerank.row_tokens(&Measured::default()), (None, None, None));
        assert_eq!(Kind::Moderations.row_tokens(&told), (None, Some(0), None));
        assert_eq!(Kind::Speech.row_tokens(&Measured::default()), (Some(0), Some(0), Some(0)));
    }
}
