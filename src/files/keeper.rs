//! Takes away what nobody may have any more: bytes of files that are expired or deleted, and of uploads that did not end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Files, Shelf};
use crate::clock;
use crate::store::{FileRow, FilesDue, StoreError};

/// Between two looks for work.
const EVERY: Duration = Duration::from_secs(60);
/// Between two batches while there is work: callers come first.
const PAUSE: Duration = Duration::from_millis(50);
/// Files claimed at once.
const BATCH: i64 = 50;
/// A gateway that claimed a batch has that long for it; then another one takes it over.
const CLAIM: SignedDuration = SignedDuration::from_mins(10);
/// A deletion removes the bytes itself, and an upload puts them in their place: they are left alone for so long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(15);
/// After a failure.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// Bytes that are not found here are looked for by other gateways for so long.
const ELSEWHERE: SignedDuration = SignedDuration::from_hours(24);

/// Whether a file began so long ago that whoever began it is not at it any more.
pub fn began_long_ago(file: &FileRow, now: Timestamp) -> bool {
    file.created_at < moved(now, -PATIENCE)
}

impl Files {
    /// Works for as long as it is polled. Dropping it between two steps loses nothing.
    pub async fn keep(&self) {
        let Some(shelf) = &self.shelf else { return };
        loop {
            shelf.blobs.tidy().await;
            if let Err(error) = self.reclaim(shelf).await {
                tracing::warn!(%error, "files that are due could not be removed; it is tried again");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Everything that is due now.
    async fn reclaim(&self, shelf: &Shelf) -> Result<(), StoreError> {
        let mut removed = 0_u64;
        loop {
            let now = clock::now();
            let due = FilesDue {
                now,
                dropped_before: moved(now, -PATIENCE),
                claim_until: moved(now, CLAIM),
                at_most: BATCH,
            };
            let batch = self.store.file_claim(due).await?;
            for file in &batch {
                removed += u64::from(self.reclaim_one(shelf, file).await?);
            }
            if i64::try_from(batch.len()).unwrap_or(BATCH) < BATCH {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if removed > 0 {
            tracing::info!(files = removed, "expired and deleted files were removed");
        }
        Ok(())
    }

    async fn reclaim_one(&self, shelf: &Shelf, file: &FileRow) -> Result<bool, StoreError> {
        let now = clock::now();
        let since = file.deleted_at.or(file.expires_at).unwrap_or(now);
        match shelf.blobs.remove(&file.storage_ref).await {
            Ok(removed) if self.is_final(removed) || moved(since, ELSEWHERE) < now => {
                self.note_reclaimed(&file.id).await;
                return Ok(true);
            }
            Ok(_) => {}
            Err(cause) => {
                tracing::warn!(file.id = file.id, %cause, "the bytes of a file could not be removed; it is tried again");
            }
        }
        self.store.file_put_off(&file.id, moved(now, AGAIN)).await?;
        Ok(false)
    }
}

fn moved(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}
