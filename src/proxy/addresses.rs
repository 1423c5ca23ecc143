//! Where providers are: names to addresses, and the peers that Pingora's pools are keyed by.
//!
//! Pingora would resolve a name by blocking the worker, and panic when it has no address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use otari_filters::upstream::{Failure, Upstream};
use papaya::HashMap;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::HttpPeer;

/// An answer is used for so long before the name is asked for again.
const FRESH: Duration = Duration::from_secs(30);
/// A look-up may take so long.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are closed before most providers do it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// HTTP/2 streams on one connection; Pingora's default is one.
const MAX_H2_STREAMS: usize = 100;
/// Places that are remembered; a platform may name any number of them.
const MAX_KEPT: usize = 10_000;

/// Where one provider is.
#[derive(Debug)]
pub(super) struct Known {
    /// The peers to connect to, in the order to try them; never empty.
    pub(super) peers: Vec<Arc<HttpPeer>>,
    since: Instant,
    /// The peers have it.
    connect_timeout: Duration,
}

/// All providers that were called, by scheme, host and port.
#[derive(Debug, Default)]
pub struct Addresses(HashMap<Box<str>, Arc<Known>>);

impl Addresses {
    /// Where the provider is.
    ///
    /// # Errors
    /// `Dns` when the name has no address and never had one.
    pub(super) async fn find(
        &self,
        upstream: &Upstream,
        connect_timeout: Duration,
        now: Instant,
    ) -> Result<Arc<Known>, Failure> {
        let known = self.0.pin().get(&upstream.origin).cloned();
        if let Some(known) = &known
            && (upstream.address.is_some() || now.duration_since(known.since) < FRESH)
            && known.connect_timeout == connect_timeout
        {
            return Ok(known.clone());
        }
        let addresses = match upstream.address {
            Some(address) => vec![address],
            None => lookup(&upstream.host, upstream.port).await,
        };
        if addresses.is_empty() {
            // The last good answer is better than none.
            return known.ok_or(Failure::Dns);
        }
        let peers = addresses
            .into_iter()
            .map(|address| Arc::new(peer(upstream, address, connect_timeout)))
            .collect();
        let fresh = Arc::new(Known { peers, since: now, connect_timeout });
        let known = self.0.pin();
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        known.insert(upstream.origin.clone(), fresh.clone());
        Ok(fresh)
    }
}

async fn lookup(host: &str, port: u16) -> Vec<SocketAddr> {
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await;
    match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::warn!(%error, host, "a provider's name has no address");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(host, "looking up a provider's name took too long");
            Vec::new()
        }
    }
}

fn peer(upstream: &Upstream, address: SocketAddr, connect_timeout: Duration) -> HttpPeer {
    let mut peer = HttpPeer::new(address, upstream.tls, upstream.host.to_string());
    let options = &mut peer.options;
    options.connection_timeout = Some(connect_timeout);
    options.total_connection_timeout = Some(connect_timeout * 2);
    options.idle_timeout = Some(IDLE_TIMEOUT);
    if upstream.tls {
        options.alpn = ALPN::H2H1;
        options.max_h2_streams = MAX_H2_STREAMS;
        options.h2_ping_interval = Some(Duration::from_secs(30));
    }
    peer
}
