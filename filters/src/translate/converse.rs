//! Amazon Bedrock's Converse, as a provider's format. Model and stream are said by the address, not the body.
//!
//! Source: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html> (2026-11-22).

mod write;
mod media;
mod answer;
mod stream;

pub use answer::{read_answer, read_error};
pub use stream::StreamReader;
pub use write::write_request;

/// The tool that stands for an answer that must keep to a schema: the provider has none, but a call keeps to one.
const STRUCTURED: &str = "any_llm_structured_output";
