//! What a refused caller is told, per protocol.
//!
//! Every body carries the reference's `detail` and the caller's protocol object, so that its own clients and the
//! official SDKs all print the sentence.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::protocol::Protocol;

/// Why a request was refused: what programs switch on, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No credential header.
    MissingCredentials,
    /// A credential that cannot be one.
    InvalidFormat,
    /// No such key.
    InvalidApiKey,
    /// The key is switched off.
    InactiveKey,
    /// The key's time is over.
    ExpiredKey,
    /// Management needs the master key.
    InvalidMasterKey,
    /// Management is off: no master key is configured.
    MasterKeyNotConfigured,
    /// The body is not JSON, or not readable.
    InvalidJson,
    /// Fields are missing or of the wrong type; `detail` lists them.
    InvalidFields,
    /// A value of the right type that breaks a rule.
    InvalidValue,
    /// A field of this gateway that it cannot honour.
    Unsupported,
    /// The master key must say whom to bill.
    UserRequired,
    /// The request names another user than the key's.
    UserMismatch,
    /// The key belongs to nobody.
    KeyWithoutUser,
    /// Too many requests.
    RateLimited,
    /// The billed user does not exist.
    UserNotFound,
    /// The billed user is blocked.
    UserBlocked,
    /// Neither the key's list of models nor its user's holds the model.
    ModelNotPermitted,
    /// The estimate does not fit into what is left.
    BudgetExceeded,
    /// The model has no price and prices are required.
    NoPrice,
    /// The model name leads nowhere.
    ModelNotFound,
    /// The model name leads to several places.
    AmbiguousModel,
    /// No such route or resource.
    NotFound,
    /// The route exists, with another method.
    MethodNotAllowed,
    /// A resource of this identity exists.
    Conflict,
    /// The caller tried a WebSocket.
    UpgradeRequired,
    /// The body is over the limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// What came is not HTTP as everybody reads it.
    MalformedRequest,
    /// The headers are too long.
    HeadersTooLarge,
    /// There are too many headers.
    TooManyHeaders,
    /// The headers did not arrive in time.
    HeaderTimeout,
    /// More connections than the gateway takes.
    TooManyConnections,
    /// More requests at once than the gateway takes, or more records than it can keep.
    Overloaded,
    /// More requests at once than this caller may have.
    TooManyAtOnce,
    /// Too many credentials from one address were refused.
    TooManyFailures,
    /// A file has no such range.
    RangeNotSatisfiable,
    /// The provider failed.
    ProviderError,
    /// The provider took too long.
    ProviderTimeout,
    /// The provider refused the request itself.
    ProviderInvalid,
    /// The provider does not know the model.
    ProviderNotFound,
    /// The provider's own rate limit.
    ProviderRateLimited,
    /// The provider refused our credentials.
    ProviderCredentials,
    /// The provider account is out of credit.
    ProviderBilling,
    /// The platform does not accept the request as it is.
    PlatformInvalid,
    /// The platform does not know the caller's token.
    PlatformUnauthorized,
    /// The platform wants to be paid first.
    PlatformPaymentRequired,
    /// The platform does not let the caller do this.
    PlatformForbidden,
    /// The platform does not know the model, or something else that the request names.
    PlatformNotFound,
    /// The platform's own rate limit.
    PlatformRateLimited,
    /// The platform did not answer, or not with what it should.
    PlatformUnavailable,
    /// The platform knows no provider for the model.
    PlatformNoProvider,
    /// The model wants more rounds of tools than the request may have.
    ToolRounds,
    /// What the gateway runs a tool with does not answer.
    ToolUnavailable,
    /// A check refuses what is asked, or what is answered.
    GuardrailViolation,
    /// A check that must not be passed over could not be made.
    GuardrailUnavailable,
    /// The whole request took too long.
    Deadline,
    /// The gateway is shutting down.
    Draining,
    /// The database did not answer.
    Unavailable,
    /// A fault of the gateway.
    Internal,
}

impl Code {
    /// The string in `error.code`, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The status a caller sees.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the provider, and not the gateway, is to blame.
    pub fn is_providers(self) -> bool {
        matches!(
            self,
            Self::ProviderError
                | Self::ProviderTimeout
                | Self::ProviderInvalid
                | Self::ProviderNotFound
                | Self::ProviderRateLimited
                | Self::ProviderCredentials
                | Self::ProviderBilling
        )
    }

    /// The status table: one row a code.
    fn row(self) -> (u16, &'static str) {
        match self {
            Self::MissingCredentials => (401, "missing_credentials"),
            Self::InvalidFormat => (401, "invalid_format"),
            Self::InvalidApiKey => (401, "invalid_api_key"),
            Self::InactiveKey => (401, "inactive_key"),
            Self::ExpiredKey => (401, "expired_key"),
            Self::InvalidMasterKey => (401, "invalid_master_key"),
            Self::MasterKeyNotConfigured => (503, "master_key_not_configured"),
            Self::InvalidJson => (422, "invalid_json"),
            Self::InvalidFields => (422, "invalid_fields"),
            Self::InvalidValue => (400, "invalid_value"),
            Self::Unsupported => (400, "unsupported"),
            Self::UserRequired => (400, "user_required"),
            Self::UserMismatch => (403, "user_mismatch"),
            Self::KeyWithoutUser => (500, "key_without_user"),
            Self::RateLimited => (429, "rate_limited"),
            Self::UserNotFound => (404, "user_not_found"),
            Self::UserBlocked => (403, "user_blocked"),
            Self::ModelNotPermitted => (403, "model_not_permitted"),
            Self::BudgetExceeded => (403, "budget_exceeded"),
            Self::NoPrice => (402, "no_price"),
            Self::ModelNotFound => (400, "model_not_found"),
            Self::AmbiguousModel => (400, "ambiguous_model"),
            Self::NotFound => (404, "not_found"),
            Self::MethodNotAllowed => (405, "method_not_allowed"),
            Self::Conflict => (409, "conflict"),
            Self::UpgradeRequired => (426, "upgrade_required"),
            Self::BodyTooLarge => (413, "body_too_large"),
            Self::BodyTimeout => (408, "body_timeout"),
            Self::MalformedRequest => (400, "malformed_request"),
            Self::HeadersTooLarge => (431, "headers_too_large"),
            Self::TooManyHeaders => (431, "too_many_headers"),
            Self::HeaderTimeout => (408, "header_timeout"),
            Self::TooManyConnections => (503, "too_many_connections"),
            Self::Overloaded => (503, "overloaded"),
            Self::TooManyAtOnce => (429, "too_many_concurrent_requests"),
            Self::TooManyFailures => (429, "too_many_failed_authentications"),
            Self::RangeNotSatisfiable => (416, "range_not_satisfiable"),
            Self::ProviderError => (502, "provider_error"),
            Self::ProviderTimeout => (504, "provider_timeout"),
            Self::ProviderInvalid => (400, "provider_invalid_request"),
            Self::ProviderNotFound => (404, "provider_not_found"),
            Self::ProviderRateLimited => (429, "provider_rate_limited"),
            Self::ProviderCredentials => (502, "provider_credentials"),
            Self::ProviderBilling => (502, "provider_billing"),
            Self::PlatformInvalid => (400, "platform_invalid_request"),
            Self::PlatformUnauthorized => (401, "platform_unauthorized"),
            Self::PlatformPaymentRequired => (402, "platform_payment_required"),
            Self::PlatformForbidden => (403, "platform_forbidden"),
            Self::PlatformNotFound => (404, "platform_not_found"),
            Self::PlatformRateLimited => (429, "platform_rate_limited"),
            Self::PlatformUnavailable => (502, "platform_unavailable"),
            Self::PlatformNoProvider => (502, "platform_no_provider"),
            Self::ToolRounds => (422, "too_many_tool_rounds"),
            Self::ToolUnavailable => (502, "tool_unavailable"),
            Self::GuardrailViolation => (403, "guardrail_violation"),
            Self::GuardrailUnavailable => (502, "guardrail_unavailable"),
            Self::Deadline => (504, "deadline"),
            Self::Draining => (503, "draining"),
            Self::Unavailable => (503, "unavailable"),
            Self::Internal => (500, "internal_error"),
        }
    }
}

/// The one type that reaches a refused caller.
#[derive(Debug)]
pub struct Rejection {
    /// What happened, for programs.
    pub code: Code,
    /// What happened and what to do, for people. Never holds a credential or a prompt.
    pub message: Cow<'static, str>,
    /// For the log only.
    pub cause: Option<Box<dyn StdError + Send + Sync>>,
    /// Replaces the sentence in `detail`: the list of faulty fields.
    pub detail: Option<Value>,
    /// When to try again, in whole seconds.
    pub retry_after_s: Option<u64>,
    /// Methods the route has, for 405.
    pub allow: Option<&'static str>,
    /// The provider's own rate-limit headers, passed on with its 429 or 503; the platform's `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rejection {
    /// Refuses with `code` and a sentence for the caller.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
            detail: None,
            retry_after_s: None,
            allow: None,
            headers: Vec::new(),
        }
    }

    /// Hides `cause` behind a fixed message: nothing the caller could act on.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: Some(cause.into()), ..Self::new(Code::Internal, "Internal error") }
    }

    /// Adds what the log should know.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What the caller's SDK should do (`x-should-retry`); `None` leaves it to the status.
    ///
    /// Budget, policy and validation refusals will be refused again.
    pub fn should_retry(&self) -> Option<bool> {
        match self.code {
            Code::RateLimited
            | Code::ProviderRateLimited
            | Code::PlatformRateLimited
            | Code::PlatformUnavailable
            | Code::Draining
            | Code::Unavailable
            | Code::BodyTimeout
            | Code::HeaderTimeout
            | Code::TooManyConnections
            | Code::Overloaded
            | Code::TooManyAtOnce
            | Code::TooManyFailures => None,
            _ => Some(false),
        }
    }

    /// The JSON body in the caller's protocol.
    pub fn body(&self, protocol: Protocol, request_id: &str) -> Vec<u8> {
        let body = match protocol {
            Protocol::Messages => {
                let error = json!({"type": self.anthropic_type(), "message": self.message});
                let detail = self
                    .detail
                    .clone()
                    .unwrap_or_else(|| json!({"type": "error", "error": error.clone()}));
                json!({"type": "error", "error": error, "request_id": request_id, "detail": detail})
            }
            Protocol::Chat | Protocol::Responses => {
                let detail = self.detail.clone().unwrap_or_else(|| json!(self.message));
                json!({"error": self.openai_error(), "detail": detail})
            }
        };
        // A tree of strings and numbers always serialises.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// What ends a stream whose header has left, in the caller's dialect.
    ///
    /// `inside_event`: an event has half left; it is closed first, so that the error is an event of its own.
    pub fn stream_end(&self, protocol: Protocol, inside_event: bool) -> Vec<u8> {
        let close = if inside_event { "\n\n" } else { "" };
        let (event, data, end) = match protocol {
            Protocol::Chat => ("", json!({"error": self.openai_error()}), "data: [DONE]\n\n"),
            Protocol::Responses => ("event: error\n", json!({"error": self.openai_error()}), ""),
            Protocol::Messages => (
                "event: error\n",
                json!({"type": "error",
                       "error": {"type": self.anthropic_type(), "message": self.message}}),
                "",
            ),
        };
        format!("{close}{event}data: {data}\n\n{end}").into_bytes()
    }

    fn openai_error(&self) -> OpenAiError<'_> {
        OpenAiError {
            message: &self.message,
            r#type: self.openai_type(),
            param: None,
            code: self.code.as_str(),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.code.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.code.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: &'static str,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl StdError for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Rejection {
        Rejection::new(Code::BudgetExceeded, "User 'u' has exceeded budget limit")
    }

    #[test]
    fn chat_bodies_hold_both_shapes() {
        let body: Value = serde_json::from_slice(&refused().body(Protocol::Chat, "r")).unwrap();
        assert_eq!(body["detail"], "User 'u' has exceeded budget limit");
        assert_eq!(body["error"]["message"], body["detail"]);
        assert_eq!(body["error"]["type"], "permission_error");
        assert_eq!(body["error"]["code"], "budget_exceeded");
        assert!(body["error"].as_object().unwrap().contains_key("param"));
    }

    #[test]
    fn messages_bodies_are_anthropic_with_the_reference_wrapped() {
        let body: Value = serde_json::from_slice(&refused().body(Protocol::Messages, "r")).unwrap();
        assert_eq!(body["type"], "error");
        assert_eq!(body["request_id"], "r");
        assert_eq!(body["detail"]["error"]["type"], "permission_error");
    }

    #[test]
    fn a_cause_is_for_the_log_only() {
        let hidden = Rejection::internal("password=hunter2");
        let body = String::from_utf8(hidden.body(Protocol::Chat, "r")).unwrap();
        assert!(!body.contains("hunter2"), "the caller must not see the cause");
        assert!(hidden.to_string().contains("hunter2"), "the log must");
    }
}
