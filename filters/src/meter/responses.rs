//! What the events of a response say.

use serde::Deserialize;

use super::usage::{Lenient, WireUsage};
use super::{DELTA, Seen, delta_chars};
use crate::protocol::json::{ERROR, USAGE, mentions};
use crate::protocol::sse;

#[derive(Deserialize)]
struct WireEvent {
    #[serde(default)]
    response: Lenient<WireResponse>,
}

#[derive(Deserialize)]
struct WireResponse {
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

/// Whether a line, which may be unfinished, is of the event that ends the answer: only of one that providers add behind
/// it, because the usage stands in the last event itself.
pub(super) fn is_ending(line: &[u8]) -> bool {
    sse::data(line).is_some_and(|data| data.starts_with(b"[DONE]"))
}

pub(super) fn read_data(data: &[u8], seen: &mut Seen) {
    if data.starts_with(b"[DONE]") {
        seen.is_done = true;
        return;
    }
    match seen.kind(data) {
        kind @ (b"response.completed" | b"response.incomplete" | b"response.failed") => {
            let has_failed = kind == b"response.failed";
            read_usage(data, seen);
            seen.has_failed |= has_failed;
            seen.is_done = true;
        }
        b"error" => (seen.is_error, seen.has_failed) = (true, true),
        // Base64.
        b"response.audio.delta" => {}
        kind if kind.ends_with(b".delta") => seen.output_chars += delta_chars(data, &*DELTA),
        b"" if mentions(data, &ERROR) => (seen.is_error, seen.has_failed) = (true, true),
        // Those of the response itself, which some providers report usage in.
        b"response.created" | b"response.in_progress" if mentions(data, &USAGE) => {
            read_usage(data, seen);
        }
        _ => {}
    }
}

fn read_usage(data: &[u8], seen: &mut Seen) {
    let Ok(event) = serde_json::from_slice::<WireEvent>(data) else { return };
    if let Some(usage) = event.response.0.and_then(|response| response.usage.0) {
        seen.report(&usage);
    }
}
