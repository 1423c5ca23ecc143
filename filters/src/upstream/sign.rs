//! Signing requests for AWS, version 4.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html> (2026-11-22).

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{self, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use http::header::InvalidHeaderValue;
use http::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::secret::Secret;

/// Latest time that a signature can name, in seconds since 1970: the end of the year 9999.
const MAX_TIME: u64 = 253_402_300_799;

/// Credentials of AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// Names the credentials; it is sent.
    pub access_key_id: Secret,
    /// What is signed with; it is not sent.
    pub secret_access_key: Secret,
    /// Belongs to credentials that expire; it is sent.
    pub session_token: Option<Secret>,
}

/// What is signed: the request as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    /// As in the host's name: `us-east-1`.
    pub region: &'a str,
    /// `bedrock` or `sagemaker`.
    pub service: &'a str,
    /// In capitals.
    pub method: &'a str,
    /// The value of the header `Host`: with the port where the address has one that is not the usual.
    pub host: &'a str,
    /// As in the request line: encoded once, the path from its first slash on.
    pub path_and_query: &'a str,
    /// Other headers to sign, which must be sent with these values. Neither `host` nor those that [`sign`] gives.
    pub headers: &'a [(&'a str, &'a str)],
    /// The pieces of the body, one behind the other.
    pub body: &'a [bytes::Bytes],
}

/// A request to sign, apart from what every request to its provider has in common.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// In capitals.
    pub method: &'a str,
    /// See [`Signable::host`].
    pub host: &'a str,
    /// See [`Signable::path_and_query`].
    pub path_and_query: &'a str,
    /// The pieces of the body, one behind the other.
    pub body: &'a [bytes::Bytes],
}

/// Why a request cannot be signed. It holds nothing of the credentials.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Host and path make no address.
    #[error("the host and the path of the request make no address that can be signed")]
    Address,
    /// A header or a credential has bytes that no header can hold.
    #[error("a header or a credential of AWS has characters that a header cannot hold")]
    Value,
    /// The time is beyond the year 9999.
    #[error("the time cannot be written into a signature")]
    Time,
}

impl From<InvalidHeaderValue> for SignError {
    fn from(_: InvalidHeaderValue) -> Self {
        Self::Value
    }
}

/// Signs a request: the headers to send with it, `x-amz-date`, `authorization` and, with a session's credentials,
/// `x-amz-security-token`. The host is signed and is for the sender to write. Of the path is signed what AWS sees: it is
/// encoded a second time.
///
/// `now` is in seconds since 1970. A signature holds for five minutes before and behind it.
///
/// # Errors
/// When the request or the credentials cannot stand in headers.
pub fn sign(
    keys: &AwsKeys,
    request: &Signable<'_>,
    now: u64,
) -> Result<Vec<(HeaderName, HeaderValue)>, SignError> {
    if now > MAX_TIME {
        return Err(SignError::Time);
    }
    // The signer takes for granted that these can stand in a header.
    let token = keys.session_token.as_ref().map(Secret::expose);
    for value in [Some(keys.access_key_id.expose()), token].into_iter().flatten() {
        HeaderValue::from_str(value)?;
    }
    let identity = Credentials::new(
        keys.access_key_id.expose(),
        keys.secret_access_key.expose(),
        token.map(str::to_owned),
        None,
        "otari",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region)
        .name(request.service)
        .time(UNIX_EPOCH + Duration::from_secs(now))
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| SignError::Value)?
        .into();
    if !request.path_and_query.starts_with('/') {
        return Err(SignError::Address);
    }
    let headers = std::iter::once(("host", request.host)).chain(request.headers.iter().copied());
    let signable = SignableRequest::new(
        request.method,
        format!("https://{}{}", request.host, request.path_and_query),
        headers,
        SignableBody::Precomputed(digest(request.body)),
    )
    .map_err(|_| SignError::Address)?;
    let (instructions, _) =
        http_request::sign(signable, &params).map_err(|_| SignError::Value)?.into_parts();
    let (headers, _) = instructions.into_parts();
    headers
        .into_iter()
        .map(|header| {
            let mut value = HeaderValue::from_str(header.value())?;
            value.set_sensitive(header.name() != "x-amz-date");
            Ok((HeaderName::from_static(header.name()), value))
        })
        .collect()
}

/// SHA-256 of the pieces as one, in lowercase hexadecimal.
fn digest(pieces: &[bytes::Bytes]) -> String {
    let mut hash = Sha256::new();
    pieces.iter().for_each(|piece| hash.update(piece));
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A model's id as one segment of a path: colons and slashes of ARNs and profiles are encoded.
pub fn model_segment(model: &str) -> String {
    // A segment of dots would be taken out of the path.
    let is_dots = model.bytes().all(|byte| byte == b'.');
    let mut segment = String::with_capacity(model.len() + 16);
    for byte in model.bytes() {
        match byte {
            b'.' if is_dots => segment.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            _ => {
                let _ = write!(segment, "%{byte:02X}");
            }
        }
    }
    segment
}

#[cfg(test)]
mod tests;
