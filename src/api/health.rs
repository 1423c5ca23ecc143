//! Is it there, can it serve, how is it doing.

use http::StatusCode;
use otari_filters::rejection::{Code, Rejection};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::Answer;
use super::openapi::Operation;
use crate::app::App;

#[derive(Serialize, JsonSchema)]
struct Health {
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Readiness {
    status: &'static str,
    database: &'static str,
    version: &'static str,
}

pub(super) static HEALTH: Operation =
    Operation::new("health", "Whether the gateway serves; 503 while it leaves")
        .answering::<Health>()
        .or_answering::<Health>(503);

pub(super) static LIVENESS: Operation =
    Operation::new("liveness", "Whether the process runs").answering::<&str>();

pub(super) static READINESS: Operation =
    Operation::new("readiness", "Whether the database answers, and the gateway is not leaving")
        .answering::<Readiness>()
        .or_refusing_with::<Readiness>(503);

pub(super) static METRICS: Operation =
    Operation::new("metrics", "Metrics for Prometheus, when `enable_metrics` is on")
        .answering_page(METRICS_TYPE)
        .refusing(&[404]);

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn liveness() -> Result<Answer, Rejection> {
    Answer::json(&"I'm alive!")
}

/// The process serves. 503 while it is leaving, so that balancers turn away.
pub(super) fn health(app: &App) -> Result<Answer, Rejection> {
    if app.life.is_draining() {
        let mut answer = Answer::json(&Health { status: "draining" })?;
        answer.status = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(answer);
    }
    Answer::json(&Health { status: "healthy" })
}

/// The database answers.
pub(super) async fn readiness(app: &App) -> Result<Answer, Rejection> {
    let version = env!("CARGO_PKG_VERSION");
    if app.life.is_draining() {
        return Err(not_ready("connected", "draining", version));
    }
    match app.store.ping().await {
        Ok(()) => Answer::json(&Readiness { status: "healthy", database: "connected", version }),
        Err(error) => Err(not_ready("unavailable", "unhealthy", version).because(error)),
    }
}

fn not_ready(database: &'static str, status: &'static str, version: &'static str) -> Rejection {
    let detail = json!(Readiness { status, database, version });
    let message = format!("Not ready: {status}, database {database}");
    Rejection { detail: Some(detail), ..Rejection::new(Code::Unavailable, message) }
}

/// The page for Prometheus, when it is switched on.
pub(super) fn metrics(app: &App) -> Result<Answer, Rejection> {
    if !app.config.enable_metrics {
        let message = "Not Found: set enable_metrics to true to serve /metrics";
        return Err(Rejection::new(Code::NotFound, message));
    }
    app.metrics.budget_held.set(app.local.ledger.total_held().to_f64());
    Ok(Answer::page(METRICS_TYPE, app.metrics.render()))
}
