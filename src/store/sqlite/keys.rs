//! `api_keys` in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::{Read, allowed, json};
use super::users;
use crate::store::values::Instant;
use crate::store::{KeyChange, KeyRow, Page, StoreError, UserRow};

macro_rules! columns {
    () => {
        "id, key_hash, key_name, user_id, created_at, last_used_at, expires_at, is_active, metadata, key_prefix, \
         allowed_models, exclude_from_budget, reject_user_mismatch"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: row.get(0)?,
        key_hash: row.get(1)?,
        key_name: row.get(2)?,
        user_id: row.get(3)?,
        created_at: row.get::<_, Read<_>>(4)?.0,
        last_used_at: row.get::<_, Option<Read<_>>>(5)?.map(|at| at.0),
        expires_at: row.get::<_, Option<Read<_>>>(6)?.map(|at| at.0),
        is_active: row.get(7)?,
        metadata: row.get::<_, Read<_>>(8)?.0,
        key_prefix: row.get(9)?,
        allowed_models: allowed(row, 10)?,
        exclude_from_budget: row.get(11)?,
        reject_user_mismatch: row.get(12)?,
    })
}

pub(super) fn key_all(db: &Connection) -> Result<Vec<KeyRow>, StoreError> {
    let sql =
        concat!("-- everything\nSELECT ", columns!(), " FROM api_keys ORDER BY created_at, id");
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn key_create(
    db: &Connection,
    key: &KeyRow,
    owner: Option<&UserRow>,
) -> Result<(), StoreError> {
    if let Some(owner) = owner {
        users::insert(db, owner)?;
    }
    let sql = concat!(
        "-- key_create\nINSERT INTO api_keys (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    );
    let inserted = db.prepare_cached(sql)?.execute(params![
        key.id,
        key.key_hash,
        key.key_name,
        key.user_id,
        Instant::from(key.created_at),
        key.last_used_at.map(Instant::from),
        key.expires_at.map(Instant::from),
        key.is_active,
        json(&key.metadata)?,
        key.key_prefix,
        key.allowed_models.as_ref().map(json).transpose()?,
        key.exclude_from_budget,
        key.reject_user_mismatch,
    ]);
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&key.id))
}

pub(super) fn key_list(db: &Connection, page: Page) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_list\nSELECT ",
        columns!(),
        " FROM api_keys ORDER BY created_at, id LIMIT ?1 OFFSET ?2"
    );
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.query_map([page.limit, page.skip], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn key_get(db: &Connection, id: &str) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!("-- key_get\nSELECT ", columns!(), " FROM api_keys WHERE id = ?1");
    Ok(db.prepare_cached(sql)?.query_row([id], read).optional()?)
}

/// Keys of a user that are switched on.
pub(super) fn key_active_of(db: &Connection, user_id: &str) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- user_delete\nSELECT ",
        columns!(),
        " FROM api_keys WHERE user_id = ?1 AND is_active ORDER BY created_at, id"
    );
    Ok(db.prepare_cached(sql)?.query_map([user_id], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn key_update(
    db: &Connection,
    id: &str,
    change: &KeyChange,
) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_update\nUPDATE api_keys SET
             key_name = CASE WHEN ?2 THEN ?3 ELSE key_name END,
             is_active = coalesce(?4, is_active),
             expires_at = CASE WHEN ?5 THEN ?6 ELSE expires_at END,
             metadata = coalesce(?7, metadata),
             allowed_models = CASE WHEN ?8 THEN ?9 ELSE allowed_models END,
             reject_user_mismatch = CASE WHEN ?10 THEN ?11 ELSE reject_user_mismatch END
         WHERE id = ?1 RETURNING ",
        columns!()
    );
    let values = params![
        id,
        change.key_name.is_some(),
        change.key_name.as_ref().and_then(Option::as_ref),
        change.is_active,
        change.expires_at.is_some(),
        change.expires_at.flatten().map(Instant::from),
        change.metadata.as_ref().map(json).transpose()?,
        change.allowed_models.is_some(),
        change.allowed_models.as_ref().and_then(Option::as_ref).map(json).transpose()?,
        change.reject_user_mismatch.is_some(),
        change.reject_user_mismatch.flatten(),
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

pub(super) fn key_rotate(
    db: &Connection,
    id: &str,
    key_hash: &str,
    key_prefix: &str,
) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_rotate\nUPDATE api_keys SET key_hash = ?2, key_prefix = ?3, last_used_at = NULL
         WHERE id = ?1 RETURNING ",
        columns!()
    );
    let rotated = db.prepare_cached(sql)?.query_row([id, key_hash, key_prefix], read).optional();
    rotated.map_err(|error| StoreError::from(error).naming(id))
}

/// Wants a transaction.
pub(super) fn key_delete(db: &Connection, id: &str) -> Result<bool, StoreError> {
    let ceilings = "-- key_delete\nDELETE FROM scoped_budgets
                    WHERE scope_type = 'api_token' AND scope_id = ?1";
    let key = "-- key_delete\nDELETE FROM api_keys WHERE id = ?1";
    db.prepare_cached(ceilings)?.execute([id])?;
    Ok(db.prepare_cached(key)?.execute([id])? > 0)
}

/// Only forwards: a slower writer must not take back what a faster one saw.
pub(super) fn key_touch(db: &Connection, used: &[(String, Timestamp)]) -> Result<(), StoreError> {
    let sql = "-- key_touch\nUPDATE api_keys SET last_used_at = ?2
               WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)";
    let mut statement = db.prepare_cached(sql)?;
    for (id, at) in used {
        statement.execute(params![id, Instant::from(*at)])?;
    }
    Ok(())
}
