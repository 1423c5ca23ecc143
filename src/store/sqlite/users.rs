//! `users` in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::codec::{Read, allowed, json};
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UserChange, UserRow};

macro_rules! columns {
    () => {
        "user_id, alias, spend, reserved, budget_id, blocked, created_at, updated_at, metadata, budget_started_at, \
         next_budget_reset_at, deleted_at, spend_since, allowed_models"
    };
}

macro_rules! insert {
    () => {
        concat!(
            "INSERT INTO users (",
            columns!(),
            ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
        )
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<UserRow> {
    Ok(UserRow {
        user_id: row.get(0)?,
        alias: row.get(1)?,
        spend: row.get::<_, Read<_>>(2)?.0,
        reserved: row.get::<_, Read<_>>(3)?.0,
        budget_id: row.get(4)?,
        blocked: row.get(5)?,
        created_at: row.get::<_, Read<_>>(6)?.0,
        updated_at: row.get::<_, Read<_>>(7)?.0,
        metadata: row.get::<_, Read<_>>(8)?.0,
        budget_started_at: row.get::<_, Option<Read<_>>>(9)?.map(|at| at.0),
        next_budget_reset_at: row.get::<_, Option<Read<_>>>(10)?.map(|at| at.0),
        deleted_at: row.get::<_, Option<Read<_>>>(11)?.map(|at| at.0),
        spend_since: row.get::<_, Option<Read<_>>>(12)?.map(|at| at.0),
        allowed_models: allowed(row, 13)?,
    })
}

/// Hands the parameters of `insert!` to `run`.
fn with_values<T>(
    user: &UserRow,
    run: impl FnOnce(&[&dyn ToSql]) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let metadata = json(&user.metadata)?;
    let allowed_models = user.allowed_models.as_ref().map(json).transpose()?;
    Ok(run(params![
        user.user_id,
        user.alias,
        user.spend.0,
        user.reserved.0,
        user.budget_id,
        user.blocked,
        Instant::from(user.created_at),
        Instant::from(user.updated_at),
        metadata,
        user.budget_started_at.map(Instant::from),
        user.next_budget_reset_at.map(Instant::from),
        user.deleted_at.map(Instant::from),
        user.spend_since.map(Instant::from),
        allowed_models,
    ])?)
}

pub(super) fn user_all(db: &Connection) -> Result<Vec<UserRow>, StoreError> {
    let sql =
        concat!("-- everything\nSELECT ", columns!(), " FROM users ORDER BY created_at, user_id");
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

/// The owner of a new key; a deleted user of that id is in the way too.
pub(super) fn insert(db: &Connection, user: &UserRow) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(concat!("-- key_create\n", insert!()))?;
    with_values(user, |values| statement.execute(values).map(drop))
        .map_err(|error| error.naming(&user.user_id))
}

pub(super) fn user_create(db: &Connection, user: &UserRow) -> Result<UserRow, StoreError> {
    let sql = concat!(
        "-- user_create\n",
        insert!(),
        " ON CONFLICT (user_id) DO UPDATE SET
             alias = excluded.alias, spend = 0, budget_id = excluded.budget_id, blocked = excluded.blocked,
             updated_at = excluded.updated_at, metadata = excluded.metadata,
             allowed_models = excluded.allowed_models,
             budget_started_at = excluded.budget_started_at,
             next_budget_reset_at = excluded.next_budget_reset_at, deleted_at = NULL,
             spend_since = excluded.updated_at
         WHERE users.deleted_at IS NOT NULL
         RETURNING ",
        columns!()
    );
    let mut statement = db.prepare_cached(sql)?;
    with_values(user, |values| statement.query_row(values, read).optional())?
        .ok_or_else(|| StoreError::Conflict(user.user_id.clone()))
}

pub(super) fn user_list(db: &Connection, page: Page) -> Result<Vec<UserRow>, StoreError> {
    let sql = concat!(
        "-- user_list\nSELECT ",
        columns!(),
        " FROM users WHERE deleted_at IS NULL ORDER BY created_at, user_id LIMIT ?1 OFFSET ?2"
    );
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.query_map([page.limit, page.skip], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn user_get(db: &Connection, user_id: &str) -> Result<Option<UserRow>, StoreError> {
    let sql = concat!(
        "-- user_get\nSELECT ",
        columns!(),
        " FROM users WHERE user_id = ?1 AND deleted_at IS NULL"
    );
    Ok(db.prepare_cached(sql)?.query_row([user_id], read).optional()?)
}

pub(super) fn user_find(db: &Connection, user_id: &str) -> Result<Option<UserRow>, StoreError> {
    let sql = concat!("-- user_find\nSELECT ", columns!(), " FROM users WHERE user_id = ?1");
    Ok(db.prepare_cached(sql)?.query_row([user_id], read).optional()?)
}

pub(super) fn user_update(
    db: &Connection,
    user_id: &str,
    change: &UserChange,
) -> Result<Option<UserRow>, StoreError> {
    let sql = concat!(
        "-- user_update\nUPDATE users SET
             alias = CASE WHEN ?2 THEN ?3 ELSE alias END,
             budget_id = CASE WHEN ?4 THEN ?5 ELSE budget_id END,
             budget_started_at = CASE WHEN ?4 THEN ?6 ELSE budget_started_at END,
             next_budget_reset_at = CASE WHEN ?4 THEN ?7 ELSE next_budget_reset_at END,
             blocked = coalesce(?8, blocked),
             metadata = coalesce(?9, metadata),
             updated_at = max(updated_at, coalesce(?10, updated_at)),
             allowed_models = CASE WHEN ?11 THEN ?12 ELSE allowed_models END
         WHERE user_id = ?1 AND deleted_at IS NULL RETURNING ",
        columns!()
    );
    let budget = change.budget.as_ref().and_then(Option::as_ref);
    let values = params![
        user_id,
        change.alias.is_some(),
        change.alias.as_ref().and_then(Option::as_ref),
        change.budget.is_some(),
        budget.map(|budget| &budget.budget_id),
        budget.map(|budget| Instant::from(budget.started_at)),
        budget.and_then(|budget| budget.ends_at).map(Instant::from),
        change.blocked,
        change.metadata.as_ref().map(json).transpose()?,
        change.updated_at.map(Instant::from),
        change.allowed_models.is_some(),
        change.allowed_models.as_ref().and_then(Option::as_ref).map(json).transpose()?,
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

/// Wants a transaction.
pub(super) fn user_delete(
    db: &Connection,
    user_id: &str,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let user = "-- user_delete\nUPDATE users SET deleted_at = ?2, updated_at = max(updated_at, ?2)
                WHERE user_id = ?1 AND deleted_at IS NULL";
    let keys = "-- user_delete\nUPDATE api_keys SET is_active = 0 WHERE user_id = ?1";
    if db.prepare_cached(user)?.execute(params![user_id, Instant::from(at)])? == 0 {
        return Ok(false);
    }
    db.prepare_cached(keys)?.execute([user_id])?;
    Ok(true)
}
