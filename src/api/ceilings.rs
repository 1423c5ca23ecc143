//! `/v1/scoped-budgets`: ceilings over API keys, beside the budgets of their users.

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Fields, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::Managed;
use super::openapi::Operation;
use super::{Answer, Request, budgets, fields};
use crate::app::{FLUSH_AT_MOST, Standalone};
use crate::clock;
use crate::store::{Assignment, BudgetRow, CeilingChange, CeilingFilter, CeilingRow, StoreError};

/// What a ceiling can be over, and what people call it. Only keys exist here.
const SCOPES: [(&str, &str); 5] = [
    ("organization", "Organization"),
    ("workspace", "Workspace"),
    ("workspace_member", "Workspace membership"),
    ("org_member", "Organization membership"),
    (API_TOKEN, "API key"),
];
const API_TOKEN: &str = "api_token";
const MAX_SCOPE_ID_CHARS: usize = 255;
const MAX_NAME_CHARS: usize = 200;

const SCOPE_WORDS: [&str; 5] = [SCOPES[0].0, SCOPES[1].0, SCOPES[2].0, SCOPES[3].0, SCOPES[4].0];

const NAME: Field = Field::new("name", Kind::Bounded(0, MAX_NAME_CHARS), "What people call it");

pub(super) static CREATE: Operation =
    Operation::new("create_scoped_budget", "Put a ceiling over an API key")
        .with_body(&[
            Field::new("scope_type", Kind::Choice(&SCOPE_WORDS), "Only `api_token` exists here")
                .required(),
            Field::new("scope_id", Kind::Bounded(1, MAX_SCOPE_ID_CHARS), "The key's id").required(),
            Field::new(
                "provider_key_id",
                Kind::Text,
                "The provider instance it is for; null: all of them together",
            ),
            Field::new("budget_id", Kind::Text, "The cap and the period").required(),
            NAME,
        ])
        .answering::<Ceiling<'_>>()
        .refusing(&[404, 409]);

pub(super) static LIST: Operation = Operation::new("list_scoped_budgets", "List ceilings")
    .with_query(&[
        Field::new("scope_type", Kind::Text, "Only those over this kind"),
        Field::new("scope_id", Kind::Text, "Only those over this one"),
        fields::PAGE[0],
        fields::PAGE[1],
    ])
    .answering::<Vec<Ceiling<'_>>>();

pub(super) static GET: Operation = Operation::new("get_scoped_budget", "Show a ceiling")
    .answering::<Ceiling<'_>>()
    .refusing(&[404]);

pub(super) static UPDATE: Operation = Operation::new("update_scoped_budget", "Change a ceiling")
    .with_body(&[Field::new("budget_id", Kind::Text, "Another cap, whose period begins now"), NAME])
    .answering::<Ceiling<'_>>()
    .refusing(&[404]);

pub(super) static DELETE: Operation =
    Operation::new("delete_scoped_budget", "Delete a ceiling").refusing(&[404]);

/// A ceiling, with what is spent and held under it, in USD.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ScopedBudget")]
struct Ceiling<'a> {
    id: &'a str,
    scope_type: &'a str,
    scope_id: &'a str,
    provider_key_id: Option<&'a str>,
    budget_id: &'a str,
    name: Option<&'a str>,
    max_budget: Option<f64>,
    current_spend: f64,
    reserved_spend: f64,
    budget_duration_sec: Option<i64>,
    reset_alignment: Option<&'a str>,
    #[schemars(extend("format" = "date-time"))]
    period_start: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    period_end: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
}

/// What is noted of a change: the ceiling, without what is its budget's or spent under it.
pub(super) fn shown(row: &CeilingRow) -> Value {
    json!({
        "id": row.id,
        "scope_type": row.scope_type,
        "scope_id": row.scope_id,
        "provider_key_id": row.provider,
        "budget_id": row.budget_id,
        "name": row.name,
        "period_start": row.period_start.map(fields::iso),
        "period_end": row.period_end.map(fields::iso),
        "created_at": fields::iso(row.created_at),
        "updated_at": fields::iso(row.updated_at),
    })
}

/// What is held under a ceiling now, by calls here and elsewhere and by batches. It is asked before the spend is: what is
/// settled in between counts twice for once, and not as if it had never been.
async fn held(app: &Standalone, id: &str) -> Result<MicroUsd, Rejection> {
    let here = app.local.ledger.ceiling(id).map_or(MicroUsd::ZERO, |now| now.held);
    match app.store.shared() {
        Some(shared) => Ok(here + shared.held_elsewhere(&Scope::Ceiling(id.into())).await?),
        None => Ok(here),
    }
}

/// A ceiling as callers see it. `held`: see [`held`].
async fn ceiling(
    app: &Standalone,
    row: &CeilingRow,
    held: MicroUsd,
) -> Result<serde_json::Value, Rejection> {
    let budget: BudgetRow = app
        .store
        .budget_get(&row.budget_id)
        .await?
        .ok_or_else(|| budgets::not_found(&row.budget_id))?;
    serde_json::to_value(Ceiling {
        id: &row.id,
        scope_type: &row.scope_type,
        scope_id: &row.scope_id,
        provider_key_id: row.provider.as_deref(),
        budget_id: &row.budget_id,
        name: row.name.as_deref(),
        max_budget: budget.max_budget.map(MicroUsd::to_f64),
        current_spend: row.current_spend.to_f64(),
        reserved_spend: held.to_f64(),
        budget_duration_sec: budget.budget_duration_sec,
        reset_alignment: budget.reset_alignment.as_deref(),
        period_start: row.period_start.map(fields::iso),
        period_end: row.period_end.map(fields::iso),
        created_at: fields::iso(row.created_at),
        updated_at: fields::iso(row.updated_at),
    })
    .map_err(Rejection::internal)
}

pub(super) async fn create(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let scope_type = scope_type(&mut read);
    let scope_id = fields::required_string(&mut read, "scope_id");
    if body.contains_key("scope_id") && read.faults.is_empty() {
        bounded(&mut read, "scope_id", &scope_id, 1, MAX_SCOPE_ID_CHARS);
    }
    let provider = fields::string(&mut read, "provider_key_id");
    let budget_id = fields::required_string(&mut read, "budget_id");
    let name = name(&mut read);
    read.faults.check()?;

    let is_there = scope_type == API_TOKEN && app.store.key_get(&scope_id).await?.is_some();
    if !is_there {
        let subject = SCOPES.iter().find(|(word, _)| *word == scope_type).map_or("Scope", |s| s.1);
        let message = format!("{subject} '{scope_id}' not found");
        return Err(Rejection::new(Code::NotFound, message));
    }
    let assignment = assignment(app, budget_id).await?;
    let row = CeilingRow {
        id: Uuid::new_v4().to_string(),
        scope_type,
        scope_id,
        provider,
        budget_id: assignment.budget_id,
        name,
        current_spend: MicroUsd::ZERO,
        period_start: Some(assignment.started_at),
        period_end: assignment.ends_at,
        created_at: assignment.started_at,
        updated_at: assignment.started_at,
        spend_since: None,
    };
    match app.store.ceiling_create(&row).await {
        Ok(()) => {}
        Err(StoreError::Conflict(_)) => {
            let message = "A budget already exists for this scope and provider";
            return Err(Rejection::new(Code::Conflict, message));
        }
        Err(error) => return Err(error.into()),
    }
    app.local.ledger.put_ceiling(&row);
    let held = held(app, &row.id).await?;
    Answer::json(&ceiling(app, &row, held).await?)
}

fn scope_type(read: &mut Fields<'_>) -> String {
    let sent = fields::required_string(read, "scope_type");
    if read.faults.is_empty() && !SCOPES.iter().any(|(word, _)| *word == sent) {
        let expected =
            "'organization', 'workspace', 'workspace_member', 'org_member' or 'api_token'";
        let message = format!("Input should be {expected}");
        read.wrong("scope_type", "literal_error", &message, json!({"expected": expected}));
    }
    sent
}

fn name(read: &mut Fields<'_>) -> Option<String> {
    let name = fields::string(read, "name")?;
    bounded(read, "name", &name, 0, MAX_NAME_CHARS);
    Some(name)
}

fn bounded(read: &mut Fields<'_>, field: &str, text: &str, least: usize, most: usize) {
    let chars = text.chars().count();
    if chars < least {
        let message = format!("String should have at least {least} character");
        read.wrong(field, "string_too_short", &message, json!({"min_length": least}));
    } else if chars > most {
        let message = format!("String should have at most {most} characters");
        read.wrong(field, "string_too_long", &message, json!({"max_length": most}));
    }
}

/// A period of the budget that begins now.
async fn assignment(app: &Standalone, budget_id: String) -> Result<Assignment, Rejection> {
    let Some(budget) = app.store.budget_get(&budget_id).await? else {
        let message = format!("Budget '{budget_id}' not found");
        return Err(Rejection::new(Code::NotFound, message));
    };
    let now = clock::now();
    let ends_at = budget.period().and_then(|period| period.end(now));
    Ok(Assignment { budget_id, started_at: now, ends_at })
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let filter = CeilingFilter {
        scope_type: fields::string(&mut read, "scope_type"),
        scope_id: fields::string(&mut read, "scope_id"),
    };
    let page = fields::page(&mut read);
    read.faults.check()?;
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let mut ceilings = Vec::new();
    for row in app.store.ceiling_list(&filter, page).await? {
        let held = held(app, &row.id).await?;
        ceilings.push(ceiling(app, &row, held).await?);
    }
    Answer::json(&ceilings)
}

pub(super) async fn get(app: &Standalone, id: &str) -> Result<Answer, Rejection> {
    let held = held(app, id).await?;
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let row = app.store.ceiling_get(id).await?.ok_or_else(|| not_found(id))?;
    Answer::json(&ceiling(app, &row, held).await?)
}

pub(super) async fn update(
    app: &Managed<'_>,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = UPDATE.read_body(&body);
    let budget_id = fields::string(&mut read, "budget_id");
    let name = read.has("name").then(|| name(&mut read));
    read.faults.check()?;
    if app.store.ceiling_get(id).await?.is_none() {
        return Err(not_found(id));
    }
    let budget = match budget_id {
        Some(budget_id) => Some(assignment(app, budget_id).await?),
        None => None,
    };
    app.local.journal.flush(FLUSH_AT_MOST).await;
    let mut change = CeilingChange { budget, name, updated_at: None };
    if change != CeilingChange::default() {
        change.updated_at = Some(clock::now());
    }
    let row = app.store.ceiling_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    if app.local.ledger.put_ceiling(&row) {
        let scope = Scope::Ceiling(id.into());
        app.local.leases.give_back(&scope).await?;
    }
    let held = held(app, &row.id).await?;
    Answer::json(&ceiling(app, &row, held).await?)
}

pub(super) async fn delete(app: &Managed<'_>, id: &str) -> Result<Answer, Rejection> {
    if !app.store.ceiling_delete(id).await? {
        return Err(not_found(id));
    }
    app.local.ledger.remove_ceiling(id);
    Ok(Answer::nothing())
}

fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("Scoped budget with id '{id}' not found"))
}
