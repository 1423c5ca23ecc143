//! Pingora's server around the gateway: listeners, services, background work, draining.

mod announce;
mod background;
mod handover;
mod inherit;
mod listen;
mod notify;
mod shutdown;
mod successor;
mod upgrade;

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;

use crate::app::{App, Mode, StartError};
use crate::config::{Config, Listen, Program, Supervisor, Written};
use crate::demo::Kind;
use crate::mock::platform::Platform;
use crate::reload::{Reloader, Reread};
use crate::routes::Side;
use crate::telemetry::logs::{self, AccessLog};
use announce::Announcer;
use background::{
    BatchService, CredentialsService, DiscoveryService, FilesService, FollowService, HeirService,
    HousekeepingService, IdleService, JournalService, MockListener, PlatformListener, RatesService,
    ReloadService, ReportService,
};
use handover::{Name, Sockets};
use listen::Listener;
pub use notify::Notify;
use notify::Watchdog;
use rustls::server::danger::ClientCertVerifier;
use shutdown::Ending;
use successor::Successor;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use upgrade::{Handed, Upgrade};

/// What runs beside the gateway.
#[derive(Default)]
pub struct Beside {
    /// `otari demo`.
    pub demo: Option<Kind>,
}

/// What it serves with.
pub struct Given {
    /// As it was read.
    pub config: Config,
    /// To say later what changed.
    pub written: Written,
    /// To read it again.
    pub reread: Reread,
    /// Whoever started it.
    pub supervisor: Supervisor,
    /// To start it anew; or why that cannot be.
    pub program: Result<Program, String>,
}

/// Serves until a signal ends the process, or another one takes its place; returns only when it does not come to serve:
/// because it cannot, or because it was told to end before.
///
/// # Errors
/// Says what to do.
pub fn run(given: Given, beside: Beside) -> Result<(), StartError> {
    let Given { config, written, reread, supervisor, program } = given;
    let notify = Notify::new(&supervisor);
    let runtime = store_runtime()?;
    // Before anybody can come by: who has been answered may also end it.
    let mut ending = Ending::heard_on(&runtime)?;
    let meeting = config.pingora.upgrade_sock.clone();
    let meeting = meeting.unwrap_or_else(|| config.journal_dir.join("handover").join("socket"));
    let Opened { public, management, mut successor, sockets } =
        Opened::open(&config, &supervisor, &meeting)?;
    let clients = config.management.as_ref().and_then(|own| own.clients.clone());
    let mock = MockListener::for_config(&config)?;
    let conf = server_conf(&config);
    let access = AccessLog::new(config.log_format, logs::has_lines(config.log_level));
    let access = Arc::new(access);
    // The demo ends with its terminal, and is made anew by each start.
    let (hangup, program) = match beside.demo {
        Some(_) => (None, Err("a demo has no other that could take its place".to_owned())),
        None => (Some(heard(&runtime, SignalKind::hangup())?), program),
    };
    let upgrade = heard(&runtime, SignalKind::user_defined2())?;
    let mock_address = mock.as_ref().map(|(address, _)| *address);
    let starting = App::start(config, access.clone(), &conf, mock_address, successor.is_some());
    let Some(app) = runtime.block_on(ending.unless_wished(starting)) else {
        tracing::info!("told to end before it served");
        return Ok(());
    };
    let app = Arc::new(app?);
    write_log(access)?;

    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let addresses = (public.address, management.as_ref().map(|management| management.address));
    add_listeners(&mut server, &app, public, management.map(|at| (at, clients)));
    add_mode(&mut server, &app);
    let reloader = Reloader::new(app.clone(), reread, written, Box::new(notify.clone()));
    let reloader = ReloadService { reloader, hangup: Mutex::new(hangup) };
    server.add_service(background_service("reload", reloader));
    if let Some((_, mock)) = mock {
        server.add_service(background_service("mock", mock));
    }
    let hints = beside.demo.as_ref().map(announce::Hints::new);
    add_demo(&mut server, beside);
    if let Some(successor) = &mut successor {
        successor.ready()?;
        if let Mode::Standalone(mode) = &app.mode {
            runtime.block_on(mode.follower.look());
        }
    }
    let leaving = Leaving::new(notify, sockets, &supervisor);
    let announcer =
        Announcer::new(app.clone(), addresses, hints, leaving.notify.clone(), successor);
    let address = announcer.reach();
    let watchdog = Watchdog {
        notify: leaving.notify.clone(),
        every: supervisor.watchdog,
        address,
        app: app.clone(),
    };
    server.add_service(background_service("watchdog", watchdog));
    server.add_service(background_service("announce", announcer));
    let upgrade = Upgrade::new(&app, program, &leaving, meeting, upgrade);
    server.add_service(background_service("upgrade", upgrade));
    let ending = Arc::new(tokio::sync::Mutex::new(ending));
    let drain =
        shutdown::Drain { app: app.clone(), ending: ending.clone(), leaving: leaving.clone() };
    server.add_service(background_service("drain", drain));
    let lame_duck = app.config.limits.lame_duck;
    let signals = shutdown::Signals { ending, life: app.life.clone(), lame_duck, leaving };
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    drop(runtime);
    Ok(())
}

/// What the end of the process has to do with others.
#[derive(Clone)]
struct Leaving {
    notify: Notify,
    sockets: Arc<Sockets>,
    handed: Arc<Handed>,
    /// The port is the supervisor's, and lives on.
    is_held: bool,
}

impl Leaving {
    fn new(notify: Notify, sockets: Arc<Sockets>, supervisor: &Supervisor) -> Self {
        Self { notify, sockets, handed: Arc::default(), is_held: supervisor.sockets > 0 }
    }
}

/// Where it listens.
struct Opened {
    public: Listener,
    management: Option<Listener>,
    /// It takes the place of another.
    successor: Option<Successor>,
    /// To be handed on.
    sockets: Arc<Sockets>,
}

impl Opened {
    /// Takes what there is of the process before this one or of systemd, and opens the rest. `meeting`: where sockets may
    /// come by.
    fn open(config: &Config, supervisor: &Supervisor, meeting: &Path) -> Result<Self, StartError> {
        let mut successor = supervisor.predecessor.as_ref().map(Successor::meet).transpose()?;
        let sockets = Arc::<Sockets>::default();
        let mut open = |side, listen: &Listen| {
            let name = Name::new(side, listen);
            let listener = match successor.as_mut().and_then(|old| old.take(&name)) {
                Some(socket) => Listener::held(socket)?,
                None if side != Side::Management && supervisor.sockets > 0 => {
                    Listener::held(inherit::first(meeting)?)?
                }
                None => Listener::bind(listen)?,
            };
            let kept = listener.socket.try_clone();
            let kept = kept.map_err(|error| StartError::Other(format!("a socket: {error}")))?;
            sockets.add(name, kept);
            Ok::<_, StartError>(listener)
        };
        let public = open(Side::Public, &config.listen)?;
        let management = config.management.as_ref();
        let management = management.map(|own| open(Side::Management, &own.listen)).transpose()?;
        Ok(Self { public, management, successor, sockets })
    }
}

/// The store's connections live on this runtime; it outlives every service.
fn store_runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("store")
        .enable_all()
        .build()
        .map_err(|error| StartError::Other(format!("cannot start a runtime: {error}")))
}

/// From here on such a signal is no reason to die.
fn heard(runtime: &Runtime, kind: SignalKind) -> Result<Signal, StartError> {
    let _here = runtime.enter();
    signal(kind).map_err(|error| StartError::Other(format!("no signals: {error}")))
}

/// The access log is written by a thread of its own.
fn write_log(log: Arc<AccessLog>) -> Result<(), StartError> {
    let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || log.run());
    thread.map_err(|error| StartError::Other(format!("cannot start a thread: {error}")))?;
    Ok(())
}

/// What answers callers, and managers where they have an address of their own.
fn add_listeners(
    server: &mut Server,
    app: &Arc<App>,
    public: Listener,
    management: Option<(Listener, Option<Arc<dyn ClientCertVerifier>>)>,
) {
    let conf = server.configuration.clone();
    let side = if management.is_some() { Side::Public } else { Side::Only };
    server.add_service(listen::service(app, &conf, public, side, None));
    if let Some((at, clients)) = management {
        server.add_service(listen::service(app, &conf, at, Side::Management, clients));
    }
}

/// Whom the demo of connected mode speaks to.
fn add_demo(server: &mut Server, beside: Beside) {
    let Some(Kind::Connected(peers)) = beside.demo else { return };
    let provider = MockListener::new(peers.provider);
    server.add_service(background_service("mock", provider));
    let platform = PlatformListener::new(peers.platform, Platform::new(peers.script));
    server.add_service(background_service("mock platform", platform));
}

/// What the mode does beside requests.
fn add_mode(server: &mut Server, app: &Arc<App>) {
    match &app.mode {
        Mode::Standalone(mode) => {
            server.add_service(background_service("journal", JournalService(mode.clone())));
            server.add_service(background_service("heir", HeirService(mode.clone())));
            server.add_service(background_service("follow", FollowService(mode.clone())));
            let rates = RatesService { app: app.clone(), mode: mode.clone() };
            server.add_service(background_service("rates", rates));
            server.add_service(background_service("discovery", DiscoveryService(mode.clone())));
            let housekeeping = HousekeepingService(mode.clone());
            server.add_service(background_service("housekeeping", housekeeping));
            server.add_service(background_service("files", FilesService(mode.clone())));
            let batches = BatchService { app: app.clone(), mode: mode.clone() };
            server.add_service(background_service("batches", batches));
        }
        Mode::Connected(mode) => {
            server.add_service(background_service("reports", ReportService(mode.clone())));
        }
    }
    server.add_service(background_service("idle", IdleService(app.clone())));
    let credentials = CredentialsService(app.credentials.clone());
    server.add_service(background_service("credentials", credentials));
}

/// Threads, pools and grace, from our own configuration.
fn server_conf(config: &Config) -> ServerConf {
    let (limits, own) = (&config.limits, &config.pingora);
    // An upper bound only: draining leaves as soon as the last request has ended.
    let grace = own.grace.unwrap_or_else(|| limits.longest_end());
    ServerConf {
        threads: config.threads,
        work_stealing: own.work_stealing,
        listener_tasks_per_fd: own.listener_tasks_per_fd,
        upstream_keepalive_pool_size: limits.upstream_pool_size,
        grace_period_seconds: Some(grace.as_secs()),
        graceful_shutdown_timeout_seconds: Some(own.shutdown_timeout.as_secs()),
        ca_file: own.ca_file.as_ref().map(|path| path.display().to_string()),
        client_bind_to_ipv4: own.bind_ipv4.clone(),
        client_bind_to_ipv6: own.bind_ipv6.clone(),
        upstream_connect_offload_threadpools: own.offload.map(|(pools, _)| pools),
        upstream_connect_offload_thread_per_pool: own.offload.map(|(_, each)| each),
        max_blocking_threads: own.max_blocking_threads,
        blocking_threads_ttl_seconds: own.blocking_threads_ttl.map(|ttl| ttl.as_secs()),
        ..ServerConf::default()
    }
}
