//! Calls to the platform: one pool of connections, one deadline for the whole of a call, answers within a limit.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use otari_filters::platform::tools::{self, CodeExecution, McpServer, WebSearch};
use otari_filters::platform::{self, Malformed, plan};
use otari_filters::rejection::Rejection;
use otari_filters::secret::Secret;
use reqwest::{RequestBuilder, redirect};
use serde::Serialize;

use crate::config::PlatformConfig;

/// No answer of a platform is near this; what is longer is not from one.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Idle connections that are kept: as many as calls are likely to be under way at once.
const MAX_IDLE: usize = 256;
/// Shorter than what load balancers allow, so that a connection is rarely closed just when it is used.
const IDLE: Duration = Duration::from_secs(30);
/// A connection that carries many calls must not take them all along when it dies silently.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

const GATEWAY_TOKEN: HeaderName = HeaderName::from_static("x-gateway-token");
const USER_TOKEN: HeaderName = HeaderName::from_static("x-user-token");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the platform answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// 100 to 599.
    pub(super) status: u16,
    retry_after: Option<HeaderValue>,
    /// Whole.
    pub(super) body: Vec<u8>,
}

/// A client of one platform.
#[derive(Debug)]
pub(super) struct Client {
    /// For what requests ask.
    asking: reqwest::Client,
    /// For reports: they run on a runtime of their own, and connections live where they were made.
    telling: reqwest::Client,
    base: Box<str>,
    token: HeaderValue,
    resolve_timeout: Duration,
    usage_timeout: Duration,
    health_path: Box<str>,
}

#[derive(Serialize)]
struct Keys<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
}

#[derive(Serialize)]
struct Servers<'a> {
    mcp_server_ids: &'a [String],
}

/// Nothing is said but who asks.
#[derive(Serialize)]
struct Nothing {}

impl Client {
    /// Connects with the first call only.
    ///
    /// # Errors
    /// When the base URL or the token cannot be used. Names neither's value.
    pub(super) fn new(config: &PlatformConfig) -> Result<Self, String> {
        let base = config.base_url.trim().trim_end_matches('/');
        let url = reqwest::Url::parse(base)
            .map_err(|error| format!("platform.base_url is not a URL: {error}"))?;
        let mut token = HeaderValue::from_str(config.token.expose().trim())
            .map_err(|_| "OTARI_AI_TOKEN holds characters that no header can carry".to_owned())?;
        token.set_sensitive(true);
        let client = || {
            build(url.scheme() == "http")
                .map_err(|error| format!("cannot make a client of the platform: {}", cause(&error)))
        };
        Ok(Self {
            asking: client()?,
            telling: client()?,
            base: base.into(),
            token,
            resolve_timeout: config.resolve_timeout,
            usage_timeout: config.usage_timeout,
            health_path: config.health_path.as_str().into(),
        })
    }

    /// Where a request may go. Never asked twice for one request, and never kept.
    pub(super) async fn keys(
        &self,
        user: &Secret,
        selector: &str,
    ) -> Result<plan::Offers, Rejection> {
        let (provider, model) = platform::split(selector);
        let body = Keys { model, provider };
        let fallback = "Authorization request rejected";
        let body = self.ask("gateway/provider-keys/resolve", user, &body, fallback).await?;
        plan::read(&body).map_err(malformed)
    }

    /// The workspace's tool servers with these ids, in canonical form.
    pub(super) async fn mcp_servers(
        &self,
        user: &Secret,
        ids: &[String],
    ) -> Result<Vec<McpServer>, Rejection> {
        let body = Servers { mcp_server_ids: ids };
        let fallback = "MCP server resolution failed";
        let body = self.ask("gateway/mcp-servers/resolve", user, &body, fallback).await?;
        tools::mcp_servers(&body).map_err(malformed)
    }

    /// What the workspace says of searches.
    pub(super) async fn web_search(&self, user: &Secret) -> Result<WebSearch, Rejection> {
        let fallback = "Web search resolution failed";
        let path = "gateway/web-search/resolve";
        WebSearch::read(&self.ask(path, user, &Nothing {}, fallback).await?)
    }

    /// What the workspace says of running code.
    pub(super) async fn code_execution(&self, user: &Secret) -> Result<CodeExecution, Rejection> {
        let fallback = "Code execution resolution failed";
        let path = "gateway/code-execution/resolve";
        CodeExecution::read(&self.ask(path, user, &Nothing {}, fallback).await?)
    }

    /// Hands one report over, once.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn report(&self, body: Bytes) -> Result<Answer, String> {
        let request = self.telling.post(self.url("gateway/usage")).body(body);
        self.send(request.timeout(self.usage_timeout)).await
    }

    /// Whether the platform answers its health probe with less than 500.
    pub(super) async fn is_reachable(&self) -> bool {
        let request = self.asking.get(self.url(&self.health_path)).timeout(self.resolve_timeout);
        match request.send().await {
            Ok(answer) => answer.status().as_u16() < 500,
            Err(error) => {
                tracing::debug!(error = cause(&error), "the platform cannot be reached");
                false
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}", self.base, path.trim_start_matches('/'))
    }

    /// Asks on a caller's behalf. The body of an answer with status 200.
    async fn ask(
        &self,
        path: &str,
        user: &Secret,
        body: &impl Serialize,
        fallback: &'static str,
    ) -> Result<Vec<u8>, Rejection> {
        let mut token = HeaderValue::from_str(user.expose())
            .map_err(|_| Rejection::internal("the caller's token fits into no header"))?;
        token.set_sensitive(true);
        let body = serde_json::to_vec(body).map_err(Rejection::internal)?;
        let request = self.asking.post(self.url(path)).header(USER_TOKEN, token).body(body);
        match self.send(request.timeout(self.resolve_timeout)).await {
            Ok(Answer { status: 200, body, .. }) => Ok(body),
            Ok(Answer { status, retry_after, body }) => {
                Err(platform::refusal(status, &body, retry_after, fallback))
            }
            Err(cause) => Err(platform::unavailable(cause)),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, String> {
        let request = request.header(GATEWAY_TOKEN, self.token.clone()).header(CONTENT_TYPE, JSON);
        let mut answer = request.send().await.map_err(|error| cause(&error))?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| cause(&error))? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err("the platform's answer is longer than 1 MiB".to_owned());
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: answer.status().as_u16(),
            retry_after: answer.headers().get(RETRY_AFTER).cloned(),
            body,
        })
    }
}

fn build(is_plain: bool) -> Result<reqwest::Client, reqwest::Error> {
    let mut client = reqwest::Client::builder()
        // The tokens go to the address that was given, and nowhere else.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(MAX_IDLE)
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .user_agent(concat!("otari/", env!("CARGO_PKG_VERSION")));
    if is_plain {
        // A machine without any root certificate can still reach a platform without TLS.
        client = client.tls_certs_only([]);
    }
    client.build()
}

fn malformed(part: Malformed) -> Rejection {
    platform::unavailable(format!("the platform's answer is malformed: {}", part.0))
}

/// The innermost reason, without the address. Headers and bodies are no part of it.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the platform did not answer in time".to_owned();
    }
    let mut inner = error.source();
    while let Some(source) = inner.and_then(std::error::Error::source) {
        inner = Some(source);
    }
    let reason = inner.map_or_else(|| "unknown".to_owned(), ToString::to_string);
    if error.is_builder() {
        reason
    } else if error.is_connect() {
        format!("cannot connect to the platform: {reason}")
    } else {
        format!("the call to the platform broke: {reason}")
    }
}
