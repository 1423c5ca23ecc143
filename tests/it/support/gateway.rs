//! The real binary on a free port, with a folder and a database of its own, driven through HTTP only.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once, PoisonError};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::platform::{GATEWAY_TOKEN, Platform};
use super::provider::Provider;
use super::raw::{Raw, RawReply};
use super::{DEADLINE, eventually, postgres};

/// The master key of every gateway under test.
pub(crate) const MASTER: &str = "otari-mk-for-the-tests-0123456789";

/// The provider key of every gateway under test; it must never reach a caller or a log.
pub(crate) const UPSTREAM_KEY: &str = "sk-upstream-secret";

/// What a gateway under test is started with. Await it to start.
#[must_use]
pub(crate) struct Builder {
    dir: TempDir,
    /// Top-level blocks of the configuration by key; a later one of the same key wins.
    config: Vec<(String, String)>,
    providers: String,
    pricing: String,
    /// Its whole environment, besides what every process needs.
    env: Vec<(String, String)>,
    /// What is mounted for it alone.
    mount: Option<Mount>,
    /// Keeps the database alive as long as the gateway.
    database: Option<postgres::Database>,
    /// What is started in the place of the built binary.
    program: Option<PathBuf>,
}

/// Something in a namespace of mounts, for one gateway.
enum Mount {
    /// This file in the place of `/etc/hosts`.
    Hosts(PathBuf),
    /// A disk of so many kilobytes in the place of this folder.
    Disk(PathBuf, u32),
}

impl Builder {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let path = dir.path().display();
        let config = format!(
            "database_url: sqlite:///{path}/otari.db\njournal_dir: {path}/journal\nhost: 127.0.0.1\nport: 0\n\
             master_key: {MASTER}\nbootstrap_api_key: false\nmodel_discovery: false\nlame_duck_s: 0\ndrain_s: 5\n\
             files_local_dir: {path}/files\n"
        );
        let (providers, pricing) = (String::new(), String::new());
        let (env, mount, database) = (Vec::new(), None, None);
        let program = None;
        let empty =
            Self { dir, config: Vec::new(), providers, pricing, env, mount, database, program };
        empty.config(&config)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Started by a path of its own, which leads to the built binary until [`Gateway::install`] puts something else there.
    pub(crate) fn installed(mut self) -> Self {
        let path = self.dir.path().join("otari");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_otari"), &path).expect("a link");
        self.program = Some(path);
        self
    }

    /// With these names in the place of this machine's, for the gateway alone. `None`: the system does not let whoever
    /// runs the tests have such a namespace.
    pub(crate) fn hosts(self, lines: &str) -> Option<Self> {
        let file = self.dir.path().join("hosts");
        std::fs::write(&file, lines).expect("the temporary folder is writable");
        self.mount(Mount::Hosts(file))
    }

    /// With a disk of so many kilobytes in the place of a folder of its own. `None`: as for [`Self::hosts`].
    pub(crate) fn small_disk(self, folder: &str, kilobytes: u32) -> Option<Self> {
        let folder = self.dir.path().join(folder);
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        self.mount(Mount::Disk(folder, kilobytes))
    }

    fn mount(mut self, mount: Mount) -> Option<Self> {
        let tried = mount.around().arg("/bin/true").output().ok()?;
        self.mount = Some(mount);
        tried.status.success().then_some(self)
    }

    /// On a SQLite file of its own; the default.
    pub(crate) fn sqlite(self) -> Self {
        self
    }

    /// On an empty PostgreSQL database of its own.
    pub(crate) fn postgres(mut self) -> Self {
        let database = postgres::database();
        let url = format!("database_url: {}", database.url);
        self.database = Some(database);
        self.config(&url)
    }

    /// Whether it is on PostgreSQL.
    pub(crate) fn is_postgres(&self) -> bool {
        self.database.is_some()
    }

    /// In connected mode before `platform`, with nothing of its own: no database, no master key.
    pub(crate) fn connected(mut self, platform: &Platform) -> Self {
        const OWN: [&str; 3] = ["database_url", "master_key", "bootstrap_api_key"];
        self.config.retain(|(key, _)| !OWN.contains(&key.as_str()));
        self.env("OTARI_AI_TOKEN", GATEWAY_TOKEN).env("PLATFORM_BASE_URL", &platform.base())
    }

    /// On a database whose server the test stops and starts.
    pub(crate) fn postgres_at(mut self, database: postgres::Database) -> Self {
        let url = format!("database_url: {}", database.url);
        self.database = Some(database);
        self.config(&url)
    }

    /// Sets top-level keys, as YAML; a key set before is replaced.
    pub(crate) fn config(mut self, yaml: &str) -> Self {
        for line in yaml.lines().filter(|line| !line.is_empty()) {
            let nested = line.starts_with([' ', '-']);
            match (nested, self.config.last_mut(), line.split_once(':')) {
                (true, Some((_, block)), _) => *block += &format!("{line}\n"),
                (false, _, Some((key, _))) => {
                    self.config.retain(|(known, _)| known != key);
                    self.config.push((key.into(), format!("{line}\n")));
                }
                _ => panic!("not a top-level key of the configuration: {line}"),
            }
        }
        self
    }

    /// Adds an OpenAI-style provider that is tried once.
    pub(crate) fn provider(self, name: &str, provider: &Provider) -> Self {
        self.provider_at(name, &provider.base(), "")
    }

    /// Adds an OpenAI-style provider at any address, with further keys of its block (`"models: [m], x: y"`).
    pub(crate) fn provider_at(self, name: &str, base: &str, further: &str) -> Self {
        self.provider_of("openai", name, base, further)
    }

    /// Adds a provider of any type, tried once, with further keys of its block.
    pub(crate) fn provider_of(mut self, kind: &str, name: &str, base: &str, further: &str) -> Self {
        self.providers += &format!(
            "  {name}: {{provider_type: {kind}, api_base: \"{base}\", api_key: \"{UPSTREAM_KEY}\", \
             client_args: {{max_retries: 0}}{}{further}}}\n",
            if further.is_empty() { "" } else { ", " },
        );
        self
    }

    /// Adds a provider of the type `kind`, under that name, tried once, with the other keys of its entry (`", x: y"`) and
    /// no API key.
    pub(crate) fn provider_without_key(mut self, kind: &str, base: &str, more: &str) -> Self {
        self.providers += &format!(
            "  {kind}: {{provider_type: {kind}, api_base: \"{base}\", client_args: {{max_retries: 0}}{more}}}\n"
        );
        self
    }

    /// Prices `selector`, in USD per million input and output tokens.
    pub(crate) fn price(mut self, selector: &str, input: f64, output: f64) -> Self {
        self.pricing += &format!(
            "  \"{selector}\": {{input_price_per_million: {input}, output_price_per_million: {output}}}\n"
        );
        self
    }

    /// Writes the configuration without starting anything; returns the folder and the file.
    pub(crate) fn write(&self) -> (PathBuf, PathBuf) {
        let mut yaml: String = self.config.iter().map(|(_, block)| block.as_str()).collect();
        for (key, block) in [("providers", &self.providers), ("pricing", &self.pricing)] {
            if !block.is_empty() {
                yaml += &format!("{key}:\n{block}");
            }
        }
        let file = self.dir.path().join("config.yml");
        std::fs::write(&file, yaml).expect("the temporary folder is writable");
        (self.dir.path().to_owned(), file)
    }

    async fn start(self) -> Gateway {
        let (_, file) = self.write();
        static TLS: Once = Once::new();
        TLS.call_once(|| {
            // reqwest is built without a crypto provider, as the gateway is; somebody has to name one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // A test counts what it asked for: nothing may be asked twice behind its back.
            .retry(reqwest::retry::never())
            .timeout(DEADLINE * 3)
            .build()
            .expect("a client without TLS roots of its own");
        let log = Arc::new(Mutex::new(String::new()));
        let heirs = Vec::new();
        let mut gateway = Gateway { kept: self, file, http, log, child: None, addr: None, heirs };
        gateway.spawn().await;
        gateway
    }
}

impl IntoFuture for Builder {
    type Output = Gateway;
    type IntoFuture = Pin<Box<dyn Future<Output = Gateway>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

/// A running gateway; stopped, first politely, when dropped.
pub(crate) struct Gateway {
    kept: Builder,
    file: PathBuf,
    http: reqwest::Client,
    log: Arc<Mutex<String>>,
    child: Option<Child>,
    addr: Option<SocketAddr>,
    /// Processes that took the place of `child`, or were to.
    heirs: Vec<u32>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The header as text, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} without JSON ({error}): {}", self.status, self.text())
        })
    }

    /// Panics with the body unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Checks that this is a refusal of this status that every client can read, in both shapes; returns its JSON.
    pub(crate) fn refused(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        let error = &body["error"];
        let sentence = error["message"].as_str().unwrap_or_default();
        assert!(!sentence.is_empty() && error["type"].is_string(), "OpenAI's error object: {body}");
        assert!(
            error.get("param").is_some() && error.get("code").is_some(),
            "with all four keys: {body}"
        );
        let detail = &body["detail"];
        assert!(
            detail == sentence || detail.is_array(),
            "the reference's `detail` says the same: {body}"
        );
        assert!(!self.request_id().is_empty(), "a refusal can be asked about");
        body
    }

    /// As [`Self::refused`], and the gateway says that it was its own decision and that asking again is of no use.
    pub(crate) fn refused_for_good(&self, status: u16) -> Value {
        let body = self.refused(status);
        assert_eq!(self.header("otari-error-source"), Some("gateway"), "{body}");
        assert_eq!(self.header("x-should-retry"), Some("false"), "{body}");
        body
    }

    /// The gateway's id of the request.
    pub(crate) fn request_id(&self) -> &str {
        self.header("x-request-id").expect("every answer carries x-request-id")
    }
}

impl Gateway {
    /// A gateway on SQLite with a master key, no bootstrap key and no model discovery.
    pub(crate) fn start() -> Builder {
        Builder::new()
    }

    /// Runs the binary with these arguments and an empty environment until it ends.
    pub(crate) fn run(arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("the built binary runs")
    }

    async fn spawn(&mut self) {
        let binary = self.kept.program.clone();
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_otari").into());
        let mut command = match &self.kept.mount {
            None => Command::new(&binary),
            Some(mount) => {
                let mut command = mount.around();
                command.arg(&binary);
                command
            }
        };
        command.arg("serve").arg("--config").arg(&self.file);
        // Nothing of the developer's shell may reach it: no keys, no proxies, no .env.
        command.env_clear().env("RUST_BACKTRACE", "1").env("HOME", self.kept.dir.path());
        command.envs(self.kept.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.kept.dir.path()).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        let before = self.log().len();
        follow(child.stdout.take(), self.log.clone());
        follow(child.stderr.take(), self.log.clone());
        self.child = Some(child);
        let addr = eventually("the gateway to say where it listens", async || {
            let log = self.log();
            if let Some(ended) = self.child.as_mut().and_then(|child| child.try_wait().ok()?) {
                panic!("the gateway ended with {ended} instead of serving:\n{log}");
            }
            log[before..].lines().find_map(listening)
        })
        .await;
        self.addr = Some(addr);
        if self.kept.config.iter().any(|(key, _)| key == "tls_cert_path") {
            // This client knows no authority; the line says that the port answers.
            return;
        }
        eventually("GET /health to answer 200", async || {
            let answer = self.http.get(self.url("/health")).send().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    /// The HTTP client, for calls that may fail: it follows, repeats and retries nothing.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// All it has printed since its first start.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folder of its own, in which its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.kept.dir.path()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running gateway").id()
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr.expect("a started gateway has an address")
    }

    /// The address of `path`, which starts with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// The most memory that it has ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kilobytes: u64 =
            line.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes");
        kilobytes << 10
    }

    /// What the system says of its process, under this name in `/proc`.
    pub(crate) fn proc(&self, name: &str) -> String {
        let pid = self.child.as_ref().expect("a running gateway").id();
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("Linux says it")
    }

    /// Asks it to stop, and does not wait.
    pub(crate) fn signal_term(&self) {
        self.signal("TERM");
    }

    /// Sends it this signal.
    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "SIG{name} could not be sent");
    }

    /// Puts a program of this text in the place of the one it was started as.
    pub(crate) fn install(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.kept.program.as_ref().expect("a gateway that is installed");
        let new = path.with_extension("new");
        std::fs::write(&new, script).expect("the temporary folder is writable");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("its own");
        std::fs::rename(new, path).expect("the same folder");
    }

    /// Has it start the process that is to take its place; returns that one as soon as it is there.
    pub(crate) async fn begin_upgrade(&mut self) -> u32 {
        let before = self.log().len();
        self.signal("USR2");
        self.begun_since(before).await
    }

    async fn begun_since(&mut self, before: usize) -> u32 {
        let pid = eventually("a new process to be started", async || {
            let log = self.log();
            let line = log[before..].lines().find(|line| line.contains("a new process was"))?;
            let line: Value = serde_json::from_str(line).ok()?;
            let pid = line.get("pid").or_else(|| line["fields"].get("pid"))?.as_u64()?;
            u32::try_from(pid).ok()
        })
        .await;
        self.heirs.push(pid);
        pid
    }

    /// Has another process take its place, and waits until that one serves; returns it.
    pub(crate) async fn upgrade(&mut self) -> u32 {
        let before = self.log().len();
        self.signal("USR2");
        self.heir_since(before).await
    }

    /// The process that has taken the place of another, as the log says from this place on.
    pub(crate) async fn heir_since(&mut self, before: usize) -> u32 {
        let pid = self.begun_since(before).await;
        eventually("another process to serve", async || {
            self.log()[before..].contains("another process serves").then_some(())
        })
        .await;
        pid
    }

    /// Asks it to stop and waits until it has; returns how it ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal_term();
        self.ended().await
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running gateway");
        eventually("the gateway to end", async || child.try_wait().expect("its own child")).await
    }

    /// Kills it: no handler runs, nothing is flushed.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("its own child");
            child.wait().expect("its own child");
        }
    }

    /// Starts it again, on the same folder and database, after a stop or a kill. The port changes.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "stop or kill the gateway before restarting it");
        Box::pin(self.spawn()).await;
    }

    /// Sends a request with these headers and bytes; returns the answer once it is whole.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let answer = self.open(method, path, headers, body).await;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        match answer.bytes().await {
            Ok(body) => Answer { status, headers, body: body.to_vec() },
            Err(error) => panic!("the answer ({status}) broke off: {error:?}\n{}", self.log()),
        }
    }

    /// Sends a request and returns when the head of the answer is there.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Response {
        let mut request = self.http.request(method, self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.send().await {
            Ok(answer) => answer,
            Err(error) => panic!("no answer from {path}: {error:?}\n{}", self.log()),
        }
    }

    /// A GET without credentials.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// A JSON POST with this key as bearer.
    pub(crate) async fn post(
        &self,
        key: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send(Method::POST, path, &headers, body).await
    }

    /// A chat completion, its body as JSON.
    pub(crate) async fn chat(&self, key: &str, body: &Value) -> Answer {
        self.post(key, "/v1/chat/completions", body.to_string()).await
    }

    /// Opens a chat stream; read it with `chunk()`, leave it by dropping it.
    pub(crate) async fn stream(&self, key: &str, body: &Value) -> reqwest::Response {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.open(Method::POST, "/v1/chat/completions", &headers, body.to_string()).await
    }

    /// A caller's connection, for exact bytes and for hanging up.
    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.addr()).await
    }

    /// Sends `head` (without its last empty line) and `body` byte for byte; returns the answer.
    pub(crate) async fn raw(&self, head: &str, body: &[u8]) -> RawReply {
        let mut raw = self.connect().await;
        raw.send(format!("{head}\r\n\r\n")).await;
        // A refused caller may be cut off while it still sends; what it can read is what counts.
        let _ = raw.try_send(body).await;
        raw.reply_to(head.split(' ').next().unwrap_or_default()).await
    }

    /// A management call that must answer 2xx; returns its JSON, null without a body.
    pub(crate) async fn manage(&self, method: Method, path: &str, body: Value) -> Value {
        let bearer = format!("Bearer {MASTER}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method.clone(), path, &headers, body).await;
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path} answered {}: {}",
            answer.status,
            answer.text()
        );
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// A new key of this user, who is created when unknown; returns the key itself.
    pub(crate) async fn key(&self, user: &str) -> String {
        let made = self.manage(Method::POST, "/v1/keys", json!({"user_id": user})).await;
        made["key"].as_str().expect("a created key is shown once").to_owned()
    }

    /// A new user, under this budget if any.
    pub(crate) async fn user(&self, id: &str, budget: Option<&str>) {
        self.manage(Method::POST, "/v1/users", json!({"user_id": id, "budget_id": budget})).await;
    }

    /// A new budget of this many USD; returns its id.
    pub(crate) async fn budget(&self, max: f64) -> String {
        let made = self.manage(Method::POST, "/v1/budgets", json!({"max_budget": max})).await;
        made["budget_id"].as_str().expect("a budget has an id").to_owned()
    }

    /// The usage rows of all attempts, newest first, once there are `count`; panics when there are more. The rows of
    /// calls that the gateway itself refused, which are attempts of nothing, are left out.
    pub(crate) async fn usage(&self, count: usize) -> Vec<Value> {
        let rows = eventually("usage rows", async || {
            let mut rows = self.all_usage().await;
            rows.retain(|row| row["attempt_position"] != 0);
            (rows.len() >= count).then_some(rows)
        })
        .await;
        assert_eq!(rows.len(), count, "usage rows: {rows:#?}\n{}", self.log());
        rows
    }

    /// All usage rows there are now, newest first, page by page.
    pub(crate) async fn all_usage(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        loop {
            let path = format!("/v1/usage?limit=1000&skip={}", rows.len());
            let page = self.manage(Method::GET, &path, Value::Null).await;
            let page = page.as_array().expect("usage is a list").clone();
            let last = page.len() < 1000;
            rows.extend(page);
            if last {
                return rows;
            }
        }
    }

    /// Runs statements on its database, behind its back; both dialects must understand them.
    pub(crate) fn sql(&self, sql: &str) {
        match &self.kept.database {
            Some(database) => postgres::execute(&database.url, sql).expect("PostgreSQL does it"),
            None => {
                let file = self.kept.dir.path().join("otari.db");
                let db = rusqlite::Connection::open(file).expect("the gateway's own file");
                db.busy_timeout(DEADLINE).expect("a busy gateway is waited for");
                db.execute_batch(sql).expect("SQLite does it");
            }
        }
    }

    /// The user's settled spend, once nothing is held for them any more.
    pub(crate) async fn settled(&self, user: &str) -> f64 {
        let path = format!("/v1/users/{user}");
        eventually("`reserved` to be 0", async || {
            let user = self.manage(Method::GET, &path, Value::Null).await;
            (user["reserved"].as_f64() == Some(0.0))
                .then(|| user["spend"].as_f64().expect("a number"))
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for heir in &self.heirs {
            signal(*heir, "KILL");
        }
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            // The log is half of the explanation; libtest shows it with the failed test only.
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            eprintln!("--- last words of the gateway ---\n{tail}\n---");
        } else {
            self.signal_term();
            for _ in 0..100 {
                let child = self.child.as_mut().expect("checked above");
                if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        self.kill9();
    }
}

/// Sends a process this signal. Says whether there is such a process.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    // The shell's own `kill`: a slim Debian has no /bin/kill.
    let script = "kill -$1 \"$0\" 2>/dev/null";
    let sent = Command::new("sh").args(["-c", script, &pid.to_string(), name]).status();
    sent.is_ok_and(|status| status.success())
}

impl Mount {
    /// Runs what is added to it as arguments, in a namespace where this is mounted.
    fn around(&self) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c"]);
        let (mount, place) = match self {
            Self::Hosts(file) => ("--bind \"$0\" /etc/hosts".to_owned(), file),
            Self::Disk(folder, kilobytes) => {
                (format!("-t tmpfs -o size={kilobytes}k small \"$0\""), folder)
            }
        };
        command.arg(format!("/usr/bin/mount {mount} && exec \"$@\"")).arg(place);
        command
    }
}

/// Copies what a process prints into the log, line by line, until it ends.
fn follow(output: Option<impl Read + Send + 'static>, log: Arc<Mutex<String>>) {
    let output = BufReader::new(output.expect("the output is piped"));
    std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            *log += &String::from_utf8_lossy(&line);
            *log += "\n";
        }
    });
}

/// The address in a line that says where the gateway listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let from = line.find("://127.0.0.1:").filter(|_| line.contains("listening"))? + "://".len();
    let end = line[from..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    line[from..end.map_or(line.len(), |end| from + end)].parse().ok()
}

mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_both_log_formats() {
        let port = |line| listening(line).map(|addr| addr.port());
        assert_eq!(port("listening  http://127.0.0.1:8000   API /v1"), Some(8000));
        assert_eq!(
            port(r#"{"message":"listening on http://127.0.0.1:41/","level":"INFO"}"#),
            Some(41)
        );
        assert_eq!(port("listening soon"), None);
        assert_eq!(port("proxy http://127.0.0.1:1"), None);
    }

    #[test]
    fn a_later_key_replaces_an_earlier_one() {
        let builder = Gateway::start()
            .config("port: 1\ncors_allow_origins:\n  - https://a\nport: 2")
            .provider_at("p", "http://127.0.0.1:9/v1", "models: [m]")
            .price("p:m", 1.0, 2.5);
        let (_, file) = builder.write();
        let yaml = std::fs::read_to_string(file).unwrap();
        assert_eq!(yaml.matches("port:").count(), 1, "a key stands once: {yaml}");
        assert!(yaml.contains("port: 2\n") && yaml.contains("origins:\n  - https://a\n"), "{yaml}");
        assert!(yaml.contains("max_retries: 0}, models: [m]}\n"), "{yaml}");
        assert!(yaml.ends_with("output_price_per_million: 2.5}\n"), "{yaml}");
    }
}
