//! Which format an operation is sent in.

use bytes::Bytes;

use super::form::Frame;
use super::inbound::{How, Inbound};
use super::{Asked, Kind, Payload, Refused, Sent, embeddings, moderations, rerank, same};
use crate::rejection::{Code, Rejection};
use crate::translate::neutral::Dropped;
use crate::upstream::Upstream;

/// One request for one provider.
pub(super) struct Call<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) asked: &'a Asked,
    /// As the caller sent it.
    pub(super) body: &'a Bytes,
    /// The provider's own name of the model.
    pub(super) model: &'a str,
    /// The user is the caller's own label and goes on.
    pub(super) keep_user: bool,
}

/// What a format makes of a request.
pub(super) struct Made {
    pub(super) body: Vec<Bytes>,
    pub(super) dropped: Dropped,
    pub(super) how: How,
}

impl Made {
    /// The caller's own bytes, with edits.
    pub(super) fn same(body: Vec<Bytes>, how: How) -> Self {
        Self { body, dropped: Dropped::default(), how }
    }

    pub(super) fn anew(body: Vec<u8>, dropped: Dropped, how: How) -> Self {
        Self { body: vec![body.into()], dropped, how }
    }
}

impl Upstream {
    /// Writes a request with a JSON body for this provider. `model`: its own name of the model. `keep_user`: the user is
    /// the caller's own label and goes on; otherwise it is taken out.
    ///
    /// # Errors
    /// When this provider cannot be asked for this; another one may.
    pub fn operation(
        &self,
        asked: &Asked,
        body: &Bytes,
        model: &str,
        keep_user: bool,
    ) -> Result<Sent, Refused> {
        self.offers(asked.kind)?;
        let call = Call { upstream: self, asked, body, model, keep_user };
        let made = match asked.kind {
            Kind::Embeddings => embeddings::write(&call)?,
            Kind::Moderations => moderations::write(&call)?,
            Kind::Rerank => rerank::write(&call)?,
            Kind::Images => Made::same(same::body(&call, &[], Vec::new()), How::Same),
            Kind::Speech | Kind::Transcription => {
                Made::same(same::body(&call, &[], Vec::new()), How::Unread)
            }
        };
        Ok(Sent {
            path: self.operation_path(asked.kind, model, asked.include_raw)?,
            body: Payload::Json(made.body),
            dropped: made.dropped,
            inbound: inbound(asked, made.how, model),
        })
    }

    /// How a transcription's form is written for this provider. `asked`: what [`super::Form::read`] gave. `random` and
    /// `like` are for its boundary: see [`Frame::new`].
    ///
    /// # Errors
    /// When this provider cannot be asked for this; another one may.
    pub fn transcription(
        &self,
        asked: &Asked,
        model: &str,
        random: u128,
        like: usize,
    ) -> Result<Sent, Refused> {
        self.offers(asked.kind)?;
        Ok(Sent {
            path: self.operation_path(asked.kind, model, false)?,
            body: Payload::Form(Frame::new(model, random, like)),
            dropped: Dropped::default(),
            inbound: inbound(asked, How::Unread, model),
        })
    }

    /// # Errors
    /// `unsupported`, naming provider and operation.
    fn offers(&self, kind: Kind) -> Result<(), Rejection> {
        if self.kind.offers(kind.operation()) {
            return Ok(());
        }
        let (name, what) = (&self.instance, kind.as_str());
        Err(Rejection::new(Code::Unsupported, format!("Provider {name} does not support {what}")))
    }
}

fn inbound(asked: &Asked, how: How, model: &str) -> Inbound {
    Inbound {
        kind: asked.kind,
        how,
        model: model.to_owned(),
        base64: asked.base64,
        include_raw: asked.include_raw,
    }
}

/// Refuses a field that this provider does not know, where the answer would be another one without it.
pub(super) fn refuse(field: &str, provider: &str) -> Rejection {
    let message = format!("`{field}` is not supported by `{provider}`: leave it out");
    Rejection::new(Code::InvalidValue, message)
}
