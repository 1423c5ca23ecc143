//! Keys that sign calls to AWS.

use crate::secret::Secret;

/// Keys that sign calls to AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// Names the key.
    pub access_key_id: Secret,
    /// Signs.
    pub secret_access_key: Secret,
    /// Sent along when the keys are short-lived.
    pub session_token: Option<Secret>,
}
