//! Is it there, can it serve, how is it doing.

use http::StatusCode;
use otari_filters::rejection::{Code, Rejection};
use serde_json::json;

use super::Answer;
use crate::app::App;

/// The process serves. 503 while it is leaving, so that balancers turn away.
pub(super) fn health(app: &App) -> Result<Answer, Rejection> {
    if app.life.is_draining() {
        let mut answer = Answer::json(&json!({"status": "draining"}))?;
        answer.status = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(answer);
    }
    Answer::json(&json!({"status": "healthy"}))
}

/// The database answers.
pub(super) async fn readiness(app: &App) -> Result<Answer, Rejection> {
    let version = env!("CARGO_PKG_VERSION");
    if app.life.is_draining() {
        return Err(not_ready("connected", "draining", version));
    }
    match app.store.ping().await {
        Ok(()) => {
            Answer::json(&json!({"status": "healthy", "database": "connected", "version": version}))
        }
        Err(error) => Err(not_ready("unavailable", "unhealthy", version).because(error)),
    }
}

fn not_ready(database: &str, status: &str, version: &str) -> Rejection {
    let detail = json!({"status": status, "database": database, "version": version});
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
    Ok(Answer::page("text/plain; version=0.0.4; charset=utf-8", app.metrics.render()))
}
