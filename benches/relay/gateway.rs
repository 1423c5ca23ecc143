//! The real `otari` binary on SQLite: its configuration, its callers, and the rows it must not lose.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{Connection, request};
use crate::process::{Process, free_address};
use crate::{Outcome, SCENARIOS, TRANSLATED};

const MASTER_KEY: &str = "bench-master-key-0123456789";

/// Rows are written behind the answers; after so long without a new one they are lost.
const ROWS_PATIENCE: Duration = Duration::from_secs(15);

/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 20;

/// A running gateway in a folder of its own.
pub(crate) struct Gateway {
    // Dropped in this order: first the process, then its files.
    pub(crate) process: Process,
    _folder: TempDir,
    callers: AtomicU32,
}

/// A user with a budget and a key.
pub(crate) struct Caller {
    user: String,
    pub(crate) key: String,
}

impl Gateway {
    /// Starts it in front of the mock, with a price for every model of the scenarios.
    pub(crate) async fn start(mock: SocketAddr, threads: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let file = folder.path().join("otari.yml");
        fs::write(&file, config(address, mock, threads, folder.path()))?;
        let process = serve(folder.path(), address, &[]).await?;
        let gateway = Self { process, _folder: folder, callers: AtomicU32::new(0) };
        gateway.ask("GET", "/health", None).await?;
        Ok(gateway)
    }

    /// A new user with its own budget and key.
    pub(crate) async fn caller(&self) -> Outcome<Caller> {
        let user = format!("bench-{}", self.callers.fetch_add(1, Relaxed));
        let budget = self.ask("POST", "/v1/budgets", Some(json!({"max_budget": 1e9}))).await?;
        let body = json!({"user_id": user, "budget_id": budget["budget_id"]});
        self.ask("POST", "/v1/users", Some(body)).await?;
        let body = json!({"user_id": user, "key_name": "bench"});
        let key = self.ask("POST", "/v1/keys", Some(body)).await?;
        let key = key["key"].as_str().ok_or("no key in the answer")?.to_owned();
        Ok(Caller { user, key })
    }

    /// Usage rows of `caller`, once there are `expected` or no more come.
    pub(crate) async fn rows(&self, caller: &Caller, expected: u64) -> Outcome<u64> {
        let mut found = 0;
        let mut moved = Instant::now();
        loop {
            // Cheap questions while they arrive; exact ones at the end, to see too many as well.
            while self.has_row(caller, found).await? {
                found = self.count_from(caller, found).await?;
                moved = Instant::now();
            }
            if found >= expected || moved.elapsed() > ROWS_PATIENCE {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Counts by looking for the first empty place at or after `low`, which is known to be taken.
    async fn count_from(&self, caller: &Caller, low: u64) -> Outcome<u64> {
        let (mut low, mut step) = (low, 1);
        while self.has_row(caller, low + step).await? {
            low += step;
            step *= 2;
        }
        let mut high = low + step;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.has_row(caller, middle).await? {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(high)
    }

    /// Is there a row after the first `skip`?
    async fn has_row(&self, caller: &Caller, skip: u64) -> Outcome<bool> {
        let path = format!("/v1/usage?user_id={}&limit=1&skip={skip}", caller.user);
        let rows = self.ask("GET", &path, None).await?;
        Ok(!rows.as_array().ok_or("usage is not a list")?.is_empty())
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Outcome<Value> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let request = request(method, path, MASTER_KEY, body.as_bytes());
        let mut connection = Connection::open(self.process.address).await?;
        let reply = connection.exchange(&request).await?;
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
) -> Outcome<Process> {
    let log = folder.join("otari.log");
    let out = fs::File::create(&log)?;
    // Nothing of the caller's environment may reach it: `OTARI_*` would override the file.
    let child = Command::new(env!("CARGO_BIN_EXE_otari"))
        .args(["serve".as_ref(), "--config".as_ref(), folder.join("otari.yml").as_os_str()])
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    let mut process = Process::new(child, address);
    if let Err(error) = process.wait_until_listening().await {
        let log = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        return Err(format!("the gateway did not start: {error}; its log:\n{tail}").into());
    }
    Ok(process)
}

/// The configuration as JSON, which is YAML too.
fn config(address: SocketAddr, mock: SocketAddr, threads: usize, folder: &Path) -> String {
    let price = json!({"input_price_per_million": 0.15, "output_price_per_million": 0.6});
    let of = |prefix: &str, model: &str| (format!("{prefix}{model}"), price.clone());
    let prefixes = || TRANSLATED.iter().map(|(_, prefix)| *prefix).chain(["mock:"]);
    let prices: serde_json::Map<_, _> =
        SCENARIOS.iter().flat_map(|s| prefixes().map(move |prefix| of(prefix, s.model))).collect();
    let provider =
        |kind: &str, base: String| json!({"provider_type": kind, "api_base": base, "api_key": "x"});
    json!({
        "host": address.ip().to_string(),
        "port": address.port(),
        "threads": threads,
        "database_url": format!("sqlite:///{}", folder.join("otari.db").display()),
        "master_key": MASTER_KEY,
        "bootstrap_api_key": false,
        "rate_limit_rpm": 1_000_000_000,
        "providers": {
            "mock": provider("openai", format!("http://{mock}/v1")),
            "messages": provider("anthropic", format!("http://{mock}/v1")),
            "gemini": provider("gemini", format!("http://{mock}/v1beta")),
        },
        "pricing": prices,
    })
    .to_string()
}
