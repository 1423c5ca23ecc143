//! `otari_audit_log` in SQLite, and the changes that are noted in it.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Row, Transaction, params};
use serde_json::Value;

use super::codec::{Read, json};
use super::{Sqlite, aliases, budgets, ceilings, keys, prices, settings, users};
use crate::store::audit::{Change, Object};
use crate::store::values::Instant;
use crate::store::{
    AliasRow, AuditFilter, AuditLog, AuditRow, Author, BudgetChange, BudgetRow, CeilingChange,
    CeilingFilter, CeilingRow, KeyChange, KeyRow, Page, PriceRow, Store, StoreError, UserChange,
    UserRow,
};

/// A write transaction, and whose it is.
pub(super) struct Audit<'a> {
    pub(super) db: &'a Transaction<'a>,
    pub(super) author: Option<&'a Author>,
}

type Result<T> = std::result::Result<T, StoreError>;

impl Audit<'_> {
    /// Something as it is before a change; not looked at when nothing is noted.
    fn before<T: Default>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        if self.author.is_some() { read(self.db) } else { Ok(T::default()) }
    }

    fn note<T: Object>(&self, change: &Change<'_, T>) -> Result<()> {
        let Some(author) = self.author else { return Ok(()) };
        let row = author.row(change);
        let sql = "-- audit\nINSERT INTO otari_audit_log (id, at, actor, actor_id, address, request_id, action,
                object_kind, object_id, before, after)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.db.prepare_cached(sql)?.execute(params![
            row.id,
            Instant::from(row.at),
            row.actor,
            row.actor_id,
            row.address,
            row.request_id,
            row.action,
            row.object_kind,
            row.object_id,
            row.before.as_ref().map(json).transpose()?,
            row.after.as_ref().map(json).transpose()?,
        ])?;
        Ok(())
    }

    /// Notes a change of something that was there.
    fn note_update<T: Object>(&self, before: Option<&T>, after: Option<&T>) -> Result<()> {
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        self.note(&Change::Updated(before, after))
    }

    fn note_deletion<T: Object>(&self, before: Option<&T>) -> Result<()> {
        before.map_or(Ok(()), |before| self.note(&Change::Deleted(before)))
    }

    pub(super) fn key_create(&self, key: &KeyRow, owner: Option<&UserRow>) -> Result<()> {
        keys::key_create(self.db, key, owner)?;
        if let Some(owner) = owner {
            self.note(&Change::Created(owner))?;
        }
        self.note(&Change::Created(key))
    }

    pub(super) fn key_update(&self, id: &str, change: &KeyChange) -> Result<Option<KeyRow>> {
        let before = self.before(|db| keys::key_get(db, id))?;
        let after = keys::key_update(self.db, id, change)?;
        self.note_update(before.as_ref(), after.as_ref())?;
        Ok(after)
    }

    pub(super) fn key_rotate(&self, id: &str, hash: &str, prefix: &str) -> Result<Option<KeyRow>> {
        let before = self.before(|db| keys::key_get(db, id))?;
        let after = keys::key_rotate(self.db, id, hash, prefix)?;
        if let (Some(before), Some(after)) = (&before, &after) {
            self.note(&Change::Rotated(before, after))?;
        }
        Ok(after)
    }

    pub(super) fn key_delete(&self, id: &str) -> Result<bool> {
        let before = self.before(|db| keys::key_get(db, id))?;
        let ceilings = self.before(|db| {
            ceilings::ceiling_list(
                db,
                &CeilingFilter::of_key(id),
                Page { skip: 0, limit: i64::MAX },
            )
        })?;
        let deleted = keys::key_delete(self.db, id)?;
        self.note_deletion(before.as_ref())?;
        ceilings.iter().try_for_each(|ceiling| self.note(&Change::Deleted(ceiling)))?;
        Ok(deleted)
    }

    pub(super) fn user_create(&self, user: &UserRow) -> Result<UserRow> {
        let after = users::user_create(self.db, user)?;
        self.note(&Change::Created(&after))?;
        Ok(after)
    }

    pub(super) fn user_update(&self, id: &str, change: &UserChange) -> Result<Option<UserRow>> {
        let before = self.before(|db| users::user_get(db, id))?;
        let after = users::user_update(self.db, id, change)?;
        self.note_update(before.as_ref(), after.as_ref())?;
        Ok(after)
    }

    pub(super) fn user_delete(&self, id: &str, at: Timestamp) -> Result<bool> {
        let before = self.before(|db| users::user_get(db, id))?;
        let keys = self.before(|db| keys::key_active_of(db, id))?;
        let deleted = users::user_delete(self.db, id, at)?;
        self.note_deletion(before.as_ref())?;
        for key in keys.iter().filter(|_| deleted) {
            let after = keys::key_get(self.db, &key.id)?;
            self.note_update(Some(key), after.as_ref())?;
        }
        Ok(deleted)
    }

    pub(super) fn budget_create(&self, budget: &BudgetRow) -> Result<()> {
        budgets::budget_create(self.db, budget)?;
        self.note(&Change::Created(budget))
    }

    pub(super) fn budget_update(
        &self,
        id: &str,
        change: &BudgetChange,
    ) -> Result<Option<BudgetRow>> {
        let before = self.before(|db| budgets::budget_get(db, id))?;
        let after = budgets::budget_update(self.db, id, change)?;
        self.note_update(before.as_ref(), after.as_ref())?;
        Ok(after)
    }

    pub(super) fn budget_delete(&self, id: &str, at: Timestamp) -> Result<bool> {
        let before = self.before(|db| budgets::budget_get(db, id))?;
        let deleted = budgets::budget_delete(self.db, id, at)?;
        self.note_deletion(before.as_ref())?;
        Ok(deleted)
    }

    pub(super) fn ceiling_create(&self, ceiling: &CeilingRow) -> Result<()> {
        ceilings::ceiling_create(self.db, ceiling)?;
        self.note(&Change::Created(ceiling))
    }

    pub(super) fn ceiling_update(
        &self,
        id: &str,
        change: &CeilingChange,
    ) -> Result<Option<CeilingRow>> {
        let before = self.before(|db| ceilings::ceiling_get(db, id))?;
        let after = ceilings::ceiling_update(self.db, id, change)?;
        self.note_update(before.as_ref(), after.as_ref())?;
        Ok(after)
    }

    pub(super) fn ceiling_delete(&self, id: &str) -> Result<bool> {
        let before = self.before(|db| ceilings::ceiling_get(db, id))?;
        let deleted = ceilings::ceiling_delete(self.db, id)?;
        self.note_deletion(before.as_ref())?;
        Ok(deleted)
    }

    pub(super) fn price_put(&self, price: &PriceRow) -> Result<PriceRow> {
        let before = self.before(|db| prices::price_history(db, &price.model_key))?;
        let after = prices::price_put(self.db, price)?;
        let before = before.iter().find(|row| row.effective_at == after.effective_at);
        self.note(&Change::put(before, &after))?;
        Ok(after)
    }

    pub(super) fn price_delete(
        &self,
        model: &str,
        effective_at: Option<Timestamp>,
    ) -> Result<bool> {
        let before = self.before(|db| prices::price_history(db, model))?;
        let deleted = prices::price_delete(self.db, model, effective_at)?;
        let after = self.before(|db| prices::price_history(db, model))?;
        for row in before.iter().filter(|row| !after.contains(row)) {
            self.note(&Change::Deleted(row))?;
        }
        Ok(deleted)
    }

    pub(super) fn alias_put(&self, alias: &AliasRow) -> Result<AliasRow> {
        let before = self.before(|db| aliases::alias_all(db))?;
        let after = aliases::alias_put(self.db, alias)?;
        let before = before.iter().find(|row| row.id == after.id);
        self.note(&Change::put(before, &after))?;
        Ok(after)
    }

    pub(super) fn alias_delete(&self, name: &str, user_id: Option<&str>) -> Result<bool> {
        let before = self.before(|db| aliases::alias_all(db))?;
        let deleted = aliases::alias_delete(self.db, name, user_id)?;
        let is_it = |row: &&AliasRow| row.name == name && row.user_id.as_deref() == user_id;
        self.note_deletion(before.iter().find(is_it))?;
        Ok(deleted)
    }

    pub(super) fn setting_put(
        &self,
        changes: &[(String, Option<String>)],
        at: Timestamp,
    ) -> Result<()> {
        let before = self.before(|db| settings::setting_all(db))?;
        settings::setting_put(self.db, changes, at)?;
        let after = self.before(|db| settings::setting_all(db))?;
        for (key, _) in changes {
            let old = before.iter().find(|row| row.key == *key);
            let new = after.iter().find(|row| row.key == *key);
            match (old, new) {
                (old, Some(new)) => self.note(&Change::put(old, new))?,
                (old, None) => self.note_deletion(old)?,
            }
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let value = |column| {
        let text: Option<String> = row.get(column)?;
        // Text that is no JSON was written by hand.
        Ok::<_, rusqlite::Error>(
            text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        )
    };
    Ok(AuditRow {
        id: row.get(0)?,
        at: row.get::<_, Read<_>>(1)?.0,
        actor: row.get(2)?,
        actor_id: row.get(3)?,
        address: row.get(4)?,
        request_id: row.get(5)?,
        action: row.get(6)?,
        object_kind: row.get(7)?,
        object_id: row.get(8)?,
        before: value(9)?,
        after: value(10)?,
    })
}

#[async_trait]
impl AuditLog for Sqlite {
    fn by(&self, author: Author) -> Box<dyn Store> {
        Box::new(Self {
            label: self.label.clone(),
            readers: self.readers.clone(),
            writer: self.writer.clone(),
            file: self.file.clone(),
            author: Some(author.into()),
            beside: self.beside.clone(),
        })
    }

    async fn audit_list(&self, filter: &AuditFilter, page: Page) -> Result<Vec<AuditRow>> {
        let sql = "-- audit_list
            SELECT id, at, actor, actor_id, address, request_id, action, object_kind, object_id, before, after
            FROM otari_audit_log
            WHERE (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR at < ?2) AND (?3 IS NULL OR actor = ?3)
              AND (?4 IS NULL OR actor_id = ?4) AND (?5 IS NULL OR action = ?5)
              AND (?6 IS NULL OR object_kind = ?6) AND (?7 IS NULL OR object_id = ?7)
              AND (?8 IS NULL OR request_id = ?8)
            ORDER BY at DESC, id DESC LIMIT ?9 OFFSET ?10";
        let filter = filter.clone();
        self.read(move |db| {
            let values = params![
                filter.start.map(Instant::from),
                filter.end.map(Instant::from),
                filter.actor,
                filter.actor_id,
                filter.action,
                filter.object_kind,
                filter.object_id,
                filter.request_id,
                page.limit,
                page.skip,
            ];
            Ok(db.prepare_cached(sql)?.query_map(values, read)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn audit_expire(&self, before: Timestamp, at_most: i64) -> Result<u64> {
        let sql = "-- audit_expire\nDELETE FROM otari_audit_log WHERE id IN (
                SELECT id FROM otari_audit_log WHERE at < ?1 ORDER BY at LIMIT ?2)";
        self.write(move |db| {
            let gone = db.prepare_cached(sql)?.execute(params![Instant::from(before), at_most])?;
            Ok(u64::try_from(gone).unwrap_or(0))
        })
        .await
    }
}
