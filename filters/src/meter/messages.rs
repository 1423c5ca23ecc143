//! What the events of a message say.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

use super::usage::{Lenient, WireUsage};
use super::{Seen, delta_chars};
use crate::protocol::json::Needles;
use crate::protocol::sse;

/// Fields of generated text.
static TEXTS: Needles<4> = LazyLock::new(|| {
    ["\"text\"", "\"thinking\"", "\"partial_json\"", "\"content\""].map(Finder::new)
});
/// The type of an event stands in its head, or is not looked for before the line is complete.
const HEAD_BYTES: usize = 64;
const STOP: &[u8] = b"message_stop";

#[derive(Deserialize)]
struct WireEvent {
    #[serde(default)]
    message: Lenient<WireMessage>,
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

/// Whether a line, which may be unfinished, is of the event that ends the answer.
pub(super) fn is_ending(line: &[u8]) -> bool {
    match sse::data(line) {
        Some(data) => sse::kind(&data[..data.len().min(HEAD_BYTES)], &[]) == STOP,
        None => sse::name(line) == Some(STOP),
    }
}

pub(super) fn read_data(data: &[u8], seen: &mut Seen) {
    match seen.kind(data) {
        b"content_block_delta" => seen.output_chars += delta_chars(data, &*TEXTS),
        b"message_start" | b"message_delta" => {
            let Ok(event) = serde_json::from_slice::<WireEvent>(data) else { return };
            let of_message = event.message.0.and_then(|message| message.usage.0);
            for usage in of_message.iter().chain(&event.usage.0) {
                seen.report(usage);
            }
        }
        STOP => seen.is_done = true,
        b"error" => (seen.is_error, seen.has_failed) = (true, true),
        _ => {}
    }
}
