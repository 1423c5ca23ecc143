//! Values of the reference's SQLite files as ours. Dollars go through their shortest decimal text, never through binary
//! arithmetic; what cannot be taken over is named with its row.

use otari_filters::money::{MicroUsd, Rate};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};

use super::quoted;
use crate::store::StoreError;
use crate::store::adopt::tables::{Column, Kind, Table};
use crate::store::adopt::{Problems, instant, problem};
use crate::store::values::MAX_AMOUNT;

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) rows: u64,
    /// `table.column` of dollars.
    pub(super) money: Vec<String>,
    /// `table.column` of columns that we do not know.
    pub(super) extra: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// A column of the old table.
struct Source {
    name: String,
    /// What we know of it; `None` is copied as it is.
    known: Option<&'static Column>,
    /// Our default, as SQL.
    default: Option<String>,
}

impl Copied {
    /// Copies the rows of `aside` into the new `table`.
    pub(super) fn from(
        db: &Connection,
        table: &Table,
        aside: &str,
        problems: &mut Problems,
    ) -> Result<Self, StoreError> {
        let mut copied = Self::default();
        let sources = sources(db, table, aside, &mut copied)?;
        let names: Vec<String> = sources.iter().map(|source| quoted(&source.name)).collect();
        let names = names.join(", ");
        let values: Vec<String> = sources
            .iter()
            .enumerate()
            .map(|(at, source)| match &source.default {
                Some(default) => format!("coalesce(?{}, {default})", at + 1),
                None => format!("?{}", at + 1),
            })
            .collect();
        let insert = format!("INSERT INTO {} ({names}) VALUES ({})", table.name, values.join(", "));
        let mut insert = db.prepare(&insert)?;
        let mut select = db.prepare(&format!("SELECT {names} FROM {aside}"))?;
        let mut rows = select.query([])?;
        let mut uncapped = 0_u64;
        while let Some(row) = rows.next()? {
            copied.rows += 1;
            let mut values = Vec::with_capacity(sources.len());
            let mut sound = true;
            for (at, source) in sources.iter().enumerate() {
                match value(row, at, source) {
                    Ok(value) => {
                        let cap = source.known.is_some_and(|column| column.kind == Kind::Cap);
                        uncapped += u64::from(
                            cap && value == Value::Null && row.get_ref(at)? != ValueRef::Null,
                        );
                        values.push(value);
                    }
                    Err(advice) => {
                        sound = false;
                        let (row, shown) =
                            (row_name(row, table, &sources), shown(row.get_ref(at)?));
                        problems.push(problem(table.name, &row, &source.name, &shown, &advice));
                    }
                }
            }
            if !sound {
                continue;
            }
            if let Err(error) = insert.execute(params_from_iter(values)) {
                let name = row_name(row, table, &sources);
                problems.push(refused(table, &name, error)?);
            }
        }
        if uncapped > 0 {
            copied.notes.push(format!(
                "{uncapped} budgets had a cap beyond 999999999999.999999 USD: they have none now"
            ));
        }
        Ok(copied)
    }
}

/// What is said of a row that the new table does not take; other errors pass.
fn refused(table: &Table, row: &str, error: rusqlite::Error) -> Result<String, StoreError> {
    match StoreError::from(error) {
        StoreError::Conflict(_) => Ok(format!(
            "table {}, row {row}: another row has the same key once instants are written in one form; delete one of them",
            table.name
        )),
        StoreError::Refused { message } => {
            Ok(format!("table {}, row {row}: {message}; correct or delete the row", table.name))
        }
        other => Err(other),
    }
}

/// The columns of the old table. Those that we do not know are added to the new one.
fn sources(
    db: &Connection,
    table: &Table,
    aside: &str,
    copied: &mut Copied,
) -> Result<Vec<Source>, StoreError> {
    let columns = |name: &str| -> Result<Vec<(String, bool, Option<String>)>, StoreError> {
        let sql = "SELECT name, \"notnull\", dflt_value FROM pragma_table_info(?1)";
        let mut statement = db.prepare(sql)?;
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        Ok(statement.query_map([name], read)?.collect::<Result<_, _>>()?)
    };
    let ours = columns(table.name)?;
    let mut sources = Vec::new();
    for (name, _, default) in columns(aside)? {
        let Some(column) = table.column(&name) else {
            // A constant stays the default, because somebody's reports may count on it.
            let constant =
                default.filter(|text| text.starts_with(['\'', '-', '+']) || number(text));
            let default = constant.map(|text| format!(" DEFAULT {text}")).unwrap_or_default();
            let add =
                format!("ALTER TABLE {} ADD COLUMN {} ANY{default}", table.name, quoted(&name));
            db.execute_batch(&add)?;
            copied.extra.push(format!("{}.{name}", table.name));
            sources.push(Source { name, known: None, default: None });
            continue;
        };
        if matches!(column.kind, Kind::Money | Kind::Cap | Kind::Rate) {
            copied.money.push(format!("{}.{name}", table.name));
        }
        let ours = ours.iter().find(|(ours, ..)| *ours == name);
        let default = ours.and_then(|(_, _, default)| default.clone());
        sources.push(Source { name, known: Some(column), default });
    }
    Ok(sources)
}

fn number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A value as the new column takes it, or what is wrong with it.
fn value(row: &Row<'_>, at: usize, source: &Source) -> Result<Value, String> {
    let value = row.get_ref(at).map_err(|error| error.to_string())?;
    let Some(column) = source.known else {
        return row.get(at).map_err(|error| format!("cannot be read ({error}); correct it"));
    };
    if value == ValueRef::Null {
        return match column.required && source.default.is_none() {
            true => Err("is missing; set it".into()),
            false => Ok(Value::Null),
        };
    }
    convert(column, value)
}

fn convert(column: &Column, value: ValueRef<'_>) -> Result<Value, String> {
    match column.kind {
        Kind::Text => text(value).map(|text| Value::Text(text.to_owned())),
        Kind::Count => whole(value).map(Value::Integer),
        Kind::Small => {
            let number = whole(value)?;
            i32::try_from(number).map_err(|_| "is out of range; set it to a smaller number")?;
            Ok(Value::Integer(number))
        }
        Kind::Flag => match value {
            ValueRef::Text(b"true" | b"1") => Ok(Value::Integer(1)),
            ValueRef::Text(b"false" | b"0") => Ok(Value::Integer(0)),
            other => whole(other).map(|number| Value::Integer(i64::from(number != 0))),
        },
        Kind::Money => dollars(value, |usd| Some(MicroUsd::from_f64(usd)?.0), 1_000_000),
        Kind::Cap => match float(value) {
            Some(usd) if usd >= 1e12 => Ok(Value::Null),
            _ => dollars(value, |usd| Some(MicroUsd::from_f64(usd)?.0), 1_000_000),
        },
        Kind::Rate => dollars(value, |usd| Some(Rate::from_f64(usd)?.0), 100_000_000),
        Kind::Instant => {
            let at = instant(text(value)?)
                .ok_or("is no date and time; set it to YYYY-MM-DD HH:MM:SS")?;
            match rusqlite::types::ToSql::to_sql(&at) {
                Ok(rusqlite::types::ToSqlOutput::Owned(value)) => Ok(value),
                _ => Err("is beyond the calendar; set it to YYYY-MM-DD HH:MM:SS".into()),
            }
        }
        Kind::Json => {
            let text = text(value)?;
            serde_json::from_str::<serde_json::Value>(text)
                .map_err(|error| format!("is no JSON ({error}); correct it"))?;
            // The reference writes an absent list as the JSON `null`.
            let absent = text.trim() == "null" && (!column.required || column.default.is_some());
            Ok(if absent { Value::Null } else { Value::Text(text.to_owned()) })
        }
    }
}

fn float(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Real(number) => Some(number),
        ValueRef::Integer(number) => Some(number as f64),
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
        _ => None,
    }
}

/// Dollars as whole units, `scale` of which are one dollar.
fn dollars(
    value: ValueRef<'_>,
    units: impl Fn(f64) -> Option<i64>,
    scale: i64,
) -> Result<Value, String> {
    let units = match value {
        ValueRef::Integer(usd) => usd.checked_mul(scale),
        other => float(other).and_then(units),
    };
    match units.filter(|units| units.unsigned_abs() <= MAX_AMOUNT.unsigned_abs()) {
        Some(units) => Ok(Value::Integer(units)),
        None => Err("is no amount of dollars that can be kept; set it to a number in range".into()),
    }
}

fn whole(value: ValueRef<'_>) -> Result<i64, String> {
    let number = match value {
        ValueRef::Integer(number) => Some(number),
        // Below 2^63 and whole: the cast is exact.
        ValueRef::Real(number) if number.fract() == 0.0 && number.abs() < 9.2e18 => {
            Some(number as i64)
        }
        ValueRef::Text(text) => {
            std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok())
        }
        _ => None,
    };
    number.ok_or_else(|| "is no whole number that can be kept; set it to one".into())
}

fn text(value: ValueRef<'_>) -> Result<&str, String> {
    value.as_str().map_err(|_| "is no text; set it to one".into())
}

/// The primary key of a row, as an operator would look for it.
fn row_name(row: &Row<'_>, table: &Table, sources: &[Source]) -> String {
    let of = |key: &&str| sources.iter().position(|source| source.name == **key);
    let parts = table.key.iter().filter_map(of).filter_map(|at| row.get_ref(at).ok()).map(shown);
    parts.collect::<Vec<_>>().join(", ")
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        ValueRef::Blob(_) => "a BLOB".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(kind: Kind, value: ValueRef<'_>) -> Result<Value, String> {
        convert(&Column { name: "c", kind, required: false, default: None }, value)
    }

    #[test]
    fn dollars_become_units_through_their_text() {
        let money = |usd| converted(Kind::Money, ValueRef::Real(usd));
        assert_eq!(money(0.1 + 0.2), Ok(Value::Integer(300_000)));
        assert_eq!(money(1.0000005), Ok(Value::Integer(1_000_001)), "half up");
        assert_eq!(converted(Kind::Money, ValueRef::Integer(6)), Ok(Value::Integer(6_000_000)));
        assert_eq!(converted(Kind::Money, ValueRef::Text(b"1.5")), Ok(Value::Integer(1_500_000)));
        assert_eq!(converted(Kind::Rate, ValueRef::Real(0.075)), Ok(Value::Integer(7_500_000)));
        assert!(money(f64::INFINITY).is_err() && money(1e12).is_err());
        assert!(converted(Kind::Money, ValueRef::Text(b"lots")).is_err());
        assert_eq!(converted(Kind::Cap, ValueRef::Real(f64::INFINITY)), Ok(Value::Null));
        assert_eq!(converted(Kind::Cap, ValueRef::Real(1e15)), Ok(Value::Null));
        assert!(converted(Kind::Cap, ValueRef::Real(f64::NEG_INFINITY)).is_err());
    }

    #[test]
    fn other_values_take_our_form_or_are_refused() {
        let long = 40 * 365 * 86_400 * 10;
        assert_eq!(converted(Kind::Count, ValueRef::Integer(long)), Ok(Value::Integer(long)));
        assert_eq!(converted(Kind::Count, ValueRef::Real(86_400.0)), Ok(Value::Integer(86_400)));
        assert!(converted(Kind::Count, ValueRef::Real(0.5)).is_err());
        assert!(converted(Kind::Small, ValueRef::Integer(1 << 40)).is_err());
        assert_eq!(converted(Kind::Flag, ValueRef::Integer(7)), Ok(Value::Integer(1)));
        let at = converted(Kind::Instant, ValueRef::Text(b"2024-01-01T00:00:01Z"));
        assert_eq!(at, Ok(Value::Text("2024-01-01 00:00:01.000000".into())));
        let kept = r#"{"b": 1, "a": 1.50}"#;
        let json = converted(Kind::Json, ValueRef::Text(kept.as_bytes()));
        assert_eq!(json, Ok(Value::Text(kept.into())), "as it was written");
        assert_eq!(converted(Kind::Json, ValueRef::Text(b"null")), Ok(Value::Null));
        assert!(converted(Kind::Json, ValueRef::Text(b"{\"a\": NaN}")).is_err());
        assert!(converted(Kind::Text, ValueRef::Blob(b"x")).is_err());
    }
}
