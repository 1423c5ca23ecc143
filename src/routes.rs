//! Every public path: method, credential, handler. The index of the product.

use http::Method;
use otari_filters::operations::{self, Kind};
use otari_filters::protocol::Protocol;

/// Which credential a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// None.
    Open,
    /// An API key or the master key.
    Key,
    /// The master key.
    Master,
}

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The quick-start page.
    Home,
    /// The description of every route, for programs.
    OpenApi,
    /// The same for people.
    Docs,
    /// What draws it.
    DocsScript,
    /// Health, by flavour.
    Health,
    /// The process runs.
    Liveness,
    /// The database answers.
    Readiness,
    /// Prometheus.
    Metrics,
    /// A generation, in one of three APIs.
    Generate(Protocol),
    /// One of the operations beside it.
    Operation(operations::Kind),
    /// How many tokens a messages request has.
    CountTokens,
    /// OpenAI responses over a WebSocket: only says how to call it.
    ResponsesSocket,
    /// Management of keys.
    Keys,
    /// A new secret for a key.
    KeyRotation,
    /// Management of users.
    Users,
    /// Usage rows of one user.
    UserUsage,
    /// Management of budgets.
    Budgets,
    /// Periods that ended under a budget.
    BudgetResets,
    /// Ceilings over API keys.
    Ceilings,
    /// A file that comes in.
    FileUpload,
    /// What is known of files.
    Files,
    /// The bytes of a file.
    FileContent,
    /// What can be called.
    Models,
    /// What each provider lists, and why one does not.
    ModelSources,
    /// What providers say of their models.
    ModelMetadata,
    /// Web search.
    Search,
    /// Which tools the gateway itself runs.
    Tools,
    /// Prices.
    Pricing,
    /// All prices of one model.
    PriceHistory,
    /// Names that stand for models.
    Aliases,
    /// What can be changed while the gateway runs.
    Settings,
    /// A new master key in the place of a generated one.
    MasterKeyRotation,
    /// Usage, asked in one of several ways.
    Usage(Question),
    /// Who changed what.
    Audit,
    /// Batches of calls.
    Batches(BatchVerb),
}

/// What is done about batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchVerb {
    /// One is made.
    Create,
    /// They are listed.
    List,
    /// One is shown.
    Get,
    /// One is cancelled.
    Cancel,
    /// What one came to.
    Results,
}

/// What is asked of usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its rows.
    List,
    /// How many rows.
    Count,
    /// What it adds up to.
    Summary,
    /// The same over time, by one column.
    Series,
    /// The summary for a spreadsheet.
    Csv,
    /// Calls under way.
    InFlight,
}

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path, `{id}` for one segment, `{model_key...}` for one or more; also the metric label and the row's endpoint.
    pub template: &'static str,
    /// Who may call it.
    pub credential: Credential,
    /// What answers it.
    pub handler: Handler,
}

const fn route(
    method: Method,
    template: &'static str,
    credential: Credential,
    handler: Handler,
) -> Route {
    Route { method, template, credential, handler }
}

/// All of them; of one path, the method named first in `Allow` comes first.
pub static ROUTES: &[Route] = &[
    route(Method::GET, "/", Credential::Open, Handler::Home),
    route(Method::GET, "/openapi.json", Credential::Open, Handler::OpenApi),
    route(Method::GET, "/docs", Credential::Open, Handler::Docs),
    route(Method::GET, "/docs/scalar.js", Credential::Open, Handler::DocsScript),
    // Where the reference has a second page of the same content.
    route(Method::GET, "/redoc", Credential::Open, Handler::Docs),
    route(Method::GET, "/health", Credential::Open, Handler::Health),
    route(Method::GET, "/health/liveness", Credential::Open, Handler::Liveness),
    route(Method::GET, "/health/readiness", Credential::Open, Handler::Readiness),
    route(Method::GET, "/metrics", Credential::Open, Handler::Metrics),
    route(Method::POST, "/v1/chat/completions", Credential::Key, Handler::Generate(Protocol::Chat)),
    route(Method::POST, "/v1/messages", Credential::Key, Handler::Generate(Protocol::Messages)),
    route(Method::POST, "/v1/messages/count_tokens", Credential::Key, Handler::CountTokens),
    route(Method::POST, "/v1/responses", Credential::Key, Handler::Generate(Protocol::Responses)),
    route(Method::GET, "/v1/responses", Credential::Open, Handler::ResponsesSocket),
    route(Method::POST, "/v1/embeddings", Credential::Key, Handler::Operation(Kind::Embeddings)),
    route(Method::POST, "/v1/moderations", Credential::Key, Handler::Operation(Kind::Moderations)),
    route(Method::POST, "/v1/rerank", Credential::Key, Handler::Operation(Kind::Rerank)),
    route(
        Method::POST,
        "/v1/images/generations",
        Credential::Key,
        Handler::Operation(Kind::Images),
    ),
    route(
        Method::POST,
        "/v1/audio/transcriptions",
        Credential::Key,
        Handler::Operation(Kind::Transcription),
    ),
    route(Method::POST, "/v1/audio/speech", Credential::Key, Handler::Operation(Kind::Speech)),
    route(Method::POST, "/v1/keys", Credential::Master, Handler::Keys),
    route(Method::GET, "/v1/keys", Credential::Master, Handler::Keys),
    route(Method::GET, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::PATCH, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::DELETE, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::POST, "/v1/keys/{id}/rotate", Credential::Master, Handler::KeyRotation),
    route(Method::POST, "/v1/users", Credential::Master, Handler::Users),
    route(Method::GET, "/v1/users", Credential::Master, Handler::Users),
    route(Method::GET, "/v1/users/{id}", Credential::Master, Handler::Users),
    route(Method::PATCH, "/v1/users/{id}", Credential::Master, Handler::Users),
    route(Method::DELETE, "/v1/users/{id}", Credential::Master, Handler::Users),
    route(Method::GET, "/v1/users/{id}/usage", Credential::Master, Handler::UserUsage),
    route(Method::POST, "/v1/budgets", Credential::Master, Handler::Budgets),
    route(Method::GET, "/v1/budgets", Credential::Master, Handler::Budgets),
    route(Method::GET, "/v1/budgets/{id}", Credential::Master, Handler::Budgets),
    route(Method::PATCH, "/v1/budgets/{id}", Credential::Master, Handler::Budgets),
    route(Method::DELETE, "/v1/budgets/{id}", Credential::Master, Handler::Budgets),
    route(Method::GET, "/v1/budgets/{id}/reset-logs", Credential::Master, Handler::BudgetResets),
    route(Method::POST, "/v1/scoped-budgets", Credential::Master, Handler::Ceilings),
    route(Method::GET, "/v1/scoped-budgets", Credential::Master, Handler::Ceilings),
    route(Method::GET, "/v1/scoped-budgets/{id}", Credential::Master, Handler::Ceilings),
    route(Method::PATCH, "/v1/scoped-budgets/{id}", Credential::Master, Handler::Ceilings),
    route(Method::DELETE, "/v1/scoped-budgets/{id}", Credential::Master, Handler::Ceilings),
    route(Method::POST, "/v1/files", Credential::Key, Handler::FileUpload),
    route(Method::GET, "/v1/files", Credential::Key, Handler::Files),
    route(Method::GET, "/v1/files/{id}", Credential::Key, Handler::Files),
    route(Method::DELETE, "/v1/files/{id}", Credential::Key, Handler::Files),
    route(Method::GET, "/v1/files/{id}/content", Credential::Key, Handler::FileContent),
    route(Method::GET, "/v1/models", Credential::Key, Handler::Models),
    // Before the route that would take them for models.
    route(Method::GET, "/v1/models/discoverable", Credential::Master, Handler::ModelSources),
    route(Method::GET, "/v1/models/metadata", Credential::Master, Handler::ModelMetadata),
    route(Method::GET, "/v1/models/{model_id...}", Credential::Key, Handler::Models),
    route(Method::POST, "/v1/search", Credential::Key, Handler::Search),
    route(Method::POST, "/v1/search/{tool}", Credential::Key, Handler::Search),
    route(Method::GET, "/v1/tools", Credential::Key, Handler::Tools),
    route(Method::POST, "/v1/batches", Credential::Key, Handler::Batches(BatchVerb::Create)),
    route(Method::GET, "/v1/batches", Credential::Key, Handler::Batches(BatchVerb::List)),
    route(Method::GET, "/v1/batches/{id}", Credential::Key, Handler::Batches(BatchVerb::Get)),
    route(
        Method::POST,
        "/v1/batches/{id}/cancel",
        Credential::Key,
        Handler::Batches(BatchVerb::Cancel),
    ),
    route(
        Method::GET,
        "/v1/batches/{id}/results",
        Credential::Key,
        Handler::Batches(BatchVerb::Results),
    ),
    route(Method::POST, "/v1/pricing", Credential::Master, Handler::Pricing),
    route(Method::GET, "/v1/pricing", Credential::Key, Handler::Pricing),
    // Before the route that would take `/history` for a part of the key.
    route(
        Method::GET,
        "/v1/pricing/{model_key...}/history",
        Credential::Key,
        Handler::PriceHistory,
    ),
    route(Method::GET, "/v1/pricing/{model_key...}", Credential::Key, Handler::Pricing),
    route(Method::DELETE, "/v1/pricing/{model_key...}", Credential::Master, Handler::Pricing),
    route(Method::POST, "/v1/aliases", Credential::Master, Handler::Aliases),
    route(Method::GET, "/v1/aliases", Credential::Master, Handler::Aliases),
    route(Method::DELETE, "/v1/aliases/{name}", Credential::Master, Handler::Aliases),
    route(Method::GET, "/v1/settings", Credential::Master, Handler::Settings),
    route(Method::PATCH, "/v1/settings", Credential::Master, Handler::Settings),
    route(
        Method::POST,
        "/v1/settings/master-key/rotate",
        Credential::Master,
        Handler::MasterKeyRotation,
    ),
    route(Method::GET, "/v1/usage", Credential::Master, Handler::Usage(Question::List)),
    route(Method::GET, "/v1/usage/count", Credential::Master, Handler::Usage(Question::Count)),
    route(Method::GET, "/v1/usage/summary", Credential::Master, Handler::Usage(Question::Summary)),
    route(Method::GET, "/v1/usage/series", Credential::Master, Handler::Usage(Question::Series)),
    route(Method::GET, "/v1/usage/summary.csv", Credential::Master, Handler::Usage(Question::Csv)),
    route(
        Method::GET,
        "/v1/usage/in-flight",
        Credential::Master,
        Handler::Usage(Question::InFlight),
    ),
    route(Method::GET, "/v1/audit", Credential::Master, Handler::Audit),
];

/// Generation routes that people call without their prefix.
const BARE: [(&str, &str); 10] = [
    ("/chat/completions", "/v1/chat/completions"),
    ("/messages", "/v1/messages"),
    ("/messages/count_tokens", "/v1/messages/count_tokens"),
    ("/responses", "/v1/responses"),
    ("/embeddings", "/v1/embeddings"),
    ("/moderations", "/v1/moderations"),
    ("/rerank", "/v1/rerank"),
    ("/images/generations", "/v1/images/generations"),
    ("/audio/transcriptions", "/v1/audio/transcriptions"),
    ("/audio/speech", "/v1/audio/speech"),
];

/// Whose routes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// All of them.
    Standalone,
    /// Generations, health and pages: the rest is managed on the platform.
    Connected,
}

/// Which address a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The only one there is.
    Only,
    /// That of callers, where management has its own.
    Public,
    /// That of management.
    Management,
}

impl Side {
    /// Whether the route is answered there. What everybody may read, health above all, is answered on both.
    pub fn has(self, route: &Route) -> bool {
        match self {
            Self::Only => true,
            Self::Public => {
                route.credential != Credential::Master && route.handler != Handler::Metrics
            }
            Self::Management => {
                // Prices and models are read to manage them.
                let is_read = matches!(
                    route.handler,
                    Handler::Pricing | Handler::PriceHistory | Handler::Models
                );
                let is_page = route.credential == Credential::Open
                    && route.handler != Handler::ResponsesSocket;
                route.credential == Credential::Master || is_read || is_page
            }
        }
    }
}

/// Beginnings of paths that a platform manages: callers are told so.
const ELSEWHERE: [&str; 11] = [
    "/v1/users",
    "/v1/keys",
    "/v1/budgets",
    "/v1/usage",
    "/v1/settings",
    "/v1/aliases",
    "/v1/providers",
    "/v1/pricing",
    "/v1/organizations",
    "/v1/workspaces",
    "/v1/invitations",
];

impl Surface {
    /// Whether the route is one of its own.
    pub fn has(self, route: &Route) -> bool {
        self == Self::Standalone
            || matches!(
                route.handler,
                Handler::Home
                    | Handler::OpenApi
                    | Handler::Docs
                    | Handler::DocsScript
                    | Handler::Health
                    | Handler::Liveness
                    | Handler::Readiness
                    | Handler::Metrics
                    | Handler::Generate(_)
                    | Handler::CountTokens
                    | Handler::ResponsesSocket
            )
    }

    /// Whether the path is managed on the platform.
    fn is_elsewhere(self, method: &Method, path: &str) -> bool {
        const METHODS: [Method; 6] = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ];
        self == Self::Connected
            && METHODS.contains(method)
            && ELSEWHERE.iter().any(|prefix| {
                path.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

/// What a path and method lead to.
#[derive(Debug)]
pub enum Found<'a> {
    /// A route, and what stands in the path for its variable part, as sent.
    Route(&'static Route, Option<&'a str>),
    /// The path exists with other methods; with the first of them, and whether the path is a route at all.
    OtherMethod(&'static Route),
    /// What is asked for is managed on the platform.
    Elsewhere,
    /// Nothing; with the nearest path there is.
    Nothing(&'static str),
}

/// As [`find`], for a request that came to this side: what is not answered there is not there.
pub fn find_on<'a>(surface: Surface, side: Side, method: &Method, path: &'a str) -> Found<'a> {
    match find(surface, method, path) {
        Found::Route(route, _) | Found::OtherMethod(route) if !side.has(route) => {
            Found::Nothing(nearest(surface, side, path))
        }
        Found::Nothing(_) => Found::Nothing(nearest(surface, side, path)),
        found => found,
    }
}

/// Finds the route of `path`: under `/v1` and `/api/v1`, with or without a trailing slash.
pub fn find<'a>(surface: Surface, method: &Method, path: &'a str) -> Found<'a> {
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    let path = match path.strip_prefix("/api") {
        Some(rest) if rest.starts_with("/v1") || rest.starts_with("/health") => rest,
        _ => path,
    };
    // The newest SDK asks for `/api/v1/health`.
    let path = match path.strip_prefix("/v1") {
        Some(rest) if rest.starts_with("/health") => rest,
        _ => path,
    };
    let path = BARE.iter().find(|(bare, _)| *bare == path).map_or(path, |(_, full)| full);
    if surface.is_elsewhere(method, path) {
        return Found::Elsewhere;
    }
    let mut other = None;
    for route in ROUTES.iter().filter(|route| surface.has(route)) {
        let Some(id) = matches(route.template, path) else { continue };
        if route.method == *method || (*method == Method::HEAD && route.method == Method::GET) {
            return Found::Route(route, id);
        }
        other.get_or_insert(route);
    }
    match other {
        Some(route) => Found::OtherMethod(route),
        None => Found::Nothing(nearest(surface, Side::Only, path)),
    }
}

/// Whether `path` is of this template: `Some` with its variable part, if the template has one. Escapes are not looked
/// into: an id with `%2F` in it is one segment.
fn matches<'a>(template: &str, path: &'a str) -> Option<Option<&'a str>> {
    let Some((prefix, rest)) = template.split_once('{') else {
        return (template == path).then_some(None);
    };
    let (name, suffix) = rest.split_once('}')?;
    let id = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let fits = name.ends_with("...") || !id.contains('/');
    (!id.is_empty() && fits).then_some(Some(id))
}

fn nearest(surface: Surface, side: Side, path: &str) -> &'static str {
    let mut best = ("/", 0.0);
    for route in ROUTES.iter().filter(|route| surface.has(route) && side.has(route)) {
        let likeness = strsim::jaro_winkler(route.template, path);
        if likeness > best.1 {
            best = (route.template, likeness);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(method: Method, path: &str) -> Option<&'static str> {
        match find(Surface::Standalone, &method, path) {
            Found::Route(route, _) => Some(route.template),
            _ => None,
        }
    }

    #[test]
    fn every_door_leads_to_the_same_room() {
        for path in [
            "/v1/chat/completions",
            "/v1/chat/completions/",
            "/api/v1/chat/completions",
            "/api/v1/chat/completions/",
            "/chat/completions",
        ] {
            assert_eq!(template(Method::POST, path), Some("/v1/chat/completions"), "{path}");
        }
        assert_eq!(template(Method::HEAD, "/health"), Some("/health"));
        assert_eq!(template(Method::GET, "/"), Some("/"));
    }

    #[test]
    fn ids_are_one_segment() {
        let Found::Route(route, id) = find(Surface::Standalone, &Method::GET, "/v1/keys/abc")
        else {
            panic!()
        };
        assert_eq!((route.template, id), ("/v1/keys/{id}", Some("abc")));
        assert!(matches!(
            find(Surface::Standalone, &Method::GET, "/v1/keys/a/b"),
            Found::Nothing(_)
        ));
        let Found::Route(route, id) =
            find(Surface::Standalone, &Method::GET, "/v1/users/a%2Fb/usage")
        else {
            panic!()
        };
        assert_eq!((route.template, id), ("/v1/users/{id}/usage", Some("a%2Fb")));
        assert!(matches!(
            find(Surface::Standalone, &Method::GET, "/v1/users//usage"),
            Found::Nothing(_)
        ));
        assert_eq!(template(Method::POST, "/v1/keys/a/rotate/"), Some("/v1/keys/{id}/rotate"));
        assert_eq!(template(Method::GET, "/v1/users/usage"), Some("/v1/users/{id}"));
    }

    #[test]
    fn each_side_has_its_own_routes() {
        let found = |side, method, path: &str| {
            matches!(find_on(Surface::Standalone, side, &method, path), Found::Route(..))
        };
        for (method, path, public, management) in [
            (Method::POST, "/v1/chat/completions", true, false),
            (Method::POST, "/v1/files", true, false),
            (Method::GET, "/v1/pricing/p:m", true, true),
            (Method::POST, "/v1/pricing", false, true),
            (Method::GET, "/v1/models/discoverable", false, true),
            (Method::GET, "/v1/users", false, true),
            (Method::GET, "/metrics", false, true),
            (Method::GET, "/health", true, true),
            (Method::GET, "/docs", true, true),
        ] {
            assert!(found(Side::Only, method.clone(), path), "{path}");
            assert_eq!(found(Side::Public, method.clone(), path), public, "{path}");
            assert_eq!(found(Side::Management, method, path), management, "{path}");
        }
        let put = find_on(Surface::Standalone, Side::Public, &Method::PUT, "/v1/keys");
        assert!(matches!(put, Found::Nothing(near) if !near.contains("keys")), "{put:?}");
    }

    #[test]
    fn model_keys_hold_slashes() {
        let found = |method, path| match find(Surface::Standalone, &method, path) {
            Found::Route(route, id) => (route.template, id),
            other => panic!("{path}: {other:?}"),
        };
        let (one, history) = ("/v1/pricing/{model_key...}", "/v1/pricing/{model_key...}/history");
        assert_eq!(found(Method::GET, "/v1/pricing/p:m"), (one, Some("p:m")));
        assert_eq!(found(Method::GET, "/api/v1/pricing/p/a/b:c"), (one, Some("p/a/b:c")));
        assert_eq!(found(Method::DELETE, "/v1/pricing/p%2Fm"), (one, Some("p%2Fm")));
        assert_eq!(found(Method::GET, "/v1/pricing/p/m/history"), (history, Some("p/m")));
        assert_eq!(found(Method::DELETE, "/v1/pricing/p/history"), (one, Some("p/history")));
        assert_eq!(found(Method::GET, "/v1/pricing/history"), (one, Some("history")));
        assert_eq!(found(Method::GET, "/v1/pricing/"), ("/v1/pricing", None));
    }

    #[test]
    fn a_wrong_method_and_a_wrong_path_are_told_apart() {
        let Found::OtherMethod(route) = find(Surface::Standalone, &Method::PUT, "/v1/keys") else {
            panic!()
        };
        assert_eq!(route.method, Method::POST);
        let Found::Nothing(nearest) =
            find(Surface::Standalone, &Method::POST, "/v1/chat/completion")
        else {
            panic!()
        };
        assert_eq!(nearest, "/v1/chat/completions");
    }
}
