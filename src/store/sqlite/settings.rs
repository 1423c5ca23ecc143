//! `runtime_settings` in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{SettingRow, StoreError};

fn read(row: &Row<'_>) -> rusqlite::Result<SettingRow> {
    Ok(SettingRow { key: row.get(0)?, value: row.get(1)?, updated_at: row.get::<_, Read<_>>(2)?.0 })
}

pub(super) fn setting_all(db: &Connection) -> Result<Vec<SettingRow>, StoreError> {
    let sql = "-- setting_all\nSELECT key, value, updated_at FROM runtime_settings ORDER BY key";
    Ok(db.prepare_cached(sql)?.query_map([], read)?.collect::<Result<_, _>>()?)
}

/// Wants a transaction.
pub(super) fn setting_put(
    db: &Connection,
    changes: &[(String, Option<String>)],
    at: Timestamp,
) -> Result<(), StoreError> {
    let put = "-- setting_put\nINSERT INTO runtime_settings (key, value, updated_at) VALUES (?1, ?2, ?3)
               ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";
    let remove = "-- setting_put\nDELETE FROM runtime_settings WHERE key = ?1";
    for (key, value) in changes {
        match value {
            Some(value) => {
                db.prepare_cached(put)?.execute(params![key, value, Instant::from(at)])?
            }
            None => db.prepare_cached(remove)?.execute([key])?,
        };
    }
    Ok(())
}

pub(super) fn setting_add(db: &Connection, setting: &SettingRow) -> Result<bool, StoreError> {
    let sql =
        "-- setting_add\nINSERT INTO runtime_settings (key, value, updated_at) VALUES (?1, ?2, ?3)
               ON CONFLICT (key) DO NOTHING";
    let values = params![setting.key, setting.value, Instant::from(setting.updated_at)];
    Ok(db.prepare_cached(sql)?.execute(values)? > 0)
}
