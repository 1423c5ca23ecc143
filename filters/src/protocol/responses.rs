//! OpenAI responses.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses> (2026-11-22).

use super::check::{MCP_SERVER_IDS, SESSION_LABEL};
use super::json::range_of;
use super::request::{Request, declared_output};
use super::top::{Format, Top};
use crate::tools::{GUARDRAILS, ITERATIONS, LONG_HEADER, MCP_SERVERS};
use crate::validate::{Field, Kind};

/// What the gateway reads of a request; all other fields are the provider's business.
pub const FIELDS: [Field; 13] = [
    Field::new("model", Kind::Text, "`provider:model`, an alias, or a bare name").required(),
    Field::new("input", Kind::Any, "A string, or a list of items").required(),
    Field::new("instructions", Kind::Any, "Counts as a part of the prompt"),
    Field::new("max_output_tokens", Kind::Any, "Output that is held against the budget"),
    Field::new("stream", Kind::Flag, "Whether the answer is a stream of events"),
    Field::new("user", Kind::Text, "Who is billed; the master key must say it"),
    Field::new("tools", Kind::List, "The provider's business"),
    MCP_SERVERS,
    MCP_SERVER_IDS,
    GUARDRAILS,
    LONG_HEADER,
    ITERATIONS,
    SESSION_LABEL,
];

pub(super) static FORMAT: Format = Format {
    fields: &FIELDS,
    prompt: &["input", "instructions"],
    needs_role: false,
    codex: &["client_metadata"],
    noted: &[],
};

/// What this format alone has.
pub(super) fn describe(body: &[u8], top: &Top<'_>, request: &mut Request) {
    request.user = top.text("user");
    request.user_at = top.raw("user").map(|raw| range_of(body, raw));
    request.declared_output = declared_output(top, &["max_output_tokens"]);
}
