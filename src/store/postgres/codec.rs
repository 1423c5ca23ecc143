//! How values travel to and from PostgreSQL, and what its errors mean. Money is converted in SQL, where it is exact.

use std::error::Error;
use std::io;

use bytes::{BufMut, BytesMut};
use deadpool_postgres::{PoolError, TimeoutType};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, Json, ToSql, Type, accepts, to_sql_checked};

use crate::store::StoreError;
use crate::store::values::{Instant, models, object};

/// 2000-01-01 in microseconds since 1970: where PostgreSQL starts to count.
const EPOCH: i64 = 946_684_800_000_000;

type Failure = Box<dyn Error + Sync + Send>;

impl ToSql for Instant {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_i64(self.0 - EPOCH);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        // `infinity` overflows here or in `timestamp`; we never write it.
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(since_2000.checked_add(EPOCH).ok_or("an instant that no calendar holds")?))
    }

    accepts!(TIMESTAMPTZ);
}

/// A column, by number.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    Ok(row.try_get(column)?)
}

/// An instant that is never null.
pub(super) fn time(row: &Row, column: usize) -> Result<Timestamp, StoreError> {
    instant(get(row, column)?)
}

/// An instant or null.
pub(super) fn maybe_time(row: &Row, column: usize) -> Result<Option<Timestamp>, StoreError> {
    get::<Option<Instant>>(row, column)?.map(instant).transpose()
}

/// An instant of a calendar.
pub(super) fn instant(instant: Instant) -> Result<Timestamp, StoreError> {
    instant.timestamp().map_err(|error| StoreError::Refused { message: error.to_string() })
}

/// A `metadata` column.
pub(super) fn metadata(row: &Row, column: usize) -> Result<Map<String, Value>, StoreError> {
    Ok(object(get::<Json<Value>>(row, column)?.0))
}

/// `allowed_models`, which may be null.
pub(super) fn allowed(row: &Row, column: usize) -> Result<Option<Vec<String>>, StoreError> {
    Ok(get::<Option<Json<Value>>>(row, column)?.and_then(|json| models(json.0)))
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&tokio_postgres::Error> for StoreError {
    fn from(error: &tokio_postgres::Error) -> Self {
        let message = text(error);
        let Some(db) = error.as_db_error() else {
            // Without an answer from the server, it is the connection or ourselves.
            return if error.is_closed() || caused_by_io(error) {
                Self::Unavailable { message }
            } else {
                Self::Refused { message }
            };
        };
        match (db.code().code(), &db.code().code()[..2]) {
            ("23505", _) => Self::Conflict(message),
            // Lock not available; a read-only server, as during a failover.
            ("55P03" | "25006", _)
            // Connection; transaction rolled back (deadlock, serialization); too many connections, disk or memory full;
            // shut down, cancelled, timed out; the server's own disk.
            | (_, "08" | "40" | "53" | "57" | "58") => Self::Unavailable { message },
            _ => Self::Refused { message },
        }
    }
}

/// What an error means of a statement that has just looked after its foreign keys: one that fails all the same was
/// broken in between, and the next try sees how things are now.
pub(super) fn racing(error: &tokio_postgres::Error) -> StoreError {
    match StoreError::from(error) {
        StoreError::Refused { message }
            if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) =>
        {
            StoreError::Unavailable { message }
        }
        other => other,
    }
}

/// Everything that keeps us from having a connection may pass: also a wrong password, once it is put right.
impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        let message = match error {
            PoolError::Backend(error) => text(&error),
            PoolError::Timeout(TimeoutType::Wait) => "no free connection in the pool".into(),
            PoolError::Timeout(_) => "the server did not answer in time".into(),
            other => other.to_string(),
        };
        Self::Unavailable { message }
    }
}

/// What the server said, or the chain of causes. Neither holds the URL.
fn text(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return db.message().to_owned();
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn caused_by_io(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<io::Error>())
}
