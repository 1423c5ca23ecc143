//! A caller's file on its way to a provider: on disk and not in memory, and gone when the call is.
//!
//! It is received whole before it is sent on. Clients put the model, and who pays, behind the file in their forms, and no
//! provider is asked before every gate is passed; a failed attempt is followed by another, which sends it again; and
//! providers want to be told its length. What that costs is its own time on the way in, and no memory: pieces are written
//! as they come and read as they are sent.

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

/// A file that is being received, for this process's user alone. It has no name: whatever ends this process, it leaves
/// nothing behind.
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

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends a piece.
    pub(super) async fn push(&mut self, piece: Bytes) -> io::Result<()> {
        let (file, at, len) = (self.file.clone(), self.len, piece.len() as u64);
        blocking(move || file.write_all_at(&piece, at)).await?;
        self.len += len;
        Ok(())
    }

    /// It is here to its end.
    pub(super) fn finish(self) -> Spooled {
        Spooled { file: self.file, len: self.len }
    }
}

/// A file that has been received; can be read as often as need be.
#[derive(Clone, Debug)]
pub(super) struct Spooled {
    file: Arc<File>,
    len: u64,
}

impl Spooled {
    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
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
        let file = spool.finish();
        assert_eq!(file.len(), 5 + READ_BYTES as u64);
        for _ in 0..2 {
            assert_eq!(file.read(0).await.unwrap()[..5], *b"abcde");
        }
        assert_eq!(file.read(5).await.unwrap(), big);
        assert_eq!(file.read(file.len()).await.unwrap(), Bytes::new());
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0, "it has no name");
    }
}
