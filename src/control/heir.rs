//! What processes that are gone left in their slots of the journal, by ending or by dying, is brought to the store: at
//! the start, and for as long as this process runs beside others that end.

use std::sync::Arc;
use std::time::Duration;

use super::journal::Journal;
use super::writer::{Touched, Writer};
use crate::first_run;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Between two looks. Nobody waits for it, but a part of the budgets may.
const EVERY: Duration = Duration::from_millis(500);

/// Brings on what others left.
pub struct Heir {
    journal: Arc<Journal>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Heir {
    /// An heir of those who had other slots of the same folder.
    pub fn new(journal: Arc<Journal>, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { journal, store, metrics }
    }

    /// For as long as the process lives.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            match self.inherit().await {
                Ok(0) => {}
                Ok(records) => {
                    tracing::info!(records, "usage of another process was written from its journal")
                }
                Err(error) => {
                    tracing::warn!(%error, "usage of another process waits in its journal");
                }
            }
        }
    }

    /// Applies everything that processes that are gone left. Says how many records changed something.
    ///
    /// # Errors
    /// When the store or the disk fails: the rest is there for the next time.
    pub async fn inherit(&self) -> Result<usize, StoreError> {
        let mut fresh = 0;
        let (mut waiting, mut failed) = (0, None);
        for left in self.left().await? {
            match self.bring_on(left).await {
                Ok(records) => fresh += records,
                Err((bytes, error)) => {
                    waiting += bytes;
                    failed = Some(error);
                }
            }
        }
        self.journal.left_bytes.store(waiting, std::sync::atomic::Ordering::Relaxed);
        failed.map_or(Ok(fresh), Err)
    }

    async fn left(&self) -> Result<Vec<Journal>, StoreError> {
        let journal = self.journal.clone();
        let left = tokio::task::spawn_blocking(move || journal.left()).await;
        left.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
    }

    /// What came out of a lease is taken off the lease of whoever had the slot; then that lease is nobody's.
    async fn bring_on(&self, left: Journal) -> Result<usize, (u64, StoreError)> {
        let left = Arc::new(left);
        let done = self.apply(&left).await;
        match done {
            Ok(fresh) => {
                let discarded = Arc::into_inner(left).map_or(Ok(true), Journal::discard);
                discarded.map_err(|error| (0, unreadable(&error)))?;
                Ok(fresh)
            }
            Err(error) => Err((left.bytes(), error)),
        }
    }

    async fn apply(&self, left: &Arc<Journal>) -> Result<usize, StoreError> {
        let (store, joined) = match self.store.shared() {
            None => (self.store.clone(), false),
            Some(shared) => {
                let id =
                    first_run::gateway_id(left.folder()).map_err(|error| unreadable(&error))?;
                (shared.heir_of(&id), true)
            }
        };
        let touched = Arc::new(Touched::default());
        let writer = Writer::new(left.clone(), store.clone(), self.metrics.clone(), touched);
        let fresh = writer.replay().await?;
        if left.applied() < left.end() {
            return Ok(fresh);
        }
        if let Some(shared) = store.shared().filter(|_| joined) {
            shared.leave().await?;
        }
        Ok(fresh)
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable { message: format!("journal: {error}") }
}
