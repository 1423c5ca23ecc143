//! Rules for uploaded files: what a file may be called, which bytes of it a caller wants, whether they have it already.

use std::fmt::Write as _;
use std::ops::Range;

/// A longer name is refused: file systems take half of it, and it goes into a header three times as long.
pub const MAX_NAME: usize = 512;

/// Which bytes of a file are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    Whole,
    /// These; never empty, never beyond the end.
    Part(Range<u64>),
    /// Some that it has not.
    Beyond,
}

/// What a `Range` header asks of a file of this length.
///
/// A header that is none, or asks for several ranges, asks for the whole: both are for the server to decide. Source: RFC
/// 9110, sections 14.1.2 and 14.2.
pub fn range(header: Option<&[u8]>, length: u64) -> Wanted {
    let Some(part) = header.and_then(|header| std::str::from_utf8(header).ok()).and_then(single)
    else {
        return Wanted::Whole;
    };
    match part {
        (None, Some(0)) => Wanted::Beyond,
        (None, Some(last)) if length > 0 => Wanted::Part(length.saturating_sub(last)..length),
        (Some(first), Some(last)) if last < first => Wanted::Whole,
        (Some(first), last) if first < length => {
            let end = last.map_or(length, |last| last.saturating_add(1).min(length));
            Wanted::Part(first..end)
        }
        (Some(_), _) | (None, Some(_)) => Wanted::Beyond,
        (None, None) => Wanted::Whole,
    }
}

/// The two numbers of `bytes=first-last`, one of which may be missing.
fn single(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, ranges) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = ranges.trim().split_once('-')?;
    let number = |text: &str| match text {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Beyond every file there is, which is what such a number means.
            Some(Some(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    };
    let pair = (number(first.trim_end())?, number(last.trim_start())?);
    (pair != (None, None)).then_some(pair)
}

/// Whether `If-None-Match` names this entity tag, written with its quotation marks. Source: RFC 9110, section 13.1.2.
pub fn is_known(if_none_match: &[u8], etag: &str) -> bool {
    let Ok(header) = std::str::from_utf8(if_none_match) else { return false };
    header.split(',').map(str::trim).any(|one| {
        // Weak comparison: whoever has the same bytes under a weak tag needs nothing either.
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag
    })
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameTooLong;

/// The name that a file is kept under; `None`: it has none.
///
/// # Errors
/// When it is longer than [`MAX_NAME`] bytes.
pub fn name(sent: Option<&str>) -> Result<Option<String>, NameTooLong> {
    let Some(sent) = sent else { return Ok(None) };
    if sent.len() > MAX_NAME {
        return Err(NameTooLong);
    }
    // They have no place in a name, and PostgreSQL cannot hold one of them.
    let clean: String = sent.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    Ok((!clean.is_empty()).then(|| clean.to_owned()))
}

/// The value of `Content-Disposition` that has a browser save a file under this name; ASCII, whatever the name.
pub fn disposition(name: &str) -> String {
    let plain: String =
        name.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
    let plain = match plain.trim() {
        "" => "download",
        plain => plain,
    };
    let mut value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''");
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                value.push(char::from(byte));
            }
            _ => {
                // A String takes everything.
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

/// Whether this is an id that [`id`] makes.
pub fn is_id(id: &str) -> bool {
    let Some(digits) = id.strip_prefix("file-") else { return false };
    digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of a file, of sixteen random bytes.
pub fn id(random: [u8; 16]) -> String {
    let mut id = String::with_capacity(37);
    id.push_str("file-");
    for byte in random {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// Where the bytes of a file are kept, within whatever keeps them: the reference's layout.
pub fn place(id: &str) -> String {
    let digits = id.strip_prefix("file-").unwrap_or(id);
    format!("{}/{id}", digits.get(..2).unwrap_or("00"))
}

/// Whether a place out of a database leads to something within the root: folders and a name, none of them special.
pub fn is_within(place: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0'])
    };
    place.len() <= 1024 && place.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &str) -> Wanted {
        range(Some(header.as_bytes()), 10)
    }

    #[test]
    fn ranges_are_closed_open_or_of_the_end() {
        for (header, wanted) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("BYTES = 2-5", 2..6),
            ("bytes=2-", 2..10),
            ("bytes=9-99", 9..10),
            ("bytes=0-18446744073709551615", 0..10),
            ("bytes=0-99999999999999999999999", 0..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
        ] {
            assert_eq!(of(header), Wanted::Part(wanted), "{header}");
        }
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(of(header), Wanted::Beyond, "{header}");
        }
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
        ] {
            assert_eq!(of(header), Wanted::Whole, "{header}");
        }
        assert_eq!(range(None, 10), Wanted::Whole);
        assert_eq!(range(Some(b"bytes=0-\xff"), 10), Wanted::Whole);
        assert_eq!(range(Some(b"bytes=-5"), 0), Wanted::Beyond);
    }

    #[test]
    fn tags_are_compared_weakly() {
        for header in ["\"a\"", "*", "\"b\", \"a\"", "W/\"a\"", " \"a\" "] {
            assert!(is_known(header.as_bytes(), "\"a\""), "{header}");
        }
        for header in ["", "a", "\"b\"", "\"a", "\"A\""] {
            assert!(!is_known(header.as_bytes(), "\"a\""), "{header}");
        }
    }

    #[test]
    fn names_are_kept_without_what_no_name_has() {
        let kept = |sent: &str| name(Some(sent)).unwrap();
        assert_eq!(kept(" a\0b\r\n.txt ").as_deref(), Some("ab.txt"));
        assert_eq!(
            kept("../../etc/passwd").as_deref(),
            Some("../../etc/passwd"),
            "no path is made of it"
        );
        assert_eq!(kept("\n"), None);
        assert_eq!(name(None), Ok(None));
        assert_eq!(name(Some(&"ä".repeat(257))), Err(NameTooLong));
    }

    #[test]
    fn dispositions_are_the_references() {
        for (name, value) in [
            ("a b.txt", "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"),
            ("q\"\\ü.txt", "attachment; filename=\"q.txt\"; filename*=UTF-8''q%22%5C%C3%BC.txt"),
            ("日本", "attachment; filename=\"download\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC"),
            ("a\r\nX: y", "attachment; filename=\"aX: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
        ] {
            assert_eq!(disposition(name), value);
        }
    }

    #[test]
    fn places_are_within_the_root() {
        let id = id([0x3f; 16]);
        assert!(is_id(&id) && is_within(&place(&id)));
        assert_eq!(place(&id), format!("3f/{id}"));
        for odd in ["file-", "file-3F", &id[..36], &id.to_uppercase(), "x", &format!("{id}0")] {
            assert!(!is_id(odd), "{odd}");
        }
        for odd in ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "./a", "a\\b", "a\0"] {
            assert!(!is_within(odd), "{odd:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_range_lies_within_its_file(header in "(bytes)?[ =]{0,2}[0-9]{0,21}-?[0-9]{0,21}[,a-]?", length: u64) {
            match range(Some(header.as_bytes()), length) {
                Wanted::Part(part) => {
                    proptest::prop_assert!(part.start < part.end && part.end <= length, "{part:?}");
                }
                Wanted::Whole | Wanted::Beyond => {}
            }
        }

        #[test]
        fn a_range_is_what_it_says(first in 0_u64..2000, more in 0_u64..2000, length in 1_u64..2000) {
            let last = first + more;
            let wanted = range(Some(format!("bytes={first}-{last}").as_bytes()), length);
            let expected = match first < length {
                true => Wanted::Part(first..length.min(last + 1)),
                false => Wanted::Beyond,
            };
            proptest::prop_assert_eq!(wanted, expected);
        }

        #[test]
        fn any_name_makes_a_header_of_one_line(sent in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let value = disposition(&sent);
            proptest::prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{value}");
            proptest::prop_assert_eq!(value.matches('"').count(), 2, "{}", value);
            if let Ok(Some(name)) = name(Some(&sent)) {
                proptest::prop_assert!(!name.chars().any(char::is_control) && name.trim() == name);
            }
        }

        #[test]
        fn any_place_that_passes_stays_below(place in "[a-z./\\\\]{0,12}") {
            if is_within(&place) {
                let joined = std::path::Path::new("/root").join(&place);
                let plain = joined.components().all(|part| {
                    matches!(part, std::path::Component::Normal(_) | std::path::Component::RootDir)
                });
                proptest::prop_assert!(plain && joined.starts_with("/root"), "{}", place);
            }
        }
    }
}
