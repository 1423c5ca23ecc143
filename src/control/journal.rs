//! The append-only record of finished attempts: durable against the end of this process before the caller sees the
//! last byte, applied to the store later, replayed at start.
//!
//! A folder of numbered segments, of which each process has one (`slots`). A record is one frame: length, CRC-32, JSON,
//! padded to 32 bytes. Writers claim their place with one atomic addition and write it with one `pwrite`: no lock, and no
//! order between them is needed, because applying records commutes. A place that was claimed and never written (the
//! process died in between, or the disk refused) reads as zeros; it is skipped once no writer can still be about to fill
//! it.

mod frames;
mod fresh;
mod refused;
mod slots;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use otari_filters::settle::Entry;
use parking_lot::Mutex;
use tokio::sync::Notify;

use frames::{Scan, frame};
pub use fresh::Fresh;
pub use refused::Refused;

/// A segment is closed when the next record would pass this size; closed and applied segments are deleted.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How much is read at once; larger than any frame.
const READ_BYTES: usize = 2 << 20;
/// Who calls which model is nobody else's business.
const PRIVATE: u32 = 0o600;
/// Name of the file that says how far records have been applied.
const CURSOR: &str = "applied";

/// A place in the journal: everything before it has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Byte within it.
    pub offset: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte.
    pub at: Position,
    /// Bytes it takes.
    pub size: u64,
}

/// What one read found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records in the order of their places.
    pub entries: Vec<Entry>,
    /// Where each of them begins.
    pub places: Vec<Position>,
    /// Where the next read begins.
    pub next: Position,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process appends to the same folder.
    #[error(
        "the journal folder {0} is in use by another otari process; stop it, or set journal_dir to another folder"
    )]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("cannot use the journal folder {folder}: {source}")]
    Io {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    /// End of the last claimed place; passes `SEGMENT_BYTES` when the segment is full.
    claimed: AtomicU64,
}

/// How far records have been applied.
#[derive(Debug)]
struct Applied {
    position: Position,
    /// The disk has it.
    is_noted: bool,
}

/// The journal of one process.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    /// The folder of all slots.
    base: PathBuf,
    current: ArcSwap<Segment>,
    rotation: Mutex<()>,
    cursor: File,
    applied: Mutex<Applied>,
    /// Records appended by this process and not yet read back.
    pending: AtomicU64,
    /// What the disk refused, until the store has it.
    pub refused: Refused,
    /// What was written last, for the writer of this process.
    pub fresh: Fresh,
    /// Appends under way: from before a place is claimed until it has been written.
    writing: AtomicU64,
    /// Woken when records should be applied sooner than the timer would.
    pub hurry: Notify,
    /// Woken whenever `applied` has moved.
    moved: Notify,
    /// Bytes that processes that are gone left in other slots, and that still wait.
    pub left_bytes: AtomicU64,
    /// Held for the life of the process.
    _lock: File,
}

impl Journal {
    /// Opens a slot whose lock this process has. New records go to a new segment; older ones wait to be read.
    fn open_slot(folder: &Path, base: &Path, lock: File) -> io::Result<Self> {
        let cursor = open_rw(&folder.join(CURSOR))?;
        let applied = read_cursor(&cursor);
        let numbers = segments(folder)?;
        let first = numbers.first().copied();
        let number = numbers.last().map_or(applied.segment, |last| last.max(&applied.segment) + 1);
        let segment = create_segment(folder, number)?;
        // The cursor may name a segment that is gone, because it was applied whole.
        let start = match first {
            Some(first) if first > applied.segment => Position { segment: first, offset: 0 },
            Some(_) => applied,
            None => Position { segment: number, offset: 0 },
        };
        Ok(Self {
            folder: folder.to_owned(),
            base: base.to_owned(),
            current: ArcSwap::from_pointee(segment),
            rotation: Mutex::new(()),
            cursor,
            applied: Mutex::new(Applied { position: start, is_noted: true }),
            pending: AtomicU64::new(0),
            refused: Refused::default(),
            fresh: Fresh::default(),
            writing: AtomicU64::new(0),
            hurry: Notify::new(),
            moved: Notify::new(),
            left_bytes: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// The folder of its slot.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends a record. When this returns, the record survives the end of the process. Says where it stands.
    ///
    /// # Errors
    /// When the disk refuses it, or the record is absurdly long.
    pub fn append(&self, entry: &Entry) -> io::Result<Place> {
        let mut place = Place { at: Position::default(), size: 0 };
        self.append_all(std::slice::from_ref(entry), |at, size| place = Place { at, size })?;
        Ok(place)
    }

    /// Appends records with one write. `claimed` is told where they will begin and how many bytes they take, before
    /// anybody can read them there. Every one of them survives the end of the process when this returns, or none.
    ///
    /// # Errors
    /// When the disk refuses them, or they are absurdly long.
    pub fn append_all(
        &self,
        entries: &[Entry],
        claimed: impl FnOnce(Position, u64),
    ) -> io::Result<()> {
        let mut frames = Vec::with_capacity(1024);
        entries.iter().try_for_each(|entry| frame(entry, &mut frames))?;
        self.writing.fetch_add(1, Ordering::SeqCst);
        let written = self.place(&frames, claimed);
        self.writing.fetch_sub(1, Ordering::SeqCst);
        written
    }

    fn place(&self, frame: &[u8], claimed: impl FnOnce(Position, u64)) -> io::Result<()> {
        let size = frame.len() as u64;
        // Each failed try means that another thread rotated or that we do: a handful at most.
        for _ in 0..100 {
            let segment = self.current.load();
            let at = segment.claimed.fetch_add(size, Ordering::SeqCst);
            if at + size <= SEGMENT_BYTES {
                self.pending.fetch_add(1, Ordering::Relaxed);
                claimed(Position { segment: segment.number, offset: at }, size);
                let written = segment.file.write_all_at(frame, at);
                if written.is_err() {
                    // Nobody will read it back.
                    self.count_applied(1);
                }
                return written;
            }
            self.rotate(segment.number)?;
        }
        Err(io::Error::other("the journal rotates without end"))
    }

    fn rotate(&self, full: u64) -> io::Result<()> {
        let _turn = self.rotation.lock();
        if self.current.load().number == full {
            self.current.store(Arc::new(create_segment(&self.folder, full + 1)?));
        }
        Ok(())
    }

    /// Where the next record will go.
    pub fn end(&self) -> Position {
        let segment = self.current.load();
        let offset = segment.claimed.load(Ordering::Acquire).min(SEGMENT_BYTES);
        Position { segment: segment.number, offset }
    }

    /// Up to where records have been applied.
    pub fn applied(&self) -> Position {
        self.applied.lock().position
    }

    /// Records of this process that wait to be applied.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed) + self.refused.len() as u64
    }

    /// Notes that so many records were applied.
    pub fn count_applied(&self, records: usize) {
        let done = records as u64;
        // Records of an earlier process were never counted in.
        let _ = self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pending| {
            Some(pending.saturating_sub(done))
        });
    }

    /// Notes that so many of the entries that the disk refused were applied.
    pub fn forget_refused(&self, applied: usize) {
        self.refused.forget(applied);
        self.moved.notify_waiters();
    }

    /// Bytes that wait to be applied, roughly: whole segments in between count in full.
    pub fn backlog_bytes(&self) -> u64 {
        let (from, to) = (self.applied(), self.end());
        let own = to.segment.saturating_sub(from.segment) * SEGMENT_BYTES + to.offset;
        own.saturating_sub(from.offset) + self.left_bytes.load(Ordering::Relaxed)
    }

    /// Reads records from `from` on: one piece of one segment. Blocks on the disk.
    ///
    /// Stops at a place that a writer may still be about to fill; the next read begins there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&self, from: Position) -> io::Result<Batch> {
        self.read_some(from, usize::MAX, |_| None)
    }

    /// As [`Self::read`], and at most so many records, which must be one at least. `pass` is asked of every place
    /// whether it is to be passed over, and how many bytes it takes then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read_some(
        &self,
        from: Position,
        at_most: usize,
        pass: impl FnMut(Position) -> Option<u64>,
    ) -> io::Result<Batch> {
        let current = self.current.load_full();
        let (end, closed) = if from.segment == current.number {
            (current.claimed.load(Ordering::SeqCst), false)
        } else {
            (u64::MAX, true)
        };
        let end = end.min(SEGMENT_BYTES);
        // Asked after the end was read: with no append under way, every place before that end is as it will stay.
        let is_quiet = self.writing.load(Ordering::SeqCst) == 0;
        let opened;
        let (file, end) = if closed {
            opened = match File::open(segment_path(&self.folder, from.segment)) {
                Ok(file) => file,
                // A number without a file: the next one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Batch { next: after(from.segment), ..Batch::default() });
                }
                Err(error) => return Err(error),
            };
            (&opened, end.min(opened.metadata()?.len()))
        } else {
            (&current.file, end)
        };
        if from.offset >= end {
            let next = if closed && is_quiet { after(from.segment) } else { from };
            return Ok(Batch { next, ..Batch::default() });
        }
        let want = usize::try_from(end - from.offset).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut bytes = vec![0; want];
        let got = read_up_to(file, &mut bytes, from.offset)?;
        bytes.resize(want.max(got), 0);
        let whole = from.offset + want as u64 >= end;
        Ok(Scan { bytes: &bytes, from, skip_torn: is_quiet, is_end: whole, at_most }.run(pass))
    }

    /// Notes that everything before `position` has been applied, and deletes segments that are done.
    pub fn advance(&self, position: Position) {
        let before = {
            let mut applied = self.applied.lock();
            let before = std::mem::replace(&mut applied.position, position);
            self.write_cursor(&mut applied);
            before
        };
        for number in before.segment..position.segment {
            match fs::remove_file(segment_path(&self.folder, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, number, "cannot delete an applied journal segment");
                }
                _ => {}
            }
        }
        self.moved.notify_waiters();
    }

    /// Notes how far records have been applied where the disk refused that before. Says whether it has it now.
    pub fn catch_up(&self) -> bool {
        let mut applied = self.applied.lock();
        if !applied.is_noted {
            self.write_cursor(&mut applied);
        }
        applied.is_noted
    }

    fn write_cursor(&self, applied: &mut Applied) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&applied.position.segment.to_le_bytes());
        bytes[8..].copy_from_slice(&applied.position.offset.to_le_bytes());
        let written = self.cursor.write_all_at(&bytes, 0);
        let was_noted = std::mem::replace(&mut applied.is_noted, written.is_ok());
        if let (Err(error), true) = (written, was_noted) {
            tracing::warn!(%error, "cannot note how far the journal is applied; a restart before it can be would apply more again");
        }
    }

    /// Waits until what is journalled now has been applied, at most so long. Says whether it has.
    pub async fn flush(&self, at_most: std::time::Duration) -> bool {
        let target = self.end();
        let reached = async {
            loop {
                let moved = self.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if self.applied() >= target && self.refused.is_empty() {
                    return;
                }
                self.hurry.notify_one();
                moved.await;
            }
        };
        tokio::time::timeout(at_most, reached).await.is_ok()
    }
}

fn after(segment: u64) -> Position {
    Position { segment: segment + 1, offset: 0 }
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path)
}

fn create_segment(folder: &Path, number: u64) -> io::Result<Segment> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(segment_path(folder, number))?;
    Ok(Segment { number, file, claimed: AtomicU64::new(0) })
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016}.journal"))
}

/// Numbers of the segments in the folder, ascending.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(folder)? {
        let name = file?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".journal")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_cursor(cursor: &File) -> Position {
    let mut bytes = [0; 16];
    if cursor.read_exact_at(&mut bytes, 0).is_err() {
        return Position::default();
    }
    let (mut segment, mut offset) = ([0; 8], [0; 8]);
    segment.copy_from_slice(&bytes[..8]);
    offset.copy_from_slice(&bytes[8..]);
    Position { segment: u64::from_le_bytes(segment), offset: u64::from_le_bytes(offset) }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::frames::ALIGN;
    use super::*;
    use otari_filters::control::Scope;
    use otari_filters::settle::BudgetReset;

    pub(super) fn entry(n: i64) -> Entry {
        Entry::Reset(BudgetReset {
            scope: Scope::User(format!("user-{n}").into()),
            budget_id: "b".into(),
            due_at_us: 1,
            reset_at_us: n,
            next_reset_at_us: None,
        })
    }

    pub(super) fn read_all(journal: &Journal) -> Vec<Entry> {
        let (mut all, mut at) = (Vec::new(), journal.applied());
        for _ in 0..100 {
            let batch = journal.read(at).unwrap();
            all.extend(batch.entries);
            if batch.next == at {
                break;
            }
            at = batch.next;
        }
        all
    }

    #[test]
    fn records_are_read_back_in_order_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let written: Vec<_> = (0..1000).map(entry).collect();
        {
            let journal = Journal::open(folder.path()).unwrap();
            written.iter().for_each(|entry| assert!(journal.append(entry).is_ok()));
            assert_eq!(read_all(&journal), written);
        }
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(read_all(&journal), written, "nothing was applied, so all is replayed");
    }

    #[test]
    fn a_cursor_that_the_disk_refused_is_written_when_it_takes_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append(&entry(1)).unwrap();
        let read_only = File::open(journal.folder().join(CURSOR)).unwrap();
        let writable = std::mem::replace(&mut journal.cursor, read_only);
        journal.advance(journal.end());
        assert!(!journal.catch_up());
        journal.cursor = writable;
        let at = journal.applied();
        assert_ne!(read_cursor(&journal.cursor), at, "the disk did not have it");
        assert!(journal.catch_up());
        assert_eq!(read_cursor(&journal.cursor), at);
    }

    #[test]
    fn what_was_applied_is_not_replayed_and_its_segments_go() {
        let folder = tempfile::tempdir().unwrap();
        {
            let journal = Journal::open(folder.path()).unwrap();
            journal.append(&entry(1)).unwrap();
            journal.advance(journal.end());
            journal.append(&entry(2)).unwrap();
        }
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(read_all(&journal), [entry(2)]);
        journal.advance(journal.end());
        assert_eq!(segments(folder.path()).unwrap().len(), 1, "only the open segment is left");
    }

    #[test]
    fn a_torn_record_is_skipped_and_the_next_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.append(&entry(1)).unwrap();
        // A place that was claimed and never written, longer than one step of alignment.
        journal.current.load().claimed.fetch_add(5 * ALIGN, Ordering::Relaxed);
        journal.append(&entry(2)).unwrap();
        journal.writing.fetch_add(1, Ordering::SeqCst);
        assert_eq!(read_all(&journal), [entry(1)], "a writer may still be at work");
        journal.writing.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(read_all(&journal), [entry(1), entry(2)]);
    }

    #[test]
    fn a_full_segment_is_kept_while_a_writer_is_at_work_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.rotate(0).unwrap();
        journal.writing.fetch_add(1, Ordering::SeqCst);
        let (mut at, mut seen) = (Position::default(), 0);
        for _ in 0..10 {
            let batch = journal.read(at).unwrap();
            seen += batch.entries.len();
            at = batch.next;
        }
        assert_eq!((seen, at.segment), (1, 0), "a late record may still come");
        journal.writing.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(journal.read(at).unwrap().next.segment, 1);
    }

    #[test]
    fn segments_rotate_without_losing_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.current.load().claimed.store(SEGMENT_BYTES - 8, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for n in 2..6 {
                let journal = &journal;
                scope.spawn(move || journal.append(&entry(n)).unwrap());
            }
        });
        assert_eq!(journal.end().segment, 1);
        let mut users: Vec<_> = read_all(&journal)
            .into_iter()
            .map(|e| match e {
                Entry::Reset(reset) => reset.reset_at_us,
                _ => 0,
            })
            .collect();
        users.sort_unstable();
        assert_eq!(users, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn reading_in_small_pieces_finds_the_same_records() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        (0..10).for_each(|n| assert!(journal.append(&entry(n)).is_ok()));
        let (mut all, mut at) = (Vec::new(), journal.applied());
        for pieces in [3, 3, 3, 1, 0] {
            let batch = journal.read_some(at, 3, |_| None).unwrap();
            assert_eq!(batch.entries.len(), pieces);
            all.extend(batch.entries);
            at = batch.next;
        }
        assert_eq!((all, at), (read_all(&journal), journal.end()));
    }

    #[test]
    fn what_is_passed_over_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut places = Vec::new();
        for n in 0..4 {
            let many = [entry(n), entry(10 + n)];
            journal.append_all(&many, |at, size| places.push((at, size))).unwrap();
        }
        // Claimed, and not written yet: the reader knows by itself how long it is.
        let hole = journal.end();
        journal.current.load().claimed.fetch_add(3 * ALIGN, Ordering::Relaxed);
        places.push((hole, 3 * ALIGN));
        journal.append(&entry(4)).unwrap();
        journal.writing.fetch_add(1, Ordering::SeqCst);
        let over = [places[1], places[3], places[4]];
        let pass = |at| over.iter().find(|place| place.0 == at).map(|place| place.1);
        let batch = journal.read_some(journal.applied(), 100, pass).unwrap();
        assert_eq!(batch.entries, [entry(0), entry(10), entry(2), entry(12), entry(4)]);
        assert_eq!((batch.places[0], batch.places[2]), (places[0].0, places[2].0));
        assert_eq!(batch.next, journal.end());
    }

    #[test]
    fn two_processes_cannot_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Journal::open(folder.path()).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::InUse(_))));
    }
}
