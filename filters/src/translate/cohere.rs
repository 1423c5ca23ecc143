//! Cohere's chat, version 2, as a provider's format.
//!
//! Source: <https://docs.cohere.com/reference/chat> (2026-11-23).

mod write;
mod answer;

pub use answer::{StreamReader, read_answer, read_error};
pub use write::write_request;
