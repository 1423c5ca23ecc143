//! From one wire format to another: requests, answers, streams.
//!
//! Everything passes through one neutral form (`neutral`), so that a format is written once and not once for each of
//! the others. Each format has a file with the same functions in the same order: `read_request`, `write_request`,
//! `read_answer`, `read_error`, `write_answer`, `StreamReader`, `StreamWriter`. What a target cannot express is named
//! ([`Dropped`]) or, where the answer would depend on it, refused.

use bytes::Bytes;

use crate::protocol::Protocol;
use crate::rejection::Rejection;

pub mod neutral;
pub mod chat;
pub mod messages;
pub mod responses;
pub mod gemini;
pub mod cohere;
pub mod ollama;
pub mod converse;
pub mod sagemaker;
pub mod text;

mod fields;
mod frames;
mod lines;
mod names;
mod object;
pub(crate) mod out;
mod packets;
pub(crate) mod quirks;
pub(crate) mod schema;
mod seal;
mod stream;
mod tags;

use fields::is_repeatable;
pub use names::ToolName;
use neutral::{Answer, AsCaller, Conversation, Dropped, Failure, Target, Usage, Written};
pub use object::{Fault, Object};
pub use stream::{State, Stream, StreamReader, StreamWriter};
pub use tags::may_have_tags;
use text::Text;

/// A format that a provider speaks: one that callers speak too, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// OpenAI chat completions.
    Chat,
    /// Anthropic messages.
    Messages,
    /// OpenAI responses.
    Responses,
    /// Google Gemini `generateContent`.
    Gemini,
    /// Cohere chat, version 2.
    Cohere,
    /// Ollama chat.
    Ollama,
    /// Amazon Bedrock `Converse`.
    Converse,
    /// Amazon SageMaker `InvokeEndpoint`.
    SageMaker,
}

impl From<Protocol> for Wire {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Chat => Self::Chat,
            Protocol::Messages => Self::Messages,
            Protocol::Responses => Self::Responses,
        }
    }
}

/// What a provider answers in: a format, and whose dialect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The format.
    pub wire: Wire,
    /// The provider's name in the provider table; empty for the format as its inventor has it.
    pub provider: &'static str,
}

impl Spoken {
    /// In which answers the text holds thoughts.
    fn tagged(self) -> quirks::Tagged {
        match self.wire {
            Wire::Chat => quirks::tagged(self.provider),
            Wire::Ollama => quirks::tagged("ollama"),
            Wire::Responses if self.provider == "fireworks" => quirks::tagged("fireworks"),
            _ => quirks::Tagged::default(),
        }
    }
}

impl From<Wire> for Spoken {
    fn from(wire: Wire) -> Self {
        Self { wire, provider: "" }
    }
}

impl From<Protocol> for Spoken {
    fn from(protocol: Protocol) -> Self {
        Wire::from(protocol).into()
    }
}

/// A request in the provider's format.
#[derive(Debug)]
pub struct Request {
    /// The body to send.
    pub body: Bytes,
    /// What the provider's format cannot express.
    pub dropped: Dropped,
    /// What writing the answer takes. `now` and `id` are for the gateway to fill in.
    pub caller: AsCaller,
}

/// Translates a request of the format `from` to one of the format `to`.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read, or that the provider cannot be asked.
pub fn request(
    from: Protocol,
    to: impl Into<Wire>,
    body: &[u8],
    target: &Target<'_>,
) -> Result<Request, Rejection> {
    let conversation = read_request(from, body)?;
    let Written { body, dropped } = write_request(to, &conversation, target)?;
    let caller = AsCaller { model: target.model.to_owned(), ..as_caller(from, &conversation) };
    Ok(Request { body, dropped, caller })
}

/// An answer in the caller's format.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The body to send.
    pub body: Bytes,
    /// What the provider counted, which is more than the caller's format may say: costs are computed from it.
    pub usage: Option<Usage>,
}

/// Translates a whole answer of the provider's format `from` to the caller's format `to`.
///
/// # Errors
/// When the document is no answer.
pub fn answer(
    from: impl Into<Spoken>,
    to: Protocol,
    body: &[u8],
    caller: &AsCaller,
) -> Result<Answered, Failure> {
    let mut answer = read_answer(from, body)?;
    if answer.model.is_none() && !caller.model.is_empty() {
        answer.model = Some(Text::of(&caller.model));
    }
    Ok(Answered { body: write_answer(to, &answer, caller), usage: answer.usage })
}

/// What must be known of a request, which came in the format `from`, to write its answer.
pub fn as_caller(from: Protocol, conversation: &Conversation<'_>) -> AsCaller {
    AsCaller {
        include_usage: conversation.include_usage,
        tools: conversation.tools.iter().filter_map(|tool| tool.known_as.clone()).collect(),
        echo: match from {
            Protocol::Responses => responses::echo(conversation),
            Protocol::Chat | Protocol::Messages => String::new(),
        },
        ..AsCaller::default()
    }
}

/// Reads a request.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read.
pub fn read_request(format: Protocol, body: &[u8]) -> Result<Conversation<'_>, Rejection> {
    match format {
        Protocol::Chat => chat::read_request(body),
        Protocol::Messages => messages::read_request(body),
        Protocol::Responses => responses::read_request(body),
    }
}

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    format: impl Into<Wire>,
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    match format.into() {
        Wire::Chat => chat::write_request(conversation, target),
        Wire::Messages => messages::write_request(conversation, target),
        Wire::Responses => responses::write_request(conversation, target),
        Wire::Gemini => gemini::write_request(conversation, target),
        Wire::Cohere => cohere::write_request(conversation, target),
        Wire::Ollama => ollama::write_request(conversation, target),
        Wire::Converse => converse::write_request(conversation, target),
        Wire::SageMaker => sagemaker::write_request(conversation, target),
    }
}

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(from: impl Into<Spoken>, body: &[u8]) -> Result<Answer<'_>, Failure> {
    let from = from.into();
    let answer = match from.wire {
        Wire::Chat => chat::read_answer(body, from.provider),
        Wire::Messages => messages::read_answer(body),
        Wire::Responses => responses::read_answer(body),
        Wire::Gemini => gemini::read_answer(body),
        Wire::Cohere => cohere::read_answer(body),
        Wire::Ollama => ollama::read_answer(body),
        Wire::Converse => converse::read_answer(body),
        Wire::SageMaker => sagemaker::read_answer(body),
    }?;
    let mut answer = if from.tagged().whole { tags::take_out(answer) } else { answer };
    answer.id.take_if(|id| !is_repeatable(id));
    answer.model.take_if(|model| !is_repeatable(model));
    Ok(answer)
}

/// Reads a body that reports an error; `None` when it reports none.
pub fn read_error(from: impl Into<Spoken>, body: &[u8]) -> Option<Failure> {
    match from.into().wire {
        Wire::Chat => chat::read_error(body),
        Wire::Messages => messages::read_error(body),
        Wire::Responses => responses::read_error(body),
        Wire::Gemini => gemini::read_error(body),
        Wire::Cohere => cohere::read_error(body),
        Wire::Ollama => ollama::read_error(body),
        Wire::Converse => converse::read_error(body),
        Wire::SageMaker => sagemaker::read_error(body),
    }
}

/// Writes an answer.
pub fn write_answer(format: Protocol, answer: &Answer<'_>, caller: &AsCaller) -> Bytes {
    match format {
        Protocol::Chat => chat::write_answer(answer, caller),
        Protocol::Messages => messages::write_answer(answer, caller),
        Protocol::Responses => responses::write_answer(answer, caller),
    }
}
