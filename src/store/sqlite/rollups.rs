//! Sums of hours and days in SQLite, and the removal of old rows: a step each. The writer's thread does one at a time.

use rusqlite::{Connection, params};

use crate::store::StoreError;
use crate::store::analytics::sql::SQLITE;
use crate::store::analytics::{Bucket, Condensed, condense};
use crate::store::values::Instant;

pub(super) fn usage_condense(db: &Connection, closed: Instant) -> Result<Condensed, StoreError> {
    let closed = closed.start_of(Bucket::Hour);
    let next = |sql: String, before: Instant| {
        db.prepare_cached(&sql)?.query_row([before], |row| row.get::<_, Option<Instant>>(0))
    };
    if let Some(hour) = next(condense::next_hour(&SQLITE), closed)? {
        let (day, until) = (hour.start_of(Bucket::Day), hour.after(Bucket::Hour));
        for sql in condense::forget_hour(&SQLITE) {
            db.prepare_cached(&sql)?.execute(params![hour, day])?;
        }
        for sql in condense::sum_hour(&SQLITE) {
            db.prepare_cached(&sql)?.execute(params![hour, until])?;
        }
        return Ok(Condensed::One);
    }
    let today = closed.start_of(Bucket::Day);
    if let Some(day) = next(condense::next_day(&SQLITE), today)? {
        for sql in condense::sum_day(&SQLITE) {
            db.prepare_cached(&sql)?.execute(params![day, day.after(Bucket::Day)])?;
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
