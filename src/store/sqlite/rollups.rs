//! Sums of hours, days and weeks in SQLite, and the removal of old rows: a step each. The writer's thread does one at a time.

use rusqlite::{Connection, params};

use super::usage::known;
use crate::store::StoreError;
use crate::store::analytics::plan::Grain;
use crate::store::analytics::sql::SQLITE;
use crate::store::analytics::{Condensed, condense};
use crate::store::values::Instant;

pub(super) fn usage_condense(db: &Connection, closed: Instant) -> Result<Condensed, StoreError> {
    let closed = closed.start_of(Grain::Hour);
    let next = condense::next_hour(&SQLITE);
    let hour: Option<Instant> = db.prepare_cached(&next)?.query_row([closed], |row| row.get(0))?;
    if let Some(hour) = hour {
        let grains = Grain::ALL.map(|grain| hour.start_of(grain));
        let [mark, sums, groups] = condense::forget_hour(&SQLITE);
        db.prepare_cached(&mark)?.execute([hour])?;
        db.prepare_cached(&sums)?.execute(grains)?;
        db.prepare_cached(&groups)?.execute(grains)?;
        for sql in condense::sum_hour(&SQLITE) {
            db.prepare_cached(&sql)?.execute(params![hour, hour.after(Grain::Hour)])?;
        }
        return Ok(Condensed::One);
    }
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
