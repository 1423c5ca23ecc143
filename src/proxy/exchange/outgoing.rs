//! What a provider is sent: the caller's body with a few edits where the formats agree, its translation where not.

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use otari_filters::control::Attempt;
use otari_filters::protocol::{Protocol, Rewrite};
use otari_filters::providers::Family;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::translate;
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::upstream::{ErrorClass, NoWay, Upstream, Way};

use super::incoming::Inbound;
use super::{Failed, FailedAttempt};
use crate::clock;
use crate::proxy::call::Call;

/// One call, ready to be sent as often as need be.
pub(super) struct Outgoing {
    pub(super) path: PathAndQuery,
    pub(super) body: Vec<Bytes>,
    /// Trials of Anthropic's API that the request asks for, its caller's own among them.
    pub(super) betas: Option<HeaderValue>,
    /// How the answer becomes the caller's; `None`: it is.
    pub(super) inbound: Option<Inbound>,
    /// What the provider's format cannot express, as a header says it.
    pub(super) dropped: String,
}

/// Makes the call of one attempt. `betas`: which trials of Anthropic's API the caller's header asks for. `id`: the
/// request's.
///
/// # Errors
/// When this provider cannot be asked for this; another one may.
pub(super) fn prepare(
    call: &Call,
    attempt: &Attempt,
    betas: Option<&str>,
    id: &str,
) -> Result<Outgoing, Failed> {
    let upstream = &*attempt.upstream;
    let way = upstream.way(&call.request, &attempt.model).map_err(|why| no_way(upstream, &why))?;
    let made = if way.same_request {
        same(call, attempt, way, betas, id)
    } else {
        translated(call, attempt, way, id)
    };
    made.map_err(refused)
}

/// The caller's own bytes, with edits.
fn same(
    call: &Call,
    attempt: &Attempt,
    way: Way,
    betas: Option<&str>,
    id: &str,
) -> Result<Outgoing, Rejection> {
    let (request, kind) = (&call.request, attempt.upstream.kind);
    request.refuse(kind.name)?;
    let rewrite =
        Rewrite { model: &attempt.model, keep_user: call.keeps_user, provider: kind.name };
    let betas = match kind.family {
        // Where only the caller's own headers ask, they go on as they came.
        Family::Anthropic | Family::VertexAnthropic => match request.betas(&call.body, None)? {
            Some(_) => request.betas(&call.body, betas)?,
            None => None,
        },
        _ => None,
    };
    let inbound = match request.protocol {
        _ if way.same_answer => None,
        // Its answers repeat parts of the request.
        Protocol::Responses => {
            let conversation = translate::read_request(request.protocol, &call.body)?;
            Some(translate::as_caller(request.protocol, &conversation))
        }
        Protocol::Chat | Protocol::Messages => Some(AsCaller::default()),
    };
    Ok(Outgoing {
        body: request.write_same(&call.body, &rewrite),
        inbound: inbound.map(|caller| inbound_of(call, attempt, &way, caller, id)),
        betas: betas.and_then(|betas| HeaderValue::from_str(&betas).ok()),
        path: way.path,
        dropped: String::new(),
    })
}

/// The same request in the provider's format.
fn translated(call: &Call, attempt: &Attempt, way: Way, id: &str) -> Result<Outgoing, Rejection> {
    let (request, upstream) = (&call.request, &*attempt.upstream);
    let mut conversation = translate::read_request(request.protocol, &call.body)?;
    if !call.keeps_user {
        conversation.user = None;
    }
    let target = Target {
        model: &attempt.model,
        provider: upstream.kind.name,
        stream: request.stream,
        settings: &upstream.client_settings,
    };
    let written = translate::write_request(way.spoken.wire, &conversation, &target)?;
    let caller = translate::as_caller(request.protocol, &conversation);
    Ok(Outgoing {
        body: vec![written.body],
        inbound: Some(inbound_of(call, attempt, &way, caller, id)),
        betas: None,
        path: way.path,
        dropped: written.dropped.header(),
    })
}

fn inbound_of(call: &Call, attempt: &Attempt, way: &Way, caller: AsCaller, id: &str) -> Inbound {
    let to = call.request.protocol;
    Inbound {
        spoken: way.spoken,
        to,
        is_same: way.same_request,
        caller: AsCaller {
            // The meter hides it from callers who did not ask.
            include_usage: true,
            now: u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0),
            id: answer_id(to, id),
            model: attempt.model.to_string(),
            ..caller
        },
    }
}

/// The name of an answer to which the provider gives none: the request's, with the prefix of the caller's format.
fn answer_id(protocol: Protocol, request_id: &str) -> String {
    let prefix = match protocol {
        Protocol::Chat => "chatcmpl-",
        Protocol::Messages => "msg_",
        Protocol::Responses => "resp_",
    };
    let id = request_id.bytes().filter(u8::is_ascii_alphanumeric).map(char::from);
    prefix.chars().chain(id).collect()
}

/// The provider cannot be asked this: nothing was sent.
fn refused(rejection: Rejection) -> Failed {
    Failed::Attempt(Box::new(FailedAttempt {
        reason: format!("request_refused: {}", rejection.message).into(),
        status: None,
        rejection,
        class: ErrorClass::Unknown,
        had_begun: false,
        repeatable: false,
        stale: false,
    }))
}

/// A platform may name providers that this version cannot call in this way: the next attempt may be another one.
fn no_way(upstream: &Upstream, why: &NoWay) -> Failed {
    let (name, instance) = (upstream.kind.name, &upstream.instance);
    match why {
        NoWay::Setting(setting) => {
            tracing::error!(
                provider = &**instance,
                setting,
                "a provider cannot be called: this setting is missing, or holds more than letters, digits, '-', '_' \
                 and '.'"
            );
            refused(Rejection::new(Code::ProviderError, "LLM provider error"))
        }
        NoWay::Unserved => Failed::Attempt(Box::new(FailedAttempt {
            reason: format!("provider_unsupported: {name}").into(),
            status: None,
            rejection: Rejection::new(Code::ProviderError, "LLM provider error"),
            class: ErrorClass::Unknown,
            had_begun: false,
            repeatable: false,
            stale: false,
        })),
        NoWay::Model => refused(Rejection::new(
            Code::ModelNotFound,
            format!("Provider '{instance}' cannot have a model of this name"),
        )),
    }
}
