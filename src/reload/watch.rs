//! Whether files are as they were: by what the file system says of them, without reading them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// What the file system says of one file; `None`: there is none. A mount that is swapped, as Kubernetes does it, has
/// another inode behind the same name.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The files that are looked at.
pub(super) struct Watch {
    files: Vec<(PathBuf, Stamp)>,
    /// What was seen last, when it was not what is known.
    moving: Option<Vec<Stamp>>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing new.
    Same,
    /// Something is different, and may be in the middle of being written.
    Moving,
    /// Something is different, and has stayed so since the last look.
    Changed,
}

impl Watch {
    /// From now on.
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        let files = files.into_iter().map(|file| (stamp(&file), file));
        Self { files: files.map(|(stamp, file)| (file, stamp)).collect(), moving: None }
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Seen {
        let now: Vec<Stamp> = self.files.iter().map(|(file, _)| stamp(file)).collect();
        if now.iter().eq(self.files.iter().map(|(_, known)| known)) {
            self.moving = None;
            return Seen::Same;
        }
        if self.moving.as_ref() == Some(&now) {
            return Seen::Changed;
        }
        self.moving = Some(now);
        Seen::Moving
    }

    /// What is there now is known.
    pub(super) fn note(&mut self) {
        self.moving = None;
        for (file, known) in &mut self.files {
            *known = stamp(file);
        }
    }

    /// Looks at these files from now on. What is known of those that stay is kept.
    pub(super) fn follow(&mut self, files: Vec<PathBuf>) {
        let known = std::mem::take(&mut self.files);
        let entry = |file: PathBuf| {
            let stamp = known.iter().find(|(path, _)| *path == file).map(|(_, stamp)| *stamp);
            (stamp.unwrap_or_else(|| self::stamp(&file)), file)
        };
        self.files = files.into_iter().map(entry).map(|(stamp, file)| (file, stamp)).collect();
    }
}

fn stamp(file: &PathBuf) -> Stamp {
    let about = fs::metadata(file).ok()?;
    let (mtime, ctime) = (about.mtime(), about.ctime());
    let nanos = (about.mtime_nsec(), about.ctime_nsec());
    Some((about.dev(), about.ino(), about.len(), mtime, nanos.0, ctime, nanos.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (file, absent) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(vec![file.clone(), absent.clone()]);
        assert_eq!(watch.look(), Seen::Same);
        fs::write(&file, "12").unwrap();
        assert_eq!(watch.look(), Seen::Moving);
        fs::write(&file, "123").unwrap();
        assert_eq!([watch.look(), watch.look()], [Seen::Moving, Seen::Changed]);
        watch.note();
        assert_eq!(watch.look(), Seen::Same);
        fs::write(&absent, "").unwrap();
        assert_eq!([watch.look(), watch.look()], [Seen::Moving, Seen::Changed]);
        watch.note();
        fs::write(&file, "1234").unwrap();
        watch.follow(vec![file]);
        assert_eq!(watch.look(), Seen::Moving, "what changed meanwhile is not lost");
    }
}
