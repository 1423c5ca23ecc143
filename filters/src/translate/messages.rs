//! Anthropic messages.
//!
//! Source: <https://docs.anthropic.com/en/api/messages> (2026-11-22).

mod read;
mod write;
mod answer;
mod stream;

pub use answer::{read_answer, read_error, write_answer};
pub use read::read_request;
pub use stream::{StreamReader, StreamWriter};
pub(crate) use write::VERTEX_VERSION;
pub use write::write_request;
