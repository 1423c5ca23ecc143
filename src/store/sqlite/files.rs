//! `file_objects` in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::Sqlite;
use super::codec::{Read, json};
use crate::store::values::Instant;
use crate::store::{FileFilter, FileRow, FileStore, FilesDue, StoreError};

macro_rules! columns {
    () => {
        "id, user_id, filename, mime_type, bytes, purpose, storage_ref, created_at, expires_at, deleted_at, metadata, \
         sha256"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    Ok(FileRow {
        id: row.get(0)?,
        user_id: row.get(1)?,
        filename: row.get(2)?,
        mime_type: row.get(3)?,
        bytes: row.get(4)?,
        purpose: row.get(5)?,
        storage_ref: row.get(6)?,
        created_at: row.get::<_, Read<_>>(7)?.0,
        expires_at: row.get::<_, Option<Read<_>>>(8)?.map(|at| at.0),
        deleted_at: row.get::<_, Option<Read<_>>>(9)?.map(|at| at.0),
        metadata: row.get::<_, Read<_>>(10)?.0,
        sha256: row.get(11)?,
    })
}

macro_rules! listing {
    ($compare:literal, $order:literal) => {
        concat!(
            "-- file_list\nSELECT ",
            columns!(),
            " FROM file_objects WHERE user_id = ?1 AND deleted_at IS NULL AND (?2 IS NULL OR purpose = ?2)
             AND (?3 IS NULL OR (created_at, id) ",
            $compare,
            " (?3, ?4)) ORDER BY created_at ",
            $order,
            ", id ",
            $order,
            " LIMIT ?5"
        )
    };
}

#[async_trait]
impl FileStore for Sqlite {
    async fn file_begin(&self, file: &FileRow) -> Result<bool, StoreError> {
        let sql = concat!(
            "-- file_begin\nINSERT INTO file_objects (",
            columns!(),
            ") SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
             WHERE EXISTS (SELECT 1 FROM users WHERE user_id = ?2 AND deleted_at IS NULL)"
        );
        let file = file.clone();
        self.write(move |db| {
            let inserted = db.prepare_cached(sql)?.execute(params![
                file.id,
                file.user_id,
                file.filename,
                file.mime_type,
                file.bytes,
                file.purpose,
                file.storage_ref,
                Instant::from(file.created_at),
                file.expires_at.map(Instant::from),
                file.deleted_at.map(Instant::from),
                json(&file.metadata)?,
                file.sha256,
            ])?;
            Ok(inserted > 0)
        })
        .await
    }

    async fn file_finish(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "-- file_finish\nUPDATE file_objects SET deleted_at = NULL
                   WHERE id = ?1 AND reclaimed_at IS NULL AND claimed_until IS NULL";
        let id = id.to_owned();
        self.write(move |db| Ok(db.prepare_cached(sql)?.execute([id])? > 0)).await
    }

    async fn file_find(&self, id: &str) -> Result<Option<FileRow>, StoreError> {
        let sql = concat!("-- file_find\nSELECT ", columns!(), " FROM file_objects WHERE id = ?1");
        let id = id.to_owned();
        self.read(move |db| Ok(db.prepare_cached(sql)?.query_row([id], read).optional()?)).await
    }

    async fn file_list(&self, filter: &FileFilter) -> Result<Vec<FileRow>, StoreError> {
        let filter = filter.clone();
        self.read(move |db| {
            let sql = match filter.oldest_first {
                true => listing!(">", "ASC"),
                false => listing!("<", "DESC"),
            };
            let (at, id) = filter.after.unzip();
            let at = at.map(Instant::from);
            let values = params![filter.user_id, filter.purpose, at, id, filter.limit];
            Ok(db.prepare_cached(sql)?.query_map(values, read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn file_delete(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let sql = "-- file_delete\nUPDATE file_objects SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL";
        let id = id.to_owned();
        self.write(move |db| {
            Ok(db.prepare_cached(sql)?.execute(params![id, Instant::from(at)])? > 0)
        })
        .await
    }

    async fn file_claim(&self, due: FilesDue) -> Result<Vec<FileRow>, StoreError> {
        let sql = concat!(
            "-- file_claim\nUPDATE file_objects SET claimed_until = ?3 WHERE id IN (SELECT id FROM file_objects
             WHERE reclaimed_at IS NULL AND (deleted_at < ?2 OR expires_at <= ?1)
             AND (claimed_until IS NULL OR claimed_until < ?1) ORDER BY created_at LIMIT ?4) RETURNING ",
            columns!()
        );
        self.write(move |db| {
            let values = params![
                Instant::from(due.now),
                Instant::from(due.dropped_before),
                Instant::from(due.claim_until),
                due.at_most
            ];
            Ok(db.prepare_cached(sql)?.query_map(values, read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn file_put_off(&self, id: &str, until: Timestamp) -> Result<(), StoreError> {
        let sql = "-- file_put_off\nUPDATE file_objects SET claimed_until = ?2 WHERE id = ?1";
        let id = id.to_owned();
        self.write(move |db| {
            db.prepare_cached(sql)?.execute(params![id, Instant::from(until)])?;
            Ok(())
        })
        .await
    }

    async fn file_reclaimed(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql =
            "-- file_reclaimed\nUPDATE file_objects SET reclaimed_at = ?2, claimed_until = NULL,
                   deleted_at = coalesce(deleted_at, ?2) WHERE id = ?1";
        let id = id.to_owned();
        self.write(move |db| {
            db.prepare_cached(sql)?.execute(params![id, Instant::from(at)])?;
            Ok(())
        })
        .await
    }
}
