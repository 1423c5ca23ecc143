//! `/v1/users`: who is billed. Counters come from the ledger, which knows what the store will only know in a moment.

use jiff::Timestamp;
use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::audit::{self, Managed};
use super::openapi::Operation;
use super::{Answer, Request, access, budgets, fields};
use crate::app::{FLUSH_AT_MOST, Standalone};
use crate::clock;
use crate::store::{Assignment, StoreError, UserChange, UserRow};

const ALIAS: Field = Field::new("alias", Kind::Text, "What people call them");
const BUDGET_ID: Field =
    Field::new("budget_id", Kind::Text, "Their budget, whose period begins now; null: none");
const BLOCKED: Field = Field::new("blocked", Kind::Flag, "Whether their calls are refused");
const METADATA: Field = Field::new("metadata", Kind::Object, "Kept and shown, not looked at");

pub(super) static CREATE: Operation = Operation::new("create_user", "Make a user")
    .with_body(&[
        Field::new("user_id", Kind::Text, "A deleted one comes back with nothing spent").required(),
        ALIAS,
        BUDGET_ID,
        access::ALLOWED_MODELS,
        BLOCKED.not_null(),
        METADATA.not_null(),
    ])
    .answering::<User<'_>>()
    .refusing(&[400, 404, 409]);

pub(super) static LIST: Operation = Operation::new("list_users", "List users")
    .with_query(&fields::PAGE)
    .answering::<Vec<User<'_>>>();

pub(super) static GET: Operation =
    Operation::new("get_user", "Show a user").answering::<User<'_>>().refusing(&[404]);

pub(super) static UPDATE: Operation = Operation::new("update_user", "Change a user")
    .with_body(&[ALIAS, BUDGET_ID, access::ALLOWED_MODELS, BLOCKED, METADATA])
    .answering::<User<'_>>()
    .refusing(&[400, 404]);

pub(super) static DELETE: Operation =
    Operation::new("delete_user", "Delete a user and switch their keys off; their usage stays")
        .refusing(&[404]);

/// A user with their counters, in USD.
#[derive(Serialize, JsonSchema)]
struct User<'a> {
    user_id: &'a str,
    alias: Option<&'a str>,
    spend: f64,
    reserved: f64,
    budget_id: Option<&'a str>,
    allowed_models: Option<&'a [String]>,
    #[schemars(extend("format" = "date-time"))]
    budget_started_at: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    next_budget_reset_at: Option<String>,
    blocked: bool,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
    metadata: &'a Map<String, Value>,
}

impl<'a> User<'a> {
    fn new(row: &'a UserRow, held: MicroUsd) -> Self {
        Self {
            user_id: &row.user_id,
            alias: row.alias.as_deref(),
            spend: row.spend.to_f64(),
            reserved: held.to_f64(),
            budget_id: row.budget_id.as_deref(),
            allowed_models: row.allowed_models.as_deref(),
            budget_started_at: row.budget_started_at.map(fields::iso),
            next_budget_reset_at: row.next_budget_reset_at.map(fields::iso),
            blocked: row.blocked,
            created_at: fields::iso(row.created_at),
            updated_at: fields::iso(row.updated_at),
            metadata: &row.metadata,
        }
    }
}

/// What is noted of a change: the user, without what they spend.
pub(super) fn shown(row: &UserRow) -> Value {
    audit::without(&User::new(row, MicroUsd::ZERO), &["spend", "reserved"])
}

/// What is held for a user now, by calls here and elsewhere and by batches. It is asked before the spend is: what is
/// settled in between counts twice for once, and not as if it had never been.
async fn held(app: &Standalone, user_id: &str) -> Result<MicroUsd, Rejection> {
    let here = app.local.ledger.counters(user_id).map_or(MicroUsd::ZERO, |now| now.held);
    match app.store.shared() {
        // Others spend from the same budget: what they hold is what they last published.
        Some(shared) => Ok(here + shared.held_elsewhere(&Scope::User(user_id.into())).await?),
        None => Ok(here),
    }
}

/// A user with counters as they are now. `held`: see [`held`].
fn user<'a>(app: &Standalone, row: &'a UserRow, held: MicroUsd) -> User<'a> {
    let mut user = User::new(row, held);
    if !app.local.ledger.is_shared()
        && let Some(now) = app.local.ledger.counters(&row.user_id)
    {
        let instant = |micros: i64| fields::iso(clock::timestamp(micros));
        user.spend = now.spend.to_f64();
        user.budget_started_at = now.started_us.map(instant);
        user.next_budget_reset_at = now.next_reset_us.map(instant);
    }
    user
}

/// Where budgets are shared, the whole spend stands in the database alone: what this gateway settled a moment ago must
/// be there before it is read.
async fn catch_up(app: &Standalone) {
    if app.local.ledger.is_shared() {
        app.local.journal.flush(FLUSH_AT_MOST).await;
    }
}

pub(super) async fn create(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let user_id = fields::required_string(&mut read, "user_id");
    let alias = fields::string(&mut read, "alias");
    let budget_id = fields::string(&mut read, "budget_id");
    let allowed_models = access::texts(&mut read, "allowed_models");
    let blocked = read.boolean("blocked", false).unwrap_or(false);
    let metadata = read.object("metadata", false).unwrap_or_default();
    read.faults.check()?;

    let allowed_models = access::list(app, allowed_models)?.map(|list| list.entries());
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
        allowed_models,
        blocked,
        created_at: now,
        updated_at: now,
        metadata,
        deleted_at: None,
        spend_since: None,
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
    app.local.directory.put_user(&row);
    let held = held(app, &row.user_id).await?;
    Answer::json(&user(app, &row, held))
}

/// A budget whose period begins now.
async fn assignment(app: &Standalone, id: String, now: Timestamp) -> Result<Assignment, Rejection> {
    let Some(budget) = app.store.budget_get(&id).await? else {
        return Err(budgets::not_found(&id));
    };
    let ends_at = budget.period().and_then(|period| period.end(now));
    Ok(Assignment { budget_id: id, started_at: now, ends_at })
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    catch_up(app).await;
    let rows = app.store.user_list(page).await?;
    let mut users = Vec::with_capacity(rows.len());
    for row in &rows {
        users.push(user(app, row, held(app, &row.user_id).await?));
    }
    Answer::json(&users)
}

pub(super) async fn get(app: &Standalone, id: &str) -> Result<Answer, Rejection> {
    let held = held(app, id).await?;
    catch_up(app).await;
    let row = app.store.user_get(id).await?.ok_or_else(|| not_found(id))?;
    Answer::json(&user(app, &row, held))
}

pub(super) async fn update(
    app: &Managed<'_>,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = UPDATE.read_body(&body);
    // Absent keeps, null clears where the field can be null, a value sets.
    let alias = read.has("alias").then(|| fields::string(&mut read, "alias"));
    let budget_id = read.has("budget_id").then(|| fields::string(&mut read, "budget_id"));
    let allowed_models =
        read.has("allowed_models").then(|| access::texts(&mut read, "allowed_models"));
    let blocked = read.boolean("blocked", true);
    let metadata = read.object("metadata", true);
    read.faults.check()?;

    if app.store.user_get(id).await?.is_none() {
        return Err(not_found(id));
    }
    let allowed_models = allowed_models.map(|texts| access::list(app, texts)).transpose()?;
    let allowed_models = allowed_models.map(|list| list.map(|list| list.entries()));
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
    catch_up(app).await;
    let mut change =
        UserChange { alias, budget, allowed_models, blocked, metadata, updated_at: None };
    if change != UserChange::default() {
        change.updated_at = Some(now);
    }
    let row = app.store.user_update(id, &change).await?.ok_or_else(|| not_found(id))?;
    app.local.ledger.change_user(&row, &change);
    app.local.directory.put_user(&row);
    if change.budget.is_some() {
        // What was granted under the old budget is not the new one's.
        app.local.leases.give_back(&Scope::User(id.into())).await?;
    }
    let held = held(app, &row.user_id).await?;
    Answer::json(&user(app, &row, held))
}

pub(super) async fn delete(app: &Managed<'_>, id: &str) -> Result<Answer, Rejection> {
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
