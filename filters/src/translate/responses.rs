//! OpenAI responses, without state: what a request needs is in it.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses> (2026-11-22).

mod read;
mod write;
mod answer;
mod stream;

pub use answer::{echo, read_answer, read_error, write_answer};
pub use read::read_request;
pub use stream::{StreamReader, StreamWriter};
pub use write::write_request;
