//! A caller's file on disk and not in memory, and gone when the call is.
//!
//! Pieces are written as they come, and read as often as an attempt is sent: what that costs is no memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::OFlags;
use tokio::task::spawn_blocking;

/// Read at once: few jumps to another thread, little memory.
pub(super) const READ_BYTES: usize = 256 << 10;

/// A file, for this process's user alone. It has no name: whatever ends this process, it leaves nothing behind.
pub(super) struct Spool {
    file: Arc<File>,
    len: u64,
}

impl Spool {
    /// An empty one in this folder, which is made where it is missing.
    pub(super) async fn new(folder: &Path) -> io::Result<Self> {
        let folder = folder.to_owned();
        blocking(move || {
            fs::create_dir_all(&folder)?;
            Ok(Self { file: Arc::new(nameless(&folder)?), len: 0 })
        })
        .await
    }

    /// Appends a piece. When that fails, nothing of it counts.
    pub(super) async fn push(&mut self, piece: Bytes) -> io::Result<()> {
        let (file, at, len) = (self.file.clone(), self.len, piece.len() as u64);
        blocking(move || file.write_all_at(&piece, at)).await?;
        self.len += len;
        Ok(())
    }

    /// At most [`READ_BYTES`] from here on; empty at the end.
    pub(super) async fn read(&self, at: u64) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(READ_BYTES);
        let (file, wanted) = (self.file.clone(), left.min(READ_BYTES));
        blocking(move || {
            let mut piece = vec![0; wanted];
            file.read_exact_at(&mut piece, at)?;
            Ok(piece.into())
        })
        .await
    }
}

/// Where the file system makes none without a name, the name goes at once: a kill in between leaves an empty file.
fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options.clone().custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(folder);
    if let Ok(file) = unnamed {
        return Ok(file);
    }
    let path = folder.join(uuid::Uuid::new_v4().to_string());
    let file = options.create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_as_it_came_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("spool");
        let mut spool = Spool::new(&inner).await.unwrap();
        for piece in [&b"ab"[..], b"", b"cde"] {
            spool.push(Bytes::from_static(piece)).await.unwrap();
        }
        let big = Bytes::from(vec![7; READ_BYTES]);
        spool.push(big.clone()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(spool.read(0).await.unwrap()[..5], *b"abcde");
        }
        assert_eq!(spool.read(5).await.unwrap(), big);
        assert_eq!(spool.read(5 + READ_BYTES as u64).await.unwrap(), Bytes::new());
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0, "it has no name");
    }
}
