//! Token counts, read off the passing answer. The meter looks; it never changes what it sees.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::protocol::Protocol;
use crate::protocol::sse::{self, Lines};

mod first;
mod usage;

pub use first::{FirstEvent, Seen};
pub use usage::Usage;
use usage::{Lenient, WireUsage};

/// Longest event that is kept to be read; a longer one passes unread.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event, or one whole reply.
#[derive(Deserialize)]
struct WireReply {
    id: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Lenient<WireUsage>,
    error: Option<IgnoredAny>,
}

/// What a whole JSON reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is a completion, with or without usage.
    Completion(Option<Usage>),
    /// It has neither id, choices nor model, or is no JSON: the provider failed.
    NotACompletion,
}

/// Reads a whole JSON reply.
pub fn read_reply(_: Protocol, body: &[u8]) -> Reply {
    let Ok(reply) = serde_json::from_slice::<WireReply>(body) else { return Reply::NotACompletion };
    if reply.id.is_none() && reply.model.is_none() && reply.choices.is_none() {
        return Reply::NotACompletion;
    }
    Reply::Completion(reply.usage.0.map(|wire| {
        let mut usage = Usage::default();
        usage.merge(&wire);
        usage
    }))
}

/// Follows a chat stream: reads usage, notices the end, and takes out the usage chunk that only the gateway asked for.
///
/// Nothing else is changed, and nothing is delayed unless a chunk may have to be hidden: then an event leaves when it
/// is complete.
#[derive(Debug)]
pub struct Stream {
    hides_usage: bool,
    lines: Lines,
    /// The unfinished event; with `hides_usage` it has not left yet, otherwise it is a copy.
    open: BytesMut,
    /// The unfinished event is too long to be read.
    overlong: bool,
    usage: Option<Usage>,
    output_chars: u64,
    done: bool,
    failed: bool,
}

/// What one event said.
#[derive(Default)]
struct Event {
    usage_only: bool,
}

impl Stream {
    /// `hides_usage`: the caller did not ask for the usage chunk.
    pub fn new(_: Protocol, hides_usage: bool) -> Self {
        Self {
            hides_usage,
            lines: Lines::default(),
            open: BytesMut::new(),
            overlong: false,
            usage: None,
            output_chars: 0,
            done: false,
            failed: false,
        }
    }

    /// The provider's usage, once seen.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Output seen so far, in tokens: a quarter of its characters, rounded up.
    pub fn output_tokens(&self) -> u64 {
        self.output_chars.div_ceil(4)
    }

    /// Whether `[DONE]` was seen: the caller may hang up when it gets it.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the provider reported an error inside the stream.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    pub fn is_between_events(&self) -> bool {
        !self.overlong && (self.hides_usage || self.open.is_empty())
    }

    /// Looks at `piece` and appends to `out` what may pass now.
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        let (whole, mut from) = if self.open.is_empty() {
            let from = self.lines.begin(&piece);
            (piece.clone(), from)
        } else {
            self.open.extend_from_slice(&piece);
            (self.open.split().freeze(), 0)
        };
        let (mut event_start, mut passed) = (from, 0);
        while let Some(line) = self.lines.next(&whole, from) {
            from = line.next;
            if line.start != line.end {
                continue;
            }
            let event = self.read_event(&whole[event_start..line.start]);
            if event.usage_only && self.hides_usage {
                if passed < event_start {
                    out.push(whole.slice(passed..event_start));
                }
                passed = line.next;
            }
            event_start = line.next;
        }
        let event_start = event_start.min(whole.len());
        if self.hides_usage {
            if passed < event_start {
                out.push(whole.slice(passed..event_start));
            }
        } else {
            out.push(piece);
        }
        self.keep(&whole[event_start..], out);
    }

    /// Keeps the beginning of an event until the rest arrives.
    fn keep(&mut self, rest: &[u8], out: &mut Vec<Bytes>) {
        // A caller may leave at the text itself, before the empty line that completes the event.
        self.done |= sse::data(rest).is_some_and(|data| data.starts_with(b"[DONE]"));
        if rest.len() > MAX_EVENT_BYTES {
            self.overlong = true;
            if self.hides_usage {
                out.push(Bytes::copy_from_slice(rest));
            }
            return;
        }
        self.open.extend_from_slice(rest);
    }

    /// What is left when the stream ends inside an event; it passes unless it must be hidden.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        let rest = self.open.split().freeze();
        if rest.is_empty() {
            return;
        }
        let event = self.read_event(&rest);
        if self.hides_usage && !event.usage_only {
            out.push(rest);
        }
    }

    fn read_event(&mut self, event: &[u8]) -> Event {
        let mut seen = Event::default();
        if std::mem::take(&mut self.overlong) {
            // Only its end is here.
            return seen;
        }
        for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let Some(data) = sse::data(line) else { continue };
            if data.starts_with(b"[DONE]") {
                self.done = true;
                continue;
            }
            self.output_chars += delta_chars(data);
            if reports(data, b"\"usage\"") || reports(data, b"\"error\"") {
                seen.usage_only |= self.read_report(data);
            }
        }
        seen
    }

    /// Reads an event that speaks of usage or an error; says whether it holds nothing but usage.
    fn read_report(&mut self, data: &[u8]) -> bool {
        let Ok(chunk) = serde_json::from_slice::<WireReply>(data) else { return false };
        self.failed |= chunk.error.is_some();
        let Some(wire) = chunk.usage.0 else { return false };
        self.usage.get_or_insert_default().merge(&wire);
        chunk.choices.is_some_and(|choices| choices.is_empty())
    }
}

/// Whether `data` has the field `key` (quotes included) with another value than null.
fn reports(data: &[u8], key: &[u8]) -> bool {
    let Some(at) = memmem::find(data, key) else { return false };
    let value = data[at + key.len()..].iter().position(|byte| !matches!(byte, b' ' | b':'));
    value.is_some_and(|skip| !data[at + key.len() + skip..].starts_with(b"null"))
}

/// Unicode characters of generated text in one chunk: content, reasoning, refusals and tool arguments.
///
/// Looks for the fields' names instead of parsing: a chunk is looked at for a tenth of what parsing it costs, and the
/// count is only used where the provider reports none.
fn delta_chars(data: &[u8]) -> u64 {
    // `content"` also ends `reasoning_content"`.
    const KEYS: [&[u8]; 4] = [b"content\"", b"arguments\"", b"reasoning\"", b"refusal\""];
    let Some(delta) = memmem::find(data, b"\"delta\"") else { return 0 };
    let data = &data[delta..];
    KEYS.iter()
        .flat_map(|key| memmem::find_iter(data, key).map(move |at| at + key.len()))
        .map(|behind_key| string_chars(&data[behind_key..]))
        .sum()
}

/// Characters of the string value that follows a key; 0 for any other value.
fn string_chars(after_key: &[u8]) -> u64 {
    let Some(open) = after_key.iter().position(|byte| !matches!(byte, b' ' | b':')) else {
        return 0;
    };
    if open == 0 || after_key[open] != b'"' {
        return 0;
    }
    let (mut rest, mut chars) = (&after_key[open + 1..], 0);
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        chars += count_chars(&rest[..at]);
        if rest[at] == b'"' {
            return chars;
        }
        let escape = if rest.get(at + 1) == Some(&b'u') { 6 } else { 2 };
        chars += 1;
        rest = rest.get(at + escape..).unwrap_or_default();
    }
    chars + count_chars(rest)
}

fn count_chars(utf8: &[u8]) -> u64 {
    utf8.iter().filter(|byte| **byte & 0xC0 != 0x80).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": keepalive\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"h\u{e9}\\n\\u00e9 \\\"x\\\"\"}}]}\r\n\r\n",
        "data: {\"choices\": [{\"delta\": {\"tool_calls\": [{\"function\": {\"arguments\": \"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\n",
        "data: [DONE]\n\n"
    );

    fn run(hide: bool, pieces: &[&[u8]]) -> (String, ChatStream) {
        let mut stream = ChatStream::new(hide);
        let mut out = Vec::new();
        for piece in pieces {
            stream.feed(Bytes::copy_from_slice(piece), &mut out);
        }
        stream.finish(&mut out);
        (String::from_utf8(out.concat()).unwrap(), stream)
    }

    fn without_usage() -> String {
        let start = STREAM.find("data: {\"choices\":[],").unwrap();
        let end = STREAM.find("data: [DONE]").unwrap();
        format!("{}{}", &STREAM[..start], &STREAM[end..])
    }

    #[test]
    fn a_stream_split_anywhere_gives_the_same_bytes_and_counts() {
        for at in 0..=STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(at);
            for hide in [false, true] {
                let (text, stream) = run(hide, &[head, tail]);
                let want = if hide { without_usage() } else { STREAM.to_owned() };
                assert_eq!(text, want, "split at {at}, hiding: {hide}");
                assert!(stream.is_done());
                let usage = stream.usage().unwrap();
                assert_eq!((usage.prompt_tokens, usage.completion_tokens), (9, 4));
                assert_eq!((usage.total_tokens, usage.cache_read_tokens), (13, 3));
                assert_eq!(stream.output_chars, 8 + 2, "split at {at}");
            }
        }
    }

    #[test]
    fn a_stream_in_single_bytes_is_the_same_stream() {
        let bytes: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(run(true, &bytes).0, without_usage());
        assert_eq!(run(false, &bytes).0, STREAM);
    }

    #[test]
    fn without_hiding_nothing_is_held_back() {
        let mut stream = ChatStream::new(false);
        let mut out = Vec::new();
        stream.feed(Bytes::from_static(b"data: {\"ch"), &mut out);
        assert_eq!(out.concat(), b"data: {\"ch");
    }

    #[test]
    fn done_is_noticed_before_its_event_is_complete() {
        let mut stream = ChatStream::new(false);
        let mut out = Vec::new();
        stream.feed(Bytes::from_static(b"data: [DO"), &mut out);
        assert!(!stream.is_done());
        stream.feed(Bytes::from_static(b"NE]"), &mut out);
        assert!(stream.is_done());
    }

    #[test]
    fn usage_beside_content_is_read_and_passes() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
        let (out, stream) = run(true, &[text.as_bytes()]);
        assert_eq!(out, text);
        assert_eq!(stream.usage().unwrap().total_tokens, 3);
    }

    #[test]
    fn an_overlong_event_passes_unread() {
        let long = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(MAX_EVENT_BYTES + 10));
        let text = format!("{long}data: [DONE]\n\n");
        for hide in [false, true] {
            let (head, tail) = text.as_bytes().split_at(MAX_EVENT_BYTES + 5);
            let (out, stream) = run(hide, &[head, tail]);
            assert_eq!(out.len(), text.len(), "hiding: {hide}");
            assert!(stream.is_done());
        }
    }

    #[test]
    fn an_error_inside_the_stream_is_noticed() {
        let (_, stream) = run(true, &[b"data: {\"error\":{\"message\":\"x\"}}\n\n"]);
        assert!(stream.has_failed());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_provider_sends_passes_as_it_came(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "data: ", "data:", "{\"choices\":[]", ",\"usage\":{\"prompt_tokens\":1}}", "\n", "\r", "\r\n", "\n\n",
                    "[DONE]", ": ", "\"delta\":{\"content\":\"", "\\u00e9", "\\", "\"", "}", "\u{1f600}", "\0", "event: x",
                ]),
                0..40,
            ),
            cuts in proptest::collection::vec(1usize..9, 0..40),
        ) {
            let bytes = words.concat().into_bytes();
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            let (passed, _) = run(false, &pieces);
            proptest::prop_assert_eq!(passed.as_bytes(), bytes.as_slice());
            // Hiding takes out whole usage chunks and nothing else, however the bytes were cut.
            let (hidden, _) = run(true, &pieces);
            let (whole, _) = run(true, &[&bytes]);
            proptest::prop_assert_eq!(hidden, whole);
        }
    }

    #[test]
    fn replies_are_told_from_other_json() {
        assert_eq!(read_reply(b"{}"), Reply::NotACompletion);
        assert_eq!(read_reply(b"<html>"), Reply::NotACompletion);
        assert_eq!(read_reply(br#"{"id":"c","choices":[]}"#), Reply::Completion(None));
        let with =
            br#"{"id":"c","usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3}}"#;
        let Reply::Completion(Some(usage)) = read_reply(with) else { panic!() };
        assert_eq!(usage.total_tokens, 3);
    }
}
