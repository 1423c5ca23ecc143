//! The addresses we listen on, and what a connection to them has to be.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{ALPN, TcpSocketOptions};
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service;
use rustls::server::danger::ClientCertVerifier;

use crate::app::{App, StartError};
use crate::config::Listen;
use crate::proxy::Gateway;
use crate::proxy::door::Door;
use crate::routes::Side;

/// An address we listen on, known before Pingora binds it.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// For port 0: keeps the port that the system chose ours until Pingora has bound it.
    placeholder: Option<socket2::Socket>,
}

impl Listener {
    /// The address that somebody else listens on for us.
    pub(super) fn held(listen: &Listen) -> Result<Self, StartError> {
        if listen.port == 0 {
            let why = "a socket of systemd needs the port that it listens on as `port`";
            return Err(StartError::Other(why.into()));
        }
        Ok(Self { address: Self::address(listen)?, placeholder: None })
    }

    /// Finds out whether the address can be bound, so that a mistake is said at once: Pingora would try for half a
    /// minute.
    pub(super) fn bind(listen: &Listen) -> Result<Self, StartError> {
        let failed = |error| Self::failed(listen, &error);
        let (port, address) = (listen.port, Self::address(listen)?);
        if port != 0 {
            TcpListener::bind(address).map_err(failed)?;
            return Ok(Self { address, placeholder: None });
        }
        let placeholder = placeholder(address).map_err(failed)?;
        let address = placeholder.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
        Ok(Self { address, placeholder: Some(placeholder) })
    }

    fn failed(listen: &Listen, error: &std::io::Error) -> StartError {
        let Listen { host, port } = listen;
        StartError::Other(format!(
            "cannot listen on {host}:{port}: {error}. Set host and port (management_address for management), or stop what holds the port"
        ))
    }

    /// The address of `host` and `port`.
    fn address(listen: &Listen) -> Result<SocketAddr, StartError> {
        let failed = |error| Self::failed(listen, &error);
        let Listen { host, port } = listen;
        let text = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        std::net::ToSocketAddrs::to_socket_addrs(&text)
            .map_err(failed)?
            .next()
            .ok_or_else(|| failed(std::io::Error::other("the name has no address")))
    }

    fn options(&self) -> TcpSocketOptions {
        let mut options = TcpSocketOptions::default();
        options.so_reuseport = self.placeholder.is_some().then_some(true);
        options
    }
}

/// A socket that holds a port of the system's choice without listening on it.
fn placeholder(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What answers at an address.
pub(super) fn service(
    app: &Arc<App>,
    conf: &Arc<ServerConf>,
    listener: &Listener,
    side: Side,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Service<Door> {
    let proxy = pingora_proxy::http_proxy(conf, Gateway(app.clone(), side));
    let name = if side == Side::Management { "management" } else { "gateway" };
    let mut service = Service::new(name.to_owned(), Door::new(proxy, app.clone()));
    let address = listener.address.to_string();
    match tls(app, clients) {
        None => service.add_tcp_with_settings(&address, listener.options()),
        Some(tls) => service.add_tls_with_settings(&address, Some(listener.options()), tls),
    }
    service
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
