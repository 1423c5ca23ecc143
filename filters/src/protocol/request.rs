//! What the gateway must know of a request, in whichever format, and its edits for a provider of the same format.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::json::{Edit, is_null, range_of, removals, splice};
use super::top::{Format, Top};
use super::{Protocol, chat, check, messages, responses};
use crate::rejection::Rejection;
use crate::tools::Claims;

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
    /// Whether there may be images or documents: where not, nobody needs to look for them.
    pub has_media: bool,
    /// The declared limit of the output; negatives count as 0.
    pub declared_output: Option<u64>,
    /// How many answers are asked for, at least 1.
    pub choices: u64,
    /// Whether the caller asked for the usage chunk itself.
    pub wants_usage: bool,
    /// Gateway features the request asks for, by field name.
    pub gateway_features: Vec<&'static str>,
    /// Where they stand, and the list of tools.
    pub(crate) claims: Claims,
    model_at: Range<usize>,
    pub(super) user_at: Option<Range<usize>>,
    /// What asks for usage, where the request does not do so itself.
    pub(super) usage_edit: Option<Edit>,
    unwanted: Vec<Range<usize>>,
    codex: Vec<Range<usize>>,
    noted: Vec<Noted>,
}

/// A field that some provider wants otherwise.
#[derive(Debug)]
pub(super) struct Noted {
    name: &'static str,
    /// Where its value stands.
    pub(super) range: Range<usize>,
    pub(super) is_null: bool,
}

impl Noted {
    /// The value, in the body that was read.
    pub(super) fn value<'b>(&self, body: &'b [u8]) -> Option<&'b RawValue> {
        serde_json::from_slice(body.get(self.range.clone())?).ok()
    }
}

/// How a request differs for the provider that gets it.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The provider's own name of the model.
    pub model: &'a str,
    /// The user is the caller's own label and goes on; otherwise it is taken out.
    pub keep_user: bool,
    /// The provider's name in the provider table: some want a body otherwise, and only OpenAI itself gets the metadata
    /// that its own tool sends.
    pub provider: &'a str,
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
            has_media: top.has_media(),
            choices: 1,
            gateway_features: top.features.iter().map(|(name, _)| *name).collect(),
            claims: Claims {
                fields: top.features.iter().map(|(name, raw)| (*name, at(raw))).collect(),
                tools: top.get("tools").map(at),
            },
            model_at: top.raw("model").map(at).unwrap_or_default(),
            unwanted: top.unwanted.iter().copied().map(at).collect(),
            codex: top.codex.iter().copied().chain(top.passthrough()).map(at).collect(),
            noted: top
                .noted
                .iter()
                .map(|(name, raw)| Noted { name, range: at(raw), is_null: is_null(raw) })
                .collect(),
            ..Self::default()
        }
    }

    /// Whether the gateway must ask for usage on the caller's behalf, and hide the answer from them.
    pub fn hides_usage(&self) -> bool {
        self.protocol == Protocol::Chat && self.stream && !self.wants_usage
    }

    /// Every field `name` that is noted and there.
    pub(super) fn noted<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r Noted> {
        self.noted.iter().filter(move |field| field.name == name)
    }

    /// The body for a provider that speaks the same format: the caller's bytes with the model's name replaced, the
    /// gateway's fields taken out, for streams of chunks usage asked for, and what this provider wants otherwise. Large
    /// stretches are not copied.
    pub fn write_same(&self, body: &Bytes, rewrite: &Rewrite<'_>) -> Vec<Bytes> {
        let mut gone = self.unwanted.clone();
        if !rewrite.keep_user {
            gone.extend(self.user_at.clone());
        }
        if self.protocol == Protocol::Responses && rewrite.provider != "openai" {
            gone.extend(self.codex.iter().cloned());
        }
        for name in self.unknown_to(rewrite.provider) {
            gone.extend(self.noted(name).map(|field| field.range.clone()));
        }
        let hides_model = self.hides_model(rewrite.provider);
        if hides_model {
            gone.push(self.model_at.clone());
        }
        let mut edits = removals(body, gone);
        if !hides_model {
            let quoted = serde_json::to_vec(rewrite.model).unwrap_or_default();
            edits.push(Edit { range: self.model_at.clone(), with: quoted.into() });
        }
        if self.asks_for_usage(rewrite.provider) {
            edits.extend(self.usage_edit.clone());
        }
        edits.extend(self.edits_for(body, rewrite));
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
