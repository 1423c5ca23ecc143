//! `otari_rate_limits` and `otari_rate_places`: rate limits that gateways have together. What is granted is the
//! arithmetic of `filters/gcra`, by the server's clock, while the rows are locked.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};
use otari_filters::gcra::{self, Granted};

use super::codec::get;
use crate::store::{RateAsk, RatePlaces, StoreError};

/// Gateways that were not heard of for so long have nothing under way.
const SILENT: &str = "5 seconds";
/// And do not live; as `leases.rs` has it.
const GONE: &str = "10 seconds";
/// What was not used for so long is forgotten.
const OVER: &str = "60 seconds";
/// Subjects of other gateways that are read at once.
const MOST: i64 = 100_000;

/// Wants a transaction of its own.
pub(super) async fn rates(
    db: &Transaction<'_>,
    asks: &[RateAsk],
) -> Result<Vec<Granted>, StoreError> {
    let subjects: Vec<&str> = asks.iter().map(|ask| ask.subject.as_str()).collect();
    let mut found = lock(db, &subjects).await?;
    if found.len() < subjects.len() {
        let add = "-- rates
            INSERT INTO otari_rate_limits (subject, tat_ns) SELECT s, 0 FROM unnest($1::text[]) AS s
            ON CONFLICT DO NOTHING";
        db.execute(&db.prepare_cached(add).await?, &[&subjects]).await?;
        found = lock(db, &subjects).await?;
    }
    let mut granted = Vec::with_capacity(asks.len());
    let mut tats = Vec::with_capacity(asks.len());
    for RateAsk { subject, ask } in asks {
        let (tat, now) = found.get(subject).copied().unwrap_or_default();
        let (tat, answer) = gcra::serve(tat, now, ask);
        tats.push(tat);
        granted.push(answer);
    }
    let write = "-- rates
        UPDATE otari_rate_limits r SET tat_ns = n.tat_ns
        FROM unnest($1::text[], $2::int8[]) AS n (subject, tat_ns) WHERE r.subject = n.subject";
    db.execute(&db.prepare_cached(write).await?, &[&subjects, &tats]).await?;
    Ok(granted)
}

/// Locks the rows, in one order; each with the server's clock.
async fn lock(
    db: &Transaction<'_>,
    subjects: &[&str],
) -> Result<HashMap<String, (i64, i64)>, StoreError> {
    let sql = "-- rates
        SELECT subject, tat_ns, (extract(epoch FROM clock_timestamp()) * 1000000000)::int8
        FROM otari_rate_limits WHERE subject = ANY($1::text[]) ORDER BY subject FOR NO KEY UPDATE";
    let rows = db.query(&db.prepare_cached(sql).await?, &[&subjects]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, (get(row, 1)?, get(row, 2)?)))).collect()
}

pub(super) async fn places(
    db: &impl GenericClient,
    gateway: &str,
    own: &[RatePlaces],
) -> Result<HashMap<String, (u32, u32)>, StoreError> {
    if !own.is_empty() {
        let subjects: Vec<&str> = own.iter().map(|own| own.subject.as_str()).collect();
        let counts: Vec<i32> =
            own.iter().map(|own| i32::try_from(own.count).unwrap_or(i32::MAX)).collect();
        let sql = "-- rate_places
            INSERT INTO otari_rate_places (subject, gateway_id, under_way, seen_at)
            SELECT p.subject, $1, p.under_way, now() FROM unnest($2::text[], $3::int4[]) AS p (subject, under_way)
            ON CONFLICT (subject, gateway_id) DO UPDATE SET under_way = excluded.under_way, seen_at = now()";
        let statement = db.prepare_cached(sql).await?;
        db.execute(&statement, &[&gateway, &subjects, &counts]).await?;
    }
    let sql = format!(
        "-- rate_places
        SELECT subject, sum(under_way)::int8, count(*) FROM otari_rate_places
        WHERE gateway_id <> $1 AND seen_at > now() - interval '{SILENT}' GROUP BY subject LIMIT $2"
    );
    let rows = db.query(&db.prepare_cached(&sql).await?, &[&gateway, &MOST]).await?;
    let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    rows.iter().map(|row| Ok((get(row, 0)?, (count(get(row, 1)?), count(get(row, 2)?))))).collect()
}

pub(super) async fn gateways(db: &impl GenericClient, forgets: bool) -> Result<u32, StoreError> {
    if forgets {
        let limits = format!(
            "-- rate_gateways
            DELETE FROM otari_rate_limits
            WHERE tat_ns < (extract(epoch FROM now() - interval '{OVER}') * 1000000000)::int8"
        );
        let places = format!(
            "-- rate_gateways\nDELETE FROM otari_rate_places WHERE seen_at < now() - interval '{OVER}'"
        );
        for sql in [limits, places] {
            db.execute(&db.prepare_cached(&sql).await?, &[]).await?;
        }
    }
    let sql = format!(
        "-- rate_gateways\nSELECT count(*) FROM gateways WHERE seen_at > now() - interval '{GONE}'"
    );
    let row = db.query_one(&db.prepare_cached(&sql).await?, &[]).await?;
    Ok(u32::try_from(get::<i64>(&row, 0)?).unwrap_or(u32::MAX).max(1))
}
