//! Text of unknown encoding.

use std::borrow::Cow;

/// What Windows has where Latin-1 has control characters; nearly every text that says Latin-1 means this.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The text: UTF-16 where a mark says so, else UTF-8, else Latin-1. `None` where it is no text.
pub(super) fn decode(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => Cow::Owned(bytes.iter().map(|byte| latin(*byte)).collect()),
            }
        }
    };
    is_text(&text).then_some(text)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Cow<'static, str> {
    let (units, _) = bytes.as_chunks::<2>();
    let units = units.iter().map(|pair| unit(*pair));
    Cow::Owned(
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
    )
}

fn latin(byte: u8) -> char {
    match byte {
        0x80..=0x9F => WINDOWS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// Characters that are looked at: what is no text shows it early.
const LOOKED_AT: usize = 8192;

/// Whether control characters are rare, and NUL is not there.
fn is_text(text: &str) -> bool {
    let (mut seen, mut odd) = (0_usize, 0_usize);
    for c in text.chars().take(LOOKED_AT) {
        if c == '\0' {
            return false;
        }
        seen += 1;
        odd += usize::from(c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}'));
    }
    odd * 20 <= seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        for (bytes, want) in [
            (&b"caf\xC3\xA9"[..], "café"),
            (b"\xEF\xBB\xBFx", "x"),
            (b"caf\xE9 \x93q\x94 \x80", "café “q” €"),
            (b"\xFF\xFEh\0i\0", "hi"),
            (b"\xFE\xFF\0h\0i\0", "hi"),
            (b"\xFF\xFE\x00\xD8", "\u{FFFD}"),
            (b"", ""),
        ] {
            assert_eq!(decode(bytes).as_deref(), Some(want), "{bytes:?}");
        }
        for none in
            [&b"a\0b"[..], b"\x7fELF\x02\x01\x01\x00", b"\x01\x02\x03\x04", b"\x89PNG\r\n\x1a\n\0"]
        {
            assert_eq!(decode(none), None, "{none:?}");
        }
    }
}
