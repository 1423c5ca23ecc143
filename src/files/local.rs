//! A folder of files: `<first two digits of the id>/<id>`, as the reference gateway lays them out. An upload is written
//! beside them and moved there once all of it is on the disk.

use std::io::{Error, ErrorKind, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use otari_filters::files;
use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::blobs::Removed;
use crate::clock;

/// Uploads under way. No id has a dot, so that no file's folder is called so.
const UPLOADS: &str = ".uploads";
/// An upload that was not written to for so long has no process any more: a caller who is silent for a minute is cut.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Uploads that one look removes; the next one goes on.
const AT_ONCE: usize = 10_000;
/// Read from the disk at once: what a slow caller keeps in memory.
const PIECE: usize = 256 << 10;

/// The folder.
pub(super) struct Folder(PathBuf);

/// An upload.
pub(super) struct Draft {
    root: PathBuf,
    aside: PathBuf,
    target: PathBuf,
    file: File,
    /// It is not in its place: its bytes go with it.
    is_loose: bool,
}

/// A file that is read.
pub(super) struct Pieces(File);

impl Folder {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub(super) async fn begin(&self, place: &str) -> Result<Draft, String> {
        let target = self.path(place)?;
        let uploads = self.0.join(UPLOADS);
        folder(&uploads).await?;
        // Whatever the file is called: what a process that died has left must not be in the way of the next.
        let aside = uploads.join(uuid::Uuid::new_v4().to_string());
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).await;
        let file = opened.map_err(|error| said("make", &aside, &error))?;
        Ok(Draft { root: self.0.clone(), aside, target, file, is_loose: true })
    }

    pub(super) async fn open(
        &self,
        place: &str,
        start: u64,
        length: u64,
    ) -> Result<Pieces, String> {
        let path = self.existing(place).await?;
        let failed = |error: Error| said("read", &path, &error);
        let mut file = File::open(&path).await.map_err(failed)?;
        let is = file.metadata().await.map_err(failed)?.len();
        if is != length {
            return Err(format!("{} has {is} bytes and not {length}", path.display()));
        }
        if start > 0 {
            file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
        }
        file.set_max_buf_size(PIECE);
        Ok(Pieces(file))
    }

    pub(super) async fn remove(&self, place: &str) -> Result<Removed, String> {
        let path = self.path(place)?;
        if !self.holds(&path).await? {
            return Ok(Removed::Missing);
        }
        match fs::remove_file(&path).await {
            Ok(()) => Ok(Removed::Now),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Removed::Missing),
            Err(error) => Err(said("remove", &path, &error)),
        }
    }

    /// Removes uploads whose process is gone.
    pub(super) async fn tidy(&self) {
        let Ok(mut entries) = fs::read_dir(self.0.join(UPLOADS)).await else { return };
        let mut removed = 0_u64;
        for _ in 0..AT_ONCE {
            let Ok(Some(entry)) = entries.next_entry().await else { break };
            let written = entry.metadata().await.ok().filter(|data| data.is_file());
            let written = written.and_then(|data| data.modified().ok());
            if written.is_some_and(|at| clock::is_past(at, ABANDONED))
                && fs::remove_file(entry.path()).await.is_ok()
            {
                removed += 1;
            }
        }
        if removed > 0 {
            tracing::info!(files = removed, "uploads that an earlier run did not end were removed");
        }
    }

    /// Where a file is that the database knows under `place`.
    fn path(&self, place: &str) -> Result<PathBuf, String> {
        if !files::is_within(place) {
            return Err(format!("{place:?} leads out of the folder of files"));
        }
        Ok(self.0.join(place))
    }

    /// As `path`, of a file that is there.
    async fn existing(&self, place: &str) -> Result<PathBuf, String> {
        let path = self.path(place)?;
        if !self.holds(&path).await? {
            return Err(format!("{} does not exist", path.display()));
        }
        Ok(path)
    }

    /// Whether there is a file at this path. A link that leads out of the folder is refused.
    async fn holds(&self, path: &Path) -> Result<bool, String> {
        let real = match fs::canonicalize(path).await {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(said("find", path, &error)),
        };
        let root =
            fs::canonicalize(&self.0).await.map_err(|error| said("find", &self.0, &error))?;
        if !real.starts_with(&root) {
            return Err(format!("{} leads out of the folder of files", path.display()));
        }
        Ok(true)
    }
}

impl Draft {
    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.file.write_all(piece).await.map_err(|error| said("write", &self.aside, &error))
    }

    pub(super) async fn finish(&mut self) -> Result<(), String> {
        let failed = |error: Error| said("write", &self.aside, &error);
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        let parent = self.target.parent().unwrap_or(&self.root);
        folder(parent).await?;
        fs::rename(&self.aside, &self.target)
            .await
            .map_err(|error| said("make", &self.target, &error))?;
        self.is_loose = false;
        // The names have to be on the disk too, also that of a folder that is new.
        for dir in [parent, &self.root] {
            let synced = async { File::open(dir).await?.sync_all().await };
            synced.await.map_err(|error| said("write", dir, &error))?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_loose {
            // A name is taken off, which takes no time; `tidy` comes for it if that fails.
            let _ = std::fs::remove_file(&self.aside);
        }
    }
}

impl Pieces {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = self.0.read_buf(&mut piece).await.map_err(|error| error.to_string())?;
        Ok((read > 0).then(|| piece.freeze()))
    }
}

/// Makes a folder that only its owner can look into, and those above it.
async fn folder(dir: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir).await;
    made.map_err(|error| {
        format!(
            "{}. Set files_local_dir to a folder that can be written to",
            said("make", dir, &error)
        )
    })
}

fn said(verb: &str, path: &Path, error: &Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const PLACE: &str = "ab/file-ab";

    async fn written(folder: &Folder, place: &str, bytes: &[u8]) {
        let mut draft = folder.begin(place).await.unwrap();
        draft.write(bytes).await.unwrap();
        draft.finish().await.unwrap();
    }

    fn all(root: &Path) -> usize {
        let uploads = root.join(UPLOADS).read_dir().map_or(0, Iterator::count);
        uploads + root.join("ab").read_dir().map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn bytes_come_back_from_a_private_place() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/files");
        let folder = Folder::new(&root);
        written(&folder, PLACE, b"0123456789").await;
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&root.join("ab")), mode(&root.join(PLACE))), (0o700, 0o600));
        let mut pieces = folder.open(PLACE, 3, 10).await.unwrap();
        assert_eq!(pieces.next().await.unwrap().unwrap(), "3456789");
        assert_eq!(pieces.next().await.unwrap(), None);
        let Err(text) = folder.open(PLACE, 0, 9).await else { panic!("another length") };
        assert!(text.contains("has 10 bytes and not 9"), "{text}");
        assert_eq!(folder.remove(PLACE).await, Ok(Removed::Now));
        assert_eq!(folder.remove(PLACE).await, Ok(Removed::Missing));
        assert!(folder.open(PLACE, 0, 10).await.is_err());
        assert_eq!(all(&root), 0);
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::new(temp.path());
        let mut draft = folder.begin(PLACE).await.unwrap();
        draft.write(&[0; 300_000]).await.unwrap();
        assert_eq!(all(temp.path()), 1);
        drop(draft);
        assert_eq!(all(temp.path()), 0);
    }

    #[tokio::test]
    async fn nothing_leads_out_of_the_folder() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("files");
        let folder = Folder::new(&root);
        std::fs::write(temp.path().join("secret"), "s").unwrap();
        written(&folder, PLACE, b"0").await;
        for place in ["../secret", "/etc/hostname", "ab/../../secret"] {
            assert!(folder.open(place, 0, 1).await.is_err(), "{place}");
            assert!(folder.remove(place).await.is_err(), "{place}");
            assert!(folder.begin(place).await.is_err(), "{place}");
        }
        std::os::unix::fs::symlink(temp.path(), root.join("cd")).unwrap();
        let Err(text) = folder.open("cd/secret", 0, 1).await else { panic!("followed a link") };
        assert!(text.contains("leads out"), "{text}");
        assert!(folder.remove("cd/secret").await.is_err());
        assert!(temp.path().join("secret").exists());
    }

    #[tokio::test]
    async fn uploads_of_dead_processes_go_and_young_ones_stay() {
        let temp = tempfile::tempdir().unwrap();
        let uploads = temp.path().join(UPLOADS);
        std::fs::create_dir(&uploads).unwrap();
        for (name, age) in [("old", 2), ("young", 0)] {
            let file = std::fs::File::create(uploads.join(name)).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - ABANDONED * age).unwrap();
        }
        Folder::new(temp.path()).tidy().await;
        assert!(!uploads.join("old").exists() && uploads.join("young").exists());
    }
}
