//! What the gateway reads of each request; all other fields are the provider's business.
//!
//! Sources: <https://platform.openai.com/docs/api-reference> (embeddings, moderations, images, audio),
//! <https://docs.cohere.com/v2/reference/rerank>; 2026-11-22.

use super::Kind;
use crate::protocol::check::WHOLE;
use crate::protocol::top::Format;
use crate::validate::{Bounds, Field, Kind as Holds};

const MODEL: Field =
    Field::new("model", Holds::Text, "`provider:model`, an alias, or a bare name").required();
const USER: Field = Field::new("user", Holds::Text, "Who is billed; the master key must say it");
const ABOVE_ZERO: Holds = Holds::Whole(Bounds { at_least: None, above: Some(0), at_most: None });

const EMBEDDINGS: [Field; 5] = [
    MODEL,
    Field::new(
        "input",
        Holds::Any,
        "A string, a list of strings, tokens, or a list of lists of tokens",
    )
    .required(),
    USER,
    Field::new("encoding_format", Holds::Text, "`float` or `base64`: little-endian 32-bit floats"),
    Field::new("dimensions", WHOLE, "Length of the vectors"),
];

const MODERATIONS: [Field; 3] = [
    MODEL,
    Field::new("input", Holds::Any, "A string, a list of strings, or a list of objects").required(),
    USER,
];

const RERANK: [Field; 6] = [
    MODEL,
    Field::new("query", Holds::Text, "What the documents are compared with").required(),
    Field::new("documents", Holds::Texts, "At least one").required(),
    Field::new("top_n", ABOVE_ZERO, "How many results; all when absent"),
    Field::new("max_tokens_per_doc", ABOVE_ZERO, "Longer documents are cut"),
    USER,
];

const IMAGES: [Field; 9] = [
    MODEL,
    Field::new("prompt", Holds::Text, "What the image shows").required(),
    Field::new("n", WHOLE, "How many images; 1 when absent"),
    Field::new("size", Holds::Text, "The provider's business"),
    Field::new("quality", Holds::Text, "The provider's business"),
    Field::new("style", Holds::Text, "The provider's business"),
    Field::new("response_format", Holds::Text, "`url` or `b64_json`"),
    USER,
    Field::new("stream", Holds::Flag, "Whether the answer is a stream of events"),
];

const SPEECH: [Field; 8] = [
    MODEL,
    Field::new("input", Holds::Text, "What is said").required(),
    Field::new("voice", Holds::TextOrObject, "The provider's business").required(),
    Field::new("instructions", Holds::Text, "The provider's business"),
    Field::new("response_format", Holds::Text, "`mp3` when absent"),
    Field::new("speed", Holds::Number, "The provider's business"),
    USER,
    Field::new("stream_format", Holds::Text, "`sse`: the answer is a stream of events"),
];

const TRANSCRIPTION: [Field; 8] = [
    Field::new("file", Holds::Any, "The recording: a part with a file name").required(),
    MODEL,
    Field::new("language", Holds::Text, "The provider's business"),
    Field::new("prompt", Holds::Text, "The provider's business"),
    Field::new("response_format", Holds::Text, "`json`, `text`, `srt`, `verbose_json` or `vtt`"),
    Field::new("temperature", Holds::Number, "The provider's business"),
    USER,
    Field::new("stream", Holds::Flag, "Whether the answer is a stream of events"),
];

const fn format(fields: &'static [Field]) -> Format {
    Format { fields, prompt: &[], needs_role: false, codex: &[], noted: &[] }
}

const QUERY: [Field; 1] = [Field::new(
    "include_raw",
    Holds::Flag,
    "Whether each verdict is followed by the provider's own words",
)];

static FORMATS: [Format; 6] = [
    format(&EMBEDDINGS),
    format(&MODERATIONS),
    format(&RERANK),
    format(&IMAGES),
    format(&SPEECH),
    format(&TRANSCRIPTION),
];

pub(super) fn format_of(kind: Kind) -> &'static Format {
    &FORMATS[kind as usize]
}

pub(super) const fn of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Embeddings => &EMBEDDINGS,
        Kind::Moderations => &MODERATIONS,
        Kind::Rerank => &RERANK,
        Kind::Images => &IMAGES,
        Kind::Speech => &SPEECH,
        Kind::Transcription => &TRANSCRIPTION,
    }
}

pub(super) const fn query_of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Moderations => &QUERY,
        _ => &[],
    }
}
