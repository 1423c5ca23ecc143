//! Cuts a provider's event stream into the data of its events, and frames our own.

use bytes::Bytes;
use std::borrow::Cow;

use crate::protocol::sse::{self, Events, Lines, MAX_EVENT_BYTES, Mark};

/// The provider's stream; keeps the unfinished event, up to 1 MiB.
#[derive(Debug)]
pub(super) struct Frames {
    events: Events,
}

/// What the frame of a word or two takes, with room to spare: the vector need not grow on the way.
const USUAL_BYTES: usize = 384;

/// An event was longer than what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Frames {
    pub(super) fn new() -> Self {
        Self { events: Events::new(MAX_EVENT_BYTES) }
    }

    /// Gives `each` the name and the data of the events that `piece` completes.
    pub(super) fn push(
        &mut self,
        piece: Bytes,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), TooLong> {
        let mut scan = self.events.scan(piece);
        while let Some(mark) = scan.next() {
            if let Mark::End(event) = mark {
                read(&scan.bytes()[event], &mut each);
            }
        }
        scan.finish();
        if self.events.is_overlong() { Err(TooLong) } else { Ok(()) }
    }

    /// The stream is over: an event without the empty line behind it counts too.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&[u8], &[u8])) {
        let open = self.events.take_open();
        if !open.is_empty() {
            read(&open, &mut each);
        }
    }
}

/// The name and the data of one event; nothing for a comment or a lone name.
fn read(event: &[u8], each: &mut impl FnMut(&[u8], &[u8])) {
    let mut lines = Lines::default();
    let (mut from, mut name): (usize, &[u8]) = (0, b"");
    let mut data: Option<Cow<'_, [u8]>> = None;
    while from < event.len() {
        let (line, next) = match lines.next(event, from) {
            Some(line) => (&event[line.start..line.end], line.next),
            None => (&event[from..], event.len()),
        };
        from = next;
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        if let Some(value) = sse::name(line) {
            name = value;
        } else if let Some(value) = sse::data(line) {
            match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
    }
    if let Some(data) = data {
        each(name, data.trim_ascii());
    }
}

/// Writes a frame: a name where the format has names, and the data that `write` writes.
pub(super) fn frame(out: &mut Vec<u8>, name: Option<&str>, write: impl FnOnce(&mut Vec<u8>)) {
    out.reserve(USUAL_BYTES);
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    write(out);
    out.extend_from_slice(b"\n\n");
}
