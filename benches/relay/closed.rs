//! The closed loop: each connection sends its next request when the last answer is complete. Every target in turn, round by
//! round, never two at once.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Outcome;
use crate::call::Call;
use crate::load::Load;
use crate::numbers::median;
use crate::plan::Plan;
use crate::process::own_cpu;
use crate::report::{Figure, Plot, Row, Table, number};
use crate::target::{Rows, Target};

/// A target and what it is asked.
pub(crate) struct Cell<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) call: Call,
}

/// One cell in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) target: &'static str,
    pub(crate) round: u32,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU of the target's process per request, until the last answer.
    pub(crate) cpu_us: f64,
    /// CPU of this process per request: what it takes to make one.
    pub(crate) client_cpu_us: f64,
    /// Of its database server.
    pub(crate) database_cpu_us: Option<f64>,
    /// From the last answer until the last row was there.
    pub(crate) rows_after_ms: f64,
    pub(crate) rss_mb: f64,
    pub(crate) rows: Option<Rows>,
}

/// What is looked at in a sample.
pub(crate) type Of = fn(&Sample) -> f64;

pub(crate) const RPS: Of = |sample| sample.rps;
pub(crate) const CPU: Of = |sample| sample.cpu_us;

/// All samples of a row.
pub(crate) struct Samples(pub(crate) Vec<Sample>);

/// How a loop is run.
#[derive(Clone, Copy)]
pub(crate) struct Loop {
    pub(crate) connections: usize,
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
    pub(crate) warm_up: Duration,
}

impl Loop {
    /// As the row that everything else is compared with.
    pub(crate) fn of(plan: &Plan) -> Self {
        let Plan { connections, rounds, time, warm_up, .. } = *plan;
        Self { connections, rounds, time, warm_up }
    }

    /// Every cell, round by round.
    pub(crate) async fn run(&self, cells: &[Cell<'_>]) -> Outcome<Samples> {
        let mut order: Vec<&Cell<'_>> = cells.iter().collect();
        let mut samples = Vec::new();
        for round in 0..self.rounds {
            for cell in &order {
                samples.push(self.measure(cell, round).await?);
            }
            // Nobody always goes first: neighbours on the machine come and go.
            order.rotate_left(1);
        }
        Ok(Samples(samples))
    }

    async fn measure(&self, cell: &Cell<'_>, round: u32) -> Outcome<Sample> {
        let Cell { target, call } = cell;
        let account = target.open().await?;
        let requests = vec![account.request(call)];
        let mut load = Load::new(target.address(), requests, self.connections);
        let tried = load.try_once(call.mark()).await?;
        let warmed = load.run(self.warm_up).await?;
        let database = target.database.map(|database| database.cpu()).transpose()?;
        let (before, own) = (target.process.cpu()?, own_cpu()?);
        let run = load.run(self.time).await?;
        let used = target.process.cpu()?.since(&before);
        let own = own_cpu()?.since(&own);
        let rss_mb = target.process.memory()?.rss_mb;
        let answered = Instant::now();
        let expected = tried.requests() + warmed.requests() + run.requests();
        let rows = account.close(expected, warmed.errors + run.errors).await?;
        let rows_after_ms = answered.elapsed().as_secs_f64() * 1e3;
        let per_request = |cpu: Duration| cpu.as_secs_f64() * 1e6 / run.requests().max(1) as f64;
        let database_cpu_us = match (target.database, database) {
            (Some(server), Some(before)) => Some(per_request(server.cpu()?.saturating_sub(before))),
            _ => None,
        };
        Ok(Sample {
            target: target.name,
            round,
            requests: run.requests(),
            errors: run.errors,
            rps: run.requests() as f64 / run.time.as_secs_f64(),
            p50_us: run.latency.quantile_us(0.5),
            p99_us: run.latency.quantile_us(0.99),
            cpu_us: per_request(used),
            client_cpu_us: per_request(own),
            database_cpu_us,
            rows_after_ms,
            rss_mb,
            rows,
        })
    }
}

impl Samples {
    /// The samples of one target, in the order of rounds.
    fn of(&self, target: &str) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.target == target)
    }

    /// What one target is of another, round by round, so that a slow minute of the machine hits both alike.
    pub(crate) fn ratio(&self, target: &str, other: &str, of: Of) -> Vec<f64> {
        self.of(target).zip(self.of(other)).map(|(mine, theirs)| of(mine) / of(theirs)).collect()
    }

    pub(crate) fn each(&self, target: &str, of: Of) -> Vec<f64> {
        self.of(target).map(of).collect()
    }

    /// Targets in the order in which they were first measured, by their names.
    fn targets(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for sample in &self.0 {
            if !names.contains(&sample.target) {
                names.push(sample.target);
            }
        }
        names
    }

    /// All cells; the ratios are those to `yardstick`.
    pub(crate) fn table(&self, names: &[&'static str], yardstick: &str) -> Table {
        let mut table = Table::new(&[
            "",
            "req/s",
            "of it",
            "p50 µs",
            "p99 µs",
            "CPU µs/req",
            "of it",
            "database's CPU",
            "rows after ms",
            "RSS MB",
        ]);
        for name in names {
            let own = |of: Of| median(self.each(name, of));
            let against = |of| median(self.ratio(name, yardstick, of));
            let database: Vec<f64> = self.of(name).filter_map(|s| s.database_cpu_us).collect();
            table.row(vec![
                (*name).to_owned(),
                format!("{:.0}", own(RPS)),
                format!("{:.2}", against(RPS)),
                format!("{:.0}", own(|s| s.p50_us)),
                format!("{:.0}", own(|s| s.p99_us)),
                format!("{:.1}", own(CPU)),
                format!("{:.2}", against(CPU)),
                if database.is_empty() { String::new() } else { number(median(database)) },
                format!("{:.0}", own(|s| s.rows_after_ms)),
                format!("{:.1}", own(|s| s.rss_mb)),
            ]);
        }
        table
    }

    /// Fills in a row: the table, two plots, and what `keep` keeps.
    pub(crate) fn report(&self, row: &mut Row, yardstick: &str, figures: Vec<Figure>) {
        let names = self.targets();
        row.tables.push(self.table(&names, yardstick));
        row.figures.extend(figures);
        row.keep(self, "");
    }
}

impl Row {
    /// Plots, samples and books of a closed loop; `name` tells it from others of this row.
    pub(crate) fn keep(&mut self, samples: &Samples, name: &'static str) {
        let names = samples.targets();
        let series = |of: Of| {
            names.iter().map(|name| ((*name).to_owned(), samples.each(name, of))).collect()
        };
        self.plots.push(Plot::dots([name, "rps"], "requests per second", series(RPS)));
        self.plots.push(Plot::dots([name, "cpu"], "CPU µs per request", series(CPU)));
        self.books.extend(samples.0.iter().filter_map(|sample| sample.rows));
        self.errors += samples.0.iter().map(|sample| sample.errors).sum::<u64>();
        self.samples(if name.is_empty() { "closed" } else { name }, &samples.0);
    }
}
