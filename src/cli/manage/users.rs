//! `otari users`.

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::client::{Failure, Gateway};
use super::super::table::Column;
use super::{Page, Session, Shown, body, change, id, models, object, query, shown, usd, yes_no};

/// `otari users`.
#[derive(Clone, Debug, Args)]
pub struct Users {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where.
    #[command(flatten)]
    pub gateway: Gateway,
}

/// What can be done with users.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a user
    Create(New),
    /// List the users, with what they have spent
    List(Page),
    /// Show one user
    Show(One),
    /// Change a user; what is not given stays
    Update(Update),
    /// Delete a user: their keys end, their usage stays
    Delete(One),
}

/// A user, by their id.
#[derive(Clone, Debug, Args)]
pub struct One {
    /// Their id
    #[arg(value_name = "USER_ID", value_parser = id)]
    pub id: String,
}

/// A new user.
#[derive(Clone, Debug, Args, Serialize)]
pub struct New {
    /// Their id, of your choice
    #[arg(long, value_name = "ID")]
    pub user_id: String,
    /// What else is given.
    #[command(flatten)]
    #[serde(flatten)]
    pub fields: Fields,
}

/// The fields of a user.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Fields {
    /// What people call them
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The budget that caps them; a new one begins its period now
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_id: Option<String>,
    /// What they may call, such as openai:gpt-4o-mini,groq:*; "" is nothing
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_models: Option<Vec<String>>,
    /// Refuse all of their calls; =false lets them in
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<bool>,
    /// A JSON object of your own
    #[arg(long, value_name = "JSON", value_parser = object)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// The changes of a user.
#[derive(Clone, Debug, Args)]
pub struct Update {
    /// Which.
    #[command(flatten)]
    pub user: One,
    /// What to set.
    #[command(flatten)]
    pub fields: Fields,
    /// Empty a field; can be given several times
    #[arg(long, value_name = "FIELD", value_parser = ["alias", "budget-id", "allowed-models"])]
    pub clear: Vec<String>,
}

const COLUMNS: [(&str, Column, Shown); 7] = [
    ("user_id", Column::text("ID"), shown),
    ("alias", Column::cut("ALIAS", 32), shown),
    ("budget_id", Column::text("BUDGET"), shown),
    ("spend", Column::number("SPEND USD"), usd),
    ("reserved", Column::number("HELD USD"), usd),
    ("blocked", Column::text("BLOCKED"), yes_no),
    ("allowed_models", Column::cut("MODELS", 40), models),
];

/// Does it.
pub(in crate::cli) fn run(verb: &Verb, session: &Session<'_>) -> Result<(), Failure> {
    let call =
        |method, path: &[&str], body: Option<&Value>| session.client.call(method, path, &[], body);
    match verb {
        Verb::Create(new) => {
            let body = Value::Object(body(new));
            session.one(&call(Method::POST, &["users"], Some(&body))?)
        }
        Verb::List(page) => {
            let answer = session.client.call(Method::GET, &["users"], &query(page), None)?;
            session.many(&answer, "users", page, &COLUMNS)
        }
        Verb::Show(user) => session.one(&call(Method::GET, &["users", &user.id], None)?),
        Verb::Update(update) => {
            let body = change(&update.fields, &update.clear)?;
            session.one(&call(Method::PATCH, &["users", &update.user.id], Some(&body))?)
        }
        Verb::Delete(user) => {
            session.delete(&["users", &user.id], &format!("User {} is deleted.", user.id))
        }
    }
}
