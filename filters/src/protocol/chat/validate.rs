//! Checks the top level of a chat request as the reference does, all faults at once.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Top;
use super::text::Fault;
use crate::protocol::json::is_null;
use crate::rejection::Rejection;
use crate::validate::{self, Bounds, Faults, Field, Kind};

/// The largest body that is echoed as `input` of a missing field.
const ECHO_BELOW: usize = 16 << 10;
pub(super) use crate::validate::not_json;

const WHOLE: Kind = Kind::Whole(Bounds { at_least: None, above: None, at_most: None });

/// What the gateway reads of a request; all other fields are the provider's business.
pub const FIELDS: [Field; 13] = [
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
];

/// Whether a gateway field asks for anything: null, `[]`, `""` and `{}` do not.
pub(super) fn asks_for_something(raw: &RawValue) -> bool {
    !matches!(raw.get(), "null" | "[]" | "{}" | "\"\"")
}

/// A lenient boolean; `None` when it cannot be read.
pub(super) fn truthy(raw: &str) -> Option<bool> {
    match raw {
        "true" => Some(true),
        "false" | "null" => Some(false),
        other => serde_json::from_str(other).ok().and_then(|value| validate::lax_bool(&value).ok()),
    }
}

/// A token count: negatives count as 0, unreadable ones as absent.
pub(super) fn tokens(raw: &RawValue) -> Option<u64> {
    let value: Value = serde_json::from_str(raw.get()).ok()?;
    let tokens = validate::lax_int(&value).ok()?;
    Some(u64::try_from(tokens).unwrap_or(0))
}

/// # Errors
/// `invalid_fields`, listing every fault in the order in which the reference declares the fields.
pub(super) fn check(top: &Top<'_>) -> Result<(), Rejection> {
    let mut faults = Faults::default();
    if top.not_an_object {
        return Err(validate::not_an_object(b"null"));
    }
    if let Some(name) = top.repeated {
        let loc = ["body".into(), name.into()];
        let message = "Value error, the field is given more than once";
        faults.add("value_error", &loc, message, Value::Null, json!({"error": {}}));
    }
    match top.model {
        None => missing(&mut faults, "model"),
        Some(raw) => typed(&mut faults, "model", raw, string),
    }
    messages(&mut faults, top);
    optional(&mut faults, "user", top.user, string);
    optional(&mut faults, "temperature", top.temperature, number);
    optional(&mut faults, "top_p", top.top_p, number);
    optional(&mut faults, "max_tokens", top.max_tokens, integer);
    optional(&mut faults, "max_completion_tokens", top.max_completion_tokens, integer);
    optional(&mut faults, "stream", top.stream, boolean);
    optional(&mut faults, "stream_options", top.stream_options, object);
    optional(&mut faults, "tools", top.tools, list);
    optional(&mut faults, "tool_choice", top.tool_choice, string_or_object);
    optional(&mut faults, "response_format", top.response_format, object);
    faults.check()
}

fn messages(faults: &mut Faults, top: &Top<'_>) {
    let loc = ["body".into(), "messages".into()];
    if !top.messages.present {
        return missing(faults, "messages");
    }
    match (top.messages.count, top.messages.fault) {
        (None, _) => {
            faults.add("list_type", &loc, "Input should be a valid list", Value::Null, Value::Null);
        }
        (Some(0), _) => {
            let message = "List should have at least 1 item after validation, not 0";
            let context = json!({"field_type": "List", "min_length": 1, "actual_length": 0});
            faults.add("too_short", &loc, message, json!([]), context);
        }
        (_, Some((at, Fault::NotAnObject))) => {
            let loc = ["body".into(), "messages".into(), at.into()];
            let message = "Input should be a valid dictionary";
            faults.add("dict_type", &loc, message, Value::Null, Value::Null);
        }
        (_, Some((at, Fault::NoRole))) => {
            let message = format!("Value error, messages[{at}]: 'role' is required");
            faults.add("value_error", &loc, &message, Value::Null, json!({"error": {}}));
        }
        _ => {}
    }
}

fn missing(faults: &mut Faults, name: &str) {
    let loc = ["body".into(), name.into()];
    faults.add("missing", &loc, "Field required", json!({}), Value::Null);
}

type Check = fn(&Value) -> Result<(), (&'static str, &'static str)>;

fn optional(faults: &mut Faults, name: &str, raw: Option<&RawValue>, check: Check) {
    if let Some(raw) = raw.filter(|raw| !is_null(raw)) {
        typed(faults, name, raw, check);
    }
}

fn typed(faults: &mut Faults, name: &str, raw: &RawValue, check: Check) {
    debug_assert!(FIELDS.iter().any(|field| field.name == name), "{name} is not declared");
    let value: Value = match raw.get().as_bytes().first() {
        // Large values are lists and objects of the caller's; their type is all that is checked.
        Some(b'[') => Value::Array(Vec::new()),
        Some(b'{') => Value::Object(serde_json::Map::new()),
        _ => serde_json::from_str(raw.get()).unwrap_or_default(),
    };
    if let Err((kind, message)) = check(&value) {
        let input = if raw.get().len() <= ECHO_BELOW {
            serde_json::from_str(raw.get()).unwrap_or_default()
        } else {
            Value::Null
        };
        faults.add(kind, &["body".into(), name.into()], message, input, Value::Null);
    }
}

fn string(value: &Value) -> Result<(), (&'static str, &'static str)> {
    value.as_str().map(drop).ok_or(("string_type", "Input should be a valid string"))
}

fn number(value: &Value) -> Result<(), (&'static str, &'static str)> {
    validate::lax_float(value).map(drop)
}

fn integer(value: &Value) -> Result<(), (&'static str, &'static str)> {
    validate::lax_int(value).map(drop)
}

fn boolean(value: &Value) -> Result<(), (&'static str, &'static str)> {
    validate::lax_bool(value).map(drop)
}

fn object(value: &Value) -> Result<(), (&'static str, &'static str)> {
    value.as_object().map(drop).ok_or(("dict_type", "Input should be a valid dictionary"))
}

fn list(value: &Value) -> Result<(), (&'static str, &'static str)> {
    value.as_array().map(drop).ok_or(("list_type", "Input should be a valid list"))
}

fn string_or_object(value: &Value) -> Result<(), (&'static str, &'static str)> {
    if value.is_string() { Ok(()) } else { object(value) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::Request;

    fn kinds(body: &'static str) -> Vec<(String, String)> {
        let refused = Request::read(&Bytes::from_static(body.as_bytes())).unwrap_err();
        let detail = refused.detail.unwrap();
        detail
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["type"].as_str().unwrap().to_owned(), f["loc"].to_string()))
            .collect()
    }

    #[test]
    fn every_fault_is_listed_in_declaration_order() {
        let body = r#"{"messages":[],"max_tokens":"x","stream":"perhaps","tools":{}}"#;
        let want = [
            ("missing", r#"["body","model"]"#),
            ("too_short", r#"["body","messages"]"#),
            ("int_parsing", r#"["body","max_tokens"]"#),
            ("bool_parsing", r#"["body","stream"]"#),
            ("list_type", r#"["body","tools"]"#),
        ];
        let got = kinds(body);
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (got, want) in got.iter().zip(want) {
            assert_eq!((got.0.as_str(), got.1.as_str()), want);
        }
    }

    #[test]
    fn null_is_absent() {
        let body = br#"{"model":"p:m","messages":[{"role":"user"}],"stream":null,"tools":null,"max_tokens":null,"user":null,"stream_options":null,"guardrails":null,"mcp_servers":null}"#;
        let request = Request::read(&Bytes::from_static(body)).unwrap();
        assert!(!request.stream);
        assert!(request.gateway_features.is_empty());
    }

    #[test]
    fn a_message_without_a_role_is_named() {
        assert_eq!(kinds(r#"{"model":"p:m","messages":[{"role":"user"},{}]}"#)[0].0, "value_error");
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        assert_eq!(kinds("[1]")[0].0, "model_attributes_type");
        assert_eq!(kinds("")[0].0, "missing");
        assert_eq!(kinds("{\"model\"")[0].0, "json_invalid");
    }
}
