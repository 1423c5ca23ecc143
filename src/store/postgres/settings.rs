//! `runtime_settings` in PostgreSQL.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{SettingRow, StoreError};

fn read(row: &Row) -> Result<SettingRow, StoreError> {
    Ok(SettingRow { key: get(row, 0)?, value: get(row, 1)?, updated_at: time(row, 2)? })
}

pub(super) async fn setting_all(db: &impl GenericClient) -> Result<Vec<SettingRow>, StoreError> {
    let sql = "-- setting_all\nSELECT key, value, updated_at FROM runtime_settings ORDER BY key COLLATE \"C\"";
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

/// Wants a transaction.
pub(super) async fn setting_put(
    db: &impl GenericClient,
    changes: &[(String, Option<String>)],
    at: Timestamp,
) -> Result<(), StoreError> {
    let put =
        "-- setting_put\nINSERT INTO runtime_settings (key, value, updated_at) VALUES ($1, $2, $3)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at";
    let remove = "-- setting_put\nDELETE FROM runtime_settings WHERE key = $1";
    for (key, value) in changes {
        match value {
            Some(value) => {
                let statement = db.prepare_cached(put).await?;
                db.execute(&statement, &[key, value, &Instant::from(at)]).await?
            }
            None => {
                let statement = db.prepare_cached(remove).await?;
                db.execute(&statement, &[key]).await?
            }
        };
    }
    Ok(())
}

pub(super) async fn setting_add(
    db: &impl GenericClient,
    setting: &SettingRow,
) -> Result<bool, StoreError> {
    let sql =
        "-- setting_add\nINSERT INTO runtime_settings (key, value, updated_at) VALUES ($1, $2, $3)
        ON CONFLICT (key) DO NOTHING";
    let statement = db.prepare_cached(sql).await?;
    let updated_at = Instant::from(setting.updated_at);
    Ok(db.execute(&statement, &[&setting.key, &setting.value, &updated_at]).await? > 0)
}
