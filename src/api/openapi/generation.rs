//! The generation routes, which `proxy` answers: open objects, because fields that nobody here has heard of pass.

use otari_filters::protocol::{chat, messages, responses};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::{Operation, Others, Success, shape};

/// A completion, as the provider wrote it. With an alias, `model` shows the alias.
#[derive(JsonSchema)]
#[schemars(rename = "ChatCompletion", extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Completion {
    id: String,
    object: String,
    created: i64,
    model: String,
    choices: Vec<Map<String, Value>>,
    /// Tokens, as the provider counts them.
    #[schemars(extend("type" = ["object", "null"]))]
    usage: Option<Map<String, Value>>,
}

/// A message, as the provider wrote it. With an alias, `model` shows the alias.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Message {
    id: String,
    r#type: String,
    role: String,
    model: String,
    content: Vec<Map<String, Value>>,
    stop_reason: Option<String>,
    /// Tokens, as the provider counts them: cached input beside `input_tokens`.
    usage: Map<String, Value>,
}

/// A count of tokens: an estimate, a quarter of the characters of `messages`, `system` and `tools`.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "`proxy` writes it by hand; this is what it is promised to hold")]
struct TokenCount {
    input_tokens: u64,
}

/// A response, as the provider wrote it. With an alias, `model` shows the alias.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(dead_code, reason = "answers pass as bytes; this is what they are promised to hold")]
struct Response {
    id: String,
    object: String,
    created_at: f64,
    model: String,
    output: Vec<Map<String, Value>>,
    /// Tokens, as the provider counts them.
    #[schemars(extend("type" = ["object", "null"]))]
    usage: Option<Map<String, Value>>,
}

pub(super) static CHAT: Operation = Operation {
    body: Some(&chat::FIELDS),
    others: Others::Passed,
    success: Success::Stream(shape::<Completion>),
    refusals: &[400, 402, 403, 404, 429, 502],
    ..Operation::new(
        "create_chat_completion",
        "OpenAI chat completions; other fields of that API pass to the provider as they came",
    )
};

pub(super) static MESSAGES: Operation = Operation {
    body: Some(&messages::FIELDS),
    others: Others::Passed,
    success: Success::Stream(shape::<Message>),
    refusals: &[400, 402, 403, 404, 429, 502],
    ..Operation::new(
        "create_message",
        "Anthropic messages, for providers of that API; its other fields pass to them as they came",
    )
};

pub(super) static COUNT_TOKENS: Operation = Operation {
    body: Some(&messages::COUNT_FIELDS),
    success: Success::Json(shape::<TokenCount>),
    ..Operation::new(
        "count_message_tokens",
        "How many tokens a messages request has: by its own tokenizer where that is known, else about; no provider is \
         asked, nothing is billed",
    )
};

pub(super) static RESPONSES: Operation = Operation {
    body: Some(&responses::FIELDS),
    others: Others::Passed,
    success: Success::Stream(shape::<Response>),
    refusals: &[400, 402, 403, 404, 429, 502],
    ..Operation::new(
        "create_response",
        "OpenAI responses, for providers of that API; its other fields pass to them as they came",
    )
};

pub(super) static NO_SOCKET: Operation = Operation {
    success: Success::Never,
    refusals: &[405, 426],
    ..Operation::new("responses_socket", "Not served: says so to tools that try a WebSocket")
};
