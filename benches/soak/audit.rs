//! When everything is quiet: whether rows, spend and holds are what the calls were.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::Outcome;
use crate::caller::Count;
use crate::database::{Database, Rows};
use crate::gateway::{Gateway, user_id};
use crate::load::{Connection, request};
use crate::mix::{End, KINDS, USERS};
use crate::process::Process;

/// Longest wait for the last records to be written and the last calls to end.
const QUIET: Duration = Duration::from_secs(120);

/// The calls of one kind, as four parties saw them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) kind: &'static str,
    pub(crate) sent: u64,
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    pub(crate) at_provider: u64,
    pub(crate) rows_success: u64,
    pub(crate) rows_error: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Audit {
    pub(crate) lines: Vec<Line>,
    pub(crate) rows: u64,
    pub(crate) cost_usd: f64,
    pub(crate) faults: Vec<String>,
}

/// What the gateway says of itself when nothing is asked of it.
struct Quiet {
    queue: f64,
    active: f64,
    in_flight: u64,
    held_usd: f64,
}

/// Waits until nothing is under way, asks, ends the gateway, and reads the database.
pub(crate) async fn run(
    gateway: &mut Gateway,
    mock: &Process,
    database: &Database,
    counts: &[Count],
) -> Outcome<Audit> {
    let mut audit = Audit::default();
    let quiet = wait(gateway).await?;
    let leftovers = [
        ("records that wait", quiet.queue),
        // The question itself is one.
        ("requests that are active", quiet.active - 1.0),
        ("calls in flight", quiet.in_flight as f64),
        ("dollars that are held", quiet.held_usd),
    ];
    for (what, number) in leftovers {
        if number.abs() > 1e-9 {
            audit.faults.push(format!("{what}: {number}"));
        }
    }
    let mut accounts = BTreeMap::new();
    for user in 0..USERS {
        let account = gateway.account(user).await?;
        if account.held != 0 {
            audit.faults.push(format!("{} holds {} micro-dollars", user_id(user), account.held));
        }
        accounts.insert(user_id(user), account.spend);
    }
    let asked = asked(mock).await?;
    let status = gateway.leave().await?;
    if !status.success() {
        audit.faults.push(format!("the gateway ended with {status}"));
    }
    let rows = database.rows().await?;
    money(&rows, &accounts, &database.spend().await?, &mut audit);
    calls(&rows, counts, &asked, &mut audit);
    Ok(audit)
}

async fn wait(gateway: &Gateway) -> Outcome<Quiet> {
    let deadline = Instant::now() + QUIET;
    loop {
        let quiet = look(gateway).await?;
        let is_quiet = quiet.queue == 0.0 && quiet.active <= 1.0 && quiet.in_flight == 0;
        if is_quiet || Instant::now() > deadline {
            return Ok(quiet);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn look(gateway: &Gateway) -> Outcome<Quiet> {
    let page = gateway.metrics().await?;
    let flying = gateway.ask("GET", "/v1/usage/in-flight", None).await?;
    let metric = |name| crate::sample::metric(&page, name);
    Ok(Quiet {
        queue: metric("gateway_usage_log_queue_depth"),
        active: metric("gateway_active_requests"),
        in_flight: flying["total"].as_u64().ok_or("no total")?,
        held_usd: metric("gateway_budget_held_dollars"),
    })
}

/// How often the provider was asked for each model.
async fn asked(mock: &Process) -> Outcome<BTreeMap<String, u64>> {
    let mut connection = Connection::open(mock.address).await?;
    let reply = connection.exchange(&request("GET", "/__mock/requests", "none", b"")).await?;
    let seen: Value = serde_json::from_slice(&connection.body(&reply))?;
    let models = seen["models"].as_object().ok_or("the mock does not count")?;
    Ok(models
        .iter()
        .map(|(name, of)| (name.clone(), of["requests"].as_u64().unwrap_or(0)))
        .collect())
}

/// Spend is what the rows cost: in the ledger, and in the database.
fn money(
    rows: &[Rows],
    ledger: &BTreeMap<String, i64>,
    stored: &BTreeMap<String, i64>,
    audit: &mut Audit,
) {
    let mut costs: BTreeMap<&str, i64> = BTreeMap::new();
    for row in rows {
        *costs.entry(&row.user).or_default() += row.cost;
    }
    audit.cost_usd = costs.values().sum::<i64>() as f64 / 1e6;
    for (user, spend) in ledger {
        let cost = costs.get(user.as_str()).copied().unwrap_or(0);
        let stored = stored.get(user).copied().unwrap_or(0);
        if *spend != cost || stored != cost || cost == 0 {
            let what = format!("{user}: rows {cost}, ledger {spend}, database {stored}");
            audit.faults.push(format!("spend in micro-dollars of {what}"));
        }
    }
}

/// A row for every call that reached the provider, and every call that was answered reached it.
fn calls(rows: &[Rows], counts: &[Count], asked: &BTreeMap<String, u64>, audit: &mut Audit) {
    audit.rows = rows.iter().map(|row| row.count).sum();
    let mut known = 0;
    for (kind, count) in KINDS.iter().zip(counts) {
        let model = kind.model();
        let of = |status: &str| {
            let rows = rows.iter().filter(|row| row.model == model && row.status == status);
            rows.map(|row| row.count).sum::<u64>()
        };
        let (success, error) = (of("success"), of("error"));
        let at_provider = asked.get(kind.name).copied().unwrap_or(0);
        audit.lines.push(Line {
            kind: kind.name,
            sent: count.sent,
            ended: count.ended,
            failed: count.failed,
            at_provider,
            rows_success: success,
            rows_error: error,
        });
        if !kind.is_billed() {
            continue;
        }
        known += success + error;
        // Whoever failed or left may have done so before the provider was asked.
        let sure = count.ended;
        let is_sure = !matches!(kind.end, End::LeftWaiting);
        let all = success + error;
        let name = kind.name;
        let mut check = |ok: bool, what: &str| {
            if !ok {
                audit.faults.push(format!(
                    "{name}: {what}: {count:?}, {at_provider} at the provider, {success} + {error} rows"
                ));
            }
        };
        check(all == at_provider, "rows are not the provider's calls");
        check(all <= count.sent, "more rows than calls");
        check(!is_sure || all >= sure, "fewer rows than answers");
        match kind.end {
            End::Whole(_) => {
                check(success >= sure && error <= count.failed, "an answer is no success");
            }
            End::Told => check(error >= sure, "a fault is a success"),
            _ => {}
        }
    }
    if known != audit.rows {
        audit.faults.push(format!("{} rows of no call", audit.rows - known));
    }
}
