//! Keeping in step with the other gateways on a database: signs of life, leases, and what they changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use otari_filters::control::Scope;
use tokio::sync::mpsc;

use crate::control::directory::Directory;
use crate::control::journal::Journal;
use crate::control::leases::Leases;
use crate::control::ledger::Ledger;
use crate::store::{Beat, Change, Kind, Notice, Shared, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// The safety net under notifications, and the rhythm of signs of life.
const EVERY: Duration = Duration::from_millis(500);
/// Between signs of life, at most; a fraction of the time after which leases go to others.
const BEAT_AT_MOST: Duration = Duration::from_secs(2);
/// How often the invariant is counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Words of other gateways that wait; the poll finds what is lost.
const NOTICES: usize = 1024;
/// Scopes whose holds are published at once.
const PUBLISHED: usize = 1000;

/// What is kept in step.
pub struct Follower {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Keys and prices.
    pub directory: Arc<Directory>,
    /// Budgets.
    pub ledger: Arc<Ledger>,
    /// Leases.
    pub leases: Arc<Leases>,
    /// Records that have not reached the database.
    pub journal: Arc<Journal>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// When something was last done, and whether changes were missed.
struct Last {
    look: Instant,
    beat: Instant,
    count: Instant,
    is_behind: bool,
}

impl Follower {
    /// For as long as the process lives.
    pub async fn run(&self) {
        match self.store.shared() {
            Some(shared) => self.follow(shared).await,
            None => self.count_alone().await,
        }
    }

    /// A database of one's own: only the invariant is counted.
    async fn count_alone(&self) {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            let over = i64::try_from(self.ledger.over_cap()).unwrap_or(i64::MAX);
            self.metrics.budgets_over_cap.set(over);
        }
    }

    async fn follow(&self, shared: &dyn Shared) {
        let (sender, mut notices) = mpsc::channel(NOTICES);
        let listen = async {
            loop {
                if let Err(error) = shared.listen(sender.clone()).await {
                    tracing::debug!(%error, "not listening to other gateways; looking every {EVERY:?}");
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        let refill = async {
            loop {
                self.leases.bell.notified().await;
                self.leases.refill().await;
            }
        };
        let tick = async {
            let now = Instant::now();
            let mut last = Last { look: now, beat: now, count: now, is_behind: false };
            loop {
                match tokio::time::timeout(EVERY, notices.recv()).await {
                    Ok(Some(Notice::Recall(scope))) => self.give_back(&scope).await,
                    Ok(Some(Notice::Changed)) => self.catch_up(shared, &mut last).await,
                    Ok(None) | Err(_) => {}
                }
                self.tick(shared, &mut last).await;
            }
        };
        tokio::join!(listen, refill, tick);
    }

    async fn tick(&self, shared: &dyn Shared, last: &mut Last) {
        if last.look.elapsed() >= EVERY {
            self.catch_up(shared, last).await;
        }
        if last.beat.elapsed() >= BEAT_AT_MOST.min(self.leases.ttl() / 5) {
            last.beat = Instant::now();
            if let Err(error) = self.beat(shared).await {
                tracing::debug!(%error, "no sign of life");
            }
        }
        if last.count.elapsed() >= COUNT_EVERY {
            last.count = Instant::now();
            if let Ok(over) = shared.over_cap().await {
                self.metrics.budgets_over_cap.set(over);
            }
        }
    }

    /// A sign of life; and what is held, for the others to show.
    ///
    /// # Errors
    /// When the database does not answer: leases stay good until they are due.
    pub async fn beat(&self, shared: &dyn Shared) -> Result<(), StoreError> {
        let heard = Instant::now();
        let ttl = i64::try_from(self.leases.ttl().as_secs()).unwrap_or(i64::MAX);
        if shared.beat(ttl).await? == Beat::Lost {
            tracing::warn!(
                "the database has not heard of this gateway for too long: its shares of the budgets are void"
            );
            self.leases.suspend();
            self.leases.forget().await;
            // What was settled out of them must be in the database before new ones are.
            self.journal.flush(self.leases.ttl()).await;
        }
        self.leases.renew(heard);
        for held in self.ledger.leased_holds().chunks(PUBLISHED) {
            shared.publish(held).await?;
        }
        Ok(())
    }

    async fn give_back(&self, scope: &Scope) {
        if let Err(error) = self.leases.give_back(scope).await {
            tracing::debug!(%error, "a lease was not given back yet");
        }
    }

    async fn catch_up(&self, shared: &dyn Shared, last: &mut Last) {
        last.look = Instant::now();
        let result = match shared.changes().await {
            Ok(Some(_)) | Ok(None) if last.is_behind => self.read_everything().await,
            Ok(Some(changes)) => self.read_changes(&changes).await,
            Ok(None) => self.read_everything().await,
            // The next look begins where this one did.
            Err(error) => return tracing::debug!(%error, "no look at what others changed"),
        };
        // Changes that were fetched and could not be followed will not be fetched again.
        last.is_behind = result.is_err();
        if let Err(error) = result {
            tracing::warn!(%error, "changes of other gateways were not read; all is read again");
            self.metrics.follow_failures.inc();
        }
    }

    async fn read_changes(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut distinct: Vec<&Change> = Vec::with_capacity(changes.len());
        for change in changes {
            if !distinct.contains(&change) {
                distinct.push(change);
            }
        }
        for change in distinct {
            // One at a time with the management API, so that the newer reading wins.
            let _turn = self.ledger.turn().await;
            self.read_change(change).await?;
        }
        Ok(())
    }

    async fn read_change(&self, change: &Change) -> Result<(), StoreError> {
        let id = change.id.as_str();
        match change.kind {
            Kind::Key => match self.store.key_get(id).await? {
                Some(row) => self.directory.put_key(&row),
                None => {
                    self.directory.remove_key(id);
                    self.ledger.remove_ceilings_of(id);
                }
            },
            Kind::User => {
                if let Some(row) = self.store.user_find(id).await?
                    && self.ledger.follow_user(&row)
                {
                    self.give_back(&Scope::User(id.into())).await;
                }
            }
            Kind::Budget => {
                match self.store.budget_get(id).await? {
                    Some(row) => self.ledger.put_budget(&row),
                    None => self.ledger.remove_budget(id),
                }
                for scope in self.ledger.leased_under(id) {
                    self.give_back(&scope).await;
                }
            }
            Kind::Price => match self.store.price_history(id).await?.as_slice() {
                [] => self.directory.remove_price(id, None),
                // In one step: a request in between must not find the model without a price.
                rows => self.directory.put_prices(rows),
            },
            Kind::Ceiling => match self.store.ceiling_get(id).await? {
                Some(row) => {
                    if self.ledger.put_ceiling(&row) {
                        self.give_back(&Scope::Ceiling(id.into())).await;
                    }
                }
                None => self.ledger.remove_ceiling(id),
            },
            Kind::Alias | Kind::Setting => {}
        }
        Ok(())
    }

    async fn read_everything(&self) -> Result<(), StoreError> {
        let _turn = self.ledger.turn().await;
        let everything = self.store.everything().await?;
        self.directory.replace(&everything);
        for scope in self.ledger.follow(&everything) {
            self.give_back(&scope).await;
        }
        Ok(())
    }
}
