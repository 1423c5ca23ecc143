//! The fields of a request that ask for tools and guardrails, checked as the reference checks them. A server's token
//! never comes back in a fault.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::MAX_ROUNDS;
use crate::guardrails::{Guardrail, MAX_GUARDRAILS, Mode};
use crate::platform::tools::McpServer;
use crate::secret::Secret;
use crate::validate::{self, Bounds, Faults, Field, Kind};

/// Most servers of one request: each is a connection, held as long as the request.
const MAX_SERVERS: usize = 50;
/// The largest value that is echoed as `input` of a fault.
const ECHO_BELOW: usize = 16 << 10;
const TOKEN: &str = "authorization_token";
const MODES: [&str; 2] = ["block", "monitor"];
const MOMENTS: [&str; 2] = ["input", "output"];

const ANY_TEXT: usize = usize::MAX;
const MAX_NAME: usize = 128;
const MAX_HINT: usize = 2000;
const MAX_HEADER: usize = 4000;
const ROUNDS: Bounds<i64> =
    Bounds { at_least: Some(1), above: None, at_most: Some(MAX_ROUNDS as i64) };

const SERVER_FIELDS: [Field; 5] = [
    Field::new("name", Kind::Bounded(1, MAX_NAME), "For logs and hints").required(),
    Field::new("url", Kind::Text, "Where it is: streamable HTTP, or HTTP with SSE").required(),
    Field::new(TOKEN, Kind::Text, "Sent as a bearer token; needs https"),
    Field::new("purpose_hint", Kind::Bounded(0, MAX_HINT), "When the model should use it"),
    Field::new("allowed_tools", Kind::Texts, "Which of its tools there are; none: all"),
];

const GUARDRAIL_FIELDS: [Field; 6] = [
    Field::new("profile", Kind::Bounded(1, MAX_NAME), "What is checked").required(),
    Field::new("url", Kind::Text, "A service of the caller's; else the gateway's own"),
    Field::new("on", Kind::Texts, "`input`, `output`; input alone unless it says so"),
    Field::new("mode", Kind::Choice(&MODES), "`monitor` only records"),
    Field::new("on_unavailable", Kind::Choice(&MODES), "What becomes of a check that fails"),
    Field::new("validate_kwargs", Kind::Object, "Options of the check"),
];

/// MCP servers that the request brings along; the same in every format.
pub(crate) const MCP_SERVERS: Field = Field::new(
    "mcp_servers",
    Kind::Objects(&SERVER_FIELDS, MAX_SERVERS),
    "MCP servers whose tools the gateway runs; never reaches a provider",
);
/// Checks of what is asked and answered; the same in every format.
pub(crate) const GUARDRAILS: Field = Field::new(
    "guardrails",
    Kind::Objects(&GUARDRAIL_FIELDS, MAX_GUARDRAILS),
    "Checks of what is asked and answered; never reaches a provider",
);
/// The line over the hints, where its length is limited.
pub(crate) const HEADER: Field = Field::new(
    "tools_header",
    Kind::Bounded(0, MAX_HEADER),
    "The line over the hints about the gateway's tools",
);
/// The line over the hints.
pub(crate) const LONG_HEADER: Field =
    Field::new("tools_header", Kind::Text, "The line over the hints about the gateway's tools");
/// Rounds of the tool loop; the same in every format.
pub(crate) const ITERATIONS: Field =
    Field::new("max_tool_iterations", Kind::Whole(ROUNDS), "Upstream calls of a tool loop, 10");

/// Checks one of the fields above, which is not null; `false`: it is another one.
pub(crate) fn check(faults: &mut Faults, field: &Field, raw: &RawValue) -> bool {
    match field.name {
        "mcp_servers" => drop(servers(faults, raw)),
        "guardrails" => drop(guardrails(faults, raw)),
        "max_tool_iterations" => drop(rounds(faults, raw)),
        _ => return false,
    }
    true
}

/// Reads `mcp_servers`; what is wrong is noted, and left out.
pub(super) fn servers(faults: &mut Faults, raw: &RawValue) -> Vec<McpServer> {
    entries(faults, "mcp_servers", raw, MAX_SERVERS, server)
}

/// Reads `guardrails`; what is wrong is noted, and left out.
pub(super) fn guardrails(faults: &mut Faults, raw: &RawValue) -> Vec<Guardrail> {
    entries(faults, "guardrails", raw, MAX_GUARDRAILS, guardrail)
}

/// Reads `max_tool_iterations`.
pub(super) fn rounds(faults: &mut Faults, raw: &RawValue) -> Option<u32> {
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let loc = ["body".into(), "max_tool_iterations".into()];
    let most = i64::from(MAX_ROUNDS);
    let (kind, message, context) = match validate::lax_int(&value) {
        Ok(rounds @ 1..) if rounds <= most => return u32::try_from(rounds).ok(),
        Ok(..1) => {
            let message = "Input should be greater than or equal to 1".to_owned();
            ("greater_than_equal", message, json!({"ge": 1}))
        }
        Ok(_) => {
            let message = format!("Input should be less than or equal to {most}");
            ("less_than_equal", message, json!({"le": most}))
        }
        Err((kind, message)) => (kind, message.to_owned(), Value::Null),
    };
    faults.add(kind, &loc, &message, echo(&value), context);
    None
}

fn entries<T>(
    faults: &mut Faults,
    name: &str,
    raw: &RawValue,
    most: usize,
    read: impl Fn(&mut Entry<'_>) -> Option<T>,
) -> Vec<T> {
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let loc = ["body".into(), name.into()];
    let Value::Array(items) = &value else {
        faults.add("list_type", &loc, "Input should be a valid list", echo(&value), Value::Null);
        return Vec::new();
    };
    if items.len() > most {
        let message =
            format!("List should have at most {most} items after validation, not {}", items.len());
        let context =
            json!({"field_type": "List", "max_length": most, "actual_length": items.len()});
        faults.add("too_long", &loc, &message, echo(&value), context);
        return Vec::new();
    }
    let mut all = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let [body, name] = loc.clone();
        let place = vec![body, name, at.into()];
        match item.as_object() {
            Some(fields) => all.extend(read(&mut Entry { faults, place, fields })),
            None => {
                let message = "Input should be a valid dictionary or object to extract fields from";
                faults.add("model_attributes_type", &place, message, echo(item), Value::Null);
            }
        }
    }
    all
}

fn server(entry: &mut Entry<'_>) -> Option<McpServer> {
    let name = entry.required_text("name", MAX_NAME);
    let url = entry.required_text("url", ANY_TEXT);
    let token = entry.text(TOKEN, 0, ANY_TEXT);
    let purpose_hint = entry.text("purpose_hint", 0, MAX_HINT);
    let allowed_tools = entry.texts("allowed_tools");
    Some(McpServer {
        name: name?,
        url: url?,
        authorization_token: token.filter(|token| !token.is_empty()).map(Secret::new),
        purpose_hint: purpose_hint.filter(|hint| !hint.is_empty()),
        allowed_tools: Some(allowed_tools).filter(|tools| !tools.is_empty()),
    })
}

fn guardrail(entry: &mut Entry<'_>) -> Option<Guardrail> {
    let profile = entry.required_text("profile", MAX_NAME);
    let url = entry.text("url", 1, ANY_TEXT);
    let on = entry.words("on", &MOMENTS);
    let mode = entry.word("mode", &MODES);
    let kwargs = entry.object("validate_kwargs");
    let on_unavailable = entry.word("on_unavailable", &MODES);
    let is_on = |moment: &str| on.iter().flatten().any(|word| *word == moment);
    let mode_of = |word: Option<&str>, default| match word {
        Some("block") => Mode::Block,
        Some(_) => Mode::Monitor,
        None => default,
    };
    Some(Guardrail {
        profile: profile?,
        url,
        on_input: on.is_none() || is_on("input"),
        on_output: is_on("output"),
        mode: mode_of(mode, Mode::Monitor),
        on_unavailable: mode_of(on_unavailable, Mode::Block),
        validate_kwargs: kwargs,
    })
}

/// One entry of a list, and its place.
struct Entry<'a> {
    faults: &'a mut Faults,
    place: Vec<Value>,
    fields: &'a Map<String, Value>,
}

impl<'a> Entry<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn add(&mut self, name: &str, kind: &str, message: &str, input: Value, context: Value) {
        let mut place = self.place.clone();
        place.push(name.into());
        self.faults.add(kind, &place, message, input, context);
    }

    fn required_text(&mut self, name: &str, most: usize) -> Option<String> {
        if self.fields.contains_key(name) {
            if self.get(name).is_none() {
                let message = "Input should be a valid string";
                self.add(name, "string_type", message, Value::Null, Value::Null);
            }
            return self.text(name, 1, most);
        }
        let whole = echo(&Value::Object(self.fields.clone()));
        self.add(name, "missing", "Field required", whole, Value::Null);
        None
    }

    /// A text of `least` to `most` characters.
    fn text(&mut self, name: &str, least: usize, most: usize) -> Option<String> {
        let value = self.get(name)?;
        let input = if name == TOKEN { HIDDEN.into() } else { echo(value) };
        let Some(text) = value.as_str() else {
            let message = "Input should be a valid string";
            self.add(name, "string_type", message, input, Value::Null);
            return None;
        };
        let chars = text.chars().count();
        if chars < least {
            let message = format!("String should have at least {least} character");
            self.add(name, "string_too_short", &message, input, json!({"min_length": least}));
            return None;
        }
        if chars > most {
            let message = format!("String should have at most {most} characters");
            self.add(name, "string_too_long", &message, input, json!({"max_length": most}));
            return None;
        }
        Some(text.to_owned())
    }

    fn list(&mut self, name: &str) -> Option<&'a Vec<Value>> {
        let value = self.get(name)?;
        if value.as_array().is_none() {
            let message = "Input should be a valid list";
            self.add(name, "list_type", message, echo(value), Value::Null);
        }
        value.as_array()
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for (at, item) in self.list(name).into_iter().flatten().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let mut place = self.place.clone();
                    place.extend([name.into(), at.into()]);
                    let message = "Input should be a valid string";
                    self.faults.add("string_type", &place, message, echo(item), Value::Null);
                }
            }
        }
        texts
    }

    fn word(&mut self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.get(name)?;
        let found = one_of(value, words);
        if found.is_none() {
            let expected = expected(words);
            let message = format!("Input should be {expected}");
            self.add(name, "literal_error", &message, echo(value), json!({"expected": expected}));
        }
        found
    }

    fn words(&mut self, name: &str, words: &[&'static str]) -> Option<Vec<&'static str>> {
        let list = self.list(name)?;
        let mut found = Vec::with_capacity(list.len().min(words.len()));
        for (at, item) in list.iter().enumerate() {
            let word = one_of(item, words);
            if word.is_none() {
                let mut place = self.place.clone();
                place.extend([name.into(), at.into()]);
                let expected = expected(words);
                let message = format!("Input should be {expected}");
                let context = json!({"expected": expected});
                self.faults.add("literal_error", &place, &message, echo(item), context);
            }
            found.extend(word);
        }
        Some(found)
    }

    fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.get(name) {
            None => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(other) => {
                let message = "Input should be a valid dictionary";
                self.add(name, "dict_type", message, echo(other), Value::Null);
                Map::new()
            }
        }
    }
}

fn one_of(value: &Value, words: &[&'static str]) -> Option<&'static str> {
    let text = value.as_str()?;
    words.iter().copied().find(|word| *word == text)
}

fn expected(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    quoted.join(" or ")
}

/// What stands for a token in a fault.
const HIDDEN: &str = "[redacted]";

/// The value as `input` of a fault: without tokens, and nothing of a large one.
fn echo(value: &Value) -> Value {
    let mut shown = value.clone();
    hide(&mut shown);
    if shown.to_string().len() > ECHO_BELOW { Value::Null } else { shown }
}

fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == TOKEN && !value.is_null() {
                    *value = HIDDEN.into();
                } else {
                    hide(value);
                }
            }
        }
        _ => {}
    }
}
