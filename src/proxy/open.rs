//! A call that has not ended: the hold it keeps, and the record it will leave.
//!
//! However the request ends, this is settled exactly once: by `end` where the ending is known, else when it is dropped,
//! which is also how a panic ends.

mod record;
mod reports;
mod rounds;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use otari_filters::control::{Attempt, Plan, Reservation, Settling};
use otari_filters::meter::Usage;
use otari_filters::money::MicroUsd;
use otari_filters::operations::Measured;
use otari_filters::prices::Prices;
use otari_filters::rejection::Rejection;
use otari_filters::reserve::{Estimate, Measure};
use otari_filters::settle::{Finished, Status};
use otari_filters::upstream::ErrorClass;

use crate::app::App;
use crate::control::rates::Taken;
use crate::life::{Call, Entered};
use record::shorten;
use rounds::Rounds;

/// Whose call it is.
pub(super) struct Origin {
    pub(super) request_id: Box<str>,
    pub(super) key_id: Option<Arc<str>>,
    pub(super) user_id: Option<Arc<str>>,
    pub(super) endpoint: &'static str,
    pub(super) session_label: Option<Arc<str>>,
    pub(super) started: Instant,
}

/// How the last attempt ended.
pub(super) enum Ending {
    /// The answer is complete.
    Complete {
        /// It was a stream: a missing usage is charged as the configuration says.
        streamed: bool,
    },
    /// The provider gave no answer; nothing is charged.
    Failed {
        /// Why, without secrets.
        reason: Cow<'static, str>,
        /// The provider's status, else the one the caller sees.
        status: u16,
        /// What kind of failure; `None`: the gateway's own doing.
        class: Option<ErrorClass>,
    },
    /// The provider broke off after the first byte; only what it reported is charged.
    Broken(&'static str),
    /// Somebody else ended it after the first byte: the caller pays for what was produced.
    Cut {
        /// Outcome code.
        reason: &'static str,
        /// Status for the row.
        status: u16,
    },
}

/// The attempt under way.
struct Current {
    provider: Box<str>,
    model: Box<str>,
    prices: Option<Arc<Prices>>,
    /// See [`Attempt::is_listed`].
    is_listed: bool,
    /// The platform's name for it.
    id: Option<Box<str>>,
    /// See [`Attempt::reason`].
    reason: Option<&'static str>,
    /// The provider was called.
    begun: bool,
    /// It has all of the request, and may have begun to work.
    sent: bool,
}

/// What is settled when the call ends.
pub(super) struct Open {
    app: Arc<App>,
    origin: Origin,
    estimate: Estimate,
    reservation: Option<Reservation>,
    /// What it has taken of limits of rates.
    rates: Taken,
    /// Output tokens the hold covers.
    covered: u64,
    current: Option<Current>,
    position: u16,
    candidates: u16,
    policy: Option<Arc<str>>,
    /// Reports of attempts that failed.
    reports: Vec<Settling>,
    /// The last one's.
    settling: Option<Settling>,
    /// Nobody is asked what a complete answer cost, because the platform takes no reports.
    is_unpriced: bool,
    /// Of the call under way, as far as it is known.
    usage: Option<Usage>,
    output_tokens: u64,
    /// The calls before it that were answered: a loop of tools makes several.
    rounds: Rounds,
    cost: Option<MicroUsd>,
    is_settled: bool,
    was_complete: bool,
    /// For the operator who asks what is under way.
    entered: Option<Entered>,
}

impl Open {
    /// Takes over a hold, where there is one. `estimate` is what it was taken for.
    pub(super) fn new(
        app: Arc<App>,
        origin: Origin,
        estimate: Estimate,
        reservation: Option<Reservation>,
    ) -> Self {
        Self {
            app,
            origin,
            estimate,
            reservation,
            rates: Taken::default(),
            covered: estimate.output_tokens,
            current: None,
            position: 0,
            candidates: 1,
            policy: None,
            reports: Vec::new(),
            settling: None,
            is_unpriced: false,
            usage: None,
            output_tokens: 0,
            rounds: Rounds::default(),
            cost: None,
            is_settled: false,
            was_complete: false,
            entered: None,
        }
    }

    /// Keeps what the call has taken of limits of rates until it has ended.
    pub(super) fn keep(&mut self, taken: Taken) {
        self.rates = taken;
    }

    /// Where the call may go.
    pub(super) fn set_plan(&mut self, plan: &Plan) {
        self.candidates = u16::try_from(plan.attempts.len()).unwrap_or(u16::MAX);
        self.policy = plan.policy.clone();
    }

    /// Lets the hold grow to what another attempt may cost.
    ///
    /// # Errors
    /// `budget_exceeded`: it must not be made.
    pub(super) async fn cover_attempt(&mut self, attempt: &Attempt) -> Result<(), Rejection> {
        let Some(reservation) = &mut self.reservation else { return Ok(()) };
        let price = self.estimate.cost(attempt.prices.as_deref());
        self.app.control.cover(reservation, attempt, price).await
    }

    /// Lets the hold grow to a prompt of so many characters: texts stand in the place of attachments.
    ///
    /// # Errors
    /// `budget_exceeded`: it must not be sent.
    pub(super) async fn cover_prompt(
        &mut self,
        chars: u64,
        prices: Option<&Prices>,
    ) -> Result<(), Rejection> {
        let before = self.estimate.cost(prices);
        self.estimate.prompt_tokens = self.estimate.prompt_tokens.max(chars.div_ceil(4));
        let more = self.estimate.cost(prices) - before;
        match self.reservation.as_mut().filter(|_| more > MicroUsd::ZERO) {
            Some(reservation) => self.app.control.top_up(reservation, more).await,
            None => Ok(()),
        }
    }

    /// A new attempt begins.
    pub(super) fn begin(&mut self, attempt: &Attempt) {
        if !self.rounds.take_goes_on() {
            self.position = self.position.saturating_add(1);
        }
        self.entered = Some(self.app.calls.enter(Call {
            id: self.origin.request_id.clone(),
            endpoint: self.origin.endpoint,
            model: attempt.billed_model.clone(),
            provider: attempt.upstream.instance.clone(),
            user_id: self.origin.user_id.clone().unwrap_or_default(),
            api_key_id: self.origin.key_id.clone(),
            policy_name: self.policy.clone(),
            started: self.origin.started,
        }));
        self.current = Some(Current {
            provider: attempt.upstream.instance.clone(),
            model: attempt.billed_model.clone(),
            prices: attempt.prices.clone(),
            is_listed: attempt.is_listed,
            id: attempt.id.clone(),
            reason: attempt.reason,
            begun: false,
            sent: false,
        });
    }

    /// The provider is called. `is_whole`: with all of the request, so that it may work from now on, and bill.
    pub(super) fn mark_sent(&mut self, is_whole: bool) {
        if let Some(current) = &mut self.current {
            current.begun = true;
            current.sent = is_whole;
        }
        self.usage = None;
    }

    /// The try never reached the provider and does not count.
    pub(super) fn forget(&mut self) {
        self.current = None;
        self.position = self.position.saturating_sub(1);
    }

    /// Whether the call has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether the answer was complete when the call ended.
    pub(super) fn was_complete(&self) -> bool {
        self.was_complete
    }

    /// Attempts so far.
    pub(super) fn attempts(&self) -> u16 {
        self.position
    }

    /// Tokens, once known; for the log line.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.rounds.plus(self.usage)
    }

    /// Cost, once settled; for the log line.
    pub(super) fn cost(&self) -> Option<MicroUsd> {
        self.cost
    }

    /// Takes over what the meter has seen.
    pub(super) fn observe(&mut self, usage: Option<Usage>, output_tokens: u64) {
        self.usage = usage;
        self.output_tokens = output_tokens;
    }

    /// Takes over what a whole document told. `is_uncounted`: its provider's format cannot tell tokens; the estimate
    /// stands for them, or its models would be free.
    pub(super) fn observe_whole(&mut self, told: Measured, is_uncounted: bool) {
        let tokens = self.estimate.prompt_tokens;
        let estimated = Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() };
        let counted = told.usage.filter(|usage| usage.total_tokens > 0 || !is_uncounted);
        self.usage = counted.or(is_uncounted.then_some(estimated));
        if let (Measure::Images(_), Some(images)) = (self.estimate.measure, told.images) {
            self.estimate.measure = Measure::Images(images);
        }
    }

    /// Takes over what the provider says that the call costs.
    pub(super) fn observe_cost(&mut self, cost: MicroUsd) {
        self.estimate.measure = Measure::Said(cost);
    }

    /// Lets the hold grow when the output has passed it.
    ///
    /// # Errors
    /// `budget_exceeded`: the stream must end.
    pub(super) async fn cover_output(&mut self) -> Result<(), Rejection> {
        if self.output_tokens <= self.covered {
            return Ok(());
        }
        let step = self.app.live().stream_hold_output_tokens.max(1);
        let steps = (self.output_tokens - self.covered).div_ceil(step);
        let more = steps.saturating_mul(step);
        let price =
            self.prices().map_or(MicroUsd::ZERO, |prices| self.estimate.more_output(more, prices));
        if let Some(reservation) = self.reservation.as_mut().filter(|_| price > MicroUsd::ZERO) {
            self.app.control.top_up(reservation, price).await?;
        }
        self.covered += more;
        Ok(())
    }

    /// The caller left before anything reached them.
    pub(super) fn cancel(&mut self) {
        self.end(&Ending::Cut { reason: "client_disconnected", status: 499 });
    }

    /// The attempt failed, and another one follows: on another upstream, or, when `repeats`, once more on the same.
    pub(super) fn absorb(&mut self, reason: &str, status: u16, class: ErrorClass, repeats: bool) {
        let mut record = self.record(Status::Absorbed);
        record.error_message = Some(shorten(reason));
        record.status_code = Some(status);
        // For the platform the tries on one upstream are one attempt.
        let report = if repeats { None } else { self.report(false, Some(class)) };
        let Some(current) = self.current.take() else { return };
        self.app.metrics.attempt(&current.provider, reason_label(reason));
        let finished = Finished { record, reservation: None, report };
        self.reports.extend(self.app.control.settle(finished));
    }

    /// The call is over. Durable when this returns; later calls do nothing.
    pub(super) fn end(&mut self, ending: &Ending) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let reservation = self.reservation.take();
        self.was_complete = matches!(ending, Ending::Complete { .. });
        // A caller who left before anything was sent owes nothing, and no provider was called.
        let unsent = matches!(ending, Ending::Cut { .. });
        let may_record = self.current.as_ref().is_some_and(|current| current.begun || !unsent);
        if !may_record && !self.rounds.were_answered() {
            // Nothing was sent anywhere.
            if let Some(reservation) = reservation {
                self.app.control.release(reservation);
            }
            return;
        }
        let held = reservation.as_ref().map_or(MicroUsd::ZERO, |it| it.held);
        let mut record = self.record(Status::Error);
        let outcome = match ending {
            Ending::Complete { streamed } => {
                self.complete(&mut record, *streamed, held > MicroUsd::ZERO)
            }
            Ending::Failed { reason, status, class: _ } => {
                // What was answered before it is used, and paid.
                self.fill_rounds(&mut record);
                record.error_message = Some(shorten(reason));
                record.status_code = Some(*status);
                reason_label(reason)
            }
            Ending::Broken(reason) => {
                self.fill_tokens(&mut record);
                record.cost = self.rounds.cost(self.usage.and_then(|usage| self.price(usage)));
                record.error_message = Some((*reason).into());
                record.status_code = Some(502);
                reason
            }
            Ending::Cut { reason, status } => {
                self.cut(&mut record, *reason == "budget_exceeded", held);
                record.error_message = Some((*reason).into());
                record.status_code = Some(*status);
                reason
            }
        };
        let is_unknown =
            matches!(ending, Ending::Complete { .. }) && self.estimate.measure == Measure::Tokens;
        self.rates.used(record.total_tokens.or((!is_unknown).then_some(0)));
        self.note(&record, outcome);
        let report = self.last_report(ending);
        let settling = self.app.control.settle(Finished { record, reservation, report });
        match ending {
            Ending::Complete { .. } => {
                self.is_unpriced = settling.is_none() && self.app.config.platform.is_some();
                self.settling = settling;
            }
            Ending::Failed { .. } => self.settling = settling,
            // Nobody waits for it: it is posted without them.
            Ending::Broken(_) | Ending::Cut { .. } => drop(settling),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let is_called = self.current.as_ref().is_some_and(|current| current.begun);
        if is_called || self.rounds.were_answered() {
            self.end(&Ending::Cut { reason: "gateway_panic", status: 500 });
        } else {
            self.current = None;
            self.end(&Ending::Complete { streamed: false });
        }
    }
}

/// The code before the colon: a closed set, fit for a label.
fn reason_label(reason: &str) -> &str {
    reason.split(':').next().unwrap_or(reason)
}
