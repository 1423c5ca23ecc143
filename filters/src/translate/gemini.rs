//! Google Gemini's `generateContent`, as a provider's format. Model and stream are said by the address, not the body.
//!
//! Source: <https://ai.google.dev/api/generate-content> (2026-11-22).

mod write;
mod answer;

pub use answer::{StreamReader, read_answer, read_error};
pub use write::write_request;
