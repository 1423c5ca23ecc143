//! The neutral form between the wire formats: a request, an answer, the events of a stream.
//!
//! It borrows from the body it was read from. JSON that is only passed along (schemas, numbers, tool arguments,
//! signatures, data of files) stays the text it was.

mod answer;
mod request;

pub use answer::{Answer, AsCaller, Event, Failure, Stop, Usage};
pub use request::{
    Arguments, Conversation, Dropped, Kind, Origin, Output, Part, Reasoning, Role, Seal, Source,
    Target, Tool, ToolCall, ToolChoice, ToolResult, Turn, Written,
};
