//! The auditor: compares what providers served, what callers received, rows, reports, spend and holds.
//!
//! What it holds the gateway to is what the gateway promises, no more:
//!
//! - **Rows.** Who received a whole answer has its one `success` row, with the provider's own tokens, whatever happened
//!   before or after: it was journalled before the answer ended. A call that reached a provider has one row with its
//!   end (`success` or `error`), and every provider that it reached has one that names it (`absorbed` where another
//!   followed), unless the gateway was killed while the call was open: that may leave the rows of the attempts that had
//!   ended, and no other. A killed gateway never makes a row twice. What a full disk refuses stays in memory; if the
//!   gateway is killed before the database has it, it is in the log, for a person to enter, and counts as kept.
//! - **Refusals.** What the gateway refused reached nobody and costs nothing; it may leave one row, in place 0.
//! - **Costs.** A row costs what its tokens cost, rounded once, half up; nothing where a provider failed or broke off
//!   without saying what it used. A call whose caller left costs what was produced; a stream that was ended because its
//!   hold could not grow, no more than that hold.
//! - **Spend** is the sum of the rows' costs, to the micro-dollar, before and after another start of the gateway; nothing
//!   is held when nothing is under way, and nobody is past their cap: providers here never use more than the hold.
//! - **Reports.** Every attempt that reached a provider is reported, and every whole answer as a success with its
//!   tokens (`report_disconnects` is on, or whoever leaves would be an exception), with the same exception for a kill. A platform may get a report twice only if its acceptance may not have
//!   reached the gateway in time (its link was in trouble, or it stood still), or the gateway was killed before it could
//!   note that (within half a second).
//! - **Frames.** What a caller receives is what one provider sent, byte for byte, keep-alives apart: whole, or a
//!   beginning of it and an error in the caller's dialect. A connection that ends without either is broken, unless the
//!   caller's own link was, or the gateway was killed.
//! - **Leaks.** In the end no connection of a caller is open, no request in flight, no call at a provider under way, no
//!   record in the journal, and the gateway ends within its time when it is asked to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use otari::mock::platform;
use serde_json::{Value, json};

use crate::caller::{End, Got};
use crate::frames;
use crate::scene::{Call, Mode, PROMPT_TOKENS, Scene, USERS};
use crate::upstream::Served;

/// Columns of the table, behind the runs and the calls.
pub(crate) const COLUMNS: [&str; 9] = [
    "lost rows",
    "double rows",
    "lost reports",
    "double reports",
    "spend differences",
    "holds left",
    "overspent",
    "broken frames",
    "leaked",
];

/// A connection from the pool that turns out to be dead is replaced, once and within this time: it shows within a second,
/// and another second is for connecting. Anything else is not asked again: it may have been served.
const SOON: Duration = Duration::from_millis(2500);

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    LostRow,
    DoubleRow,
    LostReport,
    DoubleReport,
    Spend,
    Hold,
    Overspent,
    Frame,
    Leak,
}

/// A call as its caller saw it, and what may excuse it.
pub(crate) struct Seen {
    pub(crate) got: Got,
    /// The gateway was killed while it was open, or may have been open.
    pub(crate) met_kill: bool,
    /// The caller's own link may have broken it.
    pub(crate) link_broke: bool,
}

/// What one user's account says, in micro-dollars.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) user: &'static str,
    pub(crate) spend: i64,
    pub(crate) held: i64,
    pub(crate) cap: Option<i64>,
}

/// A report at the platform.
pub(crate) struct Told {
    pub(crate) report: platform::Seen,
    /// Its acceptance may not have become known.
    pub(crate) may_repeat: bool,
}

/// All that is known when everything is quiet.
pub(crate) struct Evidence<'a> {
    pub(crate) scene: &'a Scene,
    /// In the order of the scene's calls.
    pub(crate) calls: Vec<Seen>,
    pub(crate) served: Vec<Served>,
    pub(crate) rows: Vec<Value>,
    /// Records that the journal refused, as they are in the logs.
    pub(crate) logged: Vec<Value>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) told: Vec<Told>,
    /// What the gateway did wrong in the platform's eyes.
    pub(crate) violations: Vec<String>,
    /// What is open and should not be.
    pub(crate) leaks: Vec<String>,
}

/// What is wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<(Fact, String)>);

impl Findings {
    fn add(&mut self, fact: Fact, what: impl Into<String>) {
        self.0.push((fact, what.into()));
    }

    /// By column.
    pub(crate) fn counts(&self) -> [usize; COLUMNS.len()] {
        let mut counts = [0; COLUMNS.len()];
        self.0.iter().for_each(|(fact, _)| counts[*fact as usize] += 1);
        counts
    }
}

/// What an answer with these tokens costs, in micro-dollars, by an arithmetic of its own: 1.37 and 4.11 each.
pub(crate) fn cost(prompt: u64, completion: u64) -> i64 {
    (prompt * 137 + completion * 411 + 50).div_euclid(100).cast_signed()
}

/// Dollars as micro-dollars.
pub(crate) fn micro(usd: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "some thousands")]
    usd.as_f64().map(|usd| (usd * 1e6).round() as i64)
}

/// Looks at everything.
pub(crate) fn audit(evidence: &Evidence<'_>) -> Findings {
    let mut found = Findings::default();
    for (call, seen) in evidence.scene.calls.iter().zip(&evidence.calls) {
        frames(evidence, call, seen, &mut found);
    }
    match evidence.scene.mode {
        Mode::Connected => reports(evidence, &mut found),
        _ => {
            rows(evidence, &mut found);
            accounts(evidence, &mut found);
        }
    }
    evidence.leaks.iter().for_each(|leak| found.add(Fact::Leak, leak));
    found
}

fn frames(evidence: &Evidence<'_>, call: &Call, seen: &Seen, found: &mut Findings) {
    let excused = seen.met_kill || seen.link_broke;
    let got = &seen.got;
    let name = &call.name;
    match &got.end {
        End::Hung => found.add(Fact::Leak, format!("{name}: no end to the answer")),
        End::Malformed(what) => found.add(Fact::Frame, format!("{name}: {what}")),
        End::Cut(what) if !excused => {
            found.add(Fact::Frame, format!("{name}: cut without a reason: {what}"));
        }
        _ => {}
    }
    if got.status != 200 {
        return;
    }
    let connected = evidence.scene.mode == Mode::Connected;
    let ended = matches!(got.end, End::Whole);
    if let Err(what) = frames::look(call, &got.body, ended, connected) {
        let text = String::from_utf8_lossy(&got.body);
        found.add(Fact::Frame, format!("{name}: {what}: {text}"));
    }
}

/// The provider whose whole answer the caller has.
fn answered(evidence: &Evidence<'_>, call: &Call, seen: &Seen) -> Option<usize> {
    let got = &seen.got;
    let connected = evidence.scene.mode == Mode::Connected;
    let is_whole = got.status == 200 && matches!(got.end, End::Whole | End::Left);
    is_whole.then(|| frames::whole(call, &got.body, connected)).flatten()
}

fn rows(evidence: &Evidence<'_>, found: &mut Findings) {
    let mut by_call: HashMap<&str, Vec<&Value>> = HashMap::new();
    let mut ids = HashSet::new();
    for row in &evidence.rows {
        if !ids.insert(row["id"].as_str()) {
            found.add(Fact::DoubleRow, format!("an id twice: {row}"));
        }
        by_call.entry(row["policy_name"].as_str().unwrap_or_default()).or_default().push(row);
    }
    for record in &evidence.logged {
        // What reached the database all the same is there.
        if ids.insert(record["id"].as_str()) {
            by_call
                .entry(record["policy_name"].as_str().unwrap_or_default())
                .or_default()
                .push(record);
        }
    }
    for (call, seen) in evidence.scene.calls.iter().zip(&evidence.calls) {
        let rows = by_call.remove(call.name.as_str()).unwrap_or_default();
        rows_of(evidence, call, seen, &rows, found);
    }
    for (name, rows) in by_call {
        found.add(Fact::DoubleRow, format!("rows of no call, {name:?}: {rows:?}"));
    }
}

fn place_of(row: &Value) -> Option<usize> {
    match row["provider"].as_str()? {
        "a" | "ma" => Some(0),
        "b" | "mb" => Some(1),
        _ => None,
    }
}

fn rows_of(
    evidence: &Evidence<'_>,
    call: &Call,
    seen: &Seen,
    rows: &[&Value],
    found: &mut Findings,
) {
    let name = &call.name;
    let (refusals, rows): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row["attempt_position"] == 0);
    if refusals.len() > 1 || refusals.iter().any(|row| !row["cost"].is_null()) {
        found.add(Fact::DoubleRow, format!("{name}: refused with {refusals:?}"));
    }
    let reached: Vec<&Served> = evidence.served.iter().filter(|it| it.call == *name).collect();
    let last: Vec<&&Value> = rows.iter().filter(|row| row["status"] != "absorbed").collect();
    if last.len() > 1 {
        found.add(Fact::DoubleRow, format!("{name}: two ends: {rows:?}"));
    }
    let mut positions: Vec<u64> =
        rows.iter().filter_map(|row| row["attempt_position"].as_u64()).collect();
    positions.sort_unstable();
    if positions.windows(2).any(|pair| pair[0] == pair[1]) || rows.len() > 2 {
        found.add(Fact::DoubleRow, format!("{name}: more rows than attempts: {rows:?}"));
    }
    if let Some(place) = answered(evidence, call, seen) {
        let fits =
            last.iter().any(|row| row["status"] == "success" && place_of(row) == Some(place));
        if !fits {
            found.add(Fact::LostRow, format!("{name}: answered by {place}, with {rows:?}"));
        }
    }
    if !seen.met_kill {
        if last.is_empty() && !reached.is_empty() {
            found.add(Fact::LostRow, format!("{name}: {reached:?} without an end, only {rows:?}"));
        }
        for served in &reached {
            if !rows.iter().any(|row| place_of(row) == Some(served.place)) {
                let place = served.place;
                found.add(Fact::LostRow, format!("{name}: nothing of {place}, only {rows:?}"));
            }
        }
    }
    for place in [0, 1] {
        let asked: Vec<Instant> =
            reached.iter().filter(|served| served.place == place).map(|it| it.at).collect();
        let is_soon = asked.windows(2).all(|pair| pair[1] - pair[0] < SOON);
        if asked.len() > 2 || !is_soon {
            found.add(Fact::DoubleRow, format!("{name}: asked {place} again: {reached:?}"));
        }
    }
    rows.iter().for_each(|row| costs(call, row, &reached, found));
}

fn costs(call: &Call, row: &Value, reached: &[&Served], found: &mut Findings) {
    let tokens = [&row["prompt_tokens"], &row["completion_tokens"]].map(Value::as_u64);
    let told = (tokens[0].unwrap_or(0), tokens[1].unwrap_or(0));
    let is_success = row["status"] == "success";
    // The log has micro-dollars, the API dollars.
    let paid = if row["cost"].is_i64() { row["cost"].as_i64() } else { micro(&row["cost"]) };
    let wrong = match paid {
        Some(paid) if row["error_message"] == "budget_exceeded" => paid > cost(told.0, told.1),
        Some(paid) => paid != cost(told.0, told.1) || row["status"] == "absorbed",
        None => is_success,
    };
    // What a provider served whole in its own eyes, and no more than that.
    let served = reached.iter().any(|it| it.is_whole && Some(it.place) == place_of(row));
    let unserved = is_success && (!served || told != (PROMPT_TOKENS, call.pieces));
    if wrong || unserved {
        found.add(Fact::Spend, format!("{}: {row}, served {reached:?}", call.name));
    }
}

fn accounts(evidence: &Evidence<'_>, found: &mut Findings) {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    for row in &evidence.rows {
        *sums.entry(row["user_id"].as_str().unwrap_or_default()).or_default() +=
            micro(&row["cost"]).unwrap_or(0);
    }
    for account in &evidence.accounts {
        let sum = sums.get(account.user).copied().unwrap_or(0);
        if sum != account.spend {
            found.add(Fact::Spend, format!("{account:?}, but its rows cost {sum}"));
        }
        if account.held != 0 {
            found.add(Fact::Hold, format!("{account:?}"));
        }
        if account.cap.is_some_and(|cap| account.spend > cap) {
            found.add(Fact::Overspent, format!("{account:?}"));
        }
    }
    if evidence.accounts.len() != USERS.len() {
        found.add(Fact::Spend, "an account is missing");
    }
}

/// The attempt that a provider was asked for, by the credential that came with it: `key-a-17` is that of `a-17`.
fn attempt_of(served: &Served) -> &str {
    served.key.strip_prefix("key-").unwrap_or(&served.key)
}

fn reports(evidence: &Evidence<'_>, found: &mut Findings) {
    let accepted: Vec<&Told> = evidence.told.iter().filter(|told| told.report.accepted()).collect();
    let mut by_id: HashMap<String, Vec<&Told>> = HashMap::new();
    for told in &accepted {
        by_id.entry(told.report.correlation_id()).or_default().push(told);
    }
    for (id, told) in &by_id {
        if told.iter().rev().skip(1).any(|told| !told.may_repeat) {
            let at: Vec<u64> = told.iter().map(|told| told.report.at_ms).collect();
            found.add(Fact::DoubleReport, format!("{id} was accepted at {at:?} ms"));
        }
    }
    evidence.violations.iter().for_each(|what| found.add(Fact::DoubleReport, what));
    for (call, seen) in evidence.scene.calls.iter().zip(&evidence.calls) {
        let reached: Vec<&Served> =
            evidence.served.iter().filter(|it| it.call == call.name).collect();
        let of = |served: &Served| by_id.get(attempt_of(served)).and_then(|told| told.first());
        let logged = |served: &Served| {
            evidence.logged.iter().any(|it| it["report"]["correlation_id"] == attempt_of(served))
        };
        if let Some(place) = answered(evidence, call, seen) {
            let usage = json!([PROMPT_TOKENS, call.pieces]);
            let fits = reached.iter().filter(|it| it.place == place).any(|it| {
                logged(it)
                    || of(it).is_some_and(|told| {
                        let report = told.report.json();
                        let tokens = &report["usage"];
                        told.report.is_success()
                            && told.report.is_final()
                            && json!([tokens["prompt_tokens"], tokens["completion_tokens"]])
                                == usage
                    })
            });
            if !fits {
                let told: Vec<_> = reached.iter().map(|it| of(it).map(|it| &it.report)).collect();
                let name = &call.name;
                found.add(Fact::LostReport, format!("{name}: answered by {place}: {told:?}"));
            }
        }
        if seen.met_kill {
            continue;
        }
        for served in &reached {
            if of(served).is_none() && !logged(served) {
                found.add(Fact::LostReport, format!("{}: nothing of {served:?}", call.name));
            }
        }
        let last = reached.iter().filter(|it| of(it).is_some_and(|told| told.report.is_final()));
        let plans: HashSet<&str> = last.map(|it| attempt_of(it)).collect();
        if plans.len() > 1 {
            found.add(Fact::DoubleReport, format!("{}: two ends: {plans:?}", call.name));
        }
    }
}

/// Of a call: from its beginning until its end is known to the gateway too.
pub(crate) fn open_between(got: &Got) -> (Instant, Instant) {
    match got.end {
        End::Whole => (got.began, got.ended),
        // The gateway hears later that the caller is gone.
        _ => (got.began, got.ended + Duration::from_secs(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Api, Kind};
    use crate::upstream::document;

    /// One call that is whole, and books that say so.
    fn scene(mode: Mode) -> Scene {
        let mut scene = Scene::draw(0, true);
        let first = Call {
            api: Api::Chat,
            streams: false,
            leaves_after: None,
            user: 1,
            ..scene.calls[0].clone()
        };
        (scene.mode, scene.kind, scene.calls) = (mode, Kind::Slow, vec![first]);
        scene
    }

    fn good(scene: &Scene) -> Evidence<'_> {
        let call = &scene.calls[0];
        let now = Instant::now();
        let body = document(Api::Chat, call, 1).into_bytes();
        let got = Got { began: now, ended: now, status: 200, body, end: End::Whole };
        let paid = cost(PROMPT_TOKENS, call.pieces);
        let row = |id: &str, provider: &str, position: u64, status: &str| {
            let usd = |it: i64| json!(f64::from(u32::try_from(it).unwrap()) / 1e6);
            let cost = if status == "success" { usd(paid) } else { Value::Null };
            let tokens = |it: u64| if status == "success" { json!(it) } else { Value::Null };
            json!({"id": id, "policy_name": call.name, "provider": provider, "attempt_position": position,
                   "status": status, "cost": cost, "user_id": USERS[1],
                   "prompt_tokens": tokens(PROMPT_TOKENS), "completion_tokens": tokens(call.pieces)})
        };
        let served = |place: usize, is_whole: bool| {
            let key = format!("key-{}-1", ["a", "b"][place]);
            Served { call: call.name.clone(), place, key, at: now, is_whole }
        };
        let account = |at: usize| Account {
            user: USERS[at],
            spend: if at == 1 { paid } else { 0 },
            held: 0,
            cap: (at > 0).then_some(500),
        };
        Evidence {
            scene,
            calls: vec![Seen { got, met_kill: false, link_broke: false }],
            served: vec![served(0, false), served(1, true)],
            rows: vec![row("1", "a", 1, "absorbed"), row("2", "b", 2, "success")],
            logged: Vec::new(),
            accounts: (0..4).map(account).collect(),
            told: Vec::new(),
            violations: Vec::new(),
            leaks: Vec::new(),
        }
    }

    fn facts(change: impl FnOnce(&mut Evidence<'_>)) -> Vec<Fact> {
        let scene = scene(Mode::Sqlite);
        let mut evidence = good(&scene);
        change(&mut evidence);
        let mut facts: Vec<Fact> = audit(&evidence).0.into_iter().map(|(fact, _)| fact).collect();
        facts.sort();
        facts.dedup();
        facts
    }

    #[test]
    fn good_books_are_good_and_every_fault_in_them_is_found() {
        assert_eq!(facts(|_| {}), []);
        assert_eq!(facts(|it| drop(it.rows.remove(0))), [Fact::LostRow]);
        let lost = facts(|it| drop(it.rows.pop()));
        assert!(lost.contains(&Fact::LostRow) && lost.contains(&Fact::Spend), "{lost:?}");
        let again = facts(|it| it.rows.push(it.rows[1].clone()));
        assert!(again.contains(&Fact::DoubleRow), "{again:?}");
        assert_eq!(facts(|it| it.accounts[1].spend += 1), [Fact::Spend]);
        assert_eq!(facts(|it| it.accounts[2].held = 1), [Fact::Hold]);
        assert_eq!(facts(|it| it.accounts[1].cap = Some(1)), [Fact::Overspent]);
        assert_eq!(facts(|it| it.leaks.push("a task".into())), [Fact::Leak]);
        let dearer = facts(|it| it.rows[1]["completion_tokens"] = json!(31));
        assert_eq!(dearer, [Fact::Spend]);
        let unserved = facts(|it| it.served[1].is_whole = false);
        assert_eq!(unserved, [Fact::Spend]);
        let asked_late = facts(|it| {
            let mut later = it.served[1].clone();
            later.at += Duration::from_secs(4);
            it.served.push(later);
        });
        assert_eq!(asked_late, [Fact::DoubleRow]);
        let cut = |excused: bool| {
            facts(move |it| {
                it.calls[0].link_broke = excused;
                it.calls[0].got.end = End::Cut("reset".into());
                it.calls[0].got.body.truncate(50);
            })
        };
        assert_eq!((cut(false), cut(true)), (vec![Fact::Frame], vec![]));
        let other = facts(|it| it.calls[0].got.body[100] ^= 1);
        assert_eq!(other, [Fact::Frame]);
        // A kill may take the end of a call that was open, but not of one that was answered.
        let killed = |answered: bool| {
            facts(move |it| {
                it.calls[0].met_kill = true;
                it.rows.pop();
                it.accounts[1].spend = 0;
                if !answered {
                    it.calls[0].got.end = End::Cut("gone".into());
                    it.calls[0].got.body.truncate(50);
                }
            })
        };
        assert_eq!((killed(false), killed(true)), (vec![], vec![Fact::LostRow]));
        // What the log has is not lost.
        let logged = facts(|it| {
            let row = it.rows.pop().unwrap();
            it.logged.push(row);
            it.accounts[1].spend = 0;
        });
        assert_eq!(logged, []);
    }

    #[test]
    fn reports_are_held_against_what_was_served() {
        let scene = scene(Mode::Connected);
        let found = |evidence: &Evidence<'_>| -> Vec<Fact> {
            audit(evidence).0.into_iter().map(|(fact, _)| fact).collect()
        };
        assert_eq!(
            found(&good(&scene)),
            [Fact::LostReport; 3],
            "of the answer, and of both attempts"
        );
        let with = |evidence: &mut Evidence<'_>, may_repeat: &[bool]| {
            let tokens =
                json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": scene.calls[0].pieces});
            for (id, status, last) in [("a-1", "error", false), ("b-1", "success", true)] {
                for may_repeat in may_repeat {
                    let body = json!({"correlation_id": id, "status": status, "is_final_attempt": last,
                                      "usage": tokens});
                    let report = platform::Seen {
                        at_ms: 0,
                        method: "POST".into(),
                        path: String::new(),
                        headers: platform::Headers::default(),
                        body: body.to_string(),
                        status: 200,
                        fault: None,
                        answer: String::new(),
                        abandoned: false,
                    };
                    evidence.told.push(Told { report, may_repeat: *may_repeat });
                }
            }
        };
        for (told, expected) in [
            (&[false][..], vec![]),
            (&[true, false], vec![]),
            (&[false, true], vec![Fact::DoubleReport; 2]),
        ] {
            let mut evidence = good(&scene);
            with(&mut evidence, told);
            assert_eq!(found(&evidence), expected, "{told:?}");
        }
    }
}
