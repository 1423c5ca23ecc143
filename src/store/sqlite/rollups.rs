//! Sums of hours, days and weeks in SQLite, and the removal of old rows.
//!
//! An hour of a busy gateway has millions of rows. They are read in slices, by a thread that only reads: whoever writes
//! never waits for it, and no more than a slice is in memory. The sums are written when all is read. Meanwhile a mark
//! within the hour, and not at its beginning, says that somebody is at it: for readers it is a mark like every other,
//! after a crash the hour is due again, and whatever changes rows of the hour leaves the usual mark beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, params, params_from_iter};

use super::actor::Actor;
use super::usage::known;
use crate::store::StoreError;
use crate::store::analytics::plan::Grain;
use crate::store::analytics::sql::{COLUMNS, SQLITE};
use crate::store::analytics::{Condensed, condense};
use crate::store::values::Instant;

/// Rows of a slice, beyond which only those of the same microsecond are added.
const SLICE: i64 = 10_000;
/// Between two slices. The writer begins its log anew where nobody reads at two commits in a row, and there are ten a second
/// at least: read without a pause, an hour of millions of rows would let the log grow to gigabytes. Callers have the
/// processor meanwhile.
const PAUSE: Duration = Duration::from_millis(250);

const FORGET_MARKS: &str =
    "-- usage_condense\nDELETE FROM usage_rollup_marks WHERE hour >= ?1 AND hour < ?2";
const MARK: &str = "-- usage_condense\nINSERT OR IGNORE INTO usage_rollup_marks (hour) VALUES (?1)";
const UNMARK: &str = "-- usage_condense\nDELETE FROM usage_rollup_marks WHERE hour = ?1";
const IS_MARKED: &str =
    "-- usage_condense\nSELECT 1 FROM usage_rollup_marks WHERE hour >= ?1 AND hour < ?2";
/// The end of a slice that begins at parameter 1, if the hour does not end before.
const SLICE_ENDS: &str = "-- usage_condense
    SELECT timestamp FROM usage_logs WHERE timestamp > ?1 AND timestamp < ?2 ORDER BY timestamp LIMIT 1 OFFSET ?3";

/// An hour that is being summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) hour: Instant,
    mark: Instant,
}

impl Claim {
    /// Where the hour ends.
    pub(super) fn end(&self) -> Instant {
        self.hour.after(Grain::Hour)
    }
}

/// What rows come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sums {
    all: [i64; COLUMNS.len()],
    /// By dimension and key.
    groups: BTreeMap<(String, Option<String>), [i64; condense::GROUP_COLUMNS.len()]>,
}

impl Sums {
    /// Adds those of other rows.
    pub(super) fn add(&mut self, other: Self) {
        let add = |to: &mut [i64], more: &[i64]| {
            to.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
        };
        add(&mut self.all, &other.all);
        for (key, sums) in other.groups {
            add(self.groups.entry(key).or_default(), &sums);
        }
    }
}

/// Takes on the newest hour before `closed` whose sums are not those of its rows. Whoever else is at it has lost it.
pub(super) fn claim(db: &Connection, closed: Instant) -> Result<Option<Claim>, StoreError> {
    let closed = closed.start_of(Grain::Hour);
    let next = condense::next_hour(&SQLITE);
    let marked: Option<Instant> =
        db.prepare_cached(&next)?.query_row([closed], |row| row.get(0))?;
    let Some(marked) = marked else { return Ok(None) };
    let hour = marked.start_of(Grain::Hour);
    let (second, random) = (1_000_000, uuid::Uuid::new_v4().as_u128());
    let within = 1 + i64::try_from(random % (second - 1)).unwrap_or(0);
    let claim = Claim { hour, mark: Instant(hour.0 + within) };
    let grains = Grain::ALL.map(|grain| hour.start_of(grain));
    let [_, sums, groups] = condense::forget_hour(&SQLITE);
    db.prepare_cached(FORGET_MARKS)?.execute([hour, claim.end()])?;
    db.prepare_cached(&sums)?.execute(grains)?;
    db.prepare_cached(&groups)?.execute(grains)?;
    db.prepare_cached(MARK)?.execute([claim.mark])?;
    Ok(Some(claim))
}

/// The sums of a claimed hour. `reader` is used for nothing else and ended behind it: a connection that stays would keep
/// the megabytes that SQLite has sorted in.
pub(super) async fn sum(reader: Actor, claim: Claim) -> Result<Sums, StoreError> {
    let (mut sums, mut from, end) = (Sums::default(), claim.hour, claim.end());
    loop {
        let read = move |db: &mut Connection| slice(&*db.transaction()?, from, end, SLICE);
        let (slice, next) = reader.run(read).await?;
        sums.add(slice);
        if next >= end {
            return Ok(sums);
        }
        from = next;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The sums of a slice of rows from `from` on and before `end`, and where the next one begins.
fn slice(
    db: &Connection,
    from: Instant,
    end: Instant,
    rows: i64,
) -> Result<(Sums, Instant), StoreError> {
    let mut ends = db.prepare_cached(SLICE_ENDS)?;
    let mut found = ends.query(params![from, end, rows])?;
    let until = found.next()?.map(|row| row.get(0)).transpose()?.unwrap_or(end);
    let [all, groups] = condense::sums_of_rows(&SQLITE);
    let mut sums = Sums::default();
    db.prepare_cached(&all)?.query_row([from, until], |row| {
        sums.all.iter_mut().enumerate().try_for_each(|(at, sum)| {
            *sum = row.get(at)?;
            Ok(())
        })
    })?;
    let mut groups = db.prepare_cached(&groups)?;
    let mut rows = groups.query([from, until])?;
    while let Some(row) = rows.next()? {
        let mut of_key = [0; condense::GROUP_COLUMNS.len()];
        for (at, sum) in of_key.iter_mut().enumerate() {
            *sum = row.get(2 + at)?;
        }
        sums.groups.insert((row.get(0)?, row.get(1)?), of_key);
    }
    Ok((sums, until))
}

/// Writes the sums of a claimed hour, unless rows of it have changed meanwhile, or somebody else has taken it on.
pub(super) fn finish(db: &Connection, claim: &Claim, sums: &Sums) -> Result<(), StoreError> {
    let is_ours = db.prepare_cached(UNMARK)?.execute([claim.mark])? == 1;
    let is_stale = db.prepare_cached(IS_MARKED)?.exists([claim.hour, claim.end()])?;
    let [row_count, ..] = sums.all;
    if !is_ours || is_stale || row_count == 0 {
        return Ok(());
    }
    let [all, groups] = condense::insert_hour(&SQLITE);
    let hour: &dyn ToSql = &claim.hour;
    let values = sums.all.iter().map(|sum| sum as &dyn ToSql);
    db.prepare_cached(&all)?.execute(params_from_iter(std::iter::once(hour).chain(values)))?;
    let mut insert = db.prepare_cached(&groups)?;
    for ((dimension, key), sums) in &sums.groups {
        let key = key.clone().map_or(Value::Null, Value::Text);
        let before: [&dyn ToSql; 3] = [hour, dimension, &key];
        let values = sums.iter().map(|sum| sum as &dyn ToSql);
        insert.execute(params_from_iter(before.into_iter().chain(values)))?;
    }
    Ok(())
}

/// Adds up the sums of hours, and those of days; one grain at a time.
pub(super) fn usage_condense_finer(
    db: &Connection,
    closed: Instant,
) -> Result<Condensed, StoreError> {
    let closed = closed.start_of(Grain::Hour);
    if let Some((grain, finer, due)) = known(db, condense::EVER, closed)?.due(closed) {
        for sql in condense::sum_finer(&SQLITE, grain, finer) {
            for at in &due {
                db.prepare_cached(&sql)?.execute(params![at, at.after(grain)])?;
            }
        }
        return Ok(Condensed::One);
    }
    Ok(Condensed::Done)
}

/// Always ours: an SQLite file has one gateway.
pub(super) fn usage_expire(
    db: &Connection,
    before: Instant,
    at_most: i64,
) -> Result<Option<u64>, StoreError> {
    let gone = db.prepare_cached(&condense::expire(&SQLITE))?.execute(params![before, at_most])?;
    Ok(u64::try_from(gone).ok())
}

#[cfg(test)]
mod tests {
    use super::super::{Sqlite, open};
    use super::*;
    use crate::store::Store as _;

    /// 2026-03-10 15:00:00 UTC.
    const HOUR: Instant = Instant(1_773_154_800_000_000);
    const ROW: &str =
        "INSERT INTO usage_logs (id, timestamp, model, endpoint, status, cost, total_tokens)
        VALUES (?1, ?2, ?3, '/v1/messages', 'success', 5, 7)";

    async fn store() -> (tempfile::TempDir, Sqlite) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("otari.db")).await.unwrap();
        store.migrate().await.unwrap();
        (folder, store)
    }

    /// A row of so many microseconds after the hour began.
    async fn row(store: &Sqlite, id: usize, after: i64) {
        let write = move |db: &Connection| {
            let model = format!("m{}", id % 3);
            Ok(db.execute(ROW, params![format!("r{id}"), Instant(HOUR.0 + after), model])?)
        };
        store.write(move |db| write(db)).await.unwrap();
    }

    async fn claim_next(store: &Sqlite) -> Option<Claim> {
        store.write(|db| claim(db, HOUR.after(Grain::Hour))).await.unwrap()
    }

    async fn sums(store: &Sqlite, claim: Claim, rows: i64) -> (Sums, usize) {
        let (mut sums, mut from, mut slices) = (Sums::default(), claim.hour, 0);
        while from < claim.end() {
            let read = move |db: &Connection| slice(db, from, claim.end(), rows);
            let (slice, next) = store.read(move |db| read(db)).await.unwrap();
            sums.add(slice);
            (from, slices) = (next, slices + 1);
        }
        (sums, slices)
    }

    async fn written(store: &Sqlite) -> (i64, i64) {
        let count = |db: &Connection| -> rusqlite::Result<(i64, i64)> {
            let rows = "SELECT coalesce(sum(row_count), 0) FROM usage_rollups WHERE grain = 'hour'";
            let marks = "SELECT count(*) FROM usage_rollup_marks";
            let one = |sql| db.query_row(sql, [], |row| row.get(0));
            Ok((one(rows)?, one(marks)?))
        };
        store.read(move |db| Ok(count(db)?)).await.unwrap()
    }

    #[tokio::test]
    async fn slices_come_to_what_all_rows_come_to() {
        let (_folder, store) = store().await;
        // The first and the last moment of the hour, and many rows of one moment.
        let moments = [0, 0, 1, 5, 5, 5, 5, 5, 5, 6, 900_000, 3_599_999_999];
        for (id, after) in moments.into_iter().enumerate() {
            row(&store, id, after).await;
        }
        row(&store, 98, -1).await;
        row(&store, 99, 3_600_000_000).await;
        let claim = claim_next(&store).await.unwrap();
        assert_eq!(claim.hour, HOUR);
        let (whole, slices) = sums(&store, claim, 1000).await;
        assert_eq!((whole.all[0], whole.all[3], slices), (12, 60, 1));
        assert_eq!(whole.groups[&("model".into(), Some("m0".into()))], [4, 4, 20, 28]);
        for rows in 0..5 {
            let (pieces, slices) = sums(&store, claim, rows).await;
            assert_eq!(pieces, whole, "slices of {rows}");
            assert!(slices > 1);
        }
        store.write(move |db| finish(db, &claim, &whole)).await.unwrap();
        let (rows, marks) = written(&store).await;
        assert_eq!((rows, marks), (12, 2), "the hours before and after are left");
    }

    #[tokio::test]
    async fn rows_that_come_meanwhile_make_the_hour_due_again() {
        let (_folder, store) = store().await;
        row(&store, 1, 5).await;
        let first = claim_next(&store).await.unwrap();
        let (before, _) = sums(&store, first, 1000).await;
        row(&store, 2, 6).await;
        store.write(move |db| finish(db, &first, &before)).await.unwrap();
        assert_eq!(written(&store).await, (0, 1), "only the mark of the new row is left");
        let again = claim_next(&store).await.unwrap();
        let (sums, _) = sums(&store, again, 1000).await;
        store.write(move |db| finish(db, &again, &sums)).await.unwrap();
        assert_eq!(written(&store).await, (2, 0));
    }

    #[tokio::test]
    async fn who_has_lost_an_hour_or_died_over_it_writes_nothing_and_leaves_it_due() {
        let (_folder, store) = store().await;
        row(&store, 1, 5).await;
        let lost = claim_next(&store).await.unwrap();
        let (sums, _) = sums(&store, lost, 1000).await;
        assert_eq!(written(&store).await, (0, 1), "due until it is done");
        let taken = claim_next(&store).await.unwrap();
        assert_eq!((taken.hour, taken.mark == lost.mark), (HOUR, false));
        let late = Sums { all: sums.all, groups: sums.groups.clone() };
        store.write(move |db| finish(db, &taken, &sums)).await.unwrap();
        store.write(move |db| finish(db, &lost, &late)).await.unwrap();
        assert_eq!(written(&store).await, (1, 0), "once");
        assert!(claim_next(&store).await.is_none());
    }
}
