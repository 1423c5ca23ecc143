//! The reference's own revisions, oldest first, as SQLite's statements. What a revision drops stays: nobody reads it, and
//! nothing is lost. Constraints and indexes are left out, because the tables are copied into ours afterwards.

use rusqlite::Connection;

use crate::store::StoreError;
use crate::store::adopt::{Adoption, Place, duration, odd_duration};

/// What a revision does, unless it was done before: the reference's own upgrade may have stopped half-way, because it is
/// no transaction on SQLite.
fn revision(revision: &str) -> &'static [&'static str] {
    match revision {
        "1e382aa3a9e7" => &[
            "ALTER TABLE users ADD COLUMN budget_started_at DATETIME",
            "ALTER TABLE users ADD COLUMN next_budget_reset_at DATETIME",
            "CREATE TABLE IF NOT EXISTS budget_reset_logs (id INTEGER NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL, \
             budget_id VARCHAR NOT NULL, previous_spend FLOAT NOT NULL, reset_at DATETIME NOT NULL, next_reset_at \
             DATETIME)",
        ],
        "e7c85cc73bfa" => &["ALTER TABLE budgets ADD COLUMN budget_duration_sec INTEGER"],
        "10a6a8ead0e7" => &["ALTER TABLE users ADD COLUMN deleted_at DATETIME"],
        "a1b2c3d4e5f6" => &[
            "ALTER TABLE model_pricing ADD COLUMN effective_at DATETIME",
            "UPDATE model_pricing SET effective_at = created_at WHERE effective_at IS NULL",
        ],
        "b2f4c6d8e0a1" => &["ALTER TABLE users ADD COLUMN reserved FLOAT DEFAULT '0' NOT NULL"],
        "c3d5e7f9a1b3" => &[
            "CREATE TABLE IF NOT EXISTS file_objects (id VARCHAR NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL \
             REFERENCES users (user_id) ON DELETE CASCADE, filename VARCHAR NOT NULL, mime_type VARCHAR NOT NULL, bytes \
             INTEGER NOT NULL, purpose VARCHAR NOT NULL, storage_ref VARCHAR NOT NULL, created_at DATETIME NOT NULL, \
             expires_at DATETIME, deleted_at DATETIME, metadata JSON NOT NULL)",
            "CREATE INDEX IF NOT EXISTS ix_file_objects_user_id ON file_objects (user_id)",
            "CREATE INDEX IF NOT EXISTS ix_file_objects_created_at ON file_objects (created_at)",
            "CREATE INDEX IF NOT EXISTS ix_file_objects_deleted_at ON file_objects (deleted_at)",
        ],
        // Foreign keys of PostgreSQL alone (5911f4bbf98d), an index that our steps make (967575f779b7).
        _ => &[],
    }
}

/// Brings the reference's tables to its head.
pub(super) fn run(
    db: &Connection,
    place: Place,
    adoption: &mut Adoption,
) -> Result<(), StoreError> {
    for id in place.missing() {
        for sql in revision(id) {
            let words: Vec<&str> = sql.split_whitespace().take(6).collect();
            let done = match words[..] {
                ["ALTER", "TABLE", table, "ADD", "COLUMN", column] => {
                    has_column(db, table, column)?
                }
                _ => false,
            };
            if !done {
                db.execute_batch(sql)?;
            }
        }
    }
    if place.missing().contains(&"e7c85cc73bfa") && has_column(db, "budgets", "budget_duration")? {
        durations(db, adoption)?;
    }
    Ok(())
}

fn has_column(db: &Connection, table: &str, column: &str) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2";
    Ok(db.query_row(sql, [table, column], |row| row.get(0))?)
}

/// Reads the lengths of periods that were text once, which the reference forgets, and with them the ends of periods.
fn durations(db: &Connection, adoption: &mut Adoption) -> Result<(), StoreError> {
    let sql = "SELECT budget_id, CAST(budget_duration AS TEXT) FROM budgets WHERE budget_duration IS NOT NULL AND \
               budget_duration_sec IS NULL";
    let mut statement = db.prepare(sql)?;
    let budgets: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (budget_id, text) in budgets {
        match duration(&text) {
            Some(seconds) => {
                let sql = "UPDATE budgets SET budget_duration_sec = ?2 WHERE budget_id = ?1";
                db.execute(sql, (&budget_id, seconds))?;
            }
            None => adoption.notes.push(odd_duration(&budget_id, &text)),
        }
    }
    if has_column(db, "budgets", "budget_reset_at")? {
        db.execute_batch(
            "UPDATE users SET next_budget_reset_at = (SELECT budget_reset_at FROM budgets WHERE budgets.budget_id = \
             users.budget_id AND budget_duration_sec IS NOT NULL) WHERE next_budget_reset_at IS NULL",
        )?;
    }
    Ok(())
}
