//! Calls whose provider speaks another format, beside calls of the same format that pass as they are.

use crate::Outcome;
use crate::call::{CHAT, MESSAGES};
use crate::closed::{CPU, Cell, Loop, RPS};
use crate::gateway::{ANTHROPIC, GEMINI, OPENAI};
use crate::plan::Plan;
use crate::report::{Aim, Figure, Row};
use crate::target::{Scene, Target};

const CHAT_AS_IT_IS: &str = "chat";
const MESSAGES_AS_THEY_ARE: &str = "messages";

/// What a translated call is to reach of one that passes.
const SHARE: f64 = 0.8;

pub(crate) async fn run(plan: &Plan, row: &mut Row) -> Outcome<()> {
    let scene = Scene::start(plan).await?;
    let cell = |name, prefix, call| {
        let target = Target::named(name, &scene.gateway, prefix);
        Cell { target, call }
    };
    let cells = [
        cell(CHAT_AS_IT_IS, OPENAI, CHAT),
        cell("chat to messages", ANTHROPIC, CHAT),
        cell("chat to gemini", GEMINI, CHAT),
        cell(MESSAGES_AS_THEY_ARE, ANTHROPIC, MESSAGES),
        cell("messages to chat", OPENAI, MESSAGES),
        cell("messages to gemini", GEMINI, MESSAGES),
    ];
    let samples = Loop { rounds: plan.few_rounds, ..Loop::of(plan) }.run(&cells).await?;
    let mut figures = Vec::new();
    for cell in &cells {
        let name = cell.target.name;
        let passed = if name.starts_with("chat") { CHAT_AS_IT_IS } else { MESSAGES_AS_THEY_ARE };
        if name == passed {
            continue;
        }
        let what = format!("{name}: requests per second, of those of {passed}");
        let aim = Aim::AtLeast(SHARE);
        figures.push(Figure::new(what, "", samples.ratio(name, passed, RPS)).aim(aim));
        let what = format!("{name}: CPU of a call, of that of {passed}");
        figures.push(Figure::new(what, "", samples.ratio(name, passed, CPU)));
    }
    row.notes.push(format!(
        "{} connections; everything through the gateway. `of it` in the table is of chat.",
        plan.connections
    ));
    samples.report(row, CHAT_AS_IT_IS, figures);
    Ok(())
}
