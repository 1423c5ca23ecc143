//! As a service: what systemd is told, and the files that go with it.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::gateway::{Gateway, signal};
use crate::support::provider::{Provider, Reply};
use crate::support::{DEADLINE, ask, eventually, priced};

fn conf(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether this program is on this machine; what is not run is said.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("{program} is not on this machine: not checked");
    }
    found
}

/// What the supervisor hears until a message begins so; `WATCHDOG=1` may come at any time.
fn heard(socket: &UnixDatagram, begin: &str) -> String {
    let mut all = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let got = socket.recv(&mut bytes).unwrap_or_else(|_| panic!("{begin} after {all:?}"));
        let message = String::from_utf8(bytes[..got].to_vec()).unwrap();
        if message.starts_with(begin) {
            return message;
        }
        all.push(message);
        assert!(all.len() < 1000, "{begin} after {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_is_told_of_every_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .config("reload_interval_s: 0");
    let mut gateway = priced(start, &provider).await;
    assert_eq!(heard(&socket, "READY=1"), "READY=1\nSTATUS=serving");
    // Again and again, and not only once.
    for _ in 0..3 {
        heard(&socket, "WATCHDOG=1");
    }
    gateway.signal("HUP");
    let reloading = heard(&socket, "RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    heard(&socket, "READY=1");
    std::fs::write(gateway.folder().join("config.yml"), "port: none\n").unwrap();
    gateway.signal("HUP");
    heard(&socket, "RELOADING=1");
    let ready = heard(&socket, "READY=1");
    assert!(ready.contains("the configuration is wrong"), "{ready}");
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.signal_term();
    heard(&socket, "STOPPING=1");
    assert!(gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchdog_of_another_process_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let _gateway = Gateway::start()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .env("WATCHDOG_PID", "1")
        .await;
    heard(&socket, "READY=1");
    assert!(socket.recv(&mut [0; 100]).is_err(), "nothing else is said");
}

/// A process that runs and serves nobody is what the watchdog is for: the only worker does not come back for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_workers_do_not_answer_does_not_feed_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let provider =
        Provider::start(|request| Reply::chat(request, &["ok"]).header("otari-test-stall", "5000"));
    let start = Gateway::start()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "1200000")
        .config("threads: 1");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;
    heard(&socket, "READY=1");
    heard(&socket, "WATCHDOG=1");
    let call = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
    let mut calls = JoinSet::new();
    calls.spawn(call.json(&ask()).send());
    provider.received(1).await;
    // What was asked before may still be answered.
    tokio::time::sleep(Duration::from_millis(700)).await;
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 100]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    // More than its time: systemd would end the process.
    socket.set_read_timeout(Some(Duration::from_millis(2000))).unwrap();
    assert!(socket.recv(&mut [0; 100]).is_err(), "silence while nobody is served");
    assert!(gateway.log().contains("does not answer itself"), "{}", gateway.log());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    heard(&socket, "WATCHDOG=1");
    let answer = calls.join_next().await.expect("a call").expect("no panic");
    assert_eq!(answer.expect("an answer").status(), 200);
    eventually("life", async || (gateway.get("/health").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_is_told_who_serves_after_an_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut gateway = Gateway::start()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .await;
    heard(&socket, "READY=1");
    let new = gateway.upgrade().await;
    assert_eq!(heard(&socket, "MAINPID="), format!("MAINPID={new}"));
    assert_eq!(heard(&socket, "READY=1"), "READY=1\nSTATUS=serving");
    // Nothing of the old process comes after that, not even that it leaves.
    assert!(gateway.ended().await.success());
    for _ in 0..6 {
        assert_eq!(heard(&socket, ""), "WATCHDOG=1");
    }
}

/// How many threads of a process have this name.
fn threads(pid: u32, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux says it").flatten();
    let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(comm).filter(|comm| comm.trim() == name).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pingoras_own_file_counts() {
    let start = Gateway::start().installed();
    let (folder, _) = start.write();
    let (file, meeting) = (folder.join("pingora.yml"), folder.join("meeting"));
    let say = |text: &str| std::fs::write(&file, text).unwrap();
    say(&format!("threads: 3\nupgrade_sock: {}\n", meeting.display()));
    let start = start.config(&format!("pingora_conf: {}", file.display()));
    let mut gateway = start.await;
    assert_eq!(threads(gateway.pid(), "gateway"), 3);
    gateway.install("#!/bin/sh\necho \"sockets are at $OTARI_UPGRADE_SOCKET\" >&2\nexit 3\n");
    let before = gateway.log().len();
    gateway.begin_upgrade().await;
    let expected = format!("sockets are at {}", meeting.display());
    crate::support::eventually("where the sockets are", async || {
        gateway.log()[before..].contains(&expected).then_some(())
    })
    .await;
    say("threads: 3\nthread: 4\n");
    let path = file.to_str().unwrap();
    let refused = Gateway::run(&["serve", "--pingora-conf", path]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("pingora.yml:2:1") && said.contains("thread: unknown key"), "{said}");
}

#[tokio::test]
async fn a_crash_leaves_no_core_dump() {
    let gateway = Gateway::start().await;
    let limits = gateway.proc("limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    let words: Vec<&str> = line.split_whitespace().collect();
    // A dump that is piped to a program is not held back by 0.
    assert_eq!(words[4..6], ["1", "1"], "{line}");
}

#[test]
fn systemd_reads_the_unit_and_finds_it_safe() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("otari.service");
    std::fs::write(
        &file,
        conf("otari.service").replace("/usr/bin/otari", env!("CARGO_BIN_EXE_otari")),
    )
    .unwrap();
    let socket = folder.path().join("otari.socket");
    std::fs::write(&socket, conf("otari.socket")).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").args([&file, &socket]).output();
    let verified = verified.unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.trim().is_empty(), "{said}");
    // The number is ten times the exposure that it may have at most: 2.0.
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&judged.stdout).into_owned();
    assert!(judged.status.success(), "{}", said.lines().last().unwrap_or_default());
}

/// Every word of a text that begins like a series of the gateway.
fn series(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("gateway_")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrape_example_and_its_alerts_fit_the_metrics() {
    let scrape: Value = serde_yaml::from_str(&conf("prometheus.yml")).unwrap();
    let job = &scrape["scrape_configs"][0];
    assert_eq!((&job["job_name"], &job["metrics_path"]), (&"otari".into(), &"/metrics".into()));
    assert_eq!(scrape["rule_files"][0], "otari-alerts.yml");
    let alerts = conf("otari-alerts.yml");
    let read: Value = serde_yaml::from_str(&alerts).unwrap();
    let rules = read["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["alert"].is_string() && rule["expr"].is_string()));
    let expressions: Vec<&str> = rules.iter().filter_map(|rule| rule["expr"].as_str()).collect();

    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start().config("enable_metrics: true"), &provider).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask()).await.expect(200);
    let shown = gateway.get("/metrics").await.expect(200).text();
    // Some are only there once something went wrong: those are in the source.
    let source = include_str!("../../src/telemetry/metrics.rs");
    let mut asked: Vec<&str> = expressions.iter().flat_map(|text| series(text)).collect();
    assert!(asked.len() >= 6, "{asked:?}");
    asked.retain(|name| !shown.contains(&format!("\n{name}")));
    for name in &asked {
        assert!(source.contains(&format!("\"{name}\"")), "{name} is no series of the gateway");
    }
    assert!(asked.len() <= 2, "most are always there: {asked:?}");

    if is_there("promtool") {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let checked = Command::new("promtool")
            .args(["check", "config"])
            .arg(folder.join("prometheus.yml"))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[tokio::test]
async fn who_is_told_to_end_before_it_serves_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    // A database that takes the connection and says nothing: the start waits for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "host: 127.0.0.1\nport: 0\nmaster_key: mk-told-to-end\njournal_dir: {}\n\
         database_url: postgresql://otari:otari@{}/otari\n",
        folder.path().join("journal").display(),
        silent.local_addr().unwrap(),
    );
    let file = folder.path().join("otari.yml");
    std::fs::write(&file, config).unwrap();
    let gateway = Command::new(env!("CARGO_BIN_EXE_otari"))
        .args(["serve", "--config", file.to_str().unwrap()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (asked, _) = silent.accept().unwrap();
    assert!(signal(gateway.id(), "TERM"));
    let ended = gateway.wait_with_output().unwrap();
    drop(asked);
    let log = [ended.stdout, ended.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    assert!(ended.status.success(), "{}: {log}", ended.status);
    assert!(log.contains("told to end before it served"), "{log}");
}
