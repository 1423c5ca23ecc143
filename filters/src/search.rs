//! Web search: what each engine is asked, and what its answer says.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};

use crate::providers::list::escaped;
use crate::rejection::{Code, Rejection};
use crate::secret::Secret;
use crate::validate::{Bounds, Field, Fields, Kind};

mod answer;
#[cfg(test)]
mod tests;

pub use answer::{Found, Hit, NotResults, failure};

/// Results that are asked for when the caller does not say how many.
const DEFAULT_RESULTS: u32 = 10;
/// Longest query, in characters.
const MAX_QUERY: usize = 32_768;
/// Domains that one request may name.
const MAX_DOMAINS: usize = 20;
/// Characters of a page, where the caller does not say how much of it: a passage to judge it by.
const DEFAULT_CHARS: u64 = 2_000;
/// Characters that are taken for a token, as for budgets.
const CHARS_PER_TOKEN: u64 = 4;

/// What searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Brave Search. <https://api-dashboard.search.brave.com/app/documentation/web-search> (2026-11-23).
    Brave,
    /// Exa. <https://docs.exa.ai/reference/search> (2026-11-23).
    Exa,
    /// A SearXNG of the operator's. <https://docs.searxng.org/dev/search_api.html> (2026-11-23).
    Searxng,
    /// Tavily. <https://docs.tavily.com/documentation/api-reference/endpoint/search> (2026-11-23).
    Tavily,
}

impl Engine {
    /// All of them, by name.
    pub const ALL: [Self; 4] = [Self::Brave, Self::Exa, Self::Searxng, Self::Tavily];

    /// As `provider` names it, and the first half of the name of its price.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brave => "brave",
            Self::Exa => "exa",
            Self::Searxng => "searxng",
            Self::Tavily => "tavily",
        }
    }

    /// The one of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.as_str() == name)
    }

    /// Where it is; `None`: the operator must say.
    pub fn base_url(self) -> Option<&'static str> {
        match self {
            Self::Brave => Some("https://api.search.brave.com/res/v1"),
            Self::Exa => Some("https://api.exa.ai"),
            Self::Searxng => None,
            Self::Tavily => Some("https://api.tavily.com"),
        }
    }

    /// The variable that may hold its key.
    pub fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Brave => Some("BRAVE_API_KEY"),
            Self::Exa => Some("EXA_API_KEY"),
            Self::Searxng => None,
            Self::Tavily => Some("TAVILY_API_KEY"),
        }
    }

    /// Whether it answers without a key.
    pub fn is_keyless(self) -> bool {
        self == Self::Searxng
    }

    /// The header in which its key goes; `None` when a header cannot hold it.
    pub fn credential(self, key: &Secret) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::Brave => ("x-subscription-token", Cow::Borrowed(key.expose())),
            Self::Exa => ("x-api-key", Cow::Borrowed(key.expose())),
            Self::Searxng => ("x-gateway-token", Cow::Borrowed(key.expose())),
            Self::Tavily => ("authorization", Cow::Owned(format!("Bearer {}", key.expose()))),
        };
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_static(name), value))
    }
}

const RESULTS: Bounds<i64> = Bounds { at_least: Some(1), above: None, at_most: Some(20) };
const TOKENS: Bounds<i64> = Bounds { at_least: Some(1), above: None, at_most: Some(1_000_000) };

/// The body of a request.
pub static FIELDS: [Field; 7] = [
    Field::new("query", Kind::Bounded(1, MAX_QUERY), "What to search for").required(),
    Field::new(
        "search_tool_name",
        Kind::Text,
        "Which of the configured tools; one in the path wins",
    ),
    Field::new("max_results", Kind::Whole(RESULTS), "Results at most; absent: 10"),
    Field::new(
        "search_domain_filter",
        Kind::Texts,
        "Domains that results must be of; with `-` in front: must not be of; 20 at most",
    ),
    Field::new("country", Kind::Bounded(2, 2), "Where to search from, in two letters"),
    Field::new("max_tokens_per_page", Kind::Whole(TOKENS), "Tokens of a result's text, about"),
    Field::new("user", Kind::Text, "Who pays, for a master key"),
];

/// A request for a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// What to search for.
    pub text: String,
    /// The tool that the body names.
    pub tool: Option<String>,
    /// Whom the body names.
    pub user: Option<String>,
    max_results: Option<u32>,
    include: Vec<String>,
    exclude: Vec<String>,
    country: Option<String>,
    max_tokens: Option<u32>,
}

impl Query {
    /// Reads a body.
    ///
    /// # Errors
    /// `invalid_fields`, naming all that is wrong.
    pub fn read(body: &Map<String, Value>) -> Result<Self, Rejection> {
        let mut read = Fields::new("body", body, &FIELDS);
        let text = read.required_string("query");
        if read.has("query") && read.faults.is_empty() {
            length(&mut read, "query", &text, 1, MAX_QUERY);
        }
        let tool = read.string("search_tool_name");
        let max_results = read.integer("max_results", RESULTS);
        let (include, exclude) = domains(&mut read);
        let country = read.string("country");
        if let Some(country) = &country {
            length(&mut read, "country", country, 2, 2);
        }
        let max_tokens = read.integer("max_tokens_per_page", TOKENS);
        let user = read.string("user").filter(|user| !user.is_empty());
        read.faults.check()?;
        let small = |whole: Option<i64>| whole.and_then(|whole| u32::try_from(whole).ok());
        let country = country.map(|country| country.to_ascii_uppercase());
        if country.as_deref().is_some_and(|code| !code.bytes().all(|b| b.is_ascii_uppercase())) {
            let message = "country must be a code of two letters, such as DE";
            return Err(Rejection::new(Code::InvalidValue, message));
        }
        Ok(Self {
            text,
            tool,
            user,
            max_results: small(max_results),
            include,
            exclude,
            country,
            max_tokens: small(max_tokens),
        })
    }

    fn results(&self) -> u32 {
        self.max_results.unwrap_or(DEFAULT_RESULTS)
    }

    /// Characters of a result's text.
    fn chars(&self) -> u64 {
        self.max_tokens.map_or(DEFAULT_CHARS, |tokens| u64::from(tokens) * CHARS_PER_TOKEN)
    }

    /// Whether an address is of the domains that are asked for.
    fn is_wanted(&self, host: &str) -> bool {
        let is_of = |domain: &String| {
            let domain = domain.split('/').next().unwrap_or(domain).trim_start_matches("*.");
            host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
        };
        (self.include.is_empty() || self.include.iter().any(is_of))
            && !self.exclude.iter().any(is_of)
    }

    /// The text with the domains in it, for engines that know them in no other way.
    fn with_sites(&self) -> String {
        let mut text = self.text.clone();
        if !self.include.is_empty() {
            let sites: Vec<String> =
                self.include.iter().map(|domain| format!("site:{domain}")).collect();
            let sites = sites.join(" OR ");
            text +=
                &if self.include.len() == 1 { format!(" {sites}") } else { format!(" ({sites})") };
        }
        self.exclude.iter().for_each(|domain| text += &format!(" -site:{domain}"));
        text
    }
}

fn length(read: &mut Fields<'_>, name: &'static str, text: &str, least: usize, most: usize) {
    let chars = text.chars().count();
    let unit = |n: usize| if n == 1 { "character" } else { "characters" };
    if chars < least {
        let message = format!("String should have at least {least} {}", unit(least));
        read.wrong(name, "string_too_short", &message, json!({"min_length": least}));
    } else if chars > most {
        let message = format!("String should have at most {most} {}", unit(most));
        read.wrong(name, "string_too_long", &message, json!({"max_length": most}));
    }
}

/// The domains to include, and those to leave out.
fn domains(read: &mut Fields<'_>) -> (Vec<String>, Vec<String>) {
    const NAME: &str = "search_domain_filter";
    let (mut include, mut exclude) = (Vec::new(), Vec::new());
    let items = match read.get(NAME) {
        None => return (include, exclude),
        Some(Value::Array(items)) => items,
        Some(_) => {
            read.wrong(NAME, "list_type", "Input should be a valid list", Value::Null);
            return (include, exclude);
        }
    };
    if items.len() > MAX_DOMAINS {
        let message = format!(
            "List should have at most {MAX_DOMAINS} items after validation, not {}",
            items.len()
        );
        read.wrong(NAME, "too_long", &message, json!({"max_length": MAX_DOMAINS}));
        return (include, exclude);
    }
    for (at, item) in items.iter().enumerate() {
        let [root, name] = read.loc(NAME);
        let place = [root, name, at.into()];
        let Some(text) = item.as_str() else {
            let message = "Input should be a valid string";
            read.faults.add("string_type", &place, message, item.clone(), Value::Null);
            continue;
        };
        let (list, domain) = match text.strip_prefix('-') {
            Some(domain) => (&mut exclude, domain),
            None => (&mut include, text),
        };
        let domain = domain.trim().to_ascii_lowercase();
        // It may come to stand in the query.
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/*".contains(&b);
        if (1..=253).contains(&domain.len()) && domain.bytes().all(is_plain) {
            list.push(domain);
        } else {
            let message = "Value error, must be a domain such as example.com, or -example.com";
            read.faults.add("value_error", &place, message, item.clone(), json!({"error": {}}));
        }
    }
    (include, exclude)
}

/// What an engine is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: Method,
    /// Below the engine's base, which it contains.
    pub path_and_query: PathAndQuery,
    /// JSON, or empty.
    pub body: Bytes,
}

/// What `engine` is sent for a query. `base_path`: of its base URL, without a slash at its end. `options`: the
/// operator's own parameters; they do not take the place of the caller's.
///
/// `None` when the base's path cannot stand in a request.
pub fn request(
    engine: Engine,
    base_path: &str,
    query: &Query,
    options: &Map<String, Value>,
) -> Option<Request> {
    match engine {
        Engine::Exa => post(base_path, exa(query), options),
        Engine::Tavily => {
            let body = json!({"query": query.text, "max_results": query.results(),
                "include_domains": query.include, "exclude_domains": query.exclude});
            post(base_path, body, options)
        }
        Engine::Brave => {
            let count = query.results().to_string();
            let mut pairs = vec![("q", query.with_sites()), ("count", count)];
            pairs.extend(query.country.clone().map(|country| ("country", country)));
            get(&format!("{base_path}/web/search"), pairs, options)
        }
        Engine::Searxng => {
            let pairs = vec![("q", query.with_sites()), ("format", "json".to_owned())];
            get(&format!("{base_path}/search"), pairs, options)
        }
    }
}

fn exa(query: &Query) -> Value {
    let mut body = json!({"query": query.text, "numResults": query.results(),
        "contents": {"text": {"maxCharacters": query.chars()}}});
    for (name, domains) in [("includeDomains", &query.include), ("excludeDomains", &query.exclude)]
    {
        if !domains.is_empty() {
            body[name] = json!(domains);
        }
    }
    if let Some(country) = &query.country {
        body["userLocation"] = json!(country);
    }
    body
}

fn post(base_path: &str, mut body: Value, options: &Map<String, Value>) -> Option<Request> {
    for (name, value) in options {
        // Such as `type` and `category`; how much of a page is the operator's to say where the caller does not.
        if body.get(name).is_none() {
            body[name.as_str()] = value.clone();
        }
    }
    Some(Request {
        method: Method::POST,
        path_and_query: format!("{base_path}/search").parse().ok()?,
        body: body.to_string().into(),
    })
}

fn get(path: &str, pairs: Vec<(&str, String)>, options: &Map<String, Value>) -> Option<Request> {
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&escaped(name));
        query.push('=');
        query.push_str(&escaped(value));
    };
    pairs.iter().for_each(|(name, value)| add(name, value));
    for (name, value) in options {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => continue,
        };
        if !pairs.iter().any(|(taken, _)| taken == name) {
            add(name, &text);
        }
    }
    Some(Request {
        method: Method::GET,
        path_and_query: format!("{path}{query}").parse().ok()?,
        body: Bytes::new(),
    })
}
