//! `usage_logs` and `budget_reset_logs` in SQLite: what the journal brings, and what it left.

use std::collections::HashMap;

use otari_filters::settle::{BudgetReset, Entry};
use rusqlite::{Connection, Row, params};

use super::codec::Read;
use crate::store::values::{Instant, MAX_AMOUNT, Usage, amount, clean};
use crate::store::{Applied, Page, StoreError, UsageFilter, UsageRow};

/// Ids that are gone become null here; the caller holds the write lock, so they cannot go in between.
const INSERT: &str = "-- apply
    INSERT INTO usage_logs (id, api_key_id, user_id, timestamp, model, provider, endpoint, prompt_tokens,
        completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms,
        attempt_position, attempt_count, request_group_id, counts_toward_budget)
    VALUES (?1, (SELECT id FROM api_keys WHERE id = ?2), (SELECT user_id FROM users WHERE user_id = ?3), ?4, ?5, ?6,
        ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
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

macro_rules! list {
    ($and:literal) => {
        concat!(
            "-- usage_list
             SELECT l.id, l.api_key_id, k.key_name, l.user_id, u.alias, l.timestamp, l.model, l.provider, l.endpoint,
                 l.prompt_tokens, l.completion_tokens, l.total_tokens, l.cache_read_tokens, l.cost, l.status,
                 l.error_message, l.status_code, l.latency_ms, l.attempt_position, l.attempt_count,
                 l.request_group_id, l.counts_toward_budget
             FROM usage_logs l
             LEFT JOIN api_keys k ON k.id = l.api_key_id
             LEFT JOIN users u ON u.user_id = l.user_id
             WHERE l.timestamp >= coalesce(?1, '') AND l.timestamp < coalesce(?2, ':')",
            $and,
            " ORDER BY l.timestamp DESC, l.id DESC LIMIT ?4 OFFSET ?5"
        )
    };
}

/// One text per index: with an optional user in one text, neither index would be sure to be used.
pub(super) fn usage_list(
    db: &Connection,
    filter: &UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>, StoreError> {
    let sql = if filter.user_id.is_some() {
        list!(" AND l.user_id = ?3")
    } else {
        list!(" AND ?3 IS NULL")
    };
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(
        params![
            filter.start.map(Instant::from),
            filter.end.map(Instant::from),
            filter.user_id,
            page.limit,
            page.skip
        ],
        read,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    Ok(UsageRow {
        id: row.get(0)?,
        api_key_id: row.get(1)?,
        api_key_name: row.get(2)?,
        user_id: row.get(3)?,
        user_alias: row.get(4)?,
        timestamp: row.get::<_, Read<_>>(5)?.0,
        model: row.get(6)?,
        provider: row.get(7)?,
        endpoint: row.get(8)?,
        prompt_tokens: row.get(9)?,
        completion_tokens: row.get(10)?,
        total_tokens: row.get(11)?,
        cache_read_tokens: row.get(12)?,
        cost: row.get::<_, Option<Read<_>>>(13)?.map(|cost| cost.0),
        status: row.get(14)?,
        error_message: row.get(15)?,
        status_code: row.get(16)?,
        latency_ms: row.get(17)?,
        attempt_position: row.get(18)?,
        attempt_count: row.get(19)?,
        request_group_id: row.get(20)?,
        counts_toward_budget: row.get(21)?,
    })
}
