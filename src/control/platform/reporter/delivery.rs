//! One report and how it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use otari_filters::platform;
use otari_filters::settle::{Cost, Entry, KeptReport, ReportStatus};
use tokio::time::sleep;

use super::Reporter;
use crate::control::journal::Position;
use crate::control::platform::client::Client;
use crate::control::platform::wire::Answer;
use crate::telemetry::metrics::Metrics;

/// What the report of a small call takes, with room to spare.
const USUAL_BYTES: usize = 384;

/// One report, ready to be sent as often as need be.
pub(super) struct Hand {
    /// Ours.
    pub(super) id: Box<str>,
    /// The platform's name for the attempt.
    pub(super) correlation_id: Box<str>,
    pub(super) made_at_us: i64,
    /// May come back with a cost.
    has_cost: bool,
    body: Bytes,
    /// Its place in the journal; `None`: it is in none.
    pub(super) at: Option<Position>,
    /// Rounds of tries it has used up.
    pub(super) rounds: u32,
}

impl Hand {
    pub(super) fn new(kept: KeptReport, at: Option<Position>) -> Self {
        let mut body = Vec::with_capacity(USUAL_BYTES);
        kept.report.write_json(&mut body);
        Self {
            id: kept.id,
            has_cost: kept.report.status == ReportStatus::Success,
            correlation_id: kept.report.correlation_id,
            made_at_us: kept.made_at_us,
            body: body.into(),
            at,
            rounds: 0,
        }
    }

    /// As it was journalled.
    pub(super) fn entry(&self, id: Box<str>) -> Option<Entry> {
        let report = serde_json::from_slice(&self.body).ok()?;
        Some(Entry::Report(KeptReport { id, made_at_us: self.made_at_us, report }))
    }
}

/// What became of a round of tries.
pub(super) enum Outcome {
    /// The platform has it.
    Accepted(Option<Cost>),
    /// The platform will never take it.
    Refused(u16),
    /// A status from 500 on, or no answer.
    Failed { answered: bool },
}

/// A report whose round is over.
pub(super) struct Landed {
    pub(super) hand: Hand,
    pub(super) outcome: Outcome,
    /// Of [`Reporter::accepted`], when the round began.
    pub(super) accepted_before: u64,
    pub(super) is_probe: bool,
}

impl Landed {
    /// The id of a report that the platform has, and what it costs; else the whole again.
    pub(super) fn accepted(self) -> Result<(Box<str>, Option<Cost>), Self> {
        match self.outcome {
            Outcome::Accepted(cost) => Ok((self.hand.id, cost)),
            _ => Err(self),
        }
    }

    /// Whether the platform probably takes no reports at all.
    pub(super) fn says_down(&self, owner: &Reporter) -> bool {
        let Outcome::Failed { answered } = self.outcome else { return false };
        // One report that the platform stumbles over, again and again, says nothing of the others.
        let is_news = self.hand.rounds == 0 || !answered;
        self.is_probe || (is_news && self.accepted_before == owner.accepted.load(Ordering::SeqCst))
    }
}

/// A report under way.
pub(super) type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// Sends a report off. `is_live`: for somebody who waits, on their own thread.
pub(super) fn fly(
    owner: &Reporter,
    hand: Hand,
    tries: u32,
    is_probe: bool,
    is_live: bool,
) -> Flight {
    let (client, metrics) = (owner.client.clone(), owner.metrics.clone());
    let accepted_before = owner.accepted.load(Ordering::SeqCst);
    let round = Round { client, metrics, tries, between: owner.pace.between, is_live };
    Box::pin(async move {
        let outcome = round.deliver(&hand).await;
        Landed { hand, outcome, accepted_before, is_probe }
    })
}

/// One round of tries.
struct Round {
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    tries: u32,
    between: Duration,
    is_live: bool,
}

impl Round {
    async fn deliver(&self, hand: &Hand) -> Outcome {
        let mut pause = self.between;
        let mut answered = false;
        for left in (0..self.tries).rev() {
            match self.client.report(hand.body.clone(), self.is_live).await {
                Ok(Answer { status: status @ 200..300, body, .. }) => {
                    self.metrics.report("accepted");
                    let cost = (status == 200 && hand.has_cost)
                        .then(|| platform::cost(&hand.correlation_id, &body));
                    return Outcome::Accepted(cost.flatten());
                }
                Ok(Answer { status: status @ ..500, .. }) => {
                    self.metrics.report("refused");
                    return Outcome::Refused(status);
                }
                Ok(Answer { status, .. }) => {
                    answered = true;
                    tracing::debug!(status, "the platform failed to take a report");
                }
                Err(error) => {
                    answered = false;
                    tracing::debug!(error, "a report did not reach the platform");
                }
            }
            self.metrics.report("failed");
            if left > 0 {
                sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
        }
        Outcome::Failed { answered }
    }
}
