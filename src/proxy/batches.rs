//! Batches: the gates before one is made, and results, which pass in pieces.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use otari_filters::control::{Attempt, Caller, Claim, Reservation, Wanted};
use otari_filters::money::MicroUsd;
use otari_filters::providers::Operation;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::{Estimate, Measure};
use otari_filters::settle::{Finished, Status};
use pingora_core::prelude::{Error, ErrorType};
use pingora_proxy::Session;
use serde_json::{Map, Value};

use crate::api::Request;
use crate::api::batches as api;
use crate::app::{App, Mode, Standalone};
use crate::batches::{self, Asker, CREATED, Held, Order, Results, Tally};
use crate::control::rates::Taken;
use crate::proxy::call::Stop;
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{RequestContext, admission, body, gates, refusals};
use crate::routes::BatchVerb;

/// Results are joined to pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// Longest reason kept in a row.
const MAX_REASON_CHARS: usize = 500;

/// Serves a route of batches.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    verb: BatchVerb,
    id: Option<&str>,
) -> Result<(), Stop> {
    let Mode::Standalone(mode) = &app.mode else {
        return Err(Rejection::internal("a route of the other mode was found").into());
    };
    let body = body::read(s, &app.live().limits).await?;
    body::check_type(s, &body)?;
    let head = s.req_header();
    let query = head.uri.query().unwrap_or_default();
    let caller = ctx.caller.clone().ok_or_else(|| Rejection::internal("no caller"))?;
    let request_id = ctx.id.clone();
    let request = Request {
        id,
        query,
        body: &body,
        headers: &head.headers,
        caller: Some(&caller),
        address: admission::address(app, s),
        request_id: &request_id,
    };
    if verb == BatchVerb::Create {
        let batch = create(app, mode, ctx, &caller, request).await?;
        return Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, json(&batch)?)).await?);
    }
    let query = api::read_query(verb, request)?;
    let asker = Asker::of(&caller)?;
    ctx.user_id = asker.user().cloned();
    let provider = query.provider.as_deref();
    if verb == BatchVerb::List {
        let listed =
            batches::list(mode, &asker, provider, query.after.as_deref(), query.limit).await?;
        let page = api::page(listed.batches, listed.has_more)?;
        return Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, page)).await?);
    }
    let id = api::read_id(id)?;
    let found = batches::find(mode, &asker, &id, provider).await?;
    let shown = match verb {
        BatchVerb::Results => {
            let results = batches::results(mode, &asker, &id, found).await?;
            return pass(mode, s, ctx, &asker, &caller, results).await;
        }
        BatchVerb::Cancel => batches::cancel(mode, &asker, &id, &found).await?,
        _ => batches::get(mode, &asker, &id, &found).await?,
    };
    Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, json(&shown)?)).await?)
}

fn json(batch: &Map<String, Value>) -> Result<Vec<u8>, Rejection> {
    serde_json::to_vec(batch).map_err(Rejection::internal)
}

/// Makes a batch, and leaves its row.
async fn create(
    app: &Arc<App>,
    mode: &Arc<Standalone>,
    ctx: &mut RequestContext,
    caller: &Caller,
    request: Request<'_>,
) -> Result<Map<String, Value>, Rejection> {
    let mut new = api::read_new(request)?;
    if let Some(id) = &new.input_file_id {
        let user = app.control.bill(caller, new.user.as_deref())?.user_id;
        let at_most = app.live().limits.max_request_bytes;
        let file = mode.files.read(user.as_deref(), id, at_most).await.map_err(Rejection::from)?;
        let file = file.ok_or_else(|| Rejection::new(Code::NotFound, "File not found"))?;
        (new.model, new.items) = api::read_lines(&file.bytes)?;
    }
    ctx.outcome.model = Some(new.model.as_str().into());
    let (attempt, reservation) = match pass_gates(app, ctx, caller, &new).await {
        Ok(passed) => passed,
        Err(refused) => {
            refusals::note(app, ctx, CREATED, Operation::Chat, &refused).await;
            return Err(refused);
        }
    };
    ctx.outcome.provider = Some(attempt.upstream.instance.clone());
    let (payer, counts) = (reservation.user_id.clone(), reservation.counts);
    let order = Order {
        caller,
        user_id: payer.clone(),
        selector: &new.model,
        attempt: &attempt,
        items: new.items,
        window: new.window,
        metadata: new.metadata,
        input_file_id: new.input_file_id,
    };
    let made = batches::make(mode, &order, Held::new(mode.local.clone(), reservation)).await;
    if let Err(refused) = &made
        && refused.code == Code::BudgetExceeded
    {
        refusals::note(app, ctx, CREATED, Operation::Chat, refused).await;
        return made;
    }
    let instance = &attempt.upstream.instance;
    let mut record = batches::record(CREATED, &attempt.billed_model, Some(instance), ctx.started);
    record.id = ctx.id.clone();
    record.request_group_id = ctx.id.clone();
    record.user_id = Some(payer);
    record.counts_toward_budget = counts;
    record.api_key_id = caller.key_id().cloned();
    if let Err(refused) = &made {
        let reason = format!("{}: {}", refused.code.as_str(), refused.message);
        record.status = Status::Error;
        record.status_code = Some(refused.code.status().as_u16());
        record.error_message =
            Some(reason.chars().take(MAX_REASON_CHARS).collect::<String>().into());
    }
    // A body that is refused says nothing of the provider.
    let is_callers = made.as_ref().is_err_and(|refused| refused.code == Code::InvalidFields);
    if !is_callers {
        app.control.settle(Finished { record, reservation: None, report: None });
    }
    made
}

/// Who pays, within their rate; where to, and whether they may; whether anything is left of their budget.
async fn pass_gates(
    app: &App,
    ctx: &mut RequestContext,
    caller: &Caller,
    new: &api::NewBatch,
) -> Result<(Attempt, Reservation), Rejection> {
    let billed = app.control.bill(caller, new.user.as_deref())?;
    let user_id = billed.user_id.ok_or_else(|| Rejection::internal("nobody pays"))?;
    ctx.user_id = Some(user_id.clone());
    if let Some(limiter) = &*app.limiter.load() {
        let admitted = limiter.admit(&user_id, Instant::now());
        ctx.quota = Some(admitted.inspect_err(|_| app.metrics.rate_limit_hits.inc())?);
    }
    // Its items are calls of their own, where the gateway makes them.
    let (one, mut taken) = (Estimate::by(Measure::Call), Taken::default());
    gates::within_rates(app, ctx, Some(&user_id), None, one, &mut taken).await?;
    let wanted =
        Wanted { model: &new.model, no_router: false, operation: Operation::Chat, is_own: false };
    let resolved = match app.control.resolve(caller, Some(&user_id), wanted).await {
        Err(refused) if refused.code == Code::ModelNotPermitted => return Err(refused),
        resolved => resolved,
    };
    let attempts = resolved.as_ref().map_or(&[][..], |plan| plan.attempts.as_slice());
    // Whether anything is left at all; what its items may cost is held when they have been read.
    let claim =
        Claim { caller, user_id: &user_id, attempts, estimate: MicroUsd::ZERO, free: false };
    let reservation = app.control.reserve(claim).await?;
    let attempt = match resolved {
        Ok(plan) => plan.attempts.into_iter().next(),
        Err(refused) => {
            app.control.release(reservation);
            return Err(unbatched(refused, &new.model));
        }
    };
    match attempt {
        Some(attempt) => Ok((attempt, reservation)),
        None => {
            app.control.release(reservation);
            Err(Rejection::internal("a plan without attempts"))
        }
    }
}

/// A provider that generates no text can have no batches of it.
fn unbatched(refused: Rejection, model: &str) -> Rejection {
    if refused.code != Code::Unsupported {
        return refused;
    }
    let provider = model.split([':', '/']).next().unwrap_or(model);
    let message = format!("Provider '{provider}' does not support batch operations");
    Rejection::new(Code::InvalidFields, message)
}

/// Passes results on as they are read. When the last one is here, what they used is charged; then the end follows.
async fn pass(
    mode: &Standalone,
    s: &mut Session,
    ctx: &mut RequestContext,
    asker: &Asker,
    caller: &Caller,
    mut results: Results,
) -> Result<(), Stop> {
    ctx.outcome.provider = Some(results.upstream.instance.clone());
    let mut tally = Tally::new(mode, &results);
    let mut piece = b"{\"results\":[".to_vec();
    let mut is_begun = false;
    let mut separator: &[u8] = b"";
    loop {
        let line = match results.next(mode).await {
            Ok(line) => line,
            Err(refused) => return Err(broken(refused, is_begun)),
        };
        let Some(line) = line else { break };
        tally.add(&line);
        piece.extend_from_slice(separator);
        separator = b",";
        serde_json::to_writer(&mut piece, &line).map_err(Rejection::internal)?;
        if piece.len() >= PIECE_BYTES {
            if !std::mem::replace(&mut is_begun, true) {
                begin(s, ctx).await?;
            }
            s.write_response_body(Some(std::mem::take(&mut piece).into()), false).await?;
        }
    }
    let asked = Some((asker, caller.key_id()));
    if let Err(refused) = tally.finish(mode, &results, asked, ctx.started).await {
        return Err(broken(refused, is_begun));
    }
    piece.extend_from_slice(b"]}");
    if !is_begun {
        return Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, piece)).await?);
    }
    Ok(s.write_response_body(Some(Bytes::from(piece)), true).await?)
}

/// The head of an answer whose length nobody knows yet.
async fn begin(s: &mut Session, ctx: &mut RequestContext) -> Result<(), Stop> {
    let mut headers = HeaderMap::with_capacity(16);
    reply::common(&mut headers, ctx, false);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    ctx.outcome.status = StatusCode::OK.as_u16();
    Ok(s.write_response_header(reply::head(StatusCode::OK, headers), false).await?)
}

/// What cannot be said any more is shown by an answer that breaks off.
fn broken(refused: Rejection, is_begun: bool) -> Stop {
    if !is_begun {
        return refused.into();
    }
    Stop::Broken(Error::explain(ErrorType::InternalError, refused.to_string()))
}
