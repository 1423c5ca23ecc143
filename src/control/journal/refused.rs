//! What the disk or the store refused: kept in memory until the store has it, so that a full disk loses nothing while the process
//! lives.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use otari_filters::settle::Entry;
use parking_lot::Mutex;

use super::{Journal, PRIVATE};

/// Entries kept: some megabytes.
const MAX_KEPT: usize = 10_000;

/// Entries without a place in the journal, oldest first.
#[derive(Debug, Default)]
pub struct Refused(Mutex<VecDeque<Entry>>);

impl Refused {
    /// Keeps an entry. Says whether there was room for it.
    pub fn keep(&self, entry: Entry) -> bool {
        let mut kept = self.0.lock();
        let has_room = kept.len() < MAX_KEPT;
        if has_room {
            kept.push_back(entry);
        }
        has_room
    }

    /// The oldest of them, at most so many.
    pub fn first(&self, at_most: usize) -> Vec<Entry> {
        self.0.lock().iter().take(at_most).cloned().collect()
    }

    /// So many of the oldest are in the store.
    pub(super) fn forget(&self, applied: usize) {
        let mut kept = self.0.lock();
        let applied = applied.min(kept.len());
        kept.drain(..applied);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Journal {
    /// Keeps a record that the store will never take beside the journal, for a person to look at.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn reject(&self, entry: &Entry) -> io::Result<()> {
        let path = self.base.join("rejected.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).mode(PRIVATE).open(path)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_in_order_and_only_so_many() {
        let refused = Refused::default();
        let entry = |n: usize| Entry::Reported(n.to_string().into());
        let kept = (0..MAX_KEPT + 3).filter(|n| refused.keep(entry(*n))).count();
        assert_eq!((kept, refused.len()), (MAX_KEPT, MAX_KEPT));
        assert_eq!(refused.first(2), [entry(0), entry(1)]);
        refused.forget(2);
        assert_eq!(refused.first(1), [entry(2)]);
        refused.forget(MAX_KEPT);
        assert!(refused.is_empty());
    }
}
