//! `otari keys`.

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::client::{Failure, Gateway};
use super::super::table::Column;
use super::{
    Page, Session, Shown, body, change, id, instant, object, query, remark, shown, yes_no,
};

/// `otari keys`.
#[derive(Clone, Debug, Args)]
pub struct Keys {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where.
    #[command(flatten)]
    pub gateway: Gateway,
}

/// What can be done with API keys.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a key; its secret is printed this once
    Create(New),
    /// List the keys, without their secrets
    List(Page),
    /// Show one key
    Show(One),
    /// Change a key; what is not given stays
    Update(Update),
    /// Give a key a new secret; the old one ends at once
    Rotate(One),
    /// Switch a key off: its calls are refused, its usage stays
    Revoke(Revoke),
}

/// A key, by its id.
#[derive(Clone, Debug, Args)]
pub struct One {
    /// Its id, as `otari keys list` shows it
    #[arg(value_name = "KEY_ID", value_parser = id)]
    pub id: String,
}

/// A key to revoke.
#[derive(Clone, Debug, Args)]
pub struct Revoke {
    /// Which.
    #[command(flatten)]
    pub key: One,
    /// Remove the key altogether
    #[arg(long)]
    pub delete: bool,
}

/// The fields of a new key.
#[derive(Clone, Debug, Args, Serialize)]
pub struct New {
    /// What people call it
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// Who pays, made when unknown [default: a user of its own]
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// When it ends, such as 2030-01-01T00:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What it may call, such as openai:gpt-4o-mini,groq:*; "" is nothing [default: as its user]
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_models: Option<Vec<String>>,
    /// Record its calls and count them against no budget
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exclude_from_budget: bool,
    /// Refuse requests that name another user; =false permits them [default: as the setting]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_user_mismatch: Option<bool>,
    /// A JSON object of your own
    #[arg(long, value_name = "JSON", value_parser = object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// The changes of a key.
#[derive(Clone, Debug, Args)]
pub struct Update {
    /// Which.
    #[command(flatten)]
    pub key: One,
    /// What to set.
    #[command(flatten)]
    pub fields: Changes,
    /// Empty a field; can be given several times
    #[arg(long, value_name = "FIELD", value_parser = ["key-name", "expires-at", "allowed-models", "reject-user-mismatch"])]
    pub clear: Vec<String>,
}

/// The fields of a key that can be changed.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Changes {
    /// What people call it
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// Switch it on, or off with =false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_active: Option<bool>,
    /// When it ends, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What it may call, such as openai:gpt-4o-mini,groq:*; "" is nothing
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_models: Option<Vec<String>>,
    /// Refuse requests that name another user; =false permits them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject_user_mismatch: Option<bool>,
    /// A JSON object of your own
    #[arg(long, value_name = "JSON", value_parser = object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

const COLUMNS: [(&str, Column, Shown); 7] = [
    ("id", Column::text("ID"), shown),
    ("key_prefix", Column::text("PREFIX"), shown),
    ("key_name", Column::cut("NAME", 32), shown),
    ("user_id", Column::text("USER"), shown),
    ("is_active", Column::text("ACTIVE"), yes_no),
    ("expires_at", Column::text("EXPIRES"), instant),
    ("last_used_at", Column::text("LAST USED"), instant),
];

/// Does it.
pub(in crate::cli) fn run(verb: &Verb, session: &Session<'_>) -> Result<(), Failure> {
    let call =
        |method, path: &[&str], body: Option<&Value>| session.client.call(method, path, &[], body);
    match verb {
        Verb::Create(new) => {
            let body = Value::Object(body(new));
            secret(session, &call(Method::POST, &["keys"], Some(&body))?)
        }
        Verb::Rotate(key) => {
            secret(session, &call(Method::POST, &["keys", &key.id, "rotate"], None)?)
        }
        Verb::List(page) => {
            let answer = session.client.call(Method::GET, &["keys"], &query(page), None)?;
            session.many(&answer, "keys", page, &COLUMNS)
        }
        Verb::Show(key) => session.one(&call(Method::GET, &["keys", &key.id], None)?),
        Verb::Update(update) => {
            let body = change(&update.fields, &update.clear)?;
            session.one(&call(Method::PATCH, &["keys", &update.key.id], Some(&body))?)
        }
        Verb::Revoke(Revoke { key, delete: true }) => {
            session.delete(&["keys", &key.id], &format!("Key {} is deleted.", key.id))
        }
        Verb::Revoke(Revoke { key, delete: false }) => {
            let body = json!({"is_active": false});
            let answer = call(Method::PATCH, &["keys", &key.id], Some(&body))?;
            session.done(&answer, &format!("Key {} is revoked.", key.id))
        }
    }
}

/// Shows a key with its secret.
fn secret(session: &Session<'_>, answer: &super::Answer) -> Result<(), Failure> {
    session.one(answer)?;
    remark("The key is shown this once: keep it now.");
    Ok(())
}
