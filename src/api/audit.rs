//! `/v1/audit`: who changed what through the management API; and through what changes are made, so that they are noted.

use std::ops::Deref;

use otari_filters::control::Caller;
use otari_filters::rejection::Rejection;
use otari_filters::validate::{Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::openapi::Operation;
use super::usage::filter::joined;
use super::{Answer, Request, aliases, budgets, ceilings, fields, keys, pricing, users};
use crate::app::Standalone;
use crate::clock;
use crate::control::settings::MASTER_KEY_HASH;
use crate::store::{AuditFilter, AuditRow, Author, SettingRow, Shapes, Store};

const FIELDS: [Field; 8] = [
    Field::new("start_date", Kind::Instant, "From this instant on"),
    Field::new("end_date", Kind::Instant, "Before this instant"),
    Field::new("actor", Kind::Text, "By this kind of caller: `master_key`"),
    Field::new("actor_id", Kind::Text, "By this one of them"),
    Field::new("action", Kind::Text, "Of this kind: `user.update`"),
    Field::new("object_kind", Kind::Text, "Of such objects: `user`"),
    Field::new("object_id", Kind::Text, "Of this object"),
    Field::new("request_id", Kind::Text, "Made by this request"),
];

static QUERY: [Field; 10] = joined(FIELDS, fields::PAGE);

pub(super) static LIST: Operation =
    Operation::new("list_audit_log", "List who changed what through this API, newest first")
        .with_query(&QUERY)
        .answering::<Vec<Entry<'_>>>();

/// A change. `before` is null for what was not there, `after` for what is not there any more; both are for a secret.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct Entry<'a> {
    id: &'a str,
    #[schemars(extend("format" = "date-time"))]
    at: String,
    actor: &'a str,
    actor_id: Option<&'a str>,
    address: Option<&'a str>,
    request_id: &'a str,
    action: &'a str,
    object_kind: &'a str,
    object_id: &'a str,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
}

impl<'a> From<&'a AuditRow> for Entry<'a> {
    fn from(row: &'a AuditRow) -> Self {
        Self {
            id: &row.id,
            at: fields::iso(row.at),
            actor: &row.actor,
            actor_id: row.actor_id.as_deref(),
            address: row.address.as_deref(),
            request_id: &row.request_id,
            action: &row.action,
            object_kind: &row.object_kind,
            object_id: &row.object_id,
            before: row.before.as_ref(),
            after: row.after.as_ref(),
        }
    }
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let filter = AuditFilter {
        start: fields::datetime(&mut read, "start_date"),
        end: fields::datetime(&mut read, "end_date"),
        actor: fields::string(&mut read, "actor"),
        actor_id: fields::string(&mut read, "actor_id"),
        action: fields::string(&mut read, "action"),
        object_kind: fields::string(&mut read, "object_kind"),
        object_id: fields::string(&mut read, "object_id"),
        request_id: fields::string(&mut read, "request_id"),
    };
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.audit_list(&filter, page).await?;
    Answer::json(&rows.iter().map(Entry::from).collect::<Vec<_>>())
}

/// The gateway, before somebody who changes something: what is changed through this store is noted as theirs.
pub(super) struct Managed<'a> {
    app: &'a Standalone,
    /// In the place of the gateway's own.
    pub(super) store: Box<dyn Store>,
}

impl<'a> Managed<'a> {
    pub(super) fn new(app: &'a Standalone, request: Request<'_>) -> Self {
        let (actor, actor_id) = match request.caller {
            Some(Caller::Key { id, .. }) => ("api_key", Some(id.to_string())),
            _ => ("master_key", None),
        };
        let author = Author {
            actor,
            actor_id,
            address: request.address,
            request_id: request.request_id.to_owned(),
            at: clock::now(),
            shapes: &SHAPES,
        };
        Self { app, store: app.store.by(author) }
    }
}

impl Deref for Managed<'_> {
    type Target = Standalone;

    fn deref(&self) -> &Standalone {
        self.app
    }
}

/// As the routes answer.
static SHAPES: Shapes = Shapes {
    key: keys::shown,
    user: users::shown,
    budget: budgets::shown,
    ceiling: ceilings::shown,
    price: pricing::shown,
    alias: aliases::shown,
    setting,
};

/// A setting's value as it is kept; the digest of a master key is nobody's business.
fn setting(row: &SettingRow) -> Option<Value> {
    // Words are kept without quotation marks.
    let value: Value =
        serde_json::from_str(&row.value).unwrap_or_else(|_| row.value.as_str().into());
    (row.key != MASTER_KEY_HASH).then(|| json!({"key": row.key, "value": value}))
}

/// What a route shows of a row, without counters that move by themselves.
pub(super) fn without(shown: &impl Serialize, counters: &[&str]) -> Value {
    // Rows hold nothing that is no JSON.
    let mut value = serde_json::to_value(shown).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, _| !counters.contains(&name.as_str()));
    }
    value
}
