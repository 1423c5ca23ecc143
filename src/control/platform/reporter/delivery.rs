//! One report and how it is sent.

use std::time::Duration;

use bytes::Bytes;
use otari_filters::platform;
use otari_filters::settle::{Cost, Entry, KeptReport, ReportStatus};
use tokio::time::sleep;

use crate::control::platform::client::Client;
use crate::control::platform::wire::Answer;
use crate::telemetry::metrics::Metrics;

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
    /// Number of the read that brought it; `None`: it is in no journal.
    pub(super) mark: Option<u64>,
    /// Rounds of tries it has used up.
    pub(super) rounds: u32,
}

impl Hand {
    pub(super) fn new(kept: KeptReport, mark: Option<u64>) -> Option<Self> {
        let body = serde_json::to_vec(&kept.report).ok()?.into();
        Some(Self {
            id: kept.id,
            has_cost: kept.report.status == ReportStatus::Success,
            correlation_id: kept.report.correlation_id,
            made_at_us: kept.made_at_us,
            body,
            mark,
            rounds: 0,
        })
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

/// One round of tries.
pub(super) async fn deliver(
    client: &Client,
    metrics: &Metrics,
    hand: &Hand,
    tries: u32,
    between: Duration,
) -> Outcome {
    let mut pause = between;
    let mut answered = false;
    for left in (0..tries).rev() {
        match client.report(hand.body.clone()).await {
            Ok(Answer { status: status @ 200..300, body, .. }) => {
                metrics.report("accepted");
                let cost = (status == 200 && hand.has_cost)
                    .then(|| platform::cost(&hand.correlation_id, &body));
                return Outcome::Accepted(cost.flatten());
            }
            Ok(Answer { status: status @ ..500, .. }) => {
                metrics.report("refused");
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
        metrics.report("failed");
        if left > 0 {
            sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    }
    Outcome::Failed { answered }
}
