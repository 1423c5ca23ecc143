//! `model_aliases` in SQLite.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{AliasRow, StoreError};

macro_rules! columns {
    () => {
        "id, name, target, user_id, created_at, updated_at"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<AliasRow> {
    Ok(AliasRow {
        id: row.get(0)?,
        name: row.get(1)?,
        target: row.get(2)?,
        user_id: row.get(3)?,
        created_at: row.get::<_, Read<_>>(4)?.0,
        updated_at: row.get::<_, Read<_>>(5)?.0,
    })
}

pub(super) fn alias_all(db: &Connection) -> Result<Vec<AliasRow>, StoreError> {
    let sql = concat!(
        "-- alias_all\nSELECT ",
        columns!(),
        " FROM model_aliases ORDER BY name, user_id NULLS FIRST"
    );
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

/// Wants a transaction: of two unique indexes only one can be named in `ON CONFLICT`.
pub(super) fn alias_put(db: &Connection, alias: &AliasRow) -> Result<AliasRow, StoreError> {
    let update = concat!(
        "-- alias_put\nUPDATE model_aliases SET target = ?3, updated_at = ?4
         WHERE name = ?1 AND user_id IS ?2 RETURNING ",
        columns!()
    );
    let insert = concat!(
        "-- alias_put\nINSERT INTO model_aliases (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING ",
        columns!()
    );
    let updated_at = Instant::from(alias.updated_at);
    let values = params![alias.name, alias.user_id, alias.target, updated_at];
    if let Some(row) = db.prepare_cached(update)?.query_row(values, read).optional()? {
        return Ok(row);
    }
    let created_at = Instant::from(alias.created_at);
    let values = params![alias.id, alias.name, alias.target, alias.user_id, created_at, updated_at];
    Ok(db.prepare_cached(insert)?.query_row(values, read)?)
}

pub(super) fn alias_delete(
    db: &Connection,
    name: &str,
    user_id: Option<&str>,
) -> Result<bool, StoreError> {
    let sql = "-- alias_delete\nDELETE FROM model_aliases WHERE name = ?1 AND user_id IS ?2";
    Ok(db.prepare_cached(sql)?.execute(params![name, user_id])? > 0)
}
