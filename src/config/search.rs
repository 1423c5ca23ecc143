//! `search_tools:`, what `POST /v1/search` dispatches to.

use std::time::Duration;

use otari_filters::search::Engine;
use serde_json::{Map, Value};

use super::env::Env;
use super::layers::{Fields, warn_unknown};
use super::node::Node;
use super::problem::{Report, nearest};
use super::{Secret, url};

/// The keys that are read.
pub(super) const KEYS: &[&str] = &["provider", "api_key", "api_base", "timeout", "options"];

/// The longest wait for a search, in seconds.
const LONGEST_S: f64 = 600.0;

/// One entry of `search_tools:`.
#[derive(Clone, Debug)]
pub struct SearchTool {
    /// Its key in the map: the name in requests, prices and rows.
    pub name: String,
    /// `provider`, default the name.
    pub provider: Engine,
    /// `api_key`, else the engine's own variable.
    pub api_key: Option<Secret>,
    /// `api_base`, else the engine's own; no trailing slash. `None`: calls are refused.
    pub api_base: Option<String>,
    /// `timeout`, default 30 s: for a whole search.
    pub timeout: Duration,
    /// Further parameters of the engine.
    pub options: Map<String, Value>,
}

impl SearchTool {
    /// Whether it can be called at all.
    pub fn is_complete(&self) -> bool {
        self.api_base.is_some() && (self.api_key.is_some() || self.provider.is_keyless())
    }
}

pub(super) fn read(fields: &Fields, env: &Env, report: &mut Report) -> Vec<SearchTool> {
    let entries = fields.get("search_tools").map_or(&[][..], |node| node.entries(report));
    entries.iter().filter_map(|(name, node)| tool(name, node, env, report)).collect()
}

fn tool(name: &str, node: &Node, env: &Env, report: &mut Report) -> Option<SearchTool> {
    let entries = node.entries(report);
    warn_unknown(entries, KEYS, "ignored", report);
    let get = |key: &str| entries.iter().find(|(known, _)| known == key).map(|(_, node)| node);
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !is_name {
        let what = "a tool's name has letters, digits, '-', '_' and '.', 64 at most.";
        report.problem(&node.key_place, format!("{}: {what}", node.path));
        return None;
    }
    let provider = engine(name, node, get("provider"), report)?;
    let text = |key: &str, report: &mut Report| get(key).and_then(|node| node.words(report));
    let api_key = text("api_key", report).map(Secret::new).or_else(|| {
        provider.key_variable().and_then(|variable| env.filled(variable)).map(Secret::new)
    });
    if let (Some(key), Some(node)) = (&api_key, get("api_key"))
        && provider.credential(key).is_none()
    {
        node.wrong(report, "has characters that no header can carry. Copy it again.");
    }
    let api_base = match (text("api_base", report), get("api_base")) {
        (Some(base), Some(node)) => base_url(&base, node, report),
        _ => provider.base_url().map(str::to_owned),
    };
    let timeout = get("timeout").and_then(|node| node.number(true, LONGEST_S, report));
    let options = get("options").filter(|node| !node.entries(report).is_empty());
    let options = match options.and_then(Node::to_json) {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    // Longer than any engine takes that will still answer.
    let timeout = timeout.map_or(Duration::from_secs(30), Duration::from_secs_f64);
    let name = name.to_owned();
    let tool = SearchTool { name, provider, api_key, api_base, timeout, options };
    if !tool.is_complete() {
        let variable = provider.key_variable().map(|variable| format!(" or {variable}"));
        let cure = match &tool.api_base {
            None => "set api_base".to_owned(),
            Some(_) => format!("set api_key{}", variable.unwrap_or_default()),
        };
        node.warn(report, &format!("searches with it will be refused: {cure}."));
    }
    Some(tool)
}

fn engine(name: &str, node: &Node, given: Option<&Node>, report: &mut Report) -> Option<Engine> {
    let (text, place) = match given.and_then(|given| Some((given.text(report)?, given))) {
        Some((text, given)) => (text.trim(), given),
        None => (name, node),
    };
    let found = Engine::find(text);
    if found.is_none() {
        let names = Engine::ALL.map(Engine::as_str);
        let hint = nearest(text, names.iter().copied());
        let hint = hint.map(|name| format!(" Did you mean \"{name}\"?")).unwrap_or_default();
        place.wrong(report, &format!("provider must be one of {}.{hint}", names.join(", ")));
    }
    found
}

fn base_url(text: &str, node: &Node, report: &mut Report) -> Option<String> {
    match url::base(text, "Put the key under api_key.") {
        Err(what) => {
            node.wrong(report, &what);
            None
        }
        Ok((base, uri)) => {
            if url::is_exposed(&uri) {
                node.warn(report, "http sends queries and the key in clear. Use https.");
            }
            Some(base)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, Sources, load};

    fn loaded(yaml: &str, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = [("OTARI_CONFIG_YAML", yaml)];
        let env = Env::from_pairs(own.iter().chain(more).copied());
        load(&Sources { env, ..Sources::default() })
    }

    #[test]
    fn tools_are_read_with_their_defaults() {
        let yaml = "search_tools:\n  exa: {api_key: k}\n  web: {provider: tavily, timeout: 2.5, options: {topic: news}}\n  \
                    own: {provider: searxng, api_base: 'http://127.0.0.1:8888/'}\npricing:\n  tavily:web: \
                    {input_price_per_million: 1, output_price_per_million: 0}";
        let config = loaded(yaml, &[("TAVILY_API_KEY", "t")]).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let [exa, web, own] = &config.search_tools[..] else { panic!() };
        assert_eq!((exa.name.as_str(), exa.provider), ("exa", Engine::Exa));
        assert_eq!(exa.api_base.as_deref(), Some("https://api.exa.ai"));
        assert_eq!((exa.timeout, exa.options.len()), (Duration::from_secs(30), 0));
        assert_eq!(web.api_key.as_ref().map(Secret::expose), Some("t"));
        assert_eq!(
            (web.timeout, &web.options["topic"]),
            (Duration::from_millis(2500), &"news".into())
        );
        assert_eq!(own.api_base.as_deref(), Some("http://127.0.0.1:8888"));
        assert!(config.search_tools.iter().all(SearchTool::is_complete));
        assert_eq!(config.pricing.len(), 1, "a tool may have a price");
    }

    #[test]
    fn mistakes_are_named_and_what_is_missing_is_a_warning() {
        let config = loaded("search_tools: {exa: , own: {provider: searxng}}", &[]).unwrap();
        let warnings = config.warnings.join("\n");
        assert!(warnings.contains(
            "search_tools.exa: searches with it will be refused: set api_key or EXA_API_KEY"
        ));
        assert!(
            warnings.contains("search_tools.own: searches with it will be refused: set api_base"),
            "{warnings}"
        );
        assert!(!config.search_tools.iter().any(SearchTool::is_complete));
        for (yaml, want) in [
            ("{web: {api_key: k}}", "provider must be one of brave, exa, searxng, tavily."),
            ("{web: {provider: exxa}}", "Did you mean \"exa\"?"),
            ("{'a/b': {provider: exa}}", "a tool's name has letters"),
            ("{exa: {api_key: k, timeout: 0}}", "expected a number above 0"),
            ("{exa: {api_key: k, api_base: 'https://u:hunter2@h'}}", "must not carry a user name"),
            ("{exa: {api_key: k, api_base: 'https://h/?k=hunter2'}}", "must not have a query"),
            ("{exa: {api_key: \"hunter2\\n\\x01\"}}", "characters that no header can carry"),
            ("[exa]", "expected a mapping"),
        ] {
            let error = loaded(&format!("search_tools: {yaml}"), &[]).unwrap_err().to_string();
            assert!(error.contains(want), "{yaml}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
