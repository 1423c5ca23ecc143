//! Slots of the journal's folder: each process has one of its own, so that a new one can begin while the old one still
//! ends its calls. Which of them is in use is said by the lock of each; what a process left in its slot, by ending or by
//! dying, is brought on by whoever runs next, or runs beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Journal, JournalError, open_rw, segments};

/// Processes that end their calls at the same time, and the one that serves.
const SLOTS: usize = 16;

/// The first slot is the folder itself.
fn place(folder: &Path, number: usize) -> PathBuf {
    match number {
        0 => folder.to_owned(),
        number => folder.join(format!("slot-{number}")),
    }
}

/// The lock of a slot, which is made when missing; `None`: another process has it.
fn lock(place: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(place)?;
    let lock = open_rw(&place.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

impl Journal {
    /// Opens the folder, making it when missing. New records go to a new segment; older ones wait to be read.
    ///
    /// # Errors
    /// When any slot of it is in use, or the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { folder: folder.to_owned(), source };
        let in_use = || JournalError::InUse(folder.to_owned());
        let own = lock(folder).map_err(failed)?.ok_or_else(in_use)?;
        for number in 1..SLOTS {
            let place = place(folder, number);
            if place.is_dir() && lock(&place).map_err(failed)?.is_none() {
                return Err(in_use());
            }
        }
        Self::open_slot(folder, folder, own).map_err(failed)
    }

    /// Opens a slot of the folder that no process has, beside those of others: for whoever takes over from one of them.
    ///
    /// # Errors
    /// When all are in use, or the folder cannot be written.
    pub fn open_beside(folder: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { folder: folder.to_owned(), source };
        for number in 0..SLOTS {
            let place = place(folder, number);
            if let Some(own) = lock(&place).map_err(failed)? {
                return Self::open_slot(&place, folder, own).map_err(failed);
            }
        }
        Err(JournalError::InUse(folder.to_owned()))
    }

    /// What processes that are gone left in their slots, as journals that nobody writes to. Empty ones are left out.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn left(&self) -> io::Result<Vec<Self>> {
        let mut left = Vec::new();
        for number in 0..SLOTS {
            let place = place(&self.base, number);
            if place == self.folder || !place.is_dir() || segments(&place)?.is_empty() {
                continue;
            }
            if let Some(own) = lock(&place)? {
                left.push(Self::open_slot(&place, &self.base, own)?);
            }
        }
        Ok(left)
    }

    /// Bytes in the segments of the slot.
    pub fn bytes(&self) -> u64 {
        let numbers = segments(&self.folder).unwrap_or_default();
        let size = |number| fs::metadata(super::segment_path(&self.folder, number));
        numbers.into_iter().filter_map(|number| size(number).ok()).map(|about| about.len()).sum()
    }

    /// Takes the segments of a slot away: everything in them is where it belongs. Says whether that was so.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn discard(self) -> io::Result<bool> {
        if self.applied() < self.end() {
            return Ok(false);
        }
        for number in segments(&self.folder)? {
            fs::remove_file(super::segment_path(&self.folder, number))?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{entry, read_all};
    use super::*;

    #[test]
    fn whoever_takes_over_has_a_slot_of_their_own_and_brings_on_what_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let old = Journal::open(folder.path()).unwrap();
        old.append(&entry(1)).unwrap();
        let new = Journal::open_beside(folder.path()).unwrap();
        new.append(&entry(2)).unwrap();
        assert_eq!((read_all(&old), read_all(&new)), (vec![entry(1)], vec![entry(2)]));
        assert!(new.left().unwrap().is_empty(), "the old one lives");
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::InUse(_))));
        drop(old);
        assert!(
            matches!(Journal::open(folder.path()), Err(JournalError::InUse(_))),
            "the new one lives, in another slot"
        );

        let left = new.left().unwrap().pop().unwrap();
        assert_eq!(read_all(&left), [entry(1)]);
        assert!(Journal::open_beside(folder.path()).is_ok_and(|third| third.folder != left.folder));
        left.advance(left.end());
        assert!(left.discard().unwrap());
        assert!(new.left().unwrap().len() == 1, "the third one's empty segment");
        drop(new);
        let next = Journal::open(folder.path()).unwrap();
        assert!(read_all(&next).is_empty(), "what was applied is gone");
        let left = next.left().unwrap();
        assert_eq!(left.iter().map(read_all).filter(|all| !all.is_empty()).count(), 1);
    }

    #[test]
    fn what_is_not_applied_is_not_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let new = {
            let _old = Journal::open(folder.path()).unwrap();
            _old.append(&entry(1)).unwrap();
            Journal::open_beside(folder.path()).unwrap()
        };
        assert!(!new.left().unwrap().remove(0).discard().unwrap());
        assert_eq!(read_all(&new.left().unwrap()[0]), [entry(1)]);
    }
}
