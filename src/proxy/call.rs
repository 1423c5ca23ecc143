//! A call on its way: what its steps hand to each other, and why one of them may stop it.

use bytes::Bytes;
use http::HeaderValue;
use otari_filters::control::{Attempt, Plan};
use otari_filters::operations::{self, Kind};
use otari_filters::protocol::name::ModelName;
use otari_filters::protocol::{Protocol, Request};
use otari_filters::rejection::{Code, Rejection};
use pingora_core::prelude::Error;

use crate::proxy::attach::Attached;
use crate::proxy::body;
use crate::proxy::open::{Ending, Open};
use crate::proxy::upload::Upload;

/// What is asked of a provider.
pub(super) enum Asked {
    /// A conversation's next turn, in one of three APIs.
    Generation(Request),
    /// One of the operations beside it.
    Operation(Operation),
}

/// One of the operations beside generation.
pub(super) struct Operation {
    pub(super) asked: operations::Asked,
    /// The form and its file, where the request is one; perhaps still on their way.
    pub(super) upload: Option<Box<Upload>>,
}

impl Asked {
    /// The format of the caller, as far as errors and names go.
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Generation(request) => request.protocol,
            Self::Operation(_) => Protocol::Chat,
        }
    }

    /// Whether a stream is asked for.
    pub(super) fn streams(&self) -> bool {
        match self {
            Self::Generation(request) => request.stream,
            Self::Operation(_) => false,
        }
    }

    /// Whether the gateway alone asked for the usage of a stream.
    pub(super) fn hides_usage(&self) -> bool {
        match self {
            Self::Generation(request) => request.hides_usage(),
            Self::Operation(_) => false,
        }
    }

    /// The selector as sent.
    pub(super) fn model(&self) -> &str {
        match self {
            Self::Generation(request) => &request.model,
            Self::Operation(operation) => &operation.asked.model,
        }
    }

    /// The content type of an answer that passes, where the request decides it.
    pub(super) fn content_type(&self) -> Option<HeaderValue> {
        match self {
            Self::Generation(_) => None,
            Self::Operation(operation) => operation.asked.content_type(),
        }
    }

    /// Whether answers name the model.
    fn names_model(&self) -> bool {
        match self {
            Self::Generation(_) => true,
            Self::Operation(operation) => {
                matches!(operation.asked.kind, Kind::Embeddings | Kind::Moderations)
            }
        }
    }

    /// A provider's failure as this route words it.
    pub(super) fn worded(&self, mut rejection: Rejection) -> Rejection {
        let is_bare =
            rejection.code == Code::ProviderError && rejection.message == "LLM provider error";
        if is_bare && matches!(self, Self::Operation(_)) {
            rejection.message = "The request could not be completed by the provider".into();
        }
        rejection
    }
}

/// A call that has passed the gates.
pub(super) struct Call {
    pub(super) asked: Asked,
    pub(super) body: Bytes,
    /// Images and documents that may have to be made fit for a model.
    pub(super) attachments: Option<Box<Attached>>,
    /// `user` is the caller's own label and goes on to the provider.
    pub(super) keeps_user: bool,
    /// Where it may go; never empty.
    pub(super) plan: Plan,
    /// Which of the attempts serves, or is being tried.
    pub(super) at: usize,
    pub(super) open: Open,
}

impl Call {
    /// The attempt that serves, or is being tried.
    pub(super) fn attempt(&self) -> &Attempt {
        &self.plan.attempts[self.at]
    }

    /// The form and its file, where the request is one.
    pub(super) fn upload(&self) -> Option<&Upload> {
        match &self.asked {
            Asked::Operation(operation) => operation.upload.as_deref(),
            Asked::Generation(_) => None,
        }
    }

    /// See [`Self::upload`].
    pub(super) fn upload_mut(&mut self) -> Option<&mut Upload> {
        match &mut self.asked {
            Asked::Operation(operation) => operation.upload.as_deref_mut(),
            Asked::Generation(_) => None,
        }
    }

    /// Whether a part of the request has not come yet.
    pub(super) fn is_coming(&self) -> bool {
        self.upload().is_some_and(Upload::is_coming)
    }

    /// Whether an attempt can be sent the whole request.
    pub(super) fn can_be_sent(&self) -> bool {
        self.upload().is_none_or(Upload::can_be_sent)
    }

    /// The attempt has answered: whatever is asked further is asked there, and with the body that it got.
    pub(super) fn lock_in(&mut self) {
        self.plan.attempts = vec![self.plan.attempts.swap_remove(self.at)];
        self.at = 0;
        if let Some(rendered) =
            self.attachments.take().and_then(|attached| attached.into_rendered())
        {
            self.set_body(rendered.request, rendered.body);
        }
    }

    /// What the call needs beside a provider does not answer, and no provider is asked. A platform that gave a plan is
    /// told that this was the end of it, before the caller is. A gateway's own books have a row of it where the caller
    /// named MCP servers (`names_servers`), and none where a service of the operator's is away.
    pub(super) async fn fail_unasked(&mut self, refused: &Rejection, names_servers: bool) {
        let attempt = &self.plan.attempts[self.at];
        let is_told = attempt.id.is_some() || names_servers;
        if refused.code != Code::ToolUnavailable || !is_told {
            return;
        }
        self.open.begin(attempt);
        let reason = format!("{}: {}", refused.code.as_str(), refused.message).into();
        let status = refused.code.status().as_u16();
        self.open.end(&Ending::Failed { reason, status, class: None });
        self.open.flush_reports().await;
    }

    /// Puts another request in the place of the one before.
    pub(super) fn set_body(&mut self, request: Request, body: Bytes) {
        self.asked = Asked::Generation(request);
        self.body = body;
    }

    /// The name that answers show in the place of the provider's; `None`: they keep theirs.
    pub(super) fn shown_name(&self) -> Option<ModelName> {
        let name = self.asked.model();
        let is_shown = self.attempt().is_alias && self.asked.names_model();
        is_shown.then(|| ModelName::new(self.asked.protocol(), name))
    }
}

/// Why a step did not finish.
pub(super) enum Stop {
    /// The caller is told.
    Refused(Box<Rejection>),
    /// The connection is of no use any more.
    Broken(Box<Error>),
}

impl From<Rejection> for Stop {
    fn from(refused: Rejection) -> Self {
        Self::Refused(Box::new(refused))
    }
}

impl From<Box<Error>> for Stop {
    fn from(error: Box<Error>) -> Self {
        Self::Broken(error)
    }
}

impl From<body::NoBody> for Stop {
    fn from(why: body::NoBody) -> Self {
        match why {
            body::NoBody::Refused(refused) => refused.into(),
            body::NoBody::Gone(error) => Self::Broken(error.into_down()),
        }
    }
}
