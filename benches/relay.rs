//! The speed table: what a call through the real `otari` binary costs beside a direct call to the mock provider and beside
//! the smallest possible Pingora pass-through, in alternating rounds of one run.
//!
//! ```text
//! make bench                                                 # a quarter of an hour at most; target/bench/relay.md
//! cargo bench --bench relay -- --only latency                # one row
//! cargo bench --bench relay -- --rounds 7 --secs 10 --threads 2 --connections 64 --only chat
//! cargo test --bench relay -- --smoke                        # every row in its smallest form: does it run?
//! ```
//!
//! `benches/README.md` says what each row means. Times are printed beside their targets and never asserted; a usage row
//! that is lost fails the bench. Everything is on loopback; the mock, the platform and the pass-through are this binary
//! again, and every child ends with it.

#[path = "relay/call.rs"]
mod call;
#[path = "relay/check.rs"]
mod check;
#[path = "relay/closed.rs"]
mod closed;
#[path = "relay/connected.rs"]
mod connected;
#[path = "relay/database.rs"]
mod database;
#[path = "relay/gateway.rs"]
mod gateway;
#[path = "relay/load.rs"]
mod load;
#[path = "common/numbers.rs"]
#[expect(dead_code, reason = "the soak uses all of it")]
mod numbers;
#[path = "relay/plan.rs"]
mod plan;
#[path = "relay/plot.rs"]
mod plot;
#[path = "../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod postgres_server;
#[path = "relay/probe.rs"]
mod probe;
#[path = "relay/process.rs"]
mod process;
#[path = "relay/report.rs"]
mod report;
#[path = "relay/rows.rs"]
mod rows;
#[path = "relay/streams.rs"]
mod streams;
#[path = "relay/target.rs"]
mod target;
#[path = "common/watchdog.rs"]
mod watchdog;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use plan::Plan;
use report::{Report, Row};
use rows::{Kind, ROWS};

/// What any step here may fail with: a sentence for whoever runs the bench.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
struct Arguments {
    /// Every row in its smallest form: does it run at all?
    #[arg(long)]
    smoke: bool,
    /// Seconds of one measurement of a closed loop.
    #[arg(long)]
    secs: Option<f64>,
    /// Measurements of each target, in every row.
    #[arg(long)]
    rounds: Option<u32>,
    /// Connections of the closed loop.
    #[arg(long)]
    connections: Option<usize>,
    /// Worker threads of the gateway and of the bare pass-through.
    #[arg(long)]
    threads: Option<usize>,
    /// Only rows whose name contains this, or one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Another binary in the place of the one that was built with the bench.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Where the report goes; left out: target/bench, and target/bench/smoke.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is to be.
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// Where the pass-through listens.
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
    /// Where the pass-through sends to.
    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
    /// Where it sends what is marked as bulk.
    #[arg(long, hide = true)]
    bulk: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Mock,
    Bare,
    Platform,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Mock) => process::run_mock(),
        Some(Role::Bare) => process::run_bare(
            arguments.listen.ok_or("--listen is missing")?,
            arguments.upstream.ok_or("--upstream is missing")?,
            arguments.bulk,
            arguments.threads.unwrap_or(1),
        ),
        Some(Role::Platform) => process::run_platform(
            arguments.listen.ok_or("--listen is missing")?,
            arguments.upstream.ok_or("--upstream is missing")?,
        ),
        // One thread: the generator must not take the second core from what is measured.
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(measure(&arguments)),
    }
}

/// The sizes that were asked for.
fn plan(arguments: &Arguments) -> Plan {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let out = |default| arguments.out.clone().unwrap_or(default);
    let mut plan = match arguments.smoke {
        true => Plan::smoke(out(folder.join("smoke"))),
        false => Plan::full(out(folder)),
    };
    if let Some(secs) = arguments.secs {
        plan.time = Duration::from_secs_f64(secs);
    }
    if let Some(rounds) = arguments.rounds {
        (plan.rounds, plan.few_rounds) = (rounds.max(1), rounds.max(1));
    }
    plan.connections = arguments.connections.unwrap_or(plan.connections).max(1);
    plan.threads = arguments.threads.unwrap_or(plan.threads);
    plan
}

async fn measure(arguments: &Arguments) -> Outcome<()> {
    let plan = plan(arguments);
    if let Some(binary) = &arguments.gateway {
        gateway::is(std::path::absolute(binary)?);
    }
    let parts = &arguments.only;
    let is_wanted =
        |kind: &&Kind| parts.is_empty() || parts.iter().any(|part| kind.id.contains(part.as_str()));
    let wanted: Vec<&Kind> = ROWS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        let names = ROWS.map(|kind| kind.id).join(", ");
        return Err(format!("no such row; there are {names}").into());
    }
    let (mut report, begun) = (Report::new(&plan), Instant::now());
    for kind in &wanted {
        let mut row = Row::new(kind.id, kind.title);
        let at = Instant::now();
        let left = plan.limit.saturating_sub(begun.elapsed());
        let run = match tokio::time::timeout(left, rows::run(&plan, &mut row)).await {
            Ok(run) => run.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the time was over, {} s in all", plan.limit.as_secs())),
        };
        let word = if run.is_ok() { "measured" } else { "NOT measured" };
        say(&format!("{:<12}{word}, {:.1} s", kind.id, at.elapsed().as_secs_f64()))?;
        row.missing = run.err();
        report.rows.push(row);
    }
    let (file, table) = report.write()?;
    say(&format!("\n{table}\nReport: {}", file.display()))?;
    let mut faults = report.faults();
    if faults.is_empty() {
        faults = check::holes(&plan.out, &wanted)?;
    }
    match &faults[..] {
        [] => Ok(()),
        faults => Err(format!("not as it should be: {}", faults.join("; ")).into()),
    }
}

/// How many files a process may have open: as many as it may allow itself, which its children inherit.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // When it may not be raised it stays as it is.
    let _ = setrlimit(Resource::Nofile, most);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
