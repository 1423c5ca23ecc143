//! Reading a request with a JSON body.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::input::{Input, Shape};
use super::{Asked, Kind, Units, fields};
use crate::protocol::check::{self, echo};
use crate::protocol::json::{self, is_null, range_of};
use crate::protocol::top::Top;
use crate::rejection::Rejection;
use crate::validate::{self, Faults, Field};

/// See [`Asked::read`].
pub(super) fn read(kind: Kind, body: &Bytes, query: Option<&str>) -> Result<Asked, Rejection> {
    let include_raw = kind == Kind::Moderations && include_raw(query)?;
    let top = check::read_with(fields::format_of(kind), body, |faults, top, field| {
        check_field(kind, faults, top, field);
    })?;
    let at = |raw: &RawValue| range_of(body, raw);
    let is = |name: &str, word: &str| top.text(name).is_some_and(|text| text == word);
    let flag = top.get("stream").is_some_and(|raw| check::truthy(raw.get()) == Some(true));
    Ok(Asked {
        kind,
        model: top.text("model").unwrap_or_default(),
        user: top.text("user"),
        units: units(kind, &top),
        include_raw,
        base64: is("encoding_format", "base64"),
        format: top.text("response_format"),
        stream: flag || is("stream_format", "sse"),
        model_at: top.raw("model").map(at).unwrap_or_default(),
        user_at: top.raw("user").map(at),
        unwanted: top.unwanted.iter().copied().map(at).collect(),
        nulls: nulls(kind, &top).map(at).collect(),
    })
}

fn nulls<'a>(kind: Kind, top: &Top<'a>) -> impl Iterator<Item = &'a RawValue> {
    kind.fields().iter().filter_map(|field| top.raw(field.name)).filter(|raw| is_null(raw))
}

fn units(kind: Kind, top: &Top<'_>) -> Units {
    let read = |name| top.get(name).map(Input::read).unwrap_or_default();
    match kind {
        Kind::Embeddings => {
            let input = read("input");
            Units::Text { chars: input.chars, tokens: input.tokens }
        }
        Kind::Rerank => {
            let (query, documents) = (read("query"), read("documents"));
            Units::Text { chars: query.chars.saturating_add(documents.chars), tokens: 0 }
        }
        Kind::Images => Units::Images(top.get("n").and_then(check::tokens).unwrap_or(1).max(1)),
        Kind::Moderations | Kind::Speech | Kind::Transcription => Units::Call,
    }
}

fn check_field(kind: Kind, faults: &mut Faults, top: &Top<'_>, field: &Field) {
    let Some(raw) = top.raw(field.name) else {
        return check::check(faults, top, field);
    };
    match (kind, field.name) {
        (Kind::Embeddings | Kind::Moderations, "input") => input(kind, faults, raw),
        (Kind::Rerank, "documents") if raw.get().starts_with('[') => documents(faults, top, field),
        (Kind::Rerank, "top_n" | "max_tokens_per_doc") if !is_null(raw) => {
            above_zero(faults, top, field, raw);
        }
        _ => check::check(faults, top, field),
    }
}

/// Text, or a list of what the operation takes; a fault names every branch.
fn input(kind: Kind, faults: &mut Faults, raw: &RawValue) {
    let input = Input::read(raw);
    let is_fine = match input.shape {
        Shape::Text | Shape::Texts => true,
        Shape::Tokens | Shape::TokenLists => kind == Kind::Embeddings,
        Shape::Objects => kind == Kind::Moderations,
        Shape::Other => false,
    };
    if is_fine {
        return;
    }
    let (body, name): (Value, Value) = ("body".into(), "input".into());
    let mut add = |branch: &[Value], (kind, message): (&str, &str)| {
        let loc: Vec<Value> = [&[body.clone(), name.clone()], branch].concat();
        faults.add(kind, &loc, message, echo(raw), Value::Null);
    };
    const TEXT: (&str, &str) = ("string_type", "Input should be a valid string");
    const LIST: (&str, &str) = ("list_type", "Input should be a valid list");
    const DICT: (&str, &str) = ("dict_type", "Input should be a valid dictionary");
    add(&["str".into()], TEXT);
    match input.odd {
        Some(at) => add(&["list[str]".into(), at.into()], TEXT),
        None => add(&["list[str]".into()], LIST),
    }
    if kind == Kind::Moderations {
        let branch = "list[dict[str,any]]";
        match input.odd_object {
            Some(at) => add(&[branch.into(), at.into()], DICT),
            None => add(&[branch.into()], LIST),
        }
    }
}

fn documents(faults: &mut Faults, top: &Top<'_>, field: &Field) {
    let input = top.raw(field.name).map(Input::read).unwrap_or_default();
    if input.count > 0 {
        return check::check(faults, top, field);
    }
    let message = "List should have at least 1 item after validation, not 0";
    let context = json!({"field_type": "List", "min_length": 1, "actual_length": 0});
    faults.add("too_short", &["body".into(), field.name.into()], message, json!([]), context);
}

fn above_zero(faults: &mut Faults, top: &Top<'_>, field: &Field, raw: &RawValue) {
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    match validate::lax_int(&value) {
        Ok(number) if number <= 0 => {
            let message = "Input should be greater than 0";
            let loc = ["body".into(), field.name.into()];
            faults.add("greater_than", &loc, message, value, json!({"gt": 0}));
        }
        _ => check::check(faults, top, field),
    }
}

/// `include_raw` of the query; of several the last.
fn include_raw(query: Option<&str>) -> Result<bool, Rejection> {
    let mut pairs =
        query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let Some((_, text)) = pairs.rfind(|(name, _)| *name == "include_raw") else {
        return Ok(false);
    };
    validate::lax_bool(&text.into()).map_err(|(kind, message)| {
        let mut faults = Faults::default();
        faults.add(
            kind,
            &["query".into(), "include_raw".into()],
            message,
            text.into(),
            Value::Null,
        );
        faults.into_rejection(crate::rejection::Code::InvalidFields)
    })
}

/// Whether a value is a string of this text.
pub(super) fn is_text(raw: &RawValue, text: &str) -> bool {
    json::text(raw).is_some_and(|known| known == text)
}
