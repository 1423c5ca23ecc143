//! `usage_logs` and `budget_reset_logs` in SQLite: what the journal brings.

use std::collections::HashMap;

use otari_filters::settle::{BudgetReset, Entry};
use rusqlite::{Connection, params};

use crate::store::values::{Instant, MAX_AMOUNT, Usage, amount, clean};
use crate::store::{Applied, StoreError};

/// Ids that are gone become null here; the caller holds the write lock, so they cannot go in between.
const INSERT: &str = "-- apply
    INSERT INTO usage_logs (id, api_key_id, user_id, timestamp, model, provider, endpoint, prompt_tokens,
        completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms,
        attempt_position, attempt_count, request_group_id, counts_toward_budget, cache_write_tokens,
        cache_write_1h_tokens)
    VALUES (?1, (SELECT id FROM api_keys WHERE id = ?2), (SELECT user_id FROM users WHERE user_id = ?3), ?4, ?5, ?6,
        ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)
    ON CONFLICT (id) DO NOTHING";

const SPEND: &str = "-- apply
    UPDATE users SET spend = min(spend + ?2, ?4), updated_at = max(updated_at, ?3)
    WHERE user_id = ?1 AND deleted_at IS NULL";

const RESET: &str = "-- apply
    UPDATE users SET spend = spend - ?5, budget_started_at = ?3, next_budget_reset_at = ?4,
        updated_at = max(updated_at, ?3)
    WHERE user_id = ?1 AND deleted_at IS NULL AND next_budget_reset_at = ?2";

/// A budget that is gone cannot be named, and a reset of it is not worth refusing.
const RESET_LOG: &str = "-- apply
    INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
    SELECT ?1, budget_id, ?3, ?4, ?5 FROM budgets WHERE budget_id = ?2";

pub(super) fn apply(db: &Connection, entries: &[Entry]) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    // One update per user and batch instead of one per row.
    let mut spent = Spent::default();
    for entry in entries {
        let fresh = match entry {
            Entry::Usage(record) => usage(db, &Usage::from(record), &mut spent)?,
            Entry::Reset(reset) => budget_reset(db, reset)?,
        };
        if fresh {
            applied.fresh += 1;
        } else {
            applied.repeated += 1;
        }
    }
    for (user, (cost, at)) in spent {
        db.prepare_cached(SPEND)?.execute(params![user, cost, at, MAX_AMOUNT])?;
    }
    Ok(applied)
}

/// What the new rows of a batch add to each user's spend, and the time of the last.
type Spent = HashMap<String, (i64, Instant)>;

/// Whether the row is new.
fn usage(db: &Connection, usage: &Usage<'_>, spent: &mut Spent) -> Result<bool, StoreError> {
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
    ])?;
    if inserted == 0 {
        return Ok(false);
    }
    if let (Some(user), Some(cost), true) = (&usage.user_id, usage.cost, usage.counts_toward_budget)
    {
        let sum = spent.entry(user.to_string()).or_insert((0, usage.timestamp));
        sum.0 = sum.0.saturating_add(cost);
        sum.1 = sum.1.max(usage.timestamp);
    }
    Ok(true)
}

/// Whether the user still had the deadline that passed.
fn budget_reset(db: &Connection, reset: &BudgetReset) -> Result<bool, StoreError> {
    let (user, at) = (clean(&reset.user_id), Instant::journalled(reset.reset_at_us));
    let next = reset.next_reset_at_us.map(Instant::journalled);
    let due = Instant::journalled(reset.due_at_us);
    if db.prepare_cached(RESET)?.execute(params![
        user,
        due,
        at,
        next,
        amount(reset.previous_spend)
    ])? == 0
    {
        return Ok(false);
    }
    db.prepare_cached(RESET_LOG)?.execute(params![
        user,
        clean(&reset.budget_id),
        amount(reset.previous_spend),
        at,
        next,
    ])?;
    Ok(true)
}
