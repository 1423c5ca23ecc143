//! The addresses we listen on, and what a connection to them has to be.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd as _;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::listeners::ALPN;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service as ServiceTrait;
use pingora_core::services::listening::Service;
use rustls::server::danger::ClientCertVerifier;

use crate::app::{App, StartError};
use crate::config::Listen;
use crate::proxy::Gateway;
use crate::proxy::door::Door;
use crate::routes::Side;

/// A socket to listen on. It is ours before Pingora has it, so that a mistake is said at once: Pingora would try for half
/// a minute.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) socket: TcpListener,
}

impl Listener {
    /// One that somebody else has opened.
    pub(super) fn held(socket: TcpListener) -> Result<Self, StartError> {
        let address = socket.local_addr();
        let address = address.map_err(|error| StartError::Other(format!("a socket: {error}")))?;
        Ok(Self { address, socket })
    }

    /// One of our own. Nobody is let in before Pingora listens.
    pub(super) fn bind(listen: &Listen) -> Result<Self, StartError> {
        let Listen { host, port } = listen;
        let text = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        bound(&text).map_err(|error| {
            StartError::Other(format!(
                "cannot listen on {host}:{port}: {error}. Set host and port (management_address for management), or stop what holds the port"
            ))
        })
    }
}

fn bound(text: &str) -> std::io::Result<Listener> {
    let address = std::net::ToSocketAddrs::to_socket_addrs(text)?.next();
    let address = address.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // What is left of closed connections is no reason to wait.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = TcpListener::from(socket);
    Ok(Listener { address: socket.local_addr()?, socket })
}

/// Pingora's service on a socket that is open already.
pub(super) struct Held {
    inner: Service<Door>,
    address: String,
    socket: Mutex<Option<TcpListener>>,
}

#[async_trait]
impl ServiceTrait for Held {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let (Some(fds), Some(socket)) = (&fds, self.socket.lock().take()) {
            // As one that a process before this one has left to Pingora.
            fds.lock().add(self.address.clone(), socket.into_raw_fd());
        }
        self.inner.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn threads(&self) -> Option<usize> {
        ServiceTrait::threads(&self.inner)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.inner.listen_addresses()
    }
}

/// What answers at an address.
pub(super) fn service(
    app: &Arc<App>,
    conf: &Arc<ServerConf>,
    listener: Listener,
    side: Side,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Held {
    let proxy = pingora_proxy::http_proxy(conf, Gateway(app.clone(), side));
    let name = if side == Side::Management { "management" } else { "gateway" };
    let mut service = Service::new(name.to_owned(), Door::new(proxy, app.clone()));
    let address = listener.address.to_string();
    match tls(app, clients) {
        None => service.add_tcp(&address),
        Some(tls) => service.add_tls_with_settings(&address, None, tls),
    }
    Held { inner: service, address, socket: Mutex::new(Some(listener.socket)) }
}

/// What a connection begins with, when there is a certificate.
fn tls(app: &App, clients: Option<Arc<dyn ClientCertVerifier>>) -> Option<TlsSettings> {
    let certificates = app.certificates.clone()?;
    // The paths do not count beside a resolver.
    let mut tls = TlsSettings::intermediate("", "").ok()?;
    tls.set_cert_resolver(certificates);
    // Heads are judged by their bytes, and the door counts them: HTTP/2 has neither.
    tls.set_alpn(ALPN::H1);
    if let Some(clients) = clients {
        tls.set_client_cert_verifier(clients);
    }
    Some(tls)
}
