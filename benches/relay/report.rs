//! What was measured: a Markdown table of medians on stdout, every sample in `target/bench/relay.json`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use crate::Outcome;

pub(crate) const DIRECT: &str = "direct";
pub(crate) const BARE: &str = "bare Pingora";
pub(crate) const GATEWAY: &str = "otari";
pub(crate) const CONNECTED: &str = "otari, connected";

/// Usage rows of one round, or reports to the platform.
#[derive(Serialize)]
pub(crate) struct Rows {
    /// Requests that were answered.
    pub(crate) expected: u64,
    /// Requests that failed, and may have left a row.
    pub(crate) unsure: u64,
    pub(crate) found: u64,
}

impl Rows {
    fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.found)
    }

    fn invented(&self) -> u64 {
        self.found.saturating_sub(self.expected + self.unsure)
    }
}

/// One target under one scenario in one round.
#[derive(Serialize)]
pub(crate) struct Sample {
    pub(crate) scenario: &'static str,
    pub(crate) target: &'static str,
    pub(crate) round: u32,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU of the target's process per request, until the last answer.
    pub(crate) cpu_us: f64,
    /// The same until the last usage row was there.
    pub(crate) cpu_settled_us: f64,
    pub(crate) memory_mb: f64,
    pub(crate) rows: Option<Rows>,
}

/// Collects samples; prints them at the end.
pub(crate) struct Report {
    threads: usize,
    rounds: u32,
    secs: f64,
    samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(threads: usize, rounds: u32, secs: f64) -> Self {
        Self { threads, rounds, secs, samples: Vec::new() }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Writes the raw numbers and prints the table.
    ///
    /// # Errors
    /// When rows were lost or invented: the numbers of such a gateway mean nothing.
    pub(crate) fn finish(&self) -> Outcome<()> {
        let machine = machine();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/relay.json");
        let folder = file.parent().ok_or("no folder")?;
        fs::create_dir_all(folder)?;
        let raw = json!({"machine": machine, "threads": self.threads, "rounds": self.rounds,
            "secs": self.secs, "samples": self.samples});
        fs::write(&file, serde_json::to_vec_pretty(&raw)?)?;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "\n{machine}; {} worker thread(s); medians of {} round(s) of {} s\n",
            self.threads, self.rounds, self.secs
        )?;
        self.table(&mut out)?;
        self.translated(&mut out)?;
        writeln!(out, "\nRaw numbers: {}", file.display())?;
        let errors: u64 = self.samples.iter().map(|s| s.errors).sum();
        if errors > 0 {
            writeln!(out, "\n{errors} requests failed.")?;
        }
        self.check_rows(&mut out)
    }

    fn table(&self, out: &mut impl std::io::Write) -> Outcome<()> {
        writeln!(
            out,
            "| Scenario | Target | req/s | vs bare | p50 µs | p99 µs | added p50 | added p99 | \
             CPU µs/req | vs bare | RSS MB |"
        )?;
        writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        let mut scenarios: Vec<_> = self.samples.iter().map(|s| s.scenario).collect();
        scenarios.dedup();
        for scenario in scenarios {
            for target in self.targets(scenario) {
                let of = |target| self.of(scenario, target);
                let (mine, direct, bare) = (of(target), of(DIRECT), of(BARE));
                // Compared within a round, so that a slow minute of the machine hits both alike.
                let against = |other: &[&Sample], f: fn(&Sample, &Sample) -> f64| {
                    median(mine.iter().zip(other).map(|(a, b)| f(a, b)))
                };
                let own = |f: fn(&Sample) -> f64| median(mine.iter().map(|s| f(s)));
                writeln!(
                    out,
                    "| {scenario} | {target} | {:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | \
                     {:.2} | {:.1} |",
                    own(|s| s.rps),
                    against(&bare, |a, b| a.rps / b.rps),
                    own(|s| s.p50_us),
                    own(|s| s.p99_us),
                    against(&direct, |a, b| a.p50_us - b.p50_us),
                    against(&direct, |a, b| a.p99_us - b.p99_us),
                    own(|s| s.cpu_us),
                    against(&bare, |a, b| a.cpu_us / b.cpu_us),
                    own(|s| s.memory_mb),
                )?;
            }
        }
        Ok(())
    }

    /// What a translated call reaches of one that passes as it is.
    fn translated(&self, out: &mut impl std::io::Write) -> Outcome<()> {
        let mut scenarios: Vec<_> = self.samples.iter().map(|s| s.scenario).collect();
        scenarios.dedup();
        for scenario in scenarios {
            for (target, _) in crate::TRANSLATED {
                let (mine, passed) = (self.of(scenario, target), self.of(scenario, GATEWAY));
                if mine.is_empty() || passed.is_empty() {
                    continue;
                }
                let against = |f: fn(&Sample, &Sample) -> f64| {
                    median(mine.iter().zip(&passed).map(|(a, b)| f(a, b)))
                };
                let (rps, cpu) =
                    (against(|a, b| a.rps / b.rps), against(|a, b| a.cpu_us / b.cpu_us));
                writeln!(
                    out,
                    "\n{scenario}, {target}: {rps:.2} of the req/s and {cpu:.2} of the CPU of {GATEWAY}"
                )?;
            }
        }
        Ok(())
    }

    /// The targets of a scenario, in the table's order.
    fn targets(&self, scenario: &str) -> Vec<&'static str> {
        let translated = crate::TRANSLATED.iter().map(|(name, _)| *name);
        let all = [DIRECT, BARE, GATEWAY].into_iter().chain(translated).chain([CONNECTED]);
        all.filter(|target| !self.of(scenario, target).is_empty()).collect()
    }

    /// The samples of one cell, in the order of rounds.
    fn of(&self, scenario: &str, target: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|s| s.scenario == scenario && s.target == target).collect()
    }

    fn check_rows(&self, out: &mut impl std::io::Write) -> Outcome<()> {
        let rows = || self.samples.iter().filter_map(|s| s.rows.as_ref());
        if rows().next().is_none() {
            return Ok(());
        }
        let (lost, invented): (u64, u64) =
            (rows().map(Rows::lost).sum(), rows().map(Rows::invented).sum());
        let expected: u64 = rows().map(|r| r.expected).sum();
        if lost + invented > 0 {
            return Err(format!(
                "usage rows or reports: {lost} of {expected} lost, {invented} too many"
            )
            .into());
        }
        writeln!(out, "\nUsage rows and reports: all {expected} there.")?;
        Ok(())
    }
}

/// The middle value; the mean of the middle two; 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Processor and number of cores.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", model.map_or("unknown processor", |(_, name)| name))
}
