//! Journal → store: applies what was journalled, in batches, for as long as the process lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use otari_filters::settle::Entry;
use parking_lot::Mutex;

use crate::control::journal::{Batch, Journal, Position};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// How long a record may wait. A timer and not a wake-up per record: waking another thread costs every request more
/// than its own record does.
const EVERY: Duration = Duration::from_millis(100);
/// Entries of one transaction.
const BATCH: usize = 500;
/// More than this waiting means that one read a batch is not enough.
const BEHIND_BYTES: u64 = 1 << 20;
/// Between two reads while there is more.
const SOON: Duration = Duration::from_millis(1);
/// Longest pause between tries while the database is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Uses of keys that wait to be written; more are dropped, the next use will be noted.
const MAX_TOUCHES: usize = 10_000;

/// Takes records from the journal to the store.
pub struct Writer {
    journal: Arc<Journal>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    touched: Arc<Touched>,
}

/// Keys that were used, to be written with the next batch.
#[derive(Debug, Default)]
pub struct Touched(Mutex<Vec<(String, Timestamp)>>);

impl Touched {
    /// Notes a use.
    pub fn push(&self, key_id: &str, at: Timestamp) {
        let mut touched = self.0.lock();
        if touched.len() < MAX_TOUCHES {
            touched.push((key_id.to_owned(), at));
        }
    }
}

impl Writer {
    /// A writer for this journal and store.
    pub fn new(
        journal: Arc<Journal>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        touched: Arc<Touched>,
    ) -> Self {
        Self { journal, store, metrics, touched }
    }

    /// Applies everything that earlier processes left. Says how many records changed something.
    ///
    /// # Errors
    /// When the store cannot be reached: nothing may be served on counters that miss these records.
    pub async fn replay(&self) -> Result<usize, StoreError> {
        let mut fresh = 0;
        while self.journal.applied() < self.journal.end() {
            let before = self.journal.applied();
            fresh += self.step().await?;
            if self.journal.applied() == before {
                break;
            }
        }
        Ok(fresh)
    }

    /// Applies what is journalled, for as long as the process lives.
    pub async fn run(&self) {
        let mut pause = EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.journal.hurry.notified() => {}
            }
            let before = self.journal.applied();
            pause = match self.step().await {
                // One read is bounded: what is left is taken at once.
                Ok(_) if self.is_behind(before) => SOON,
                Ok(_) => EVERY,
                Err(error) => {
                    tracing::warn!(%error, "usage waits in the journal until the database answers");
                    (pause * 2).clamp(EVERY, MAX_BACKOFF)
                }
            };
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.metrics.journal.backlog_bytes.set(gauge(self.journal.backlog_bytes()));
            self.metrics.journal.queue_depth.set(gauge(self.journal.pending()));
            self.write_touches().await;
        }
    }

    /// Whether the last step got somewhere and a good part is left. A few fresh records may wait for the next batch.
    fn is_behind(&self, before: Position) -> bool {
        self.journal.applied() > before && self.journal.backlog_bytes() > BEHIND_BYTES
    }

    /// Reads once and applies what was read, batch by batch.
    async fn step(&self) -> Result<usize, StoreError> {
        self.journal.catch_up();
        let kept = self.apply_refused().await?;
        let from = self.journal.applied();
        if from >= self.journal.end() {
            return Ok(kept);
        }
        let batch = match self.journal.fresh.take(from) {
            Some(batch) => batch,
            None => self.read(from).await?,
        };
        let mut fresh = kept;
        let mut entries = batch.entries.into_iter();
        while entries.len() > 0 {
            let count = entries.len().min(BATCH);
            fresh += self.apply(entries.by_ref().take(count).collect()).await?;
            self.journal.count_applied(count);
        }
        if batch.next != from {
            self.journal.advance(batch.next);
        }
        Ok(fresh)
    }

    /// What is not in memory: of an earlier process, or more than there was room for.
    async fn read(&self, from: Position) -> Result<Batch, StoreError> {
        let journal = self.journal.clone();
        match tokio::task::spawn_blocking(move || journal.read(from)).await {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(error)) => Err(unreadable(&error.to_string())),
            Err(error) => Err(unreadable(&error.to_string())),
        }
    }

    /// What the disk refused goes to the store all the same, which may be elsewhere, or have room again.
    async fn apply_refused(&self) -> Result<usize, StoreError> {
        let entries = self.journal.refused.first(BATCH);
        if entries.is_empty() {
            return Ok(0);
        }
        let count = entries.len();
        let fresh = self.apply(entries.into()).await?;
        self.journal.forget_refused(count);
        Ok(fresh)
    }

    async fn apply(&self, entries: Arc<[Entry]>) -> Result<usize, StoreError> {
        let started = Instant::now();
        match self.store.apply_all(entries.clone()).await {
            Ok(applied) => {
                self.metrics.journal.flushed(entries.len(), started.elapsed(), true);
                Ok(applied.fresh)
            }
            Err(error @ StoreError::Unavailable { .. }) => {
                self.metrics.journal.flushed(entries.len(), started.elapsed(), false);
                Err(error)
            }
            // One record that the store will never take must not hold up the others.
            Err(_) if entries.len() > 1 => {
                let mut fresh = 0;
                for entry in &*entries {
                    fresh += Box::pin(self.apply([entry.clone()].into())).await?;
                }
                Ok(fresh)
            }
            Err(error) => {
                tracing::error!(%error, "the database refuses a usage record; it was put into rejected.jsonl in the journal folder");
                self.metrics.journal.dropped();
                let kept = entries.iter().try_for_each(|entry| self.journal.reject(entry));
                kept.map_err(|error| unreadable(&error.to_string()))?;
                Ok(0)
            }
        }
    }

    async fn write_touches(&self) {
        let touched = std::mem::take(&mut *self.touched.0.lock());
        if touched.is_empty() {
            return;
        }
        // Best effort, as in the reference: the request was served.
        if let Err(error) = self.store.key_touch(&touched).await {
            tracing::debug!(%error, "last_used_at was not written");
        }
    }
}

fn unreadable(message: &str) -> StoreError {
    StoreError::Unavailable { message: format!("journal: {message}") }
}
