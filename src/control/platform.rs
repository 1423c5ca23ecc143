//! Connected mode's control plane: the platform says who may call what and with which credentials, and is told what
//! became of every attempt.

mod attempts;
mod client;
mod reporter;
pub mod wire;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderMap;
use otari_filters::authenticate;
use otari_filters::control::{
    Billed, Caller, Claim, ControlPlane, Plan, Reservation, Settling, Wanted,
};
use otari_filters::money::MicroUsd;
use otari_filters::platform::tools::{CodeExecution, McpServer, WebSearch};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::secret::Secret;
use otari_filters::settle::Finished;

use crate::config::{Limits, PlatformConfig};
use crate::control::journal::Journal;
use crate::telemetry::metrics::Metrics;
use attempts::Offered;
use client::Client;
pub use client::Wires;
use reporter::{Pace, Reporter};

/// Connected mode.
pub struct Connected {
    /// What the operator said of the platform.
    pub config: PlatformConfig,
    policies: Vec<Arc<str>>,
    offered: ArcSwap<Offered>,
    client: Arc<Client>,
    reporter: Arc<Reporter>,
}

impl Connected {
    /// A client of the platform and a reporter over the journal. `policies`: names of the configured routing policies,
    /// which nobody can call in this mode.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(
        config: PlatformConfig,
        limits: &Limits,
        policies: Vec<Arc<str>>,
        wires: Wires,
        journal: Arc<Journal>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let client = Arc::new(Client::new(&config, wires)?);
        let pace = Pace { tries: config.usage_max_retries.max(1), ..Pace::default() };
        Ok(Self {
            offered: ArcSwap::from_pointee(Offered::new(&config, limits)),
            reporter: Arc::new(Reporter::new(client.clone(), journal, metrics, pace)),
            client,
            policies,
            config,
        })
    }

    /// Calls that begin from now on have these times.
    pub fn follow(&self, limits: &Limits) {
        self.offered.store(Arc::new(Offered::new(&self.config, limits)));
        self.client.follow(limits.connect_timeout);
    }

    /// Closes idle connections that are of no more use.
    pub fn sweep(&self) {
        self.client.sweep();
    }

    /// Whether the platform answers its health probe with less than 500.
    pub async fn is_reachable(&self) -> bool {
        self.client.is_reachable().await
    }

    /// Reports what is journalled, for as long as the process lives.
    pub async fn run(&self) {
        tokio::join!(self.reporter.run(), self.reporter.run_heir());
    }

    /// Waits until the platform has everything that is journalled now, at most so long. Says whether it has.
    pub async fn flush(&self, at_most: Duration) -> bool {
        self.reporter.flush(at_most).await
    }

    /// The tool servers that the workspace keeps under these ids (UUIDs in their canonical form).
    ///
    /// # Errors
    /// What the platform says, `platform_unavailable`.
    pub async fn mcp_servers(
        &self,
        caller: &Caller,
        ids: &[String],
    ) -> Result<Vec<McpServer>, Rejection> {
        self.client.mcp_servers(token(caller)?, ids).await
    }

    /// What the workspace says of searches.
    ///
    /// # Errors
    /// `platform_forbidden` when there are none, what the platform says, `platform_unavailable`.
    pub async fn web_search(&self, caller: &Caller) -> Result<WebSearch, Rejection> {
        self.client.web_search(token(caller)?).await
    }

    /// What the workspace says of running code.
    ///
    /// # Errors
    /// `platform_forbidden` when it runs none, what the platform says, `platform_unavailable`.
    pub async fn code_execution(&self, caller: &Caller) -> Result<CodeExecution, Rejection> {
        self.client.code_execution(token(caller)?).await
    }
}

/// The token that the platform knows the caller by.
fn token(caller: &Caller) -> Result<&Secret, Rejection> {
    match caller {
        Caller::Bearer(token) => Ok(token),
        Caller::Master | Caller::Key { .. } => {
            Err(Rejection::internal("a platform is asked about its own tokens only"))
        }
    }
}

#[async_trait]
impl ControlPlane for Connected {
    /// Takes the token as it is: only the platform can judge it, and does when it is asked where to.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Rejection> {
        let token = authenticate::bearer(headers)?;
        Ok(Caller::Bearer(Arc::new(Secret::new(token))))
    }

    fn bill(&self, _: &Caller, _: Option<&str>) -> Result<Billed, Rejection> {
        Ok(Billed { user_id: None, keeps_label: false })
    }

    async fn resolve(
        &self,
        caller: &Caller,
        _: Option<&str>,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Rejection> {
        if self.policies.iter().any(|policy| **policy == *wanted.model) {
            let message = format!(
                "'{}' is a routing policy of this gateway, and those do not work in connected mode: the platform \
                 decides where requests go. Name a model that the platform knows",
                wanted.model
            );
            return Err(Rejection::new(Code::Unsupported, message));
        }
        let offers = self.client.keys(token(caller)?, wanted.model).await?;
        if offers.attempts.is_empty() {
            let message = "Authorization service returned no resolvable provider";
            return Err(Rejection::new(Code::PlatformNoProvider, message));
        }
        self.offered.load().plan(&offers)
    }

    async fn reserve(&self, _: Claim<'_>) -> Result<Reservation, Rejection> {
        Err(Rejection::internal("nobody here has a budget"))
    }

    async fn top_up(&self, _: &mut Reservation, _: MicroUsd) -> Result<(), Rejection> {
        Ok(())
    }

    fn release(&self, _: Reservation) {}

    fn settle(&self, finished: Finished) -> Option<Settling> {
        self.reporter.report(finished.report?, finished.record.timestamp_us)
    }
}
