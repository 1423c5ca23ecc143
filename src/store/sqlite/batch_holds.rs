//! `otari_batch_holds` in SQLite.

use rusqlite::{Connection, Row, params};

use crate::store::values::{amount, scope, word};
use crate::store::{BatchHold, BatchRow, StoreError};

fn read(row: &Row<'_>) -> rusqlite::Result<Option<BatchHold>> {
    let (kind, id): (String, String) = (row.get(0)?, row.get(1)?);
    let amount = otari_filters::money::MicroUsd(row.get(2)?);
    Ok(scope(&kind, &id).map(|scope| BatchHold { scope, amount, leased: false }))
}

/// Writes what a batch holds.
pub(super) fn keep(
    db: &Connection,
    batch: &BatchRow,
    holds: &[BatchHold],
) -> Result<(), StoreError> {
    let sql = "-- batch_create
        INSERT INTO otari_batch_holds (provider, batch_id, scope, scope_id, amount) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut insert = db.prepare_cached(sql)?;
    for hold in holds {
        let (kind, id) = word(&hold.scope);
        insert.execute(params![batch.provider, batch.id, kind, id, amount(hold.amount)])?;
    }
    Ok(())
}

/// All of it.
pub(super) fn all(db: &Connection) -> Result<Vec<BatchHold>, StoreError> {
    let sql = "-- batch_holds\nSELECT scope, scope_id, amount FROM otari_batch_holds";
    let rows: Vec<Option<BatchHold>> =
        db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// Takes away what a batch holds, and returns it.
pub(super) fn release(
    db: &Connection,
    provider: &str,
    id: &str,
) -> Result<Vec<BatchHold>, StoreError> {
    let sql = "-- batch_release
        DELETE FROM otari_batch_holds WHERE provider = ?1 AND batch_id = ?2 RETURNING scope, scope_id, amount";
    let rows: Vec<Option<BatchHold>> =
        db.prepare_cached(sql)?.query_map([provider, id], read)?.collect::<Result<_, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}
