//! `scoped_budgets` in SQLite.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{CeilingChange, CeilingFilter, CeilingRow, Page, StoreError};

macro_rules! columns {
    () => {
        "id, scope_type, scope_id, provider_key_id, budget_id, name, current_spend, period_start, period_end, \
         created_at, updated_at, spend_since"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<CeilingRow> {
    Ok(CeilingRow {
        id: row.get(0)?,
        scope_type: row.get(1)?,
        scope_id: row.get(2)?,
        provider: row.get(3)?,
        budget_id: row.get(4)?,
        name: row.get(5)?,
        current_spend: row.get::<_, Read<_>>(6)?.0,
        period_start: row.get::<_, Option<Read<_>>>(7)?.map(|at| at.0),
        period_end: row.get::<_, Option<Read<_>>>(8)?.map(|at| at.0),
        created_at: row.get::<_, Read<_>>(9)?.0,
        updated_at: row.get::<_, Read<_>>(10)?.0,
        spend_since: row.get::<_, Option<Read<_>>>(11)?.map(|at| at.0),
    })
}

pub(super) fn ceiling_all(db: &Connection) -> Result<Vec<CeilingRow>, StoreError> {
    let sql = concat!("-- everything\nSELECT ", columns!(), " FROM scoped_budgets");
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn ceiling_create(db: &Connection, ceiling: &CeilingRow) -> Result<(), StoreError> {
    let sql = concat!(
        "-- ceiling_create\nINSERT INTO scoped_budgets (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    );
    let inserted = db.prepare_cached(sql)?.execute(params![
        ceiling.id,
        ceiling.scope_type,
        ceiling.scope_id,
        ceiling.provider,
        ceiling.budget_id,
        ceiling.name,
        ceiling.current_spend.0,
        ceiling.period_start.map(Instant::from),
        ceiling.period_end.map(Instant::from),
        Instant::from(ceiling.created_at),
        Instant::from(ceiling.updated_at),
        ceiling.spend_since.map(Instant::from),
    ]);
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&ceiling.scope_id))
}

pub(super) fn ceiling_list(
    db: &Connection,
    filter: &CeilingFilter,
    page: Page,
) -> Result<Vec<CeilingRow>, StoreError> {
    let sql = concat!(
        "-- ceiling_list\nSELECT ",
        columns!(),
        " FROM scoped_budgets WHERE scope_type = coalesce(?1, scope_type) AND scope_id = coalesce(?2, scope_id)
         ORDER BY created_at, id LIMIT ?3 OFFSET ?4"
    );
    let mut statement = db.prepare_cached(sql)?;
    let values = params![filter.scope_type, filter.scope_id, page.limit, page.skip];
    Ok(statement.query_map(values, read)?.collect::<Result<_, _>>()?)
}

pub(super) fn ceiling_get(db: &Connection, id: &str) -> Result<Option<CeilingRow>, StoreError> {
    let sql = concat!("-- ceiling_get\nSELECT ", columns!(), " FROM scoped_budgets WHERE id = ?1");
    Ok(db.prepare_cached(sql)?.query_row([id], read).optional()?)
}

pub(super) fn ceiling_update(
    db: &Connection,
    id: &str,
    change: &CeilingChange,
) -> Result<Option<CeilingRow>, StoreError> {
    let sql = concat!(
        "-- ceiling_update\nUPDATE scoped_budgets SET
             budget_id = coalesce(?2, budget_id),
             period_start = CASE WHEN ?2 IS NULL THEN period_start ELSE ?3 END,
             period_end = CASE WHEN ?2 IS NULL THEN period_end ELSE ?4 END,
             name = CASE WHEN ?5 THEN ?6 ELSE name END,
             updated_at = max(updated_at, coalesce(?7, updated_at))
         WHERE id = ?1 RETURNING ",
        columns!()
    );
    let budget = change.budget.as_ref();
    let values = params![
        id,
        budget.map(|budget| &budget.budget_id),
        budget.map(|budget| Instant::from(budget.started_at)),
        budget.and_then(|budget| budget.ends_at).map(Instant::from),
        change.name.is_some(),
        change.name.as_ref().and_then(Option::as_ref),
        change.updated_at.map(Instant::from),
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

pub(super) fn ceiling_delete(db: &Connection, id: &str) -> Result<bool, StoreError> {
    let sql = "-- ceiling_delete\nDELETE FROM scoped_budgets WHERE id = ?1";
    Ok(db.prepare_cached(sql)?.execute([id])? > 0)
}
