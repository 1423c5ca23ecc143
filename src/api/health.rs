//! Is it there, can it serve, how is it doing.

use http::StatusCode;
use otari_filters::rejection::{Code, Rejection};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::Answer;
use super::openapi::Operation;
use crate::app::{App, Mode};

/// What the reference gateway calls connected mode.
const MODE: &str = "hybrid";

#[derive(Serialize, JsonSchema)]
struct Health {
    status: &'static str,
    /// Connected mode: `hybrid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// Connected mode: `yes` or `no`.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform_reachable: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
struct Readiness {
    status: &'static str,
    /// Standalone mode: `connected` or `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'static str>,
    /// Connected mode: `hybrid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// Connected mode: `connected` or `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'static str>,
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
pub(super) async fn health(app: &App) -> Result<Answer, Rejection> {
    let leaves = app.life.is_draining();
    let status = if leaves { "draining" } else { "healthy" };
    let mut health = Health { status, mode: None, platform_reachable: None };
    if let Mode::Connected(connected) = &app.mode {
        health.mode = Some(MODE);
        health.platform_reachable = Some(match connected.is_reachable().await {
            true => "yes",
            false => "no",
        });
    }
    let mut answer = Answer::json(&health)?;
    if leaves {
        answer.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(answer)
}

/// What the gateway cannot serve without answers.
pub(super) async fn readiness(app: &App) -> Result<Answer, Rejection> {
    let mut ready = Readiness {
        status: "healthy",
        database: None,
        mode: None,
        platform: None,
        version: env!("CARGO_PKG_VERSION"),
    };
    let leaves = app.life.is_draining();
    let is_there = match &app.mode {
        Mode::Standalone(standalone) => {
            let is_there = leaves || standalone.store.ping().await.is_ok();
            ready.database = Some(if is_there { "connected" } else { "unavailable" });
            is_there
        }
        Mode::Connected(connected) => {
            let is_there = leaves || connected.is_reachable().await;
            ready.mode = Some(MODE);
            ready.platform = Some(if is_there { "connected" } else { "unavailable" });
            is_there
        }
    };
    if is_there && !leaves {
        return Answer::json(&ready);
    }
    ready.status = if leaves { "draining" } else { "unhealthy" };
    let what = if ready.database.is_some() { "database" } else { "platform" };
    let state = ready.database.or(ready.platform).unwrap_or_default();
    let message = format!("Not ready: {}, {what} {state}", ready.status);
    let detail = Some(json!(ready));
    Err(Rejection { detail, ..Rejection::new(Code::Unavailable, message) })
}

/// The page for Prometheus, when it is switched on.
pub(super) fn metrics(app: &App) -> Result<Answer, Rejection> {
    if !app.live().enable_metrics {
        let message = "Not Found: set enable_metrics to true to serve /metrics";
        return Err(Rejection::new(Code::NotFound, message));
    }
    if let Mode::Standalone(standalone) = &app.mode {
        app.metrics.budget_held.set(standalone.local.ledger.total_held().to_f64());
    }
    Ok(Answer::page(METRICS_TYPE, app.metrics.render()))
}
