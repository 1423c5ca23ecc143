//! Files that callers upload: whose they are, where their bytes lie, when both go. Requests reach them through
//! `proxy/files.rs` and `api/files.rs`; what else the gateway does with files (attachments, batches) calls
//! [`Files::read`] and [`Files::put`].

mod blobs;
mod failure;
mod keeper;
mod local;
mod s3;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use crate::clock;
use crate::config::{Config, FilesBackend};
use crate::credentials::Credentials;
use crate::store::{FileFilter, FileRow, Store};
use crate::telemetry::metrics::Metrics;
pub use blobs::Reading;
use blobs::{Blobs, Removed};
pub use failure::FilesError;
pub use keeper::began_long_ago;
pub use upload::{NewFile, Upload};

/// What a deletion waits for the bytes to go; after that they are the keeper's business.
const REMOVE: Duration = Duration::from_secs(10);

/// All files of a gateway.
pub struct Files {
    /// `None`: uploads are off.
    shelf: Option<Shelf>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

/// Where uploads go, and the rules for them.
struct Shelf {
    blobs: Blobs,
    max_bytes: u64,
    retention: Option<Duration>,
}

/// A file as a whole.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// As the caller calls it.
    pub filename: String,
    /// Media type.
    pub mime_type: String,
    /// All of it.
    pub bytes: Bytes,
}

/// A page of a user's files.
#[derive(Debug)]
pub struct Listed {
    /// In the order asked for.
    pub files: Vec<FileRow>,
    /// Whether there are others behind them.
    pub has_more: bool,
}

impl Files {
    /// The files of this configuration. Opens nothing: a folder is made for the first upload.
    ///
    /// # Errors
    /// What is wrong with the bucket's settings, and what to do.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        credentials: &Credentials,
    ) -> Result<Self, String> {
        let shelf = match &config.files {
            None => None,
            Some(files) => {
                let blobs = match &files.backend {
                    FilesBackend::Local { dir } => Blobs::Local(local::Folder::new(dir)),
                    FilesBackend::S3(s3) => {
                        let ambient = config.ambient.as_ref();
                        let region = ambient.and_then(|ambient| ambient.aws.region.as_deref());
                        let bucket = s3::Bucket::new(s3, region, credentials, files.max_bytes)?;
                        Blobs::S3(bucket)
                    }
                };
                let (max_bytes, retention) = (files.max_bytes, files.retention);
                Some(Shelf { blobs, max_bytes, retention })
            }
        };
        Ok(Self { shelf, store, metrics })
    }

    fn shelf(&self) -> Result<&Shelf, FilesError> {
        self.shelf.as_ref().ok_or(FilesError::Disabled)
    }

    /// Largest file, in bytes.
    ///
    /// # Errors
    /// `Disabled`.
    pub fn max_bytes(&self) -> Result<u64, FilesError> {
        Ok(self.shelf()?.max_bytes)
    }

    /// Begins an upload. Nothing of it is seen before [`Upload::finish`], and nothing is left of one that is dropped.
    ///
    /// # Errors
    /// `Disabled`, `Failed`.
    pub async fn begin(&self) -> Result<Upload<'_>, FilesError> {
        Upload::begin(self, self.shelf()?).await
    }

    /// The same under a name of the gateway's own; [`Upload::finish`] fails where that is taken.
    ///
    /// # Errors
    /// `Disabled`, `Failed`.
    pub async fn begin_as(&self, id: &str) -> Result<Upload<'_>, FilesError> {
        Upload::begin_as(self, self.shelf()?, id.to_owned()).await
    }

    /// What is known of a file, whatever became of it.
    ///
    /// # Errors
    /// `Disabled`, `Store`.
    pub async fn known(&self, id: &str) -> Result<Option<FileRow>, FilesError> {
        self.shelf()?;
        Ok(self.store.file_find(id).await?)
    }

    /// Keeps a file of the gateway's own making.
    ///
    /// # Errors
    /// Those of an upload.
    pub async fn put(&self, new: NewFile<'_>, bytes: Bytes) -> Result<FileRow, FilesError> {
        let mut upload = self.begin().await?;
        upload.write(bytes).await?;
        upload.finish(new).await
    }

    /// A user's file, whole. `user`: whose it must be; `None`: anybody's. `None` when it is unknown, another user's,
    /// deleted or expired; and when uploads are off.
    ///
    /// # Errors
    /// `TooLarge` when it has more than `max_bytes`; `Failed`, `Store`.
    pub async fn read(
        &self,
        user: Option<&str>,
        id: &str,
        max_bytes: usize,
    ) -> Result<Option<StoredFile>, FilesError> {
        if self.shelf.is_none() {
            return Ok(None);
        }
        let Some(file) = self.find(user, id).await? else { return Ok(None) };
        let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
        let length = u64::try_from(file.bytes).unwrap_or(0);
        if length > limit {
            return Err(FilesError::TooLarge { limit });
        }
        let mut reading = self.open(&file, 0..length).await?;
        let mut all = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = reading.next().await? {
            all.extend_from_slice(&piece);
        }
        let (filename, mime_type) = (file.filename, file.mime_type);
        Ok(Some(StoredFile { filename, mime_type, bytes: all.freeze() }))
    }

    /// What is known of a file. `None` as for [`Files::read`].
    ///
    /// # Errors
    /// `Disabled`, `Store`.
    pub async fn find(&self, user: Option<&str>, id: &str) -> Result<Option<FileRow>, FilesError> {
        self.shelf()?;
        // A NUL is no part of any id, and PostgreSQL does not take one.
        if id.contains('\0') {
            return Ok(None);
        }
        let now = clock::now();
        let file = self.store.file_find(id).await?;
        Ok(file.filter(|file| is_live(file, now) && user.is_none_or(|user| file.user_id == user)))
    }

    /// A user's files, expired ones included until they are removed. `None` when `after` is not one of them.
    ///
    /// # Errors
    /// `Disabled`, `Store`.
    pub async fn list(
        &self,
        mut filter: FileFilter,
        after: Option<&str>,
    ) -> Result<Option<Listed>, FilesError> {
        self.shelf()?;
        if let Some(after) = after {
            let found = match after.contains('\0') {
                true => None,
                // A deleted one still says where the next page begins.
                false => self.store.file_find(after).await?,
            };
            let Some(found) = found.filter(|file| file.user_id == filter.user_id) else {
                return Ok(None);
            };
            filter.after = Some((found.created_at, found.id));
        }
        let limit = usize::try_from(filter.limit).unwrap_or(1);
        filter.limit += 1;
        let mut files = self.store.file_list(&filter).await?;
        let has_more = files.len() > limit;
        files.truncate(limit);
        Ok(Some(Listed { files, has_more }))
    }

    /// Opens a part of a file's bytes.
    ///
    /// # Errors
    /// `Disabled`; `Failed` also when the bytes are gone, or are not as many as there should be.
    pub async fn open(&self, file: &FileRow, part: Range<u64>) -> Result<Reading, FilesError> {
        let length = u64::try_from(file.bytes).unwrap_or(0);
        let opened = self.shelf()?.blobs.open(&file.storage_ref, part, length).await;
        opened.map_err(|cause| FilesError::reading(&file.id, cause))
    }

    /// Deletes a file and its bytes. `false` when there is none, as for [`Files::read`].
    ///
    /// # Errors
    /// `Disabled`, `Store`. Bytes that cannot be removed now are removed later.
    pub async fn delete(&self, user: Option<&str>, id: &str) -> Result<bool, FilesError> {
        let Some(file) = self.find(user, id).await? else { return Ok(false) };
        if !self.store.file_delete(id, clock::now()).await.map_err(FilesError::deleting)? {
            return Ok(false);
        }
        let shelf = self.shelf()?;
        let removed = tokio::time::timeout(REMOVE, shelf.blobs.remove(&file.storage_ref)).await;
        match removed {
            Ok(Ok(removed)) if self.is_final(removed) => self.note_reclaimed(id).await,
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => {
                tracing::warn!(file.id = id, %cause, "the bytes of a deleted file could not be removed; it is tried again");
            }
            Err(_) => {
                tracing::warn!(
                    file.id = id,
                    "removing the bytes of a deleted file takes long; it is tried again"
                );
            }
        }
        Ok(true)
    }

    /// Whether nothing of a file is left anywhere. Of gateways that share a database and not the folder, another one may
    /// have what this one does not find.
    fn is_final(&self, removed: Removed) -> bool {
        let own_folder = matches!(&self.shelf, Some(Shelf { blobs: Blobs::Local(_), .. }))
            && self.store.shared().is_some_and(|shared| !shared.is_on_one_machine());
        removed == Removed::Now || !own_folder
    }

    /// Notes that the bytes of a file are gone; if that fails, they are looked for again, and not found.
    async fn note_reclaimed(&self, id: &str) {
        self.metrics.files.reclaimed.inc();
        if let Err(error) = self.store.file_reclaimed(id, clock::now()).await {
            tracing::warn!(file.id = id, %error, "the removal of a file's bytes could not be noted; it is tried again");
        }
    }

    /// Bytes that went to a caller.
    pub fn sent(&self, bytes: u64) {
        self.metrics.files.downloaded.inc_by(bytes);
    }
}

/// Neither deleted nor expired.
fn is_live(file: &FileRow, now: Timestamp) -> bool {
    file.deleted_at.is_none() && file.expires_at.is_none_or(|end| end > now)
}

/// The entity tag of a file, with its quotation marks; `None` for files of the reference, whose digest is not known.
pub fn etag(file: &FileRow) -> Option<String> {
    file.sha256.as_ref().map(|sha256| format!("\"{sha256}\""))
}

/// The media type of a file: the declared one, unless it says nothing; else by the name; else bytes.
fn media_type(declared: Option<&str>, filename: Option<&str>) -> String {
    const BYTES: &str = "application/octet-stream";
    /// Types with their parameters are shorter, and this goes into a header.
    const LONGEST: usize = 255;
    let fits = |kind: &&str| {
        kind.len() <= LONGEST
            && kind.contains('/')
            && kind.bytes().all(|b| (b' '..=b'~').contains(&b))
    };
    let declared = declared.map(str::trim).filter(fits).filter(|kind| *kind != BYTES);
    let guessed = || filename.and_then(|name| mime_guess::from_path(name).first_raw());
    declared.or_else(guessed).unwrap_or(BYTES).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_declared_guessed_or_bytes() {
        for (declared, name, kind) in [
            (Some("text/x-own; a=b"), Some("a.pdf"), "text/x-own; a=b"),
            (Some("application/octet-stream"), Some("A.PDF"), "application/pdf"),
            (None, Some("notes.txt"), "text/plain"),
            (Some("no type"), Some("a.json"), "application/json"),
            (Some("a/b\r\nx: y"), None, "application/octet-stream"),
            (None, Some("Makefile"), "application/octet-stream"),
            (Some(""), None, "application/octet-stream"),
        ] {
            assert_eq!(media_type(declared, name), kind, "{declared:?} {name:?}");
        }
    }
}
