//! Bodies and query strings, read by field: what `otari_filters::validate` leaves to a crate that knows calendars.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use otari_filters::rejection::Rejection;
use otari_filters::validate::{self, Bounds, Field, Fields, Kind};
use serde_json::{Map, Value, json};

use super::Request;
use crate::store::Page;

/// An epoch up to this is in seconds, beyond in milliseconds.
const MAX_EPOCH_SECONDS: f64 = 2e10;

/// The body as an object.
///
/// # Errors
/// `invalid_json`, `invalid_fields`.
pub(super) fn body(request: Request<'_>) -> Result<Map<String, Value>, Rejection> {
    match serde_json::from_slice(request.body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(validate::not_an_object(request.body)),
        Err(error) => Err(validate::not_json(request.body, &error)),
    }
}

/// The query string as an object of strings; of a repeated name the last counts.
pub(super) fn query(request: Request<'_>) -> Map<String, Value> {
    form_urlencoded::parse(request.query.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

/// The variable part of the path, its escapes decoded: once, and after routing, so that `%2F` is a part of an id.
///
/// # Errors
/// `invalid_fields`.
pub(super) fn path(name: &'static str, sent: &str) -> Result<String, Rejection> {
    let object = Map::from_iter([(name.to_owned(), Value::String(decode(sent)))]);
    let declared = [Field::new(name, Kind::Text, "").required()];
    let mut read = Fields::new("path", &object, &declared);
    let id = required_string(&mut read, name);
    read.faults.check()?;
    Ok(id)
}

/// `%2F` and its kind; a percent sign that escapes nothing stays, and so does a plus sign.
fn decode(sent: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut rest = sent.as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits make a byte.
                plain.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = &after[2..];
            }
            _ => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A string, or nothing.
pub(super) fn string(fields: &mut Fields<'_>, name: &str) -> Option<String> {
    let text = fields.string(name)?;
    has_no_nul(fields, name, &text).then_some(text)
}

/// A string that must be there; empty when it is not, with the fault noted.
pub(super) fn required_string(fields: &mut Fields<'_>, name: &str) -> String {
    let text = fields.required_string(name);
    if has_no_nul(fields, name, &text) { text } else { String::new() }
}

/// PostgreSQL's text cannot hold NUL, and a name that one database takes and the other refuses is no name.
fn has_no_nul(fields: &mut Fields<'_>, name: &str, text: &str) -> bool {
    let is_fine = !text.contains('\0');
    if !is_fine {
        let message = "Value error, must not contain NUL characters";
        fields.wrong(name, "value_error", message, json!({"error": {}}));
    }
    is_fine
}

const SKIP: Bounds<i64> = Bounds { at_least: Some(0), above: None, at_most: None };
const LIMIT: Bounds<i64> = Bounds { at_least: Some(1), above: None, at_most: Some(1000) };

/// The fields that [`page`] reads.
pub(super) const PAGE: [Field; 2] = [
    Field::new("skip", Kind::Whole(SKIP), "Leave out so many from the front; absent: 0"),
    Field::new("limit", Kind::Whole(LIMIT), "Return so many at most; absent: 100"),
];

/// `skip` and `limit`.
pub(super) fn page(fields: &mut Fields<'_>) -> Page {
    Page {
        skip: fields.integer("skip", SKIP).unwrap_or(0),
        limit: fields.integer("limit", LIMIT).unwrap_or(100),
    }
}

/// An instant, or nothing. No offset means UTC; offsets are converted.
pub(super) fn datetime(fields: &mut Fields<'_>, name: &str) -> Option<Timestamp> {
    debug_assert!(fields.is_declared(name, |field| matches!(field.kind, Kind::Instant)), "{name}");
    let read = match fields.get(name)? {
        Value::String(text) => instant(text),
        Value::Number(number) => epoch(number.as_f64().unwrap_or(f64::NAN)),
        _ => {
            fields.wrong(name, "datetime_type", "Input should be a valid datetime", Value::Null);
            return None;
        }
    };
    match read.and_then(in_calendar) {
        Ok(at) => Some(at),
        Err(reason) => {
            let message = format!("Input should be a valid datetime or date, {reason}");
            fields.wrong(name, "datetime_from_date_parsing", &message, json!({"error": reason}));
            None
        }
    }
}

/// Reads ISO 8601 with `T` or a space, optional seconds, fraction and offset; a bare date; or an epoch.
fn instant(text: &str) -> Result<Timestamp, &'static str> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return epoch(number);
    }
    if text.len() < 10 {
        return Err("input is too short");
    }
    let utc = |at: DateTime| at.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
    if let Ok(date) = text.parse::<Date>()
        && text.len() == 10
    {
        return utc(date.into()).map_err(|_| OUT_OF_RANGE);
    }
    let iso = text.replacen(' ', "T", 1);
    let (local, offset) = split_offset(&iso);
    let local: DateTime = local.parse().map_err(|_| reason(text))?;
    let offset = match offset {
        None | Some("Z" | "z") => Offset::UTC,
        Some(offset) => {
            parse_offset(offset).ok_or("unexpected extra characters at the end of the input")?
        }
    };
    let at = offset.to_timestamp(local).map_err(|_| OUT_OF_RANGE)?;
    Ok(to_micros(at))
}

const OUT_OF_RANGE: &str = "dates after 9999 are not supported as unix timestamps";

/// SQLite compares instants as texts, which works for years of four digits.
fn in_calendar(at: Timestamp) -> Result<Timestamp, &'static str> {
    const YEAR_1_S: i64 = -62_135_596_800;
    if at.as_second() < YEAR_1_S {
        return Err("dates before 0001 are not supported");
    }
    Ok(at)
}

fn reason(text: &str) -> &'static str {
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u8>().ok());
    if !text.as_bytes().iter().take(4).all(u8::is_ascii_digit) {
        "invalid character in year"
    } else if number(5..7).is_none_or(|month| !(1..=12).contains(&month)) {
        "month value is outside expected range of 1-12"
    } else if number(8..10).is_none_or(|day| !(1..=31).contains(&day)) {
        "day value is outside expected range"
    } else {
        "unexpected extra characters at the end of the input"
    }
}

/// Cuts `Z`, `±HH:MM` or `±HHMM` off the time of day.
fn split_offset(iso: &str) -> (&str, Option<&str>) {
    let time_at = iso.find('T').unwrap_or(iso.len());
    match iso[time_at..].find(['Z', 'z', '+', '-']) {
        Some(at) => (&iso[..time_at + at], Some(&iso[time_at + at..])),
        None => (iso, None),
    }
}

fn parse_offset(text: &str) -> Option<Offset> {
    let digits: String = text.get(1..)?.chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    let seconds = hours * 3600 + minutes * 60;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    Offset::from_seconds(sign * seconds).ok()
}

fn epoch(number: f64) -> Result<Timestamp, &'static str> {
    if !number.is_finite() {
        return Err("input is too short");
    }
    let seconds = if number.abs() <= MAX_EPOCH_SECONDS { number } else { number / 1000.0 };
    let since = jiff::SignedDuration::try_from_secs_f64(seconds).map_err(|_| OUT_OF_RANGE)?;
    Timestamp::from_duration(since).map(to_micros).map_err(|_| OUT_OF_RANGE)
}

/// What the databases can hold.
fn to_micros(at: Timestamp) -> Timestamp {
    crate::clock::timestamp(at.as_microsecond())
}

/// How instants are written: UTC with an offset, six digits of fraction or none.
pub(super) fn iso(at: Timestamp) -> String {
    let micros = at.subsec_nanosecond() / 1000;
    let whole = at.strftime("%Y-%m-%dT%H:%M:%S");
    if micros == 0 {
        format!("{whole}+00:00")
    } else {
        format!("{whole}.{:06}+00:00", micros.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        instant(text).map_or_else(str::to_owned, iso)
    }

    #[test]
    fn instants_are_converted_to_utc() {
        assert_eq!(read("2030-01-01T00:00:00+05:00"), "2029-12-31T19:00:00+00:00");
        assert_eq!(read("2030-01-01 00:00:00.5"), "2030-01-01T00:00:00.500000+00:00");
        assert_eq!(read("2030-01-01"), "2030-01-01T00:00:00+00:00");
        assert_eq!(read("2030-01-01T10:20Z"), "2030-01-01T10:20:00+00:00");
        assert_eq!(read("2030-01-01T10:20:00-0130"), "2030-01-01T11:50:00+00:00");
        assert_eq!(read("0"), "1970-01-01T00:00:00+00:00");
        assert_eq!(read("1700000000000"), "2023-11-14T22:13:20+00:00", "milliseconds");
        assert_eq!(read("2030-01-01T00:00:00.1234567Z"), "2030-01-01T00:00:00.123456+00:00");
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decode("a%2Fb%3ac%252F%C3%A9"), "a/b:c%2Fé");
        assert_eq!(decode("100%+%2+%zz%"), "100%+%2+%zz%", "nothing is escaped here");
        assert_eq!(path("user_id", "a%20b").unwrap(), "a b");
        let refused = path("user_id", "a%00").unwrap_err();
        assert_eq!(refused.detail.unwrap()[0]["loc"], json!(["path", "user_id"]));
    }

    #[test]
    fn what_is_no_instant_is_told_why() {
        assert_eq!(read("soon"), "input is too short");
        assert_eq!(read("abcd-01-01T00:00:00"), "invalid character in year");
        assert_eq!(read("2030-13-01T00:00:00"), "month value is outside expected range of 1-12");
        assert_eq!(read("2030-01-41T00:00:00"), "day value is outside expected range");
        assert_eq!(
            read("2030-01-01T00:00:00x"),
            "unexpected extra characters at the end of the input"
        );
    }
}
