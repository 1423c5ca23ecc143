//! `model_pricing` in SQLite.

use jiff::Timestamp;
use otari_filters::money::Rate;
use otari_filters::prices::Prices;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{Page, PriceRow, StoreError, tiers};

macro_rules! columns {
    () => {
        "model_key, effective_at, input_price_per_million, output_price_per_million, cache_read_price_per_million, \
         cache_write_price_per_million, cache_write_1h_price_per_million, pricing_tiers, created_at, updated_at"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<PriceRow> {
    let rate = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Rate));
    let model_key: String = row.get(0)?;
    // Text that is no JSON was written by hand; it reads as a tier that is none.
    let column: String = row.get(7)?;
    let column = serde_json::from_str(&column).unwrap_or_else(|_| column.into());
    let prices = Prices::new(row.get::<_, Read<_>>(2)?.0, row.get::<_, Read<_>>(3)?.0)
        .with_cache(rate(4)?, rate(5)?, rate(6)?)
        .with_tiers(tiers::read(&model_key, column));
    Ok(PriceRow {
        model_key,
        effective_at: row.get::<_, Read<_>>(1)?.0,
        prices,
        created_at: row.get::<_, Read<_>>(8)?.0,
        updated_at: row.get::<_, Read<_>>(9)?.0,
    })
}

pub(super) fn price_all(db: &Connection) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!(
        "-- everything\nSELECT ",
        columns!(),
        " FROM model_pricing ORDER BY model_key, effective_at DESC"
    );
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn price_put(db: &Connection, price: &PriceRow) -> Result<PriceRow, StoreError> {
    let sql = concat!(
        "-- price_put\nINSERT INTO model_pricing (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
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
    let prices = &price.prices;
    let values = params![
        price.model_key,
        Instant::from(price.effective_at),
        prices.input.0,
        prices.output.0,
        prices.cache_read.map(|rate| rate.0),
        prices.cache_write.map(|rate| rate.0),
        prices.cache_write_1h.map(|rate| rate.0),
        tiers::json(prices.tiers()).to_string(),
        Instant::from(price.created_at),
        Instant::from(price.updated_at),
    ];
    Ok(db.prepare_cached(sql)?.query_row(values, read)?)
}

pub(super) fn price_list(db: &Connection, page: Page) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_list\nSELECT ",
        columns!(),
        " FROM model_pricing ORDER BY model_key, effective_at DESC LIMIT ?1 OFFSET ?2"
    );
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.query_map([page.limit, page.skip], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn price_get(
    db: &Connection,
    model_key: &str,
    as_of: Timestamp,
) -> Result<Option<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_get\nSELECT ",
        columns!(),
        " FROM model_pricing WHERE model_key = ?1 AND effective_at <= ?2 ORDER BY effective_at DESC LIMIT 1"
    );
    let values = params![model_key, Instant::from(as_of)];
    Ok(db.prepare_cached(sql)?.query_row(values, read).optional()?)
}

pub(super) fn price_history(db: &Connection, model_key: &str) -> Result<Vec<PriceRow>, StoreError> {
    let sql = concat!(
        "-- price_history\nSELECT ",
        columns!(),
        " FROM model_pricing WHERE model_key = ?1 ORDER BY effective_at DESC"
    );
    Ok(db.prepare_cached(sql)?.query_map([model_key], read)?.collect::<Result<_, _>>()?)
}

pub(super) fn price_delete(
    db: &Connection,
    model_key: &str,
    effective_at: Option<Timestamp>,
) -> Result<bool, StoreError> {
    let sql = "-- price_delete\nDELETE FROM model_pricing
               WHERE model_key = ?1 AND (?2 IS NULL OR effective_at = ?2)";
    let values = params![model_key, effective_at.map(Instant::from)];
    Ok(db.prepare_cached(sql)?.execute(values)? > 0)
}
