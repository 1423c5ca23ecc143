//! `model_pricing` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use otari_filters::money::Rate;
use tokio_postgres::Row;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{Page, PriceRow, StoreError};

macro_rules! columns {
    () => {
        "model_key, effective_at, (input_price_per_million * 100000000)::int8, \
         (output_price_per_million * 100000000)::int8, created_at, updated_at"
    };
}

/// By code point, as SQLite sorts: a database's own collation would put `a:b` elsewhere.
macro_rules! order {
    () => {
        " ORDER BY model_key COLLATE \"C\", effective_at DESC"
    };
}

fn read(row: &Row) -> Result<PriceRow, StoreError> {
    Ok(PriceRow {
        model_key: get(row, 0)?,
        effective_at: time(row, 1)?,
        input: Rate(get(row, 2)?),
        output: Rate(get(row, 3)?),
        created_at: time(row, 4)?,
        updated_at: time(row, 5)?,
    })
}

pub(super) async fn price_all(db: &impl GenericClient) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!("-- everything\nSELECT ", columns!(), " FROM model_pricing", order!());
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

pub(super) async fn price_put(
    db: &impl GenericClient,
    price: &PriceRow,
) -> Result<PriceRow, StoreError> {
    let sql = concat!(
        "-- price_put\nINSERT INTO model_pricing
             (model_key, effective_at, input_price_per_million, output_price_per_million, created_at, updated_at)
         VALUES ($1, $2, $3::int8 * 0.00000001, $4::int8 * 0.00000001, $5, $6)
         ON CONFLICT (model_key, effective_at) DO UPDATE SET
             input_price_per_million = excluded.input_price_per_million,
             output_price_per_million = excluded.output_price_per_million,
             updated_at = excluded.updated_at
         RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let put = db
        .query_one(
            &statement,
            &[
                &price.model_key,
                &Instant::from(price.effective_at),
                &price.input.0,
                &price.output.0,
                &Instant::from(price.created_at),
                &Instant::from(price.updated_at),
            ],
        )
        .await;
    read(&put?)
}

pub(super) async fn price_list(
    db: &impl GenericClient,
    page: Page,
) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_list\nSELECT ",
        columns!(),
        " FROM model_pricing",
        order!(),
        " LIMIT $1 OFFSET $2"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&page.limit, &page.skip]).await?.iter().map(read).collect()
}

pub(super) async fn price_get(
    db: &impl GenericClient,
    model_key: &str,
    as_of: Timestamp,
) -> Result<Option<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_get\nSELECT ",
        columns!(),
        " FROM model_pricing WHERE model_key = $1 AND effective_at <= $2 ORDER BY effective_at DESC LIMIT 1"
    );
    let statement = db.prepare_cached(sql).await?;
    let row = db.query_opt(&statement, &[&model_key, &Instant::from(as_of)]).await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn price_history(
    db: &impl GenericClient,
    model_key: &str,
) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_history\nSELECT ",
        columns!(),
        " FROM model_pricing WHERE model_key = $1 ORDER BY effective_at DESC"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[&model_key]).await?.iter().map(read).collect()
}

pub(super) async fn price_delete(
    db: &impl GenericClient,
    model_key: &str,
    effective_at: Option<Timestamp>,
) -> Result<bool, StoreError> {
    let sql = "-- price_delete\nDELETE FROM model_pricing
               WHERE model_key = $1 AND ($2::timestamptz IS NULL OR effective_at = $2)";
    let statement = db.prepare_cached(sql).await?;
    let instant = effective_at.map(Instant::from);
    Ok(db.execute(&statement, &[&model_key, &instant]).await? > 0)
}
