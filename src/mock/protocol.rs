//! The wire formats side by side: which file writes what, and how each tells an error.

use super::answer::{Answer, put, quoted};
use super::families::{azure, bedrock, cohere, frames, gemini, ollama, sagemaker, watsonx};
use super::{chat, messages, responses};

/// A protocol that generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Chat,
    Messages,
    Responses,
    Gemini,
    Converse,
    SageMaker,
    AzureOpenAi,
    AzureInference,
    Cohere,
    Ollama,
    Watsonx,
}

impl Protocol {
    /// Appends the answer in one piece.
    pub(super) fn whole(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::SageMaker | Self::AzureInference => chat::whole(answer, out),
            Self::Messages => messages::whole(answer, out),
            Self::Responses => responses::whole(answer, out),
            Self::Gemini => gemini::whole(answer, out),
            Self::Converse => bedrock::whole(answer, out),
            Self::AzureOpenAi => azure::whole(answer, out),
            Self::Cohere => cohere::whole(answer, out),
            Self::Ollama => ollama::whole(answer, out),
            Self::Watsonx => watsonx::whole(answer, out),
        }
    }

    /// Appends the events before the first chunk.
    pub(super) fn open(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::AzureInference => chat::open(answer, out),
            Self::Messages => messages::open(answer, out),
            Self::Responses => responses::open(answer, out),
            Self::Gemini | Self::Ollama => {}
            Self::Converse => bedrock::open(answer, out),
            Self::SageMaker => sagemaker::open(answer, out),
            Self::AzureOpenAi => azure::open(answer, out),
            Self::Cohere => cohere::open(answer, out),
            Self::Watsonx => watsonx::open(answer, out),
        }
    }

    /// Appends the event of chunk `index`.
    pub(super) fn delta(self, answer: &Answer, index: u32, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::AzureOpenAi | Self::AzureInference => {
                chat::delta(answer, index, out);
            }
            Self::Messages => messages::delta(answer, index, out),
            Self::Responses => responses::delta(answer, index, out),
            Self::Gemini => gemini::delta(answer, index, out),
            Self::Converse => bedrock::delta(answer, index, out),
            Self::SageMaker => sagemaker::delta(answer, index, out),
            Self::Cohere => cohere::delta(answer, index, out),
            Self::Ollama => ollama::delta(answer, index, out),
            Self::Watsonx => watsonx::delta(answer, index, out),
        }
    }

    /// Appends the events after the last chunk, without those that tell that the stream is complete.
    pub(super) fn close(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::AzureOpenAi | Self::AzureInference => chat::close(answer, out),
            Self::Messages => messages::close(answer, out),
            Self::Responses => responses::close(answer, out),
            Self::Converse => bedrock::close(answer, out),
            Self::SageMaker => sagemaker::close(answer, out),
            Self::Cohere => cohere::close(answer, out),
            Self::Gemini | Self::Ollama | Self::Watsonx => {}
        }
    }

    /// Appends what tells that a stream is complete.
    pub(super) fn done(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::AzureOpenAi | Self::AzureInference => put(out, &[chat::DONE]),
            Self::Messages => put(out, &[messages::DONE]),
            Self::Responses => responses::done(answer, out),
            Self::Gemini => gemini::done(answer, out),
            Self::Converse => bedrock::done(answer, out),
            Self::SageMaker => sagemaker::done(out),
            Self::Cohere => cohere::done(answer, out),
            Self::Ollama => ollama::done(answer, out),
            Self::Watsonx => watsonx::done(answer, out),
        }
    }

    /// Appends an error event after `sent` chunks.
    pub(super) fn failure(self, answer: &Answer, sent: u32, out: &mut Vec<u8>) {
        match self {
            Self::Chat | Self::AzureOpenAi | Self::AzureInference => put(out, &[chat::FAILURE]),
            Self::Messages => put(out, &[messages::FAILURE]),
            Self::Responses => responses::failure(answer, sent, out),
            Self::Gemini => gemini::failure(out),
            Self::Converse => bedrock::failure(out),
            Self::SageMaker => sagemaker::failure(out),
            Self::Cohere => cohere::failure(out),
            Self::Ollama => ollama::failure(out),
            Self::Watsonx => watsonx::failure(answer, sent, out),
        }
    }

    /// How the events of a stream are told apart.
    pub(super) fn wire(self) -> Wire {
        match self {
            Self::Converse | Self::SageMaker => Wire::Frames,
            Self::Ollama => Wire::Lines,
            _ => Wire::Sse,
        }
    }

    /// Header lines of an error answer.
    pub(super) fn error_fields(self, status: u16) -> &'static str {
        match self {
            Self::Converse => bedrock::error_fields(status),
            Self::SageMaker => sagemaker::error_fields(status),
            _ => "",
        }
    }

    /// The body of an error answer.
    pub(super) fn error(self, status: u16, message: &str) -> Vec<u8> {
        match self {
            Self::Chat | Self::Responses => openai_error(status, message),
            Self::Messages => anthropic_error(status, message),
            Self::Gemini => gemini::error(status, message),
            Self::Converse => bedrock::error(message),
            Self::SageMaker => sagemaker::error(message),
            Self::AzureOpenAi | Self::AzureInference => azure::error(status, message),
            Self::Cohere => cohere::error(message),
            Self::Ollama => ollama::error(message),
            Self::Watsonx => watsonx::error(status, message),
        }
    }
}

/// How the events of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Server-sent events.
    Sse,
    /// A line of JSON each.
    Lines,
    /// Frames of an AWS event stream.
    Frames,
}

impl Wire {
    /// The content type.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Lines => "application/x-ndjson",
            Self::Frames => "application/vnd.amazon.eventstream",
        }
    }

    /// Cuts the JSON of an event in half.
    pub(super) fn halve(self, event: &mut Vec<u8>) {
        match self {
            Self::Frames => frames::halve(event),
            Self::Sse | Self::Lines => {
                event.truncate(event.len() / 2);
                event.extend_from_slice(if self == Self::Sse { b"\n\n" } else { b"\n" });
            }
        }
    }

    /// Makes the checksum of an event wrong, where it has one.
    pub(super) fn spoil(self, event: &mut [u8]) {
        if self == Self::Frames {
            frames::spoil(event);
        }
    }
}

fn anthropic_error(status: u16, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, &[r#"{"type":"error","error":{"type":""#, anthropic_type(status)]);
    put(&mut out, &[r#"","message":"#, &quoted(message), r#"},"request_id":"req_mock"}"#]);
    out
}

fn openai_error(status: u16, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (kind, code) = openai_type(status);
    put(&mut out, &[r#"{"error":{"message":"#, &quoted(message), r#","type":""#, kind]);
    put(&mut out, &[r#"","param":null,"code":"#, code, "}}"]);
    out
}

/// The error types of Anthropic's API reference.
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// Type and code as OpenAI answers them, the code as JSON text.
fn openai_type(status: u16) -> (&'static str, &'static str) {
    match status {
        401 => ("invalid_request_error", r#""invalid_api_key""#),
        404 => ("invalid_request_error", r#""model_not_found""#),
        429 => ("requests", r#""rate_limit_exceeded""#),
        500.. => ("server_error", "null"),
        _ => ("invalid_request_error", "null"),
    }
}
