//! `otari_audit_log` in PostgreSQL, and the changes that are noted in it.

use async_trait::async_trait;
use deadpool_postgres::{GenericClient as _, Object as Connection, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::codec::{get, time};
use super::{Postgres, aliases, budgets, ceilings, keys, prices, settings, users, within};
use crate::store::audit::{Change, Object};
use crate::store::values::Instant;
use crate::store::{
    AliasRow, AuditFilter, AuditLog, AuditRow, Author, BudgetChange, BudgetRow, CeilingChange,
    CeilingFilter, CeilingRow, KeyChange, KeyRow, Page, PriceRow, Store, StoreError, UserChange,
    UserRow,
};

/// The advisory lock of who changes something: what was there before must be what is changed.
const LOCK: i64 = super::MIGRATION_LOCK + 17;

/// A transaction, and whose it is.
pub(super) struct Audit<'a> {
    db: Transaction<'a>,
    author: Option<&'a Author>,
}

type Result<T> = std::result::Result<T, StoreError>;

/// What is there before a change; not looked at when nothing is noted.
macro_rules! before {
    ($audit:ident, $read:expr) => {
        if $audit.author.is_some() { $read.await? } else { Default::default() }
    };
}

impl<'a> Audit<'a> {
    /// Waits for other gateways that change something, when it is to be noted.
    pub(super) async fn begin(db: &'a mut Connection, author: Option<&'a Author>) -> Result<Self> {
        let db = db.transaction().await?;
        if author.is_some() {
            db.execute("-- audit\nSELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        }
        Ok(Self { db, author })
    }

    pub(super) async fn commit(self) -> Result<()> {
        Ok(self.db.commit().await?)
    }

    async fn note<T: Object>(&self, change: &Change<'_, T>) -> Result<()> {
        let Some(author) = self.author else { return Ok(()) };
        self.insert(&author.row(change)).await
    }

    async fn insert(&self, row: &AuditRow) -> Result<()> {
        let sql = "-- audit\nINSERT INTO otari_audit_log (id, at, actor, actor_id, address, request_id, action,
                object_kind, object_id, before, after)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let statement = self.db.prepare_cached(sql).await?;
        self.db
            .execute(
                &statement,
                &[
                    &row.id,
                    &Instant::from(row.at),
                    &row.actor,
                    &row.actor_id,
                    &row.address,
                    &row.request_id,
                    &row.action,
                    &row.object_kind,
                    &row.object_id,
                    &row.before.as_ref().map(Json),
                    &row.after.as_ref().map(Json),
                ],
            )
            .await?;
        Ok(())
    }

    /// Notes a change of something that was there.
    async fn note_update<T: Object>(&self, before: Option<&T>, after: Option<&T>) -> Result<()> {
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        self.note(&Change::Updated(before, after)).await
    }

    async fn note_deletion<T: Object>(&self, before: Option<&T>) -> Result<()> {
        let Some(before) = before else { return Ok(()) };
        self.note(&Change::Deleted(before)).await
    }

    pub(super) async fn key_create(&self, key: &KeyRow, owner: Option<&UserRow>) -> Result<()> {
        keys::key_create(&self.db, key, owner).await?;
        if let Some(owner) = owner {
            self.note(&Change::Created(owner)).await?;
        }
        self.note(&Change::Created(key)).await
    }

    pub(super) async fn key_update(&self, id: &str, change: &KeyChange) -> Result<Option<KeyRow>> {
        let before: Option<KeyRow> = before!(self, keys::key_get(&self.db, id));
        let after = keys::key_update(&self.db, id, change).await?;
        self.note_update(before.as_ref(), after.as_ref()).await?;
        Ok(after)
    }

    pub(super) async fn key_rotate(
        &self,
        id: &str,
        hash: &str,
        prefix: &str,
    ) -> Result<Option<KeyRow>> {
        let before: Option<KeyRow> = before!(self, keys::key_get(&self.db, id));
        let after = keys::key_rotate(&self.db, id, hash, prefix).await?;
        if let (Some(before), Some(after)) = (&before, &after) {
            self.note(&Change::Rotated(before, after)).await?;
        }
        Ok(after)
    }

    pub(super) async fn key_delete(&self, id: &str) -> Result<bool> {
        let before: Option<KeyRow> = before!(self, keys::key_get(&self.db, id));
        let (filter, all) = (CeilingFilter::of_key(id), Page { skip: 0, limit: i64::MAX });
        let ceilings: Vec<CeilingRow> =
            before!(self, ceilings::ceiling_list(&self.db, &filter, all));
        let deleted = keys::key_delete(&self.db, id).await?;
        self.note_deletion(before.as_ref()).await?;
        for ceiling in &ceilings {
            self.note(&Change::Deleted(ceiling)).await?;
        }
        Ok(deleted)
    }

    pub(super) async fn user_create(&self, user: &UserRow) -> Result<UserRow> {
        let after = users::user_create(&self.db, user).await?;
        self.note(&Change::Created(&after)).await?;
        Ok(after)
    }

    pub(super) async fn user_update(
        &self,
        id: &str,
        change: &UserChange,
    ) -> Result<Option<UserRow>> {
        let before: Option<UserRow> = before!(self, users::user_get(&self.db, id));
        let after = users::user_update(&self.db, id, change).await?;
        self.note_update(before.as_ref(), after.as_ref()).await?;
        Ok(after)
    }

    pub(super) async fn user_delete(&self, id: &str, at: Timestamp) -> Result<bool> {
        let before: Option<UserRow> = before!(self, users::user_get(&self.db, id));
        let keys: Vec<KeyRow> = before!(self, keys::key_active_of(&self.db, id));
        let deleted = users::user_delete(&self.db, id, at).await?;
        self.note_deletion(before.as_ref()).await?;
        for key in keys.iter().filter(|_| deleted) {
            let after = keys::key_get(&self.db, &key.id).await?;
            self.note_update(Some(key), after.as_ref()).await?;
        }
        Ok(deleted)
    }

    pub(super) async fn budget_create(&self, budget: &BudgetRow) -> Result<()> {
        budgets::budget_create(&self.db, budget).await?;
        self.note(&Change::Created(budget)).await
    }

    pub(super) async fn budget_update(
        &self,
        id: &str,
        change: &BudgetChange,
    ) -> Result<Option<BudgetRow>> {
        let before: Option<BudgetRow> = before!(self, budgets::budget_get(&self.db, id));
        let after = budgets::budget_update(&self.db, id, change).await?;
        self.note_update(before.as_ref(), after.as_ref()).await?;
        Ok(after)
    }

    pub(super) async fn budget_delete(&self, id: &str, at: Timestamp) -> Result<bool> {
        let before: Option<BudgetRow> = before!(self, budgets::budget_get(&self.db, id));
        let deleted = budgets::budget_delete(&self.db, id, at).await?;
        self.note_deletion(before.as_ref()).await?;
        Ok(deleted)
    }

    pub(super) async fn ceiling_create(&self, ceiling: &CeilingRow) -> Result<()> {
        ceilings::ceiling_create(&self.db, ceiling).await?;
        self.note(&Change::Created(ceiling)).await
    }

    pub(super) async fn ceiling_update(
        &self,
        id: &str,
        change: &CeilingChange,
    ) -> Result<Option<CeilingRow>> {
        let before: Option<CeilingRow> = before!(self, ceilings::ceiling_get(&self.db, id));
        let after = ceilings::ceiling_update(&self.db, id, change).await?;
        self.note_update(before.as_ref(), after.as_ref()).await?;
        Ok(after)
    }

    pub(super) async fn ceiling_delete(&self, id: &str) -> Result<bool> {
        let before: Option<CeilingRow> = before!(self, ceilings::ceiling_get(&self.db, id));
        let deleted = ceilings::ceiling_delete(&self.db, id).await?;
        self.note_deletion(before.as_ref()).await?;
        Ok(deleted)
    }

    pub(super) async fn price_put(&self, price: &PriceRow) -> Result<PriceRow> {
        let before: Vec<PriceRow> =
            before!(self, prices::price_history(&self.db, &price.model_key));
        let after = prices::price_put(&self.db, price).await?;
        let before = before.iter().find(|row| row.effective_at == after.effective_at);
        self.note(&Change::put(before, &after)).await?;
        Ok(after)
    }

    pub(super) async fn price_delete(
        &self,
        model: &str,
        effective_at: Option<Timestamp>,
    ) -> Result<bool> {
        let before: Vec<PriceRow> = before!(self, prices::price_history(&self.db, model));
        let deleted = prices::price_delete(&self.db, model, effective_at).await?;
        let after: Vec<PriceRow> = before!(self, prices::price_history(&self.db, model));
        for row in before.iter().filter(|row| !after.contains(row)) {
            self.note(&Change::Deleted(row)).await?;
        }
        Ok(deleted)
    }

    pub(super) async fn alias_put(&self, alias: &AliasRow) -> Result<AliasRow> {
        let before: Vec<AliasRow> = before!(self, aliases::alias_all(&self.db));
        let after = aliases::alias_put(&self.db, alias).await?;
        let before = before.iter().find(|row| row.id == after.id);
        self.note(&Change::put(before, &after)).await?;
        Ok(after)
    }

    pub(super) async fn alias_delete(&self, name: &str, user_id: Option<&str>) -> Result<bool> {
        let before: Vec<AliasRow> = before!(self, aliases::alias_all(&self.db));
        let deleted = aliases::alias_delete(&self.db, name, user_id).await?;
        let is_it = |row: &&AliasRow| row.name == name && row.user_id.as_deref() == user_id;
        self.note_deletion(before.iter().find(is_it)).await?;
        Ok(deleted)
    }

    pub(super) async fn setting_put(
        &self,
        changes: &[(String, Option<String>)],
        at: Timestamp,
    ) -> Result<()> {
        let before: Vec<_> = before!(self, settings::setting_all(&self.db));
        settings::setting_put(&self.db, changes, at).await?;
        let after: Vec<_> = before!(self, settings::setting_all(&self.db));
        for (key, _) in changes {
            let old = before.iter().find(|row| row.key == *key);
            let new = after.iter().find(|row| row.key == *key);
            match (old, new) {
                (old, Some(new)) => self.note(&Change::put(old, new)).await?,
                (old, None) => self.note_deletion(old).await?,
            }
        }
        Ok(())
    }
}

fn read(row: &Row) -> Result<AuditRow> {
    Ok(AuditRow {
        id: get(row, 0)?,
        at: time(row, 1)?,
        actor: get(row, 2)?,
        actor_id: get(row, 3)?,
        address: get(row, 4)?,
        request_id: get(row, 5)?,
        action: get(row, 6)?,
        object_kind: get(row, 7)?,
        object_id: get(row, 8)?,
        before: get::<Option<Json<_>>>(row, 9)?.map(|json| json.0),
        after: get::<Option<Json<_>>>(row, 10)?.map(|json| json.0),
    })
}

#[async_trait]
impl AuditLog for Postgres {
    fn by(&self, author: Author) -> Box<dyn Store> {
        Box::new(Self { author: Some(author.into()), ..self.clone() })
    }

    async fn audit_list(&self, filter: &AuditFilter, page: Page) -> Result<Vec<AuditRow>> {
        let sql = "-- audit_list
            SELECT id, at, actor, actor_id, address, request_id, action, object_kind, object_id, before, after
            FROM otari_audit_log
            WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2)
              AND ($3::varchar IS NULL OR actor = $3) AND ($4::varchar IS NULL OR actor_id = $4)
              AND ($5::varchar IS NULL OR action = $5) AND ($6::varchar IS NULL OR object_kind = $6)
              AND ($7::varchar IS NULL OR object_id = $7) AND ($8::varchar IS NULL OR request_id = $8)
            ORDER BY at DESC, id COLLATE \"C\" DESC LIMIT $9 OFFSET $10";
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            let rows = db
                .query(
                    &statement,
                    &[
                        &filter.start.map(Instant::from),
                        &filter.end.map(Instant::from),
                        &filter.actor,
                        &filter.actor_id,
                        &filter.action,
                        &filter.object_kind,
                        &filter.object_id,
                        &filter.request_id,
                        &page.limit,
                        &page.skip,
                    ],
                )
                .await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn audit_expire(&self, before: Timestamp, at_most: i64) -> Result<u64> {
        // What another gateway is at is passed over, not waited for.
        let sql = "-- audit_expire\nDELETE FROM otari_audit_log WHERE id IN (
                SELECT id FROM otari_audit_log WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)";
        within(async {
            let db = self.pool.get().await?;
            let statement = db.prepare_cached(sql).await?;
            Ok(db.execute(&statement, &[&Instant::from(before), &at_most]).await?)
        })
        .await
    }
}
