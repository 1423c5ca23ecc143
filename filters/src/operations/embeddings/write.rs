//! Requests in formats that are not OpenAI's.

use serde_json::value::RawValue;

use super::super::rerank::number;
use super::super::way::{Call, Made};
use super::{Format, How, refuse_dimensions, texts};
use crate::protocol::top::{GATEWAY_FIELDS, STEERING_FIELDS};
use crate::rejection::{Code, Rejection};
use crate::translate::neutral::Dropped;
use crate::translate::out::{self, Fields};
use crate::translate::text::Text;
use crate::translate::{Fault, Object};

/// What is repeated for every text must be short: many empty texts would make much of it.
const MAX_REPEATED: usize = 256;

/// What every format has a place for, or needs none.
const READ: [&str; 4] = ["model", "input", "user", "encoding_format"];

pub(super) fn write(call: &Call<'_>, format: Format) -> Result<Made, Rejection> {
    let object = Object::document(call.body)?;
    let provider = call.upstream.kind.name;
    let texts = texts(&object, provider)?;
    let wanted = object.maybe_text("encoding_format");
    if wanted.is_some_and(|wanted| !wanted.is("float") && !wanted.is("base64")) {
        return Err(Fault::new("encoding_format", "must be `float` or `base64`").into());
    }
    let length = length(&object)?;
    let mut body = Vec::with_capacity(call.body.len() + 256);
    let known: &[&str] = match format {
        Format::Gemini => {
            gemini(&mut body, &Task::of(&object, &texts)?, length, call.model)?;
            &["dimensions", "task_type", "title"]
        }
        Format::Vertex => {
            vertex(&mut body, &Task::of(&object, &texts)?, length, object.get("auto_truncate"));
            &["dimensions", "task_type", "title", "auto_truncate"]
        }
        Format::Titan => {
            titan(&mut body, &object, &texts, length)?;
            &["dimensions", "normalize"]
        }
        Format::Cohere => {
            // At Amazon the address names the model.
            let model = (provider == "cohere").then_some(call.model);
            cohere(&mut body, &object, &texts, length, model);
            &["dimensions", "input_type", "embedding_types", "truncate", "max_tokens"]
        }
        Format::Ollama => {
            ollama(&mut body, &object, &texts, length, call.model);
            &["dimensions", "truncate", "options", "keep_alive"]
        }
        Format::Watsonx => {
            refuse_dimensions(&object, provider)?;
            watsonx(&mut body, &object, &texts, call);
            &["parameters"]
        }
        Format::SageMaker => {
            refuse_dimensions(&object, provider)?;
            out::object(&mut body, |to| match texts.as_slice() {
                [one] => to.raw("inputs", one),
                _ => list(to, "inputs", &texts),
            });
            &[]
        }
    };
    let mut dropped = Dropped::default();
    for (name, _) in object.fields() {
        let ours = GATEWAY_FIELDS.contains(&name) || STEERING_FIELDS.contains(&name);
        if !ours && !READ.contains(&name) && !known.contains(&name) {
            dropped.add_theirs("", name);
        }
    }
    Ok(Made::anew(body, dropped, How::Embeddings(format)))
}

fn list(to: &mut Fields<'_>, name: &str, texts: &[&RawValue]) {
    to.list(name, |list| texts.iter().for_each(|text| list.item().json(text.get())));
}

/// How long the vectors are to be.
fn length(object: &Object<'_>) -> Result<Option<u64>, Fault> {
    let Some(raw) = object.get("dimensions") else { return Ok(None) };
    let length = number(raw).filter(|length| *length > 0);
    length.map(Some).ok_or_else(|| Fault::new("dimensions", "must be a whole number above 0"))
}

/// Texts, and what Google is told beside each.
struct Task<'t, 'a> {
    texts: &'t [&'a RawValue],
    kind: Option<&'a RawValue>,
    title: Option<&'a RawValue>,
}

impl<'t, 'a> Task<'t, 'a> {
    fn of(object: &Object<'a>, texts: &'t [&'a RawValue]) -> Result<Self, Fault> {
        let (kind, title) = (object.get("task_type"), object.get("title"));
        if kind.is_some_and(|kind| !kind.get().starts_with('"') || kind.get().len() > MAX_REPEATED)
        {
            return Err(Fault::new("task_type", "must be a word such as `RETRIEVAL_QUERY`"));
        }
        if title.is_some() && texts.len() > 1 {
            return Err(Fault::new("title", "is the title of one text: send the texts one by one"));
        }
        Ok(Self { texts, kind, title })
    }
}

fn gemini(
    body: &mut Vec<u8>,
    task: &Task<'_, '_>,
    length: Option<u64>,
    model: &str,
) -> Result<(), Rejection> {
    if model.len() > MAX_REPEATED {
        let message = "the name of the model is longer than any that this provider has";
        return Err(Rejection::new(Code::ModelNotFound, message));
    }
    let is_qualified = model.starts_with("models/") || model.starts_with("tunedModels/");
    let model = if is_qualified { model.to_owned() } else { format!("models/{model}") };
    out::object(body, |to| {
        to.list("requests", |list| {
            for text in task.texts {
                list.object(|to| {
                    to.text("model", &Text::of(&model));
                    to.object("content", |to| {
                        to.list("parts", |list| list.object(|to| to.raw("text", text)));
                    });
                    to.maybe_raw("taskType", task.kind);
                    to.maybe_raw("title", task.title);
                    maybe_number(to, "outputDimensionality", length);
                });
            }
        });
    });
    Ok(())
}

fn vertex(
    body: &mut Vec<u8>,
    task: &Task<'_, '_>,
    length: Option<u64>,
    truncate: Option<&RawValue>,
) {
    out::object(body, |to| {
        to.list("instances", |list| {
            for text in task.texts {
                list.object(|to| {
                    to.raw("content", text);
                    to.maybe_raw("task_type", task.kind);
                    to.maybe_raw("title", task.title);
                });
            }
        });
        if length.is_some() || truncate.is_some() {
            to.object("parameters", |to| {
                maybe_number(to, "outputDimensionality", length);
                to.maybe_raw("autoTruncate", truncate);
            });
        }
    });
}

fn maybe_number(to: &mut Fields<'_>, name: &str, number: Option<u64>) {
    if let Some(number) = number {
        to.number(name, number);
    }
}

/// # Errors
/// When there is more than one text.
fn titan(
    body: &mut Vec<u8>,
    object: &Object<'_>,
    texts: &[&RawValue],
    length: Option<u64>,
) -> Result<(), Rejection> {
    let [text] = texts else {
        let message = "`input` has several texts, and this model of Amazon takes one in a call: send them one by one";
        return Err(Rejection::new(Code::InvalidValue, message));
    };
    out::object(body, |to| {
        to.raw("inputText", text);
        maybe_number(to, "dimensions", length);
        to.maybe_raw("normalize", object.get("normalize"));
    });
    Ok(())
}

fn cohere(
    body: &mut Vec<u8>,
    object: &Object<'_>,
    texts: &[&RawValue],
    length: Option<u64>,
    model: Option<&str>,
) {
    out::object(body, |to| {
        if let Some(model) = model {
            to.text("model", &Text::of(model));
        }
        list(to, "texts", texts);
        match object.get("input_type") {
            Some(raw) => to.raw("input_type", raw),
            None => to.word("input_type", "search_document"),
        }
        match object.get("embedding_types") {
            Some(raw) => to.raw("embedding_types", raw),
            None => to.json("embedding_types", r#"["float"]"#),
        }
        maybe_number(to, "output_dimension", length);
        to.maybe_raw("truncate", object.get("truncate"));
        to.maybe_raw("max_tokens", object.get("max_tokens"));
    });
}

fn ollama(
    body: &mut Vec<u8>,
    object: &Object<'_>,
    texts: &[&RawValue],
    length: Option<u64>,
    model: &str,
) {
    out::object(body, |to| {
        to.text("model", &Text::of(model));
        list(to, "input", texts);
        maybe_number(to, "dimensions", length);
        for name in ["truncate", "options", "keep_alive"] {
            to.maybe_raw(name, object.get(name));
        }
    });
}

fn watsonx(body: &mut Vec<u8>, object: &Object<'_>, texts: &[&RawValue], call: &Call<'_>) {
    out::object(body, |to| {
        to.text("model_id", &Text::of(call.model));
        list(to, "inputs", texts);
        for name in ["project_id", "space_id"] {
            if let Some(id) = call.upstream.setting(name) {
                to.text(name, &Text::of(id));
            }
        }
        to.maybe_raw("parameters", object.get("parameters"));
    });
}
