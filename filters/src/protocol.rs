//! The wire formats callers speak. Framing, and what the formats share, lives in the files below; each format has one
//! file with the same items in the same order: `FIELDS`, `FORMAT`, `describe`.

pub mod request;
pub mod chat;
pub mod messages;
pub mod responses;
pub mod json;
pub mod sse;
pub mod name;
pub mod cost;

mod dialect;
pub(crate) mod scan;
pub(crate) mod top;
mod text;
pub(crate) mod check;
mod repr;

pub use request::{Request, Rewrite};

/// The API a caller speaks; decides the shape of errors and of the end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI chat completions, and every route without a protocol of its own.
    #[default]
    Chat,
    /// Anthropic messages.
    Messages,
    /// OpenAI responses.
    Responses,
}

impl Protocol {
    /// The route that speaks it, as its template and as the rows' endpoint.
    pub fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
        }
    }
}
