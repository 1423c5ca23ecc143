//! `model_pricing` in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{Page, PriceRow, StoreError};

macro_rules! columns {
    () => {
        "model_key, effective_at, input_price_per_million, output_price_per_million, created_at, updated_at"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<PriceRow> {
    Ok(PriceRow {
        model_key: row.get(0)?,
        effective_at: row.get::<_, Read<_>>(1)?.0,
        input: row.get::<_, Read<_>>(2)?.0,
        output: row.get::<_, Read<_>>(3)?.0,
        created_at: row.get::<_, Read<_>>(4)?.0,
        updated_at: row.get::<_, Read<_>>(5)?.0,
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
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (model_key, effective_at) DO UPDATE SET
             input_price_per_million = excluded.input_price_per_million,
             output_price_per_million = excluded.output_price_per_million,
             updated_at = excluded.updated_at
         RETURNING ",
        columns!()
    );
    let values = params![
        price.model_key,
        Instant::from(price.effective_at),
        price.input.0,
        price.output.0,
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
