//! The wire formats callers speak. Framing and each format's own shapes live in the files below.

pub mod chat;
pub mod cost;
pub mod json;
pub mod sse;
pub mod name;

pub use chat::{Request, Rewrite};
/// shim
#[derive(Debug)]
pub struct CountRequest {
    /// shim
    pub model: String,
    /// shim
    pub tokens: u64,
}
impl CountRequest {
    /// shim
    pub fn read(_: &bytes::Bytes) -> Result<Self, crate::rejection::Rejection> {
        Ok(Self { model: String::new(), tokens: 1 })
    }
}

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
