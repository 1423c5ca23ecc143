//! Where bytes lie: a folder or a bucket, behind one small interface. Failures are texts for the log.

use std::ops::Range;

use bytes::Bytes;

use super::{FilesError, local, s3};

/// Where the bytes of files are.
pub(super) enum Blobs {
    Local(local::Folder),
    S3(s3::Bucket),
}

/// Bytes on their way there. Dropped before `finish`, nothing is left of them.
pub(super) enum Draft {
    Local(local::Draft),
    S3(Box<s3::Draft>),
}

/// What became of bytes that were to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// They are gone.
    Now,
    /// They were not there.
    Missing,
}

impl Blobs {
    /// Makes room for the bytes that will be at `place`.
    pub(super) async fn begin(&self, place: &str) -> Result<Draft, String> {
        Ok(match self {
            Self::Local(folder) => Draft::Local(folder.begin(place).await?),
            Self::S3(bucket) => Draft::S3(Box::new(bucket.begin(place)?)),
        })
    }

    /// Opens a part of what is at `place`, which is to have `length` bytes.
    pub(super) async fn open(
        &self,
        place: &str,
        part: Range<u64>,
        length: u64,
    ) -> Result<Reading, String> {
        let left = part.end.saturating_sub(part.start);
        let from = match self {
            Self::Local(folder) => From::Local(folder.open(place, part.start, length).await?),
            Self::S3(bucket) => From::S3(bucket.open(place, part, length).await?),
        };
        Ok(Reading { from, left, place: place.to_owned() })
    }

    pub(super) async fn remove(&self, place: &str) -> Result<Removed, String> {
        match self {
            Self::Local(folder) => folder.remove(place).await,
            Self::S3(bucket) => bucket.remove(place).await,
        }
    }

    /// Removes what uploads of processes that are gone have left.
    pub(super) async fn tidy(&self) {
        match self {
            Self::Local(folder) => folder.tidy().await,
            Self::S3(bucket) => bucket.tidy().await,
        }
    }
}

impl Draft {
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<(), String> {
        match self {
            Self::Local(draft) => draft.write(&piece).await,
            Self::S3(draft) => draft.write(piece).await,
        }
    }

    /// Puts all of it in its place, safe from a loss of power.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        match self {
            Self::Local(draft) => draft.finish().await,
            Self::S3(draft) => draft.finish().await,
        }
    }

    /// As dropping it, and waits for it.
    pub(super) async fn discard(self) {
        match self {
            Self::Local(draft) => drop(draft),
            Self::S3(draft) => draft.discard().await,
        }
    }
}

/// Bytes of a file on their way to a caller.
pub struct Reading {
    from: From,
    /// Bytes that are still to come.
    left: u64,
    place: String,
}

enum From {
    Local(local::Pieces),
    S3(s3::Pieces),
}

impl Reading {
    /// The next piece, at most a megabyte of a folder and what comes at once from a bucket; `None` at the end.
    ///
    /// # Errors
    /// `Failed`, also when they end too early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FilesError> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = match &mut self.from {
            From::Local(pieces) => pieces.next().await,
            From::S3(pieces) => pieces.next().await,
        };
        let piece = piece.and_then(|piece| piece.ok_or_else(|| "it ends too early".to_owned()));
        let mut piece = piece.map_err(|cause| FilesError::reading(&self.place, cause))?;
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        piece.truncate(left);
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }
}
