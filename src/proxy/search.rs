//! Web search: the gates in their order, the search, and its row.
//!
//! A search has a flat price under `<engine>:<tool>`, in USD per million searches; what an engine says that a search
//! cost wins over it. A tool without a price is free of charge, and is not refused for it.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use otari_filters::control::{Attempt, Claim};
use otari_filters::money::MicroUsd;
use otari_filters::providers::Operation;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::{Estimate, Measure};
use otari_filters::search::{Found, Query};
use otari_filters::upstream::Upstream;
use otari_filters::validate;
use pingora_proxy::Session;
use serde_json::{Value, json};

use crate::api;
use crate::app::{App, Mode, Standalone};
use crate::clock;
use crate::control::rates::Taken;
use crate::proxy::call::Stop;
use crate::proxy::open::{Ending, Open, Origin};
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{RequestContext, body, gates, refusals};
use crate::search::{SearchError, Tool};

/// Of rows; the tool in the path is the row's model.
const ENDPOINT: &str = "/v1/search";

/// Serves one search. `tool`: as the path names it, still escaped.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    tool: Option<&str>,
) -> Result<(), Stop> {
    let Mode::Standalone(standalone) = &app.mode else {
        return Err(Rejection::internal("a route of the other mode was found").into());
    };
    let body = body::read(s, &app.live().limits).await?;
    body::check_type(s, &body)?;
    let named = tool.zip(ctx.route).map(|(sent, route)| api::variable(route, sent)).transpose()?;
    let body = match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(validate::not_an_object(&body).into()),
        Err(error) => return Err(validate::not_json(&body, &error).into()),
    };
    let query = Query::read(&body)?;
    let (tool, mut open) = match pass_gates(app, standalone, ctx, &query, named.as_deref()).await {
        Err(Stop::Refused(refused)) => {
            refusals::note(app, ctx, ENDPOINT, Operation::Chat, &refused).await;
            return Err(Stop::Refused(refused));
        }
        passed => passed?,
    };
    open.mark_sent(true);
    let found = tool.search(&standalone.outbound, &query).await;
    end(&mut open, &found);
    ctx.outcome.attempts = open.attempts();
    ctx.outcome.cost = open.cost();
    let found = found.map_err(|error| error.rejection())?;
    let results = json!({"object": "search", "search_tool": tool.name, "results": found.hits});
    let mut reply = Reply::new(StatusCode::OK, JSON, results.to_string());
    reply.headers = reply::quota_headers(ctx);
    Ok(reply::write(s, ctx, reply).await?)
}

/// Who pays, within their rate; which tool; whether they may, and can pay for it.
async fn pass_gates(
    app: &Arc<App>,
    standalone: &Standalone,
    ctx: &mut RequestContext,
    query: &Query,
    tool: Option<&str>,
) -> Result<(Arc<Tool>, Open), Stop> {
    let caller = ctx.caller.clone().ok_or_else(|| Rejection::internal("no caller"))?;
    let billed = app.control.bill(&caller, query.user.as_deref())?;
    let payer = billed.user_id.ok_or_else(|| Rejection::internal("nobody pays for a search"))?;
    ctx.user_id = Some(payer.clone());
    if let Some(limiter) = &*app.limiter.load() {
        let admitted = limiter.admit(&payer, Instant::now());
        ctx.quota = Some(admitted.inspect_err(|_| app.metrics.rate_limit_hits.inc())?);
    }
    let mut taken = Taken::default();
    let estimate = Estimate::by(Measure::Call);
    gates::within_rates(app, ctx, Some(&payer), None, estimate, &mut taken).await?;
    let tool = standalone.search.load().pick(tool.or(query.tool.as_deref()))?.clone();
    ctx.outcome.model = Some(tool.name.clone());
    ctx.outcome.provider = Some(tool.engine.as_str().into());
    let upstream = tool.upstream()?.clone();
    if !standalone.local.permits(&caller, &payer, tool.engine.as_str(), &tool.name) {
        let key = format!("{}:{}", tool.engine.as_str(), tool.name);
        let message = format!("Model '{key}' is not permitted for this API key.");
        return Err(Rejection::new(Code::ModelNotPermitted, message).into());
    }
    let attempt = attempt(standalone, &upstream, &tool);
    let flat = estimate.measure.cost(attempt.prices.as_deref());
    let claim = Claim {
        caller: &caller,
        user_id: &payer,
        attempts: std::slice::from_ref(&attempt),
        estimate: flat.unwrap_or_default(),
        free: flat == Some(MicroUsd::ZERO),
    };
    let reservation = app.control.reserve(claim).await?;
    let origin = Origin {
        request_id: ctx.id.clone(),
        key_id: caller.key_id().cloned(),
        user_id: Some(payer),
        endpoint: ENDPOINT,
        session_label: None,
        started: ctx.started,
    };
    let mut open = Open::new(app.clone(), origin, estimate, Some(reservation));
    open.keep(taken);
    open.begin(&attempt);
    Ok((tool, open))
}

/// The search is over: it costs what the engine says, else the flat price; nothing when it failed.
fn end(open: &mut Open, found: &Result<Found, SearchError>) {
    let ending = match found {
        Ok(found) => {
            if let Some(cost) = found.cost {
                open.observe_cost(cost);
            }
            Ending::Complete { streamed: false }
        }
        Err(error) => Ending::Failed {
            reason: format!("{}: {error}", error.as_str()).into(),
            status: error.status().unwrap_or(error.rejection().code.status().as_u16()),
            class: None,
        },
    };
    open.end(&ending);
}

/// The tool as budgets and prices see it: a model of its engine.
fn attempt(standalone: &Standalone, upstream: &Arc<Upstream>, tool: &Tool) -> Attempt {
    let local = &standalone.local;
    let engine = tool.engine.as_str();
    let price = local.directory.price(engine, upstream.kind, &tool.name, clock::now_us());
    Attempt {
        upstream: upstream.clone(),
        model: tool.name.clone(),
        billed_model: tool.name.clone(),
        prices: price.map(|price| price.prices),
        is_listed: true,
        is_alias: false,
        id: None,
        position: 0,
        reason: None,
        first_event_timeout: None,
    }
}
