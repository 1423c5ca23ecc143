//! Which tools are called, and with what.

use serde_json::Value;
use serde_json::value::RawValue;

use super::answer::{WORDS, quoted};
use super::call::{Generation, Speaker};
use super::script::{Script, Tools};

/// Characters of one fragment of tool call arguments.
const FRAGMENT_CHARS: usize = 5;

/// A tool that a caller offers.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    /// The JSON schema of its arguments.
    pub(super) schema: Option<Value>,
}

/// One call of a tool.
pub(super) struct Call {
    pub(super) name: String,
    /// JSON string contents, escaped; together the arguments.
    pub(super) fragments: Vec<String>,
}

/// What `tool_choice` leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Forced {
    Never,
    #[default]
    No,
    Any,
    Named(String),
}

/// The tool calls with which a chat, messages or responses call is answered.
pub(super) fn calls(call: &Generation<'_>, script: &Script<'_>) -> Vec<Call> {
    if call.tools.is_none() {
        return Vec::new();
    }
    let (tools, forced) = given(call);
    choose(&tools, &forced, call.conversation().last, script)
}

/// The tools that a call offers, and what it says of their use.
pub(super) fn given(call: &Generation<'_>) -> (Vec<Tool>, Forced) {
    let list = call.tools.and_then(|list| serde_json::from_str::<Vec<Value>>(list.get()).ok());
    let tools = list.iter().flatten().filter_map(definition).collect();
    (tools, forced(call.tool_choice))
}

/// The calls to make, if the conversation and the script want one.
pub(super) fn choose(
    tools: &[Tool],
    forced: &Forced,
    last: Speaker,
    script: &Script<'_>,
) -> Vec<Call> {
    let wanted = match (forced, script.tools, last) {
        (Forced::Never, ..) => false,
        (_, Tools::Always, _) => true,
        (Forced::Any | Forced::Named(_), _, Speaker::User) => true,
        (Forced::No, Tools::Once, Speaker::User) => true,
        _ => false,
    };
    if !wanted {
        return Vec::new();
    }
    let mut given = tools.iter().filter(|tool| match (forced, script.tool) {
        (Forced::Named(name), _) => tool.name == *name,
        (_, Some(name)) => tool.name == name,
        _ => true,
    });
    let Some(first) = given.next() else { return Vec::new() };
    let mut calls = vec![Call::of(first)];
    if script.parallel {
        calls.push(Call::of(given.next().unwrap_or(first)));
    }
    calls
}

impl Call {
    fn of(tool: &Tool) -> Self {
        let arguments: Vec<char> = arguments(tool.schema.as_ref()).to_string().chars().collect();
        let fragments = arguments.chunks(FRAGMENT_CHARS).map(|part| {
            let text = quoted(&part.iter().collect::<String>());
            text[1..text.len() - 1].to_owned()
        });
        Self { name: tool.name.clone(), fragments: fragments.collect() }
    }
}

/// A tool as chat, messages and responses define one; others, such as built-in ones, are not called.
fn definition(tool: &Value) -> Option<Tool> {
    // Chat nests the definition in `function`, the other protocols do not.
    let tool = tool.get("function").unwrap_or(tool);
    let name = tool.get("name")?.as_str()?.to_owned();
    let schema = tool.get("parameters").or_else(|| tool.get("input_schema"));
    Some(Tool { name, schema: schema.cloned() })
}

fn forced(choice: Option<&RawValue>) -> Forced {
    let choice = choice.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    let Some(choice) = choice else { return Forced::No };
    let kind = choice.as_str().or_else(|| choice.get("type").and_then(Value::as_str));
    let name = choice.get("function").unwrap_or(&choice).get("name").and_then(Value::as_str);
    match (kind, name) {
        (Some("none" | "NONE"), _) => Forced::Never,
        (Some("required" | "REQUIRED" | "any"), _) => Forced::Any,
        (Some("function" | "tool"), Some(name)) => Forced::Named(name.to_owned()),
        _ => Forced::No,
    }
}

/// An object that satisfies the required properties of a flat schema; `{}` for anything else.
fn arguments(schema: Option<&Value>) -> Value {
    let required = schema.and_then(|s| s.get("required")).and_then(Value::as_array);
    let value_of = |name: &str| {
        let property = schema.and_then(|s| s.get("properties")).and_then(|p| p.get(name));
        if let Some(first) = property.and_then(|p| p.get("enum")).and_then(|e| e.get(0)) {
            return first.clone();
        }
        match property.and_then(|p| p.get("type")).and_then(Value::as_str) {
            Some("integer" | "number") => Value::from(1),
            Some("boolean") => Value::from(true),
            Some("array") => Value::Array(Vec::new()),
            Some("object") => Value::Object(serde_json::Map::new()),
            _ => Value::from(WORDS[0]),
        }
    };
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    names.map(|name| (name.to_owned(), value_of(name))).collect::<serde_json::Map<_, _>>().into()
}
