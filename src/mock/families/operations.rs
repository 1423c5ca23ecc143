//! Moderations, rerank, images, speech and transcriptions, as OpenAI, Cohere, Voyage and Together document them.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::access::{self, Access};
use super::shape::{At, Object, Read, chars};
use crate::mock::answer::content_id;
use crate::mock::call::tokens;
use crate::mock::connection::{Exchange, Refusal};
use crate::mock::emit::Next;
use crate::mock::form::Part;
use crate::mock::protocol::Protocol;
use crate::mock::script::{Fault, Script, Strict, Usage};

/// Seconds since 1970 of everything that was made here.
const MADE: u64 = 1_767_225_600;
/// Bytes of an image, and of a piece of speech, when nothing is said.
const IMAGE_BYTES: usize = 64;
const SPEECH_BYTES: usize = 1024;
/// Most images of a call, as OpenAI has it.
const MAX_IMAGES: u64 = 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) enum Kind {
    Moderations,
    Rerank,
    Images,
    Speech,
    Transcription,
}

impl Kind {
    /// The operation at a path, `/v1` taken off.
    pub(in crate::mock) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/moderations" => Self::Moderations,
            "/rerank" => Self::Rerank,
            "/images/generations" => Self::Images,
            "/audio/speech" => Self::Speech,
            "/audio/transcriptions" => Self::Transcription,
            _ => return None,
        })
    }
}

/// Answers a call of OpenAI's API, or, with `azure`, of an Azure deployment.
pub(in crate::mock) async fn answer(
    exchange: &mut Exchange<'_>,
    kind: Kind,
    azure: bool,
) -> io::Result<Next> {
    let protocol = if azure { Protocol::AzureOpenAi } else { Protocol::Chat };
    let checked = match azure {
        true => access::check(Access::AzureKey, &exchange.request),
        false => Ok(()),
    };
    let raw = exchange.request.body;
    let read = checked.and_then(|()| body(kind, raw));
    let (body, model) = match read {
        Ok(read) => read,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    let script = match exchange.script(&model) {
        Ok(script) => script,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    let made = match make(kind, &body, &script, raw) {
        Ok(made) => made,
        Err(message) => return exchange.refuse(protocol, (400, message)).await,
    };
    if let Some(next) = exchange.misbehave(protocol, &script, false).await? {
        return Ok(next);
    }
    match made {
        Made::Json(body) => {
            let body = body.to_string();
            exchange.outlet.whole(&script, body.as_bytes()).await
        }
        Made::Sound(kind) => {
            let bytes = script.bytes.unwrap_or(SPEECH_BYTES);
            let piece = |index: u32| {
                (0..bytes).map(|at| (index as usize * 31 + at) as u8).collect::<Vec<u8>>()
            };
            exchange.outlet.pieces(&script, kind, script.chunks, piece).await
        }
        Made::Text(text) => {
            let kind = "text/plain; charset=utf-8";
            exchange.outlet.pieces(&script, kind, 1, |_| text.clone().into_bytes()).await
        }
        Made::Events(events) => {
            let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            let event = |index: u32| events[index as usize].clone().into_bytes();
            exchange.outlet.pieces(&script, "text/event-stream", count, event).await
        }
    }
}

/// The body as JSON, and the model in it. Of a form the fields, and its file under `file`.
fn body(kind: Kind, raw: &[u8]) -> Result<(Value, String), Refusal> {
    let bad = |error: String| (400, format!("bad body: {error}"));
    let body: Value = serde_json::from_slice(raw).map_err(|error| {
        bad(std::str::from_utf8(raw).map_or_else(
            |_| error.to_string(),
            |text| {
                if text.starts_with("bad form") { text.to_owned() } else { error.to_string() }
            },
        ))
    })?;
    let body = match (kind, body) {
        (Kind::Transcription, Value::Array(_)) => form(raw).map_err(bad)?,
        (Kind::Transcription, _) => return Err(bad("a form is wanted".to_owned())),
        (_, body) => body,
    };
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    Ok((body, model))
}

/// Fields whose names end in `[]` are lists.
fn form(raw: &[u8]) -> Result<Value, String> {
    let parts: Vec<Part> = serde_json::from_slice(raw).map_err(|error| error.to_string())?;
    let mut body = json!({"order": parts.iter().map(|part| &part.name).collect::<Vec<_>>()});
    for part in parts {
        if part.filename.is_some() {
            body[part.name.clone()] = json!({"filename": part.filename,
                "content_type": part.content_type, "bytes": part.bytes, "crc32": part.crc32});
        } else if part.name.ends_with("[]") {
            match &mut body[part.name.as_str()] {
                Value::Array(list) => list.push(part.text.into()),
                other => *other = json!([part.text]),
            }
        } else {
            body[part.name] = part.text.into();
        }
    }
    Ok(body)
}

enum Made {
    Json(Value),
    /// Of this content type.
    Sound(&'static str),
    Text(String),
    Events(Vec<String>),
}

fn make(kind: Kind, body: &Value, script: &Script<'_>, raw: &[u8]) -> Read<Made> {
    let whole = At::body(body);
    let known = known(kind, script.strict);
    let object = match script.strict {
        Some(_) => whole.object(known)?,
        None => whole.open_object()?,
    };
    match kind {
        Kind::Moderations => moderations(&object, script, raw),
        Kind::Rerank => rerank(&object, script, raw),
        Kind::Images => images(&object, script, raw),
        Kind::Speech => speech(&object),
        Kind::Transcription => transcription(&object, script),
    }
}

/// The fields that are documented.
fn known(kind: Kind, strict: Option<Strict>) -> &'static [&'static str] {
    match (kind, strict) {
        (Kind::Moderations, _) => &["model", "input"],
        (Kind::Rerank, Some(Strict::Voyage)) => {
            &["model", "query", "documents", "top_k", "return_documents", "truncation"]
        }
        (Kind::Rerank, Some(Strict::Together)) => {
            &["model", "query", "documents", "top_n", "return_documents", "rank_fields"]
        }
        (Kind::Rerank, _) => {
            &["model", "query", "documents", "top_n", "max_tokens_per_doc", "user"]
        }
        (Kind::Images, _) => &[
            "model",
            "prompt",
            "n",
            "size",
            "quality",
            "style",
            "response_format",
            "user",
            "background",
            "moderation",
            "output_compression",
            "output_format",
            "partial_images",
            "stream",
        ],
        (Kind::Speech, _) => &[
            "model",
            "input",
            "voice",
            "instructions",
            "response_format",
            "speed",
            "stream_format",
        ],
        (Kind::Transcription, _) => &[
            "file",
            "model",
            "language",
            "prompt",
            "response_format",
            "temperature",
            "timestamp_granularities[]",
            "include[]",
            "chunking_strategy",
            "stream",
            "order",
        ],
    }
}

/// Whoever writes of killing is flagged.
fn moderations(object: &Object<'_>, script: &Script<'_>, raw: &[u8]) -> Read<Made> {
    let input = object.need("input")?;
    let texts: Vec<String> = match input.value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().map(Value::to_string).collect(),
        _ => return input.wrong("must be a string or a list"),
    };
    let one = |text: &String| {
        let is_bad = text.contains("kill");
        let score = if is_bad { 0.875 } else { 0.0625 };
        let mut result = json!({
            "categories": {"violence": is_bad, "harassment/threatening": false, "illicit": null},
            "category_scores": {"violence": score, "harassment/threatening": 1e-6, "illicit": null},
        });
        if script.strict != Some(Strict::Mistral) {
            result["flagged"] = is_bad.into();
            result["category_applied_input_types"] =
                json!({"violence": ["text"], "harassment/threatening": [], "illicit": null});
        }
        result
    };
    Ok(Made::Json(
        json!({"id": format!("modr-{}", content_id(raw)), "model": object.text("model")?,
        "results": texts.iter().map(one).collect::<Vec<_>>()}),
    ))
}

/// The longer a document, the more relevant; they come in the order in which they were sent.
pub(super) fn ranked(object: &Object<'_>, top: &str) -> Read<(Vec<Value>, u64)> {
    let query = chars(object.text("query")?);
    let documents = object.need("documents")?;
    documents.texts()?;
    let documents = documents.list()?;
    if documents.is_empty() {
        return object.wrong("documents must not be empty");
    }
    let mut results = Vec::new();
    let mut total = 0;
    for (index, document) in documents.iter().enumerate() {
        let length = chars(document.text()?);
        total += length + query;
        let score =
            1.0 - 1.0 / f64::from(u32::try_from(length).unwrap_or(u32::MAX).saturating_add(1));
        results.push(json!({"index": index, "relevance_score": score}));
    }
    if let Some(top) = object.get(top) {
        let top = usize::try_from(top.whole()?).unwrap_or(usize::MAX);
        if top == 0 {
            return object.wrong("at least one result must be asked for");
        }
        let by_score = |result: &Value| result["relevance_score"].as_f64().unwrap_or_default();
        results.sort_by(|a, b| f64::total_cmp(&by_score(b), &by_score(a)));
        results.truncate(top);
        results.sort_by_key(|result| result["index"].as_u64());
    }
    Ok((results, tokens(total)))
}

fn rerank(object: &Object<'_>, script: &Script<'_>, raw: &[u8]) -> Read<Made> {
    let top = if script.strict == Some(Strict::Voyage) { "top_k" } else { "top_n" };
    let (results, total) = ranked(object, top)?;
    let (id, model) = (content_id(raw), object.text("model")?);
    let mut answer = match script.strict {
        Some(Strict::Voyage) => json!({"object": "list", "data": results, "model": model,
            "usage": {"total_tokens": total}}),
        Some(Strict::Together) => json!({"object": "rerank", "id": id, "model": model,
            "results": results,
            "usage": {"prompt_tokens": total, "completion_tokens": 0, "total_tokens": total}}),
        _ => json!({"id": id, "results": results,
            "meta": {"billed_units": {"search_units": 1}, "tokens": null},
            "usage": {"total_tokens": total}}),
    };
    if script.usage == Usage::Never {
        answer["usage"] = Value::Null;
    }
    Ok(Made::Json(answer))
}

/// As many as are asked for; with `fault=no_done` one fewer.
fn images(object: &Object<'_>, script: &Script<'_>, raw: &[u8]) -> Read<Made> {
    object.text("prompt")?;
    let count = object.get("n").map_or(Ok(1), |n| n.whole())?;
    if !(1..=MAX_IMAGES).contains(&count) {
        return object.wrong("n must be from 1 to 10");
    }
    let format = match object.get("response_format") {
        Some(format) => format.word(&["url", "b64_json"])?,
        None => "url",
    };
    let id = content_id(raw);
    let image = |index: u64| match format {
        "url" => format!("http://mock.invalid/{id}/{index}.png"),
        _ => BASE64_STANDARD.encode(vec![index as u8; script.bytes.unwrap_or(IMAGE_BYTES)]),
    };
    let count = if script.fault == Some(Fault::NoDone) { count - 1 } else { count };
    if object.get("stream").is_some_and(|stream| stream.value == &json!(true)) {
        let event = |index: u64| {
            let data = json!({"type": "image_generation.completed", "b64_json": image(index)});
            format!("event: image_generation.completed\ndata: {data}\n\n")
        };
        return Ok(Made::Events((0..count).map(event).collect()));
    }
    let data: Vec<Value> = (0..count).map(|index| json!({format: image(index)})).collect();
    let mut answer = json!({"created": MADE, "data": data});
    if script.usage != Usage::Never {
        answer["usage"] = json!({"input_tokens": 5, "output_tokens": 100, "total_tokens": 105});
    }
    Ok(Made::Json(answer))
}

fn speech(object: &Object<'_>) -> Read<Made> {
    object.text("input")?;
    object.need("voice")?;
    object.numbers(&["speed"])?;
    let format = match object.get("response_format") {
        Some(format) => format.word(&["mp3", "opus", "aac", "flac", "wav", "pcm"])?,
        None => "mp3",
    };
    if object.get("stream_format").is_some_and(|format| format.value == "sse") {
        let delta = json!({"type": "speech.audio.delta", "audio": "AAAA"});
        let usage = json!({"input_tokens": 4, "output_tokens": 9, "total_tokens": 13});
        let done = json!({"type": "speech.audio.done", "usage": usage});
        return Ok(Made::Events(vec![format!("data: {delta}\n\n"), format!("data: {done}\n\n")]));
    }
    Ok(Made::Sound(match format {
        "mp3" => "audio/mpeg",
        "opus" => "audio/opus",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        _ => "audio/pcm",
    }))
}

/// The text says what was seen of the file.
fn transcription(object: &Object<'_>, script: &Script<'_>) -> Read<Made> {
    let file = object.need("file")?;
    let about = file.open_object().or_else(|_| file.wrong("must be a file"))?;
    let value = |name: &str| {
        about.get(name).map_or(String::new(), |at| match at.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let seen = ["filename", "content_type", "bytes", "crc32"].map(value).join(" ");
    if let Some(temperature) = object.get("temperature")
        && temperature.text()?.parse::<f64>().is_err()
    {
        return temperature.wrong("must be a number");
    }
    let words = ["word", "segment"];
    if let Some(wanted) = object.get("timestamp_granularities[]") {
        wanted.list()?.iter().try_for_each(|item| item.word(&words).map(drop))?;
    }
    let format = match object.get("response_format") {
        Some(format) => format.word(&["json", "text", "srt", "verbose_json", "vtt"])?,
        None => "json",
    };
    if object.get("stream").is_some_and(|stream| stream.value == "true") {
        let delta = json!({"type": "transcript.text.delta", "delta": seen});
        let done = json!({"type": "transcript.text.done", "text": seen});
        let events = [delta, done].map(|event| format!("data: {event}\n\n"));
        return Ok(Made::Events(events.into()));
    }
    let order = object.get("order").map_or(Value::Null, |order| order.value.clone());
    let file = file.value;
    Ok(match format {
        "text" => Made::Text(format!("{seen}\n")),
        "srt" => Made::Text(format!("1\n00:00:00,000 --> 00:00:01,000\n{seen}\n\n")),
        "vtt" => Made::Text(format!("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{seen}\n\n")),
        "verbose_json" => Made::Json(json!({"task": "transcribe", "language": "english",
            "duration": 1.0, "text": seen, "file": file, "fields": order,
            "segments": [{"id": 0, "seek": 0, "start": 0.0, "end": 1.0, "text": seen}]})),
        _ => {
            let mut answer = json!({"text": seen, "file": file, "fields": order});
            if script.usage != Usage::Never {
                answer["usage"] = json!({"type": "duration", "seconds": 1});
            }
            Made::Json(answer)
        }
    })
}

/// Looks whether an embeddings body has only documented fields.
pub(in crate::mock) fn strict_embeddings(strict: Strict, raw: &[u8]) -> Result<(), Refusal> {
    let body: Value =
        serde_json::from_slice(raw).map_err(|error| (400, format!("bad body: {error}")))?;
    let (status, known): (u16, &[&str]) = match strict {
        Strict::Own => (400, &["model", "input", "user", "encoding_format", "dimensions"]),
        Strict::Together => (400, &["model", "input"]),
        Strict::Mistral => (
            422,
            &["model", "input", "metadata", "encoding_format", "output_dimension", "output_dtype"],
        ),
        Strict::Voyage => (
            400,
            &[
                "model",
                "input",
                "input_type",
                "truncation",
                "output_dimension",
                "output_dtype",
                "encoding_format",
            ],
        ),
    };
    let read = || -> Read<()> {
        let object = At::body(&body).object(known)?;
        let input = object.need("input")?;
        if strict != Strict::Own && input.text().is_err() {
            input.texts()?;
        }
        if strict == Strict::Voyage
            && let Some(format) = object.get("encoding_format")
        {
            format.word(&["base64"])?;
        }
        object.wholes(&["dimensions", "output_dimension"])
    };
    read().map_err(|message| (status, message))
}
