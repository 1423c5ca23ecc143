//! The processes under load: starting them, what they use, ending them. And what this binary does when
//! it is one of them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use otari::mock::platform::{Platform, Script};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use crate::Outcome;

/// Longest wait for a child to listen.
const START: Duration = Duration::from_secs(30);

/// Longest wait for a child that was asked to end.
const END: Duration = Duration::from_secs(2);

/// Idle upstream connections per thread: Pingora's default. Must be the gateway's too, to be fair.
const POOL_SIZE: usize = 128;

/// Clock ticks per second in `/proc/<pid>/stat`: `USER_HZ`, 100 on x86-64 and arm64.
const TICKS: u64 = 100;

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

    /// Starts the pass-through to `upstream`.
    pub(crate) async fn bare(upstream: SocketAddr, threads: usize) -> Outcome<Self> {
        let address = free_address()?;
        let child = myself("bare")
            .args(["--listen", &address.to_string(), "--upstream", &upstream.to_string()])
            .args(["--threads", &threads.to_string()])
            .spawn()?;
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

    /// CPU time used so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name may hold spaces; fields are counted after its closing parenthesis.
        let fields = stat.rsplit_once(')').ok_or("odd /proc stat")?.1;
        let ticks = fields.split_ascii_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 =
            line.and_then(|l| l.split_ascii_whitespace().next()).ok_or("no VmRSS")?.parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Our own children end when their stdin does; the gateway has none and is ended by its id.
        if self.child.stdin.take().is_some() {
            let deadline = Instant::now() + END;
            while Instant::now() < deadline {
                match self.child.try_wait() {
                    Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                    _ => return,
                }
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
pub(crate) fn run_bare(listen: SocketAddr, upstream: SocketAddr, threads: usize) -> Outcome<()> {
    let conf =
        ServerConf { threads, upstream_keepalive_pool_size: POOL_SIZE, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
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
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _: &mut Session,
        (): &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}
