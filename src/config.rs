//! What the gateway was told to do: checked values only. After [`load`] nobody checks again.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use otari_filters::network::Network;
use otari_filters::prices::Prices;
use otari_filters::providers::Provider;
use otari_filters::rates::Rule as RateRule;
use otari_filters::route::Policy;

mod problem;
mod env;
mod expand;
mod places;
mod node;
mod yaml;
mod supervisor;
mod written;
mod layers;
mod log;
mod database;
mod providers;
mod prices;
mod price_file;
mod aliases;
mod models;
mod search;
mod attachments;
mod tools;
mod ambient;
mod policies;
mod url;
mod platform;
mod files;
mod mode;
mod unused;
mod limits;
mod serverconf;
mod tls;
mod rates;
mod check;

#[cfg(test)]
mod tests;

pub use ambient::{Ambient, AmbientAws, AmbientGoogle};
pub use attachments::{Attachments, VisionStrategy};
pub use env::{Env, Program};
pub use layers::{Flags, Sources};
pub use limits::CircuitBreaker;
pub use log::{LogFormat, LogLevel};
pub use mode::token_variable;
pub use models::{LONGEST_TTL_S, ModelDiscovery};
pub use otari_filters::secret::Secret;
pub use price_file::{FilePrice, load_prices};
pub use problem::{ConfigError, Place, Problem};
pub use rates::RateStore;
pub use search::SearchTool;
pub use serverconf::Pingora;
pub use supervisor::{OF_ONE_PROCESS, Predecessor, Supervisor, UPGRADE_PID, UPGRADE_SOCKET};
pub use tls::{Management, Tls};
pub use tools::{Sandbox, SearchBackend, Searching, Tools};
pub use written::{Change, Written};

/// Reads and checks everything `sources` say: flags, then `DATABASE_URL` and `OTARI_*`, the file, `GATEWAY_*`, the
/// defaults.
///
/// # Errors
/// Every problem of the file and the variables at once, each with its place. No message holds a secret.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    load_written(sources).map(|(config, _)| config)
}

/// As [`load`]; and what was written, to compare a later reading with.
///
/// # Errors
/// As [`load`].
pub fn load_written(sources: &Sources) -> Result<(Config, Written), ConfigError> {
    let mut report = problem::Report::default();
    let fields = layers::Fields::collect(sources, &mut report);
    let written = Written::of(&fields);
    let config = check::check(fields, sources, &mut report);
    report.finish().map(|warnings| (Config { warnings, ..config }, written))
}

/// The configuration in force: replaced as a whole when it is read again. What needs a restart stays as it was at start.
pub type Live = Arc<ArcSwap<Config>>;

/// Everything `config.yml`, the environment and the flags say, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the file was, for messages; `None` without a file.
    pub file: Option<PathBuf>,
    /// What to tell the operator at start: unknown keys, settings without effect.
    pub warnings: Vec<String>,

    /// Connected mode: the platform that knows callers, keys and prices. `None`: standalone mode.
    ///
    /// When it is set, whatever only standalone mode reads has its default here, whatever the file says: `database`,
    /// `master_key`, `aliases`, prices, budgets; and `providers` is empty.
    pub platform: Option<PlatformConfig>,

    /// `host` and `port`.
    pub listen: Listen,
    /// What callers see of the gateway's identity; `None`: they speak without TLS.
    pub tls: Option<Tls>,
    /// Where it is managed, when that is not where it is called.
    pub management: Option<Management>,
    /// Worker threads of the gateway service; default: the number of cores.
    pub threads: usize,
    /// Standalone mode's database.
    pub database: Database,
    /// Bring the schema to head at start.
    pub auto_migrate: bool,
    /// Folder of the usage journal.
    pub journal_dir: PathBuf,
    /// Compared in constant time; `None`: one is made at the first start.
    pub master_key: Option<Secret>,
    /// Create a first API key when there is none.
    pub bootstrap_api_key: bool,
    /// Requests per minute and user.
    pub rate_limit_rpm: Option<NonZeroU32>,
    /// Further limits of rates.
    pub rate_limits: Vec<RateRule>,
    /// Where what was used of them is kept.
    pub rate_limit_store: RateStore,
    /// Origins that browsers may call from; empty: CORS is off.
    pub cors_allow_origins: Vec<String>,
    /// Proxies in front of the gateway whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Refused credentials per minute and address before everything from there waits; `None`: any number.
    pub auth_failures_per_minute: Option<NonZeroU32>,
    /// Serve `/metrics`.
    pub enable_metrics: bool,
    /// Serve `/docs` and `/openapi.json`.
    pub enable_docs: bool,
    /// `log_level` or `--log-level`.
    pub log_level: LogLevel,
    /// `log_format` or `--log-format`.
    pub log_format: LogFormat,

    /// Provider instances by name, in the file's order.
    pub providers: Vec<ProviderConfig>,
    /// What this machine offers as a credential of cloud providers; `None` in connected mode.
    pub ambient: Option<Ambient>,
    /// `pricing:` of the file: seeds for models that have no price yet.
    pub pricing: Vec<PriceSeed>,

    /// Bill models without a price at public list prices.
    pub default_pricing: bool,
    /// `aliases:`: names and their targets, `instance:model`.
    pub aliases: Vec<(String, String)>,
    /// `routing.policies`, in the file's order; none when `routing.enabled` is off. In connected mode the names alone:
    /// where they lead is the platform's business, and calls that name one are refused.
    pub policies: Vec<Policy>,
    /// Asking providers for the lists of their models.
    pub models: ModelDiscovery,
    /// `search_tools:`, in the file's order.
    pub search_tools: Vec<SearchTool>,
    /// Leaves a failing provider out for a while; `None`: never.
    pub circuit_breaker: Option<CircuitBreaker>,

    /// Refuse models without a price with 402.
    pub require_pricing: bool,
    /// Refuse a request whose user is an existing user other than the key's.
    pub reject_user_mismatch: bool,
    /// `budget_strategy: disabled` switches caps and holds off.
    pub budgets_enabled: bool,
    /// Output tokens assumed when a request declares none.
    pub budget_estimate_default_output_tokens: u64,
    /// What a stream's hold grows by.
    pub stream_hold_output_tokens: u64,
    /// How long a gateway may be silent before its parts of the budgets go to the others on the database.
    pub budget_lease_ttl: Duration,
    /// What a stream without usage costs.
    pub stream_missing_usage_policy: MissingUsage,
    /// Repeat also a call that failed after it was sent whole, and so may have been billed.
    pub retry_after_sent: bool,

    /// Images and documents in requests.
    pub attachments: Attachments,
    /// What the gateway runs tools and checks with.
    pub tools: Tools,

    /// Days after which usage rows are removed; `None`: never.
    pub usage_retention_days: Option<u32>,
    /// Days after which the notes of who changed what are removed; `None`: never.
    pub audit_retention_days: Option<u32>,

    /// Files that callers upload; `None`: they may not, and in connected mode they never may.
    pub files: Option<Files>,

    /// Batches of calls.
    pub batches: BatchConfig,

    /// Sizes and times.
    pub limits: Limits,

    /// What Pingora's own file says beyond that.
    pub pingora: Pingora,
}

/// Files that callers upload: `files_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where the bytes are.
    pub backend: FilesBackend,
    /// Largest file. 413 beyond.
    pub max_bytes: u64,
    /// Removed so long after the upload; `None`: never.
    pub retention: Option<Duration>,
}

/// `files_backend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesBackend {
    /// A folder.
    Local {
        /// `files_local_dir`; made when missing.
        dir: PathBuf,
    },
    /// A bucket.
    S3(Box<S3>),
}

impl FilesBackend {
    /// What messages call it.
    pub fn label(&self) -> String {
        match self {
            Self::Local { dir } => format!("folder {}", dir.display()),
            Self::S3(s3) => match &s3.endpoint {
                Some(endpoint) => format!("bucket {} at {endpoint}", s3.bucket),
                None => format!("bucket {} of Amazon S3", s3.bucket),
            },
        }
    }
}

/// A bucket of Amazon's, or of a server that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Scheme, host and port, without a slash at the end; `None`: Amazon's.
    pub endpoint: Option<String>,
    /// `None`: that of the machine, else `us-east-1`.
    pub region: Option<String>,
    /// Id and secret of an access key; `None`: what the machine has for programs.
    pub keys: Option<(Secret, Secret)>,
}

/// How batches of calls are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Items that this gateway runs at once, of batches whose providers have no such API; 0: none.
    pub concurrency: usize,
    /// How often a provider is asked after a batch of its own that nobody asks after.
    pub poll_interval: Duration,
}

/// The platform of connected mode: `platform:`, its variables, and the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformConfig {
    /// What the platform knows this gateway by; any header can carry it. Only ever from the environment.
    pub token: Secret,
    /// Prefix of every URL of the platform: absolute, http or https, without trailing slash, query and password.
    pub base_url: String,
    /// For a whole question about a request, and for the health probe.
    pub resolve_timeout: Duration,
    /// For one usage report.
    pub usage_timeout: Duration,
    /// Tries of one usage report, the first included; at least 1.
    pub usage_max_retries: u32,
    /// How long an answer waits for its cost.
    pub usage_inline_timeout: Duration,
    /// To the first event of a stream, before the next attempt is made. Never zero.
    pub first_event_timeout: Duration,
    /// The same where the gateway runs tools. Never zero.
    pub tool_loop_first_event_timeout: Duration,
    /// What the last attempt, or the only one, gets beyond that.
    pub final_attempt_extra: Duration,
    /// Appended to `base_url` to ask whether the platform is there; begins with one slash.
    pub health_path: String,
    /// A link for people, absolute.
    pub management_url: String,
    /// Report calls whose caller hung up.
    pub report_disconnects: bool,
}

/// Address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Name or address; default `0.0.0.0`.
    pub host: String,
    /// Default 8000; 0 lets the system choose.
    pub port: u16,
}

/// Which database, from `database_url`.
#[derive(Clone, Debug)]
pub enum Database {
    /// `sqlite:///relative.db` or `sqlite:////absolute.db`.
    Sqlite {
        /// The file; created when missing.
        path: PathBuf,
    },
    /// `postgresql://…`, also with `+psycopg2` or `+asyncpg`; `postgres://` is accepted too.
    Postgres {
        /// What tokio-postgres reads, `sslmode` and `sslrootcert` taken out. Holds the password.
        url: Secret,
        /// Host and database, for messages.
        label: String,
        /// `sslmode` of the URL.
        tls: PostgresTls,
        /// `sslrootcert` of the URL; default: the system's roots.
        root_cert: Option<PathBuf>,
        /// `db_pool_size` + `db_max_overflow`.
        max_connections: usize,
        /// Wait for a free connection.
        pool_timeout: Duration,
    },
}

impl Database {
    /// What messages call it, without a password.
    pub fn label(&self) -> String {
        match self {
            Self::Sqlite { path } => format!("sqlite {}", path.display()),
            Self::Postgres { label, .. } => format!("postgresql {label}"),
        }
    }
}

/// How a PostgreSQL connection is protected; libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostgresTls {
    /// Never.
    Disable,
    /// When the server offers it, without checking who it is (libpq's default).
    #[default]
    Prefer,
    /// Always, without checking who it is.
    Require,
    /// Always, and the certificate must be signed by a known root.
    VerifyCa,
    /// Always, and the certificate must also name the host.
    VerifyFull,
}

/// One entry of `providers:`.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Its key in the map: the name before `:` in selectors, prices and rows.
    pub instance: String,
    /// The row of the provider table it is an instance of.
    pub kind: &'static Provider,
    /// `api_key` or what `api_key_file` holds, else the first of the row's environment variables that is set.
    pub api_key: Option<Secret>,
    /// What its client is told beyond that, by the names of [`Provider::settings`]: from the entry, its `client_args`
    /// or the environment. `credentials` is always JSON, never a path.
    pub settings: Vec<(String, Secret)>,
    /// Where what it is called with came from.
    pub credential: CredentialSource,
    /// `api_base`, else the row's base variable, else its default; no trailing slash. `None` only for
    /// `mock` and for families that this build cannot call.
    pub base_url: Option<String>,
    /// `client_args.timeout`: overrides `first_byte_timeout` and `idle_timeout`.
    pub timeout: Option<Duration>,
    /// `client_args.max_retries`, default 2: repeats of a call that failed before its first byte.
    pub max_retries: u32,
    /// `client_args.default_headers`: sent with every call; never `authorization` or hop-by-hop ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Declared model ids, for backends without a list.
    pub models: Vec<String>,
    /// Not in `providers:`; its credential is in the environment.
    pub from_environment: bool,
}

/// Where the credential of a provider came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// Its entry in `providers:`.
    Entry,
    /// This environment variable.
    Variable(&'static str),
    /// This file, named by the entry or by a variable.
    File(PathBuf),
    /// None was given: what Amazon's or Google's machines and tools leave for programs is used.
    Machine,
    /// It answers without.
    NotNeeded,
    /// Calls will fail.
    Missing,
}

/// One entry of `pricing:`.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceSeed {
    /// `instance:model`.
    pub model_key: String,
    /// All rates and tiers.
    pub prices: Prices,
    /// `None`: from the start of the gateway on.
    pub effective_at: Option<Timestamp>,
}

/// `stream_missing_usage_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingUsage {
    /// The held estimate is charged.
    #[default]
    Estimate,
    /// The held estimate is charged and the row is an error.
    Fail,
    /// Nothing is charged.
    AllowFree,
}

impl MissingUsage {
    /// Every word, in the order of the alphabet.
    pub const WORDS: [&str; 3] = ["allow_free", "estimate", "fail"];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Estimate => "estimate",
            Self::Fail => "fail",
            Self::AllowFree => "allow_free",
        }
    }

    /// What a word means.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Estimate, Self::Fail, Self::AllowFree].into_iter().find(|one| one.as_str() == word)
    }
}

/// Sizes and times; every one can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of callers at once. 503 beyond.
    pub max_connections: NonZeroU32,
    /// The head of a request, in bytes. 431 beyond.
    pub max_header_bytes: usize,
    /// Headers of a request. 431 beyond.
    pub max_header_count: usize,
    /// To receive a whole head, from its first byte on. 408 beyond.
    pub header_timeout: Duration,
    /// Requests with an API key at once, of all callers. 503 beyond.
    pub max_concurrent_requests: NonZeroU32,
    /// Of one key, or of one token of a platform. 429 beyond.
    pub max_concurrent_requests_per_key: Option<NonZeroU32>,
    /// Of one user, with all keys. 429 beyond.
    pub max_concurrent_requests_per_user: Option<NonZeroU32>,
    /// Usage that waits for the database or the platform, in bytes. 503 for new requests beyond.
    pub max_journal_bytes: u64,
    /// Largest request body, in bytes. 413 beyond.
    pub max_request_bytes: usize,
    /// To receive a whole request body.
    pub request_body_timeout: Duration,
    /// What has to come of a body every second, on average and after a while; 0: anything. 408 below.
    pub request_body_min_bytes_per_s: u32,
    /// TCP connect and, separately, the TLS handshake with a provider.
    pub connect_timeout: Duration,
    /// From the sent request to the first byte of the answer's body.
    pub first_byte_timeout: Duration,
    /// Silence between two pieces of an answer.
    pub idle_timeout: Duration,
    /// From arrival to the end of the answer.
    pub request_timeout: Duration,
    /// A caller who does not read.
    pub downstream_write_timeout: Duration,
    /// An idle caller connection.
    pub downstream_keepalive: Duration,
    /// Silence after which a stream gets a comment; zero: never.
    pub streaming_keepalive_interval: Duration,
    /// After SIGTERM: how long `/health` answers 503 before the listeners close.
    pub lame_duck: Duration,
    /// After that: how long open requests may go on.
    pub drain: Duration,
    /// How long a process that takes the place of this one may need until it serves.
    pub upgrade: Duration,
    /// How often the files of the configuration are looked at for changes; zero: they are read again at `SIGHUP` only.
    pub reload_interval: Duration,
    /// Idle provider connections kept per thread.
    pub upstream_pool_size: usize,
}
