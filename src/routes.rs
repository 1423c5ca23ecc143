//! Every public path: method, credential, handler. The index of the product.

use http::Method;

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
    /// Health, by flavour.
    Health,
    /// The process runs.
    Liveness,
    /// The database answers.
    Readiness,
    /// Prometheus.
    Metrics,
    /// OpenAI chat completions.
    Chat,
    /// OpenAI responses: only says how to call it.
    ResponsesSocket,
    /// Management of keys.
    Keys,
    /// Management of users.
    Users,
    /// Management of budgets.
    Budgets,
    /// Prices.
    Pricing,
    /// Usage rows.
    Usage,
}

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path, `{id}` for one segment; also the metric label and the row's endpoint.
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
pub static ROUTES: [Route; 22] = [
    route(Method::GET, "/", Credential::Open, Handler::Home),
    route(Method::GET, "/health", Credential::Open, Handler::Health),
    route(Method::GET, "/health/liveness", Credential::Open, Handler::Liveness),
    route(Method::GET, "/health/readiness", Credential::Open, Handler::Readiness),
    route(Method::GET, "/metrics", Credential::Open, Handler::Metrics),
    route(Method::POST, "/v1/chat/completions", Credential::Key, Handler::Chat),
    route(Method::GET, "/v1/responses", Credential::Open, Handler::ResponsesSocket),
    route(Method::POST, "/v1/keys", Credential::Master, Handler::Keys),
    route(Method::GET, "/v1/keys", Credential::Master, Handler::Keys),
    route(Method::GET, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::PATCH, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::DELETE, "/v1/keys/{id}", Credential::Master, Handler::Keys),
    route(Method::POST, "/v1/users", Credential::Master, Handler::Users),
    route(Method::GET, "/v1/users", Credential::Master, Handler::Users),
    route(Method::GET, "/v1/users/{id}", Credential::Master, Handler::Users),
    route(Method::POST, "/v1/budgets", Credential::Master, Handler::Budgets),
    route(Method::GET, "/v1/budgets", Credential::Master, Handler::Budgets),
    route(Method::GET, "/v1/budgets/{id}", Credential::Master, Handler::Budgets),
    route(Method::POST, "/v1/pricing", Credential::Master, Handler::Pricing),
    route(Method::GET, "/v1/pricing", Credential::Key, Handler::Pricing),
    route(Method::GET, "/v1/usage", Credential::Master, Handler::Usage),
    // Kept last: it answers every other method of the path.
    route(Method::POST, "/v1/responses", Credential::Key, Handler::ResponsesSocket),
];

/// Generation routes that people call without their prefix.
const BARE: [(&str, &str); 1] = [("/chat/completions", "/v1/chat/completions")];

/// What a path and method lead to.
#[derive(Debug)]
pub enum Found<'a> {
    /// A route, and the `{id}` of the path.
    Route(&'static Route, Option<&'a str>),
    /// The path exists with other methods; with the first of them, and whether the path is a route at all.
    OtherMethod(&'static Route),
    /// Nothing; with the nearest path there is.
    Nothing(&'static str),
}

/// Finds the route of `path`: under `/v1` and `/api/v1`, with or without a trailing slash.
pub fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
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
    let mut other = None;
    for route in &ROUTES {
        let Some(id) = matches(route.template, path) else { continue };
        if route.method == *method || (*method == Method::HEAD && route.method == Method::GET) {
            return Found::Route(route, id);
        }
        other.get_or_insert(route);
    }
    match other {
        Some(route) => Found::OtherMethod(route),
        None => Found::Nothing(nearest(path)),
    }
}

/// Whether `path` is of this template: `Some` with the `{id}`, if the template has one.
fn matches<'a>(template: &str, path: &'a str) -> Option<Option<&'a str>> {
    match template.strip_suffix("{id}") {
        None => (template == path).then_some(None),
        Some(prefix) => {
            let id = path.strip_prefix(prefix)?;
            (!id.is_empty() && !id.contains('/')).then_some(Some(id))
        }
    }
}

fn nearest(path: &str) -> &'static str {
    let mut best = ("/", 0.0);
    for route in &ROUTES {
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
        match find(&method, path) {
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
        let Found::Route(route, id) = find(&Method::GET, "/v1/keys/abc") else { panic!() };
        assert_eq!((route.template, id), ("/v1/keys/{id}", Some("abc")));
        assert!(matches!(find(&Method::GET, "/v1/keys/a/b"), Found::Nothing(_)));
    }

    #[test]
    fn a_wrong_method_and_a_wrong_path_are_told_apart() {
        let Found::OtherMethod(route) = find(&Method::PUT, "/v1/keys") else { panic!() };
        assert_eq!(route.method, Method::POST);
        let Found::Nothing(nearest) = find(&Method::POST, "/v1/chat/completion") else { panic!() };
        assert_eq!(nearest, "/v1/chat/completions");
    }
}
