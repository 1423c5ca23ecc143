//! What a provider's failures mean to a caller.

use crate::rejection::{Code, Rejection};

use super::{ErrorClass, redact};

/// Why an attempt gave no answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The name has no address.
    Dns,
    /// No connection, TLS included.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// The connection broke before the answer.
    Broken,
    /// No first byte in time.
    FirstByteTimeout,
    /// No further piece in time.
    IdleTimeout,
    /// The answer was not one: no JSON, no events, an unknown encoding.
    Malformed,
}

impl Failure {
    /// The reason in rows, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Broken => "connection_broken",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Malformed => "malformed_answer",
        }
    }

    /// Whether the provider may have begun to work, and to bill.
    pub fn was_sent(self) -> bool {
        !matches!(self, Self::Dns | Self::Connect | Self::ConnectTimeout)
    }

    /// How a platform is told.
    pub fn class(self) -> ErrorClass {
        match self {
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::IdleTimeout => {
                ErrorClass::Timeout
            }
            Self::Dns | Self::Connect | Self::Broken => ErrorClass::Connection,
            Self::Malformed => ErrorClass::Unknown,
        }
    }

    /// What the caller is told.
    pub fn rejection(self) -> Rejection {
        match self {
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::IdleTimeout => {
                Rejection::new(Code::ProviderTimeout, "LLM provider timeout")
            }
            _ => Rejection::new(Code::ProviderError, "LLM provider error"),
        }
    }
}

/// Whether a status is worth another try on the same provider.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..)
}

/// Texts by which providers say that the account cannot pay, in lower case.
const BILLING: [&str; 8] = [
    "credit balance is too low",
    "purchase credits",
    "plans & billing",
    "billing hard limit",
    "insufficient balance",
    "insufficient_quota",
    "exceeded your current quota",
    "insufficient credits",
];

const INVALID: &str =
    "The provider rejected the request as invalid (check the model name and parameters)";

/// What the caller is told about a provider's error status.
///
/// `body`: the beginning of the provider's answer. `retry_after_s`: its `Retry-After`, passed on for 429 and 503.
pub fn refusal(status: u16, body: &[u8], retry_after_s: Option<u64>) -> Rejection {
    let text = message_of(body);
    let own_words = |fallback: &'static str| {
        text.as_deref().and_then(redact).map_or(fallback.into(), std::borrow::Cow::Owned)
    };
    match status {
        402 => billing(),
        400 | 422 if is_unpaid(body) => billing(),
        400 | 413 | 422 => Rejection::new(Code::ProviderInvalid, own_words(INVALID)),
        404 => Rejection::new(
            Code::ProviderNotFound,
            own_words("The requested model was not found on the provider"),
        ),
        401 | 403 => Rejection::new(
            Code::ProviderCredentials,
            "The provider rejected the gateway's credentials",
        ),
        408 | 504 => Rejection::new(Code::ProviderTimeout, "LLM provider timeout"),
        429 => Rejection {
            retry_after_s,
            ..Rejection::new(Code::ProviderRateLimited, "The provider rate-limited this request")
        },
        503 => {
            Rejection { retry_after_s, ..Rejection::new(Code::ProviderError, "LLM provider error") }
        }
        _ => Rejection::new(Code::ProviderError, "LLM provider error"),
    }
}

/// Whether a 400 or 422 says that the account cannot pay.
fn is_unpaid(body: &[u8]) -> bool {
    let lower = String::from_utf8_lossy(body).to_lowercase();
    BILLING.iter().any(|probe| lower.contains(probe))
}

/// How a platform is told of an error status.
pub fn class_of(status: u16, body: &[u8]) -> ErrorClass {
    let unpaid = status == 402 || (matches!(status, 400 | 422) && is_unpaid(body));
    ErrorClass::Status { status, unpaid }
}

/// What the caller is told when several upstreams were to be tried and the last of them failed so.
pub fn exhausted(last: &Rejection) -> Rejection {
    match last.code {
        Code::ProviderTimeout => {
            Rejection::new(Code::ProviderTimeout, "All upstream providers timed out")
        }
        _ => Rejection::new(Code::ProviderError, "All upstream providers failed"),
    }
}

fn billing() -> Rejection {
    Rejection::new(
        Code::ProviderBilling,
        "The upstream provider account is out of credit or over its billing limit. Top up the provider account, \
         or route this model to a provider that has credit.",
    )
}

/// The sentence inside a provider's error body, in any of the usual shapes.
fn message_of(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    // Google puts the errors of streams into a list.
    let value = if value.is_array() { &value[0] } else { &value };
    let candidates =
        [&value["error"]["message"], &value["message"], &value["detail"], &value["error"]];
    candidates.iter().find_map(|text| text.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, message: &str) -> (u16, String) {
        let body = serde_json::json!({"error": {"message": message}}).to_string();
        let refused = refusal(status, body.as_bytes(), Some(7));
        (refused.code.status().as_u16(), refused.message.into_owned())
    }

    #[test]
    fn provider_errors_are_told_apart() {
        assert_eq!(told(400, "max_tokens is too large"), (400, "max_tokens is too large".into()));
        assert_eq!(told(422, "bad").0, 400);
        assert_eq!(told(404, "no such model").0, 404);
        assert_eq!(told(401, "Incorrect API key provided: sk-abc").0, 502);
        assert!(!told(401, "Incorrect API key provided: sk-abc").1.contains("sk-"));
        assert_eq!(told(429, "slow down").0, 429);
        assert_eq!(told(500, "boom"), (502, "LLM provider error".into()));
        assert_eq!(told(504, "boom").0, 504);
        assert_eq!(told(400, "Your credit balance is too low").0, 502);
        assert_eq!(refusal(429, b"", Some(7)).retry_after_s, Some(7));
    }
}
