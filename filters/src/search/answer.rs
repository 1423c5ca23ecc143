//! Reading what an engine answers.

use serde::Serialize;
use serde_json::Value;

use super::{Engine, Query};
use crate::money::MicroUsd;
use crate::upstream::redact;

/// The dearest search that is believed, in USD: more than a thousand results cost.
const MAX_COST_USD: f64 = 100.0;

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Of the page.
    pub title: Option<String>,
    /// `http` or `https`.
    pub url: String,
    /// A passage of it.
    pub snippet: Option<String>,
    /// When it was published, as the engine writes it.
    pub date: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// In the engine's order.
    pub hits: Vec<Hit>,
    /// What the engine says that it cost.
    #[serde(skip)]
    pub cost: Option<MicroUsd>,
}

/// The answer holds no results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotResults;

impl Found {
    /// Reads an answer to `query`. Results without an address are left out, and those of other domains than were asked
    /// for: not every engine keeps to them.
    ///
    /// # Errors
    /// When it is not what the engine answers with.
    pub fn read(engine: Engine, query: &Query, body: &[u8]) -> Result<Self, NotResults> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| NotResults)?;
        let results = match engine {
            // Without any result there is no `web`.
            Engine::Brave if answer["web"].is_null() && answer["type"] == "search" => {
                return Ok(Self::default());
            }
            Engine::Brave => &answer["web"]["results"],
            _ => &answer["results"],
        };
        let results = results.as_array().ok_or(NotResults)?;
        let most = usize::try_from(query.results()).unwrap_or(usize::MAX);
        let hits = results.iter().filter_map(|result| hit(engine, query, result));
        let cost =
            (engine == Engine::Exa).then(|| answer["costDollars"]["total"].as_f64()).flatten();
        Ok(Self {
            hits: hits.take(most).collect(),
            cost: cost
                .filter(|usd| (0.0..=MAX_COST_USD).contains(usd))
                .and_then(MicroUsd::from_f64),
        })
    }
}

fn hit(engine: Engine, query: &Query, result: &Value) -> Option<Hit> {
    let text = |names: &[&str]| {
        let mut found = names.iter().filter_map(|name| result[*name].as_str());
        found.find(|text| !text.trim().is_empty()).map(str::to_owned)
    };
    let url = result["url"].as_str()?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default();
    if !query.is_wanted(&host.to_ascii_lowercase()) {
        return None;
    }
    let (snippet, date): (&[&str], &[&str]) = match engine {
        Engine::Brave => (&["description"], &["page_age", "age"]),
        Engine::Exa => (&["text", "summary"], &["publishedDate"]),
        Engine::Searxng => (&["content"], &["publishedDate"]),
        Engine::Tavily => (&["content"], &["published_date"]),
    };
    let chars = usize::try_from(query.chars()).unwrap_or(usize::MAX);
    let highlight = || result["highlights"][0].as_str().map(str::to_owned);
    let snippet = text(snippet).or_else(highlight);
    Some(Hit {
        title: text(&["title"]),
        url: url.to_owned(),
        snippet: snippet.map(|snippet| snippet.chars().take(chars).collect()),
        date: text(date),
    })
}

/// What an engine says of its failure, without secrets; `None` when nothing can be shown.
pub fn failure(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let places =
        ["/error/message", "/error/detail", "/error", "/message", "/detail/error", "/detail"];
    let text = places.iter().find_map(|place| answer.pointer(place)?.as_str())?;
    redact(text)
}
