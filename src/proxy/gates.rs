//! The gates of every call that may cost something, in their order: who pays, within their rate, where to, may they, at
//! which price.
//!
//! The order is the reference gateway's, except that credentials are checked before the body is read. Where a platform
//! decides there is one gate, `resolve`: nobody here pays, and so nothing is limited, priced or held.

use std::sync::Arc;
use std::time::Instant;

use otari_filters::control::{Attempt, Claim, Plan, Reservation, Wanted};
use otari_filters::prices::Prices;
use otari_filters::protocol::Protocol;
use otari_filters::providers::Operation;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::{Estimate, Measure};

use crate::app::App;
use crate::control::rates::{Taken, Who};
use crate::proxy::RequestContext;
use crate::proxy::open::{Open, Origin};

/// What the gates look at.
pub(super) struct Asks<'a> {
    /// The selector as sent.
    pub(super) model: &'a str,
    /// Whom the request names.
    pub(super) user: Option<&'a str>,
    /// The route's template: what rows say.
    pub(super) endpoint: &'static str,
    /// What it is for.
    pub(super) operation: Operation,
    /// The caller wants no router to choose.
    pub(super) no_router: bool,
    /// What it may use.
    pub(super) estimate: Estimate,
    /// Whether a model without a price is refused where prices are required.
    pub(super) needs_price: bool,
    pub(super) session_label: Option<Arc<str>>,
}

/// What a call has behind the gates.
pub(super) struct Passed {
    /// Where it may go; never empty.
    pub(super) plan: Plan,
    /// The hold.
    pub(super) open: Open,
    /// `user` is the caller's own label and goes on to the provider.
    pub(super) keeps_user: bool,
}

/// Leads a call through the gates. Every way out gives back what was held.
///
/// # Errors
/// What the caller is told instead.
pub(super) async fn pass(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    asks: &Asks<'_>,
) -> Result<Passed, Rejection> {
    let caller = ctx.caller.clone().ok_or_else(|| Rejection::internal("no caller"))?;
    if asks.model.trim().is_empty() {
        let message = "Invalid request: model is required";
        return Err(Rejection::new(Code::ModelNotFound, message));
    }
    let billed = app.control.bill(&caller, asks.user);
    let billed = billed.map_err(|refused| name_user(refused, ctx.protocol))?;
    ctx.user_id = billed.user_id.clone();
    if let (Some(limiter), Some(user_id), None) = (&*app.limiter.load(), &billed.user_id, ctx.own) {
        let admitted = limiter.admit(user_id, Instant::now());
        ctx.quota = Some(admitted.inspect_err(|_| app.metrics.rate_limit_hits.inc())?);
    }
    let mut taken = Taken::default();
    let payer = billed.user_id.as_ref();
    within_rates(app, ctx, payer, None, asks.estimate, &mut taken).await?;
    // Where it would go decides whether it may and what it would cost; a name that leads nowhere is refused behind the
    // budget gate.
    let wanted = Wanted {
        model: asks.model,
        no_router: asks.no_router,
        operation: asks.operation,
        is_own: ctx.own.is_some(),
    };
    let resolved = match app.control.resolve(&caller, billed.user_id.as_deref(), wanted).await {
        Err(refused) if refused.code == Code::ModelNotPermitted => return Err(refused),
        resolved => resolved,
    };
    if let Some(first) = resolved.as_ref().ok().and_then(|plan| plan.attempts.first()) {
        within_rates(app, ctx, payer, Some(first), asks.estimate, &mut taken).await?;
    }
    let prices = resolved.as_ref().ok().and_then(|plan| plan.attempts[0].prices.clone());
    let mut reservation: Option<Reservation> = None;
    if let Some(user_id) = &billed.user_id {
        let claim = Claim {
            caller: &caller,
            user_id,
            attempts: resolved.as_ref().map_or(&[], |plan| plan.attempts.as_slice()),
            estimate: asks.estimate.cost(prices.as_deref()),
            free: prices.as_ref().is_some_and(|prices| prices.is_free()),
        };
        reservation = Some(app.control.reserve(claim).await?);
    }
    let pays = reservation.is_some();
    let origin = Origin {
        request_id: ctx.id.clone(),
        key_id: caller.key_id().cloned(),
        user_id: billed.user_id,
        endpoint: asks.endpoint,
        session_label: asks.session_label.clone(),
        started: ctx.started,
    };
    // From here on every way out gives the hold back.
    let mut open = Open::new(app.clone(), origin, asks.estimate, reservation);
    open.keep(taken);
    let plan = if pays { priced(app, asks, resolved, prices.as_deref())? } else { resolved? };
    ctx.plan_id = plan.request_id.clone();
    open.set_plan(&plan);
    // Agents put texts of their own into Anthropic's `metadata.user_id`; no platform asks for it.
    let keeps_user = billed.keeps_label || (!pays && ctx.protocol == Protocol::Messages);
    Ok(Passed { plan, open, keeps_user })
}

/// Takes the call out of the limits of rates that can be judged now: those of a key or a user before `first`, where the
/// call goes first, is known, the others then. What the gateway asks by itself for a caller's sake is none of theirs.
///
/// # Errors
/// `rate_limited`.
pub(super) async fn within_rates(
    app: &App,
    ctx: &mut RequestContext,
    user_id: Option<&Arc<str>>,
    first: Option<&Attempt>,
    estimate: Estimate,
    taken: &mut Taken,
) -> Result<(), Rejection> {
    let Some(caller) = ctx.caller.as_ref().filter(|_| ctx.own.is_none()) else { return Ok(()) };
    let who = Who { caller, user_id };
    let model = first.map(|first| (&*first.upstream.instance, &*first.billed_model));
    let tokens = match estimate.measure {
        Measure::Tokens => estimate.prompt_tokens.saturating_add(estimate.output_tokens),
        _ => 0,
    };
    app.rates.admit(&app.metrics, who, model, tokens, taken).await?;
    ctx.rates = taken.told;
    Ok(())
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

/// The price gate, then the refusal of a name that leads nowhere.
fn priced(
    app: &App,
    asks: &Asks<'_>,
    resolved: Result<Plan, Rejection>,
    prices: Option<&Prices>,
) -> Result<Plan, Rejection> {
    // A price would help neither.
    let is_hopeless = resolved
        .as_ref()
        .is_err_and(|refused| matches!(refused.code, Code::AmbiguousModel | Code::Unsupported));
    let needs_price = asks.needs_price && app.settings.load().require_pricing;
    if needs_price && prices.is_none() && !is_hopeless {
        let message = format!(
            "No pricing configured for model '{}', and require_pricing is on. Add a price with POST /v1/pricing or \
             in the pricing section of config.yml, set default_pricing to true for public list prices, or set \
             require_pricing to false",
            asks.model
        );
        return Err(Rejection::new(Code::NoPrice, message));
    }
    resolved
}
