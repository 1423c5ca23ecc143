//! The players of a run and the links between them: gateways, two providers, a database or a platform.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use otari::mock::platform::{Rule, Then};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, RwLock};

use crate::caller::Idle;
use crate::link::Link;
use crate::scene::{Api, Call, Kind, Mode, Scene, Side, USERS};
use crate::shim::Shim;
use crate::standby::Pair;
use crate::support::eventually;
use crate::support::gateway::{Builder, Gateway};
use crate::support::platform::{Platform, USER_TOKEN};
use crate::support::postgres::{self, Cluster, Database};
use crate::upstream::Upstream;

/// USD per million tokens, so that costs have fractions of a micro-dollar, which are rounded.
pub(crate) const PRICE: (f64, f64) = (1.37, 4.11);

/// Waits that are short enough for a run of seconds.
const CONFIG: &str = "connect_timeout_s: 1\nfirst_byte_timeout_s: 2\nidle_timeout_s: 2\ndownstream_write_timeout_s: 3\n\
                      request_timeout_s: 12\nstreaming_keepalive_interval_ms: 150\ncircuit_breaker_cooldown_s: 1\n\
                      reload_interval_s: 0\nenable_metrics: true\n";

/// A server that tests restart; one at a time.
static RESTARTED: AsyncMutex<Option<Cluster>> = AsyncMutex::const_new(None);

/// Where the rows go.
pub(crate) enum Server {
    /// One that stays.
    Steady,
    Restarted(MutexGuard<'static, Option<Cluster>>),
    Pair(Pair),
}

pub(crate) struct Base {
    pub(crate) server: Server,
    pub(crate) database: Database,
    pub(crate) link: Link,
}

/// A gateway, and what leads to it.
pub(crate) struct Node {
    pub(crate) gateway: AsyncMutex<Gateway>,
    pub(crate) link: Link,
    pub(crate) idle: Idle,
    pub(crate) shim: Option<Shim>,
    /// When it was killed, and when it was back.
    kills: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// When it was stopped, and when it went on.
    stops: Mutex<Vec<(Instant, Instant)>>,
}

impl Node {
    /// Kills it, and starts it again when `ready` says so.
    pub(crate) async fn kill(&self, ready: impl Future<Output = ()>) {
        let mut gateway = self.gateway.lock().await;
        self.kills.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), None));
        self.link.cut_off();
        gateway.kill9();
        ready.await;
        gateway.restart().await;
        self.link.lead_to(gateway.addr());
        self.link.mend();
        let mut kills = self.kills.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = kills.last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Stops it for so long.
    pub(crate) async fn stop(&self, lasts: Duration) {
        let gateway = self.gateway.lock().await;
        let from = Instant::now();
        gateway.signal("STOP");
        tokio::time::sleep(lasts).await;
        gateway.signal("CONT");
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.push((from, Instant::now()));
    }

    /// Whether it stood still between these instants.
    pub(crate) fn was_stopped(&self, from: Instant, to: Instant) -> bool {
        let stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.iter().any(|(began, ended)| *began <= to && *ended >= from)
    }

    /// Whether it was killed, or not there, between these instants.
    pub(crate) fn was_killed(&self, from: Instant, to: Instant) -> bool {
        let kills = self.kills.lock().unwrap_or_else(PoisonError::into_inner);
        kills.iter().any(|(at, back)| *at <= to && back.is_none_or(|back| back >= from))
    }
}

/// All of them.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) nodes: Vec<Node>,
    pub(crate) upstreams: [Upstream; 2],
    /// From the gateways to the providers.
    pub(crate) to_upstreams: [Link; 2],
    pub(crate) base: Option<Base>,
    pub(crate) platform: Option<(AsyncMutex<Platform>, Link)>,
    /// The platform's own clock began here.
    pub(crate) began: Instant,
    keys: Vec<String>,
    /// Held while nothing can be started: no database, no disk.
    pub(crate) ground: RwLock<()>,
}

impl Stage {
    pub(crate) async fn set(scene: Scene) -> Self {
        let began = Instant::now();
        let upstreams = [Upstream::start(&scene, 0).await, Upstream::start(&scene, 1).await];
        let to_upstreams =
            [Link::to(upstreams[0].addr()).await, Link::to(upstreams[1].addr()).await];
        let base = match scene.mode {
            Mode::Postgres | Mode::Shared => Some(database(&scene).await),
            Mode::Sqlite | Mode::Connected => None,
        };
        let platform = match scene.mode {
            Mode::Connected => Some(platform(&to_upstreams).await),
            _ => None,
        };
        let mut stage = Self {
            nodes: Vec::new(),
            upstreams,
            to_upstreams,
            base,
            platform,
            began,
            keys: Vec::new(),
            ground: RwLock::new(()),
            scene,
        };
        for _ in 0..stage.scene.gateways() {
            let node = stage.node().await;
            stage.nodes.push(node);
        }
        if stage.scene.mode != Mode::Connected {
            stage.open_accounts().await;
        }
        stage
    }

    async fn node(&self) -> Node {
        let shim = Shim::new();
        let mut start = Gateway::start().config(CONFIG);
        if let Some(shim) = &shim {
            start = shim
                .environment()
                .iter()
                .fold(start, |start, (name, value)| start.env(name, value));
        }
        start = match (&self.platform, &self.base) {
            (Some((platform, link)), _) => {
                let base = platform.lock().await.base();
                let path = base.splitn(4, '/').last().unwrap_or_default();
                start
                    .connected(&*platform.lock().await)
                    .env(
                        "PLATFORM_BASE_URL",
                        &format!("http://localhost:{}/{path}", link.addr().port()),
                    )
                    .config("platform:\n  report_disconnects: true")
                    .env("PLATFORM_RESOLVE_TIMEOUT_MS", "1500")
                    .env("PLATFORM_USAGE_TIMEOUT_MS", "1500")
                    .env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "500")
            }
            (None, Some(base)) => {
                self.local(start).config(&format!("database_url: {}", through(base)))
            }
            (None, None) => self.local(start),
        };
        let gateway = start.await;
        let link = Link::to(gateway.addr()).await;
        let (kills, stops) = (Mutex::default(), Mutex::default());
        Node { gateway: AsyncMutex::new(gateway), link, idle: Idle::default(), shim, kills, stops }
    }

    /// Providers of its own, and a policy for every call, so that every row says whose it is.
    fn local(&self, mut start: Builder) -> Builder {
        for (place, names) in [["a", "ma"], ["b", "mb"]].iter().enumerate() {
            let at = format!("http://localhost:{}/v1", self.to_upstreams[place].addr().port());
            for (name, kind) in names.iter().zip(["openai", "anthropic"]) {
                start = start.provider_of(kind, name, &at, "").price(
                    &format!("{name}:m"),
                    PRICE.0,
                    PRICE.1,
                );
            }
        }
        let policies = self.scene.calls.iter().map(|call| {
            let (first, then) = if call.api == Api::Chat { ("a", "b") } else { ("ma", "mb") };
            format!(
                "{}: {{select: [{{default: \"{first}:m\"}}], on_failure: [\"{then}:m\"]}}",
                call.name
            )
        });
        let policies: Vec<String> = policies.collect();
        start.config(&format!("routing: {{policies: {{{}}}}}", policies.join(", ")))
    }

    async fn open_accounts(&mut self) {
        let gateway = self.nodes[0].gateway.lock().await;
        for provider in ["a", "ma", "b", "mb"] {
            let price = json!({"model_key": format!("{provider}:m"),
                               "input_price_per_million": PRICE.0, "output_price_per_million": PRICE.1});
            gateway.manage(Method::POST, "/v1/pricing", price).await;
        }
        let caps = self.scene.caps.iter().map(|cap| Some(*cap));
        for (user, cap) in USERS.iter().zip([None].into_iter().chain(caps)) {
            let budget = match cap {
                #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
                Some(cap) => Some(gateway.budget(cap as f64 / 1e6).await),
                None => None,
            };
            gateway.user(user, budget.as_deref()).await;
            self.keys.push(gateway.key(user).await);
        }
        drop(gateway);
        for node in &self.nodes {
            let gateway = node.gateway.lock().await;
            let path = gateway.url("/v1/pricing");
            eventually("the gateway to know every key and price", async || {
                for key in &self.keys {
                    let answer = gateway.http().get(&path).bearer_auth(key).send().await.ok()?;
                    let prices: Value = answer.json().await.ok()?;
                    (prices.as_array()?.len() >= 4).then_some(())?;
                }
                Some(())
            })
            .await;
        }
    }

    /// What a call names as its model, and its key.
    pub(crate) fn asks(&self, call: &Call) -> (String, &str) {
        match (self.scene.mode, call.api) {
            (Mode::Connected, Api::Chat) => (format!("chat-{}", call.name), USER_TOKEN),
            (Mode::Connected, Api::Messages) => (format!("messages-{}", call.name), USER_TOKEN),
            _ => (call.name.clone(), &self.keys[call.user]),
        }
    }

    /// The link on this side; of two gateways, that of this one.
    pub(crate) fn link(&self, side: Side, gateway: usize) -> &Link {
        let callers = &self.nodes[gateway].link;
        match side {
            Side::Callers => callers,
            Side::First => &self.to_upstreams[0],
            Side::Second => &self.to_upstreams[1],
            Side::Database => self.base.as_ref().map_or(callers, |base| &base.link),
            Side::Platform => self.platform.as_ref().map_or(callers, |(_, link)| link),
        }
    }

    /// Removes what outlives the players.
    pub(crate) async fn strike(self) {
        let Some(base) = self.base else { return };
        drop(self.nodes);
        let url = base.database.url.clone();
        if let (false, Some((admin, name))) =
            (matches!(base.server, Server::Pair(_)), url.rsplit_once('/'))
        {
            // As many databases as runs would fill the disk.
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            postgres::execute(&format!("{admin}/postgres"), &sql)
                .expect("an own database is dropped");
        }
        tokio::task::block_in_place(|| drop(base));
    }
}

async fn database(scene: &Scene) -> Base {
    let (server, database) = match scene.kind {
        Kind::DatabaseRestart => {
            let mut cluster = RESTARTED.lock().await;
            let server = tokio::task::block_in_place(|| cluster.get_or_insert_with(Cluster::new));
            let database = server.database();
            (Server::Restarted(cluster), database)
        }
        Kind::FailOver => {
            let pair = tokio::task::block_in_place(Pair::start);
            let database = pair.primary.database();
            (Server::Pair(pair), database)
        }
        _ => (Server::Steady, tokio::task::block_in_place(postgres::database)),
    };
    let (_, at, _) = parts(&database.url);
    let at: SocketAddr = at.parse().expect("a server of the tests has a numeric address");
    Base { server, link: Link::to(at).await, database }
}

/// Up to the address, the address, and what follows it.
fn parts(url: &str) -> (&str, &str, &str) {
    let from = url.rfind('@').map_or_else(|| url.find("://").map_or(0, |at| at + 3), |at| at + 1);
    let to = url[from..].find('/').map_or(url.len(), |at| from + at);
    (&url[..from], &url[from..to], &url[to..])
}

/// The URL of the same database behind the link.
fn through(base: &Base) -> String {
    let (before, _, after) = parts(&base.database.url);
    format!("{before}{}{after}", base.link.addr())
}

async fn platform(to_upstreams: &[Link; 2]) -> (AsyncMutex<Platform>, Link) {
    let mut platform = Platform::start().await;
    let base = platform.base();
    let at = base.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let link = Link::to(at.parse().expect("a numeric address")).await;
    platform.edit(|script| {
        for (model, provider) in [("chat-*", "openai"), ("messages-*", "anthropic")] {
            let attempts = ["a", "b"].iter().zip(to_upstreams).map(|(name, link)| {
                let at = format!("http://localhost:{}/v1", link.addr().port());
                json!({"attempt_id": format!("{name}-{{n}}"), "provider": provider, "api_base": at,
                       "api_key": format!("key-{name}-{{n}}")})
            });
            script.resolve.push(Rule::model(model, Then::plan(attempts)));
        }
    });
    (AsyncMutex::new(platform), link)
}

/// What the metrics of a gateway say of this series, its labels summed up.
pub(crate) async fn gauge(gateway: &Gateway, name: &str) -> Option<f64> {
    let request = gateway.http().request(Method::GET, gateway.url("/metrics"));
    let text = request.timeout(Duration::from_secs(5)).send().await.ok()?.text().await.ok()?;
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    Some(values.sum())
}
