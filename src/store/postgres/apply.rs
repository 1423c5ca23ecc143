//! `usage_logs` and `budget_reset_logs` in PostgreSQL: what the journal brings.

use std::borrow::Cow;

use deadpool_postgres::Transaction;
use otari_filters::settle::{BudgetReset, Entry};

use super::codec::{get, racing};
use crate::store::values::{Instant, Usage, amount, clean};
use crate::store::{Applied, StoreError};

/// Locks the users of a batch in one order for all replicas: in the order of their entries they would deadlock.
const LOCK: &str = "-- apply
    SELECT 1 FROM users WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR NO KEY UPDATE";

/// A run of usage entries and what it adds to each user's spend, as one statement. Ids that are gone become null; keys
/// are locked so that they cannot go before the foreign key is checked. The sum stops where the column ends.
const USAGE: &str = "-- apply
    WITH entry AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
            $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::text[], $13::text[], $14::int8[], $15::int4[],
            $16::int8[], $17::int4[], $18::int4[], $19::text[], $20::bool[], $21::int8[], $22::int8[])
        AS e (id, api_key_id, user_id, at, model, provider, endpoint, prompt_tokens, completion_tokens, total_tokens,
            cost, status, error_message, cache_read_tokens, status_code, latency_ms, attempt_position, attempt_count,
            request_group_id, counts_toward_budget, cache_write_tokens, cache_write_1h_tokens)
    ), key AS (
        SELECT id FROM api_keys WHERE id = ANY($2::text[]) FOR KEY SHARE
    ), fresh AS (
        INSERT INTO usage_logs (id, api_key_id, user_id, \"timestamp\", model, provider, endpoint, prompt_tokens,
            completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms,
            attempt_position, attempt_count, request_group_id, counts_toward_budget, cache_write_tokens,
            cache_write_1h_tokens)
        SELECT e.id, k.id, u.user_id, e.at, e.model, e.provider, e.endpoint, e.prompt_tokens, e.completion_tokens,
            e.total_tokens, e.cost * 0.000001, e.status, e.error_message, e.cache_read_tokens, e.status_code,
            e.latency_ms, e.attempt_position, e.attempt_count, e.request_group_id, e.counts_toward_budget,
            e.cache_write_tokens, e.cache_write_1h_tokens
        FROM entry e LEFT JOIN key k ON k.id = e.api_key_id LEFT JOIN users u ON u.user_id = e.user_id
        ON CONFLICT (id) DO NOTHING
        RETURNING user_id, \"timestamp\" AS at, cost, counts_toward_budget
    ), spent AS (
        UPDATE users SET spend = least(users.spend + s.cost, 999999999999.999999),
            updated_at = greatest(users.updated_at, s.at)
        FROM (SELECT user_id, sum(cost) AS cost, max(at) AS at FROM fresh
            WHERE counts_toward_budget AND cost IS NOT NULL GROUP BY user_id) s
        WHERE users.user_id = s.user_id AND users.deleted_at IS NULL
    )
    SELECT count(*) FROM fresh";

/// A budget that is gone cannot be named, and a reset of it is not worth refusing.
const RESET: &str = "-- apply
    WITH reset AS (
        UPDATE users SET spend = spend - $6::int8 * 0.000001, budget_started_at = $3, next_budget_reset_at = $4,
            updated_at = greatest(updated_at, $3)
        WHERE user_id = $1 AND deleted_at IS NULL AND next_budget_reset_at = $2
        RETURNING user_id
    ), logged AS (
        INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
        SELECT r.user_id, b.budget_id, $6::int8 * 0.000001, $3, $4
        FROM reset r JOIN budgets b ON b.budget_id = $5
    )
    SELECT count(*) FROM reset";

/// Wants a transaction of its own.
pub(super) async fn apply(db: &Transaction<'_>, entries: &[Entry]) -> Result<Applied, StoreError> {
    lock(db, entries).await?;
    let mut fresh = 0;
    for run in entries.chunk_by(|a, b| is_usage(a) && is_usage(b)) {
        fresh += match run {
            [Entry::Reset(reset)] => budget_reset(db, reset).await?,
            run => usage(db, run).await?,
        };
    }
    let fresh = usize::try_from(fresh).unwrap_or_default();
    Ok(Applied { fresh, repeated: entries.len().saturating_sub(fresh) })
}

fn is_usage(entry: &Entry) -> bool {
    matches!(entry, Entry::Usage(_))
}

async fn lock(db: &Transaction<'_>, entries: &[Entry]) -> Result<(), StoreError> {
    let mut users: Vec<Cow<'_, str>> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Usage(record) => record.user_id.as_deref().map(clean),
            Entry::Reset(reset) => Some(clean(&reset.user_id)),
        })
        .collect();
    users.sort_unstable();
    users.dedup();
    let statement = db.prepare_cached(LOCK).await?;
    db.execute(&statement, &[&users]).await?;
    Ok(())
}

/// How many rows are new.
async fn usage(db: &Transaction<'_>, run: &[Entry]) -> Result<i64, StoreError> {
    let rows: Vec<Usage<'_>> = run
        .iter()
        .filter_map(|entry| match entry {
            Entry::Usage(record) => Some(Usage::from(record)),
            Entry::Reset(_) => None,
        })
        .collect();
    /// One field of all rows, as an array parameter.
    macro_rules! all {
        ($field:ident) => {
            rows.iter().map(|row| &row.$field).collect::<Vec<_>>()
        };
    }
    let statement = db.prepare_cached(USAGE).await?;
    let inserted = db
        .query_one(
            &statement,
            &[
                &all!(id),
                &all!(api_key_id),
                &all!(user_id),
                &all!(timestamp),
                &all!(model),
                &all!(provider),
                &all!(endpoint),
                &all!(prompt_tokens),
                &all!(completion_tokens),
                &all!(total_tokens),
                &all!(cost),
                &all!(status),
                &all!(error_message),
                &all!(cache_read_tokens),
                &all!(status_code),
                &all!(latency_ms),
                &all!(attempt_position),
                &all!(attempt_count),
                &all!(request_group_id),
                &all!(counts_toward_budget),
                &all!(cache_write_tokens),
                &all!(cache_write_1h_tokens),
            ],
        )
        .await;
    get(&inserted.map_err(|error| racing(&error))?, 0)
}

/// 1 if the user still had the deadline that passed, else 0.
async fn budget_reset(db: &Transaction<'_>, reset: &BudgetReset) -> Result<i64, StoreError> {
    let statement = db.prepare_cached(RESET).await?;
    let row = db
        .query_one(
            &statement,
            &[
                &clean(&reset.user_id),
                &Instant::journalled(reset.due_at_us),
                &Instant::journalled(reset.reset_at_us),
                &reset.next_reset_at_us.map(Instant::journalled),
                &clean(&reset.budget_id),
                &amount(reset.previous_spend),
            ],
        )
        .await;
    get(&row.map_err(|error| racing(&error))?, 0)
}
