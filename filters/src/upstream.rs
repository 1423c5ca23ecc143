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

use crate::providers::{self, Auth, Family, Provider};
use crate::secret::Secret;

mod class;
mod failure;
mod redact;
mod way;
pub mod sign;

pub use class::ErrorClass;
pub use failure::{Failure, class_of, exhausted, is_retryable, refusal};
pub use redact::redact;
pub use way::{NoWay, Way};

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
#[derive(Clone, Debug)]
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
    /// Path of the base URL, without a slash at its end.
    base_path: Box<str>,
    /// Paths that do not depend on the model: chat, messages, responses.
    paths: [PathAndQuery; 3],
    /// Every header of a call but its length and what callers may add. Sensitive values are marked so.
    pub headers: HeaderMap,
    /// What signs calls where a bearer token does not: the credential itself.
    pub api_key: Option<Secret>,
    /// Further settings of the provider's client, such as `region_name` and `aws_access_key_id`: the operator's, or with
    /// a platform's credentials the platform's. They never become fields of a request.
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
    /// The same of the place alone.
    place: u64,
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
        Self::place(draft)?.with(draft.api_key, draft.client_settings)
    }

    /// The same without what proves who calls: for many credentials at one place.
    ///
    /// # Errors
    /// Which part of the draft cannot be used.
    pub fn place(draft: &Draft<'_>) -> Result<Self, BadDraft> {
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
        if draft.kind.family == Family::AzureInference {
            // Fields that the common part of its API does not know reach the model all the same.
            let (name, value) = ("extra-parameters", HeaderValue::from_static("pass-through"));
            headers.insert(HeaderName::from_static(name), value);
        }
        headers.extend(draft.headers.iter().cloned());
        let origin = format!("{}://{host}:{port}", if tls { "https" } else { "http" });
        let mut hasher = DefaultHasher::new();
        (&*origin, uri.path()).hash(&mut hasher);
        let place = hasher.finish();
        let base = draft.kind.rooted(uri.path().trim_end_matches('/'));
        Ok(Self {
            instance: draft.instance.into(),
            kind: draft.kind,
            tls,
            host: host.into(),
            port,
            origin: origin.into(),
            base_path: base.as_ref().into(),
            paths: way::fixed_paths(draft.kind.family, &base).ok_or(BadDraft::Url)?,
            headers,
            api_key: None,
            client_settings: Arc::default(),
            max_retries: draft.max_retries,
            first_byte_timeout: draft.first_byte_timeout,
            idle_timeout: draft.idle_timeout,
            address: draft.address.or(literal),
            fingerprint: place,
            place,
        })
    }

    /// The same place with this credential and these settings, instead of none.
    ///
    /// # Errors
    /// When the credential cannot be used.
    pub fn with(
        mut self,
        api_key: Option<&Secret>,
        client_settings: &[(String, Secret)],
    ) -> Result<Self, BadDraft> {
        credentials(self.kind, api_key, client_settings, &mut self.headers)
            .map_err(|_| BadDraft::Credential)?;
        let mut hasher = DefaultHasher::new();
        (self.place, api_key.map(Secret::expose)).hash(&mut hasher);
        for (name, value) in client_settings {
            (name, value.expose()).hash(&mut hasher);
        }
        self.fingerprint = hasher.finish();
        self.api_key = api_key.cloned();
        self.client_settings = client_settings.into();
        Ok(self)
    }
}

/// What proves to a provider who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A header that every call has, or nothing.
    Header,
    /// A token that is valid for a while.
    Token,
    /// A signature of each call.
    Signature,
}

impl Upstream {
    /// What its calls are proved with.
    pub fn proof(&self) -> Proof {
        match self.kind.auth() {
            Auth::Google | Auth::Ibm => Proof::Token,
            Auth::Aws if !self.headers.contains_key(AUTHORIZATION) => Proof::Signature,
            _ => Proof::Header,
        }
    }

    /// The headers that sign a generation. `now_s`: seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(
        &self,
        keys: &sign::AwsKeys,
        path: &PathAndQuery,
        body: &[bytes::Bytes],
        now_s: u64,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, sign::SignError> {
        let host = self.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path_and_query = path.as_str();
        let message = sign::Message { method: "POST", host, path_and_query, body };
        self.sign_message(keys, &message, now_s)
    }

    /// The headers that sign any call to this provider. `now_s`: seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign_message(
        &self,
        keys: &sign::AwsKeys,
        message: &sign::Message<'_>,
        now_s: u64,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, sign::SignError> {
        let sign::Message { method, host, path_and_query, body } = *message;
        let request = sign::Signable {
            region: self.region().ok_or(sign::SignError::Address)?,
            // All hosts of a service share its name here: `bedrock` is also that of `bedrock-runtime`.
            service: if self.kind.family == Family::SageMaker { "sagemaker" } else { "bedrock" },
            method,
            host,
            path_and_query,
            headers: &[],
            body,
        };
        sign::sign(keys, &request, now_s)
    }

    /// Path of the base URL, without a slash at its end; empty for the root.
    pub fn base_path(&self) -> &str {
        &self.base_path
    }

    /// Amazon's region: the one that is set, else the one in the host's name.
    fn region(&self) -> Option<&str> {
        self.setting("region_name").or_else(|| {
            let mut labels = self.host.split('.').skip(1);
            let region = labels.next()?;
            self.host.contains(".amazonaws.com").then_some(region)
        })
    }
}

/// The headers in which a credential goes as it is. Signed calls and short-lived tokens get theirs when they are made.
fn credentials(
    kind: &Provider,
    api_key: Option<&Secret>,
    client_settings: &[(String, Secret)],
    headers: &mut HeaderMap,
) -> Result<(), InvalidHeaderValue> {
    let value = |text: &str| {
        let mut value = HeaderValue::from_str(text)?;
        value.set_sensitive(true);
        Ok(value)
    };
    let setting = |name| providers::setting(client_settings, name);
    let (auth, key) = (kind.auth(), api_key.map(Secret::expose));
    let bearer = match (auth, key) {
        (Auth::Bearer | Auth::BearerAndApiKey, key) => key,
        (Auth::Aws, key) => key.filter(|_| setting("aws_access_key_id").is_none()),
        (Auth::ApiKey, None) => setting("azure_ad_token"),
        _ => None,
    };
    if let Some(token) = bearer {
        headers.insert(AUTHORIZATION, value(&format!("Bearer {token}"))?);
    }
    let name = match auth {
        Auth::XApiKey => "x-api-key",
        Auth::ApiKey | Auth::BearerAndApiKey => "api-key",
        Auth::GoogApiKey => "x-goog-api-key",
        Auth::Bearer | Auth::Aws | Auth::Google | Auth::Ibm | Auth::None => return Ok(()),
    };
    if let Some(key) = key {
        headers.insert(HeaderName::from_static(name), value(key)?);
    }
    Ok(())
}
