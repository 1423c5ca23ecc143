//! `otari_batches` and `otari_batch_items` in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use otari_filters::settle::UsageRecord;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::{Read, json};
use super::{Sqlite, apply, batch_holds};
use crate::store::values::{Instant, amount, clean, object};
use crate::store::{
    Accounted, BatchFilter, BatchHold, BatchItemRow, BatchRow, BatchState, Batches, ItemLease,
    ItemOutcome, NewItem, StoreError,
};

macro_rules! columns {
    () => {
        "provider, id, upstream_id, user_id, api_key_id, selector, model, endpoint, completion_window, metadata, \
         input_file_id, status, created_at, in_progress_at, cancelling_at, ended_at, expires_at, total, completed, \
         failed, next_poll_at, accounted_at, prompt_tokens, completion_tokens, cost"
    };
}

macro_rules! item_columns {
    () => {
        "batch_id, position, custom_id, body, attempts, is_done, status_code, result, error"
    };
}

fn read(row: &Row<'_>) -> rusqlite::Result<BatchRow> {
    let time =
        |column| row.get::<_, Option<Read<Timestamp>>>(column).map(|read| read.map(|Read(at)| at));
    let metadata: Option<String> = row.get(9)?;
    Ok(BatchRow {
        provider: row.get(0)?,
        id: row.get(1)?,
        upstream_id: row.get(2)?,
        user_id: row.get(3)?,
        api_key_id: row.get(4)?,
        selector: row.get(5)?,
        model: row.get(6)?,
        endpoint: row.get(7)?,
        completion_window: row.get(8)?,
        metadata: metadata.map(|text| object(serde_json::from_str(&text).unwrap_or_default())),
        input_file_id: row.get(10)?,
        status: row.get(11)?,
        created_at: row.get::<_, Read<_>>(12)?.0,
        in_progress_at: time(13)?,
        cancelling_at: time(14)?,
        ended_at: time(15)?,
        expires_at: time(16)?,
        total: row.get(17)?,
        completed: row.get(18)?,
        failed: row.get(19)?,
        next_poll_at: time(20)?,
        accounted_at: time(21)?,
        prompt_tokens: row.get(22)?,
        completion_tokens: row.get(23)?,
        cost: row.get::<_, Option<i64>>(24)?.map(MicroUsd),
    })
}

fn read_item(row: &Row<'_>) -> rusqlite::Result<BatchItemRow> {
    let outcome = match row.get::<_, bool>(5)? {
        false => None,
        true => Some(ItemOutcome {
            status_code: row.get::<_, Option<i32>>(6)?.unwrap_or_default(),
            result: row.get(7)?,
            error: row.get(8)?,
        }),
    };
    Ok(BatchItemRow {
        batch_id: row.get(0)?,
        position: row.get(1)?,
        custom_id: row.get(2)?,
        body: row.get(3)?,
        attempts: row.get(4)?,
        outcome,
    })
}

fn create(db: &Connection, batch: &BatchRow, items: &[NewItem]) -> Result<(), StoreError> {
    let sql = concat!(
        "-- batch_create\nINSERT INTO otari_batches (",
        columns!(),
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
         ?22, ?23, ?24, ?25)"
    );
    let metadata = batch.metadata.as_ref().map(json).transpose()?;
    let time = |at: Option<Timestamp>| at.map(Instant::from);
    let inserted = db.prepare_cached(sql)?.execute(params![
        batch.provider,
        batch.id,
        batch.upstream_id,
        batch.user_id,
        batch.api_key_id,
        clean(&batch.selector),
        clean(&batch.model),
        batch.endpoint,
        clean(&batch.completion_window),
        metadata,
        batch.input_file_id,
        batch.status,
        Instant::from(batch.created_at),
        time(batch.in_progress_at),
        time(batch.cancelling_at),
        time(batch.ended_at),
        time(batch.expires_at),
        batch.total,
        batch.completed,
        batch.failed,
        time(batch.next_poll_at),
        time(batch.accounted_at),
        batch.prompt_tokens,
        batch.completion_tokens,
        batch.cost.map(amount),
    ]);
    inserted.map_err(|error| StoreError::from(error).naming(&batch.id))?;
    let sql = "-- batch_create
        INSERT INTO otari_batch_items (batch_id, position, custom_id, body) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = db.prepare_cached(sql)?;
    for (position, item) in (0_i64..).zip(items) {
        insert.execute(params![batch.id, position, clean(&item.custom_id), clean(&item.body)])?;
    }
    Ok(())
}

fn take(db: &Connection, lease: &ItemLease) -> Result<Vec<BatchItemRow>, StoreError> {
    // One item of each batch, then the next of each: a long batch does not hold up a short one.
    let sql = "-- batch_take
        SELECT i.rowid FROM otari_batch_items i JOIN otari_batches b ON b.id = i.batch_id AND b.upstream_id IS NULL
        WHERE i.is_done = 0 AND b.status IN ('validating', 'in_progress') AND b.expires_at > ?1
            AND (i.lease_until IS NULL OR i.lease_until <= ?1) AND (i.not_before IS NULL OR i.not_before <= ?1)
            AND b.provider NOT IN (SELECT value FROM json_each(?2))
        ORDER BY i.position, b.created_at LIMIT ?3";
    let (now, avoid) = (Instant::from(lease.now), json(&lease.avoid)?);
    let rows: Vec<i64> = db
        .prepare_cached(sql)?
        .query_map(params![now, avoid, lease.limit], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let sql = concat!(
        "-- batch_take\nUPDATE otari_batch_items SET lease_owner = ?2, lease_until = ?3, attempts = attempts + 1
         WHERE rowid = ?1 RETURNING ",
        item_columns!()
    );
    let begun = "-- batch_take
        UPDATE otari_batches SET status = 'in_progress', in_progress_at = ?2
        WHERE id = ?1 AND upstream_id IS NULL AND status = 'validating'";
    let mut taken = Vec::with_capacity(rows.len());
    for row in rows {
        let item = db
            .prepare_cached(sql)?
            .query_row(params![row, lease.owner, Instant::from(lease.until)], read_item)?;
        db.prepare_cached(begun)?.execute(params![item.batch_id, now])?;
        taken.push(item);
    }
    Ok(taken)
}

fn item_end(
    db: &Connection,
    owner: &str,
    batch_id: &str,
    position: i64,
    outcome: &ItemOutcome,
) -> Result<bool, StoreError> {
    let sql = "-- batch_item_end
        UPDATE otari_batch_items SET is_done = 1, status_code = ?4, result = ?5, error = ?6, lease_owner = NULL,
            lease_until = NULL
        WHERE batch_id = ?1 AND position = ?2 AND lease_owner = ?3 AND is_done = 0";
    let ended = db.prepare_cached(sql)?.execute(params![
        batch_id,
        position,
        owner,
        outcome.status_code,
        outcome.result,
        outcome.error
    ])?;
    if ended == 0 {
        return Ok(false);
    }
    let sql = "-- batch_item_end
        UPDATE otari_batches SET completed = completed + ?2, failed = failed + ?3
        WHERE id = ?1 AND upstream_id IS NULL";
    let completed = outcome.error.is_none();
    db.prepare_cached(sql)?.execute(params![batch_id, completed, !completed])?;
    Ok(true)
}

fn account(
    db: &Connection,
    (gateway, provider, id): (Option<&str>, &str, &str),
    accounted: &Accounted,
    record: &UsageRecord,
) -> Result<Option<Vec<BatchHold>>, StoreError> {
    let sql = "-- batch_account
        UPDATE otari_batches SET accounted_at = ?3, prompt_tokens = ?4, completion_tokens = ?5, cost = ?6,
            next_poll_at = NULL
        WHERE provider = ?1 AND id = ?2 AND accounted_at IS NULL";
    let marked = db.prepare_cached(sql)?.execute(params![
        provider,
        id,
        Instant::journalled(record.timestamp_us),
        accounted.prompt_tokens,
        accounted.completion_tokens,
        amount(accounted.cost)
    ])?;
    if marked == 0 {
        return Ok(None);
    }
    apply::apply_one(db, gateway, record.clone())?;
    batch_holds::charge(db, gateway, (provider, id), record).map(Some)
}

const SWEEP: &str = "-- batch_sweep
    UPDATE otari_batches SET ended_at = ?1, status = CASE
            WHEN completed + failed >= total THEN CASE status WHEN 'cancelling' THEN 'cancelled' ELSE 'completed' END
            WHEN status = 'cancelling' THEN 'cancelled' ELSE 'expired' END
    WHERE upstream_id IS NULL AND status IN ('validating', 'in_progress', 'cancelling')
        AND (completed + failed >= total OR ((status = 'cancelling' OR expires_at <= ?1) AND NOT EXISTS (
            SELECT 1 FROM otari_batch_items i
            WHERE i.batch_id = otari_batches.id AND i.is_done = 0 AND i.lease_until > ?1)))";

#[async_trait]
impl Batches for Sqlite {
    async fn batch_create(
        &self,
        batch: &BatchRow,
        items: &[NewItem],
        holds: &[BatchHold],
    ) -> Result<bool, StoreError> {
        let (batch, items, holds) = (batch.clone(), items.to_vec(), holds.to_vec());
        let own = self.gateway();
        self.write(move |db| {
            let is_lent = batch_holds::lend(db, own.as_deref(), &holds)?;
            Ok(is_lent
                && create(db, &batch, &items)
                    .and_then(|()| batch_holds::keep(db, &batch, &holds))?)
        })
        .await
    }

    async fn batch_holds(&self) -> Result<Vec<BatchHold>, StoreError> {
        self.read(|db| batch_holds::all(db)).await
    }

    async fn batch_release(&self, provider: &str, id: &str) -> Result<Vec<BatchHold>, StoreError> {
        let (provider, id) = (provider.to_owned(), id.to_owned());
        self.write(move |db| batch_holds::release(db, &provider, &id)).await
    }

    async fn batch_find(
        &self,
        id: &str,
        provider: Option<&str>,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_find\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE id = ?1 AND provider = coalesce(?2, provider) ORDER BY provider LIMIT 10"
        );
        let (id, provider) = (id.to_owned(), provider.map(str::to_owned));
        self.read(move |db| {
            Ok(db
                .prepare_cached(sql)?
                .query_map(params![id, provider], read)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn batch_known(
        &self,
        provider: &str,
        ids: &[String],
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_known\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE provider = ?1 AND id IN (SELECT value FROM json_each(?2))"
        );
        let (provider, ids) = (provider.to_owned(), json(&ids)?);
        self.read(move |db| {
            Ok(db
                .prepare_cached(sql)?
                .query_map(params![provider, ids], read)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn batch_list(&self, filter: &BatchFilter) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_list\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE (?1 IS NULL OR user_id = ?1) AND provider = coalesce(?2, provider)
                AND (NOT ?3 OR upstream_id IS NULL)
                AND (?4 IS NULL OR (created_at, id) < (SELECT created_at, id FROM otari_batches WHERE id = ?4))
             ORDER BY created_at DESC, id DESC LIMIT ?5"
        );
        let filter = filter.clone();
        self.read(move |db| {
            let values = params![
                filter.user_id,
                filter.provider,
                filter.ours_only,
                filter.after,
                filter.limit
            ];
            Ok(db.prepare_cached(sql)?.query_map(values, read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn batch_note(
        &self,
        provider: &str,
        id: &str,
        state: &BatchState,
        ended: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_note
            UPDATE otari_batches SET status = ?3, total = ?4, completed = ?5, failed = ?6,
                ended_at = coalesce(ended_at, ?7)
            WHERE provider = ?1 AND id = ?2";
        let (provider, id, state) = (provider.to_owned(), id.to_owned(), state.clone());
        self.write(move |db| {
            db.prepare_cached(sql)?.execute(params![
                provider,
                id,
                clean(&state.status),
                state.total,
                state.completed,
                state.failed,
                ended.map(Instant::from)
            ])?;
            Ok(())
        })
        .await
    }

    async fn batch_poll_at(
        &self,
        provider: &str,
        id: &str,
        at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_poll_at
            UPDATE otari_batches SET next_poll_at = ?3 WHERE provider = ?1 AND id = ?2";
        let (provider, id) = (provider.to_owned(), id.to_owned());
        self.write(move |db| {
            db.prepare_cached(sql)?.execute(params![provider, id, at.map(Instant::from)])?;
            Ok(())
        })
        .await
    }

    async fn batch_cancel(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let (id, now) = (id.to_owned(), Instant::from(now));
        self.write(move |db| {
            let sql = "-- batch_cancel
                UPDATE otari_batches SET status = 'cancelling', cancelling_at = ?2
                WHERE id = ?1 AND upstream_id IS NULL AND status IN ('validating', 'in_progress')";
            db.prepare_cached(sql)?.execute(params![id, now])?;
            let sql = "-- batch_cancel
                SELECT 1 FROM otari_batches WHERE id = ?1 AND upstream_id IS NULL";
            Ok(db.prepare_cached(sql)?.query_row([id], |_| Ok(())).optional()?.is_some())
        })
        .await
    }

    async fn batch_take(&self, lease: &ItemLease) -> Result<Vec<BatchItemRow>, StoreError> {
        let lease = lease.clone();
        self.write(move |db| take(db, &lease)).await
    }

    async fn batch_renew(&self, owner: &str, until: Timestamp) -> Result<(), StoreError> {
        let sql = "-- batch_renew
            UPDATE otari_batch_items SET lease_until = ?2 WHERE is_done = 0 AND lease_owner = ?1";
        let owner = owner.to_owned();
        self.write(move |db| {
            db.prepare_cached(sql)?.execute(params![owner, Instant::from(until)])?;
            Ok(())
        })
        .await
    }

    async fn batch_item_end(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        outcome: &ItemOutcome,
    ) -> Result<bool, StoreError> {
        let (owner, batch_id, outcome) = (owner.to_owned(), batch_id.to_owned(), outcome.clone());
        self.write(move |db| item_end(db, &owner, &batch_id, position, &outcome)).await
    }

    async fn batch_item_later(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_item_later
            UPDATE otari_batch_items SET lease_owner = NULL, lease_until = NULL, not_before = ?4
            WHERE batch_id = ?1 AND position = ?2 AND lease_owner = ?3 AND is_done = 0";
        let (owner, batch_id) = (owner.to_owned(), batch_id.to_owned());
        self.write(move |db| {
            let not_before = Instant::from(not_before);
            db.prepare_cached(sql)?.execute(params![batch_id, position, owner, not_before])?;
            Ok(())
        })
        .await
    }

    async fn batch_sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.write(move |db| Ok(db.prepare_cached(SWEEP)?.execute([Instant::from(now)])? as u64))
            .await
    }

    async fn batch_items(
        &self,
        batch_id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<BatchItemRow>, StoreError> {
        let sql = concat!(
            "-- batch_items\nSELECT ",
            item_columns!(),
            " FROM otari_batch_items WHERE batch_id = ?1 AND position > ?2 AND is_done = 1 ORDER BY position LIMIT ?3"
        );
        let batch_id = batch_id.to_owned();
        self.read(move |db| {
            Ok(db
                .prepare_cached(sql)?
                .query_map(params![batch_id, after, limit], read_item)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn batch_due(
        &self,
        now: Timestamp,
        next: Timestamp,
        limit: i64,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_due\nUPDATE otari_batches SET next_poll_at = ?2 WHERE rowid IN (
                SELECT rowid FROM otari_batches WHERE next_poll_at <= ?1 ORDER BY next_poll_at LIMIT ?3) RETURNING ",
            columns!()
        );
        let (now, next) = (Instant::from(now), Instant::from(next));
        self.write(move |db| {
            Ok(db
                .prepare_cached(sql)?
                .query_map(params![now, next, limit], read)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn batch_account(
        &self,
        provider: &str,
        id: &str,
        accounted: &Accounted,
        record: &UsageRecord,
    ) -> Result<Option<Vec<BatchHold>>, StoreError> {
        let (provider, id, own) = (provider.to_owned(), id.to_owned(), self.gateway());
        let (accounted, record) = (accounted.clone(), record.clone());
        self.write(move |db| account(db, (own.as_deref(), &provider, &id), &accounted, &record))
            .await
    }

    async fn batch_expire(&self, before: Timestamp, at_most: i64) -> Result<u64, StoreError> {
        self.write(move |db| {
            let sql = "-- batch_expire
                SELECT id FROM otari_batches WHERE upstream_id IS NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2";
            let ids: Vec<String> = db
                .prepare_cached(sql)?
                .query_map(params![Instant::from(before), at_most], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let items = "-- batch_expire\nDELETE FROM otari_batch_items WHERE batch_id = ?1";
            let batch = "-- batch_expire
                DELETE FROM otari_batches WHERE id = ?1 AND upstream_id IS NULL";
            for id in &ids {
                db.prepare_cached(items)?.execute([id])?;
                db.prepare_cached(batch)?.execute([id])?;
            }
            Ok(ids.len() as u64)
        })
        .await
    }
}
