//! `/v1/pricing`: what models cost, from when on.

use otari_filters::rejection::{Code, Rejection};
use otari_filters::resolve;
use otari_filters::validate::{Field, Fields, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::audit::{self, Managed};
use super::openapi::Operation;
use super::{Answer, Request, aliases, fields};
use crate::app::Standalone;
use crate::clock;
use crate::store::{PriceRow, StoreError};

mod rates;

pub(super) static CREATE: Operation = Operation::new("set_price", "Set a price of a model")
    .with_body(&[
        Field::new("model_key", Kind::Text, "`provider:model` or `provider/model`").required(),
        rates::FIELDS[0].required(),
        rates::FIELDS[1].required(),
        rates::FIELDS[2],
        rates::FIELDS[3],
        rates::FIELDS[4],
        rates::TIERS_FIELD,
        Field::new("effective_at", Kind::Instant, "From when on it holds; null: from now on"),
    ])
    .answering::<Pricing<'_>>()
    .refusing(&[400]);

pub(super) static LIST: Operation = Operation::new("list_prices", "List all prices")
    .with_query(&fields::PAGE)
    .answering::<Vec<Pricing<'_>>>();

pub(super) static GET: Operation = Operation::new("get_price", "Show a model's price")
    .with_query(&[Field::new("as_of", Kind::Instant, "The price at this instant; absent: now")])
    .answering::<Pricing<'_>>()
    .refusing(&[404]);

pub(super) static HISTORY: Operation =
    Operation::new("list_price_history", "List all prices of a model, newest first")
        .answering::<Vec<Pricing<'_>>>()
        .refusing(&[404]);

pub(super) static DELETE: Operation = Operation::new("delete_price", "Delete a model's prices")
    .with_query(&[Field::new("effective_at", Kind::Instant, "Only the one from this instant on")])
    .refusing(&[404]);

/// A price in USD per million tokens, from an instant on.
#[derive(Serialize, JsonSchema)]
struct Pricing<'a> {
    model_key: &'a str,
    #[schemars(extend("format" = "date-time"))]
    effective_at: String,
    #[serde(flatten)]
    rates: rates::Shown,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
}

impl<'a> From<&'a PriceRow> for Pricing<'a> {
    fn from(row: &'a PriceRow) -> Self {
        Self {
            model_key: &row.model_key,
            effective_at: fields::iso(row.effective_at),
            rates: (&row.prices).into(),
            created_at: fields::iso(row.created_at),
            updated_at: fields::iso(row.updated_at),
        }
    }
}

/// What is noted of a change.
pub(super) fn shown(row: &PriceRow) -> Value {
    audit::without(&Pricing::from(row), &[])
}

pub(super) async fn create(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let model_key = model_key(app, &mut read);
    let input = rates::required(&mut read, rates::INPUT);
    let output = rates::required(&mut read, rates::OUTPUT);
    let further = rates::Further::read(&mut read);
    let effective_at = fields::datetime(&mut read, "effective_at");
    aliases::refuse_price(app, &body)?;
    read.faults.check()?;
    let newest = if further.inherits() { newest(app, &model_key).await? } else { None };
    let now = clock::now();
    let row = PriceRow {
        model_key,
        effective_at: effective_at.unwrap_or(now),
        prices: further.complete(input, output, newest.as_ref().map(|row| &row.prices)),
        created_at: now,
        updated_at: now,
    };
    let row = app.store.price_put(&row).await?;
    app.local.directory.put_price(&row);
    Answer::json(&Pricing::from(&row))
}

/// The newest price of a model, also one that is to come.
async fn newest(app: &Standalone, model_key: &str) -> Result<Option<PriceRow>, StoreError> {
    for candidate in candidates(app, model_key) {
        let rows = app.store.price_history(&candidate).await?;
        if let Some(row) = rows.into_iter().next() {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// `provider:model`, whichever separator was sent.
fn model_key(app: &Standalone, read: &mut Fields<'_>) -> String {
    let sent = fields::required_string(read, "model_key");
    if !read.faults.is_empty() {
        return sent;
    }
    let Some((provider, model)) = resolve::split(&sent) else {
        let message = format!(
            "Value error, Invalid model format. Expected 'provider:model' or 'provider/model', got '{sent}'"
        );
        read.wrong("model_key", "value_error", &message, json!({"error": {}}));
        return sent;
    };
    if !is_provider(app, provider) {
        let message = format!("Value error, '{provider}' is not a supported provider");
        read.wrong("model_key", "value_error", &message, json!({"error": {}}));
    }
    format!("{provider}:{model}")
}

/// Whether the name is that of a configured provider, or of one the gateway knows.
fn is_provider(app: &Standalone, name: &str) -> bool {
    app.local.table.load().provider(name).is_some()
        || otari_filters::providers::find(name).is_some()
}

/// The keys under which rows may stand for the one that was asked for, in the order in which they are tried.
fn candidates(app: &Standalone, sent: &str) -> Vec<String> {
    let mut keys = vec![sent.to_owned()];
    if let Some((provider, model)) = resolve::split(sent).filter(|(name, _)| is_provider(app, name))
    {
        let spelt = [':', '/'].map(|separator| format!("{provider}{separator}{model}"));
        // The text as sent is one of the two.
        keys.extend(spelt.into_iter().filter(|key| key != sent));
    }
    keys
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.price_list(page).await?;
    Answer::json(&rows.iter().map(Pricing::from).collect::<Vec<_>>())
}

pub(super) async fn get(
    app: &Standalone,
    key: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = GET.read_query(&query);
    let as_of = fields::datetime(&mut read, "as_of");
    read.faults.check()?;
    let now = clock::now();
    for candidate in candidates(app, key) {
        let row = match as_of {
            Some(as_of) => app.store.price_get(&candidate, as_of).await?,
            // As calls are billed.
            None => {
                let mut newest_first = app.store.price_history(&candidate).await?.into_iter();
                newest_first.find(|row| row.is_in_force(now))
            }
        };
        if let Some(row) = row {
            return Answer::json(&Pricing::from(&row));
        }
    }
    Err(not_found(key))
}

pub(super) async fn history(app: &Standalone, key: &str) -> Result<Answer, Rejection> {
    for candidate in candidates(app, key) {
        let rows = app.store.price_history(&candidate).await?;
        if !rows.is_empty() {
            return Answer::json(&rows.iter().map(Pricing::from).collect::<Vec<_>>());
        }
    }
    Err(not_found(key))
}

pub(super) async fn delete(
    app: &Managed<'_>,
    key: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = DELETE.read_query(&query);
    let effective_at = fields::datetime(&mut read, "effective_at");
    read.faults.check()?;
    for candidate in candidates(app, key) {
        if app.store.price_delete(&candidate, effective_at).await? {
            app.local.directory.remove_price(&candidate, effective_at);
            return Ok(Answer::nothing());
        }
    }
    Err(match effective_at {
        None => not_found(key),
        Some(at) => {
            let at = fields::iso(at);
            let message = format!("Pricing for model '{key}' with effective_at {at} not found");
            Rejection::new(Code::NotFound, message)
        }
    })
}

fn not_found(key: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("Pricing for model '{key}' not found"))
}
