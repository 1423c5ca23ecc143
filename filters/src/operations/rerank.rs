//! Rerank: Cohere's format, and those of the others.
//!
//! Sources: <https://docs.cohere.com/v2/reference/rerank>, <https://docs.voyageai.com/reference/reranker-api>,
//! <https://docs.together.ai/reference/rerank>; 2026-11-23.

use serde_json::value::RawValue;

use super::inbound::{Answered, How, failure, said, usage_of};
use super::price::Measured;
use super::way::{Call, Made, refuse};
use super::{Kind, input_only, same};
use crate::protocol::json::range_of;
use crate::rejection::Rejection;
use crate::translate::Object;
use crate::translate::neutral::Failure;
use crate::translate::out;

/// Whose answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Cohere,
    Voyage,
    Together,
}

/// The request, which differs in a name.
pub(super) fn write(call: &Call<'_>) -> Result<Made, Rejection> {
    let object = Object::document(call.body)?;
    let provider = call.upstream.kind.name;
    let refuse_cut = || match object.get("max_tokens_per_doc") {
        Some(_) => Err(refuse("max_tokens_per_doc", provider)),
        None => Ok(()),
    };
    Ok(match provider {
        "voyage" => {
            refuse_cut()?;
            let top = object.get("top_n");
            let gone: Vec<_> = top.map(|raw| range_of(call.body, raw)).into_iter().collect();
            let edits = top.map(|raw| same::insert(call.body, "top_k", raw.get()));
            let body = same::body(call, &gone, edits.into_iter().collect());
            Made::same(body, How::Rerank(Format::Voyage))
        }
        "together" => {
            refuse_cut()?;
            Made::same(same::body(call, &[], Vec::new()), How::Rerank(Format::Together))
        }
        "cohere" => Made::same(same::body(call, &[], Vec::new()), How::Rerank(Format::Cohere)),
        // Another gateway, which answers as this one does.
        _ => Made::same(same::body(call, &[], Vec::new()), How::Same),
    })
}

/// The answer: the most relevant first, and nothing but what every provider can say.
pub(super) fn answer(format: Format, body: &[u8]) -> Result<Answered, Failure> {
    let object = Object::document(body).map_err(|fault| failure(&fault.to_string()))?;
    let list = if format == Format::Voyage { "data" } else { "results" };
    if object.get(list).is_none() {
        return Err(
            said(&object).unwrap_or_else(|| failure(&format!("the answer has no `{list}`")))
        );
    }
    let results = object.objects(list).map_err(|fault| failure(&fault.to_string()))?;
    let mut ranked = Vec::with_capacity(results.len());
    for result in &results {
        let found = (result.get("index"), result.get("relevance_score"));
        let (Some(index), Some(score)) = found else {
            return Err(failure("a result has no index or no relevance_score"));
        };
        ranked.push((index.get(), score, score.get().parse().unwrap_or(f64::MIN)));
    }
    // What is equal stays as the provider has it.
    ranked.sort_by(|a, b| f64::total_cmp(&b.2, &a.2));
    let meta = object.inner("meta");
    let total = match (format, &meta) {
        (Format::Cohere, meta) => {
            meta.as_ref().and_then(|meta| number(meta.maybe_object("tokens").get("input_tokens")?))
        }
        _ => object
            .get("usage")
            .and_then(|raw| usage_of(Kind::Rerank, raw.get().as_bytes()))
            .map(|usage| usage.total_tokens),
    };
    let mut out = Vec::with_capacity(512);
    out::object(&mut out, |to| {
        match object.maybe_text("id") {
            Some(id) => to.text("id", &id),
            None => to.null("id"),
        }
        to.list("results", |list| {
            for (index, score, _) in &ranked {
                list.item().object(|to| {
                    to.json("index", index);
                    to.raw("relevance_score", score);
                });
            }
        });
        match &meta {
            Some(meta) => to.object("meta", |to| {
                for name in ["billed_units", "tokens"] {
                    match meta.get(name) {
                        Some(raw) => to.raw(name, raw),
                        None => to.null(name),
                    }
                }
            }),
            None => to.null("meta"),
        }
        match total {
            Some(total) => to.object("usage", |to| to.number("total_tokens", total)),
            None => to.null("usage"),
        }
    });
    let usage = total.map(|total| input_only(total, total));
    Ok(Answered { body: Some(out.into()), measured: Measured { usage, images: None } })
}

/// A count, which some write with a fraction of zero.
pub(super) fn number(raw: &RawValue) -> Option<u64> {
    let value = serde_json::from_str(raw.get()).ok()?;
    u64::try_from(crate::validate::lax_int(&value).ok()?).ok()
}
