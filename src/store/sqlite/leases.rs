//! `gateways`, `budget_leases` and `otari_lease_recalls` in SQLite: how two processes share what is left of a budget while
//! one takes the place of the other. The statements of PostgreSQL; whoever writes has the file to itself meanwhile, so
//! `spend + sum of leases + what batches hold <= max_budget` is true at every commit here too.

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::period::Period;
use crate::store::shared::share;
use crate::store::values::{Instant, MAX_AMOUNT, scope, word};
use crate::store::{BatchHold, Beat, StoreError, Take, Taken, Window};

/// A process that was not heard of for so long is not asked for anything, and takes no share.
const SILENT_US: i64 = 10_000_000;
/// Whoever was to hear a recall has heard it by then.
const RECALLED_US: i64 = 60_000_000;

pub(super) fn join(db: &Connection, id: &str, now_us: i64) -> Result<(), StoreError> {
    let sql = "-- join
        INSERT INTO gateways (id, started_at_us, seen_at_us) VALUES (?1, ?2, ?2)
        ON CONFLICT (id) DO UPDATE SET started_at_us = ?2, seen_at_us = ?2";
    db.prepare_cached(sql)?.execute(params![id, now_us])?;
    Ok(())
}

/// Takes over what a process holds that had the file to itself until now.
pub(super) fn hold(
    db: &Connection,
    gateway: &str,
    held: &[(Scope, MicroUsd)],
) -> Result<(), StoreError> {
    forget_leases(db, gateway)?;
    let sql = "-- hold
        INSERT INTO budget_leases (scope, scope_id, gateway_id, amount) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = db.prepare_cached(sql)?;
    for (scope, amount) in held {
        let (word, id) = word(scope);
        insert.execute(params![word, id, gateway, amount.0])?;
    }
    Ok(())
}

pub(super) fn forget_leases(db: &Connection, id: &str) -> Result<(), StoreError> {
    let sql = "-- forget_leases\nDELETE FROM budget_leases WHERE gateway_id = ?1";
    db.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

pub(super) fn forget_all(db: &Connection) -> Result<(), StoreError> {
    for sql in [
        "-- forget_all\nDELETE FROM budget_leases",
        "-- forget_all\nDELETE FROM gateways",
        "-- forget_all\nDELETE FROM otari_lease_recalls",
    ] {
        db.prepare_cached(sql)?.execute([])?;
    }
    Ok(())
}

pub(super) fn leave(db: &Connection, id: &str) -> Result<(), StoreError> {
    db.prepare_cached("-- leave\nDELETE FROM gateways WHERE id = ?1")?.execute([id])?;
    Ok(())
}

pub(super) fn beat(db: &Connection, id: &str, ttl_s: i64, now_us: i64) -> Result<Beat, StoreError> {
    let seen = "-- beat\nUPDATE gateways SET seen_at_us = ?2 WHERE id = ?1";
    if db.prepare_cached(seen)?.execute(params![id, now_us])? == 0 {
        join(db, id, now_us)?;
        return Ok(Beat::Lost);
    }
    let expired = "-- beat\nDELETE FROM gateways WHERE seen_at_us < ?1";
    let silent_us = now_us.saturating_sub(ttl_s.saturating_mul(1_000_000));
    db.prepare_cached(expired)?.execute([silent_us])?;
    let heard = "-- beat\nDELETE FROM otari_lease_recalls WHERE at_us < ?1";
    db.prepare_cached(heard)?.execute([now_us - RECALLED_US])?;
    Ok(Beat::Alive)
}

/// How many other processes live.
pub(super) fn others(db: &Connection, id: &str, now_us: i64) -> Result<i64, StoreError> {
    let sql = "-- listen\nSELECT count(*) FROM gateways WHERE id <> ?1 AND seen_at_us > ?2";
    let silent_us = now_us - SILENT_US;
    Ok(db.prepare_cached(sql)?.query_row(params![id, silent_us], |row| row.get(0))?)
}

/// A scope as the lease sees it.
struct Found {
    spend: MicroUsd,
    max: MicroUsd,
    period: Option<Period>,
    budget_id: String,
    window: Window,
}

fn find(db: &Connection, scope: &Scope) -> Result<Option<Found>, StoreError> {
    let (id, sql) = match scope {
        Scope::User(id) => (
            id,
            "-- take
             SELECT u.spend, b.max_budget, b.budget_duration_sec, b.reset_alignment, b.budget_id,
                 u.budget_started_at, u.next_budget_reset_at, u.spend_since
             FROM users u JOIN budgets b ON b.budget_id = u.budget_id WHERE u.user_id = ?1 AND u.deleted_at IS NULL",
        ),
        Scope::Ceiling(id) => (
            id,
            "-- take
             SELECT c.current_spend, b.max_budget, b.budget_duration_sec, b.reset_alignment, b.budget_id,
                 c.period_start, c.period_end, c.spend_since
             FROM scoped_budgets c JOIN budgets b ON b.budget_id = c.budget_id WHERE c.id = ?1",
        ),
    };
    Ok(db.prepare_cached(sql)?.query_row([&**id], read).optional()?.flatten())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Found>> {
    let Some(max) = row.get::<_, Option<i64>>(1)? else { return Ok(None) };
    let at = |column| row.get::<_, Option<Instant>>(column).map(|at| at.map(|at| at.0));
    Ok(Some(Found {
        spend: MicroUsd(row.get(0)?),
        max: MicroUsd(max),
        period: Period::new(row.get(2)?, row.get::<_, Option<String>>(3)?.as_deref()),
        budget_id: row.get(4)?,
        window: Window { started_us: at(5)?, next_reset_us: at(6)?, since_us: at(7)? },
    }))
}

/// Starts a new period when the old one is over. Leases stay as they are: what they were used for is not lost.
fn roll(db: &Connection, take: &Take, found: &mut Found) -> Result<(), StoreError> {
    if found.window.next_reset_us.is_none_or(|due| due > take.now_us) {
        return Ok(());
    }
    let next = found.period.and_then(|period| period.end_us(take.now_us));
    let (at, next_at) = (Instant(take.now_us), next.map(Instant));
    match &take.scope {
        Scope::User(id) => {
            let log = "-- take
                INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at, next_reset_at)
                VALUES (?1, ?2, ?3, ?4, ?5)";
            let reset = "-- take
                UPDATE users SET spend = 0, spend_since = ?2, budget_started_at = ?2, next_budget_reset_at = ?3,
                    updated_at = max(updated_at, ?2) WHERE user_id = ?1";
            let spend = found.spend.0;
            db.prepare_cached(log)?.execute(params![&**id, found.budget_id, spend, at, next_at])?;
            db.prepare_cached(reset)?.execute(params![&**id, at, next_at])?;
        }
        Scope::Ceiling(id) => {
            let reset = "-- take
                UPDATE scoped_budgets SET current_spend = 0, spend_since = ?2, period_start = ?2, period_end = ?3,
                    updated_at = max(updated_at, ?2) WHERE id = ?1";
            db.prepare_cached(reset)?.execute(params![&**id, at, next_at])?;
        }
    }
    found.spend = MicroUsd::ZERO;
    found.window =
        Window { started_us: Some(take.now_us), next_reset_us: next, since_us: Some(take.now_us) };
    Ok(())
}

/// Wants a transaction of its own.
pub(super) fn take(
    db: &Connection,
    gateway: &str,
    take: &Take,
    now_us: i64,
) -> Result<Taken, StoreError> {
    let Some(mut found) = find(db, &take.scope)? else { return Ok(Taken::Uncapped) };
    roll(db, take, &mut found)?;
    let (word, id) = word(&take.scope);
    let sql = "-- take
        SELECT coalesce(sum(l.amount), 0) + (SELECT coalesce(sum(h.amount), 0) FROM otari_batch_holds h
                WHERE h.scope = ?1 AND h.scope_id = ?2),
            coalesce(max(l.gateway_id <> ?3 AND l.amount > 0 AND g.seen_at_us > ?4
                AND l.answered_at_us <= coalesce(?5, 9223372036854775807)), 0),
            coalesce(max(CASE WHEN l.gateway_id = ?3 THEN l.serial END), 0),
            coalesce(max(CASE WHEN l.gateway_id = ?3 THEN l.granted END), 0),
            (SELECT count(*) FROM gateways WHERE seen_at_us > ?4)
        FROM budget_leases l JOIN gateways g ON g.id = l.gateway_id WHERE l.scope = ?1 AND l.scope_id = ?2";
    let values = params![word, id, gateway, now_us - SILENT_US, take.recalled_at_us];
    let (leased, others, serial, granted, gateways) =
        db.prepare_cached(sql)?.query_row(values, |row| {
            let (leased, others): (i64, bool) = (row.get(0)?, row.get(1)?);
            let (serial, granted): (i64, i64) = (row.get(2)?, row.get(3)?);
            Ok((MicroUsd(leased), others, serial, MicroUsd(granted), row.get::<_, i64>(4)?))
        })?;
    let window = found.window;
    if serial == take.serial {
        // The step was taken before, and its answer was lost.
        return Ok(Taken::Granted { amount: granted, window });
    }
    let room = (found.max - found.spend - leased).or_zero();
    if take.needed > room {
        return Ok(Taken::Refused { room, others, at_us: now_us, window });
    }
    let amount = share(room, gateways, take);
    let grant = "-- take
        INSERT INTO budget_leases (scope, scope_id, gateway_id, amount, serial, granted) VALUES (?1, ?2, ?3, ?4, ?5, ?4)
        ON CONFLICT (scope, scope_id, gateway_id) DO UPDATE SET amount = amount + excluded.amount,
            serial = excluded.serial, granted = excluded.granted, answered_at_us = 0";
    db.prepare_cached(grant)?.execute(params![word, id, gateway, amount.0, take.serial])?;
    Ok(Taken::Granted { amount, window })
}

pub(super) fn give(
    db: &Connection,
    gateway: &str,
    (scope, serial, amount): (&Scope, i64, MicroUsd),
    now_us: i64,
) -> Result<(), StoreError> {
    let (word, id) = word(scope);
    let sql = "-- give
        UPDATE budget_leases SET amount = amount - ?4, given = ?5, answered_at_us = ?6
        WHERE scope = ?1 AND scope_id = ?2 AND gateway_id = ?3 AND given < ?5";
    db.prepare_cached(sql)?.execute(params![word, id, gateway, amount.0, serial, now_us])?;
    Ok(())
}

/// Takes costs off the lease that they were paid out of.
pub(super) fn draw(
    db: &Connection,
    gateway: &str,
    scope: &Scope,
    cost: i64,
) -> Result<(), StoreError> {
    let (word, id) = word(scope);
    let sql = "-- apply
        UPDATE budget_leases SET amount = max(amount - ?4, -?5)
        WHERE scope = ?1 AND scope_id = ?2 AND gateway_id = ?3";
    db.prepare_cached(sql)?.execute(params![word, id, gateway, cost, MAX_AMOUNT])?;
    Ok(())
}

/// Makes the leases smaller by those holds that are `leased`, or larger where the amount is below zero. `false`, and
/// nothing changed: one of the leases is this process's no more.
pub(super) fn lend(
    db: &Connection,
    gateway: &str,
    holds: &[BatchHold],
) -> Result<bool, StoreError> {
    let sql = "-- batch_lend
        SELECT EXISTS (SELECT 1 FROM budget_leases WHERE scope = ?1 AND scope_id = ?2 AND gateway_id = ?3)";
    let leased = || holds.iter().filter(|hold| hold.leased);
    for hold in leased() {
        let (word, id) = word(&hold.scope);
        let values = params![word, id, gateway];
        if !db.prepare_cached(sql)?.query_row(values, |row| row.get::<_, bool>(0))? {
            return Ok(false);
        }
    }
    leased().try_for_each(|hold| draw(db, gateway, &hold.scope, hold.amount.0))?;
    Ok(true)
}

pub(super) fn recall(
    db: &Connection,
    gateway: &str,
    scope: &Scope,
    now_us: i64,
) -> Result<(), StoreError> {
    let (word, id) = word(scope);
    let sql = "-- recall
        INSERT INTO otari_lease_recalls (at_us, gateway_id, scope, scope_id) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![now_us, gateway, word, id])?;
    Ok(())
}

/// What other processes have asked for since the last call; the number of the last of them.
pub(super) fn recalled(
    db: &Connection,
    gateway: &str,
    after: i64,
) -> Result<(Vec<Scope>, i64), StoreError> {
    let sql = "-- listen
        SELECT seq, scope, scope_id FROM otari_lease_recalls WHERE seq > ?2 AND gateway_id <> ?1 ORDER BY seq LIMIT 1000";
    let mut last = after;
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![gateway, after])?;
    let mut scopes = Vec::new();
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        let (word, id): (String, String) = (row.get(1)?, row.get(2)?);
        scopes.extend(scope(&word, &id).filter(|scope| !scopes.contains(scope)));
    }
    Ok((scopes, last))
}

/// The number of the last recall.
pub(super) fn last_recall(db: &Connection) -> Result<i64, StoreError> {
    let sql = "-- listen\nSELECT coalesce(max(seq), 0) FROM otari_lease_recalls";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Grows with everything that the management API changes.
pub(super) fn last_change(db: &Connection) -> Result<i64, StoreError> {
    let sql = "-- changes\nSELECT coalesce(max(rowid), 0) FROM otari_audit_log";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

pub(super) fn publish(
    db: &Connection,
    gateway: &str,
    held: &[(Scope, MicroUsd)],
) -> Result<(), StoreError> {
    let sql = "-- publish
        UPDATE budget_leases SET held = ?4 WHERE scope = ?1 AND scope_id = ?2 AND gateway_id = ?3";
    for (scope, amount) in held {
        let (word, id) = word(scope);
        db.prepare_cached(sql)?.execute(params![word, id, gateway, amount.0])?;
    }
    Ok(())
}

pub(super) fn held_elsewhere(
    db: &Connection,
    gateway: &str,
    scope: &Scope,
) -> Result<MicroUsd, StoreError> {
    let (word, id) = word(scope);
    let sql = "-- held_elsewhere
        SELECT coalesce(sum(held), 0) FROM (
            SELECT held FROM budget_leases WHERE scope = ?1 AND scope_id = ?2 AND gateway_id <> ?3
            UNION ALL
            SELECT amount FROM otari_batch_holds WHERE scope = ?1 AND scope_id = ?2)";
    let held = db.prepare_cached(sql)?.query_row(params![word, id, gateway], |row| row.get(0))?;
    Ok(MicroUsd(held))
}

pub(super) fn over_cap(db: &Connection) -> Result<i64, StoreError> {
    let sql = "-- over_cap
        WITH leased AS (
            SELECT scope, scope_id, sum(amount) AS amount FROM (
                SELECT scope, scope_id, amount FROM budget_leases
                UNION ALL
                SELECT scope, scope_id, amount FROM otari_batch_holds)
            GROUP BY scope, scope_id
        )
        SELECT count(*) FROM (
            SELECT 1 FROM leased l JOIN users u ON u.user_id = l.scope_id
            JOIN budgets b ON b.budget_id = u.budget_id
            WHERE l.scope = 'user' AND u.deleted_at IS NULL AND u.spend + l.amount > b.max_budget
            UNION ALL
            SELECT 1 FROM leased l JOIN scoped_budgets c ON c.id = l.scope_id
            JOIN budgets b ON b.budget_id = c.budget_id
            WHERE l.scope = 'ceiling' AND c.current_spend + l.amount > b.max_budget)";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}
