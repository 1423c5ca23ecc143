//! Cuts a stream into whole events, each as it came and as what it says.

use bytes::{Bytes, BytesMut};

use crate::protocol::sse::{self, Events, Lines, Mark};

/// Longest event of a loop: the one that ends a response holds all of it, pictures too.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// A whole event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// As it came, its end included.
    pub(super) raw: Bytes,
    /// Its name; empty when it has none.
    pub(super) name: String,
    /// Its data, which may be empty.
    pub(super) data: Bytes,
}

/// The events of one round.
#[derive(Debug)]
pub(super) struct Frames {
    events: Events,
    /// An event that ends with a CR at the end of its piece: an LF that belongs to it may follow.
    waiting: Option<Bytes>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { events: Events::new(MAX_EVENT_BYTES), waiting: None }
    }

    /// Gives `each` the events that `piece` completes; `false`: one was too long, and the rest cannot be followed.
    pub(super) fn push(&mut self, piece: Bytes, mut each: impl FnMut(&Event)) -> bool {
        if piece.is_empty() {
            return true;
        }
        let mut scan = self.events.scan(piece);
        let mut ends = Vec::new();
        let belated = scan.belated();
        while let Some(mark) = scan.next() {
            if let Mark::End(event) = mark {
                ends.push(event);
            }
        }
        let whole = scan.finish();
        if self.events.is_overlong() {
            return false;
        }
        if let Some(raw) = self.waiting.take() {
            let lf = &whole[..belated.min(whole.len())];
            each(&Event::read([&raw[..], lf].concat().into()));
        }
        for range in ends {
            let raw = whole.slice(range.clone());
            if range.end == whole.len() && raw.ends_with(b"\r") && !self.events.is_open() {
                self.waiting = Some(raw);
            } else {
                each(&Event::read(raw));
            }
        }
        true
    }

    /// The stream is over: an event without the empty line behind it counts too, and gets one.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&Event)) {
        if let Some(raw) = self.waiting.take() {
            each(&Event::read(raw));
        }
        let open = self.events.take_open();
        if !open.is_empty() {
            each(&Event::read([&open[..], b"\n\n"].concat().into()));
        }
    }
}

impl Event {
    fn read(raw: Bytes) -> Self {
        let mut lines = Lines::default();
        let (mut from, mut name) = (0, String::new());
        let mut data: Option<Bytes> = None;
        while let Some(line) = lines.next(&raw, from) {
            let start = match &raw[line.start..line.end] {
                text if text.starts_with(b"\xef\xbb\xbf") => line.start + 3,
                _ => line.start,
            };
            let text = &raw[start..line.end];
            from = line.next;
            if let Some(value) = sse::name(text) {
                name = String::from_utf8_lossy(value).into_owned();
            } else if let Some(value) = sse::data(text) {
                let value = raw.slice_ref(value);
                data = Some(match data {
                    None => value,
                    Some(before) => [&before[..], b"\n", &value[..]].concat().into(),
                });
            }
        }
        Self { raw, name, data: data.unwrap_or_default() }
    }

    /// What kind of event it is: its `type`, else its name.
    pub(super) fn kind(&self) -> String {
        String::from_utf8_lossy(sse::kind(&self.data, self.name.as_bytes())).into_owned()
    }

    /// The event with other data.
    pub(super) fn with(&self, data: &[u8]) -> Bytes {
        frame(&self.name, data)
    }
}

/// A whole event. Its data becomes one line: JSON has no line ends within its texts.
pub(super) fn frame(name: &str, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + data.len() + 16);
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"data: ");
    out.extend(data.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    out.extend_from_slice(b"\n\n");
    out.freeze()
}
