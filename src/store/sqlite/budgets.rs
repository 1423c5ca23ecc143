//! `budgets` in SQLite.

use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{BudgetChange, BudgetRow, BudgetTotals, Page, ResetRow, StoreError};

macro_rules! columns {
    () => {
        "budget_id, max_budget, created_at, updated_at, budget_duration_sec, name, reset_alignment"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<BudgetRow> {
    Ok(BudgetRow {
        budget_id: row.get(0)?,
        max_budget: row.get::<_, Option<Read<_>>>(1)?.map(|amount| amount.0),
        created_at: row.get::<_, Read<_>>(2)?.0,
        updated_at: row.get::<_, Read<_>>(3)?.0,
        budget_duration_sec: row.get(4)?,
        name: row.get(5)?,
        reset_alignment: row.get(6)?,
    })
}

pub(super) fn budget_all(db: &Connection) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM budgets ORDER BY created_at, budget_id"
    );
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn budget_create(db: &Connection, budget: &BudgetRow) -> Result<(), StoreError> {
    let sql = concat!(
        "-- budget_create\nINSERT INTO budgets (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
    );
    let inserted = db.prepare_cached(sql)?.execute(params![
        budget.budget_id,
        budget.max_budget.map(|amount| amount.0),
        Instant::from(budget.created_at),
        Instant::from(budget.updated_at),
        budget.budget_duration_sec,
        budget.name,
        budget.reset_alignment,
    ]);
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&budget.budget_id))
}

pub(super) fn budget_list(db: &Connection, page: Page) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budget_list\nSELECT ",
        columns!(),
        " FROM budgets ORDER BY created_at, budget_id LIMIT ?1 OFFSET ?2"
    );
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.query_map([page.limit, page.skip], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn budget_get(db: &Connection, id: &str) -> Result<Option<BudgetRow>, StoreError> {
    let sql = concat!("-- budget_get\nSELECT ", columns!(), " FROM budgets WHERE budget_id = ?1");
    Ok(db.prepare_cached(sql)?.query_row([id], read).optional()?)
}

pub(super) fn budget_update(
    db: &Connection,
    id: &str,
    change: &BudgetChange,
) -> Result<Option<BudgetRow>, StoreError> {
    let sql = concat!(
        "-- budget_update\nUPDATE budgets SET
             max_budget = CASE WHEN ?2 THEN ?3 ELSE max_budget END,
             budget_duration_sec = CASE WHEN ?4 THEN ?5 ELSE budget_duration_sec END,
             name = CASE WHEN ?7 THEN ?8 ELSE name END,
             reset_alignment = CASE WHEN ?9 THEN ?10 ELSE reset_alignment END,
             updated_at = max(updated_at, coalesce(?6, updated_at))
         WHERE budget_id = ?1 RETURNING ",
        columns!()
    );
    let values = params![
        id,
        change.max_budget.is_some(),
        change.max_budget.flatten().map(|amount| amount.0),
        change.budget_duration_sec.is_some(),
        change.budget_duration_sec.flatten(),
        change.updated_at.map(Instant::from),
        change.name.is_some(),
        change.name.as_ref().and_then(Option::as_ref),
        change.reset_alignment.is_some(),
        change.reset_alignment.as_ref().and_then(Option::as_ref),
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

pub(super) fn budget_totals(
    db: &Connection,
    gateway: Option<&str>,
    ids: &[String],
) -> Result<Vec<BudgetTotals>, StoreError> {
    let sql = "-- budget_totals\nSELECT count(*), coalesce(sum(spend), 0) FROM users
               WHERE budget_id = ?1 AND deleted_at IS NULL";
    let elsewhere = "-- budget_totals
        SELECT coalesce(sum(h.held), 0) FROM (
            SELECT scope_id, held FROM budget_leases WHERE scope = 'user' AND gateway_id <> ?2
            UNION ALL
            SELECT scope_id, amount FROM otari_batch_holds WHERE scope = 'user') h
        JOIN users u ON u.user_id = h.scope_id WHERE u.budget_id = ?1 AND u.deleted_at IS NULL";
    let mut statement = db.prepare_cached(sql)?;
    let mut elsewhere = db.prepare_cached(elsewhere)?;
    let mut totals = |id: &String| {
        // Who has the file to itself knows by itself what is held.
        let held = match gateway {
            Some(own) => elsewhere.query_row([id, own], |row| Ok(row.get::<_, Read<_>>(0)?.0))?,
            None => MicroUsd::ZERO,
        };
        statement.query_row([id], |row| {
            let spend = row.get::<_, Read<_>>(1)?.0;
            Ok(BudgetTotals { users: row.get(0)?, spend, held })
        })
    };
    Ok(ids.iter().map(&mut totals).collect::<Result<_, _>>()?)
}

pub(super) fn budget_resets(
    db: &Connection,
    id: &str,
    page: Page,
) -> Result<Vec<ResetRow>, StoreError> {
    let sql = "-- budget_resets
        SELECT id, user_id, budget_id, previous_spend, reset_at, next_reset_at FROM budget_reset_logs
        WHERE budget_id = ?1 ORDER BY reset_at DESC, id DESC LIMIT ?2 OFFSET ?3";
    let read = |row: &Row<'_>| {
        Ok(ResetRow {
            id: row.get(0)?,
            user_id: row.get(1)?,
            budget_id: row.get(2)?,
            previous_spend: row.get::<_, Read<_>>(3)?.0,
            reset_at: row.get::<_, Read<_>>(4)?.0,
            next_reset_at: row.get::<_, Option<Read<_>>>(5)?.map(|at| at.0),
        })
    };
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![id, page.limit, page.skip], read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Wants a transaction.
pub(super) fn budget_delete(db: &Connection, id: &str, at: Timestamp) -> Result<bool, StoreError> {
    let ceilings =
        "-- budget_delete\nSELECT EXISTS (SELECT 1 FROM scoped_budgets WHERE budget_id = ?1)";
    let users =
        "-- budget_delete\nUPDATE users SET budget_id = NULL, updated_at = max(updated_at, ?2)
                 WHERE budget_id = ?1";
    let logs = "-- budget_delete\nDELETE FROM budget_reset_logs WHERE budget_id = ?1";
    let budget = "-- budget_delete\nDELETE FROM budgets WHERE budget_id = ?1";
    if db.prepare_cached(ceilings)?.query_row([id], |row| row.get(0))? {
        return Err(StoreError::Conflict(id.to_owned()));
    }
    db.prepare_cached(users)?.execute(params![id, Instant::from(at)])?;
    db.prepare_cached(logs)?.execute([id])?;
    Ok(db.prepare_cached(budget)?.execute([id])? > 0)
}
