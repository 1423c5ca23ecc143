//! The calls that are made: their formats, models, sizes, and what a whole answer holds.

use crate::load::request_with;

/// One kind of call.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    path: &'static str,
    /// Model at the mock; its options say how it answers.
    pub(crate) model: &'static str,
    is_stream: bool,
    prompt_bytes: usize,
    /// A header line of its own.
    extra: &'static str,
}

const CHAT_PATH: &str = "/v1/chat/completions";
const MESSAGES_PATH: &str = "/v1/messages";

const fn call(path: &'static str, model: &'static str) -> Call {
    Call { path, model, is_stream: false, prompt_bytes: 512, extra: "" }
}

/// A small plain call, in each of two formats.
pub(crate) const CHAT: Call = call(CHAT_PATH, "gpt");
pub(crate) const MESSAGES: Call = call(MESSAGES_PATH, "gpt");

/// A hundred events at once: the role, 97 words, the finish and `[DONE]`.
pub(crate) const BURST: Call = Call { is_stream: true, ..call(CHAT_PATH, "gpt?chunks=97") };

/// Deltas of a paced stream, and the time between two.
pub(crate) const DELTAS: u64 = 64;
pub(crate) const PACE_MS: u64 = 20;

/// A stream as fast as a model writes; each delta says when it was written.
pub(crate) const PACED: Call =
    Call { is_stream: true, ..call(CHAT_PATH, "gpt?chunks=64&interval_ms=20&stamp") };

/// A stream that begins and then waits for longer than any bench.
pub(crate) const HELD: Call =
    Call { is_stream: true, ..call(CHAT_PATH, "gpt?chunks=2&interval_ms=600000") };

/// Large requests with small answers.
pub(crate) const MEGABYTE: Call = Call { prompt_bytes: 1 << 20, ..CHAT };
pub(crate) const TWENTY: Call = Call { prompt_bytes: 20 << 20, ..CHAT };

/// Every model that is called: each needs a price.
pub(crate) const MODELS: [&str; 4] = [CHAT.model, BURST.model, PACED.model, HELD.model];

impl Call {
    /// The same, for the second mock behind the bare pass-through.
    pub(crate) const fn bulk(self) -> Self {
        Self { extra: "x-bench-bulk: 1\r\n", ..self }
    }

    /// What is in a whole answer and in no other.
    pub(crate) fn mark(&self) -> &'static str {
        if self.is_stream { "data: [DONE]" } else { "lorem" }
    }

    /// The bytes of the request; `prefix` names the provider.
    pub(crate) fn request(&self, key: &str, prefix: &str) -> Vec<u8> {
        let body = self.body(prefix);
        request_with("POST", self.path, key, self.extra, body.as_bytes())
    }

    fn body(&self, prefix: &str) -> String {
        let prompt = "Tell me a story. ".repeat(self.prompt_bytes.div_ceil(17));
        let prompt = &prompt[..self.prompt_bytes];
        let limit = if self.path == MESSAGES_PATH { r#""max_tokens":1000,"# } else { "" };
        format!(
            r#"{{"model":"{prefix}{}",{limit}"messages":[{{"role":"user","content":"{prompt}"}}],"stream":{}}}"#,
            self.model, self.is_stream
        )
    }
}
