//! One provider's address and credentials, and what its failures mean to a caller.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, InvalidHeaderValue, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::protocol::Protocol;
use crate::providers::{Auth, Family, Provider};
use crate::rejection::{Code, Rejection};
use crate::secret::Secret;

mod class;
mod redact;

pub use class::ErrorClass;
pub use redact::redact;

const AGENT: &str = concat!("otari/", env!("CARGO_PKG_VERSION"));
/// The version of Anthropic's API that callers get who ask for none.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// What an upstream is made from.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// See [`Upstream::instance`].
    pub instance: &'a str,
    /// The row of the table that it is one of.
    pub kind: &'static Provider,
    /// Absolute, `http` or `https`.
    pub base_url: &'a str,
    /// Its credential.
    pub api_key: Option<&'a Secret>,
    /// The operator's own headers.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// See [`Upstream::client_settings`].
    pub client_settings: &'a [(String, Secret)],
    /// See [`Upstream::max_retries`].
    pub max_retries: u32,
    /// See [`Upstream::first_byte_timeout`].
    pub first_byte_timeout: Duration,
    /// See [`Upstream::idle_timeout`].
    pub idle_timeout: Duration,
    /// See [`Upstream::address`].
    pub address: Option<SocketAddr>,
}

/// Where a provider is and how it is spoken to. Of a configured provider it is made once and shared by all requests;
/// with a platform's credentials it is made for one.
#[derive(Debug)]
pub struct Upstream {
    /// Name in selectors, rows and metrics.
    pub instance: Box<str>,
    /// What it is.
    pub kind: &'static Provider,
    /// `https`.
    pub tls: bool,
    /// Host name or address, without brackets; also the SNI.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
    /// Scheme, host and port: what addresses and connections are shared by.
    pub origin: Box<str>,
    /// Path of each operation, by [`Protocol`].
    paths: [PathAndQuery; 3],
    /// Every header of a call but its length and what callers may add. Sensitive values are marked so.
    pub headers: HeaderMap,
    /// What signs calls where a bearer token does not: the credential itself.
    pub api_key: Option<Secret>,
    /// A platform's further settings of the provider's client, such as `region_name` and `aws_access_key_id`. They
    /// never become fields of a request.
    pub client_settings: Arc<[(String, Secret)]>,
    /// Repeats of a call that failed before its first byte.
    pub max_retries: u32,
    /// From the sent request to the first byte of the body.
    pub first_byte_timeout: Duration,
    /// Silence between two pieces.
    pub idle_timeout: Duration,
    /// Fixed address instead of a name: literal addresses and the built-in mock.
    pub address: Option<SocketAddr>,
    /// Tells this place with this credential from every other.
    pub fingerprint: u64,
}

/// Why a draft makes no upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDraft {
    /// The base URL is none.
    Url,
    /// The credential holds characters that a header cannot.
    Credential,
}

impl Upstream {
    /// Makes everything that calls have in common.
    ///
    /// # Errors
    /// Which part of the draft cannot be used.
    pub fn new(draft: &Draft<'_>) -> Result<Self, BadDraft> {
        let uri: Uri = draft.base_url.trim().parse().map_err(|_| BadDraft::Url)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(BadDraft::Url),
        };
        let authority = uri.authority().ok_or(BadDraft::Url)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(BadDraft::Url);
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let literal = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        let mut headers = HeaderMap::with_capacity(12);
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| BadDraft::Url)?;
        headers.insert(HOST, value);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // The meter reads plain bytes.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if draft.kind.family == Family::Anthropic {
            headers.insert(HeaderName::from_static("anthropic-version"), ANTHROPIC_VERSION);
        }
        headers.extend(draft.headers.iter().cloned());
        if let Some(key) = draft.api_key {
            let (name, value) =
                credential(draft.kind.auth(), key).map_err(|_| BadDraft::Credential)?;
            headers.insert(name, value);
        }
        let origin = format!("{}://{host}:{port}", if tls { "https" } else { "http" });
        let mut hasher = DefaultHasher::new();
        (&*origin, uri.path(), draft.api_key.map(Secret::expose)).hash(&mut hasher);
        let base = uri.path().trim_end_matches('/');
        Ok(Self {
            instance: draft.instance.into(),
            kind: draft.kind,
            tls,
            host: host.into(),
            port,
            origin: origin.into(),
            paths: paths(draft.kind.family, base).ok_or(BadDraft::Url)?,
            headers,
            api_key: draft.api_key.cloned(),
            client_settings: draft.client_settings.into(),
            max_retries: draft.max_retries,
            first_byte_timeout: draft.first_byte_timeout,
            idle_timeout: draft.idle_timeout,
            address: draft.address.or(literal),
            fingerprint: hasher.finish(),
        })
    }

    /// Where calls of this kind go.
    pub fn path(&self, protocol: Protocol) -> &PathAndQuery {
        &self.paths[protocol as usize]
    }
}

fn credential(auth: Auth, key: &Secret) -> Result<(HeaderName, HeaderValue), InvalidHeaderValue> {
    let key = key.expose();
    let (name, mut value) = match auth {
        Auth::Bearer => (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))?),
        Auth::XApiKey => (HeaderName::from_static("x-api-key"), HeaderValue::from_str(key)?),
    };
    value.set_sensitive(true);
    Ok((name, value))
}

/// In the order of [`Protocol`]. Anthropic's base has no version in it, OpenAI's has.
fn paths(family: Family, base: &str) -> Option<[PathAndQuery; 3]> {
    let version = match family {
        Family::Anthropic if !base.ends_with("/v1") => "/v1",
        _ => "",
    };
    let path = |tail: &str| format!("{base}{version}{tail}").parse().ok();
    Some([path("/chat/completions")?, path("/messages")?, path("/responses")?])
}

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
