//! Server-sent events: finds lines and event ends in bytes that arrive in any pieces.
//!
//! Source: WHATWG HTML, section 9.2.6 (lines end with LF, CRLF or CR; an empty line ends an event).

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

#[cfg(test)]
mod tests {
    use super::*;

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
