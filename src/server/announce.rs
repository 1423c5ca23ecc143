//! The first screen: what runs, where, on what, and how to call it.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use super::Notify;
use super::notify::listens;
use super::successor::Successor;
use crate::app::{App, Mode, Standalone};
use crate::config::{CredentialSource, ProviderConfig};
use crate::control::default_prices;
use crate::control::settings::MasterKey;
use crate::demo::Kind;
use crate::reload::Telling as _;

/// The listener is asked for so long.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// What the lines of a demo say.
pub(super) enum Hints {
    /// The management API's key.
    Standalone { master_key: String },
    /// Where to look at what the platform was told.
    Connected { platform: String },
}

impl Hints {
    pub(super) fn new(demo: &Kind) -> Self {
        match demo {
            Kind::Standalone { master_key } => Self::Standalone { master_key: master_key.clone() },
            Kind::Connected(peers) => Self::Connected { platform: peers.platform_url.clone() },
        }
    }
}

/// Speaks once the port answers.
pub(super) struct Announcer {
    app: Arc<App>,
    address: SocketAddr,
    /// Where it is managed, if not there.
    management: Option<SocketAddr>,
    hints: Option<Hints>,
    notify: Notify,
    /// The gateway whose place this one takes.
    successor: Mutex<Option<Successor>>,
    started: Instant,
}

impl Announcer {
    pub(super) fn new(
        app: Arc<App>,
        (address, management): (SocketAddr, Option<SocketAddr>),
        hints: Option<Hints>,
        notify: Notify,
        successor: Option<Successor>,
    ) -> Self {
        let successor = Mutex::new(successor);
        Self { app, address, management, hints, notify, successor, started: Instant::now() }
    }

    /// The address under which this machine reaches it.
    pub(super) fn reach(&self) -> SocketAddr {
        reach(self.address)
    }

    /// The address a person on this machine can open.
    fn url(&self) -> String {
        self.url_of(self.address)
    }

    fn url_of(&self, address: SocketAddr) -> String {
        let scheme = if self.app.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reach(address))
    }

    /// What is said of TLS and of management.
    fn security(&self) -> Vec<String> {
        let config = &self.app.config;
        let mut lines = Vec::new();
        if let Some(tls) = &config.tls {
            let (file, until) = (tls.cert_path.display(), tls.until());
            lines.push(format!("tls        {file}, until {until}"));
        }
        if let (Some(address), Some(own)) = (self.management, &config.management) {
            let who = match own.clients {
                Some(_) => "clients show a certificate",
                None => "no certificate of clients asked for",
            };
            lines.push(format!("management {}  {who}", self.url_of(address)));
        }
        lines
    }

    fn lines(&self, url: &str) -> Vec<String> {
        let config = &self.app.config;
        let file =
            config.file.as_ref().map_or("none".to_owned(), |file| file.display().to_string());
        let version = env!("CARGO_PKG_VERSION");
        let mut lines = match &self.app.mode {
            Mode::Standalone(mode) => {
                let mut lines = vec![format!("otari {version}  mode standalone  config {file}")];
                lines.extend(standalone(mode));
                lines
            }
            Mode::Connected(mode) => vec![
                format!("otari {version}  mode connected  config {file}"),
                format!(
                    "platform   {}  managed at {}",
                    mode.config.base_url, mode.config.management_url
                ),
                format!("journal    {}", config.journal_dir.join("reports").display()),
            ],
        };
        lines.extend(self.security());
        lines.push(format!(
            "listening  {url}  API /v1  health /health{}  docs README.md",
            if config.enable_metrics { "  metrics /metrics" } else { "" }
        ));
        lines
    }

    fn standalone(&self) -> Option<&Standalone> {
        match &self.app.mode {
            Mode::Standalone(mode) => Some(mode),
            Mode::Connected(_) => None,
        }
    }

    /// A master key that was made because none is configured; on standard output as well.
    fn show_master_key(&self) {
        let Some(key) = self.standalone().and_then(|mode| mode.first_master_key.as_ref()) else {
            return;
        };
        let mut out = std::io::stdout().lock();
        let intro =
            "No master key is configured. Created one for the management API. Save this key now:";
        if writeln!(out, "{intro}\n{key}").and_then(|()| out.flush()).is_err() {
            tracing::warn!(
                "the master key could not be shown; set OTARI_MASTER_KEY to one of your own"
            );
        }
    }

    /// The key alone on a line of its own, on standard output: the log does not get it.
    fn show_key(&self, url: &str) {
        let key = self.standalone().and_then(|mode| mode.bootstrap_key.as_ref());
        let intro = "No API keys found. Created bootstrap key for first run. Save this key now:";
        let text = match (&self.hints, key) {
            (Some(Hints::Connected { platform }), _) => connected_demo(url, platform),
            (Some(Hints::Standalone { master_key }), Some(key)) => demo(url, key, master_key),
            (None, Some(key)) => format!("{intro}\n{key}"),
            (_, None) => return,
        };
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            tracing::warn!("the bootstrap key could not be shown; create one with POST /v1/keys");
        }
    }
}

/// The address under which this machine reaches another of its own.
fn reach(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What there is to call, and what stands in the way.
fn standalone(mode: &Standalone) -> Vec<String> {
    let directory = &mode.local.directory;
    let providers: Vec<String> = mode.config.providers.iter().map(provider).collect();
    let providers = if providers.is_empty() {
        "none: add one under providers: in the configuration, or set e.g. OPENAI_API_KEY".to_owned()
    } else {
        providers.join("  ")
    };
    let mut lines = vec![
        format!("database   {}", mode.store.label()),
        format!("providers  {providers}"),
        format!(
            "models     {} with a price, {} API keys",
            directory.priced_models(),
            directory.keys()
        ),
    ];
    if let Some(files) = &mode.config.files {
        lines.push(format!("files      {}", files.backend.label()));
    }
    if directory.default_prices.is_on() {
        let source = default_prices::source();
        lines.push(format!("prices     public list prices where none is set ({source})"));
    } else if mode.settings.load().require_pricing && directory.priced_models() == 0 {
        lines.push(
            "warning    no model has a price and require_pricing is on: every call will be refused with 402. \
             Add prices under pricing: or with POST /v1/pricing, or set default_pricing to true"
                .into(),
        );
    }
    if **mode.local.master.load() == MasterKey::Unknown {
        lines.push(
            "warning    master_key_hash in the database is no SHA-256: the management API is off. Set OTARI_MASTER_KEY"
                .into(),
        );
    }
    lines
}

/// `openai (key set)`.
fn provider(provider: &ProviderConfig) -> String {
    let state = match &provider.credential {
        _ if !provider.kind.is_callable() => "not callable by this version",
        CredentialSource::Entry | CredentialSource::Variable(_) | CredentialSource::File(_) => {
            "key set"
        }
        CredentialSource::Machine => "credentials of this machine",
        CredentialSource::NotNeeded => "no key needed",
        CredentialSource::Missing => "NO KEY",
    };
    format!("{} ({state})", provider.instance)
}

/// Lines to paste.
fn demo(url: &str, key: &str, master: &str) -> String {
    format!(
        r#"
A chat completion, streamed:

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
    -d '{{"model":"mock:demo","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

The same in Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  for chunk in client.chat.completions.create(model="mock:demo", stream=True,
          messages=[{{"role": "user", "content": "Hello"}}]):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

What it used and cost:

  curl '{url}/v1/usage?limit=5' -H 'Authorization: Bearer {master}'
"#
    )
}

/// Lines to paste, where a platform decides: it takes any token.
fn connected_demo(url: &str, platform: &str) -> String {
    format!(
        r#"
A chat completion, streamed; the last chunk says what it cost:

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer tk_demo' -H 'Content-Type: application/json' \
    -d '{{"model":"mock:demo","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

The same model through Anthropic's API:

  curl {url}/v1/messages -H 'Authorization: Bearer tk_demo' -H 'Content-Type: application/json' \
    -d '{{"model":"mock:demo","max_tokens":99,"messages":[{{"role":"user","content":"Hello"}}]}}'

What the platform was asked and told:

  curl {platform}/__platform/seen
"#
    )
}

#[async_trait]
impl BackgroundService for Announcer {
    async fn start(&self, _: ShutdownWatch) {
        // First of all: its digest is stored, and nobody else will ever know it.
        self.show_master_key();
        let url = self.url();
        let reach = self.reach();
        let until = Instant::now() + LISTEN_TIMEOUT;
        // Where another process listens too, an answer says nothing: one of the connections has to come here.
        while !listens(&self.app, reach).await || !self.app.life.has_accepted() {
            if Instant::now() > until {
                tracing::error!(%url, "the listener does not answer");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        if let Some(successor) = self.successor.lock().take() {
            // A word and its answer: this service has a thread of its own.
            successor.serving();
        }
        for warning in &self.app.config.warnings {
            tracing::warn!("{warning}");
        }
        for line in self.lines(&url) {
            tracing::info!("{line}");
        }
        self.notify.ready("serving");
        tracing::info!("ready in {} ms", self.started.elapsed().as_millis());
        self.show_key(&url);
    }
}
