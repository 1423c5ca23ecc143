//! `otari import`: the prices of a file into a running gateway, and nothing twice.

mod plan;

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use self::plan::{Change, Step};
use super::EXIT_CONFIG;
use super::client::{Failure, Gateway};
use super::manage::{self, Session, remark, result};
use super::table::{self, Column};
use crate::config::{self, Env, FilePrice};

/// `otari import`.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// YAML or JSON in the shape of `pricing:`, or CSV under a header of the API's field names
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where to.
    #[command(flatten)]
    pub gateway: Gateway,
}

/// What became of a step.
#[derive(Debug)]
enum Outcome {
    /// It is in force already, or this is a rehearsal.
    NotNeeded,
    Sent,
    Refused(String),
    /// Something before it went wrong for all.
    NotSent,
}

/// Does it; the exit code tells how it went.
pub(super) fn run(import: &Import) -> u8 {
    let prices = match config::load_prices(&import.file, &Env::from_process(Some(&import.file))) {
        Ok(prices) => prices,
        Err(error) => {
            remark(&error.listing("Nothing was sent."));
            return EXIT_CONFIG;
        }
    };
    manage::run(&import.gateway, |session| work(session, import, &prices))
}

fn work(session: &Session<'_>, import: &Import, prices: &[FilePrice]) -> Result<(), Failure> {
    let steps = plan::plan(prices, |key, at| in_force(session, key, at))?;
    let send = |step: &Step<'_>| {
        session.client.call(Method::POST, &["pricing"], &[], Some(&step.body())).map(drop)
    };
    let (outcomes, stopped) = carry_out(import.dry_run, &steps, send);
    if session.is_json() {
        result(&format!("{}\n", document(import.dry_run, &steps, &outcomes)))?;
    } else {
        result(&listing(import.dry_run, &steps, &outcomes))?;
    }
    for (step, outcome) in steps.iter().zip(&outcomes) {
        if let Outcome::Refused(why) = outcome {
            remark(&format!("{}  {}: {why}", step.place(), step.model_key()));
        }
    }
    let refused = outcomes.iter().filter(|one| matches!(one, Outcome::Refused(_))).count();
    match stopped {
        Some(failure) => Err(failure),
        None if refused > 0 => {
            Err(Failure::Failed(format!("{refused} of {} prices were refused.", steps.len())))
        }
        None => Ok(()),
    }
}

/// Sends what is new or changed, one after the other; what befalls one and awaits the others too ends it.
fn carry_out(
    dry_run: bool,
    steps: &[Step<'_>],
    mut send: impl FnMut(&Step<'_>) -> Result<(), Failure>,
) -> (Vec<Outcome>, Option<Failure>) {
    let mut stopped = None;
    let mut outcome = |step: &Step<'_>| {
        if dry_run || step.change() == Change::Same {
            return Outcome::NotNeeded;
        }
        if stopped.is_some() {
            return Outcome::NotSent;
        }
        match send(step) {
            Ok(()) => Outcome::Sent,
            Err(failure) => {
                let refused = Outcome::Refused(failure.to_string());
                stopped = Some(failure).filter(|failure| !failure.is_about_the_request());
                refused
            }
        }
    };
    let outcomes = steps.iter().map(&mut outcome).collect();
    (outcomes, stopped)
}

/// The price that the gateway goes by at an instant, now by default.
fn in_force(
    session: &Session<'_>,
    model_key: &str,
    at: Option<jiff::Timestamp>,
) -> Result<Option<Value>, Failure> {
    let query: Vec<_> = at.map(|at| ("as_of".to_owned(), at.to_string())).into_iter().collect();
    match session.client.call(Method::GET, &["pricing", model_key], &query, None) {
        Ok(answer) => answer.json().map(Some),
        Err(Failure::Refused { status: 404, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// How many steps there are of each kind, and how many of them were done.
fn counts(steps: &[Step], outcomes: &[Outcome]) -> [usize; 5] {
    let of = |change| steps.iter().filter(|step| step.change() == change).count();
    let sent = outcomes.iter().filter(|one| matches!(one, Outcome::Sent)).count();
    let refused = outcomes.iter().filter(|one| matches!(one, Outcome::Refused(_))).count();
    [of(Change::New), of(Change::Changed), of(Change::Same), sent, refused]
}

/// What is new or changed, and a line that sums it up.
fn listing(dry_run: bool, steps: &[Step], outcomes: &[Outcome]) -> String {
    let columns = [
        Column::text("PLACE"),
        Column::text("CHANGE"),
        Column::text("MODEL"),
        Column::text("FROM"),
        Column::cut("PRICE", 72),
        Column::text("DONE"),
    ];
    let shown = steps.iter().zip(outcomes).filter(|(step, _)| step.change() != Change::Same);
    let rows: Vec<Vec<String>> = shown
        .map(|(step, outcome)| {
            vec![
                step.place().to_string(),
                step.change().word().to_owned(),
                step.model_key().to_owned(),
                step.effective_at().map_or_else(|| "now".to_owned(), |at| at.to_string()),
                step.difference(),
                word(outcome).to_owned(),
            ]
        })
        .collect();
    let [new, changed, same, sent, refused] = counts(steps, outcomes);
    let end = if dry_run {
        "Nothing was sent: a dry run.".to_owned()
    } else {
        let missing = new + changed - sent - refused;
        let missing = if missing == 0 { String::new() } else { format!(", {missing} not tried") };
        let refused = if refused == 0 { String::new() } else { format!(", {refused} failed") };
        format!("{sent} sent{refused}{missing}.")
    };
    let columns = if dry_run { &columns[..5] } else { &columns[..] };
    table::render(columns, &rows)
        + &format!("{new} new, {changed} changed, {same} the same. {end}\n")
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NotNeeded => "not needed",
        Outcome::Sent => "sent",
        Outcome::Refused(_) => "failed",
        Outcome::NotSent => "not tried",
    }
}

/// The same for programs.
fn document(dry_run: bool, steps: &[Step], outcomes: &[Outcome]) -> Value {
    let [new, changed, same, sent, refused] = counts(steps, outcomes);
    let price = |(step, outcome): (&Step, &Outcome)| {
        json!({
            "place": step.place().to_string(),
            "model_key": step.model_key(),
            "effective_at": step.effective_at().map(|at| at.to_string()),
            "change": step.change().word(),
            "sent": matches!(outcome, Outcome::Sent),
            "error": match outcome { Outcome::Refused(why) => Some(why), _ => None },
        })
    };
    json!({
        "dry_run": dry_run, "new": new, "changed": changed, "same": same, "sent": sent, "failed": refused,
        "prices": steps.iter().zip(outcomes).map(price).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "model_key,input_price_per_million,output_price_per_million\n";

    fn prices() -> Vec<FilePrice> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        std::fs::write(&path, format!("{HEADER}p:a,1,1\np:b,1,1\np:c,1,1\n")).unwrap();
        config::load_prices(&path, &Env::default()).unwrap()
    }

    /// Runs an import of three new prices in which the second one fails so.
    fn second_fails(failure: Failure) -> (String, Value, bool) {
        let prices = prices();
        let steps = plan::plan(&prices, |_, _| Ok(None)).unwrap();
        let mut failure = Some(failure);
        let (outcomes, stopped) = carry_out(false, &steps, |step| match step.model_key() {
            "p:b" => Err(failure.take().expect("sent once")),
            _ => Ok(()),
        });
        (listing(false, &steps, &outcomes), document(false, &steps, &outcomes), stopped.is_some())
    }

    #[test]
    fn a_gateway_that_goes_away_ends_it_and_the_rest_is_named() {
        let (text, json, stopped) = second_fails(Failure::Unreachable("gone".to_owned()));
        assert!(stopped);
        let ends: Vec<&str> = text.lines().map(|l| l.rsplit("  ").next().unwrap_or(l)).collect();
        assert_eq!(ends[..4], ["DONE", "sent", "failed", "not tried"], "{text}");
        assert!(text.ends_with("3 new, 0 changed, 0 the same. 1 sent, 1 failed, 1 not tried.\n"));
        assert_eq!((&json["sent"], &json["prices"][1]["error"]), (&json!(1), &json!("gone")));
    }

    #[test]
    fn a_refused_price_holds_up_no_other() {
        let refused = Failure::Refused { status: 422, message: "no".to_owned() };
        let (text, _, stopped) = second_fails(refused);
        assert!(!stopped && text.ends_with("2 sent, 1 failed.\n"), "{text}");
    }

    #[test]
    fn a_dry_run_sends_nothing() {
        let prices = prices();
        let steps = plan::plan(&prices, |_, _| Ok(None)).unwrap();
        let (outcomes, _) = carry_out(true, &steps, |_| unreachable!("a dry run"));
        assert!(listing(true, &steps, &outcomes).contains("Nothing was sent"));
    }
}
