//! What standalone mode keeps: keys, users, budgets, prices and usage.
//!
//! Every backend passes the same contract (`contract.rs`). The request path never calls a store: it is read once at
//! start, written by the management API, and fed by the journal.

pub mod postgres;
pub mod sqlite;
mod adopt;
mod audit;
pub mod analytics;
mod files;
mod batches;
mod migrations;
mod rows;
mod shared;
mod tiers;
mod values;

#[cfg(test)]
mod contract;

use std::sync::Arc;

pub use analytics::UsageFilter;
use analytics::{Condensed, Report, Reported};
use async_trait::async_trait;
use jiff::Timestamp;
use otari_filters::settle::Entry;

pub use self::adopt::{Adoption, Origin, Upgrade};
pub use self::audit::{AuditFilter, AuditLog, AuditRow, Author, Shapes};
pub use self::batches::*;
pub use self::files::{FileFilter, FileRow, FileStore, FilesDue};
pub use self::rows::*;
pub use self::shared::{
    Beat, Change, Kind, Notice, RateAsk, RatePlaces, Shared, Take, Taken, Window,
};

/// What [`Store::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries that changed something.
    pub fresh: usize,
    /// Entries that had been applied before.
    pub repeated: usize,
}

/// Why a store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is shutting down; the same call may work later.
    #[error("database unavailable: {message}")]
    Unavailable {
        /// What the driver said; never the URL, which may hold a password.
        message: String,
    },
    /// The database answered and refused the values; the same call will fail again.
    #[error("database refused the operation: {message}")]
    Refused {
        /// What the driver said.
        message: String,
    },
    /// A row with this identity exists already.
    #[error("already exists: {0}")]
    Conflict(String),
    /// The schema is not one this binary can serve.
    #[error("{0}")]
    Schema(String),
}

/// A database. Two of them: SQLite (one process, two while one takes the other's place) and PostgreSQL.
///
/// Money is exact on both: PostgreSQL holds `NUMERIC`, SQLite whole micro-dollars (rates: 1e-8 USD) as `INTEGER`.
#[async_trait]
pub trait Store: FileStore + Batches + AuditLog + Send + Sync {
    /// What the start-up screen calls it, without a password: `sqlite /data/otari.db`, `postgresql db.host/otari`.
    fn label(&self) -> &str;
    /// Answers when the database does.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Brings the schema to this binary's version, and says how. A database of the reference gateway becomes ours, in one
    /// transaction. `Schema` when it cannot: nothing was changed then.
    async fn upgrade(&self) -> Result<Upgrade, StoreError>;
    /// As [`Store::upgrade`]; says how many steps were run.
    async fn migrate(&self) -> Result<usize, StoreError> {
        Ok(self.upgrade().await?.applied())
    }
    /// Refuses a schema this binary does not know or that is older than it needs. Changes nothing.
    async fn schema_check(&self) -> Result<(), StoreError>;
    /// What gateways that share the database need of it; `None` while it has one gateway.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }
    /// As [`Store::shared`], also where this process has the database to itself so far, and could share it.
    fn sharable(&self) -> Option<&dyn Shared> {
        self.shared()
    }
    /// Reads everything the request path needs.
    async fn everything(&self) -> Result<Everything, StoreError>;

    /// Inserts a key and, in the same transaction, its new owner if given. `Conflict` names the id that exists.
    async fn key_create(&self, key: &KeyRow, owner: Option<&UserRow>) -> Result<(), StoreError>;
    /// All keys, oldest first.
    async fn key_list(&self, page: Page) -> Result<Vec<KeyRow>, StoreError>;
    /// One key.
    async fn key_get(&self, id: &str) -> Result<Option<KeyRow>, StoreError>;
    /// Changes a key and returns it as it is now; `None` when there is no such key.
    async fn key_update(&self, id: &str, change: &KeyChange) -> Result<Option<KeyRow>, StoreError>;
    /// Gives a key another secret, never used so far, and returns it as it is now; `None` when there is no such key.
    async fn key_rotate(
        &self,
        id: &str,
        key_hash: &str,
        key_prefix: &str,
    ) -> Result<Option<KeyRow>, StoreError>;
    /// Removes a key and its ceilings; its usage rows stay, without it. `false` when there is no such key.
    async fn key_delete(&self, id: &str) -> Result<bool, StoreError>;
    /// Sets `last_used_at` of several keys; unknown ids are ignored.
    async fn key_touch(&self, used: &[(String, Timestamp)]) -> Result<(), StoreError>;

    /// Inserts a user, or revives a deleted one of that id: spend 0 since `updated_at`, `created_at` and `reserved`
    /// kept.
    /// Returns the row as stored. `Conflict` when a live user of that id exists.
    async fn user_create(&self, user: &UserRow) -> Result<UserRow, StoreError>;
    /// Live users, oldest first.
    async fn user_list(&self, page: Page) -> Result<Vec<UserRow>, StoreError>;
    /// One live user.
    async fn user_get(&self, user_id: &str) -> Result<Option<UserRow>, StoreError>;
    /// One user, deleted or not.
    async fn user_find(&self, user_id: &str) -> Result<Option<UserRow>, StoreError>;
    /// Changes a live user and returns it as it is now; `None` when there is no such user.
    async fn user_update(
        &self,
        user_id: &str,
        change: &UserChange,
    ) -> Result<Option<UserRow>, StoreError>;
    /// Marks a live user as deleted and switches all of its keys off, in one transaction. The row and its usage stay.
    /// `false` when there is no such user.
    async fn user_delete(&self, user_id: &str, at: Timestamp) -> Result<bool, StoreError>;

    /// Inserts a budget.
    async fn budget_create(&self, budget: &BudgetRow) -> Result<(), StoreError>;
    /// All budgets, oldest first.
    async fn budget_list(&self, page: Page) -> Result<Vec<BudgetRow>, StoreError>;
    /// One budget.
    async fn budget_get(&self, budget_id: &str) -> Result<Option<BudgetRow>, StoreError>;
    /// Changes a budget and returns it as it is now; `None` when there is no such budget.
    async fn budget_update(
        &self,
        budget_id: &str,
        change: &BudgetChange,
    ) -> Result<Option<BudgetRow>, StoreError>;
    /// Live users and their spend, for each of these budgets, in their order.
    async fn budget_totals(&self, ids: &[String]) -> Result<Vec<BudgetTotals>, StoreError>;
    /// The periods that ended under a budget, newest first.
    async fn budget_resets(&self, id: &str, page: Page) -> Result<Vec<ResetRow>, StoreError>;
    /// Removes a budget. Its users, deleted ones included, are left without one and keep the dates of their period; its
    /// reset logs go with it, because a log cannot name a budget that is not there. `Conflict` while a ceiling names it.
    /// `false` when there is no such budget.
    async fn budget_delete(&self, budget_id: &str, at: Timestamp) -> Result<bool, StoreError>;

    /// Inserts a ceiling. `Conflict` when one exists for this scope and provider.
    async fn ceiling_create(&self, ceiling: &CeilingRow) -> Result<(), StoreError>;
    /// Ceilings, oldest first.
    async fn ceiling_list(
        &self,
        filter: &CeilingFilter,
        page: Page,
    ) -> Result<Vec<CeilingRow>, StoreError>;
    /// One ceiling.
    async fn ceiling_get(&self, id: &str) -> Result<Option<CeilingRow>, StoreError>;
    /// Changes a ceiling and returns it as it is now; `None` when there is no such ceiling.
    async fn ceiling_update(
        &self,
        id: &str,
        change: &CeilingChange,
    ) -> Result<Option<CeilingRow>, StoreError>;
    /// Removes a ceiling. `false` when there is none.
    async fn ceiling_delete(&self, id: &str) -> Result<bool, StoreError>;

    /// Inserts a price, or replaces the rates of the row with the same key and instant (`created_at` kept).
    /// Returns the row as stored.
    async fn price_put(&self, price: &PriceRow) -> Result<PriceRow, StoreError>;
    /// All prices, by `model_key` ascending, then `effective_at` descending.
    async fn price_list(&self, page: Page) -> Result<Vec<PriceRow>, StoreError>;
    /// The price of exactly this key that applied at `as_of`.
    async fn price_get(
        &self,
        model_key: &str,
        as_of: Timestamp,
    ) -> Result<Option<PriceRow>, StoreError>;
    /// All prices of exactly this key, newest first.
    async fn price_history(&self, model_key: &str) -> Result<Vec<PriceRow>, StoreError>;
    /// Removes the price of this key that is effective from exactly this instant on, or all prices of the key.
    /// `false` when there is none.
    async fn price_delete(
        &self,
        model_key: &str,
        effective_at: Option<Timestamp>,
    ) -> Result<bool, StoreError>;

    /// All aliases, by name, those for everybody first.
    async fn alias_all(&self) -> Result<Vec<AliasRow>, StoreError>;
    /// Inserts an alias, or gives the one of the same name and user another target (`id` and `created_at` kept).
    /// Returns the row as stored.
    async fn alias_put(&self, alias: &AliasRow) -> Result<AliasRow, StoreError>;
    /// Removes the alias of this name for this user, or for everybody. `false` when there is none.
    async fn alias_delete(&self, name: &str, user_id: Option<&str>) -> Result<bool, StoreError>;

    /// All settings, by key.
    async fn setting_all(&self) -> Result<Vec<SettingRow>, StoreError>;
    /// Sets or, without a value, removes settings, all in one transaction.
    async fn setting_put(
        &self,
        changes: &[(String, Option<String>)],
        at: Timestamp,
    ) -> Result<(), StoreError>;
    /// Sets a setting that nobody has set yet. `false` when somebody has; theirs stays.
    async fn setting_add(&self, setting: &SettingRow) -> Result<bool, StoreError>;

    /// Applies journal entries in one transaction, in order, each at most once however often it is called:
    /// a usage record inserts its row and, only if the row is new, adds its cost to a live user's spend and to its
    /// ceilings, and takes it off this gateway's leases; a reset sets spend to zero and logs the period, only while the
    /// scope still has the deadline that passed. A record older than the last reset counts into the period that is over,
    /// so the order of records around a reset is irrelevant.
    /// Keys and users that are gone are written as null.
    async fn apply_all(&self, entries: Arc<[Entry]>) -> Result<Applied, StoreError>;
    /// As [`Self::apply_all`], of entries that are kept elsewhere too.
    async fn apply(&self, entries: &[Entry]) -> Result<Applied, StoreError> {
        self.apply_all(entries.into()).await
    }
    /// Usage rows, newest first, ties by id.
    async fn usage_list(
        &self,
        filter: &UsageFilter,
        page: Page,
    ) -> Result<Vec<UsageRow>, StoreError>;
    /// How many rows [`Store::usage_list`] has in all its pages.
    async fn usage_count(&self, filter: &UsageFilter) -> Result<i64, StoreError>;
    /// What the rows of a window add up to; `filter`'s own window does not count.
    async fn usage_report(
        &self,
        filter: &UsageFilter,
        report: &Report,
    ) -> Result<Reported, StoreError>;
    /// Sums up one hour that ended before `closed`, or one day: the next for which it is due.
    async fn usage_condense(&self, closed: Timestamp) -> Result<Condensed, StoreError>;
    /// Removes at most so many of the oldest rows before an instant; says how many. `None`: another gateway is at it.
    async fn usage_expire(
        &self,
        before: Timestamp,
        at_most: i64,
    ) -> Result<Option<u64>, StoreError>;
}
