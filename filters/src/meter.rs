//! Token counts, read off the passing answer. The meter looks; it never changes what it sees.
//!
//! Each wire format has one file with the same functions in the same order: `is_ending`, `read_data`.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use crate::prices::CacheCounting;
use crate::protocol::Protocol;
use crate::protocol::json::Needles;
use crate::protocol::sse::{self, Events, MAX_EVENT_BYTES, Mark};

mod chat;
mod messages;
mod responses;
mod first;
mod reply;
mod usage;

pub use first::{First, FirstEvent, named_status};
pub use reply::{Reply, read_reply};
pub(crate) use usage::Lenient;
pub use usage::Usage;
pub(crate) use usage::WireUsage;

/// Longest name of an event that is kept; the names that are looked for are shorter.
const MAX_NAME_BYTES: usize = 64;

static DELTA: Needles<1> = LazyLock::new(|| [Finder::new(b"\"delta\"")]);

/// How providers that speak a format count cached input.
fn counting(protocol: Protocol) -> CacheCounting {
    match protocol {
        Protocol::Chat | Protocol::Responses => CacheCounting::Inclusive,
        Protocol::Messages => CacheCounting::Additive,
    }
}

/// Follows an event stream: reads usage, notices the end, and takes out the usage chunk that only the gateway asked for.
///
/// Nothing else is changed, and nothing is delayed unless a chunk may have to be hidden: then an event leaves when it
/// is complete.
#[derive(Debug)]
pub struct Stream {
    hides_usage: bool,
    hides_errors: bool,
    /// Where something may be hidden the unfinished event has not left yet, otherwise a copy is kept.
    events: Events,
    /// The last event was taken out, and the LF of its end may still come.
    was_hidden: bool,
    seen: Seen,
}

/// What a stream has said so far.
#[derive(Debug)]
struct Seen {
    protocol: Protocol,
    /// The name of the unfinished event.
    name: Vec<u8>,
    /// The unfinished event holds nothing but usage.
    is_usage_only: bool,
    /// The provider said itself, in an event, that it failed.
    is_error: bool,
    usage: Option<Usage>,
    output_chars: u64,
    is_done: bool,
    has_failed: bool,
}

impl Stream {
    /// `hides_usage`: the caller did not ask for the usage chunk. Of use in chat alone.
    pub fn new(protocol: Protocol, hides_usage: bool) -> Self {
        let seen = Seen {
            protocol,
            name: Vec::new(),
            is_usage_only: false,
            is_error: false,
            usage: None,
            output_chars: 0,
            is_done: false,
            has_failed: false,
        };
        let events = Events::new(MAX_EVENT_BYTES);
        Self { hides_usage, hides_errors: false, events, was_hidden: false, seen }
    }

    /// Takes out the event in which a provider says that it failed: its words may be for the operator alone.
    #[must_use]
    pub fn hiding_errors(self) -> Self {
        Self { hides_errors: true, ..self }
    }

    /// Whether such an event was taken out: the caller has not been told.
    pub fn has_hidden_error(&self) -> bool {
        self.hides_errors && self.seen.has_failed && self.seen.is_error
    }

    /// The provider's usage, once seen.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    /// Output seen so far, in tokens: a quarter of its characters, rounded up.
    pub fn output_tokens(&self) -> u64 {
        self.seen.output_chars.div_ceil(4)
    }

    /// Whether the event that ends the answer was seen: the caller may hang up when it gets it. True before its last
    /// byte has been given back, and not before its usage has been read.
    pub fn is_done(&self) -> bool {
        self.seen.is_done
    }

    /// Whether the provider reported an error inside the stream.
    pub fn has_failed(&self) -> bool {
        self.seen.has_failed
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    pub fn is_between_events(&self) -> bool {
        !self.events.is_overlong() && (self.hides() || !self.events.is_open())
    }

    /// Looks at `piece` and appends to `out` what may pass now.
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        if piece.is_empty() {
            return;
        }
        if !self.hides() {
            out.push(piece.clone());
        }
        let mut scan = self.events.scan(piece);
        let mut hidden = Vec::new();
        if std::mem::take(&mut self.was_hidden) && scan.belated() > 0 {
            hidden.push(0..1);
        }
        while let Some(mark) = scan.next() {
            match mark {
                Mark::Line(line) => self.seen.read_line(&scan.bytes()[line]),
                Mark::End(event) => {
                    self.was_hidden = self.seen.end_event(self.hides_usage, self.hides_errors);
                    if self.was_hidden {
                        hidden.push(event);
                    }
                }
            }
        }
        let open = scan.open_line();
        // A name that is not complete may become another one.
        if sse::name(open).is_none() {
            self.seen.look_ahead(open);
        }
        let whole = scan.finish();
        if self.hides() {
            let mut passed = 0;
            for event in hidden {
                push(out, whole.slice(passed..event.start));
                passed = event.end;
            }
            push(out, whole.slice(passed..));
        }
        // Only what ends with a CR may have its LF in the next piece.
        self.was_hidden &= !self.events.is_open();
    }

    /// What is left when the stream ends inside an event; it passes unless it must be hidden.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        let rest = self.events.take_open();
        if let Some(line) = rest.rsplit(|byte| matches!(byte, b'\n' | b'\r')).next() {
            self.seen.read_line(line);
        }
        if self.hides() && !self.seen.end_event(self.hides_usage, self.hides_errors) {
            push(out, rest);
        }
    }

    fn hides(&self) -> bool {
        self.hides_usage || self.hides_errors
    }
}

fn push(out: &mut Vec<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        out.push(piece);
    }
}

impl Seen {
    fn read_line(&mut self, line: &[u8]) {
        if let Some(data) = sse::data(line) {
            match self.protocol {
                Protocol::Chat => chat::read_data(data, self),
                Protocol::Messages => messages::read_data(data, self),
                Protocol::Responses => responses::read_data(data, self),
            }
        } else if let Some(name) = sse::name(line) {
            self.name.clear();
            self.name.extend_from_slice(&name[..name.len().min(MAX_NAME_BYTES)]);
            self.look_ahead(line);
        }
    }

    /// A caller may leave at the text itself, before the empty line that completes the event.
    fn look_ahead(&mut self, line: &[u8]) {
        self.is_done |= match self.protocol {
            Protocol::Chat => chat::is_ending(line),
            Protocol::Messages => messages::is_ending(line),
            Protocol::Responses => responses::is_ending(line),
        };
    }

    /// The event is over; whether it must not leave. Nothing does behind an error that is hidden.
    fn end_event(&mut self, hides_usage: bool, hides_errors: bool) -> bool {
        self.name.clear();
        let is_usage_only = std::mem::take(&mut self.is_usage_only);
        (is_usage_only && hides_usage) || (self.is_error && hides_errors)
    }

    fn report(&mut self, usage: &WireUsage) {
        let counting = counting(self.protocol);
        self.usage.get_or_insert_with(|| Usage::new(counting)).merge(usage);
    }

    /// What kind of event it is: its `type`, else its name.
    fn kind<'a>(&'a self, data: &'a [u8]) -> &'a [u8] {
        sse::kind(data, &self.name)
    }
}

/// Unicode characters of the strings under `keys`, which are written with their closing quotes, behind `"delta"`.
///
/// Looks for the fields' names instead of parsing: an event is looked at for a tenth of what parsing it costs, and the
/// count is only used where the provider reports none.
fn delta_chars(data: &[u8], keys: &[Finder<'_>]) -> u64 {
    let Some(delta) = DELTA[0].find(data) else { return 0 };
    let data = &data[delta..];
    keys.iter()
        .flat_map(|key| key.find_iter(data).map(move |at| at + key.needle().len()))
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
mod tests;
