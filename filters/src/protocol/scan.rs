//! A quick walk over plainly written JSON, for what is read of every call.
//!
//! It says yes or nothing: what it walks over is what serde accepts, and means what serde reads. `None` is no verdict.
//! The document is wrong, or only written as nearly nobody writes (a key with an escape or beyond ASCII, a count that is
//! no plain number, a field twice, very deep nesting): whoever asks has serde read it again then.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Deepest nesting of a value that is passed over: a bit each.
const MAX_DEPTH: u32 = 64;
/// More digits might not fit.
const MAX_DIGITS: usize = 19;
/// Longest number that is passed over where serde would read it.
const MAX_NUMBER: usize = 40;

/// Where a walk has come to.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    /// The same, where it is known to be a text.
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// At the beginning of a document that may be no text, and of which nothing is cut out.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, text: "", at: 0 }
    }

    /// At the beginning of a document.
    pub(crate) fn of(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), text, at: 0 }
    }

    /// The next byte that is no white space.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            // Nearly always it is beyond the blank: one comparison.
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    #[inline(always)]
    fn eat(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    /// The document is over.
    pub(crate) fn end(mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// An object: `field` is given every name and must take its value.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, &'a [u8]) -> Option<()>,
    ) -> Option<()> {
        self.eat(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.name()?;
            field(self, name)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A list: `item` must take every value.
    #[inline]
    pub(crate) fn list(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.eat(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// The name of a field, and the colon: ASCII without escapes.
    #[inline(always)]
    fn name(&mut self) -> Option<&'a [u8]> {
        self.eat(b'"')?;
        let rest = &self.bytes[self.at..];
        let length = plain_bytes::<true>(rest);
        if *rest.get(length)? != b'"' {
            return None;
        }
        self.at += length + 1;
        self.eat(b':')?;
        Some(&rest[..length])
    }

    /// Passes over a value. Says whether it was another than null.
    pub(crate) fn is_set(&mut self) -> Option<bool> {
        let is_set = self.peek()? != b'n';
        self.skip()?;
        Some(is_set)
    }

    /// A number from zero on without fraction or exponent; nothing for a literal.
    #[inline]
    pub(crate) fn count(&mut self) -> Option<Option<u64>> {
        self.peek()?;
        let (start, mut at, mut count) = (self.at, self.at, 0_u64);
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(at) {
            count = count.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        let digits = at - start;
        if digits == 0 {
            return match self.peek()? {
                b'n' | b't' | b'f' => self.skip().map(|()| None),
                _ => None,
            };
        }
        let is_padded = digits > 1 && self.bytes[start] == b'0';
        if is_padded
            || digits > MAX_DIGITS
            || matches!(self.bytes.get(at), Some(b'.' | b'e' | b'E'))
        {
            return None;
        }
        self.at = at;
        Some(Some(count))
    }

    /// Passes over a value.
    pub(crate) fn skip(&mut self) -> Option<()> {
        // The innermost object or list is the lowest bit: one for an object.
        let (mut within, mut depth) = (0_u64, 0);
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = open == b'{';
                    if self.peek()? != if is_object { b'}' } else { b']' } {
                        if depth == MAX_DEPTH {
                            return None;
                        }
                        depth += 1;
                        within = within << 1 | u64::from(is_object);
                        if is_object {
                            self.skip_name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'n' => self.word(b"null")?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'-' | b'0'..=b'9' => self.skip_number()?,
                _ => return None,
            }
            loop {
                if depth == 0 {
                    return Some(());
                }
                let is_object = within & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.skip_name()?;
                        }
                        break;
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                self.at += 1;
                depth -= 1;
                within >>= 1;
            }
        }
    }

    #[inline(always)]
    fn skip_name(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        self.skip_string()?;
        self.eat(b':')
    }

    /// Passes over a string, from its opening quote on. What its escapes stand for is not looked at.
    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            self.at += plain_bytes::<false>(self.bytes.get(self.at..)?);
            match *self.bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.skip_escape()?,
                _ => return None,
            }
        }
    }

    fn skip_escape(&mut self) -> Option<()> {
        match *self.bytes.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
            b'u' => {
                let digits = self.bytes.get(self.at + 2..self.at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                self.at += 6;
            }
            _ => return None,
        }
        Some(())
    }

    /// Passes over a string, which is valid UTF-8 and must stand for a text. Says how many Unicode characters that has.
    pub(crate) fn chars(&mut self) -> Option<u64> {
        self.eat(b'"')?;
        let mut chars = 0;
        loop {
            let rest = self.bytes.get(self.at..)?;
            let plain = plain_bytes::<false>(rest);
            chars += count_chars(&rest[..plain]);
            self.at += plain;
            match *rest.get(plain)? {
                b'"' => {
                    self.at += 1;
                    return Some(chars);
                }
                b'\\' => self.skip_escaped_char()?,
                _ => return None,
            }
            chars += 1;
        }
    }

    /// As `skip_escape`, and half a surrogate pair is no character.
    fn skip_escaped_char(&mut self) -> Option<()> {
        let start = self.at;
        self.skip_escape()?;
        match self.code_unit(start) {
            Some(0xD800..0xDC00) => {
                let low = self.at;
                self.skip_escape()?;
                matches!(self.code_unit(low), Some(0xDC00..0xE000)).then_some(())
            }
            Some(0xDC00..0xE000) => None,
            _ => Some(()),
        }
    }

    /// The number in the escape at `start`, if it is one with a number.
    fn code_unit(&self, start: usize) -> Option<u16> {
        let digits = self.bytes.get(start..start + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// Passes over a number that serde can hold: one with an exponent may be too large.
    pub(crate) fn number(&mut self) -> Option<()> {
        self.peek()?;
        let start = self.at;
        self.skip_number()?;
        let text = &self.bytes[start..self.at];
        let is_plain =
            text.len() <= MAX_NUMBER && !text.iter().any(|byte| matches!(byte, b'e' | b'E'));
        is_plain.then_some(())
    }

    /// The value that follows, cut out.
    pub(crate) fn value(&mut self) -> Option<&'a str> {
        self.peek()?;
        let start = self.at;
        self.skip()?;
        self.text.get(start..self.at)
    }

    /// The same, for serde.
    pub(crate) fn raw(&mut self) -> Option<&'a RawValue> {
        self.peek()?;
        let mut from = serde_json::Deserializer::from_str(self.text.get(self.at..)?);
        let raw = <&RawValue>::deserialize(&mut from).ok()?;
        self.at += raw.get().len();
        Some(raw)
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn skip_number(&mut self) -> Option<()> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let start = self.at;
        let digits = self.skip_digits()?;
        if digits > 1 && self.bytes[start] == b'0' {
            return None;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Some(())
    }

    /// One digit at least.
    #[inline]
    fn skip_digits(&mut self) -> Option<usize> {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Some(self.at - start).filter(|digits| *digits > 0)
    }
}

/// Notes the field with this number among `seen`; a second one of it is for serde.
#[inline]
pub(crate) fn once(seen: &mut u32, number: u32) -> Option<()> {
    let bit = 1 << number;
    (std::mem::replace(seen, *seen | bit) & bit == 0).then_some(())
}

/// How many bytes at the beginning of `bytes` stand for themselves within a JSON string: up to a quote, a backslash, a
/// control character; where `ASCII`, up to what is none as well.
#[inline(always)]
pub(crate) fn plain_bytes<const ASCII: bool>(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().take(SHORT).enumerate() {
        let odd = odd_bytes::<ASCII>(*word);
        if odd != 0 {
            return at * 8 + odd.trailing_zeros() as usize / 8;
        }
    }
    if words.len() > SHORT {
        return plain_in_blocks::<ASCII>(bytes, SHORT * 8);
    }
    let odd = rest.iter().position(|byte| is_odd::<ASCII>(*byte));
    words.len() * 8 + odd.unwrap_or(rest.len())
}

/// Names, ids and most words have no more than so many times eight bytes.
const SHORT: usize = 5;
/// So many bytes are looked at at once in a long text.
const BLOCK: usize = 64;

/// The same, where the first `plain` bytes are.
#[inline(never)]
fn plain_in_blocks<const ASCII: bool>(bytes: &[u8], plain: usize) -> usize {
    let (blocks, _) = bytes[plain..].as_chunks::<BLOCK>();
    // All of a block, and not up to the first: the compiler makes vectors of it.
    let has_odd =
        |block: &[u8; BLOCK]| block.iter().fold(false, |odd, byte| odd | is_odd::<ASCII>(*byte));
    let plain = plain + blocks.iter().position(has_odd).unwrap_or(blocks.len()) * BLOCK;
    let odd = bytes[plain..].iter().position(|byte| is_odd::<ASCII>(*byte));
    odd.map_or(bytes.len(), |odd| plain + odd)
}

#[inline]
fn is_odd<const ASCII: bool>(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | ..0x20) | (ASCII & !byte.is_ascii())
}

/// The highest bit of the first odd one of eight bytes, and perhaps of later ones.
///
/// Source: <https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord>.
#[inline(always)]
fn odd_bytes<const ASCII: bool>(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let special = quote | backslash | word.wrapping_sub(ONES * 0x20);
    // What is beyond ASCII has the bit itself.
    HIGH & if ASCII { special | word } else { special & !word }
}

/// Unicode characters of valid UTF-8.
fn count_chars(text: &[u8]) -> u64 {
    let begins = |byte: &u8| u8::from(*byte & 0xC0 != 0x80);
    // In bytes as long as a byte can hold the count: so many are counted at once.
    let count = |part: &[u8]| part.iter().map(begins).fold(0, u8::wrapping_add);
    text.chunks(255).map(|part| u64::from(count(part))).sum()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::damaged;
