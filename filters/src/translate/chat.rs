//! OpenAI chat completions.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat> (2026-11-22).

mod read;
mod write;
mod turns;
mod answer;
mod stream;

pub use answer::{read_answer, read_error, write_answer};
pub use read::read_request;
pub use stream::{StreamReader, StreamWriter};
pub(super) use turns::{Messages, url, write_calls};
pub(super) use write::refuse_uploads;
pub use write::write_request;
