//! Makes a file of the reference gateway ours. Its tables are set aside, our steps make new ones, the rows are copied
//! value by value, and the old tables go: all in one transaction. Tables, columns, indexes, views and triggers that we do
//! not know stay.

mod chain;
mod convert;

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use self::convert::Copied;
use super::found;
use crate::clock;
use crate::store::StoreError;
use crate::store::adopt::tables::{HOLDS, OURS_ALONE, TABLES, Table};
use crate::store::adopt::{Adoption, Origin, Place, Problems, Upgrade, mark};
use crate::store::migrations::{self, Plan};
use crate::store::values::Instant;

/// What a table of the reference is called while its rows are copied.
const ASIDE: &str = "otari_adopts_";

/// Indexes of the reference that longer ones of ours begin with.
const COVERED: [&str; 2] = ["ix_usage_logs_api_key_id", "ix_usage_logs_user_id"];

/// Adopts the database, or only finds out whether it could be.
pub(super) fn adopt(db: &mut Connection, rehearsal: bool) -> Result<Upgrade, StoreError> {
    // Neither can be changed inside a transaction. Foreign keys are looked after at the end; renaming must not touch the
    // references of tables that stay, which shall point at the new table of the old name.
    // The cache, in KiB, is for the indexes, which grow at random places.
    let cache: i64 = db.query_row("PRAGMA cache_size", [], |row| row.get(0))?;
    db.execute_batch(
        "PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON; PRAGMA cache_size = -131072",
    )?;
    let upgrade = in_one_transaction(db, rehearsal);
    db.execute_batch(&format!(
        "PRAGMA legacy_alter_table = OFF; PRAGMA foreign_keys = ON; PRAGMA cache_size = {cache}"
    ))?;
    upgrade
}

fn in_one_transaction(db: &mut Connection, rehearsal: bool) -> Result<Upgrade, StoreError> {
    let db = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let (revision, place) = match found(&db)?.plan(migrations::SQLITE)? {
        Plan::Adopt(revision, place) => (revision, place),
        Plan::Steps(origin) => return Ok(Upgrade { origin, ..Upgrade::default() }),
    };
    let mut adoption = Adoption::default();
    let steps = run(&db, place, &revision, &mut adoption)?;
    if rehearsal {
        db.rollback()?
    } else {
        db.commit()?
    }
    Ok(Upgrade { origin: Origin::Reference(revision), steps, adoption: Some(adoption) })
}

fn run(
    db: &Transaction<'_>,
    place: Place,
    revision: &str,
    adoption: &mut Adoption,
) -> Result<Vec<String>, StoreError> {
    let missing =
        TABLES.iter().find(|table| table.always && !optional(place, table) && !has(db, table.name));
    if let Some(table) = missing {
        return Err(StoreError::Schema(format!(
            "this database says that it is the reference gateway's (revision {revision}) and has no table {}; nothing \
             was changed. Restore a backup, or drop the table alembic_version if nothing here is needed",
            table.name
        )));
    }
    chain::run(db, place, adoption)?;
    let theirs = TABLES.iter().filter(|table| has(db, table.name)).collect::<Vec<_>>();
    let mut attached = Vec::new();
    for table in &theirs {
        attached.extend(set_aside(db, table)?);
    }
    let ours = migrations::pending(migrations::SQLITE, None);
    for step in &ours {
        db.execute_batch(step.sql().unwrap_or_default())?;
    }
    db.execute_batch(&migrations::history(&ours, clock::now()))?;

    let mut problems = Problems::default();
    for table in &theirs {
        let copied = Copied::from(db, table, &aside(table), &mut problems)?;
        adoption.rows.push((table.name, copied.rows));
        adoption.money.extend(copied.money);
        adoption.kept.extend(copied.extra);
        adoption.notes.extend(copied.notes);
    }
    problems.check()?;
    for table in &theirs {
        db.execute_batch(&format!("DROP TABLE {}", aside(table)))?;
    }
    for (name, sql) in attached {
        attach(db, &name, &sql)?;
    }
    adoption.kept.extend(unknown_tables(db)?);
    adoption.holds = let_go(db)?;
    mend(db, adoption)?;
    db.execute("UPDATE alembic_version SET version_num = ?1", [mark(ours.len())])?;
    let chain = place.missing().iter().map(|revision| (*revision).to_owned());
    Ok(chain.chain(migrations::names(&ours)).collect())
}

/// Whether the table is made by a revision that is still to be run.
fn optional(place: Place, table: &Table) -> bool {
    place == Place::Chain(0) && table.name == "budget_reset_logs"
}

fn has(db: &Connection, table: &str) -> bool {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    db.query_row(sql, [table], |row| row.get(0)).unwrap_or(false)
}

fn aside(table: &Table) -> String {
    format!("{ASIDE}{}", table.name)
}

/// Renames the table and takes its indexes and triggers off; returns those, to be attached again if we have none of that
/// name.
fn set_aside(db: &Connection, table: &Table) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = ?1 AND type IN ('index', 'trigger') AND \
               sql IS NOT NULL";
    let mut statement = db.prepare(sql)?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let attached: Vec<(String, String, String)> =
        statement.query_map([table.name], read)?.collect::<Result<_, _>>()?;
    for (kind, name, _) in &attached {
        db.execute_batch(&format!("DROP {kind} {}", quoted(name)))?;
    }
    db.execute_batch(&format!("ALTER TABLE {} RENAME TO {}", table.name, aside(table)))?;
    let kept = attached.into_iter().filter(|(_, name, _)| !COVERED.contains(&name.as_str()));
    Ok(kept.map(|(_, name, sql)| (name, sql)).collect())
}

fn attach(db: &Connection, name: &str, sql: &str) -> Result<(), StoreError> {
    let known = "SELECT 1 FROM sqlite_master WHERE name = ?1";
    if db.query_row(known, [name], |_| Ok(())).optional()?.is_some() {
        return Ok(());
    }
    db.execute_batch(sql).map_err(|error| {
        StoreError::Schema(format!(
            "{name}, which is not the reference gateway's, does not fit the new tables: {error}. Nothing was changed: \
             drop it, try again, and make it anew ({sql})"
        ))
    })
}

/// Tables that neither our steps nor the reference's revisions need.
fn unknown_tables(db: &Connection) -> Result<Vec<String>, StoreError> {
    let ours: HashSet<&str> = TABLES.iter().map(|table| table.name).chain(OURS_ALONE).collect();
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND \
               name NOT IN ('alembic_version', 'refinery_schema_history') ORDER BY name";
    let mut statement = db.prepare(sql)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let names = names.collect::<Result<Vec<_>, _>>()?;
    Ok(names.into_iter().filter(|name| !ours.contains(name.as_str())).collect())
}

/// Sets the holds of processes that are gone to zero; says how many there were.
fn let_go(db: &Connection) -> Result<u64, StoreError> {
    HOLDS.iter().try_fold(0, |sum, (table, column)| {
        let sql = format!("UPDATE {table} SET {column} = 0 WHERE {column} <> 0");
        Ok(sum + db.execute(&sql, [])? as u64)
    })
}

/// Mends references to rows that are gone: early revisions did not watch over them. Users and budgets that others name
/// are kept under their names, the users as deleted ones; usage of a key that is gone loses the key.
fn mend(db: &Connection, adoption: &mut Adoption) -> Result<(), StoreError> {
    let now = Instant::from(clock::now());
    let mut budgets = 0;
    for from in ["users", "budget_reset_logs", "scoped_budgets"] {
        let sql = format!(
            "INSERT INTO budgets (budget_id, created_at, updated_at) SELECT DISTINCT budget_id, ?1, ?1 FROM {from} WHERE \
             budget_id IS NOT NULL AND budget_id NOT IN (SELECT budget_id FROM budgets)"
        );
        budgets += db.execute(&sql, params![now])?;
    }
    if budgets > 0 {
        adoption
            .notes
            .push(format!("{budgets} budgets that other rows name were missing: they have no cap"));
    }
    let mut users = 0;
    for from in ["api_keys", "usage_logs", "budget_reset_logs", "model_aliases", "file_objects"] {
        if !has(db, from) {
            continue;
        }
        let sql = format!(
            "INSERT INTO users (user_id, spend, blocked, created_at, updated_at, metadata, deleted_at) SELECT DISTINCT \
             user_id, 0, 0, ?1, ?1, '{{}}', ?1 FROM {from} WHERE user_id IS NOT NULL AND user_id NOT IN (SELECT user_id \
             FROM users)"
        );
        users += db.execute(&sql, params![now])?;
    }
    if users > 0 {
        adoption.notes.push(format!(
            "{users} users that other rows name were missing: they are kept as deleted"
        ));
    }
    let sql =
        "UPDATE usage_logs SET api_key_id = NULL WHERE api_key_id NOT IN (SELECT id FROM api_keys)";
    let keys = db.execute(sql, [])?;
    if keys > 0 {
        adoption
            .notes
            .push(format!("{keys} usage rows named keys that are gone: they name none now"));
    }
    // What is left lies between tables that are not ours, and was broken before.
    Ok(())
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
