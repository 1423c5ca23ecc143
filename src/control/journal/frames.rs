//! A record as it stands in a segment: length, CRC-32, JSON, padded.

use std::io;

use otari_filters::settle::Entry;

use super::{Batch, Position};

/// Frames begin at multiples of this, so that reading can go on behind a torn one.
pub(super) const ALIGN: u64 = 32;
/// Length and CRC.
const HEADER_BYTES: usize = 8;
/// A record is an id, a few names and numbers, and a short message.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// Appends a record as it stands in a segment, padded.
pub(super) fn frame(entry: &Entry, frames: &mut Vec<u8>) -> io::Result<()> {
    let start = frames.len();
    frames.resize(start + HEADER_BYTES, 0);
    entry.write_json(frames)?;
    let frame = &mut frames[start..];
    let length = frame.len() - HEADER_BYTES;
    if length > MAX_RECORD_BYTES {
        return Err(io::Error::other("a usage record is longer than 1 MiB"));
    }
    let crc = crc32fast::hash(&frame[HEADER_BYTES..]);
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frames.resize(frames.len().next_multiple_of(ALIGN as usize), 0);
    Ok(())
}

/// The records of one piece of a segment.
pub(super) struct Scan<'a> {
    pub(super) bytes: &'a [u8],
    /// Where they begin.
    pub(super) from: Position,
    /// Goes on behind a frame that is not (yet) whole, instead of stopping there.
    pub(super) skip_torn: bool,
    /// Nothing follows.
    pub(super) is_end: bool,
    pub(super) at_most: usize,
}

impl Scan<'_> {
    pub(super) fn run(self, mut pass: impl FnMut(Position) -> Option<u64>) -> Batch {
        let mut batch = Batch::default();
        let mut at = 0;
        while at + HEADER_BYTES <= self.bytes.len() && batch.entries.len() < self.at_most {
            let place = self.place(at);
            if let Some(size) = pass(place) {
                at += size as usize;
                continue;
            }
            match read_frame(&self.bytes[at..]) {
                Frame::Whole(entry, size) => {
                    if let Some(entry) = entry {
                        batch.entries.push(*entry);
                        batch.places.push(place);
                    }
                    at += size;
                }
                // It may go on behind what was read; the next read begins with it.
                Frame::Cut if !self.is_end && at > 0 => break,
                _ if self.skip_torn => at += ALIGN as usize,
                _ => break,
            }
        }
        batch.next = self.place(at);
        batch
    }

    fn place(&self, at: usize) -> Position {
        Position { offset: self.from.offset + at as u64, ..self.from }
    }
}

enum Frame {
    Whole(Option<Box<Entry>>, usize),
    Torn,
    Cut,
}

fn read_frame(bytes: &[u8]) -> Frame {
    let word = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(four)
    };
    let length = word(0) as usize;
    if length == 0 || length > MAX_RECORD_BYTES {
        return Frame::Torn;
    }
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Frame::Cut };
    if crc32fast::hash(payload) != word(4) {
        return Frame::Torn;
    }
    let size = (HEADER_BYTES + length).next_multiple_of(ALIGN as usize);
    let entry = serde_json::from_slice(payload).ok();
    if entry.is_none() {
        tracing::error!(
            "a journal record of an unknown form was skipped; was it written by a newer otari?"
        );
    }
    Frame::Whole(entry.map(Box::new), size)
}
