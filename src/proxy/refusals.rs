//! Calls that the gateway itself refused: an `error` row each, so that an operator sees who is turned away and why.
//!
//! Callers who hammer against a refusal must not fill the disk with it: see [`Refusals`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::StatusCode;
use otari_filters::control::{Caller, Wanted};
use otari_filters::limit::{Allowance, ROWS};
use otari_filters::providers::Operation;
use otari_filters::rejection::Rejection;
use otari_filters::settle::{Finished, Status, UsageRecord};
use papaya::HashMap;
use parking_lot::Mutex;

use crate::app::{App, Mode};
use crate::clock;
use crate::proxy::RequestContext;

/// Longest model name kept: it is whatever the caller typed.
const MAX_MODEL_CHARS: usize = 200;
/// Longest reason kept in a row.
const MAX_REASON_CHARS: usize = 500;
/// Allowances of callers who have not been refused lately are dropped when so many refusals were counted.
const PRUNE_EVERY: u64 = 1000;

/// How many rows refusals may still leave, per caller: 30 at once, and one more every ten seconds.
#[derive(Debug, Default)]
pub struct Refusals {
    callers: HashMap<Arc<str>, Arc<Mutex<Allowance>>>,
    calls: AtomicU64,
}

impl Refusals {
    fn may_leave_a_row(&self, caller: &Arc<str>, now: Instant) -> bool {
        let callers = self.callers.pin();
        if self.calls.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            callers.retain(|_, allowance| !allowance.lock().is_full(now));
        }
        let allowance = callers.get_or_insert_with(caller.clone(), Arc::default);
        allowance.lock().take(now, ROWS)
    }
}

/// Writes the row of a refused call, if it is one that leaves a row: 400, 402 and 403. Others say nothing about the
/// caller's account, and 429 is as frequent as a caller wants it to be.
pub(super) async fn note(
    app: &App,
    ctx: &RequestContext,
    endpoint: &'static str,
    operation: Operation,
    refused: &Rejection,
) {
    // It was not the caller who asked.
    if ctx.own.is_some() {
        return;
    }
    // A platform keeps its own books.
    let Mode::Standalone(standalone) = &app.mode else { return };
    let status = refused.code.status();
    let leaves_a_row = matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::PAYMENT_REQUIRED | StatusCode::FORBIDDEN
    );
    let Some(caller) = ctx.caller.as_ref().filter(|_| leaves_a_row) else { return };
    let owner = match caller {
        Caller::Key { user_id, .. } => user_id.clone(),
        Caller::Master | Caller::Bearer(_) => None,
    };
    let user_id = ctx.user_id.clone().or(owner);
    let nobody = || Arc::from("");
    let who = caller.key_id().or(user_id.as_ref()).cloned().unwrap_or_else(nobody);
    if !standalone.refusals.may_leave_a_row(&who, Instant::now()) {
        app.metrics.journal.refusal_rows_dropped.inc();
        return;
    }
    // A name that leads somewhere is written as the rows of its answers write it, any other as it was asked.
    let asked = ctx.outcome.model.as_deref().unwrap_or_default();
    let wanted = Wanted { model: asked, no_router: true, operation, is_own: false };
    let resolved = app.control.resolve(caller, user_id.as_deref(), wanted).await.ok();
    let found = resolved.as_ref().and_then(|plan| plan.attempts.first());
    let model = found.map_or(asked, |attempt| &attempt.billed_model);
    let reason = format!("{}: {}", refused.code.as_str(), refused.message);
    let model = first(model, MAX_MODEL_CHARS);
    let bare = UsageRecord::new(ctx.id.clone(), clock::now_us(), endpoint, model, Status::Error);
    let record = UsageRecord {
        api_key_id: caller.key_id().cloned(),
        user_id,
        provider: found.map(|attempt| attempt.upstream.instance.clone()),
        error_message: Some(first(&reason, MAX_REASON_CHARS)),
        status_code: Some(status.as_u16()),
        // Nobody was asked.
        attempt_position: 0,
        attempt_count: 0,
        policy_name: resolved.as_ref().and_then(|plan| plan.policy.clone()),
        ..bare.after(ctx.started.elapsed())
    };
    app.control.settle(Finished { record, reservation: None, report: None });
}

fn first(text: &str, chars: usize) -> Box<str> {
    text.chars().take(chars).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_caller_has_an_allowance_of_their_own() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let rows = (0..5000).filter(|_| refusals.may_leave_a_row(&a, now)).count();
        assert_eq!(rows, 30);
        assert!(refusals.may_leave_a_row(&b, now));
        let later = now + Duration::from_secs(10);
        assert!(refusals.may_leave_a_row(&a, later) && !refusals.may_leave_a_row(&a, later));
    }
}
