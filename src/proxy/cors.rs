//! Cross-origin requests: what pages of other sites may do, as the reference gateway says it.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::proxy::reply::Reply;

const METHODS: &str = "GET, POST, PATCH, DELETE, OPTIONS";
/// Sorted as the reference sorts them; `x-api-key` is its later release's.
const HEADERS: &str = "Accept, Accept-Language, AnyLLM-Key, Authorization, Content-Language, Content-Type, Otari-Key, \
                       X-AnyLLM-Key, x-api-key";
const MAX_AGE_S: &str = "600";
const TEXT: &str = "text/plain; charset=utf-8";

/// Where a request of a browser comes from, as far as `cors_allow_origins` is concerned.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Every origin is allowed, with no credentials of the browser's own.
    Any,
    /// It is on the list.
    Listed(HeaderValue),
    /// It is not.
    Other,
}

impl Origin {
    /// `None`: CORS is off, or it is no request of a browser to another site.
    pub(super) fn of(headers: &HeaderMap, allowed: &[String]) -> Option<Self> {
        if allowed.is_empty() {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        if allowed.iter().any(|one| one == "*") {
            return Some(Self::Any);
        }
        // Origins are compared as bytes: browsers write them in one way.
        let is_listed = allowed.iter().any(|one| one.as_bytes() == origin.as_bytes());
        Some(if is_listed { Self::Listed(origin.clone()) } else { Self::Other })
    }

    /// What every answer says of it.
    pub(super) fn write(&self, head: &mut HeaderMap) {
        for (name, value) in self.headers() {
            // `Vary` has a value already.
            head.append(name, value);
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let yes = HeaderValue::from_static("true");
        match self {
            Self::Any => vec![(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))],
            Self::Listed(origin) => vec![
                (ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
                (ACCESS_CONTROL_ALLOW_CREDENTIALS, yes),
                (VARY, HeaderValue::from_static("Origin")),
            ],
            Self::Other => vec![(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes)],
        }
    }

    /// The answer to a browser that asks before it sends; `None`: it does not ask.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Reply> {
        let wanted =
            headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| method == Method::OPTIONS)?;
        let mut failed = Vec::new();
        if matches!(self, Self::Other) {
            failed.push("origin");
        }
        if !METHODS.split(", ").any(|one| one.as_bytes() == wanted.as_bytes()) {
            failed.push("method");
        }
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let asked = asked.map(|list| list.to_str().unwrap_or("?")).unwrap_or_default();
        let is_allowed = |name: &str| HEADERS.split(", ").any(|one| one.eq_ignore_ascii_case(name));
        if asked.split(',').map(str::trim).any(|name| !name.is_empty() && !is_allowed(name)) {
            failed.push("headers");
        }
        let mut reply = match failed.as_slice() {
            [] => Reply::new(StatusCode::OK, TEXT, "OK"),
            failed => {
                let text = format!("Disallowed CORS {}", failed.join(", "));
                Reply::new(StatusCode::BAD_REQUEST, TEXT, Bytes::from(text))
            }
        };
        let fixed = HeaderValue::from_static;
        reply.headers.push((ACCESS_CONTROL_ALLOW_METHODS, fixed(METHODS)));
        reply.headers.push((ACCESS_CONTROL_ALLOW_HEADERS, fixed(HEADERS)));
        reply.headers.push((ACCESS_CONTROL_MAX_AGE, fixed(MAX_AGE_S)));
        Some(reply)
    }
}
