//! What kind of failure an attempt ended with, in a platform's words.

use std::fmt;

/// The open set of tags that reports and metrics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// No connection, no first byte, or no first event in time.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The provider's error status.
    Status {
        /// 300 to 599.
        status: u16,
        /// The account behind the credential cannot pay.
        unpaid: bool,
    },
    /// Anything else.
    Unknown,
}

impl ErrorClass {
    /// Why an attempt was given up, as the metric of abandoned attempts says it.
    pub fn is_timeout(self) -> bool {
        self == Self::Timeout
    }

    /// Whether it says something of the provider or the credential, and not of the request alone: what a circuit
    /// breaker counts.
    pub fn blames_provider(self) -> bool {
        match self {
            Self::Timeout | Self::Connection => true,
            Self::Status { status, unpaid } => {
                unpaid || matches!(status, 401 | 403 | 408 | 429 | 500..)
            }
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout"),
            Self::Connection => f.write_str("conn_err"),
            Self::Status { status, unpaid: false } => write!(f, "http_{status}"),
            Self::Status { status, unpaid: true } => write!(f, "http_{status}_billing"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::class_of;
    use super::*;

    #[test]
    fn failures_have_the_platforms_names() {
        let told = |status, body: &str| class_of(status, body.as_bytes()).to_string();
        assert_eq!(told(429, "insufficient_quota"), "http_429", "a rate limit is never billing");
        assert_eq!(told(402, ""), "http_402_billing");
        assert_eq!(told(400, "Your CREDIT BALANCE is too low"), "http_400_billing");
        assert_eq!(told(422, "bad"), "http_422");
        assert_eq!(ErrorClass::Connection.to_string(), "conn_err");
    }

    #[test]
    fn a_request_that_is_wrong_blames_nobody() {
        assert!(!class_of(400, b"max_tokens").blames_provider());
        assert!(!class_of(404, b"").blames_provider());
        assert!(class_of(400, b"purchase credits").blames_provider());
        assert!(class_of(401, b"").blames_provider());
        assert!(!ErrorClass::Unknown.blames_provider());
    }
}
