//! What a provider is sent: the caller's body with a few edits where the formats agree, its translation where not.

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use otari_filters::control::Attempt;
use otari_filters::operations::{self, Frame, Refused};
use otari_filters::protocol::{Protocol, Request, Rewrite};
use otari_filters::providers::Family;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::translate;
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::upstream::{ErrorClass, NoWay, Upstream, Way};

use super::incoming::{Inbound, Reading};
use super::{Failed, FailedAttempt};
use crate::clock;
use crate::proxy::call::{Asked, Call, Operation};
use crate::proxy::upload::Upload;

/// One call, ready to be sent as often as need be.
pub(super) struct Outgoing {
    pub(super) path: PathAndQuery,
    pub(super) payload: Payload,
    /// Of the body; `None`: JSON, as the upstream's own headers say.
    pub(super) content_type: Option<HeaderValue>,
    /// Trials of Anthropic's API that the request asks for, its caller's own among them.
    pub(super) betas: Option<HeaderValue>,
    /// How the answer is read.
    pub(super) reading: Reading,
    /// What the provider's format cannot express, as a header says it.
    pub(super) dropped: String,
}

/// The body of a call.
pub(super) enum Payload {
    /// In memory.
    Pieces(Vec<Bytes>),
    /// A form around a file that the caller sends: what stands before it, and how the rest is written.
    Form { head: Bytes, frame: Frame },
}

impl Payload {
    /// In bytes; `None`: of a form that has not come to its end nobody knows it.
    pub(super) fn len(&self, upload: Option<&Upload>) -> Option<u64> {
        match self {
            Self::Pieces(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Form { head, frame } => Some(upload?.length(frame)? + head.len() as u64),
        }
    }
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
    match &call.asked {
        Asked::Generation(asked) => {
            let (request, body) = match call.attachments.as_ref().and_then(|it| it.rendered()) {
                Some(rendered) => (&rendered.request, &rendered.body),
                None => (asked, &call.body),
            };
            let way = upstream.way(request, &attempt.model);
            let way = way.map_err(|why| no_way(upstream, &why))?;
            let turn = Turn { request, body, call, attempt };
            let made =
                if way.same_request { turn.same(way, betas, id) } else { turn.translated(way, id) };
            made.map_err(refused)
        }
        Asked::Operation(operation) => operate(operation, call, attempt, id),
    }
}

/// One of the operations beside generation.
fn operate(
    operation: &Operation,
    call: &Call,
    attempt: &Attempt,
    id: &str,
) -> Result<Outgoing, Failed> {
    let (upstream, asked) = (&*attempt.upstream, &operation.asked);
    let sent = match &operation.upload {
        None => upstream.operation(asked, &call.body, &attempt.model, call.keeps_user),
        Some(upload) => {
            let random = uuid::Uuid::new_v4().as_u128();
            upstream.transcription(asked, &attempt.model, random, upload.boundary_len())
        }
    };
    let sent = sent.map_err(|why| match why {
        Refused::NoWay(why) => no_way(upstream, &why),
        Refused::Rejected(rejection) => refused(*rejection),
    })?;
    let (payload, content_type) = match (sent.body, &operation.upload) {
        (operations::Payload::Json(pieces), _) => (Payload::Pieces(pieces), None),
        (operations::Payload::Form(frame), Some(upload)) => {
            let content_type = frame.content_type();
            (Payload::Form { head: upload.head(&frame), frame }, Some(content_type))
        }
        (operations::Payload::Form(_), None) => {
            return Err(refused(Rejection::internal("a form without a file")));
        }
    };
    Ok(Outgoing {
        path: sent.path,
        payload,
        content_type,
        betas: None,
        reading: Reading::Operation(Box::new(sent.inbound), id.into()),
        dropped: sent.dropped.header(),
    })
}

/// A conversation's next turn, for one attempt.
struct Turn<'a> {
    request: &'a Request,
    body: &'a Bytes,
    call: &'a Call,
    attempt: &'a Attempt,
}

impl Turn<'_> {
    /// The caller's own bytes, with edits.
    fn same(&self, way: Way, betas: Option<&str>, id: &str) -> Result<Outgoing, Rejection> {
        let Self { request, body, call, attempt } = self;
        let kind = attempt.upstream.kind;
        request.refuse(kind.name)?;
        let rewrite =
            Rewrite { model: &attempt.model, keep_user: call.keeps_user, provider: kind.name };
        let betas = match kind.family {
            // Where only the caller's own headers ask, they go on as they came.
            Family::Anthropic | Family::VertexAnthropic => match request.betas(body, None)? {
                Some(_) => request.betas(body, betas)?,
                None => None,
            },
            _ => None,
        };
        let inbound = match request.protocol {
            _ if way.same_answer => None,
            // Its answers repeat parts of the request.
            Protocol::Responses => {
                let conversation = translate::read_request(request.protocol, body)?;
                Some(translate::as_caller(request.protocol, &conversation))
            }
            Protocol::Chat | Protocol::Messages => Some(AsCaller::default()),
        };
        let inbound = inbound.map(|caller| self.inbound(&way, caller, id));
        Ok(Outgoing {
            payload: Payload::Pieces(request.write_same(body, &rewrite)),
            content_type: None,
            reading: Reading::Generation(request.protocol, inbound),
            betas: betas.and_then(|betas| HeaderValue::from_str(&betas).ok()),
            path: way.path,
            dropped: String::new(),
        })
    }

    /// The same request in the provider's format.
    fn translated(&self, way: Way, id: &str) -> Result<Outgoing, Rejection> {
        let Self { request, body, call, attempt } = self;
        let upstream = &*attempt.upstream;
        let mut conversation = translate::read_request(request.protocol, body)?;
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
        let inbound = self.inbound(&way, caller, id);
        Ok(Outgoing {
            payload: Payload::Pieces(vec![written.body]),
            content_type: None,
            reading: Reading::Generation(request.protocol, Some(inbound)),
            betas: None,
            path: way.path,
            dropped: written.dropped.header(),
        })
    }

    fn inbound(&self, way: &Way, caller: AsCaller, id: &str) -> Inbound {
        let to = self.request.protocol;
        Inbound {
            spoken: way.spoken,
            to,
            is_same: way.same_request,
            caller: AsCaller {
                // The meter hides it from callers who did not ask.
                include_usage: true,
                now: u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0),
                id: answer_id(to, id),
                model: self.attempt.model.to_string(),
                ..caller
            },
        }
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
pub(super) fn refused(rejection: Rejection) -> Failed {
    Failed::Attempt(Box::new(FailedAttempt {
        reason: format!("request_refused: {}", rejection.message).into(),
        status: None,
        rejection,
        class: ErrorClass::Unknown,
        had_begun: false,
        repeatable: false,
        stale: None,
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
            stale: None,
        })),
        NoWay::Model => refused(Rejection::new(
            Code::ModelNotFound,
            format!("Provider '{instance}' cannot have a model of this name"),
        )),
    }
}
