//! Cuts a provider's stream into the documents of its lines, one to a line. Has the shape of `frames`.

use bytes::{Bytes, BytesMut};

use super::frames::TooLong;
use crate::protocol::sse::MAX_EVENT_BYTES;

/// The provider's stream; keeps the unfinished line, up to 1 MiB.
#[derive(Debug, Default)]
pub(super) struct Lines {
    open: BytesMut,
    /// The unfinished line is too long: nothing of it is kept.
    is_overlong: bool,
}

impl Lines {
    /// Gives `each` the lines that `piece` completes; none has a name.
    pub(super) fn push(
        &mut self,
        piece: Bytes,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), TooLong> {
        let mut was_overlong = false;
        let mut rest = &piece[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            self.keep(line.len());
            was_overlong |= self.is_overlong;
            if std::mem::take(&mut self.is_overlong) {
                continue;
            }
            if self.open.is_empty() {
                tell(line, &mut each);
            } else {
                self.open.extend_from_slice(line);
                tell(&self.open.split(), &mut each);
            }
        }
        self.keep(rest.len());
        if !self.is_overlong {
            self.open.extend_from_slice(rest);
        }
        if was_overlong || self.is_overlong { Err(TooLong) } else { Ok(()) }
    }

    /// The stream is over: a line without its end counts too.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&[u8], &[u8])) {
        tell(&self.open.split(), &mut each);
    }

    /// Whether the unfinished line may grow by so many bytes.
    fn keep(&mut self, more: usize) {
        if self.open.len() + more > MAX_EVENT_BYTES {
            self.is_overlong = true;
            self.open = BytesMut::new();
        }
    }
}

/// Tells a line, unless there is nothing in it.
fn tell(line: &[u8], each: &mut impl FnMut(&[u8], &[u8])) {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if !line.is_empty() {
        each(b"", line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let (mut lines, mut all, mut is_fine) = (Lines::default(), Vec::new(), true);
        let mut add = |_: &[u8], line: &[u8]| all.push(String::from_utf8_lossy(line).into_owned());
        for piece in pieces {
            is_fine &= lines.push(Bytes::copy_from_slice(piece), &mut add).is_ok();
            assert!(lines.open.len() <= MAX_EVENT_BYTES);
        }
        lines.finish(&mut add);
        (all, is_fine)
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"{\"a\":1}\r\n\n {\"b\":\"\xc3\xa9\"}\n{\"c\":3}";
        let whole = lines(&[text]);
        assert_eq!(whole.0, ["{\"a\":1}", "{\"b\":\"é\"}", "{\"c\":3}"]);
        for at in 0..=text.len() {
            assert_eq!(lines(&[&text[..at], &text[at..]]), whole, "cut at {at}");
        }
        assert_eq!(lines(&text.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn a_line_that_is_too_long_is_not_kept() {
        let long = vec![b'a'; MAX_EVENT_BYTES / 2 + 1];
        assert_eq!(lines(&[&long, &long, b"\n{}\n"]), (vec!["{}".to_owned()], false));
        let mut whole = long.repeat(2);
        whole.extend_from_slice(b"\n{}\n");
        assert_eq!(lines(&[&whole]), (vec!["{}".to_owned()], false));
    }
}
