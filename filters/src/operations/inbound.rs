//! What a provider answers, and what the caller gets of it.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::price::Measured;
use super::tally::Tally;
use super::{Kind, embeddings, input_only, moderations, rerank};
use crate::meter::{Lenient, Usage, WireUsage};
use crate::translate::Object;
use crate::translate::neutral::Failure;
use crate::translate::text::Text;

/// How an answer becomes the caller's.
#[derive(Clone, Debug)]
pub struct Inbound {
    pub(super) kind: Kind,
    pub(super) how: How,
    /// The model that was asked, for an answer that does not name one.
    pub(super) model: String,
    /// Vectors are wanted as base64.
    pub(super) base64: bool,
    /// Moderations with the provider's own words.
    pub(super) include_raw: bool,
}

/// In which format the provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It passes, and nothing in it is read: sound, text.
    Unread,
    /// The caller's format.
    Same,
    /// Vectors in OpenAI's format, which must be looked through: they may have to become base64.
    Vectors,
    /// Vectors in OpenAI's format, with a total of tokens and no more.
    Voyage,
    /// The other formats of vectors.
    Embeddings(embeddings::Format),
    /// Moderations, of whomever.
    Moderations,
    /// The formats of rerank.
    Rerank(rerank::Format),
}

/// What must be known beside the body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The request's id: the name of an answer to which the provider gives none. It must need no escape.
    pub id: &'a str,
    /// The answer's header [`Inbound::TOKENS_HEADER`], where it is a number.
    pub input_tokens: Option<u64>,
}

/// An answer as the caller gets it.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The body to send; `None`: it passes as it came.
    pub body: Option<Bytes>,
    /// What it used.
    pub measured: Measured,
}

impl Inbound {
    /// Where Amazon says how many tokens went in.
    pub const TOKENS_HEADER: &'static str = "x-amzn-bedrock-input-token-count";

    /// Whether nothing of the answer is read: sound, and transcripts in whichever format. It may be of any content type,
    /// and passes piece by piece; nothing is measured.
    pub fn is_unread(&self) -> bool {
        self.how == How::Unread
    }

    /// Whether a JSON answer must be here as a whole before any of it can be sent. Otherwise it may pass piece by piece
    /// while a [`Tally`] looks on. Answers of another type than JSON, such as events, always pass.
    pub fn needs_whole(&self) -> bool {
        !matches!(self.how, How::Unread | How::Same)
    }

    /// Whether the provider answers in a format of its own. Not all of them count tokens.
    pub fn is_foreign(&self) -> bool {
        matches!(self.how, How::Embeddings(_) | How::Rerank(_))
    }

    /// What looks on while an answer passes.
    pub fn tally(&self) -> Tally {
        Tally::new(self.kind)
    }

    /// Reads a whole JSON answer, and writes it anew where the caller's format is another one.
    ///
    /// # Errors
    /// When the document is no answer of this operation.
    pub fn answer(&self, body: &Bytes, told: &Told<'_>) -> Result<Answered, Failure> {
        match self.how {
            How::Unread => Ok(Answered { body: None, measured: Measured::default() }),
            How::Same => self.same(body),
            How::Vectors | How::Voyage => {
                let answer = self.same(body)?;
                embeddings::same(body, answer.measured, self.base64, self.how == How::Voyage)
            }
            How::Embeddings(format) => embeddings::answer(format, body, self, told),
            How::Moderations => moderations::answer(body, self, told),
            How::Rerank(format) => rerank::answer(format, body),
        }
    }

    fn same(&self, body: &[u8]) -> Result<Answered, Failure> {
        let answer: WireAnswer =
            serde_json::from_slice(body).map_err(|_| failure("the answer is no JSON object"))?;
        let (list, name) = match self.kind {
            Kind::Embeddings | Kind::Images => (&answer.data, "data"),
            _ => (&answer.results, "results"),
        };
        let Some(List(items)) = list else {
            let said = Object::document(body).ok().as_ref().and_then(said);
            return Err(said.unwrap_or_else(|| failure(&format!("the answer has no `{name}`"))));
        };
        let usage = answer.usage.0.as_ref().map(|usage| counted(self.kind, usage));
        let images = (self.kind == Kind::Images).then_some(*items);
        Ok(Answered { body: None, measured: Measured { usage, images } })
    }
}

/// What is read of an answer in the caller's format.
#[derive(Deserialize)]
struct WireAnswer {
    data: Option<List>,
    results: Option<List>,
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

/// What the provider says instead of an answer: why it failed.
pub(super) fn said(answer: &Object<'_>) -> Option<Failure> {
    let error = answer.get("error");
    let within = error.and_then(Object::read).and_then(|error| error.maybe_text("message"));
    let text =
        within.or_else(|| error.and_then(Text::read)).or_else(|| answer.maybe_text("message"));
    text.map(|text| failure(&text.plain()))
}

/// A list, of which the items are counted.
pub(super) struct List(pub(super) u64);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> serde::de::Visitor<'de> for Items {
            type Value = List;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<List, A::Error> {
                let mut items = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    items += 1;
                }
                Ok(List(items))
            }
        }
        from.deserialize_seq(Items)
    }
}

/// The counts of a `usage` object; `None` when it is none.
pub(super) fn usage_of(kind: Kind, usage: &[u8]) -> Option<Usage> {
    let wire: Lenient<WireUsage> = serde_json::from_slice(usage).ok()?;
    wire.0.as_ref().map(|wire| counted(kind, wire))
}

fn counted(kind: Kind, wire: &WireUsage) -> Usage {
    let mut usage = Usage::default();
    usage.merge(wire);
    // Some tell the total alone.
    let prompt = if usage.prompt_tokens == 0 { usage.total_tokens } else { usage.prompt_tokens };
    match kind {
        Kind::Embeddings | Kind::Rerank => input_only(prompt, usage.total_tokens.max(prompt)),
        _ => usage,
    }
}

pub(super) fn failure(message: &str) -> Failure {
    Failure { kind: None, message: message.to_owned() }
}
