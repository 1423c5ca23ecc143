//! Marks of the gateway's searches in an answer, in the words of the caller's API, and how they are told in what comes
//! back of it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ToolCall;

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its title; empty when it has none.
    pub title: String,
    /// Its address.
    pub url: String,
}

/// Beginning of the ids of marks in messages.
pub(super) const MESSAGES_ID: &str = "srvtoolu_otari_";
/// Beginning of the ids of marks in responses.
pub(super) const RESPONSES_ID: &str = "ws_otari_";

/// The id of a call's mark: of the same call the same.
pub(super) fn id(prefix: &str, round: u32, call: &ToolCall) -> String {
    let digest = Sha256::digest(format!("{round} {} {}", call.id, call.name));
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{hex}")
}

/// What was searched for.
pub(super) fn query(call: &ToolCall) -> &str {
    call.arguments.get("query").and_then(Value::as_str).unwrap_or_default()
}

/// The item of a search in responses.
pub(super) fn responses_item(id: &str, status: &str, call: &ToolCall) -> Value {
    json!({"id": id, "type": "web_search_call", "status": status,
        "action": {"type": "search", "query": query(call)}})
}

/// What a search found, as a block of messages. `None`: it failed.
pub(super) fn messages_result(id: &str, sources: Option<&[Source]>) -> Value {
    let content = match sources {
        None => json!({"type": "web_search_tool_result_error", "error_code": "unavailable"}),
        Some(sources) => sources
            .iter()
            .map(|source| {
                json!({"type": "web_search_result", "url": source.url, "title": source.title,
                    "encrypted_content": "", "page_age": null})
            })
            .collect(),
    };
    json!({"type": "web_search_tool_result", "tool_use_id": id, "content": content})
}
