//! Hours in minutes: the real `otari` binary under a steady, mixed load, and what becomes of its memory, its file
//! descriptors, its queues and its times; at the end an audit of every call.
//!
//! ```text
//! make soak                                                  # an hour on SQLite
//! cargo bench --bench soak -- --minutes 60 --postgres
//! cargo bench --bench soak -- --minutes 10 --rate 500        # calls per second; left out: half of the measured ceiling
//! cargo test --bench soak -- --minutes 2                     # the unoptimised build: does it run?
//! ```
//!
//! `benches/README.md` says what is asked and what is judged. The mock provider is this binary again. Ctrl-C or SIGTERM end
//! it early, with a report of what was seen.

#[path = "soak/audit.rs"]
mod audit;
#[path = "soak/caller.rs"]
mod caller;
#[path = "soak/database.rs"]
mod database;
#[path = "soak/gateway.rs"]
mod gateway;
#[path = "relay/load.rs"]
#[expect(dead_code, reason = "the other bench uses all of it")]
mod load;
#[path = "soak/mix.rs"]
mod mix;
#[path = "common/numbers.rs"]
mod numbers;
#[path = "../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod postgres_server;
#[path = "relay/process.rs"]
#[expect(dead_code, reason = "the other bench uses all of it")]
mod process;
#[path = "soak/report.rs"]
mod report;
#[path = "soak/sample.rs"]
mod sample;
#[path = "common/watchdog.rs"]
mod watchdog;

use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use caller::Callers;
use database::Database;
use gateway::Gateway;
use process::Process;
use report::{Report, Setting};
use sample::{Sample, Sampler};

/// What any step here may fail with: a sentence for whoever runs the bench.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The closed loop that finds the ceiling: enough callers that those who wait for a paced stream are not missed.
const CEILING_CALLERS: usize = 256;
const CEILING_TIME: Duration = Duration::from_secs(10);
const CEILING_WARM_UP: Duration = Duration::from_secs(3);

/// Longest wait for the last row of it.
const SETTLE: Duration = Duration::from_secs(120);

/// A soak ends when less than this is free where it writes.
const MIN_FREE_BYTES: u64 = 4 << 30;

/// After the last call, before the memory of a gateway without work is looked at.
const REST: Duration = Duration::from_secs(15);

/// The first part of a soak that is warm-up, and its longest.
const WARM_UP_SHARE: f64 = 0.2;
const WARM_UP_S: f64 = 300.0;

#[derive(Parser)]
struct Arguments {
    /// How long, without the measurement of the ceiling.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Calls per second; left out: half of the ceiling, which is measured first.
    #[arg(long)]
    rate: Option<f64>,
    /// On a PostgreSQL of its own instead of SQLite.
    #[arg(long)]
    postgres: bool,
    /// Worker threads of the gateway; left out: as many as it takes itself.
    #[arg(long)]
    threads: Option<usize>,
    /// Seconds between samples.
    #[arg(long, default_value_t = 10.0)]
    every: f64,
    /// Minutes that are not judged; left out: a fifth, five at most.
    #[arg(long)]
    warm_up: Option<f64>,
    /// The same seed asks the same calls in the same order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is to be.
    #[arg(long, hide = true)]
    role: Option<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Mock,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    if arguments.role == Some(Role::Mock) {
        return process::run_mock();
    }
    // One thread: the generator must not take the second core from what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, soak(&arguments))
}

/// Everybody who takes part.
struct Stage {
    // Dropped in this order: first the gateway, then what it talks to.
    gateway: Gateway,
    mock: Process,
    database: Database,
    callers: Rc<Callers>,
}

async fn soak(arguments: &Arguments) -> Outcome<()> {
    let mut stage = start(arguments).await?;
    let stopping = Rc::clone(&stage.callers);
    let mut signals = tokio::task::JoinSet::new();
    signals.spawn_local(async move {
        if interrupted().await.is_ok() {
            stopping.ending.set(true);
        }
    });
    let ceiling = match arguments.rate {
        Some(_) => None,
        None => Some(ceiling(&stage, arguments.seed).await?),
    };
    let half = ceiling.map(|[answered, settled]| answered.min(settled) / 2.0);
    let rate = arguments.rate.or(half).unwrap_or(0.0);
    if rate < 1.0 {
        return Err("less than one call a second is no load".into());
    }
    let total = Duration::from_secs_f64(arguments.minutes * 60.0);
    let warm_up = arguments.warm_up.map(|minutes| minutes * 60.0);
    let warm_up_s = warm_up.unwrap_or_else(|| (total.as_secs_f64() * WARM_UP_SHARE).min(WARM_UP_S));
    say(&format!("{} minutes at {rate:.0} calls a second", arguments.minutes))?;

    let mut watch = Watch::new(&stage, arguments.every);
    // What the ceiling took is not part of it.
    stage.callers.take();
    let end = Instant::now() + total;
    let load = stage.callers.open_loop(rate, end, arguments.seed);
    let (sent, watched) = tokio::join!(load, watch.until(&stage, end));
    sent?;
    watched?;
    if stage.callers.ending.get() && watch.ended_early.is_none() {
        watch.ended_early = Some("a signal");
    }
    say("quiet")?;
    tokio::time::sleep(REST).await;
    let quiet = watch.look(&stage).await?;
    let counts = stage.callers.counts();
    let audit = audit::run(&mut stage.gateway, &stage.mock, &stage.database, &counts).await?;
    let setting = Setting {
        database: stage.database.name(),
        minutes: arguments.minutes,
        warm_up_s,
        every_s: arguments.every,
        ceiling,
        rate,
        seed: arguments.seed,
        ended_early: watch.ended_early,
    };
    let (samples, lines) = (watch.samples, watch.sampler.lines);
    let report = Report { setting, samples, quiet, audit, lines };
    let (file, text) = report.write()?;
    say(&format!("\n{text}\n{}", file.display()))?;
    match &report.faults()[..] {
        [] => Ok(()),
        faults => Err(format!("not as it should be: {}", faults.join("; ")).into()),
    }
}

async fn start(arguments: &Arguments) -> Outcome<Stage> {
    let mock = Process::mock().await?;
    let server = if arguments.postgres { Some(Database::postgres()?) } else { None };
    let url = server.as_ref().and_then(Database::url);
    let gateway = Gateway::start(mock.address, url, arguments.threads).await?;
    let database = server.unwrap_or_else(|| Database::Sqlite(gateway.sqlite()));
    let callers = Callers::new(&gateway);
    callers.try_each().await?;
    Ok(Stage { gateway, mock, database, callers })
}

/// Calls per second of the same mix: answered, and until the last row was written.
async fn ceiling(stage: &Stage, seed: u64) -> Outcome<[f64; 2]> {
    say("measuring the ceiling")?;
    stage.callers.closed_loop(CEILING_CALLERS, CEILING_WARM_UP, seed).await?;
    settled(stage).await?;
    let begun = Instant::now();
    let (answered, took) =
        stage.callers.closed_loop(CEILING_CALLERS, CEILING_TIME, seed + 1000).await?;
    settled(stage).await?;
    let both = [took, begun.elapsed()].map(|time| answered as f64 / time.as_secs_f64());
    say(&format!(
        "{:.0} calls a second answered, {:.0} until the last row was written",
        both[0], both[1]
    ))?;
    Ok(both)
}

/// Waits until the database has every record.
async fn settled(stage: &Stage) -> Outcome<()> {
    let deadline = Instant::now() + SETTLE;
    while sample::metric(&stage.gateway.metrics().await?, "gateway_usage_log_queue_depth") > 0.0 {
        if Instant::now() > deadline {
            return Err(format!("records still wait after {SETTLE:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Takes samples while the load runs.
struct Watch {
    sampler: Sampler,
    samples: Vec<Sample>,
    every: Duration,
    ended_early: Option<&'static str>,
}

impl Watch {
    fn new(stage: &Stage, every: f64) -> Self {
        let sampler = Sampler::new(&stage.gateway, &stage.mock);
        let every = Duration::from_secs_f64(every.max(1.0));
        Self { sampler, samples: Vec::new(), every, ended_early: None }
    }

    async fn until(&mut self, stage: &Stage, end: Instant) -> Outcome<()> {
        let result = self.samples_until(stage, end).await;
        // A gateway that is gone needs no more calls.
        if result.is_err() {
            stage.callers.ending.set(true);
        }
        result
    }

    async fn samples_until(&mut self, stage: &Stage, end: Instant) -> Outcome<()> {
        let mut next = Instant::now() + self.every;
        // The last one is due when the load ends, a moment after or before.
        while next <= end + self.every / 2 && !stage.callers.ending.get() {
            while Instant::now() < next && !stage.callers.ending.get() {
                let left = next.saturating_duration_since(Instant::now());
                tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            }
            next += self.every;
            let sample = self.look(stage).await?;
            say(&format!(
                "{:6.1} min  {:5.0}/s  p50 {:6.2} ms  p99 {:7.2} ms  own {:6.1} MB  rss {:6.1} MB  fds {:4}  queue {:5.0}  \
                 database {:7.1} MB  errors {:?}",
                sample.at_s / 60.0,
                sample.per_second,
                sample.p50_ms,
                sample.p99_ms,
                sample.memory.own_mb,
                sample.memory.rss_mb,
                sample.fds,
                sample.queue,
                sample.database_mb,
                sample.errors
            ))?;
            self.samples.push(sample);
            if free_bytes(stage)? < MIN_FREE_BYTES {
                self.ended_early = Some("the disk is nearly full");
                stage.callers.ending.set(true);
            }
        }
        Ok(())
    }

    async fn look(&mut self, stage: &Stage) -> Outcome<Sample> {
        let (seen, open) = (stage.callers.take(), stage.callers.open());
        self.sampler.take(&stage.gateway, &stage.mock, &stage.database, seen, open).await
    }
}

fn free_bytes(stage: &Stage) -> Outcome<u64> {
    let disk = rustix::fs::statvfs(stage.gateway.folder())?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Resolves when somebody asks this process to end.
async fn interrupted() -> Outcome<()> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    Ok(())
}

fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
