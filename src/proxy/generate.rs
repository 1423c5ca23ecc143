//! Generations: chat completions, messages, responses. The gates, then the exchange.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use otari_filters::control::{Caller, Wanted};
use otari_filters::protocol::{Protocol, Request, messages};
use otari_filters::providers::Operation;
use otari_filters::rejection::Rejection;
use otari_filters::reserve::Estimate;
use otari_filters::{route, tokens, tools};
use pingora_proxy::Session;

use crate::app::{App, Mode};
use crate::proxy::call::{Asked, Call, Stop};
use crate::proxy::exchange::{Failed, Watch};
use crate::proxy::gates::{self, Asks, Passed};
use crate::proxy::relay::Relay;
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::tools::Tools;
use crate::proxy::{self, RequestContext, attach, body, exchange, refusals};

/// Serves one generation.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    protocol: Protocol,
) -> Result<(), Stop> {
    let body = body::read(s, &app.live().limits).await?;
    body::check_type(s, &body)?;
    // What this gateway put into earlier answers means nothing to a provider.
    let body = tools::strip_marks(protocol, &body).unwrap_or(body);
    let request = Request::read(protocol, &body)?;
    ctx.outcome.model = Some(request.model.as_str().into());
    let no_router = !wants_router(s)?;
    let mut call = match pass_gates(app, ctx, request, body, no_router).await {
        Err(refused) => {
            refusals::note(app, ctx, protocol.route(), Operation::Chat, &refused).await;
            return Err(refused.into());
        }
        Ok(call) => call,
    };
    // Most want nothing of the gateway itself, and pay for nothing of it.
    let Some(wanted) = proxy::tools::claim(app, &call)? else {
        return answer(app, s, ctx, &mut call).await;
    };
    let names_servers = !wanted.mcp.is_empty();
    let mut watch = Watch::new(app, ctx.started, true);
    let ready = watch.own(s, Box::pin(proxy::tools::ready(app, ctx, &mut call, wanted))).await;
    match ready.map_err(Failed::into_stop)? {
        Ok(None) => answer(app, s, ctx, &mut call).await,
        Ok(Some(tools)) => Box::pin(answer_with(app, s, ctx, &mut call, tools)).await,
        Err(refused) => {
            call.fail_unasked(&refused, names_servers).await;
            refusals::note(app, ctx, protocol.route(), Operation::Chat, &refused).await;
            Err(refused.into())
        }
    }
}

/// How many tokens a messages request has: by the tokenizer of the model that it would go to, where that is known, else
/// about. Nobody is called, and nothing is billed.
pub(super) async fn count_tokens(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
) -> Result<(), Stop> {
    let body = body::read(s, &app.live().limits).await?;
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
    let wanted = Wanted { model, no_router: true, operation: Operation::Chat, is_own: false };
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
pub(super) fn wants_router(s: &Session) -> Result<bool, Rejection> {
    let Some(said) = s.get_header("otari-router") else { return Ok(true) };
    // Anything but ASCII is neither word.
    route::wants_router(Some(said.to_str().unwrap_or("?")))
}

/// Asks the providers and passes the first answer on.
pub(super) async fn answer(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
) -> Result<(), Stop> {
    let mut watch = Watch::new(app, ctx.started, call.asked.streams());
    let result = match exchange::run(app, s, ctx, call, &mut watch).await {
        Ok(answer) => Relay { app, s, ctx, call, watch: &mut watch }.run(answer).await,
        Err(stop) => Err(stop),
    };
    note(ctx, call);
    result
}

/// Asks the providers, runs what is the gateway's to run, asks again, and passes the last answer on.
async fn answer_with(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    call: &mut Call,
    tools: Tools,
) -> Result<(), Stop> {
    let mut watch = Watch::new(app, ctx.started, call.asked.streams());
    let result = match exchange::run(app, s, ctx, call, &mut watch).await {
        Ok(answer) => {
            Relay { app, s, ctx, call, watch: &mut watch }.run_rounds(answer, &tools).await
        }
        Err(stop) => Err(stop),
    };
    note(ctx, call);
    tools.close().await;
    result
}

/// What the log line says of a call.
fn note(ctx: &mut RequestContext, call: &Call) {
    ctx.outcome.attempts = call.open.attempts();
    ctx.outcome.usage = call.open.usage();
    ctx.outcome.cost = call.open.cost();
}

async fn pass_gates(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    request: Request,
    body: Bytes,
    no_router: bool,
) -> Result<Box<Call>, Rejection> {
    let asks = Asks {
        model: &request.model,
        user: request.user.as_deref(),
        endpoint: ctx.own.unwrap_or(request.protocol.route()),
        operation: Operation::Chat,
        no_router,
        estimate: estimate(app, &request),
        needs_price: true,
        session_label: request.session_label.clone(),
    };
    let Passed { plan, open, keeps_user } = gates::pass(app, ctx, &asks).await?;
    let attachments = match request.has_media {
        true => Box::pin(attach::load(app, ctx, &request, &body)).await?,
        false => None,
    };
    let asked = Asked::Generation(request);
    Ok(Box::new(Call { asked, body, attachments, keeps_user, plan, at: 0, open }))
}

fn estimate(app: &App, request: &Request) -> Estimate {
    let default = app.settings.load().budget_estimate_default_output_tokens;
    let whole =
        Estimate::new(request.prompt_chars, request.declared_output, default, request.choices);
    if request.stream { whole.first_step(app.live().stream_hold_output_tokens) } else { whole }
}
