//! `users` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Row, Statement};

use super::codec::{allowed, get, maybe_time, metadata, time};
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UserChange, UserRow};

macro_rules! columns {
    () => {
        "user_id, alias, (spend * 1000000)::int8, (reserved * 1000000)::int8, budget_id, blocked, created_at, \
         updated_at, metadata, budget_started_at, next_budget_reset_at, deleted_at, spend_since, allowed_models"
    };
}

/// Multiplied, not divided: a numeric product keeps every digit.
macro_rules! insert {
    () => {
        "INSERT INTO users (user_id, alias, spend, reserved, budget_id, blocked, created_at, updated_at, metadata, \
             budget_started_at, next_budget_reset_at, deleted_at, spend_since, allowed_models) \
         VALUES ($1, $2, $3::int8 * 0.000001, $4::int8 * 0.000001, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    };
}

fn read(row: &Row) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        user_id: get(row, 0)?,
        alias: get(row, 1)?,
        spend: MicroUsd(get(row, 2)?),
        reserved: MicroUsd(get(row, 3)?),
        budget_id: get(row, 4)?,
        blocked: get(row, 5)?,
        created_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        metadata: metadata(row, 8)?,
        budget_started_at: maybe_time(row, 9)?,
        next_budget_reset_at: maybe_time(row, 10)?,
        deleted_at: maybe_time(row, 11)?,
        spend_since: maybe_time(row, 12)?,
        allowed_models: allowed(row, 13)?,
    })
}

/// Runs `statement` with the parameters of `insert!`.
async fn query(
    db: &impl GenericClient,
    statement: &Statement,
    user: &UserRow,
) -> Result<Option<Row>, StoreError> {
    let values: [&(dyn ToSql + Sync); 14] = [
        &user.user_id,
        &user.alias,
        &user.spend.0,
        &user.reserved.0,
        &user.budget_id,
        &user.blocked,
        &Instant::from(user.created_at),
        &Instant::from(user.updated_at),
        &Json(&user.metadata),
        &user.budget_started_at.map(Instant::from),
        &user.next_budget_reset_at.map(Instant::from),
        &user.deleted_at.map(Instant::from),
        &user.spend_since.map(Instant::from),
        &user.allowed_models.as_ref().map(Json),
    ];
    Ok(db.query_opt(statement, &values).await?)
}

pub(super) async fn user_all(db: &impl GenericClient) -> Result<Vec<UserRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM users ORDER BY created_at, user_id COLLATE \"C\""
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

/// The owner of a new key; a deleted user of that id is in the way too.
pub(super) async fn insert(db: &impl GenericClient, user: &UserRow) -> Result<(), StoreError> {
    let statement = db.prepare_cached(concat!("-- key_create\n", insert!())).await?;
    query(db, &statement, user).await.map(drop).map_err(|error| error.naming(&user.user_id))
}

pub(super) async fn user_create(
    db: &impl GenericClient,
    user: &UserRow,
) -> Result<UserRow, StoreError> {
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
    let statement = db.prepare_cached(sql).await?;
    match query(db, &statement, user).await? {
        Some(row) => read(&row),
        None => Err(StoreError::Conflict(user.user_id.clone())),
    }
}

pub(super) async fn user_list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<UserRow>, StoreError> {
    let sql = concat!(
        "-- user_list\nSELECT ",
        columns!(),
        " FROM users WHERE deleted_at IS NULL ORDER BY created_at, user_id COLLATE \"C\" LIMIT $1 OFFSET $2"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&page.limit, &page.skip]).await?.iter().map(read).collect()
}

pub(super) async fn user_get(
    db: &impl GenericClient,
    user_id: &str,
) -> Result<Option<UserRow>, StoreError> {
    let sql = concat!(
        "-- user_get\nSELECT ",
        columns!(),
        " FROM users WHERE user_id = $1 AND deleted_at IS NULL"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query_opt(&statement, &[&user_id]).await?.as_ref().map(read).transpose()
}

pub(super) async fn user_find(
    db: &impl GenericClient,
    user_id: &str,
) -> Result<Option<UserRow>, StoreError> {
    let sql = concat!("-- user_find\nSELECT ", columns!(), " FROM users WHERE user_id = $1");
    let statement = db.prepare_cached(sql).await?;
    db.query_opt(&statement, &[&user_id]).await?.as_ref().map(read).transpose()
}

pub(super) async fn user_update(
    db: &impl GenericClient,
    user_id: &str,
    change: &UserChange,
) -> Result<Option<UserRow>, StoreError> {
    // `greatest` passes over a null.
    let sql = concat!(
        "-- user_update\nUPDATE users SET
             alias = CASE WHEN $2 THEN $3 ELSE alias END,
             budget_id = CASE WHEN $4 THEN $5 ELSE budget_id END,
             budget_started_at = CASE WHEN $4 THEN $6 ELSE budget_started_at END,
             next_budget_reset_at = CASE WHEN $4 THEN $7 ELSE next_budget_reset_at END,
             blocked = coalesce($8, blocked),
             metadata = coalesce($9, metadata),
             updated_at = greatest(updated_at, $10),
             allowed_models = CASE WHEN $11 THEN $12 ELSE allowed_models END
         WHERE user_id = $1 AND deleted_at IS NULL RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let budget = change.budget.as_ref().and_then(Option::as_ref);
    let changed = db
        .query_opt(
            &statement,
            &[
                &user_id,
                &change.alias.is_some(),
                &change.alias.as_ref().and_then(Option::as_ref),
                &change.budget.is_some(),
                &budget.map(|budget| &budget.budget_id),
                &budget.map(|budget| Instant::from(budget.started_at)),
                &budget.and_then(|budget| budget.ends_at).map(Instant::from),
                &change.blocked,
                &change.metadata.as_ref().map(Json),
                &change.updated_at.map(Instant::from),
                &change.allowed_models.is_some(),
                &change.allowed_models.as_ref().and_then(Option::as_ref).map(Json),
            ],
        )
        .await;
    changed?.as_ref().map(read).transpose()
}

pub(super) async fn user_delete(
    db: &impl GenericClient,
    user_id: &str,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "-- user_delete
        WITH gone AS (
            UPDATE users SET deleted_at = $2, updated_at = greatest(updated_at, $2)
            WHERE user_id = $1 AND deleted_at IS NULL RETURNING user_id
        ), off AS (
            UPDATE api_keys SET is_active = false FROM gone WHERE api_keys.user_id = gone.user_id
        )
        SELECT count(*) FROM gone";
    let statement = db.prepare_cached(sql).await?;
    let row = db.query_one(&statement, &[&user_id, &Instant::from(at)]).await?;
    Ok(get::<i64>(&row, 0)? > 0)
}
