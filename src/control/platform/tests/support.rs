//! A platform that answers as it is told and remembers what it was asked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use otari_filters::control::Caller;
use otari_filters::secret::Secret;
use otari_filters::settle::{Entry, KeptReport, Report, ReportStatus, ReportUsage};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::{Limits, PlatformConfig};
use crate::control::journal::Journal;
use pingora_core::server::configuration::ServerConf;

use crate::control::platform::reporter::{Pace, Reporter};
use crate::control::platform::{Connected, Wires};
use crate::proxy::addresses::Addresses;
use crate::proxy::link::Link;
use crate::telemetry::metrics::Metrics;

pub(super) const GATEWAY_TOKEN: &str = "gw_very-secret";
pub(super) const USER_TOKEN: &str = "tk_very-secret";

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) line: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
    pub(super) at: Instant,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn correlation_id(&self) -> String {
        self.body["correlation_id"].as_str().unwrap_or_default().to_owned()
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Say(u16, String),
    With(u16, &'static str, String),
    /// Closes the connection.
    HangUp,
    /// Says nothing for so long.
    Silence(Duration),
    /// A status, after so long.
    Late(Duration, u16),
}

pub(super) fn say(status: u16) -> Answer {
    Answer::Say(status, String::new())
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// Serves until the test's runtime ends.
pub(super) struct Platform {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    answered: Arc<Mutex<Vec<(String, u16)>>>,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Platform {
    pub(super) async fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(super) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, script): (_, Arc<Script>) = (seen.clone(), Arc::new(script));
        let answered: Arc<Mutex<Vec<(String, u16)>>> = Arc::default();
        let answers = answered.clone();
        let connections: Arc<AtomicUsize> = Arc::default();
        let counter = connections.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let (log, script) = (log.clone(), script.clone());
                let answers = answers.clone();
                open.spawn(async move {
                    let _ = converse(stream, &log, &answers, &*script).await;
                });
                while open.try_join_next().is_some() {}
            }
        });
        Self { address, seen, answered, connections, _serving: serving }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().len()
    }

    /// Correlation ids, with the statuses that were answered.
    pub(super) fn answered(&self) -> Vec<(String, u16)> {
        self.answered.lock().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn config(&self) -> PlatformConfig {
        config(&format!("http://{}/api/v1/", self.address))
    }

    pub(super) fn connected(&self, folder: &std::path::Path) -> Connected {
        connected(self.config(), folder)
    }
}

async fn converse(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    answered: &Mutex<Vec<(String, u16)>>,
    script: &Script,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let mut lines = text.lines();
        let line = lines.next().unwrap().to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        while bytes.len() < head + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let body = serde_json::from_slice(&bytes[head..head + length]).unwrap_or_default();
        bytes.drain(..head + length);
        let seen = Seen { line, headers, body, at: Instant::now() };
        let answer = script(&seen);
        let id = seen.correlation_id();
        log.lock().push(seen);
        let (status, header, body) = match answer {
            Answer::Say(status, body) => (status, "", body),
            Answer::With(status, header, body) => (status, header, body),
            Answer::HangUp => return Ok(()),
            Answer::Silence(long) => {
                tokio::time::sleep(long).await;
                return Ok(());
            }
            Answer::Late(long, status) => {
                tokio::time::sleep(long).await;
                (status, "", String::new())
            }
        };
        answered.lock().push((id, status));
        let length = match status {
            204 => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let answer = format!("HTTP/1.1 {status} So\r\n{header}{length}\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

pub(super) fn config(base_url: &str) -> PlatformConfig {
    PlatformConfig {
        token: Secret::new(GATEWAY_TOKEN),
        base_url: base_url.to_owned(),
        resolve_timeout: Duration::from_millis(400),
        usage_timeout: Duration::from_millis(400),
        usage_max_retries: 3,
        usage_inline_timeout: Duration::from_millis(1500),
        first_event_timeout: Duration::from_millis(2000),
        tool_loop_first_event_timeout: Duration::from_millis(30_000),
        final_attempt_extra: Duration::from_millis(700),
        health_path: "/utils/health-check/".to_owned(),
        management_url: "https://otari.ai".to_owned(),
        report_disconnects: false,
    }
}

pub(super) fn limits() -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        max_connections: NonZeroU32::MAX,
        max_header_bytes: 1 << 16,
        max_header_count: 100,
        header_timeout: second,
        max_concurrent_requests: NonZeroU32::MAX,
        max_concurrent_requests_per_key: None,
        max_concurrent_requests_per_user: None,
        max_journal_bytes: 1 << 30,
        max_request_bytes: 1 << 20,
        request_body_timeout: second,
        request_body_min_bytes_per_s: 0,
        connect_timeout: second,
        first_byte_timeout: 600 * second,
        idle_timeout: 60 * second,
        request_timeout: second,
        downstream_write_timeout: second,
        downstream_keepalive: second,
        streaming_keepalive_interval: second,
        lame_duck: second,
        drain: second,
        upgrade: second,
        reload_interval: Duration::ZERO,
        upstream_pool_size: 1,
    }
}

/// Nothing else in the unit tests chooses what TLS is made of.
pub(super) fn with_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// As the gateway makes them.
pub(super) fn wires(config: &PlatformConfig) -> Wires {
    let second = Duration::from_secs(1);
    let link = || {
        let (server, addresses) = (ServerConf::default(), Arc::<Addresses>::default());
        Arc::new(Link::new(&config.base_url, second, &server, &addresses).unwrap())
    };
    Wires { asking: link(), telling: link() }
}

pub(super) fn connected(config: PlatformConfig, folder: &std::path::Path) -> Connected {
    with_tls();
    let journal = Arc::new(Journal::open(folder).unwrap());
    let metrics = Arc::new(Metrics::new().unwrap());
    let (names, wires) = (vec!["cheap-first".into()], wires(&config));
    Connected::new(config, &limits(), names, wires, journal, metrics).unwrap()
}

pub(super) fn caller() -> Caller {
    Caller::Bearer(Arc::new(Secret::new(USER_TOKEN)))
}

/// Quick enough for tests; nothing is retried within a try's time.
pub(super) fn quick() -> Pace {
    let ms = Duration::from_millis;
    Pace {
        between: ms(10),
        parked: ms(50),
        parked_at_most: ms(400),
        nudge: ms(20),
        look_again: ms(2),
        tidy: ms(20),
        ..Pace::default()
    }
}

/// A reporter on a folder, with everything a test looks at.
pub(super) struct Bench {
    pub(super) reporter: Arc<Reporter>,
    pub(super) journal: Arc<Journal>,
    pub(super) metrics: Arc<Metrics>,
    running: JoinSet<()>,
}

impl Bench {
    pub(super) fn new(config: &PlatformConfig, folder: &std::path::Path, pace: Pace) -> Self {
        with_tls();
        let journal = Arc::new(Journal::open(folder).unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let client =
            Arc::new(crate::control::platform::client::Client::new(config, wires(config)).unwrap());
        let reporter = Arc::new(Reporter::new(client, journal.clone(), metrics.clone(), pace));
        Self { reporter, journal, metrics, running: JoinSet::new() }
    }

    pub(super) fn run(mut self) -> Self {
        let reporter = self.reporter.clone();
        self.running.spawn(async move { reporter.run().await });
        self
    }

    pub(super) fn report(&self, id: &str) -> Option<otari_filters::control::Settling> {
        self.reporter.report(report(id), crate::clock::now_us())
    }

    /// As the process would end by `kill -9`: nothing is said to anybody.
    pub(super) async fn crash(mut self) {
        self.running.shutdown().await;
    }

    /// Until the journal has nothing left to do, which must be soon.
    pub(super) async fn until_done(&self) {
        within(Duration::from_secs(30), || self.journal.applied() == self.journal.end()).await;
    }
}

/// Until something is so.
pub(super) async fn within(at_most: Duration, is_so: impl Fn() -> bool) {
    let until = Instant::now() + at_most;
    while !is_so() {
        assert!(Instant::now() < until, "it did not come to pass within {at_most:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn report(id: &str) -> Report {
    Report {
        correlation_id: id.into(),
        status: ReportStatus::Success,
        is_final_attempt: true,
        session_label: Some("label".into()),
        usage: Some(ReportUsage {
            prompt_tokens: 10,
            completion_tokens: 7,
            total_tokens: 17,
            ..ReportUsage::default()
        }),
        error_class: None,
    }
}

pub(super) fn kept(id: &str, made_at_us: i64) -> Entry {
    Entry::Report(KeptReport { id: format!("own-{id}").into(), made_at_us, report: report(id) })
}

/// What was logged.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
