//! OpenAI chat completions.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat> (2026-11-22).

use bytes::Bytes;
use serde_json::value::RawValue;

use super::check::{MCP_SERVER_IDS, SESSION_LABEL, WHOLE, tokens};
use super::dialect;
use super::json::{Edit, range_of};
use super::request::{Request, declared_output};
use super::top::{Format, Top};
use crate::tools::{GUARDRAILS, HEADER, ITERATIONS, MCP_SERVERS};
use crate::validate::{Field, Kind};

/// What the gateway reads of a request; all other fields are the provider's business.
pub const FIELDS: [Field; 19] = [
    Field::new("model", Kind::Text, "`provider:model`, an alias, or a bare name").required(),
    Field::new("messages", Kind::List, "At least one; each an object with a `role`").required(),
    Field::new("user", Kind::Text, "Who is billed; the master key must say it"),
    Field::new("temperature", Kind::Number, "The provider's business"),
    Field::new("top_p", Kind::Number, "The provider's business"),
    Field::new("max_tokens", WHOLE, "Output that is held against the budget"),
    Field::new("max_completion_tokens", WHOLE, "The same, when max_tokens is absent"),
    Field::new("n", Kind::Any, "How many choices are held for; 1 unless it is an integer"),
    Field::new("stream", Kind::Flag, "Whether the answer is a stream of events"),
    Field::new("stream_options", Kind::Object, "`include_usage` shows the chunk with the usage"),
    Field::new("tools", Kind::List, "The provider's business"),
    Field::new("tool_choice", Kind::TextOrObject, "The provider's business"),
    Field::new("response_format", Kind::Object, "The provider's business"),
    MCP_SERVERS,
    MCP_SERVER_IDS,
    GUARDRAILS,
    HEADER,
    ITERATIONS,
    SESSION_LABEL,
];

pub(super) static FORMAT: Format = Format {
    fields: &FIELDS,
    prompt: &["messages"],
    needs_role: true,
    codex: &[],
    noted: dialect::CHAT,
};

/// What this format alone has.
pub(super) fn describe(body: &[u8], top: &Top<'_>, request: &mut Request) {
    request.user = top.text("user");
    request.user_at = top.raw("user").map(|raw| range_of(body, raw));
    request.declared_output = declared_output(top, &["max_tokens", "max_completion_tokens"]);
    request.choices = top.get("n").and_then(tokens).unwrap_or(1).max(1);
    match top.raw("stream_options") {
        None => {
            let after_brace = memchr::memchr(b'{', body).map_or(0, |at| at + 1);
            request.usage_edit = Some(Edit {
                range: after_brace..after_brace,
                with: Bytes::from_static(br#""stream_options":{"include_usage":true},"#),
            });
        }
        Some(raw) => {
            let with = asking(raw);
            request.wants_usage = with.is_none();
            request.usage_edit = with.map(|with| Edit { range: range_of(body, raw), with });
        }
    }
}

/// `stream_options` with usage asked for; `None` when it is already.
fn asking(raw: &RawValue) -> Option<Bytes> {
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str::<Option<_>>(raw.get()).ok().flatten().unwrap_or_default();
    if object.get("include_usage") == Some(&serde_json::Value::Bool(true)) {
        return None;
    }
    object.insert("include_usage".into(), true.into());
    serde_json::to_vec(&object).ok().map(Bytes::from)
}
