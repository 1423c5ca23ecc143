//! Keeping in step with the other gateways on a database: signs of life, leases, and what they changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use otari_filters::control::Scope;
use tokio::sync::{Notify, mpsc};

use crate::config::Live;
use crate::control::local::Local;
use crate::control::settings::{MASTER_KEY_HASH, MasterKey, Settings};
use crate::store::{Beat, Change, Kind, Notice, SettingRow, Shared, Store, StoreError};

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

/// Keeps what this gateway has in memory in step with its database.
pub struct Follower {
    /// The database.
    pub store: Arc<dyn Store>,
    /// What is kept in step.
    pub local: Arc<Local>,
    /// What stored aliases and settings are laid over.
    pub live: Live,
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
        loop {
            match self.store.shared() {
                Some(shared) => self.follow(shared).await,
                None => tokio::select! {
                    () = self.count_alone() => {}
                    () = self.local.leases.engaged.notified() => {}
                },
            }
        }
    }

    /// Reads what was changed since everything was read: whoever is about to serve should not be behind.
    pub async fn look(&self) {
        let Some(shared) = self.store.shared() else { return };
        let now = Instant::now();
        let mut last = Last { look: now, beat: now, count: now, is_behind: false };
        self.catch_up(shared, &mut last).await;
    }

    /// A database of one's own: only the invariant is counted.
    async fn count_alone(&self) {
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            let over = i64::try_from(self.local.ledger.over_cap()).unwrap_or(i64::MAX);
            self.local.metrics.budgets_over_cap.set(over);
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
                self.local.leases.bell.notified().await;
                self.local.leases.refill().await;
            }
        };
        // Recalls have a way of their own: whoever asks waits, and must not wait for changes to be read.
        let (recall, mut recalls) = mpsc::channel(NOTICES);
        let changed = Notify::new();
        let sort = async {
            while let Some(notice) = notices.recv().await {
                match notice {
                    Notice::Changed => changed.notify_one(),
                    // A full queue loses one: whoever recalls asks again.
                    Notice::Recall(scope) => drop(recall.try_send(scope)),
                }
            }
        };
        let answer = async {
            while let Some(scope) = recalls.recv().await {
                self.give_back(&scope).await;
            }
        };
        let tick = async {
            let now = Instant::now();
            let mut last = Last { look: now, beat: now, count: now, is_behind: false };
            loop {
                if tokio::time::timeout(EVERY, changed.notified()).await.is_ok() {
                    self.catch_up(shared, &mut last).await;
                }
                self.tick(shared, &mut last).await;
            }
        };
        tokio::join!(listen, sort, answer, refill, tick);
    }

    async fn tick(&self, shared: &dyn Shared, last: &mut Last) {
        if last.look.elapsed() >= EVERY {
            self.catch_up(shared, last).await;
        }
        if last.beat.elapsed() >= BEAT_AT_MOST.min(self.local.leases.ttl() / 5) {
            last.beat = Instant::now();
            if let Err(error) = self.beat(shared).await {
                tracing::debug!(%error, "no sign of life");
            }
        }
        if last.count.elapsed() >= COUNT_EVERY {
            last.count = Instant::now();
            if let Ok(over) = shared.over_cap().await {
                self.local.metrics.budgets_over_cap.set(over);
            }
        }
    }

    /// A sign of life; and what is held, for the others to show.
    ///
    /// # Errors
    /// When the database does not answer: leases stay good until they are due.
    async fn beat(&self, shared: &dyn Shared) -> Result<(), StoreError> {
        let heard = Instant::now();
        let ttl = i64::try_from(self.local.leases.ttl().as_secs()).unwrap_or(i64::MAX);
        if shared.beat(ttl).await? == Beat::Lost {
            tracing::warn!(
                "the database has not heard of this gateway for too long: its shares of the budgets are void"
            );
            self.local.leases.suspend();
            self.local.leases.forget().await;
        }
        // What was settled out of leases that are void must be in the database before there are new ones.
        if self.local.leases.is_suspended()
            && !self.local.journal.flush(self.local.leases.ttl()).await
        {
            return Ok(());
        }
        self.local.leases.renew(heard);
        for held in self.local.ledger.moved_holds().chunks(PUBLISHED) {
            shared.publish(held).await?;
        }
        Ok(())
    }

    async fn give_back(&self, scope: &Scope) {
        if let Err(error) = self.local.leases.give_back(scope).await {
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
            self.local.metrics.follow_failures.inc();
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
            let _turn = self.local.ledger.turn().await;
            self.read_change(change).await?;
        }
        Ok(())
    }

    async fn read_change(&self, change: &Change) -> Result<(), StoreError> {
        let id = change.id.as_str();
        match change.kind {
            Kind::Key => match self.store.key_get(id).await? {
                Some(row) => self.local.directory.put_key(&row),
                None => {
                    self.local.directory.remove_key(id);
                    self.local.ledger.remove_ceilings_of(id);
                }
            },
            Kind::User => {
                let Some(row) = self.store.user_find(id).await? else { return Ok(()) };
                self.local.directory.put_user(&row);
                if self.local.ledger.follow_user(&row) {
                    self.give_back(&Scope::User(id.into())).await;
                }
            }
            Kind::Budget => {
                match self.store.budget_get(id).await? {
                    Some(row) => self.local.ledger.put_budget(&row),
                    None => self.local.ledger.remove_budget(id),
                }
                for scope in self.local.ledger.leased_under(id) {
                    self.give_back(&scope).await;
                }
            }
            Kind::Price => match self.store.price_history(id).await?.as_slice() {
                [] => self.local.directory.remove_price(id, None),
                // In one step: a request in between must not find the model without a price.
                rows => self.local.directory.put_prices(rows),
            },
            Kind::Ceiling => match self.store.ceiling_get(id).await? {
                Some(row) => {
                    if self.local.ledger.put_ceiling(&row) {
                        self.give_back(&Scope::Ceiling(id.into())).await;
                    }
                }
                None => self.local.ledger.remove_ceiling(id),
            },
            Kind::Alias => {
                let stored = self.store.alias_all().await?;
                self.local.directory.set_aliases(&self.live.load().aliases, &stored);
            }
            Kind::Setting => self.put_settings(&self.store.setting_all().await?),
        }
        Ok(())
    }

    async fn read_everything(&self) -> Result<(), StoreError> {
        let _turn = self.local.ledger.turn().await;
        let everything = self.store.everything().await?;
        self.local.directory.replace(&everything);
        self.local.directory.set_aliases(&self.live.load().aliases, &everything.aliases);
        self.put_settings(&everything.settings);
        for scope in self.local.ledger.follow(&everything) {
            self.give_back(&scope).await;
        }
        Ok(())
    }

    /// Settings, and a master key that another gateway has rotated. A configured key is nobody's to change.
    fn put_settings(&self, stored: &[SettingRow]) {
        let config = self.live.load();
        self.local.set(Settings::new(&config, stored));
        let generated = stored.iter().find(|row| row.key == MASTER_KEY_HASH);
        if let Some(row) = generated.filter(|_| config.master_key.is_none()) {
            self.local.master.store(Arc::new(MasterKey::stored(&row.value)));
        }
    }
}
