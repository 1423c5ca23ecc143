//! What a store keeps, row by row, and the changes that can be made to it.

use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use otari_filters::prices::Prices;
use serde_json::{Map, Value};

use crate::period::Period;

/// An API key. The key itself is not kept, only its digest.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRow {
    /// UUIDv4.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the whole key, prefix included.
    pub key_hash: String,
    /// The first characters of the key, by which people tell keys apart; `None` for keys older than the column.
    pub key_prefix: Option<String>,
    /// Free text.
    pub key_name: Option<String>,
    /// The user who is billed.
    pub user_id: Option<String>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last use, written at most every 300 s.
    pub last_used_at: Option<Timestamp>,
    /// `None`: never.
    pub expires_at: Option<Timestamp>,
    /// `false`: revoked for now.
    pub is_active: bool,
    /// What the key may call, as `instance:model` with an optional `*` at the end; `None`: what its user may.
    pub allowed_models: Option<Vec<String>>,
    /// Its calls are recorded, and neither held nor charged.
    pub exclude_from_budget: bool,
    /// Overrides the setting of the same name; `None` inherits it.
    pub reject_user_mismatch: Option<bool>,
    /// The operator's own data.
    pub metadata: Map<String, Value>,
}

/// A change to an API key: `None` keeps; an inner `None` clears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyChange {
    /// New name.
    pub key_name: Option<Option<String>>,
    /// Revoke or revive.
    pub is_active: Option<bool>,
    /// New expiry.
    pub expires_at: Option<Option<Timestamp>>,
    /// New list.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// Override, or inherit again.
    pub reject_user_mismatch: Option<Option<bool>>,
    /// Replaces the whole object.
    pub metadata: Option<Map<String, Value>>,
}

/// A user: who is billed, and the counters of the running budget period.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRow {
    /// Chosen by the operator.
    pub user_id: String,
    /// Display name.
    pub alias: Option<String>,
    /// Settled spend of the period.
    pub spend: MicroUsd,
    /// Holds written by other software; ours live in memory and never reach the store.
    pub reserved: MicroUsd,
    /// The budget that caps the spend.
    pub budget_id: Option<String>,
    /// What keys without a list of their own may call; `None`: everything.
    pub allowed_models: Option<Vec<String>>,
    /// `true`: every billable request is refused.
    pub blocked: bool,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change of the row.
    pub updated_at: Timestamp,
    /// The operator's own data.
    pub metadata: Map<String, Value>,
    /// Start of the period.
    pub budget_started_at: Option<Timestamp>,
    /// End of the period; `None`: it never ends.
    pub next_budget_reset_at: Option<Timestamp>,
    /// Soft deletion.
    pub deleted_at: Option<Timestamp>,
    /// When `spend` was last zero; `None`: never since the user exists.
    pub spend_since: Option<Timestamp>,
}

/// The budget a user is put under, and the period that begins with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The budget.
    pub budget_id: String,
    /// Start of the period.
    pub started_at: Timestamp,
    /// End of the period; `None`: it never ends.
    pub ends_at: Option<Timestamp>,
}

/// A change to a user: `None` keeps; an inner `None` clears. Spend and holds are not among what can be changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserChange {
    /// New display name.
    pub alias: Option<Option<String>>,
    /// New budget and period; cleared together.
    pub budget: Option<Option<Assignment>>,
    /// New list.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// Block or let in again.
    pub blocked: Option<bool>,
    /// Replaces the whole object.
    pub metadata: Option<Map<String, Value>>,
    /// When; `None` when nothing else is given, and the row stays as it is.
    pub updated_at: Option<Timestamp>,
}

/// A named cap with an optional period. Each user assigned to it has counters of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetRow {
    /// UUIDv4.
    pub budget_id: String,
    /// `None`: no cap. Zero: nothing allowed.
    pub max_budget: Option<MicroUsd>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
    /// Length of the period.
    pub budget_duration_sec: Option<i64>,
    /// Display name.
    pub name: Option<String>,
    /// Periods that end with the calendar, one of `period::ALIGNMENTS`; not beside `budget_duration_sec`.
    pub reset_alignment: Option<String>,
}

impl BudgetRow {
    /// How long its periods are; `None`: they never end.
    pub fn period(&self) -> Option<Period> {
        Period::new(self.budget_duration_sec, self.reset_alignment.as_deref())
    }
}

/// A change to a budget: `None` keeps; an inner `None` clears. Periods that run are not rescheduled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BudgetChange {
    /// New cap.
    pub max_budget: Option<Option<MicroUsd>>,
    /// New length of later periods.
    pub budget_duration_sec: Option<Option<i64>>,
    /// New display name.
    pub name: Option<Option<String>>,
    /// New ends of later periods.
    pub reset_alignment: Option<Option<String>>,
    /// When; `None` when nothing else is given, and the row stays as it is.
    pub updated_at: Option<Timestamp>,
}

/// Who is under a budget, and what they have spent together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetTotals {
    /// Live users.
    pub users: i64,
    /// Their settled spend.
    pub spend: MicroUsd,
    /// Holds of other gateways, as last published.
    pub held: MicroUsd,
}

/// A period of a user that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ResetRow {
    /// Number of the row.
    pub id: i64,
    /// Whose period; `None` when the user is gone.
    pub user_id: Option<String>,
    /// The budget that set it.
    pub budget_id: String,
    /// What was spent in it.
    pub previous_spend: MicroUsd,
    /// When the next period started.
    pub reset_at: Timestamp,
    /// When that one ends.
    pub next_reset_at: Option<Timestamp>,
}

/// A cap over one API key, beside its user's own budget.
#[derive(Clone, Debug, PartialEq)]
pub struct CeilingRow {
    /// UUIDv4.
    pub id: String,
    /// What it is over; `api_token`, the only kind there is here.
    pub scope_type: String,
    /// Id of the key.
    pub scope_id: String,
    /// Only calls to this provider instance count; `None`: all do.
    pub provider: Option<String>,
    /// The budget that sets cap and period.
    pub budget_id: String,
    /// Display name.
    pub name: Option<String>,
    /// Settled spend of the period.
    pub current_spend: MicroUsd,
    /// Start of the period.
    pub period_start: Option<Timestamp>,
    /// End of the period; `None`: it never ends.
    pub period_end: Option<Timestamp>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change of the row.
    pub updated_at: Timestamp,
    /// When `current_spend` was last zero.
    pub spend_since: Option<Timestamp>,
}

/// A change to a ceiling: `None` keeps; an inner `None` clears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CeilingChange {
    /// New budget and period; what was spent stays.
    pub budget: Option<Assignment>,
    /// New display name.
    pub name: Option<Option<String>>,
    /// When; `None` when nothing else is given, and the row stays as it is.
    pub updated_at: Option<Timestamp>,
}

/// Which ceilings.
#[derive(Clone, Debug, Default)]
pub struct CeilingFilter {
    /// Exact.
    pub scope_type: Option<String>,
    /// Exact.
    pub scope_id: Option<String>,
}

impl CeilingFilter {
    /// Those over one API key.
    pub(super) fn of_key(id: &str) -> Self {
        Self { scope_type: Some("api_token".into()), scope_id: Some(id.into()) }
    }
}

/// The price of a model from an instant on. Key: `model_key` and `effective_at`.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceRow {
    /// `provider:model`.
    pub model_key: String,
    /// From when on the price applies.
    pub effective_at: Timestamp,
    /// All rates and tiers.
    pub prices: Prices,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
}

impl PriceRow {
    /// Whether it was in force when it was made. Then it stays so: a clock that was ahead at that time and has been set back
    /// since would otherwise leave the model without a price until it catches up.
    pub fn was_in_force(&self) -> bool {
        self.effective_at <= self.created_at
    }

    /// Whether it is in force now, as far as no newer one is.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.was_in_force() || self.effective_at <= now
    }
}

/// A name that stands for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AliasRow {
    /// UUIDv4.
    pub id: String,
    /// What callers write.
    pub name: String,
    /// `instance:model`.
    pub target: String,
    /// For whom; `None`: for everybody.
    pub user_id: Option<String>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
}

/// A setting changed while the gateway runs. It wins over the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingRow {
    /// Its name.
    pub key: String,
    /// As text.
    pub value: String,
    /// Last change.
    pub updated_at: Timestamp,
}

/// One row of `usage_logs`, with the names that belong to its ids.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    /// UUID.
    pub id: String,
    /// `None` for the master key or a deleted key.
    pub api_key_id: Option<String>,
    /// Name of that key.
    pub api_key_name: Option<String>,
    /// The billed user.
    pub user_id: Option<String>,
    /// Their alias.
    pub user_alias: Option<String>,
    /// End of the call.
    pub timestamp: Timestamp,
    /// Without the provider.
    pub model: String,
    /// Provider instance.
    pub provider: Option<String>,
    /// Route template.
    pub endpoint: String,
    /// Input tokens.
    pub prompt_tokens: Option<i64>,
    /// Output tokens.
    pub completion_tokens: Option<i64>,
    /// Both.
    pub total_tokens: Option<i64>,
    /// Cached input.
    pub cache_read_tokens: Option<i64>,
    /// Input written to a cache, for minutes.
    pub cache_write_tokens: Option<i64>,
    /// Input written to a cache, for an hour.
    pub cache_write_1h_tokens: Option<i64>,
    /// `None` when unpriced.
    pub cost: Option<MicroUsd>,
    /// `success`, `error` or `absorbed`.
    pub status: String,
    /// Why it failed.
    pub error_message: Option<String>,
    /// The provider's HTTP status.
    pub status_code: Option<i32>,
    /// Whole request.
    pub latency_ms: Option<i64>,
    /// `gateway`, or who else wrote the row.
    pub source: String,
    /// The writer's own label.
    pub source_label: Option<String>,
    /// The routing policy that chose the attempt.
    pub policy_name: Option<String>,
    /// Why it did.
    pub selection_reason: Option<String>,
    /// 1 for the first.
    pub attempt_position: Option<i32>,
    /// How many there were.
    pub attempt_count: Option<i32>,
    /// Shared by all attempts of one request.
    pub request_group_id: Option<String>,
    /// Whether the cost was added to the user's spend.
    pub counts_toward_budget: bool,
}

/// A page: rows to skip, then at most so many.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Rows passed over.
    pub skip: i64,
    /// Rows returned, 1 to 1000.
    pub limit: i64,
}

/// Everything the request path needs in memory, read once at start.
#[derive(Debug, Default)]
pub struct Everything {
    /// All keys, whatever their state.
    pub keys: Vec<KeyRow>,
    /// All users, deleted ones included.
    pub users: Vec<UserRow>,
    /// All budgets.
    pub budgets: Vec<BudgetRow>,
    /// All prices.
    pub prices: Vec<PriceRow>,
    /// All ceilings.
    pub ceilings: Vec<CeilingRow>,
    /// All aliases.
    pub aliases: Vec<AliasRow>,
    /// All settings.
    pub settings: Vec<SettingRow>,
}
