//! `/v1/budgets`: caps, and the periods after which they start again.

use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Bounds, Fields};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Answer, Request, fields};
use crate::app::App;
use crate::clock;
use crate::store::{BudgetChange, BudgetRow};

/// The largest amount the databases hold: NUMERIC(18,6).
const MAX_BUDGET_USD: f64 = 999_999_999_999.0;

#[derive(Serialize)]
struct Budget<'a> {
    budget_id: &'a str,
    max_budget: Option<f64>,
    budget_duration_sec: Option<i64>,
    created_at: String,
    updated_at: String,
}

impl<'a> From<&'a BudgetRow> for Budget<'a> {
    fn from(row: &'a BudgetRow) -> Self {
        Self {
            budget_id: &row.budget_id,
            max_budget: row.max_budget.map(MicroUsd::to_f64),
            budget_duration_sec: row.budget_duration_sec,
            created_at: fields::iso(row.created_at),
            updated_at: fields::iso(row.updated_at),
        }
    }
}

pub(super) async fn create(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = Fields::new("body", &body);
    let max_budget = max_budget(&mut read);
    let budget_duration_sec = duration(&mut read);
    read.faults.check()?;
    let now = clock::now();
    let row = BudgetRow {
        budget_id: Uuid::new_v4().to_string(),
        max_budget,
        created_at: now,
        updated_at: now,
        budget_duration_sec,
    };
    app.store.budget_create(&row).await?;
    app.local.ledger.put_budget(&row);
    Answer::json(&Budget::from(&row))
}

fn max_budget(read: &mut Fields<'_>) -> Option<MicroUsd> {
    let usd = read.amount("max_budget")?;
    let amount = MicroUsd::from_f64(usd).filter(|_| usd <= MAX_BUDGET_USD);
    if amount.is_none() {
        let message = format!("Input should be less than or equal to {MAX_BUDGET_USD:.0}");
        read.wrong("max_budget", "less_than_equal", &message, json!({"le": MAX_BUDGET_USD}));
    }
    amount
}

/// As far as the reference's column goes: 68 years.
fn duration(read: &mut Fields<'_>) -> Option<i64> {
    let above_zero = Bounds { at_least: None, above: Some(0), at_most: Some(i64::from(i32::MAX)) };
    read.integer("budget_duration_sec", above_zero)
}

pub(super) async fn list(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = Fields::new("query", &query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.budget_list(page).await?;
    Answer::json(&rows.iter().map(Budget::from).collect::<Vec<_>>())
}

pub(super) async fn get(app: &App, id: &str) -> Result<Answer, Rejection> {
    let row = app.store.budget_get(id).await?.ok_or_else(|| not_found(id))?;
    Answer::json(&Budget::from(&row))
}

pub(super) async fn update(app: &App, id: &str, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = Fields::new("body", &body);
    // Absent keeps, null clears, a value sets.
    let max_budget = read.has("max_budget").then(|| max_budget(&mut read));
    let budget_duration_sec = read.has("budget_duration_sec").then(|| duration(&mut read));
    read.faults.check()?;
    let is_change = max_budget.is_some() || budget_duration_sec.is_some();
    let updated_at = is_change.then(clock::now);
    let change = BudgetChange { max_budget, budget_duration_sec, updated_at };
    let row = app.store.budget_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    app.local.ledger.put_budget(&row);
    Answer::json(&Budget::from(&row))
}

pub(super) async fn delete(app: &App, id: &str) -> Result<Answer, Rejection> {
    if !app.store.budget_delete(id, clock::now()).await? {
        return Err(not_found(id));
    }
    app.local.ledger.remove_budget(id);
    Ok(Answer::nothing())
}

pub(super) fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("Budget with id '{id}' not found"))
}
