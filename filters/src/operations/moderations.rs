//! Moderations: OpenAI's format and Mistral's, answered in the one that the reference answers in.

use serde_json::value::RawValue;

use super::inbound::{Answered, How, Inbound, Told, failure};
use super::price::Measured;
use super::same;
use super::way::{Call, Made};
use crate::rejection::Rejection;
use crate::translate::neutral::Failure;
use crate::translate::out::{self, Fields};
use crate::translate::text::Text;
use crate::translate::{Fault, Object};

/// The request: the same for all.
pub(super) fn write(call: &Call<'_>) -> Result<Made, Rejection> {
    // Another gateway answers as this one does.
    let how = if call.upstream.kind.name == "otari" { How::Same } else { How::Moderations };
    Ok(Made::same(same::body(call, &[], Vec::new()), how))
}

/// The answer: a category that the provider leaves open is left out.
pub(super) fn answer(body: &[u8], inbound: &Inbound, told: &Told<'_>) -> Result<Answered, Failure> {
    let object = Object::document(body).map_err(|fault| failure(&fault.to_string()))?;
    let results = match object.get("results") {
        Some(raw) if raw.get().starts_with('[') => {
            serde_json::from_str::<Vec<&RawValue>>(raw.get()).unwrap_or_default()
        }
        _ => {
            return Err(super::inbound::said(&object)
                .unwrap_or_else(|| failure("the answer has no `results`")));
        }
    };
    let mut out = Vec::with_capacity(body.len() + 256);
    let mut fault = None;
    out::object(&mut out, |to| {
        match object.maybe_text("id") {
            Some(id) => to.text("id", &id),
            None => to.word("id", &format!("modr-{}", told.id)),
        }
        to.text("model", &object.maybe_text("model").unwrap_or_else(|| Text::of(&inbound.model)));
        to.list("results", |list| {
            for raw in results {
                match Object::read(raw) {
                    Some(result) => {
                        list.item().object(|to| one(to, &result, raw, inbound.include_raw))
                    }
                    None => fault = Some(Fault::new("results", "must be a list of objects")),
                }
            }
        });
    });
    match fault {
        None => Ok(Answered { body: Some(out.into()), measured: Measured::default() }),
        Some(fault) => Err(failure(&fault.to_string())),
    }
}

fn one(to: &mut Fields<'_>, result: &Object<'_>, raw: &RawValue, include_raw: bool) {
    let categories = result.maybe_object("categories");
    let is_set = |raw: &RawValue| raw.get() == "true";
    // Mistral does not sum up.
    let flagged = match result.get("flagged") {
        Some(raw) => is_set(raw),
        None => categories.values().any(is_set),
    };
    let copy = |to: &mut Fields<'_>, name: &str, object: &Object<'_>, fits: fn(&str) -> bool| {
        to.object(name, |to| {
            for (name, value) in object.fields().filter(|(_, value)| fits(value)) {
                to.field(Text::of(name).escaped()).json(value);
            }
        });
    };
    to.flag("flagged", flagged);
    copy(to, "categories", &categories, |json| matches!(json, "true" | "false"));
    let is_number = |json: &str| json.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    copy(to, "category_scores", &result.maybe_object("category_scores"), is_number);
    match result.inner("category_applied_input_types") {
        Some(types) => {
            copy(to, "category_applied_input_types", &types, |json| json.starts_with('['))
        }
        None => to.null("category_applied_input_types"),
    }
    match include_raw {
        true => to.raw("provider_raw", raw),
        false => to.null("provider_raw"),
    }
}
