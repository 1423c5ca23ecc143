//! A call on its way: what its steps hand to each other, and why one of them may stop it.

use bytes::Bytes;
use otari_filters::control::{Attempt, Plan};
use otari_filters::protocol::Request;
use otari_filters::protocol::name::ModelName;
use otari_filters::rejection::Rejection;
use pingora_core::prelude::Error;

use crate::proxy::body;
use crate::proxy::open::Open;

/// A generation that has passed the gates.
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) body: Bytes,
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

    /// The name that answers show in the place of the provider's; `None`: they keep theirs.
    pub(super) fn shown_name(&self) -> Option<ModelName> {
        let name = &self.request.model;
        self.attempt().is_alias.then(|| ModelName::new(self.request.protocol, name))
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
