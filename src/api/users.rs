//! `/v1/users`: who is billed. Counters come from the ledger, which knows what the store will only know in a moment.

use jiff::{SignedDuration, Timestamp};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::Fields;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Answer, Request, budgets, fields};
use crate::app::{App, FLUSH_AT_MOST};
use crate::clock;
use crate::store::{Assignment, StoreError, UserChange, UserRow};

#[derive(Serialize)]
struct User<'a> {
    user_id: &'a str,
    alias: Option<&'a str>,
    spend: f64,
    reserved: f64,
    budget_id: Option<&'a str>,
    budget_started_at: Option<String>,
    next_budget_reset_at: Option<String>,
    blocked: bool,
    created_at: String,
    updated_at: String,
    metadata: &'a Map<String, Value>,
}

fn user<'a>(app: &App, row: &'a UserRow) -> User<'a> {
    let counters = app.local.ledger.counters(&row.user_id);
    let instant = |micros: i64| fields::iso(clock::timestamp(micros));
    let stored_start = row.budget_started_at.map(fields::iso);
    let stored_end = row.next_budget_reset_at.map(fields::iso);
    User {
        user_id: &row.user_id,
        alias: row.alias.as_deref(),
        spend: counters.map_or(row.spend, |now| now.spend).to_f64(),
        reserved: counters.map_or(row.reserved, |now| now.held).to_f64(),
        budget_id: row.budget_id.as_deref(),
        budget_started_at: counters.map_or(stored_start, |now| now.started_us.map(instant)),
        next_budget_reset_at: counters.map_or(stored_end, |now| now.next_reset_us.map(instant)),
        blocked: row.blocked,
        created_at: fields::iso(row.created_at),
        updated_at: fields::iso(row.updated_at),
        metadata: &row.metadata,
    }
}

pub(super) async fn create(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = Fields::new("body", &body);
    let user_id = fields::required_string(&mut read, "user_id");
    let alias = fields::string(&mut read, "alias");
    let budget_id = fields::string(&mut read, "budget_id");
    let blocked = read.boolean("blocked", false).unwrap_or(false);
    let metadata = read.object("metadata", false).unwrap_or_default();
    read.faults.check()?;

    let now = clock::now();
    let budget = match budget_id {
        None => None,
        Some(id) => Some(assignment(app, id, now).await?),
    };
    if app.local.ledger.counters(&user_id).is_some() {
        // A deleted user comes back with nothing spent; what is still on its way to the store was spent before.
        app.local.journal.flush(FLUSH_AT_MOST).await;
    }
    let row = UserRow {
        user_id,
        alias,
        spend: MicroUsd::ZERO,
        reserved: MicroUsd::ZERO,
        budget_started_at: budget.as_ref().map(|budget| budget.started_at),
        next_budget_reset_at: budget.as_ref().and_then(|budget| budget.ends_at),
        budget_id: budget.map(|budget| budget.budget_id),
        blocked,
        created_at: now,
        updated_at: now,
        metadata,
        deleted_at: None,
    };
    let row = match app.store.user_create(&row).await {
        Ok(row) => row,
        Err(StoreError::Conflict(_)) => {
            let message = format!("User with id '{}' already exists", row.user_id);
            return Err(Rejection::new(Code::Conflict, message));
        }
        Err(error) => return Err(error.into()),
    };
    app.local.ledger.put_user(&row);
    Answer::json(&user(app, &row))
}

/// A budget whose period begins now.
async fn assignment(app: &App, id: String, now: Timestamp) -> Result<Assignment, Rejection> {
    let Some(budget) = app.store.budget_get(&id).await? else {
        return Err(budgets::not_found(&id));
    };
    let ends_at = budget
        .budget_duration_sec
        .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok());
    Ok(Assignment { budget_id: id, started_at: now, ends_at })
}

pub(super) async fn list(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = Fields::new("query", &query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.user_list(page).await?;
    Answer::json(&rows.iter().map(|row| user(app, row)).collect::<Vec<_>>())
}

pub(super) async fn get(app: &App, id: &str) -> Result<Answer, Rejection> {
    let row = app.store.user_get(id).await?.ok_or_else(|| not_found(id))?;
    Answer::json(&user(app, &row))
}

pub(super) async fn update(app: &App, id: &str, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = Fields::new("body", &body);
    // Absent keeps, null clears where the field can be null, a value sets.
    let alias = read.has("alias").then(|| fields::string(&mut read, "alias"));
    let budget_id = read.has("budget_id").then(|| fields::string(&mut read, "budget_id"));
    let blocked = read.boolean("blocked", true);
    let metadata = read.object("metadata", true);
    read.faults.check()?;

    if app.store.user_get(id).await?.is_none() {
        return Err(not_found(id));
    }
    let now = clock::now();
    let budget = match budget_id {
        None => None,
        Some(None) => Some(None),
        Some(Some(budget_id)) => Some(Some(assignment(app, budget_id, now).await?)),
    };
    if budget.is_some() {
        // The store takes the end of a period only while it knows that period, and a new one is about to replace it.
        app.local.journal.flush(FLUSH_AT_MOST).await;
    }
    let mut change = UserChange { alias, budget, blocked, metadata, updated_at: None };
    if change != UserChange::default() {
        change.updated_at = Some(now);
    }
    let row = app.store.user_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    app.local.ledger.change_user(&row, &change);
    Answer::json(&user(app, &row))
}

pub(super) async fn delete(app: &App, id: &str) -> Result<Answer, Rejection> {
    if !app.store.user_delete(id, clock::now()).await? {
        return Err(not_found(id));
    }
    app.local.ledger.delete_user(id);
    app.local.directory.deactivate_keys_of(id);
    Ok(Answer::nothing())
}

fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("User with id '{id}' not found"))
}
