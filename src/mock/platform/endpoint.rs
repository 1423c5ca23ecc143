//! The endpoints of a platform: where they are, how they are asked.

/// One of the endpoints, for texts and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Resolve,
    Usage,
    Health,
    Mcp,
    WebSearch,
    CodeExecution,
}

impl Endpoint {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Resolve, Self::Usage, Self::Health, Self::Mcp, Self::WebSearch, Self::CodeExecution];

    /// The name of its list in a script.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Usage => "usage",
            Self::Health => "health",
            Self::Mcp => "mcp",
            Self::WebSearch => "web_search",
            Self::CodeExecution => "code_execution",
        }
    }

    /// Its place below the base URL.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Resolve => "/gateway/provider-keys/resolve",
            Self::Usage => "/gateway/usage",
            Self::Health => "/utils/health-check/",
            Self::Mcp => "/gateway/mcp-servers/resolve",
            Self::WebSearch => "/gateway/web-search/resolve",
            Self::CodeExecution => "/gateway/code-execution/resolve",
        }
    }

    /// Whether the caller's token belongs there.
    pub(super) fn takes_user_token(self) -> bool {
        !matches!(self, Self::Usage | Self::Health)
    }

    /// How it is asked.
    pub(super) fn method(self) -> &'static str {
        if self == Self::Health { "GET" } else { "POST" }
    }

    /// The endpoint at a path below the base.
    pub(super) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}
