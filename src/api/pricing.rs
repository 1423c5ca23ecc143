//! `/v1/pricing`: what models cost, from when on.

use otari_filters::money::Rate;
use otari_filters::rejection::Rejection;
use otari_filters::resolve;
use otari_filters::validate::Fields;
use serde::Serialize;
use serde_json::json;

use super::{Answer, Request, fields};
use crate::app::App;
use crate::clock;
use crate::store::PriceRow;

/// The largest rate the databases hold: NUMERIC(18,8).
const MAX_RATE_USD: f64 = 9_999_999_999.0;

#[derive(Serialize)]
struct Pricing<'a> {
    model_key: &'a str,
    effective_at: String,
    input_price_per_million: f64,
    output_price_per_million: f64,
    created_at: String,
    updated_at: String,
}

impl<'a> From<&'a PriceRow> for Pricing<'a> {
    fn from(row: &'a PriceRow) -> Self {
        Self {
            model_key: &row.model_key,
            effective_at: fields::iso(row.effective_at),
            input_price_per_million: row.input.to_f64(),
            output_price_per_million: row.output.to_f64(),
            created_at: fields::iso(row.created_at),
            updated_at: fields::iso(row.updated_at),
        }
    }
}

pub(super) async fn create(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let mut read = Fields::new("body", &body);
    let model_key = model_key(app, &mut read);
    let input = rate(&mut read, "input_price_per_million");
    let output = rate(&mut read, "output_price_per_million");
    let effective_at = fields::datetime(&mut read, "effective_at");
    read.faults.check()?;
    let now = clock::now();
    let row = PriceRow {
        model_key,
        effective_at: effective_at.unwrap_or(now),
        input,
        output,
        created_at: now,
        updated_at: now,
    };
    let row = app.store.price_put(&row).await?;
    app.local.directory.put_price(&row);
    Answer::json(&Pricing::from(&row))
}

/// `provider:model`, whichever separator was sent.
fn model_key(app: &App, read: &mut Fields<'_>) -> String {
    let sent = read.required_string("model_key");
    if sent.is_empty() {
        return sent;
    }
    let Some((provider, model)) = resolve::split(&sent) else {
        let message = format!(
            "Value error, Invalid model format. Expected 'provider:model' or 'provider/model', got '{sent}'"
        );
        read.wrong("model_key", "value_error", &message, json!({"error": {}}));
        return sent;
    };
    let is_configured =
        app.local.providers.iter().any(|configured| *configured.upstream.instance == *provider);
    if !is_configured && otari_filters::providers::find(provider).is_none() {
        let message = format!("Value error, '{provider}' is not a supported provider");
        read.wrong("model_key", "value_error", &message, json!({"error": {}}));
    }
    format!("{provider}:{model}")
}

fn rate(read: &mut Fields<'_>, name: &str) -> Rate {
    let usd = read.required_amount(name);
    match Rate::from_f64(usd).filter(|_| usd <= MAX_RATE_USD) {
        Some(rate) => rate,
        None => {
            let message = format!("Input should be less than or equal to {MAX_RATE_USD:.0}");
            read.wrong(name, "less_than_equal", &message, json!({"le": MAX_RATE_USD}));
            Rate::default()
        }
    }
}

pub(super) async fn list(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    let query = fields::query(request);
    let mut read = Fields::new("query", &query);
    let page = fields::page(&mut read);
    read.faults.check()?;
    let rows = app.store.price_list(page).await?;
    Answer::json(&rows.iter().map(Pricing::from).collect::<Vec<_>>())
}
