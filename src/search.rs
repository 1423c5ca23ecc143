//! Web search: the configured tools, and a search with one of them. Who may search and what it costs is not its affair.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use otari_filters::providers::UNKNOWN;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::search::{self, Engine, Found, Query};
use otari_filters::upstream::{Draft, Upstream};
use serde_json::{Map, Value};

use crate::config::SearchTool;
use crate::outbound::{self, Call, Outbound};

/// A page of results with twenty long texts has some hundred kilobytes.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// All tools, in the order of the configuration.
pub struct Tools(Box<[Arc<Tool>]>);

/// A configured tool.
pub struct Tool {
    /// In requests, prices and rows.
    pub name: Box<str>,
    /// What searches.
    pub engine: Engine,
    /// Where it is and what every call has; its instance is called as the engine. `None`: something is missing in the
    /// configuration.
    pub upstream: Option<Arc<Upstream>>,
    timeout: Duration,
    options: Map<String, Value>,
}

/// Why there are no results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchError {
    /// No whole answer.
    Failed(outbound::Error),
    /// An answer of another status, and what it says, without secrets.
    Status(u16, Option<String>),
    /// The answer holds no results.
    NotResults,
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Status(status, None) => write!(f, "it answers {status}"),
            Self::Status(status, Some(said)) => write!(f, "it answers {status}: {said}"),
            Self::NotResults => f.write_str("its answer holds no results"),
        }
    }
}

impl std::error::Error for SearchError {}

impl SearchError {
    /// What the caller is told; the reason goes along for the log.
    pub fn rejection(&self) -> Rejection {
        let refused = match self {
            Self::Failed(outbound::Error::Timeout) => {
                Rejection::new(Code::ProviderTimeout, "The search provider did not answer in time")
            }
            _ => Rejection::new(Code::ProviderError, "The search provider failed"),
        };
        refused.because(self.clone())
    }

    /// The engine's status, where it gave one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status, _) => Some(*status),
            Self::Failed(_) | Self::NotResults => None,
        }
    }

    /// A word for rows and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(outbound::Error::Timeout) => "provider_timeout",
            _ => "provider_error",
        }
    }
}

impl Tools {
    /// Those of the configuration.
    pub fn new(configured: &[SearchTool]) -> Self {
        Self(configured.iter().map(|tool| Arc::new(Tool::new(tool))).collect())
    }

    /// The tool of this name, or the only one when none is named.
    ///
    /// # Errors
    /// `invalid_value`, in the words of the reference gateway.
    pub fn pick(&self, name: Option<&str>) -> Result<&Arc<Tool>, Rejection> {
        let refused = |message: String| Err(Rejection::new(Code::InvalidValue, message));
        let names: Vec<&str> = self.0.iter().map(|tool| &*tool.name).collect();
        let names = names.join(", ");
        match (name.filter(|name| !name.is_empty()), &*self.0) {
            (_, []) => refused(
                "No search tools are configured. Add one under search_tools in config.yml"
                    .to_owned(),
            ),
            (None, [only]) => Ok(only),
            (None, _) => refused(format!(
                "Several search tools are configured; name one in 'search_tool_name' or use POST \
                 /v1/search/{{tool}}. Available: {names}."
            )),
            (Some(name), tools) => match tools.iter().find(|tool| *tool.name == *name) {
                Some(tool) => Ok(tool),
                None => refused(format!("Unknown search tool '{name}'. Available: {names}.")),
            },
        }
    }
}

impl Tool {
    fn new(configured: &SearchTool) -> Self {
        let credential = configured.api_key.as_ref().map(|key| configured.provider.credential(key));
        let headers: Vec<_> = credential.flatten().into_iter().collect();
        let is_complete =
            configured.is_complete() && (configured.api_key.is_none() || !headers.is_empty());
        let upstream = configured.api_base.as_ref().filter(|_| is_complete).and_then(|base| {
            let draft = Draft {
                instance: configured.provider.as_str(),
                // No model provider, and so no credential but the header above is sent.
                kind: &UNKNOWN,
                base_url: base,
                api_key: None,
                headers: &headers,
                client_settings: &[],
                max_retries: 0,
                first_byte_timeout: configured.timeout,
                idle_timeout: configured.timeout,
                address: None,
            };
            Upstream::new(&draft).ok().map(Arc::new)
        });
        Self {
            name: configured.name.as_str().into(),
            engine: configured.provider,
            upstream,
            timeout: configured.timeout,
            options: configured.options.clone(),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// `invalid_value`: something is missing in the configuration.
    pub fn upstream(&self) -> Result<&Arc<Upstream>, Rejection> {
        self.upstream.as_ref().ok_or_else(|| {
            let message = format!("Search tool '{}' is not configured correctly.", self.name);
            Rejection::new(Code::InvalidValue, message)
        })
    }

    /// Searches, once.
    ///
    /// # Errors
    /// When there are no results to show; an empty list of them is one.
    pub async fn search(&self, outbound: &Outbound, query: &Query) -> Result<Found, SearchError> {
        let failed = |what| SearchError::Failed(outbound::Error::Invalid(what));
        let upstream = self.upstream.as_ref().ok_or(failed("it is not configured"))?;
        let request = search::request(self.engine, upstream.base_path(), query, &self.options);
        let request = request.ok_or(failed("api_base makes no address"))?;
        let mut call = Call::get(request.path_and_query, self.timeout, MAX_ANSWER_BYTES);
        (call.method, call.body) = (request.method, request.body);
        let answer = outbound.call(upstream, call).await.map_err(SearchError::Failed)?;
        if !answer.is_success() {
            return Err(SearchError::Status(answer.status, search::failure(&answer.body)));
        }
        Found::read(self.engine, query, &answer.body).map_err(|_| SearchError::NotResults)
    }
}
