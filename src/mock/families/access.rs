//! Looks whether a call carries credentials of the right form. Any value of that form will do.

use crate::mock::connection::Refusal;
use crate::mock::http::{Request, field, lines};

/// How a family's callers prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// `x-goog-api-key`.
    GoogleKey,
    /// `Authorization: Bearer`.
    Bearer,
}

/// Looks whether `request` carries what `access` asks for.
pub(super) fn check(access: Access, request: &Request<'_>) -> Result<(), Refusal> {
    let missing = |status, what: &str| Err((status, format!("missing credentials: {what}")));
    match access {
        Access::GoogleKey if header(request, "x-goog-api-key").is_some() => Ok(()),
        Access::GoogleKey => missing(403, "x-goog-api-key"),
        Access::Bearer if bearer(request) => Ok(()),
        Access::Bearer => missing(401, "Authorization: Bearer"),
    }
}

/// The value of a header that is there and not empty.
pub(super) fn header<'r>(request: &Request<'r>, name: &str) -> Option<&'r str> {
    let mut found = lines(request.fields).filter_map(field);
    let (_, value) = found.find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))?;
    std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
}

fn bearer(request: &Request<'_>) -> bool {
    let token = header(request, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| !token.trim().is_empty())
}
