//! The tools that the gateway runs itself, as far as they are text: what a request asks for, what the model is offered,
//! what it answers, what the next round says, and what the caller may see of it all.
//!
//! A loop works in its caller's format and knows no provider. Each format has one file with the same functions in the
//! same order: `prepare`, `read_answer`, `append`, `write_answer`, `strip_marks`; its streams have one below `stream`.
//! Bodies are edited as bytes: what is not edited stays as the caller wrote it.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::protocol::Protocol;
use crate::rejection::{Code, Rejection};

pub mod result;
pub mod searching;

mod append;
mod chat;
mod claim;
mod doc;
mod entries;
mod limits;
mod marks;
mod messages;
mod offer;
mod responses;
mod stream;
mod tally;

pub use crate::platform::tools::McpServer;
pub(crate) use claim::Claims;
pub use claim::{CodeTool, SearchTool, Wanted, claim};
pub(crate) use entries::{
    GUARDRAILS, HEADER, ITERATIONS, LONG_HEADER, MCP_SERVERS, check as check_entries,
};
pub use limits::{Backends, rounds_exceeded, sandbox_unreachable, search_unreachable};
pub use marks::{Marks, Source};
pub use offer::{Hint, Offer, OwnTool, Owner, ToolDef, own};
pub use stream::{Ending, Loop, Options, RoundEnd};
pub use tally::Tally;

/// Upstream calls of a loop when the request does not say.
pub const DEFAULT_ROUNDS: u32 = 10;
/// The most of them, whoever says what.
pub const MAX_ROUNDS: u32 = 25;
/// The tool that runs code, as the model knows it.
pub const CODE_EXECUTION: &str = "code_execution";
/// The tool that searches the web, as the model knows it.
pub const WEB_SEARCH: &str = "web_search";

/// The names of the tools that the gateway runs for a request. Who owns a call is told by its name alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned(BTreeSet<String>);

impl Owned {
    /// Whether the gateway runs the tool of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Whether a longer name may be one of them: it came in pieces.
    fn may_become(&self, beginning: &str) -> bool {
        self.0.iter().any(|name| name.starts_with(beginning) && name.len() > beginning.len())
    }
}

impl FromIterator<String> for Owned {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// What the model wants run.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The model's own id of the call; the result refers to it.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// What it is called with. What is no JSON object reads as an empty one.
    pub arguments: Map<String, Value>,
}

/// What came of a call, as the model reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolResult {
    /// The id of the call.
    pub id: String,
    /// The text; [`result`] writes it. Errors begin with `[tool error] `.
    pub text: String,
    /// What a search found, for the marks of it in the answer; empty for other tools.
    pub sources: Vec<Source>,
}

impl ToolResult {
    /// Whether the tool failed.
    pub fn is_error(&self) -> bool {
        result::is_error(&self.text)
    }
}

/// What a round asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: the answer is the caller's.
    Done,
    /// To run these and ask again. Never empty.
    Run(Vec<ToolCall>),
    /// To run these; the caller has calls of its own to run, so there is no further round, and nobody reads the results.
    Mixed(Vec<ToolCall>),
}

impl Step {
    /// The calls that the gateway runs.
    pub fn calls(&self) -> &[ToolCall] {
        match self {
            Self::Done => &[],
            Self::Run(calls) | Self::Mixed(calls) => calls,
        }
    }

    /// By whose calls there are. `is_cut`: the answer stopped in the middle, its calls may not be whole.
    fn of(owned: Vec<ToolCall>, has_foreign: bool, is_cut: bool) -> Self {
        match (owned.is_empty(), has_foreign) {
            _ if is_cut => Self::Done,
            (true, _) => Self::Done,
            (false, true) => Self::Mixed(owned),
            (false, false) => Self::Run(owned),
        }
    }
}

/// What the model said in a round, as the next one repeats it: list items that are JSON already, between them commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn(Bytes);

/// What a whole answer says to the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What is to be done.
    pub step: Step,
    /// What the model said.
    pub turn: Turn,
    /// The provider's `usage` as it stands, for the [`Tally`].
    pub usage: Option<Value>,
}

/// The body of the first round: the request with the gateway's tools in place of its own entries, and with the hints.
/// The gateway's other fields stay: the ordinary writer takes them out.
///
/// # Errors
/// `invalid_json` when the body is no object; `invalid_value` when it asks for several answers, which no loop can follow.
pub fn prepare(
    protocol: Protocol,
    body: &Bytes,
    wanted: &Wanted,
    offer: &Offer,
) -> Result<Bytes, Rejection> {
    let prepared = match protocol {
        Protocol::Chat => chat::prepare(body, wanted, offer)?,
        Protocol::Messages => messages::prepare(body, wanted, offer),
        Protocol::Responses => responses::prepare(body, wanted, offer),
    };
    prepared.ok_or_else(no_object)
}

/// Reads a whole answer of a round. `None` when it is no answer of this format.
pub fn read_answer(protocol: Protocol, answer: &[u8], owned: &Owned) -> Option<Answered> {
    match protocol {
        Protocol::Chat => chat::read_answer(answer, owned),
        Protocol::Messages => messages::read_answer(answer, owned),
        Protocol::Responses => responses::read_answer(answer, owned),
    }
}

/// The body of the next round: `body`, what the model said, and what came of its calls, in the order of `results`.
/// A choice that forces a call is set free: it has been obeyed.
///
/// # Errors
/// `invalid_json` when `body` is none that [`prepare`] wrote.
pub fn append(
    protocol: Protocol,
    body: &Bytes,
    turn: &Turn,
    results: &[ToolResult],
) -> Result<Bytes, Rejection> {
    let next = match protocol {
        Protocol::Chat => chat::append(body, turn, results),
        Protocol::Messages => messages::append(body, turn, results),
        Protocol::Responses => responses::append(body, turn, results),
    };
    next.ok_or_else(no_object)
}

/// The last answer as the caller sees it: without the gateway's calls, with the usage of all rounds, in responses and
/// messages with `marks` in front of what was said. An answer without such calls, of a loop of one round without marks,
/// stays byte for byte as it is.
pub fn write_answer(
    protocol: Protocol,
    answer: &Bytes,
    owned: &Owned,
    tally: &Tally,
    marks: &Marks,
) -> Bytes {
    let written = match protocol {
        Protocol::Chat => chat::write_answer(answer, owned, tally),
        Protocol::Messages => messages::write_answer(answer, owned, tally, &marks.blocks()),
        Protocol::Responses => responses::write_answer(answer, owned, tally, &marks.items()),
    };
    written.unwrap_or_else(|| answer.clone())
}

/// The request without the marks that this gateway put into earlier answers; `None` when there are none in it. For every
/// request, with tools or without: no provider takes them.
pub fn strip_marks(protocol: Protocol, body: &Bytes) -> Option<Bytes> {
    match protocol {
        Protocol::Chat => None,
        Protocol::Messages => messages::strip_marks(body),
        Protocol::Responses => responses::strip_marks(body),
    }
}

/// What has been read as a request before is one.
fn no_object() -> Rejection {
    Rejection::new(Code::InvalidJson, "The body is not a JSON object: send one")
}

#[cfg(test)]
mod tests;
