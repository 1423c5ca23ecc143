//! The management API and the pages beside it: request in, answer out, no Pingora types.

mod access;
mod aliases;
mod audit;
pub mod batches;
mod budgets;
mod ceilings;
mod docs;
mod fields;
pub(crate) mod files;
mod health;
mod keys;
mod models;
mod openapi;
mod pricing;
mod search;
mod settings;
mod tools;
mod usage;
mod users;

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use otari_filters::control::Caller;
use otari_filters::rejection::{Code, Rejection};
use serde::Serialize;

use self::audit::Managed;
use crate::app::{App, Mode, Standalone};
use crate::routes::{Handler, Route};
use crate::store::StoreError;

/// What a handler needs of the request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The variable part of the path, as sent: still escaped.
    pub id: Option<&'a str>,
    /// Without the question mark.
    pub query: &'a str,
    /// Empty when there is none.
    pub body: &'a Bytes,
    /// As sent.
    pub headers: &'a HeaderMap,
    /// Who calls; `None` where no credential is asked for.
    pub caller: Option<&'a Caller>,
    /// Where from, behind trusted proxies.
    pub address: Option<IpAddr>,
    /// The request's own id.
    pub request_id: &'a str,
}

/// What the caller gets.
#[derive(Debug)]
pub struct Answer {
    /// 200 for creations too, as in the reference.
    pub status: StatusCode,
    /// Of the body.
    pub content_type: &'static str,
    /// Whole.
    pub body: Bytes,
    /// Beside those that every answer has; one of the same name takes its place.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    /// A JSON answer: compact, keys in the order of the type.
    fn json(value: &impl Serialize) -> Result<Self, Rejection> {
        let body = serde_json::to_vec(value).map_err(Rejection::internal)?;
        Ok(Self::page("application/json", body))
    }

    /// 204.
    fn nothing() -> Self {
        Self { status: StatusCode::NO_CONTENT, ..Self::page("application/json", Bytes::new()) }
    }

    fn page(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into(), headers: Vec::new() }
    }
}

impl From<StoreError> for Rejection {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => {
                Self::new(Code::Unavailable, "The database does not answer. Try again")
                    .because(error)
            }
            StoreError::Conflict(ref what) => {
                let message = format!("Already exists: {what}");
                Self::new(Code::Conflict, message)
            }
            StoreError::Refused { .. } | StoreError::Schema(_) => {
                Self::new(Code::Internal, "Database error").because(error)
            }
        }
    }
}

/// Answers a route that is not a generation.
///
/// # Errors
/// What the caller is told instead.
pub async fn answer(app: &App, route: &Route, request: Request<'_>) -> Result<Answer, Rejection> {
    match route.handler {
        Handler::Home => Ok(docs::home()),
        Handler::OpenApi => docs::openapi(app, request),
        Handler::Docs => docs::page(app),
        Handler::DocsScript => docs::script(app, request),
        Handler::Health => health::health(app).await,
        Handler::Liveness => health::liveness(),
        Handler::Readiness => health::readiness(app).await,
        Handler::Metrics => health::metrics(app),
        Handler::Tools => tools::list(app),
        _ => match &app.mode {
            Mode::Standalone(standalone) => manage(standalone, route, request).await,
            // The index of routes has none of them in this mode.
            Mode::Connected(_) => Err(Rejection::internal("a route of the other mode was found")),
        },
    }
}

/// Answers a route of the management API.
async fn manage(
    app: &Standalone,
    route: &Route,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    use http::Method;
    let id = request.id.map(|sent| variable(route, sent)).transpose()?;
    // Held until memory knows what the store was told.
    let _turn = match route.method {
        Method::GET => None,
        // Nothing of a file is in memory, and a bucket may take its time.
        _ if route.handler == Handler::Files => None,
        _ => Some(app.local.ledger.turn().await),
    };
    let noted = || Managed::new(app, request);
    match (route.handler, &route.method, id.as_deref()) {
        (Handler::Keys, &Method::POST, _) => keys::create(&noted(), request).await,
        (Handler::Keys, &Method::PATCH, Some(id)) => keys::update(&noted(), id, request).await,
        (Handler::Keys, &Method::DELETE, Some(id)) => keys::delete(&noted(), id).await,
        (Handler::Keys, _, Some(id)) => keys::get(app, id).await,
        (Handler::Keys, _, None) => keys::list(app, request).await,
        (Handler::KeyRotation, _, Some(id)) => keys::rotate(&noted(), id).await,
        (Handler::Users, &Method::POST, _) => users::create(&noted(), request).await,
        (Handler::Users, &Method::PATCH, Some(id)) => users::update(&noted(), id, request).await,
        (Handler::Users, &Method::DELETE, Some(id)) => users::delete(&noted(), id).await,
        (Handler::Users, _, Some(id)) => users::get(app, id).await,
        (Handler::Users, _, None) => users::list(app, request).await,
        (Handler::UserUsage, _, Some(id)) => usage::of_user(app, id, request).await,
        (Handler::Budgets, &Method::POST, _) => budgets::create(&noted(), request).await,
        (Handler::Budgets, &Method::PATCH, Some(id)) => {
            budgets::update(&noted(), id, request).await
        }
        (Handler::Budgets, &Method::DELETE, Some(id)) => budgets::delete(&noted(), id).await,
        (Handler::Budgets, _, Some(id)) => budgets::get(app, id).await,
        (Handler::Budgets, _, None) => budgets::list(app, request).await,
        (Handler::BudgetResets, _, Some(id)) => budgets::resets(app, id, request).await,
        (Handler::Ceilings, &Method::POST, _) => ceilings::create(&noted(), request).await,
        (Handler::Ceilings, &Method::PATCH, Some(id)) => {
            ceilings::update(&noted(), id, request).await
        }
        (Handler::Ceilings, &Method::DELETE, Some(id)) => ceilings::delete(&noted(), id).await,
        (Handler::Ceilings, _, Some(id)) => ceilings::get(app, id).await,
        (Handler::Ceilings, _, None) => ceilings::list(app, request).await,
        (Handler::Models, _, Some(id)) => models::get(app, id, request).await,
        (Handler::Models, _, None) => models::list(app, request).await,
        (Handler::ModelSources, ..) => models::sources::list(app).await,
        (Handler::ModelMetadata, ..) => models::sources::metadata(app).await,
        (Handler::Pricing, &Method::POST, _) => pricing::create(&noted(), request).await,
        (Handler::Pricing, &Method::DELETE, Some(key)) => {
            pricing::delete(&noted(), key, request).await
        }
        (Handler::Pricing, _, Some(key)) => pricing::get(app, key, request).await,
        (Handler::Pricing, _, None) => pricing::list(app, request).await,
        (Handler::PriceHistory, _, Some(key)) => pricing::history(app, key).await,
        (Handler::Files, &Method::DELETE, Some(id)) => files::delete(app, id, request).await,
        (Handler::Files, _, Some(id)) => files::get(app, id, request).await,
        (Handler::Files, _, None) => files::list(app, request).await,
        (Handler::Aliases, &Method::POST, _) => aliases::put(&noted(), request).await,
        (Handler::Aliases, &Method::DELETE, Some(name)) => {
            aliases::delete(&noted(), name, request).await
        }
        (Handler::Aliases, ..) => aliases::list(app).await,
        (Handler::Settings, &Method::PATCH, _) => settings::update(&noted(), request).await,
        (Handler::Settings, ..) => settings::get(app),
        (Handler::MasterKeyRotation, ..) => settings::rotate(&noted()).await,
        (Handler::Usage(question), ..) => usage::answer(app, question, request).await,
        (Handler::Audit, ..) => audit::list(app, request).await,
        (handler, _, id) => {
            let what = format!("{handler:?} is not managed, or has no id: {}", id.is_none());
            Err(Rejection::internal(what))
        }
    }
}

/// The variable part of a route's path, its escapes decoded.
///
/// # Errors
/// `invalid_fields`.
pub fn variable(route: &Route, sent: &str) -> Result<String, Rejection> {
    fields::path(id_name(route), sent)
}

/// What the reference calls the variable part of a path, for `loc` in faults.
fn id_name(route: &Route) -> &'static str {
    match route.handler {
        Handler::Keys | Handler::KeyRotation => "key_id",
        Handler::Users | Handler::UserUsage => "user_id",
        Handler::Budgets | Handler::BudgetResets => "budget_id",
        Handler::Ceilings => "id",
        Handler::Aliases => "name",
        Handler::Models => "model_id",
        Handler::Files | Handler::FileContent => "file_id",
        Handler::Search => "tool",
        Handler::Batches(_) => "batch_id",
        _ => "model_key",
    }
}
