//! The end of every request: one line and the metrics.

use otari_filters::control::Caller;
use pingora_core::prelude::{Error, ErrorSource};
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::routes::Handler;
use crate::telemetry::logs::Line;
use crate::telemetry::metrics::Limit;

/// Runs exactly once per request whose header was read, whatever happened.
pub(super) fn finish(app: &App, s: &Session, error: Option<&Error>, ctx: &mut RequestContext) {
    let took = ctx.started.elapsed();
    let outcome = &mut ctx.outcome;
    if outcome.status == 0 {
        outcome.status = s.response_written().map_or(499, |head| head.status.as_u16());
    }
    if let Some(error) = error {
        outcome.code.get_or_insert(match error.esource() {
            ErrorSource::Downstream => "client_disconnected",
            _ => "internal_error",
        });
        outcome.error.get_or_insert_with(|| error.to_string());
    }
    if let Some(limit) = outcome.code.and_then(Limit::of) {
        app.metrics.limit(limit);
    }
    let endpoint = ctx.route.map_or("unmatched", |route| route.template);
    let method = method_label(s.req_header().method.as_str());
    if ctx.route.is_none_or(|route| route.handler != Handler::Metrics) {
        app.metrics.request(method, endpoint, outcome.status, took);
    }
    ctx.in_flight = None;
    let latency_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
    app.access.push(&Line {
        id: &ctx.id,
        method,
        endpoint,
        status: outcome.status,
        code: outcome.code.unwrap_or("ok"),
        key_id: ctx.caller.as_ref().and_then(Caller::key_id).map(AsRef::as_ref),
        user_id: ctx.user_id.as_deref(),
        model: outcome.model.as_deref(),
        provider: outcome.provider.as_deref(),
        streamed: outcome.streamed,
        attempts: outcome.attempts,
        tokens: outcome.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)),
        cost: outcome.cost,
        first_byte_ms: outcome.first_byte_ms,
        latency_ms,
        error: outcome.error.as_deref(),
    });
}

/// The method as a label: whatever else a caller invents is one label.
fn method_label(method: &str) -> &'static str {
    match method {
        "GET" => "GET",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        _ => "other",
    }
}
