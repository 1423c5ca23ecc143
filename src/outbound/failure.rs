//! Why a call has no answer. Texts are for the log and hold neither paths nor credentials.

use std::sync::Arc;

use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::{ErrorClass, redact};

use crate::credentials::CredentialFailure;

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not within the time it had.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or no TLS.
    #[error("it cannot be reached: {0}")]
    Connect(Arc<str>),
    /// The connection ended before the answer did.
    #[error("the connection broke: {0}")]
    Broken(Arc<str>),
    /// The answer is longer than it may be: the bound, in bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// There is no credential to call with.
    #[error(transparent)]
    Credential(CredentialFailure),
    /// The call itself cannot be sent.
    #[error("the call cannot be sent: {0}")]
    Invalid(&'static str),
}

impl Error {
    pub(super) fn of(error: &reqwest::Error) -> Self {
        let reason = || reason(error).into();
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_connect() || error.is_builder() {
            Self::Connect(reason())
        } else {
            Self::Broken(reason())
        }
    }

    /// What kind of failure it is, for rows and breakers.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Timeout => ErrorClass::Timeout,
            Self::Connect(_) | Self::Broken(_) => ErrorClass::Connection,
            Self::Credential(failure) => failure.class(),
            Self::TooLarge(_) | Self::Invalid(_) => ErrorClass::Unknown,
        }
    }

    /// What a caller is told who waits for the answer; the reason goes along for the log.
    pub fn rejection(&self) -> Rejection {
        let refused = match self {
            Self::Timeout => Rejection::new(Code::ProviderTimeout, "LLM provider timeout"),
            Self::Connect(_) | Self::Broken(_) | Self::TooLarge(_) => {
                Rejection::new(Code::ProviderError, "LLM provider error")
            }
            Self::Credential(failure) => return failure.rejection(),
            Self::Invalid(_) => return Rejection::internal(self.clone()),
        };
        refused.because(self.clone())
    }
}

/// The innermost reason: what is around it names the address.
fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    redact(&inner.to_string()).unwrap_or_else(|| "no reason given".to_owned())
}
