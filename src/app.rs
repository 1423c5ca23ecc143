//! The composition root: from a checked configuration to everything a request needs. Alone names concrete stores.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use otari_filters::control::ControlPlane;
use otari_filters::providers::Family;
use otari_filters::upstream::Upstream;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::{Connector, v1};
use pingora_core::server::configuration::ServerConf;

use crate::config::{Config, Database, ProviderConfig};
use crate::control::directory::Directory;
use crate::control::follow::Follower;
use crate::control::housekeeping::Housekeeper;
use crate::control::journal::{Journal, JournalError};
use crate::control::leases::Leases;
use crate::control::ledger::Ledger;
use crate::control::local::{Configured, Local, RateLimiter};
use crate::control::settings::Settings;
use crate::control::writer::{Touched, Writer};
use crate::first_run;
use crate::life::{Calls, Life};
use crate::proxy::addresses::Addresses;
use crate::proxy::refusals::Refusals;
use crate::store::{Everything, Origin, Store, StoreError, Upgrade, postgres, sqlite};
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::Metrics;

/// Everything a request needs; shared by all of them.
pub struct App {
    /// What the operator asked for.
    pub config: Config,
    /// What of it can be changed while the gateway runs, as it is now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The questions a request asks.
    pub control: Arc<dyn ControlPlane>,
    /// The same, for the management API, which also changes the answers.
    pub local: Arc<Local>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// Takes the journal to the store.
    pub writer: Writer,
    /// Keeps in step with other gateways on the database.
    pub follower: Follower,
    /// Keeps the sums of usage, and drops what is too old.
    pub housekeeper: Housekeeper,
    /// Calls to providers under way.
    pub calls: Arc<Calls>,
    /// How many rows refusals may leave.
    pub refusals: Refusals,
    /// Requests per minute, when limited.
    pub limiter: Option<RateLimiter>,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Request lines.
    pub access: Arc<AccessLog>,
    /// Pools of provider connections over TLS, HTTP/2 or HTTP/1.
    pub connector: Connector,
    /// Pool of provider connections without TLS: they are always HTTP/1, and its look-up is much lighter.
    pub plain: v1::Connector,
    /// Addresses of providers.
    pub addresses: Addresses,
    /// Requests in flight, draining.
    pub life: Arc<Life>,
    /// API key made at the first start; shown once.
    pub bootstrap_key: Option<String>,
    /// Master key made at the first start; shown once.
    pub first_master_key: Option<String>,
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

/// Opens the database the configuration names. Does not touch its schema.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_store(database: &Database) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match database {
        Database::Sqlite { path } => Arc::new(sqlite::open(path).await?),
        Database::Postgres { url, label, tls, root_cert, max_connections, pool_timeout } => {
            let root_cert = root_cert.as_deref();
            Arc::new(
                postgres::open(url, label, *tls, root_cert, *max_connections, *pool_timeout)
                    .await?,
            )
        }
    })
}

impl App {
    /// Opens the store, brings it up to date, replays the journal and reads everything into memory.
    ///
    /// # Errors
    /// When any of that fails; nothing is served then.
    pub async fn start(
        config: Config,
        access: Arc<AccessLog>,
        server: &ServerConf,
        mock: Option<std::net::SocketAddr>,
    ) -> Result<Self, StartError> {
        let begun = std::time::Instant::now();
        // Whatever may fail comes before the keys that are shown once.
        let providers = config
            .providers
            .iter()
            .map(|provider| configured(provider, &config, mock))
            .collect::<Result<_, _>>()
            .map_err(StartError::Other)?;
        let metrics =
            Arc::new(Metrics::new().map_err(|error| StartError::Other(error.to_string()))?);
        let Past { store, journal, writer, touched } = catch_up(&config, &metrics).await?;
        let failed = |source| StartError::Store { label: store.label().to_owned(), source };
        let mut everything = store.everything().await.map_err(failed)?;
        let bootstrap_key =
            first_run::prepare(&config, store.as_ref(), &mut everything).await.map_err(failed)?;
        let (master, first_master_key) =
            first_run::master_key(&config, store.as_ref(), &everything.settings)
                .await
                .map_err(failed)?;
        let settings =
            Arc::new(ArcSwap::from_pointee(Settings::new(&config, &everything.settings)));
        let (directory, ledger) = into_memory(&config, &everything, store.shared().is_some());
        let leases = Arc::new(Leases::new(store.clone(), ledger.clone(), config.budget_lease_ttl));
        let local = Arc::new(Local {
            directory,
            ledger,
            leases,
            journal,
            touched,
            metrics: metrics.clone(),
            master: ArcSwap::from_pointee(master),
            providers,
            settings: settings.clone(),
        });
        local.set(Settings::new(&config, &everything.settings));
        let follower =
            Follower { store: store.clone(), local: local.clone(), config: config.clone() };
        // It joined after that, if others share the database.
        local.leases.renew(begun);
        let housekeeper =
            Housekeeper::new(store.clone(), metrics.clone(), config.usage_retention_days);
        Ok(Self {
            settings,
            control: local.clone(),
            local,
            store,
            writer,
            follower,
            housekeeper,
            calls: Arc::default(),
            refusals: Refusals::default(),
            limiter: config.rate_limit_rpm.map(RateLimiter::new),
            metrics,
            access,
            connector: Connector::new(Some(ConnectorOptions::from_server_conf(server))),
            plain: v1::Connector::new(Some(ConnectorOptions::from_server_conf(server))),
            addresses: Addresses::default(),
            life: Arc::new(Life::default()),
            bootstrap_key,
            first_master_key,
            config,
        })
    }
}

/// The database with everything in it that earlier processes of this gateway left.
struct Past {
    store: Arc<dyn Store>,
    journal: Arc<Journal>,
    writer: Writer,
    touched: Arc<Touched>,
}

/// Opens the database, brings it up to date and replays the journal.
async fn catch_up(config: &Config, metrics: &Arc<Metrics>) -> Result<Past, StartError> {
    let store = open_store(&config.database)
        .await
        .map_err(|source| StartError::Store { label: config.database.label(), source })?;
    let failed = |source| StartError::Store { label: store.label().to_owned(), source };
    if config.auto_migrate {
        report(&store.upgrade().await.map_err(failed)?);
    }
    store.schema_check().await.map_err(failed)?;
    let journal_dir = Path::new(&config.journal_dir);
    let journal = Arc::new(Journal::open(journal_dir)?);
    if let Some(shared) = store.shared() {
        shared.join(&first_run::gateway_id(journal_dir)?).await.map_err(failed)?;
    }
    let touched = Arc::new(Touched::default());
    let writer = Writer::new(journal.clone(), store.clone(), metrics.clone(), touched.clone());
    // Before the counters are read: they must contain what earlier processes spent.
    let replayed = writer.replay().await.map_err(failed)?;
    if replayed > 0 {
        tracing::info!(records = replayed, "usage of an earlier run was written from the journal");
    }
    if let Some(shared) = store.shared() {
        // Everything that was settled out of them is in the database now, and nothing is held.
        shared.forget_leases().await.map_err(failed)?;
    }
    Ok(Past { store, journal, writer, touched })
}

/// Does what an upgrade of the database would do and takes it back; says where and what.
///
/// # Errors
/// When the database cannot be opened, or could not be upgraded.
pub async fn rehearse(database: &Database) -> Result<Upgrade, StoreError> {
    match database {
        Database::Sqlite { path } => sqlite::rehearse(path),
        Database::Postgres { url, label, tls, root_cert, max_connections, pool_timeout } => {
            let root_cert = root_cert.as_deref();
            postgres::open(url, label, *tls, root_cert, *max_connections, *pool_timeout)
                .await?
                .rehearse()
                .await
        }
    }
}

/// Says what an upgrade at start did, when it did anything worth a line.
fn report(upgrade: &Upgrade) {
    let (Origin::Reference(revision), Some(adoption)) = (&upgrade.origin, &upgrade.adoption) else {
        return;
    };
    tracing::warn!(
        revision,
        "the reference gateway's database was taken over: {}; the reference cannot open it any more",
        adoption.summary()
    );
    if !adoption.notes.is_empty() {
        tracing::warn!("taken over with these notes: {}", adoption.notes.join("; "));
    }
}

/// What the request path looks up.
fn into_memory(
    config: &Config,
    everything: &Everything,
    shares: bool,
) -> (Arc<Directory>, Arc<Ledger>) {
    let directory = Directory::default();
    let ledger = Ledger::new(config.budgets_enabled, shares);
    everything.keys.iter().for_each(|row| directory.put_key(row));
    directory.put_prices(&everything.prices);
    directory.default_prices.switch(config.default_pricing);
    everything.budgets.iter().for_each(|row| ledger.put_budget(row));
    everything.users.iter().for_each(|row| ledger.put_user(row));
    ledger.put_ceilings(&everything.ceilings);
    everything.users.iter().for_each(|row| directory.put_user(row));
    directory.set_aliases(&config.aliases, &everything.aliases);
    (Arc::new(directory), Arc::new(ledger))
}

/// A provider of the configuration, ready to be called.
fn configured(
    provider: &ProviderConfig,
    config: &Config,
    mock: Option<std::net::SocketAddr>,
) -> Result<Configured, String> {
    let name = &provider.instance;
    let own_mock = provider.kind.family == Family::Mock && provider.base_url.is_none();
    let base = match (&provider.base_url, mock) {
        (Some(base), _) => base.clone(),
        (None, Some(address)) => format!("http://{address}/v1"),
        // Only families that this version does not call have no default base.
        (None, None) => "http://unset.invalid".to_owned(),
    };
    let uri: http::Uri =
        base.parse().map_err(|_| format!("providers.{name}.api_base: not a URL"))?;
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let timeouts = &config.limits;
    let literal = host.parse().ok().map(|ip| std::net::SocketAddr::new(ip, port));
    Ok(Configured {
        kind: provider.kind,
        models: provider.models.clone(),
        upstream: Arc::new(Upstream {
            instance: name.as_str().into(),
            family: provider.kind.family,
            tls,
            host: host.into(),
            port,
            authority: HeaderValue::from_str(authority)
                .map_err(|_| format!("providers.{name}.api_base: not a URL"))?,
            base_path: uri.path().trim_end_matches('/').into(),
            headers: headers(provider)?,
            max_retries: provider.max_retries,
            first_byte_timeout: provider.timeout.unwrap_or(timeouts.first_byte_timeout),
            idle_timeout: provider.timeout.unwrap_or(timeouts.idle_timeout),
            address: if own_mock { mock } else { literal },
        }),
    })
}

/// The credential and the operator's own headers.
fn headers(provider: &ProviderConfig) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = provider.headers.clone();
    if let Some(key) = &provider.api_key {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
                format!(
                    "providers.{}.api_key holds characters that a header cannot",
                    provider.instance
                )
            })?;
        value.set_sensitive(true);
        headers.push((http::header::AUTHORIZATION, value));
    }
    Ok(headers)
}

/// How long the management API waits for the journal before it answers from what the store has.
pub const FLUSH_AT_MOST: Duration = Duration::from_secs(2);
