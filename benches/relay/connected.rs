//! The real `otari` binary in connected mode, with a platform that answers at once, and the reports it must not lose.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;
use crate::gateway::{folder, serve};
use crate::load::{Connection, request};
use crate::process::{Process, free_address};
use crate::watchdog::Watchdog;

/// Reports may follow the answers; after so long without a new one they are lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running gateway and its platform.
pub(crate) struct Connected {
    // Dropped in this order: who watches, the gateway, what it talks to, its files.
    _watchdog: Watchdog,
    pub(crate) process: Process,
    platform: Process,
    _folder: TempDir,
}

impl Connected {
    /// Starts both; the platform sends every call to the mock.
    pub(crate) async fn start(mock: SocketAddr, threads: usize) -> Outcome<Self> {
        let platform = Process::platform(mock).await?;
        let folder = folder()?;
        let address = free_address()?;
        let config = json!({
            "host": address.ip().to_string(),
            "port": address.port(),
            "threads": threads,
            "journal_dir": folder.path().join("journal"),
        });
        fs::write(folder.path().join("otari.yml"), config.to_string())?;
        let base = format!("http://{}/api/v1", platform.address);
        let env = [("OTARI_AI_TOKEN", "gw_bench"), ("PLATFORM_BASE_URL", &*base)];
        let (watchdog, process) = serve(folder.path(), address, &env).await?;
        Ok(Self { _watchdog: watchdog, process, platform, _folder: folder })
    }

    /// Successes the platform was told of so far.
    pub(crate) async fn reports(&self) -> Outcome<u64> {
        let request = request("GET", "/__platform/seen", "none", b"");
        let mut connection = Connection::open(self.platform.address).await?;
        let reply = connection.exchange(&request).await?;
        let seen: Value = serde_json::from_slice(&connection.body(&reply))?;
        seen["counts"]["successes"].as_u64().ok_or_else(|| format!("no counts: {seen}").into())
    }

    /// How many came since there were `before`, once there are `expected` or no more come.
    pub(crate) async fn reports_beyond(&self, before: u64, expected: u64) -> Outcome<u64> {
        let (mut found, mut moved) = (0, Instant::now());
        while found < expected && moved.elapsed() < PATIENCE {
            let now = self.reports().await? - before;
            if now > found {
                (found, moved) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(found)
    }
}
