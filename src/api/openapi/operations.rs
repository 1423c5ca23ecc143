//! The operations beside generation, which `proxy` answers: open objects, because fields that nobody here has heard of
//! pass.

use otari_filters::operations::Kind;
use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::{Operation, Others, Success, shape};

/// What the document says of an operation.
pub(super) fn operation(kind: Kind) -> &'static Operation {
    match kind {
        Kind::Embeddings => &EMBEDDINGS,
        Kind::Moderations => &MODERATIONS,
        Kind::Rerank => &RERANK,
        Kind::Images => &IMAGES,
        Kind::Speech => &SPEECH,
        Kind::Transcription => &TRANSCRIPTION,
    }
}

/// Vectors, in the order of the input. With an alias, `model` shows the alias.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Embeddings {
    object: String,
    model: String,
    data: Vec<Map<String, Value>>,
    /// Tokens, as the provider counts them.
    #[schemars(extend("type" = ["object", "null"]))]
    usage: Option<Map<String, Value>>,
}

/// A verdict for each input.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Moderation {
    id: String,
    model: String,
    /// `flagged`, `categories`, `category_scores`; `provider_raw` with `include_raw`.
    results: Vec<Map<String, Value>>,
}

/// The documents by relevance, best first.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Ranking {
    id: Option<String>,
    /// `index` of the document, `relevance_score`.
    results: Vec<Map<String, Value>>,
    #[schemars(extend("type" = ["object", "null"]))]
    meta: Option<Map<String, Value>>,
    #[schemars(extend("type" = ["object", "null"]))]
    usage: Option<Map<String, Value>>,
}

/// Images, each as `url` or `b64_json`.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Images {
    created: i64,
    data: Vec<Map<String, Value>>,
}

/// A transcript.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Transcript {
    text: String,
}

const PRICED: &[u16] = &[400, 402, 403, 404, 429, 502];
const UNPRICED: &[u16] = &[400, 403, 404, 429, 502];

static EMBEDDINGS: Operation = Operation {
    body: Some(Kind::Embeddings.fields()),
    others: Others::Passed,
    success: Success::Json(shape::<Embeddings>),
    refusals: PRICED,
    ..Operation::new("create_embeddings", "Vectors of texts; by the tokens of the input")
};

static MODERATIONS: Operation = Operation {
    query: Kind::Moderations.query_fields(),
    body: Some(Kind::Moderations.fields()),
    others: Others::Passed,
    success: Success::Json(shape::<Moderation>),
    refusals: UNPRICED,
    ..Operation::new(
        "create_moderation",
        "Whether texts are harmful; a flat price, a millionth of the input's, and no price needed",
    )
};

static RERANK: Operation = Operation {
    body: Some(Kind::Rerank.fields()),
    others: Others::Passed,
    success: Success::Json(shape::<Ranking>),
    refusals: PRICED,
    ..Operation::new("create_rerank", "Documents by relevance to a query; by the provider's tokens")
};

static IMAGES: Operation = Operation {
    body: Some(Kind::Images.fields()),
    others: Others::Passed,
    success: Success::Stream(shape::<Images>),
    refusals: PRICED,
    ..Operation::new("create_image", "Images; the input's price is that of one, in USD")
};

static SPEECH: Operation = Operation {
    body: Some(Kind::Speech.fields()),
    others: Others::Passed,
    success: Success::Page("audio/mpeg"),
    refusals: UNPRICED,
    ..Operation::new(
        "create_speech",
        "Speech, as it comes; of another type where another `response_format` is asked for",
    )
};

static TRANSCRIPTION: Operation = Operation {
    body: Some(Kind::Transcription.fields()),
    is_form: true,
    others: Others::Passed,
    success: Success::Json(shape::<Transcript>),
    refusals: &[400, 403, 404, 413, 429, 502],
    ..Operation::new(
        "create_transcription",
        "The text of a recording; of another type where another `response_format` is asked for",
    )
};
