//! What a soak came to: Markdown for people, JSON with every sample, and whether it is good.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use crate::Outcome;
use crate::audit::Audit;
use crate::numbers::{machine, median};
use crate::sample::Sample;

/// MB of SQLite's write-ahead log: four times what it is cut to when nobody reads.
const LOG_MB: f64 = 256.0;
/// Minutes behind the warm-up below which neither memory nor times are judged.
const JUDGED_MINUTES: f64 = 10.0;

/// Growth of the gateway's own memory that counts as none, in megabytes per ten minutes: what an allocator may keep here
/// and give back there. Besides it must be more than thrice its standard error.
const FLAT_MB: f64 = 1.0;

/// What the last tenth may be of the first.
const P99_FACTOR: f64 = 1.5;
const FDS_FACTOR: f64 = 1.1;

/// Rows of the table of samples.
const SHOWN: usize = 24;

/// What was asked for, and what the machine gave.
pub(crate) struct Setting {
    pub(crate) database: &'static str,
    pub(crate) minutes: f64,
    pub(crate) warm_up_s: f64,
    pub(crate) every_s: f64,
    /// Calls per second: answered in the closed loop, the same until the last row was written, and sent in the open loop.
    pub(crate) ceiling: Option<[f64; 2]>,
    pub(crate) rate: f64,
    pub(crate) seed: u64,
    /// Why it ended before its time.
    pub(crate) ended_early: Option<&'static str>,
}

/// A straight line through samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slope {
    /// Per ten minutes.
    pub(crate) by: f64,
    pub(crate) standard_error: f64,
}

/// Everything that is known in the end.
pub(crate) struct Report {
    pub(crate) setting: Setting,
    pub(crate) samples: Vec<Sample>,
    /// When nothing was asked any more.
    pub(crate) quiet: Sample,
    pub(crate) audit: Audit,
    /// Errors of the log.
    pub(crate) lines: Vec<String>,
}

/// A sentence, and whether it is as it should be; `None`: too short to say.
struct Verdict(Option<bool>, String);

impl Report {
    /// Writes both files and returns the Markdown.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self) -> Outcome<(PathBuf, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.md", self.setting.database));
        let text = self.markdown()?;
        fs::write(&file, &text)?;
        let setting = &self.setting;
        let raw = json!({
            "machine": machine(), "ended_at": Timestamp::now().to_string(), "database": setting.database,
            "minutes": setting.minutes, "warm_up_s": setting.warm_up_s, "every_s": setting.every_s,
            "ceiling_per_s": setting.ceiling, "rate_per_s": setting.rate, "seed": setting.seed,
            "ended_early": setting.ended_early, "quiet": self.quiet, "audit": self.audit,
            "log_errors": self.lines, "samples": self.samples,
        });
        fs::write(folder.join(format!("{}.json", setting.database)), raw.to_string())?;
        Ok((file, text))
    }

    /// What is not as it should be.
    pub(crate) fn faults(&self) -> Vec<String> {
        let verdicts = self.verdicts().into_iter();
        verdicts.filter(|verdict| verdict.0 == Some(false)).map(|verdict| verdict.1).collect()
    }

    /// The samples behind the warm-up.
    fn measured(&self) -> &[Sample] {
        let from = self.samples.partition_point(|sample| sample.at_s < self.setting.warm_up_s);
        &self.samples[from..]
    }

    /// The first and the last tenth of them.
    fn tenths(&self) -> [&[Sample]; 2] {
        let measured = self.measured();
        let tenth = measured.len().div_ceil(10);
        [&measured[..tenth], &measured[measured.len() - tenth..]]
    }

    fn slope_of(&self, of: impl Fn(&Sample) -> f64) -> Option<Slope> {
        slope(&self.measured().iter().map(|s| (s.at_s / 600.0, of(s))).collect::<Vec<_>>())
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let [first, last] = self.tenths();
        let of = |tenth: &[Sample], of: fn(&Sample) -> f64| median(tenth.iter().map(of));
        let pair = |by| (of(first, by), of(last, by));
        let is_long = self.measured().len() as f64 * self.setting.every_s >= JUDGED_MINUTES * 60.0;
        let if_long = |ok: bool| is_long.then_some(ok);
        let mut all = Vec::new();
        if let Some(slope) = self.slope_of(|s| s.memory.own_mb) {
            let grows = slope.by > FLAT_MB && slope.by > 3.0 * slope.standard_error;
            let text = format!(
                "own memory: {:+.2} ± {:.2} MB per 10 minutes",
                slope.by, slope.standard_error
            );
            all.push(Verdict(if_long(!grows), text));
        }
        let (before, after) = pair(|s| s.p99_ms);
        let text = format!(
            "p99 of small calls: {before:.2} ms in the first tenth, {after:.2} in the last"
        );
        all.push(Verdict(if_long(after <= before * P99_FACTOR + 1.0), text));
        let (before, after) = pair(|s| s.fds as f64);
        let text = format!("file descriptors: {before:.0}, {after:.0}");
        all.push(Verdict(Some(after <= before * FDS_FACTOR + 16.0), text));
        let (before, after) = pair(|s| s.threads as f64);
        all.push(Verdict(Some(after <= before + 4.0), format!("threads: {before:.0}, {after:.0}")));
        let (before, after) = pair(|s| s.queue);
        let text = format!("records that wait for the database: {before:.0}, {after:.0}");
        all.push(Verdict(Some(after <= before * 2.0 + 2.0 * self.setting.rate), text));
        let log = self.measured().iter().map(|s| s.wal_mb).fold(0.0, f64::max);
        let text = format!("write-ahead log of SQLite: {log:.0} MB at most");
        all.push(Verdict(Some(log <= LOG_MB), text));
        let errors: u64 = self.errors().values().sum();
        all.push(Verdict(
            Some(errors == 0),
            format!("calls that did not end as they must: {errors}"),
        ));
        let dropped = self.quiet.dropped;
        all.push(Verdict(Some(dropped == 0.0), format!("records dropped: {dropped:.0}")));
        let logged: u64 = self.samples.iter().chain([&self.quiet]).map(|s| s.log_errors).sum();
        all.push(Verdict(Some(logged == 0), format!("errors in the log: {logged}")));
        let audit = &self.audit;
        let text = match &audit.faults[..] {
            [] => format!(
                "audit: {} rows, {:.6} USD, all as the calls were",
                audit.rows, audit.cost_usd
            ),
            faults => format!("audit: {}", faults.join("; ")),
        };
        all.push(Verdict(Some(audit.faults.is_empty()), text));
        all
    }

    fn errors(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        let samples = self.samples.iter().chain([&self.quiet]);
        samples.flat_map(|s| &s.errors).for_each(|(name, n)| *all.entry(*name).or_default() += n);
        all
    }

    fn markdown(&self) -> Outcome<String> {
        let mut out = String::new();
        let setting = &self.setting;
        writeln!(out, "# Soak on {}\n\n{}; {}.\n", setting.database, machine(), Timestamp::now())?;
        if let Some(why) = setting.ended_early {
            writeln!(out, "**Ended early**: {why}.\n")?;
        }
        let ran = self.samples.last().map_or(0.0, |s| s.at_s / 60.0);
        let calls: u64 = self.samples.iter().map(|s| s.calls).sum();
        writeln!(
            out,
            "{ran:.1} of {} minutes, {calls} calls, {:.0} a second (open loop, seed {}); the first {:.0} s are warm-up.",
            setting.minutes, setting.rate, setting.seed, setting.warm_up_s
        )?;
        if let Some([answered, settled]) = setting.ceiling {
            writeln!(
                out,
                "Ceiling of the same calls in a closed loop: {answered:.0} a second answered, {settled:.0} until the last \
                 row was written."
            )?;
        }
        writeln!(out, "\n| | |\n|---|---|")?;
        for Verdict(ok, text) in self.verdicts() {
            let word = ok.map_or("too short to say", |ok| if ok { "good" } else { "**bad**" });
            writeln!(out, "| {word} | {text} |")?;
        }
        self.trends(&mut out)?;
        self.table(&mut out)?;
        self.kinds(&mut out)?;
        for line in &self.lines {
            writeln!(out, "\n```json\n{line}\n```")?;
        }
        Ok(out)
    }

    /// What grows, and what does so by design.
    fn trends(&self, out: &mut String) -> Outcome<()> {
        type Column = (&'static str, fn(&Sample) -> f64);
        const COLUMNS: [Column; 8] = [
            ("own memory, MB (allocated; no page cache)", |s| s.memory.own_mb),
            ("RSS, MB (with the program and mapped files)", |s| s.memory.rss_mb),
            ("database, MB (grows by design: a row a call)", |s| s.database_mb),
            ("write-ahead log of SQLite, MB", |s| s.wal_mb),
            ("journal folder, MB (segments of 64 MB, removed when applied)", |s| s.journal_mb),
            ("p50 of small calls, ms", |s| s.p50_ms),
            ("the generator's own memory, MB", |s| s.generator_rss_mb),
            ("the mock's memory, MB", |s| s.mock_rss_mb),
        ];
        writeln!(
            out,
            "\n## Trends behind the warm-up\n\n| | first tenth | last tenth | quiet | per 10 minutes |\n|---|--:|--:|--:|--:|"
        )?;
        let [first, last] = self.tenths();
        for (name, of) in COLUMNS {
            let slope = self.slope_of(of);
            let slope =
                slope.map_or("-".into(), |s| format!("{:+.2} ± {:.2}", s.by, s.standard_error));
            let (first, last) = (median(first.iter().map(of)), median(last.iter().map(of)));
            let quiet = of(&self.quiet);
            writeln!(out, "| {name} | {first:.2} | {last:.2} | {quiet:.2} | {slope} |")?;
        }
        Ok(())
    }

    fn table(&self, out: &mut String) -> Outcome<()> {
        writeln!(
            out,
            "\n## Samples, a few of {}\n\nCores: gateway, mock, generator. `late`: how late the generator sent. `sent`: \
             from when it was sent.\n\n\
             | min | calls/s | p50 ms | p99 | sent p50 | sent p99 | late p99 | own MB | RSS MB | fds | threads | cores | \
             open | queue | backlog kB | database MB | errors |\n\
             |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
            self.samples.len()
        )?;
        let step = self.samples.len().div_ceil(SHOWN).max(1);
        for s in self.samples.iter().step_by(step).chain([&self.quiet]) {
            let [gateway, mock, generator] = s.cores;
            writeln!(
                out,
                "| {:.1} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {} | {} | \
                 {gateway:.2} {mock:.2} {generator:.2} | {} | {:.0} | {:.0} | {:.1} | {} |",
                s.at_s / 60.0,
                s.per_second,
                s.p50_ms,
                s.p99_ms,
                s.sent_p50_ms,
                s.sent_p99_ms,
                s.late_p99_ms,
                s.memory.own_mb,
                s.memory.rss_mb,
                s.fds,
                s.threads,
                s.open,
                s.queue,
                s.backlog_bytes / 1e3,
                s.database_mb,
                s.errors.values().sum::<u64>(),
            )?;
        }
        for (name, count) in self.errors() {
            writeln!(out, "\n{count} calls: {name}.")?;
        }
        let warnings: u64 = self.samples.iter().map(|s| s.log_warnings).sum();
        writeln!(
            out,
            "\n{warnings} warnings in the log (with Pingora's error of a kept connection that was busy)."
        )?;
        Ok(())
    }

    fn kinds(&self, out: &mut String) -> Outcome<()> {
        writeln!(
            out,
            "\n## Calls, everything since the start\n\nA fault or a hang-up has ended well when it was told, or left.\n\n\
             | kind | sent | ended well | failed | at the provider | rows: success | rows: error |\n\
             |---|--:|--:|--:|--:|--:|--:|"
        )?;
        for line in &self.audit.lines {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                line.kind,
                line.sent,
                line.ended,
                line.failed,
                line.at_provider,
                line.rows_success,
                line.rows_error
            )?;
        }
        Ok(())
    }
}

/// The line of least squares through points; `None` of fewer than three.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let (mx, my) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sxx: f64 = points.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    let by = sxy / sxx;
    let rest: f64 = points.iter().map(|(x, y)| (y - my - by * (x - mx)).powi(2)).sum();
    (sxx > 0.0).then(|| Slope { by, standard_error: (rest / (n - 2.0) / sxx).sqrt() })
}
