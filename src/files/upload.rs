//! A file on its way in: counted, hashed and written piece by piece, and seen by nobody before it is whole.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use otari_filters::files as names;
use ring::digest::{Context, SHA256};
use serde_json::Map;

use super::blobs::Draft;
use super::{Files, FilesError, Shelf, media_type};
use crate::clock;
use crate::store::{FileRow, StoreError};

/// For the last part, and for putting all of it in its place. Shorter than the keeper's patience with a file that began.
const FINISH: Duration = Duration::from_secs(300);

/// What a new file is.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Whose it is; must exist.
    pub user_id: &'a str,
    /// As its owner calls it; `None`: by its id. Checked by `otari_filters::files::name`.
    pub filename: Option<&'a str>,
    /// What it is declared to be; `None` or bytes: guessed by its name.
    pub mime_type: Option<&'a str>,
    /// What it is for; any text.
    pub purpose: &'a str,
    /// Shorter than the configured time, if it is. `None`: the configured time.
    pub expires_after: Option<Duration>,
}

/// A file on its way in.
pub struct Upload<'a> {
    files: &'a Files,
    shelf: &'a Shelf,
    id: String,
    draft: Draft,
    hash: Context,
    bytes: u64,
}

impl<'a> Upload<'a> {
    pub(super) async fn begin(files: &'a Files, shelf: &'a Shelf) -> Result<Self, FilesError> {
        Self::begin_as(files, shelf, names::id(*uuid::Uuid::new_v4().as_bytes())).await
    }

    pub(super) async fn begin_as(
        files: &'a Files,
        shelf: &'a Shelf,
        id: String,
    ) -> Result<Self, FilesError> {
        let draft = shelf.blobs.begin(&names::place(&id)).await.map_err(FilesError::storing)?;
        Ok(Self { files, shelf, id, draft, hash: Context::new(&SHA256), bytes: 0 })
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// `TooLarge`, `Failed`.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), FilesError> {
        let limit = self.shelf.max_bytes;
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        if self.bytes > limit {
            return Err(FilesError::TooLarge { limit });
        }
        self.hash.update(&piece);
        self.draft.write(piece).await.map_err(FilesError::storing)
    }

    /// Gives it up, and waits until nothing is left. Dropping it does the same in time.
    pub async fn discard(self) {
        self.draft.discard().await;
    }

    /// Makes a file of it. If that fails, nothing is left.
    ///
    /// # Errors
    /// `Empty`, `UserNotFound`, `Failed`.
    pub async fn finish(self, new: NewFile<'_>) -> Result<FileRow, FilesError> {
        if self.bytes == 0 {
            self.discard().await;
            return Err(FilesError::Empty);
        }
        let row = self.row(&new);
        match self.files.store.file_begin(&row).await {
            Ok(true) => {}
            Ok(false) => {
                self.discard().await;
                return Err(FilesError::UserNotFound(new.user_id.to_owned()));
            }
            Err(error) => {
                self.discard().await;
                return Err(FilesError::storing(error));
            }
        }
        let Self { files, shelf, mut draft, bytes, .. } = self;
        let finished = tokio::time::timeout(FINISH, draft.finish()).await;
        if let Err(cause) = finished.unwrap_or_else(|_| Err("it took too long".to_owned())) {
            draft.discard().await;
            // Perhaps it is in its place all the same, and only the answer was lost.
            if shelf.blobs.remove(&row.storage_ref).await.is_ok() {
                files.note_reclaimed(&row.id).await;
            }
            return Err(FilesError::storing(cause));
        }
        match files.store.file_finish(&row.id).await {
            Ok(true) => {}
            // Whether it is a file now is not known. If it is not, the keeper takes the bytes away.
            Err(error) => return Err(FilesError::storing(error)),
            Ok(false) => {
                let cause = StoreError::Conflict("the upload was given up".to_owned());
                return Err(FilesError::storing(cause));
            }
        }
        files.metrics.files.uploaded.inc_by(bytes);
        Ok(FileRow { deleted_at: None, ..row })
    }

    fn row(&self, new: &NewFile<'_>) -> FileRow {
        let now = clock::now();
        let life = match (new.expires_after, self.shelf.retention) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        let digest = self.hash.clone().finish();
        FileRow {
            id: self.id.clone(),
            user_id: new.user_id.to_owned(),
            filename: new.filename.unwrap_or(&self.id).to_owned(),
            mime_type: media_type(new.mime_type, new.filename),
            bytes: i64::try_from(self.bytes).unwrap_or(i64::MAX),
            purpose: new.purpose.to_owned(),
            storage_ref: names::place(&self.id),
            created_at: now,
            expires_at: life.map(|life| after(now, life)),
            // Until the bytes are in their place.
            deleted_at: Some(now),
            metadata: Map::new(),
            sha256: Some(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

fn after(now: Timestamp, life: Duration) -> Timestamp {
    let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
    now.checked_add(life).unwrap_or(Timestamp::MAX)
}
