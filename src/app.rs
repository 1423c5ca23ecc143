//! The composition root: from a checked configuration to everything a request needs.

mod connected;
mod standalone;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use otari_filters::control::ControlPlane;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::server::configuration::ServerConf;

use crate::certificates::Certificates;
use crate::config::{Config, Live, RateStore};
use crate::control::journal::{Journal, JournalError};
use crate::control::local::RateLimiter;
use crate::control::platform::Connected;
use crate::control::rates::Rates;
use crate::control::settings::Settings;
use crate::credentials::Credentials;
use crate::documents::Readers;
use crate::guardrails::Guardrails;
use crate::life::{Calls, Life};
use crate::outbound::Outbound;
use crate::proxy::addresses::Addresses;
use crate::proxy::admission::Admission;
use crate::proxy::breaker::Breakers;
use crate::proxy::idle::Idle;
use crate::routes::Surface;
use crate::safety::Safety;
use crate::store::StoreError;
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::tools::Kit;

use standalone::Begin;
pub use standalone::{Standalone, listers, open_store, rehearse, table, upstream};

/// Everything a request needs; shared by all of them.
pub struct App {
    /// What the operator asked for at start: for what needs a restart to change.
    pub config: Arc<Config>,
    /// The configuration in force; read it with [`Self::live`].
    pub current: Live,
    /// What of it can be changed while the gateway runs, as it is now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The questions a request asks.
    pub control: Arc<dyn ControlPlane>,
    /// Who answers them, with what only that one has.
    pub mode: Mode,
    /// Calls to providers under way.
    pub calls: Arc<Calls>,
    /// Requests per minute, when limited.
    pub limiter: ArcSwapOption<RateLimiter>,
    /// Further limits of rates.
    pub rates: Arc<Rates>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Request lines.
    pub access: Arc<AccessLog>,
    /// Opens connections to providers, and shares those of HTTP/2.
    pub connector: Connector,
    /// Connections to providers over HTTP/1 that wait for the next call.
    pub idle: Idle,
    /// Addresses of providers and of the platform.
    pub addresses: Arc<Addresses>,
    /// Providers that fail.
    pub breakers: Breakers,
    /// Short-lived credentials of providers.
    pub credentials: Credentials,
    /// Calls to providers beside the hot path.
    pub outbound: Outbound,
    /// Who reads documents.
    pub readers: Readers,
    /// What runs the gateway's own tools.
    pub kit: Arc<Kit>,
    /// Who makes the checks of requests.
    pub guardrails: Guardrails,
    /// How much is taken on at once.
    pub admission: Admission,
    /// What callers are shown; `None`: they speak without TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Requests in flight, draining.
    pub life: Arc<Life>,
}

impl App {
    /// The configuration as it is now. Whoever needs it for longer than a moment copies what they need: a request keeps
    /// what it began with.
    pub fn live(&self) -> Guard<Arc<Config>> {
        self.current.load()
    }

    /// Usage that waits for the database or the platform, in bytes, as of a moment ago.
    pub fn journal_bytes(&self) -> u64 {
        u64::try_from(self.metrics.journal.backlog_bytes.get()).unwrap_or(0)
    }

    /// Which routes there are.
    pub fn surface(&self) -> Surface {
        match self.mode {
            Mode::Standalone(_) => Surface::Standalone,
            Mode::Connected(_) => Surface::Connected,
        }
    }
}

/// Who decides.
pub enum Mode {
    /// The gateway itself, out of its database.
    Standalone(Arc<Standalone>),
    /// A platform.
    Connected(Arc<Connected>),
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("database {label}: {source}")]
    Store {
        /// Which.
        label: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl App {
    /// Makes everything ready for the mode that the configuration asks for: see `app/standalone.rs` and
    /// `app/connected.rs`. `beside`: it takes over from a process that still runs.
    ///
    /// # Errors
    /// When any of that fails; nothing is served then.
    pub async fn start(
        config: Config,
        access: Arc<AccessLog>,
        server: &ServerConf,
        mock: Option<std::net::SocketAddr>,
        beside: bool,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let current: Live = Arc::new(ArcSwap::new(config.clone()));
        let metrics =
            Arc::new(Metrics::new().map_err(|error| StartError::Other(error.to_string()))?);
        let calls = Arc::new(Calls::default());
        let credentials = Credentials::new(config.ambient.clone());
        let outbound = Outbound::new(credentials.clone());
        let addresses = Arc::<Addresses>::default();
        let (control, mode, settings): (Arc<dyn ControlPlane>, _, _) = match &config.platform {
            Some(platform) => {
                let connected =
                    connected::start(&config, platform, &metrics, server, &addresses, beside)?;
                let settings = Arc::new(ArcSwap::from_pointee(Settings::new(&config, &[])));
                (connected.clone(), Mode::Connected(connected), settings)
            }
            None => {
                let begin = Begin {
                    live: &current,
                    metrics: &metrics,
                    calls: &calls,
                    credentials: &credentials,
                    outbound: &outbound,
                    mock,
                    beside,
                };
                let standalone = standalone::start(&config, begin).await?;
                let settings = standalone.settings.clone();
                (standalone.local.clone(), Mode::Standalone(standalone), settings)
            }
        };
        let readers = Readers::default();
        let safety = Safety::default();
        let certificates = config.tls.as_ref().map(|tls| Certificates::new(tls, metrics.clone()));
        let kit = Kit::new(&config, safety.clone(), outbound.clone(), readers.clone());
        let rates = Rates::new(&config.rate_limits, config.rate_limit_store == RateStore::Postgres);
        if let Mode::Standalone(standalone) = &mode
            && let Some(shared) = standalone.store.shared()
        {
            rates.begin(shared).await;
        }
        Ok(Self {
            kit: Arc::new(kit),
            guardrails: Guardrails::new(&config, safety, outbound.clone()),
            settings,
            control,
            mode,
            calls,
            limiter: limiter(config.rate_limit_rpm),
            rates: Arc::new(rates),
            metrics,
            access,
            connector: Connector::new(Some(ConnectorOptions::from_server_conf(server))),
            idle: Idle::new(server),
            addresses,
            breakers: Breakers::new(config.circuit_breaker),
            credentials,
            outbound,
            readers,
            admission: Admission::new(config.auth_failures_per_minute),
            certificates: certificates.map(Arc::new),
            life: Arc::new(Life::default()),
            config,
            current,
        })
    }
}

/// The journal of this process, in this folder.
fn open_journal(folder: &Path, beside: bool) -> Result<Journal, JournalError> {
    if beside { Journal::open_beside(folder) } else { Journal::open(folder) }
}

/// Requests per minute, when they are limited.
pub fn limiter(rpm: Option<NonZeroU32>) -> ArcSwapOption<RateLimiter> {
    ArcSwapOption::from(rpm.map(|rpm| Arc::new(RateLimiter::new(rpm))))
}

/// How long the management API waits for the journal before it answers from what the store has.
pub const FLUSH_AT_MOST: Duration = Duration::from_secs(2);
