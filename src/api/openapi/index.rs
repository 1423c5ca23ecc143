//! Which route has which operation, and under which heading.

use http::Method;

use otari_filters::protocol::Protocol;

use super::operations;
use super::{CHAT, COUNT_TOKENS, MESSAGES, NO_SOCKET, Operation, RESPONSES};
use crate::api::{
    aliases, audit, batches, budgets, ceilings, docs, files, health, keys, models, pricing, search,
    settings, tools, usage, users,
};
use crate::routes::{Handler, Route};

/// The operation of a route: the same cases as in `api::answer`.
pub(super) fn operation(route: &Route) -> &'static Operation {
    let is_of_one = route.template.contains('{');
    match (route.handler, &route.method, is_of_one) {
        (Handler::Home, ..) => &docs::HOME,
        (Handler::OpenApi, ..) => &docs::OPENAPI,
        (Handler::Docs, ..) if route.template == "/docs" => &docs::PAGE,
        (Handler::Docs, ..) => &docs::SECOND_PAGE,
        (Handler::DocsScript, ..) => &docs::SCRIPT,
        (Handler::Health, ..) => &health::HEALTH,
        (Handler::Liveness, ..) => &health::LIVENESS,
        (Handler::Readiness, ..) => &health::READINESS,
        (Handler::Metrics, ..) => &health::METRICS,
        (Handler::Generate(Protocol::Chat), ..) => &CHAT,
        (Handler::Generate(Protocol::Messages), ..) => &MESSAGES,
        (Handler::Generate(Protocol::Responses), ..) => &RESPONSES,
        (Handler::Operation(kind), ..) => operations::operation(kind),
        (Handler::CountTokens, ..) => &COUNT_TOKENS,
        (Handler::ResponsesSocket, ..) => &NO_SOCKET,
        (Handler::Keys, &Method::POST, _) => &keys::CREATE,
        (Handler::Keys, &Method::PATCH, _) => &keys::UPDATE,
        (Handler::Keys, &Method::DELETE, _) => &keys::DELETE,
        (Handler::Keys, _, true) => &keys::GET,
        (Handler::Keys, _, false) => &keys::LIST,
        (Handler::KeyRotation, ..) => &keys::ROTATE,
        (Handler::Users, &Method::POST, _) => &users::CREATE,
        (Handler::Users, &Method::PATCH, _) => &users::UPDATE,
        (Handler::Users, &Method::DELETE, _) => &users::DELETE,
        (Handler::Users, _, true) => &users::GET,
        (Handler::Users, _, false) => &users::LIST,
        (Handler::UserUsage, ..) => &usage::OF_USER,
        (Handler::Budgets, &Method::POST, _) => &budgets::CREATE,
        (Handler::Budgets, &Method::PATCH, _) => &budgets::UPDATE,
        (Handler::Budgets, &Method::DELETE, _) => &budgets::DELETE,
        (Handler::Budgets, _, true) => &budgets::GET,
        (Handler::Budgets, _, false) => &budgets::LIST,
        (Handler::BudgetResets, ..) => &budgets::RESETS,
        (Handler::Ceilings, &Method::POST, _) => &ceilings::CREATE,
        (Handler::Ceilings, &Method::PATCH, _) => &ceilings::UPDATE,
        (Handler::Ceilings, &Method::DELETE, _) => &ceilings::DELETE,
        (Handler::Ceilings, _, true) => &ceilings::GET,
        (Handler::Ceilings, _, false) => &ceilings::LIST,
        (Handler::Models, _, true) => &models::GET,
        (Handler::Models, _, false) => &models::LIST,
        (Handler::ModelSources, ..) => &models::sources::LIST,
        (Handler::ModelMetadata, ..) => &models::sources::METADATA,
        (Handler::Search, _, false) => &search::SEARCH,
        (Handler::Search, _, true) => &search::SEARCH_WITH,
        (Handler::Tools, ..) => &tools::LIST,
        (Handler::Pricing, &Method::POST, _) => &pricing::CREATE,
        (Handler::Pricing, &Method::DELETE, _) => &pricing::DELETE,
        (Handler::Pricing, _, true) => &pricing::GET,
        (Handler::Pricing, _, false) => &pricing::LIST,
        (Handler::PriceHistory, ..) => &pricing::HISTORY,
        (Handler::FileUpload, ..) => &files::CREATE,
        (Handler::FileContent, ..) => &files::CONTENT,
        (Handler::Files, &Method::DELETE, _) => &files::DELETE,
        (Handler::Files, _, true) => &files::GET,
        (Handler::Files, _, false) => &files::LIST,
        (Handler::Aliases, &Method::POST, _) => &aliases::PUT,
        (Handler::Aliases, &Method::DELETE, _) => &aliases::DELETE,
        (Handler::Aliases, ..) => &aliases::LIST,
        (Handler::Settings, &Method::PATCH, _) => &settings::UPDATE,
        (Handler::Settings, ..) => &settings::GET,
        (Handler::MasterKeyRotation, ..) => &settings::ROTATE,
        (Handler::Usage(question), ..) => usage::operation(question),
        (Handler::Audit, ..) => &audit::LIST,
        (Handler::Batches(verb), ..) => batches::operation(verb),
    }
}

/// The heading under which a route stands: what follows `/v1/`, else what the path is about.
pub(super) fn tag(route: &Route) -> &'static str {
    match route.template.strip_prefix("/v1/") {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None if route.template.starts_with("/health") || route.template == "/metrics" => "health",
        None => "documentation",
    }
}
