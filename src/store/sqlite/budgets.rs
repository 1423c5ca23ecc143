//! `budgets` in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{BudgetChange, BudgetRow, Page, StoreError};

macro_rules! columns {
    () => {
        "budget_id, max_budget, created_at, updated_at, budget_duration_sec"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<BudgetRow> {
    Ok(BudgetRow {
        budget_id: row.get(0)?,
        max_budget: row.get::<_, Option<Read<_>>>(1)?.map(|amount| amount.0),
        created_at: row.get::<_, Read<_>>(2)?.0,
        updated_at: row.get::<_, Read<_>>(3)?.0,
        budget_duration_sec: row.get(4)?,
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
        ") VALUES (?1, ?2, ?3, ?4, ?5)"
    );
    let inserted = db.prepare_cached(sql)?.execute(params![
        budget.budget_id,
        budget.max_budget.map(|amount| amount.0),
        Instant::from(budget.created_at),
        Instant::from(budget.updated_at),
        budget.budget_duration_sec,
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
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

/// Wants a transaction.
pub(super) fn budget_delete(db: &Connection, id: &str, at: Timestamp) -> Result<bool, StoreError> {
    let users =
        "-- budget_delete\nUPDATE users SET budget_id = NULL, updated_at = max(updated_at, ?2)
                 WHERE budget_id = ?1";
    let logs = "-- budget_delete\nDELETE FROM budget_reset_logs WHERE budget_id = ?1";
    let budget = "-- budget_delete\nDELETE FROM budgets WHERE budget_id = ?1";
    db.prepare_cached(users)?.execute(params![id, Instant::from(at)])?;
    db.prepare_cached(logs)?.execute([id])?;
    Ok(db.prepare_cached(budget)?.execute([id])? > 0)
}
