//! Calls to the platform: what is said in each, and what comes back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use otari_filters::platform::tools::{self, CodeExecution, McpServer, WebSearch};
use otari_filters::platform::{self, Malformed, plan};
use otari_filters::rejection::Rejection;
use otari_filters::secret::Secret;
use serde::Serialize;

use super::wire::{Answer, Call, Wire};
use crate::config::PlatformConfig;

const GATEWAY_TOKEN: HeaderName = HeaderName::from_static("x-gateway-token");
const USER_TOKEN: HeaderName = HeaderName::from_static("x-user-token");

/// How the platform is reached.
#[derive(Clone)]
pub struct Wires {
    /// For requests: what they ask, and the reports that they wait for.
    pub asking: Arc<dyn Wire>,
    /// For other reports: they run on a runtime of their own, and connections live where they were made.
    pub telling: Arc<dyn Wire>,
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wires")
    }
}

/// A client of one platform.
#[derive(Debug)]
pub(super) struct Client {
    wires: Wires,
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
    /// When the token cannot be used. It is not named.
    pub(super) fn new(config: &PlatformConfig, wires: Wires) -> Result<Self, String> {
        let mut token = HeaderValue::from_str(config.token.expose().trim())
            .map_err(|_| "OTARI_AI_TOKEN holds characters that no header can carry".to_owned())?;
        token.set_sensitive(true);
        Ok(Self {
            wires,
            token,
            resolve_timeout: config.resolve_timeout,
            usage_timeout: config.usage_timeout,
            health_path: config.health_path.trim_start_matches('/').into(),
        })
    }

    /// From now on connections have so long to open.
    pub(super) fn follow(&self, connect_timeout: Duration) {
        self.wires.asking.follow(connect_timeout);
        self.wires.telling.follow(connect_timeout);
    }

    /// Closes idle connections that are of no more use.
    pub(super) fn sweep(&self) {
        self.wires.asking.sweep();
        self.wires.telling.sweep();
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

    /// Hands one report over, once. `is_live`: for a request that waits.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn report(&self, body: Bytes, is_live: bool) -> Result<Answer, String> {
        let headers = vec![(GATEWAY_TOKEN, self.token.clone())];
        let path = "gateway/usage".into();
        let within = self.usage_timeout;
        let wire = if is_live { &self.wires.asking } else { &self.wires.telling };
        wire.call(Call { method: Method::POST, path, headers, body, within }).await
    }

    /// Whether the platform answers its health probe with less than 500.
    pub(super) async fn is_reachable(&self) -> bool {
        let probe = Call {
            method: Method::GET,
            path: self.health_path.clone(),
            headers: Vec::new(),
            body: Bytes::new(),
            within: self.resolve_timeout,
        };
        match self.wires.asking.call(probe).await {
            Ok(answer) => answer.status < 500,
            Err(error) => {
                tracing::debug!(error, "the platform cannot be reached");
                false
            }
        }
    }

    /// Asks on a caller's behalf. The body of an answer with status 200.
    async fn ask(
        &self,
        path: &str,
        user: &Secret,
        body: &impl Serialize,
        fallback: &'static str,
    ) -> Result<Bytes, Rejection> {
        let mut token = HeaderValue::from_str(user.expose())
            .map_err(|_| Rejection::internal("the caller's token fits into no header"))?;
        token.set_sensitive(true);
        let body = serde_json::to_vec(body).map_err(Rejection::internal)?.into();
        let headers = vec![(GATEWAY_TOKEN, self.token.clone()), (USER_TOKEN, token)];
        let (path, within) = (path.into(), self.resolve_timeout);
        let call = Call { method: Method::POST, path, headers, body, within };
        match self.wires.asking.call(call).await {
            Ok(Answer { status: 200, body, .. }) => Ok(body),
            Ok(Answer { status, retry_after, body }) => {
                Err(platform::refusal(status, &body, retry_after, fallback))
            }
            Err(cause) => Err(platform::unavailable(cause)),
        }
    }
}

fn malformed(part: Malformed) -> Rejection {
    platform::unavailable(format!("the platform's answer is malformed: {}", part.0))
}
