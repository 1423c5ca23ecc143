//! Answers in formats that are not OpenAI's.

use serde_json::value::RawValue;

use super::super::inbound::{Answered, Inbound, Told, failure, said};
use super::super::input_only;
use super::super::price::Measured;
use super::super::rerank::number;
use super::{Format, encode};
use crate::translate::Object;
use crate::translate::neutral::Failure;
use crate::translate::out;
use crate::translate::text::Text;

/// What an answer holds.
#[derive(Default)]
struct Found<'a> {
    vectors: Vec<&'a RawValue>,
    tokens: Option<u64>,
    model: Option<Text<'a>>,
}

/// Writes an answer anew, in OpenAI's format.
pub(in crate::operations) fn answer(
    format: Format,
    body: &[u8],
    inbound: &Inbound,
    told: &Told<'_>,
) -> Result<Answered, Failure> {
    let found = read(format, body)?;
    let tokens = found.tokens.or(told.input_tokens);
    if found.vectors.is_empty() {
        return Err(failure("the answer has no vectors"));
    }
    let mut encoded = Vec::new();
    if inbound.base64 {
        for vector in &found.vectors {
            encoded.push(encode(vector)?);
        }
    }
    let mut out = Vec::with_capacity(body.len() + 64 * found.vectors.len() + 256);
    out::object(&mut out, |to| {
        to.word("object", "list");
        to.list("data", |list| {
            for (at, vector) in found.vectors.iter().enumerate() {
                list.object(|to| {
                    to.word("object", "embedding");
                    match encoded.get(at) {
                        Some(text) => to.word("embedding", text),
                        None => to.raw("embedding", vector),
                    }
                    to.number("index", at as u64);
                });
            }
        });
        to.text("model", &found.model.unwrap_or_else(|| Text::of(&inbound.model)));
        to.object("usage", |to| {
            to.number("prompt_tokens", tokens.unwrap_or(0));
            to.number("total_tokens", tokens.unwrap_or(0));
        });
    });
    let usage = tokens.map(|tokens| input_only(tokens, tokens));
    Ok(Answered { body: Some(out.into()), measured: Measured { usage, images: None } })
}

fn read(format: Format, body: &[u8]) -> Result<Found<'_>, Failure> {
    if format == Format::SageMaker {
        return sagemaker(body);
    }
    let object = Object::document(body).map_err(|fault| failure(&fault.to_string()))?;
    let found = match format {
        Format::Gemini => {
            let usage = object.maybe_object("usageMetadata");
            Found {
                vectors: each(&object, "embeddings", |item| item.get("values")),
                tokens: usage.get("promptTokenCount").and_then(number),
                model: None,
            }
        }
        Format::Vertex => vertex(&object),
        Format::Titan => Found {
            vectors: object.get("embedding").into_iter().collect(),
            tokens: object.get("inputTextTokenCount").and_then(number),
            model: None,
        },
        Format::Cohere => cohere(&object),
        Format::Ollama => Found {
            vectors: vectors(object.get("embeddings")),
            tokens: object.get("prompt_eval_count").and_then(number),
            model: object.maybe_text("model"),
        },
        Format::Watsonx => Found {
            vectors: each(&object, "results", |item| item.get("embedding")),
            tokens: object.get("input_token_count").and_then(number),
            model: object.maybe_text("model_id"),
        },
        Format::SageMaker => Found::default(),
    };
    match found.vectors.is_empty() {
        true => Err(said(&object).unwrap_or_else(|| failure("the answer has no vectors"))),
        false => Ok(found),
    }
}

/// The value of every item of a list of objects; nothing when one has none.
fn each<'a>(
    object: &Object<'a>,
    list: &str,
    value: impl Fn(&Object<'a>) -> Option<&'a RawValue>,
) -> Vec<&'a RawValue> {
    let items = object.maybe_objects(list);
    items.iter().map(value).collect::<Option<_>>().unwrap_or_default()
}

/// A list of lists.
fn vectors(raw: Option<&RawValue>) -> Vec<&RawValue> {
    let list = raw.and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok());
    list.filter(|list| list.iter().all(|item| item.get().starts_with('['))).unwrap_or_default()
}

fn vertex<'a>(object: &Object<'a>) -> Found<'a> {
    let predictions = object.maybe_objects("predictions");
    let within: Vec<Object<'a>> =
        predictions.iter().map(|item| item.maybe_object("embeddings")).collect();
    let count = |item: &Object<'a>| number(item.maybe_object("statistics").get("token_count")?);
    Found {
        vectors: within
            .iter()
            .map(|item| item.get("values"))
            .collect::<Option<_>>()
            .unwrap_or_default(),
        tokens: within.iter().map(count).sum(),
        model: None,
    }
}

/// Vectors by type, of which the first that has any is taken; an older answer has no types.
fn cohere<'a>(object: &Object<'a>) -> Found<'a> {
    let by_type = object.maybe_object("embeddings");
    let mut all = by_type.values().map(|raw| vectors(Some(raw)));
    let meta = object.maybe_object("meta");
    let counted = ["tokens", "billed_units"]
        .into_iter()
        .find_map(|name| number(meta.maybe_object(name).get("input_tokens")?));
    Found {
        vectors: all
            .find(|vectors| !vectors.is_empty())
            .unwrap_or_else(|| vectors(object.get("embeddings"))),
        tokens: counted,
        model: None,
    }
}

/// A model's own answer: a list of vectors, or an object that has them.
fn sagemaker(body: &[u8]) -> Result<Found<'_>, Failure> {
    let raw: &RawValue =
        serde_json::from_slice(body).map_err(|_| failure("the answer is no JSON"))?;
    let object = Object::read(raw).unwrap_or_default();
    let list = if raw.get().starts_with('[') { Some(raw) } else { object.get("embeddings") };
    let mut found = vectors(list);
    if found.is_empty() {
        found.extend(object.get("embedding").filter(|raw| raw.get().starts_with('[')));
    }
    match found.is_empty() {
        true => Err(said(&object).unwrap_or_else(|| failure("the answer has no vectors"))),
        false => Ok(Found { vectors: found, ..Found::default() }),
    }
}
