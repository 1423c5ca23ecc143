//! `POST /v1/chat/completions`: the gates in their order, then the exchange.
//!
//! The order is the reference gateway's, except that credentials are checked before the body is read.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use otari_filters::control::{Attempt, Claim};
use otari_filters::prices::Prices;
use otari_filters::protocol::chat::Request;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::Estimate;
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::Watch;
use crate::proxy::open::{Open, Origin};
use crate::proxy::{RequestContext, body, exchange, refusals, relay};

const ENDPOINT: &str = "/v1/chat/completions";

/// Serves one chat completion.
pub(super) async fn complete(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
) -> Result<(), Stop> {
    let body = body::read(s, &app.config.limits).await?;
    body::check_type(s, &body)?;
    let request = Request::read(&body)?;
    ctx.outcome.model = Some(request.model.as_str().into());
    let mut call = match pass_gates(app, ctx, request, body).await {
        Err(Stop::Refused(refused)) => {
            refusals::note(app, ctx, ENDPOINT, &refused).await;
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
) -> Result<Call, Stop> {
    let caller = ctx.caller.clone().ok_or_else(|| Rejection::internal("no caller"))?;
    if request.model.trim().is_empty() {
        let message = "Invalid request: model is required";
        return Err(Rejection::new(Code::ModelNotFound, message).into());
    }
    let billed = app.control.bill(&caller, request.user.as_deref())?;
    ctx.user_id = Some(billed.user_id.clone());
    if let Some(limiter) = &app.limiter {
        let admitted = limiter.admit(&billed.user_id, Instant::now());
        ctx.quota = Some(admitted.inspect_err(|_| app.metrics.rate_limit_hits.inc())?);
    }
    // Where it would go decides whether it may and what it would cost; a name that leads nowhere is refused behind the
    // budget gate.
    let resolved = match app.control.resolve(&caller, &billed.user_id, &request.model).await {
        Err(refused) if refused.code == Code::ModelNotPermitted => return Err(refused.into()),
        resolved => resolved,
    };
    let prices = resolved.as_ref().ok().and_then(|attempts| attempts[0].prices.clone());
    let estimate = estimate(app, &request);
    let is_free = prices.as_ref().is_some_and(|prices| prices.is_free());
    let hold = estimate.cost(prices.as_deref());
    let attempts = resolved.as_deref().unwrap_or_default();
    let claim = Claim {
        caller: &caller,
        user_id: &billed.user_id,
        attempts,
        estimate: hold,
        free: is_free,
    };
    let reservation = app.control.reserve(claim).await?;
    let origin = Origin {
        request_id: ctx.id.clone(),
        key_id: caller.key_id().cloned(),
        user_id: billed.user_id,
        endpoint: ENDPOINT,
        started: ctx.started,
    };
    // From here on every way out gives the hold back.
    let mut open = Open::new(app.clone(), origin, estimate, reservation);
    let attempts = priced(app, &request, resolved, prices.as_deref())?;
    refuse_unserved(&request)?;
    open.set_candidates(attempts.len());
    Ok(Call { request, body, keeps_user: billed.keeps_label, attempts, open })
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
    resolved: Result<Vec<Attempt>, Rejection>,
    prices: Option<&Prices>,
) -> Result<Vec<Attempt>, Rejection> {
    let is_ambiguous = resolved.as_ref().is_err_and(|refused| refused.code == Code::AmbiguousModel);
    if app.settings.load().require_pricing && prices.is_none() && !is_ambiguous {
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
fn refuse_unserved(request: &Request) -> Result<(), Rejection> {
    let asked = request
        .gateway_features
        .iter()
        .find(|field| matches!(**field, "mcp_servers" | "mcp_server_ids" | "guardrails"));
    match asked {
        Some(&"mcp_server_ids") => Err(Rejection::new(
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
