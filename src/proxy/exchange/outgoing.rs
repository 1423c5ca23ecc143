//! What a provider is sent: the caller's body with a few edits where the formats agree, its translation where not.

use bytes::Bytes;
use http::uri::PathAndQuery;
use otari_filters::control::Attempt;
use otari_filters::protocol::{Protocol, Rewrite};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::translate;
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::upstream::{ErrorClass, NoWay, Upstream};

use super::incoming::Inbound;
use super::{Failed, FailedAttempt};
use crate::clock;
use crate::proxy::call::Call;

/// One call, ready to be sent as often as need be.
pub(super) struct Outgoing {
    pub(super) path: PathAndQuery,
    pub(super) body: Vec<Bytes>,
    /// How the answer becomes the caller's; `None`: it is.
    pub(super) inbound: Option<Inbound>,
    /// What the provider's format cannot express, as a header says it.
    pub(super) dropped: String,
}

/// Makes the call of one attempt.
///
/// # Errors
/// When this provider cannot be asked for this; another one may.
pub(super) fn prepare(call: &Call, attempt: &Attempt, id: &str) -> Result<Outgoing, Failed> {
    let (request, upstream) = (&call.request, &*attempt.upstream);
    let way = upstream.way(request, &attempt.model).map_err(|why| no_way(upstream, &why))?;
    let inbound = |caller: AsCaller| Inbound {
        spoken: way.spoken,
        to: request.protocol,
        caller: AsCaller {
            // The meter hides it from callers who did not ask.
            include_usage: true,
            now: u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0),
            id: answer_id(request.protocol, id),
            model: attempt.model.to_string(),
            ..caller
        },
    };
    if way.same_request {
        let rewrite = Rewrite {
            model: &attempt.model,
            keep_user: call.keeps_user,
            provider: upstream.kind.name,
        };
        let translated = (!way.same_answer).then(|| inbound(AsCaller::default()));
        return Ok(Outgoing {
            path: way.path,
            body: request.write_same(&call.body, &rewrite),
            inbound: translated,
            dropped: String::new(),
        });
    }
    let mut conversation =
        translate::read_request(request.protocol, &call.body).map_err(refused)?;
    if !call.keeps_user {
        conversation.user = None;
    }
    let target = Target {
        model: &attempt.model,
        provider: upstream.kind.name,
        stream: request.stream,
        settings: &upstream.client_settings,
    };
    let written = translate::write_request(way.spoken.wire, &conversation, &target);
    let written = written.map_err(refused)?;
    let caller = translate::as_caller(request.protocol, &conversation);
    Ok(Outgoing {
        path: way.path,
        body: vec![written.body],
        inbound: Some(inbound(caller)),
        dropped: written.dropped.header(),
    })
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
