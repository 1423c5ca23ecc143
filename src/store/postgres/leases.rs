//! `gateways` and `budget_leases`: how gateways share what is left of a budget.
//!
//! Every grant is made while the scope's row is locked, and every settled cost moves from a lease to the spend in one
//! transaction, so `spend + sum of leases + what batches hold <= max_budget` is true at every commit.

use deadpool_postgres::{GenericClient, Transaction};
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::codec::get;
use crate::period::Period;
use crate::store::shared::share;
use crate::store::values::{Instant, word};
use crate::store::{Beat, StoreError, Take, Taken, Window};

/// A gateway that was not heard of for so long is not asked for anything, and takes no share.
const SILENT: &str = "10 seconds";

async fn execute(
    db: &impl GenericClient,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<u64, StoreError> {
    Ok(db.execute(&db.prepare_cached(sql).await?, values).await?)
}

pub(super) async fn join(db: &impl GenericClient, id: &str) -> Result<(), StoreError> {
    let sql = "-- join
        INSERT INTO gateways (id, started_at, seen_at) VALUES ($1, now(), now())
        ON CONFLICT (id) DO UPDATE SET started_at = now(), seen_at = now()";
    execute(db, sql, &[&id]).await.map(drop)
}

pub(super) async fn forget_leases(db: &impl GenericClient, id: &str) -> Result<(), StoreError> {
    execute(db, "-- forget_leases\nDELETE FROM budget_leases WHERE gateway_id = $1", &[&id])
        .await
        .map(drop)
}

pub(super) async fn leave(db: &impl GenericClient, id: &str) -> Result<(), StoreError> {
    execute(db, "-- leave\nDELETE FROM gateways WHERE id = $1", &[&id]).await.map(drop)
}

/// Silence is counted from the server's own start at the earliest: while it was away nobody could be heard.
pub(super) async fn beat(
    db: &impl GenericClient,
    id: &str,
    ttl_s: i64,
) -> Result<Beat, StoreError> {
    let seen = "-- beat\nUPDATE gateways SET seen_at = now() WHERE id = $1";
    let expired = "-- beat
        DELETE FROM gateways WHERE greatest(seen_at, pg_postmaster_start_time()) < now() - $1::int8 * interval '1 second'";
    if execute(db, seen, &[&id]).await? == 0 {
        join(db, id).await?;
        return Ok(Beat::Lost);
    }
    execute(db, expired, &[&ttl_s]).await?;
    Ok(Beat::Alive)
}

/// A scope as the lease sees it.
struct Locked {
    spend: MicroUsd,
    max: MicroUsd,
    period: Option<Period>,
    budget_id: String,
    window: Window,
}

/// Locks the scope's row. The statements that follow see every lease that was granted under an earlier lock.
async fn lock(db: &Transaction<'_>, scope: &Scope) -> Result<Option<Locked>, StoreError> {
    let (id, sql) = match scope {
        Scope::User(id) => (
            id,
            "-- take
             SELECT (u.spend * 1000000)::int8, (b.max_budget * 1000000)::int8, b.budget_duration_sec,
                 b.reset_alignment, b.budget_id, u.budget_started_at, u.next_budget_reset_at, u.spend_since
             FROM users u JOIN budgets b ON b.budget_id = u.budget_id
             WHERE u.user_id = $1 AND u.deleted_at IS NULL FOR NO KEY UPDATE OF u",
        ),
        Scope::Ceiling(id) => (
            id,
            "-- take
             SELECT (c.current_spend * 1000000)::int8, (b.max_budget * 1000000)::int8, b.budget_duration_sec,
                 b.reset_alignment, b.budget_id, c.period_start, c.period_end, c.spend_since
             FROM scoped_budgets c JOIN budgets b ON b.budget_id = c.budget_id
             WHERE c.id = $1 FOR NO KEY UPDATE OF c",
        ),
    };
    let row = db.query_opt(&db.prepare_cached(sql).await?, &[&&**id]).await?;
    row.map_or(Ok(None), |row| read(&row))
}

fn read(row: &Row) -> Result<Option<Locked>, StoreError> {
    let Some(max) = get::<Option<i64>>(row, 1)? else { return Ok(None) };
    let at = |column| Ok::<_, StoreError>(get::<Option<Instant>>(row, column)?.map(|at| at.0));
    Ok(Some(Locked {
        spend: MicroUsd(get(row, 0)?),
        max: MicroUsd(max),
        period: Period::new(get(row, 2)?, get(row, 3)?),
        budget_id: get(row, 4)?,
        window: Window { started_us: at(5)?, next_reset_us: at(6)?, since_us: at(7)? },
    }))
}

/// Starts a new period when the old one is over. Leases stay as they are: what they were used for is not lost.
async fn roll(db: &Transaction<'_>, take: &Take, locked: &mut Locked) -> Result<(), StoreError> {
    if locked.window.next_reset_us.is_none_or(|due| due > take.now_us) {
        return Ok(());
    }
    let next = locked.period.and_then(|period| period.end_us(take.now_us));
    let (at, next_at) = (Instant(take.now_us), next.map(Instant));
    match &take.scope {
        Scope::User(id) => {
            let log = "-- take
                INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
                VALUES ($1, $2, $3::int8 * 0.000001, $4, $5)";
            let reset = "-- take
                UPDATE users SET spend = 0, spend_since = $2, budget_started_at = $2, next_budget_reset_at = $3,
                    updated_at = greatest(updated_at, $2) WHERE user_id = $1";
            execute(db, log, &[&&**id, &locked.budget_id, &locked.spend.0, &at, &next_at]).await?;
            execute(db, reset, &[&&**id, &at, &next_at]).await?;
        }
        Scope::Ceiling(id) => {
            let reset = "-- take
                UPDATE scoped_budgets SET current_spend = 0, spend_since = $2, period_start = $2, period_end = $3,
                    updated_at = greatest(updated_at, $2) WHERE id = $1";
            execute(db, reset, &[&&**id, &at, &next_at]).await?;
        }
    }
    locked.spend = MicroUsd::ZERO;
    locked.window =
        Window { started_us: Some(take.now_us), next_reset_us: next, since_us: Some(take.now_us) };
    Ok(())
}

/// Wants a transaction of its own.
pub(super) async fn take(
    db: &Transaction<'_>,
    gateway: &str,
    take: &Take,
) -> Result<Taken, StoreError> {
    let Some(mut locked) = lock(db, &take.scope).await? else { return Ok(Taken::Uncapped) };
    roll(db, take, &mut locked).await?;
    let (word, id) = word(&take.scope);
    let sql = format!(
        "-- take
        SELECT ((coalesce(sum(l.amount), 0) + (SELECT coalesce(sum(h.amount), 0) FROM otari_batch_holds h
                WHERE h.scope = $1 AND h.scope_id = $2)) * 1000000)::int8,
            coalesce(bool_or(l.gateway_id <> $3 AND l.amount > 0 AND g.seen_at > now() - interval '{SILENT}'
                AND l.answered_at <= coalesce($4::timestamptz, 'infinity')), false),
            coalesce(max(l.serial) FILTER (WHERE l.gateway_id = $3), 0),
            (coalesce(max(l.granted) FILTER (WHERE l.gateway_id = $3), 0) * 1000000)::int8,
            (SELECT count(*) FROM gateways WHERE seen_at > now() - interval '{SILENT}'),
            clock_timestamp()
        FROM budget_leases l JOIN gateways g ON g.id = l.gateway_id WHERE l.scope = $1 AND l.scope_id = $2"
    );
    let recalled_at = take.recalled_at_us.map(Instant);
    let statement = db.prepare_cached(&sql).await?;
    let row = db.query_one(&statement, &[&word, &id, &gateway, &recalled_at]).await?;
    let leased = MicroUsd(get(&row, 0)?);
    let window = locked.window;
    if get::<i64>(&row, 2)? == take.serial {
        // The step was taken before, and its answer was lost.
        return Ok(Taken::Granted { amount: MicroUsd(get(&row, 3)?), window });
    }
    let room = (locked.max - locked.spend - leased).or_zero();
    let gateways: i64 = get(&row, 4)?;
    let amount = share(room, gateways, take);
    if take.needed > room {
        let (others, at_us) = (get(&row, 1)?, get::<Instant>(&row, 5)?.0);
        return Ok(Taken::Refused { room, others, at_us, window });
    }
    let grant = "-- take
        INSERT INTO budget_leases (scope, scope_id, gateway_id, amount, serial, granted, answered_at)
        VALUES ($1, $2, $3, $4::int8 * 0.000001, $5, $4::int8 * 0.000001, '-infinity')
        ON CONFLICT (scope, scope_id, gateway_id) DO UPDATE SET amount = budget_leases.amount + excluded.amount,
            serial = excluded.serial, granted = excluded.granted, answered_at = '-infinity'";
    execute(db, grant, &[&word, &id, &gateway, &amount.0, &take.serial]).await?;
    Ok(Taken::Granted { amount, window })
}

pub(super) async fn give(
    db: &impl GenericClient,
    gateway: &str,
    scope: &Scope,
    serial: i64,
    amount: MicroUsd,
) -> Result<(), StoreError> {
    let (word, id) = word(scope);
    let sql = "-- give
        UPDATE budget_leases SET amount = amount - $4::int8 * 0.000001, given = $5, answered_at = clock_timestamp()
        WHERE scope = $1 AND scope_id = $2 AND gateway_id = $3 AND given < $5";
    execute(db, sql, &[&word, &id, &gateway, &amount.0, &serial]).await.map(drop)
}

pub(super) async fn recall(
    db: &impl GenericClient,
    gateway: &str,
    scope: &Scope,
) -> Result<(), StoreError> {
    let (word, id) = word(scope);
    let notice = serde_json::json!([gateway, word, id]).to_string();
    execute(db, "-- recall\nSELECT pg_notify('otari_leases', $1)", &[&notice]).await.map(drop)
}

pub(super) async fn publish(
    db: &impl GenericClient,
    gateway: &str,
    held: &[(Scope, MicroUsd)],
) -> Result<(), StoreError> {
    let sql = "-- publish
        UPDATE budget_leases SET held = p.held * 0.000001
        FROM unnest($2::text[], $3::text[], $4::int8[]) AS p (scope, id, held)
        WHERE gateway_id = $1 AND budget_leases.scope = p.scope AND budget_leases.scope_id = p.id";
    let words: Vec<(&str, &str)> = held.iter().map(|(scope, _)| word(scope)).collect();
    let (scopes, ids): (Vec<&str>, Vec<&str>) = words.into_iter().unzip();
    let amounts: Vec<i64> = held.iter().map(|(_, amount)| amount.0).collect();
    execute(db, sql, &[&gateway, &scopes, &ids, &amounts]).await.map(drop)
}

pub(super) async fn held_elsewhere(
    db: &impl GenericClient,
    gateway: &str,
    scope: &Scope,
) -> Result<MicroUsd, StoreError> {
    let (word, id) = word(scope);
    let sql = "-- held_elsewhere
        SELECT (coalesce(sum(held), 0) * 1000000)::int8 FROM (
            SELECT held FROM budget_leases WHERE scope = $1 AND scope_id = $2 AND gateway_id <> $3
            UNION ALL
            SELECT amount FROM otari_batch_holds WHERE scope = $1 AND scope_id = $2) t";
    let row = db.query_one(&db.prepare_cached(sql).await?, &[&word, &id, &gateway]).await?;
    Ok(MicroUsd(get(&row, 0)?))
}

pub(super) async fn over_cap(db: &impl GenericClient) -> Result<i64, StoreError> {
    let sql = "-- over_cap
        WITH leased AS (
            SELECT scope, scope_id, sum(amount) AS amount FROM (
                SELECT scope, scope_id, amount FROM budget_leases
                UNION ALL
                SELECT scope, scope_id, amount FROM otari_batch_holds) a
            GROUP BY scope, scope_id
        )
        SELECT count(*) FROM (
            SELECT 1 FROM leased l JOIN users u ON u.user_id = l.scope_id
            JOIN budgets b ON b.budget_id = u.budget_id
            WHERE l.scope = 'user' AND u.deleted_at IS NULL AND u.spend + l.amount > b.max_budget
            UNION ALL
            SELECT 1 FROM leased l JOIN scoped_budgets c ON c.id = l.scope_id
            JOIN budgets b ON b.budget_id = c.budget_id
            WHERE l.scope = 'ceiling' AND c.current_spend + l.amount > b.max_budget) t";
    get(&db.query_one(&db.prepare_cached(sql).await?, &[]).await?, 0)
}
