//! The reference's own revisions, oldest first, as PostgreSQL's statements. What a revision drops stays: nobody reads it,
//! and nothing is lost.

use tokio_postgres::Transaction;

use super::super::codec::get;
use crate::store::StoreError;
use crate::store::adopt::{Adoption, Place, duration, odd_duration};

/// What a revision does.
fn revision(revision: &str) -> &'static str {
    match revision {
        "1e382aa3a9e7" => {
            "ALTER TABLE users ADD COLUMN IF NOT EXISTS budget_started_at timestamptz;
             ALTER TABLE users ADD COLUMN IF NOT EXISTS next_budget_reset_at timestamptz;
             CREATE TABLE IF NOT EXISTS budget_reset_logs (id serial PRIMARY KEY, user_id varchar NOT NULL REFERENCES \
             users (user_id), budget_id varchar NOT NULL REFERENCES budgets (budget_id), previous_spend double precision \
             NOT NULL, reset_at timestamptz NOT NULL, next_reset_at timestamptz);
             CREATE INDEX IF NOT EXISTS ix_budget_reset_logs_user_id ON budget_reset_logs (user_id)"
        }
        "e7c85cc73bfa" => "ALTER TABLE budgets ADD COLUMN IF NOT EXISTS budget_duration_sec integer",
        "5911f4bbf98d" => {
            "ALTER TABLE usage_logs DROP CONSTRAINT IF EXISTS usage_logs_api_key_id_fkey, ADD CONSTRAINT \
             usage_logs_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
             ALTER TABLE usage_logs DROP CONSTRAINT IF EXISTS usage_logs_user_id_fkey, ADD CONSTRAINT \
             usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE SET NULL;
             ALTER TABLE budget_reset_logs ALTER COLUMN user_id DROP NOT NULL, DROP CONSTRAINT IF EXISTS \
             budget_reset_logs_user_id_fkey, ADD CONSTRAINT budget_reset_logs_user_id_fkey FOREIGN KEY (user_id) \
             REFERENCES users (user_id) ON DELETE SET NULL"
        }
        "10a6a8ead0e7" => {
            "ALTER TABLE users ADD COLUMN IF NOT EXISTS deleted_at timestamptz;
             CREATE INDEX IF NOT EXISTS ix_users_deleted_at ON users (deleted_at);
             ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS api_keys_user_id_fkey, ADD CONSTRAINT api_keys_user_id_fkey \
             FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE CASCADE"
        }
        "967575f779b7" => {
            "CREATE INDEX IF NOT EXISTS ix_usage_logs_user_id_timestamp ON usage_logs (user_id, \"timestamp\")"
        }
        "a1b2c3d4e5f6" => {
            "ALTER TABLE model_pricing ADD COLUMN IF NOT EXISTS effective_at timestamptz;
             UPDATE model_pricing SET effective_at = created_at WHERE effective_at IS NULL;
             ALTER TABLE model_pricing ALTER COLUMN effective_at SET NOT NULL, DROP CONSTRAINT model_pricing_pkey, ADD \
             CONSTRAINT model_pricing_pkey PRIMARY KEY (model_key, effective_at)"
        }
        "b2f4c6d8e0a1" => {
            "ALTER TABLE users ADD COLUMN IF NOT EXISTS reserved double precision NOT NULL DEFAULT 0"
        }
        "c3d5e7f9a1b3" => {
            "CREATE TABLE IF NOT EXISTS file_objects (id varchar PRIMARY KEY, user_id varchar NOT NULL REFERENCES users \
             (user_id) ON DELETE CASCADE, filename varchar NOT NULL, mime_type varchar NOT NULL, bytes integer NOT NULL, \
             purpose varchar NOT NULL, storage_ref varchar NOT NULL, created_at timestamptz NOT NULL, expires_at \
             timestamptz, deleted_at timestamptz, metadata json NOT NULL);
             CREATE INDEX IF NOT EXISTS ix_file_objects_user_id ON file_objects (user_id);
             CREATE INDEX IF NOT EXISTS ix_file_objects_created_at ON file_objects (created_at);
             CREATE INDEX IF NOT EXISTS ix_file_objects_deleted_at ON file_objects (deleted_at)"
        }
        _ => "",
    }
}

/// Brings the reference's tables to its head.
pub(super) async fn run(
    db: &Transaction<'_>,
    place: Place,
    adoption: &mut Adoption,
) -> Result<(), StoreError> {
    for id in place.missing() {
        db.batch_execute(revision(id)).await?;
    }
    if place.missing().contains(&"e7c85cc73bfa") && has_column(db, "budget_duration").await? {
        durations(db, adoption).await?;
    }
    Ok(())
}

/// Whether `budgets` has the column.
async fn has_column(db: &Transaction<'_>, column: &str) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) > 0 FROM pg_attribute WHERE attrelid = to_regclass('budgets') AND attname = $1::text AND \
               NOT attisdropped";
    get(&db.query_one(sql, &[&column]).await?, 0)
}

/// Reads the lengths of periods that were text once, which the reference forgets, and with them the ends of periods.
async fn durations(db: &Transaction<'_>, adoption: &mut Adoption) -> Result<(), StoreError> {
    let sql = "SELECT budget_id::text, budget_duration::text FROM budgets WHERE budget_duration IS NOT NULL AND \
               budget_duration_sec IS NULL";
    // The column is 32 bits wide still.
    db.batch_execute("ALTER TABLE budgets ALTER COLUMN budget_duration_sec TYPE bigint").await?;
    for row in db.query(sql, &[]).await? {
        let (budget_id, text): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        match duration(&text) {
            Some(seconds) => {
                let sql = "UPDATE budgets SET budget_duration_sec = $2 WHERE budget_id = $1";
                db.execute(sql, &[&budget_id, &seconds]).await?;
            }
            None => adoption.notes.push(odd_duration(&budget_id, &text)),
        }
    }
    if has_column(db, "budget_reset_at").await? {
        let sql = "UPDATE users SET next_budget_reset_at = (SELECT budget_reset_at FROM budgets WHERE budgets.budget_id = \
                   users.budget_id AND budget_duration_sec IS NOT NULL) WHERE next_budget_reset_at IS NULL";
        db.batch_execute(sql).await?;
    }
    Ok(())
}
