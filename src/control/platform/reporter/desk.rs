//! What the reporter has in hand: reports that are ready, under way and parked, and how far the journal is done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use otari_filters::settle::{Cost, Entry, KeptReport};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::delivery::{Flight, Hand, Landed, Outcome, fly};
use super::live::Ended;
use super::reading::{Read, read};
use super::{IN_HAND, Message, Pace, Reporter, Waiter};
use crate::clock;
use crate::control::journal::Position;

/// Records that one read brings.
const AT_ONCE: usize = 512;
/// Waiters of reports that are not in hand yet; beyond, those who gave up are forgotten.
const WAITERS: usize = 10_000;
/// Between two lines about refused reports.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// A loop that has nothing to wait for.
const IDLE: Duration = Duration::from_secs(3600);

/// Whether the platform takes reports.
enum Health {
    Up,
    /// A report used up its tries, and none was taken since.
    Down {
        probe_at: Instant,
        pause: Duration,
        /// When it was last found to be down.
        since: Instant,
    },
}

pub(super) struct Desk<'a> {
    owner: &'a Reporter,
    inbox: mpsc::Receiver<Message>,
    waiters: HashMap<Box<str>, Waiter>,
    ready: VecDeque<Hand>,
    parked: BTreeMap<(Instant, u64), Hand>,
    pub(super) flying: FuturesUnordered<Flight>,
    /// Places of reports that are not done, as far as the journal has been read: the first one holds the cursor back.
    open: BTreeSet<Position>,
    /// Done, and not noted yet.
    unnoted: Vec<(Position, Box<str>)>,
    /// How many of them, and of those that are in no journal.
    closing: i64,
    /// When there is something to note, and when something was.
    note_at: Option<Instant>,
    noted_at: Option<Instant>,
    /// When to look by itself for what requests have done.
    tick_at: Option<Instant>,
    /// Where the next read begins.
    read_at: Position,
    /// There may be something to read.
    pub(super) is_woken: bool,
    look_at: Option<Instant>,
    /// Done in earlier processes; until their records have been read.
    reported: HashSet<Box<str>>,
    health: Health,
    is_probing: bool,
    has_left: bool,
    /// Makes keys of `parked` unique.
    parkings: u64,
    refused: (u64, Option<Instant>),
}

impl<'a> Desk<'a> {
    pub(super) fn new(owner: &'a Reporter, inbox: mpsc::Receiver<Message>) -> Self {
        Self {
            owner,
            inbox,
            waiters: HashMap::new(),
            ready: VecDeque::new(),
            parked: BTreeMap::new(),
            flying: FuturesUnordered::new(),
            open: BTreeSet::new(),
            unnoted: Vec::new(),
            closing: 0,
            note_at: None,
            noted_at: None,
            tick_at: None,
            read_at: owner.journal.applied(),
            is_woken: true,
            look_at: None,
            reported: HashSet::new(),
            health: Health::Up,
            is_probing: false,
            has_left: false,
            parkings: 0,
            refused: (0, None),
        }
    }

    pub(super) fn in_hand(&self) -> usize {
        self.ready.len() + self.parked.len() + self.flying.len()
    }

    fn pace(&self) -> &Pace {
        &self.owner.pace
    }

    /// Finds out which reports of earlier processes are done: their order in the journal is not that of their ends.
    pub(super) async fn recall(&mut self) {
        let mut at = self.read_at;
        while at < self.owner.begin {
            let Some(Read { batch, .. }) = read(self.owner, at, usize::MAX).await else { continue };
            if batch.next == at {
                sleep(self.pace().look_again).await;
            }
            at = batch.next;
            let done = batch.entries.into_iter().filter_map(|entry| match entry {
                Entry::Reported(id) => Some(id),
                _ => None,
            });
            self.reported.extend(done);
        }
    }

    /// Takes what requests said. Comes before reading, so that who waits is known before the report is.
    pub(super) fn take_messages(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Wait(id, waiter) => {
                    if !matches!(self.health, Health::Down { .. }) {
                        self.waiters.insert(id, waiter);
                    }
                }
                Message::Unkept(kept) => self.take(kept, None),
            }
        }
        if self.waiters.len() > WAITERS {
            self.waiters.retain(|_, waiter| !waiter.is_closed());
        }
        if self.owner.is_leaving.load(Ordering::SeqCst) && !self.has_left {
            self.has_left = true;
            self.retry_parked();
            if let Health::Down { probe_at, .. } = &mut self.health {
                *probe_at = Instant::now();
            }
        }
    }

    /// Takes what requests have posted, and what they leave behind.
    pub(super) fn take_ended(&mut self) {
        let now = Instant::now();
        let is_tick = self.tick_at.is_some_and(|at| at <= now);
        let mut ended = self.owner.claims.take_ended();
        if ended.is_empty() && is_tick {
            // As quiet as it has become, being told costs less than looking.
            self.tick_at = None;
            self.owner.claims.ask_to_be_told();
            ended = self.owner.claims.take_ended();
        }
        if !ended.is_empty() && (is_tick || self.tick_at.is_none()) {
            self.tick_at = Some(now + self.pace().note);
        }
        for ended in ended {
            match ended {
                Ended::Told { id, at } => {
                    self.is_up();
                    self.done(at, id);
                }
                Ended::Void(at) => self.forget(at),
                Ended::Idle(hand) => self.ready.push_back(hand),
                Ended::Flying(flight) => self.flying.push(flight),
                Ended::Landed(landed) => self.land(landed),
            }
        }
        if is_tick && self.note_at.is_some() {
            // Without another timer.
            self.note_at = Some(now);
        }
    }

    /// Reads at most once.
    pub(super) async fn read(&mut self) {
        let now = Instant::now();
        if self.look_at.is_some_and(|at| at <= now) {
            (self.look_at, self.is_woken) = (None, true);
        }
        // The cursor passes what has been read.
        self.is_woken |= self.note_at.is_some_and(|at| at <= now);
        if !self.is_woken || self.in_hand() >= IN_HAND {
            return;
        }
        let from = self.read_at;
        if from < self.owner.journal.end() {
            let Some(read) = read(self.owner, from, AT_ONCE).await else { return };
            self.take_read(read);
        }
        let end = self.owner.journal.end();
        self.is_woken = self.read_at < end && self.read_at != from;
        if self.read_at < end && !self.is_woken {
            // Somebody is still writing there.
            self.look_at = Some(Instant::now() + self.pace().look_again);
        }
        if self.read_at >= self.owner.begin && self.owner.is_behind.swap(false, Ordering::SeqCst) {
            self.reported = HashSet::new();
            if self.owner.is_idle() {
                self.owner.idle.notify_waiters();
            }
        }
    }

    fn take_read(&mut self, read: Read) {
        let Read { batch, passed } = read;
        let is_old = self.read_at < self.owner.begin;
        self.open.extend(passed);
        for (entry, at) in batch.entries.into_iter().zip(batch.places) {
            let Entry::Report(kept) = entry else { continue };
            if is_old {
                if self.reported.contains(&kept.id) {
                    continue;
                }
                self.owner.open.fetch_add(1, Ordering::SeqCst);
            }
            self.open.insert(at);
            self.take(kept, Some(at));
        }
        self.read_at = batch.next;
        if self.cursor() > self.owner.journal.applied() {
            self.note_soon();
        }
    }

    fn take(&mut self, kept: KeptReport, at: Option<Position>) {
        self.ready.push_back(Hand::new(kept, at));
        let nudge = self.pace().nudge;
        if let Health::Down { probe_at, since, .. } = &mut self.health {
            *probe_at = (*probe_at).min(*since + nudge);
        }
    }

    /// Sends what is due, as far as there is room.
    pub(super) fn launch(&mut self) {
        let now = Instant::now();
        if let Health::Down { probe_at, .. } = self.health {
            if probe_at <= now && !self.is_probing {
                let parked = || self.parked.pop_first().map(|(_, hand)| hand);
                if let Some(hand) = self.ready.pop_front().or_else(parked) {
                    self.is_probing = true;
                    self.fly(hand, 1);
                }
            }
            return;
        }
        while let Some(entry) = self.parked.first_entry().filter(|entry| entry.key().0 <= now) {
            let hand = entry.remove();
            self.ready.push_back(hand);
        }
        while self.flying.len() < self.pace().at_once {
            let Some(hand) = self.ready.pop_front() else { return };
            self.fly(hand, self.pace().tries);
        }
    }

    fn fly(&mut self, hand: Hand, tries: u32) {
        self.flying.push(fly(self.owner, hand, tries, self.is_probing, false));
    }

    /// Draws the conclusion from a round.
    pub(super) fn land(&mut self, landed: Landed) {
        let says_down = landed.says_down(self.owner);
        let Landed { hand, outcome, is_probe, .. } = landed;
        if is_probe {
            self.is_probing = false;
        }
        match outcome {
            Outcome::Accepted(cost) => {
                self.owner.accepted.fetch_add(1, Ordering::SeqCst);
                self.is_up();
                self.answer(&hand, cost);
                self.done(hand.at, hand.id);
            }
            Outcome::Refused(status) => {
                self.owner.accepted.fetch_add(1, Ordering::SeqCst);
                self.is_up();
                self.complain(status);
                self.answer(&hand, None);
                // It may well be the gateway's token that is wrong, and not the report.
                if matches!(status, 401..=403 | 408 | 429) {
                    self.keep_aside(&hand);
                }
                self.done(hand.at, hand.id);
            }
            Outcome::Failed { .. } => {
                if says_down {
                    self.is_down(is_probe);
                } else if matches!(self.health, Health::Up) {
                    self.owner.is_down.store(false, Ordering::SeqCst);
                }
                self.answer(&hand, None);
                self.park(hand);
            }
        }
    }

    fn is_up(&mut self) {
        if let Health::Down { .. } = self.health {
            self.health = Health::Up;
            self.owner.is_down.store(false, Ordering::Relaxed);
            tracing::info!(waiting = self.in_hand(), "the platform takes reports again");
            self.retry_parked();
        }
    }

    fn is_down(&mut self, is_probe: bool) {
        let now = Instant::now();
        let pace = self.pace();
        // On the way out there is no time for patience.
        let most = if self.has_left { pace.nudge } else { pace.parked_at_most };
        let first = pace.parked.min(most);
        let pause = match &self.health {
            Health::Up => {
                self.owner.is_down.store(true, Ordering::Relaxed);
                tracing::warn!("the platform takes no reports; they wait in the journal");
                // Whoever waits for a cost would wait in vain.
                self.waiters.clear();
                first
            }
            // Rounds that began before it was known say nothing new.
            Health::Down { .. } if !is_probe => return,
            Health::Down { pause, .. } => (*pause * 2).min(most),
        };
        self.health = Health::Down { probe_at: now + pause, pause, since: now };
    }

    fn retry_parked(&mut self) {
        self.ready.extend(std::mem::take(&mut self.parked).into_values());
    }

    /// Puts a report aside that has used up its tries.
    fn park(&mut self, mut hand: Hand) {
        let age_us = clock::now_us().saturating_sub(hand.made_at_us);
        if Duration::from_micros(u64::try_from(age_us).unwrap_or(0)) > self.pace().give_up {
            return self.give_up(hand);
        }
        let is_up = matches!(self.health, Health::Up);
        let is_in_the_way = self.in_hand() > IN_HAND * 3 / 4
            || self.owner.journal.backlog_bytes() > self.pace().behind_bytes;
        if is_up && is_in_the_way && hand.rounds > 0 && self.carry(&hand) {
            return self.done(hand.at, hand.id);
        }
        let pause = match self.has_left {
            true => self.pace().between,
            false => self.pace().parked * 2_u32.saturating_pow(hand.rounds.min(16)),
        };
        hand.rounds += 1;
        self.parkings += 1;
        let at = Instant::now() + pause.min(self.pace().parked_at_most);
        self.parked.insert((at, self.parkings), hand);
    }

    /// Writes a report to the journal's end again, under another name, so that it holds nothing up where it is.
    fn carry(&mut self, hand: &Hand) -> bool {
        let id: Box<str> = uuid::Uuid::now_v7().to_string().into();
        let is_kept = hand.entry(id).is_some_and(|entry| self.owner.journal.append(&entry).is_ok());
        if is_kept {
            self.owner.open.fetch_add(1, Ordering::SeqCst);
            self.is_woken = true;
        }
        is_kept
    }

    fn give_up(&mut self, hand: Hand) {
        tracing::error!(
            correlation_id = hand.correlation_id,
            "the platform did not take a report for too long; it was put into rejected.jsonl in the journal folder"
        );
        self.owner.metrics.report("given_up");
        self.keep_aside(&hand);
        self.done(hand.at, hand.id);
    }

    /// For a person to look at.
    fn keep_aside(&self, hand: &Hand) {
        let Some(entry) = hand.entry(hand.id.clone()) else { return };
        if let Err(error) = self.owner.journal.reject(&entry) {
            let record = serde_json::to_string(&entry).unwrap_or_default();
            tracing::error!(%error, record, "rejected.jsonl cannot be written");
        }
    }

    fn answer(&mut self, hand: &Hand, cost: Option<Cost>) {
        if let Some(waiter) = self.waiters.remove(&hand.id) {
            // Who has left needs no answer.
            let _ = waiter.send(cost);
        }
    }

    /// A report is done, which is to be noted.
    fn done(&mut self, at: Option<Position>, id: Box<str>) {
        self.closing += 1;
        if let Some(at) = at {
            self.forget(at);
            self.unnoted.push((at, id));
        }
        self.note_soon();
    }

    fn forget(&mut self, at: Position) {
        self.owner.claims.finish(at);
        self.open.remove(&at);
    }

    /// Up to where everything is done.
    fn cursor(&self) -> Position {
        self.open.first().copied().unwrap_or(self.read_at)
    }

    fn note_soon(&mut self) {
        if self.note_at.is_none() {
            let now = Instant::now();
            let then = self.noted_at.map_or(now, |last| last + self.pace().note);
            self.note_at = Some(if self.has_left { now } else { then });
        }
    }

    /// Notes what is done, when it is time: by the cursor as far as it can pass, the rest in the journal itself.
    pub(super) fn note(&mut self) {
        let now = Instant::now();
        if self.note_at.is_none_or(|at| at > now) {
            return;
        }
        (self.note_at, self.noted_at) = (None, Some(now));
        let journal = &self.owner.journal;
        let cursor = self.cursor();
        if cursor > journal.applied() {
            journal.advance(cursor);
        }
        let is_noted = journal.catch_up();
        self.unnoted.retain(|(at, _)| *at >= cursor);
        let mut left = std::mem::take(&mut self.unnoted);
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(AT_ONCE));
            let (places, notes): (Vec<_>, Vec<_>) =
                left.into_iter().map(|(at, id)| (at, Entry::Reported(id))).unzip();
            left = rest;
            let skip = |at, size| self.owner.claims.skip(at, size);
            let Err(error) = journal.append_all(&notes, skip) else { continue };
            let reports = notes.len();
            tracing::warn!(%error, reports, "cannot note that reports are done; a restart before it can be would repeat them");
            let ids = notes.into_iter().filter_map(|note| match note {
                Entry::Reported(id) => Some(id),
                _ => None,
            });
            self.unnoted.extend(places.into_iter().zip(ids));
        }
        if !is_noted || !self.unnoted.is_empty() {
            self.note_at = Some(now + self.pace().tidy);
        }
        self.owner.close(std::mem::take(&mut self.closing));
    }

    fn complain(&mut self, status: u16) {
        self.refused.0 += 1;
        let now = Instant::now();
        if self.refused.1.is_none_or(|last| now - last >= COMPLAIN_EVERY) {
            let reports = std::mem::replace(&mut self.refused, (0, Some(now))).0;
            tracing::warn!(
                status,
                reports,
                "the platform refused reports of attempts for good; those it refused for the gateway's token, for money or for haste (401, 402, 403, 408, 429) are in rejected.jsonl"
            );
        }
    }

    /// When something is due that nobody wakes the loop for.
    pub(super) fn next_timer(&mut self, now: Instant) -> Instant {
        if self.is_woken && self.in_hand() < IN_HAND {
            return now;
        }
        let idle = self.in_hand() == 0 && self.owner.journal.applied() < self.owner.journal.end();
        if idle && self.look_at.is_none() {
            self.look_at = Some(now + self.pace().tidy);
        }
        let health = match self.health {
            Health::Down { probe_at, .. } if !self.is_probing && self.in_hand() > 0 => {
                Some(probe_at)
            }
            Health::Down { .. } => None,
            Health::Up => self.parked.first_key_value().map(|(key, _)| key.0),
        };
        let look = self.look_at.filter(|_| self.in_hand() < IN_HAND);
        let look = look.into_iter().chain(self.note_at).chain(self.tick_at);
        health.into_iter().chain(look).min().unwrap_or(now + IDLE).max(now)
    }
}
