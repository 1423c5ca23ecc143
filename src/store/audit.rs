//! Who changed what through the management API: noted in the transaction of the change, so that there is no change
//! without its row and no row without its change.

use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{
    AliasRow, BudgetRow, CeilingRow, KeyRow, Page, PriceRow, SettingRow, Store, StoreError, UserRow,
};

/// Whose changes they are.
#[derive(Clone, Debug)]
pub struct Author {
    /// `master_key`, or what else of a caller may manage.
    pub actor: &'static str,
    /// Which of them; `None`: there is one.
    pub actor_id: Option<String>,
    /// Where they called from.
    pub address: Option<IpAddr>,
    /// The request's id, as in its answer and in the log.
    pub request_id: String,
    /// When.
    pub at: Timestamp,
    /// How rows are shown.
    pub shapes: &'static Shapes,
}

/// Rows as the management API shows them, without what moves by itself. Nothing of a credential is in it.
#[derive(Debug)]
pub struct Shapes {
    /// A key.
    pub key: fn(&KeyRow) -> Value,
    /// A user.
    pub user: fn(&UserRow) -> Value,
    /// A budget.
    pub budget: fn(&BudgetRow) -> Value,
    /// A ceiling.
    pub ceiling: fn(&CeilingRow) -> Value,
    /// A price.
    pub price: fn(&PriceRow) -> Value,
    /// An alias.
    pub alias: fn(&AliasRow) -> Value,
    /// A setting; `None`: a secret, of which only its change is noted.
    pub setting: fn(&SettingRow) -> Option<Value>,
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// UUIDv7.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// `master_key`, or what else of a caller may manage.
    pub actor: String,
    /// Which of them.
    pub actor_id: Option<String>,
    /// Where they called from.
    pub address: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// What was done: `user.update`.
    pub action: String,
    /// What was changed: `user`.
    pub object_kind: String,
    /// Which of them.
    pub object_id: String,
    /// As it was; `None`: it was not there, or is a secret.
    pub before: Option<Value>,
    /// As it is; `None`: it is not there any more, or is a secret.
    pub after: Option<Value>,
}

/// Which changes are asked for; all of what is given.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// From this instant on.
    pub start: Option<Timestamp>,
    /// Before this instant.
    pub end: Option<Timestamp>,
    /// Exact.
    pub actor: Option<String>,
    /// Exact.
    pub actor_id: Option<String>,
    /// Exact.
    pub action: Option<String>,
    /// Exact.
    pub object_kind: Option<String>,
    /// Exact.
    pub object_id: Option<String>,
    /// Exact.
    pub request_id: Option<String>,
}

/// The part of a store that keeps who changed what.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// The same database: whatever is changed through this one is noted as the author's.
    fn by(&self, author: Author) -> Box<dyn Store>;
    /// Changes, newest first, ties by id.
    async fn audit_list(
        &self,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<Vec<AuditRow>, StoreError>;
    /// Removes at most so many of the oldest rows before an instant; says how many.
    async fn audit_expire(&self, before: Timestamp, at_most: i64) -> Result<u64, StoreError>;
}

/// What can be changed.
pub(super) trait Object {
    /// As rows name it.
    fn kind(&self, shapes: &Shapes) -> &'static str;
    /// Which of them.
    fn name(&self) -> &str;
    /// As it is shown.
    fn shown(&self, shapes: &Shapes) -> Option<Value>;
}

macro_rules! objects {
    ($($row:ident, $kind:literal, $shape:ident, $id:ident;)*) => {
        $(impl Object for $row {
            fn kind(&self, _: &Shapes) -> &'static str {
                $kind
            }
            fn name(&self) -> &str {
                &self.$id
            }
            fn shown(&self, shapes: &Shapes) -> Option<Value> {
                Some((shapes.$shape)(self))
            }
        })*
    };
}

objects! {
    KeyRow, "key", key, id;
    UserRow, "user", user, user_id;
    BudgetRow, "budget", budget, budget_id;
    CeilingRow, "scoped_budget", ceiling, id;
    PriceRow, "price", price, model_key;
    AliasRow, "alias", alias, name;
}

impl Object for SettingRow {
    fn kind(&self, shapes: &Shapes) -> &'static str {
        if (shapes.setting)(self).is_some() { "setting" } else { "master_key" }
    }

    fn name(&self) -> &str {
        &self.key
    }

    fn shown(&self, shapes: &Shapes) -> Option<Value> {
        (shapes.setting)(self)
    }
}

/// What became of an object.
pub(super) enum Change<'a, T> {
    /// It is there now.
    Created(&'a T),
    /// It is another now.
    Updated(&'a T, &'a T),
    /// It has another secret now.
    Rotated(&'a T, &'a T),
    /// It is not there any more.
    Deleted(&'a T),
}

impl<'a, T> Change<'a, T> {
    /// Of something that is put in a place where another may have been.
    pub(super) fn put(before: Option<&'a T>, after: &'a T) -> Self {
        before.map_or(Self::Created(after), |before| Self::Updated(before, after))
    }
}

impl Author {
    /// The row of a change.
    pub(super) fn row<T: Object>(&self, change: &Change<'_, T>) -> AuditRow {
        let (verb, before, after) = match *change {
            Change::Created(after) => ("create", None, Some(after)),
            Change::Updated(before, after) => ("update", Some(before), Some(after)),
            Change::Rotated(before, after) => ("rotate", Some(before), Some(after)),
            Change::Deleted(before) => ("delete", Some(before), None),
        };
        let object = after.or(before);
        let kind = object.map_or("", |object| object.kind(self.shapes));
        let shown = |row: Option<&T>| row.and_then(|row| row.shown(self.shapes));
        // Its change is all there is to say of a secret.
        let verb = if kind == "master_key" { "rotate" } else { verb };
        AuditRow {
            id: Uuid::now_v7().to_string(),
            at: self.at,
            actor: self.actor.to_owned(),
            actor_id: self.actor_id.clone(),
            address: self.address.map(|address| address.to_string()),
            request_id: self.request_id.clone(),
            action: format!("{kind}.{verb}"),
            object_kind: kind.to_owned(),
            object_id: match kind {
                "master_key" => kind.to_owned(),
                _ => object.map_or_else(String::new, |object| object.name().to_owned()),
            },
            before: shown(before),
            after: shown(after),
        }
    }
}
