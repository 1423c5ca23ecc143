//! Sums of hours, days and weeks in PostgreSQL, and the removal of old rows: a step each, one gateway at a time.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::codec::get;
use super::usage::{SETTINGS, known};
use crate::store::StoreError;
use crate::store::analytics::plan::Grain;
use crate::store::analytics::sql::POSTGRES;
use crate::store::analytics::{Condensed, condense};
use crate::store::values::Instant;

/// The advisory lock of the gateway that is at it.
const LOCK: i64 = super::MIGRATION_LOCK + 16;
/// For one hour of a busy gateway: millions of rows. Nobody waits for it.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// Ended by whoever called; the lock goes with the transaction.
async fn begin(db: &mut Client) -> Result<Option<Transaction<'_>>, StoreError> {
    // One snapshot: the marks that are taken away are those whose rows are summed up.
    let begin = db.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let transaction = begin.start().await?;
    transaction.batch_execute(SETTINGS).await?;
    let sql = "-- usage_condense\nSELECT pg_try_advisory_xact_lock($1)";
    let is_ours: bool = get(&transaction.query_one(sql, &[&LOCK]).await?, 0)?;
    Ok(is_ours.then_some(transaction))
}

pub(super) async fn usage_condense(
    db: &mut Client,
    closed: Instant,
) -> Result<Condensed, StoreError> {
    let step = async {
        let Some(db) = begin(db).await? else { return Ok(Condensed::Busy) };
        let done = condense_next(&db, closed).await?;
        db.commit().await?;
        Ok(done)
    };
    timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            message: "an hour of usage was not summed up in time".into(),
        })
    })
}

async fn condense_next(db: &Transaction<'_>, closed: Instant) -> Result<Condensed, StoreError> {
    let closed = closed.start_of(Grain::Hour);
    let hour: Option<Instant> =
        get(&db.query_one(&condense::next_hour(&POSTGRES), &[&closed]).await?, 0)?;
    if let Some(hour) = hour {
        let grains = Grain::ALL.map(|grain| hour.start_of(grain));
        let grains: Vec<&(dyn ToSql + Sync)> = grains.iter().map(|at| at as _).collect();
        let [mark, sums, groups] = condense::forget_hour(&POSTGRES);
        db.execute(&mark, &grains[..1]).await?;
        db.execute(&sums, &grains).await?;
        db.execute(&groups, &grains).await?;
        for sql in condense::sum_hour(&POSTGRES) {
            db.execute(&sql, &[&hour, &hour.after(Grain::Hour)]).await?;
        }
        return Ok(Condensed::One);
    }
    if let Some((grain, finer, due)) = known(db, condense::EVER, closed).await?.due(closed) {
        for sql in condense::sum_finer(&POSTGRES, grain, finer) {
            for at in &due {
                db.execute(&sql, &[at, &at.after(grain)]).await?;
            }
        }
        return Ok(Condensed::One);
    }
    db.execute(TIDY, &[&closed]).await?;
    Ok(Condensed::Done)
}

/// Every batch of the writer leaves a mark; one an hour says the same.
const TIDY: &str = "-- usage_condense
    WITH gone AS (DELETE FROM usage_rollup_marks WHERE hour >= $1 RETURNING hour)
    INSERT INTO usage_rollup_marks (hour) SELECT DISTINCT hour FROM gone";

pub(super) async fn usage_expire(
    db: &mut Client,
    before: Instant,
    at_most: i64,
) -> Result<Option<u64>, StoreError> {
    let Some(db) = begin(db).await? else { return Ok(None) };
    let gone = db.execute(&condense::expire(&POSTGRES), &[&before, &at_most]).await?;
    db.commit().await?;
    Ok(Some(gone))
}
