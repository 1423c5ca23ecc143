//! Instants as lists write them, without a calendar of one's own.

use serde_json::Value;

/// An epoch up to this is in seconds, beyond in milliseconds.
const MAX_EPOCH_SECONDS: i64 = 20_000_000_000;

/// Seconds since 1970: a number, or a text of RFC 3339. `None` for anything else and for zero.
pub(super) fn seconds(value: &Value) -> Option<i64> {
    let found = match value {
        Value::Number(number) => {
            // Fractions of a second say nothing here.
            let whole =
                number.as_i64().or_else(|| format!("{:.0}", number.as_f64()?).parse().ok())?;
            if whole > MAX_EPOCH_SECONDS { whole / 1000 } else { whole }
        }
        Value::String(text) => rfc3339(text)?,
        _ => return None,
    };
    (found > 0).then_some(found)
}

/// `2024-02-29T00:00:00.1234Z`, `+02:00` instead of `Z`, or the day alone.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || bytes.get(4) != Some(&b'-') {
        return None;
    }
    let midnight = days(year, month, day) * 86_400;
    let (Some(hour), Some(minute), Some(second)) = (number(11, 13), number(14, 16), number(17, 19))
    else {
        return Some(midnight);
    };
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let digits: Vec<i64> =
                rest.iter().filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0')).collect();
            let [h1, h2, m1, m2] = digits[..] else { return None };
            let seconds = (h1 * 10 + h2) * 3600 + (m1 * 10 + m2) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    Some(midnight + hour * 3600 + minute * 60 + second - offset)
}

/// Days from 1970 to a day of the Gregorian calendar.
/// Source: <https://howardhinnant.github.io/date_algorithms.html#days_from_civil> (2026-11-23).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::seconds;

    #[test]
    fn instants_of_every_spelling() {
        for (value, want) in [
            (json!(1_700_000_000), Some(1_700_000_000)),
            (json!(1_700_000_000_123_i64), Some(1_700_000_000)),
            (json!(1_700_000_000.25), Some(1_700_000_000)),
            (json!("2024-02-29T00:00:00Z"), Some(1_709_164_800)),
            (json!("2025-02-19T00:00:00+00:00"), Some(1_739_923_200)),
            (json!("2024-03-01T02:00:00.123456789+02:00"), Some(1_709_251_200)),
            (json!("2024-02-29"), Some(1_709_164_800)),
            (json!(0), None),
            (json!("soon"), None),
            (json!("2024-13-01"), None),
            (json!(null), None),
        ] {
            assert_eq!(seconds(&value), want, "{value}");
        }
    }
}
