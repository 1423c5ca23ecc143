//! One caller, one call at a time, at moments that do not depend on answers: what the gateway adds to a direct call.

use serde::Serialize;

use crate::Outcome;
use crate::call::CHAT;
use crate::connected::Connected;
use crate::load::Histogram;
use crate::plan::Plan;
use crate::probe::Probe;
use crate::report::{Aim, Figure, Plot, Row, Table};
use crate::target::{BARE, CONNECTED, DIRECT, OTARI, Scene, Target};

/// Less than this is no difference: a ratio to it would mean nothing.
const NOTHING_US: f64 = 1.0;

/// One target in one round.
#[derive(Serialize)]
struct Sample {
    target: &'static str,
    round: u32,
    calls: u64,
    p50_us: f64,
    p99_us: f64,
    late_p99_us: f64,
}

/// What is looked at in a sample.
type Of = fn(&Sample) -> f64;

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start(plan).await?;
    let connected = Connected::start(scene.mock.address, plan.threads).await?;
    let connected = Target::connected(CONNECTED, &connected);
    let mut targets = [scene.direct(), scene.bare(), scene.otari(), connected];
    let names = targets.map(|target| target.name);
    let mut all = names.map(|name| (name, Histogram::new()));
    let mut samples = Vec::new();
    for round in 0..plan.rounds {
        targets.rotate_left(1);
        for target in &targets {
            let (sample, wait) = measure(plan, row, target, round).await?;
            all.iter_mut().filter(|(name, _)| *name == target.name).for_each(|(_, sum)| {
                sum.merge(&wait);
            });
            samples.push(sample);
        }
    }
    let each = |name, of: Of| -> Vec<f64> {
        samples.iter().filter(|s| s.target == name).map(of).collect()
    };
    let added = |name, of| -> Vec<f64> {
        each(name, of).iter().zip(each(DIRECT, of)).map(|(mine, direct)| mine - direct).collect()
    };
    let more = |of| -> Vec<f64> {
        each(CONNECTED, of).iter().zip(each(OTARI, of)).map(|(mine, own)| mine - own).collect()
    };
    let (p50, p99): (Of, Of) = (|s| s.p50_us, |s| s.p99_us);
    let of_bare = added(OTARI, p99).into_iter().zip(added(BARE, p99));
    let of_bare = of_bare.map(|(mine, bare)| mine / bare.max(NOTHING_US)).collect();
    row.figures = vec![
        Figure::new("added p50", "µs", added(OTARI, p50)).aim(Aim::AtMost(100.0)),
        Figure::new("added p99", "µs", added(OTARI, p99)).aim(Aim::AtMost(200.0)),
        Figure::new("added p99, of bare Pingora's", "", of_bare).aim(Aim::AtMost(1.3)),
        Figure::new("bare Pingora's added p50", "µs", added(BARE, p50)),
        Figure::new("bare Pingora's added p99", "µs", added(BARE, p99)),
        Figure::new("connected, more than standalone: p50", "µs", more(p50)),
        Figure::new("connected, more than standalone: p99", "µs", more(p99)),
        Figure::new("a round trip: a direct call's p50", "µs", each(DIRECT, p50)),
    ];
    let mut table = Table::new(&["all rounds", "calls", "p50 µs", "p90", "p99", "p99.9"]);
    for (name, wait) in &all {
        let at = [0.5, 0.9, 0.99, 0.999].map(|share| format!("{:.0}", wait.quantile_us(share)));
        let mut cells = vec![(*name).to_owned(), wait.total.to_string()];
        cells.extend(at);
        table.row(cells);
    }
    row.tables.push(table);
    let series: Vec<_> = all.iter().map(|(name, wait)| (*name, wait)).collect();
    row.plots.push(Plot::curves("quantiles", "one call at a time, from when it was due", &series));
    row.notes.push(format!(
        "One connection, {} calls a second at random moments at least 2 ms apart, timed from the moment at which each was to \
         be sent. How late the generator itself was is in it, for all targets alike. Where bare Pingora added less than a \
         microsecond the ratio is to one.",
        plan.rate
    ));
    row.samples("open", &samples);
    Ok(())
}

async fn measure(
    plan: &Plan,
    row: &mut Row,
    target: &Target<'_>,
    round: u32,
) -> Outcome<(Sample, Histogram)> {
    let account = target.open().await?;
    let probe = Probe {
        address: target.address(),
        request: account.request(&CHAT),
        rate: plan.rate,
        time: plan.open_time,
        seed: u64::from(round) + 1,
    };
    let seen = probe.run().await?;
    row.errors += seen.errors;
    row.books.extend(account.close(seen.answered, seen.errors).await?);
    let sample = Sample {
        target: target.name,
        round,
        calls: seen.wait.total,
        p50_us: seen.wait.quantile_us(0.5),
        p99_us: seen.wait.quantile_us(0.99),
        late_p99_us: seen.late.quantile_us(0.99),
    };
    Ok((sample, seen.wait))
}
