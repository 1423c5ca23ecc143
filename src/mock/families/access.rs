//! Looks whether a call carries credentials of the right form. Any value of that form will do.

use super::signature;
use crate::mock::connection::Refusal;
use crate::mock::http::{Request, field, lines};

/// How a family's callers prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Not at all.
    Open,
    /// `x-goog-api-key`.
    GoogleKey,
    /// `Authorization: Bearer`.
    Bearer,
    /// `api-key`, or a bearer token.
    AzureKey,
    /// As `AzureKey`, and `anthropic-version`.
    Foundry,
    /// A signature for Bedrock, or one of its keys as a bearer token.
    Bedrock,
    /// A signature for SageMaker.
    SageMaker,
}

/// Looks whether `request` carries what `access` asks for.
pub(super) fn check(access: Access, request: &Request<'_>) -> Result<(), Refusal> {
    let refused = |status, what: String| Err((status, what));
    let signed = |service| signature::check(request, service).map_err(|what| (403, what));
    match access {
        Access::Open => Ok(()),
        Access::GoogleKey if header(request, "x-goog-api-key").is_some() => Ok(()),
        Access::GoogleKey => refused(403, "missing credentials: x-goog-api-key".into()),
        Access::Bearer if bearer(request) => Ok(()),
        Access::Bearer => refused(401, "missing credentials: Authorization: Bearer".into()),
        Access::Foundry if !request.anthropic => {
            refused(400, "anthropic-version: header is required".into())
        }
        Access::AzureKey | Access::Foundry
            if header(request, "api-key").is_some()
                || bearer(request)
                || access == Access::Foundry && header(request, "x-api-key").is_some() =>
        {
            Ok(())
        }
        Access::AzureKey | Access::Foundry => {
            refused(401, "missing credentials: api-key or Authorization: Bearer".into())
        }
        Access::Bedrock if bearer(request) => Ok(()),
        Access::Bedrock => signed("bedrock"),
        Access::SageMaker => signed("sagemaker"),
    }
}

/// Whether the caller of Azure AI Inference asked that unknown parameters be passed on, or dropped.
pub(super) fn extra_parameters(request: &Request<'_>) -> bool {
    header(request, "extra-parameters").is_some_and(|value| value != "error")
}

/// The value of a header that is there and not empty.
pub(in crate::mock) fn header<'r>(request: &Request<'r>, name: &str) -> Option<&'r str> {
    let mut found = lines(request.fields).filter_map(field);
    let (_, value) = found.find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))?;
    std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
}

fn bearer(request: &Request<'_>) -> bool {
    let token = header(request, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| !token.trim().is_empty())
}
