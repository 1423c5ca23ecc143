//! Asking those who issue credentials: one short request, one short answer, every wait bounded.

use std::net::IpAddr;
use std::time::Duration;

use otari_filters::upstream::redact;
use reqwest::{RequestBuilder, Url, redirect};
use serde_json::Value;

use super::failure::CredentialFailure;

/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// From the first byte sent to the last one received.
const WHOLE: Duration = Duration::from_secs(8);
/// Tokens have a few kilobytes at most; what is longer is none.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; `Null` when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A client without redirects and without proxies: what is asked with a credential goes to the address that is
/// configured, and nowhere else.
#[derive(Clone)]
pub(super) struct Http(reqwest::Client);

impl Http {
    /// # Errors
    /// When there is no TLS at all.
    pub(super) fn new() -> Result<Self, CredentialFailure> {
        let client = || {
            reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .timeout(WHOLE)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .user_agent(concat!("otari/", env!("CARGO_PKG_VERSION")))
        };
        // A machine without any root certificate can still ask its metadata server, which speaks http.
        let built = client().build().or_else(|_| client().tls_certs_only([]).build());
        built.map(Self).map_err(|error| {
            CredentialFailure::unavailable(format!("no HTTP client: {}", innermost(&error)))
        })
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.0.get(url)
    }

    pub(super) fn put(&self, url: Url) -> RequestBuilder {
        self.0.put(url)
    }

    /// A form, as OAuth wants it.
    pub(super) fn post_form(&self, url: Url, pairs: &[(&str, &str)]) -> RequestBuilder {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.0
            .post(url)
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
    }

    pub(super) fn post_json(&self, url: Url, body: &Value) -> RequestBuilder {
        self.0
            .post(url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string())
    }
}

/// Sends it. `who` is what messages call the other side: never a path or a query, which may hold secrets.
///
/// # Errors
/// When there is no whole answer.
pub(super) async fn send(who: &str, request: RequestBuilder) -> Result<Answer, CredentialFailure> {
    let broke = |error: reqwest::Error| {
        CredentialFailure::unavailable(if error.is_timeout() {
            format!("{who} did not answer in time")
        } else if error.is_connect() {
            format!("{who} cannot be reached: {}", innermost(&error))
        } else {
            format!("the connection to {who} broke: {}", innermost(&error))
        })
    };
    let mut answer = request.send().await.map_err(broke)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(broke)? {
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            let text = format!("the answer of {who} is longer than any with a credential");
            return Err(CredentialFailure::unavailable(text));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, body })
}

/// The innermost reason: what is around it names the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    redact(&inner.to_string()).unwrap_or_else(|| "no reason given".to_owned())
}

/// An address that a credential may be sent to: `https`, or this machine.
///
/// # Errors
/// What is wrong with it, without the text.
pub(super) fn endpoint(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user name or a password");
    }
    match url.scheme() {
        "https" if url.host_str().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("must be an https:// URL, or one of this machine"),
    }
}

/// Whether it is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || address(url).is_some_and(|address| address.to_canonical().is_loopback())
}

/// The host, where it is an address.
pub(super) fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// What messages call an address: its host.
pub(super) fn name(url: &Url) -> String {
    url.host_str().unwrap_or("the token endpoint").to_owned()
}

/// What an error answer says, as far as it may be shown. `sent`: what must not come back.
pub(super) fn words(candidates: &[Option<&str>], sent: &[&str]) -> String {
    let shown: Vec<String> = candidates
        .iter()
        .flatten()
        .filter(|text| !sent.iter().any(|secret| echoes(text, secret)))
        .filter_map(|text| redact(text))
        .collect();
    if shown.is_empty() { "no reason given".to_owned() } else { shown.join(": ") }
}

/// Whether the text holds the secret, or so much of it that the rest may be guessed.
fn echoes(text: &str, secret: &str) -> bool {
    const PART: usize = 8;
    if secret.len() < PART {
        return !secret.is_empty() && text.contains(secret);
    }
    let parts = secret.as_bytes().windows(PART);
    let text = text.as_bytes();
    let found: std::collections::HashSet<&[u8]> = text.windows(PART).collect();
    parts.into_iter().any(|part| found.contains(part))
}
