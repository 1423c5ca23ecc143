//! The columns of a reference table: what is wrong with their values, and the statements that make them ours. Dollars go
//! through their shortest decimal text, never through binary arithmetic.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::Transaction;

use super::super::codec::get;
use super::{execute, quoted};
use crate::store::StoreError;
use crate::store::adopt::tables::{Column, Kind, Table};
use crate::store::adopt::{Adoption, Problems, problem};

/// Bad values that are looked for in one column; more are not told apart in the end.
const LOOK: i64 = 30;

/// A column as it is.
struct There {
    name: String,
    kind: String,
    required: bool,
    default: Option<String>,
    /// The server fills it in.
    generated: bool,
    /// Part of the primary key.
    key: bool,
}

async fn there(db: &Transaction<'_>, table: &str) -> Result<Vec<There>, StoreError> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), \
               attidentity <> '' OR attgenerated <> '', EXISTS (SELECT FROM pg_constraint WHERE conrelid = attrelid AND \
               contype = 'p' AND attnum = ANY (conkey)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND \
               adnum = attnum WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let read = |row: &tokio_postgres::Row| {
        Ok(There {
            name: get(row, 0)?,
            kind: get(row, 1)?,
            required: get(row, 2)?,
            default: get(row, 3)?,
            generated: get(row, 4)?,
            key: get(row, 5)?,
        })
    };
    db.query(sql, &[&table]).await?.iter().map(read).collect()
}

/// Our type, as PostgreSQL spells it.
fn target(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "character varying",
        Kind::Count => "bigint",
        Kind::Small => "integer",
        Kind::Flag => "boolean",
        Kind::Money | Kind::Cap => "numeric(18,6)",
        Kind::Rate => "numeric(18,8)",
        Kind::Instant => "timestamp with time zone",
        Kind::Json => "json",
    }
}

/// `there` as a value of our type.
fn converted(kind: Kind, there: &There) -> String {
    let name = quoted(&there.name);
    match kind {
        Kind::Money | Kind::Cap => format!("round({name}::text::numeric, 6)"),
        Kind::Rate => format!("round({name}::text::numeric, 8)"),
        Kind::Instant if there.kind.starts_with("timestamp without") => {
            format!("{name} AT TIME ZONE 'UTC'")
        }
        Kind::Json => format!("{name}::text::json"),
        other => format!("{name}::{}", target(other)),
    }
}

/// Which rows of a column cannot be taken over, as SQL, and what to do about them.
fn unfit(kind: Kind, name: &str) -> Option<(String, &'static str)> {
    // NaN is larger than every number here.
    let below = |limit: &str| format!("NOT (abs({name}::double precision) < {limit})");
    let dollars = "is no amount of dollars that can be kept; set it to a number in range";
    match kind {
        Kind::Money | Kind::Cap => Some((below("1e12"), dollars)),
        Kind::Rate => Some((below("1e10"), dollars)),
        Kind::Instant => Some((
            format!("NOT ({name} >= '0001-01-01' AND {name} < '9999-12-30')"),
            "is beyond the calendar; set it to a date and time",
        )),
        _ => None,
    }
}

/// A row's primary key, as SQL, spelled as an operator would look for it.
fn row_name(table: &Table) -> String {
    let parts = table.key.iter().map(|key| format!("quote_literal({key}::text)"));
    format!("concat_ws(', ', {})", parts.collect::<Vec<_>>().join(", "))
}

/// Finds the values that cannot be taken over. Caps beyond the column are none, and are set to null here.
pub(super) async fn check(
    db: &Transaction<'_>,
    table: &Table,
    adoption: &mut Adoption,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    for there in there(db, table.name).await? {
        let Some(column) = table.column(&there.name) else { continue };
        let name = quoted(&there.name);
        if column.kind == Kind::Cap {
            // NaN is no cap that somebody meant.
            let sql = format!(
                "UPDATE {} SET {name} = NULL WHERE {name} >= 1e12 AND {name} <> 'NaN'",
                table.name
            );
            let uncapped = db.execute(&sql, &[]).await?;
            if uncapped > 0 {
                adoption.notes.push(format!(
                    "{uncapped} budgets had a cap beyond 999999999999.999999 USD: they have none now"
                ));
            }
        }
        if column.kind == Kind::Json {
            json(db, table, &there, problems).await?;
            continue;
        }
        let missing = "is missing; set it";
        let missing = (column.required && column.default.is_none() && !there.required)
            .then(|| (format!("{name} IS NULL"), missing));
        for (condition, advice) in unfit(column.kind, &name).into_iter().chain(missing) {
            let sql = format!(
                "SELECT {}, coalesce({name}::text, 'NULL') FROM {} WHERE {condition} LIMIT {LOOK}",
                row_name(table),
                table.name
            );
            for row in db.query(&sql, &[]).await? {
                let (key, value): (String, String) = (get(&row, 0)?, get(&row, 1)?);
                problems.push(problem(table.name, &key, &there.name, &value, advice));
            }
        }
    }
    Ok(())
}

/// PostgreSQL takes texts for JSON that nobody else reads: halves of characters, numbers without end.
async fn json(
    db: &Transaction<'_>,
    table: &Table,
    there: &There,
    problems: &mut Problems,
) -> Result<(), StoreError> {
    let (name, row_name) = (quoted(&there.name), row_name(table));
    let sql = format!(
        "SELECT {row_name}, {name}::text FROM {} WHERE {name}::text NOT IN ('{{}}', '[]', 'null')",
        table.name
    );
    let none: [&str; 0] = [];
    let mut rows = pin!(db.query_raw(&sql, none).await?);
    while let Some(row) = rows.try_next().await? {
        let (key, text): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        if let Err(error) = serde_json::from_str::<serde_json::Value>(&text) {
            let advice = format!("is no JSON ({error}); correct it");
            problems.push(problem(table.name, &key, &there.name, &text, &advice));
        }
    }
    Ok(())
}

/// Gives the columns our types, defaults and nullability, and adds what is missing. One statement rewrites the table.
pub(super) async fn alter(
    db: &Transaction<'_>,
    table: &Table,
    adoption: &mut Adoption,
) -> Result<(), StoreError> {
    let there = there(db, table.name).await?;
    let (mut before, mut types, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for there in &there {
        let name = quoted(&there.name);
        let Some(column) = table.column(&there.name) else {
            adoption.kept.push(format!("{}.{}", table.name, there.name));
            if there.required && there.default.is_none() && !there.generated && !there.key {
                // We do not know what to write there.
                before.push(format!("ALTER COLUMN {name} DROP NOT NULL"));
            }
            continue;
        };
        if column.kind == Kind::Json && (!column.required || column.default.is_some()) {
            // The reference writes an absent list as the JSON `null`.
            let default = column.default.unwrap_or("NULL");
            let sql =
                format!("UPDATE {} SET {name} = {default} WHERE {name}::text = 'null'", table.name);
            execute(db, &sql).await?;
        }
        if column.required && !there.required {
            if let Some(default) = column.default {
                let sql =
                    format!("UPDATE {} SET {name} = {default} WHERE {name} IS NULL", table.name);
                execute(db, &sql).await?;
            }
            after.push(format!("ALTER COLUMN {name} SET NOT NULL"));
        } else if there.required && !column.required && !there.key {
            before.push(format!("ALTER COLUMN {name} DROP NOT NULL"));
        }
        if column.default.is_some() {
            // A default of the old type would stand in the way.
            before.push(format!("ALTER COLUMN {name} DROP DEFAULT"));
            after.extend(column.default.map(|to| format!("ALTER COLUMN {name} SET DEFAULT {to}")));
        }
        let (is, to) = (there.kind.as_str(), target(column.kind));
        if is != to && (column.kind, is) != (Kind::Text, "text") {
            let using = converted(column.kind, there);
            types.push(format!("ALTER COLUMN {name} TYPE {to} USING {using}"));
            if matches!(column.kind, Kind::Money | Kind::Cap | Kind::Rate) {
                adoption.money.push(format!("{}.{}", table.name, there.name));
            }
        }
    }
    let missing =
        table.columns.iter().filter(|column| !there.iter().any(|there| there.name == column.name));
    types.extend(missing.map(add));
    for clauses in [before, types, after] {
        if !clauses.is_empty() {
            execute(db, &format!("ALTER TABLE {} {}", table.name, clauses.join(", "))).await?;
        }
    }
    Ok(())
}

fn add(column: &Column) -> String {
    let default = column.default.map(|default| format!(" DEFAULT {default}")).unwrap_or_default();
    let required = if column.required { " NOT NULL" } else { "" };
    format!("ADD COLUMN {} {}{required}{default}", quoted(column.name), target(column.kind))
}
