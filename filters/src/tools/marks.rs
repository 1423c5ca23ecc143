//! Marks of the gateway's searches in an answer, in the words of the caller's API, and how they are told in what comes
//! back of it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ToolCall, ToolResult, WEB_SEARCH, result};

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Its title; empty when it has none.
    pub title: String,
    /// Its address.
    pub url: String,
}

/// The searches of a loop that is not streamed, for the marks of them in its last answer. Nothing added, nothing marked:
/// in messages only a caller who declared Anthropic's own tool wants them (`SearchTool::is_native`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    rounds: u32,
    /// The round, the call, and what it found; nothing where it failed.
    searches: Vec<(u32, ToolCall, Option<Vec<Source>>)>,
}

impl Marks {
    /// Adds a round: its calls and what came of them.
    pub fn add(&mut self, calls: &[ToolCall], results: &[ToolResult]) {
        self.rounds = self.rounds.saturating_add(1);
        for call in calls.iter().filter(|call| call.name == WEB_SEARCH) {
            let found = sources(results, call).map(<[Source]>::to_vec);
            self.searches.push((self.rounds, call.clone(), found));
        }
    }

    /// The marks as blocks of a message, as JSON.
    pub(super) fn blocks(&self) -> Vec<String> {
        let pair = |(round, call, found): &(u32, ToolCall, Option<Vec<Source>>)| {
            let id = id(MESSAGES_ID, *round, call);
            let mut using = messages_use(&id);
            using["input"] = json!({"query": query(call)});
            [using.to_string(), messages_result(&id, found.as_deref()).to_string()]
        };
        self.searches.iter().flat_map(pair).collect()
    }

    /// The marks as items of a response, as JSON.
    pub(super) fn items(&self) -> Vec<String> {
        let item = |(round, call, found): &(u32, ToolCall, Option<Vec<Source>>)| {
            let status = if found.is_some() { "completed" } else { "failed" };
            responses_item(&id(RESPONSES_ID, *round, call), status, call).to_string()
        };
        self.searches.iter().map(item).collect()
    }
}

/// What a call found; nothing where it failed.
pub(super) fn sources<'r>(results: &'r [ToolResult], call: &ToolCall) -> Option<&'r [Source]> {
    let result = results.iter().find(|result| result.id == call.id)?;
    (!result::is_error(&result.text)).then_some(result.sources.as_slice())
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

/// A search, as a block of messages that has no input yet.
pub(super) fn messages_use(id: &str) -> Value {
    json!({"type": "server_tool_use", "id": id, "name": "web_search", "input": {}})
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
