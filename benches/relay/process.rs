//! The processes under load: starting them, what they use, ending them. And what this binary does when
//! it is one of them.

#[path = "../common/proc.rs"]
pub(crate) mod proc;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use otari::mock::platform::{Platform, Script};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use rustix::process::{Pid, Signal, kill_process};

use proc::{Cpu, Memory};

use crate::Outcome;

/// Longest wait for a child to listen.
const START: Duration = Duration::from_secs(30);

/// Longest wait for a child that was asked to end.
const END: Duration = Duration::from_secs(2);

/// Idle upstream connections per thread: Pingora's default. Must be the gateway's too, to be fair.
const POOL_SIZE: usize = 128;

/// The header of requests for the second mock.
const BULK: &str = "x-bench-bulk";

/// A child; ends when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Wraps a child that will listen at `address`.
    pub(crate) fn new(child: Child, address: SocketAddr) -> Self {
        Self { child, address }
    }

    /// Starts the mock provider.
    pub(crate) async fn mock() -> Outcome<Self> {
        let mut child = myself("mock").stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("the mock has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut process = Self { child, address: line.trim().parse()? };
        process.wait_until_listening().await?;
        Ok(process)
    }

    /// Starts the pass-through to `upstream`; what is marked as bulk goes to `bulk`.
    pub(crate) async fn bare(
        upstream: SocketAddr,
        bulk: Option<SocketAddr>,
        threads: usize,
    ) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = myself("bare");
        command
            .args(["--listen", &address.to_string(), "--upstream", &upstream.to_string()])
            .args(["--threads", &threads.to_string()]);
        if let Some(bulk) = bulk {
            command.args(["--bulk", &bulk.to_string()]);
        }
        let child = command.spawn()?;
        let mut process = Self { child, address };
        process.wait_until_listening().await?;
        Ok(process)
    }

    /// Starts a platform that sends every call to `upstream`.
    pub(crate) async fn platform(upstream: SocketAddr) -> Outcome<Self> {
        let address = free_address()?;
        let child = myself("platform")
            .args(["--listen", &address.to_string(), "--upstream", &upstream.to_string()])
            .spawn()?;
        let mut process = Self { child, address };
        process.wait_until_listening().await?;
        Ok(process)
    }

    /// Waits until the child accepts connections.
    pub(crate) async fn wait_until_listening(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + START;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("a child ended at its start: {status}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("nobody listens at {}", self.address).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Its id, as `/proc` spells it.
    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Outcome<Cpu> {
        Cpu::of(&self.id())
    }

    /// Resident memory.
    pub(crate) fn memory(&self) -> Outcome<Memory> {
        proc::memory(&self.id())
    }

    /// Asks it to leave and waits until it has.
    pub(crate) async fn leave(&mut self, within: Duration) -> Outcome<ExitStatus> {
        let id = i32::try_from(self.child.id())?;
        kill_process(Pid::from_raw(id).ok_or("no process")?, Signal::TERM)?;
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("a process did not leave within {within:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// CPU of this process.
pub(crate) fn own_cpu() -> Outcome<Cpu> {
    Cpu::of("self")
}

impl Drop for Process {
    fn drop(&mut self) {
        // Our own children end when their stdin does; the gateway has none and is asked.
        if self.child.stdin.take().is_none()
            && let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        // It may have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn myself(role: &str) -> Command {
    let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new(path);
    // A group of its own: Ctrl-C in the terminal is for the bench, which may still want an answer of it.
    command.args(["--role", role]).stdin(Stdio::piped()).process_group(0);
    command
}

/// Serves the mock on a free port, tells it on stdout, and ends with stdin.
pub(crate) fn run_mock() -> Outcome<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
        otari::mock::serve(listener, stdin_ends()).await?;
        Ok(())
    })
}

/// Serves a platform that counts and keeps nothing, and ends with stdin.
pub(crate) fn run_platform(listen: SocketAddr, upstream: SocketAddr) -> Outcome<()> {
    let mut script = Script { keep: false, ..Script::default() };
    script.default_provider.provider = "openai".to_owned();
    script.default_provider.api_base = Some(format!("http://{upstream}/v1"));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        Platform::new(script).serve(listener, stdin_ends()).await?;
        Ok(())
    })
}

/// Serves the smallest proxy Pingora can be, and ends with stdin.
pub(crate) fn run_bare(
    listen: SocketAddr,
    upstream: SocketAddr,
    bulk: Option<SocketAddr>,
    threads: usize,
) -> Outcome<()> {
    let conf =
        ServerConf { threads, upstream_keepalive_pool_size: POOL_SIZE, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream, bulk });
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run(RunArgs { shutdown_signal: Box::new(StdinEnds) });
    Ok(())
}

/// Resolves when the parent has closed our stdin, or is gone.
async fn stdin_ends() {
    let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    // However it failed, nobody holds the other end any more.
    let _ = reading.await;
}

struct StdinEnds;

#[async_trait]
impl ShutdownSignalWatch for StdinEnds {
    async fn recv(&self) -> ShutdownSignal {
        stdin_ends().await;
        ShutdownSignal::FastShutdown
    }
}

struct Bare {
    upstream: SocketAddr,
    bulk: Option<SocketAddr>,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        (): &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        let is_bulk = || session.req_header().headers.contains_key(BULK);
        let to = self.bulk.filter(|_| is_bulk()).unwrap_or(self.upstream);
        Ok(Box::new(HttpPeer::new(to, false, String::new())))
    }
}
