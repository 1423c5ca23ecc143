//! Entries that this process has just written, for its writer, which need not read them back then. The disk has all of
//! them: what has no room here, or is missing in the middle, is read there.

use std::collections::BTreeMap;

use crossbeam_queue::ArrayQueue;
use otari_filters::settle::Entry;
use parking_lot::Mutex;

use super::{Batch, Place, Position};

/// More than come between two looks of a writer that keeps up.
const MAX_KEPT: usize = 2048;

/// Entries with their places. Whoever puts one in waits for nobody.
#[derive(Debug)]
pub struct Fresh {
    came: ArrayQueue<(Place, Box<Entry>)>,
    /// Out of the queue and in order; the writer's alone.
    waiting: Mutex<BTreeMap<Position, (u64, Box<Entry>)>>,
}

impl Default for Fresh {
    fn default() -> Self {
        Self { came: ArrayQueue::new(MAX_KEPT), waiting: Mutex::default() }
    }
}

impl Fresh {
    /// Keeps an entry that has been written at this place, if there is room.
    pub fn push(&self, place: Place, entry: Box<Entry>) {
        let _ = self.came.push((place, entry));
    }

    /// The entries that stand one behind the other from `from` on; `None` where the first is not here.
    pub fn take(&self, from: Position) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        for _ in 0..MAX_KEPT {
            let Some((place, entry)) = self.came.pop() else { break };
            waiting.insert(place.at, (place.size, entry));
        }
        if waiting.len() > MAX_KEPT {
            // Nothing is applied at present. The disk has them.
            waiting.clear();
        }
        *waiting = waiting.split_off(&from);
        let mut batch = Batch { next: from, ..Batch::default() };
        while let Some((size, entry)) = waiting.remove(&batch.next) {
            batch.places.push(batch.next);
            batch.entries.push(*entry);
            batch.next.offset += size;
        }
        (batch.next != from).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u64, offset: u64, size: u64) -> Place {
        Place { at: Position { segment, offset }, size }
    }

    fn entry(n: usize) -> Box<Entry> {
        Box::new(Entry::Reported(n.to_string().into()))
    }

    #[test]
    fn entries_come_in_the_order_of_their_places_up_to_a_gap() {
        let fresh = Fresh::default();
        let start = Position { segment: 3, offset: 64 };
        assert!(fresh.take(start).is_none());
        fresh.push(place(3, 96, 32), entry(2));
        assert!(fresh.take(start).is_none(), "the first is not here yet");
        fresh.push(place(3, 64, 32), entry(1));
        fresh.push(place(3, 160, 32), entry(4));
        let batch = fresh.take(start).unwrap();
        assert_eq!(batch.entries, [*entry(1), *entry(2)]);
        assert_eq!(batch.next, Position { segment: 3, offset: 128 });
        assert!(fresh.take(batch.next).is_none(), "somebody is still writing there");
        // It was read from the disk.
        let behind = Position { segment: 3, offset: 160 };
        assert_eq!(fresh.take(behind).unwrap().entries, [*entry(4)]);
    }

    #[test]
    fn what_was_applied_otherwise_is_forgotten_and_memory_is_bounded() {
        let fresh = Fresh::default();
        let at = |n: usize| Position { segment: 0, offset: 32 * n as u64 };
        // The first is missing, and stays so: the database is away.
        for n in 1..3 * MAX_KEPT {
            fresh.push(place(0, 32 * n as u64, 32), entry(n));
            if n % 1000 == 0 {
                assert!(fresh.take(at(0)).is_none());
                assert!(fresh.waiting.lock().len() <= MAX_KEPT);
            }
        }
        assert!(fresh.take(at(3 * MAX_KEPT)).is_none(), "all of it is behind");
        assert!(fresh.waiting.lock().is_empty());
        fresh.push(place(0, 32 * 3 * MAX_KEPT as u64, 32), entry(0));
        assert!(fresh.take(at(3 * MAX_KEPT)).is_some());
    }
}
