//! Embeddings: OpenAI's format, the formats that differ from it in a name, and the others.
//!
//! Sources: <https://platform.openai.com/docs/api-reference/embeddings>, <https://ai.google.dev/api/embeddings>,
//! <https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api>,
//! <https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html> and
//! `model-parameters-embed-v4.html`, <https://docs.cohere.com/v2/reference/embed>,
//! <https://docs.ollama.com/api/embed>, <https://docs.voyageai.com/reference/embeddings-api>,
//! <https://docs.mistral.ai/api/endpoint/embeddings>, <https://cloud.ibm.com/apidocs/watsonx-ai>,
//! <https://learn.microsoft.com/azure/ai-foundry/model-inference>; 2026-11-23.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::inbound::{Answered, How, failure};
use super::input::{Input, Shape};
use super::price::Measured;
use super::way::{Call, Made, refuse};
use super::{Refused, same as own};
use crate::protocol::json::{Edit, range_of, splice};
use crate::providers::Family;
use crate::rejection::{Code, Rejection};
use crate::translate::neutral::Failure;
use crate::translate::{Fault, Object};

mod answer;
mod write;

pub(super) use answer::answer;

/// A format of vectors that is not OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Google's `batchEmbedContents`.
    Gemini,
    /// Google's `predict`.
    Vertex,
    /// Amazon's own models, one text a call.
    Titan,
    /// Cohere, at Cohere or at Amazon.
    Cohere,
    Ollama,
    Watsonx,
    SageMaker,
}

/// So many texts OpenAI takes in a call; the others take fewer.
const MAX_TEXTS: usize = 2048;

/// Who writes vectors as base64 where that is asked for. With the others the gateway does.
const WITH_BASE64: [&str; 12] = [
    "azureopenai",
    "dashscope",
    "deepinfra",
    "llamacpp",
    "mistral",
    "mock",
    "nebius",
    "openai",
    "openrouter",
    "otari",
    "vllm",
    "voyage",
];

/// The request.
pub(super) fn write(call: &Call<'_>) -> Result<Made, Refused> {
    let provider = call.upstream.kind;
    let how = match call.asked.base64 && !WITH_BASE64.contains(&provider.name) {
        true => How::Vectors,
        false => How::Same,
    };
    let format = match provider.family {
        Family::Gemini => Format::Gemini,
        Family::Vertex => Format::Vertex,
        Family::Bedrock if call.model.contains("cohere.") => Format::Cohere,
        Family::Bedrock => Format::Titan,
        Family::Cohere => Format::Cohere,
        Family::Ollama => Format::Ollama,
        Family::Watsonx => Format::Watsonx,
        Family::SageMaker => Format::SageMaker,
        Family::Mistral => return Ok(renamed(call, how)?),
        Family::Voyage => return Ok(renamed(call, How::Voyage)?),
        Family::AzureInference => return Ok(listed(call, how)?),
        _ if provider.name == "sambanova" => return Ok(without_format(call, how)?),
        _ => return Ok(Made::same(own::body(call, &[], Vec::new()), how)),
    };
    Ok(write::write(call, format)?)
}

/// Voyage and Mistral: OpenAI's format, but for the length of the vectors. They know neither users nor tokens.
fn renamed(call: &Call<'_>, how: How) -> Result<Made, Rejection> {
    let object = Object::document(call.body)?;
    needs_text(&object, call.upstream.kind.name)?;
    let at = |raw: &RawValue| range_of(call.body, raw);
    let (mut gone, mut edits): (Vec<Range<usize>>, Vec<Edit>) = (Vec::new(), Vec::new());
    if let Some(raw) = object.get("dimensions") {
        gone.push(at(raw));
        edits.push(own::insert(call.body, "output_dimension", raw.get()));
    }
    // Voyage takes `base64`, or nothing.
    let is_float = |raw: &&RawValue| super::read::is_text(raw, "float");
    if let Some(raw) = object.get("encoding_format").filter(is_float).filter(|_| how == How::Voyage)
    {
        gone.push(at(raw));
    }
    let call = Call { keep_user: false, ..*call };
    Ok(Made::same(own::body(&call, &gone, edits), how))
}

/// Azure AI Inference: a single text is a list of one.
fn listed(call: &Call<'_>, how: How) -> Result<Made, Rejection> {
    let object = Object::document(call.body)?;
    let text = object.get("input").filter(|raw| raw.get().starts_with('"'));
    let edits = text.map(|raw| {
        let at = range_of(call.body, raw);
        let bracket =
            |at, with: &'static [u8]| Edit { range: at..at, with: Bytes::from_static(with) };
        [bracket(at.start, b"["), bracket(at.end, b"]")]
    });
    Ok(Made::same(own::body(call, &[], edits.into_iter().flatten().collect()), how))
}

/// SambaNova refuses to be told the format.
fn without_format(call: &Call<'_>, how: How) -> Result<Made, Rejection> {
    let object = Object::document(call.body)?;
    let gone: Vec<_> =
        object.get("encoding_format").map(|raw| range_of(call.body, raw)).into_iter().collect();
    Ok(Made::same(own::body(call, &gone, Vec::new()), how))
}

/// # Errors
/// When the input is no text.
fn needs_text(object: &Object<'_>, provider: &str) -> Result<(), Rejection> {
    let input = object.get("input").map(Input::read).unwrap_or_default();
    match input.shape {
        Shape::Text | Shape::Texts => Ok(()),
        _ => Err(Rejection::new(
            Code::InvalidValue,
            format!("`input` as tokens is not supported by `{provider}`: send text"),
        )),
    }
}

/// The texts of the input, as they were sent, with their quotes.
fn texts<'a>(object: &Object<'a>, provider: &str) -> Result<Vec<&'a RawValue>, Rejection> {
    needs_text(object, provider)?;
    let input = object.get("input").ok_or_else(|| Fault::new("input", "is required"))?;
    if input.get().starts_with('"') {
        return Ok(vec![input]);
    }
    let texts: Vec<&RawValue> = serde_json::from_str(input.get())
        .map_err(|_| Fault::new("input", "must be a string or a list of strings"))?;
    if texts.is_empty() {
        return Err(Fault::new("input", "is empty: send at least one text").into());
    }
    if texts.len() > MAX_TEXTS {
        return Err(Fault::new("input", "has more than 2048 texts: send fewer at once").into());
    }
    Ok(texts)
}

/// An answer in OpenAI's format, in which vectors may have to become base64, and the prompt's tokens may be told as the
/// total alone.
pub(super) fn same(
    body: &Bytes,
    measured: Measured,
    base64: bool,
    tells_total: bool,
) -> Result<Answered, Failure> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        data: Vec<Item<'a>>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        embedding: &'a RawValue,
    }
    let answer: Wire<'_> =
        serde_json::from_slice(body).map_err(|_| failure("the answer has no vectors"))?;
    let mut edits = Vec::new();
    for item in answer.data.iter().filter(|item| base64 && item.embedding.get().starts_with('[')) {
        let mut with = Vec::with_capacity(item.embedding.get().len());
        with.push(b'"');
        with.extend_from_slice(encode(item.embedding)?.as_bytes());
        with.push(b'"');
        edits.push(Edit { range: range_of(body, item.embedding), with: with.into() });
    }
    let usage = answer.usage.filter(|raw| tells_total && !raw.get().contains("\"prompt_tokens\""));
    if let (Some(raw), Some(counted)) = (usage, measured.usage) {
        let at = range_of(body, raw).start + 1;
        let with = format!("\"prompt_tokens\":{},", counted.prompt_tokens);
        edits.push(Edit { range: at..at, with: with.into() });
    }
    let body = (!edits.is_empty()).then(|| splice(body, edits).concat().into());
    Ok(Answered { body, measured })
}

/// A list of numbers as base64 of 32-bit floats, the lowest byte first.
fn encode(vector: &RawValue) -> Result<String, Failure> {
    let numbers: Vec<f32> = serde_json::from_str(vector.get())
        .map_err(|_| failure("a vector is no list of numbers"))?;
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Ok(STANDARD.encode(bytes))
}

/// What the target cannot be told, and without which the answer would be another one.
fn refuse_dimensions(object: &Object<'_>, provider: &str) -> Result<(), Rejection> {
    match object.get("dimensions") {
        Some(_) => Err(refuse("dimensions", provider)),
        None => Ok(()),
    }
}
