//! Web search: the gates in their order, the search, and its row.
//!
//! A search has a flat price under `<engine>:<tool>`, in USD per million searches; what an engine says that a search
//! cost wins over it. A tool without a price is free of charge, and is not refused for it.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use otari_filters::control::{Attempt, Caller, Claim, Reservation};
use otari_filters::money::{MicroUsd, cost};
use otari_filters::providers::Operation;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::search::{self, Found, Query};
use otari_filters::settle::{Finished, Status, UsageRecord};
use otari_filters::upstream::Upstream;
use otari_filters::validate;
use pingora_proxy::Session;
use serde_json::{Value, json};

use crate::api;
use crate::app::{App, Mode, Standalone};
use crate::clock;
use crate::life::{Call, Entered};
use crate::proxy::call::Stop;
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{RequestContext, body, refusals};
use crate::search::{SearchError, Tool};

/// Of rows; the tool in the path is the row's model.
const ENDPOINT: &str = "/v1/search";
/// Longest reason kept in a row.
const MAX_REASON_CHARS: usize = 500;

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
    let found = tool.search(&standalone.outbound, &query).await;
    ctx.outcome.attempts = 1;
    ctx.outcome.cost = open.end(&found);
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
    let flat = attempt.prices.as_ref().map(|prices| cost(&[(1, prices.input)]));
    let claim = Claim {
        caller: &caller,
        user_id: &payer,
        attempts: std::slice::from_ref(&attempt),
        estimate: flat.unwrap_or_default(),
        free: flat == Some(MicroUsd::ZERO),
    };
    let reservation = app.control.reserve(claim).await?;
    let open = Open::new(app, ctx, &caller, &payer, &tool, flat, reservation);
    Ok((tool, open))
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

/// A search that has not ended: its hold, and the row it will leave. Ends once, also when it is dropped, which is how a
/// panic ends.
struct Open {
    app: Arc<App>,
    request_id: Box<str>,
    key_id: Option<Arc<str>>,
    user_id: Arc<str>,
    engine: &'static str,
    tool: Box<str>,
    started: Instant,
    flat: Option<MicroUsd>,
    /// `None`: it has ended.
    reservation: Option<Reservation>,
    /// For the operator who asks what is under way.
    _entered: Entered,
}

impl Open {
    fn new(
        app: &Arc<App>,
        ctx: &RequestContext,
        caller: &Caller,
        payer: &Arc<str>,
        tool: &Tool,
        flat: Option<MicroUsd>,
        reservation: Reservation,
    ) -> Self {
        let engine = tool.engine.as_str();
        let entered = app.calls.enter(Call {
            id: ctx.id.clone(),
            endpoint: ENDPOINT,
            model: tool.name.clone(),
            provider: engine.into(),
            user_id: payer.clone(),
            api_key_id: caller.key_id().cloned(),
            policy_name: None,
            started: ctx.started,
        });
        Self {
            app: app.clone(),
            request_id: ctx.id.clone(),
            key_id: caller.key_id().cloned(),
            user_id: payer.clone(),
            engine,
            tool: tool.name.clone(),
            started: ctx.started,
            flat,
            reservation: Some(reservation),
            _entered: entered,
        }
    }

    /// Settles; durable when this returns. Gives what it cost.
    fn end(&mut self, found: &Result<Found, SearchError>) -> Option<MicroUsd> {
        let mut record = self.record();
        match found {
            Ok(found) => {
                record.status = Status::Success;
                record.cost = search::cost(found, self.flat);
            }
            Err(error) => {
                let reason = format!("{}: {error}", error.as_str());
                record.error_message = Some(reason.chars().take(MAX_REASON_CHARS).collect());
                let status = error.rejection().code.status().as_u16();
                record.status_code = Some(error.status().unwrap_or(status));
            }
        }
        let outcome = found.as_ref().map_or_else(SearchError::as_str, |_| "success");
        self.settle(record, outcome)
    }

    fn settle(&mut self, record: UsageRecord, outcome: &str) -> Option<MicroUsd> {
        let reservation = self.reservation.take()?;
        let cost = record.cost;
        self.app.metrics.attempt(self.engine, outcome);
        let usd = cost.map(MicroUsd::to_f64);
        self.app.metrics.usage(self.engine, &self.tool, 0, 0, usd);
        let finished = Finished { record, reservation: Some(reservation), report: None };
        // Standalone: nobody is to be waited for.
        drop(self.app.control.settle(finished));
        cost
    }

    fn record(&self) -> UsageRecord {
        let (id, tool) = (self.request_id.clone(), self.tool.clone());
        let bare = UsageRecord::new(id, clock::now_us(), ENDPOINT, tool, Status::Error);
        UsageRecord {
            api_key_id: self.key_id.clone(),
            user_id: Some(self.user_id.clone()),
            provider: Some(self.engine.into()),
            prompt_tokens: Some(0),
            completion_tokens: Some(0),
            total_tokens: Some(0),
            ..bare.after(self.started.elapsed())
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.reservation.is_some() {
            let mut record = self.record();
            // The engine may have begun to work, and nobody knows whether it will bill.
            record.cost = self.flat;
            record.error_message = Some("gateway_panic".into());
            record.status_code = Some(500);
            self.settle(record, "gateway_panic");
        }
    }
}
