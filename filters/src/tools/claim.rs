//! What of a request the gateway must run itself, and what a workspace's policies make of it.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::doc::{Doc, list};
use super::{DEFAULT_ROUNDS, entries};
use crate::guardrails::Guardrail;
use crate::platform::tools::{CodeExecution, McpServer, WebSearch};
use crate::protocol::Request;
use crate::protocol::json;
use crate::rejection::Rejection;
use crate::validate::Faults;

pub(super) const CODE_ENTRY: &str = "otari_code_execution";
pub(super) const SEARCH_ENTRY: &str = "otari_web_search";
/// Most results of a search, and what there are when nobody says.
const MAX_RESULTS: u64 = 20;
const DEFAULT_RESULTS: u64 = 5;

/// Where in a body the fields stand that ask for tools.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Fields of the gateway that ask for something.
    pub(crate) fields: Vec<(&'static str, Range<usize>)>,
    /// The list of tools, whatever is in it.
    pub(crate) tools: Option<Range<usize>>,
}

/// What a request wants the gateway to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Servers that the request brings along, then those that its ids stand for. No empty `allowed_tools`.
    pub mcp: Vec<McpServer>,
    /// Ids of servers to be resolved: UUIDs in lower case, with hyphens.
    pub mcp_ids: Vec<String>,
    /// Code may be run.
    pub code: Option<CodeTool>,
    /// The web may be searched.
    pub search: Option<SearchTool>,
    /// What is to be checked.
    pub guardrails: Vec<Guardrail>,
    /// The line over the hints.
    pub header: Option<String>,
    /// Upstream calls of the loop, at most [`super::MAX_ROUNDS`].
    pub rounds: u32,
    /// Which entries of the list of tools are the gateway's.
    pub(super) claimed: Vec<usize>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            mcp: Vec::new(),
            mcp_ids: Vec::new(),
            code: None,
            search: None,
            guardrails: Vec::new(),
            header: None,
            rounds: DEFAULT_ROUNDS,
            claimed: Vec::new(),
        }
    }
}

/// The request's entry for running code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeTool {
    /// When the model should use it.
    pub purpose_hint: Option<String>,
}

/// The request's entry for searches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchTool {
    /// How many results, 1 to 20; `None`: the gateway's own setting.
    pub max_results: Option<u64>,
    /// Only results of these hosts and those below them; empty: all.
    pub allowed_domains: Vec<String>,
    /// No results of these hosts and those below them.
    pub blocked_domains: Vec<String>,
    /// When the model should use it.
    pub purpose_hint: Option<String>,
    /// Options for the search service, as they were given.
    pub provider_options: Map<String, Value>,
    /// The entry is a provider's own (`web_search_20250305`, …), which the gateway took over.
    pub is_native: bool,
    /// As it was given, for the workspace's policy.
    entry: Map<String, Value>,
}

/// Reads what `request`, which was read from `body`, wants the gateway to run; nothing for most.
///
/// `intercepts`: providers' own entries for searches are the gateway's too.
///
/// # Errors
/// `invalid_fields`, with every fault, though [`Request::read`] has found them before.
pub fn claim(request: &Request, body: &Bytes, intercepts: bool) -> Result<Wanted, Rejection> {
    let claims = &request.claims;
    let mut wanted = Wanted::default();
    let mut faults = Faults::default();
    for (name, range) in &claims.fields {
        let Some(raw) = body.get(range.clone()).and_then(|raw| serde_json::from_slice(raw).ok())
        else {
            continue;
        };
        wanted.read_field(name, raw, &mut faults);
    }
    faults.check()?;
    let tools = claims.tools.clone().and_then(|range| body.get(range));
    if let Some(tools) = tools.filter(|tools| mentions_ours(tools, intercepts)) {
        wanted.read_tools(tools, intercepts);
    }
    Ok(wanted)
}

/// Whether a list of tools may have an entry of ours.
fn mentions_ours(tools: &[u8], intercepts: bool) -> bool {
    memmem::find(tools, b"otari_").is_some()
        || (intercepts && memmem::find(tools, b"web_search").is_some())
}

impl Wanted {
    /// Whether there are rounds to be run; guardrails alone need none.
    pub fn needs_loop(&self) -> bool {
        !self.mcp.is_empty()
            || !self.mcp_ids.is_empty()
            || self.code.is_some()
            || self.search.is_some()
    }

    /// Adds the servers that the ids stood for.
    pub fn add_servers(&mut self, servers: Vec<McpServer>) {
        self.mcp.extend(servers.into_iter().map(|server| McpServer {
            allowed_tools: server.allowed_tools.filter(|tools| !tools.is_empty()),
            ..server
        }));
    }

    /// What the workspace says of searches; the request's own values win where it has any.
    pub fn merge_search(&mut self, policy: &WebSearch) {
        if let Some(search) = &mut self.search {
            let mut entry = search.entry.clone();
            policy.merge_into(&mut entry);
            *search = SearchTool { is_native: search.is_native, ..SearchTool::of(entry) };
        }
    }

    /// What the workspace says of running code.
    pub fn merge_code(&mut self, policy: &CodeExecution) {
        if let Some(code) = &mut self.code {
            self.rounds = policy.iterations(Some(self.rounds));
            if code.purpose_hint.is_none() {
                code.purpose_hint.clone_from(&policy.default_purpose_hint);
            }
        }
    }

    fn read_field(&mut self, name: &str, raw: &RawValue, faults: &mut Faults) {
        match name {
            "mcp_servers" => self.mcp = entries::servers(faults, raw),
            "mcp_server_ids" => {
                let ids: Vec<String> = serde_json::from_str(raw.get()).unwrap_or_default();
                self.mcp_ids = ids.iter().map(|id| canonical(id)).collect();
            }
            "guardrails" => self.guardrails = entries::guardrails(faults, raw),
            "tools_header" => self.header = json::text(raw),
            "max_tool_iterations" => {
                self.rounds = entries::rounds(faults, raw).unwrap_or(DEFAULT_ROUNDS);
            }
            _ => {}
        }
    }

    /// The first entry of each of the gateway's types; a provider's own one where there is none of ours.
    fn read_tools(&mut self, tools: &[u8], intercepts: bool) {
        let Ok(Some(items)) = serde_json::from_slice::<&RawValue>(tools).map(list) else { return };
        let kinds: Vec<Option<String>> =
            items.iter().map(|item| Doc::of(item).and_then(|tool| tool.text("type"))).collect();
        let first = |is_it: &dyn Fn(&str) -> bool| {
            kinds.iter().position(|kind| kind.as_deref().is_some_and(is_it))
        };
        let entry = |at: usize| serde_json::from_str(items[at].get()).unwrap_or_default();
        if let Some(at) = first(&|kind| kind == CODE_ENTRY) {
            let entry: Map<String, Value> = entry(at);
            self.code = Some(CodeTool { purpose_hint: text(&entry, "purpose_hint") });
            self.claimed.push(at);
        }
        let ours = first(&|kind| kind == SEARCH_ENTRY);
        let native = || if intercepts { first(&is_native_search) } else { None };
        if let Some(at) = ours.or_else(native) {
            let is_native = ours.is_none();
            self.search = Some(SearchTool { is_native, ..SearchTool::of(entry(at)) });
            self.claimed.push(at);
        }
    }
}

/// Whether an entry's type is a provider's own search: `web_search`, `web_search_preview`, each with a date or without.
pub(super) fn is_native_search(kind: &str) -> bool {
    let Some(rest) = kind.strip_prefix("web_search") else { return false };
    let date = rest.strip_prefix("_preview").unwrap_or(rest);
    let is_date = |date: &str| {
        date.starts_with(|c: char| c.is_ascii_digit())
            && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    date.is_empty() || date.strip_prefix('_').is_some_and(is_date)
}

/// Whether a `tool_choice` of this type means one of the entries above.
pub(super) fn owned_choice(kind: &str) -> Option<&'static str> {
    match kind {
        CODE_ENTRY => Some(super::CODE_EXECUTION),
        SEARCH_ENTRY => Some(super::WEB_SEARCH),
        kind if is_native_search(kind) => Some(super::WEB_SEARCH),
        _ => None,
    }
}

impl SearchTool {
    /// Reads an entry as leniently as the reference: what is of the wrong type is as good as absent.
    fn of(entry: Map<String, Value>) -> Self {
        // OpenAI's own entry has its domains one level deeper.
        let filters = entry.get("filters").and_then(Value::as_object);
        let domains = |name: &str| {
            let own = texts(entry.get(name));
            if own.is_empty() { texts(filters.and_then(|filters| filters.get(name))) } else { own }
        };
        let options = entry.get("provider_options").and_then(Value::as_object);
        Self {
            max_results: entry.get("max_results").and_then(Value::as_u64).filter(|most| *most > 0),
            allowed_domains: domains("allowed_domains"),
            blocked_domains: domains("blocked_domains"),
            purpose_hint: text(&entry, "purpose_hint"),
            provider_options: options.cloned().unwrap_or_default(),
            is_native: false,
            entry,
        }
    }

    /// How many results there may be. `configured`: where the request does not say.
    pub fn results(&self, configured: Option<u64>) -> usize {
        let asked = self.max_results.or(configured).unwrap_or(DEFAULT_RESULTS);
        // At most 20: it fits.
        usize::try_from(asked.clamp(1, MAX_RESULTS)).unwrap_or_default()
    }

    /// Whether results of this host are wanted: those of a blocked domain and below are not, and where domains are
    /// allowed only theirs are.
    pub fn admits(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_of = |domain: &String| {
            let domain = domain.trim().trim_matches('.').to_ascii_lowercase();
            !domain.is_empty()
                && host
                    .strip_suffix(&domain)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !self.blocked_domains.iter().any(is_of)
            && (self.allowed_domains.is_empty() || self.allowed_domains.iter().any(is_of))
    }
}

fn text(entry: &Map<String, Value>, name: &str) -> Option<String> {
    entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A UUID, in whichever of the usual forms, in the one that is sent on.
fn canonical(id: &str) -> String {
    let bare = id.strip_prefix("urn:uuid:").unwrap_or(id);
    let digits: String = bare.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = digits.to_ascii_lowercase();
    match (digits.get(..8), digits.get(8..12), digits.get(12..16), digits.get(16..20)) {
        (Some(a), Some(b), Some(c), Some(d)) => format!("{a}-{b}-{c}-{d}-{}", &digits[20..]),
        _ => digits,
    }
}

#[cfg(test)]
mod tests;
