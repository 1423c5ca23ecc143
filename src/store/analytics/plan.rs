//! Where the numbers of a window are read: from the sums of days, of hours, or from the rows.

use std::collections::BTreeSet;

use super::Bucket;
use crate::store::values::Instant;

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;

/// What the database knows of a window, in one snapshot. Microseconds since 1970.
#[derive(Debug, Default)]
pub(in crate::store) struct Known {
    /// Hours whose sums do not hold.
    pub(in crate::store) marks: BTreeSet<i64>,
    /// Days that have sums.
    pub(in crate::store) days: BTreeSet<i64>,
    /// Hours that have sums.
    pub(in crate::store) hours: BTreeSet<i64>,
}

impl Known {
    /// Notes a row of [`super::sql::known`].
    pub(in crate::store) fn note(&mut self, kind: &str, at: Instant) {
        match kind {
            "day" => self.days.insert(at.0),
            "hour" => self.hours.insert(at.0),
            _ => self.marks.insert(at.0),
        };
    }
}

/// Pieces of a window that do not overlap and leave nothing out.
#[derive(Debug, Default, PartialEq)]
pub(in crate::store) struct Plan {
    pub(in crate::store) days: Vec<Instant>,
    pub(in crate::store) hours: Vec<Instant>,
    /// From, inclusive, and until, exclusive.
    pub(in crate::store) rows: Vec<(Instant, Instant)>,
}

impl Plan {
    /// Everything from the rows.
    pub(in crate::store) fn rows(start: Instant, end: Instant) -> Self {
        let rows = if start < end { vec![(start, end)] } else { Vec::new() };
        Self { rows, ..Self::default() }
    }

    /// The coarsest sums that hold, none coarser than `coarsest`.
    pub(in crate::store) fn new(
        start: Instant,
        end: Instant,
        known: &Known,
        coarsest: Bucket,
    ) -> Self {
        let mut plan = Self::default();
        let (mut at, end) = (start.0, end.0);
        while at < end {
            let day_ends = at.saturating_add(DAY);
            let hour_ends = (at - at.rem_euclid(HOUR)).saturating_add(HOUR);
            if coarsest == Bucket::Day
                && at.rem_euclid(DAY) == 0
                && day_ends <= end
                && known.days.contains(&at)
                && known.marks.range(at..day_ends).next().is_none()
            {
                plan.days.push(Instant(at));
                at = day_ends;
            } else if at.rem_euclid(HOUR) == 0
                && hour_ends <= end
                && known.hours.contains(&at)
                && !known.marks.contains(&at)
            {
                plan.hours.push(Instant(at));
                at = hour_ends;
            } else {
                let until = hour_ends.min(end);
                match plan.rows.last_mut() {
                    Some(last) if last.1.0 == at => last.1 = Instant(until),
                    _ => plan.rows.push((Instant(at), Instant(until))),
                }
                at = until;
            }
        }
        plan
    }
}

/// Pieces of a plan without days, newest first, to find the piece in which a row of a given place lies.
pub(in crate::store) struct Descent(Vec<(Instant, Instant, bool)>);

impl Descent {
    /// `None` when so many pieces must be counted row by row that it is not worth it.
    pub(in crate::store) fn new(plan: &Plan) -> Option<Self> {
        if plan.rows.len() > MAX_COUNTED {
            return None;
        }
        let hours = plan.hours.iter().map(|hour| (*hour, Instant(hour.0 + HOUR), true));
        let rows = plan.rows.iter().map(|(from, until)| (*from, *until, false));
        let mut pieces: Vec<_> = hours.chain(rows).collect();
        pieces.sort_unstable_by_key(|(from, ..)| std::cmp::Reverse(*from));
        Some(Self(pieces))
    }

    /// From, until, and whether the piece is an hour with sums.
    pub(in crate::store) fn pieces(&self) -> &[(Instant, Instant, bool)] {
        &self.0
    }
}

/// Pieces that are counted row by row for a deep page; beyond, rows are passed over one by one.
const MAX_COUNTED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(of: impl IntoIterator<Item = i64>) -> BTreeSet<i64> {
        of.into_iter().map(|hour| hour * HOUR).collect()
    }

    fn times(of: impl IntoIterator<Item = i64>) -> Vec<Instant> {
        of.into_iter().map(|hour| Instant(hour * HOUR)).collect()
    }

    #[test]
    fn a_window_is_cut_into_the_coarsest_sums_that_hold() {
        let known = Known {
            marks: hours([50, 73]),
            days: hours([24, 48]),
            hours: hours((0..72).filter(|hour| *hour != 50)),
        };
        let half = HOUR / 2;
        let (start, end) = (Instant(22 * HOUR + half), Instant(73 * HOUR + half));
        let plan = Plan::new(start, end, &known, Bucket::Day);
        assert_eq!(plan.days, times([24]), "the day of a marked hour does not hold");
        assert_eq!(plan.hours, times([23, 48, 49].into_iter().chain(51..72)));
        let row = |from, until| (Instant(from), Instant(until));
        let expected = [
            row(22 * HOUR + half, 23 * HOUR),
            row(50 * HOUR, 51 * HOUR),
            row(72 * HOUR, 73 * HOUR + half),
        ];
        assert_eq!(plan.rows, expected, "what has no sums is read, neighbours together");
        let fine = Plan::new(start, end, &known, Bucket::Hour);
        assert!(fine.days.is_empty());
        assert_eq!((fine.hours.len(), &fine.rows), (plan.hours.len() + 24, &plan.rows));
    }

    #[test]
    fn an_empty_window_has_no_pieces() {
        let now = Instant(HOUR);
        assert_eq!(Plan::new(now, now, &Known::default(), Bucket::Day), Plan::default());
        assert_eq!(Plan::rows(now, now), Plan::default());
    }
}
