//! What is answered, apart from how a protocol writes it: ids, words, tool calls, token counts. The
//! same request always gets the same answer.

use serde_json::Value;
use serde_json::value::RawValue;

use super::call::{Generation, Speaker};
use super::script::{Fault, Script, Tools, Usage};

/// Every answer's `created`: 1 January 2026, 00:00 UTC.
pub(super) const CREATED: &str = "1767225600";

/// A character of four bytes, for `half_utf8`.
pub(super) const CRAB: &str = "\u{1f980}";

/// Characters of one fragment of tool call arguments.
const FRAGMENT_CHARS: usize = 5;

const WORDS: [&str; 16] = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consetetur",
    "sadipscing",
    "elitr",
    "sed",
    "diam",
    "nonumy",
    "eirmod",
    "tempor",
    "invidunt",
    "ut",
    "labore",
];

/// What the model says.
pub(super) enum Content {
    Words {
        count: u32,
        bytes: Option<usize>,
        crab: bool,
    },
    /// `fragments` are JSON string contents, escaped; together the arguments.
    Call {
        name: String,
        fragments: Vec<String>,
    },
}

/// One answer, ready for a protocol to write.
pub(super) struct Answer {
    /// Sixteen hexadecimal digits, from the request's content.
    pub(super) id: String,
    /// The model as asked for, as JSON text with its quotes.
    pub(super) model: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) usage: Usage,
    /// The caller asked for a usage chunk.
    pub(super) include_usage: bool,
    pub(super) content: Content,
    /// The output limit cut the answer.
    pub(super) limited: bool,
}

impl Answer {
    /// Decides the answer to `call`, whose raw body is `body`.
    pub(super) fn new(call: &Generation<'_>, script: &Script<'_>, body: &[u8]) -> Self {
        let prompt_tokens = call.prompt_tokens();
        let limit = call.max_completion_tokens.or(call.max_tokens).or(call.max_output_tokens);
        let limit = limit.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let tool = tool_call(call, script);
        let limited = tool.is_none() && limit < script.chunks;
        let content = tool.unwrap_or(Content::Words {
            count: script.chunks.min(limit),
            bytes: script.bytes,
            crab: script.fault == Some(Fault::HalfUtf8),
        });
        Self {
            id: content_id(body),
            model: quoted(&call.model),
            prompt_tokens,
            cached_tokens: script.cached_tokens.min(prompt_tokens),
            usage: script.usage,
            include_usage: call.stream_options.as_ref().and_then(|o| o.include_usage) == Some(true),
            content,
            limited,
        }
    }

    /// Output chunks, which are also the completion tokens.
    pub(super) fn pieces(&self) -> u32 {
        match &self.content {
            Content::Words { count, .. } => *count,
            Content::Call { fragments, .. } => fragments.len() as u32,
        }
    }

    /// Appends chunk `index` as the inside of a JSON string.
    pub(super) fn piece(&self, index: u32, out: &mut Vec<u8>) {
        match &self.content {
            Content::Call { fragments, .. } => {
                out.extend_from_slice(fragments[index as usize].as_bytes());
            }
            Content::Words { bytes, crab, .. } => {
                let word = WORDS[index as usize % WORDS.len()].as_bytes();
                let space: &[u8] = if index == 0 { b"" } else { b" " };
                match bytes {
                    None => {
                        out.extend_from_slice(space);
                        out.extend_from_slice(word);
                    }
                    Some(size) => out.extend(space.iter().chain(word.iter().cycle()).take(*size)),
                }
                if *crab && index == 0 {
                    out.extend_from_slice(CRAB.as_bytes());
                }
            }
        }
    }

    /// Appends all chunks as the inside of a JSON string.
    pub(super) fn text(&self, out: &mut Vec<u8>) {
        (0..self.pieces()).for_each(|index| self.piece(index, out));
    }
}

/// Appends `parts` in order.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// `text` as a JSON string with its quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is always JSON")
}

/// An id that depends on the content alone: checksum and length, sixteen hexadecimal digits.
pub(super) fn content_id(body: &[u8]) -> String {
    format!("{:08x}{:08x}", crc32fast::hash(body), body.len())
}

/// The tool call to answer with, if the conversation and the script want one.
fn tool_call(call: &Generation<'_>, script: &Script<'_>) -> Option<Content> {
    let tools: Vec<Value> = serde_json::from_str(call.tools?.get()).ok()?;
    let forced = forced_tool(call.tool_choice);
    let wanted = match (&forced, script.tools, call.conversation().last) {
        (Forced::Never, ..) => false,
        (_, Tools::Always, _) => true,
        (Forced::Any | Forced::Named(_), _, Speaker::User) => true,
        (Forced::No, Tools::Once, Speaker::User) => true,
        _ => false,
    };
    // Chat nests the definition in `function`, the other protocols do not.
    let mut definitions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let named = |tool: &Value, name: &str| tool.get("name").and_then(Value::as_str) == Some(name);
    let tool = match &forced {
        _ if !wanted => return None,
        Forced::Named(name) => definitions.find(|tool| named(tool, name))?,
        _ => definitions.find(|tool| tool.get("name").is_some_and(Value::is_string))?,
    };
    let schema = tool.get("parameters").or_else(|| tool.get("input_schema"));
    let arguments: Vec<char> = arguments(schema).to_string().chars().collect();
    let fragments = arguments.chunks(FRAGMENT_CHARS).map(|part| {
        let text = quoted(&part.iter().collect::<String>());
        text[1..text.len() - 1].to_owned()
    });
    let name = tool.get("name")?.as_str()?.to_owned();
    Some(Content::Call { name, fragments: fragments.collect() })
}

/// What `tool_choice` leaves open.
enum Forced {
    Never,
    No,
    Any,
    Named(String),
}

fn forced_tool(choice: Option<&RawValue>) -> Forced {
    let choice = choice.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    let Some(choice) = choice else { return Forced::No };
    let kind = choice.as_str().or_else(|| choice.get("type").and_then(Value::as_str));
    let name = choice.get("function").unwrap_or(&choice).get("name").and_then(Value::as_str);
    match (kind, name) {
        (Some("none"), _) => Forced::Never,
        (Some("required" | "any"), _) => Forced::Any,
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
