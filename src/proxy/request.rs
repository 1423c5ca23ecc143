//! The chain of filters, in order, up to the handler of a route.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use otari_filters::authenticate::{self, unknown_key};
use otari_filters::control::Caller;
use otari_filters::head::{self, Bounds};
use otari_filters::rejection::{Code, Rejection};
use pingora_core::prelude::Result;
use pingora_proxy::Session;

use crate::api;
use crate::app::{App, Mode};
use crate::control::settings::MasterKey;
use crate::proxy::call::Stop;
use crate::proxy::cors::Origin;
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{
    Active, RequestContext, admission, batches, body, door, files, generate, operations, search,
};
use crate::routes::{self, Credential, Found, Handler, Route, Side};

/// A refused upload is read away for so long, so that the caller gets to read why.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers the request. `Ok(true)`: it was answered; errors go to `fail_to_proxy`.
pub(super) async fn admit(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
) -> Result<bool> {
    prepare(app, s, ctx);
    if let Err(refused) = inspect(app, s) {
        // Where the next request begins is anybody's guess.
        s.downstream_session.set_keepalive(None);
        return reply::refuse(s, ctx, refused).await.map(|()| true);
    }
    let served = serve(app, s, ctx).await;
    let refused = match &served {
        Ok(()) => Some(None),
        Err(Stop::Refused(refused)) => Some(Some(refused.code)),
        Err(Stop::Broken(_)) => None,
    };
    if let Some(refused) = refused {
        app.admission.learn(app, s, ctx, refused);
    }
    match served {
        Ok(()) => Ok(true),
        Err(Stop::Refused(refused)) => reply::refuse(s, ctx, *refused).await.map(|()| true),
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Bounds what Pingora leaves unbounded on a caller's connection.
fn prepare(app: &App, s: &mut Session, ctx: &mut RequestContext) {
    door::has_head(s);
    let config = app.live();
    let limits = &config.limits;
    let session = &mut s.downstream_session;
    // A connection that idles is closed; while draining every connection is, after its answer.
    // A body in chunks is the last of its connection: parsers differ about where a strange one ends.
    let is_chunked = session.get_header(TRANSFER_ENCODING).is_some();
    let is_last = is_chunked || app.life.ends_connections();
    let keepalive = (!is_last).then_some(limits.downstream_keepalive.as_secs());
    session.set_keepalive(keepalive);
    session.set_write_timeout(Some(limits.downstream_write_timeout));
    // A next request that arrives early would otherwise kill the stream that is running.
    session.set_pipelining_enabled(true);
    // Answering before the body was read would reset a caller who is still sending.
    session.set_close_on_response_before_downstream_finish(false);
    session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
    ctx.in_flight = Some(Active::new(app));
    let head = s.req_header();
    ctx.protocol = reply::protocol_of(head.uri.path());
    ctx.origin = Origin::of(&head.headers, &config.cors_allow_origins);
}

/// Whether the head is one that everybody reads alike.
fn inspect(app: &App, s: &Session) -> Result<(), Rejection> {
    let limits = &app.live().limits;
    let bounds = Bounds { max_bytes: limits.max_header_bytes, max_fields: limits.max_header_count };
    // The parser has dropped what it forgave; the bytes still show it.
    head::check(&s.downstream_session.to_h1_raw(), bounds)
}

async fn serve(app: &Arc<App>, s: &mut Session, ctx: &mut RequestContext) -> Result<(), Stop> {
    let method = s.req_header().method.clone();
    let path = s.req_header().uri.path().to_owned();
    let preflight =
        ctx.origin.as_ref().and_then(|origin| origin.preflight(&method, &s.req_header().headers));
    if let Some(preflight) = preflight {
        return Ok(reply::write(s, ctx, preflight).await?);
    }
    let (route, id) = match routes::find_on(app.surface(), ctx.side, &method, &path) {
        Found::Route(route, id) => (route, id),
        Found::OtherMethod(route) if method == Method::OPTIONS => {
            return options(s, ctx, route).await;
        }
        Found::OtherMethod(route) if method == Method::HEAD => return probe(s, ctx, route).await,
        Found::OtherMethod(route) => {
            ctx.route = Some(route);
            let message = format!("Method Not Allowed: {path} answers {}", route.method);
            let allow = Some(allow(route));
            return Err(
                Rejection { allow, ..Rejection::new(Code::MethodNotAllowed, message) }.into()
            );
        }
        Found::Elsewhere => {
            let message = "This endpoint is not available in hybrid mode. Manage this resource via the platform UI.";
            return Err(Rejection::new(Code::NotFound, message).into());
        }
        Found::Nothing(nearest) => {
            let message =
                format!("Not Found: no route {method} {path}. The nearest path is {nearest}");
            return Err(Rejection::new(Code::NotFound, message).into());
        }
    };
    ctx.route = Some(route);
    // The route that refuses sockets shares its path with one that serves.
    let is_page = route.credential == Credential::Open && route.handler != Handler::ResponsesSocket;
    if method == Method::HEAD && !is_page && !files::answers_head(s, route) {
        return probe(s, ctx, route).await;
    }
    if route.credential == Credential::Key {
        let places = app.admission.take(app)?;
        if let Some(active) = &mut ctx.in_flight {
            active.places = places;
        }
    }
    let found = credential(app, s, ctx.side, route).await;
    ctx.caller = app.admission.judge(app, s, found)?;
    if let (Some(caller), Some(active)) = (&ctx.caller, &mut ctx.in_flight) {
        app.admission.take_for(app, caller, &mut active.places)?;
    }
    match route.handler {
        Handler::Generate(protocol) => generate::serve(app, s, ctx, protocol).await,
        // Boxed: every open stream would carry their state.
        Handler::Operation(kind) => Box::pin(operations::serve(app, s, ctx, kind)).await,
        Handler::Batches(verb) => Box::pin(batches::serve(app, s, ctx, verb, id)).await,
        Handler::CountTokens => generate::count_tokens(app, s, ctx).await,
        Handler::Search => Box::pin(search::serve(app, s, ctx, id)).await,
        Handler::ResponsesSocket => Err(no_socket(s).into()),
        Handler::FileUpload => Box::pin(files::upload(app, s, ctx)).await,
        Handler::FileContent => files::content(app, s, ctx, id).await,
        _ => manage(app, s, ctx, route, id).await,
    }
}

/// Who calls, before anything of the body is read.
async fn credential(
    app: &App,
    s: &Session,
    side: Side,
    route: &Route,
) -> Result<Option<Caller>, Rejection> {
    let headers = &s.req_header().headers;
    let counted = |refused: Rejection| {
        match refused.code {
            // The reference's name for it, and its silence about master keys.
            Code::InvalidApiKey => app.metrics.auth_failure("invalid_key"),
            Code::InvalidMasterKey => {}
            code => app.metrics.auth_failure(code.as_str()),
        }
        refused
    };
    match route.credential {
        Credential::Open => Ok(None),
        Credential::Key => {
            let caller = match app.control.authenticate(headers).await {
                // It belongs to the address of management: here it is a key that nobody has.
                Ok(Caller::Master) if side == Side::Public => {
                    authenticate::credential(headers).and_then(|token| Err(unknown_key(token)))
                }
                caller => caller,
            };
            caller.map_err(counted).map(Some)
        }
        Credential::Master => {
            let Mode::Standalone(standalone) = &app.mode else {
                return Err(Rejection::internal("a route of the other mode was found"));
            };
            if **standalone.local.master.load() == MasterKey::Unknown {
                let message =
                    "Master key not configured. Set OTARI_MASTER_KEY environment variable.";
                return Err(Rejection::new(Code::MasterKeyNotConfigured, message));
            }
            let token = authenticate::credential(headers).map_err(counted)?;
            if standalone.local.is_master(token) {
                return Ok(Some(Caller::Master));
            }
            Err(counted(Rejection::new(Code::InvalidMasterKey, "Invalid master key")))
        }
    }
}

/// Routes that are answered whole.
async fn manage(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    route: &'static Route,
    id: Option<&str>,
) -> Result<(), Stop> {
    let body = body::read(s, &app.live().limits).await?;
    body::check_type(s, &body)?;
    let head = s.req_header();
    let query = head.uri.query().unwrap_or_default();
    let caller = ctx.caller.as_ref();
    let request = api::Request {
        id,
        query,
        body: &body,
        headers: &head.headers,
        caller,
        address: admission::address(app, s),
        request_id: &ctx.id,
    };
    let answer = api::answer(app, route, request).await?;
    let mut reply = Reply::new(answer.status, answer.content_type, answer.body);
    reply.headers = answer.headers;
    Ok(reply::write(s, ctx, reply).await?)
}

/// Agents probe with `HEAD` before they call. It needs no key, and tells no more than that the route exists.
async fn probe(
    s: &mut Session,
    ctx: &mut RequestContext,
    route: &'static Route,
) -> Result<(), Stop> {
    ctx.route = Some(route);
    Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, "")).await?)
}

async fn options(
    s: &mut Session,
    ctx: &mut RequestContext,
    route: &'static Route,
) -> Result<(), Stop> {
    ctx.route = Some(route);
    let mut reply = Reply::new(StatusCode::NO_CONTENT, JSON, "");
    reply.headers.push((ALLOW, HeaderValue::from_static(allow(route))));
    Ok(reply::write(s, ctx, reply).await?)
}

/// The first-declared method of a path, as the reference names it.
fn allow(route: &Route) -> &'static str {
    match route.method {
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// Codex tries a WebSocket first and falls back at once on 426; any other status costs it seven tries.
fn no_socket(s: &Session) -> Rejection {
    let wants = s
        .get_header(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if wants {
        let message = "WebSocket is not offered: POST to /v1/responses instead";
        return Rejection::new(Code::UpgradeRequired, message);
    }
    let message = "Method Not Allowed: /v1/responses answers POST";
    Rejection { allow: Some("POST"), ..Rejection::new(Code::MethodNotAllowed, message) }
}
