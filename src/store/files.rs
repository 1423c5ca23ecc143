//! What a store knows of the files that callers upload. Their bytes are elsewhere.
//!
//! A row is there before its bytes: it begins as a dropped one, and is taken up once the bytes are in their place. So
//! whatever a crash leaves behind has a row that says where it is.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::StoreError;

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRow {
    /// `file-` and 32 hexadecimal digits.
    pub id: String,
    /// Whose it is.
    pub user_id: String,
    /// As the caller calls it.
    pub filename: String,
    /// Media type.
    pub mime_type: String,
    /// Length.
    pub bytes: i64,
    /// What it is for, any text.
    pub purpose: String,
    /// Where its bytes are, within whatever keeps them.
    pub storage_ref: String,
    /// Upload.
    pub created_at: Timestamp,
    /// `None`: it is kept.
    pub expires_at: Option<Timestamp>,
    /// Soft deletion.
    pub deleted_at: Option<Timestamp>,
    /// Not used.
    pub metadata: Map<String, Value>,
    /// SHA-256 of its bytes, lower-case hexadecimal; `None` for files of the reference.
    pub sha256: Option<String>,
}

/// Which files of a user are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct FileFilter {
    /// Whose.
    pub user_id: String,
    /// Only those for this.
    pub purpose: Option<String>,
    /// Only those behind this one, in the order of the list: creation and id.
    pub after: Option<(Timestamp, String)>,
    /// Oldest first; otherwise newest first. Ties by id.
    pub oldest_first: bool,
    /// So many at most, 1 to 10001.
    pub limit: i64,
}

/// Whose bytes are to be removed now.
#[derive(Clone, Copy, Debug)]
pub struct FilesDue {
    /// Now.
    pub now: Timestamp,
    /// Those that were dropped before this.
    pub dropped_before: Timestamp,
    /// Nobody else takes them until then.
    pub claim_until: Timestamp,
    /// So many at most.
    pub at_most: i64,
}

/// The part of a store that knows files.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// Inserts a file as it is; `deleted_at` is set, because the bytes are not in their place yet. `false`, and nothing
    /// inserted, when there is no such live user. `Conflict` when the id exists.
    async fn file_begin(&self, file: &FileRow) -> Result<bool, StoreError>;
    /// Takes a begun file up: its bytes are in their place. `false` when its bytes were taken away in the meantime.
    async fn file_finish(&self, id: &str) -> Result<bool, StoreError>;
    /// One file, expired and deleted ones included.
    async fn file_find(&self, id: &str) -> Result<Option<FileRow>, StoreError>;
    /// Files that are not deleted, expired ones included.
    async fn file_list(&self, filter: &FileFilter) -> Result<Vec<FileRow>, StoreError>;
    /// Marks a file as deleted. `false` when it is already, or unknown.
    async fn file_delete(&self, id: &str, at: Timestamp) -> Result<bool, StoreError>;
    /// Claims files whose bytes are to be removed: deleted ones and expired ones. No two calls get the same one until the
    /// claim ends.
    async fn file_claim(&self, due: FilesDue) -> Result<Vec<FileRow>, StoreError>;
    /// Puts off the removal of a file's bytes.
    async fn file_put_off(&self, id: &str, until: Timestamp) -> Result<(), StoreError>;
    /// Notes that a file's bytes are removed, and with them the file.
    async fn file_reclaimed(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;
}
