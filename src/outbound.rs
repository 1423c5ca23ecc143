//! Calls to providers beside the hot path: lists of models, files, batches. Whole requests with a bounded answer, or an
//! answer in pieces; generations have their own way in `proxy`.
//!
//! A call goes to the upstream it is made for and nowhere else: no redirects, no proxy of the environment.

mod failure;
mod models;
mod multipart;
mod opened;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use otari_filters::upstream::sign::Message;
use otari_filters::upstream::{Proof, Upstream};
use reqwest::{Client, RequestBuilder, Url, redirect};
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::credentials::Credentials;
pub use failure::Error;
pub use models::{ListError, models};
pub use multipart::Multipart;
pub use opened::{Opened, Pieces};

/// Idle connections kept to one host: these calls are rare.
const IDLE_PER_HOST: usize = 4;
/// For how long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Any.
    pub method: Method,
    /// Absolute on the host; the base URL's own path is part of it. Escaped as it is to be sent.
    pub path_and_query: PathAndQuery,
    /// Another host of the same provider, with its port where that is not the usual one. Only ever out of the provider
    /// table: the credential goes there.
    pub authority: Option<Box<str>>,
    /// Beside the upstream's own, and in place of those of the same name; credentials and lengths are left out.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
    /// From the first step to the last byte of the answer.
    pub within: Duration,
    /// The longest answer, in bytes.
    pub max_bytes: usize,
}

impl Call {
    /// Asks for something.
    pub fn get(path_and_query: PathAndQuery, within: Duration, max_bytes: usize) -> Self {
        Self {
            method: Method::GET,
            path_and_query,
            authority: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within,
            max_bytes,
        }
    }

    /// Sends something: JSON, unless `headers` are told otherwise.
    pub fn post(
        path_and_query: PathAndQuery,
        body: impl Into<Bytes>,
        within: Duration,
        max_bytes: usize,
    ) -> Self {
        let body = body.into();
        Self { method: Method::POST, body, ..Self::get(path_and_query, within, max_bytes) }
    }
}

/// A whole answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status; redirects are not followed and come as they are.
    pub status: u16,
    /// As they came.
    pub headers: HeaderMap,
    /// At most [`Call::max_bytes`].
    pub body: Bytes,
}

impl Answer {
    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Makes the calls. Clones share connections.
#[derive(Clone)]
pub struct Outbound(Arc<Shared>);

struct Shared {
    /// Made for the first call: it reads the machine's root certificates.
    client: OnceLock<Result<Client, Error>>,
    credentials: Credentials,
}

/// What is sent.
enum Body {
    Whole(Bytes),
    Parts(Multipart),
}

impl Outbound {
    /// `credentials` must be run elsewhere: providers with short-lived ones wait for them.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(Shared { client: OnceLock::new(), credentials }))
    }

    /// Makes a call and reads the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer; an answer of any status is none.
    pub async fn call(&self, upstream: &Upstream, call: Call) -> Result<Answer, Error> {
        self.open(upstream, call).await?.whole().await
    }

    /// Makes a call and gives the answer in pieces, for those that are too long to be kept.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn open(&self, upstream: &Upstream, mut call: Call) -> Result<Opened, Error> {
        let body = Body::Whole(std::mem::take(&mut call.body));
        self.send(upstream, call, body).await
    }

    /// Sends a form with files, as `multipart/form-data`, and reads the whole answer. The body of `call` is not looked
    /// at.
    ///
    /// # Errors
    /// As [`Outbound::call`]; `Invalid` for a provider whose calls are signed.
    pub async fn upload(
        &self,
        upstream: &Upstream,
        call: Call,
        form: Multipart,
    ) -> Result<Answer, Error> {
        self.send(upstream, call, Body::Parts(form)).await?.whole().await
    }

    async fn send(&self, upstream: &Upstream, call: Call, body: Body) -> Result<Opened, Error> {
        let (until, max_bytes) = (Instant::now() + call.within, call.max_bytes);
        let opening = async {
            let url = address(upstream, &call)?;
            let mut headers = headers(upstream, &call.headers, &body);
            let whole = match &body {
                Body::Whole(bytes) => Some(bytes.clone()),
                Body::Parts(_) => None,
            };
            self.prove(upstream, &call, &url, whole, &mut headers).await?;
            let request = self.client()?.request(call.method, url).headers(headers);
            with_body(request, body).send().await.map_err(|error| Error::of(&error))
        };
        let response = timeout_at(until, opening).await.map_err(|_| Error::Timeout)??;
        if response.status().as_u16() == 401 && upstream.proof() != Proof::Header {
            self.0.credentials.spurn(upstream);
        }
        Ok(Opened::new(response, until, max_bytes))
    }

    /// Adds what proves who calls, where the upstream's own headers do not. `body`: where it is in memory.
    async fn prove(
        &self,
        upstream: &Upstream,
        call: &Call,
        url: &Url,
        body: Option<Bytes>,
        headers: &mut HeaderMap,
    ) -> Result<(), Error> {
        let credentials = &self.0.credentials;
        match upstream.proof() {
            Proof::Header => {}
            Proof::Token => {
                let token = credentials.bearer(upstream).await.map_err(Error::Credential)?;
                headers.insert(AUTHORIZATION, token);
            }
            Proof::Signature => {
                let unread = Error::Invalid("a form cannot be signed before it was read");
                let body = body.ok_or(unread)?;
                let keys = credentials.aws(upstream).await.map_err(Error::Credential)?;
                let now_s = u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0);
                let message = Message {
                    method: call.method.as_str(),
                    host: &authority(url),
                    path_and_query: call.path_and_query.as_str(),
                    body: std::slice::from_ref(&body),
                };
                let signed = upstream.sign_message(&keys, &message, now_s);
                headers.extend(signed.map_err(|_| Error::Invalid("it cannot be signed"))?);
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<&Client, Error> {
        self.0.client.get_or_init(client).as_ref().map_err(Error::clone)
    }
}

fn client() -> Result<Client, Error> {
    let builder = || {
        Client::builder()
            .connect_timeout(CONNECT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            // A credential goes to the address that was configured, and nowhere else.
            .redirect(redirect::Policy::none())
            .no_proxy()
    };
    // A machine without any root certificate can still call its own servers.
    let built = builder().build().or_else(|_| builder().tls_certs_only([]).build());
    built.map_err(|error| Error::of(&error))
}

/// Where the call goes: the upstream's own host, or the one that the provider table names beside it.
fn address(upstream: &Upstream, call: &Call) -> Result<Url, Error> {
    let scheme = if upstream.tls { "https" } else { "http" };
    let own = || upstream.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = call.authority.as_deref().or_else(own).unwrap_or(&upstream.host);
    let path = call.path_and_query.as_str();
    let url = Url::parse(&format!("{scheme}://{authority}{path}"))
        .map_err(|_| Error::Invalid("its address is no URL"))?;
    // A parser takes out segments of dots, and an authority with a slash in it would be a path.
    let is_kept = match url.query() {
        Some(query) => path.strip_prefix(url.path()) == Some(&format!("?{query}")),
        None => path == url.path(),
    };
    if !is_kept || !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Invalid("its path cannot be sent as it is"));
    }
    Ok(url)
}

/// The value of `Host` that is sent for this address.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What a call may not say itself.
const OWN: [HeaderName; 7] = [
    AUTHORIZATION,
    CONTENT_LENGTH,
    HOST,
    TRANSFER_ENCODING,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

fn headers(upstream: &Upstream, more: &HeaderMap, body: &Body) -> HeaderMap {
    let mut headers = upstream.headers.clone();
    // The client writes it out of the address.
    headers.remove(HOST);
    match body {
        Body::Whole(bytes) if bytes.is_empty() => drop(headers.remove(CONTENT_TYPE)),
        Body::Whole(_) => {}
        Body::Parts(form) => drop(headers.insert(CONTENT_TYPE, form.content_type())),
    }
    for name in more.keys().filter(|name| !OWN.contains(name)) {
        if *name == CONTENT_TYPE && matches!(body, Body::Parts(_)) {
            continue;
        }
        headers.remove(name);
        for value in more.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

fn with_body(request: RequestBuilder, body: Body) -> RequestBuilder {
    match body {
        Body::Whole(bytes) if bytes.is_empty() => request,
        Body::Whole(bytes) => request.body(bytes),
        // Many servers take no form whose length they are not told.
        Body::Parts(form) => request
            .header(CONTENT_LENGTH, HeaderValue::from(form.len()))
            .body(reqwest::Body::wrap_stream(form.into_stream())),
    }
}
