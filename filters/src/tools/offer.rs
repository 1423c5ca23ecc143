//! What the model is offered: the gateway's tools in the caller's format, and a word on what each is good for.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::claim::{CODE_ENTRY, SEARCH_ENTRY, owned_choice};
use super::doc::{Doc, Edits, list_of, quoted};
use super::{CODE_EXECUTION, CodeTool, McpServer, Owned, SearchTool, WEB_SEARCH, Wanted};

/// The line over the hints when nobody has one.
const HEADER: &str = "The following tools are run for you by the gateway. Use them when they help:";
const CODE_HINT: &str = "run Python code in a sandbox, for calculations, data and checks";
const SEARCH_HINT: &str = "search the web, for what is recent or that you are not sure of";

/// A tool that the gateway runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDef {
    /// As the model calls it. Used as it is.
    pub name: String,
    /// What it does; may be empty.
    pub description: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

/// A word to the model on when to use a tool, or a server's tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The tool's name, or the server's.
    pub name: String,
    /// When to use it.
    pub hint: String,
}

/// What one request offers the model beside its own tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// The gateway's tools, no two of a name.
    pub tools: Vec<ToolDef>,
    /// Words on them.
    pub hints: Vec<Hint>,
    /// The configured line over the hints; the request's own wins.
    pub header: Option<String>,
}

/// Whose a tool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The server's place in the list.
    pub server: usize,
    /// What the server calls it.
    pub tool: String,
}

/// The longest name that every provider takes.
const MAX_NAME: usize = 64;

/// A tool's name with its server's in front, in the characters that every provider takes.
fn spaced(server: &str, tool: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    let plain = |char: char| if is_plain(char) { char } else { '_' };
    let room = MAX_NAME.saturating_sub(tool.chars().count() + 2).max(1);
    let server: String = server.chars().take(room).map(plain).collect();
    format!("{server}__{tool}")
}

/// A tool of the gateway's own, for who asks what there is.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnTool {
    /// The `type` of the entry that asks for it.
    pub entry: &'static str,
    /// Further types that are taken for it; the providers' own may have a date behind them.
    pub also: &'static [&'static str],
    /// What the model is offered for it.
    pub offered: ToolDef,
}

/// The tools that need no server of the caller's: searching, running code. `intercepts`: providers' own entries for searches
/// are the gateway's too.
pub fn own(intercepts: bool) -> [OwnTool; 2] {
    let native: &[&str] = if intercepts { &["web_search", "web_search_preview"] } else { &[] };
    [
        OwnTool { entry: SEARCH_ENTRY, also: native, offered: searching() },
        OwnTool { entry: CODE_ENTRY, also: &[], offered: running() },
    ]
}

fn running() -> ToolDef {
    let about = "Run Python code in a sandbox and read what it prints. Files and variables stay within \
         one conversation turn.";
    let parameters = json!({"type": "object", "properties": {"code": {"type": "string",
        "description": "Python source; print what you want to see"}}, "required": ["code"]});
    ToolDef::new(CODE_EXECUTION, Some(about.to_owned()), parameters)
}

fn searching() -> ToolDef {
    let about = "Search the web. Returns titles, addresses and text of the best results.";
    let parameters = json!({"type": "object", "properties": {"query": {"type": "string",
        "description": "What to search for"}}, "required": ["query"]});
    ToolDef::new(WEB_SEARCH, Some(about.to_owned()), parameters)
}

impl ToolDef {
    /// A tool as a server describes it. Without a schema it has no arguments.
    pub fn new(name: impl Into<String>, description: Option<String>, parameters: Value) -> Self {
        let parameters = match parameters {
            Value::Object(schema) => Value::Object(schema),
            _ => json!({"type": "object", "properties": {}}),
        };
        Self { name: name.into(), description: description.unwrap_or_default(), parameters }
    }
}

impl Offer {
    /// Running code. `configured`: the hint where the request has none.
    pub fn code(wanted: &CodeTool, configured: Option<&str>) -> Self {
        let hint = wanted.purpose_hint.as_deref().or(configured).unwrap_or(CODE_HINT);
        Self::one(running(), hint)
    }

    /// Searching the web. `configured`: the hint where the request has none.
    pub fn search(wanted: &SearchTool, configured: Option<&str>) -> Self {
        let hint = wanted.purpose_hint.as_deref().or(configured).unwrap_or(SEARCH_HINT);
        Self::one(searching(), hint)
    }

    /// The tools of MCP servers, those of the first server first, and for each name whose it is. A tool has its own name;
    /// a later one of the same name has its server's in front, and is not offered when that is no name of its own either.
    /// What a server's `allowed_tools` does not name is not offered.
    pub fn of_servers(servers: &[(McpServer, Vec<ToolDef>)]) -> (Self, BTreeMap<String, Owner>) {
        let mut offer = Self::default();
        let mut owners = BTreeMap::new();
        for (at, (server, tools)) in servers.iter().enumerate() {
            let is_allowed = |tool: &&ToolDef| match &server.allowed_tools {
                Some(names) if !names.is_empty() => names.contains(&tool.name),
                _ => true,
            };
            for tool in tools.iter().filter(is_allowed) {
                let names = [tool.name.clone(), spaced(&server.name, &tool.name)];
                if let Some(name) = names.into_iter().find(|name| !owners.contains_key(name)) {
                    owners.insert(name.clone(), Owner { server: at, tool: tool.name.clone() });
                    offer.tools.push(ToolDef { name, ..tool.clone() });
                }
            }
            if let Some(hint) = server.purpose_hint.as_ref().filter(|hint| !hint.is_empty()) {
                offer.hints.push(Hint { name: server.name.clone(), hint: hint.clone() });
            }
        }
        (offer, owners)
    }

    fn one(tool: ToolDef, hint: &str) -> Self {
        let hint = Hint { name: tool.name.clone(), hint: hint.to_owned() };
        Self { tools: vec![tool], hints: vec![hint], header: None }
    }

    /// The names of the tools.
    pub fn owned(&self) -> Owned {
        self.tools.iter().map(|tool| tool.name.clone()).collect()
    }

    /// The hints as one text; nothing when there are none.
    pub(super) fn block(&self, wanted: &Wanted) -> Option<String> {
        if self.hints.is_empty() {
            return None;
        }
        let own = wanted.header.as_ref().filter(|header| !header.is_empty());
        let configured = self.header.as_ref().filter(|header| !header.is_empty());
        let mut block = own.or(configured).map_or(HEADER, String::as_str).to_owned();
        for Hint { name, hint } in &self.hints {
            block.push_str(&format!("\n- {name}: {hint}"));
        }
        Some(block)
    }
}

/// How a format writes tools.
pub(super) struct Shape {
    /// The name in an entry of the list.
    pub(super) name: fn(&Doc<'_>) -> Option<String>,
    /// An entry of the list.
    pub(super) tool: fn(&ToolDef) -> Value,
    /// The choice that forces a tool.
    pub(super) choice: fn(&str) -> Value,
}

/// Puts the gateway's tools behind the caller's own, without the entries that stood for them. Where the caller has a
/// tool with the name of one of the gateway's, its calls are the gateway's, so the gateway's definition stands alone:
/// no provider takes two.
pub(super) fn offer_tools(
    doc: &Doc<'_>,
    edits: &mut Edits<'_>,
    wanted: &Wanted,
    offer: &Offer,
    shape: &Shape,
) {
    let owned = offer.owned();
    let old = doc.list("tools").unwrap_or_default();
    let is_kept = |(at, item): &(usize, &RawValue)| {
        let name = Doc::of(item).and_then(|tool| (shape.name)(&tool));
        !wanted.claimed.contains(at) && !name.is_some_and(|name| owned.has(&name))
    };
    let mut items: Vec<String> = Vec::with_capacity(old.len() + offer.tools.len());
    items.extend(
        old.iter().copied().enumerate().filter(is_kept).map(|(_, item)| item.get().to_owned()),
    );
    let is_same = items.len() == old.len() && offer.tools.is_empty();
    items.extend(offer.tools.iter().map(|tool| (shape.tool)(tool).to_string()));
    match doc.raw("tools") {
        _ if is_same => {}
        Some(raw) if items.is_empty() => edits.remove(raw),
        _ => edits.set(None, doc, "tools", &list_of(items.iter().map(String::as_str))),
    }
    let choice = doc.doc("tool_choice").and_then(|choice| choice.text("type"));
    if let Some(name) = choice.as_deref().and_then(owned_choice).filter(|name| owned.has(name))
        && let Some(raw) = doc.get("tool_choice")
    {
        edits.replace(raw, (shape.choice)(name).to_string());
    }
}

/// A text with `more` at its end or its beginning, an empty line between them.
pub(super) fn joined(raw: &RawValue, more: &str, is_behind: bool) -> String {
    let escaped = quoted(more);
    let more = &escaped[1..escaped.len() - 1];
    let old = raw.get().get(1..raw.get().len() - 1).unwrap_or_default();
    match (old.is_empty(), is_behind) {
        (true, _) => escaped,
        (false, true) => format!("\"{old}\\n\\n{more}\""),
        (false, false) => format!("\"{more}\\n\\n{old}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_server_with_a_name_has_it() {
        let server = |name: &str, allowed: Option<&[&str]>| McpServer {
            name: name.into(),
            url: "https://a.example".into(),
            authorization_token: None,
            purpose_hint: (name == "b").then(|| "for b".into()),
            allowed_tools: allowed.map(|names| names.iter().map(|n| (*n).to_owned()).collect()),
        };
        let tool = |name: &str, about: &str| ToolDef::new(name, Some(about.into()), Value::Null);
        let listed = [
            (server("a", Some(&["x", "z"])), vec![tool("x", "a's"), tool("y", "a's")]),
            (server("b", Some(&[])), vec![tool("x", "b's"), tool("y", "b's"), tool("y", "again")]),
        ];
        let (offer, owners) = Offer::of_servers(&listed);
        let names: Vec<_> = offer.tools.iter().map(|t| (&*t.name, &*t.description)).collect();
        assert_eq!(names, [("x", "a's"), ("b__x", "b's"), ("y", "b's"), ("b__y", "again")]);
        let owner = |server, tool: &str| Owner { server, tool: tool.to_owned() };
        assert_eq!(owners["x"], owner(0, "x"));
        assert_eq!(owners["b__x"], owner(1, "x"));
        assert_eq!(owners["y"], owner(1, "y"));
        assert_eq!(offer.hints, [Hint { name: "b".into(), hint: "for b".into() }]);
        assert_eq!(offer.tools[0].parameters, json!({"type": "object", "properties": {}}));
    }

    #[test]
    fn a_name_with_its_server_fits_every_provider() {
        assert_eq!(spaced("my server!", "x"), "my_server___x");
        assert_eq!(spaced(&"s".repeat(100), "search").len(), MAX_NAME);
        assert_eq!(spaced("s", &"t".repeat(70)).len(), 73, "a name that fits nowhere stays");
    }

    #[test]
    fn the_requests_own_header_and_hint_win() {
        let search = SearchTool::default();
        let offer = Offer { header: Some("Ours:".into()), ..Offer::search(&search, Some("often")) };
        let block = offer.block(&Wanted::default()).unwrap();
        assert_eq!(block, "Ours:\n- web_search: often");
        let wanted = Wanted { header: Some("Mine".into()), ..Wanted::default() };
        assert_eq!(offer.block(&wanted).unwrap(), "Mine\n- web_search: often");
        let hint = CodeTool { purpose_hint: Some("never".into()) };
        let block = Offer::code(&hint, Some("often")).block(&Wanted::default()).unwrap();
        assert_eq!(block, format!("{HEADER}\n- code_execution: never"));
        assert_eq!(Offer::default().block(&wanted), None);
    }
}
