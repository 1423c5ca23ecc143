//! `scoped_budgets` in PostgreSQL.

use deadpool_postgres::GenericClient;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;

use super::codec::{get, maybe_time, time};
use crate::store::values::Instant;
use crate::store::{CeilingChange, CeilingFilter, CeilingRow, Page, StoreError};

macro_rules! columns {
    () => {
        "id, scope_type, scope_id, provider_key_id, budget_id, name, (current_spend * 1000000)::int8, period_start, \
         period_end, created_at, updated_at, spend_since"
    };
}

fn read(row: &Row) -> Result<CeilingRow, StoreError> {
    Ok(CeilingRow {
        id: get(row, 0)?,
        scope_type: get(row, 1)?,
        scope_id: get(row, 2)?,
        provider: get(row, 3)?,
        budget_id: get(row, 4)?,
        name: get(row, 5)?,
        current_spend: MicroUsd(get(row, 6)?),
        period_start: maybe_time(row, 7)?,
        period_end: maybe_time(row, 8)?,
        created_at: time(row, 9)?,
        updated_at: time(row, 10)?,
        spend_since: maybe_time(row, 11)?,
    })
}

pub(super) async fn ceiling_all(db: &impl GenericClient) -> Result<Vec<CeilingRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM scoped_budgets WHERE scope_type = 'api_token'"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

pub(super) async fn ceiling_create(
    db: &impl GenericClient,
    ceiling: &CeilingRow,
) -> Result<(), StoreError> {
    let sql = "-- ceiling_create
        INSERT INTO scoped_budgets (id, scope_type, scope_id, provider_key_id, budget_id, name, current_spend,
            reserved_spend, period_start, period_end, created_at, updated_at, spend_since)
        VALUES ($1, $2, $3, $4, $5, $6, $7::int8 * 0.000001, 0, $8, $9, $10, $11, $12)";
    let statement = db.prepare_cached(sql).await?;
    let inserted = db
        .execute(
            &statement,
            &[
                &ceiling.id,
                &ceiling.scope_type,
                &ceiling.scope_id,
                &ceiling.provider,
                &ceiling.budget_id,
                &ceiling.name,
                &ceiling.current_spend.0,
                &ceiling.period_start.map(Instant::from),
                &ceiling.period_end.map(Instant::from),
                &Instant::from(ceiling.created_at),
                &Instant::from(ceiling.updated_at),
                &ceiling.spend_since.map(Instant::from),
            ],
        )
        .await;
    inserted.map(drop).map_err(|error| StoreError::from(error).naming(&ceiling.scope_id))
}

pub(super) async fn ceiling_list(
    db: &impl GenericClient,
    filter: &CeilingFilter,
    page: Page,
) -> Result<Vec<CeilingRow>, StoreError> {
    let sql = concat!(
        "-- ceiling_list\nSELECT ",
        columns!(),
        " FROM scoped_budgets WHERE scope_type = coalesce($1, scope_type) AND scope_id = coalesce($2, scope_id)
         ORDER BY created_at, id COLLATE \"C\" LIMIT $3 OFFSET $4"
    );
    let statement = db.prepare_cached(sql).await?;
    let rows = db
        .query(&statement, &[&filter.scope_type, &filter.scope_id, &page.limit, &page.skip])
        .await;
    rows?.iter().map(read).collect()
}

pub(super) async fn ceiling_get(
    db: &impl GenericClient,
    id: &str,
) -> Result<Option<CeilingRow>, StoreError> {
    let sql = concat!("-- ceiling_get\nSELECT ", columns!(), " FROM scoped_budgets WHERE id = $1");
    let statement = db.prepare_cached(sql).await?;
    db.query_opt(&statement, &[&id]).await?.as_ref().map(read).transpose()
}

pub(super) async fn ceiling_update(
    db: &impl GenericClient,
    id: &str,
    change: &CeilingChange,
) -> Result<Option<CeilingRow>, StoreError> {
    let sql = concat!(
        "-- ceiling_update\nUPDATE scoped_budgets SET
             budget_id = coalesce($2, budget_id),
             period_start = CASE WHEN $2 IS NULL THEN period_start ELSE $3 END,
             period_end = CASE WHEN $2 IS NULL THEN period_end ELSE $4 END,
             name = CASE WHEN $5 THEN $6 ELSE name END,
             updated_at = greatest(updated_at, $7)
         WHERE id = $1 RETURNING ",
        columns!()
    );
    let budget = change.budget.as_ref();
    let statement = db.prepare_cached(sql).await?;
    let changed = db
        .query_opt(
            &statement,
            &[
                &id,
                &budget.map(|budget| &budget.budget_id),
                &budget.map(|budget| Instant::from(budget.started_at)),
                &budget.and_then(|budget| budget.ends_at).map(Instant::from),
                &change.name.is_some(),
                &change.name.as_ref().and_then(Option::as_ref),
                &change.updated_at.map(Instant::from),
            ],
        )
        .await;
    changed?.as_ref().map(read).transpose()
}

pub(super) async fn ceiling_delete(db: &impl GenericClient, id: &str) -> Result<bool, StoreError> {
    let sql = "-- ceiling_delete\nDELETE FROM scoped_budgets WHERE id = $1";
    let statement = db.prepare_cached(sql).await?;
    Ok(db.execute(&statement, &[&id]).await? > 0)
}
