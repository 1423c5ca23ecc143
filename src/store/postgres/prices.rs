//! `model_pricing` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use otari_filters::money::Rate;
use otari_filters::prices::Prices;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{Page, PriceRow, StoreError, tiers};

macro_rules! columns {
    () => {
        "model_key, effective_at, (input_price_per_million * 100000000)::int8, \
         (output_price_per_million * 100000000)::int8, (cache_read_price_per_million * 100000000)::int8, \
         (cache_write_price_per_million * 100000000)::int8, (cache_write_1h_price_per_million * 100000000)::int8, \
         pricing_tiers, created_at, updated_at"
    };
}

/// By code point, as SQLite sorts: a database's own collation would put `a:b` elsewhere.
macro_rules! order {
    () => {
        " ORDER BY model_key COLLATE \"C\", effective_at DESC"
    };
}

fn read(row: &Row) -> Result<PriceRow, StoreError> {
    let rate = |column| Ok::<_, StoreError>(get::<Option<i64>>(row, column)?.map(Rate));
    let model_key: String = get(row, 0)?;
    let prices = Prices::new(Rate(get(row, 2)?), Rate(get(row, 3)?))
        .with_cache(rate(4)?, rate(5)?, rate(6)?)
        // A database that had the column before may hold null in it.
        .with_tiers(tiers::read(
            &model_key,
            get::<Option<Json<_>>>(row, 7)?.map(|json| json.0).unwrap_or_default(),
        ));
    Ok(PriceRow {
        model_key,
        effective_at: time(row, 1)?,
        prices,
        created_at: time(row, 8)?,
        updated_at: time(row, 9)?,
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
             (model_key, effective_at, input_price_per_million, output_price_per_million, cache_read_price_per_million,
              cache_write_price_per_million, cache_write_1h_price_per_million, pricing_tiers, created_at, updated_at)
         VALUES ($1, $2, $3::int8 * 0.00000001, $4::int8 * 0.00000001, $5::int8 * 0.00000001, $6::int8 * 0.00000001,
                 $7::int8 * 0.00000001, $8, $9, $10)
         ON CONFLICT (model_key, effective_at) DO UPDATE SET
             input_price_per_million = excluded.input_price_per_million,
             output_price_per_million = excluded.output_price_per_million,
             cache_read_price_per_million = excluded.cache_read_price_per_million,
             cache_write_price_per_million = excluded.cache_write_price_per_million,
             cache_write_1h_price_per_million = excluded.cache_write_1h_price_per_million,
             pricing_tiers = excluded.pricing_tiers,
             updated_at = excluded.updated_at
         RETURNING ",
        columns!()
    );
    let statement = db.prepare_cached(sql).await?;
    let prices = &price.prices;
    let put = db
        .query_one(
            &statement,
            &[
                &price.model_key,
                &Instant::from(price.effective_at),
                &prices.input.0,
                &prices.output.0,
                &prices.cache_read.map(|rate| rate.0),
                &prices.cache_write.map(|rate| rate.0),
                &prices.cache_write_1h.map(|rate| rate.0),
                &Json(tiers::json(prices.tiers())),
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
