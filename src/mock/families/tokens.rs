//! Where tokens are had: Google's OAuth2 token endpoint and IBM's IAM. The query says what goes wrong:
//! `expires_in=S`, `status=N`.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::access::header;
use super::path::option;
use crate::mock::connection::Exchange;
use crate::mock::emit::Next;

/// Who issues tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuer {
    Google,
    Ibm,
}

/// Seconds a token lives when the query does not say.
const LIFE: u64 = 3599;

/// The longest life of a service account's assertion.
const MAX_ASSERTION_LIFE: u64 = 3600;

type Refusal = (u16, &'static str, String);

/// Answers a call for a token.
pub(super) async fn answer(exchange: &mut Exchange<'_>, issuer: Issuer) -> io::Result<Next> {
    let request = exchange.request;
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let number = |name| option(query, name).and_then(|value| value.parse::<u64>().ok());
    let status = number("status").and_then(|status| u16::try_from(status).ok());
    let form = header(&request, "content-type")
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let checked = match status {
        _ if request.method != "POST" => Err((405, "invalid_request", "only POST".into())),
        Some(status) => Err((status, "server_error", format!("mock: status {status} as asked"))),
        None if !form => Err((400, "invalid_request", "the body must be a form".into())),
        None => check(issuer, request.body),
    };
    let (status, body) = match checked {
        Ok(()) => (200, token(issuer, number("expires_in").unwrap_or(LIFE))),
        Err((status, kind, message)) => (status, refusal(issuer, kind, &message)),
    };
    exchange.outlet.json(status, body.to_string().as_bytes()).await
}

fn token(issuer: Issuer, life: u64) -> Value {
    match issuer {
        Issuer::Google => {
            json!({"access_token": "ya29.mock", "expires_in": life, "token_type": "Bearer"})
        }
        Issuer::Ibm => json!({"access_token": "iam.mock", "refresh_token": "not_supported",
            "token_type": "Bearer", "expires_in": life, "expiration": 4_102_444_800_u64,
            "scope": "ibm openid"}),
    }
}

fn refusal(issuer: Issuer, kind: &str, message: &str) -> Value {
    match issuer {
        Issuer::Google => json!({"error": kind, "error_description": message}),
        Issuer::Ibm => json!({"errorCode": "BXNIM0415E", "errorMessage": message}),
    }
}

fn check(issuer: Issuer, body: &[u8]) -> Result<(), Refusal> {
    let form: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    let value = |name: &str| {
        let found = form.iter().find(|(key, value)| key == name && !value.is_empty());
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| (400, "invalid_request", format!("missing required parameter: {name}")))
    };
    match (issuer, value("grant_type")?) {
        (Issuer::Google, "urn:ietf:params:oauth:grant-type:jwt-bearer") => {
            assertion(value("assertion")?).map_err(|what| (400, "invalid_grant", what))
        }
        (Issuer::Google, "refresh_token") => ["client_id", "client_secret", "refresh_token"]
            .iter()
            .try_for_each(|name| value(name).map(|_| ())),
        (Issuer::Ibm, "urn:ibm:params:oauth:grant-type:apikey") => value("apikey").map(|_| ()),
        (_, other) => Err((400, "unsupported_grant_type", format!("invalid grant_type: {other}"))),
    }
}

/// Looks at a service account's assertion; its signature is not verified.
fn assertion(token: &str) -> Result<(), String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        return Err("the assertion is not a JWT".into());
    };
    let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
    let json =
        |part: &str| decoded(part).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let (Some(head), Some(claims)) = (json(head), json(claims)) else {
        return Err("the assertion's parts are not JSON in base64".into());
    };
    if head["alg"] != "RS256" || decoded(signature).is_none_or(|bytes| bytes.is_empty()) {
        return Err("the assertion must be signed with RS256".into());
    }
    for claim in ["iss", "scope", "aud"] {
        if !claims[claim].is_string() {
            return Err(format!("the assertion lacks {claim}"));
        }
    }
    match (claims["iat"].as_u64(), claims["exp"].as_u64()) {
        (Some(from), Some(to)) if from < to && to - from <= MAX_ASSERTION_LIFE => Ok(()),
        _ => Err("the assertion must live from iat to exp, for at most 3600 seconds".into()),
    }
}
