//! Generations: chat completions, messages, responses. The gates in their order, then the exchange.
//!
//! The order is the reference gateway's, except that credentials are checked before the body is read. Where a platform
//! decides there is one gate, `resolve`: nobody here pays, and so nothing is limited, priced or held.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use otari_filters::control::{Caller, Claim, Plan, Reservation, Wanted};
use otari_filters::prices::Prices;
use otari_filters::protocol::{Protocol, Request, messages};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::Estimate;
use otari_filters::{route, tokens};
use pingora_proxy::Session;

use crate::app::{App, Mode};
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::Watch;
use crate::proxy::open::{Open, Origin};
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{RequestContext, body, exchange, refusals, relay};

/// Serves one generation.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    protocol: Protocol,
) -> Result<(), Stop> {
    let body = body::read(s, &app.config.limits).await?;
    body::check_type(s, &body)?;
    let request = Request::read(protocol, &body)?;
    ctx.outcome.model = Some(request.model.as_str().into());
    let no_router = !wants_router(s)?;
    let mut call = match pass_gates(app, ctx, request, body, no_router).await {
        Err(Stop::Refused(refused)) => {
            refusals::note(app, ctx, protocol, &refused).await;
            return Err(Stop::Refused(refused));
        }
        passed => passed?,
    };
    let result = answer(app, s, ctx, &mut call).await;
    ctx.outcome.attempts = call.open.attempts();
    ctx.outcome.usage = call.open.usage();
    ctx.outcome.cost = call.open.cost();
    result
}

/// How many tokens a messages request has: by the tokenizer of the model that it would go to, where that is known, else
/// about. Nobody is called, and nothing is billed.
pub(super) async fn count_tokens(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
) -> Result<(), Stop> {
    let body = body::read(s, &app.config.limits).await?;
    body::check_type(s, &body)?;
    let request = messages::count_tokens(&body)?;
    ctx.outcome.model = Some(request.model.as_str().into());
    let exact = match count_target(app, ctx, &request.model).await? {
        Some(model) => {
            // Work for a processor, and not for the thread that serves other callers.
            let count = move || tokens::count_messages(&model, &body);
            tokio::task::spawn_blocking(count).await.unwrap_or_default()
        }
        None => None,
    };
    let answer = format!(r#"{{"input_tokens":{}}}"#, exact.unwrap_or(request.tokens));
    Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, answer)).await?)
}

/// The model by its provider's name whose tokens are to be counted; `None` where the name leads nowhere.
///
/// # Errors
/// What a platform says of the caller; a gateway of its own counts for everybody who has a key.
async fn count_target(
    app: &App,
    ctx: &RequestContext,
    model: &str,
) -> Result<Option<Box<str>>, Rejection> {
    let Some(caller) = &ctx.caller else { return Ok(None) };
    let wanted = Wanted { model, no_router: true };
    let payer = match caller {
        Caller::Key { user_id, .. } => user_id.as_deref(),
        Caller::Master | Caller::Bearer(_) => None,
    };
    match app.control.resolve(caller, payer, wanted).await {
        Ok(plan) => Ok(plan.attempts.into_iter().next().map(|attempt| attempt.model)),
        Err(refused) if matches!(app.mode, Mode::Connected(_)) => Err(refused),
        Err(_) => Ok(None),
    }
}

/// Whether a router may choose among the targets of a policy.
fn wants_router(s: &Session) -> Result<bool, Rejection> {
    let Some(said) = s.get_header("otari-router") else { return Ok(true) };
    // Anything but ASCII is neither word.
    route::wants_router(Some(said.to_str().unwrap_or("?")))
}

/// Asks the providers and passes the first answer on.
async fn answer(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
) -> Result<(), Stop> {
    let mut watch = Watch::new(app, ctx.started, call.request.stream);
    let answer = exchange::run(app, s, ctx, call, &mut watch).await?;
    relay::run(app, s, ctx, call, &mut watch, answer).await
}

async fn pass_gates(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    request: Request,
    body: Bytes,
    no_router: bool,
) -> Result<Call, Stop> {
    let caller = ctx.caller.clone().ok_or_else(|| Rejection::internal("no caller"))?;
    if request.model.trim().is_empty() {
        let message = "Invalid request: model is required";
        return Err(Rejection::new(Code::ModelNotFound, message).into());
    }
    let billed = app.control.bill(&caller, request.user.as_deref());
    let billed = billed.map_err(|refused| name_user(refused, request.protocol))?;
    ctx.user_id = billed.user_id.clone();
    if let (Some(limiter), Some(user_id)) = (&app.limiter, &billed.user_id) {
        let admitted = limiter.admit(user_id, Instant::now());
        ctx.quota = Some(admitted.inspect_err(|_| app.metrics.rate_limit_hits.inc())?);
    }
    // Where it would go decides whether it may and what it would cost; a name that leads nowhere is refused behind the
    // budget gate.
    let wanted = Wanted { model: &request.model, no_router };
    let resolved = match app.control.resolve(&caller, billed.user_id.as_deref(), wanted).await {
        Err(refused) if refused.code == Code::ModelNotPermitted => return Err(refused.into()),
        resolved => resolved,
    };
    let estimate = estimate(app, &request);
    let prices = resolved.as_ref().ok().and_then(|plan| plan.attempts[0].prices.clone());
    let mut reservation: Option<Reservation> = None;
    if let Some(user_id) = &billed.user_id {
        let claim = Claim {
            caller: &caller,
            user_id,
            attempts: resolved.as_ref().map_or(&[], |plan| plan.attempts.as_slice()),
            estimate: estimate.cost(prices.as_deref()),
            free: prices.as_ref().is_some_and(|prices| prices.is_free()),
        };
        reservation = Some(app.control.reserve(claim).await?);
    }
    let pays = reservation.is_some();
    let origin = Origin {
        request_id: ctx.id.clone(),
        key_id: caller.key_id().cloned(),
        user_id: billed.user_id,
        endpoint: request.protocol.route(),
        session_label: request.session_label.clone(),
        started: ctx.started,
    };
    // From here on every way out gives the hold back.
    let mut open = Open::new(app.clone(), origin, estimate, reservation);
    let plan = if pays { priced(app, &request, resolved, prices.as_deref())? } else { resolved? };
    refuse_unserved(&request, pays)?;
    ctx.plan_id = plan.request_id.clone();
    open.set_plan(&plan);
    // Agents put texts of their own into Anthropic's `metadata.user_id`; no platform asks for it.
    let keeps_user = billed.keeps_label || (!pays && request.protocol == Protocol::Messages);
    Ok(Call { request, body, keeps_user, plan, at: 0, open })
}

/// Says where the format has the user.
fn name_user(mut refused: Rejection, protocol: Protocol) -> Rejection {
    if protocol == Protocol::Messages
        && matches!(refused.code, Code::UserRequired | Code::UserMismatch)
    {
        refused.message = refused.message.replace("'user' field", "'metadata.user_id'").into();
    }
    refused
}

fn estimate(app: &App, request: &Request) -> Estimate {
    let default = app.settings.load().budget_estimate_default_output_tokens;
    let whole =
        Estimate::new(request.prompt_chars, request.declared_output, default, request.choices);
    if request.stream { whole.first_step(app.config.stream_hold_output_tokens) } else { whole }
}

/// The price gate, then the refusal of a name that leads nowhere.
fn priced(
    app: &App,
    request: &Request,
    resolved: Result<Plan, Rejection>,
    prices: Option<&Prices>,
) -> Result<Plan, Rejection> {
    // A price would help neither.
    let is_hopeless = resolved
        .as_ref()
        .is_err_and(|refused| matches!(refused.code, Code::AmbiguousModel | Code::Unsupported));
    if app.settings.load().require_pricing && prices.is_none() && !is_hopeless {
        let message = format!(
            "No pricing configured for model '{}', and require_pricing is on. Add a price with POST /v1/pricing or \
             in the pricing section of config.yml, set default_pricing to true for public list prices, or set \
             require_pricing to false",
            request.model
        );
        return Err(Rejection::new(Code::NoPrice, message));
    }
    resolved
}

/// Features of the reference that this version does not run are refused, never silently left out.
fn refuse_unserved(request: &Request, is_standalone: bool) -> Result<(), Rejection> {
    let asked = request
        .gateway_features
        .iter()
        .find(|field| matches!(**field, "mcp_servers" | "mcp_server_ids" | "guardrails"));
    match asked {
        Some(&"mcp_server_ids") if is_standalone => Err(Rejection::new(
            Code::Unsupported,
            "mcp_server_ids is only available in platform mode",
        )),
        Some(field) => Err(Rejection::new(
            Code::Unsupported,
            format!("'{field}' is not supported by this version of the gateway: remove the field"),
        )),
        None => Ok(()),
    }
}
