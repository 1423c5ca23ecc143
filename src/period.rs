//! How long a budget lasts: so many seconds from its start, or until the next day, week or month of UTC.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::clock;

/// The length of a budget's period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// So many seconds from the first request on.
    Seconds(i64),
    /// Until midnight.
    CalendarDay,
    /// Until midnight before Monday.
    CalendarWeek,
    /// Until midnight before the first of the month.
    CalendarMonth,
}

/// The names of `reset_alignment`.
pub const ALIGNMENTS: [&str; 3] = ["calendar_day", "calendar_week", "calendar_month"];

impl Period {
    /// The period of a budget with these columns; a budget has one of them or neither.
    pub fn new(duration_sec: Option<i64>, alignment: Option<&str>) -> Option<Self> {
        match (alignment, duration_sec) {
            (Some("calendar_day"), _) => Some(Self::CalendarDay),
            (Some("calendar_week"), _) => Some(Self::CalendarWeek),
            (Some("calendar_month"), _) => Some(Self::CalendarMonth),
            (_, Some(seconds)) => Some(Self::Seconds(seconds)),
            _ => None,
        }
    }

    /// When a period that contains `from` ends; `None` when no calendar goes that far.
    pub fn end(self, from: Timestamp) -> Option<Timestamp> {
        let midnight = from.to_zoned(TimeZone::UTC).start_of_day().ok()?;
        let end = match self {
            Self::Seconds(seconds) => {
                return from.checked_add(SignedDuration::from_secs(seconds)).ok();
            }
            Self::CalendarDay => midnight.checked_add(1.day()),
            Self::CalendarWeek => {
                let passed = midnight.weekday().since(Weekday::Monday);
                midnight.checked_add((7 - i64::from(passed)).days())
            }
            Self::CalendarMonth => midnight.first_of_month().ok()?.checked_add(1.month()),
        };
        end.ok().map(|end| end.timestamp())
    }

    /// The same in microseconds since 1970.
    pub fn end_us(self, from_us: i64) -> Option<i64> {
        self.end(clock::timestamp(from_us)).map(|end| end.as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(period: Period, from: &str) -> String {
        period.end(from.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        let thursday = "2026-12-31T23:59:59.5Z";
        assert_eq!(end(Period::Seconds(60), thursday), "2027-01-01T00:00:59.5Z");
        assert_eq!(end(Period::CalendarDay, thursday), "2027-01-01T00:00:00Z");
        assert_eq!(end(Period::CalendarWeek, thursday), "2027-01-04T00:00:00Z");
        assert_eq!(end(Period::CalendarMonth, thursday), "2027-01-01T00:00:00Z");
        let first_instant_of_a_monday = "2027-02-01T00:00:00Z";
        assert_eq!(end(Period::CalendarDay, first_instant_of_a_monday), "2027-02-02T00:00:00Z");
        assert_eq!(end(Period::CalendarWeek, first_instant_of_a_monday), "2027-02-08T00:00:00Z");
        assert_eq!(end(Period::CalendarMonth, first_instant_of_a_monday), "2027-03-01T00:00:00Z");
    }

    #[test]
    fn an_alignment_wins_and_nothing_never_ends() {
        assert_eq!(Period::new(Some(5), Some("calendar_week")), Some(Period::CalendarWeek));
        assert_eq!(Period::new(Some(5), None), Some(Period::Seconds(5)));
        assert_eq!(Period::new(None, None), None);
        assert_eq!(Period::Seconds(i64::MAX).end_us(0), None, "beyond the calendar");
    }
}
