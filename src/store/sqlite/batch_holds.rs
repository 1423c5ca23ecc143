//! `otari_batch_holds` in SQLite.

use otari_filters::money::MicroUsd;
use otari_filters::settle::UsageRecord;
use rusqlite::{Connection, Row, params};

use super::leases;
use crate::store::values::{amount, scope, word};
use crate::store::{BatchHold, BatchRow, StoreError};

fn read(row: &Row<'_>) -> rusqlite::Result<Option<BatchHold>> {
    let (kind, id): (String, String) = (row.get(0)?, row.get(1)?);
    let amount = MicroUsd(row.get(2)?);
    Ok(scope(&kind, &id).map(|scope| BatchHold { scope, amount, leased: false }))
}

/// Takes away what a batch holds that is charged now, and returns it: what a lease pays for goes into that lease.
pub(super) fn charge(
    db: &Connection,
    gateway: Option<&str>,
    (provider, id): (&str, &str),
    record: &UsageRecord,
) -> Result<Vec<BatchHold>, StoreError> {
    let mut held = release(db, provider, id)?;
    let Some(gateway) = gateway else { return Ok(held) };
    held.iter_mut().for_each(|hold| hold.leased = hold.is_drawn_by(record));
    let back =
        |hold: &BatchHold| BatchHold { amount: MicroUsd::ZERO - hold.amount, ..hold.clone() };
    if !leases::lend(db, gateway, &held.iter().map(back).collect::<Vec<_>>())? {
        let message = "this gateway's part of the budget was given to others".to_owned();
        return Err(StoreError::Unavailable { message });
    }
    Ok(held)
}

/// Takes what a batch will hold out of the leases of this process, where it has any. `false`, and nothing changed: one of
/// them is this process's no more.
pub(super) fn lend(
    db: &Connection,
    gateway: Option<&str>,
    holds: &[BatchHold],
) -> Result<bool, StoreError> {
    gateway.map_or(Ok(true), |gateway| leases::lend(db, gateway, holds))
}

/// Writes what a batch holds.
pub(super) fn keep(
    db: &Connection,
    batch: &BatchRow,
    holds: &[BatchHold],
) -> Result<bool, StoreError> {
    let sql = "-- batch_create
        INSERT INTO otari_batch_holds (provider, batch_id, scope, scope_id, amount) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut insert = db.prepare_cached(sql)?;
    for hold in holds {
        let (kind, id) = word(&hold.scope);
        insert.execute(params![batch.provider, batch.id, kind, id, amount(hold.amount)])?;
    }
    Ok(true)
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
