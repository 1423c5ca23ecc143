//! `budgets` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;

use super::codec::{get, maybe_time, racing, time};
use crate::store::values::Instant;
use crate::store::{BudgetChange, BudgetRow, BudgetTotals, Page, ResetRow, StoreError};

macro_rules! columns {
    () => {
        "budget_id, (max_budget * 1000000)::int8, created_at, updated_at, budget_duration_sec, name, \
         reset_alignment"
    };
}

fn read(row: &Row) -> Result<BudgetRow, StoreError> {
    Ok(BudgetRow {
        budget_id: get(row, 0)?,
        max_budget: get::<Option<i64>>(row, 1)?.map(MicroUsd),
        created_at: time(row, 2)?,
        updated_at: time(row, 3)?,
        budget_duration_sec: get(row, 4)?,
        name: get(row, 5)?,
        reset_alignment: get(row, 6)?,
    })
}

pub(super) async fn budget_all(db: &impl GenericClient) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM budgets ORDER BY created_at, budget_id COLLATE \"C\""
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

pub(super) async fn budget_create(
    db: &impl GenericClient,
    budget: &BudgetRow,
) -> Result<(), StoreError> {
    let sql = "-- budget_create
        INSERT INTO budgets (budget_id, max_budget, created_at, updated_at, budget_duration_sec, name, reset_alignment)
        VALUES ($1, $2::int8 * 0.000001, $3, $4, $5, $6, $7)";
    let statement = db.prepare_cached(sql).await?;
    let inserted = db
        .execute(
            &statement,
            &[
                &budget.budget_id,
                &budget.max_budget.map(|amount| amount.0),
                &Instant::from(budget.created_at),
                &Instant::from(budget.updated_at),
                &budget.budget_duration_sec,
                &budget.name,
                &budget.reset_alignment,
            ],
        )
        .await;
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&budget.budget_id))
}

pub(super) async fn budget_list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budget_list\nSELECT ",
        columns!(),
        " FROM budgets ORDER BY created_at, budget_id COLLATE \"C\" LIMIT $1 OFFSET $2"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&page.limit, &page.skip]).await?.iter().map(read).collect()
}

pub(super) async fn budget_get(
    db: &impl GenericClient,
    id: &str,
) -> Result<Option<BudgetRow>, StoreError> {
    let sql = concat!("-- budget_get\nSELECT ", columns!(), " FROM budgets WHERE budget_id = $1");
    let statement = db.prepare_cached(sql).await?;
    db.query_opt(&statement, &[&id]).await?.as_ref().map(read).transpose()
}

pub(super) async fn budget_update(
    db: &impl GenericClient,
    id: &str,
    change: &BudgetChange,
) -> Result<Option<BudgetRow>, StoreError> {
    // `greatest` passes over a null.
    let sql = concat!(
        "-- budget_update\nUPDATE budgets SET
             max_budget = CASE WHEN $2 THEN $3::int8 * 0.000001 ELSE max_budget END,
             budget_duration_sec = CASE WHEN $4 THEN $5 ELSE budget_duration_sec END,
             name = CASE WHEN $7 THEN $8 ELSE name END,
             reset_alignment = CASE WHEN $9 THEN $10 ELSE reset_alignment END,
             updated_at = greatest(updated_at, $6)
         WHERE budget_id = $1 RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let changed = db
        .query_opt(
            &statement,
            &[
                &id,
                &change.max_budget.is_some(),
                &change.max_budget.flatten().map(|amount| amount.0),
                &change.budget_duration_sec.is_some(),
                &change.budget_duration_sec.flatten(),
                &change.updated_at.map(Instant::from),
                &change.name.is_some(),
                &change.name.as_ref().and_then(Option::as_ref),
                &change.reset_alignment.is_some(),
                &change.reset_alignment.as_ref().and_then(Option::as_ref),
            ],
        )
        .await;
    changed?.as_ref().map(read).transpose()
}

pub(super) async fn budget_totals(
    db: &impl GenericClient,
    gateway: &str,
    ids: &[String],
) -> Result<Vec<BudgetTotals>, StoreError> {
    let sql = "-- budget_totals
        SELECT count(u.user_id), (coalesce(sum(u.spend), 0) * 1000000)::int8,
            (coalesce(sum(l.held), 0) * 1000000)::int8
        FROM unnest($1::text[]) WITH ORDINALITY AS b (id, at)
        LEFT JOIN users u ON u.budget_id = b.id AND u.deleted_at IS NULL
        LEFT JOIN (SELECT scope_id, sum(held) AS held FROM (
            SELECT scope_id, held FROM budget_leases WHERE scope = 'user' AND gateway_id <> $2
            UNION ALL
            SELECT scope_id, amount FROM otari_batch_holds WHERE scope = 'user') h
            GROUP BY scope_id) l ON l.scope_id = u.user_id
        GROUP BY b.id, b.at ORDER BY b.at";
    let statement = db.prepare_cached(sql).await?;
    let read = |row: &Row| {
        let (spend, held) = (MicroUsd(get(row, 1)?), MicroUsd(get(row, 2)?));
        Ok(BudgetTotals { users: get(row, 0)?, spend, held })
    };
    db.query(&statement, &[&ids, &gateway]).await?.iter().map(read).collect()
}

pub(super) async fn budget_resets(
    db: &impl GenericClient,
    id: &str,
    page: Page,
) -> Result<Vec<ResetRow>, StoreError> {
    let sql = "-- budget_resets
        SELECT id::int8, user_id, budget_id, (previous_spend * 1000000)::int8, reset_at, next_reset_at
        FROM budget_reset_logs WHERE budget_id = $1 ORDER BY reset_at DESC, id DESC LIMIT $2 OFFSET $3";
    let read = |row: &Row| {
        Ok(ResetRow {
            id: get(row, 0)?,
            user_id: get(row, 1)?,
            budget_id: get(row, 2)?,
            previous_spend: MicroUsd(get(row, 3)?),
            reset_at: time(row, 4)?,
            next_reset_at: maybe_time(row, 5)?,
        })
    };
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&id, &page.limit, &page.skip]).await?.iter().map(read).collect()
}

/// Wants a transaction. Users first and in the order of `apply`, then the budget: in another order, or locked as they
/// are found, the two would deadlock.
pub(super) async fn budget_delete(
    db: &impl GenericClient,
    id: &str,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let lock = "-- budget_delete
        SELECT 1 FROM users WHERE budget_id = $1 ORDER BY user_id FOR NO KEY UPDATE";
    let users = "-- budget_delete
        UPDATE users SET budget_id = NULL, updated_at = greatest(updated_at, $2) WHERE budget_id = $1";
    let logs = "-- budget_delete\nDELETE FROM budget_reset_logs WHERE budget_id = $1";
    let ceilings =
        "-- budget_delete\nSELECT EXISTS (SELECT 1 FROM scoped_budgets WHERE budget_id = $1)";
    let budget = "-- budget_delete\nDELETE FROM budgets WHERE budget_id = $1";
    db.execute(&db.prepare_cached(lock).await?, &[&id]).await?;
    db.execute(&db.prepare_cached(users).await?, &[&id, &Instant::from(at)]).await?;
    db.execute(&db.prepare_cached(logs).await?, &[&id]).await?;
    // A user or a log that came in between is in the way; the next try finds it.
    if get(&db.query_one(&db.prepare_cached(ceilings).await?, &[&id]).await?, 0)? {
        return Err(StoreError::Conflict(id.to_owned()));
    }
    let deleted = db.execute(&db.prepare_cached(budget).await?, &[&id]).await;
    Ok(deleted.map_err(|error| racing(&error))? > 0)
}
