//! Why an attempt failed, and what its caller is told.

use std::borrow::Cow;

use otari_filters::meter;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::translate::neutral;
use otari_filters::upstream::{self, ErrorClass, Failure, Upstream};
use pingora_core::prelude::Error;
use serde_json::json;

use super::incoming::NoAnswer;
use super::receive;
use crate::credentials::CredentialFailure;
use crate::proxy::call::Stop;
use crate::proxy::upload;

/// Why an attempt ended without an answer.
pub(in crate::proxy) enum Failed {
    /// Nothing reached the caller: another try may.
    Attempt(Box<FailedAttempt>),
    /// The caller left.
    CallerGone(Box<Error>),
    /// The gateway is leaving, or the whole request took too long.
    Ended(&'static str, Box<Rejection>),
}

impl Failed {
    /// As an end of the request, where nothing was asked of a provider.
    pub(in crate::proxy) fn into_stop(self) -> Stop {
        match self {
            Self::Attempt(failed) => failed.rejection.into(),
            Self::CallerGone(error) => Stop::Broken(error),
            Self::Ended(_, refused) => Stop::Refused(refused),
        }
    }
}

/// A try that failed.
pub(in crate::proxy) struct FailedAttempt {
    /// For the row: a code, then what is known.
    pub(super) reason: Cow<'static, str>,
    /// The provider's status, if it gave one.
    pub(super) status: Option<u16>,
    pub(super) rejection: Rejection,
    pub(super) class: ErrorClass,
    /// The answer had begun, so that the caller would have seen it, had it been the answer to them.
    pub(super) had_begun: bool,
    /// Worth repeating on the same provider.
    pub(super) repeatable: bool,
    /// It says nothing of the provider, which is asked once more at once.
    pub(super) stale: Option<Stale>,
}

/// Why a try is as if it had not been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// The connection came from the pool and broke before an answer.
    Connection,
    /// The form was sent on before its length was known: it is another one than was said, or none was said to a provider
    /// that must have one.
    Length,
}

impl FailedAttempt {
    /// Why, for the row; and what the caller is told.
    pub(in crate::proxy) fn into_parts(self) -> (Cow<'static, str>, Rejection) {
        (self.reason, self.rejection)
    }

    /// The provider's status, else the one a caller would see.
    pub(super) fn status(&self) -> u16 {
        self.status.unwrap_or(self.rejection.code.status().as_u16())
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Attempt(Box::new(FailedAttempt {
            reason: failure.as_str().into(),
            status: None,
            rejection: failure.rejection(),
            class: failure.class(),
            had_begun: false,
            repeatable: !failure.was_sent(),
            stale: None,
        }))
    }
}

/// What a caller sends does not come to its end, or must not.
impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refused) => Self::Ended(refused.code.as_str(), refused),
            Stop::Broken(error) => Self::CallerGone(error),
        }
    }
}

/// The disk does not have the file that is to be sent again. With `stale` it may: it has not been looked for.
pub(super) fn not_kept(stale: Option<Stale>) -> Failed {
    let rejection = upload::not_kept();
    Failed::Attempt(Box::new(FailedAttempt {
        reason: format!("{}: {}", rejection.code.as_str(), rejection.message).into(),
        status: None,
        rejection,
        class: ErrorClass::Unknown,
        had_begun: false,
        repeatable: false,
        stale,
    }))
}

pub(in crate::proxy) fn stopped() -> Failed {
    let message = "The gateway is shutting down. Try again";
    Failed::Ended("draining", Box::new(Rejection::new(Code::Draining, message)))
}

pub(in crate::proxy) fn out_of_time() -> Failed {
    let message = "The request took longer than request_timeout_s allows";
    Failed::Ended("deadline", Box::new(Rejection::new(Code::Deadline, message)))
}

/// There is no credential: nothing was sent.
pub(super) fn unproved(upstream: &Upstream, failure: &CredentialFailure) -> Failed {
    tracing::warn!(provider = &*upstream.instance, cause = %failure, "no credential for a provider");
    Failed::Attempt(Box::new(FailedAttempt {
        reason: failure.as_str().into(),
        status: None,
        rejection: failure.rejection(),
        class: failure.class(),
        had_begun: false,
        repeatable: false,
        stale: None,
    }))
}

/// The provider answered with an error status.
pub(super) fn refused(refusal: receive::Refusal) -> Failed {
    let receive::Refusal { status, body, retry_after_s, headers } = refusal;
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let words = upstream::redact(&text).unwrap_or_default();
    let rejection = Rejection { headers, ..upstream::refusal(status, &body, retry_after_s) };
    Failed::Attempt(Box::new(FailedAttempt {
        reason: format!("provider_status: {status} {words}").into(),
        status: Some(status),
        rejection,
        class: upstream::class_of(status, &body),
        had_begun: false,
        repeatable: upstream::is_retryable(status),
        stale: None,
    }))
}

/// The first event of a stream says that the provider failed.
pub(super) fn reported(status: Option<u16>, body: &[u8]) -> Failed {
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let words = upstream::redact(&text).unwrap_or_default();
    let rejection = match status {
        Some(status) => upstream::refusal(status, body, None),
        None => Rejection::new(Code::ProviderError, "LLM provider error"),
    };
    Failed::Attempt(Box::new(FailedAttempt {
        reason: format!("provider_error_event: {words}").into(),
        status,
        rejection,
        class: status.map_or(ErrorClass::Unknown, |status| upstream::class_of(status, body)),
        had_begun: true,
        repeatable: status.is_some_and(upstream::is_retryable),
        stale: None,
    }))
}

/// The same, of a stream that is translated.
pub(super) fn failed_event(failure: &neutral::Failure) -> Failed {
    let error = json!({"error": {"type": failure.kind, "message": failure.message}});
    let body = error.to_string();
    let status = failure.kind.as_deref().and_then(meter::named_status);
    reported(status, body.as_bytes())
}

/// A document that is no answer, or one that reports an error.
pub(super) fn malformed(none: &NoAnswer) -> Failed {
    match &none.0 {
        Some(failure) if failure.kind.is_some() => failed_event(failure),
        Some(failure) => {
            tracing::debug!(failure.message, "a provider's answer cannot be translated");
            Failure::Malformed.into()
        }
        None => Failure::Malformed.into(),
    }
}
