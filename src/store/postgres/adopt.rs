//! Makes a database of the reference gateway ours, in place and in one transaction: tables keep their rows, grants and
//! foreign keys; columns get our types, what is missing is added, and our steps are written down as done. Tables and
//! columns that we do not know stay.

mod chain;
mod columns;

use tokio_postgres::{Client, Transaction};

use super::codec::get;
use crate::clock;
use crate::store::StoreError;
use crate::store::adopt::tables::{HOLDS, OURS_ALONE, TABLES, Table};
use crate::store::adopt::{Adoption, Origin, Place, Problems, Upgrade, mark};
use crate::store::migrations;

/// The foreign keys of our steps, in tables that the reference has: table, column, and what follows `FOREIGN KEY`.
const FOREIGN_KEYS: [(&str, &str, &str); 7] = [
    ("users", "budget_id", "(budget_id) REFERENCES budgets(budget_id)"),
    ("api_keys", "user_id", "(user_id) REFERENCES users(user_id) ON DELETE CASCADE"),
    ("usage_logs", "api_key_id", "(api_key_id) REFERENCES api_keys(id) ON DELETE SET NULL"),
    ("usage_logs", "user_id", "(user_id) REFERENCES users(user_id) ON DELETE SET NULL"),
    ("budget_reset_logs", "user_id", "(user_id) REFERENCES users(user_id) ON DELETE SET NULL"),
    ("budget_reset_logs", "budget_id", "(budget_id) REFERENCES budgets(budget_id)"),
    ("file_objects", "user_id", "(user_id) REFERENCES users(user_id) ON DELETE CASCADE"),
];

/// For this transaction: how long it waits for a gateway that still uses the tables, and no limit on the rewriting of a
/// large one. The digits are those that read back as the same double.
const SETTINGS: &str = "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = 0; SET LOCAL \
                        idle_in_transaction_session_timeout = 0; SET LOCAL extra_float_digits = 1; SET LOCAL \
                        TimeZone = 'UTC'";

/// Adopts the database, or only finds out whether it could be. The connection holds the migration lock.
pub(super) async fn adopt(
    db: &mut Client,
    revision: String,
    place: Place,
    rehearsal: bool,
) -> Result<Upgrade, StoreError> {
    let db = db.transaction().await?;
    let mut adoption = Adoption::default();
    let steps = Box::pin(run(&db, place, &revision, &mut adoption)).await?;
    if rehearsal {
        db.rollback().await?;
    } else {
        db.commit().await?;
    }
    Ok(Upgrade { origin: Origin::Reference(revision), steps, adoption: Some(adoption) })
}

async fn run(
    db: &Transaction<'_>,
    place: Place,
    revision: &str,
    adoption: &mut Adoption,
) -> Result<Vec<String>, StoreError> {
    execute(db, SETTINGS).await?;
    lock(db, place, revision).await?;
    views(db).await?;
    chain::run(db, place, adoption).await?;
    for name in OURS_ALONE {
        if has(db, name).await? {
            execute(db, &format!("ALTER TABLE {name} RENAME TO reference_{name}")).await?;
            adoption.notes.push(format!("the table {name} is called reference_{name} now"));
        }
    }
    let mut problems = Problems::default();
    let mut theirs = Vec::new();
    for table in TABLES {
        if has(db, table.name).await? {
            columns::check(db, table, adoption, &mut problems).await?;
            theirs.push(table);
        }
    }
    problems.check()?;
    for table in &theirs {
        columns::alter(db, table, adoption).await?;
        primary_key(db, table).await?;
    }
    for foreign_key in FOREIGN_KEYS {
        if theirs.iter().any(|there| there.name == foreign_key.0) {
            reference(db, foreign_key).await?;
        }
    }
    adoption.holds = let_go(db, &theirs).await?;
    let ours = migrations::pending(migrations::POSTGRES, None);
    for step in &ours {
        execute(db, &tolerant(step.sql().unwrap_or_default())).await?;
    }
    execute(db, &migrations::history(&ours, clock::now())).await?;
    for table in &theirs {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let rows: i64 = get(&db.query_one(&sql, &[]).await?, 0)?;
        adoption.rows.push((table.name, rows.unsigned_abs()));
    }
    adoption.kept.extend(unknown_tables(db).await?);
    db.execute("UPDATE alembic_version SET version_num = $1", &[&mark(ours.len())]).await?;
    let chain = place.missing().iter().map(|revision| (*revision).to_owned());
    Ok(chain.chain(migrations::names(&ours)).collect())
}

/// Runs statements; what the server says against them is said with its detail, which names the row or the object.
async fn execute(db: &Transaction<'_>, sql: &str) -> Result<(), StoreError> {
    db.batch_execute(sql).await.map_err(|error| refused(&error))
}

fn refused(error: &tokio_postgres::Error) -> StoreError {
    match (StoreError::from(error), error.as_db_error()) {
        (StoreError::Unavailable { message }, _) => StoreError::Unavailable { message },
        (_, Some(said)) => {
            let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            StoreError::Schema(format!(
                "this database of the reference gateway cannot be taken over: {}{detail}. Nothing was changed; put this \
                 right and try again",
                said.message()
            ))
        }
        (other, None) => other,
    }
}

/// Keeps everybody else out of the tables until the end, and makes sure that they are there.
async fn lock(db: &Transaction<'_>, place: Place, revision: &str) -> Result<(), StoreError> {
    for table in TABLES {
        if has(db, table.name).await? {
            let sql = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.name);
            db.batch_execute(&sql).await.map_err(|error| match refused(&error) {
                StoreError::Unavailable { message } => StoreError::Unavailable {
                    message: format!(
                        "the table {} is in use ({message}); stop the reference gateway and try again",
                        table.name
                    ),
                },
                other => other,
            })?;
        } else if table.always && !(place == Place::Chain(0) && table.name == "budget_reset_logs") {
            return Err(StoreError::Schema(format!(
                "this database says that it is the reference gateway's (revision {revision}) and has no table {}; nothing \
                 was changed. Restore a backup, or drop the table alembic_version if nothing here is needed",
                table.name
            )));
        }
    }
    Ok(())
}

async fn has(db: &Transaction<'_>, name: &str) -> Result<bool, StoreError> {
    get(&db.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&name]).await?, 0)
}

/// Views keep the types of their columns, and PostgreSQL with them those of the tables.
async fn views(db: &Transaction<'_>) -> Result<(), StoreError> {
    let sql = "SELECT DISTINCT view.oid::regclass::text, read.oid::regclass::text FROM pg_depend JOIN pg_rewrite ON \
               pg_rewrite.oid = pg_depend.objid JOIN pg_class view ON view.oid = pg_rewrite.ev_class JOIN pg_class read \
               ON read.oid = pg_depend.refobjid WHERE pg_depend.classid = 'pg_rewrite'::regclass AND view.oid <> read.oid \
               AND read.oid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) name) ORDER BY 1, 2";
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let rows = db.query(sql, &[&names]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (view, read): (String, String) = (get(row, 0)?, get(row, 1)?);
        found.push(format!("{view} reads {read}"));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(StoreError::Schema(format!(
        "views keep the columns of this database from becoming exact: {}. Nothing was changed; drop these views, try \
         again, and create them anew",
        found.join(", ")
    )))
}

/// Gives the table our primary key, if it has another one.
async fn primary_key(db: &Transaction<'_>, table: &Table) -> Result<(), StoreError> {
    let sql = "SELECT conname::text, (SELECT array_agg(attname::text ORDER BY place) FROM unnest(conkey) WITH ORDINALITY \
               AS key (number, place) JOIN pg_attribute ON attrelid = conrelid AND attnum = number) FROM pg_constraint \
               WHERE conrelid = to_regclass($1::text) AND contype = 'p'";
    let row = db.query_opt(sql, &[&table.name]).await?;
    let mut drop = String::new();
    if let Some(row) = &row {
        let (name, key): (String, Vec<String>) = (get(row, 0)?, get(row, 1)?);
        if key == table.key {
            return Ok(());
        }
        drop = format!("DROP CONSTRAINT {}, ", quoted(&name));
    }
    let (name, key) = (table.name, table.key.join(", "));
    execute(db, &format!("ALTER TABLE {name} {drop}ADD CONSTRAINT {name}_pkey PRIMARY KEY ({key})"))
        .await
}

/// Gives a column our foreign key; one that says something else about the same column goes.
async fn reference(
    db: &Transaction<'_>,
    (table, column, target): (&str, &str, &str),
) -> Result<(), StoreError> {
    let sql = "SELECT conname::text, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint JOIN pg_attribute ON \
               attrelid = conrelid AND conkey = ARRAY[attnum] WHERE conrelid = to_regclass($1::text) AND contype = 'f' AND \
               attname = $2::text";
    let wanted = format!("FOREIGN KEY {target}");
    let mut there = false;
    for row in db.query(sql, &[&table, &column]).await? {
        let (name, definition): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        if definition == wanted && !there {
            there = true;
            continue;
        }
        execute(db, &format!("ALTER TABLE {table} DROP CONSTRAINT {}", quoted(&name))).await?;
    }
    if there {
        return Ok(());
    }
    execute(db, &format!("ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_fkey {wanted}")).await
}

/// Sets the holds of processes that are gone to zero; says how many there were.
async fn let_go(db: &Transaction<'_>, theirs: &[&Table]) -> Result<u64, StoreError> {
    let mut holds = 0;
    for (table, column) in HOLDS {
        if theirs.iter().any(|there| there.name == table) {
            let sql = format!("UPDATE {table} SET {column} = 0 WHERE {column} <> 0");
            holds += db.execute(&sql, &[]).await?;
        }
    }
    Ok(holds)
}

/// Tables that are not ours.
async fn unknown_tables(db: &Transaction<'_>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = (SELECT relnamespace FROM \
               pg_class WHERE oid = to_regclass('users')) AND NOT relname = ANY ($1::text[]) ORDER BY relname";
    let mut known = vec!["alembic_version", migrations::HISTORY];
    known.extend(OURS_ALONE);
    known.extend(TABLES.iter().map(|table| table.name));
    db.query(sql, &[&known]).await?.iter().map(|row| get(row, 0)).collect()
}

/// A step that passes over what is there already. Our steps write each of these words once before a name.
fn tolerant(sql: &str) -> String {
    ["ADD COLUMN ", "CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX "].iter().fold(
        sql.to_owned(),
        |sql, words| {
            sql.replace(&format!("{words}IF NOT EXISTS "), words)
                .replace(words, &format!("{words}IF NOT EXISTS "))
        },
    )
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_passes_over_what_is_there() {
        let step = "ALTER TABLE a ADD COLUMN b text;\nCREATE TABLE IF NOT EXISTS c ();\nCREATE UNIQUE INDEX d ON a (b)";
        let expected = "ALTER TABLE a ADD COLUMN IF NOT EXISTS b text;\nCREATE TABLE IF NOT EXISTS c ();\nCREATE UNIQUE \
                        INDEX IF NOT EXISTS d ON a (b)";
        assert_eq!(tolerant(step), expected);
    }
}
