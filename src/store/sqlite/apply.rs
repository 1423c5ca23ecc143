//! `usage_logs` and `budget_reset_logs` in SQLite: what the journal brings.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use otari_filters::control::Scope;
use otari_filters::settle::{BudgetReset, Entry, UsageRecord};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use super::leases;
use crate::store::analytics::plan::Grain;
use crate::store::values::{Instant, MAX_AMOUNT, Usage, clean};
use crate::store::{Applied, StoreError};

/// Ids that are gone become null; the caller holds the write lock, so they cannot go in between.
const KEY_IS_THERE: &str = "-- apply\nSELECT 1 FROM api_keys WHERE id = ?1";
const USER_IS_THERE: &str = "-- apply\nSELECT 1 FROM users WHERE user_id = ?1";

const INSERT: &str = "-- apply
    INSERT INTO usage_logs (id, api_key_id, user_id, timestamp, model, provider, endpoint, prompt_tokens,
        completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms,
        attempt_position, attempt_count, request_group_id, counts_toward_budget, cache_write_tokens,
        cache_write_1h_tokens, policy_name, selection_reason)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)
    ON CONFLICT (id) DO NOTHING";

/// What the trigger on new rows does, once for a batch.
const MARK: &str = "-- apply\nINSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (?1)";

/// What the last reset of a user or a ceiling left standing.
const USER_SINCE: &str = "-- apply
    SELECT spend_since FROM users WHERE user_id = ?1 AND deleted_at IS NULL";
const CEILING_SINCE: &str = "-- apply\nSELECT spend_since FROM scoped_budgets WHERE id = ?1";

const USER_SPEND: &str = "-- apply
    UPDATE users SET spend = min(spend + ?2, ?4), updated_at = max(updated_at, ?3) WHERE user_id = ?1";
const CEILING_SPEND: &str = "-- apply
    UPDATE scoped_budgets SET current_spend = min(current_spend + ?2, ?4), updated_at = max(updated_at, ?3)
    WHERE id = ?1";

/// What is older than the last reset belongs to the period that ended after it.
const LATE: &str = "-- apply
    UPDATE budget_reset_logs SET previous_spend = min(previous_spend + ?3, ?4) WHERE id = (
        SELECT id FROM budget_reset_logs WHERE user_id = ?1 AND reset_at > ?2 ORDER BY reset_at LIMIT 1)";

/// What was spent since is the new period's.
macro_rules! since {
    () => {
        "coalesce((SELECT sum(l.cost) FROM usage_logs l WHERE l.user_id = users.user_id AND l.timestamp >= ?3
            AND l.counts_toward_budget), 0)"
    };
}
const USER_RESET: &str = concat!(
    "-- apply\nUPDATE users SET spend = ",
    since!(),
    ", spend_since = ?3, budget_started_at = ?3, next_budget_reset_at = ?4, updated_at = max(updated_at, ?3)
     WHERE user_id = ?1 AND deleted_at IS NULL AND next_budget_reset_at = ?2"
);
const CEILING_RESET: &str = "-- apply
    UPDATE scoped_budgets SET current_spend = 0, spend_since = ?3, period_start = ?3, period_end = ?4,
        updated_at = max(updated_at, ?3)
    WHERE id = ?1 AND period_end = ?2";

/// Before the reset. A budget that is gone cannot be named, and a reset of it is not worth refusing.
const RESET_LOG: &str = concat!(
    "-- apply
     INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
     SELECT users.user_id, b.budget_id, max(users.spend - ",
    since!(),
    ", 0), ?3, ?4 FROM users JOIN budgets b ON b.budget_id = ?5
     WHERE users.user_id = ?1 AND users.deleted_at IS NULL AND users.next_budget_reset_at = ?2"
);

/// Which keys and users of a batch are there: a batch has many rows of few.
#[derive(Default)]
struct Known<'a> {
    keys: Ids<'a>,
    users: Ids<'a>,
}

#[derive(Default)]
struct Ids<'a>(HashMap<Cow<'a, str>, bool>);

impl<'a> Ids<'a> {
    fn if_there(
        &mut self,
        db: &Connection,
        sql: &str,
        id: Option<Cow<'a, str>>,
    ) -> Result<Option<Cow<'a, str>>, StoreError> {
        let Some(id) = id else { return Ok(None) };
        let is_there = match self.0.get(&id) {
            Some(is_there) => *is_there,
            None => {
                let is_there = db.prepare_cached(sql)?.exists([&id])?;
                self.0.insert(id.clone(), is_there);
                is_there
            }
        };
        Ok(is_there.then_some(id))
    }
}

/// Costs of a batch and their times, by scope: one update per scope instead of one per row.
type Spent = HashMap<Scope, Vec<(Instant, i64)>>;

/// `gateway`: whose leases become smaller, where there are any.
pub(super) fn apply(
    db: &Connection,
    gateway: Option<&str>,
    entries: &[Entry],
) -> Result<Applied, StoreError> {
    let mut fresh = 0;
    // Resets first: they look for what was spent since among the rows that are there.
    for entry in entries {
        if let Entry::Reset(reset) = entry {
            fresh += usize::from(budget_reset(db, reset)?);
        }
    }
    let (mut spent, mut hours) = (Spent::new(), BTreeSet::new());
    let mut known = Known::default();
    let mut drawn = HashMap::new();
    without_triggers(db, || {
        for entry in entries {
            if let Entry::Usage(record) = entry
                && usage(db, record, &mut known, &mut spent)?
            {
                fresh += 1;
                if gateway.is_some() {
                    draw(record, &mut drawn);
                }
                hours.insert(Instant::journalled(record.timestamp_us).start_of(Grain::Hour));
            }
        }
        Ok(())
    })?;
    for hour in hours {
        db.prepare_cached(MARK)?.execute([hour])?;
    }
    for (scope, costs) in spent {
        add(db, &scope, &costs)?;
    }
    if let Some(gateway) = gateway {
        drawn.iter().try_for_each(|(scope, cost)| leases::draw(db, gateway, scope, *cost))?;
    }
    Ok(Applied { fresh, repeated: entries.len() - fresh })
}

/// Adds what a record takes out of leases.
fn draw(record: &UsageRecord, drawn: &mut HashMap<Scope, i64>) {
    let usage = Usage::from(record);
    let Some(cost) = usage.cost.filter(|_| usage.counts_toward_budget) else { return };
    let user = record.user_id.iter().filter(|_| record.leased).map(|id| Scope::User(id.clone()));
    let ceilings = record.ceilings.iter().filter(|charge| charge.leased);
    for scope in user.chain(ceilings.map(|charge| Scope::Ceiling(charge.id.clone()))) {
        let sum = drawn.entry(scope).or_default();
        *sum = sum.saturating_add(cost);
    }
}

/// A trigger per row costs more than half of what the row itself costs, and to look for its key and user again a part.
/// Triggers are for who writes rows by hand; that keys and users are there is known here.
fn without_triggers<T>(
    db: &Connection,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let switch = |is_on| -> Result<(), StoreError> {
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, is_on)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, is_on)?;
        Ok(())
    };
    switch(false)?;
    let result = work();
    switch(true)?;
    result
}

/// Whether the row is new.
fn usage<'a>(
    db: &Connection,
    record: &'a UsageRecord,
    known: &mut Known<'a>,
    spent: &mut Spent,
) -> Result<bool, StoreError> {
    let mut usage = Usage::from(record);
    usage.api_key_id = known.keys.if_there(db, KEY_IS_THERE, usage.api_key_id)?;
    usage.user_id = known.users.if_there(db, USER_IS_THERE, usage.user_id)?;
    let inserted = db.prepare_cached(INSERT)?.execute(params![
        usage.id,
        usage.api_key_id,
        usage.user_id,
        usage.timestamp,
        usage.model,
        usage.provider,
        usage.endpoint,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cost,
        usage.status,
        usage.error_message,
        usage.cache_read_tokens,
        usage.status_code,
        usage.latency_ms,
        usage.attempt_position,
        usage.attempt_count,
        usage.request_group_id,
        usage.counts_toward_budget,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.policy_name,
        usage.selection_reason,
    ])?;
    if inserted == 0 {
        return Ok(false);
    }
    if let Some(cost) = usage.cost.filter(|_| usage.counts_toward_budget) {
        let user = record.user_id.iter().map(|id| Scope::User(id.clone()));
        let ceilings = record.ceilings.iter().map(|charge| Scope::Ceiling(charge.id.clone()));
        for scope in user.chain(ceilings) {
            spent.entry(scope).or_default().push((usage.timestamp, cost));
        }
    }
    Ok(true)
}

/// Adds costs to a scope's spend, or to the log of the period they belong to.
fn add(db: &Connection, scope: &Scope, costs: &[(Instant, i64)]) -> Result<(), StoreError> {
    let (id, since, spend) = match scope {
        Scope::User(id) => (clean(id), USER_SINCE, USER_SPEND),
        Scope::Ceiling(id) => (clean(id), CEILING_SINCE, CEILING_SPEND),
    };
    let since = db.prepare_cached(since)?.query_row([&id], |row| row.get(0)).optional()?;
    let Some(since): Option<Option<Instant>> = since else { return Ok(()) };
    let is_late = |at: &Instant| since.is_some_and(|since| *at < since);
    let mut sum: Option<(i64, Instant)> = None;
    for (at, cost) in costs {
        if !is_late(at) {
            let (total, last) = sum.unwrap_or((0, *at));
            sum = Some((total.saturating_add(*cost), last.max(*at)));
        } else if matches!(scope, Scope::User(_)) {
            db.prepare_cached(LATE)?.execute(params![id, at, cost, MAX_AMOUNT])?;
        }
    }
    if let Some((total, last)) = sum {
        db.prepare_cached(spend)?.execute(params![id, total, last, MAX_AMOUNT])?;
    }
    Ok(())
}

/// Whether the scope still had the deadline that passed.
fn budget_reset(db: &Connection, reset: &BudgetReset) -> Result<bool, StoreError> {
    let (due, at) = (Instant::journalled(reset.due_at_us), Instant::journalled(reset.reset_at_us));
    let next = reset.next_reset_at_us.map(Instant::journalled);
    let (id, sql) = match &reset.scope {
        Scope::User(id) => {
            let id = clean(id);
            let budget = clean(&reset.budget_id);
            db.prepare_cached(RESET_LOG)?.execute(params![id, due, at, next, budget])?;
            (id, USER_RESET)
        }
        Scope::Ceiling(id) => (clean(id), CEILING_RESET),
    };
    Ok(db.prepare_cached(sql)?.execute(params![id, due, at, next])? > 0)
}
