//! A new binary takes the place of the old one while callers call: the listening socket is held by whoever starts them, as
//! systemd does it with a socket unit.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, MASTER};
use crate::support::provider::{Gate, Provider, Reply};
use crate::support::{COST, DEADLINE, ask, eventually, on_both_databases, priced};

pub(crate) const STREAMS: usize = 500;
const CALLERS: usize = 4;

/// Holds a socket and starts the gateway with it, as systemd would: a line on its input starts one, stops the one before.
const HOLDER: &str = r#"
import os, signal, socket, sys
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen(4096)
s.setblocking(False)
print(s.getsockname()[1], flush=True)
pid = 0
for line in sys.stdin:
    if line.strip() == "upgrade":
        os.kill(pid, signal.SIGUSR2)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        pid = 0
        print("done", flush=True)
        continue
    if pid:
        os.kill(pid, signal.SIGTERM)
        print("stopping", flush=True)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        pid = 0
    if line.strip():
        pid = os.fork()
        if pid == 0:
            os.dup2(s.fileno(), 3)
            os.set_inheritable(3, True)
            os.environ["LISTEN_FDS"] = "1"
            os.environ["LISTEN_PID"] = str(os.getpid())
            program = line.split()
            os.execv(program[0], program)
    print("done", flush=True)
if pid:
    os.kill(pid, signal.SIGTERM)
"#;

/// Whoever holds the socket.
pub(crate) struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Holder {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", HOLDER])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("python3 is on every machine that tests clients");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut new = Self { child, input, output: BufReader::new(output), port: 0 };
        new.port = new.line().parse().expect("a port");
        new
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Asks for a gateway with this file, and that the one before ends; returns at once.
    pub(crate) fn ask(&mut self, file: &std::path::Path) {
        let binary = env!("CARGO_BIN_EXE_otari");
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{binary} serve --config {}", file.display()).unwrap();
    }
}

impl Holder {
    /// Has the gateway give its place to a new process.
    pub(crate) fn upgrade(&mut self) {
        writeln!(self.input.as_mut().unwrap(), "upgrade").unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

async fn a_restart_breaks_no_stream_and_refuses_no_call(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        let reply = Reply::chat(request, &["Hel", "lo"]);
        if request.json()["stream"] == json!(true) { reply.gated(1, &held) } else { reply }
    });
    let mut holder = Holder::start();
    let start = start.config(&format!("port: {}\ndrain_s: 60\nlog_level: error", holder.port));
    let start = priced(start, &provider);
    let (_, file) = start.write();
    let base = format!("http://127.0.0.1:{}", holder.port);
    holder.ask(&file);
    assert_eq!(holder.line(), "done");
    let call = Call::new(&base).await;

    let begun = Arc::new(AtomicUsize::new(0));
    let streams = open_streams(&call, &begun);
    eventually("all streams to begin", async || {
        (begun.load(Ordering::SeqCst) == STREAMS).then_some(())
    })
    .await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = start_callers(&call, &stop, &served);
    let more = async |count: usize| {
        let before = served.load(Ordering::SeqCst);
        let what = "calls to be served";
        eventually(what, async || (served.load(Ordering::SeqCst) > before + count).then_some(()))
            .await;
    };
    more(20).await;

    holder.ask(&file);
    assert_eq!(holder.line(), "stopping");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(begun.load(Ordering::SeqCst), STREAMS);
    gate.open(100 * STREAMS);
    let texts = streams.join_all().await;
    assert!(texts.iter().all(|text| text.contains("lo") && text.ends_with("data: [DONE]\n\n")));
    assert_eq!(holder.line(), "done");
    // The new one serves, those who waited first.
    more(20).await;
    stop.store(true, Ordering::SeqCst);
    callers.join_all().await;

    let calls = STREAMS + served.load(Ordering::SeqCst);
    accounts_are_whole(&base, calls).await;
    drop(holder);
    drop(start);
}

/// A caller who takes a new connection for every call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: String,
    /// What is asked, not streamed.
    pub(crate) body: Value,
    /// The longest call of [`start_callers`], in milliseconds.
    pub(crate) longest: Arc<AtomicUsize>,
}

impl Call {
    pub(crate) async fn new(base: &str) -> Self {
        let http = Self::client();
        let made = http.post(format!("{base}/v1/keys")).bearer_auth(MASTER);
        let made = made.json(&json!({"user_id": "u"})).send().await.unwrap();
        let made: Value = made.json().await.unwrap();
        Self::with(http, base, made["key"].as_str().unwrap(), ask())
    }

    pub(crate) fn with(http: reqwest::Client, base: &str, key: &str, body: Value) -> Self {
        let url = format!("{base}/v1/chat/completions");
        Self { http, url, key: key.to_owned(), body, longest: Arc::default() }
    }

    /// A client that takes a new connection for every call.
    pub(crate) fn client() -> reqwest::Client {
        Self::client_that_keeps(0)
    }

    /// A client that keeps at most so many connections.
    pub(crate) fn client_that_keeps(connections: usize) -> reqwest::Client {
        // Makes TLS ready for the clients of this test, as every other test does by starting a gateway.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(connections)
            .retry(reqwest::retry::never())
            .timeout(DEADLINE * 3)
            .build()
            .unwrap()
    }

    pub(crate) async fn ask(&self, body: Value) -> reqwest::Response {
        let answer = self.http.post(&self.url).bearer_auth(&self.key).json(&body).send().await;
        let answer = answer.expect("no call is refused");
        assert_eq!(answer.status(), 200);
        answer
    }
}

/// Opens them all; each ends with its whole text.
pub(crate) fn open_streams(call: &Call, begun: &Arc<AtomicUsize>) -> JoinSet<String> {
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (call, begun) = (call.clone(), begun.clone());
        streams.spawn(async move {
            let mut body = call.body.clone();
            body["stream"] = json!(true);
            let mut answer = call.ask(body).await;
            let mut text = Vec::new();
            while let Some(piece) = answer.chunk().await.expect("no stream breaks") {
                if text.is_empty() {
                    begun.fetch_add(1, Ordering::SeqCst);
                }
                text.extend(piece);
            }
            String::from_utf8(text).unwrap()
        });
    }
    streams
}

/// Callers who ask again and again until they are to stop.
pub(crate) fn start_callers(
    call: &Call,
    stop: &Arc<AtomicBool>,
    served: &Arc<AtomicUsize>,
) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (call, stop, served) = (call.clone(), stop.clone(), served.clone());
        callers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                call.ask(call.body.clone()).await.bytes().await.expect("a whole answer");
                let took = usize::try_from(begun.elapsed().as_millis()).unwrap_or(usize::MAX);
                call.longest.fetch_max(took, Ordering::SeqCst);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    callers
}

/// As many rows as calls, and what they cost together is spent.
pub(crate) async fn accounts_are_whole(base: &str, calls: usize) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    eventually("spend and rows to be those of all calls", async || {
        let get = async |path: &str| -> Value {
            let answer = http.get(format!("{base}{path}")).bearer_auth(MASTER).send().await;
            answer.unwrap().json().await.unwrap()
        };
        let user = get("/v1/users/u").await;
        let spend = user["spend"].as_f64().unwrap();
        let (count, held) = (get("/v1/usage/count").await["total"].clone(), &user["reserved"]);
        assert!(spend < (calls as f64 + 0.5) * COST, "nothing twice: {user}");
        let is_whole = (spend - calls as f64 * COST).abs() < 1e-6 && *held == json!(0.0);
        (is_whole && count == json!(calls)).then_some(())
    })
    .await;
}

on_both_databases!(a_restart_breaks_no_stream_and_refuses_no_call);
