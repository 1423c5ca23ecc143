//! Streams whose hundred events are there at once: what passing them on costs when nothing waits.

use crate::Outcome;
use crate::call::BURST;
use crate::closed::{CPU, Cell, Loop, RPS};
use crate::connected::Connected;
use crate::plan::Plan;
use crate::report::{Aim, Figure, Row};
use crate::target::{BARE, OTARI, Scene, Target};

/// Events of a stream.
const EVENTS: f64 = 100.0;

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start(plan).await?;
    let connected = Connected::start(scene.mock.address, plan.threads).await?;
    let connected = Target::connected("otari, connected", &connected);
    let cells = [scene.direct(), scene.bare(), scene.otari(), connected]
        .map(|target| Cell { target, call: BURST });
    let samples = Loop::of(plan).run(&cells).await?;
    let figures = vec![
        Figure::new("CPU of a stream, of bare Pingora's", "", samples.ratio(OTARI, BARE, CPU))
            .aim(Aim::AtMost(0.75)),
        Figure::new("streams per second, of bare Pingora's", "", samples.ratio(OTARI, BARE, RPS)),
        Figure::new("CPU of an event", "µs", samples.each(OTARI, |s| s.cpu_us / EVENTS))
            .aim(Aim::AtMost(4.0)),
    ];
    row.notes.push(format!("{} connections, 100 events a stream, no pauses.", plan.connections));
    samples.report(row, BARE, figures);
    Ok(())
}
