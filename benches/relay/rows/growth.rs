//! The same gateway on a database with ten and with a million keys, users and prices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use otari::control::directory::{digest, hex};
use otari::store::{Store, sqlite};
use rusqlite::{Connection, params};
use serde::Serialize;
use tempfile::TempDir;

use super::start::{Started, timed};
use crate::Outcome;
use crate::call::CHAT;
use crate::gateway::{Gateway, OPENAI, SQLITE, Setup, folder};
use crate::load::Load;
use crate::plan::Plan;
use crate::process::Process;
use crate::report::{Aim, Figure, Plot, Row, Table, number};
use crate::target::Rows;

/// Keys, users and prices of the smaller one.
const FEW: usize = 10;

/// Starts of each that are timed.
const STARTS: u32 = 3;

/// Requests that are asked in turn, each with a key of its own where there are so many.
const CALLERS: usize = 2048;

const AT: &str = "2026-01-01 00:00:00.000000";

/// One database in one round.
#[derive(Serialize)]
struct Sample {
    count: usize,
    round: u32,
    requests: u64,
    rps: f64,
    p99_us: f64,
    cpu_us: f64,
}

/// A running gateway, and how many it knows.
struct Grown {
    count: usize,
    gateway: Gateway,
    starts: Vec<Started>,
    idle_rss_mb: f64,
    requests: Vec<Vec<u8>>,
}

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let mock = Process::mock().await?;
    let setup = Setup { mock: mock.address, bulk: None, database: None, threads: plan.threads };
    let mut both =
        [Grown::start(plan, &setup, FEW).await?, Grown::start(plan, &setup, plan.grown).await?];
    let mut samples = Vec::new();
    for round in 0..plan.few_rounds {
        both.rotate_left(1);
        for grown in &both {
            samples.push(measure(plan, row, grown, round).await?);
        }
    }
    both.sort_by_key(|grown| grown.count);
    let each = |count, of: fn(&Sample) -> f64| -> Vec<f64> {
        samples.iter().filter(|s| s.count == count).map(of).collect()
    };
    let ratio = |of: fn(&Sample) -> f64| {
        let pairs = each(plan.grown, of).into_iter().zip(each(FEW, of));
        pairs.map(|(many, few)| many / few).collect()
    };
    let many = plan.grown;
    let health = |grown: &Grown| -> Vec<f64> {
        grown.starts.iter().map(|start| start.health_ms / 1e3).collect()
    };
    row.figures = vec![
        Figure::new(
            format!("requests per second with {many}, of those with {FEW}"),
            "",
            ratio(|s| s.rps),
        )
        .aim(Aim::AtLeast(0.97)),
        Figure::new(
            format!("CPU of a call with {many}, of that with {FEW}"),
            "",
            ratio(|s| s.cpu_us),
        ),
        Figure::new(format!("start to /health with {many}"), "s", health(&both[1]))
            .aim(Aim::AtMost(3.0)),
        Figure::new(format!("start to /health with {FEW}"), "s", health(&both[0])),
        Figure::new(format!("RSS with {many}, idle"), "MB", vec![both[1].idle_rss_mb]),
        Figure::new(format!("RSS with {FEW}, idle"), "MB", vec![both[0].idle_rss_mb]),
    ];
    let mut table =
        Table::new(&["keys, users, prices", "req/s", "p99 µs", "CPU µs/req", "idle RSS MB"]);
    for grown in &both {
        let own = |of| crate::numbers::median(each(grown.count, of));
        table.row(vec![
            grown.count.to_string(),
            format!("{:.0}", own(|s| s.rps)),
            format!("{:.0}", own(|s| s.p99_us)),
            number(own(|s| s.cpu_us)),
            number(grown.idle_rss_mb),
        ]);
    }
    row.tables.push(table);
    let dots = [FEW, many].map(|count| (count.to_string(), each(count, |s| s.rps)));
    row.plots.push(Plot::dots(
        ["", "rps"],
        "requests per second, by keys, users and prices",
        dots.into(),
    ));
    row.notes.push(format!(
        "Each user has a key and a share of one budget; {CALLERS} of the keys, spread over all, call in turn on {} \
         connections. SQLite.",
        plan.connections
    ));
    row.samples("loads", &samples);
    row.samples("starts", &both.map(|grown| (grown.count, grown.starts)));
    Ok(())
}

impl Grown {
    async fn start(plan: &Plan, setup: &Setup<'_>, count: usize) -> Outcome<Self> {
        let mut folder = prepared(count).await?;
        let apart = (count / CALLERS).max(1);
        let callers = (0..CALLERS).map(|at| token(at * apart % count));
        let requests: Vec<_> = callers.map(|key| CHAT.request(&key, OPENAI)).collect();
        let (mut starts, times) = (Vec::new(), STARTS.min(plan.starts));
        for _ in 1..times {
            let (started, gateway) = timed(folder, setup, &token(0)).await?;
            starts.push(started);
            folder = gateway.leave().await?;
        }
        let (started, gateway) = timed(folder, setup, &token(0)).await?;
        starts.push(started);
        let idle_rss_mb = gateway.process.memory()?.rss_mb;
        Ok(Self { count, gateway, starts, idle_rss_mb, requests })
    }
}

async fn measure(plan: &Plan, row: &mut Row, grown: &Grown, round: u32) -> Outcome<Sample> {
    let process = &grown.gateway.process;
    let before = grown.gateway.rows(None).await?;
    let mut load = Load::new(process.address, grown.requests.clone(), plan.connections);
    let warmed = load.run(plan.warm_up).await?;
    let cpu = process.cpu()?;
    let run = load.run(plan.time).await?;
    let used = process.cpu()?.since(&cpu);
    let (expected, unsure) = (warmed.requests() + run.requests(), warmed.errors + run.errors);
    let found = grown.gateway.rows_beyond(None, before, expected).await?;
    row.errors += unsure;
    row.books.push(Rows { expected, unsure, found });
    Ok(Sample {
        count: grown.count,
        round,
        requests: run.requests(),
        rps: run.requests() as f64 / run.time.as_secs_f64(),
        p99_us: run.latency.quantile_us(0.99),
        cpu_us: used.as_secs_f64() * 1e6 / run.requests().max(1) as f64,
    })
}

/// The key of a user.
fn token(number: usize) -> String {
    format!("gw-{number:047}")
}

/// A folder with a database of so many. What took long to make is kept for the next run.
async fn prepared(count: usize) -> Outcome<TempDir> {
    let kept = kept(count);
    if !is_filled(&kept, count).await {
        let new = kept.with_extension("new");
        for part in [new.clone(), with_suffix(&new, "-wal"), with_suffix(&new, "-shm")] {
            let _ = fs::remove_file(part);
        }
        fill(&new, count).await?;
        fs::rename(&new, &kept)?;
    }
    let folder = folder()?;
    fs::copy(&kept, folder.path().join(SQLITE))?;
    Ok(folder)
}

fn kept(count: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/grown-{count}.db"))
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

/// Whether it is there, of today's schema, and full.
async fn is_filled(file: &Path, count: usize) -> bool {
    if !file.is_file() {
        return false;
    }
    let Ok(store) = sqlite::open(file).await else { return false };
    // A file of an older schema is brought up to date, as any gateway does with its own.
    let is_ours = store.migrate().await.is_ok() && store.schema_check().await.is_ok();
    drop(store);
    let counted = Connection::open(file).and_then(|db| {
        db.query_row_and_then("SELECT count(*) FROM api_keys", [], |row| row.get::<_, i64>(0))
    });
    is_ours && counted.is_ok_and(|keys| usize::try_from(keys) == Ok(count)) && closed(file).is_ok()
}

/// Everything into the file itself, so that a copy of it is whole.
fn closed(file: &Path) -> Outcome<()> {
    let db = Connection::open(file)?;
    db.busy_timeout(Duration::from_secs(10))?;
    Ok(db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
}

/// Makes the file: the schema by the gateway's own migrations, the rest in one transaction.
async fn fill(file: &Path, count: usize) -> Outcome<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let store = sqlite::open(file).await?;
    store.migrate().await?;
    drop(store);
    let mut db = Connection::open(file)?;
    db.execute_batch("PRAGMA synchronous = OFF")?;
    let change = db.transaction()?;
    change.execute(
        "INSERT INTO budgets (budget_id, max_budget, created_at, updated_at) VALUES ('grown', ?1, ?2, ?2)",
        params![1_000_000_000_000_000_i64, AT],
    )?;
    {
        let mut user = change.prepare(
            "INSERT INTO users (user_id, spend, budget_id, blocked, created_at, updated_at, metadata)
            VALUES (?1, 0, 'grown', 0, ?2, ?2, '{}')",
        )?;
        let mut key = change.prepare(
            "INSERT INTO api_keys (id, key_hash, key_name, user_id, created_at, is_active, metadata)
            VALUES (?1, ?2, 'grown', ?3, ?4, 1, '{}')",
        )?;
        let mut price = change.prepare(
            "INSERT INTO model_pricing (model_key, input_price_per_million, output_price_per_million, created_at, updated_at,
            effective_at) VALUES (?1, 15000000, 60000000, ?2, ?2, ?2)",
        )?;
        for number in 0..count {
            let id = format!("grown-{number}");
            user.execute(params![id, AT])?;
            key.execute(params![id, hex(&digest(&token(number))), id, AT])?;
            price.execute(params![format!("grown:model-{number}"), AT])?;
        }
    }
    change.commit()?;
    drop(db);
    closed(file)
}
