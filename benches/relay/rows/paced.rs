//! Streams at the pace of a model: what the gateway adds to the first byte and to every delta, and, with two thousand at
//! once, whether one is lost or held up.

use std::time::Duration;

use serde::Serialize;

use crate::Outcome;
use crate::call::{DELTAS, PACE_MS, PACED};
use crate::load::Histogram;
use crate::plan::Plan;
use crate::report::{Aim, Figure, Plot, Row, Table, number};
use crate::streams::{Counts, Streams};
use crate::target::{BARE, DIRECT, OTARI, Scene, Target};

/// File descriptors of the gateway for a stream, and beside them.
const FILES_A_STREAM: u64 = 2;
const FILES_BESIDE: u64 = 200;

/// One target in one round.
#[derive(Serialize)]
struct Sample {
    target: &'static str,
    round: u32,
    first_p50_us: f64,
    first_p99_us: f64,
    delta_p50_us: f64,
    delta_p99_us: f64,
    /// CPU of the target's process for each delta, everything in.
    cpu_us: f64,
    counts: Counts,
}

/// What is looked at in a sample.
type Of = fn(&Sample) -> f64;

/// What was measured, and the deltas of all rounds.
struct Measured {
    samples: Vec<Sample>,
    deltas: [(&'static str, Histogram); 3],
}

impl Measured {
    fn each(&self, name: &str, of: Of) -> Vec<f64> {
        self.samples.iter().filter(|s| s.target == name).map(of).collect()
    }

    fn added(&self, name: &str, of: Of) -> Vec<f64> {
        let pairs = self.each(name, of).into_iter().zip(self.each(DIRECT, of));
        pairs.map(|(mine, direct)| mine - direct).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "medians",
            "first byte p50 µs",
            "p99",
            "delta p50 µs",
            "p99",
            "CPU µs/delta",
            "at once",
            "whole",
            "broken",
            "lost",
            "stalled",
            "longest wait ms",
        ]);
        for (name, _) in &self.deltas {
            let own = |of| number(crate::numbers::median(self.each(name, of)));
            let most = |of| format!("{:.0}", self.each(name, of).into_iter().fold(0.0, f64::max));
            table.row(vec![
                (*name).to_owned(),
                own(|s| s.first_p50_us),
                own(|s| s.first_p99_us),
                own(|s| s.delta_p50_us),
                own(|s| s.delta_p99_us),
                own(|s| s.cpu_us),
                most(|s| s.counts.at_once as f64),
                most(|s| s.counts.whole as f64),
                most(|s| s.counts.broken as f64),
                most(|s| s.counts.lost as f64),
                most(|s| s.counts.stalled as f64),
                most(|s| s.counts.longest_ms),
            ]);
        }
        table
    }

    fn report(self, row: &mut Row, plan: &Plan, connections: usize) {
        row.tables.push(self.table());
        let series: Vec<_> = self.deltas.iter().map(|(name, all)| (*name, all)).collect();
        let title = "a delta, from the provider's write to the reader";
        row.plots.push(Plot::curves("deltas", title, &series));
        row.notes.push(format!(
            "{connections} connections, {} streams one after the other on each, {DELTAS} deltas {PACE_MS} ms apart. A delta's \
             time is that between the stamp which the mock writes into it and the moment at which it was read.",
            plan.streams_each
        ));
        row.samples("streams", &self.samples);
    }
}

/// A few dozen at once.
pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start(plan).await?;
    let measured = measure(plan, row, &scene, plan.streams, plan.few_rounds).await?;
    let (first, delta): (Of, Of) = (|s| s.first_p99_us, |s| s.delta_p99_us);
    let added = |what: &str, name, of| Figure::new(what, "µs", measured.added(name, of));
    row.figures = vec![
        added("added p99 of the first byte", OTARI, first).aim(Aim::AtMost(300.0)),
        added("added p99 of a delta", OTARI, delta).aim(Aim::AtMost(20.0)),
        added("added p50 of a delta", OTARI, |s| s.delta_p50_us),
        added("bare Pingora's added p99 of the first byte", BARE, first),
        added("bare Pingora's added p99 of a delta", BARE, delta),
        added("bare Pingora's added p50 of a delta", BARE, |s| s.delta_p50_us),
        Figure::new("CPU of a delta", "µs", measured.each(OTARI, |s| s.cpu_us)),
        Figure::new("bare Pingora's CPU of a delta", "µs", measured.each(BARE, |s| s.cpu_us)),
    ];
    measured.report(row, plan, plan.streams);
    Ok(())
}

/// As many as a small machine is asked to hold.
pub(crate) async fn crowd(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let (files, needed) = (crate::open_files(), plan.crowd as u64 * FILES_A_STREAM + FILES_BESIDE);
    if files < needed {
        return Err(
            format!("{needed} open files are needed and {files} allowed (ulimit -Hn)").into()
        );
    }
    let scene = Scene::start(plan).await?;
    let measured = measure(plan, row, &scene, plan.crowd, 1).await?;
    let none =
        |what: &str, of| Figure::new(what, "", measured.each(OTARI, of)).aim(Aim::AtMost(0.0));
    row.figures = vec![
        none("deltas lost", |s| s.counts.lost as f64),
        none("deltas stalled for a second", |s| s.counts.stalled as f64),
        none("streams broken", |s| s.counts.broken as f64),
        Figure::new("streams at once", "", measured.each(OTARI, |s| s.counts.at_once as f64)),
        Figure::new(
            "longest wait for a delta",
            "ms",
            measured.each(OTARI, |s| s.counts.longest_ms),
        ),
        Figure::new("CPU of a delta", "µs", measured.each(OTARI, |s| s.cpu_us)),
        Figure::new("bare Pingora's CPU of a delta", "µs", measured.each(BARE, |s| s.cpu_us)),
    ];
    measured.report(row, plan, plan.crowd);
    Ok(())
}

async fn measure(
    plan: &Plan,
    row: &mut Row,
    scene: &Scene,
    connections: usize,
    rounds: u32,
) -> Outcome<Measured> {
    let mut targets = [scene.direct(), scene.bare(), scene.otari()];
    let deltas = targets.map(|target| (target.name, Histogram::new()));
    let mut measured = Measured { samples: Vec::new(), deltas };
    for round in 0..rounds {
        targets.rotate_left(1);
        for target in &targets {
            let (sample, deltas) = one(plan, row, target, connections, round).await?;
            measured.samples.push(sample);
            let same = measured.deltas.iter_mut().filter(|(name, _)| *name == target.name);
            same.for_each(|(_, all)| all.merge(&deltas));
        }
    }
    Ok(measured)
}

async fn one(
    plan: &Plan,
    row: &mut Row,
    target: &Target<'_>,
    connections: usize,
    round: u32,
) -> Outcome<(Sample, Histogram)> {
    let account = target.open().await?;
    let streams = Streams {
        address: target.address(),
        request: account.request(&PACED),
        connections,
        each: plan.streams_each,
        deltas: DELTAS,
        pace: Duration::from_millis(PACE_MS),
        seed: u64::from(round) + 1,
    };
    let before = target.process.cpu()?;
    let seen = streams.run().await?;
    let used = target.process.cpu()?.since(&before);
    let counts = seen.counts;
    row.errors += counts.broken;
    row.books.extend(account.close(counts.whole, counts.broken).await?);
    let sample = Sample {
        target: target.name,
        round,
        first_p50_us: seen.first.quantile_us(0.5),
        first_p99_us: seen.first.quantile_us(0.99),
        delta_p50_us: seen.delta.quantile_us(0.5),
        delta_p99_us: seen.delta.quantile_us(0.99),
        cpu_us: used.as_secs_f64() * 1e6 / seen.delta.total.max(1) as f64,
        counts,
    };
    Ok((sample, seen.delta))
}
