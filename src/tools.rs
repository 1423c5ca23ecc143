//! The tools that the gateway runs: what a request opens, what it runs with it, what it closes at its end.
//!
//! The text of a loop (who wants what, what the model is told) is `otari_filters::tools`; here is what does it. Nothing
//! that a caller or a model reads says where a tool runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use otari_filters::platform::is_platforms;
use otari_filters::providers::UNKNOWN;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::secret::Secret;
use otari_filters::tools::result::{self, Failure};
use otari_filters::tools::{
    CODE_EXECUTION, CodeTool, McpServer, Offer, Owned, SearchTool, Source, ToolCall, ToolResult,
    WEB_SEARCH, Wanted, sandbox_unreachable,
};
use otari_filters::upstream::{Draft, Upstream};
use tokio::time::timeout;

use crate::config::{self, Config, Sandbox};
use crate::documents::Readers;
use crate::outbound::Outbound;
use crate::safety::Safety;
use crate::search;

mod code_execution;
mod local_sandbox;
mod mcp;
mod web_search;
#[cfg(test)]
mod tests;

use code_execution::Session;
use mcp::Servers;
use web_search::Search;

/// Calls of one round that run at once.
const PARALLEL: usize = 8;
/// Calls of one round that are run; a model that wants more is told so.
const MAX_CALLS: usize = 64;
/// For one call, whatever it does: the longest of the tools' own limits, and a moment.
const CALL: Duration = Duration::from_secs(90);

/// What all requests run tools with; made once.
pub struct Kit {
    config: config::Tools,
    safety: Safety,
    outbound: Outbound,
    readers: Readers,
    /// The entries of `search_tools`.
    search_tools: search::Tools,
    /// The platform's base URL, in connected mode.
    platform: Option<String>,
    /// The search service, with the gateway's token where it is the platform's own.
    searxng: Option<Upstream>,
}

impl Kit {
    /// What `config` says, over `outbound`; pages are read by `readers`.
    pub fn new(config: &Config, safety: Safety, outbound: Outbound, readers: Readers) -> Self {
        let platform = config.platform.as_ref();
        let url = match &config.tools.search {
            Some(config::SearchBackend::Searxng(url)) => Some(url),
            _ => None,
        };
        let searxng = url.and_then(|url| {
            let own = platform.filter(|platform| is_platforms(url, &platform.base_url));
            let header =
                own.and_then(|platform| header("x-gateway-token", platform.token.expose()));
            upstream("web_search", url, header.as_slice())
        });
        Self {
            config: config.tools.clone(),
            safety,
            outbound,
            readers,
            search_tools: search::Tools::new(&config.search_tools),
            platform: platform.map(|platform| platform.base_url.clone()),
            searxng,
        }
    }

    /// What the configuration says of tools.
    pub fn config(&self) -> &config::Tools {
        &self.config
    }

    /// Judges the addresses of servers, before anything is asked or held. [`Toolbox::open`] does so too.
    ///
    /// # Errors
    /// `invalid_value`: which rule one of them breaks.
    pub async fn check_servers(&self, servers: &[McpServer]) -> Result<(), Rejection> {
        mcp::admit(self, servers).await.map(drop)
    }
}

/// A service of the operator's; no credential but `headers` is sent there.
fn upstream(name: &str, url: &str, headers: &[(HeaderName, HeaderValue)]) -> Option<Upstream> {
    let within = Duration::from_secs(30);
    let draft = Draft {
        instance: name,
        kind: &UNKNOWN,
        base_url: url,
        api_key: None,
        headers,
        client_settings: &[],
        max_retries: 0,
        first_byte_timeout: within,
        idle_timeout: within,
        address: None,
    };
    Upstream::new(&draft).ok()
}

/// A header that nobody prints.
fn header(name: &'static str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_static(name), value))
}

/// What one request runs tools with: opened before the first round, closed after the last.
pub struct Toolbox {
    backend: Backend,
    offer: Offer,
}

/// One kind a request; [`Wanted::check`] refuses more.
enum Backend {
    /// Nothing is run.
    None,
    Servers(Servers),
    Code(Box<Session>),
    Search(Box<Search>),
}

impl Toolbox {
    /// Connects what `wanted` names; its ids have been resolved, what a workspace says has been merged into it.
    /// `user_token`: the caller's, in connected mode; it goes to a sandbox of the platform's and nowhere else.
    ///
    /// # Errors
    /// `invalid_value` for a server that may not be gone to, `unsupported` for what is not configured,
    /// `tool_unavailable` for what does not answer.
    pub async fn open(
        kit: &Arc<Kit>,
        wanted: &Wanted,
        user_token: Option<&Secret>,
    ) -> Result<Self, Rejection> {
        wanted.check(kit.config.backends(true))?;
        let (backend, mut offer) = match (&wanted.code, &wanted.search) {
            (Some(code), _) => open_code(kit, code, user_token).await?,
            (None, Some(search)) => open_search(kit, search),
            (None, None) if wanted.mcp.is_empty() => (Backend::None, Offer::default()),
            (None, None) => {
                let (servers, offer) = Servers::open(kit, &wanted.mcp).await?;
                (Backend::Servers(servers), offer)
            }
        };
        offer.header.clone_from(&kit.config.header);
        Ok(Self { backend, offer })
    }

    /// What the model is offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What it runs, as a label.
    pub fn kind(&self) -> &'static str {
        match self.backend {
            Backend::None => "none",
            Backend::Servers(_) => "mcp",
            Backend::Code(_) => CODE_EXECUTION,
            Backend::Search(_) => WEB_SEARCH,
        }
    }

    /// The names of the tools that [`Toolbox::run`] runs.
    pub fn owned(&self) -> Owned {
        self.offer.owned()
    }

    /// Runs calls, several at once, each within its time. Always a result for each call, in their order: what went wrong
    /// is for the model to read.
    pub async fn run(&self, calls: &[ToolCall]) -> Vec<ToolResult> {
        let run = |(at, call): (usize, ToolCall)| async move {
            let (text, sources) = if at < MAX_CALLS {
                let ran = timeout(CALL, self.run_one(&call)).await;
                ran.unwrap_or_else(|_| failed(&call, Failure::Timeout))
            } else {
                let most = format!("a round may have {MAX_CALLS} calls");
                failed(&call, Failure::Said(most))
            };
            let text = result::capped(text, result::MAX_CHARS);
            ToolResult { id: call.id, text, sources }
        };
        stream::iter(calls.iter().cloned().enumerate()).map(run).buffered(PARALLEL).collect().await
    }

    async fn run_one(&self, call: &ToolCall) -> (String, Vec<Source>) {
        let ran = match &self.backend {
            Backend::Servers(servers) => servers.call(call).await.map(|text| (text, Vec::new())),
            Backend::Code(session) if call.name == CODE_EXECUTION => {
                session.run(call).await.map(|text| (text, Vec::new()))
            }
            Backend::Search(search) if call.name == WEB_SEARCH => search.run(call).await,
            Backend::None | Backend::Code(_) | Backend::Search(_) => Err(Failure::Unknown),
        };
        ran.unwrap_or_else(|failure| failed(call, failure))
    }

    /// Ends the sessions; a few seconds at most. A toolbox that is dropped instead ends them as well as it can: those of
    /// a sandbox end by themselves then.
    pub async fn close(self) {
        match self.backend {
            Backend::Servers(servers) => servers.close().await,
            Backend::Code(session) => session.close().await,
            Backend::None | Backend::Search(_) => {}
        }
    }
}

fn failed(call: &ToolCall, failure: Failure) -> (String, Vec<Source>) {
    (result::failed(&call.name, &failure), Vec::new())
}

async fn open_code(
    kit: &Arc<Kit>,
    wanted: &CodeTool,
    user_token: Option<&Secret>,
) -> Result<(Backend, Offer), Rejection> {
    let offer = Offer::code(wanted, kit.config.sandbox_hint.as_deref());
    let session = match &kit.config.sandbox {
        None => return Err(Rejection::internal("a request for code has passed without a sandbox")),
        Some(Sandbox::Local) => Session::local().await,
        Some(Sandbox::Service(url)) => {
            let is_ours = kit.platform.as_ref().is_some_and(|base| is_platforms(url, base));
            let token = user_token.filter(|_| is_ours);
            Session::open(&kit.outbound, url, token).await
        }
    };
    match session {
        Ok(session) => Ok((Backend::Code(Box::new(session)), offer)),
        Err(cause) => Err(sandbox_unreachable().because(cause)),
    }
}

fn open_search(kit: &Arc<Kit>, wanted: &SearchTool) -> (Backend, Offer) {
    let offer = Offer::search(wanted, kit.config.searching.hint.as_deref());
    (Backend::Search(Box::new(Search::new(kit, wanted))), offer)
}

/// A server's address, refused.
fn forbidden(error: otari_filters::addresses::Forbidden) -> Rejection {
    Rejection::new(Code::InvalidValue, error.0)
}
