//! `/v1/models`: what can be called, in the shape of the SDK that asks.

use otari_filters::control::Caller;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;

use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::Standalone;
use crate::clock;
use crate::control::catalog::Model;

pub(super) static LIST: Operation =
    Operation::new("list_models", "List what this caller may call, by id")
        .with_query(&[Field::new("provider", Kind::Text, "Only this provider instance's")])
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
}

#[derive(Serialize, JsonSchema)]
struct Pricing {
    input_price_per_million: f64,
    output_price_per_million: f64,
}

/// Anthropic's list; all of it is one page.
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
}

impl From<Model> for Entry {
    fn from(model: Model) -> Self {
        let pricing_source = match (&model.prices, model.is_default) {
            (None, _) => "none",
            (Some(_), true) => "default",
            (Some(_), false) => "configured",
        };
        Self {
            id: model.id,
            object: "model",
            created: model.created_s,
            owned_by: model.owner,
            pricing: model.prices.map(|prices| Pricing {
                input_price_per_million: prices.input.to_f64(),
                output_price_per_million: prices.output.to_f64(),
            }),
            pricing_source,
        }
    }
}

impl From<Model> for AnthropicEntry {
    fn from(model: Model) -> Self {
        let created_at = clock::timestamp(model.created_s.saturating_mul(1_000_000));
        Self {
            r#type: "model",
            display_name: model.id.clone(),
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

pub(super) fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    let caller = caller(request)?;
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let provider = fields::string(&mut read, "provider");
    read.faults.check()?;
    let mut models = app.local.models(caller);
    models.retain(|model| provider.as_ref().is_none_or(|only| model.owner == *only));
    if wants_anthropic(request) {
        let data: Vec<AnthropicEntry> = models.into_iter().map(Into::into).collect();
        let id = |entry: Option<&AnthropicEntry>| entry.map(|entry| entry.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        let list = AnthropicList { data, has_more: false, first_id, last_id };
        return Answer::json(&Listed::Anthropic(list));
    }
    let data = models.into_iter().map(Into::into).collect();
    Answer::json(&Listed::OpenAi(List { object: "list", data }))
}

pub(super) fn get(app: &Standalone, id: &str, request: Request<'_>) -> Result<Answer, Rejection> {
    let Some(model) = app.local.model(caller(request)?, id) else {
        return Err(Rejection::new(Code::NotFound, format!("Model '{id}' not found")));
    };
    if wants_anthropic(request) {
        return Answer::json(&Shown::Anthropic(model.into()));
    }
    Answer::json(&Shown::OpenAi(model.into()))
}
