//! `/v1/budgets`: caps, and the periods after which they start again.

use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Bounds, Field, Fields, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{self, Managed};
use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::{FLUSH_AT_MOST, Standalone};
use crate::clock;
use crate::period::ALIGNMENTS;
use crate::store::{BudgetChange, BudgetRow, BudgetTotals, ResetRow, StoreError};

/// The largest amount the databases hold: NUMERIC(18,6).
const MAX_BUDGET_USD: f64 = 999_999_999_999.0;

/// As far as the reference's column goes: 68 years.
const SECONDS: Bounds<i64> =
    Bounds { at_least: None, above: Some(0), at_most: Some(i32::MAX as i64) };

const FIELDS: [Field; 4] = [
    Field::new("name", Kind::Text, "What people call it"),
    Field::new("max_budget", Kind::Amount(MAX_BUDGET_USD), "The cap in USD; null: none"),
    Field::new("budget_duration_sec", Kind::Whole(SECONDS), "A period in seconds; null: no end"),
    Field::new(
        "reset_alignment",
        Kind::Choice(&ALIGNMENTS),
        "A period of the calendar, in UTC, instead of a duration",
    ),
];

pub(super) static CREATE: Operation = Operation::new("create_budget", "Make a budget")
    .with_body(&FIELDS)
    .answering::<Budget<'_>>()
    .refusing(&[400]);

pub(super) static LIST: Operation = Operation::new("list_budgets", "List budgets")
    .with_query(&fields::PAGE)
    .answering::<Vec<Budget<'_>>>();

pub(super) static GET: Operation =
    Operation::new("get_budget", "Show a budget").answering::<Budget<'_>>().refusing(&[404]);

pub(super) static UPDATE: Operation = Operation::new("update_budget", "Change a budget")
    .with_body(&FIELDS)
    .answering::<Budget<'_>>()
    .refusing(&[400, 404]);

pub(super) static DELETE: Operation =
    Operation::new("delete_budget", "Delete a budget; its users have none from then on")
        .refusing(&[404, 409]);

pub(super) static RESETS: Operation =
    Operation::new("list_budget_resets", "List the periods that ended under a budget")
        .with_query(&fields::PAGE)
        .answering::<Vec<Reset>>()
        .refusing(&[404]);

/// A budget, with what is spent and held under it, in USD.
#[derive(Serialize, JsonSchema)]
struct Budget<'a> {
    budget_id: &'a str,
    name: Option<&'a str>,
    max_budget: Option<f64>,
    budget_duration_sec: Option<i64>,
    reset_alignment: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
    user_count: i64,
    total_spend: f64,
    total_reserved: f64,
}

/// A period that ended.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BudgetReset")]
struct Reset {
    id: i64,
    user_id: Option<String>,
    budget_id: String,
    previous_spend: f64,
    #[schemars(extend("format" = "date-time"))]
    reset_at: String,
    #[schemars(extend("format" = "date-time"))]
    next_reset_at: Option<String>,
}

fn budget<'a>(row: &'a BudgetRow, totals: BudgetTotals, held: MicroUsd) -> Budget<'a> {
    Budget {
        budget_id: &row.budget_id,
        name: row.name.as_deref(),
        max_budget: row.max_budget.map(MicroUsd::to_f64),
        budget_duration_sec: row.budget_duration_sec,
        reset_alignment: row.reset_alignment.as_deref(),
        created_at: fields::iso(row.created_at),
        updated_at: fields::iso(row.updated_at),
        user_count: totals.users,
        total_spend: totals.spend.to_f64(),
        total_reserved: (totals.held + held).to_f64(),
    }
}

/// What is noted of a change: the budget, without who spends under it.
pub(super) fn shown(row: &BudgetRow) -> Value {
    let shown = budget(row, BudgetTotals::default(), MicroUsd::ZERO);
    audit::without(&shown, &["user_count", "total_spend", "total_reserved"])
}

/// Budgets with what is spent and held under them now. What is held is asked first: what is settled in between counts
/// twice for once, and not as if it had never been.
async fn with_totals(
    app: &Standalone,
    rows: &[BudgetRow],
) -> Result<Vec<(BudgetTotals, MicroUsd)>, Rejection> {
    let ids: Vec<&str> = rows.iter().map(|row| row.budget_id.as_str()).collect();
    let held = app.local.ledger.held_under(&ids);
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
    let totals = app.store.budget_totals(&ids).await?;
    Ok(totals.into_iter().zip(held).collect())
}

async fn answer(app: &Standalone, row: &BudgetRow) -> Result<Answer, Rejection> {
    let totals = with_totals(app, std::slice::from_ref(row)).await?;
    let (totals, held) = totals.first().copied().unwrap_or_default();
    Answer::json(&budget(row, totals, held))
}

pub(super) async fn create(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let name = fields::string(&mut read, "name");
    let max_budget = max_budget(&mut read);
    let budget_duration_sec = duration(&mut read);
    let reset_alignment = alignment(&mut read);
    read.faults.check()?;
    one_period(budget_duration_sec, reset_alignment.as_deref())?;
    let now = clock::now();
    let row = BudgetRow {
        budget_id: Uuid::new_v4().to_string(),
        max_budget,
        created_at: now,
        updated_at: now,
        budget_duration_sec,
        name,
        reset_alignment,
    };
    app.store.budget_create(&row).await?;
    app.local.ledger.put_budget(&row);
    Answer::json(&budget(&row, BudgetTotals::default(), MicroUsd::ZERO))
}

fn alignment(read: &mut Fields<'_>) -> Option<String> {
    let alignment = fields::string(read, "reset_alignment")?;
    if !ALIGNMENTS.contains(&alignment.as_str()) {
        let message = "Input should be 'calendar_day', 'calendar_week' or 'calendar_month'";
        let expected = "'calendar_day', 'calendar_week' or 'calendar_month'";
        read.wrong("reset_alignment", "literal_error", message, json!({"expected": expected}));
    }
    Some(alignment)
}

/// A period has one end.
fn one_period(duration: Option<i64>, alignment: Option<&str>) -> Result<(), Rejection> {
    if duration.is_none() || alignment.is_none() {
        return Ok(());
    }
    let message = "A budget resets on budget_duration_sec or on reset_alignment, not both";
    Err(Rejection::new(Code::InvalidValue, message))
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

fn duration(read: &mut Fields<'_>) -> Option<i64> {
    read.integer("budget_duration_sec", SECONDS)
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.budget_list(page).await?;
    let totals = with_totals(app, &rows).await?;
    let budgets = rows.iter().zip(totals).map(|(row, (totals, held))| budget(row, totals, held));
    Answer::json(&budgets.collect::<Vec<_>>())
}

pub(super) async fn get(app: &Standalone, id: &str) -> Result<Answer, Rejection> {
    let row = app.store.budget_get(id).await?.ok_or_else(|| not_found(id))?;
    answer(app, &row).await
}

/// The periods that ended under a budget.
pub(super) async fn resets(
    app: &Standalone,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = RESETS.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    if app.store.budget_get(id).await?.is_none() {
        return Err(not_found(id));
    }
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let rows = app.store.budget_resets(id, page).await?;
    let reset = |row: &ResetRow| Reset {
        id: row.id,
        user_id: row.user_id.clone(),
        budget_id: row.budget_id.clone(),
        previous_spend: row.previous_spend.to_f64(),
        reset_at: fields::iso(row.reset_at),
        next_reset_at: row.next_reset_at.map(fields::iso),
    };
    Answer::json(&rows.iter().map(reset).collect::<Vec<_>>())
}

pub(super) async fn update(
    app: &Managed<'_>,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = UPDATE.read_body(&body);
    // Absent keeps, null clears, a value sets.
    let name = read.has("name").then(|| fields::string(&mut read, "name"));
    let max_budget = read.has("max_budget").then(|| max_budget(&mut read));
    let budget_duration_sec = read.has("budget_duration_sec").then(|| duration(&mut read));
    let reset_alignment = read.has("reset_alignment").then(|| alignment(&mut read));
    read.faults.check()?;
    let before = app.store.budget_get(id).await?.ok_or_else(|| not_found(id))?;
    one_period(
        budget_duration_sec.unwrap_or(before.budget_duration_sec),
        reset_alignment.as_ref().unwrap_or(&before.reset_alignment).as_deref(),
    )?;
    let change =
        BudgetChange { max_budget, budget_duration_sec, name, reset_alignment, updated_at: None };
    let updated_at = (change != BudgetChange::default()).then(clock::now);
    let change = BudgetChange { updated_at, ..change };
    let row = app.store.budget_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    app.local.ledger.put_budget(&row);
    for scope in app.local.ledger.leased_under(id) {
        // What was granted under the old cap is granted again under the new one.
        app.local.leases.give_back(&scope).await?;
    }
    answer(app, &row).await
}

pub(super) async fn delete(app: &Managed<'_>, id: &str) -> Result<Answer, Rejection> {
    match app.store.budget_delete(id, clock::now()).await {
        Ok(true) => {}
        Ok(false) => return Err(not_found(id)),
        Err(StoreError::Conflict(_)) => {
            let message = format!(
                "Budget with id '{id}' is in use by a scoped budget. Delete that one, or give it another budget, first"
            );
            return Err(Rejection::new(Code::Conflict, message));
        }
        Err(error) => return Err(error.into()),
    }
    app.local.ledger.remove_budget(id);
    Ok(Answer::nothing())
}

pub(super) fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("Budget with id '{id}' not found"))
}
