//! One look at everything, every few seconds.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::Outcome;
use crate::caller::Seen;
use crate::database::{Database, folder_size};
use crate::gateway::Gateway;
use crate::process::Process;
use crate::process::proc::{self, Memory, kilobytes, memory};

/// The generator's own entry in `/proc`.
const MYSELF: &str = "self";

/// Lines of the log that are kept for the report.
const MAX_LINES: usize = 20;
const MAX_LINE_CHARS: usize = 400;

/// What Pingora calls an error and is none: a kept connection that another thread was just looking at is not used again.
const RACE: &[u8] = b"failed to acquire reusable stream";

/// What there was to be seen at one moment, and since the moment before.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// Since the beginning of the load.
    pub(crate) at_s: f64,
    pub(crate) calls: u64,
    pub(crate) per_second: f64,
    /// Small plain calls, from when they were to be sent.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The same from when they were sent.
    pub(crate) sent_p50_ms: f64,
    pub(crate) sent_p99_ms: f64,
    /// How late the generator was.
    pub(crate) late_p99_ms: f64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Calls that the generator waits for.
    pub(crate) open: usize,
    pub(crate) memory: Memory,
    pub(crate) fds: usize,
    pub(crate) threads: u64,
    /// Cores in use: the gateway, the mock provider, the generator.
    pub(crate) cores: [f64; 3],
    pub(crate) mock_rss_mb: f64,
    pub(crate) generator_rss_mb: f64,
    pub(crate) active: f64,
    pub(crate) connections: f64,
    pub(crate) held_usd: f64,
    /// Records that the database does not have yet, and their bytes.
    pub(crate) queue: f64,
    pub(crate) backlog_bytes: f64,
    pub(crate) dropped: f64,
    pub(crate) database_mb: f64,
    pub(crate) wal_mb: f64,
    pub(crate) journal_mb: f64,
    pub(crate) log_errors: u64,
    pub(crate) log_warnings: u64,
}

/// Takes samples.
pub(crate) struct Sampler {
    begun: Instant,
    last: Instant,
    cpu: [f64; 3],
    /// The first lines of the log that are errors.
    pub(crate) lines: Vec<String>,
}

impl Sampler {
    pub(crate) fn new(gateway: &Gateway, mock: &Process) -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, cpu: cpu(gateway, mock), lines: Vec::new() }
    }

    /// Looks at everything; `seen` is since the sample before.
    pub(crate) async fn take(
        &mut self,
        gateway: &Gateway,
        mock: &Process,
        database: &Database,
        seen: Seen,
        open: usize,
    ) -> Outcome<Sample> {
        let (before, now) = (self.last, Instant::now());
        self.last = now;
        let seconds = (now - before).as_secs_f64().max(0.001);
        let used = cpu(gateway, mock);
        let cores = std::array::from_fn(|at| (used[at] - self.cpu[at]) / seconds);
        self.cpu = used;
        let id = gateway.process.child.id().to_string();
        let page = gateway.metrics().await?;
        let metric = |name: &str| metric(&page, name);
        let (size, wal) = database.size().await?;
        let log = gateway.log();
        // Megabytes: not on the thread that has calls to send.
        let log = tokio::task::spawn_blocking(move || read_and_empty(&log)).await??;
        let room = MAX_LINES.saturating_sub(self.lines.len());
        self.lines.extend(log.lines.into_iter().take(room));
        Ok(Sample {
            at_s: (now - self.begun).as_secs_f64(),
            calls: seen.calls,
            per_second: seen.calls as f64 / seconds,
            p50_ms: seen.wait.quantile_us(0.5) / 1000.0,
            p99_ms: seen.wait.quantile_us(0.99) / 1000.0,
            sent_p50_ms: seen.answer.quantile_us(0.5) / 1000.0,
            sent_p99_ms: seen.answer.quantile_us(0.99) / 1000.0,
            late_p99_ms: seen.late.quantile_us(0.99) / 1000.0,
            errors: seen.errors,
            open,
            memory: memory(&id)?,
            fds: fs::read_dir(format!("/proc/{id}/fd"))?.count(),
            threads: status(&id, "Threads:")?,
            cores,
            mock_rss_mb: memory(&mock.child.id().to_string())?.rss_mb,
            generator_rss_mb: memory(MYSELF)?.rss_mb,
            active: metric("gateway_active_requests"),
            connections: metric("gateway_connections"),
            held_usd: metric("gateway_budget_held_dollars"),
            queue: metric("gateway_usage_log_queue_depth"),
            backlog_bytes: metric("gateway_journal_backlog_bytes"),
            dropped: metric("gateway_usage_log_rows_total{result=\"dropped\""),
            database_mb: size as f64 / 1e6,
            wal_mb: wal as f64 / 1e6,
            journal_mb: folder_size(&gateway.folder().join("journal")) as f64 / 1e6,
            log_errors: log.errors,
            log_warnings: log.warnings,
        })
    }
}

fn status(id: &str, name: &str) -> Outcome<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{id}/status"))?, name)
}

/// Seconds of CPU so far: the gateway, the mock, this process.
fn cpu(gateway: &Gateway, mock: &Process) -> [f64; 3] {
    let ids =
        [gateway.process.child.id().to_string(), mock.child.id().to_string(), MYSELF.to_owned()];
    ids.map(|id| proc::total(&id).unwrap_or_default().as_secs_f64())
}

/// The value of the series that begins so; 0 when it is not there yet.
pub(crate) fn metric(page: &str, name: &str) -> f64 {
    let ends = |rest: &str| name.contains('{') || rest.starts_with(' ');
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(ends));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
}

/// What the log says of trouble.
struct Log {
    errors: u64,
    warnings: u64,
    lines: Vec<String>,
}

/// Reads the log and empties it, so that an hour of it does not fill the disk: the gateway appends. A line written in
/// between is lost, here alone.
fn read_and_empty(path: &Path) -> Outcome<Log> {
    let mut log = Log { errors: 0, warnings: 0, lines: Vec::new() };
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        let line = line?;
        let has = |word: &[u8]| memchr::memmem::find(&line, word).is_some();
        let is_error = (has(b"\"level\":\"ERROR\"") && !has(RACE)) || has(b"panicked at");
        log.errors += u64::from(is_error);
        log.warnings += u64::from(has(b"\"level\":\"WARN\"") || has(RACE));
        if is_error && log.lines.len() < MAX_LINES {
            let text = String::from_utf8_lossy(&line);
            log.lines.push(text.chars().take(MAX_LINE_CHARS).collect());
        }
    }
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    Ok(log)
}
