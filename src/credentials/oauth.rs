//! What issuers of tokens answer, as OAuth 2 has it.

use std::time::Duration;

use serde_json::Value;

use super::CredentialFailure;
use super::client::{self, Answer};
use super::kept::{Issued, bearer};

/// Of a token whose answer does not say it: short, so that it is surely valid.
const DEFAULT_LIFE_S: f64 = 300.0;
/// What says more is cut, before it is more than a span of time can hold.
const MAX_LIFE_S: f64 = 1e6;

/// What an OAuth error body says, as far as it may be shown. `sent`: what must not come back.
pub(super) fn refusal(body: &Value, sent: &[&str]) -> String {
    client::words(&[body["error"].as_str(), body["error_description"].as_str()], sent)
}

/// A token out of an OAuth answer. `refusal`: what an error body says, as far as it may be shown.
///
/// # Errors
/// When the answer brings none.
pub(super) fn token(
    who: &str,
    answer: &Answer,
    now_us: i64,
    refusal: impl FnOnce(&Value) -> String,
) -> Result<Issued, CredentialFailure> {
    let body = answer.json();
    let status = answer.status;
    if !answer.is_success() {
        let text = format!("{who} answered {status}: {}", refusal(&body));
        return Err(match status {
            400 | 401 | 403 => CredentialFailure::refused(text),
            _ => CredentialFailure::unavailable(text),
        });
    }
    let token = body["access_token"].as_str().map(str::trim).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        CredentialFailure::unavailable(format!("{who} answered {status} without a token"))
    })?;
    let seconds = match &body["expires_in"] {
        Value::Null => DEFAULT_LIFE_S,
        Value::String(text) => text.trim().parse().unwrap_or_default(),
        number => number.as_f64().unwrap_or_default(),
    };
    if seconds.is_nan() || seconds <= 0.0 {
        let text = format!("{who} issued a token that has ended already");
        return Err(CredentialFailure::unavailable(text));
    }
    let life = Duration::from_secs_f64(seconds.min(MAX_LIFE_S));
    Ok(Issued::for_life(bearer(who, token)?, now_us, life))
}
