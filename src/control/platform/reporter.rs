//! Journal → platform: every report gets there, once as far as can be told, however long the platform is away.
//!
//! The journal is the queue: a report is durable before anybody waits for it, and only so many are in memory. A report
//! that an answer waits for is posted by the request itself (`live`); one loop reads, posts and notes everything else,
//! and notes those too. `desk` holds what it has in hand.

mod delivery;
mod desk;
mod live;
mod reading;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use otari_filters::control::Settling;
use otari_filters::settle::{Cost, Entry, KeptReport, Report};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use crate::control::journal::{Journal, Position};
use crate::telemetry::metrics::Metrics;
use delivery::Hand;
use desk::Desk;
use live::{Claims, Live};

/// Messages to the loop that it has not taken yet: it takes them all whenever it wakes.
const MESSAGES: usize = 10_000;
/// Reports in memory, beyond which reading pauses. The last read may bring some more.
pub(super) const IN_HAND: usize = 1_000;

/// Between two looks for what other processes left.
const INHERIT_EVERY: Duration = Duration::from_millis(500);

/// How often and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Tries in a row, at least 1.
    pub(super) tries: u32,
    /// Between the first two of them; doubles.
    pub(super) between: Duration,
    /// Until a report that has used up its tries is tried again; doubles.
    pub(super) parked: Duration,
    /// The longest of these pauses.
    pub(super) parked_at_most: Duration,
    /// While the platform is down, a new report may find out sooner whether it still is: not more often than this.
    pub(super) nudge: Duration,
    /// Age at which a report is given up.
    pub(super) give_up: Duration,
    /// Reports under way at once.
    pub(super) at_once: usize,
    /// How far behind the end of the journal one report may hold it back.
    pub(super) behind_bytes: u64,
    /// Until the journal is read again when it could not be read to its end.
    pub(super) look_again: Duration,
    /// Until what only remains of past work is cleared away.
    pub(super) tidy: Duration,
    /// Between two notes of what the platform has: a crash in between has it repeated.
    pub(super) note: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tries: 3,
            between: Duration::from_millis(250),
            parked: Duration::from_secs(5),
            parked_at_most: Duration::from_secs(60),
            nudge: Duration::from_secs(1),
            give_up: Duration::from_secs(7 * 24 * 3600),
            at_once: 128,
            behind_bytes: 8 << 20,
            look_again: Duration::from_millis(20),
            tidy: Duration::from_secs(1),
            note: Duration::from_millis(10),
        }
    }
}

/// Who waits for what a report costs.
type Waiter = oneshot::Sender<Option<Cost>>;

/// What requests tell the loop.
enum Message {
    /// Somebody waits for the report of this id.
    Wait(Box<str>, Waiter),
    /// The journal refused a report: it is in memory alone.
    Unkept(KeptReport),
}

/// Takes reports from the journal to the platform.
pub(super) struct Reporter {
    client: Arc<Client>,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    pace: Pace,
    /// Where this process's own records begin.
    begin: Position,
    messages: mpsc::Sender<Message>,
    /// For the loop, which there is one of.
    inbox: Mutex<Option<mpsc::Receiver<Message>>>,
    /// There is something to read, or to stop for.
    wake: Notify,
    /// What requests post themselves.
    claims: Arc<Claims>,
    /// Answers that show that the platform takes reports, ever.
    accepted: AtomicU64,
    /// Reports that are not done, as far as they have been seen.
    open: AtomicI64,
    /// Earlier processes' records have not all been read yet.
    is_behind: AtomicBool,
    /// Nobody should wait for a cost: the platform takes no reports.
    is_down: AtomicBool,
    /// So many reports are in memory that no other must come there.
    is_full: AtomicBool,
    /// The process is about to end.
    is_leaving: AtomicBool,
    /// Woken when nothing is open any more.
    idle: Notify,
}

impl Reporter {
    /// A reporter that does nothing until it is run. Made before anything is appended to the journal.
    pub(super) fn new(
        client: Arc<Client>,
        journal: Arc<Journal>,
        metrics: Arc<Metrics>,
        pace: Pace,
    ) -> Self {
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let begin = journal.end();
        Self {
            is_behind: AtomicBool::new(journal.applied() < begin),
            client,
            journal,
            metrics,
            pace,
            begin,
            messages,
            inbox: Mutex::new(Some(inbox)),
            wake: Notify::new(),
            claims: Arc::default(),
            accepted: AtomicU64::new(0),
            open: AtomicI64::new(0),
            is_down: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// Journals a report and has it sent. What is returned ends when the platform has it, or is not going to have it
    /// soon; `None` when that is known already. It is to be waited for or dropped, and soon: it may be what sends.
    pub(super) fn report(self: &Arc<Self>, report: Report, made_at_us: i64) -> Option<Settling> {
        let id: Box<str> = uuid::Uuid::now_v7().to_string().into();
        let kept = KeptReport { id, made_at_us, report };
        self.open.fetch_add(1, Ordering::SeqCst);
        // Nobody waits for the report of an attempt that another one follows.
        if kept.report.is_final_attempt && self.posts_live() {
            return self.live(kept);
        }
        let settling = self.wait_for(&kept.id);
        let entry = Entry::Report(kept);
        if let Err(error) = self.journal.append(&entry) {
            self.unkept(entry, &error);
        }
        self.wake.notify_one();
        settling
    }

    fn posts_live(&self) -> bool {
        !self.is_down.load(Ordering::Relaxed)
            && !self.is_full.load(Ordering::Relaxed)
            && self.claims.has_room()
    }

    /// Journals a report that whoever waits for it is going to post.
    fn live(self: &Arc<Self>, kept: KeptReport) -> Option<Settling> {
        let entry = Entry::Report(kept);
        let mut at = None;
        let written = self.journal.append_all(std::slice::from_ref(&entry), |place, size| {
            self.claims.hold(place, size);
            at = Some(place);
        });
        if let Err(error) = written {
            if let Some(place) = at.take() {
                self.claims.void(place);
                self.wake.notify_one();
            }
            complain(&entry, &error);
        }
        let Entry::Report(kept) = entry else { return None };
        let hand = Hand::new(kept, at);
        Some(Box::pin(Live::new(self.clone(), hand)))
    }

    /// Has to be there before the report: the loop may be quick.
    fn wait_for(&self, id: &str) -> Option<Settling> {
        if self.is_down.load(Ordering::Relaxed) {
            return None;
        }
        let (waiter, cost) = oneshot::channel();
        self.messages.try_send(Message::Wait(id.into(), waiter)).ok()?;
        Some(Box::pin(async move { cost.await.ok().flatten() }))
    }

    /// The disk is full or broken. The report is in the log then, for a person to enter by hand, unless it gets through.
    fn unkept(&self, entry: Entry, error: &std::io::Error) {
        complain(&entry, error);
        let Entry::Report(kept) = entry else { return };
        if self.messages.try_send(Message::Unkept(kept)).is_err() {
            self.metrics.report("given_up");
            self.close(1);
        }
    }

    /// Takes over a report that another process left. Says so only when the journal has it.
    ///
    /// # Errors
    /// When the disk refuses it.
    fn adopt(&self, kept: KeptReport) -> std::io::Result<()> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let kept = self.journal.append(&Entry::Report(kept));
        if kept.is_err() {
            self.close(1);
        }
        self.wake.notify_one();
        kept.map(drop)
    }

    /// Takes over what processes that are gone left in other slots of the journal. Says how many reports. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When the disk fails: the rest is there for the next time.
    fn inherit(&self) -> std::io::Result<usize> {
        let mut reports = 0;
        for left in self.journal.left()? {
            let mut done = HashSet::new();
            each(&left, |entry| {
                if let Entry::Reported(id) = entry {
                    done.insert(id);
                }
                Ok(())
            })?;
            let end = each(&left, |entry| match entry {
                Entry::Report(kept) if !done.contains(&kept.id) => {
                    reports += 1;
                    self.adopt(kept)
                }
                _ => Ok(()),
            })?;
            left.advance(end);
            left.discard()?;
        }
        Ok(reports)
    }

    /// Takes over what others leave, for as long as the process lives.
    pub(super) async fn run_heir(self: &Arc<Self>) {
        loop {
            let own = self.clone();
            match tokio::task::spawn_blocking(move || own.inherit()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(reports)) => tracing::info!(reports, "reports of another process are sent"),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "reports of another process wait in its journal");
                }
                Err(error) => tracing::error!(%error, "the journal of another process"),
            }
            tokio::time::sleep(INHERIT_EVERY).await;
        }
    }

    /// Waits until nothing is left to report, at most so long. Says whether nothing is. What is parked is tried at once.
    pub(super) async fn flush(&self, at_most: Duration) -> bool {
        self.is_leaving.store(true, Ordering::SeqCst);
        let done = async {
            loop {
                let idle = self.idle.notified();
                tokio::pin!(idle);
                idle.as_mut().enable();
                if self.is_idle() {
                    return;
                }
                self.wake.notify_one();
                idle.await;
            }
        };
        let is_idle = tokio::time::timeout(at_most, done).await.is_ok();
        self.journal.catch_up();
        is_idle
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::SeqCst) <= 0 && !self.is_behind.load(Ordering::SeqCst)
    }

    fn close(&self, reports: i64) {
        self.open.fetch_sub(reports, Ordering::SeqCst);
        if self.is_idle() {
            self.idle.notify_waiters();
        }
    }

    /// Reports, for as long as the process lives. One of them does it; further calls only wait.
    pub(super) async fn run(&self) {
        let Some(inbox) = self.inbox.lock().take() else {
            return std::future::pending().await;
        };
        let mut desk = Desk::new(self, inbox);
        desk.recall().await;
        loop {
            desk.take_messages();
            desk.take_ended();
            desk.read().await;
            desk.launch();
            desk.note();
            let in_hand = desk.in_hand();
            self.is_full.store(in_hand >= IN_HAND, Ordering::Relaxed);
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.metrics.platform.waiting.set(gauge(in_hand as u64));
            self.metrics.journal.backlog_bytes.set(gauge(self.journal.backlog_bytes()));
            let until = desk.next_timer(Instant::now());
            tokio::select! {
                Some(landed) = desk.flying.next(), if !desk.flying.is_empty() => desk.land(landed),
                () = self.wake.notified() => desk.is_woken = true,
                () = sleep_until(until) => {}
            }
        }
    }
}

/// Every record of a journal that nobody writes to; and its end.
fn each(
    left: &Journal,
    mut take: impl FnMut(Entry) -> std::io::Result<()>,
) -> std::io::Result<Position> {
    let mut at = left.applied();
    loop {
        let batch = left.read(at)?;
        batch.entries.into_iter().try_for_each(&mut take)?;
        if batch.next == at {
            return Ok(at);
        }
        at = batch.next;
    }
}

fn complain(entry: &Entry, error: &std::io::Error) {
    let record = serde_json::to_string(entry).unwrap_or_default();
    tracing::error!(%error, record, "a report to the platform could not be journalled");
}
