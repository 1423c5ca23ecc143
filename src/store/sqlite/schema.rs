//! What the schema of a file is, and how it becomes this binary's.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use super::{adopt, configure};
use crate::store::StoreError;
use crate::store::adopt::Upgrade;
use crate::store::migrations::{self, Found, HISTORY, Plan};

/// What the schema says about itself.
pub(super) fn found(db: &Connection) -> Result<Found, StoreError> {
    let table = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let has = |name: &str| db.query_row(table, [name], |row| row.get::<_, bool>(0));
    let mut found = Found::default();
    if has(HISTORY)? {
        let sql = format!("-- schema_check\nSELECT max(version) FROM {HISTORY}");
        found.version = db.query_row(&sql, [], |row| row.get(0))?;
    }
    if has("alembic_version")? {
        let sql = "-- schema_check\nSELECT version_num FROM alembic_version";
        let revision: Option<String> = db.query_row(sql, [], |row| row.get(0)).optional()?;
        found.reference = Some(revision.unwrap_or_else(|| "unknown".into()));
    }
    Ok(found)
}

/// Brings the schema up to date.
pub(super) fn upgrade_file(db: &mut Connection) -> Result<Upgrade, StoreError> {
    let origin = match found(db)?.plan(migrations::SQLITE)? {
        Plan::Adopt(..) => return adopt::adopt(db, false),
        Plan::Steps(origin) => origin,
    };
    let report = migrations::runner(migrations::SQLITE).run(db);
    let report = report
        .map_err(|error| migrations::failure::<rusqlite::Error>(&error, |cause| cause.into()))?;
    let steps = migrations::names(report.applied_migrations());
    Ok(Upgrade { origin, steps, adoption: None })
}

/// Does what [`Store::upgrade`] would do to the file at `path` and takes it back. A file that is missing is not made.
///
/// # Errors
///
/// As [`open`] and [`Store::upgrade`].
pub fn rehearse(path: &Path) -> Result<Upgrade, StoreError> {
    let mut db = if path.exists() {
        configure(path, OpenFlags::SQLITE_OPEN_READ_WRITE, |_| Ok(()))?
    } else {
        Connection::open_in_memory()?
    };
    let found = found(&db)?;
    let origin = match found.plan(migrations::SQLITE)? {
        Plan::Adopt(..) => return adopt::adopt(&mut db, true),
        Plan::Steps(origin) => origin,
    };
    if found.version.is_some() {
        let sql = format!("SELECT version, checksum FROM {HISTORY}");
        let mut statement = db.prepare(&sql)?;
        let history = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        migrations::same_build(migrations::SQLITE, &history.collect::<Result<Vec<_>, _>>()?)?;
    }
    let steps = migrations::pending(migrations::SQLITE, found.version);
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &steps {
        transaction.execute_batch(step.sql().unwrap_or_default())?;
    }
    transaction.rollback()?;
    Ok(Upgrade { origin, steps: migrations::names(&steps), adoption: None })
}
