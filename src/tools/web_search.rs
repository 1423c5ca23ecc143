//! Searching the web for the model: results of the configured service, and what the pages say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use otari_filters::search::Query;
use otari_filters::tools::result::{self, Failure, Found};
use otari_filters::tools::{SearchTool, Source, ToolCall, searching};
use serde_json::Value;
use tokio::time::timeout;

use super::Kit;
use super::code_execution::failure;
use crate::config::SearchBackend;
use crate::documents::{Format, Wanted};
use crate::outbound::Call;
use crate::safety::{Fetch, Page};
use crate::search::SearchError;

/// For the search itself.
const SEARCH: Duration = Duration::from_secs(15);
/// Its longest answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Pages that are read at once.
const PAGES: usize = 5;
/// For making text of one page, once it is here. Others may be waiting for the same reader.
const READ: Duration = Duration::from_secs(5);
/// How much of one page is read, and for how long.
const FETCH: Fetch = Fetch {
    within: Duration::from_secs(5),
    max_bytes: 5 << 20,
    redirects: 5,
    user_agent: "Mozilla/5.0 (compatible; otari-gateway-web-search)",
};
/// The longest query, in characters.
const MAX_QUERY: usize = 2000;
/// What is kept of a page; the model gets less.
const MAX_PAGE_CHARS: usize = 20_000;

/// The searches of one request.
pub(super) struct Search {
    kit: Arc<Kit>,
    wanted: SearchTool,
}

impl Search {
    pub(super) fn new(kit: &Arc<Kit>, wanted: &SearchTool) -> Self {
        Self { kit: Arc::clone(kit), wanted: wanted.clone() }
    }

    /// Searches; the text for the model, and what was found.
    pub(super) async fn run(&self, call: &ToolCall) -> Result<(String, Vec<Source>), Failure> {
        let query = call.arguments.get("query").and_then(Value::as_str).unwrap_or_default().trim();
        if query.is_empty() {
            return Ok((result::empty_query(), Vec::new()));
        }
        if query.chars().count() > MAX_QUERY {
            return Err(Failure::Said(format!("a query may have {MAX_QUERY} characters")));
        }
        let searching = &self.kit.config.searching;
        let most = self.wanted.results(searching.max_results);
        let found = match &self.kit.config.search {
            Some(SearchBackend::Searxng(_)) => self.ask_service(query).await?,
            Some(SearchBackend::Tool(name)) => self.ask_tool(name, query, most).await?,
            None => return Err(Failure::Unknown),
        };
        let mut found = searching::wanted(found, &self.wanted, most);
        if searching.extracts {
            found = stream::iter(found).map(|one| self.read(one)).buffered(PAGES).collect().await;
        }
        Ok((result::search(query, &found), found.iter().map(Found::source).collect()))
    }

    async fn ask_service(&self, query: &str) -> Result<Vec<Found>, Failure> {
        let service = self.kit.searxng.as_ref().ok_or(Failure::Unreachable)?;
        let engines = &self.kit.config.searching.engines;
        let options = &self.wanted.provider_options;
        let path = searching::searxng(service.base_path(), query, engines, options);
        let path = path.ok_or_else(|| Failure::Said("the query cannot be sent".to_owned()))?;
        let call = Call::get(path, SEARCH, MAX_ANSWER_BYTES);
        let answer =
            self.kit.outbound.call(service, call).await.map_err(|error| failure(&error))?;
        if !answer.is_success() {
            return Err(Failure::Status(answer.status));
        }
        searching::results(&answer.body).ok_or(Failure::BadAnswer)
    }

    /// Searches with an entry of `search_tools`.
    async fn ask_tool(&self, name: &str, query: &str, most: usize) -> Result<Vec<Found>, Failure> {
        let tool = self.kit.search_tools.pick(Some(name)).map_err(|_| Failure::Unreachable)?;
        let body = searching::tool_query(query, most, &self.wanted);
        let query =
            Query::read(&body).map_err(|refused| Failure::Said(refused.message.into_owned()))?;
        let asked = timeout(SEARCH, tool.search(&self.kit.outbound, &query)).await;
        let found = asked.map_err(|_| Failure::Timeout)?.map_err(|error| match error {
            SearchError::Failed(outbound) => failure(&outbound),
            SearchError::Status(status, _) => Failure::Status(status),
            SearchError::NotResults => Failure::BadAnswer,
        })?;
        let of = |hit: otari_filters::search::Hit| Found {
            title: hit.title.unwrap_or_default(),
            url: hit.url,
            snippet: hit.snippet.unwrap_or_default(),
            page: None,
        };
        Ok(found.hits.into_iter().map(of).collect())
    }

    /// Adds the text of the page, where there is one to be had; what the search says of it serves otherwise.
    async fn read(&self, found: Found) -> Found {
        if found.page.is_some() {
            return found;
        }
        let rules = &self.kit.config.searching.pages;
        let page = match self.kit.safety.fetch(rules, &found.url, &FETCH).await {
            Ok(page) => self.text(page).await,
            Err(why) => {
                tracing::debug!(%why, "a page that a search found is not read");
                None
            }
        };
        Found { page, ..found }
    }

    async fn text(&self, page: Page) -> Option<String> {
        let format = format(page.mime.as_deref(), &page.bytes)?;
        let bytes = match format {
            Format::Html => searching::main_part(&page.bytes),
            _ => page.bytes,
        };
        let wanted = Wanted { format, pictures: false };
        let reading = timeout(READ, self.kit.readers.read(wanted, bytes)).await.ok()?.ok()?;
        let text: String = reading.text.trim().chars().take(MAX_PAGE_CHARS).collect();
        (!text.is_empty()).then_some(text)
    }
}

/// How a page is read: HTML, PDF and plain text; `None`: it is none of them.
fn format(mime: Option<&str>, bytes: &[u8]) -> Option<Format> {
    let is_seen_or_heard = |mime: &str| {
        ["image/", "audio/", "video/", "font/"].iter().any(|kind| mime.starts_with(kind))
    };
    if mime.is_some_and(is_seen_or_heard) {
        return None;
    }
    match Format::of(None, mime, bytes)? {
        format @ (Format::Html | Format::Pdf | Format::Text) => Some(format),
        Format::Docx | Format::Pptx | Format::Sheets => None,
    }
}
