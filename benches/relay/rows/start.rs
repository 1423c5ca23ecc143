//! From the start of the process to its first answers, on a database that is there.

use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::call::CHAT;
use crate::gateway::{Caller, Gateway, OPENAI, Setup};
use crate::load::{Connection, Load, request};
use crate::plan::Plan;
use crate::process::Process;
use crate::report::{Aim, Figure, Plot, Row, Table};
use crate::target::Rows;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two tries.
const STEP: Duration = Duration::from_millis(1);

/// How long one start took.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Started {
    /// To the first 200 of `/health`, in milliseconds.
    pub(crate) health_ms: f64,
    /// To the first 200 of a call.
    pub(crate) answer_ms: f64,
}

/// Starts the gateway on what is in `folder`, and asks until it answers.
pub(crate) async fn timed(
    folder: TempDir,
    setup: &Setup<'_>,
    key: &str,
) -> Outcome<(Started, Gateway)> {
    let begun = Instant::now();
    let mut gateway = Gateway::spawn_in(folder, setup)?;
    let elapsed_ms = || begun.elapsed().as_secs_f64() * 1e3;
    until_answered(&mut gateway, &request("GET", "/health", "none", b"")).await?;
    let health_ms = elapsed_ms();
    until_answered(&mut gateway, &CHAT.request(key, OPENAI)).await?;
    Ok((Started { health_ms, answer_ms: elapsed_ms() }, gateway))
}

async fn until_answered(gateway: &mut Gateway, request: &[u8]) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Ok(200)) = timeout(PATIENCE, ask(gateway, request)).await {
            return Ok(());
        }
        if let Some(status) = gateway.process.child.try_wait()? {
            return Err(format!("the gateway ended at its start: {status}").into());
        }
        sleep(STEP).await;
    }
    Err(format!("no answer within {PATIENCE:?}").into())
}

async fn ask(gateway: &Gateway, request: &[u8]) -> std::io::Result<u16> {
    let mut connection = Connection::open(gateway.process.address).await?;
    Ok(connection.exchange(request).await?.status)
}

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let mock = Process::mock().await?;
    let setup = Setup { mock: mock.address, bulk: None, database: None, threads: plan.threads };
    let (mut folder, caller, rows) = used(plan, &setup).await?;
    let mut starts = Vec::new();
    for at in 1..=plan.starts {
        let (started, gateway) = timed(folder, &setup, &caller.key).await?;
        starts.push(started);
        if at == plan.starts {
            let expected = rows + u64::from(at);
            let found = gateway.rows_beyond(Some(&caller), 0, expected).await?;
            row.books.push(Rows { expected, unsure: 0, found });
        }
        folder = gateway.leave().await?;
    }
    let each = |of: fn(&Started) -> f64| -> Vec<f64> { starts.iter().map(of).collect() };
    row.figures = vec![
        Figure::new("start to the first answer of a call", "ms", each(|s| s.answer_ms))
            .aim(Aim::AtMost(150.0)),
        Figure::new("start to the first 200 of /health", "ms", each(|s| s.health_ms)),
    ];
    let mut table = Table::new(&["start", "/health ms", "call ms"]);
    for (at, start) in starts.iter().enumerate() {
        let cells = [start.health_ms, start.answer_ms].map(|ms| format!("{ms:.1}"));
        table.row([(at + 1).to_string()].into_iter().chain(cells).collect());
    }
    row.tables.push(table);
    let dots = vec![
        ("/health".to_owned(), each(|s| s.health_ms)),
        ("a call".to_owned(), each(|s| s.answer_ms)),
    ];
    row.plots.push(Plot::dots(["", "ms"], "ms from the start of the process", dots));
    row.notes.push(format!(
        "From before the process is made; asked anew every millisecond. The SQLite file holds {rows} usage rows, and the \
         process before ended as it was asked to."
    ));
    row.samples("starts", &starts);
    Ok(())
}

/// A database with a user, a key, prices and rows; the number of rows.
async fn used(plan: &Plan, setup: &Setup<'_>) -> Outcome<(TempDir, Caller, u64)> {
    let gateway = Gateway::start(setup).await?;
    let caller = gateway.caller().await?;
    let requests = vec![CHAT.request(&caller.key, OPENAI)];
    let mut load = Load::new(gateway.process.address, requests, plan.connections);
    let run = load.run(plan.time).await?;
    let found = gateway.rows_beyond(Some(&caller), 0, run.requests()).await?;
    if found != run.requests() || run.errors > 0 {
        return Err(
            format!("{found} rows of {} calls, {} failed", run.requests(), run.errors).into()
        );
    }
    drop(load);
    Ok((gateway.leave().await?, caller, found))
}
