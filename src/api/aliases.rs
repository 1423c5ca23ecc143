//! `/v1/aliases`: names that stand for models, for everybody or for one user. Those of the configuration are listed too.

use otari_filters::alias;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::audit::{self, Managed};
use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::Standalone;
use crate::clock;
use crate::store::AliasRow;

const USER_ID: Field = Field::new("user_id", Kind::Text, "Whose alias it is; null: everybody's");

pub(super) static PUT: Operation = Operation::new("set_alias", "Let a name stand for a model")
    .with_body(&[
        Field::new("name", Kind::Text, "The name").required(),
        Field::new("target", Kind::Text, "`provider:model` or `provider/model`").required(),
        USER_ID,
    ])
    .answering::<Alias<'_>>()
    .refusing(&[400, 404]);

pub(super) static LIST: Operation =
    Operation::new("list_aliases", "List aliases, those of the configuration among them")
        .answering::<Vec<Alias<'_>>>();

pub(super) static DELETE: Operation =
    Operation::new("delete_alias", "Delete an alias").with_query(&[USER_ID]).refusing(&[404]);

/// A name that stands for a model; `source` is `config` or `stored`.
#[derive(Serialize, JsonSchema)]
struct Alias<'a> {
    name: &'a str,
    target: &'a str,
    source: &'static str,
    user_id: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    created_at: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    updated_at: Option<String>,
}

impl<'a> From<&'a AliasRow> for Alias<'a> {
    fn from(row: &'a AliasRow) -> Self {
        Self {
            name: &row.name,
            target: &row.target,
            source: "stored",
            user_id: row.user_id.as_deref(),
            created_at: Some(fields::iso(row.created_at)),
            updated_at: Some(fields::iso(row.updated_at)),
        }
    }
}

/// What is noted of a change.
pub(super) fn shown(row: &AliasRow) -> Value {
    audit::without(&Alias::from(row), &[])
}

/// By name; of one name the configuration's first, then everybody's, then those of users.
pub(super) async fn list(app: &Standalone) -> Result<Answer, Rejection> {
    let rows = app.store.alias_all().await?;
    let config = app.live();
    let configured = config.aliases.iter().map(|(name, target)| Alias {
        name,
        target,
        source: "config",
        user_id: None,
        created_at: None,
        updated_at: None,
    });
    let mut all: Vec<Alias<'_>> = configured.chain(rows.iter().map(Alias::from)).collect();
    // Stable: what comes first of one name and scope stays first.
    all.sort_by_key(|alias| (alias.name, alias.user_id));
    Answer::json(&all)
}

/// Sets the target of a name, for everybody or for one user.
pub(super) async fn put(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = PUT.read_body(&body);
    let name = fields::required_string(&mut read, "name");
    let target = fields::required_string(&mut read, "target");
    let user_id = fields::string(&mut read, "user_id");
    read.faults.check()?;

    let is_provider = |name: &str| app.local.is_provider(name);
    let target = alias::read_target(&target, is_provider);
    let fault = alias::name_fault(&name, is_provider);
    let shadows = user_id.is_none() && app.local.directory.aliases().is_configured(&name);
    let shadows = shadows.then(|| {
        format!("Alias '{name}' is defined in config.yml; a stored one cannot take its place")
    });
    let taken = app.local.has_policy(&name).then(|| {
        format!("Alias name '{name}' is the name of a routing policy; choose another one")
    });
    let unread = target.as_ref().err().map(String::as_str);
    let faults: Vec<&str> = [fault.as_deref(), unread, shadows.as_deref(), taken.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let target = match target {
        Ok(target) if faults.is_empty() => target,
        _ => return Err(Rejection::new(Code::InvalidValue, faults.join("; "))),
    };
    if let Some(user_id) = &user_id
        && app.store.user_get(user_id).await?.is_none()
    {
        return Err(Rejection::new(Code::NotFound, format!("User '{user_id}' not found")));
    }
    let now = clock::now();
    let id = Uuid::new_v4().to_string();
    let row = AliasRow { id, name, target, user_id, created_at: now, updated_at: now };
    let row = app.store.alias_put(&row).await?;
    app.local
        .directory
        .change_aliases(|aliases| aliases.put(&row.name, row.user_id.as_deref(), &row.target));
    Answer::json(&Alias::from(&row))
}

pub(super) async fn delete(
    app: &Managed<'_>,
    name: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = DELETE.read_query(&query);
    let user_id = fields::string(&mut read, "user_id");
    read.faults.check()?;
    let user_id = user_id.as_deref();
    if app.store.alias_delete(name, user_id).await? {
        app.local.directory.change_aliases(|aliases| aliases.remove(name, user_id));
        return Ok(Answer::nothing());
    }
    let message = match user_id {
        Some(user_id) => format!("Alias '{name}' (scoped to user '{user_id}') not found"),
        None if app.local.directory.aliases().is_configured(name) => {
            format!(
                "Alias '{name}' is defined in config.yml and cannot be deleted through the API."
            )
        }
        None => format!("Alias '{name}' (global) not found"),
    };
    Err(Rejection::new(Code::NotFound, message))
}

/// Prices belong to models: a price of an alias or a routing policy would never be looked up.
///
/// # Errors
/// `invalid_value`.
pub(super) fn refuse_price(app: &Standalone, body: &Map<String, Value>) -> Result<(), Rejection> {
    let name = body.get("model_key").and_then(Value::as_str).unwrap_or_default();
    let message = if let Some(target) = app.local.directory.aliases().any(name) {
        format!("'{name}' is an alias and has no price of its own; set the price of '{target}'")
    } else if app.local.has_policy(name) {
        format!(
            "'{name}' is a routing policy and has no price of its own; set the prices of its targets"
        )
    } else {
        return Ok(());
    };
    Err(Rejection::new(Code::InvalidValue, message))
}
