//! What a provider of the caller's own format wants otherwise than the format's inventor: edits of the body as it came,
//! and what is refused before it is sent.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Protocol;
use super::json::{Edit, text};
use super::request::{Request, Rewrite};
use crate::rejection::{Code, Rejection};
use crate::translate::messages::VERTEX_VERSION;
use crate::translate::quirks::{refuses_formats, refuses_stream_options, thinking_switch};
use crate::translate::schema;

/// Fields of chat that some provider wants otherwise.
pub(super) const CHAT: &[&str] = &[
    "stream_options",
    "response_format",
    "tools",
    "parallel_tool_calls",
    "thinking",
    "reasoning_effort",
];

/// Fields of messages that some provider wants otherwise.
pub(super) const MESSAGES: &[&str] =
    &["betas", "context_management", "anthropic_version", "stop_sequences", "top_k"];

/// More features than that nobody asks for at once.
const MAX_BETAS: usize = 64;

/// Tokens from which on a conversation may be compacted.
const MIN_COMPACT: u64 = 50_000;

/// Context edits, and the feature that each needs.
const CONTEXT_EDITS: [(&str, &str); 3] = [
    ("compact_20260112", "compact-2026-01-12"),
    ("clear_tool_uses_20250919", "context-management-2025-06-27"),
    ("clear_thinking_20251015", "context-management-2025-06-27"),
];

/// Whether the provider runs Anthropic's own API.
fn is_anthropic(provider: &str) -> bool {
    matches!(provider, "anthropic" | "azureanthropic" | "vertexaianthropic")
}

impl Request {
    /// Refuses what the provider of this format would refuse, or pass over so that the answer is not what was asked
    /// for.
    ///
    /// # Errors
    /// `invalid_value` naming the provider and the field.
    pub fn refuse(&self, provider: &str) -> Result<(), Rejection> {
        let refused: &[&str] = match (self.protocol, provider) {
            (Protocol::Chat, provider) if refuses_formats(provider) => &["response_format"],
            (Protocol::Messages, "meta") => {
                &["stop_sequences", "top_k", "betas", "context_management"]
            }
            _ => &[],
        };
        let is_given = |name: &&&str| self.noted(name).any(|field| !field.is_null);
        match refused.iter().find(is_given) {
            None => Ok(()),
            Some(name) => Err(Rejection::new(
                Code::InvalidValue,
                format!("`{name}` is not supported by `{provider}`: leave it out"),
            )),
        }
    }

    /// Whether the caller waits for a chunk with the usage that the provider cannot be asked for. It tells its usage in
    /// another place: a translation of the answer, from chat to chat, writes the chunk.
    pub fn lacks_usage_chunk(&self, provider: &str) -> bool {
        let is_chat = self.protocol == Protocol::Chat;
        is_chat && self.stream && self.wants_usage && refuses_stream_options(provider)
    }

    /// Whether usage must be asked for in the request itself, so that the provider's stream tells it.
    pub(super) fn asks_for_usage(&self, provider: &str) -> bool {
        self.stream && !refuses_stream_options(provider)
    }

    /// Whether the field that names the model goes, because the address names it.
    pub(super) fn hides_model(&self, provider: &str) -> bool {
        self.protocol == Protocol::Messages && provider == "vertexaianthropic"
    }

    /// The names of fields that the provider must not get.
    pub(super) fn unknown_to(&self, provider: &str) -> &'static [&'static str] {
        match (self.protocol, provider) {
            (Protocol::Chat, "huggingface") => &["parallel_tool_calls"],
            (Protocol::Chat, provider) if refuses_stream_options(provider) => &["stream_options"],
            // They travel in a header.
            (Protocol::Messages, "vertexaianthropic") => &["betas", "anthropic_version"],
            (Protocol::Messages, provider) if is_anthropic(provider) => &["betas"],
            _ => &[],
        }
    }

    /// What the provider wants changed or added.
    pub(super) fn edits_for(&self, body: &Bytes, rewrite: &Rewrite<'_>) -> Option<Edit> {
        let at_start = memchr::memchr(b'{', body).map_or(0, |at| at + 1);
        let insert = |with: Bytes| Edit { range: at_start..at_start, with };
        match (self.protocol, rewrite.provider) {
            (Protocol::Chat, "deepseek") if self.noted("thinking").next().is_none() => {
                let effort = self.noted("reasoning_effort").next();
                let effort = effort.and_then(|field| text(field.value(body)?));
                let word = thinking_switch(rewrite.model, effort.as_deref())?;
                Some(insert(format!(r#""thinking":{{"type":"{word}"}},"#).into()))
            }
            (Protocol::Chat, "llama") => {
                let tools = self.noted("tools").next()?;
                let with = typed_tools(tools.value(body)?)?;
                Some(Edit { range: tools.range.clone(), with })
            }
            (Protocol::Messages, "vertexaianthropic") => {
                Some(insert(format!(r#""anthropic_version":"{VERTEX_VERSION}","#).into()))
            }
            _ => None,
        }
    }

    /// The features to ask Anthropic's API for, as the value of `anthropic-beta`: those that the body names, those that
    /// its context edits need, then those of the caller's own header. `None`: none. Where there are some, the address
    /// says `?beta=true`.
    ///
    /// # Errors
    /// `invalid_value` when `betas` is not a list of names, or when there are more than 64 in either place; when a
    /// conversation is to be compacted too early.
    pub fn betas(&self, body: &Bytes, header: Option<&str>) -> Result<Option<String>, Rejection> {
        if self.protocol != Protocol::Messages {
            return Ok(None);
        }
        let wrong = || {
            let message =
                "`betas` must be a list of at most 64 names, of letters, digits, `-`, `_` and `.`";
            Rejection::new(Code::InvalidValue, message)
        };
        let mut all: Vec<String> = Vec::new();
        let mut add = |name: &str| {
            if !name.is_empty() && !all.iter().any(|known| known == name) {
                all.push(name.to_owned());
            }
        };
        for field in self.noted("betas").filter(|field| !field.is_null) {
            let names = field.value(body).and_then(|raw| serde_json::from_str(raw.get()).ok());
            let names: Vec<String> = names.ok_or_else(wrong)?;
            if names.len() > MAX_BETAS || !names.iter().all(|name| is_name(name)) {
                return Err(wrong());
            }
            names.iter().for_each(|name| add(name));
        }
        for field in self.noted("context_management") {
            let raw = field.value(body);
            // What is no such object is for the provider to refuse.
            let edits = raw.and_then(|raw| serde_json::from_str::<Context>(raw.get()).ok());
            for edit in edits.unwrap_or_default().edits {
                edit.check()?;
                let found = CONTEXT_EDITS.iter().find(|(kind, _)| *kind == edit.kind);
                found.into_iter().for_each(|(_, beta)| add(beta));
            }
        }
        let own: Vec<_> =
            header.into_iter().flat_map(|value| value.split(',')).take(MAX_BETAS + 1).collect();
        if own.len() > MAX_BETAS {
            let message = "`anthropic-beta` must name at most 64 features";
            return Err(Rejection::new(Code::InvalidValue, message));
        }
        own.iter().for_each(|name| add(name.trim()));
        Ok((!all.is_empty()).then(|| all.join(",")))
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Context {
    edits: Vec<ContextEdit>,
}

#[derive(serde::Deserialize)]
struct ContextEdit {
    #[serde(rename = "type")]
    kind: String,
    trigger: Option<serde_json::Value>,
}

impl ContextEdit {
    /// The client of Anthropic's API does not send what would compact a short conversation.
    fn check(&self) -> Result<(), Rejection> {
        let trigger = self.trigger.as_ref().filter(|_| self.kind == "compact_20260112");
        let is_wrong = trigger.is_some_and(|trigger| {
            let tokens = trigger["value"].as_u64();
            trigger["type"] == "input_tokens" && tokens.is_none_or(|tokens| tokens < MIN_COMPACT)
        });
        if !is_wrong {
            return Ok(());
        }
        let message =
            "`context_management.edits.trigger.value` must be a whole number from 50000 on";
        Err(Rejection::new(Code::InvalidValue, message))
    }
}

fn is_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_fine)
}

/// Tools in which every property with `oneOf` has a type; `None` where nothing is to be done.
fn typed_tools(tools: &RawValue) -> Option<Bytes> {
    memchr::memmem::find(tools.get().as_bytes(), b"oneOf")?;
    let list: Vec<&RawValue> = serde_json::from_str(tools.get()).ok()?;
    let mut out = Vec::with_capacity(tools.get().len() + 64);
    let mut is_changed = false;
    for (at, tool) in list.iter().enumerate() {
        out.push(if at == 0 { b'[' } else { b',' });
        match typed_tool(tool.get()) {
            Some(typed) => {
                is_changed = true;
                out.extend_from_slice(typed.as_bytes());
            }
            None => out.extend_from_slice(tool.get().as_bytes()),
        }
    }
    out.push(b']');
    is_changed.then(|| out.into())
}

/// One such tool, of which only the parameters change.
fn typed_tool(tool: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Tool<'a> {
        #[serde(borrow)]
        function: Function<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Function<'a> {
        #[serde(borrow)]
        parameters: &'a RawValue,
    }
    let parameters = serde_json::from_str::<Tool<'_>>(tool).ok()?.function.parameters;
    let typed = schema::with_types(parameters);
    if typed == parameters.get() {
        return None;
    }
    let at = super::json::range_of(tool.as_bytes(), parameters);
    Some(format!("{}{typed}{}", &tool[..at.start], &tool[at.end..]))
}

#[cfg(test)]
mod tests;
