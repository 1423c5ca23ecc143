//! The wire formats side by side: which file writes what, and how each tells an error.

use super::answer::{Answer, put, quoted};
use super::families::gemini;
use super::{chat, messages, responses};

/// A protocol that generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Chat,
    Messages,
    Responses,
    Gemini,
}

impl Protocol {
    /// Appends the answer in one piece.
    pub(super) fn whole(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat => chat::whole(answer, out),
            Self::Messages => messages::whole(answer, out),
            Self::Responses => responses::whole(answer, out),
            Self::Gemini => gemini::whole(answer, out),
        }
    }

    /// Appends the events before the first chunk.
    pub(super) fn open(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat => chat::open(answer, out),
            Self::Messages => messages::open(answer, out),
            Self::Responses => responses::open(answer, out),
            Self::Gemini => {}
        }
    }

    /// Appends the event of chunk `index`.
    pub(super) fn delta(self, answer: &Answer, index: u32, out: &mut Vec<u8>) {
        match self {
            Self::Chat => chat::delta(answer, index, out),
            Self::Messages => messages::delta(answer, index, out),
            Self::Responses => responses::delta(answer, index, out),
            Self::Gemini => gemini::delta(answer, index, out),
        }
    }

    /// Appends the events after the last chunk, without the last of all.
    pub(super) fn close(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat => chat::close(answer, out),
            Self::Messages => messages::close(answer, out),
            Self::Responses => responses::close(answer, out),
            Self::Gemini => {}
        }
    }

    /// Appends the event that tells a stream is complete.
    pub(super) fn done(self, answer: &Answer, out: &mut Vec<u8>) {
        match self {
            Self::Chat => put(out, &[chat::DONE]),
            Self::Messages => put(out, &[messages::DONE]),
            Self::Responses => responses::done(answer, out),
            Self::Gemini => gemini::done(answer, out),
        }
    }

    /// Appends an error event after `sent` chunks.
    pub(super) fn failure(self, answer: &Answer, sent: u32, out: &mut Vec<u8>) {
        match self {
            Self::Chat => put(out, &[chat::FAILURE]),
            Self::Messages => put(out, &[messages::FAILURE]),
            Self::Responses => responses::failure(answer, sent, out),
            Self::Gemini => gemini::failure(out),
        }
    }

    /// How the events of a stream are told apart.
    pub(super) fn wire(self) -> Wire {
        Wire::Sse
    }

    /// Header lines of an error answer.
    pub(super) fn error_fields(self, _status: u16) -> &'static str {
        ""
    }

    /// The body of an error answer.
    pub(super) fn error(self, status: u16, message: &str) -> Vec<u8> {
        match self {
            Self::Chat | Self::Responses => openai_error(status, message),
            Self::Messages => anthropic_error(status, message),
            Self::Gemini => gemini::error(status, message),
        }
    }
}

/// How the events of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Server-sent events.
    Sse,
}

impl Wire {
    /// The content type.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
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
