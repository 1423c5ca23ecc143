//! `otari budgets`.

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::{Number, Value};

use super::super::client::{Failure, Gateway};
use super::super::table::Column;
use super::{Page, Session, Shown, amount, body, change, id, query, shown, usd};
use crate::period::ALIGNMENTS;

/// `otari budgets`.
#[derive(Clone, Debug, Args)]
pub struct Budgets {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where.
    #[command(flatten)]
    pub gateway: Gateway,
}

/// What can be done with budgets.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a budget
    Create(Fields),
    /// List the budgets, with what is spent under them
    List(Page),
    /// Show one budget
    Show(One),
    /// Change a budget; what is not given stays
    Update(Update),
    /// Delete a budget: its users have none afterwards
    Delete(One),
}

/// A budget, by its id.
#[derive(Clone, Debug, Args)]
pub struct One {
    /// Its id, as `otari budgets list` shows it
    #[arg(value_name = "BUDGET_ID", value_parser = id)]
    pub id: String,
}

/// The fields of a budget.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Fields {
    /// What people call it
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What each of its users may spend in a period
    #[arg(long, value_name = "USD", value_parser = amount, allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget: Option<Number>,
    /// Length of a period, in seconds from the assignment on
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_duration_sec: Option<i64>,
    /// A period of the calendar instead, in UTC
    #[arg(long, value_name = "PERIOD", value_parser = ALIGNMENTS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_alignment: Option<String>,
}

/// The changes of a budget.
#[derive(Clone, Debug, Args)]
pub struct Update {
    /// Which.
    #[command(flatten)]
    pub budget: One,
    /// What to set.
    #[command(flatten)]
    pub fields: Fields,
    /// Empty a field; can be given several times
    #[arg(long, value_name = "FIELD", value_parser = ["name", "max-budget", "budget-duration-sec", "reset-alignment"])]
    pub clear: Vec<String>,
}

const COLUMNS: [(&str, Column, Shown); 8] = [
    ("budget_id", Column::text("ID"), shown),
    ("name", Column::cut("NAME", 32), shown),
    ("max_budget", Column::number("MAX USD"), usd),
    ("budget_duration_sec", Column::number("SECONDS"), shown),
    ("reset_alignment", Column::text("ALIGNED"), shown),
    ("user_count", Column::number("USERS"), shown),
    ("total_spend", Column::number("SPEND USD"), usd),
    ("total_reserved", Column::number("HELD USD"), usd),
];

/// Does it.
pub(in crate::cli) fn run(verb: &Verb, session: &Session<'_>) -> Result<(), Failure> {
    let call =
        |method, path: &[&str], body: Option<&Value>| session.client.call(method, path, &[], body);
    match verb {
        Verb::Create(new) => {
            let body = Value::Object(body(new));
            session.one(&call(Method::POST, &["budgets"], Some(&body))?)
        }
        Verb::List(page) => {
            let answer = session.client.call(Method::GET, &["budgets"], &query(page), None)?;
            session.many(&answer, "budgets", page, &COLUMNS)
        }
        Verb::Show(budget) => session.one(&call(Method::GET, &["budgets", &budget.id], None)?),
        Verb::Update(update) => {
            let body = change(&update.fields, &update.clear)?;
            session.one(&call(Method::PATCH, &["budgets", &update.budget.id], Some(&body))?)
        }
        Verb::Delete(budget) => {
            session.delete(&["budgets", &budget.id], &format!("Budget {} is deleted.", budget.id))
        }
    }
}
