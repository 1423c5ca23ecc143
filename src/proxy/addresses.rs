//! Where providers are: names to addresses, and the peers that Pingora's pools are keyed by.
//!
//! Pingora would resolve a name by blocking the worker, and panic when it has no address. Here the first call to a name
//! asks for it, and others wait for the same answer; from then on the name is asked for in the background as long as it
//! is called, so that no call waits for a name server, and none notices that it is gone.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::{StreamExt as _, stream};
use otari_filters::upstream::{Failure, Upstream};
use papaya::HashMap;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use tokio::sync::Mutex;

/// A look-up may take so long.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups in the background at once.
const AT_ONCE: usize = 16;
/// Idle connections are closed before most providers do it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// HTTP/2 streams on one connection; Pingora's default is one.
const MAX_H2_STREAMS: usize = 100;
/// Places that are remembered; a platform may name any number of them.
const MAX_KEPT: usize = 10_000;

/// How old an answer may be.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// From this age on a name that is called is asked for again, in the background.
    fresh: Duration,
    /// From this age on a call asks by itself: nobody has called the name for long.
    stale: Duration,
    /// After a look-up that found nothing.
    retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let fresh = Duration::from_secs(30);
        Self { fresh, stale: fresh * 2, retry: Duration::from_secs(1) }
    }
}

/// Where one provider is.
#[derive(Debug)]
pub(super) struct Known {
    /// The peers to connect to, in the order to try them; never empty.
    pub(super) peers: Vec<Arc<HttpPeer>>,
    since: Instant,
    /// The peers have it.
    connect_timeout: Duration,
}

type Found = Result<Vec<SocketAddr>, String>;
type Lookup = dyn Fn(&str, u16) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync;

/// All providers that were called, by scheme, host and port.
pub struct Addresses {
    places: HashMap<Box<str>, Arc<Place>>,
    lookup: Box<Lookup>,
    pace: Pace,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            lookup: Box::new(|host, port| Box::pin(lookup(host.into(), port))),
            pace: Pace::default(),
        }
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Addresses")
    }
}

impl Addresses {
    /// Where the provider is.
    ///
    /// # Errors
    /// `Dns` when the name has no address and never had one.
    pub(super) async fn find(
        &self,
        upstream: &Upstream,
        connect_timeout: Duration,
    ) -> Result<Arc<Known>, Failure> {
        let place = {
            let places = self.places.pin();
            match places.get(&upstream.origin) {
                Some(place) => match place.current(connect_timeout, self.pace.stale) {
                    Some(known) => return Ok(known),
                    None => place.clone(),
                },
                None => {
                    if places.len() >= MAX_KEPT {
                        places.clear();
                    }
                    let place = Arc::new(Place::new(upstream));
                    places.get_or_insert(upstream.origin.clone(), place).clone()
                }
            }
        };
        place.find(self, connect_timeout).await
    }

    /// Asks again for what is called and old. Each look-up is bounded, and so is how many there are at once.
    pub async fn refresh(&self) {
        let due: Vec<_> = {
            let places = self.places.pin();
            places.values().filter(|place| place.is_due(self.pace.fresh)).cloned().collect()
        };
        stream::iter(due)
            .for_each_concurrent(AT_ONCE, |place| async move { place.refresh(self).await })
            .await;
    }
}

/// A scheme, a host and a port.
struct Place {
    host: Box<str>,
    port: u16,
    tls: bool,
    /// Nobody is asked.
    fixed: Option<SocketAddr>,
    known: ArcSwapOption<Known>,
    /// Since it was last asked for.
    is_called: AtomicBool,
    /// Held by whoever asks.
    asked: Mutex<Asked>,
}

/// The last look-up.
#[derive(Default)]
struct Asked {
    ended: Option<Instant>,
    is_failing: bool,
}

impl Place {
    fn new(upstream: &Upstream) -> Self {
        Self {
            host: upstream.host.as_ref().into(),
            port: upstream.port,
            tls: upstream.tls,
            fixed: upstream.address,
            known: ArcSwapOption::empty(),
            is_called: AtomicBool::new(true),
            asked: Mutex::default(),
        }
    }

    /// What is known, if it can be used as it is.
    fn current(&self, connect_timeout: Duration, stale: Duration) -> Option<Arc<Known>> {
        // Read first: every call comes here, and a line that nobody writes to stays with all cores.
        if !self.is_called.load(Ordering::Relaxed) {
            self.is_called.store(true, Ordering::Relaxed);
        }
        let known = self.known.load();
        let known = known.as_ref()?;
        let is_young = self.fixed.is_some() || known.since.elapsed() < stale;
        (is_young && known.connect_timeout == connect_timeout).then(|| known.clone())
    }

    /// The same for a call that may have to wait for it.
    async fn find(&self, of: &Addresses, connect_timeout: Duration) -> Result<Arc<Known>, Failure> {
        let mut asked = match (self.asked.try_lock(), self.known.load_full()) {
            (Ok(asked), _) => asked,
            // The last good answer is better than waiting.
            (Err(_), Some(known)) => return Ok(known),
            (Err(_), None) => self.asked.lock().await,
        };
        if let Some(known) = self.current(connect_timeout, of.pace.stale) {
            return Ok(known);
        }
        match self.known.load_full() {
            Some(known) if self.fixed.is_some() || known.since.elapsed() < of.pace.stale => {
                let addresses = known.peers.iter().filter_map(|peer| peer.address().as_inet());
                self.remember(addresses.copied().collect(), known.since, connect_timeout);
            }
            _ if asked.ended.is_some_and(|ended| ended.elapsed() < of.pace.retry) => {}
            _ => self.ask(of, &mut asked, connect_timeout).await,
        }
        // The last good answer is better than none.
        self.known.load_full().ok_or(Failure::Dns)
    }

    fn is_due(&self, fresh: Duration) -> bool {
        self.fixed.is_none()
            && self.is_called.load(Ordering::Relaxed)
            && self.known.load().as_ref().is_some_and(|known| known.since.elapsed() >= fresh)
    }

    async fn refresh(&self, of: &Addresses) {
        let (Ok(mut asked), Some(known)) = (self.asked.try_lock(), self.known.load_full()) else {
            return;
        };
        if asked.ended.is_some_and(|ended| ended.elapsed() < of.pace.retry) {
            return;
        }
        self.is_called.store(false, Ordering::Relaxed);
        self.ask(of, &mut asked, known.connect_timeout).await;
    }

    async fn ask(&self, of: &Addresses, asked: &mut Asked, connect_timeout: Duration) {
        let found = match self.fixed {
            Some(address) => Ok(vec![address]),
            None => (of.lookup)(&self.host, self.port).await,
        };
        let now = Instant::now();
        asked.ended = Some(now);
        let host = &*self.host;
        match found {
            Ok(addresses) => {
                if asked.is_failing {
                    tracing::info!(host, "a provider's name has an address again");
                }
                asked.is_failing = false;
                self.remember(addresses, now, connect_timeout);
            }
            // Once, and not for every call.
            Err(error) if !asked.is_failing => {
                asked.is_failing = true;
                let has_old = self.known.load().is_some();
                tracing::warn!(error, host, has_old, "a provider's name has no address");
            }
            Err(_) => {}
        }
    }

    fn remember(&self, addresses: Vec<SocketAddr>, since: Instant, connect_timeout: Duration) {
        let peer = |address| Arc::new(self.peer(address, connect_timeout));
        let peers = addresses.into_iter().map(peer).collect();
        self.known.store(Some(Arc::new(Known { peers, since, connect_timeout })));
    }

    fn peer(&self, address: SocketAddr, connect_timeout: Duration) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.tls, self.host.to_string());
        let options = &mut peer.options;
        options.connection_timeout = Some(connect_timeout);
        options.total_connection_timeout = Some(connect_timeout * 2);
        options.idle_timeout = Some(IDLE_TIMEOUT);
        if self.tls {
            options.alpn = ALPN::H2H1;
            options.max_h2_streams = MAX_H2_STREAMS;
            options.h2_ping_interval = Some(Duration::from_secs(30));
        }
        peer
    }
}

/// Never empty.
async fn lookup(host: Box<str>, port: u16) -> Found {
    let asked = tokio::net::lookup_host((&*host, port));
    match tokio::time::timeout(LOOKUP_TIMEOUT, asked).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err("none was found".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the look-up took too long".to_owned()),
    }
}

#[cfg(test)]
mod tests;
