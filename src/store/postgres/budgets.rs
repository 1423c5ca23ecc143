//! `budgets` in PostgreSQL.

use deadpool_postgres::GenericClient;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{BudgetRow, Page, StoreError};

macro_rules! columns {
    () => {
        "budget_id, (max_budget * 1000000)::int8, created_at, updated_at, budget_duration_sec"
    };
}

fn read(row: &Row) -> Result<BudgetRow, StoreError> {
    Ok(BudgetRow {
        budget_id: get(row, 0)?,
        max_budget: get::<Option<i64>>(row, 1)?.map(MicroUsd),
        created_at: time(row, 2)?,
        updated_at: time(row, 3)?,
        budget_duration_sec: get(row, 4)?,
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
        INSERT INTO budgets (budget_id, max_budget, created_at, updated_at, budget_duration_sec)
        VALUES ($1, $2::int8 * 0.000001, $3, $4, $5)";
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
