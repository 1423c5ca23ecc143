//! What a call cost, written into the usage that its caller is shown. Every other byte stays as it came.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Protocol;
use super::json::{
    Edit, Needles, USAGE, mentions, mentions_any, place_of, removals, splice, write_text,
};
use super::scan::Scan;
use super::sse::{self, Events, MAX_EVENT_BYTES, Mark};
use super::top::Key;
use crate::settle::Cost;

/// The fields that are written, always together.
const FIELDS: [&str; 2] = ["cost_usd", "pricing_source"];
/// Few usages have more fields.
const USUAL_FIELDS: usize = 8;
/// So many events wait together for the cost; where more follow, the usage was not the last word.
const MAX_HELD: usize = 4;
/// What providers add behind the end of an answer is kept up to here; nobody reads it.
const MAX_BEHIND_END: usize = 1 << 20;

/// `document`, a whole answer, with the cost in its usage, as pieces to send one after the other.
///
/// `None` where there is no usage to write it into, or no JSON: the answer then goes as it came.
pub fn attach(protocol: Protocol, document: &Bytes, cost: &Cost) -> Option<Vec<Bytes>> {
    let path: &[&str] = match protocol {
        Protocol::Chat | Protocol::Messages | Protocol::Responses => &["usage"],
    };
    Some(splice(document, edits(document, path, cost)?))
}

/// Where the event that carries usage has it.
fn path_in_event(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Chat | Protocol::Messages => &["usage"],
        Protocol::Responses => &["response", "usage"],
    }
}

/// The edits that put the cost into the object at `path`.
fn edits(document: &[u8], path: &[&str], cost: &Cost) -> Option<Vec<Edit>> {
    let (usage, fields) = object_at(document, path)?;
    let (ours, others): (Vec<_>, Vec<_>) =
        fields.0.into_iter().partition(|(name, _)| FIELDS.contains(&name.as_ref()));
    let gone = ours.into_iter().map(|(_, value)| place_of(document, value)).collect();
    let mut edits = removals(document, gone);
    let mut with = Vec::with_capacity(96);
    for (name, text) in FIELDS.into_iter().zip([&cost.cost_usd, &cost.pricing_source]) {
        if !(others.is_empty() && with.is_empty()) {
            with.push(b',');
        }
        write_text(&mut with, name);
        with.push(b':');
        write_text(&mut with, text);
    }
    let end = place_of(document, usage).end - 1;
    edits.push(Edit { range: end..end, with: with.into() });
    Some(edits)
}

/// The object at `path`, and its fields; `None` when it is something else, or the document is no JSON.
fn object_at<'a>(document: &'a [u8], path: &[&str]) -> Option<(&'a str, Fields<'a>)> {
    let text = std::str::from_utf8(document).ok();
    text.and_then(|text| plainly_at(text, path)).or_else(|| serde_at(document, path))
}

/// The same of a document that is plainly written; anything else is for serde.
fn plainly_at<'a>(document: &'a str, path: &[&str]) -> Option<(&'a str, Fields<'a>)> {
    let mut object = document;
    for wanted in path {
        let (mut scan, mut found) = (Scan::of(object), None);
        scan.object(|scan, name| {
            if name != wanted.as_bytes() {
                return scan.skip();
            }
            found = Some(scan.value()?);
            Some(())
        })?;
        scan.end()?;
        object = found?;
    }
    let (mut scan, mut fields) = (Scan::of(object), Vec::with_capacity(USUAL_FIELDS));
    scan.object(|scan, name| {
        fields.push((Cow::Borrowed(std::str::from_utf8(name).ok()?), scan.value()?));
        Some(())
    })?;
    Some((object, Fields(fields)))
}

fn serde_at<'a>(document: &'a [u8], path: &[&str]) -> Option<(&'a str, Fields<'a>)> {
    let (first, rest) = path.split_first()?;
    let mut value = Field(first).of(document)?;
    for name in rest {
        value = Field(name).of(value.get().as_bytes())?;
    }
    Some((value.get(), serde_json::from_str(value.get()).ok()?))
}

/// The field of an object with this name, found in one pass that keeps nothing else. Of several the last, which is what
/// most readers see.
struct Field<'n>(&'n str);

impl Field<'_> {
    fn of(self, object: &[u8]) -> Option<&RawValue> {
        let mut from = serde_json::Deserializer::from_slice(object);
        let found = self.deserialize(&mut from).ok()?;
        from.end().ok()?;
        found
    }
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Key(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The fields of an object, in their order.
#[derive(Debug, PartialEq)]
struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(name), value)) = map.next_entry::<_, &RawValue>()? {
                    fields.push((name, value.get()));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(All)
    }
}

/// What an event is to the cost.
#[derive(Clone, Copy, Debug, Default)]
struct Role {
    /// It holds the usage that the cost belongs into.
    is_carrier: bool,
    /// It ends the answer: callers hang up when they get it.
    is_end: bool,
}

/// Holds back what must wait until the cost of a stream is known: the event with the usage, what follows it, and the
/// event that ends the answer. All else passes as soon as its event is whole.
///
/// An event longer than a megabyte passes unread.
#[derive(Debug)]
pub struct Carriers {
    protocol: Protocol,
    /// The unfinished event has not left.
    events: Events,
    /// The name of the unfinished event.
    name: Vec<u8>,
    /// What was seen of the unfinished event.
    role: Role,
    held: Vec<Bytes>,
    /// How many events `held` is.
    count: usize,
    /// Which of the held ones has the usage.
    carrier: Option<usize>,
    /// The end of the answer is held.
    has_end: bool,
    /// Bytes that have come behind it.
    behind_end: usize,
    is_released: bool,
}

impl Carriers {
    /// Nothing is held yet.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            events: Events::new(MAX_EVENT_BYTES),
            name: Vec::new(),
            role: Role::default(),
            held: Vec::new(),
            count: 0,
            carrier: None,
            has_end: false,
            behind_end: 0,
            is_released: false,
        }
    }

    /// Takes a piece of the stream and appends to `out` what may pass now: whole events, never the end of the answer.
    /// After a `release` everything passes.
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        if piece.is_empty() {
            return;
        }
        if self.held.is_empty() && self.events.is_fresh() && is_plain(self.protocol, &piece) {
            return out.push(piece);
        }
        if self.is_released {
            out.push(piece.clone());
        }
        let mut scan = self.events.scan(piece);
        let belated = scan.belated();
        let mut ends = Vec::new();
        while let Some(mark) = scan.next() {
            match mark {
                Mark::Line(line) => {
                    read_line(self.protocol, &scan.bytes()[line], &mut self.name, &mut self.role);
                }
                Mark::End(event) => {
                    self.name.clear();
                    ends.push((event, std::mem::take(&mut self.role)));
                }
            }
        }
        let whole = scan.finish();
        if self.events.is_overlong() {
            // Its beginning leaves: nothing of it can wait.
            self.role = Role::default();
        }
        if self.is_released {
            return;
        }
        let mut at = 0;
        if belated > 0 && !self.held.is_empty() {
            // It is the end of the last one that is held.
            self.held.push(whole.slice(..belated));
            at = belated;
        }
        for (event, role) in ends {
            if self.held.is_empty() && !role.is_carrier && !role.is_end {
                continue;
            }
            push(out, whole.slice(at..event.start));
            at = event.end;
            self.hold(whole.slice(event), role, out);
        }
        let rest = whole.slice(at..);
        if self.has_end && !rest.is_empty() {
            self.keep_behind(rest);
        } else if !rest.is_empty() {
            if self.events.is_overlong() {
                self.flush(out);
            }
            out.push(rest);
        }
    }

    /// Appends to `out` all that is held, in its order, with the cost in the newest usage; without a cost, or where no
    /// usage waits, as it came. From here on everything passes. Says whether the cost is in it.
    pub fn release(&mut self, cost: Option<&Cost>, out: &mut Vec<Bytes>) -> bool {
        let rest = self.events.take_open();
        if let Some(line) = rest.rsplit(|byte| matches!(byte, b'\n' | b'\r')).next() {
            read_line(self.protocol, line, &mut self.name, &mut self.role);
        }
        if self.role.is_carrier {
            self.carrier = Some(self.held.len());
        }
        self.held.push(rest);
        let mut is_attached = false;
        if let Some((at, cost)) = self.carrier.zip(cost)
            && let Some(pieces) = attach_to_event(self.protocol, &self.held[at], cost)
        {
            self.held.splice(at..=at, pieces);
            is_attached = true;
        }
        self.flush(out);
        self.has_end = false;
        self.is_released = true;
        is_attached
    }

    /// Whether something waits for a release beside an unfinished event.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    pub fn is_between_events(&self) -> bool {
        let has_left = self.is_released && self.events.is_open();
        !has_left && !self.events.is_overlong()
    }

    /// An event that cannot just pass.
    fn hold(&mut self, event: Bytes, role: Role, out: &mut Vec<Bytes>) {
        if self.has_end {
            if role.is_carrier && self.behind_end + event.len() <= MAX_BEHIND_END {
                self.carrier = Some(self.held.len());
            }
            return self.keep_behind(event);
        }
        if role.is_end {
            self.has_end = true;
        } else if role.is_carrier {
            // A later round of the same answer: what was held before has the usage of an earlier one.
            self.flush(out);
        } else if self.count == MAX_HELD {
            self.flush(out);
            out.push(event);
            return;
        }
        if role.is_carrier {
            self.carrier = Some(self.held.len());
        }
        self.count += 1;
        self.held.push(event);
    }

    /// Keeps bytes behind the end of the answer: there may be anything, and any amount of it.
    fn keep_behind(&mut self, bytes: Bytes) {
        self.behind_end += bytes.len();
        if self.behind_end <= MAX_BEHIND_END {
            self.held.push(bytes);
        }
    }

    fn flush(&mut self, out: &mut Vec<Bytes>) {
        out.extend(self.held.drain(..).filter(|piece| !piece.is_empty()));
        (self.count, self.carrier) = (0, None);
    }
}

fn push(out: &mut Vec<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        out.push(piece);
    }
}

/// What every event has in it that waits for the cost, whatever else may have it too.
static KINDS: Needles<6> = LazyLock::new(|| {
    [
        "[DONE]",
        "message_stop",
        "message_delta",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    .map(Finder::new)
});

/// Whether a piece is whole events, none of which has to wait: most are, and need not be looked at one by one.
fn is_plain(protocol: Protocol, piece: &[u8]) -> bool {
    let [done, of_messages @ .., _, _, _] = &*KINDS;
    let of_responses = &KINDS[3..];
    let kinds = match protocol {
        Protocol::Chat => &[][..],
        Protocol::Messages => of_messages,
        Protocol::Responses => of_responses,
    };
    piece.ends_with(b"\n\n")
        && !kinds.iter().chain([done]).any(|kind| kind.find(piece).is_some())
        && (protocol != Protocol::Chat || !mentions_any(piece, &USAGE))
}

/// Notes what a line makes of its event.
fn read_line(protocol: Protocol, line: &[u8], name: &mut Vec<u8>, role: &mut Role) {
    if let Some(data) = sse::data(line) {
        let kind = match protocol {
            Protocol::Chat => &[][..],
            Protocol::Messages | Protocol::Responses => sse::kind(data, name),
        };
        role.is_end |= data.starts_with(b"[DONE]") || is_end(protocol, kind);
        role.is_carrier |= match protocol {
            Protocol::Chat => mentions(data, &USAGE) && has_only_usage(data),
            Protocol::Messages => kind == b"message_delta",
            Protocol::Responses => kind == b"response.completed",
        } && object_at(data, path_in_event(protocol)).is_some();
    } else if let Some(value) = sse::name(line) {
        role.is_end |= is_end(protocol, value);
        value[..value.len().min(MAX_NAME_BYTES)].clone_into(name);
    }
}

/// Longest name of an event that is kept; the names that are looked for are shorter.
const MAX_NAME_BYTES: usize = 64;

/// Whether an event of this kind ends an answer.
fn is_end(protocol: Protocol, kind: &[u8]) -> bool {
    match protocol {
        Protocol::Chat => false,
        Protocol::Messages => kind == b"message_stop",
        Protocol::Responses => {
            matches!(kind, b"response.completed" | b"response.incomplete" | b"response.failed")
        }
    }
}

/// Whether a chunk has no choices, but the list of them.
fn has_only_usage(data: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Chunk {
        choices: Vec<IgnoredAny>,
    }
    serde_json::from_slice::<Chunk>(data).is_ok_and(|chunk| chunk.choices.is_empty())
}

/// The event with the cost in the first of its lines that has usage.
fn attach_to_event(protocol: Protocol, event: &Bytes, cost: &Cost) -> Option<Vec<Bytes>> {
    let mut start = 0;
    for line in event.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        if let Some(data) = sse::data(line) {
            let offset = start + line.len() - data.len();
            if let Some(mut edits) = edits(data, path_in_event(protocol), cost) {
                for edit in &mut edits {
                    edit.range = edit.range.start + offset..edit.range.end + offset;
                }
                return Some(splice(event, edits));
            }
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests;
