//! `otari_batch_holds` in PostgreSQL. What a batch holds is taken out of a gateway's lease in the transaction that makes
//! its row, so that it is counted once at every commit.

use deadpool_postgres::{GenericClient, Transaction};
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;

use super::apply;
use super::codec::get;
use crate::store::values::{clean, scope, word};
use crate::store::{BatchHold, BatchRow, StoreError};

fn read(row: &Row) -> Result<Option<BatchHold>, StoreError> {
    let (kind, id): (&str, &str) = (get(row, 0)?, get(row, 1)?);
    let amount = MicroUsd(get(row, 2)?);
    Ok(scope(kind, id).map(|scope| BatchHold { scope, amount, leased: false }))
}

fn read_all(rows: &[Row]) -> Result<Vec<BatchHold>, StoreError> {
    rows.iter().filter_map(|row| read(row).transpose()).collect()
}

/// Writes what a batch holds, and takes it out of this gateway's leases. `false`: one of them is this gateway's no more.
pub(super) async fn keep(
    db: &Transaction<'_>,
    gateway: &str,
    batch: &BatchRow,
    holds: &[BatchHold],
) -> Result<bool, StoreError> {
    if holds.is_empty() {
        return Ok(true);
    }
    let (mut users, mut ceilings) = (Vec::new(), Vec::new());
    for hold in holds {
        match &hold.scope {
            Scope::User(id) => users.push(clean(id)),
            Scope::Ceiling(id) => ceilings.push(clean(id)),
        }
    }
    // As whoever settles does: leases of several scopes, locked one by one, would deadlock.
    apply::lock_rows(db, users, ceilings).await?;
    let sql = "-- batch_create
        INSERT INTO otari_batch_holds (provider, batch_id, scope, scope_id, amount)
        SELECT $1, $2, scope, id, amount * 0.000001 FROM unnest($3::text[], $4::text[], $5::int8[])
            AS h (scope, id, amount)";
    let (scopes, ids): (Vec<&str>, Vec<&str>) = holds.iter().map(|hold| word(&hold.scope)).unzip();
    let amounts: Vec<i64> = holds.iter().map(|hold| hold.amount.0).collect();
    let statement = db.prepare_cached(sql).await?;
    db.execute(&statement, &[&batch.provider, &batch.id, &scopes, &ids, &amounts]).await?;
    let taken = |hold: &BatchHold| MicroUsd::ZERO - hold.amount;
    let drawn = holds.iter().map(|hold| BatchHold { amount: taken(hold), ..hold.clone() });
    lend(db, gateway, &drawn.collect::<Vec<_>>()).await
}

/// Enlarges this gateway's leases by those holds that are `leased`; their scopes are locked. `false`: one of the leases is
/// this gateway's no more, and the transaction must not be committed.
pub(super) async fn lend(
    db: &Transaction<'_>,
    gateway: &str,
    holds: &[BatchHold],
) -> Result<bool, StoreError> {
    let leased: Vec<&BatchHold> = holds.iter().filter(|hold| hold.leased).collect();
    if leased.is_empty() {
        return Ok(true);
    }
    let sql = "-- batch_lend
        UPDATE budget_leases SET amount = budget_leases.amount + h.amount * 0.000001
        FROM unnest($2::text[], $3::text[], $4::int8[]) AS h (scope, id, amount)
        WHERE budget_leases.gateway_id = $1 AND budget_leases.scope = h.scope AND budget_leases.scope_id = h.id";
    let (scopes, ids): (Vec<&str>, Vec<&str>) = leased.iter().map(|hold| word(&hold.scope)).unzip();
    let amounts: Vec<i64> = leased.iter().map(|hold| hold.amount.0).collect();
    let statement = db.prepare_cached(sql).await?;
    let found = db.execute(&statement, &[&gateway, &scopes, &ids, &amounts]).await?;
    Ok(found == leased.len() as u64)
}

/// All of it.
pub(super) async fn all(db: &impl GenericClient) -> Result<Vec<BatchHold>, StoreError> {
    let sql = "-- batch_holds
        SELECT scope, scope_id, (amount * 1000000)::int8 FROM otari_batch_holds";
    read_all(&db.query(&db.prepare_cached(sql).await?, &[]).await?)
}

/// Takes away what a batch holds, and returns it.
pub(super) async fn release(
    db: &impl GenericClient,
    provider: &str,
    id: &str,
) -> Result<Vec<BatchHold>, StoreError> {
    let sql = "-- batch_release
        DELETE FROM otari_batch_holds WHERE provider = $1 AND batch_id = $2
        RETURNING scope, scope_id, (amount * 1000000)::int8";
    read_all(&db.query(&db.prepare_cached(sql).await?, &[&provider, &id]).await?)
}
