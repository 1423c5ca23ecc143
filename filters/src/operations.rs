//! The operations beside generation: embeddings, moderations, rerank, images, speech, transcriptions.
//!
//! Each is asked in one format, OpenAI's (rerank: Cohere's). What a caller asks is read once ([`Asked`], of a form
//! [`Form`]); for the provider that is tried it is written in the provider's format ([`Sent`]), and what comes back is
//! read and, where the format is another one, written anew ([`Inbound`]). What it may cost says [`Units::estimate`].

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;

use crate::meter::Usage;
use crate::providers::Operation;
use crate::rejection::Rejection;
use crate::translate::neutral::Dropped;
use crate::upstream::NoWay;
use crate::validate::Field;

mod fields;
mod form;
mod inbound;
mod input;
mod price;
mod read;
mod tally;
mod way;
mod same;
mod embeddings;
mod moderations;
mod rerank;

pub use form::{Content, FILE, Form, Frame, MAX_PARTS, MAX_TEXT_BYTES, Part};
pub use inbound::{Answered, Inbound, Told};
pub use price::{Measured, Units};
pub use tally::Tally;

/// One of the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/moderations`.
    Moderations,
    /// `POST /v1/rerank`.
    Rerank,
    /// `POST /v1/images/generations`.
    Images,
    /// `POST /v1/audio/speech`: the answer is sound.
    Speech,
    /// `POST /v1/audio/transcriptions`: the request is a form with a file.
    Transcription,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Embeddings,
        Self::Moderations,
        Self::Rerank,
        Self::Images,
        Self::Speech,
        Self::Transcription,
    ];

    /// The route's template, and the rows' endpoint.
    pub fn route(self) -> &'static str {
        match self {
            Self::Embeddings => "/v1/embeddings",
            Self::Moderations => "/v1/moderations",
            Self::Rerank => "/v1/rerank",
            Self::Images => "/v1/images/generations",
            Self::Speech => "/v1/audio/speech",
            Self::Transcription => "/v1/audio/transcriptions",
        }
    }

    /// What the provider table calls it.
    pub fn operation(self) -> Operation {
        match self {
            Self::Embeddings => Operation::Embeddings,
            Self::Moderations => Operation::Moderation,
            Self::Rerank => Operation::Rerank,
            Self::Images => Operation::Images,
            Self::Speech => Operation::Speech,
            Self::Transcription => Operation::Transcription,
        }
    }

    /// In sentences: "does not support …".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderation",
            Self::Rerank => "rerank",
            Self::Images => "image generation",
            Self::Speech => "speech",
            Self::Transcription => "transcription",
        }
    }

    /// The fields of a request, in the order in which faults are listed: of a body, or of a form.
    pub const fn fields(self) -> &'static [Field] {
        fields::of(self)
    }

    /// The fields of its query.
    pub const fn query_fields(self) -> &'static [Field] {
        fields::query_of(self)
    }

    /// Whether a model without a price is refused where prices are required.
    pub fn needs_price(self) -> bool {
        matches!(self, Self::Embeddings | Self::Rerank | Self::Images)
    }
}

/// What the gateway reads of a request. Ranges point into the body it was read from.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which operation.
    pub kind: Kind,
    /// The selector as sent.
    pub model: String,
    /// Whom the caller names, when it is a non-empty string.
    pub user: Option<String>,
    /// What its cost is estimated from, and counted by where the answer says nothing.
    pub units: Units,
    /// Of moderations: the query asks for the provider's own words.
    pub include_raw: bool,
    /// Of embeddings: vectors are wanted as base64.
    base64: bool,
    /// Of speech and transcriptions: the format that is wanted.
    format: Option<String>,
    /// Of speech, transcriptions and images: the answer is wanted in events.
    pub stream: bool,
    /// Where its model stands.
    model_at: Range<usize>,
    user_at: Option<Range<usize>>,
    unwanted: Vec<Range<usize>>,
    /// Declared fields that are null.
    nulls: Vec<Range<usize>>,
}

impl Asked {
    /// Reads the JSON body of any operation but a transcription, and the query of its address.
    ///
    /// # Errors
    /// `invalid_json` when it is not one JSON document, `invalid_fields` with every fault at once.
    pub fn read(kind: Kind, body: &Bytes, query: Option<&str>) -> Result<Self, Rejection> {
        read::read(kind, body, query)
    }

    /// The content type of a speech that is sent as it came: by the format that was asked for, as the reference has it.
    /// `None`: the provider's own, because the format is another one, or the speech comes in events.
    pub fn content_type(&self) -> Option<HeaderValue> {
        if self.kind != Kind::Speech || self.stream {
            return None;
        }
        let known = match self.format.as_deref() {
            None | Some("mp3") => "audio/mpeg",
            Some("opus") => "audio/opus",
            Some("aac") => "audio/aac",
            Some("flac") => "audio/flac",
            Some("wav") => "audio/wav",
            Some("pcm") => "audio/L16",
            Some(_) => return None,
        };
        Some(HeaderValue::from_static(known))
    }
}

/// One call, ready to be sent.
#[derive(Debug)]
pub struct Sent {
    /// Where to, on the provider's host.
    pub path: PathAndQuery,
    /// What.
    pub body: Payload,
    /// What the provider's format cannot express.
    pub dropped: Dropped,
    /// How the answer becomes the caller's.
    pub inbound: Inbound,
}

/// The body of a call.
#[derive(Debug)]
pub enum Payload {
    /// JSON, in pieces to be sent one after the other. The content type is the one that every call has.
    Json(Vec<Bytes>),
    /// A form, around the bytes of a file.
    Form(Frame),
}

/// Why a provider cannot be asked. Nothing was sent; another provider may be asked.
#[derive(Debug)]
pub enum Refused {
    /// There is no way to it.
    NoWay(NoWay),
    /// It does not offer this, or cannot be asked it in this way: for the caller, with status 400.
    Rejected(Box<Rejection>),
}

impl From<NoWay> for Refused {
    fn from(why: NoWay) -> Self {
        Self::NoWay(why)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}

/// Usage of which only the input counts.
fn input_only(prompt: u64, total: u64) -> Usage {
    Usage { prompt_tokens: prompt, total_tokens: total, ..Usage::default() }
}

#[cfg(test)]
mod tests;
