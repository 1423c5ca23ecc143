//! A new process takes the place of the old one at `SIGUSR2`: it serves at once, while the old one only ends its calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway, signal};
use crate::support::platform::{GATEWAY_TOKEN, Platform, USER_TOKEN};
use crate::support::provider::{Gate, Provider, Reply, completion};
use crate::support::{COST, ask, ask_streamed, ask_with, eventually, on_both_databases, priced};
use crate::upgrade_binary::{
    Call, Holder, STREAMS, accounts_are_whole, open_streams, start_callers,
};

/// Streams that a process that is killed never ends.
const LOST: usize = 20;

/// Calls under way, and callers who call.
struct Scene {
    gate: Gate,
    streams: JoinSet<String>,
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    call: Call,
}

/// A provider whose streams wait in the middle for the gate.
fn slow_provider(gate: &Gate) -> Provider {
    let held = gate.clone();
    Provider::start(move |request| {
        let reply = Reply::chat(request, &["Hel", "lo"]);
        if request.json()["stream"] == json!(true) { reply.gated(1, &held) } else { reply }
    })
}

impl Scene {
    async fn begin(call: Call, gate: Gate) -> Self {
        let begun = Arc::new(AtomicUsize::new(0));
        let streams = open_streams(&call, &begun);
        eventually("all streams to begin", async || {
            (begun.load(Ordering::SeqCst) == STREAMS).then_some(())
        })
        .await;
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = start_callers(&call, &stop, &served);
        // And some who keep their connections, as clients do.
        let kept = Call { http: Call::client_that_keeps(8), ..call.clone() };
        let more = start_callers(&kept, &stop, &served);
        callers.spawn(async move {
            more.join_all().await;
        });
        let new = Self { gate, streams, callers, stop, served, call };
        new.more(20).await;
        new
    }

    /// Waits for more calls to be served.
    async fn more(&self, count: usize) {
        let before = self.served.load(Ordering::SeqCst);
        eventually("calls to be served", async || {
            (self.served.load(Ordering::SeqCst) > before + count).then_some(())
        })
        .await;
    }

    /// Lets the streams end, whole; and then the callers. Returns how many calls there were.
    async fn end(self, gateway: &mut Gateway, what: &str) -> usize {
        self.gate.open(100 * STREAMS);
        let texts = self.streams.join_all().await;
        let is_whole = |text: &String| text.contains("lo") && text.ends_with("data: [DONE]\n\n");
        assert!(texts.iter().all(is_whole));
        assert!(gateway.ended().await.success(), "the old process ends with its last call");
        let served = self.served.clone();
        let before = served.load(Ordering::SeqCst);
        eventually("calls after it", async || {
            (served.load(Ordering::SeqCst) > before + 20).then_some(())
        })
        .await;
        self.stop.store(true, Ordering::SeqCst);
        self.callers.join_all().await;
        let (served, longest) =
            (served.load(Ordering::SeqCst), self.call.longest.load(Ordering::SeqCst));
        println!("{what}: {STREAMS} streams, {served} calls beside them, longest {longest} ms");
        assert!(longest < 5_000, "a call took {longest} ms");
        STREAMS + served
    }
}

async fn it_serves_at_once_and_breaks_no_stream(start: Builder) {
    let gate = Gate::closed();
    let provider = slow_provider(&gate);
    let mut gateway = priced(start.config("drain_s: 60"), &provider).await;
    let base = gateway.url("");
    let (old, files) = (gateway.pid(), gateway.proc("limits"));
    assert!(files.contains("Max open files"));
    let scene = Scene::begin(Call::new(&base).await, gate).await;

    let new = gateway.upgrade().await;
    assert_ne!(old, new);
    // While all streams are open, in the old process.
    scene.more(50).await;
    assert!(signal(old, "0"), "the old process still has its streams");
    let calls = scene.end(&mut gateway, "upgrade").await;
    accounts_are_whole(&base, calls).await;
    assert!(signal(new, "0"), "the new one serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_connected_mode_every_report_arrives_once() {
    let gate = Gate::closed();
    let provider = slow_provider(&gate);
    let mut platform = Platform::start().await;
    platform.plan("m", &[("openai", &provider)]);
    let mut gateway = Gateway::start().connected(&platform).config("drain_s: 60").await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let call = Call::with(Call::client(), &gateway.url(""), USER_TOKEN, body);
    let scene = Scene::begin(call, gate).await;
    gateway.upgrade().await;
    scene.more(50).await;
    let calls = scene.end(&mut gateway, "upgrade in connected mode").await;
    platform.eventually_reports(calls).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(platform.reports().len(), calls);
    platform.assert_clean();
}

async fn one_that_does_not_start_changes_nothing(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start.installed().config("upgrade_timeout_s: 2"), &provider).await;
    let key = gateway.key("u").await;
    let old = gateway.pid();
    let scripts =
        [("#!/bin/sh\nexit 3\n", "exit status: 3"), ("#!/bin/sh\nexec sleep 60\n", "within 2 s")];
    for (script, why) in scripts {
        gateway.install(script);
        let before = gateway.log().len();
        let new = gateway.begin_upgrade().await;
        if why.starts_with("within") {
            gateway.signal("USR2");
            eventually("a second one to be refused", async || {
                gateway.log()[before..].contains("no second upgrade").then_some(())
            })
            .await;
        }
        gateway.chat(&key, &ask()).await.expect(200);
        eventually("the reason", async || {
            let log = gateway.log();
            let line = log[before..].lines().find(|line| line.contains("no upgrade:"))?.to_owned();
            assert!(line.contains(why) && line.contains("serves on"), "{line}");
            Some(())
        })
        .await;
        assert!(!signal(new, "0"), "it is gone");
        gateway.chat(&key, &ask()).await.expect(200);
    }
    assert_eq!(gateway.pid(), old);
    gateway.usage(4).await;
    // It still can.
    gateway.install(&format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_otari")));
    gateway.upgrade().await;
    assert!(gateway.ended().await.success());
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.usage(5).await;
}

async fn what_takes_too_long_ends_with_an_error(start: Builder) {
    let gate = Gate::closed();
    let provider = slow_provider(&gate);
    let mut gateway = priced(start.config("drain_s: 1"), &provider).await;
    let key = gateway.key("u").await;
    let mut stream = gateway.stream(&key, &ask_streamed()).await;
    let mut text = stream.chunk().await.unwrap().expect("its beginning").to_vec();
    gateway.upgrade().await;
    let begun = Instant::now();
    while let Some(piece) = stream.chunk().await.unwrap() {
        text.extend(piece);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"error\""), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(gateway.ended().await.success());
    let rows = gateway.usage(1).await;
    assert_eq!(rows[0]["status"], "error", "{rows:?}");
}

/// The processes that were started by this one to take its place.
fn heirs(pid: &str) -> Vec<u32> {
    let wanted = format!("OTARI_UPGRADE_PID={pid}");
    let all = std::fs::read_dir("/proc").expect("Linux").flatten();
    let is_heir = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|line| line == wanted.as_bytes())
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_heir).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_systemd_is_handed_on() {
    let provider = Provider::streams(["ok"]);
    let mut holder = Holder::start();
    let start = Gateway::start().config(&format!("port: {}\nlog_level: error", holder.port));
    let start = priced(start, &provider);
    let (_, file) = start.write();
    holder.ask(&file);
    assert_eq!(holder.line(), "done");
    let base = format!("http://127.0.0.1:{}", holder.port);
    let call = Call::new(&base).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = start_callers(&call, &stop, &served);
    holder.upgrade();
    let old = holder.line();
    assert_eq!(holder.line(), "done", "the old process has left");
    let before = served.load(Ordering::SeqCst);
    eventually("calls after it", async || {
        (served.load(Ordering::SeqCst) > before + 20).then_some(())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    callers.join_all().await;
    accounts_are_whole(&base, served.load(Ordering::SeqCst)).await;
    let heirs = heirs(&old);
    assert_eq!(heirs.len(), 1);
    assert!(signal(heirs[0], "TERM"));
    eventually("it to leave", async || (!signal(heirs[0], "0")).then_some(())).await;
    // The port is still the holder's, for whoever it starts next.
    holder.ask(&file);
    assert_eq!(holder.line(), "done");
    call.ask(call.body.clone()).await.bytes().await.unwrap();
}

/// The old process is killed while both live: what it journalled is brought on by the new one.
async fn what_a_killed_process_left_is_not_lost(start: Builder) {
    let (gate, never, count) = (Gate::closed(), Gate::closed(), AtomicUsize::new(0));
    let opens = gate.clone();
    let provider = Provider::start(move |request| {
        let reply = Reply::chat(request, &["Hel", "lo"]);
        match request.json()["stream"] == json!(true) {
            true if count.fetch_add(1, Ordering::SeqCst) < LOST => reply.gated(1, &never),
            true => reply.gated(1, &opens),
            false => reply,
        }
    });
    let mut gateway = priced(start.config("drain_s: 60"), &provider).await;
    let base = gateway.url("");
    let call = Call::new(&base).await;
    let mut scene = Scene::begin(call, gate).await;
    let new = gateway.upgrade().await;
    scene.more(20).await;
    // Until every kept connection has ended: what the old process answers is lost with it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // All but a few of the streams end, and their records are not in the database yet.
    scene.gate.open(100 * STREAMS);
    let whole = STREAMS - LOST;
    for _ in 0..whole {
        scene.streams.join_next().await.unwrap().unwrap();
    }
    gateway.kill9();
    scene.streams.abort_all();
    scene.more(20).await;
    scene.stop.store(true, Ordering::SeqCst);
    scene.callers.join_all().await;
    accounts_are_whole(&base, whole + scene.served.load(Ordering::SeqCst)).await;

    // And the new one, which nobody has started again since: a plain start finds what it left.
    scene.call.ask(scene.call.body.clone()).await.bytes().await.unwrap();
    assert!(signal(new, "KILL"));
    eventually("it to be gone", async || (!signal(new, "0")).then_some(())).await;
    gateway.restart().await;
    let calls = whole + scene.served.load(Ordering::SeqCst) + 1;
    accounts_are_whole(&gateway.url(""), calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_start_beside_a_running_one_is_refused_whatever_its_slot() {
    let platform = Platform::start().await;
    let mut gateway = Gateway::start().connected(&platform).await;
    gateway.upgrade().await;
    assert!(gateway.ended().await.success());
    let journal = gateway.folder().join("journal/reports");
    assert!(journal.join("slot-1/lock").exists(), "the new one has a slot of its own");
    let again = Gateway::start()
        .config(&format!("journal_dir: {}", gateway.folder().join("journal").display()))
        .connected(&platform);
    let (_, file) = again.write();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_otari"))
        .args(["serve", "--config", file.to_str().unwrap()])
        .env_clear()
        .env("OTARI_AI_TOKEN", GATEWAY_TOKEN)
        .env("PLATFORM_BASE_URL", platform.base())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("is in use by another otari process"), "{said}");
}

/// The new process is killed while the old one still ends its calls: a plain start after both finds what either left.
async fn what_a_killed_successor_left_is_not_lost(start: Builder) {
    let gate = Gate::closed();
    let provider = slow_provider(&gate);
    let mut gateway = priced(start.config("drain_s: 60"), &provider).await;
    let scene = Scene::begin(Call::new(&gateway.url("")).await, gate).await;
    let new = gateway.upgrade().await;
    scene.more(50).await;
    scene.stop.store(true, Ordering::SeqCst);
    scene.callers.join_all().await;
    assert!(signal(new, "KILL"));
    scene.gate.open(100 * STREAMS);
    let texts = scene.streams.join_all().await;
    assert!(texts.iter().all(|text| text.ends_with("data: [DONE]\n\n")));
    assert!(gateway.ended().await.success());
    gateway.restart().await;
    accounts_are_whole(&gateway.url(""), STREAMS + scene.served.load(Ordering::SeqCst)).await;
}

/// What each call holds and costs, in USD: 100 output tokens at 1000 USD per million.
const EACH: f64 = 0.1;
/// Streams that hold as much, and cost 5 tokens.
const HOLDERS: usize = 50;
/// The cap, in USD.
const CAP: f64 = 20.0;
/// How many calls fit beside the open streams, and when those have ended.
const BESIDE: usize = 150;
const FIT: usize = 197;
const SPENDERS: usize = 8;

/// Watches `spend + sum of leases <= max_budget` in a SQLite file until it is to stop.
fn watch(file: std::path::PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    const OVERSPENT: &str = "
        SELECT count(*) FROM users u JOIN budgets b ON b.budget_id = u.budget_id
        WHERE u.spend + coalesce((SELECT sum(amount) FROM budget_leases l
            WHERE l.scope = 'user' AND l.scope_id = u.user_id), 0) > b.max_budget";
    std::thread::spawn(move || {
        let db = rusqlite::Connection::open(file).unwrap();
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        let mut looks = 0;
        while !stop.load(Ordering::SeqCst) {
            let over: i64 = db.query_row(OVERSPENT, [], |row| row.get(0)).unwrap();
            assert_eq!(over, 0, "spend and leases are above the cap");
            looks += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        looks
    })
}

/// A provider whose calls use exactly 100 tokens, and whose streams wait for the gate.
fn spender(gate: &Gate) -> Provider {
    let held = gate.clone();
    Provider::start(move |request| {
        if request.json()["stream"] == json!(true) {
            return Reply::chat(request, &["Hel", "lo"]).gated(1, &held);
        }
        let mut body = completion("ok");
        body["usage"] = json!({"prompt_tokens": 1, "completion_tokens": 100, "total_tokens": 101});
        Reply::json(200, &body)
    })
}

/// Callers who spend a budget, again and again until they are to stop.
#[derive(Clone, Default)]
struct Spending {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    /// Before so many are served, or under way, nobody is to be refused.
    fits: Arc<AtomicUsize>,
}

impl Spending {
    fn start(&self, call: &Call) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for _ in 0..SPENDERS {
            let (own, call) = (self.clone(), call.clone());
            callers.spawn(async move {
                while !own.stop.load(Ordering::SeqCst) {
                    own.spend(&call).await;
                }
            });
        }
        callers
    }

    async fn spend(&self, call: &Call) {
        let fits = self.fits.load(Ordering::SeqCst);
        let asked = call.http.post(&call.url).bearer_auth(&call.key).json(&call.body);
        let answer = asked.send().await.expect("no call is refused a connection");
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        if status == 200 {
            self.served.fetch_add(1, Ordering::SeqCst);
            return;
        }
        assert!(status == 403 && text.contains("budget limit"), "{status}: {text}");
        let taken = self.served.load(Ordering::SeqCst) + SPENDERS - 1;
        assert!(taken >= fits, "refused although {taken} calls at most were let in");
        self.refused.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    async fn reach(&self, count: usize) {
        eventually("calls to be served", async || {
            assert!(self.served.load(Ordering::SeqCst) <= FIT, "overspent");
            (self.served.load(Ordering::SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Waits until many more were refused; so many are served then, and no more.
    async fn is_spent(&self, served: usize) {
        self.fits.store(served, Ordering::SeqCst);
        let before = self.refused.load(Ordering::SeqCst);
        eventually("refusals", async || {
            (self.refused.load(Ordering::SeqCst) > before + 20).then_some(())
        })
        .await;
        assert_eq!(self.served.load(Ordering::SeqCst), served);
    }
}

async fn a_budget_is_spent_to_its_cap_and_no_further(start: Builder) {
    let (is_sqlite, gate) = (!start.is_postgres(), Gate::closed());
    let provider = spender(&gate);
    let start = start.config("drain_s: 60").provider("p", &provider).price("p:m", 0.0, 1000.0);
    let mut gateway = start.await;
    let budget = gateway.budget(CAP).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let streamed = ask_with(json!({"max_tokens": 100, "stream": true}));
    let mut streams = Vec::new();
    for _ in 0..HOLDERS {
        let mut stream = gateway.stream(&key, &streamed).await;
        assert_eq!(stream.status(), 200);
        stream.chunk().await.unwrap().expect("its beginning");
        streams.push(stream);
    }

    let body = ask_with(json!({"max_tokens": 100}));
    let call = Call::with(Call::client(), &gateway.url(""), &key, body);
    let spending = Spending::default();
    spending.fits.store(BESIDE, Ordering::SeqCst);
    let watching =
        is_sqlite.then(|| watch(gateway.folder().join("otari.db"), spending.stop.clone()));
    let callers = spending.start(&call);
    spending.reach(60).await;
    gateway.upgrade().await;
    spending.reach(BESIDE).await;
    // The streams of the old process hold the rest.
    spending.is_spent(BESIDE).await;

    gate.open(100 * HOLDERS);
    for mut stream in streams {
        while stream.chunk().await.expect("no stream breaks").is_some() {}
    }
    spending.reach(FIT).await;
    spending.is_spent(FIT).await;
    spending.stop.store(true, Ordering::SeqCst);
    callers.join_all().await;
    if let Some(watching) = watching {
        println!("{} looks at the invariant", watching.join().expect("it held"));
    }
    assert!(gateway.ended().await.success());
    let spend = gateway.settled("u").await;
    let right = EACH * FIT as f64 + 0.005 * HOLDERS as f64;
    assert!((spend - right).abs() < 1e-9, "{spend} and not {right} of {CAP}");
    gateway.usage(FIT + HOLDERS).await;
}

/// One after the other, each takes the place of the one before.
async fn it_can_be_done_again_and_again(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let mut gateway = priced(start, &provider).await;
    let budget = gateway.budget(10.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let mut pid = gateway.upgrade().await;
    assert!(gateway.ended().await.success());
    for round in 1..=3 {
        gateway.chat(&key, &ask()).await.expect(200);
        let before = gateway.log().len();
        assert!(signal(pid, "USR2"));
        pid = gateway.heir_since(before).await;
        gateway.chat(&key, &ask()).await.expect(200);
        gateway.usage(2 * round).await;
    }
    assert!((gateway.settled("u").await - 6.0 * COST).abs() < 1e-9);
}

on_both_databases!(
    it_serves_at_once_and_breaks_no_stream,
    one_that_does_not_start_changes_nothing,
    what_takes_too_long_ends_with_an_error,
    what_a_killed_process_left_is_not_lost,
    what_a_killed_successor_left_is_not_lost,
    a_budget_is_spent_to_its_cap_and_no_further,
    it_can_be_done_again_and_again,
);
