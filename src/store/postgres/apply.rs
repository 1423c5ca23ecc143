//! `usage_logs` and `budget_reset_logs` in PostgreSQL: what the journal brings.

use std::borrow::Cow;

use deadpool_postgres::Transaction;
use otari_filters::control::Scope;
use otari_filters::settle::{BudgetReset, Charge, Entry};

use super::codec::{get, racing};
use crate::store::values::{Instant, Usage, clean};
use crate::store::{Applied, StoreError};

/// Locks users, then ceilings, each in one order for all gateways: in the order of their entries they would deadlock.
const LOCK_USERS: &str = "-- apply
    SELECT 1 FROM users WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR NO KEY UPDATE";
const LOCK_CEILINGS: &str = "-- apply
    SELECT 1 FROM scoped_budgets WHERE id = ANY($1::text[]) ORDER BY id FOR NO KEY UPDATE";

/// A run of usage entries and what it adds to each budget, as one statement. Ids that are gone become null; keys are
/// locked so that they cannot go before the foreign key is checked. Sums stop where the column ends. What is older than
/// the last reset of a scope belongs to the period that ended after it. What came out of a lease makes it smaller.
const USAGE: &str = "-- apply
    WITH entry AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
            $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::text[], $13::text[], $14::int8[], $15::int4[],
            $16::int8[], $17::int4[], $18::int4[], $19::text[], $20::bool[], $21::int8[], $22::int8[], $23::bool[],
            $28::text[], $29::text[])
        AS e (id, api_key_id, user_id, at, model, provider, endpoint, prompt_tokens, completion_tokens, total_tokens,
            cost, status, error_message, cache_read_tokens, status_code, latency_ms, attempt_position, attempt_count,
            request_group_id, counts_toward_budget, cache_write_tokens, cache_write_1h_tokens, leased,
            policy_name, selection_reason)
    ), key AS (
        SELECT id FROM api_keys WHERE id = ANY($2::text[]) FOR KEY SHARE
    ), fresh AS (
        INSERT INTO usage_logs (id, api_key_id, user_id, \"timestamp\", model, provider, endpoint, prompt_tokens,
            completion_tokens, total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms,
            attempt_position, attempt_count, request_group_id, counts_toward_budget, cache_write_tokens,
            cache_write_1h_tokens, policy_name, selection_reason)
        SELECT e.id, k.id, u.user_id, e.at, e.model, e.provider, e.endpoint, e.prompt_tokens, e.completion_tokens,
            e.total_tokens, e.cost * 0.000001, e.status, e.error_message, e.cache_read_tokens, e.status_code,
            e.latency_ms, e.attempt_position, e.attempt_count, e.request_group_id, e.counts_toward_budget,
            e.cache_write_tokens, e.cache_write_1h_tokens, e.policy_name, e.selection_reason
        FROM entry e LEFT JOIN key k ON k.id = e.api_key_id LEFT JOIN users u ON u.user_id = e.user_id
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    ), cost AS (
        SELECT DISTINCT ON (e.id) e.id, e.user_id, e.at, e.cost * 0.000001 AS cost, e.leased
        FROM fresh f JOIN entry e ON e.id = f.id
        WHERE e.counts_toward_budget AND e.cost IS NOT NULL
    ), spent AS (
        UPDATE users SET spend = least(users.spend + s.cost, 999999999999.999999),
            updated_at = greatest(users.updated_at, s.at)
        FROM (SELECT c.user_id, sum(c.cost) AS cost, max(c.at) AS at FROM cost c JOIN users u ON u.user_id = c.user_id
            WHERE u.spend_since IS NULL OR c.at >= u.spend_since GROUP BY c.user_id) s
        WHERE users.user_id = s.user_id AND users.deleted_at IS NULL
    ), late AS (
        UPDATE budget_reset_logs SET previous_spend = least(previous_spend + s.cost, 999999999999.999999)
        FROM (SELECT log, sum(cost) AS cost FROM (
            SELECT c.cost, (SELECT l.id FROM budget_reset_logs l WHERE l.user_id = c.user_id AND l.reset_at > c.at
                ORDER BY l.reset_at LIMIT 1) AS log
            FROM cost c JOIN users u ON u.user_id = c.user_id AND c.at < u.spend_since) t GROUP BY log) s
        WHERE budget_reset_logs.id = s.log
    ), charge AS (
        SELECT c.id, c.at, c.cost, t.ceiling, t.leased
        FROM unnest($24::text[], $25::text[], $26::bool[]) AS t (id, ceiling, leased) JOIN cost c ON c.id = t.id
    ), charged AS (
        UPDATE scoped_budgets SET current_spend = least(scoped_budgets.current_spend + s.cost, 999999999999.999999),
            updated_at = greatest(scoped_budgets.updated_at, s.at)
        FROM (SELECT c.ceiling, sum(c.cost) AS cost, max(c.at) AS at
            FROM charge c JOIN scoped_budgets b ON b.id = c.ceiling
            WHERE b.spend_since IS NULL OR c.at >= b.spend_since GROUP BY c.ceiling) s
        WHERE scoped_budgets.id = s.ceiling
    ), drawn AS (
        UPDATE budget_leases SET amount = greatest(budget_leases.amount - s.cost, -999999999999.999999)
        FROM (SELECT 'user' AS scope, user_id AS id, sum(cost) AS cost FROM cost WHERE leased GROUP BY user_id
            UNION ALL
            SELECT 'ceiling', ceiling, sum(cost) FROM charge WHERE leased GROUP BY ceiling) s
        WHERE budget_leases.scope = s.scope AND budget_leases.scope_id = s.id AND budget_leases.gateway_id = $27
    )
    SELECT count(*) FROM fresh";

/// What was spent since is the new period's. A budget that is gone cannot be named, and a reset of it is not worth
/// refusing.
const USER_RESET: &str = "-- apply
    WITH before AS (
        SELECT u.user_id, u.spend, coalesce((SELECT sum(l.cost) FROM usage_logs l WHERE l.user_id = u.user_id
            AND l.\"timestamp\" >= $3 AND l.counts_toward_budget), 0) AS since
        FROM users u WHERE u.user_id = $1 AND u.deleted_at IS NULL AND u.next_budget_reset_at = $2
    ), logged AS (
        INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
        SELECT b.user_id, budgets.budget_id, greatest(b.spend - b.since, 0), $3, $4
        FROM before b JOIN budgets ON budgets.budget_id = $5
    ), reset AS (
        UPDATE users SET spend = before.since, spend_since = $3, budget_started_at = $3, next_budget_reset_at = $4,
            updated_at = greatest(updated_at, $3)
        FROM before WHERE users.user_id = before.user_id RETURNING 1
    )
    SELECT count(*) FROM reset";
const CEILING_RESET: &str = "-- apply
    WITH reset AS (
        UPDATE scoped_budgets SET current_spend = 0, spend_since = $3, period_start = $3, period_end = $4,
            updated_at = greatest(updated_at, $3)
        WHERE id = $1 AND period_end = $2 RETURNING 1
    )
    SELECT count(*) FROM reset WHERE $5::text IS NOT NULL";

/// Wants a transaction of its own. `gateway`: whose leases become smaller.
pub(super) async fn apply(
    db: &Transaction<'_>,
    gateway: &str,
    entries: &[Entry],
) -> Result<Applied, StoreError> {
    lock(db, entries).await?;
    // Resets first: they look for what was spent since among the rows that are there.
    let (usages, resets): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| matches!(entry, Entry::Usage(_)));
    let mut fresh = 0;
    for entry in resets {
        if let Entry::Reset(reset) = entry {
            fresh += budget_reset(db, reset).await?;
        }
    }
    if !usages.is_empty() {
        fresh += usage(db, gateway, &usages).await?;
    }
    let fresh = usize::try_from(fresh).unwrap_or_default();
    Ok(Applied { fresh, repeated: entries.len().saturating_sub(fresh) })
}

async fn lock(db: &Transaction<'_>, entries: &[Entry]) -> Result<(), StoreError> {
    let mut users: Vec<Cow<'_, str>> = Vec::new();
    let mut ceilings: Vec<Cow<'_, str>> = Vec::new();
    for entry in entries {
        match entry {
            Entry::Usage(record) => {
                users.extend(record.user_id.as_deref().map(clean));
                ceilings.extend(record.ceilings.iter().map(|charge| clean(&charge.id)));
            }
            Entry::Reset(BudgetReset { scope: Scope::User(id), .. }) => users.push(clean(id)),
            Entry::Reset(BudgetReset { scope: Scope::Ceiling(id), .. }) => ceilings.push(clean(id)),
            // Connected mode's, which has no database.
            Entry::Report(_) | Entry::Reported(_) => {}
        }
    }
    lock_rows(db, users, ceilings).await
}

/// Locks the rows of scopes, in the order of everybody.
pub(super) async fn lock_rows(
    db: &Transaction<'_>,
    users: Vec<Cow<'_, str>>,
    ceilings: Vec<Cow<'_, str>>,
) -> Result<(), StoreError> {
    for (mut ids, sql) in [(users, LOCK_USERS), (ceilings, LOCK_CEILINGS)] {
        if !ids.is_empty() {
            ids.sort_unstable();
            ids.dedup();
            db.execute(&db.prepare_cached(sql).await?, &[&ids]).await?;
        }
    }
    Ok(())
}

/// How many rows are new.
async fn usage(db: &Transaction<'_>, gateway: &str, run: &[&Entry]) -> Result<i64, StoreError> {
    let records = || {
        run.iter().filter_map(|entry| match entry {
            Entry::Usage(record) => Some(record),
            Entry::Reset(_) | Entry::Report(_) | Entry::Reported(_) => None,
        })
    };
    let rows: Vec<Usage<'_>> = records().map(Usage::from).collect();
    let leased: Vec<bool> = records().map(|record| record.leased).collect();
    let charges: Vec<(Cow<'_, str>, &Charge)> = records()
        .flat_map(|record| record.ceilings.iter().map(|charge| (clean(&record.id), charge)))
        .collect();
    let charged: Vec<&str> = charges.iter().map(|(id, _)| &**id).collect();
    let ceilings: Vec<Cow<'_, str>> = charges.iter().map(|(_, charge)| clean(&charge.id)).collect();
    let ceilings_leased: Vec<bool> = charges.iter().map(|(_, charge)| charge.leased).collect();
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
                &leased,
                &charged,
                &ceilings,
                &ceilings_leased,
                &gateway,
                &all!(policy_name),
                &all!(selection_reason),
            ],
        )
        .await;
    get(&inserted.map_err(|error| racing(&error))?, 0)
}

/// 1 if the scope still had the deadline that passed, else 0.
async fn budget_reset(db: &Transaction<'_>, reset: &BudgetReset) -> Result<i64, StoreError> {
    let (id, sql) = match &reset.scope {
        Scope::User(id) => (clean(id), USER_RESET),
        Scope::Ceiling(id) => (clean(id), CEILING_RESET),
    };
    let statement = db.prepare_cached(sql).await?;
    let row = db
        .query_one(
            &statement,
            &[
                &id,
                &Instant::journalled(reset.due_at_us),
                &Instant::journalled(reset.reset_at_us),
                &reset.next_reset_at_us.map(Instant::journalled),
                &clean(&reset.budget_id),
            ],
        )
        .await;
    get(&row.map_err(|error| racing(&error))?, 0)
}
