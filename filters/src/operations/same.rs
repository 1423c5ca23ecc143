//! The caller's own bytes, for a provider that speaks the same format: the model's name replaced, the fields taken out
//! that only the gateway is meant to get. Fields that nobody here has heard of pass.

use std::ops::Range;

use bytes::Bytes;

use super::Kind;
use super::way::Call;
use crate::protocol::json::{Edit, removals, splice};
use crate::providers::Family;

/// The body with further fields taken out, by the places of their values, and with further edits.
pub(super) fn body(call: &Call<'_>, gone: &[Range<usize>], edits: Vec<Edit>) -> Vec<Bytes> {
    let asked = call.asked;
    let mut all_gone = asked.unwanted.clone();
    // Only these formats have a user of their own.
    let keep_user = call.keep_user && matches!(asked.kind, Kind::Embeddings | Kind::Images);
    if !keep_user {
        all_gone.extend(asked.user_at.clone());
    }
    // The inventor of the format takes nulls, and so do those who copy it.
    if !matches!(call.upstream.kind.family, Family::OpenAi | Family::AzureOpenAi | Family::Mock)
        || asked.kind == Kind::Rerank
    {
        all_gone.extend_from_slice(&asked.nulls);
    }
    all_gone.extend_from_slice(gone);
    all_gone.sort_unstable_by_key(|at| at.start);
    all_gone.dedup();
    let mut all = removals(call.body, all_gone);
    let quoted = serde_json::to_vec(call.model).unwrap_or_default();
    all.push(Edit { range: asked.model_at.clone(), with: quoted.into() });
    all.extend(edits);
    splice(call.body, all)
}

/// A field at the beginning of the object: `json` is its value.
pub(super) fn insert(body: &[u8], name: &str, json: &str) -> Edit {
    let at = memchr::memchr(b'{', body).map_or(0, |at| at + 1);
    Edit { range: at..at, with: format!("\"{name}\":{json},").into() }
}
