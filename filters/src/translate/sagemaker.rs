//! Amazon SageMaker's endpoints, as a provider's format: the chat format, as far as the containers behind them keep to
//! it. The endpoint is said by the address, not the body.
//!
//! Source: <https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html> (2026-11-22).

mod write;
mod answer;
mod stream;

pub use answer::{read_answer, read_error};
pub use stream::StreamReader;
pub use write::write_request;
