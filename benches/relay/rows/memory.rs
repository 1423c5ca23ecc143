//! Memory: a gateway that has nothing to do, and what every stream that is open adds.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::call::{CHAT, HELD};
use crate::load::{Connection, Load};
use crate::plan::Plan;
use crate::process::proc::Memory;
use crate::report::{Aim, Figure, Plot, Row, Table};
use crate::target::{BARE, OTARI, Scene, Target};

/// After a start, and after the last stream has begun, before anybody looks.
const REST: Duration = Duration::from_millis(500);

/// Longest wait for a stream to begin.
const PATIENCE: Duration = Duration::from_secs(15);

/// A small plain load first: what the first calls allocate is not a stream's.
const WARM_UP: Duration = Duration::from_millis(300);

/// What the beginning of a stream holds: the mock's first word.
const BEGUN: &[u8] = b"lorem";

/// One proxy in one round.
#[derive(Serialize)]
struct Sample {
    target: &'static str,
    round: u32,
    idle: Memory,
    before: Memory,
    held: Memory,
    /// Kilobytes (1000 bytes) of resident memory for each stream.
    stream_kb: f64,
}

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let mut samples = Vec::new();
    for round in 0..plan.few_rounds {
        // New processes: what a load leaves behind would be taken up by the next.
        let scene = Scene::start(plan).await?;
        for target in [scene.bare(), scene.otari()] {
            samples.push(measure(plan, row, &target, round).await?);
        }
    }
    let each = |name, of: fn(&Sample) -> f64| -> Vec<f64> {
        samples.iter().filter(|s| s.target == name).map(of).collect()
    };
    let a_stream: fn(&Sample) -> f64 = |s| s.stream_kb;
    let more = each(OTARI, a_stream).into_iter().zip(each(BARE, a_stream));
    row.figures = vec![
        Figure::new("RSS of an idle gateway", "MB", each(OTARI, |s| s.idle.rss_mb))
            .aim(Aim::AtMost(20.0)),
        Figure::new("bare Pingora's", "MB", each(BARE, |s| s.idle.rss_mb)),
        Figure::new(
            "an open stream, more than bare Pingora's",
            "kB",
            more.map(|(mine, bare)| mine - bare).collect(),
        )
        .aim(Aim::AtMost(10.0)),
        Figure::new("an open stream", "kB", each(OTARI, a_stream)),
        Figure::new("bare Pingora's open stream", "kB", each(BARE, a_stream)),
    ];
    let mut table = Table::new(&[
        "",
        "round",
        "idle RSS MB",
        "before the streams",
        "with them",
        "own memory with them",
    ]);
    for sample in &samples {
        let mut cells = vec![sample.target.to_owned(), sample.round.to_string()];
        let all =
            [sample.idle.rss_mb, sample.before.rss_mb, sample.held.rss_mb, sample.held.own_mb];
        cells.extend(all.map(|mb| format!("{mb:.1}")));
        table.row(cells);
    }
    row.tables.push(table);
    let dots = [BARE, OTARI].map(|name| (name.to_owned(), each(name, a_stream)));
    row.plots.push(Plot::dots(
        ["", "stream"],
        "kB of resident memory for an open stream",
        dots.into(),
    ));
    row.notes.push(format!(
        "Idle: half a second after the start, no call yet. {} streams of which each has sent its first word and waits; the \
         difference to just before, which is behind a small load. kB are 1000 bytes.",
        plan.held
    ));
    row.samples("memory", &samples);
    Ok(())
}

async fn measure(plan: &Plan, row: &mut Row, target: &Target<'_>, round: u32) -> Outcome<Sample> {
    sleep(REST).await;
    let idle = target.process.memory()?;
    let account = target.open().await?;
    let requests = vec![account.request(&CHAT)];
    let warm = Load::new(target.address(), requests, plan.connections).run(WARM_UP).await?;
    let before = target.process.memory()?;
    let request = account.request(&HELD);
    let mut streams = Vec::with_capacity(plan.held);
    for _ in 0..plan.held {
        streams.push(timeout(PATIENCE, hold(target, &request)).await??);
    }
    sleep(REST).await;
    let held = target.process.memory()?;
    drop(streams);
    // A caller who has left has a row too.
    let expected = warm.requests() + plan.held as u64;
    row.errors += warm.errors;
    row.books.extend(account.close(expected, warm.errors).await?);
    let stream_kb = (held.rss_mb - before.rss_mb) * 1000.0 / plan.held as f64;
    Ok(Sample { target: target.name, round, idle, before, held, stream_kb })
}

/// A stream that has begun.
async fn hold(target: &Target<'_>, request: &[u8]) -> Outcome<Connection> {
    let mut connection = Connection::open(target.address()).await?;
    connection.stream.write_all(request).await?;
    while memchr::memmem::find(&connection.buffer, BEGUN).is_none() {
        if connection.stream.read_buf(&mut connection.buffer).await? == 0 {
            return Err("a stream that was to be held has ended".into());
        }
    }
    // What the generator keeps is nobody's business; a thousand buffers would be.
    connection.buffer = Vec::new();
    Ok(connection)
}
