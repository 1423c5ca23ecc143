//! Leases: this gateway's part of what is left of each budget, where several gateways share a database.
//!
//! Far from the cap a lease covers many requests, so that none of them waits. As the cap nears it shrinks to what one
//! request needs, and before a request is refused every other gateway is asked to give back what it does not use. So no
//! request is refused, and none is let in, by numbers that are out of date.
//!
//! Whoever needs more queues at the scope's desk, which takes one step at a time. Giving back has a queue of its own: two
//! gateways that ask each other must not wait for each other. A step has a number; one whose answer was lost (a
//! connection that broke, a caller who left) is repeated under the same number before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use papaya::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock, RwLockWriteGuard};

use crate::clock;
use crate::control::ledger::{Decision, Ledger, Rule, exceeded};
use crate::store::{Shared, Store, StoreError, Take, Taken};

/// Longest that a request waits for the database to decide.
const DECIDE_AT_MOST: Duration = Duration::from_secs(5);
/// Longest that other gateways may take to give back what they do not need.
const ANSWER_AT_MOST: Duration = Duration::from_millis(500);
/// Between two looks whether they have; doubles.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Leases stop being used so long before the database would give them to others.
const SAFETY: Duration = Duration::from_secs(2);
/// Scopes whose lease runs low, waiting to be enlarged; more are enlarged when a request needs it.
const MAX_LOW: usize = 10_000;
/// A lease is enlarged ahead of need at most once in this time.
const AHEAD_EVERY_US: i64 = 250_000;
/// And not for so long when there was nothing to be had; a request that needs it asks all the same.
const NOTHING_LEFT_US: i64 = 5_000_000;

/// Where more of a budget is asked for, one at a time.
#[derive(Debug, Default)]
struct Desk {
    turn: AsyncMutex<Turn>,
    giving: AsyncMutex<Giving>,
    /// How often something was given back, as far as the database knows of it.
    given: AtomicU64,
    /// What the requests in the queue want, in micro-dollars.
    queued: AtomicI64,
    /// Before this instant the lease is not enlarged ahead of need: microseconds since 1970.
    not_before_us: AtomicI64,
}

impl Desk {
    /// Waits for what is being given back. Says whether anything was since this count.
    ///
    /// # Errors
    /// `unavailable`: something was to be given back, and the database has not said that it knows.
    async fn gave_since(&self, given: u64) -> Result<bool, Rejection> {
        let giving = self.giving.lock().await;
        match giving.unfinished {
            Some(amount) if amount > MicroUsd::ZERO => {
                Err(unavailable("a part of the budget is on its way back"))
            }
            _ => Ok(self.given.load(Ordering::Acquire) != given),
        }
    }
}

#[derive(Debug, Default)]
struct Turn {
    /// Number of the last step.
    serial: i64,
    /// A step whose answer is not known.
    unfinished: Option<Take>,
    /// The last refusal: when its question was put, and what was left.
    refused: Option<(Instant, MicroUsd)>,
}

#[derive(Debug, Default)]
struct Giving {
    /// Number of the last step.
    serial: i64,
    /// What was given, and is perhaps not known to the database.
    unfinished: Option<MicroUsd>,
}

/// A request's wish, counted for as long as it queues.
struct Queued<'a>(&'a AtomicI64, i64);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What is known of all leases of this gateway.
pub struct Leases {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    desks: HashMap<Scope, Arc<Desk>>,
    low: Mutex<Vec<(Scope, MicroUsd)>>,
    /// Rung when something is low.
    pub(super) bell: Notify,
    /// Rung when another process is about to share the database.
    pub(super) engaged: Notify,
    /// Closed while the database is made ready to be shared: then nobody asks it for anything.
    gate: RwLock<()>,
    ttl: Duration,
    begun: Instant,
    /// Until when leases may be used, in milliseconds since `begun`.
    good_until_ms: AtomicU64,
}

impl Leases {
    /// No leases yet. `ttl`: how long a gateway may be silent before its leases go to others.
    pub fn new(store: Arc<dyn Store>, ledger: Arc<Ledger>, ttl: Duration) -> Self {
        Self {
            store,
            ledger,
            desks: HashMap::new(),
            low: Mutex::new(Vec::new()),
            bell: Notify::new(),
            engaged: Notify::new(),
            gate: RwLock::default(),
            ttl,
            begun: Instant::now(),
            good_until_ms: AtomicU64::new(0),
        }
    }

    /// How long a gateway may be silent before its leases go to others.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The database heard from this gateway at `heard` or later.
    pub fn renew(&self, heard: Instant) {
        let until = heard.saturating_duration_since(self.begun) + self.ttl.saturating_sub(SAFETY);
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.good_until_ms.fetch_max(until, Ordering::Release);
    }

    /// No lease may be used until the next [`Self::renew`].
    pub fn suspend(&self) {
        self.good_until_ms.store(0, Ordering::Release);
    }

    /// Whether leases were suspended, or have never been good.
    pub fn is_suspended(&self) -> bool {
        self.good_until_ms.load(Ordering::Acquire) == 0
    }

    /// Nobody is granted anything, and nobody asks, for as long as this is held.
    pub async fn close(&self) -> RwLockWriteGuard<'_, ()> {
        let closed = self.gate.write().await;
        self.suspend();
        closed
    }

    /// The database is shared from now on; it heard of this gateway at `heard` or later.
    pub fn engage(&self, heard: Instant) {
        self.renew(heard);
        self.engaged.notify_one();
    }

    /// How holds are decided now.
    pub fn rule(&self) -> Rule {
        if !self.ledger.is_shared() {
            return Rule::Alone;
        }
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.good_until_ms.load(Ordering::Acquire) { Rule::Leased } else { Rule::Expired }
    }

    /// Notes that a lease runs low, for the background.
    pub fn is_low(&self, scope: &Scope, typical: MicroUsd) {
        let now_us = clock::now_us();
        let desk = self.desk(scope);
        let not_before = desk.not_before_us.load(Ordering::Relaxed);
        let next = now_us + AHEAD_EVERY_US;
        let is_due = now_us >= not_before
            && desk
                .not_before_us
                .compare_exchange(not_before, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_due {
            return;
        }
        let mut low = self.low.lock();
        if low.len() < MAX_LOW {
            low.push((scope.clone(), typical));
            drop(low);
            self.bell.notify_one();
        }
    }

    /// Enlarges every lease that was noted.
    pub(super) async fn refill(&self) {
        let low = std::mem::take(&mut *self.low.lock());
        for (scope, typical) in low {
            let desk = self.desk(&scope);
            let mut turn = desk.turn.lock().await;
            let _open = self.gate.read().await;
            // Nobody waits for it: whoever needs it will ask, and be told what is wrong.
            let taken = self.take(&scope, &mut turn, MicroUsd::ZERO, typical, None).await;
            if !matches!(taken, Ok(Taken::Granted { amount, .. }) if amount > MicroUsd::ZERO) {
                desk.not_before_us.store(clock::now_us() + NOTHING_LEFT_US, Ordering::Relaxed);
            }
        }
    }

    /// Holds `estimate` although the lease is too small, by asking for more; or adds it to a hold.
    ///
    /// # Errors
    /// `budget_exceeded`; `unavailable` when the database does not answer in time.
    pub async fn hold(
        &self,
        scope: &Scope,
        estimate: MicroUsd,
        hold: impl Fn(Rule) -> Decision,
    ) -> Result<Decision, Rejection> {
        tokio::time::timeout(DECIDE_AT_MOST, self.decide(scope, estimate, hold))
            .await
            .unwrap_or_else(|_| Err(unavailable("no decision in time")))
    }

    async fn decide(
        &self,
        scope: &Scope,
        estimate: MicroUsd,
        hold: impl Fn(Rule) -> Decision,
    ) -> Result<Decision, Rejection> {
        let arrived = Instant::now();
        let desk = self.desk(scope);
        desk.queued.fetch_add(estimate.0, Ordering::Relaxed);
        let queued = Queued(&desk.queued, estimate.0);
        let mut turn = desk.turn.lock().await;
        drop(queued);
        let mut recall: Option<Recall> = None;
        loop {
            let open = self.gate.read().await;
            let given = desk.given.load(Ordering::Acquire);
            // What somebody else got may be enough by now.
            let short = match hold(self.rule()) {
                Decision::Ask(short) => short,
                decided => return Ok(decided),
            };
            // A refusal that was decided after this request came is an answer to it too.
            if let Some((asked, room)) = turn.refused
                && asked >= arrived
                && short > room
            {
                return Err(exceeded(scope));
            }
            let asked = Instant::now();
            let recalled_at_us = recall.as_ref().map(|recall| recall.at_us);
            match self.take(scope, &mut turn, short, estimate, recalled_at_us).await {
                Ok(Taken::Granted { .. }) => {}
                // The cap was lifted a moment ago, and word of it has not arrived: nothing to wait for.
                Ok(Taken::Uncapped) => return Ok(Decision::Open),
                Ok(Taken::Refused { others: true, at_us, .. })
                    if recall.as_ref().is_none_or(Recall::may_wait) =>
                {
                    drop(open);
                    self.wait_for_others(scope, &mut recall, at_us).await?;
                }
                // What this gateway gave back meanwhile was on its way, in nobody's hands.
                Ok(Taken::Refused { .. }) if desk.gave_since(given).await? => {}
                Ok(Taken::Refused { room, .. }) => {
                    turn.refused = Some((asked, room));
                    return Err(exceeded(scope));
                }
                Err(error) => {
                    // Without the database a lease that is there is still good, even past the end of its period.
                    let rule = self.rule();
                    let rule = if rule == Rule::Leased { Rule::LeasedOverdue } else { rule };
                    return match hold(rule) {
                        Decision::Ask(_) => Err(unavailable(&error.to_string())),
                        decided => Ok(decided),
                    };
                }
            }
        }
    }

    /// Asks the other gateways for what they do not need, once, and gives them time.
    async fn wait_for_others(
        &self,
        scope: &Scope,
        recall: &mut Option<Recall>,
        at_us: i64,
    ) -> Result<(), Rejection> {
        let waiting = match recall {
            Some(recall) => recall,
            None => {
                let asked = self.shared()?.recall(scope).await;
                asked.map_err(|error| unavailable(&error.to_string()))?;
                let until = Instant::now() + ANSWER_AT_MOST;
                recall.insert(Recall { at_us, until, pause: LOOK_EVERY })
            }
        };
        tokio::time::sleep(waiting.pause).await;
        waiting.pause *= 2;
        Ok(())
    }

    /// One step at the desk, after whatever was left unfinished.
    async fn take(
        &self,
        scope: &Scope,
        turn: &mut Turn,
        needed: MicroUsd,
        typical: MicroUsd,
        recalled_at_us: Option<i64>,
    ) -> Result<Taken, StoreError> {
        self.finish(scope, turn).await?;
        turn.serial += 1;
        let queued = MicroUsd(self.desk(scope).queued.load(Ordering::Relaxed)).or_zero();
        let take = Take {
            scope: scope.clone(),
            serial: turn.serial,
            needed,
            queued,
            typical,
            now_us: clock::now_us(),
            recalled_at_us,
        };
        turn.unfinished = Some(take);
        self.finish(scope, turn).await
    }

    /// Takes the unfinished step to its end, if there is one.
    async fn finish(&self, scope: &Scope, turn: &mut Turn) -> Result<Taken, StoreError> {
        let Some(take) = turn.unfinished.clone() else { return Ok(Taken::Uncapped) };
        let Some(shared) = self.store.shared() else { return Ok(Taken::Uncapped) };
        let taken = shared.take(&take).await?;
        match taken {
            Taken::Granted { amount, window } => self.ledger.grant(scope, amount, window),
            Taken::Refused { window, .. } => self.ledger.grant(scope, MicroUsd::ZERO, window),
            Taken::Uncapped => {}
        }
        turn.unfinished = None;
        Ok(taken)
    }

    /// Gives back what is left of a lease, and says so.
    ///
    /// # Errors
    /// When the database does not answer: then it is given back the next time.
    pub async fn give_back(&self, scope: &Scope) -> Result<(), StoreError> {
        let Some(desk) = self.desks.pin().get(scope).cloned() else { return Ok(()) };
        let Some(shared) = self.store.shared() else { return Ok(()) };
        let mut giving = desk.giving.lock().await;
        loop {
            if let Some(amount) = giving.unfinished {
                shared.give(scope, giving.serial, amount).await?;
                giving.unfinished = None;
                desk.given.fetch_add(u64::from(amount > MicroUsd::ZERO), Ordering::Release);
                return Ok(());
            }
            giving.serial += 1;
            giving.unfinished = Some(self.ledger.take_room(scope));
        }
    }

    /// Forgets every unfinished step: the leases they were about are gone.
    pub async fn forget(&self) {
        self.ledger.void_leases();
        let desks: Vec<Arc<Desk>> = self.desks.pin().values().cloned().collect();
        for desk in desks {
            desk.turn.lock().await.unfinished = None;
            desk.giving.lock().await.unfinished = None;
        }
    }

    fn desk(&self, scope: &Scope) -> Arc<Desk> {
        let desks = self.desks.pin();
        match desks.get(scope) {
            Some(desk) => desk.clone(),
            None => desks.get_or_insert_with(scope.clone(), Arc::default).clone(),
        }
    }

    fn shared(&self) -> Result<&dyn Shared, Rejection> {
        self.store
            .shared()
            .ok_or_else(|| Rejection::internal("leases of a store that is not shared"))
    }
}

/// Other gateways were asked to give back.
struct Recall {
    /// By the database's clock.
    at_us: i64,
    until: Instant,
    pause: Duration,
}

impl Recall {
    fn may_wait(&self) -> bool {
        Instant::now() < self.until
    }
}

fn unavailable(why: &str) -> Rejection {
    let message = "The budget cannot be checked: the database does not answer. Try again";
    Rejection::new(Code::Unavailable, message).because(std::io::Error::other(why.to_owned()))
}
