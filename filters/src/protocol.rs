//! The wire formats callers speak. Framing and each format's own shapes live in the files below.

pub mod chat;
pub mod json;
pub mod sse;
pub mod name;

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
