//! `api_keys` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::codec::{allowed, get, maybe_time, metadata, time};
use super::users;
use crate::store::values::Instant;
use crate::store::{KeyChange, KeyRow, Page, StoreError, UserRow};

macro_rules! columns {
    () => {
        "id, key_hash, key_name, user_id, created_at, last_used_at, expires_at, is_active, metadata, key_prefix, \
         allowed_models, exclude_from_budget, reject_user_mismatch"
    };
}

fn read(row: &Row) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: get(row, 0)?,
        key_hash: get(row, 1)?,
        key_name: get(row, 2)?,
        user_id: get(row, 3)?,
        created_at: time(row, 4)?,
        last_used_at: maybe_time(row, 5)?,
        expires_at: maybe_time(row, 6)?,
        is_active: get(row, 7)?,
        metadata: metadata(row, 8)?,
        key_prefix: get(row, 9)?,
        allowed_models: allowed(row, 10)?,
        exclude_from_budget: get(row, 11)?,
        reject_user_mismatch: get(row, 12)?,
    })
}

pub(super) async fn key_all(db: &impl GenericClient) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM api_keys ORDER BY created_at, id COLLATE \"C\""
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

/// Wants a transaction.
pub(super) async fn key_create(
    db: &impl GenericClient,
    key: &KeyRow,
    owner: Option<&UserRow>,
) -> Result<(), StoreError> {
    if let Some(owner) = owner {
        users::insert(db, owner).await?;
    }
    let sql = concat!(
        "-- key_create\nINSERT INTO api_keys (",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
    );
    let statement = db.prepare_cached(sql).await?;
    let inserted = db
        .execute(
            &statement,
            &[
                &key.id,
                &key.key_hash,
                &key.key_name,
                &key.user_id,
                &Instant::from(key.created_at),
                &key.last_used_at.map(Instant::from),
                &key.expires_at.map(Instant::from),
                &key.is_active,
                &Json(&key.metadata),
                &key.key_prefix,
                &key.allowed_models.as_ref().map(Json),
                &key.exclude_from_budget,
                &key.reject_user_mismatch,
            ],
        )
        .await;
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&key.id))
}

pub(super) async fn key_list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_list\nSELECT ",
        columns!(),
        " FROM api_keys ORDER BY created_at, id COLLATE \"C\" LIMIT $1 OFFSET $2"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&page.limit, &page.skip]).await?.iter().map(read).collect()
}

pub(super) async fn key_get(
    db: &impl GenericClient,
    id: &str,
) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!("-- key_get\nSELECT ", columns!(), " FROM api_keys WHERE id = $1");
    let statement = db.prepare_cached(sql).await?;
    db.query_opt(&statement, &[&id]).await?.as_ref().map(read).transpose()
}

/// Keys of a user that are switched on.
pub(super) async fn key_active_of(
    db: &impl GenericClient,
    user_id: &str,
) -> Result<Vec<KeyRow>, StoreError> {
    let sql = concat!(
        "-- user_delete\nSELECT ",
        columns!(),
        " FROM api_keys WHERE user_id = $1 AND is_active ORDER BY created_at, id COLLATE \"C\""
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&user_id]).await?.iter().map(read).collect()
}

pub(super) async fn key_update(
    db: &impl GenericClient,
    id: &str,
    change: &KeyChange,
) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_update\nUPDATE api_keys SET
             key_name = CASE WHEN $2 THEN $3 ELSE key_name END,
             is_active = coalesce($4, is_active),
             expires_at = CASE WHEN $5 THEN $6 ELSE expires_at END,
             metadata = coalesce($7, metadata),
             allowed_models = CASE WHEN $8 THEN $9 ELSE allowed_models END,
             reject_user_mismatch = CASE WHEN $10 THEN $11 ELSE reject_user_mismatch END
         WHERE id = $1 RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let changed = db
        .query_opt(
            &statement,
            &[
                &id,
                &change.key_name.is_some(),
                &change.key_name.as_ref().and_then(Option::as_ref),
                &change.is_active,
                &change.expires_at.is_some(),
                &change.expires_at.flatten().map(Instant::from),
                &change.metadata.as_ref().map(Json),
                &change.allowed_models.is_some(),
                &change.allowed_models.as_ref().and_then(Option::as_ref).map(Json),
                &change.reject_user_mismatch.is_some(),
                &change.reject_user_mismatch.flatten(),
            ],
        )
        .await;
    changed?.as_ref().map(read).transpose()
}

pub(super) async fn key_rotate(
    db: &impl GenericClient,
    id: &str,
    key_hash: &str,
    key_prefix: &str,
) -> Result<Option<KeyRow>, StoreError> {
    let sql = concat!(
        "-- key_rotate\nUPDATE api_keys SET key_hash = $2, key_prefix = $3, last_used_at = NULL
         WHERE id = $1 RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let rotated = db.query_opt(&statement, &[&id, &key_hash, &key_prefix]).await;
    let rotated = rotated.map_err(|error| StoreError::from(error).naming(id))?;
    rotated.as_ref().map(read).transpose()
}

pub(super) async fn key_delete(db: &impl GenericClient, id: &str) -> Result<bool, StoreError> {
    let sql = "-- key_delete
        WITH ceilings AS (
            DELETE FROM scoped_budgets WHERE scope_type = 'api_token' AND scope_id = $1
        )
        DELETE FROM api_keys WHERE id = $1";
    let statement = db.prepare_cached(sql).await?;
    Ok(db.execute(&statement, &[&id]).await? > 0)
}

/// Only forwards: a slower replica must not take back what a faster one saw.
pub(super) async fn key_touch(
    db: &impl GenericClient,
    used: &[(String, Timestamp)],
) -> Result<(), StoreError> {
    let sql = "-- key_touch\nUPDATE api_keys SET last_used_at = u.at
        FROM (SELECT id, max(at) AS at FROM unnest($1::text[], $2::timestamptz[]) AS t (id, at) GROUP BY id) u
        WHERE api_keys.id = u.id AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < u.at)";
    let (ids, times): (Vec<&str>, Vec<Instant>) =
        used.iter().map(|(id, at)| (id.as_str(), Instant::from(*at))).unzip();
    let statement = db.prepare_cached(sql).await?;
    db.execute(&statement, &[&ids, &times]).await?;
    Ok(())
}
