//! What a workspace says of the gateway's own tools, as the platform writes it, and how it binds a request.

use serde_json::{Map, Value};

use super::{Malformed, unavailable};
use crate::rejection::{Code, Rejection};
use crate::secret::Secret;

/// Rounds of a tool loop when the request does not say.
const DEFAULT_ITERATIONS: u32 = 10;
/// The most of them, whoever says what.
const MAX_ITERATIONS: u32 = 25;

/// A tool server that the platform keeps for the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpServer {
    /// Its name among the request's servers.
    pub name: String,
    /// Where it is. Not checked: the same rules hold as for one that the request brings along.
    pub url: String,
    /// For its `Authorization` header.
    pub authorization_token: Option<Secret>,
    /// When the model should use it.
    pub purpose_hint: Option<String>,
    /// Which of its tools there are; `None`: all.
    pub allowed_tools: Option<Vec<String>>,
}

/// Reads the servers out of an answer with status 200. None when it lists none.
///
/// # Errors
/// Which part is missing or wrong.
pub fn mcp_servers(body: &[u8]) -> Result<Vec<McpServer>, Malformed> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Malformed("no JSON"))?;
    let answer = value.as_object().ok_or(Malformed("not an object"))?;
    match answer.get("servers") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(servers)) => servers.iter().map(mcp_server).collect(),
        Some(_) => Err(Malformed("servers")),
    }
}

fn mcp_server(value: &Value) -> Result<McpServer, Malformed> {
    let fields = value.as_object().ok_or(Malformed("servers[]"))?;
    let optional = |key: &'static str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Malformed(key)),
    };
    let required = |key: &'static str| optional(key)?.ok_or(Malformed(key));
    let wrong = Malformed("allowed_tools");
    let allowed_tools = match fields.get("allowed_tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => {
            let names = tools.iter().map(|tool| Ok(tool.as_str().ok_or(wrong)?.to_owned()));
            Some(names.collect::<Result<_, _>>()?)
        }
        Some(_) => return Err(wrong),
    };
    Ok(McpServer {
        name: required("name")?,
        url: required("url")?,
        authorization_token: optional("authorization_token")?.map(Secret::new),
        purpose_hint: optional("purpose_hint")?,
        allowed_tools,
    })
}

/// What a workspace says of searches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebSearch(Map<String, Value>);

impl WebSearch {
    /// Reads an answer with status 200.
    ///
    /// # Errors
    /// `platform_forbidden` when the workspace has no searches, `platform_unavailable` when it is no JSON.
    pub fn read(body: &[u8]) -> Result<Self, Rejection> {
        let said: Value = serde_json::from_slice(body)
            .map_err(|_| unavailable("the answer about web search is no JSON"))?;
        let policy = match said {
            Value::Object(policy) => policy,
            _ => Map::new(),
        };
        if !policy.get("enabled").is_some_and(is_truthy) {
            let message = "web search is not enabled for this workspace";
            return Err(Rejection::new(Code::PlatformForbidden, message));
        }
        Ok(Self(policy))
    }

    /// Adds what the workspace says to the request's own tool entry. The request's values win where it has any, but an
    /// empty list or a zero is none: it cannot lift what the workspace set.
    pub fn merge_into(&self, tool: &mut Map<String, Value>) {
        for key in ["max_results", "allowed_domains", "blocked_domains", "purpose_hint"] {
            let own = tool.get(key).is_some_and(is_truthy);
            if let (false, Some(value)) = (own, self.0.get(key).filter(|value| !value.is_null())) {
                tool.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(Value::Object(defaults)) = self.0.get("provider_options") {
            let mut merged = defaults.clone();
            if let Some(Value::Object(own)) = tool.get("provider_options") {
                merged.extend(own.clone());
            }
            tool.insert("provider_options".to_owned(), Value::Object(merged));
        }
    }
}

/// What a workspace says of running code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeExecution {
    /// When the model should use it, unless the request says so.
    pub default_purpose_hint: Option<String>,
    /// The most rounds of the tool loop.
    pub max_iterations: Option<u32>,
}

impl CodeExecution {
    /// Reads an answer with status 200.
    ///
    /// # Errors
    /// `platform_forbidden` when the workspace runs no code, `platform_unavailable` when the answer does not say.
    pub fn read(body: &[u8]) -> Result<Self, Rejection> {
        let said: Value = serde_json::from_slice(body)
            .map_err(|_| unavailable("the answer about code execution is no JSON"))?;
        match said.get("enabled").and_then(Value::as_bool) {
            None => {
                let message = "Authorization service returned a malformed code-execution policy";
                return Err(Rejection::new(Code::PlatformUnavailable, message));
            }
            Some(false) => {
                let message = "code execution is not enabled for this workspace";
                return Err(Rejection::new(Code::PlatformForbidden, message));
            }
            Some(true) => {}
        }
        let hint = said.get("default_purpose_hint").and_then(Value::as_str);
        let rounds = said.get("max_iterations").and_then(Value::as_u64).filter(|n| *n > 0);
        Ok(Self {
            default_purpose_hint: hint.filter(|hint| !hint.is_empty()).map(str::to_owned),
            max_iterations: rounds.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        })
    }

    /// How many rounds a tool loop may have. `asked`: by the request.
    pub fn iterations(&self, asked: Option<u32>) -> u32 {
        let own = asked.unwrap_or(DEFAULT_ITERATIONS).min(MAX_ITERATIONS);
        self.max_iterations.map_or(own, |most| own.min(most))
    }
}

/// Truth as the reference sees it: not absent, null, false, zero or empty.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_read_and_their_tokens_not_printed() {
        let body = json!({"servers": [
            {"id": 1, "name": "a", "url": "https://a.example/mcp"},
            {"name": "b", "url": "https://b.example", "authorization_token": "hush", "purpose_hint": "for b",
             "allowed_tools": ["x"]}]});
        let servers = mcp_servers(body.to_string().as_bytes()).unwrap();
        assert_eq!((servers[0].name.as_str(), &servers[0].allowed_tools), ("a", &None));
        assert_eq!(servers[1].allowed_tools.as_deref(), Some(&["x".to_owned()][..]));
        assert!(!format!("{servers:?}").contains("hush"));
        assert_eq!(mcp_servers(b"{}").unwrap(), []);
        for wrong in [json!([]), json!({"servers": 1}), json!({"servers": [{"name": "a"}]})] {
            assert!(mcp_servers(wrong.to_string().as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_search_needs_the_workspaces_consent() {
        for off in ["[]", "null", "{}", r#"{"enabled":false}"#, r#"{"enabled":0}"#, r#""x""#] {
            let refused = WebSearch::read(off.as_bytes()).unwrap_err();
            assert_eq!(refused.code.status().as_u16(), 403, "{off}");
            assert_eq!(refused.message, "web search is not enabled for this workspace");
        }
        assert_eq!(WebSearch::read(b"<").unwrap_err().code, Code::PlatformUnavailable);
        assert!(WebSearch::read(br#"{"enabled":1}"#).is_ok());
    }

    #[test]
    fn a_request_cannot_lift_what_the_workspace_set() {
        let body = json!({"enabled": true, "max_results": 5, "purpose_hint": null, "allowed_domains": ["a.example"],
            "blocked_domains": ["b.example"], "provider_options": {"depth": 1, "lang": "en"}});
        let policy = WebSearch::read(body.to_string().as_bytes()).unwrap();
        let mut tool = json!({"allowed_domains": [], "max_results": 3, "purpose_hint": "",
            "provider_options": {"depth": 2}});
        policy.merge_into(tool.as_object_mut().unwrap());
        assert_eq!(
            tool,
            json!({"allowed_domains": ["a.example"], "max_results": 3, "purpose_hint": "",
                "blocked_domains": ["b.example"], "provider_options": {"depth": 2, "lang": "en"}})
        );
        let mut other = json!({"provider_options": [1]});
        policy.merge_into(other.as_object_mut().unwrap());
        assert_eq!(other["provider_options"], json!({"depth": 1, "lang": "en"}));
    }

    #[test]
    fn running_code_needs_a_clear_word() {
        for unclear in ["{}", "[]", "3", r#"{"enabled":"true"}"#, r#"{"enabled":1}"#] {
            let refused = CodeExecution::read(unclear.as_bytes()).unwrap_err();
            assert_eq!(refused.code.status().as_u16(), 502, "{unclear}");
            assert_eq!(
                refused.message,
                "Authorization service returned a malformed code-execution policy"
            );
        }
        let refused = CodeExecution::read(br#"{"enabled":false}"#).unwrap_err();
        assert_eq!(refused.message, "code execution is not enabled for this workspace");
        let read = |rounds: Value| {
            let body =
                json!({"enabled": true, "max_iterations": rounds, "default_purpose_hint": ""});
            CodeExecution::read(body.to_string().as_bytes()).unwrap()
        };
        assert_eq!(read(json!(4)).default_purpose_hint, None);
        let table = [
            (json!(4), None, 4),
            (json!(4), Some(2), 2),
            (json!(100), Some(100), 25),
            (json!(true), None, 10),
            (json!(0), None, 10),
            (json!(-1), Some(30), 25),
            (json!(2.5), Some(7), 7),
        ];
        for (rounds, asked, expected) in table {
            assert_eq!(read(rounds.clone()).iterations(asked), expected, "{rounds} {asked:?}");
        }
    }
}
