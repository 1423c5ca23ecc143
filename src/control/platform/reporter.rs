//! Journal → platform: every report gets there, once as far as can be told, however long the platform is away.
//!
//! The journal is the queue: a report is durable before anybody waits for it, and only so many are in memory. One loop
//! reads, posts and notes; `desk` holds what it has in hand.

mod delivery;
mod desk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
use desk::Desk;

/// Messages to the loop that it has not taken yet: it takes them all whenever it wakes.
const MESSAGES: usize = 10_000;
/// Reports in memory, beyond which reading pauses. The last read may bring some more.
pub(super) const IN_HAND: usize = 1_000;

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
    /// Reports that are not done, as far as they have been seen.
    open: AtomicI64,
    /// Earlier processes' records have not all been read yet.
    is_behind: AtomicBool,
    /// Nobody should wait for a cost: the platform takes no reports.
    is_down: AtomicBool,
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
            open: AtomicI64::new(0),
            is_down: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// Journals a report and has it sent. What is returned ends when the platform has it, or is not going to have it
    /// soon; `None` when that is known already.
    pub(super) fn report(&self, report: Report, made_at_us: i64) -> Option<Settling> {
        let id: Box<str> = uuid::Uuid::now_v7().to_string().into();
        let settling = self.wait_for(&id);
        self.open.fetch_add(1, Ordering::SeqCst);
        let entry = Entry::Report(KeptReport { id, made_at_us, report });
        if let Err(error) = self.journal.append(&entry) {
            self.unkept(entry, &error);
        }
        self.wake.notify_one();
        settling
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
        let record = serde_json::to_string(&entry).unwrap_or_default();
        tracing::error!(%error, record, "a report to the platform could not be journalled");
        let Entry::Report(kept) = entry else { return };
        if self.messages.try_send(Message::Unkept(kept)).is_err() {
            self.metrics.report("given_up");
            self.close_one();
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
        tokio::time::timeout(at_most, done).await.is_ok()
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::SeqCst) <= 0 && !self.is_behind.load(Ordering::SeqCst)
    }

    fn close_one(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
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
            desk.read().await;
            desk.launch();
            self.metrics.platform.waiting.set(i64::try_from(desk.in_hand()).unwrap_or(i64::MAX));
            let until = desk.next_timer(Instant::now());
            tokio::select! {
                Some(landed) = desk.flying.next(), if !desk.flying.is_empty() => desk.land(landed),
                () = self.wake.notified() => desk.is_woken = true,
                () = sleep_until(until) => {}
            }
        }
    }
}
