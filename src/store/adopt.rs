//! Opening a database that the reference gateway made: which revisions we know, what is said about it, and what both
//! backends share. How the rows become ours is the backends' business (`sqlite/adopt.rs`, `postgres/adopt.rs`).
//!
//! An adoption is one transaction. It ends with a mark in `alembic_version` that the reference does not know, so that it
//! refuses to start on what it would misread.

pub(super) mod tables;

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::StoreError;
use super::values::Instant;

/// The reference's revisions that we can bring up to date, oldest first. The last one is its released head.
pub(super) const REVISIONS: [&str; 9] = [
    "28d153c22616",
    "1e382aa3a9e7",
    "e7c85cc73bfa",
    "5911f4bbf98d",
    "10a6a8ead0e7",
    "967575f779b7",
    "a1b2c3d4e5f6",
    "b2f4c6d8e0a1",
    "c3d5e7f9a1b3",
];

/// The head of the reference's later version. What lies between the two heads is not known.
pub(super) const LATER_HEAD: &str = "c4d7f2a9b6e1";

/// What a revision in `alembic_version` begins with once the database is ours.
const MARK: &str = "otari_";

/// Problems that are named one by one; the rest is only counted.
const SHOWN: usize = 20;

/// What an upgrade found in a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// No schema.
    #[default]
    Empty,
    /// Our schema, of this version.
    Otari(i32),
    /// The reference gateway's schema, at this revision.
    Reference(String),
}

/// What an upgrade did, or, as a rehearsal, would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrade {
    /// What was there.
    pub origin: Origin,
    /// What was run, in order: revisions of the reference, then steps of ours (`V3__management`).
    pub steps: Vec<String>,
    /// Only for a database of the reference.
    pub adoption: Option<Adoption>,
}

/// What became of the rows of a reference database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Rows per table that is ours now.
    pub rows: Vec<(&'static str, u64)>,
    /// `table.column` of every column of dollars that was made exact.
    pub money: Vec<String>,
    /// Holds of processes that are gone, and were set to zero.
    pub holds: u64,
    /// Tables and `table.column`s that we do not know and that stay as they are.
    pub kept: Vec<String>,
    /// What else the operator should know, a sentence each.
    pub notes: Vec<String>,
}

impl Upgrade {
    /// Steps of ours that were run.
    pub fn applied(&self) -> usize {
        self.steps.iter().filter(|step| step.starts_with('V')).count()
    }
}

impl fmt::Display for Upgrade {
    /// Lines for a person, without a line feed at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Empty => write!(f, "found    an empty database")?,
            Origin::Otari(version) => write!(f, "found    schema {version} of otari")?,
            Origin::Reference(revision) => {
                write!(f, "found    a database of the reference gateway, revision {revision}")?;
            }
        }
        let steps = if self.steps.is_empty() { "none".into() } else { self.steps.join(", ") };
        write!(f, "\nsteps    {steps}")?;
        let Some(adoption) = &self.adoption else { return Ok(()) };
        let rows = adoption.rows.iter().map(|(table, rows)| format!("{table} {rows}"));
        write!(f, "\nrows     {}", rows.collect::<Vec<_>>().join(", "))?;
        write!(f, "\nmoney    {}", listed(&adoption.money, "exact already"))?;
        write!(f, "\nholds    {} of processes that are gone, set to zero", adoption.holds)?;
        write!(f, "\nkept     {}", listed(&adoption.kept, "nothing unknown was there"))?;
        adoption.notes.iter().try_for_each(|note| write!(f, "\nnote     {note}"))
    }
}

fn listed(names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

impl Adoption {
    /// One line for the log: how many rows, and what is different now.
    pub fn summary(&self) -> String {
        let rows: u64 = self.rows.iter().map(|(_, rows)| rows).sum();
        let (money, holds) = (self.money.len(), self.holds);
        format!(
            "{rows} rows, {money} columns of dollars made exact, {holds} stale holds set to zero"
        )
    }
}

/// Where in the chain of the reference's revisions a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this place of [`REVISIONS`]; those after it are to be run.
    Chain(usize),
    /// At [`LATER_HEAD`].
    Later,
}

impl Place {
    /// Finds `revision`, or says what to do about it.
    pub(super) fn of(revision: &str) -> Result<Self, StoreError> {
        if revision == LATER_HEAD {
            return Ok(Self::Later);
        }
        if let Some(at) = REVISIONS.iter().position(|known| *known == revision) {
            return Ok(Self::Chain(at));
        }
        if revision.starts_with(MARK) {
            return Err(StoreError::Schema(format!(
                "this database was taken over by otari (alembic_version says {revision}), but its table \
                 refinery_schema_history is gone; restore a backup that holds it"
            )));
        }
        Err(StoreError::Schema(format!(
            "this database belongs to the reference gateway at revision {revision}, which this otari does not know; it \
             knows {} to {} and {LATER_HEAD}. Nothing was changed: let the reference gateway migrate it to {LATER_HEAD}, \
             or start an otari that knows {revision}",
            REVISIONS[0],
            REVISIONS[REVISIONS.len() - 1],
        )))
    }

    /// The revisions that are still to be run.
    pub(super) fn missing(self) -> &'static [&'static str] {
        match self {
            Self::Chain(at) => &REVISIONS[at + 1..],
            Self::Later => &[],
        }
    }
}

/// What stands in `alembic_version` afterwards: unknown to the reference, which then refuses to start.
pub(super) fn mark(steps: usize) -> String {
    format!("{MARK}{steps}")
}

/// What is wrong with the rows of a database, gathered so that all of it is said at once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    texts: Vec<String>,
    more: usize,
}

impl Problems {
    /// Adds one, in the words of [`problem`].
    pub(super) fn push(&mut self, text: String) {
        if self.texts.len() < SHOWN { self.texts.push(text) } else { self.more += 1 }
    }

    /// Fails when there are any.
    pub(super) fn check(self) -> Result<(), StoreError> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let mut text = String::from(
            "this database of the reference gateway holds values that cannot be taken over. Nothing was changed; put \
             these right and try again:",
        );
        self.texts.iter().for_each(|problem| text += &format!("\n  {problem}"));
        if self.more > 0 {
            text += &format!("\n  and {} more", self.more);
        }
        Err(StoreError::Schema(text))
    }
}

/// A sentence that names the place of a bad value and what to do: `advice` follows "set it to".
pub(super) fn problem(table: &str, row: &str, column: &str, value: &str, advice: &str) -> String {
    let value: String = value.chars().take(60).collect();
    format!("table {table}, row {row}, column {column}: {value} {advice}")
}

/// An instant as any version of the reference wrote it: without an offset it is UTC, and a fraction may be missing.
pub(super) fn instant(text: &str) -> Option<Instant> {
    let text = text.trim();
    let at = text.parse::<Timestamp>().ok().or_else(|| {
        let at: DateTime = text.parse().ok()?;
        Offset::UTC.to_timestamp(at).ok()
    })?;
    Some(at.into())
}

/// The seconds of a `budget_duration`, as the first revisions kept it: a number, or a number and a unit.
pub(super) fn duration(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "" | "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        "daily" if number.is_empty() => return Some(86_400),
        "weekly" if number.is_empty() => return Some(604_800),
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(seconds).filter(|seconds| *seconds > 0)
}

/// Says that a `budget_duration` is not understood.
pub(super) fn odd_duration(budget_id: &str, text: &str) -> String {
    format!(
        "budget {budget_id}: its budget_duration {text:?} is no length of time; it has no period until \
         budget_duration_sec is set"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_found_or_refused_with_advice() {
        assert_eq!(Place::of(REVISIONS[0]).unwrap().missing().len(), 8);
        assert_eq!(Place::of(REVISIONS[8]).unwrap().missing(), [""; 0]);
        assert_eq!(Place::of(LATER_HEAD).unwrap().missing(), [""; 0]);
        let text = Place::of("feedfacecafe").unwrap_err().to_string();
        assert!(text.contains("revision feedfacecafe") && text.contains("migrate it to"), "{text}");
        let text = Place::of(&mark(3)).unwrap_err().to_string();
        assert!(text.contains("otari_3") && text.contains("restore a backup"), "{text}");
    }

    #[test]
    fn instants_are_read_in_every_form() {
        let second = Some(Instant(1_704_067_201_000_000));
        for text in [
            "2024-01-01 00:00:01.000000",
            "2024-01-01 00:00:01",
            "2024-01-01T00:00:01Z",
            "2024-01-01 01:00:01+01:00",
            "2024-01-01 00:00:01.000000+00:00",
        ] {
            assert_eq!(instant(text), second, "{text}");
        }
        assert_eq!(instant("2024-01-01"), Some(Instant(1_704_067_200_000_000)));
        assert_eq!(instant("yesterday"), None);
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        let read = ["86400", "30d", "1 week", "daily", "12h", "", "0", "monthly", "-5", "9e9d"];
        let seconds = read.map(duration);
        let known = [86_400, 2_592_000, 604_800, 86_400, 43_200].map(Some);
        assert_eq!(seconds[..5], known);
        assert_eq!(seconds[5..], [None; 5]);
    }

    #[test]
    fn problems_are_counted_when_there_are_many() {
        let mut problems = Problems::default();
        for n in 0..SHOWN + 3 {
            problems.push(problem("users", &format!("'u{n}'"), "spend", "inf", "is no amount"));
        }
        let text = problems.check().unwrap_err().to_string();
        assert!(text.contains("table users, row 'u0', column spend: inf is no amount"), "{text}");
        assert!(text.ends_with("and 3 more"), "{text}");
        Problems::default().check().unwrap();
    }
}
