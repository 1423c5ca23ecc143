//! What a loop is refused for: tools that are not there, tools that do not go together, too many rounds.

use super::Wanted;
use crate::rejection::{Code, Rejection};

/// What this gateway has to run tools with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// A sandbox for code is configured.
    pub sandbox: bool,
    /// A search service is configured.
    pub search: bool,
    /// Ids of MCP servers can be resolved.
    pub server_ids: bool,
}

const NO_SERVER_IDS: &str = "mcp_server_ids is only available in platform mode";
const NO_SANDBOX: &str = "otari_code_execution tool requested but no sandbox is configured on this gateway. \
    Set OTARI_SANDBOX_URL on the gateway, or remove otari_code_execution from `tools`.";
const SANDBOX_AND_MCP: &str = "otari_code_execution and mcp_servers cannot be combined in the same request yet; \
    pick one. Multi-backend dispatch is a planned refinement.";
const NO_SEARCH: &str = "otari_web_search tool requested but no search backend is configured on this gateway. \
    Set OTARI_WEB_SEARCH_URL on the gateway, or remove otari_web_search from `tools`.";
const SEARCH_AND_OTHERS: &str = "otari_web_search cannot be combined with otari_code_execution or mcp_servers in the \
    same request yet; pick one.";

impl Wanted {
    /// Refuses what this gateway cannot run.
    ///
    /// # Errors
    /// `unsupported`, with what to do.
    pub fn check(&self, backends: Backends) -> Result<(), Rejection> {
        let has_servers = !self.mcp.is_empty() || !self.mcp_ids.is_empty();
        let (code, search) = (self.code.is_some(), self.search.is_some());
        let refused = [
            (!self.mcp_ids.is_empty() && !backends.server_ids, NO_SERVER_IDS),
            (code && !backends.sandbox, NO_SANDBOX),
            (code && has_servers, SANDBOX_AND_MCP),
            (search && !backends.search, NO_SEARCH),
            (search && (code || has_servers), SEARCH_AND_OTHERS),
        ];
        match refused.into_iter().find(|(is_refused, _)| *is_refused) {
            Some((_, message)) => Err(Rejection::new(Code::Unsupported, message)),
            None => Ok(()),
        }
    }
}

/// The loop has had its rounds and the model wants another.
pub fn rounds_exceeded(rounds: u32) -> Rejection {
    Rejection::new(Code::ToolRounds, format!("Exceeded max_tool_iterations={rounds}"))
}

/// No sandbox session could be had.
pub fn sandbox_unreachable() -> Rejection {
    Rejection::new(
        Code::ToolUnavailable,
        "code_execution sandbox unreachable. Check the sandbox URL in the dashboard's Tools settings, or \
         OTARI_SANDBOX_URL, and that the container is running.",
    )
}

/// The search service does not answer.
pub fn search_unreachable() -> Rejection {
    Rejection::new(
        Code::ToolUnavailable,
        "web_search backend unreachable. Check the search URL in the dashboard's Tools settings, or \
         OTARI_WEB_SEARCH_URL, and that the backend is running.",
    )
}

#[cfg(test)]
mod tests {
    use super::super::{CodeTool, McpServer, SearchTool};
    use super::*;

    fn refused(wanted: &Wanted, backends: Backends) -> Option<String> {
        wanted.check(backends).err().map(|refused| {
            assert_eq!(refused.code.status().as_u16(), 400);
            refused.message.into_owned()
        })
    }

    #[test]
    fn what_cannot_be_run_is_refused_in_the_order_of_the_reference() {
        let all = Backends { sandbox: true, search: true, server_ids: true };
        let none = Backends::default();
        let server = McpServer {
            name: "a".into(),
            url: "https://a.example".into(),
            authorization_token: None,
            purpose_hint: None,
            allowed_tools: None,
        };
        let code = Wanted { code: Some(CodeTool::default()), ..Wanted::default() };
        let search = Wanted { search: Some(SearchTool::default()), ..Wanted::default() };
        let mcp = Wanted { mcp: vec![server], ..Wanted::default() };
        let ids = Wanted { mcp_ids: vec!["x".into()], ..Wanted::default() };
        for fine in [&code, &search, &mcp, &ids] {
            assert_eq!(refused(fine, all), None);
        }
        assert_eq!(refused(&mcp, none), None);
        assert_eq!(refused(&ids, none).unwrap(), NO_SERVER_IDS);
        assert_eq!(
            refused(&code, none).unwrap(),
            "otari_code_execution tool requested but no sandbox is configured on this gateway. Set OTARI_SANDBOX_URL on the gateway, or remove otari_code_execution from `tools`."
        );
        assert_eq!(refused(&search, none).unwrap(), NO_SEARCH);
        let both = Wanted { code: code.code.clone(), ..mcp.clone() };
        assert_eq!(refused(&both, all).unwrap(), SANDBOX_AND_MCP);
        for other in [&code, &mcp, &ids] {
            let both = Wanted { search: search.search.clone(), ..other.clone() };
            assert_eq!(refused(&both, all).unwrap(), SEARCH_AND_OTHERS);
        }
    }
}
