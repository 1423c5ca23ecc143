//! The schema in PostgreSQL: which one is there, and the way to this program's.

use deadpool_postgres::Object;

use super::{MIGRATION_LOCK, Postgres, adopt, codec};
use crate::store::StoreError;
use crate::store::adopt::Upgrade;
use crate::store::migrations::{self, Found, HISTORY, Plan};

/// What the schema says about itself.
pub(super) async fn found(db: &tokio_postgres::Client) -> Result<Found, StoreError> {
    let sql = "-- schema_check\nSELECT to_regclass($1::text) IS NOT NULL";
    let mut found = Found::default();
    if codec::get(&db.query_one(sql, &[&HISTORY]).await?, 0)? {
        let sql = format!("-- schema_check\nSELECT max(version) FROM {HISTORY}");
        found.version = codec::get(&db.query_one(&sql, &[]).await?, 0)?;
    }
    if codec::get(&db.query_one(sql, &[&"alembic_version"]).await?, 0)? {
        let sql = "-- schema_check\nSELECT version_num::text FROM alembic_version LIMIT 1";
        let row = db.query_opt(sql, &[]).await?;
        let revision = row.as_ref().map(|row| codec::get(row, 0)).transpose()?;
        found.reference = Some(revision.unwrap_or_else(|| "unknown".into()));
    }
    Ok(found)
}

/// The upgrade, on a connection that holds the migration lock.
async fn upgrade_schema(
    db: &mut tokio_postgres::Client,
    rehearsal: bool,
) -> Result<Upgrade, StoreError> {
    let found = found(db).await?;
    let origin = match found.plan(migrations::POSTGRES)? {
        Plan::Adopt(revision, place) => {
            return Box::pin(adopt::adopt(db, revision, place, rehearsal)).await;
        }
        Plan::Steps(origin) => origin,
    };
    if !rehearsal {
        let report = migrations::runner(migrations::POSTGRES).run_async(db).await;
        let report = report.map_err(|error| {
            migrations::failure::<tokio_postgres::Error>(&error, |cause| cause.into())
        })?;
        let steps = migrations::names(report.applied_migrations());
        return Ok(Upgrade { origin, steps, adoption: None });
    }
    if found.version.is_some() {
        let sql = format!("-- rehearse\nSELECT version, checksum FROM {HISTORY}");
        let rows = db.query(&sql, &[]).await?;
        let read = |row| Ok((codec::get(row, 0)?, codec::get(row, 1)?));
        let history = rows.iter().map(read).collect::<Result<Vec<_>, StoreError>>()?;
        migrations::same_build(migrations::POSTGRES, &history)?;
    }
    let steps = migrations::pending(migrations::POSTGRES, found.version);
    let transaction = db.transaction().await?;
    for step in &steps {
        transaction.batch_execute(step.sql().unwrap_or_default()).await?;
    }
    transaction.rollback().await?;
    Ok(Upgrade { origin, steps: migrations::names(&steps), adoption: None })
}

impl Postgres {
    /// Does what [`Store::upgrade`] would do and takes it back. The tables are locked meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Store::upgrade`].
    pub async fn rehearse(&self) -> Result<Upgrade, StoreError> {
        self.alone(true).await
    }

    pub(super) async fn alone(&self, rehearsal: bool) -> Result<Upgrade, StoreError> {
        // Taken out of the pool: whatever happens to this call, the lock goes with the connection.
        let mut db = Object::take(self.pool.get().await?);
        // No time limit: another replica may be migrating a large table.
        db.execute("-- migrate\nSELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
        let upgrade = upgrade_schema(&mut db, rehearsal).await;
        db.execute("-- migrate\nSELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
        upgrade
    }
}
