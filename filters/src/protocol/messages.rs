//! Anthropic messages.
//!
//! Source: <https://docs.anthropic.com/en/api/messages> (2026-11-22).

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::fmt;

use super::check::{self, MCP_SERVER_IDS, SESSION_LABEL, WHOLE};
use super::dialect;
use super::json::{is_null, range_of, text};
use super::repr;
use super::request::{Request, declared_output};
use super::top::{Format, Key, Top};
use crate::rejection::Rejection;
use crate::tools::{GUARDRAILS, ITERATIONS, LONG_HEADER, MCP_SERVERS};
use crate::validate::{Faults, Field, Kind};

const MODEL: Field =
    Field::new("model", Kind::Text, "`provider:model`, an alias, or a bare name").required();
const MESSAGES: Field = Field::new("messages", Kind::List, "At least one object").required();
const SYSTEM: Field = Field::new("system", Kind::Any, "A string, or a list of blocks");
const TOOLS: Field = Field::new("tools", Kind::List, "The provider's business");
const TOOL_CHOICE: Field = Field::new("tool_choice", Kind::Object, "The provider's business");
const METADATA: Field = Field::new(
    "metadata",
    Kind::Object,
    "`user_id` says who is billed when it is a user's id; the master key must say it",
);
const THINKING: Field = Field::new("thinking", Kind::Object, "The provider's business");
const CACHE_CONTROL: Field = Field::new("cache_control", Kind::Object, "The provider's business");

/// What the gateway reads of a request; all other fields are the provider's business.
pub const FIELDS: [Field; 20] = [
    MODEL,
    MESSAGES,
    Field::new("max_tokens", WHOLE, "Output that is held against the budget").required(),
    SYSTEM,
    Field::new("temperature", Kind::Number, "The provider's business"),
    Field::new("top_p", Kind::Number, "The provider's business"),
    Field::new("top_k", WHOLE, "The provider's business"),
    Field::new("stream", Kind::Flag, "Whether the answer is a stream of events"),
    Field::new("stop_sequences", Kind::Texts, "The provider's business"),
    TOOLS,
    TOOL_CHOICE,
    METADATA,
    THINKING,
    CACHE_CONTROL,
    MCP_SERVERS,
    MCP_SERVER_IDS,
    GUARDRAILS,
    LONG_HEADER,
    ITERATIONS,
    SESSION_LABEL,
];

pub(super) static FORMAT: Format = Format {
    fields: &FIELDS,
    prompt: &["messages", "system"],
    needs_role: false,
    codex: &[],
    noted: dialect::MESSAGES,
};

/// What this format alone has.
///
/// # Errors
/// `invalid_fields` when the user is named twice: the provider might read the other one.
pub(super) fn describe(body: &[u8], top: &Top<'_>, request: &mut Request) -> Result<(), Rejection> {
    request.declared_output = declared_output(top, &["max_tokens"]);
    let metadata = top.get("metadata").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let Some(Metadata { user_id, is_repeated }) = metadata else { return Ok(()) };
    if is_repeated {
        let mut faults = Faults::default();
        let loc = ["body".into(), "metadata".into(), "user_id".into()];
        let message = "Value error, the field is given more than once";
        faults.add("value_error", &loc, message, Value::Null, json!({"error": {}}));
        return faults.check();
    }
    request.user = user_id.and_then(text).filter(|user| !user.is_empty());
    request.user_at = user_id.map(|raw| range_of(body, raw));
    Ok(())
}

/// Whom `metadata` names.
#[derive(Default)]
struct Metadata<'a> {
    user_id: Option<&'a RawValue>,
    is_repeated: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Metadata<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Metadata<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata<'de>, A::Error> {
                let mut names = Metadata::default();
                while let Some(Key(key)) = map.next_key()? {
                    if key == "user_id" {
                        names.is_repeated |= names.user_id.is_some();
                        names.user_id = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(names)
            }
        }
        from.deserialize_map(Names)
    }
}

/// What is read of a request to count tokens.
pub const COUNT_FIELDS: [Field; 8] =
    [MODEL, MESSAGES, SYSTEM, TOOLS, TOOL_CHOICE, THINKING, METADATA, CACHE_CONTROL];

static COUNT_FORMAT: Format =
    Format { fields: &COUNT_FIELDS, prompt: &[], needs_role: false, codex: &[], noted: &[] };

/// What a request to count tokens asks for, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The selector as sent. It does not change the count.
    pub model: String,
    /// A quarter of the characters of messages, system and tools in the reference gateway's own textual form, rounded
    /// up; at least 1.
    pub tokens: u64,
}

/// Estimates the tokens of a prompt.
///
/// # Errors
/// `invalid_json` when the body is not one JSON document, `invalid_fields` with every fault at once.
pub fn count_tokens(body: &Bytes) -> Result<Count, Rejection> {
    let top = check::read(&COUNT_FORMAT, body)?;
    let chars = |name| match top.get(name) {
        None => 0,
        Some(raw) if is_null(raw) || matches!(raw.get(), "\"\"" | "[]") => 0,
        // A system prompt that is a text counts as it is, without quotes.
        Some(raw) => text(raw).map_or_else(|| repr::chars(raw), |text| text.chars().count() as u64),
    };
    let model = top.get("model").and_then(text).unwrap_or_default();
    let chars = chars("messages") + chars("system") + chars("tools");
    Ok(Count { model, tokens: chars.div_ceil(4).max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_as_the_reference_counts_them() {
        for (body, want) in [
            // 46 characters.
            (r#"{"model":"x","messages":[{"role":"user","content":"Hello, world!"}]}"#, 12),
            (r#"{"model":"x","messages":[{}],"system":"","tools":[],"max_tokens":"?"}"#, 1),
            // 4 + 5.
            (r#"{"model":"x","messages":[{}],"system":"héllo"}"#, 3),
            // 4 + "[{'type': 'text', 'text': 'a'}]" + "[{'name': 'f', 'strict': True}]".
            (
                r#"{"model":"x","messages":[{}],"system":[{"type":"text","text":"a"}],"tools":[{"name":"f","strict":true}]}"#,
                (4 + 31 + 31u64).div_ceil(4),
            ),
        ] {
            let count = count_tokens(&Bytes::from_static(body.as_bytes())).unwrap();
            assert_eq!((count.tokens, &*count.model), (want, "x"), "{body}");
        }
    }

    #[test]
    fn a_request_to_count_has_faults_of_its_own() {
        let refused = count_tokens(&Bytes::from_static(
            br#"{"messages":[],"system":4,"tools":"x","thinking":1,"session_label":7}"#,
        ));
        let detail = refused.unwrap_err().detail.unwrap();
        let kinds: Vec<_> = detail.as_array().unwrap().iter().map(|f| f["type"].clone()).collect();
        assert_eq!(
            kinds,
            ["missing", "too_short", "string_type", "list_type", "list_type", "dict_type"]
        );
        assert!(count_tokens(&Bytes::from_static(b"[]")).is_err());
        let no_max_tokens = br#"{"model":"no-such-model","messages":[{"role":"system"}]}"#;
        assert!(count_tokens(&Bytes::from_static(no_max_tokens)).is_ok());
    }
}
