//! One run: the players, the load, what goes wrong meanwhile, and the audit when all is quiet; then every gateway is
//! asked to end, starts again, and the books are looked at once more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;

use crate::audit::{self, Account, Evidence, Findings, Seen, Told};
use crate::caller::{self, Got};
use crate::happen::happen;
use crate::scene::{Call, Mode, Scene, Side, USERS};
use crate::shim::Shim;
use crate::stage::{Node, Stage, gauge};
use crate::support::gateway::Gateway;

/// Longest until everything is quiet: the longest pause before a database or a platform is tried again, and a bit.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A report that was accepted is noted within so long, on busy cores.
const NOTED_WITHIN: Duration = Duration::from_millis(500);
/// Descriptors for which there is no connection: files of the store, of the resolver, and the like.
const SPARE_FILES: f64 = 24.0;

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) findings: Findings,
    /// Calls by the status that their callers saw, 0 where the answer was not whole.
    pub(crate) ends: BTreeMap<u16, usize>,
    /// How often a gateway met a clock that had jumped, a full disk, names that were gone.
    pub(crate) met: [i64; 3],
    pub(crate) took: Duration,
}

/// Plays the scene.
pub(crate) async fn run(scene: Scene) -> Outcome {
    let began = Instant::now();
    let stage = Stage::set(scene.clone()).await;
    let files = join_all(stage.nodes.iter().map(open_files)).await;
    let calls = join_all(scene.calls.iter().map(|call| make(&stage, call)));
    let faults = join_all(scene.faults.iter().map(|fault| happen(&stage, fault)));
    let (calls, _) = tokio::join!(calls, faults);
    stage.nodes.iter().for_each(|node| node.idle.clear());
    let ends = ends(&calls);
    let mut findings = settled(&stage, &calls, &files).await;
    if findings.0.is_empty() {
        // What is written is what counts: the same books after another start.
        for node in &stage.nodes {
            let mut gateway = node.gateway.lock().await;
            let ended = gateway.terminate().await;
            assert!(ended.success(), "the gateway ended with {ended}:\n{}", gateway.log());
            gateway.restart().await;
        }
        findings = settled(&stage, &calls, &files).await;
    }
    if !findings.0.is_empty() {
        for node in &stage.nodes {
            keep_log(&scene, &*node.gateway.lock().await);
        }
    }
    let met = stage.nodes.iter().filter_map(|node| node.shim.as_ref()).map(Shim::met);
    let met = met.fold([0; 3], |sum, met| [sum[0] + met[0], sum[1] + met[1], sum[2] + met[2]]);
    stage.strike().await;
    Outcome { findings, ends, met, took: began.elapsed() }
}

/// For whoever looks into it.
fn keep_log(scene: &Scene, gateway: &Gateway) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("faults-{}-{}.log", scene.seed, gateway.addr().port());
    let _ = std::fs::write(folder.join(name), gateway.log());
}

async fn make(stage: &Stage, call: &Call) -> Got {
    sleep(call.at).await;
    let (model, key) = stage.asks(call);
    let node = &stage.nodes[call.gateway];
    caller::call(&node.link, &node.idle, call, &model, key).await
}

fn ends(calls: &[Got]) -> BTreeMap<u16, usize> {
    let mut ends = BTreeMap::new();
    for got in calls {
        let status = if got.end == caller::End::Whole { got.status } else { 0 };
        *ends.entry(status).or_default() += 1;
    }
    ends
}

async fn open_files(node: &Node) -> f64 {
    let gateway = node.gateway.lock().await;
    gauge(&gateway, "process_open_fds").await.unwrap_or_default()
}

/// Looks until nothing is wrong, as long as that may take.
async fn settled(stage: &Stage, calls: &[Got], files: &[f64]) -> Findings {
    let until = Instant::now() + QUIET_WITHIN;
    loop {
        let evidence = evidence(stage, calls, files).await;
        let findings = evidence.as_ref().map(audit::audit);
        match findings {
            Ok(findings) if findings.0.is_empty() || Instant::now() > until => return findings,
            Err(what) => assert!(Instant::now() < until, "the books cannot be read: {what}"),
            Ok(_) => {}
        }
        sleep(LOOK).await;
    }
}

async fn evidence<'a>(
    stage: &'a Stage,
    calls: &[Got],
    files: &[f64],
) -> Result<Evidence<'a>, String> {
    let served = stage.upstreams.iter().flat_map(|upstream| upstream.served()).collect();
    let mut evidence = Evidence {
        scene: &stage.scene,
        calls: stage
            .scene
            .calls
            .iter()
            .zip(calls)
            .map(|(call, got)| seen(stage, call, got))
            .collect(),
        served,
        rows: Vec::new(),
        logged: Vec::new(),
        accounts: Vec::new(),
        told: Vec::new(),
        violations: Vec::new(),
        leaks: leaks(stage, files).await,
    };
    for node in &stage.nodes {
        evidence.logged.extend(logged(&node.gateway.lock().await.log()));
    }
    if let Some((platform, _)) = &stage.platform {
        let platform = platform.lock().await;
        evidence.violations = platform.violations();
        evidence.told = platform.reports().into_iter().map(|report| told(stage, report)).collect();
        return Ok(evidence);
    }
    let gateway = stage.nodes[0].gateway.lock().await;
    evidence.rows = rows(&gateway).await?;
    let caps = [None].into_iter().chain(stage.scene.caps.map(Some));
    for (user, cap) in USERS.into_iter().zip(caps) {
        let row = read(&gateway, &format!("/v1/users/{user}")).await?;
        let number = |name: &str| audit::micro(&row[name]).ok_or_else(|| format!("{row}"));
        let (spend, held) = (number("spend")?, number("reserved")?);
        evidence.accounts.push(Account { user, spend, held, cap });
    }
    Ok(evidence)
}

fn seen(stage: &Stage, call: &Call, got: &Got) -> Seen {
    let node = &stage.nodes[call.gateway];
    let (from, to) = audit::open_between(got);
    Seen {
        got: got.clone(),
        met_kill: node.was_killed(from, to),
        link_broke: node.link.broke(got.began, got.ended),
    }
}

fn told(stage: &Stage, report: otari::mock::platform::Seen) -> Told {
    let at = stage.began + Duration::from_millis(report.at_ms);
    let (from, to) = (at.checked_sub(NOTED_WITHIN).unwrap_or(at), at + NOTED_WITHIN);
    let link = stage.link(Side::Platform, 0);
    // An answer that comes late, or to nobody, is as good as none.
    let late = to + Duration::from_secs(2);
    let node = &stage.nodes[0];
    // A gateway that stands still longer than it waits for an answer asks again, although the answer is there.
    let is_lost = report.abandoned || link.was_troubled(from, late) || node.was_stopped(from, late);
    let may_repeat = is_lost || node.was_killed(from, to);
    Told { report, may_repeat }
}

async fn read(gateway: &Gateway, path: &str) -> Result<Value, String> {
    let answer = gateway.try_manage(Method::GET, path, Value::Null).await;
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
}

async fn rows(gateway: &Gateway) -> Result<Vec<Value>, String> {
    let page = read(gateway, "/v1/usage?limit=1000").await?;
    let rows = page.as_array().ok_or_else(|| format!("{page}"))?;
    assert!(rows.len() < 1000, "one page is enough for the rows of a run");
    Ok(rows.clone())
}

/// Records in a log that the journal refused.
fn logged(log: &str) -> impl Iterator<Item = Value> {
    let lines = log.lines().filter(|line| line.contains("could not be journalled"));
    lines.filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let record: Value = serde_json::from_str(line["record"].as_str()?).ok()?;
        ["usage", "report"].iter().find_map(|kind| record.get(kind).cloned())
    })
}

/// What is open, and nobody needs it.
async fn leaks(stage: &Stage, files: &[f64]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (place, upstream) in stage.upstreams.iter().enumerate() {
        if upstream.under_way() > 0 {
            leaks.push(format!("{} calls under way at provider {place}", upstream.under_way()));
        }
    }
    let links = stage.to_upstreams.iter().chain(stage.base.as_ref().map(|base| &base.link));
    let links = links.chain(stage.platform.as_ref().map(|(_, link)| link));
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let connections = links.map(crate::link::Link::open).sum::<usize>() as f64;
    for (node, before) in stage.nodes.iter().zip(files) {
        let gateway = node.gateway.lock().await;
        if node.link.open() > 0 {
            leaks.push(format!("{} connections of callers", node.link.open()));
        }
        let limits = [
            ("gateway_connections", clients(gateway.addr().port())),
            ("gateway_active_requests", 1.0),
            ("gateway_usage_log_queue_depth", 0.0),
            ("gateway_journal_backlog_bytes", 0.0),
            ("gateway_platform_reports_waiting", 0.0),
            ("process_open_fds", before + connections + SPARE_FILES),
        ];
        for (name, most) in limits {
            match gauge(&gateway, name).await {
                Some(now) if now > most => {
                    leaks.push(format!("{name} {now}, not {most}"));
                }
                Some(_) => {}
                None => leaks.push(format!("no {name}")),
            }
        }
        let folder = gateway.folder().join("journal/rejected.jsonl");
        if folder.exists() && stage.scene.mode != Mode::Connected {
            leaks.push(std::fs::read_to_string(folder).unwrap_or_default());
        }
    }
    leaks
}

/// Connections to this port of loopback that the kernel knows, as their clients have them: those of whoever reads the
/// books. A gateway that counts more has lost count of one that is gone.
fn clients(port: u16) -> f64 {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux says it");
    let server = format!("0100007F:{port:04X}");
    let found = table.lines().filter(|line| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(&server) && words.next() == Some(ESTABLISHED)
    });
    u32::try_from(found.count()).map_or(0.0, f64::from)
}
