//! What the gateway runs tools and checks with: `sandbox_*`, `web_search_*`, `guardrails_url`, `tools_header`, `mcp_*`.

use otari_filters::addresses::Rules;
use otari_filters::tools::Backends;

use super::layers::Fields;
use super::node::{Node, Value};
use super::problem::Report;
use super::{SearchTool, url};

/// Tools that the gateway runs, and checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// `tools_header`: the line over the hints about the gateway's tools.
    pub header: Option<String>,
    /// Which servers callers may name, of tools and of checks: `mcp_allow_*`.
    pub servers: Rules,
    /// What runs code; `None`: requests for it are refused.
    pub sandbox: Option<Sandbox>,
    /// `sandbox_purpose_hint`: when the model should run code.
    pub sandbox_hint: Option<String>,
    /// What searches; `None`: requests for it are refused.
    pub search: Option<SearchBackend>,
    /// How it searches.
    pub searching: Searching,
    /// `guardrails_url`: the service that checks, without a slash at its end.
    pub guardrails_url: Option<String>,
}

/// What runs code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// `sandbox_url`: a service, without a slash at its end.
    Service(String),
    /// `sandbox_local`: processes of this machine, for development.
    Local,
}

/// What the model's searches go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchBackend {
    /// `web_search_url`: what answers as SearXNG does, without a slash at its end.
    Searxng(String),
    /// `web_search_tool`: the entry of `search_tools` with this name.
    Tool(String),
}

/// How the model's searches are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searching {
    /// `web_search_engines`, with commas between them.
    pub engines: String,
    /// `web_search_max_results`, where a request does not say; `None`: 5.
    pub max_results: Option<u64>,
    /// `web_search_extract`: read the pages that were found.
    pub extracts: bool,
    /// `web_search_purpose_hint`: when the model should search.
    pub hint: Option<String>,
    /// `web_search_intercept`: the providers' own search entries are the gateway's too.
    pub intercepts: bool,
    /// Which pages are read: `web_search_allow_private_hosts`.
    pub pages: Rules,
}

impl Tools {
    /// What there is to run tools with. `server_ids`: somebody knows what ids of servers stand for.
    pub fn backends(&self, server_ids: bool) -> Backends {
        Backends { sandbox: self.sandbox.is_some(), search: self.search.is_some(), server_ids }
    }

    /// Whether the providers' own search entries are the gateway's too.
    pub fn intercepts(&self) -> bool {
        self.searching.intercepts && self.search.is_some()
    }
}

/// Reads all of them. `tools`: the entries of `search_tools`.
pub(super) fn read(fields: &Fields, tools: &[SearchTool], report: &mut Report) -> Tools {
    let private = fields.flag("mcp_allow_private_hosts", false, report);
    let loopback = fields.flag("mcp_allow_loopback", true, report);
    Tools {
        header: fields.words("tools_header", report),
        servers: Rules::servers(private, loopback),
        sandbox: sandbox(fields, report),
        sandbox_hint: fields.words("sandbox_purpose_hint", report),
        search: search(fields, tools, report),
        searching: Searching {
            engines: engines(fields, report),
            // More than a model can read at once.
            max_results: fields.some_whole(
                "web_search_max_results",
                1..=u64::from(u32::MAX),
                report,
            ),
            extracts: fields.flag("web_search_extract", true, report),
            hint: fields.words("web_search_purpose_hint", report),
            intercepts: fields.flag("web_search_intercept", false, report),
            pages: Rules::pages(fields.flag("web_search_allow_private_hosts", false, report)),
        },
        guardrails_url: service(fields, "guardrails_url", report),
    }
}

fn sandbox(fields: &Fields, report: &mut Report) -> Option<Sandbox> {
    let url = service(fields, "sandbox_url", report);
    let local = fields.flag("sandbox_local", false, report);
    match (url, local) {
        (Some(url), false) => Some(Sandbox::Service(url)),
        (Some(url), true) => {
            if let Some(node) = fields.get("sandbox_local") {
                node.wrong(report, "there is a sandbox_url too. Remove one of them.");
            }
            Some(Sandbox::Service(url))
        }
        (None, true) => Some(Sandbox::Local),
        (None, false) => None,
    }
}

fn search(fields: &Fields, tools: &[SearchTool], report: &mut Report) -> Option<SearchBackend> {
    let url = service(fields, "web_search_url", report).map(SearchBackend::Searxng);
    let Some(name) = fields.words("web_search_tool", report) else { return url };
    let Some(node) = fields.get("web_search_tool") else { return url };
    if url.is_some() {
        node.wrong(report, "there is a web_search_url too. Remove one of them.");
    } else if !tools.iter().any(|tool| tool.name == name) {
        node.wrong(report, "search_tools has no entry of this name. Add one.");
    }
    url.or(Some(SearchBackend::Tool(name)))
}

/// The engines that the reference asks when nobody says.
const ENGINES: &str = "duckduckgo,mojeek,qwant,wikipedia";

fn engines(fields: &Fields, report: &mut Report) -> String {
    let Some(node) = fields.get("web_search_engines") else { return ENGINES.to_owned() };
    let texts: Vec<&str> = match &node.value {
        Value::List(items) => items.iter().filter_map(|item: &Node| item.text(report)).collect(),
        _ => node.text(report).into_iter().flat_map(|text| text.split(',')).collect(),
    };
    let names: Vec<&str> =
        texts.into_iter().map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() { ENGINES.to_owned() } else { names.join(",") }
}

/// The address of a service of the operator's.
fn service(fields: &Fields, key: &str, report: &mut Report) -> Option<String> {
    let text = fields.words(key, report)?;
    match url::base(&text, "Put a proxy that adds it in front.") {
        Ok((base, _)) => Some(base),
        Err(what) => {
            fields.get(key)?.wrong(report, &what);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, Env, Sources, load};

    fn loaded(yaml: &str, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = [("OTARI_CONFIG_YAML", yaml)];
        let env = Env::from_pairs(own.iter().chain(more).copied());
        load(&Sources { env, ..Sources::default() })
    }

    fn tools(yaml: &str, more: &[(&str, &str)]) -> Tools {
        let config = loaded(yaml, more).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        config.tools
    }

    #[test]
    fn nothing_runs_unless_it_is_configured() {
        let tools = tools("{}", &[]);
        assert_eq!(tools.backends(false), Backends::default());
        assert_eq!(tools.servers, Rules::servers(false, true));
        assert_eq!(tools.searching.pages, Rules::pages(false));
        assert_eq!(tools.searching.engines, "duckduckgo,mojeek,qwant,wikipedia");
        assert!(tools.searching.extracts && !tools.intercepts());
    }

    #[test]
    fn keys_and_variables_say_what_there_is() {
        let yaml = "{sandbox_url: 'http://box:8080/', web_search_url: 'http://searx/', web_search_engines: \
                    [a, ' b '], web_search_max_results: 7, web_search_intercept: true, guardrails_url: \
                    'https://guard/v1/', tools_header: Use, mcp_allow_loopback: false}";
        let tools = tools(yaml, &[("GATEWAY_WEB_SEARCH_EXTRACT", "off")]);
        assert_eq!(tools.sandbox, Some(Sandbox::Service("http://box:8080".into())));
        assert_eq!(tools.search, Some(SearchBackend::Searxng("http://searx".into())));
        assert_eq!(
            (tools.searching.engines.as_str(), tools.searching.max_results),
            ("a,b", Some(7))
        );
        assert!(!tools.searching.extracts && tools.intercepts());
        assert_eq!(tools.guardrails_url.as_deref(), Some("https://guard/v1"));
        assert_eq!(tools.header.as_deref(), Some("Use"));
        assert_eq!(tools.servers, Rules::servers(false, false));
        let variables =
            [("OTARI_MCP_ALLOW_PRIVATE_HOSTS", "yes"), ("GATEWAY_SANDBOX_URL", "http://b")];
        let tools = super::tests::tools("{}", &variables);
        assert!(tools.servers.allow_private);
        assert_eq!(tools.sandbox, Some(Sandbox::Service("http://b".into())));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (yaml, want) in [
            ("{sandbox_url: box}", "sandbox_url: must be an absolute"),
            ("{sandbox_url: 'http://u:hunter2@b'}", "must not carry a user name"),
            ("{web_search_url: 'http://s?q=1'}", "must not have a query"),
            ("{sandbox_url: 'http://b', sandbox_local: true}", "there is a sandbox_url too"),
            ("{web_search_tool: exa}", "search_tools has no entry of this name"),
            ("{web_search_max_results: 0}", "web_search_max_results: expected a whole number"),
        ] {
            let error = loaded(yaml, &[]).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("hunter2"), "{yaml}: {error}");
        }
        let tools = tools("{web_search_tool: exa, search_tools: {exa: {api_key: k}}}", &[]);
        assert_eq!(tools.search, Some(SearchBackend::Tool("exa".into())));
    }
}
