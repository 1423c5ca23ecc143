//! `/v1/keys`. The secret is shown once, in the answer that creates it.

use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::audit::{self, Managed};
use super::openapi::Operation;
use super::{Answer, Request, access, fields};
use crate::app::Standalone;
use crate::control::directory;
use crate::store::{KeyChange, KeyRow};
use crate::{clock, first_run};

const KEY_NAME: Field = Field::new("key_name", Kind::Text, "What people call it");
const EXPIRES_AT: Field = Field::new("expires_at", Kind::Instant, "From when on it is refused");
const METADATA: Field = Field::new("metadata", Kind::Object, "Kept and shown, not looked at");
const MISMATCH: Field = Field::new(
    "reject_user_mismatch",
    Kind::Flag,
    "Whether a request that names another user is refused; null: as the setting says",
);

pub(super) static CREATE: Operation = Operation::new("create_key", "Make an API key")
    .with_body(&[
        KEY_NAME,
        Field::new("user_id", Kind::Text, "Who is billed; made when unknown, and when absent"),
        EXPIRES_AT,
        METADATA.not_null(),
        access::ALLOWED_MODELS,
        Field::new("exclude_from_budget", Kind::Flag, "Record its calls without counting them")
            .not_null(),
        MISMATCH,
    ])
    .answering::<CreatedKey<'_>>()
    .refusing(&[400, 404]);

pub(super) static LIST: Operation = Operation::new("list_keys", "List API keys")
    .with_query(&fields::PAGE)
    .answering::<Vec<KeyInfo<'_>>>();

pub(super) static GET: Operation =
    Operation::new("get_key", "Show an API key").answering::<KeyInfo<'_>>().refusing(&[404]);

pub(super) static UPDATE: Operation = Operation::new("update_key", "Change an API key")
    .with_body(&[
        KEY_NAME,
        Field::new("is_active", Kind::Flag, "Whether it is accepted"),
        EXPIRES_AT,
        METADATA,
        access::ALLOWED_MODELS,
        MISMATCH,
    ])
    .answering::<KeyInfo<'_>>()
    .refusing(&[400, 404]);

pub(super) static DELETE: Operation =
    Operation::new("delete_key", "Delete an API key").refusing(&[404]);

pub(super) static ROTATE: Operation =
    Operation::new("rotate_key", "Give an API key a new secret; the old one ends at once")
        .answering::<CreatedKey<'_>>()
        .refusing(&[404]);

/// A key as it is listed; empty names are shown as null.
#[derive(Serialize, JsonSchema)]
struct KeyInfo<'a> {
    id: &'a str,
    key_prefix: Option<&'a str>,
    key_name: Option<&'a str>,
    user_id: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    last_used_at: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    is_active: bool,
    allowed_models: Option<&'a [String]>,
    exclude_from_budget: bool,
    reject_user_mismatch: Option<bool>,
    metadata: &'a Map<String, Value>,
}

/// A key with its secret: as it is created, and as it is rotated.
#[derive(Serialize, JsonSchema)]
struct CreatedKey<'a> {
    id: &'a str,
    key: &'a str,
    key_prefix: Option<&'a str>,
    key_name: Option<&'a str>,
    user_id: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    is_active: bool,
    allowed_models: Option<&'a [String]>,
    exclude_from_budget: bool,
    reject_user_mismatch: Option<bool>,
    metadata: &'a Map<String, Value>,
}

impl<'a> From<&'a KeyRow> for KeyInfo<'a> {
    fn from(row: &'a KeyRow) -> Self {
        Self {
            id: &row.id,
            key_prefix: row.key_prefix.as_deref(),
            key_name: row.key_name.as_deref().filter(|name| !name.is_empty()),
            user_id: row.user_id.as_deref().filter(|user| !user.is_empty()),
            created_at: fields::iso(row.created_at),
            last_used_at: row.last_used_at.map(fields::iso),
            expires_at: row.expires_at.map(fields::iso),
            is_active: row.is_active,
            allowed_models: row.allowed_models.as_deref(),
            exclude_from_budget: row.exclude_from_budget,
            reject_user_mismatch: row.reject_user_mismatch,
            metadata: &row.metadata,
        }
    }
}

/// What is noted of a change: what is seen of a key, but for its last use.
pub(super) fn shown(row: &KeyRow) -> Value {
    audit::without(&KeyInfo::from(row), &["last_used_at"])
}

impl<'a> CreatedKey<'a> {
    fn new(row: &'a KeyRow, token: &'a str) -> Self {
        Self {
            id: &row.id,
            key: token,
            key_prefix: row.key_prefix.as_deref(),
            key_name: row.key_name.as_deref(),
            user_id: row.user_id.as_deref(),
            created_at: fields::iso(row.created_at),
            expires_at: row.expires_at.map(fields::iso),
            is_active: row.is_active,
            allowed_models: row.allowed_models.as_deref(),
            exclude_from_budget: row.exclude_from_budget,
            reject_user_mismatch: row.reject_user_mismatch,
            metadata: &row.metadata,
        }
    }
}

pub(super) async fn create(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let key_name = fields::string(&mut read, "key_name");
    let user_id = fields::string(&mut read, "user_id").filter(|user| !user.is_empty());
    let expires_at = fields::datetime(&mut read, "expires_at");
    let metadata = read.object("metadata", false).unwrap_or_default();
    let allowed_models = access::texts(&mut read, "allowed_models");
    let exclude_from_budget = read.boolean("exclude_from_budget", false).unwrap_or(false);
    let reject_user_mismatch = read.boolean("reject_user_mismatch", true);
    read.faults.check()?;

    let id = Uuid::new_v4().to_string();
    let token = first_run::new_key().map_err(Rejection::internal)?;
    let allowed_models = access::narrowed(app, allowed_models, user_id.as_deref())?;
    let owner = owner(app, user_id.as_deref(), &id, key_name.as_deref()).await?;
    let row = KeyRow {
        key_hash: directory::hex(&directory::digest(&token)),
        key_prefix: Some(first_run::key_prefix(&token)),
        user_id: user_id.or_else(|| owner.as_ref().map(|user| user.user_id.clone())),
        key_name,
        created_at: clock::now(),
        last_used_at: None,
        expires_at,
        is_active: true,
        allowed_models,
        exclude_from_budget,
        reject_user_mismatch,
        metadata,
        id,
    };
    app.store.key_create(&row, owner.as_ref()).await?;
    if let Some(user) = &owner {
        app.local.ledger.put_user(user);
    }
    app.local.directory.put_key(&row);
    Answer::json(&CreatedKey::new(&row, &token))
}

/// A new secret on the same row; the old one is worth nothing from here on.
pub(super) async fn rotate(app: &Managed<'_>, id: &str) -> Result<Answer, Rejection> {
    let token = first_run::new_key().map_err(Rejection::internal)?;
    let hash = directory::hex(&directory::digest(&token));
    let rotated = app.store.key_rotate(id, &hash, &first_run::key_prefix(&token)).await?;
    let row = rotated.ok_or_else(|| not_found(id))?;
    app.local.directory.put_key(&row);
    Answer::json(&CreatedKey::new(&row, &token))
}

/// The user to create with the key: none when the named one exists.
async fn owner(
    app: &Standalone,
    user_id: Option<&str>,
    key_id: &str,
    key_name: Option<&str>,
) -> Result<Option<crate::store::UserRow>, Rejection> {
    let Some(user_id) = user_id else {
        return Ok(Some(first_run::virtual_user(key_id, key_name)));
    };
    if app.store.user_get(user_id).await?.is_some() {
        return Ok(None);
    }
    if app.local.ledger.counters(user_id).is_some() {
        let message =
            format!("User '{user_id}' has been deleted. Recreate via POST /v1/users first.");
        return Err(Rejection::new(Code::NotFound, message));
    }
    Ok(Some(first_run::user(user_id, Some(format!("User {user_id}")))))
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.key_list(page).await?;
    Answer::json(&rows.iter().map(KeyInfo::from).collect::<Vec<_>>())
}

pub(super) async fn get(app: &Standalone, id: &str) -> Result<Answer, Rejection> {
    let row = app.store.key_get(id).await?.ok_or_else(|| not_found(id))?;
    Answer::json(&KeyInfo::from(&row))
}

pub(super) async fn update(
    app: &Managed<'_>,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = UPDATE.read_body(&body);
    // Absent keeps, null clears where the field can be null, a value sets.
    let key_name = read.has("key_name").then(|| fields::string(&mut read, "key_name"));
    let is_active = read.boolean("is_active", true);
    let expires_at = read.has("expires_at").then(|| fields::datetime(&mut read, "expires_at"));
    let metadata = read.object("metadata", true);
    let allowed_models =
        read.has("allowed_models").then(|| access::texts(&mut read, "allowed_models"));
    let reject_user_mismatch =
        read.has("reject_user_mismatch").then(|| read.boolean("reject_user_mismatch", true));
    read.faults.check()?;
    let allowed_models = match allowed_models {
        None => None,
        Some(texts) => {
            let key = app.store.key_get(id).await?.ok_or_else(|| not_found(id))?;
            Some(access::narrowed(app, texts, key.user_id.as_deref())?)
        }
    };
    let change = KeyChange {
        key_name,
        is_active,
        expires_at,
        allowed_models,
        reject_user_mismatch,
        metadata,
    };
    let row = app.store.key_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    app.local.directory.put_key(&row);
    Answer::json(&KeyInfo::from(&row))
}

pub(super) async fn delete(app: &Managed<'_>, id: &str) -> Result<Answer, Rejection> {
    if !app.store.key_delete(id).await? {
        return Err(not_found(id));
    }
    app.local.directory.remove_key(id);
    Ok(Answer::nothing())
}

fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("API key with id '{id}' not found"))
}
