//! Ollama's chat, as a provider's format. Its streams are documents, one to a line.
//!
//! Source: <https://github.com/ollama/ollama/blob/main/docs/api.md> (2026-11-23).

mod write;
mod answer;

pub use answer::{StreamReader, read_answer, read_error};
pub use write::write_request;
