//! A small call with every gate and a durable row, at full load: on both databases, translated, and connected.

use crate::Outcome;
use crate::call::CHAT;
use crate::closed::{CPU, Cell, Loop, RPS};
use crate::connected::Connected;
use crate::database::Postgres;
use crate::gateway::{ANTHROPIC, GEMINI, Gateway, OPENAI, Setup};
use crate::plan::Plan;
use crate::report::{Aim, Figure, Row};
use crate::target::{BARE, CONNECTED, DIRECT, OTARI, Scene, Target};

const POSTGRES: &str = "otari, PostgreSQL";
const TO_MESSAGES: &str = "otari, to messages";
const TO_GEMINI: &str = "otari, to gemini";

/// Most resident memory after the load, and CPU of a call: half of what the next gateway takes.
const RSS_MB: f64 = 25.0;
const CPU_US: f64 = 35.0;

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start(plan).await?;
    let connected = Connected::start(scene.mock.address, plan.threads).await?;
    let server = Postgres::start()?;
    let (mock, database) = (scene.mock.address, Some(server.url()));
    let setup = Setup { mock, bulk: None, database, threads: plan.threads };
    let on_postgres = Gateway::start(&setup).await?;
    let postgres = Target::named(POSTGRES, &on_postgres, OPENAI).on(&server);
    let targets = [
        scene.direct(),
        scene.bare(),
        scene.otari(),
        postgres,
        Target::named(TO_MESSAGES, &scene.gateway, ANTHROPIC),
        Target::named(TO_GEMINI, &scene.gateway, GEMINI),
        Target::connected(CONNECTED, &connected),
    ];
    let cells = targets.map(|target| Cell { target, call: CHAT });
    let samples = Loop::of(plan).run(&cells).await?;
    // A caller that keeps nothing and parses next to nothing: what the two calls to the platform cost anybody.
    let (calls, own) = (samples.each(DIRECT, |s| 2.0 * s.client_cpu_us), samples.each(OTARI, CPU));
    let floor = calls.iter().zip(own).map(|(calls, own)| calls / own).collect();
    let of =
        |what: &str, target, other, by| Figure::new(what, "", samples.ratio(target, other, by));
    let figures = vec![
        of("requests per second, of bare Pingora's", OTARI, BARE, RPS).aim(Aim::AtLeast(0.9)),
        of("CPU of a call, of bare Pingora's", OTARI, BARE, CPU).aim(Aim::AtMost(1.3)),
        of("requests per second on PostgreSQL, of SQLite's", POSTGRES, OTARI, RPS)
            .aim(Aim::Within(0.03)),
        of("CPU of a call on PostgreSQL, of SQLite's", POSTGRES, OTARI, CPU).aim(Aim::Within(0.03)),
        Figure::new("CPU of a call", "µs", samples.each(OTARI, CPU)).aim(Aim::AtMost(CPU_US)),
        Figure::new("RSS after the load", "MB", samples.each(OTARI, |s| s.rss_mb))
            .aim(Aim::AtMost(RSS_MB)),
        of("CPU of a call in connected mode, of standalone", CONNECTED, OTARI, CPU),
        Figure::new("CPU of two calls of the bench's own client, of standalone", "", floor),
    ];
    row.notes.push(format!(
        "{} connections. CPU is that of the gateway's process; its database server and its platform have their own.",
        plan.connections
    ));
    samples.report(row, BARE, figures);
    Ok(())
}
