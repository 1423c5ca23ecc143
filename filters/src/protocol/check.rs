//! Checks the top level of a request as the reference does: by its declared fields, all faults at once.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::json::is_null;
use super::text::{Content, Shape};
use super::top::{Format, Top};
use crate::rejection::Rejection;
use crate::validate::{self, Bounds, Faults, Field, Kind};

/// The largest value that is echoed as `input` of a fault.
const ECHO_BELOW: usize = 16 << 10;
/// Most servers that one request may name.
const MAX_SERVER_IDS: usize = 50;

pub(crate) const WHOLE: Kind = Kind::Whole(Bounds { at_least: None, above: None, at_most: None });

/// The gateway's own field for whoever groups calls; the same in every format.
pub(super) const SESSION_LABEL: Field = Field::new(
    "session_label",
    Kind::Bounded(0, 255),
    "Groups calls in reports; never reaches a provider",
);

/// The gateway's own field for MCP servers that the platform knows; the same in every format.
pub(super) const MCP_SERVER_IDS: Field = Field::new(
    "mcp_server_ids",
    Kind::List,
    "UUIDs of MCP servers, at most 50; never reaches a provider",
);

/// A lenient boolean; `None` when it cannot be read.
pub(crate) fn truthy(raw: &str) -> Option<bool> {
    match raw {
        "true" => Some(true),
        "false" | "null" => Some(false),
        other => serde_json::from_str(other).ok().and_then(|value| validate::lax_bool(&value).ok()),
    }
}

/// A token count: negatives count as 0, unreadable ones as absent.
pub(crate) fn tokens(raw: &RawValue) -> Option<u64> {
    let value: Value = serde_json::from_str(raw.get()).ok()?;
    let tokens = validate::lax_int(&value).ok()?;
    Some(u64::try_from(tokens).unwrap_or(0))
}

/// Scans `body` and checks what is declared.
///
/// # Errors
/// `invalid_json` when it is not one JSON document; `invalid_fields`, listing every fault in the order in which the
/// fields are declared.
pub(super) fn read<'a>(format: &'static Format, body: &'a [u8]) -> Result<Top<'a>, Rejection> {
    read_with(format, body, check)
}

/// As [`read`], where `check` looks at each declared field.
pub(crate) fn read_with<'a>(
    format: &'static Format,
    body: &'a [u8],
    check: impl Fn(&mut Faults, &Top<'_>, &Field),
) -> Result<Top<'a>, Rejection> {
    // A string that is passed over is not looked into, and no provider takes what is no text.
    let text = std::str::from_utf8(body);
    let text = text.map_err(|error| validate::not_utf8(error.valid_up_to()))?;
    let top = Top::read(format, text).map_err(|error| validate::not_json(body, &error))?;
    if !top.is_object {
        return Err(validate::not_an_object(b"null"));
    }
    let mut faults = Faults::default();
    if let Some(name) = top.repeated {
        repeated(&mut faults, &["body".into(), name.into()]);
    }
    for field in top.to_check() {
        check(&mut faults, &top, field);
    }
    faults.check()?;
    Ok(top)
}

/// Notes a field that is there twice.
fn repeated(faults: &mut Faults, loc: &[Value]) {
    let message = "Value error, the field is given more than once";
    faults.add("value_error", loc, message, Value::Null, json!({"error": {}}));
}

/// Checks one declared field.
pub(crate) fn check(faults: &mut Faults, top: &Top<'_>, field: &Field) {
    if top.format.prompt.contains(&field.name) {
        return prompt(faults, field, top.content(field.name), top.format.needs_role);
    }
    match top.raw(field.name) {
        None if field.is_required => missing(faults, field.name),
        None => {}
        Some(raw) if is_null(raw) && !field.is_required => {}
        Some(raw) if field.name == MCP_SERVER_IDS.name => server_ids(faults, raw),
        Some(raw) if crate::tools::check_entries(faults, field, raw) => {}
        // A list may be required for its items: `count_tokens` reads its messages so.
        Some(raw) if field.is_required && matches!(field.kind, Kind::List) => {
            prompt(faults, field, Some(&Content::of(raw)), false);
        }
        Some(raw) if field.name == "system" => {
            prompt(faults, field, Some(&Content::of(raw)), false)
        }
        Some(raw) => typed(faults, field, raw),
    }
}

/// A field that holds the prompt or a part of it.
fn prompt(faults: &mut Faults, field: &Field, content: Option<&Content<'_>>, needs_role: bool) {
    let content = content.filter(|content| content.shape != Shape::Null);
    match (content, field.kind) {
        (None, _) if field.is_required => missing(faults, field.name),
        (None, _) => {}
        (Some(content), Kind::List) => list(faults, field.name, content, needs_role),
        (Some(content), _) if field.name == "system" => text_or_blocks(faults, field.name, content),
        // Whatever else it is, the provider says what it thinks of it.
        (Some(_), _) => {}
    }
}

/// At least one message, and every one an object.
fn list(faults: &mut Faults, name: &str, content: &Content<'_>, needs_role: bool) {
    let loc = || ["body".into(), name.into()];
    match content.shape {
        Shape::List(0) => {
            let message = "List should have at least 1 item after validation, not 0";
            let context = json!({"field_type": "List", "min_length": 1, "actual_length": 0});
            faults.add("too_short", &loc(), message, json!([]), context);
        }
        Shape::List(_) => {
            let no_role = content.no_role.filter(|_| needs_role);
            if let Some(at) = content.no_object {
                let [body, name] = loc();
                let message = "Input should be a valid dictionary";
                faults.add(
                    "dict_type",
                    &[body, name, at.into()],
                    message,
                    Value::Null,
                    Value::Null,
                );
            } else if let Some(at) = no_role {
                let message = format!("Value error, messages[{at}]: 'role' is required");
                faults.add("value_error", &loc(), &message, Value::Null, json!({"error": {}}));
            }
        }
        _ => {
            faults.add(
                "list_type",
                &loc(),
                "Input should be a valid list",
                Value::Null,
                Value::Null,
            );
        }
    }
}

/// A string, or a list of objects; a fault names both.
fn text_or_blocks(faults: &mut Faults, name: &str, content: &Content<'_>) {
    let blocks = match (content.shape, content.no_object) {
        (Shape::Text, _) | (Shape::List(_), None) => return,
        (_, Some(at)) => Some(at),
        _ => None,
    };
    let (body, name): (Value, Value) = ("body".into(), name.into());
    let text = [body.clone(), name.clone(), "str".into()];
    faults.add("string_type", &text, "Input should be a valid string", Value::Null, Value::Null);
    let mut place = vec![body, name, "list[dict[str,any]]".into()];
    let (kind, message) = if let Some(at) = blocks {
        place.push(at.into());
        ("dict_type", "Input should be a valid dictionary")
    } else {
        ("list_type", "Input should be a valid list")
    };
    faults.add(kind, &place, message, Value::Null, Value::Null);
}

fn server_ids(faults: &mut Faults, raw: &RawValue) {
    let loc = |at: usize| ["body".into(), MCP_SERVER_IDS.name.into(), at.into()];
    let place = &["body".into(), MCP_SERVER_IDS.name.into()];
    let Ok(ids) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        return typed(faults, &MCP_SERVER_IDS, raw);
    };
    if ids.len() > MAX_SERVER_IDS {
        let message = format!(
            "List should have at most {MAX_SERVER_IDS} items after validation, not {}",
            ids.len()
        );
        let context =
            json!({"field_type": "List", "max_length": MAX_SERVER_IDS, "actual_length": ids.len()});
        return faults.add("too_long", place, &message, echo(raw), context);
    }
    for (at, id) in ids.into_iter().enumerate() {
        match super::json::text(id) {
            None => {
                let message = "UUID input should be a string, bytes or UUID object";
                faults.add("uuid_type", &loc(at), message, echo(id), Value::Null);
            }
            Some(text) => {
                if let Err(reason) = uuid(&text) {
                    let message = format!("Input should be a valid UUID, {reason}");
                    let context = json!({"error": reason});
                    faults.add("uuid_parsing", &loc(at), &message, echo(id), context);
                }
            }
        }
    }
}

/// Whether a text is a UUID in one of the usual forms: plain digits, with hyphens, in braces, as an URN.
fn uuid(text: &str) -> Result<(), String> {
    let bare = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare);
    if let Some((at, odd)) = bare.char_indices().find(|(_, c)| !c.is_ascii_hexdigit() && *c != '-')
    {
        return Err(format!(
            "invalid character: found `{odd}` at {}, expected [0-9a-fA-F-] in a UUID",
            at + 1
        ));
    }
    let groups: Vec<usize> = bare.split('-').map(str::len).collect();
    match groups.as_slice() {
        [32] | [8, 4, 4, 4, 12] => Ok(()),
        [length] => {
            Err(format!("invalid length: expected length 32 for simple format, found {length}"))
        }
        _ => Err("invalid groups: expected five groups of 8, 4, 4, 4 and 12 digits".to_owned()),
    }
}

pub(crate) fn missing(faults: &mut Faults, name: &str) {
    let loc = ["body".into(), name.into()];
    faults.add("missing", &loc, "Field required", json!({}), Value::Null);
}

/// Whether a value is of its kind at first sight, as nearly every one is. One that is not is read, and may be all the
/// same.
fn is_plainly(kind: Kind, raw: &str) -> bool {
    // Behind a backslash there may be half a character, which is no text.
    let is_text = || raw.starts_with('"') && memchr::memchr(b'\\', raw.as_bytes()).is_none();
    match kind {
        Kind::Text => is_text(),
        Kind::Bounded(_, most) => raw.len() <= most && is_text(),
        Kind::Flag => matches!(raw, "true" | "false"),
        Kind::Number | Kind::Amount(_) | Kind::Whole(_) => {
            raw.len() <= 18 && raw.bytes().all(|byte| byte.is_ascii_digit())
        }
        Kind::Object => raw.starts_with('{'),
        Kind::TextOrObject => raw.starts_with('{') || is_text(),
        Kind::List | Kind::Objects(..) => raw.starts_with('['),
        Kind::Any | Kind::File | Kind::Choice(_) | Kind::Instant => true,
        Kind::Texts => false,
    }
}

fn typed(faults: &mut Faults, field: &Field, raw: &RawValue) {
    if is_plainly(field.kind, raw.get()) {
        return;
    }
    let value: Value = match raw.get().as_bytes().first() {
        // Large values are lists and objects of the caller's; their type is all that is checked.
        Some(b'[') if !matches!(field.kind, Kind::Texts) => Value::Array(Vec::new()),
        Some(b'{') => Value::Object(serde_json::Map::new()),
        _ => serde_json::from_str(raw.get()).unwrap_or_default(),
    };
    let loc = ["body".into(), field.name.into()];
    let fault = match field.kind {
        Kind::Text => string(&value),
        Kind::Bounded(_, most) => match value.as_str() {
            Some(text) if text.chars().count() > most => {
                let message = format!("String should have at most {most} characters");
                let context = json!({"max_length": most});
                return faults.add("string_too_long", &loc, &message, echo(raw), context);
            }
            _ => string(&value),
        },
        Kind::Number | Kind::Amount(_) => validate::lax_float(&value).map(drop),
        Kind::Whole(_) => validate::lax_int(&value).map(drop),
        Kind::Flag => validate::lax_bool(&value).map(drop),
        Kind::Object => object(&value),
        Kind::TextOrObject if value.is_string() => Ok(()),
        Kind::TextOrObject => object(&value),
        Kind::Texts => return texts(faults, &loc, &value, raw),
        Kind::List | Kind::Objects(..) => {
            value.as_array().map(drop).ok_or(("list_type", "Input should be a valid list"))
        }
        Kind::Any | Kind::File | Kind::Choice(_) | Kind::Instant => Ok(()),
    };
    if let Err((kind, message)) = fault {
        faults.add(kind, &loc, message, echo(raw), Value::Null);
    }
}

fn texts(faults: &mut Faults, loc: &[Value; 2], value: &Value, raw: &RawValue) {
    let Some(list) = value.as_array() else {
        return faults.add(
            "list_type",
            loc,
            "Input should be a valid list",
            echo(raw),
            Value::Null,
        );
    };
    for (at, item) in list.iter().enumerate().filter(|(_, item)| !item.is_string()) {
        let [body, name] = loc.clone();
        let message = "Input should be a valid string";
        faults.add("string_type", &[body, name, at.into()], message, item.clone(), Value::Null);
    }
}

/// The value as `input` of a fault; nothing of a large one.
pub(crate) fn echo(raw: &RawValue) -> Value {
    if raw.get().len() > ECHO_BELOW {
        return Value::Null;
    }
    serde_json::from_str(raw.get()).unwrap_or_default()
}

fn string(value: &Value) -> Result<(), (&'static str, &'static str)> {
    value.as_str().map(drop).ok_or(("string_type", "Input should be a valid string"))
}

fn object(value: &Value) -> Result<(), (&'static str, &'static str)> {
    value.as_object().map(drop).ok_or(("dict_type", "Input should be a valid dictionary"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::protocol::Protocol::{self, Chat, Messages, Responses};
    use crate::protocol::Request;

    fn kinds(protocol: Protocol, body: &str) -> Vec<String> {
        let refused = Request::read(protocol, &Bytes::from(body.to_owned())).unwrap_err();
        let detail = refused.detail.unwrap();
        let fault = |fault: &serde_json::Value| {
            let place: Vec<String> = fault["loc"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                .collect();
            format!("{} {}", fault["type"].as_str().unwrap(), place[1..].join("."))
        };
        detail.as_array().unwrap().iter().map(fault).collect()
    }

    #[test]
    fn every_fault_is_listed_in_declaration_order() {
        for (protocol, body, want) in [
            (
                Chat,
                r#"{"messages":[],"max_tokens":"x","stream":"perhaps","tools":{},"session_label":5}"#,
                &[
                    "missing model",
                    "too_short messages",
                    "int_parsing max_tokens",
                    "bool_parsing stream",
                    "list_type tools",
                    "string_type session_label",
                ][..],
            ),
            (
                Messages,
                r#"{"messages":["x"],"system":5,"temperature":"hot","top_k":1.5,"stop_sequences":["a",1],"metadata":[],"thinking":"no","model":null}"#,
                &[
                    "string_type model",
                    "dict_type messages.0",
                    "missing max_tokens",
                    "string_type system.str",
                    "list_type system.list[dict[str,any]]",
                    "float_parsing temperature",
                    "int_from_float top_k",
                    "string_type stop_sequences.1",
                    "dict_type metadata",
                    "dict_type thinking",
                ],
            ),
            (
                Responses,
                r#"{"input":null,"stream":[],"user":1,"tools":"x","max_output_tokens":"many"}"#,
                &[
                    "missing model",
                    "missing input",
                    "bool_type stream",
                    "string_type user",
                    "list_type tools",
                ],
            ),
        ] {
            assert_eq!(kinds(protocol, body), want, "{body}");
        }
    }

    #[test]
    fn null_is_absent() {
        let nulls = r#""stream":null,"tools":null,"user":null,"guardrails":null,"mcp_servers":null,"mcp_server_ids":null,"session_label":null,"tools_header":null,"max_tool_iterations":null"#;
        for (protocol, body) in [
            (
                Chat,
                r#"{"model":"p:m","messages":[{"role":"user"}],"max_tokens":null,"stream_options":null,"#,
            ),
            (
                Messages,
                r#"{"model":"p:m","messages":[{}],"max_tokens":5,"system":null,"metadata":null,"thinking":null,"#,
            ),
            (Responses, r#"{"model":"p:m","input":"hi","instructions":null,"#),
        ] {
            let body = Bytes::from(format!("{body}{nulls}}}"));
            let request = Request::read(protocol, &body).unwrap();
            assert!(!request.stream);
            assert!(request.gateway_features.is_empty());
            assert_eq!((request.user, request.session_label), (None, None));
        }
    }

    #[test]
    fn a_role_is_asked_for_in_chat_alone() {
        let body = r#"{"model":"p:m","max_tokens":1,"messages":[{"role":"user"},{}],"input":[{}]}"#;
        assert_eq!(kinds(Chat, body), ["value_error messages"]);
        for protocol in [Messages, Responses] {
            assert!(Request::read(protocol, &Bytes::from_static(body.as_bytes())).is_ok());
        }
    }

    #[test]
    fn a_session_label_has_a_limit() {
        let body = |label: &str| {
            Bytes::from(format!(
                r#"{{"model":"p:m","max_tokens":1,"messages":[{{"role":"u"}}],"input":"","session_label":"{label}"}}"#
            ))
        };
        for protocol in [Chat, Messages, Responses] {
            let long = String::from_utf8(body(&"é".repeat(256)).to_vec()).unwrap();
            assert_eq!(kinds(protocol, &long), ["string_too_long session_label"]);
            let label = |text: &str| Request::read(protocol, &body(text)).unwrap().session_label;
            assert_eq!(label(&"é".repeat(255)).as_deref(), Some("é".repeat(255).as_str()));
            assert_eq!(label(" run 7\\n").as_deref(), Some("run 7"));
            assert_eq!(label(" \\t "), None);
        }
    }

    #[test]
    fn server_ids_are_uuids_in_any_form() {
        let body = |ids: &str| {
            format!(
                r#"{{"model":"p:m","max_tokens":1,"messages":[{{"role":"u"}}],"input":"","mcp_server_ids":{ids}}}"#
            )
        };
        let plain = "0193e5a27f0e7d3c8a4b5c6d7e8f9012";
        let hyphens = "0193e5a2-7f0e-7d3c-8a4b-5c6d7e8f9012";
        let good = format!(r#"["{plain}","{hyphens}","{{{hyphens}}}","urn:uuid:{hyphens}"]"#);
        for protocol in [Chat, Messages, Responses] {
            let request = Request::read(protocol, &Bytes::from(body(&good))).unwrap();
            assert_eq!(request.gateway_features, ["mcp_server_ids"]);
            assert_eq!(
                kinds(protocol, &body(r#"["x",7,"0193e5a2-7f0e","0193"]"#)),
                [
                    "uuid_parsing mcp_server_ids.0",
                    "uuid_type mcp_server_ids.1",
                    "uuid_parsing mcp_server_ids.2",
                    "uuid_parsing mcp_server_ids.3"
                ]
            );
            assert_eq!(kinds(protocol, &body("\"x\"")), ["list_type mcp_server_ids"]);
            let many = serde_json::to_string(&vec![plain; 51]).unwrap();
            assert_eq!(kinds(protocol, &body(&many)), ["too_long mcp_server_ids"]);
            let most = serde_json::to_string(&vec![plain; 50]).unwrap();
            assert!(Request::read(protocol, &Bytes::from(body(&most))).is_ok());
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for protocol in [Chat, Messages, Responses] {
            assert_eq!(kinds(protocol, "[1]"), ["model_attributes_type "]);
            assert_eq!(kinds(protocol, ""), ["missing "]);
            assert_eq!(kinds(protocol, "{\"model\"")[0].split(' ').next(), Some("json_invalid"));
            assert_eq!(kinds(protocol, "{} {}")[0].split(' ').next(), Some("json_invalid"));
        }
    }
}
