//! Standalone mode: opens the store, brings it up to date, replays the journal and reads everything into memory. Alone
//! names concrete stores.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use otari_filters::providers::Family;
use otari_filters::upstream::{BadDraft, Draft, Upstream};
use tokio::sync::Notify;

use super::{StartError, open_journal};
use crate::config::{Config, CredentialSource, Database, Live, ProviderConfig};
use crate::control::directory::Directory;
use crate::control::discovery::Discovery;
use crate::control::follow::Follower;
use crate::control::heir::Heir;
use crate::control::housekeeping::Housekeeper;
use crate::control::journal::Journal;
use crate::control::leases::Leases;
use crate::control::ledger::Ledger;
use crate::control::local::{Changing, Configured, Local, Table};
use crate::control::settings::Settings;
use crate::control::writer::{Touched, Writer};
use crate::credentials::Credentials;
use crate::files::Files;
use crate::first_run;
use crate::life::Calls;
use crate::outbound::Outbound;
use crate::proxy::refusals::Refusals;
use crate::search::Tools;
use crate::store::{Everything, Origin, Store, StoreError, Upgrade, postgres, sqlite};
use crate::telemetry::metrics::Metrics;

/// Calls that need the database to decide wait for so long at most while it is made ready to be shared.
const SHARE_WITHIN: Duration = Duration::from_secs(3);

/// What only standalone mode has; the management API works on it.
pub struct Standalone {
    /// What the operator asked for at start: for what needs a restart to change.
    pub config: Arc<Config>,
    /// The configuration in force; read it with [`Self::live`].
    pub current: Live,
    /// Where the built-in provider listens, when it was configured at start.
    pub mock: Option<SocketAddr>,
    /// What of it can be changed while the gateway runs, as it is now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The answers to a request's questions.
    pub local: Arc<Local>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// Takes the journal to the store.
    pub writer: Writer,
    /// Keeps in step with other gateways on the database.
    pub follower: Follower,
    /// Brings on what other processes of this folder left.
    pub heir: Heir,
    /// Keeps the sums of usage, and drops what is too old.
    pub housekeeper: Housekeeper,
    /// Files that callers upload.
    pub files: Arc<Files>,
    /// Calls to providers under way.
    pub calls: Arc<Calls>,
    /// Calls to providers beside the hot path.
    pub outbound: Outbound,
    /// Web search.
    pub search: ArcSwap<Tools>,
    /// Woken when there are items of a batch to run.
    pub batch_work: Notify,
    /// How many rows refusals may leave.
    pub refusals: Refusals,
    /// API key made at the first start; shown once.
    pub bootstrap_key: Option<String>,
    /// Master key made at the first start; shown once.
    pub first_master_key: Option<String>,
}

impl Standalone {
    /// Another process is about to serve with the same database: from when this has returned both decide together.
    ///
    /// # Errors
    /// When the database does not take what it has to know for that. Then nothing has changed.
    pub async fn share(&self) -> Result<(), StoreError> {
        let (ledger, leases) = (&self.local.ledger, &self.local.leases);
        let Some(shared) = self.store.sharable().filter(|_| !ledger.is_shared()) else {
            return Ok(());
        };
        let unavailable = |message: String| StoreError::Unavailable { message };
        let id = first_run::gateway_id(self.local.journal.folder());
        let (id, begun) = (id.map_err(|error| unavailable(error.to_string()))?, Instant::now());
        let (_closed, _sharing) = (leases.close().await, ledger.sharing().await);
        let kept = self.store.batch_holds().await?;
        shared.join(&id).await?;
        let held = ledger.share(&kept);
        let known = async {
            shared.hold(&held).await?;
            // What was settled up to now is not in a lease: it must be in the spend before anybody asks what is left.
            match self.local.journal.flush(SHARE_WITHIN).await {
                true => Ok(()),
                false => Err(unavailable("not all usage could be written down".into())),
            }
        };
        if let Err(error) = known.await {
            ledger.unshare(&kept);
            let _ = shared.leave().await;
            return Err(error);
        }
        leases.engage(begun);
        Ok(())
    }

    /// The configuration as it is now.
    pub fn live(&self) -> Guard<Arc<Config>> {
        self.current.load()
    }
}

/// What standalone mode is made with, beside the configuration.
pub(super) struct Begin<'a> {
    pub(super) live: &'a Live,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) calls: &'a Arc<Calls>,
    pub(super) credentials: &'a Credentials,
    pub(super) outbound: &'a Outbound,
    /// Where the built-in provider listens.
    pub(super) mock: Option<SocketAddr>,
    /// It takes over from a process that still runs.
    pub(super) beside: bool,
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

/// Makes standalone mode ready.
///
/// # Errors
/// When a part of it cannot be; nothing is served then.
pub(super) async fn start(
    config: &Arc<Config>,
    begin: Begin<'_>,
) -> Result<Arc<Standalone>, StartError> {
    let Begin { live, metrics, calls, credentials, outbound, mock, beside } = begin;
    let begun = Instant::now();
    // Whatever may fail comes before the keys that are shown once.
    let table = table(config, mock, |_| None).map_err(StartError::Other)?;
    let Past { store, journal, writer, touched, heir } = catch_up(config, metrics, beside).await?;
    let files = Files::new(config, store.clone(), metrics.clone(), credentials);
    let files = Arc::new(files.map_err(StartError::Other)?);
    let failed = |source| StartError::Store { label: store.label().to_owned(), source };
    let mut everything = store.everything().await.map_err(failed)?;
    let bootstrap_key =
        first_run::prepare(config, store.as_ref(), &mut everything).await.map_err(failed)?;
    let (master, first_master_key) =
        first_run::master_key(config, store.as_ref(), &everything.settings)
            .await
            .map_err(failed)?;
    let settings = Arc::new(ArcSwap::from_pointee(Settings::new(config, &everything.settings)));
    let (directory, ledger) = into_memory(config, &everything, store.shared().is_some());
    // Batches that were passed on hold what they may cost, whichever process passed them on.
    ledger.restore(&store.batch_holds().await.map_err(failed)?);
    let leases = Arc::new(Leases::new(store.clone(), ledger.clone(), config.budget_lease_ttl));
    let discovery = Arc::new(discovery(config, &table, outbound, &settings));
    let local = Arc::new(Local {
        directory,
        ledger,
        leases,
        journal,
        touched,
        metrics: metrics.clone(),
        master: ArcSwap::from_pointee(master),
        table: ArcSwap::from_pointee(table),
        changing: Changing::default(),
        discovery,
        settings: settings.clone(),
    });
    local.set(Settings::new(config, &everything.settings));
    let follower = Follower { store: store.clone(), local: local.clone(), live: live.clone() };
    // It joined after that, if others share the database.
    local.leases.renew(begun);
    let housekeeper = Housekeeper::new(store.clone(), metrics.clone(), live.clone());
    Ok(Arc::new(Standalone {
        config: config.clone(),
        current: live.clone(),
        mock,
        settings,
        local,
        store,
        writer,
        follower,
        heir,
        housekeeper,
        files,
        calls: calls.clone(),
        outbound: outbound.clone(),
        search: ArcSwap::from_pointee(Tools::new(&config.search_tools)),
        batch_work: Notify::new(),
        refusals: Refusals::default(),
        bootstrap_key,
        first_master_key,
    }))
}

/// The lists of the providers' models.
fn discovery(
    config: &Config,
    table: &Table,
    outbound: &Outbound,
    settings: &Arc<ArcSwap<Settings>>,
) -> Discovery {
    Discovery::new(listers(config, table), outbound.clone(), settings.clone())
}

/// Who may be asked for a list of models, and whether there is anything to ask them with.
pub fn listers<'a>(
    config: &'a Config,
    table: &'a Table,
) -> impl Iterator<Item = (Arc<Upstream>, bool)> + use<'a> {
    let has_credential =
        config.providers.iter().map(|provider| provider.credential != CredentialSource::Missing);
    table.providers.iter().map(|provider| provider.upstream.clone()).zip(has_credential)
}

/// The database with everything in it that earlier processes of this gateway left.
struct Past {
    store: Arc<dyn Store>,
    journal: Arc<Journal>,
    writer: Writer,
    touched: Arc<Touched>,
    heir: Heir,
}

/// Opens the database, brings it up to date and replays the journal.
async fn catch_up(
    config: &Config,
    metrics: &Arc<Metrics>,
    beside: bool,
) -> Result<Past, StartError> {
    let store = open_store(&config.database)
        .await
        .map_err(|source| StartError::Store { label: config.database.label(), source })?;
    let failed = |source| StartError::Store { label: store.label().to_owned(), source };
    if config.auto_migrate {
        report(&store.upgrade().await.map_err(failed)?);
    }
    store.schema_check().await.map_err(failed)?;
    let journal = Arc::new(open_journal(&config.journal_dir, beside)?);
    let sharing = if beside { store.sharable() } else { store.shared() };
    if let Some(shared) = sharing {
        shared.join(&first_run::gateway_id(journal.folder())?).await.map_err(failed)?;
    }
    let touched = Arc::new(Touched::default());
    let writer = Writer::new(journal.clone(), store.clone(), metrics.clone(), touched.clone());
    // Before the counters are read: they must contain what earlier processes spent.
    let heir = Heir::new(journal.clone(), store.clone(), metrics.clone());
    let replayed = writer.replay().await.map_err(failed)? + heir.inherit().await.map_err(failed)?;
    if replayed > 0 {
        tracing::info!(records = replayed, "usage of an earlier run was written from the journal");
    }
    if let Some(shared) = store.shared() {
        // Everything that was settled out of them is in the database now, and nothing is held.
        shared.forget_leases().await.map_err(failed)?;
    } else if let Some(sharable) = store.sharable() {
        sharable.forget_all().await.map_err(failed)?;
    }
    Ok(Past { store, journal, writer, touched, heir })
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
    for row in &everything.aliases {
        if config.policies.iter().any(|policy| *policy.name == *row.name) {
            tracing::warn!(
                name = row.name,
                user_id = row.user_id,
                "a stored alias has the name of a routing policy and is used in its place; delete the alias, or give \
                 the policy another name"
            );
        }
    }
    (Arc::new(directory), Arc::new(ledger))
}

/// Where calls may lead, ready to be called. `known` has the upstream of a provider that is as it was: what others know
/// of it stays good.
///
/// # Errors
/// Which key cannot be used.
pub fn table(
    config: &Config,
    mock: Option<SocketAddr>,
    known: impl Fn(&ProviderConfig) -> Option<Arc<Upstream>>,
) -> Result<Table, String> {
    let configured = |provider: &ProviderConfig| {
        let upstream = match known(provider) {
            Some(upstream) => upstream,
            None => Arc::new(upstream(provider, config, mock)?),
        };
        Ok(Configured { upstream, models: provider.models.clone() })
    };
    let tools = config.search_tools.iter();
    Ok(Table {
        providers: config.providers.iter().map(configured).collect::<Result<_, String>>()?,
        policies: config.policies.clone(),
        search_tools: tools
            .map(|tool| (tool.provider.as_str(), tool.name.as_str().into()))
            .collect(),
    })
}

/// Where a provider of the configuration is and how it is spoken to.
///
/// # Errors
/// Which key of its entry cannot be used.
pub fn upstream(
    provider: &ProviderConfig,
    config: &Config,
    mock: Option<SocketAddr>,
) -> Result<Upstream, String> {
    let name = &provider.instance;
    let own_mock = provider.kind.family == Family::Mock && provider.base_url.is_none();
    let base = match (&provider.base_url, mock) {
        (Some(base), _) => base.clone(),
        (None, Some(address)) => format!("http://{address}/v1"),
        // Only families that this version does not call have no default base.
        (None, None) => "http://unset.invalid".to_owned(),
    };
    let timeouts = &config.limits;
    Upstream::new(&Draft {
        instance: name,
        kind: provider.kind,
        base_url: &base,
        api_key: provider.api_key.as_ref(),
        headers: &provider.headers,
        client_settings: &provider.settings,
        max_retries: provider.max_retries,
        first_byte_timeout: provider.timeout.unwrap_or(timeouts.first_byte_timeout),
        idle_timeout: provider.timeout.unwrap_or(timeouts.idle_timeout),
        address: if own_mock { mock } else { None },
    })
    .map_err(|bad| match bad {
        BadDraft::Url => format!("providers.{name}.api_base: not a URL"),
        BadDraft::Credential => {
            format!("providers.{name}.api_key holds characters that a header cannot")
        }
    })
}
