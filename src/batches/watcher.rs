//! Asks providers after batches that nobody asks after: a batch that has ended is charged, whoever reads its results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use otari_filters::batches::{Api, has_ended};
use otari_filters::rejection::{Code, Rejection};

use super::accounts::{self, Tally};
use super::lines::{Lines, Results};
use super::remote::Remote;
use super::{held, manage, upstream};
use crate::app::Standalone;
use crate::clock;
use crate::store::BatchRow;

/// Between two looks, when nothing is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Batches that are asked after in one go.
const AT_ONCE: i64 = 20;
/// Of a model without a price nothing is charged: somebody may give it one.
const UNPRICED_PAUSE: SignedDuration = SignedDuration::from_hours(1);
/// Results are gone after so long, whoever keeps them.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_hours(24 * 45);

/// Asks after batches.
pub struct Watcher(Arc<Standalone>);

impl Watcher {
    /// A watcher over the batches that the store knows.
    pub fn new(app: Arc<Standalone>) -> Self {
        Self(app)
    }

    /// Works for as long as it is polled. Dropping it loses nothing.
    pub async fn run(&self) {
        loop {
            match self.look().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(refused) => tracing::warn!(%refused, "batches could not be looked after"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks after what is due; says whether there may be more.
    async fn look(&self) -> Result<bool, Rejection> {
        let app = &*self.0;
        let now = clock::now();
        let next = now.checked_add(app.live().batches.poll_interval).unwrap_or(Timestamp::MAX);
        let due = app.store.batch_due(now, next, AT_ONCE).await?;
        let is_full = i64::try_from(due.len()).is_ok_and(|count| count == AT_ONCE);
        for row in due {
            let (id, provider) = (row.id.clone(), row.provider.clone());
            if let Err(refused) = self.ask(row).await {
                tracing::warn!(id, provider, %refused, "a batch could not be asked after; it is tried again");
            }
        }
        Ok(is_full)
    }

    async fn ask(&self, row: BatchRow) -> Result<(), Rejection> {
        let app = &*self.0;
        let stop = |row: BatchRow| async move {
            held::release(app, &row).await?;
            app.store.batch_poll_at(&row.provider, &row.id, None).await.map_err(Rejection::from)
        };
        let is_old = row.created_at.checked_add(GIVE_UP_AFTER).is_ok_and(|at| at < clock::now());
        let Some(upstream) = upstream(app, &row.provider).ok().filter(|_| !is_old) else {
            // Without its provider nobody can ask; a provider that comes back is asked by whoever reads the results.
            return stop(row).await;
        };
        let Some(api) = Api::of(upstream.kind) else { return stop(row).await };
        let remote = Remote { outbound: &app.outbound, upstream: &upstream, api };
        let document = match remote.get(&row.id, Some(&row.model)).await {
            Err(refused) if refused.code == Code::NotFound && row.ended_at.is_some() => {
                return stop(row).await;
            }
            document => document?,
        };
        manage::note(app, &row, &document).await?;
        if !has_ended(document.status()) {
            return Ok(());
        }
        if accounts::prices(app, &row, &upstream).is_none() {
            held::release(app, &row).await?;
            let at = clock::now().checked_add(UNPRICED_PAUSE).ok();
            return Ok(app.store.batch_poll_at(&row.provider, &row.id, at).await?);
        }
        let lines = Lines::remote(remote, &document, Some(&row)).await?;
        let started = Instant::now();
        let mut results = Results { row: Some(row), upstream: upstream.clone(), lines };
        let mut tally = Tally::new(app, &results);
        while let Some(line) = results.next(app).await? {
            tally.add(&line);
        }
        tally.finish(app, &results, None, started).await.map(drop)
    }
}
