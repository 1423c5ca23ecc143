//! Batches of calls, row by row, and what a store does with them. Callers' batches at a provider have a row each; those
//! that the gateway runs itself have their items too.

use async_trait::async_trait;
use jiff::Timestamp;
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::settle::UsageRecord;
use serde_json::{Map, Value};

use super::StoreError;

/// A batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRow {
    /// Provider instance.
    pub provider: String,
    /// As callers see it.
    pub id: String,
    /// The provider's own name for it; `None`: the gateway runs it.
    pub upstream_id: Option<String>,
    /// Who made it and pays.
    pub user_id: Option<String>,
    /// With which key; `None`: the master key.
    pub api_key_id: Option<String>,
    /// The model as asked.
    pub selector: String,
    /// The model's name in prices and rows.
    pub model: String,
    /// What each item asks for: `/v1/chat/completions`.
    pub endpoint: String,
    /// As asked: `24h`.
    pub completion_window: String,
    /// As the caller sent it.
    pub metadata: Option<Map<String, Value>>,
    /// The caller's file that the items came from.
    pub input_file_id: Option<String>,
    /// `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling`, `cancelled`.
    pub status: String,
    /// Creation.
    pub created_at: Timestamp,
    /// When the first item was begun.
    pub in_progress_at: Option<Timestamp>,
    /// When somebody cancelled it.
    pub cancelling_at: Option<Timestamp>,
    /// When nothing was left to do.
    pub ended_at: Option<Timestamp>,
    /// When what is not done by then is given up.
    pub expires_at: Option<Timestamp>,
    /// Items.
    pub total: i64,
    /// Of them, those with an answer.
    pub completed: i64,
    /// Of them, those with an error.
    pub failed: i64,
    /// When its provider is to be asked next; `None`: never.
    pub next_poll_at: Option<Timestamp>,
    /// When what it cost was charged; `None`: not yet.
    pub accounted_at: Option<Timestamp>,
    /// Input tokens of all answers.
    pub prompt_tokens: Option<i64>,
    /// Output tokens of all answers.
    pub completion_tokens: Option<i64>,
    /// What was charged.
    pub cost: Option<MicroUsd>,
}

/// What a provider says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchState {
    /// See [`BatchRow::status`].
    pub status: String,
    /// Items, as far as they are known.
    pub total: i64,
    /// Answered ones.
    pub completed: i64,
    /// Failed ones.
    pub failed: i64,
}

/// One call of a batch that the gateway runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// The caller's name for it.
    pub custom_id: String,
    /// A chat completion's body.
    pub body: String,
}

/// One call of a batch that the gateway runs, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchItemRow {
    /// The batch.
    pub batch_id: String,
    /// From 0.
    pub position: i64,
    /// The caller's name for it.
    pub custom_id: String,
    /// A chat completion's body.
    pub body: String,
    /// How often it was begun.
    pub attempts: i64,
    /// Its end; `None`: it has none yet.
    pub outcome: Option<ItemOutcome>,
}

/// How an item ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemOutcome {
    /// HTTP status.
    pub status_code: i32,
    /// The answer, as JSON.
    pub result: Option<String>,
    /// Else why there is none: `{"code", "message"}`.
    pub error: Option<String>,
}

/// Whose batches are listed, and which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchFilter {
    /// This user's alone.
    pub user_id: Option<String>,
    /// This provider's alone.
    pub provider: Option<String>,
    /// Those alone that the gateway runs.
    pub ours_only: bool,
    /// Only older ones than this.
    pub after: Option<String>,
    /// At most so many.
    pub limit: i64,
}

/// What leases items: who, now, until when, how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemLease {
    /// The gateway.
    pub owner: String,
    /// Now: leases that ended before are free.
    pub now: Timestamp,
    /// When this one ends.
    pub until: Timestamp,
    /// At most so many items.
    pub limit: i64,
    /// Providers that want to be left alone.
    pub avoid: Vec<String>,
}

/// What a batch used, to be charged once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounted {
    /// Input tokens of all answers.
    pub prompt_tokens: i64,
    /// Output tokens of all answers.
    pub completion_tokens: i64,
    /// What they cost.
    pub cost: MicroUsd,
}

/// What a batch that was passed on holds of one budget, from its creation until it is charged. It is in the database, and
/// so outlives whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHold {
    /// Whose budget.
    pub scope: Scope,
    /// How much.
    pub amount: MicroUsd,
    /// It comes out of this gateway's lease, which shrinks by so much; when it is given back: it went there.
    pub leased: bool,
}

impl BatchHold {
    /// Whether `record` takes its cost out of this gateway's lease on the same budget.
    pub(super) fn is_drawn_by(&self, record: &UsageRecord) -> bool {
        match &self.scope {
            Scope::User(id) => record.leased && record.user_id.as_ref() == Some(id),
            Scope::Ceiling(id) => {
                record.ceilings.iter().any(|charge| charge.leased && charge.id == *id)
            }
        }
    }
}

/// What a store does with batches.
#[async_trait]
pub trait Batches: Send + Sync {
    /// Inserts a batch, its items and what it holds, all or nothing. `Conflict` names the id that exists. `false`, and
    /// nothing inserted, when a lease that it holds out of is this gateway's no more.
    async fn batch_create(
        &self,
        batch: &BatchRow,
        items: &[NewItem],
        holds: &[BatchHold],
    ) -> Result<bool, StoreError>;
    /// Everything that batches hold, each of them by itself.
    async fn batch_holds(&self) -> Result<Vec<BatchHold>, StoreError>;
    /// Gives back what a batch holds: it will not be charged. Returns it; nothing the second time.
    async fn batch_release(&self, provider: &str, id: &str) -> Result<Vec<BatchHold>, StoreError>;
    /// Batches of this id, of one provider or of all.
    async fn batch_find(
        &self,
        id: &str,
        provider: Option<&str>,
    ) -> Result<Vec<BatchRow>, StoreError>;
    /// Those of these ids at this provider.
    async fn batch_known(
        &self,
        provider: &str,
        ids: &[String],
    ) -> Result<Vec<BatchRow>, StoreError>;
    /// Batches, newest first.
    async fn batch_list(&self, filter: &BatchFilter) -> Result<Vec<BatchRow>, StoreError>;
    /// Notes what a provider says of its batch. `ended`: nothing more will happen to it.
    async fn batch_note(
        &self,
        provider: &str,
        id: &str,
        state: &BatchState,
        ended: Option<Timestamp>,
    ) -> Result<(), StoreError>;
    /// When the provider is to be asked next.
    async fn batch_poll_at(
        &self,
        provider: &str,
        id: &str,
        at: Option<Timestamp>,
    ) -> Result<(), StoreError>;
    /// Begins to cancel a batch that the gateway runs; one that has ended stays as it is. `false`: there is none.
    async fn batch_cancel(&self, id: &str, now: Timestamp) -> Result<bool, StoreError>;
    /// Leases items that nobody works at, of batches that may still run.
    async fn batch_take(&self, lease: &ItemLease) -> Result<Vec<BatchItemRow>, StoreError>;
    /// Makes all leases of a gateway end at `until`.
    async fn batch_renew(&self, owner: &str, until: Timestamp) -> Result<(), StoreError>;
    /// Writes the end of an item and counts it. `false`: the lease is somebody else's by now, or the item has ended.
    async fn batch_item_end(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        outcome: &ItemOutcome,
    ) -> Result<bool, StoreError>;
    /// Gives an item back, to be begun again from `not_before` on.
    async fn batch_item_later(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        not_before: Timestamp,
    ) -> Result<(), StoreError>;
    /// Ends batches that have nothing left to do: all items done, cancelled, or over their time. Items that are being
    /// worked at are waited for. Says how many.
    async fn batch_sweep(&self, now: Timestamp) -> Result<u64, StoreError>;
    /// Items with an end, in their order, after a position.
    async fn batch_items(
        &self,
        batch_id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<BatchItemRow>, StoreError>;
    /// Provider batches whose time to be asked has come; moves that time to `next`, so that one gateway asks.
    async fn batch_due(
        &self,
        now: Timestamp,
        next: Timestamp,
        limit: i64,
    ) -> Result<Vec<BatchRow>, StoreError>;
    /// Charges a batch, unless that was done: its row of usage, the spend, the mark and the end of what it held, all or
    /// nothing. What the record takes out of this gateway's lease comes back to that lease first. Returns what it held;
    /// `None`: it was done.
    async fn batch_account(
        &self,
        provider: &str,
        id: &str,
        accounted: &Accounted,
        record: &UsageRecord,
    ) -> Result<Option<Vec<BatchHold>>, StoreError>;
    /// Removes batches that the gateway ran and that ended before an instant, at most so many; says how many.
    async fn batch_expire(&self, before: Timestamp, at_most: i64) -> Result<u64, StoreError>;
}
