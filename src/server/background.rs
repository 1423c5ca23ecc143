//! What runs beside requests: each a service of Pingora's, with a runtime of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use otari_filters::providers::Family;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::Signal;

use crate::app::{App, Mode, Standalone, StartError};
use crate::batches::{Runner, Watcher};
use crate::config::Config;
use crate::control::platform::Connected;
use crate::credentials::Credentials;
use crate::mock;
use crate::mock::platform::Platform;
use crate::proxy::inner::InnerCalls;
use crate::reload::Reloader;

/// How often idle connections and names are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Takes the journal to the store for as long as the process lives.
pub(super) struct JournalService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for JournalService {
    async fn start(&self, _: ShutdownWatch) {
        // Does not stop at the signal: requests that drain still write records.
        self.0.writer.run().await;
    }
}

/// Takes reports to the platform for as long as the process lives.
pub(super) struct ReportService(pub(super) Arc<Connected>);

#[async_trait]
impl BackgroundService for ReportService {
    async fn start(&self, _: ShutdownWatch) {
        // Does not stop at the signal: requests that drain still leave reports.
        self.0.run().await;
    }
}

/// Brings on what other processes of the same folder leave.
pub(super) struct HeirService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for HeirService {
    async fn start(&self, _: ShutdownWatch) {
        self.0.heir.run().await;
    }
}

/// Keeps in step with the other gateways on the database.
pub(super) struct FollowService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for FollowService {
    async fn start(&self, _: ShutdownWatch) {
        // Does not stop at the signal either: requests that drain still hold budget.
        self.0.follower.run().await;
    }
}

/// Keeps rate limits in step with the other gateways on the database.
pub(super) struct RatesService {
    pub(super) app: Arc<App>,
    pub(super) mode: Arc<Standalone>,
}

#[async_trait]
impl BackgroundService for RatesService {
    async fn start(&self, _: ShutdownWatch) {
        // Does not stop at the signal: requests that drain still use their limits.
        if let Some(shared) = self.mode.store.shared() {
            self.app.rates.share(shared, &self.app.metrics).await;
        }
    }
}

/// Asks providers for the lists of their models, until the gateway leaves.
pub(super) struct DiscoveryService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for DiscoveryService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.0.local.discovery.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// Reads the configuration again when told to, until the gateway leaves. Without a signal it never is.
pub(super) struct ReloadService {
    pub(super) reloader: Reloader,
    pub(super) hangup: Mutex<Option<Signal>>,
}

#[async_trait]
impl BackgroundService for ReloadService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(hangup) = self.hangup.lock().take() else { return };
        tokio::select! {
            () = self.reloader.run(hangup) => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// Asks for the short-lived credentials of providers for as long as the process lives.
pub(super) struct CredentialsService(pub(super) Credentials);

#[async_trait]
impl BackgroundService for CredentialsService {
    async fn start(&self, _: ShutdownWatch) {
        // Does not stop at the signal: requests that drain still need them.
        self.0.run().await;
    }
}

/// Looks after the ways to providers and to the platform for as long as the process lives: closes idle connections that
/// are of no more use, and asks for their names again.
pub(super) struct IdleService(pub(super) Arc<App>);

impl IdleService {
    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.0.idle.sweep();
            if let Mode::Connected(mode) = &self.0.mode {
                mode.sweep();
            }
        }
    }

    async fn refresh(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.0.addresses.refresh().await;
        }
    }
}

#[async_trait]
impl BackgroundService for IdleService {
    async fn start(&self, _: ShutdownWatch) {
        // A slow name server is no reason not to sweep.
        tokio::join!(self.sweep(), self.refresh());
    }
}

/// Sums up usage and drops what is too old, until the gateway leaves.
pub(super) struct HousekeepingService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for HousekeepingService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.0.housekeeper.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// Removes files that are expired or deleted, until the gateway leaves.
pub(super) struct FilesService(pub(super) Arc<Standalone>);

#[async_trait]
impl BackgroundService for FilesService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.0.files.keep() => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// Runs batches and looks after those of providers, until the gateway leaves.
pub(super) struct BatchService {
    pub(super) app: Arc<App>,
    pub(super) mode: Arc<Standalone>,
}

#[async_trait]
impl BackgroundService for BatchService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let runner = Runner::new(self.mode.clone(), Arc::new(InnerCalls(self.app.clone())));
        let watcher = Watcher::new(self.mode.clone());
        let leave = shutdown.clone();
        let watching = async {
            tokio::select! {
                () = watcher.run() => {}
                _ = shutdown.changed() => {}
            }
        };
        tokio::join!(runner.run(leave), watching);
    }
}

/// The built-in provider, on a loopback port of its own.
pub(super) struct MockListener(pub(super) Mutex<Option<TcpListener>>);

impl MockListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self(Mutex::new(Some(listener)))
    }

    /// `None` when no provider of type `mock` without an address is configured.
    pub(super) fn for_config(config: &Config) -> Result<Option<(SocketAddr, Self)>, StartError> {
        let wanted = config
            .providers
            .iter()
            .any(|provider| provider.kind.family == Family::Mock && provider.base_url.is_none());
        if !wanted {
            return Ok(None);
        }
        let failed =
            |error: std::io::Error| StartError::Other(format!("the mock provider: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some((address, Self::new(listener))))
    }
}

#[async_trait]
impl BackgroundService for MockListener {
    async fn start(&self, _: ShutdownWatch) {
        let listener = self.0.lock().take();
        let Some(Ok(listener)) = listener.map(tokio::net::TcpListener::from_std) else { return };
        // Requests that drain still need their provider: it ends with the process.
        if let Err(error) = mock::serve(listener, std::future::pending()).await {
            tracing::error!(%error, "the mock provider ended");
        }
    }
}

/// The built-in platform, for the demo.
pub(super) struct PlatformListener {
    listener: Mutex<Option<TcpListener>>,
    platform: Platform,
}

impl PlatformListener {
    pub(super) fn new(listener: TcpListener, platform: Platform) -> Self {
        Self { listener: Mutex::new(Some(listener)), platform }
    }
}

#[async_trait]
impl BackgroundService for PlatformListener {
    async fn start(&self, _: ShutdownWatch) {
        let listener = self.listener.lock().take();
        let Some(Ok(listener)) = listener.map(tokio::net::TcpListener::from_std) else { return };
        // The reports of requests that drain still go to it.
        if let Err(error) = self.platform.serve(listener, std::future::pending()).await {
            tracing::error!(%error, "the mock platform ended");
        }
    }
}
