//! Where the numbers of a window are read: from the sums of weeks, days and hours, or from the rows.

use std::collections::BTreeSet;

use super::Bucket;
use crate::store::values::Instant;

const HOUR: i64 = 3_600_000_000;
/// A Monday, at which all grains begin.
const MONDAY: i64 = 4 * 24 * HOUR;

/// How much time one sum covers. Each but the first is added up from those of the grain before it; the long ones make a
/// report of a month read dozens of sums of a key and not hundreds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Grain {
    Hour,
    SixHours,
    Day,
    Week,
}

impl Grain {
    /// The finest first.
    pub(in crate::store) const ALL: [Self; 4] = [Self::Hour, Self::SixHours, Self::Day, Self::Week];

    /// Its name in the database.
    pub(in crate::store) fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::SixHours => "six_hours",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// Its length in microseconds.
    pub(in crate::store) fn micros(self) -> i64 {
        match self {
            Self::Hour => HOUR,
            Self::SixHours => 6 * HOUR,
            Self::Day => 24 * HOUR,
            Self::Week => 7 * 24 * HOUR,
        }
    }

    /// Start of the one in which an instant lies, both in microseconds since 1970.
    pub(in crate::store) fn start_of(self, at: i64) -> i64 {
        at.saturating_sub(at.saturating_sub(MONDAY).rem_euclid(self.micros()))
    }
}

impl From<Bucket> for Grain {
    fn from(bucket: Bucket) -> Self {
        match bucket {
            Bucket::Day => Self::Day,
            Bucket::Hour => Self::Hour,
        }
    }
}

/// What the database knows of a window, in one snapshot. Microseconds since 1970.
#[derive(Debug, Default)]
pub(in crate::store) struct Known {
    /// Hours whose sums do not hold.
    marks: BTreeSet<i64>,
    /// What has sums.
    sums: BTreeSet<(Grain, i64)>,
}

impl Known {
    /// Notes a row of [`super::sql::known`].
    pub(in crate::store) fn note(&mut self, kind: &str, at: Instant) {
        match Grain::ALL.into_iter().find(|grain| grain.as_str() == kind) {
            Some(grain) => self.sums.insert((grain, at.0)),
            None => self.marks.insert(at.0),
        };
    }

    fn is_marked(&self, grain: Grain, at: i64) -> bool {
        self.marks.range(at..at.saturating_add(grain.micros())).next().is_some()
    }

    /// The next sums to be added up from finer ones, newest first: they are over at `closed`, nothing in them is marked,
    /// and there are none yet. With the grain from which they are added up. At most [`AT_ONCE`].
    pub(in crate::store) fn due(&self, closed: Instant) -> Option<(Grain, Grain, Vec<Instant>)> {
        Grain::ALL.windows(2).find_map(|pair| {
            let (finer, grain) = (pair[0], pair[1]);
            let starts: BTreeSet<i64> = self
                .sums
                .range((finer, i64::MIN)..=(finer, i64::MAX))
                .map(|(_, at)| grain.start_of(*at))
                .filter(|at| {
                    at.saturating_add(grain.micros()) <= closed.0
                        && !self.sums.contains(&(grain, *at))
                        && !self.is_marked(grain, *at)
                })
                .collect();
            let due: Vec<_> = starts.into_iter().rev().take(AT_ONCE).map(Instant).collect();
            (!due.is_empty()).then_some((grain, finer, due))
        })
    }
}

/// Sums that are added up in one step: what is known is read once for all of them.
const AT_ONCE: usize = 32;

/// Pieces of a window that do not overlap and leave nothing out.
#[derive(Debug, Default, PartialEq)]
pub(in crate::store) struct Plan {
    /// By grain, in the order of [`Grain::ALL`].
    pub(in crate::store) sums: [Vec<Instant>; 4],
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
        coarsest: Grain,
    ) -> Self {
        let mut plan = Self::default();
        let (mut at, end) = (start.0, end.0);
        while at < end {
            let fits = |grain: &Grain| {
                grain.start_of(at) == at
                    && at.saturating_add(grain.micros()) <= end
                    && known.sums.contains(&(*grain, at))
                    && !known.is_marked(*grain, at)
            };
            let grains = Grain::ALL.iter().zip(&mut plan.sums).rev();
            let fit =
                grains.skip_while(|(grain, _)| **grain > coarsest).find(|(grain, _)| fits(grain));
            if let Some((grain, sums)) = fit {
                sums.push(Instant(at));
                at = at.saturating_add(grain.micros());
            } else {
                let until = Grain::Hour.start_of(at).saturating_add(HOUR).min(end);
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

/// Pieces of a plan of hours and rows, newest first, to find the piece in which a row of a given place lies.
pub(in crate::store) struct Descent(Vec<(Instant, Instant, bool)>);

impl Descent {
    /// `None` when so many pieces must be counted row by row that it is not worth it.
    pub(in crate::store) fn new(plan: &Plan) -> Option<Self> {
        if plan.rows.len() > MAX_COUNTED {
            return None;
        }
        let hours = plan.sums[0].iter().map(|hour| (*hour, Instant(hour.0 + HOUR), true));
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
        let sums = |grain, starts: &[i64]| -> Vec<(Grain, i64)> {
            starts.iter().map(|hour| (grain, hour * HOUR)).collect()
        };
        let all: Vec<i64> = (0..72).filter(|hour| *hour != 50).collect();
        let known = Known {
            marks: hours([50, 73]),
            sums: [
                sums(Grain::Hour, &all),
                sums(Grain::SixHours, &[24, 48, 54]),
                sums(Grain::Day, &[24, 48]),
            ]
            .concat()
            .into_iter()
            .collect(),
        };
        let half = HOUR / 2;
        let (start, end) = (Instant(22 * HOUR + half), Instant(73 * HOUR + half));
        let plan = Plan::new(start, end, &known, Grain::Week);
        assert_eq!(plan.sums[2], times([24]), "the day of a marked hour does not hold");
        assert_eq!(plan.sums[1], times([54]), "nor do the six hours around it");
        let expected: Vec<i64> = [23, 48, 49].into_iter().chain(51..54).chain(60..72).collect();
        assert_eq!(plan.sums[0], times(expected));
        let row = |from, until| (Instant(from), Instant(until));
        let expected = [
            row(22 * HOUR + half, 23 * HOUR),
            row(50 * HOUR, 51 * HOUR),
            row(72 * HOUR, 73 * HOUR + half),
        ];
        assert_eq!(plan.rows, expected, "what has no sums is read, neighbours together");
        let fine = Plan::new(start, end, &known, Grain::Hour);
        assert!(fine.sums[1..].iter().all(Vec::is_empty));
        assert_eq!((fine.sums[0].len(), &fine.rows), (plan.sums[0].len() + 30, &plan.rows));
    }

    #[test]
    fn an_empty_window_has_no_pieces() {
        let now = Instant(HOUR);
        assert_eq!(Plan::new(now, now, &Known::default(), Grain::Week), Plan::default());
        assert_eq!(Plan::rows(now, now), Plan::default());
    }

    #[test]
    fn long_sums_are_added_up_once_they_are_over_and_unmarked() {
        let monday = MONDAY / HOUR;
        let mut known = Known::default();
        for hour in monday..monday + 8 * 24 {
            known.note("hour", Instant(hour * HOUR));
        }
        known.note("mark", Instant((monday + 30) * HOUR));
        let closed = Instant((monday + 8 * 24) * HOUR);
        let mut steps = Vec::new();
        while let Some((grain, finer, due)) = known.due(closed) {
            assert!(finer < grain && due.is_sorted_by(|a, b| a > b));
            steps.push((grain, due.len()));
            due.iter().for_each(|at| known.note(grain.as_str(), *at));
            assert!(steps.len() < 9, "it ends");
        }
        assert_eq!(steps, [(Grain::SixHours, 31), (Grain::Day, 7)], "the marked week waits");
        known.marks.clear();
        for expected in [Grain::SixHours, Grain::Day, Grain::Week] {
            let (grain, _, due) = known.due(closed).unwrap();
            assert_eq!((grain, due.len()), (expected, 1));
            known.note(grain.as_str(), due[0]);
        }
        assert!(known.due(closed).is_none());
        let early = Instant((monday + 7 * 24) * HOUR - 1);
        known.sums.retain(|(grain, _)| *grain != Grain::Week);
        assert!(known.due(early).is_none(), "the week is not over");
    }
}
