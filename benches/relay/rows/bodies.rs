//! Large requests: what they cost, and what they do to small calls of the same process.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::{sleep_until, timeout};

use crate::Outcome;
use crate::call::{CHAT, Call, MEGABYTE, TWENTY};
use crate::closed::{CPU, Cell, Loop, RPS};
use crate::gateway::BULK;
use crate::load::{Connection, Histogram};
use crate::plan::Plan;
use crate::probe::Probe;
use crate::report::{Aim, Figure, Plot, Row, Table, number};
use crate::target::{BARE, OTARI, Scene, Target};

/// No answer to a large request takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What passes beside the small calls: its name, its size, and how many a second.
const BESIDE: [(&str, Option<(Call, f64)>); 3] =
    [("nothing", None), ("1 MB", Some((MEGABYTE, 10.0))), ("20 MB", Some((TWENTY, 1.0)))];

/// Small calls beside large ones, one target in one round.
#[derive(Serialize)]
struct Beside {
    target: &'static str,
    beside: &'static str,
    round: u32,
    calls: u64,
    bodies: u64,
    p50_us: f64,
    p99_us: f64,
}

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start_with_bulk(plan).await?;
    cost(plan, row, &scene, "1 MB", MEGABYTE).await?;
    cost(plan, row, &scene, "20 MB", sized(plan, TWENTY)).await?;
    neighbours(plan, row, &scene).await
}

/// In the smoke form an unoptimised mock shall not read for seconds.
fn sized(plan: &Plan, call: Call) -> Call {
    if plan.is_smoke { MEGABYTE } else { call }
}

async fn cost(
    plan: &Plan,
    row: &mut Row,
    scene: &Scene,
    size: &'static str,
    call: Call,
) -> Outcome<()> {
    let cells = [scene.direct(), scene.bare(), scene.otari()].map(|target| Cell { target, call });
    let Plan { senders: connections, few_rounds: rounds, time, warm_up, .. } = *plan;
    let samples = Loop { connections, rounds, time, warm_up }.run(&cells).await?;
    let what = |what: &str| format!("{what} of {size}, of bare Pingora's");
    row.figures.push(
        Figure::new(what("CPU of a body"), "", samples.ratio(OTARI, BARE, CPU))
            .aim(Aim::AtMost(1.15)),
    );
    row.figures.push(Figure::new(what("bodies per second"), "", samples.ratio(OTARI, BARE, RPS)));
    row.notes.push(format!("The first table of each size: {size}, {connections} connections."));
    row.tables.push(samples.table(&cells.map(|cell| cell.target.name), BARE));
    row.keep(&samples, if size == "1 MB" { "megabyte" } else { "twenty" });
    Ok(())
}

/// What bodies do to small calls.
async fn neighbours(plan: &Plan, row: &mut Row, scene: &Scene) -> Outcome<()> {
    let mut order: Vec<_> = [scene.bare(), scene.otari()]
        .into_iter()
        .flat_map(|target| BESIDE.map(|(name, load)| (target, name, load)))
        .collect();
    let mut samples = Vec::new();
    let mut curves: Vec<(&str, &str, Histogram)> =
        order.iter().map(|(target, name, _)| (target.name, *name, Histogram::new())).collect();
    for round in 0..plan.few_rounds {
        // Nobody always goes first, and each is with and without within a moment.
        order.rotate_left(BESIDE.len());
        for (target, name, load) in &order {
            let load = load.map(|(call, rate)| (sized(plan, call), rate));
            let (sample, wait) = beside(plan, row, target, name, load, round).await?;
            curves
                .iter_mut()
                .filter(|(of, beside, _)| (*of, *beside) == (target.name, *name))
                .for_each(|(_, _, all)| all.merge(&wait));
            samples.push(sample);
        }
    }
    let each = |of: &str, beside: &str| -> Vec<f64> {
        let mine = samples.iter().filter(|s| (s.target, s.beside) == (of, beside));
        mine.map(|s| s.p99_us).collect()
    };
    for size in ["1 MB", "20 MB"] {
        for of in [OTARI, BARE] {
            let pairs = each(of, size).into_iter().zip(each(of, "nothing"));
            let what = format!("{of}: p99 of small calls beside bodies of {size}, of that without");
            let figure =
                Figure::new(what, "", pairs.map(|(with, without)| with / without).collect());
            row.figures.push(if of == OTARI { figure.aim(Aim::AtMost(1.2)) } else { figure });
        }
    }
    let mut table = Table::new(&["small calls", "beside them", "calls", "p50 µs", "p99 µs"]);
    for (of, beside, all) in &curves {
        let at = |share| number(all.quantile_us(share));
        table.row(vec![
            (*of).to_owned(),
            (*beside).to_owned(),
            all.total.to_string(),
            at(0.5),
            at(0.99),
        ]);
    }
    row.tables.push(table);
    let names: Vec<String> =
        curves.iter().map(|(of, beside, _)| format!("{}, {beside}", short(of))).collect();
    let series: Vec<_> =
        names.iter().zip(&curves).map(|(name, (_, _, all))| (name.as_str(), all)).collect();
    row.plots.push(Plot::curves("beside", "small calls beside large bodies", &series));
    row.notes.push(format!(
        "Small calls: one connection, {} a second as in `latency`. Beside them one connection sends 10 bodies of 1 MB a \
         second, or one of 20 MB, to a mock of its own: the two share nothing but the process in the middle and the \
         machine's cores. What the cores alone do is in bare Pingora's figure.",
        plan.rate
    ));
    row.samples("beside", &samples);
    Ok(())
}

fn short(target: &str) -> &str {
    if target == BARE { "bare" } else { target }
}

async fn beside(
    plan: &Plan,
    row: &mut Row,
    target: &Target<'_>,
    name: &'static str,
    load: Option<(Call, f64)>,
    round: u32,
) -> Outcome<(Beside, Histogram)> {
    let account = target.open().await?;
    let probe = Probe {
        address: target.address(),
        request: account.request(&CHAT),
        rate: plan.rate,
        time: plan.open_time,
        seed: u64::from(round) + 1,
    };
    let large = load.map(|(call, rate)| (account.request_to(&call.bulk(), BULK), rate));
    let bodies = async {
        match &large {
            None => Ok(0),
            Some((request, rate)) => send(target, request, *rate, plan.open_time).await,
        }
    };
    let (seen, bodies) = tokio::join!(probe.run(), bodies);
    let (seen, bodies) = (seen?, bodies?);
    row.errors += seen.errors;
    row.books.extend(account.close(seen.answered + bodies, seen.errors).await?);
    let sample = Beside {
        target: target.name,
        beside: name,
        round,
        calls: seen.wait.total,
        bodies,
        p50_us: seen.wait.quantile_us(0.5),
        p99_us: seen.wait.quantile_us(0.99),
    };
    Ok((sample, seen.wait))
}

/// Sends bodies at a pace of their own; how many were answered, which is all.
async fn send(target: &Target<'_>, request: &[u8], rate: f64, time: Duration) -> Outcome<u64> {
    let mut connection = Connection::open(target.address()).await?;
    let (begun, mut due, mut answered) = (Instant::now(), Instant::now(), 0);
    while due < begun + time {
        sleep_until(due.into()).await;
        let reply = timeout(PATIENCE, connection.exchange(request)).await??;
        if reply.status != 200 {
            return Err(format!("a large body was answered with {}", reply.status).into());
        }
        answered += 1;
        due = (due + Duration::from_secs_f64(1.0 / rate)).max(Instant::now());
    }
    Ok(answered)
}
