//! The real `otari` binary: its configuration, its callers, and the rows it must not lose.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;
use crate::call::MODELS;
use crate::load::{Connection, request};
use crate::process::{Process, free_address};
use crate::watchdog::Watchdog;

const MASTER_KEY: &str = "bench-master-key-0123456789";

/// Rows are written behind the answers; after so long without a new one they are lost.
const ROWS_PATIENCE: Duration = Duration::from_secs(15);

/// Longest wait for one answer of the management API.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest wait for it to leave.
const LEAVE: Duration = Duration::from_secs(20);

/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 20;

/// Its SQLite file.
pub(crate) const SQLITE: &str = "otari.db";

/// Providers, all of them the mock: what precedes a model's name.
pub(crate) const OPENAI: &str = "mock:";
pub(crate) const ANTHROPIC: &str = "messages:";
pub(crate) const GEMINI: &str = "gemini:";
/// The second mock, where there is one.
pub(crate) const BULK: &str = "bulk:";

/// What it is started with.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) mock: SocketAddr,
    pub(crate) bulk: Option<SocketAddr>,
    /// `None`: an SQLite file of its own.
    pub(crate) database: Option<&'a str>,
    pub(crate) threads: usize,
}

/// A running gateway in a folder of its own.
pub(crate) struct Gateway {
    // Dropped in this order: who watches, the process, its files.
    _watchdog: Watchdog,
    pub(crate) process: Process,
    folder: TempDir,
    callers: AtomicU32,
}

/// A user with a budget and a key.
pub(crate) struct Caller {
    user: String,
    pub(crate) key: String,
}

/// A folder for a gateway, where large files fit.
pub(crate) fn folder() -> Outcome<TempDir> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&target)?;
    Ok(tempfile::Builder::new().prefix("run-").tempdir_in(target)?)
}

impl Gateway {
    /// Starts it in front of the mock, with a price for every model.
    pub(crate) async fn start(setup: &Setup<'_>) -> Outcome<Self> {
        Self::start_in(folder()?, setup).await
    }

    /// The same on what is in `folder`.
    pub(crate) async fn start_in(folder: TempDir, setup: &Setup<'_>) -> Outcome<Self> {
        let gateway = Self::spawn_in(folder, setup)?;
        gateway.until_listening().await
    }

    /// Starts the process; it does not listen yet.
    pub(crate) fn spawn_in(folder: TempDir, setup: &Setup<'_>) -> Outcome<Self> {
        let address = free_address()?;
        fs::write(folder.path().join("otari.yml"), config(address, setup, folder.path()))?;
        let (watchdog, process) = spawn(folder.path(), address, &[])?;
        Ok(Self { _watchdog: watchdog, process, folder, callers: AtomicU32::new(0) })
    }

    async fn until_listening(mut self) -> Outcome<Self> {
        listening(&mut self.process, self.folder.path()).await?;
        Ok(self)
    }

    /// Asks it to leave; what it kept is in the folder.
    pub(crate) async fn leave(mut self) -> Outcome<TempDir> {
        let status = self.process.leave(LEAVE).await?;
        match status.success() {
            true => Ok(self.folder),
            false => Err(format!("the gateway ended with {status}").into()),
        }
    }

    /// A new user with its own budget and key.
    pub(crate) async fn caller(&self) -> Outcome<Caller> {
        let number = self.callers.fetch_add(1, Relaxed);
        // Names of an earlier start in the same folder are taken.
        let user = format!("bench-{}-{number}", self.process.id());
        let budget = self.ask("POST", "/v1/budgets", Some(json!({"max_budget": 1e9}))).await?;
        let body = json!({"user_id": user, "budget_id": budget["budget_id"]});
        self.ask("POST", "/v1/users", Some(body)).await?;
        let body = json!({"user_id": user, "key_name": "bench"});
        let key = self.ask("POST", "/v1/keys", Some(body)).await?;
        let key = key["key"].as_str().ok_or("no key in the answer")?.to_owned();
        Ok(Caller { user, key })
    }

    /// Usage rows of `caller`, of everybody without one.
    pub(crate) async fn rows(&self, caller: Option<&Caller>) -> Outcome<u64> {
        let of = caller.map(|caller| format!("?user_id={}", caller.user)).unwrap_or_default();
        let count = self.ask("GET", &format!("/v1/usage/count{of}"), None).await?;
        count["total"].as_u64().ok_or_else(|| format!("no number of rows: {count}").into())
    }

    /// How many there are beyond `before`, once there are `expected` or no more come.
    pub(crate) async fn rows_beyond(
        &self,
        caller: Option<&Caller>,
        before: u64,
        expected: u64,
    ) -> Outcome<u64> {
        let (mut found, mut moved) = (0, Instant::now());
        loop {
            let now = self.rows(caller).await?.saturating_sub(before);
            if now > found {
                (found, moved) = (now, Instant::now());
            }
            if found >= expected || moved.elapsed() > ROWS_PATIENCE {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Outcome<Value> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let request = request(method, path, MASTER_KEY, body.as_bytes());
        let mut connection = Connection::open(self.process.address).await?;
        let reply = tokio::time::timeout(ANSWER, connection.exchange(&request)).await??;
        let body = connection.body(&reply);
        if reply.status != 200 {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(format!("{method} {path} answered {}: {text}", reply.status).into());
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// The gateway on `otari.yml` in `folder`, once it listens.
pub(crate) async fn serve(
    folder: &Path,
    address: SocketAddr,
    env: &[(&str, &str)],
) -> Outcome<(Watchdog, Process)> {
    let (watchdog, mut process) = spawn(folder, address, env)?;
    listening(&mut process, folder).await?;
    Ok((watchdog, process))
}

/// The binary that is measured, where it is another than the one that was built with the bench.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// From now on this binary is measured. Counts once.
pub(crate) fn is(binary: PathBuf) {
    BINARY.get_or_init(|| binary);
}

fn spawn(folder: &Path, address: SocketAddr, env: &[(&str, &str)]) -> Outcome<(Watchdog, Process)> {
    let out = fs::File::create(folder.join(LOG))?;
    // Nothing of the caller's environment may reach it: `OTARI_*` would override the file.
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_otari"));
    let child = Command::new(BINARY.get().cloned().unwrap_or_else(built))
        .args(["serve".as_ref(), "--config".as_ref(), folder.join("otari.yml").as_os_str()])
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        // A group of its own: Ctrl-C in the terminal is for the bench.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    let process = Process::new(child, address);
    Ok((Watchdog::new(process.child.id(), folder)?, process))
}

const LOG: &str = "otari.log";

async fn listening(process: &mut Process, folder: &Path) -> Outcome<()> {
    let Err(error) = process.wait_until_listening().await else { return Ok(()) };
    let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    Err(format!("the gateway did not start: {error}; its log:\n{tail}").into())
}

/// The configuration as JSON, which is YAML too.
fn config(address: SocketAddr, setup: &Setup<'_>, folder: &Path) -> String {
    let price = json!({"input_price_per_million": 0.15, "output_price_per_million": 0.6});
    let provider =
        |kind: &str, base: String| json!({"provider_type": kind, "api_base": base, "api_key": "x"});
    let mock = setup.mock;
    let mut providers = json!({
        "mock": provider("openai", format!("http://{mock}/v1")),
        "messages": provider("anthropic", format!("http://{mock}/v1")),
        "gemini": provider("gemini", format!("http://{mock}/v1beta")),
    });
    let mut prefixes = vec![OPENAI, ANTHROPIC, GEMINI];
    if let Some(bulk) = setup.bulk {
        providers["bulk"] = provider("openai", format!("http://{bulk}/v1"));
        prefixes.push(BULK);
    }
    let of = |prefix: &str, model: &str| (format!("{prefix}{model}"), price.clone());
    let prices: serde_json::Map<_, _> = prefixes
        .iter()
        .flat_map(|prefix| MODELS.iter().map(move |model| of(prefix, model)))
        .collect();
    let sqlite = format!("sqlite:///{}", folder.join(SQLITE).display());
    json!({
        "host": address.ip().to_string(),
        "port": address.port(),
        "threads": setup.threads,
        "database_url": setup.database.unwrap_or(&sqlite),
        "journal_dir": folder.join("journal"),
        "master_key": MASTER_KEY,
        "bootstrap_api_key": false,
        "rate_limit_rpm": 1_000_000_000,
        "providers": providers,
        "pricing": prices,
    })
    .to_string()
}
