//! Answers that the gateway writes itself, and the headers that every answer carries.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use otari_filters::protocol::Protocol;
use otari_filters::rejection::Rejection;
use pingora_core::prelude::{Error, ErrorSource, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use crate::clock;
use crate::proxy::RequestContext;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

pub(super) const JSON: &str = "application/json";

impl Reply {
    pub(super) fn new(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self { status, content_type, body: body.into(), headers: Vec::new() }
    }
}

/// Names are made once: reading one costs more than writing it. OpenAI's SDK reads the first, Anthropic's the second,
/// ours the third.
static REQUEST_IDS: [HeaderName; 3] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
    HeaderName::from_static("otari-request-id"),
];

/// The head of an answer. Pingora's own setters read each name anew; the map takes it as it is.
pub(super) fn head(status: StatusCode, headers: HeaderMap) -> Box<ResponseHeader> {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = status;
    parts.headers = headers;
    Box::new(parts.into())
}

/// Headers of every answer, refusals included.
pub(super) fn common(head: &mut HeaderMap, ctx: &RequestContext, is_health: bool) {
    let fixed = HeaderValue::from_static;
    head.insert(X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    head.insert(X_FRAME_OPTIONS, fixed("DENY"));
    head.insert(REFERRER_POLICY, fixed("strict-origin-when-cross-origin"));
    if !is_health {
        head.insert(CACHE_CONTROL, fixed("private, no-store, no-cache"));
        head.insert(VARY, fixed("Authorization"));
    }
    let id = HeaderValue::from_str(&ctx.id).unwrap_or_else(|_| HeaderValue::from_static(""));
    for name in &REQUEST_IDS {
        head.insert(name, id.clone());
    }
    if let Some(origin) = &ctx.origin {
        origin.write(head);
    }
}

/// The request limit, in the order of `request_quota`. OpenAI's SDKs read the last three.
static QUOTA: [HeaderName; 6] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];

/// The rate limits, for answers that were let through.
pub(super) fn quota(head: &mut HeaderMap, ctx: &RequestContext) {
    for (name, value) in request_quota(ctx) {
        head.insert(name, value);
    }
    for (name, value) in ctx.rates.headers(ctx.quota.is_some()) {
        head.insert(HeaderName::from_static(name), value);
    }
}

/// The same as headers of a reply.
pub(super) fn quota_headers(ctx: &RequestContext) -> Vec<(HeaderName, HeaderValue)> {
    let told = ctx.rates.headers(ctx.quota.is_some()).into_iter();
    let told = told.map(|(name, value)| (HeaderName::from_static(name), value));
    request_quota(ctx).map(|(name, value)| (name.clone(), value)).chain(told).collect()
}

fn request_quota(ctx: &RequestContext) -> impl Iterator<Item = (&'static HeaderName, HeaderValue)> {
    let values = ctx.quota.map(|quota| {
        let now_s = clock::now_us() / 1_000_000;
        let resets_s = i64::try_from(quota.resets_in.as_secs()).unwrap_or(60);
        let wait = HeaderValue::from_str(&format!("{resets_s}s")).expect("digits and a letter");
        let (limit, remaining) =
            (HeaderValue::from(quota.limit), HeaderValue::from(quota.remaining));
        [limit.clone(), remaining.clone(), (now_s + resets_s).into(), limit, remaining, wait]
    });
    QUOTA.iter().zip(values.into_iter().flatten())
}

/// Whether the path is one of the health routes, which may be cached.
pub(super) fn is_health(s: &Session) -> bool {
    s.req_header().uri.path().starts_with("/health")
}

/// Writes a whole answer.
pub(super) async fn write(s: &mut Session, ctx: &mut RequestContext, reply: Reply) -> Result<()> {
    let is_head = s.req_header().method == Method::HEAD;
    let mut headers = HeaderMap::with_capacity(24);
    common(&mut headers, ctx, is_health(s));
    if reply.status.is_success() {
        quota(&mut headers, ctx);
    }
    if !matches!(reply.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        headers.insert(CONTENT_LENGTH, reply.body.len().into());
    }
    for (name, value) in reply.headers {
        headers.insert(name, value);
    }
    ctx.outcome.status = reply.status.as_u16();
    let has_body = !is_head && !reply.body.is_empty();
    s.write_response_header(head(reply.status, headers), !has_body).await?;
    if has_body {
        s.write_response_body(Some(reply.body), true).await?;
    }
    Ok(())
}

/// Tells the caller why they are refused; the connection stays usable.
pub(super) async fn refuse(
    s: &mut Session,
    ctx: &mut RequestContext,
    refused: Rejection,
) -> Result<()> {
    ctx.outcome.code = Some(refused.code.as_str());
    if let Some(cause) = &refused.cause {
        ctx.outcome.error = Some(cause.to_string());
    }
    let status = refused.code.status();
    let mut reply = Reply::new(status, JSON, refused.body(ctx.protocol, &ctx.id));
    let mut add = |name: &'static str, value: HeaderValue| {
        reply.headers.push((HeaderName::from_static(name), value));
    };
    if let Some(should) = refused.should_retry() {
        add("x-should-retry", HeaderValue::from_static(if should { "true" } else { "false" }));
    }
    let source = if refused.code.is_providers() { "provider" } else { "gateway" };
    add("otari-error-source", HeaderValue::from_static(source));
    if let Some(seconds) = refused.retry_after_s {
        reply.headers.push((RETRY_AFTER, seconds.into()));
        reply.headers.push((HeaderName::from_static("retry-after-ms"), (seconds * 1000).into()));
    }
    reply.headers.extend(refused.headers);
    if let Some(allow) = refused.allow {
        reply.headers.push((ALLOW, HeaderValue::from_static(allow)));
    }
    write(s, ctx, reply).await
}

/// The last resort: whatever failed and was not refused on the way.
pub(super) async fn fail(s: &mut Session, error: &Error, ctx: &mut RequestContext) -> FailToProxy {
    let refused = match error.esource() {
        // The caller is gone; there is nobody to tell.
        ErrorSource::Downstream => None,
        _ => Some(Rejection::internal(error.to_string())),
    };
    let Some(refused) = refused else {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    };
    let status = refused.code.status().as_u16();
    // Once the header is out, what can be said has been said by whoever wrote it.
    if s.response_written().is_none()
        && let Err(error) = refuse(s, ctx, refused).await
    {
        ctx.outcome.error = Some(error.to_string());
    }
    FailToProxy { error_code: status, can_reuse_downstream: false }
}

/// The dialect of a path, whichever door it is.
pub(super) fn protocol_of(path: &str) -> Protocol {
    let path = path.strip_prefix("/api").unwrap_or(path);
    let path = path.strip_prefix("/v1").unwrap_or(path);
    if path.starts_with("/messages") {
        Protocol::Messages
    } else if path.starts_with("/responses") {
        Protocol::Responses
    } else {
        Protocol::Chat
    }
}
