//! What the gateway must know of a request, in whichever format, and its edits for a provider of the same format.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::json::{Edit, is_null, range_of, removals, splice};
use super::top::{Format, Top};
use super::{Protocol, chat, check, messages, responses};
use crate::rejection::Rejection;

/// What the gateway reads of a request. Ranges point into the body it was read from.
#[derive(Debug, Default)]
pub struct Request {
    /// The format it was read as.
    pub protocol: Protocol,
    /// The selector as sent.
    pub model: String,
    /// Whether the caller wants a stream.
    pub stream: bool,
    /// Whom the caller names, when it is a non-empty string: `user`, in messages `metadata.user_id`.
    pub user: Option<String>,
    /// `session_label`, trimmed; nothing when it is blank.
    pub session_label: Option<Arc<str>>,
    /// Characters of the prompt's text, without the tools; parts without text count as what they usually cost.
    pub prompt_chars: u64,
    /// The declared limit of the output; negatives count as 0.
    pub declared_output: Option<u64>,
    /// How many answers are asked for, at least 1.
    pub choices: u64,
    /// Whether the caller asked for the usage chunk itself.
    pub wants_usage: bool,
    /// Gateway features the request asks for, by field name.
    pub gateway_features: Vec<&'static str>,
    model_at: Range<usize>,
    pub(super) user_at: Option<Range<usize>>,
    /// What asks for usage, where the request does not do so itself.
    pub(super) usage_edit: Option<Edit>,
    unwanted: Vec<Range<usize>>,
    codex: Vec<Range<usize>>,
}

/// How a request differs for the provider that gets it.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The provider's own name of the model.
    pub model: &'a str,
    /// The user is the caller's own label and goes on; otherwise it is taken out.
    pub keep_user: bool,
    /// The provider is OpenAI itself, whose own tool may send it metadata that others refuse.
    pub keeps_codex_metadata: bool,
}

impl Request {
    /// Reads a request body.
    ///
    /// # Errors
    /// `invalid_json` when it is not one JSON document, `invalid_fields` with every fault at once.
    pub fn read(protocol: Protocol, body: &Bytes) -> Result<Self, Rejection> {
        let format: &'static Format = match protocol {
            Protocol::Chat => &chat::FORMAT,
            Protocol::Messages => &messages::FORMAT,
            Protocol::Responses => &responses::FORMAT,
        };
        let top = check::read(format, body)?;
        let mut request = Self::from_top(protocol, body, &top);
        match protocol {
            Protocol::Chat => chat::describe(body, &top, &mut request),
            Protocol::Messages => messages::describe(body, &top, &mut request)?,
            Protocol::Responses => responses::describe(body, &top, &mut request),
        }
        Ok(request)
    }

    /// What all formats have.
    fn from_top(protocol: Protocol, body: &[u8], top: &Top<'_>) -> Self {
        let at = |raw| range_of(body, raw);
        let label = top.text(check::SESSION_LABEL.name);
        Self {
            protocol,
            model: top.get("model").and_then(super::json::text).unwrap_or_default(),
            stream: top.get("stream").is_some_and(|raw| check::truthy(raw.get()) == Some(true)),
            session_label: label
                .map(|label| label.trim().into())
                .filter(|label: &Arc<str>| !label.is_empty()),
            prompt_chars: top.prompt_chars(),
            choices: 1,
            gateway_features: top.features.clone(),
            model_at: top.raw("model").map(at).unwrap_or_default(),
            unwanted: top.unwanted.iter().copied().map(at).collect(),
            codex: top.codex.iter().copied().chain(top.passthrough()).map(at).collect(),
            ..Self::default()
        }
    }

    /// Whether the gateway must ask for usage on the caller's behalf, and hide the answer from them.
    pub fn hides_usage(&self) -> bool {
        self.protocol == Protocol::Chat && self.stream && !self.wants_usage
    }

    /// The body for a provider that speaks the same format: the caller's bytes with the model's name replaced, the
    /// gateway's fields taken out and, for streams of chunks, usage asked for. Large stretches are not copied.
    pub fn write_same(&self, body: &Bytes, rewrite: &Rewrite<'_>) -> Vec<Bytes> {
        let mut gone = self.unwanted.clone();
        if !rewrite.keep_user {
            gone.extend(self.user_at.clone());
        }
        if self.protocol == Protocol::Responses && !rewrite.keeps_codex_metadata {
            gone.extend(self.codex.iter().cloned());
        }
        let mut edits = removals(body, gone);
        let quoted = serde_json::to_vec(rewrite.model).unwrap_or_default();
        edits.push(Edit { range: self.model_at.clone(), with: quoted.into() });
        if self.stream {
            edits.extend(self.usage_edit.clone());
        }
        splice(body, edits)
    }
}

/// A declared limit of output: the first of these fields that is there.
pub(super) fn declared_output(top: &Top<'_>, names: &[&str]) -> Option<u64> {
    let mut given = names.iter().filter_map(|name| top.raw(name)).filter(|raw| !is_null(raw));
    given.next().and_then(check::tokens)
}

#[cfg(test)]
mod tests;
