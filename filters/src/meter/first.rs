//! The first event of a stream: whether the provider answers, or only says politely that it does not.

use bytes::Bytes;
use serde_json::Value;

use crate::protocol::Protocol;
use crate::protocol::sse::{self, Events, Mark, kind};

/// An event longer than this is one: errors are short.
const MAX_BYTES: usize = 64 << 10;

/// What the beginning of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// No event yet: comments and pings are none.
    Waiting,
    /// The answer begins.
    Event,
    /// The first event reports an error.
    Failed {
        /// The HTTP status that the error stands for, 400 to 599, where it says one.
        status: Option<u16>,
        /// The provider's JSON document with the error.
        body: Bytes,
    },
}

/// Waits for the first event of a stream. Keeps a copy of an unfinished event, up to 64 KiB; what was fed is the
/// caller's to keep.
#[derive(Debug)]
pub struct FirstEvent {
    protocol: Protocol,
    events: Events,
    name: Vec<u8>,
    data: Vec<u8>,
    /// What was said, once it is not `Waiting`.
    said: Option<First>,
}

impl FirstEvent {
    /// Nothing was seen yet.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            events: Events::new(MAX_BYTES),
            name: Vec::new(),
            data: Vec::new(),
            said: None,
        }
    }

    /// Looks at the next piece. What was said once stays said.
    pub fn feed(&mut self, piece: Bytes) -> First {
        if let Some(said) = &self.said {
            return said.clone();
        }
        let mut scan = self.events.scan(piece);
        while let Some(mark) = scan.next() {
            match mark {
                Mark::Line(line) => {
                    let line = &scan.bytes()[line];
                    if let Some(data) = sse::data(line) {
                        if !self.data.is_empty() {
                            self.data.push(b'\n');
                        }
                        self.data.extend_from_slice(data);
                    } else if let Some(name) = sse::name(line) {
                        name.clone_into(&mut self.name);
                    }
                }
                Mark::End(_) => {
                    self.said = judge(self.protocol, &self.name, &self.data);
                    self.name.clear();
                    self.data.clear();
                    if let Some(said) = &self.said {
                        return said.clone();
                    }
                }
            }
        }
        let _ = scan.finish();
        if self.events.is_overlong() {
            self.said = Some(First::Event);
        }
        self.said.clone().unwrap_or(First::Waiting)
    }

    /// The stream is over: what it says if its last event lacks its end. `Waiting`: it held no event at all.
    pub fn finish(&mut self) -> First {
        if let Some(said) = &self.said {
            return said.clone();
        }
        // The lines that were complete have been looked at; so is the last one, as if it were.
        match self.feed(Bytes::from_static(b"\n\n")) {
            First::Waiting => self.feed(Bytes::from_static(b"\n")),
            said => said,
        }
    }
}

/// What an event says; nothing when it is a comment or a ping.
fn judge(protocol: Protocol, name: &[u8], data: &[u8]) -> Option<First> {
    if data.is_empty() {
        return None;
    }
    let kind = kind(data, name);
    if protocol == Protocol::Messages && kind == b"ping" {
        return None;
    }
    let says_error = match protocol {
        Protocol::Chat => name == b"error",
        Protocol::Messages | Protocol::Responses => kind == b"error" || name == b"error",
    };
    if !says_error && memchr::memmem::find(data, b"\"error\"").is_none() {
        return Some(First::Event);
    }
    let document: Value = serde_json::from_slice(data).unwrap_or_default();
    let error = document.get("error").filter(|error| !error.is_null());
    if !says_error && error.is_none() {
        return Some(First::Event);
    }
    let status = error.and_then(status).or_else(|| status(&document));
    Some(First::Failed { status, body: Bytes::copy_from_slice(data) })
}

/// The HTTP status that an error stands for.
fn status(error: &Value) -> Option<u16> {
    let number = ["code", "status", "status_code"].iter().find_map(|name| {
        let number = match &error[*name] {
            Value::Number(number) => number.as_u64()?,
            Value::String(digits) => digits.parse().ok()?,
            _ => return None,
        };
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    });
    number.or_else(|| {
        let named = ["code", "type"].iter().filter_map(|name| error[*name].as_str());
        named.filter_map(named_status).next()
    })
}

/// The HTTP status that a provider's word for an error stands for.
///
/// Source: <https://docs.anthropic.com/en/api/errors>, <https://platform.openai.com/docs/guides/error-codes>,
/// <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html>,
/// <https://ai.google.dev/gemini-api/docs/troubleshooting> (2026-11-22).
pub fn named_status(name: &str) -> Option<u16> {
    Some(match name {
        "invalid_request_error" => 400,
        "authentication_error" | "invalid_api_key" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" | "model_not_found" => 404,
        "request_too_large" => 413,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" => 429,
        "api_error" | "server_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        "validationException" | "INVALID_ARGUMENT" | "FAILED_PRECONDITION" => 400,
        "UNAUTHENTICATED" => 401,
        "PERMISSION_DENIED" => 403,
        "NOT_FOUND" => 404,
        "modelStreamErrorException" => 424,
        "throttlingException" | "RESOURCE_EXHAUSTED" => 429,
        "internalServerException" | "INTERNAL" => 500,
        "serviceUnavailableException" | "UNAVAILABLE" => 503,
        "DEADLINE_EXCEEDED" => 504,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Protocol::{Chat, Messages, Responses};
    use super::*;

    fn failed(status: impl Into<Option<u16>>, body: &'static str) -> First {
        First::Failed { status: status.into(), body: Bytes::from_static(body.as_bytes()) }
    }

    /// What is said of a stream, however it is split.
    fn check(protocol: Protocol, stream: &str, want: &First) {
        let said = |pieces: &[&[u8]]| {
            let mut first = FirstEvent::new(protocol);
            let mut said = First::Waiting;
            for piece in pieces {
                let now = first.feed(Bytes::copy_from_slice(piece));
                assert!(said == First::Waiting || said == now, "what was said stays said");
                said = now;
            }
            said
        };
        let bytes = stream.as_bytes();
        for at in 0..=bytes.len() {
            assert_eq!(said(&[&bytes[..at], &bytes[at..]]), *want, "{stream} split at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(said(&single), *want, "{stream}");
    }

    #[test]
    fn an_answer_is_told_from_silence() {
        let start = "event: ping\ndata: {\"type\": \"ping\"}\n\n: c\n\nevent: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n";
        for (protocol, stream, want) in [
            (Chat, "", First::Waiting),
            (Chat, ": OPENROUTER PROCESSING\n\n\n: again\r\n\r\n", First::Waiting),
            (Messages, "event: ping\ndata: {\"type\": \"ping\"}\n\n", First::Waiting),
            (Messages, start, First::Event),
            (
                Chat,
                ": c\n\ndata: {\"id\":\"c\",\"choices\":[]}\n\ndata: {\"error\":{}}\n\n",
                First::Event,
            ),
            (
                Chat,
                "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\"\"}}],\"error\":null}\n\n",
                First::Event,
            ),
            (Chat, "data: [DONE]\n\n", First::Event),
            (
                Responses,
                "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n",
                First::Event,
            ),
        ] {
            check(protocol, stream, &want);
        }
    }

    #[test]
    fn an_error_is_told_with_its_status() {
        for (protocol, status, error) in [
            (Chat, Some(429), "{\"error\":{\"message\":\"slow down\",\"code\":429}}"),
            (Chat, Some(503), "{\"error\":{\"code\":\"503\"}}"),
            (Chat, Some(502), "{\"error\":\"no\",\"status_code\":502}"),
            (
                Chat,
                Some(400),
                "{\"error\":{\"type\":\"invalid_request_error\",\"code\":\"context_length_exceeded\"}}",
            ),
            (Chat, None, "{\"error\":{\"code\":200}}"),
            (
                Messages,
                Some(529),
                "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}",
            ),
            (
                Responses,
                Some(429),
                "{\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"x\",\"param\":null}",
            ),
            (Responses, Some(500), "{\"error\":{\"type\":\"server_error\"}}"),
        ] {
            for around in [
                ": c\n\ndata: {}\r\n\r\ndata: [DONE]\r\n\r\n",
                "\nevent: error\ndata: {}\n\n",
                "data:{}\r\r",
            ] {
                check(protocol, &around.replace("{}", error), &failed(status, error));
            }
        }
        let lines = "data: {\ndata: \"error\":\ndata: {\"status\":500}}\n\n";
        check(Chat, lines, &failed(500, "{\n\"error\":\n{\"status\":500}}"));
        check(Messages, "event: error\ndata: {}\n\n", &failed(None, "{}"));
    }

    #[test]
    fn an_unfinished_event_counts_at_the_end() {
        for (stream, want) in [
            ("data: {\"error\":{\"code\":429}}", failed(429, "{\"error\":{\"code\":429}}")),
            ("data: {\"error\":{\"code\":429}}\n", failed(429, "{\"error\":{\"code\":429}}")),
            ("data: {\"error\":{\"code\":429}}\r", failed(429, "{\"error\":{\"code\":429}}")),
            ("data: {}", First::Event),
            (": c", First::Waiting),
            ("", First::Waiting),
        ] {
            let mut first = FirstEvent::new(Chat);
            assert_eq!(first.feed(Bytes::from_static(stream.as_bytes())), First::Waiting);
            assert_eq!(first.finish(), want, "{stream:?}");
        }
    }

    #[test]
    fn a_long_event_is_one() {
        let mut first = FirstEvent::new(Chat);
        let piece = Bytes::from(format!("data: {{\"error\":\"{}", "x".repeat(MAX_BYTES / 2)));
        assert_eq!(first.feed(piece.clone()), First::Waiting);
        assert_eq!(first.feed(piece), First::Event);
    }
}
