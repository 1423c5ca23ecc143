//! What operations are charged by: what is known of a request, and of its answer.

use super::Kind;
use crate::meter::Usage;
use crate::reserve::{Estimate, Measure};

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
    /// What a request may use: four characters count as a token.
    pub fn estimate(&self, kind: Kind) -> Estimate {
        match (*self, kind) {
            (Self::Text { chars, tokens }, _) => Estimate::of_input(chars, tokens),
            (Self::Images(images), _) => Estimate::by(Measure::Images(images)),
            (Self::Call, Kind::Moderations) => Estimate::by(Measure::Moderation),
            (Self::Call, _) => Estimate::by(Measure::Call),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{MicroUsd, Rate};
    use crate::prices::Prices;

    #[test]
    fn what_each_operation_may_cost() {
        let text = Units::Text { chars: 9, tokens: 97 };
        for (kind, units, usd, want) in [
            (Kind::Embeddings, text, 2.0, 200),
            (Kind::Rerank, text, 2.0, 200),
            (Kind::Images, Units::Images(3), 0.04, 120_000),
            (Kind::Moderations, Units::Call, 5.0, 5),
            (Kind::Speech, Units::Call, 15_000.0, 15_000),
            (Kind::Transcription, Units::Call, 0.5, 1),
        ] {
            let prices = Prices::new(Rate::from_f64(usd).unwrap(), Rate::from_f64(99.0).unwrap());
            let held = units.estimate(kind).cost(Some(&prices));
            assert_eq!(held, MicroUsd(want), "{kind:?}");
            assert_eq!(units.estimate(kind).cost(None), MicroUsd::ZERO, "{kind:?}");
        }
    }
}
