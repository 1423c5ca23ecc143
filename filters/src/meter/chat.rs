//! What the chunks of a chat completion say.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::usage::{Lenient, WireUsage};
use super::{Seen, delta_chars};
use crate::protocol::json::{ERROR, Needles, USAGE, mentions, mentions_any};
use crate::protocol::sse;

/// Fields of generated text: `content"` also ends `reasoning_content"`.
static TEXTS: Needles<4> =
    LazyLock::new(|| ["content\"", "arguments\"", "reasoning\"", "refusal\""].map(Finder::new));

#[derive(Deserialize)]
struct WireChunk {
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Lenient<WireUsage>,
    #[serde(default)]
    x_groq: Lenient<WireGroq>,
    error: Option<IgnoredAny>,
}

/// Where Groq's streams say their usage: in the last chunk, beside its choice.
#[derive(Deserialize)]
struct WireGroq {
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

/// Whether a line, which may be unfinished, is of the event that ends the answer.
pub(super) fn is_ending(line: &[u8]) -> bool {
    sse::data(line).is_some_and(|data| data.starts_with(b"[DONE]"))
}

pub(super) fn read_data(data: &[u8], seen: &mut Seen) {
    if data.starts_with(b"[DONE]") {
        seen.is_done = true;
        return;
    }
    seen.output_chars += delta_chars(data, &*TEXTS);
    // Groq tells its usage within `x_groq`, perhaps behind one that is null.
    if !mentions_any(data, &USAGE) && !mentions(data, &ERROR) {
        return;
    }
    let Ok(chunk) = serde_json::from_slice::<WireChunk>(data) else { return };
    seen.is_error |= chunk.error.is_some();
    seen.has_failed |= chunk.error.is_some();
    if let Some(usage) = chunk.usage.0 {
        seen.report(&usage);
        seen.is_usage_only |= chunk.choices.is_some_and(|choices| choices.is_empty());
    } else if let Some(usage) = chunk.x_groq.0.and_then(|groq| groq.usage.0) {
        seen.report(&usage);
    }
}
