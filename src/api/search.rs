//! `/v1/search` as the document shows it; `proxy` answers it, because a search is held, billed and limited.

use otari_filters::search::FIELDS;
use schemars::JsonSchema;

use super::openapi::Operation;

/// What was found, in the engine's order.
#[derive(JsonSchema)]
#[schemars(rename = "SearchResults")]
#[expect(dead_code, reason = "`proxy` writes it; this is what it is promised to hold")]
struct Results {
    object: String,
    /// The tool that searched.
    search_tool: String,
    results: Vec<Hit>,
}

#[derive(JsonSchema)]
#[schemars(rename = "SearchResult")]
#[expect(dead_code, reason = "`proxy` writes it; this is what it is promised to hold")]
struct Hit {
    title: Option<String>,
    url: String,
    snippet: Option<String>,
    date: Option<String>,
}

pub(super) static SEARCH: Operation = Operation::new(
    "search",
    "Search the web with the only configured tool, or the one named in the body",
)
.with_body(&FIELDS)
.answering::<Results>()
.refusing(&[400, 403, 404, 429, 502, 504]);

pub(super) static SEARCH_WITH: Operation =
    Operation::new("search_with_tool", "Search the web with the tool named in the path")
        .with_body(&FIELDS)
        .answering::<Results>()
        .refusing(&[400, 403, 404, 429, 502, 504]);
