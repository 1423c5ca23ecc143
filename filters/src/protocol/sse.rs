//! Server-sent events: finds lines and event ends in bytes that arrive in any pieces.
//!
//! Source: WHATWG HTML, section 9.2.6 (lines end with LF, CRLF or CR; an empty line ends an event).

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::protocol::json::string_field;

/// Longest event that is kept to be read; a longer one passes unread.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// A line, or the end of an event, within one piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where the line begins in the piece, or where the search for it did.
    pub start: usize,
    /// Where its text ends: the position of its first line-end byte.
    pub end: usize,
    /// Where the next line begins.
    pub next: usize,
}

/// Splits pieces into lines. Remembers nothing but whether the last byte was a CR.
#[derive(Debug, Default)]
pub struct Lines {
    after_cr: bool,
}

impl Lines {
    /// Where the lines of a new piece begin: behind the LF that completes a CRLF split over two pieces.
    pub fn begin(&mut self, piece: &[u8]) -> usize {
        let Some(first) = piece.first() else { return 0 };
        usize::from(std::mem::take(&mut self.after_cr) && *first == b'\n')
    }

    /// The next line of `piece` that ends at or after `from`; `None` when the rest is unfinished.
    pub fn next(&mut self, piece: &[u8], from: usize) -> Option<Line> {
        let end = from + memchr::memchr2(b'\n', b'\r', piece.get(from..)?)?;
        let mut next = end + 1;
        if piece[end] == b'\r' {
            match piece.get(next) {
                Some(b'\n') => next += 1,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        Some(Line { start: from, end, next })
    }
}

/// The value of a `data:` line, without the one space after the colon.
pub fn data(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data:")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// The value of an `event:` line, which names the event.
pub fn name(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"event:")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// What kind of event `data` is: its `type`, else the name of the event.
pub(crate) fn kind<'a>(data: &'a [u8], name: &'a [u8]) -> &'a [u8] {
    string_field(data, "type").map_or(name, |range| &data[range.start + 1..range.end - 1])
}

/// Cuts a stream into events; keeps the unfinished one. Events that arrive whole are not copied.
#[derive(Debug)]
pub struct Events {
    /// An unfinished event longer than this is not kept.
    max: usize,
    lines: Lines,
    /// The unfinished event.
    open: BytesMut,
    /// Where in it the unfinished line begins.
    line: usize,
    /// The unfinished event is too long: nothing of it is kept.
    is_overlong: bool,
    /// The unfinished line of an overlong event has begun.
    is_mid_line: bool,
}

/// What was found in a stream. Ranges are those of the scan's bytes, and of what its `finish` returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line of an event, without its end.
    Line(Range<usize>),
    /// An event is over; the range holds it and the empty line behind it. Of one that began in an earlier piece and was
    /// not kept, only the end is here, and its lines were not told.
    End(Range<usize>),
}

/// The events that a new piece completes.
#[derive(Debug)]
pub struct Scan<'e> {
    events: &'e mut Events,
    piece: Bytes,
    /// What is scanned is the unfinished event with the piece behind it.
    is_joined: bool,
    /// Where the event begins.
    event: usize,
    /// Where the line begins.
    line: usize,
}

impl Events {
    /// Keeps unfinished events of up to `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            lines: Lines::default(),
            open: BytesMut::new(),
            line: 0,
            is_overlong: false,
            is_mid_line: false,
        }
    }

    /// Begins with a new piece. The scan must be finished.
    pub fn scan(&mut self, piece: Bytes) -> Scan<'_> {
        let behind_lf = self.lines.begin(&piece);
        let is_joined = !self.open.is_empty();
        let (mut event, mut line) = (behind_lf, behind_lf);
        if is_joined {
            let base = self.open.len();
            self.open.extend_from_slice(&piece);
            event = 0;
            line = if self.line == base { base + behind_lf } else { self.line };
        }
        Scan { events: self, piece, is_joined, event, line }
    }

    /// Whether bytes of an unfinished event are kept.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether the next piece begins with an event of its own, whatever it is.
    pub fn is_fresh(&self) -> bool {
        self.open.is_empty() && !self.is_overlong && !self.is_mid_line && !self.lines.after_cr
    }

    /// Whether the unfinished event is too long to be kept.
    pub fn is_overlong(&self) -> bool {
        self.is_overlong
    }

    /// Takes the unfinished event out, to let it go. What follows of it is treated as that of an overlong one.
    pub fn take_open(&mut self) -> Bytes {
        let open = self.open.split().freeze();
        if !open.is_empty() {
            self.is_overlong = true;
            self.is_mid_line = self.line < open.len();
            self.line = 0;
        }
        open
    }
}

impl Scan<'_> {
    /// What is scanned.
    pub fn bytes(&self) -> &[u8] {
        if self.is_joined { &self.events.open } else { &self.piece }
    }

    /// How many bytes in front of the first event are the LF of the CRLF that ended the last one.
    pub fn belated(&self) -> usize {
        if self.is_joined || self.events.is_overlong { 0 } else { self.event.min(1) }
    }

    /// The next line or event; `None` when the rest is unfinished.
    #[expect(clippy::should_implement_trait, reason = "the bytes are looked at between two steps")]
    pub fn next(&mut self) -> Option<Mark> {
        loop {
            let bytes = if self.is_joined { &self.events.open[..] } else { &self.piece[..] };
            let line = self.events.lines.next(bytes, self.line)?;
            self.line = line.next;
            let is_empty = line.start == line.end && !std::mem::take(&mut self.events.is_mid_line);
            self.events.is_mid_line = false;
            if is_empty {
                let event = self.event..line.next;
                self.event = line.next;
                self.events.is_overlong = false;
                return Some(Mark::End(event));
            }
            if !self.events.is_overlong {
                return Some(Mark::Line(line.start..line.end));
            }
        }
    }

    /// The unfinished line, once `next` has found all others; nothing of an overlong event.
    pub fn open_line(&self) -> &[u8] {
        if self.events.is_overlong { &[] } else { &self.bytes()[self.line..] }
    }

    /// Keeps the unfinished event. Returns what may leave: the whole events, and all of an overlong one.
    pub fn finish(self) -> Bytes {
        let Self { events, piece, is_joined, event, line } = self;
        let len = if is_joined { events.open.len() } else { piece.len() };
        if events.is_overlong || len - event.min(len) > events.max {
            events.is_overlong = true;
            events.is_mid_line |= line < len;
            events.line = 0;
            return if is_joined { events.open.split().freeze() } else { piece };
        }
        events.line = line - event;
        if is_joined {
            events.open.split_to(event).freeze()
        } else {
            events.open.extend_from_slice(&piece[event..]);
            piece.slice(..event)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream, and its lines by event.
    fn events(max: usize, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Vec<String>>) {
        let mut events = Events::new(max);
        let (mut passed, mut all, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut scan = events.scan(Bytes::copy_from_slice(piece));
            while let Some(mark) = scan.next() {
                match mark {
                    // A line may be told again only if its event was not finished; so it is told once.
                    Mark::Line(line) => {
                        lines.push(String::from_utf8(scan.bytes()[line].to_vec()).unwrap());
                    }
                    Mark::End(event) => {
                        assert!(event.end <= scan.bytes().len());
                        all.push(std::mem::take(&mut lines));
                    }
                }
            }
            passed.extend_from_slice(&scan.finish());
        }
        passed.extend_from_slice(&events.take_open());
        all.push(lines);
        (passed, all)
    }

    #[test]
    fn events_split_anywhere_are_the_same_events() {
        let text: &[u8] =
            b": c\n\nevent: a\r\ndata: 1\r\n\r\n\ndata: 2\rdata: 3\r\rdata: 4\n\ndata: 5\nid: x";
        let whole = events(1 << 10, &[text]);
        assert_eq!(whole.0, text);
        let want: [&[&str]; 6] = [
            &[": c"],
            &["event: a", "data: 1"],
            &[],
            &["data: 2", "data: 3"],
            &["data: 4"],
            &["data: 5"],
        ];
        assert_eq!(whole.1, want);
        for at in 0..=text.len() {
            assert_eq!(events(1 << 10, &[&text[..at], &text[at..]]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(events(1 << 10, &bytes), whole);
    }

    #[test]
    fn an_overlong_event_is_not_kept_and_its_end_is_found() {
        let long = format!("data: {}\n", "y".repeat(50));
        let text = format!("data: 1\n\n{long}{long}\ndata: 2\n\n");
        for step in 1..40 {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
            let (passed, all) = events(16, &pieces);
            assert_eq!(passed, text.as_bytes(), "in pieces of {step}");
            assert_eq!(all.first().unwrap(), &["data: 1"], "in pieces of {step}");
            assert_eq!(all.len(), 4, "in pieces of {step}: {all:?}");
            assert_eq!(all[2], ["data: 2"], "in pieces of {step}");
        }
    }

    #[test]
    fn an_event_that_was_let_go_is_not_told_again() {
        let mut events = Events::new(1 << 10);
        let scan = events.scan(Bytes::from_static(b"data: a"));
        assert!(scan.finish().is_empty());
        assert_eq!(events.take_open(), b"data: a"[..]);
        let mut scan = events.scan(Bytes::from_static(b"\n\ndata: b\n"));
        assert_eq!(scan.next(), Some(Mark::End(0..2)));
        assert_eq!(scan.next(), Some(Mark::Line(2..9)));
        assert_eq!(scan.next(), None);
        assert_eq!(scan.finish(), b"\n\n"[..]);
    }

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let (mut all, mut open) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut from = lines.begin(piece);
            while let Some(line) = lines.next(piece, from) {
                open.extend_from_slice(&piece[line.start..line.end]);
                all.push(String::from_utf8(std::mem::take(&mut open)).unwrap());
                from = line.next;
            }
            open.extend_from_slice(&piece[from..]);
        }
        all
    }

    #[test]
    fn all_three_line_ends_are_known() {
        assert_eq!(split(&[b"a\nb\r\nc\rd\n\n"]), ["a", "b", "c", "d", ""]);
    }

    #[test]
    fn a_crlf_split_over_pieces_is_one_line_end() {
        assert_eq!(split(&[b"a\r", b"\nb\r", b"\n\r", b"\n"]), ["a", "b", ""]);
    }

    #[test]
    fn lines_split_anywhere_are_the_same_lines() {
        let text = b"data: {\"a\":1}\r\n\r\ndata: [DONE]\n\n";
        let whole = split(&[text]);
        for at in 0..text.len() {
            assert_eq!(split(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn one_space_after_the_colon_is_not_data() {
        assert_eq!(data(b"data: x"), Some(&b"x"[..]));
        assert_eq!(data(b"data:  x"), Some(&b" x"[..]));
        assert_eq!(data(b"event: x"), None);
    }
}
