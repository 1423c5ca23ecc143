//! What the auditor found, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::audit::COLUMNS;
use crate::run::Outcome;
use crate::scene::{Kind, Scene};

/// Findings that are shown of one run.
const SHOWN: usize = 12;
/// Characters of one of them.
const WIDTH: usize = 1500;

/// Says it even where the harness keeps what passing tests print to itself.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[derive(Clone, Copy, Default)]
struct Row {
    runs: usize,
    calls: usize,
    found: [usize; COLUMNS.len()],
}

/// Sums of runs, by the kind of fault that they are about.
#[derive(Default)]
pub(crate) struct Table {
    rows: [Row; Kind::ALL.len()],
    ends: BTreeMap<u16, usize>,
    faults: usize,
    met: [i64; 3],
    longest: Duration,
    failed: Vec<u64>,
}

impl Table {
    /// Adds a run, and says what it found. One that did not come to its end counts as something that hangs.
    pub(crate) fn add(&mut self, scene: &Scene, played: Result<Outcome, String>) {
        let at = Kind::ALL.iter().position(|kind| *kind == scene.kind).expect("all are there");
        let row = &mut self.rows[at];
        row.runs += 1;
        row.calls += scene.calls.len();
        self.faults += scene.faults.len();
        let found = match played {
            Ok(outcome) => {
                let counts = outcome.findings.counts();
                row.found.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
                for (status, count) in &outcome.ends {
                    *self.ends.entry(*status).or_default() += count;
                }
                self.met.iter_mut().zip(outcome.met).for_each(|(sum, count)| *sum += count);
                self.longest = self.longest.max(outcome.took);
                let took = outcome.took.as_secs_f32();
                say(&format!("{scene} answers {:?}; {took:.1} s", outcome.ends));
                outcome.findings.0
            }
            Err(error) => {
                row.found[COLUMNS.len() - 1] += 1;
                say(&format!("{scene} did not come to its end: {error}"));
                self.failed.push(scene.seed);
                return;
            }
        };
        for (fact, what) in found.iter().take(SHOWN) {
            say(&format!("  {fact:?}: {}", what.chars().take(WIDTH).collect::<String>()));
        }
        if !found.is_empty() {
            self.failed.push(scene.seed);
        }
    }

    /// Prints it; panics unless every column is zero.
    pub(crate) fn finish(self) {
        let mut text = format!("\n| fault | runs | calls | {} |\n|", COLUMNS.join(" | "));
        text += &" --- |".repeat(COLUMNS.len() + 3);
        let mut all = Row::default();
        let mut line = |title: &str, row: &Row| {
            let _ = write!(text, "\n| {title} | {} | {} |", row.runs, row.calls);
            for count in row.found {
                let _ = write!(text, " {count} |");
            }
        };
        for (kind, row) in Kind::ALL.iter().zip(&self.rows).filter(|(_, row)| row.runs > 0) {
            line(kind.title(), row);
            all.runs += row.runs;
            all.calls += row.calls;
            all.found.iter_mut().zip(row.found).for_each(|(sum, count)| *sum += count);
        }
        line("all", &all);
        say(&text);
        let ends = self.ends.iter().map(|(status, count)| match status {
            0 => format!("{count} were cut or left"),
            _ => format!("{count} were {status}"),
        });
        let ends = ends.collect::<Vec<_>>().join(", ");
        let [clock, disk, names] = self.met;
        let longest = self.longest.as_secs();
        say(&format!(
            "\n{} faults. Of the answers {ends}; the longest run took {longest} s. Gateways read a clock that had jumped \
             {clock} times, were refused {disk} writes and {names} names",
            self.faults
        ));
        assert!(
            self.failed.is_empty(),
            "what the gateway promises was broken in the runs of these seeds: {:?}; \
             OTARI_FAULTS_SEED=<seed> OTARI_FAULTS_RUNS=1 cargo test --test faults repeats one",
            self.failed
        );
    }
}
