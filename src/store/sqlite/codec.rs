//! How values look in SQLite: instants and JSON as text, money as integers; and what its errors mean.

use jiff::civil::DateTime;
use jiff::tz::Offset;
use otari_filters::money::{MicroUsd, Rate};
use rusqlite::ffi;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, Row};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::StoreError;
use crate::store::values::{Instant, models, object};

impl ToSql for Instant {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(text(*self)?))
    }
}

/// `2026-01-31 23:59:59.000001`: comparisons are textual, so there is exactly one form.
pub(super) fn text(instant: Instant) -> rusqlite::Result<String> {
    let timestamp = instant
        .timestamp()
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let at = Offset::UTC.to_datetime(timestamp);
    let field = |value: i8| u32::from(value.unsigned_abs());
    let mut text = String::with_capacity(26);
    // Every row has one of these, and the formatter takes longer than all else about it.
    digits(&mut text, u32::from(at.year().unsigned_abs()), 4);
    for (before, value) in [
        ('-', at.month()),
        ('-', at.day()),
        (' ', at.hour()),
        (':', at.minute()),
        (':', at.second()),
    ] {
        text.push(before);
        digits(&mut text, field(value), 2);
    }
    text.push('.');
    digits(&mut text, at.subsec_nanosecond().unsigned_abs() / 1_000, 6);
    Ok(text)
}

/// Appends the last `places` digits of a number.
fn digits(text: &mut String, number: u32, places: u32) {
    for place in (0..places).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.push(char::from(b'0' + digit as u8));
    }
}

/// An instant of a calendar.
pub(super) fn timestamp(instant: Instant) -> Result<jiff::Timestamp, StoreError> {
    instant.timestamp().map_err(|error| StoreError::Refused { message: error.to_string() })
}

impl FromSql for Instant {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let at: DateTime = value.as_str()?.parse().map_err(FromSqlError::other)?;
        Offset::UTC.to_timestamp(at).map(Self::from).map_err(FromSqlError::other)
    }
}

/// A column read as `T`; the wrapper is ours, so it may implement the driver's trait.
pub(super) struct Read<T>(pub(super) T);

impl FromSql for Read<jiff::Timestamp> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Instant::column_result(value)?.timestamp().map(Self).map_err(FromSqlError::other)
    }
}

impl FromSql for Read<MicroUsd> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(MicroUsd(value.as_i64()?)))
    }
}

impl FromSql for Read<Rate> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(Rate(value.as_i64()?)))
    }
}

impl FromSql for Read<Map<String, Value>> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let value = serde_json::from_str(value.as_str()?).map_err(FromSqlError::other)?;
        Ok(Self(object(value)))
    }
}

/// `allowed_models`, which may be null.
pub(super) fn allowed(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Vec<String>>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| models(serde_json::from_str(&text).unwrap_or(Value::Bool(false)))))
}

/// `metadata` or `allowed_models` as the text of its column.
pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Refused { message: error.to_string() })
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&rusqlite::Error> for StoreError {
    fn from(error: &rusqlite::Error) -> Self {
        let message = error.to_string();
        let Some(code) = error.sqlite_error() else {
            return Self::Refused { message };
        };
        match code.code {
            ErrorCode::ConstraintViolation => match code.extended_code {
                ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_UNIQUE => {
                    Self::Conflict(message)
                }
                _ => Self::Refused { message },
            },
            // Somebody else holds the file, the disk is full or gone, permissions changed: an operator can mend all of
            // these, and nothing is lost by asking again.
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::SchemaChanged => Self::Unavailable { message },
            _ => Self::Refused { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_one_form() {
        for (microseconds, expected) in [
            (0, "1970-01-01 00:00:00.000000"),
            (1, "1970-01-01 00:00:00.000001"),
            (1_769_903_999_000_001, "2026-01-31 23:59:59.000001"),
            (1_763_900_000_987_654, "2025-11-23 12:13:20.987654"),
            (253_402_207_199_999_999, "9999-12-30 21:59:59.999999"),
        ] {
            assert_eq!(text(Instant(microseconds)).unwrap(), expected);
            let back = Instant::column_result(ValueRef::Text(expected.as_bytes())).unwrap();
            assert_eq!(back, Instant(microseconds));
        }
    }
}
