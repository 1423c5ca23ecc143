//! The rows of the speed table, in its order, and how many targets each has to show.

#[path = "rows/bodies.rs"]
mod bodies;
#[path = "rows/burst.rs"]
mod burst;
#[path = "rows/chat.rs"]
mod chat;
#[path = "rows/growth.rs"]
mod growth;
#[path = "rows/latency.rs"]
mod latency;
#[path = "rows/memory.rs"]
mod memory;
#[path = "rows/paced.rs"]
mod paced;
#[path = "rows/start.rs"]
mod start;
#[path = "rows/translated.rs"]
mod translated;

use crate::Outcome;
use crate::plan::Plan;
use crate::report::Row;

/// A row before it is measured.
pub(crate) struct Kind {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Figures with a target.
    pub(crate) aims: usize,
}

const fn kind(id: &'static str, title: &'static str, aims: usize) -> Kind {
    Kind { id, title, aims }
}

pub(crate) const ROWS: [Kind; 10] = [
    kind("chat", "small calls at full load, key, budget, price and durable row on", 6),
    kind("streams", "streams of 100 events without pauses", 2),
    kind("latency", "one call at a time, open loop", 3),
    kind("paced", "streams at the pace of a model", 2),
    kind("crowd", "as many paced streams as a small machine is asked to hold", 3),
    kind("bodies", "large requests, and small ones beside them", 4),
    kind("translated", "calls to a provider of another format", 4),
    kind("memory", "memory of an idle gateway and of an open stream", 2),
    kind("growth", "a database with many keys, users and prices", 2),
    kind("start", "start to first answer", 1),
];

/// Measures one.
pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    match row.id {
        "chat" => chat::run(plan, row).await,
        "streams" => burst::run(plan, row).await,
        "latency" => latency::run(plan, row).await,
        "paced" => paced::run(plan, row).await,
        "crowd" => paced::crowd(plan, row).await,
        "bodies" => bodies::run(plan, row).await,
        "translated" => translated::run(plan, row).await,
        "memory" => memory::run(plan, row).await,
        "growth" => growth::run(plan, row).await,
        "start" => start::run(plan, row).await,
        other => Err(format!("nobody measures {other}").into()),
    }
}
