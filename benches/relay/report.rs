//! What was measured: figures beside their targets, tables, plots and every sample, as Markdown, SVG and JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::load::Histogram;
use crate::numbers::{machine, median};
use crate::plan::Plan;
use crate::plot;
use crate::target::Rows;

/// The files of a run, beside the plots.
pub(crate) const MARKDOWN: &str = "relay.md";
pub(crate) const RAW: &str = "relay.json";

/// What a figure is to be. Printed beside it, and nothing fails by it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
    /// Of 1, by this share.
    Within(f64),
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(aim) => value >= aim,
            Self::AtMost(aim) => value <= aim,
            Self::Within(share) => (value - 1.0).abs() <= share,
        }
    }

    fn text(self, unit: &str) -> String {
        let space = if unit.is_empty() { "" } else { " " };
        match self {
            Self::AtLeast(aim) => format!("≥ {aim}{space}{unit}"),
            Self::AtMost(aim) => format!("≤ {aim}{space}{unit}"),
            Self::Within(share) => format!("1 ± {share}"),
        }
    }
}

/// One number of the table: the median of its rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    unit: &'static str,
    pub(crate) value: f64,
    pub(crate) rounds: Vec<f64>,
    pub(crate) aim: Option<Aim>,
    /// Whether the aim is reached.
    is_met: Option<bool>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, rounds: Vec<f64>) -> Self {
        let value = median(rounds.iter().copied());
        Self { what: what.into(), unit, value, rounds, aim: None, is_met: None }
    }

    pub(crate) fn aim(self, aim: Aim) -> Self {
        Self { aim: Some(aim), is_met: Some(aim.is_met(self.value)), ..self }
    }
}

/// A table of a row's own.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&cell| cell.to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        // Numbers to the right, as they are read.
        let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let first = self.0.get(1).map_or(&[][..], Vec::as_slice);
        let sides = first.iter().map(|cell| if is_number(cell) { "--:" } else { "---" });
        let sides = sides.collect::<Vec<_>>().join("|");
        for (at, line) in self.0.iter().enumerate() {
            writeln!(out, "| {} |", line.join(" | "))?;
            if at == 0 {
                writeln!(out, "|{sides}|")?;
            }
        }
        writeln!(out)
    }
}

/// A picture of a row.
pub(crate) struct Plot {
    /// Its file is called by the row and these.
    name: [&'static str; 2],
    title: &'static str,
    svg: String,
}

impl Plot {
    /// A dot a round.
    pub(crate) fn dots(
        name: [&'static str; 2],
        title: &'static str,
        series: Vec<(String, Vec<f64>)>,
    ) -> Self {
        Self { name, title, svg: plot::dots(title, &series) }
    }

    /// What share of all took at most how long, in microseconds.
    pub(crate) fn curves(
        name: &'static str,
        title: &'static str,
        series: &[(&str, &Histogram)],
    ) -> Self {
        Self { name: [name, ""], title, svg: plot::curves(title, series) }
    }
}

/// A row of the speed table.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    title: &'static str,
    pub(crate) figures: Vec<Figure>,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    pub(crate) notes: Vec<String>,
    pub(crate) books: Vec<Rows>,
    /// Requests that failed.
    pub(crate) errors: u64,
    raw: Map<String, Value>,
    /// Why it is not there.
    pub(crate) missing: Option<String>,
}

impl Row {
    pub(crate) fn new(id: &'static str, title: &'static str) -> Self {
        Self {
            id,
            title,
            figures: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            notes: Vec::new(),
            books: Vec::new(),
            errors: 0,
            raw: Map::new(),
            missing: None,
        }
    }

    /// Keeps what was measured for the raw file.
    pub(crate) fn samples(&mut self, name: &str, samples: &impl Serialize) {
        let samples =
            serde_json::to_value(samples).unwrap_or_else(|error| json!(error.to_string()));
        self.raw.insert(name.to_owned(), samples);
    }

    fn file(&self, plot: &Plot) -> String {
        let parts = [self.id].into_iter().chain(plot.name).filter(|part| !part.is_empty());
        format!("{}.svg", parts.collect::<Vec<_>>().join("-"))
    }
}

/// All rows.
pub(crate) struct Report {
    plan: Plan,
    begun: Timestamp,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), begun: Timestamp::now(), rows: Vec::new() }
    }

    /// Writes all files, and returns the table for the terminal.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self) -> Outcome<(PathBuf, String)> {
        let out = &self.plan.out;
        fs::create_dir_all(out)?;
        for row in &self.rows {
            for plot in &row.plots {
                fs::write(out.join(row.file(plot)), &plot.svg)?;
            }
        }
        let mut table = String::new();
        self.table(&mut table)?;
        let mut text = format!("# What a call through the gateway costs\n\n{table}");
        self.details(&mut text)?;
        fs::write(out.join(MARKDOWN), text)?;
        let rows: Vec<Value> = self.rows.iter().map(raw).collect();
        let raw = json!({"machine": machine(), "begun_at": self.begun.to_string(),
            "ended_at": Timestamp::now().to_string(), "plan": self.plan, "rows": rows});
        fs::write(out.join(RAW), serde_json::to_vec_pretty(&raw)?)?;
        Ok((out.join(MARKDOWN), table))
    }

    /// What must not be: rows that are missing, and books that do not balance. Figures are no faults.
    pub(crate) fn faults(&self) -> Vec<String> {
        let missing = self.rows.iter().filter_map(|row| {
            row.missing.as_ref().map(|why| format!("{} was not measured: {why}", row.id))
        });
        let books = self.rows.iter().filter_map(|row| {
            let sum = |of: fn(&Rows) -> u64| row.books.iter().map(of).sum::<u64>();
            let (lost, invented) = (sum(Rows::lost), sum(Rows::invented));
            (lost + invented > 0).then(|| {
                let all = sum(|rows| rows.expected);
                format!(
                    "{}: usage rows or reports: {lost} of {all} lost, {invented} too many",
                    row.id
                )
            })
        });
        missing.chain(books).collect()
    }

    fn table(&self, out: &mut String) -> Outcome<()> {
        let Plan { threads, rounds, few_rounds, time, .. } = self.plan;
        writeln!(
            out,
            "{}; {}; worker threads of each proxy: {threads}; medians of {rounds} (chat, streams, latency) or {few_rounds} \
             rounds, {} s each.{}\n",
            machine(),
            Timestamp::now(),
            time.as_secs_f64(),
            if self.plan.is_smoke { " **The smoke form: figures mean nothing.**" } else { "" }
        )?;
        let mut table =
            Table::new(&["", "figure", "median", "lowest to highest round", "target", ""]);
        for row in &self.rows {
            if let Some(why) = &row.missing {
                let cells = [row.id, "**not measured**", "", "", "", why];
                table.row(cells.map(str::to_owned).into());
            }
            for figure in &row.figures {
                let word = match figure.is_met {
                    None => "",
                    Some(true) => "reached",
                    Some(false) => "**not reached**",
                };
                let unit = figure.unit;
                let (low, high) = (lowest(&figure.rounds), highest(&figure.rounds));
                table.row(vec![
                    row.id.to_owned(),
                    figure.what.clone(),
                    format!("{} {unit}", number(figure.value)).trim_end().to_owned(),
                    format!("{} to {}", number(low), number(high)),
                    figure.aim.map(|aim| aim.text(unit)).unwrap_or_default(),
                    word.to_owned(),
                ]);
            }
        }
        table.write(out)?;
        let books = || self.rows.iter().flat_map(|row| &row.books);
        let expected: u64 = books().map(|rows| rows.expected).sum();
        let found: u64 = books().map(|rows| rows.found).sum();
        let errors: u64 = self.rows.iter().map(|row| row.errors).sum();
        writeln!(
            out,
            "Usage rows and reports: {found} of {expected} calls that were answered. Requests that failed: {errors}."
        )?;
        Ok(())
    }

    fn details(&self, out: &mut String) -> Outcome<()> {
        for row in &self.rows {
            writeln!(out, "\n## {}: {}\n", row.id, row.title)?;
            for note in &row.notes {
                writeln!(out, "{note}\n")?;
            }
            for table in &row.tables {
                table.write(out)?;
            }
            for plot in &row.plots {
                writeln!(out, "![{}]({})", plot.title, row.file(plot))?;
            }
        }
        Ok(())
    }
}

fn raw(row: &Row) -> Value {
    let plots: Vec<String> = row.plots.iter().map(|plot| row.file(plot)).collect();
    json!({"id": row.id, "title": row.title, "missing": row.missing, "figures": row.figures,
        "notes": row.notes, "plots": plots, "books": row.books, "errors": row.errors, "samples": row.raw})
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A number with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
