//! How long a value is as the reference gateway would print it: as Python writes lists, dictionaries and strings.
//!
//! Its token counts are quarters of these lengths, and clients compare them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::top::Key;

/// Unicode code points of the printed value.
pub(super) fn chars(raw: &RawValue) -> u64 {
    // What was cut out is JSON.
    serde_json::from_str::<Printed>(raw.get()).map_or(0, |printed| printed.0)
}

struct Printed(u64);

impl<'de> Deserialize<'de> for Printed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Printer)
    }
}

struct Printer;

impl<'de> Visitor<'de> for Printer {
    type Value = Printed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Printed, A::Error> {
        let (mut all, mut count) = (2, 0_u64);
        while let Some((Key(key), Printed(value))) = map.next_entry()? {
            all += string(&key) + 2 + value;
            count += 1;
        }
        Ok(Printed(all + 2 * count.saturating_sub(1)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Printed, A::Error> {
        let (mut all, mut count) = (2, 0_u64);
        while let Some(Printed(item)) = list.next_element()? {
            all += item;
            count += 1;
        }
        Ok(Printed(all + 2 * count.saturating_sub(1)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Printed, E> {
        Ok(Printed(string(text)))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Printed, E> {
        Ok(Printed(if flag { 4 } else { 5 }))
    }

    fn visit_unit<E>(self) -> Result<Printed, E> {
        Ok(Printed(4))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Printed, E> {
        Ok(Printed(number.to_string().len() as u64))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Printed, E> {
        Ok(Printed(number.to_string().len() as u64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Printed, E> {
        Ok(Printed(float(number)))
    }
}

/// A string between quotes: single ones, unless it has single and no double ones.
fn string(text: &str) -> u64 {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    2 + text.chars().map(|c| character(c, quote)).sum::<u64>()
}

fn character(c: char, quote: char) -> u64 {
    match c {
        '\\' | '\n' | '\r' | '\t' => 2,
        _ if c == quote => 2,
        ' '..='~' => 1,
        _ if c.is_alphanumeric() || is_printable(c) => 1,
        '\0'..='\u{ff}' => 4,
        '\u{100}'..='\u{ffff}' => 6,
        _ => 10,
    }
}

/// Whether a character is printed as it is. Rust and Python escape the same Unicode categories, but Rust also marks that
/// combine with the character before; so one is put before it.
fn is_printable(c: char) -> bool {
    let mut text = String::with_capacity(5);
    text.push('a');
    text.push(c);
    text.escape_debug().nth(1) == Some(c)
}

/// The shortest digits that read back as the number; with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> u64 {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return plain.len() as u64 + if plain.contains('.') { 0 } else { 2 };
    }
    // `e+16`, `e-05`: a sign, and two digits at least.
    let places = exponent.unsigned_abs().to_string().len().max(2);
    (digits.len() + 2 + places) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_long_as_python_prints_them() {
        for (json, printed) in [
            ("[]", "[]"),
            ("{}", "{}"),
            (
                r#"[{"role": "user", "content": "Hello, world!"}]"#,
                "[{'role': 'user', 'content': 'Hello, world!'}]",
            ),
            (r#"[1, -2, 1.5, 1.0, true, false, null]"#, "[1, -2, 1.5, 1.0, True, False, None]"),
            (
                "[1e16, 1.5e-5, 0.0001, 1e300, 123456789012345.0]",
                "[1e+16, 1.5e-05, 0.0001, 1e+300, 123456789012345.0]",
            ),
            (r#""it's""#, r#""it's""#),
            (r#""say \"it's\"""#, r#"'say "it\'s"'"#),
            (r#""a\\b\n\t\r""#, r#"'a\\b\n\t\r'"#),
            ("\"h\u{e9} \u{4e2d} e\u{301} \u{1f600}\"", "'h\u{e9} \u{4e2d} e\u{301} \u{1f600}'"),
            (r#""\u0000\u007f\u00a0\u00ad""#, r"'\x00\x7f\xa0\xad'"),
            (r#""\u200b\u2028\ufeff""#, r"'\u200b\u2028\ufeff'"),
            (r#""\udb40\udc01""#, r"'\U000e0001'"),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(chars(raw), printed.chars().count() as u64, "{json}");
        }
    }
}
