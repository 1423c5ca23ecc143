//! Work on usage rows that nobody waits for: sums of hours to weeks, and the removal of what is too old, of audit rows too.
//! In small steps, each by one gateway at a time.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock;
use crate::config::Live;
use crate::store::analytics::Condensed;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Between two looks for work.
const EVERY: Duration = Duration::from_secs(60);
/// Between two steps while there is work: the database has more to do than ours.
const PAUSE: Duration = Duration::from_millis(50);
/// An hour is summed up when it has been over for so long; most records that come late have come by then.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_mins(2);
/// Rows that one transaction removes.
const BATCH: i64 = 1000;
/// Longest pause between tries while the database is away.
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// Keeps sums and drops old rows.
pub struct Housekeeper {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    /// Says how long rows are kept.
    live: Live,
}

impl Housekeeper {
    /// A housekeeper for this store; `live` says how long rows are kept.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>, live: Live) -> Self {
        Self { store, metrics, live }
    }

    /// Works for as long as it is polled. Dropping it between two steps loses nothing.
    pub async fn run(&self) {
        let mut pause = EVERY;
        loop {
            pause = match self.tidy().await {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::warn!(%error, "usage could not be summed up or removed; it is tried again");
                    (pause * 2).min(MAX_BACKOFF)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Everything that is due now.
    async fn tidy(&self) -> Result<(), StoreError> {
        // First, because what is gone need not be summed up.
        self.expire().await?;
        self.expire_audit().await?;
        let closed = before(clock::now(), SETTLED_AFTER);
        while self.store.usage_condense(closed).await? == Condensed::One {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn expire(&self) -> Result<(), StoreError> {
        let Some(days) = self.live.load().usage_retention_days else { return Ok(()) };
        let limit = oldest_kept(clock::now(), days);
        let mut removed = 0;
        let result = loop {
            match self.store.usage_expire(limit, BATCH).await {
                Ok(Some(rows)) => {
                    removed += rows;
                    self.metrics.journal.usage_rows_expired.inc_by(rows);
                    if i64::try_from(rows).unwrap_or(i64::MAX) < BATCH {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        };
        if removed > 0 {
            tracing::info!(rows = removed, before = %limit, "usage rows older than usage_retention_days were removed");
        }
        result
    }

    async fn expire_audit(&self) -> Result<(), StoreError> {
        let Some(days) = self.live.load().audit_retention_days else { return Ok(()) };
        let limit = oldest_kept(clock::now(), days);
        let mut removed = 0;
        loop {
            let rows = self.store.audit_expire(limit, BATCH).await?;
            removed += rows;
            if i64::try_from(rows).unwrap_or(i64::MAX) < BATCH {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if removed > 0 {
            tracing::info!(rows = removed, before = %limit, "audit rows older than audit_retention_days were removed");
        }
        Ok(())
    }
}

fn before(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Midnight, UTC: a day goes as a whole, so that no summary shows a part of one.
fn oldest_kept(now: Timestamp, days: u32) -> Timestamp {
    const DAY_S: i64 = 86_400;
    let midnight = now.as_second() - now.as_second().rem_euclid(DAY_S);
    let limit = midnight.saturating_sub(i64::from(days).saturating_mul(DAY_S));
    Timestamp::from_second(limit.max(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_go_whole() {
        let now: Timestamp = "2026-03-10T15:00:00Z".parse().unwrap();
        assert_eq!(oldest_kept(now, 1).to_string(), "2026-03-09T00:00:00Z");
        assert_eq!(oldest_kept(now, 30).to_string(), "2026-02-08T00:00:00Z");
        assert_eq!(oldest_kept(now, u32::MAX), Timestamp::UNIX_EPOCH);
    }
}
