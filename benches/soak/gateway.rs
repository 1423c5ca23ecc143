//! The real `otari` binary with everything on: its configuration, its users and keys, and whoever ends it if nobody else does.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::Outcome;
use crate::load::{Connection, request};
use crate::mix::{FAULTY_TIMEOUT_S, KEYS, KINDS, USERS};
use crate::process::{Process, free_address};
use crate::watchdog::Watchdog;

const MASTER_KEY: &str = "soak-master-key-0123456789";

/// Longest wait for one answer of the management API: at the end it may have millions of rows to count.
const ANSWER: Duration = Duration::from_secs(120);

/// Longest wait for it to leave: `drain_s` and a flush.
const LEAVE: Duration = Duration::from_secs(60);

/// A running gateway in a folder of its own.
pub(crate) struct Gateway {
    _watchdog: Watchdog,
    pub(crate) process: Process,
    folder: TempDir,
    /// The keys of all users.
    pub(crate) keys: Vec<String>,
}

/// What a user's account says, in micro-dollars.
pub(crate) struct Account {
    pub(crate) spend: i64,
    pub(crate) held: i64,
}

impl Gateway {
    /// Starts it in front of the mock, on SQLite unless there is a database; makes the users.
    pub(crate) async fn start(
        mock: SocketAddr,
        database: Option<&str>,
        threads: Option<usize>,
    ) -> Outcome<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
        fs::create_dir_all(&target)?;
        // Not in /tmp: what an hour writes may be more than fits there.
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(target)?;
        let address = free_address()?;
        let file = folder.path().join("otari.yml");
        fs::write(&file, config(address, mock, database, threads, folder.path()))?;
        let log = OpenOptions::new().create(true).append(true).open(folder.path().join(LOG))?;
        // Nothing of the caller's environment may reach it: `OTARI_*` would override the file.
        let child = Command::new(env!("CARGO_BIN_EXE_otari"))
            .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
            .current_dir(folder.path())
            .env_clear()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let watchdog = Watchdog::new(child.id(), folder.path())?;
        let process = Process::new(child, address);
        let mut gateway = Self { _watchdog: watchdog, process, folder, keys: Vec::new() };
        if let Err(error) = gateway.process.wait_until_listening().await {
            let log = fs::read_to_string(gateway.log()).unwrap_or_default();
            return Err(format!("the gateway did not start: {error}; its log:\n{log}").into());
        }
        gateway.users().await?;
        Ok(gateway)
    }

    /// A user has a budget that is never reached, and keys with a ceiling each.
    async fn users(&mut self) -> Outcome<()> {
        let budget = json!({"name": "soak", "max_budget": 1e6});
        let budget = self.ask("POST", "/v1/budgets", Some(budget)).await?;
        let budget = &budget["budget_id"];
        for user in 0..USERS {
            let user = user_id(user);
            let body = json!({"user_id": user, "budget_id": budget});
            self.ask("POST", "/v1/users", Some(body)).await?;
            for _ in 0..KEYS {
                let body = json!({"user_id": user, "key_name": "soak"});
                let key = self.ask("POST", "/v1/keys", Some(body)).await?;
                let body =
                    json!({"scope_type": "api_token", "scope_id": key["id"], "budget_id": budget});
                self.ask("POST", "/v1/scoped-budgets", Some(body)).await?;
                self.keys.push(key["key"].as_str().ok_or("no key in the answer")?.to_owned());
            }
        }
        Ok(())
    }

    /// Where it keeps what it keeps.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log, to which it appends.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder().join(LOG)
    }

    /// Its SQLite file.
    pub(crate) fn sqlite(&self) -> PathBuf {
        self.folder().join(SQLITE)
    }

    /// Asks the management API; an empty answer is `null`.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Outcome<Value> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let text = self.text(method, path, &body).await?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Its metrics page.
    pub(crate) async fn metrics(&self) -> Outcome<String> {
        Ok(String::from_utf8(self.text("GET", "/metrics", "").await?)?)
    }

    /// The account of a user.
    pub(crate) async fn account(&self, user: usize) -> Outcome<Account> {
        let user = self.ask("GET", &format!("/v1/users/{}", user_id(user)), None).await?;
        let of = |name: &str| {
            let usd = user[name].as_f64().ok_or_else(|| format!("no {name} in {user}"))?;
            Ok::<_, String>((usd * 1e6).round() as i64)
        };
        Ok(Account { spend: of("spend")?, held: of("reserved")? })
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> Outcome<Vec<u8>> {
        let request = request(method, path, MASTER_KEY, body.as_bytes());
        let mut connection = Connection::open(self.process.address).await?;
        let reply = tokio::time::timeout(ANSWER, connection.exchange(&request)).await??;
        let body = connection.body(&reply);
        if reply.status != 200 {
            let text = String::from_utf8_lossy(&body).into_owned();
            return Err(format!("{method} {path} answered {}: {text}", reply.status).into());
        }
        Ok(body)
    }

    /// Asks it to leave and waits until it has.
    pub(crate) async fn leave(&mut self) -> Outcome<ExitStatus> {
        self.process.leave(LEAVE).await
    }
}

const LOG: &str = "otari.log";
const SQLITE: &str = "otari.db";

/// The key of whoever manages.
pub(crate) fn master_key() -> &'static str {
    MASTER_KEY
}

pub(crate) fn user_id(user: usize) -> String {
    format!("soak-{user}")
}

/// The configuration as JSON, which is YAML too: every gate is there, and none is in the way.
fn config(
    address: SocketAddr,
    mock: SocketAddr,
    database: Option<&str>,
    threads: Option<usize>,
    folder: &Path,
) -> String {
    let price = json!({"input_price_per_million": 0.15, "output_price_per_million": 0.6});
    let billed = KINDS.iter().filter(|kind| kind.is_billed());
    let prices: Map<_, _> =
        billed.map(|kind| (format!("{}:{}", kind.provider, kind.model()), price.clone())).collect();
    let provider = |kind: &str, path: &str, timeout: u64| {
        json!({"provider_type": kind, "api_base": format!("http://{mock}{path}"), "api_key": "x",
               "client_args": {"max_retries": 0, "timeout": timeout}})
    };
    let sqlite = format!("sqlite:///{}", folder.join(SQLITE).display());
    let mut config = json!({
        "host": address.ip().to_string(),
        "port": address.port(),
        "database_url": database.unwrap_or(&sqlite),
        "journal_dir": folder.join("journal"),
        "files_local_dir": folder.join("files"),
        "master_key": MASTER_KEY,
        "bootstrap_api_key": false,
        "enable_metrics": true,
        "rate_limit_rpm": 1_000_000_000,
        "rate_limits": [
            {"per": "key", "requests_per_minute": 1_000_000_000, "tokens_per_minute": 4_000_000_000_u32,
             "concurrent": 100_000},
            {"per": "model", "requests_per_minute": 1_000_000_000},
        ],
        "max_concurrent_requests_per_key": 100_000,
        "max_concurrent_requests_per_user": 100_000,
        "providers": {
            "mock": provider("openai", "/v1", 30),
            "messages": provider("anthropic", "/v1", 30),
            "gemini": provider("gemini", "/v1beta", 30),
            "faulty": provider("openai", "/v1", FAULTY_TIMEOUT_S),
        },
        "pricing": prices,
    });
    if let Some(threads) = threads {
        config["threads"] = threads.into();
    }
    config.to_string()
}
