//! `/v1/models`: what can be called, in the shape of the SDK that asks.

pub(super) mod sources;

use otari_filters::control::Caller;
use otari_filters::money::Rate;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Bounds, Field, Fields, Kind};
use schemars::JsonSchema;
use serde::Serialize;

use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::Standalone;
use crate::clock;
use crate::control::catalog::Model;

const LIMIT: Bounds<i64> = Bounds { at_least: Some(1), above: None, at_most: Some(1000) };

pub(super) static LIST: Operation =
    Operation::new("list_models", "List what this caller may call, by id")
        .with_query(&[
            Field::new("provider", Kind::Text, "Only this provider instance's"),
            Field::new("limit", Kind::Whole(LIMIT), "Anthropic's shape only: so many at most"),
            Field::new("after_id", Kind::Text, "Anthropic's shape only: what follows this model"),
            Field::new("before_id", Kind::Text, "Anthropic's shape only: what precedes this model"),
        ])
        .answering::<Listed>();

pub(super) static GET: Operation =
    Operation::new("get_model", "Show a model").answering::<Shown>().refusing(&[404]);

/// In OpenAI's shape, or in Anthropic's when `anthropic-version` is sent.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Listed {
    OpenAi(List),
    Anthropic(AnthropicList),
}

/// In OpenAI's shape, or in Anthropic's when `anthropic-version` is sent.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Shown {
    OpenAi(Entry),
    Anthropic(AnthropicEntry),
}

#[derive(Serialize, JsonSchema)]
struct List {
    object: &'static str,
    data: Vec<Entry>,
}

#[derive(Serialize, JsonSchema)]
struct Entry {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
    pricing: Option<Pricing>,
    /// `configured`, `default` (the public list) or `none`.
    pricing_source: &'static str,
    /// Tokens, as the provider's own list says; null when it does not.
    context_window: Option<u64>,
}

/// USD per million tokens; null where input of that kind costs what other input does.
#[derive(Serialize, JsonSchema)]
struct Pricing {
    input_price_per_million: f64,
    output_price_per_million: f64,
    cache_read_price_per_million: Option<f64>,
    cache_write_price_per_million: Option<f64>,
    cache_write_1h_price_per_million: Option<f64>,
}

/// A page of Anthropic's list: all of it, unless `limit` says less.
#[derive(Serialize, JsonSchema)]
struct AnthropicList {
    data: Vec<AnthropicEntry>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AnthropicEntry {
    r#type: &'static str,
    id: String,
    display_name: String,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// Tokens of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_tokens: Option<u64>,
    /// Tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
}

impl From<Model> for Entry {
    fn from(model: Model) -> Self {
        let pricing_source = match (&model.prices, model.is_default) {
            (None, _) => "none",
            (Some(_), true) => "default",
            (Some(_), false) => "configured",
        };
        let usd = |rate: Option<Rate>| rate.map(Rate::to_f64);
        let pricing = model.prices.as_ref().map(|prices| Pricing {
            input_price_per_million: prices.input.to_f64(),
            output_price_per_million: prices.output.to_f64(),
            cache_read_price_per_million: usd(prices.cache_read),
            cache_write_price_per_million: usd(prices.cache_write),
            cache_write_1h_price_per_million: usd(prices.cache_write_1h),
        });
        Self {
            context_window: model.listed.as_ref().and_then(|listed| listed.context_window),
            id: model.id,
            object: "model",
            created: model.created_s,
            owned_by: model.owner,
            pricing,
            pricing_source,
        }
    }
}

impl From<Model> for AnthropicEntry {
    fn from(model: Model) -> Self {
        let created_at = clock::timestamp(model.created_s.saturating_mul(1_000_000));
        let listed = model.listed.as_deref();
        // An alias shows its own name.
        let name =
            listed.filter(|_| model.owner != "otari").and_then(|listed| listed.name.as_deref());
        Self {
            r#type: "model",
            display_name: name.unwrap_or(&model.id).to_owned(),
            max_input_tokens: listed.and_then(|listed| listed.context_window),
            max_tokens: listed.and_then(|listed| listed.max_output),
            id: model.id,
            created_at: fields::iso(created_at),
        }
    }
}

fn caller(request: Request<'_>) -> Result<&Caller, Rejection> {
    request.caller.ok_or_else(|| Rejection::internal("no caller"))
}

fn wants_anthropic(request: Request<'_>) -> bool {
    request.headers.contains_key("anthropic-version")
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let caller = caller(request)?;
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let provider = fields::string(&mut read, "provider");
    let window = Window::read(&mut read);
    read.faults.check()?;
    app.local.discovery.refresh(provider.as_deref()).await;
    let mut models = app.local.models(caller);
    models.retain(|model| provider.as_ref().is_none_or(|only| model.owner == *only));
    if wants_anthropic(request) {
        return Answer::json(&Listed::Anthropic(window.of(models)));
    }
    let data = models.into_iter().map(Into::into).collect();
    Answer::json(&Listed::OpenAi(List { object: "list", data }))
}

/// The part of the list that is asked for in Anthropic's way.
struct Window {
    limit: usize,
    after: Option<String>,
    before: Option<String>,
}

impl Window {
    fn read(read: &mut Fields<'_>) -> Self {
        let limit = read.integer("limit", LIMIT).and_then(|limit| usize::try_from(limit).ok());
        Self {
            limit: limit.unwrap_or(usize::MAX),
            after: fields::string(read, "after_id"),
            before: fields::string(read, "before_id"),
        }
    }

    /// A cursor is a place in the order, whether or not there still is a model of this name.
    fn of(&self, mut models: Vec<Model>) -> AnthropicList {
        let has_more;
        if let Some(before) = &self.before {
            models.retain(|model| model.id < *before);
            has_more = models.len() > self.limit;
            models.drain(..models.len().saturating_sub(self.limit));
        } else {
            models.retain(|model| self.after.as_ref().is_none_or(|after| model.id > *after));
            has_more = models.len() > self.limit;
            models.truncate(self.limit);
        }
        let data: Vec<AnthropicEntry> = models.into_iter().map(Into::into).collect();
        let id = |entry: Option<&AnthropicEntry>| entry.map(|entry| entry.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        AnthropicList { data, has_more, first_id, last_id }
    }
}

pub(super) async fn get(
    app: &Standalone,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    let caller = caller(request)?;
    // Only a provider that decides is asked, and only for somebody who may call it.
    if let Some(instance) = app.local.lister(caller, id) {
        app.local.discovery.refresh(Some(&*instance)).await;
    }
    let Some(model) = app.local.model(caller, id) else {
        return Err(Rejection::new(Code::NotFound, format!("Model '{id}' not found")));
    };
    if wants_anthropic(request) {
        return Answer::json(&Shown::Anthropic(model.into()));
    }
    Answer::json(&Shown::OpenAi(model.into()))
}
