//! Why there is no credential: in full for the operator, in general words for the caller.

use std::sync::Arc;

use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::ErrorClass;

/// Why there is no credential. Its text is for the log: it says what to repair, and never holds a key, a token or an
/// answer as it came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFailure {
    /// What is configured makes no credential.
    #[error("{cause}")]
    Settings {
        /// For the log.
        cause: Arc<str>,
        /// What the caller is told.
        told: &'static str,
    },
    /// Whoever issues credentials does not accept ours.
    #[error("{0}")]
    Refused(Arc<str>),
    /// Whoever issues credentials was not reached, or did not answer with one.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// No credential came in time.
    #[error("no credential came in time; it is still being asked for")]
    Timeout,
    /// Too many credentials are being asked for.
    #[error("too many credentials are being asked for at once")]
    Busy,
}

const REJECTED: &str = "The provider rejected the gateway's credentials";
const UNAVAILABLE: &str = "The gateway could not obtain credentials for the provider";

impl CredentialFailure {
    pub(super) fn settings(cause: impl Into<Arc<str>>) -> Self {
        Self::Settings { cause: cause.into(), told: UNAVAILABLE }
    }

    pub(super) fn refused(cause: impl Into<Arc<str>>) -> Self {
        Self::Refused(cause.into())
    }

    pub(super) fn unavailable(cause: impl Into<Arc<str>>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// What the caller is told; the cause goes along for the log.
    pub fn rejection(&self) -> Rejection {
        let (code, told) = match self {
            Self::Settings { told, .. } => (Code::ProviderCredentials, *told),
            Self::Refused(_) => (Code::ProviderCredentials, REJECTED),
            Self::Unavailable(_) | Self::Busy => (Code::ProviderCredentials, UNAVAILABLE),
            Self::Timeout => (Code::ProviderTimeout, "LLM provider timeout"),
        };
        Rejection::new(code, told).because(self.clone())
    }

    /// How a platform is told, and what a circuit breaker makes of it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(_) => ErrorClass::Status { status: 401, unpaid: false },
            Self::Unavailable(_) => ErrorClass::Connection,
            Self::Timeout => ErrorClass::Timeout,
            Self::Settings { .. } | Self::Busy => ErrorClass::Unknown,
        }
    }

    /// The reason in rows, logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Settings { .. } => "credential_settings",
            Self::Refused(_) => "credential_refused",
            Self::Unavailable(_) => "credential_unavailable",
            Self::Timeout => "credential_timeout",
            Self::Busy => "credential_busy",
        }
    }
}
