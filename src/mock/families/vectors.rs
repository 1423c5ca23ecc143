//! Embeddings of the families whose format is not OpenAI's, and Cohere's rerank. As with their chats, fields that are not
//! documented are refused.

use std::io;

use serde_json::{Value, json};

use super::access::{self, Access};
use super::operations::ranked;
use super::shape::{At, Object, Read, chars};
use crate::mock::answer::content_id;
use crate::mock::call::tokens;
use crate::mock::connection::{Exchange, Refusal};
use crate::mock::embeddings::{DIMENSIONS, MAX_DIMENSIONS, vector};
use crate::mock::emit::Next;
use crate::mock::protocol::Protocol;
use crate::mock::script::Usage;

/// Whose format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Gemini,
    Vertex,
    /// Amazon Titan, or Cohere at Amazon, by the model's name.
    Invoke,
    SageMaker,
    AzureOpenAi,
    AzureInference,
    Cohere,
    CohereRerank,
    Ollama,
    Watsonx,
}

/// A call for vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) format: Format,
    pub(super) access: Access,
    pub(super) protocol: Protocol,
    /// `None`: it stands in the body.
    pub(super) model: Option<String>,
}

/// Cohere's fields; at Amazon the path names the model.
const COHERE: [&str; 9] = [
    "model",
    "texts",
    "images",
    "inputs",
    "input_type",
    "embedding_types",
    "output_dimension",
    "max_tokens",
    "truncate",
];

/// What a body asks for.
struct Wants<'a> {
    texts: Vec<&'a str>,
    length: u32,
}

pub(super) async fn answer(exchange: &mut Exchange<'_>, call: &Call) -> io::Result<Next> {
    let protocol = call.protocol;
    let raw = exchange.request.body;
    let checked = access::check(call.access, &exchange.request).and_then(|()| {
        serde_json::from_slice::<Value>(raw).map_err(|error| (400, format!("bad body: {error}")))
    });
    let body = match checked {
        Ok(body) => body,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    let named = body.get("model").or(body.get("model_id")).and_then(Value::as_str);
    let model = call.model.as_deref().or(named).unwrap_or_default().to_owned();
    let made = make(call.format, &model, &body, raw).map_err(|message| (400, message));
    let made: Result<_, Refusal> = made.and_then(|made| Ok((made, exchange.script(&model)?)));
    let ((answer, count), script) = match made {
        Ok(made) => made,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    if let Some(next) = exchange.misbehave(protocol, &script, false).await? {
        return Ok(next);
    }
    let counts = (script.usage != Usage::Never).then_some(count);
    let answer = counted(call.format, &model, answer, counts).to_string();
    if call.format == Format::Invoke && counts.is_some() && script.fault.is_none() {
        let told = format!("x-amzn-bedrock-input-token-count: {count}\r\n");
        let kind = "application/json";
        return exchange.outlet.fixed(200, kind, &told, answer.as_bytes()).await;
    }
    exchange.outlet.whole(&script, answer.as_bytes()).await
}

/// The answer without its counts, and the tokens.
fn make(format: Format, model: &str, body: &Value, raw: &[u8]) -> Read<(Value, u64)> {
    if format == Format::CohereRerank {
        let known = ["model", "query", "documents", "top_n", "max_tokens_per_doc"];
        let object = At::body(body).object(&known)?;
        object.text("model")?;
        object.wholes(&["max_tokens_per_doc"])?;
        let (results, total) = ranked(&object, "top_n")?;
        return Ok((json!({"id": content_id(raw), "results": results}), total));
    }
    let wants = read(format, model, body)?;
    let vectors: Vec<Vec<f32>> = wants.texts.iter().map(|text| of(text, wants.length)).collect();
    let count = wants.texts.iter().map(|text| tokens(chars(text))).sum();
    let answer = match format {
        Format::Gemini => {
            json!({"embeddings": vectors.iter().map(|v| json!({"values": v})).collect::<Vec<_>>()})
        }
        Format::Vertex => {
            let item = |(vector, text): (&Vec<f32>, &&str)| {
                let statistics = json!({"truncated": false, "token_count": tokens(chars(text))});
                json!({"embeddings": {"values": vector, "statistics": statistics}})
            };
            json!({"predictions": vectors.iter().zip(&wants.texts).map(item).collect::<Vec<_>>()})
        }
        Format::Invoke if model.contains("cohere.") => {
            json!({"id": content_id(raw), "response_type": "embeddings_by_type",
                "embeddings": {"float": vectors}, "texts": wants.texts})
        }
        Format::Invoke => json!({"embedding": vectors.first()}),
        Format::SageMaker => json!(vectors),
        Format::AzureOpenAi | Format::AzureInference => {
            let item = |(index, vector): (usize, &Vec<f32>)| json!({"object": "embedding", "index": index, "embedding": vector});
            json!({"object": "list", "model": model,
                "data": vectors.iter().enumerate().map(item).collect::<Vec<_>>()})
        }
        Format::Ollama => json!({"model": model, "embeddings": vectors, "total_duration": 1}),
        Format::Watsonx => json!({"model_id": model, "created_at": "2026-01-01T00:00:00.000Z",
            "results": vectors.iter().map(|v| json!({"embedding": v})).collect::<Vec<_>>()}),
        Format::Cohere | Format::CohereRerank => {
            json!({"id": content_id(raw), "response_type": "embeddings_by_type",
                "embeddings": {"float": vectors}, "texts": wants.texts})
        }
    };
    Ok((answer, count))
}

/// The answer with its counts, where the format has a place for them.
fn counted(format: Format, model: &str, mut answer: Value, count: Option<u64>) -> Value {
    let Some(count) = count else { return answer };
    match format {
        Format::Gemini | Format::Vertex | Format::SageMaker => {}
        Format::Invoke if model.contains("cohere.") => {}
        Format::Invoke => answer["inputTextTokenCount"] = count.into(),
        Format::AzureOpenAi | Format::AzureInference => {
            answer["usage"] = json!({"prompt_tokens": count, "total_tokens": count});
        }
        Format::Ollama => answer["prompt_eval_count"] = count.into(),
        Format::Watsonx => answer["input_token_count"] = count.into(),
        Format::Cohere => {
            answer["meta"] = json!({"api_version": {"version": "2"},
                "billed_units": {"input_tokens": count}});
        }
        Format::CohereRerank => {
            answer["meta"] = json!({"api_version": {"version": "2"},
                "billed_units": {"search_units": 1}, "tokens": {"input_tokens": count}});
        }
    }
    answer
}

fn of(text: &str, length: u32) -> Vec<f32> {
    vector(crc32fast::hash(text.as_bytes()), length).collect()
}

fn read<'a>(format: Format, model: &str, body: &'a Value) -> Read<Wants<'a>> {
    let whole = At::body(body);
    let plain = |known: &[&str], input: &str, one: bool| {
        let object = if known.is_empty() { whole.open_object()? } else { whole.object(known)? };
        let texts = texts(&object, input, one)?;
        Ok(Wants { texts, length: length(&object, "dimensions")? })
    };
    match format {
        Format::Gemini => gemini(&whole, model),
        Format::Vertex => vertex(&whole),
        Format::Invoke if model.contains("cohere.") => cohere(&whole, &COHERE[1..]),
        Format::Invoke => {
            let object =
                whole.object(&["inputText", "dimensions", "normalize", "embeddingTypes"])?;
            let texts = vec![object.text("inputText")?];
            Ok(Wants { texts, length: length(&object, "dimensions")? })
        }
        Format::SageMaker => plain(&["inputs"], "inputs", true),
        Format::AzureOpenAi => plain(
            &["model", "input", "user", "encoding_format", "dimensions", "input_type"],
            "input",
            true,
        ),
        Format::AzureInference => plain(&[], "input", false),
        Format::Ollama => plain(
            &["model", "input", "truncate", "options", "keep_alive", "dimensions"],
            "input",
            true,
        ),
        Format::Watsonx => {
            let known = ["model_id", "inputs", "project_id", "space_id", "parameters"];
            whole.open_object()?.one_of(&["project_id", "space_id"])?;
            plain(&known, "inputs", false)
        }
        Format::Cohere | Format::CohereRerank => {
            whole.open_object()?.text("model")?;
            cohere(&whole, &COHERE)
        }
    }
}

fn gemini<'a>(body: &At<'a>, model: &str) -> Read<Wants<'a>> {
    let requests = body.object(&["requests"])?.need("requests")?.list()?;
    let mut wants = Wants { texts: Vec::new(), length: DIMENSIONS };
    for request in &requests {
        let object =
            request.object(&["model", "content", "taskType", "title", "outputDimensionality"])?;
        if object.text("model")?.trim_start_matches("models/") != model {
            return object.wrong("the model must be the one in the path");
        }
        wants.length = length(&object, "outputDimensionality")?;
        let content = object.need("content")?.object(&["parts", "role"])?;
        for part in content.need("parts")?.list()? {
            wants.texts.push(part.object(&["text"])?.text("text")?);
        }
    }
    Ok(wants)
}

fn vertex<'a>(body: &At<'a>) -> Read<Wants<'a>> {
    let object = body.object(&["instances", "parameters"])?;
    let mut texts = Vec::new();
    for instance in object.need("instances")?.list()? {
        texts.push(instance.object(&["content", "task_type", "title"])?.text("content")?);
    }
    let length = match object.get("parameters") {
        Some(parameters) => length(
            &parameters.object(&["outputDimensionality", "autoTruncate"])?,
            "outputDimensionality",
        )?,
        None => DIMENSIONS,
    };
    Ok(Wants { texts, length })
}

fn cohere<'a>(body: &At<'a>, known: &[&str]) -> Read<Wants<'a>> {
    let object = body.object(known)?;
    let types = ["search_document", "search_query", "classification", "clustering"];
    object.need("input_type")?.word(&types)?;
    if let Some(types) = object.get("embedding_types") {
        types.texts()?;
    }
    object.wholes(&["max_tokens"])?;
    Ok(Wants {
        texts: texts(&object, "texts", false)?,
        length: length(&object, "output_dimension")?,
    })
}

/// A list of texts, or, where the format has that, one.
fn texts<'a>(object: &Object<'a>, name: &str, one: bool) -> Read<Vec<&'a str>> {
    let field = object.need(name)?;
    if let (true, Some(text)) = (one, field.value.as_str()) {
        return Ok(vec![text]);
    }
    field.list()?.iter().map(At::text).collect()
}

fn length(object: &Object<'_>, name: &str) -> Read<u32> {
    let Some(field) = object.get(name) else { return Ok(DIMENSIONS) };
    let length = u32::try_from(field.whole()?).unwrap_or(u32::MAX);
    Ok(length.clamp(1, MAX_DIMENSIONS))
}
