//! Reports that a request posts itself, because its answer waits for what it cost: without another thread's help.
//!
//! Such a report is in the journal before it is posted, like every other. A claim on its place keeps the loop from
//! taking it from there. What nobody waits for any more goes to the loop as it is, and under way if it is under way: a
//! caller who leaves does not make it be posted twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use otari_filters::settle::Cost;
use parking_lot::Mutex;

use super::Reporter;
use super::delivery::{Flight, Hand, Landed, fly};
use crate::control::journal::Position;

/// Claims at once, beyond which reports go by the loop alone. Far more than calls can be under way.
const CLAIMS: usize = 1 << 16;
/// So that requests on different threads seldom meet.
const SHARDS: usize = 16;

/// What is known of a claimed place in the journal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The loop has not come by yet.
    Ahead,
    /// The loop has passed it over, and remembers it.
    Passed,
    /// The loop has not come by yet and needs not remember it.
    Done,
}

/// What requests leave to the loop.
pub(super) enum Ended {
    /// The platform has the report.
    Told {
        /// Ours.
        id: Box<str>,
        /// `None`: it is in no journal.
        at: Option<Position>,
    },
    /// The loop has passed over a place that turned out to be empty.
    Void(Position),
    /// Nobody waits for it any more, and nothing was sent.
    Idle(Hand),
    /// Nobody waits for it any more, and it is under way.
    Flying(Flight),
    /// The platform did not take it.
    Landed(Landed),
}

#[derive(Default)]
struct Shard {
    /// With how many bytes they take.
    places: HashMap<Position, (State, u64)>,
    ended: Vec<Ended>,
}

impl Shard {
    /// Nothing is left to be done for what is in this place. Says whether the place is forgotten.
    fn finish(&mut self, at: Position) -> bool {
        let Slot::Occupied(mut slot) = self.places.entry(at) else { return false };
        match slot.get().0 {
            State::Ahead => slot.get_mut().0 = State::Done,
            State::Passed => {
                slot.remove();
                return true;
            }
            State::Done => {}
        }
        false
    }
}

/// Places in the journal that the loop is to pass over.
#[derive(Default)]
pub(super) struct Claims {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
    /// The loop has been told that something has ended, or looks by itself before long.
    is_told: AtomicBool,
}

impl Claims {
    fn shard(&self, at: Option<Position>) -> &Mutex<Shard> {
        &self.shards[at.map_or(0, |at| at.offset as usize / 32 % SHARDS)]
    }

    pub(super) fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < CLAIMS
    }

    /// Claims a place that nobody can have read yet.
    pub(super) fn hold(&self, at: Position, size: u64) {
        self.insert(at, State::Ahead, size);
    }

    /// There is nothing for the loop in this place, which nobody can have read yet.
    pub(super) fn skip(&self, at: Position, size: u64) {
        self.insert(at, State::Done, size);
    }

    fn insert(&self, at: Position, state: State, size: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(Some(at)).lock().places.insert(at, (state, size));
    }

    /// The loop comes by. `None`: it is to read; else how many bytes it is to pass over, and whether it must remember
    /// the place until [`Self::finish`].
    pub(super) fn pass(&self, at: Position) -> Option<(u64, bool)> {
        let mut shard = self.shard(Some(at)).lock();
        let (state, size) = shard.places.get_mut(&at)?;
        let size = *size;
        if *state != State::Done {
            *state = State::Passed;
            return Some((size, true));
        }
        shard.places.remove(&at);
        drop(shard);
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some((size, false))
    }

    /// Nothing is left to be done for what is in this place.
    pub(super) fn finish(&self, at: Position) {
        if self.shard(Some(at)).lock().finish(at) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The platform has a report. Says whether the loop must be woken for it.
    fn tell(&self, at: Option<Position>, id: Box<str>) -> bool {
        let mut shard = self.shard(at).lock();
        let is_gone = at.is_some_and(|at| shard.finish(at));
        shard.ended.push(Ended::Told { id, at });
        drop(shard);
        if is_gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        !self.is_told.load(Ordering::SeqCst) && !self.is_told.swap(true, Ordering::SeqCst)
    }

    /// Gives a claim back: the loop reads the place when it comes by, or gets `passed` when it has.
    fn give_back(&self, at: Position, passed: impl FnOnce() -> Option<Ended>) {
        let mut shard = self.shard(Some(at)).lock();
        match shard.places.get(&at) {
            Some((State::Passed, _)) => shard.ended.extend(passed()),
            Some(_) => {
                shard.places.remove(&at);
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            None => {}
        }
    }

    /// The disk refused what was to be written there.
    pub(super) fn void(&self, at: Position) {
        self.give_back(at, || Some(Ended::Void(at)));
    }

    fn push(&self, at: Option<Position>, ended: Ended) {
        self.shard(at).lock().ended.push(ended);
    }

    /// What has ended since the last call.
    pub(super) fn take_ended(&self) -> Vec<Ended> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.append(&mut shard.lock().ended);
        }
        all
    }

    /// From now on the loop wants to be told again. What ended before this is to be taken after it.
    pub(super) fn ask_to_be_told(&self) {
        self.is_told.store(false, Ordering::SeqCst);
    }
}

/// A report that is posted by whoever waits for it.
pub(super) struct Live {
    owner: Arc<Reporter>,
    at: Option<Position>,
    /// Never locked: a future is polled by one at a time, and this tells the compiler.
    stage: Mutex<Stage>,
}

enum Stage {
    Idle(Hand),
    Flying(Flight),
    Over,
}

impl Live {
    pub(super) fn new(owner: Arc<Reporter>, hand: Hand) -> Self {
        Self { owner, at: hand.at, stage: Mutex::new(Stage::Idle(hand)) }
    }
}

impl Future for Live {
    type Output = Option<Cost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let stage = this.stage.get_mut();
        if let Stage::Idle(_) = stage
            && let Stage::Idle(hand) = std::mem::replace(stage, Stage::Over)
        {
            *stage = Stage::Flying(fly(&this.owner, hand, this.owner.pace.tries, false, true));
        }
        let Stage::Flying(flight) = stage else { return Poll::Ready(None) };
        let landed = ready!(flight.as_mut().poll(context));
        *stage = Stage::Over;
        let owner = &this.owner;
        match landed.accepted() {
            Ok((id, cost)) => {
                owner.accepted.fetch_add(1, Ordering::SeqCst);
                if owner.claims.tell(this.at, id) {
                    owner.wake.notify_one();
                }
                Poll::Ready(cost)
            }
            Err(landed) => {
                if landed.says_down(owner) {
                    // The loop thinks about it; meanwhile nobody else should wait.
                    owner.is_down.store(true, Ordering::SeqCst);
                }
                owner.claims.push(this.at, Ended::Landed(landed));
                owner.wake.notify_one();
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let claims = &self.owner.claims;
        match (std::mem::replace(self.stage.get_mut(), Stage::Over), self.at) {
            (Stage::Over, _) => return,
            (Stage::Idle(hand), Some(at)) => claims.give_back(at, || Some(Ended::Idle(hand))),
            (Stage::Idle(hand), None) => claims.push(None, Ended::Idle(hand)),
            (Stage::Flying(flight), at) => claims.push(at, Ended::Flying(flight)),
        }
        self.owner.wake.notify_one();
    }
}
