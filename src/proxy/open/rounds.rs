//! The calls of one request that asks a model several times: one hold, one record, and what the earlier ones used.

use otari_filters::meter::Usage;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::Rejection;

use super::Open;

/// The calls that were answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    answered: bool,
    /// The next call is one more of the same attempt, however often it is asked.
    goes_on: bool,
    usage: Option<Usage>,
    cost: Option<MicroUsd>,
}

impl Rounds {
    /// Whether there are any.
    pub(super) fn were_answered(&self) -> bool {
        self.answered
    }

    /// Whether the next call is of the same attempt; said once for each.
    pub(super) fn take_goes_on(&mut self) -> bool {
        std::mem::take(&mut self.goes_on)
    }

    /// Their tokens and those of one more call; `None` where nobody reported any.
    pub(super) fn plus(&self, usage: Option<Usage>) -> Option<Usage> {
        match (self.usage, usage) {
            (Some(before), Some(usage)) => Some(before.plus(usage)),
            (before, usage) => before.or(usage),
        }
    }

    /// Their cost and that of one more call; `None` where nobody knows any.
    ///
    /// Each is priced by itself: how long its own prompt is decides its rates.
    pub(super) fn cost(&self, cost: Option<MicroUsd>) -> Option<MicroUsd> {
        match (self.cost, cost) {
            (Some(before), Some(cost)) => Some(before + cost),
            (before, cost) => before.or(cost),
        }
    }
}

impl Open {
    /// A call has been answered, and another one follows on the same attempt. Lets the hold grow to what it may cost, with
    /// a prompt of `chars` characters.
    ///
    /// # Errors
    /// `budget_exceeded`: it must not be made. What was answered is paid.
    pub(in crate::proxy) async fn next_round(
        &mut self,
        chars: u64,
        streamed: bool,
    ) -> Result<(), Rejection> {
        let held = self.reservation.as_ref().map_or(MicroUsd::ZERO, |reservation| reservation.held);
        let cost = match self.usage {
            Some(usage) => self.price(usage),
            None if streamed => self.unreported(held > MicroUsd::ZERO),
            None => None,
        };
        let usage = self.rounds.plus(self.usage);
        let cost = self.rounds.cost(cost);
        self.rounds = Rounds { answered: true, goes_on: true, usage, cost };
        // Nothing until it is sent: who leaves now owes the answers they had.
        self.usage = Some(Usage::default());
        self.output_tokens = 0;
        self.covered = self.estimate.output_tokens;
        self.estimate.prompt_tokens = chars.div_ceil(4);
        let may_cost = self.estimate.cost(self.prices());
        let more = self.rounds.cost(Some(may_cost)).unwrap_or(may_cost) - held;
        match self.reservation.as_mut().filter(|_| more > MicroUsd::ZERO) {
            Some(reservation) => self.app.control.top_up(reservation, more).await,
            None => Ok(()),
        }
    }
}
