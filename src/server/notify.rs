//! What systemd is told: ready, reloading, stopping, alive. Without it there is nobody to tell, and nothing happens.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::prelude::HttpPeer;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use pingora_http::RequestHeader;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::App;
use crate::config::Supervisor;
use crate::reload::Telling;

/// Tells systemd what the process is doing.
#[derive(Clone, Debug, Default)]
pub struct Notify(Option<Arc<Ear>>);

#[derive(Debug)]
struct Ear {
    address: UnixAddr,
    /// Another process speaks now.
    is_anothers: AtomicBool,
}

impl Notify {
    /// Speaks to `supervisor`, if there is one.
    pub fn new(supervisor: &Supervisor) -> Self {
        let address = supervisor.socket.as_ref().and_then(|socket| {
            let address = match socket.strip_prefix('@') {
                Some(name) => UnixAddr::from_abstract_name(name),
                None => UnixAddr::from_pathname(socket),
            };
            let said = "NOTIFY_SOCKET is no address: the supervisor is told nothing";
            address.inspect_err(|error| tracing::warn!(%error, "{said}")).ok()
        });
        let ear = |address| Arc::new(Ear { address, is_anothers: AtomicBool::new(false) });
        Self(address.map(ear))
    }

    /// It leaves.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// The service is this process from now on. If it is another one, nothing is said any more by this one.
    pub(super) fn is_now(&self, pid: u32) {
        let Some(ear) = &self.0 else { return };
        ear.is_anothers.store(false, Ordering::Relaxed);
        self.say(&format!("MAINPID={pid}"));
        ear.is_anothers.store(pid != std::process::id(), Ordering::Relaxed);
    }

    fn say(&self, what: &str) {
        let Some(ear) = self.0.as_ref().filter(|ear| !ear.is_anothers.load(Ordering::Relaxed))
        else {
            return;
        };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // Whoever does not listen must not stop us.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(what.as_bytes(), &ear.address)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "the supervisor could not be told");
        }
    }
}

impl Telling for Notify {
    fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration"
        ));
    }

    fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }
}

/// Shows that calls are served, by making one, as often as the supervisor wants to hear of it.
pub(super) struct Watchdog {
    pub(super) notify: Notify,
    pub(super) every: Option<Duration>,
    pub(super) address: SocketAddr,
    pub(super) app: Arc<App>,
}

#[async_trait]
impl BackgroundService for Watchdog {
    async fn start(&self, _: ShutdownWatch) {
        // Of a quarter each: after an answer, the next one may not come and the one after that is still in time.
        let Some(every) = self.every.map(|every| every / 4) else { return };
        loop {
            // While it leaves the port may be closed, and the time to leave is limited anyway.
            let is_alive = self.app.life.is_draining()
                || tokio::time::timeout(every, answers(&self.app, self.address))
                    .await
                    .is_ok_and(|done| done);
            if is_alive {
                self.notify.say("WATCHDOG=1");
            } else {
                tracing::warn!("the gateway does not answer itself: the watchdog is not told");
            }
            tokio::time::sleep(every).await;
        }
    }
}

/// Whether the port answers, with whatever status.
async fn answers(app: &App, address: SocketAddr) -> bool {
    if app.certificates.is_some() {
        return answers_tls(app, address).await.is_ok();
    }
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let ask = b"GET /health/liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut begin = [0; 9];
    stream.write_all(ask).await.is_ok()
        && stream.read_exact(&mut begin).await.is_ok()
        && begin.starts_with(b"HTTP/1.1 ")
}

/// Whether somebody listens there, as far as a connection begins.
pub(super) async fn listens(app: &App, address: SocketAddr) -> bool {
    if app.certificates.is_none() {
        return TcpStream::connect(address).await.is_ok();
    }
    let connected = connect_tls(app, address).await;
    if let Ok(mut session) = connected {
        session.shutdown().await;
        return true;
    }
    false
}

/// The certificate is not looked at: it is for another name, and its own.
async fn connect_tls(app: &App, address: SocketAddr) -> pingora_core::Result<HttpSession> {
    let mut peer = HttpPeer::new(address, true, "localhost".to_owned());
    (peer.options.verify_cert, peer.options.verify_hostname) = (false, false);
    peer.options.alpn = ALPN::H1;
    Ok(app.connector.get_http_session(&peer).await?.0)
}

/// As [`answers`], over TLS.
async fn answers_tls(app: &App, address: SocketAddr) -> pingora_core::Result<()> {
    let mut session = connect_tls(app, address).await?;
    let mut ask = RequestHeader::build("GET", b"/health/liveness", Some(1))?;
    ask.insert_header("host", "localhost")?;
    session.write_request_header(Box::new(ask)).await?;
    let answered = session.read_response_header().await;
    session.shutdown().await;
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_told_through_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor =
            Supervisor { socket: path.to_str().map(str::to_owned), ..Supervisor::default() };
        let notify = Notify::new(&supervisor);
        let heard = || {
            let mut bytes = [0; 200];
            let got = socket.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..got].to_vec()).unwrap()
        };
        notify.ready("serving");
        assert_eq!(heard(), "READY=1\nSTATUS=serving");
        notify.reloading();
        assert!(heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notify.is_now(7);
        notify.stopping("it is another's to say that");
        notify.is_now(std::process::id());
        assert_eq!(
            (heard(), heard()),
            ("MAINPID=7".into(), format!("MAINPID={}", std::process::id()))
        );
        notify.stopping("bye");
        assert_eq!(heard(), "STOPPING=1\nSTATUS=bye");
        Notify::default().stopping("nobody hears it");
    }
}
