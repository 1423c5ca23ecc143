//! `file_objects` in PostgreSQL.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::codec::{get, maybe_time, metadata, racing, time};
use super::{Postgres, within};
use crate::store::values::Instant;
use crate::store::{FileFilter, FileRow, FileStore, FilesDue, StoreError};

macro_rules! columns {
    () => {
        "id, user_id, filename, mime_type, bytes, purpose, storage_ref, created_at, expires_at, deleted_at, metadata, \
         sha256"
    };
}

fn read(row: &Row) -> Result<FileRow, StoreError> {
    Ok(FileRow {
        id: get(row, 0)?,
        user_id: get(row, 1)?,
        filename: get(row, 2)?,
        mime_type: get(row, 3)?,
        bytes: get(row, 4)?,
        purpose: get(row, 5)?,
        storage_ref: get(row, 6)?,
        created_at: time(row, 7)?,
        expires_at: maybe_time(row, 8)?,
        deleted_at: maybe_time(row, 9)?,
        metadata: metadata(row, 10)?,
        sha256: get(row, 11)?,
    })
}

macro_rules! listing {
    ($compare:literal, $order:literal) => {
        concat!(
            "-- file_list\nSELECT ",
            columns!(),
            " FROM file_objects WHERE user_id = $1 AND deleted_at IS NULL
             AND ($2::varchar IS NULL OR purpose = $2) AND ($3::timestamptz IS NULL OR created_at ",
            $compare,
            " $3 OR (created_at = $3 AND id COLLATE \"C\" ",
            $compare,
            " $4::varchar COLLATE \"C\")) ORDER BY created_at ",
            $order,
            ", id COLLATE \"C\" ",
            $order,
            " LIMIT $5"
        )
    };
}

impl Postgres {
    /// Runs a statement that changes a row; says whether there was one.
    async fn change_file(
        &self,
        sql: &str,
        id: &str,
        at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let changed = match at.map(Instant::from) {
                Some(at) => db.execute(&statement, &[&id, &at]).await?,
                None => db.execute(&statement, &[&id]).await?,
            };
            Ok(changed > 0)
        })
        .await
    }
}

#[async_trait]
impl FileStore for Postgres {
    async fn file_begin(&self, file: &FileRow) -> Result<bool, StoreError> {
        let sql = concat!(
            "-- file_begin\nINSERT INTO file_objects (",
            columns!(),
            ") SELECT $1::varchar, $2::varchar, $3::varchar, $4::varchar, $5::bigint, $6::varchar, $7::varchar,
             $8::timestamptz, $9::timestamptz, $10::timestamptz, $11::json, $12::varchar
             WHERE EXISTS (SELECT 1 FROM users WHERE user_id = $2 AND deleted_at IS NULL)"
        );
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let inserted = db
                .execute(
                    &statement,
                    &[
                        &file.id,
                        &file.user_id,
                        &file.filename,
                        &file.mime_type,
                        &file.bytes,
                        &file.purpose,
                        &file.storage_ref,
                        &Instant::from(file.created_at),
                        &file.expires_at.map(Instant::from),
                        &file.deleted_at.map(Instant::from),
                        &Json(&file.metadata),
                        &file.sha256,
                    ],
                )
                .await
                .map_err(|error| racing(&error))?;
            Ok(inserted > 0)
        })
        .await
    }

    async fn file_finish(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "-- file_finish\nUPDATE file_objects SET deleted_at = NULL
                   WHERE id = $1 AND reclaimed_at IS NULL AND claimed_until IS NULL";
        self.change_file(sql, id, None).await
    }

    async fn file_find(&self, id: &str) -> Result<Option<FileRow>, StoreError> {
        let sql = concat!("-- file_find\nSELECT ", columns!(), " FROM file_objects WHERE id = $1");
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            db.query_opt(&statement, &[&id]).await?.as_ref().map(read).transpose()
        })
        .await
    }

    async fn file_list(&self, filter: &FileFilter) -> Result<Vec<FileRow>, StoreError> {
        let sql = match filter.oldest_first {
            true => listing!(">", "ASC"),
            false => listing!("<", "DESC"),
        };
        let (at, id) = filter.after.clone().unzip();
        let at = at.map(Instant::from);
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let rows = db
                .query(&statement, &[&filter.user_id, &filter.purpose, &at, &id, &filter.limit])
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn file_delete(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let sql = "-- file_delete\nUPDATE file_objects SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL";
        self.change_file(sql, id, Some(at)).await
    }

    async fn file_claim(&self, due: FilesDue) -> Result<Vec<FileRow>, StoreError> {
        // What another gateway is at is passed over, not waited for.
        let sql = concat!(
            "-- file_claim\nUPDATE file_objects SET claimed_until = $3 WHERE id IN (SELECT id FROM file_objects
             WHERE reclaimed_at IS NULL AND (deleted_at < $2 OR expires_at <= $1)
             AND (claimed_until IS NULL OR claimed_until < $1) ORDER BY created_at LIMIT $4
             FOR UPDATE SKIP LOCKED) RETURNING ",
            columns!()
        );
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let (now, before, until) = (
                Instant::from(due.now),
                Instant::from(due.dropped_before),
                Instant::from(due.claim_until),
            );
            let rows = db.query(&statement, &[&now, &before, &until, &due.at_most]).await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn file_put_off(&self, id: &str, until: Timestamp) -> Result<(), StoreError> {
        let sql = "-- file_put_off\nUPDATE file_objects SET claimed_until = $2 WHERE id = $1";
        self.change_file(sql, id, Some(until)).await.map(drop)
    }

    async fn file_reclaimed(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql =
            "-- file_reclaimed\nUPDATE file_objects SET reclaimed_at = $2, claimed_until = NULL,
                   deleted_at = coalesce(deleted_at, $2) WHERE id = $1";
        self.change_file(sql, id, Some(at)).await.map(drop)
    }
}
