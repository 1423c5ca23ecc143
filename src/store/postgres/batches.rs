//! `otari_batches` and `otari_batch_items` in PostgreSQL.

use async_trait::async_trait;
use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use otari_filters::settle::{Entry, UsageRecord};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::codec::{get, maybe_time, time};
use super::{Postgres, apply, batch_holds, within};
use crate::store::values::{Instant, amount, clean, object};
use crate::store::{
    Accounted, BatchFilter, BatchHold, BatchItemRow, BatchRow, BatchState, Batches, ItemLease,
    ItemOutcome, NewItem, StoreError,
};

macro_rules! columns {
    () => {
        "provider, id, upstream_id, user_id, api_key_id, selector, model, endpoint, completion_window, metadata, \
         input_file_id, status, created_at, in_progress_at, cancelling_at, ended_at, expires_at, total, completed, \
         failed, next_poll_at, accounted_at, prompt_tokens, completion_tokens, (cost * 1000000)::int8"
    };
}

macro_rules! item_columns {
    () => {
        "i.batch_id, i.position, i.custom_id, i.body, i.attempts, i.is_done, i.status_code, i.result, i.error"
    };
}

fn read(row: &Row) -> Result<BatchRow, StoreError> {
    let metadata: Option<String> = get(row, 9)?;
    Ok(BatchRow {
        provider: get(row, 0)?,
        id: get(row, 1)?,
        upstream_id: get(row, 2)?,
        user_id: get(row, 3)?,
        api_key_id: get(row, 4)?,
        selector: get(row, 5)?,
        model: get(row, 6)?,
        endpoint: get(row, 7)?,
        completion_window: get(row, 8)?,
        metadata: metadata.map(|text| object(serde_json::from_str(&text).unwrap_or_default())),
        input_file_id: get(row, 10)?,
        status: get(row, 11)?,
        created_at: time(row, 12)?,
        in_progress_at: maybe_time(row, 13)?,
        cancelling_at: maybe_time(row, 14)?,
        ended_at: maybe_time(row, 15)?,
        expires_at: maybe_time(row, 16)?,
        total: get(row, 17)?,
        completed: get(row, 18)?,
        failed: get(row, 19)?,
        next_poll_at: maybe_time(row, 20)?,
        accounted_at: maybe_time(row, 21)?,
        prompt_tokens: get(row, 22)?,
        completion_tokens: get(row, 23)?,
        cost: get::<Option<i64>>(row, 24)?.map(MicroUsd),
    })
}

fn read_item(row: &Row) -> Result<BatchItemRow, StoreError> {
    let outcome = match get::<bool>(row, 5)? {
        false => None,
        true => Some(ItemOutcome {
            status_code: get::<Option<i32>>(row, 6)?.unwrap_or_default(),
            result: get(row, 7)?,
            error: get(row, 8)?,
        }),
    };
    Ok(BatchItemRow {
        batch_id: get(row, 0)?,
        position: get(row, 1)?,
        custom_id: get(row, 2)?,
        body: get(row, 3)?,
        attempts: get(row, 4)?,
        outcome,
    })
}

type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

async fn rows(
    db: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<Vec<BatchRow>, StoreError> {
    db.query(&db.prepare_cached(sql).await?, values).await?.iter().map(read).collect()
}

async fn execute(
    db: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<u64, StoreError> {
    Ok(db.execute(&db.prepare_cached(sql).await?, values).await?)
}

async fn create(db: &impl GenericClient, batch: &BatchRow) -> Result<(), StoreError> {
    let sql = "-- batch_create
        INSERT INTO otari_batches (provider, id, upstream_id, user_id, api_key_id, selector, model, endpoint,
            completion_window, metadata, input_file_id, status, created_at, in_progress_at, cancelling_at, ended_at,
            expires_at, total, completed, failed, next_poll_at, accounted_at, prompt_tokens, completion_tokens, cost)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
            $24, $25::int8 * 0.000001)";
    let metadata = batch.metadata.as_ref().map(serde_json::to_string).transpose();
    let metadata = metadata.map_err(|error| StoreError::Refused { message: error.to_string() })?;
    let time = |at: Option<Timestamp>| at.map(Instant::from);
    let inserted = execute(
        db,
        sql,
        &[
            &batch.provider,
            &batch.id,
            &batch.upstream_id,
            &batch.user_id,
            &batch.api_key_id,
            &clean(&batch.selector),
            &clean(&batch.model),
            &batch.endpoint,
            &clean(&batch.completion_window),
            &metadata,
            &batch.input_file_id,
            &batch.status,
            &Instant::from(batch.created_at),
            &time(batch.in_progress_at),
            &time(batch.cancelling_at),
            &time(batch.ended_at),
            &time(batch.expires_at),
            &batch.total,
            &batch.completed,
            &batch.failed,
            &time(batch.next_poll_at),
            &time(batch.accounted_at),
            &batch.prompt_tokens,
            &batch.completion_tokens,
            &batch.cost.map(amount),
        ],
    )
    .await;
    inserted.map(drop).map_err(|error| error.naming(&batch.id))
}

/// One item of each batch, then the next of each: a long batch does not hold up a short one. What another gateway is
/// just leasing is passed over.
const TAKE: &str = concat!(
    "-- batch_take
    WITH free AS (
        SELECT i.batch_id, i.position FROM otari_batch_items i
        JOIN otari_batches b ON b.id = i.batch_id AND b.upstream_id IS NULL
        WHERE NOT i.is_done AND b.status IN ('validating', 'in_progress') AND b.expires_at > $1
            AND (i.lease_until IS NULL OR i.lease_until <= $1) AND (i.not_before IS NULL OR i.not_before <= $1)
            AND b.provider <> ALL ($2::text[])
        ORDER BY i.position, b.created_at LIMIT $3 FOR UPDATE OF i SKIP LOCKED
    ), begun AS (
        UPDATE otari_batches SET status = 'in_progress', in_progress_at = $1
        WHERE id IN (SELECT batch_id FROM free) AND upstream_id IS NULL AND status = 'validating'
    )
    UPDATE otari_batch_items i SET lease_owner = $4, lease_until = $5, attempts = i.attempts + 1
    FROM free WHERE i.batch_id = free.batch_id AND i.position = free.position RETURNING ",
    item_columns!()
);

/// The item, and its count in the batch.
const ITEM_END: &str = "-- batch_item_end
    WITH ended AS (
        UPDATE otari_batch_items SET is_done = true, status_code = $4, result = $5, error = $6, lease_owner = NULL,
            lease_until = NULL
        WHERE batch_id = $1 AND position = $2 AND lease_owner = $3 AND NOT is_done RETURNING 1
    )
    UPDATE otari_batches SET completed = completed + $7, failed = failed + 1 - $7
    WHERE id = $1 AND upstream_id IS NULL AND EXISTS (SELECT 1 FROM ended)";

const SWEEP: &str = "-- batch_sweep
    UPDATE otari_batches SET ended_at = $1, status = CASE
            WHEN completed + failed >= total THEN CASE status WHEN 'cancelling' THEN 'cancelled' ELSE 'completed' END
            WHEN status = 'cancelling' THEN 'cancelled' ELSE 'expired' END
    WHERE upstream_id IS NULL AND status IN ('validating', 'in_progress', 'cancelling')
        AND (completed + failed >= total OR ((status = 'cancelling' OR expires_at <= $1) AND NOT EXISTS (
            SELECT 1 FROM otari_batch_items i
            WHERE i.batch_id = otari_batches.id AND NOT i.is_done AND i.lease_until > $1)))";

#[async_trait]
impl Batches for Postgres {
    async fn batch_create(
        &self,
        batch: &BatchRow,
        items: &[NewItem],
        holds: &[BatchHold],
    ) -> Result<bool, StoreError> {
        let work = async {
            let mut db = self.pool.get().await?;
            let transaction = db.transaction().await?;
            create(&transaction, batch).await?;
            let sql = "-- batch_create
                INSERT INTO otari_batch_items (batch_id, position, custom_id, body)
                SELECT $1, at - 1, custom_id, body
                FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS item (custom_id, body, at)";
            let names: Vec<_> = items.iter().map(|item| clean(&item.custom_id)).collect();
            let bodies: Vec<_> = items.iter().map(|item| clean(&item.body)).collect();
            execute(&transaction, sql, &[&batch.id, &names, &bodies]).await?;
            if !batch_holds::keep(&transaction, self.gateway(), batch, holds).await? {
                return Ok(false);
            }
            transaction.commit().await?;
            Ok(true)
        };
        within(work).await
    }

    async fn batch_holds(&self) -> Result<Vec<BatchHold>, StoreError> {
        within(async { batch_holds::all(&self.pool.get().await?).await }).await
    }

    async fn batch_release(&self, provider: &str, id: &str) -> Result<Vec<BatchHold>, StoreError> {
        within(async { batch_holds::release(&self.pool.get().await?, provider, id).await }).await
    }

    async fn batch_find(
        &self,
        id: &str,
        provider: Option<&str>,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_find\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE id = $1 AND provider = coalesce($2, provider) ORDER BY provider LIMIT 10"
        );
        within(async { rows(&self.pool.get().await?, sql, &[&clean(id), &provider]).await }).await
    }

    async fn batch_known(
        &self,
        provider: &str,
        ids: &[String],
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_known\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE provider = $1 AND id = ANY ($2::text[])"
        );
        within(async { rows(&self.pool.get().await?, sql, &[&provider, &ids]).await }).await
    }

    async fn batch_list(&self, filter: &BatchFilter) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_list\nSELECT ",
            columns!(),
            " FROM otari_batches WHERE ($1::text IS NULL OR user_id = $1) AND provider = coalesce($2, provider)
                AND (NOT $3 OR upstream_id IS NULL)
                AND ($4::text IS NULL OR (created_at, id COLLATE \"C\") < (
                    SELECT created_at, id COLLATE \"C\" FROM otari_batches WHERE id = $4 LIMIT 1))
             ORDER BY created_at DESC, id COLLATE \"C\" DESC LIMIT $5"
        );
        let after = filter.after.as_deref().map(clean);
        let work = async {
            let values: Values<'_> =
                &[&filter.user_id, &filter.provider, &filter.ours_only, &after, &filter.limit];
            rows(&self.pool.get().await?, sql, values).await
        };
        within(work).await
    }

    async fn batch_note(
        &self,
        provider: &str,
        id: &str,
        state: &BatchState,
        ended: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_note
            UPDATE otari_batches SET status = $3, total = $4, completed = $5, failed = $6,
                ended_at = coalesce(ended_at, $7)
            WHERE provider = $1 AND id = $2";
        let ended = ended.map(Instant::from);
        let work = async {
            let (status, total) = (clean(&state.status), &state.total);
            let values: Values<'_> =
                &[&provider, &id, &status, total, &state.completed, &state.failed, &ended];
            execute(&self.pool.get().await?, sql, values).await.map(drop)
        };
        within(work).await
    }

    async fn batch_poll_at(
        &self,
        provider: &str,
        id: &str,
        at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_poll_at
            UPDATE otari_batches SET next_poll_at = $3 WHERE provider = $1 AND id = $2";
        let at = at.map(Instant::from);
        within(async {
            execute(&self.pool.get().await?, sql, &[&provider, &id, &at]).await.map(drop)
        })
        .await
    }

    async fn batch_cancel(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "-- batch_cancel
            UPDATE otari_batches SET
                cancelling_at = CASE WHEN status IN ('validating', 'in_progress') THEN $2 ELSE cancelling_at END,
                status = CASE WHEN status IN ('validating', 'in_progress') THEN 'cancelling' ELSE status END
            WHERE id = $1 AND upstream_id IS NULL";
        let now = Instant::from(now);
        within(async { Ok(execute(&self.pool.get().await?, sql, &[&id, &now]).await? > 0) }).await
    }

    async fn batch_take(&self, lease: &ItemLease) -> Result<Vec<BatchItemRow>, StoreError> {
        let (now, until) = (Instant::from(lease.now), Instant::from(lease.until));
        let work = async {
            let db = self.pool.get().await?;
            let values: Values<'_> = &[&now, &lease.avoid, &lease.limit, &lease.owner, &until];
            let statement = db.prepare_cached(TAKE).await?;
            db.query(&statement, values).await?.iter().map(read_item).collect()
        };
        within(work).await
    }

    async fn batch_renew(&self, owner: &str, until: Timestamp) -> Result<(), StoreError> {
        let sql = "-- batch_renew
            UPDATE otari_batch_items SET lease_until = $2 WHERE NOT is_done AND lease_owner = $1";
        let until = Instant::from(until);
        within(async { execute(&self.pool.get().await?, sql, &[&owner, &until]).await.map(drop) })
            .await
    }

    async fn batch_item_end(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        outcome: &ItemOutcome,
    ) -> Result<bool, StoreError> {
        let completed = i64::from(outcome.error.is_none());
        let work = async {
            let values: Values<'_> = &[
                &batch_id,
                &position,
                &owner,
                &outcome.status_code,
                &outcome.result,
                &outcome.error,
                &completed,
            ];
            Ok(execute(&self.pool.get().await?, ITEM_END, values).await? > 0)
        };
        within(work).await
    }

    async fn batch_item_later(
        &self,
        owner: &str,
        batch_id: &str,
        position: i64,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "-- batch_item_later
            UPDATE otari_batch_items SET lease_owner = NULL, lease_until = NULL, not_before = $4
            WHERE batch_id = $1 AND position = $2 AND lease_owner = $3 AND NOT is_done";
        let not_before = Instant::from(not_before);
        let work = async {
            let values: Values<'_> = &[&batch_id, &position, &owner, &not_before];
            execute(&self.pool.get().await?, sql, values).await.map(drop)
        };
        within(work).await
    }

    async fn batch_sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let now = Instant::from(now);
        within(async { execute(&self.pool.get().await?, SWEEP, &[&now]).await }).await
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
            " FROM otari_batch_items i WHERE batch_id = $1 AND position > $2 AND is_done ORDER BY position LIMIT $3"
        );
        let work = async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            db.query(&statement, &[&batch_id, &after, &limit])
                .await?
                .iter()
                .map(read_item)
                .collect()
        };
        within(work).await
    }

    async fn batch_due(
        &self,
        now: Timestamp,
        next: Timestamp,
        limit: i64,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let sql = concat!(
            "-- batch_due\nUPDATE otari_batches SET next_poll_at = $2 WHERE (provider, id) IN (
                SELECT provider, id FROM otari_batches WHERE next_poll_at <= $1 ORDER BY next_poll_at LIMIT $3
                FOR UPDATE SKIP LOCKED) RETURNING ",
            columns!()
        );
        let (now, next) = (Instant::from(now), Instant::from(next));
        within(async { rows(&self.pool.get().await?, sql, &[&now, &next, &limit]).await }).await
    }

    async fn batch_account(
        &self,
        provider: &str,
        id: &str,
        accounted: &Accounted,
        record: &UsageRecord,
    ) -> Result<Option<Vec<BatchHold>>, StoreError> {
        let sql = "-- batch_account
            UPDATE otari_batches SET accounted_at = $3, prompt_tokens = $4, completion_tokens = $5,
                cost = $6::int8 * 0.000001, next_poll_at = NULL
            WHERE provider = $1 AND id = $2 AND accounted_at IS NULL";
        let at = Instant::journalled(record.timestamp_us);
        let work = async {
            let mut db = self.pool.get().await?;
            let transaction = db.transaction().await?;
            let cost = amount(accounted.cost);
            let (prompt, completion) = (&accounted.prompt_tokens, &accounted.completion_tokens);
            let values: Values<'_> = &[&provider, &id, &at, prompt, completion, &cost];
            if execute(&transaction, sql, values).await? == 0 {
                return Ok(None);
            }
            let mut held = batch_holds::release(&transaction, provider, id).await?;
            held.iter_mut().for_each(|hold| hold.leased = hold.is_drawn_by(record));
            // The record's cost is locked first, then the leases: the order of everybody.
            let entries = [Entry::Usage(record.clone())];
            apply::apply(&transaction, self.gateway(), &entries).await?;
            if !batch_holds::lend(&transaction, self.gateway(), &held).await? {
                let message = "this gateway's part of the budget was given to others".to_owned();
                return Err(StoreError::Unavailable { message });
            }
            transaction.commit().await?;
            Ok(Some(held))
        };
        within(work).await
    }

    async fn batch_expire(&self, before: Timestamp, at_most: i64) -> Result<u64, StoreError> {
        let sql = "-- batch_expire
            WITH gone AS (
                DELETE FROM otari_batches WHERE (provider, id) IN (
                    SELECT provider, id FROM otari_batches WHERE upstream_id IS NULL AND ended_at < $1
                    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id
            ), items AS (
                DELETE FROM otari_batch_items WHERE batch_id IN (SELECT id FROM gone)
            )
            SELECT count(*) FROM gone";
        let before = Instant::from(before);
        let work = async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let gone: i64 = get(&db.query_one(&statement, &[&before, &at_most]).await?, 0)?;
            Ok(gone.unsigned_abs())
        };
        within(work).await
    }
}
