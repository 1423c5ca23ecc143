//! HTTP/1 connections to providers that wait for the next call.
//!
//! Pingora's pool starts a task for each connection that is given back and wakes it when the connection is taken: a
//! tenth of what a small call costs. Here nobody watches a connection but the one who takes it, and a broom that comes
//! by every second. HTTP/2 connections are shared while they work, and stay with Pingora.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use tokio::io::AsyncReadExt as _;

/// Of a peer that does not say how long its connections may wait.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Idle connections, by where they lead. Each worker thread has a shelf of its own, and looks on those of others only
/// when it finds nothing there: no lock is shared by all of them.
pub struct Idle {
    shelves: Box<[Mutex<Shelf>]>,
    /// Most connections of one shelf.
    max: usize,
}

#[derive(Default)]
struct Shelf {
    /// By Pingora's hash of the peer; each list has the connection used last at its end.
    places: HashMap<u64, Vec<Kept>>,
    len: usize,
}

struct Kept {
    stream: Stream,
    /// The hash alone is no proof.
    address: SocketAddr,
    since: Instant,
    until: Instant,
}

impl Idle {
    /// As many as Pingora's own pool would keep.
    pub fn new(server: &ServerConf) -> Self {
        let shelves = (0..server.threads.max(1)).map(|_| Mutex::default()).collect();
        Self { shelves, max: server.upstream_keepalive_pool_size }
    }

    /// The connection to this peer that was used last, if it is still open.
    pub fn take(&self, peer: &HttpPeer) -> Option<HttpSession> {
        Some(HttpSession::new_with_options(self.take_stream(peer)?, peer))
    }

    /// The same without a session.
    pub fn take_stream(&self, peer: &HttpPeer) -> Option<Stream> {
        let (key, now) = (peer.reuse_hash(), Instant::now());
        self.shelves_from_own().enumerate().find_map(|(at, shelf)| {
            // Whoever works on their own shelf is not to wait for somebody who looks.
            let mut shelf = if at == 0 { shelf.lock() } else { shelf.try_lock()? };
            while let Some(mut kept) = shelf.pop(key) {
                if kept.address == *peer.address() && now < kept.until && is_open(&mut kept.stream)
                {
                    return Some(kept.stream);
                }
            }
            None
        })
    }

    /// Keeps a connection whose last answer was read to its end; closes it where it is of no more use.
    pub async fn keep(&self, mut session: HttpSession, peer: &HttpPeer) {
        session.respect_keepalive();
        if let Some(stream) = session.reuse().await {
            self.keep_stream(stream, peer);
        }
    }

    /// The same of one that is known to carry another call.
    pub fn keep_stream(&self, mut stream: Stream, peer: &HttpPeer) {
        if self.max == 0 || !is_open(&mut stream) {
            return;
        }
        let (address, since) = (peer.address().clone(), Instant::now());
        let until = since + peer.options.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        let kept = Kept { stream, address, since, until };
        let Some(shelf) = self.shelves_from_own().next() else { return };
        let mut shelf = shelf.lock();
        let oldest = if shelf.len >= self.max { shelf.pop_oldest() } else { None };
        shelf.push(peer.reuse_hash(), kept);
        drop(shelf);
        drop(oldest);
    }

    /// Closes what has waited for too long, and what the other side has closed.
    pub fn sweep(&self) {
        let now = Instant::now();
        for shelf in &self.shelves {
            let gone = shelf.lock().sweep(now);
            drop(gone);
        }
    }

    /// The calling thread's shelf, then those of others.
    fn shelves_from_own(&self) -> impl Iterator<Item = &Mutex<Shelf>> {
        let (before, own) = self.shelves.split_at(number() % self.shelves.len());
        own.iter().chain(before)
    }
}

impl Shelf {
    fn push(&mut self, key: u64, kept: Kept) {
        self.places.entry(key).or_default().push(kept);
        self.len += 1;
    }

    fn pop(&mut self, key: u64) -> Option<Kept> {
        let kept = self.places.get_mut(&key)?.pop()?;
        self.len -= 1;
        Some(kept)
    }

    fn pop_oldest(&mut self) -> Option<Kept> {
        let of_place = |kept: &Vec<Kept>| kept.first().map(|kept| kept.since);
        let places = self.places.iter_mut().filter(|(_, kept)| !kept.is_empty());
        let (_, oldest) = places.min_by_key(|(_, kept)| of_place(kept))?;
        self.len -= 1;
        Some(oldest.remove(0))
    }

    /// What is to be closed, which need not happen under the lock.
    fn sweep(&mut self, now: Instant) -> Vec<Kept> {
        let mut gone = Vec::new();
        for place in self.places.values_mut() {
            gone.extend(
                place.extract_if(.., |kept| now >= kept.until || !is_open(&mut kept.stream)),
            );
        }
        self.places.retain(|_, place| !place.is_empty());
        self.len -= gone.len();
        gone
    }
}

/// Whether nothing has come: an end, or something that nobody asked for. No system call where the poller has seen nothing.
fn is_open(stream: &mut Stream) -> bool {
    let mut byte = [0];
    // Out of its budget of work a task would be told that nothing is there.
    tokio::task::unconstrained(stream.read(&mut byte)).now_or_never().is_none()
}

/// Of the calling thread, counted from zero.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| match number.get() {
        Some(number) => number,
        None => {
            let new = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(new));
            new
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pingora_core::protocols::l4::stream::Stream as Socket;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    struct Provider {
        listener: TcpListener,
        peer: HttpPeer,
    }

    impl Provider {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut peer = HttpPeer::new(listener.local_addr().unwrap(), false, String::new());
            peer.options.idle_timeout = Some(Duration::from_secs(60));
            Self { listener, peer }
        }

        /// A connection on which one answer has come, and its other end.
        async fn used(&self) -> (HttpSession, TcpStream) {
            let ours = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (mut theirs, _) = self.listener.accept().await.unwrap();
            let stream: Stream = Box::new(Socket::from(ours));
            let mut session = HttpSession::new_with_options(stream, &self.peer);
            theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            session.read_response().await.unwrap();
            while session.read_body_bytes().await.unwrap().is_some() {}
            (session, theirs)
        }
    }

    fn idle(threads: usize, max: usize) -> Idle {
        Idle::new(&ServerConf {
            threads,
            upstream_keepalive_pool_size: max,
            ..ServerConf::default()
        })
    }

    /// Whether this connection ends there.
    async fn leads_to(session: HttpSession, theirs: &mut TcpStream) -> bool {
        let mut stream = session.into_inner();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(1), theirs.read(&mut byte)).await;
        matches!(read, Ok(Ok(1)))
    }

    /// What the other side did must have arrived.
    async fn moment() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn the_connection_used_last_is_taken_first_and_only_once() {
        let provider = Provider::start().await;
        let pool = idle(2, 8);
        let (first, mut at_first) = provider.used().await;
        let (second, mut at_second) = provider.used().await;
        pool.keep(first, &provider.peer).await;
        pool.keep(second, &provider.peer).await;
        assert!(leads_to(pool.take(&provider.peer).unwrap(), &mut at_second).await);
        assert!(leads_to(pool.take(&provider.peer).unwrap(), &mut at_first).await);
        assert!(pool.take(&provider.peer).is_none());
    }

    #[tokio::test]
    async fn what_the_provider_closed_or_spoke_on_is_not_taken() {
        let provider = Provider::start().await;
        let pool = idle(1, 8);
        let (closed, at_closed) = provider.used().await;
        let (spoken, mut at_spoken) = provider.used().await;
        let (open, mut at_open) = provider.used().await;
        for session in [open, closed, spoken] {
            pool.keep(session, &provider.peer).await;
        }
        drop(at_closed);
        at_spoken.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        moment().await;
        assert!(leads_to(pool.take(&provider.peer).unwrap(), &mut at_open).await);
        assert!(pool.take(&provider.peer).is_none());
    }

    #[tokio::test]
    async fn an_answer_that_ends_its_connection_leaves_nothing_to_keep() {
        let provider = Provider::start().await;
        let pool = idle(1, 8);
        let (session, theirs) = provider.used().await;
        drop(theirs);
        moment().await;
        pool.keep(session, &provider.peer).await;
        assert!(pool.take(&provider.peer).is_none());
        let ours = TcpStream::connect(provider.listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = provider.listener.accept().await.unwrap();
        let mut unread =
            HttpSession::new_with_options(Box::new(Socket::from(ours)), &provider.peer);
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
        unread.read_response().await.unwrap();
        pool.keep(unread, &provider.peer).await;
        assert!(pool.take(&provider.peer).is_none(), "half an answer is still to come");
    }

    #[tokio::test]
    async fn connections_lead_to_the_peer_that_is_asked_for() {
        let (one, other) = (Provider::start().await, Provider::start().await);
        let pool = idle(1, 8);
        let (session, mut theirs) = one.used().await;
        pool.keep(session, &one.peer).await;
        assert!(pool.take(&other.peer).is_none());
        assert!(leads_to(pool.take(&one.peer).unwrap(), &mut theirs).await);
    }

    #[tokio::test]
    async fn a_full_shelf_gives_up_what_has_waited_longest() {
        let (one, other) = (Provider::start().await, Provider::start().await);
        let pool = idle(1, 2);
        let (oldest, mut at_oldest) = one.used().await;
        pool.keep(oldest, &one.peer).await;
        for _ in 0..2 {
            pool.keep(other.used().await.0, &other.peer).await;
        }
        assert!(pool.take(&one.peer).is_none());
        assert_eq!(at_oldest.read(&mut [0]).await.unwrap(), 0, "it was closed");
        assert_eq!(pool.shelves[0].lock().len, 2);
    }

    #[tokio::test]
    async fn the_broom_closes_what_is_of_no_more_use() {
        let mut provider = Provider::start().await;
        let pool = idle(1, 8);
        let (left, at_left) = provider.used().await;
        let (open, mut at_open) = provider.used().await;
        pool.keep(left, &provider.peer).await;
        pool.keep(open, &provider.peer).await;
        provider.peer.options.idle_timeout = Some(Duration::from_millis(20));
        let (short, mut at_short) = provider.used().await;
        pool.keep(short, &provider.peer).await;
        drop(at_left);
        moment().await;
        pool.sweep();
        assert_eq!(pool.shelves[0].lock().len, 1);
        assert_eq!(at_short.read(&mut [0]).await.unwrap(), 0, "it had waited for too long");
        assert!(leads_to(pool.take(&provider.peer).unwrap(), &mut at_open).await);
        pool.sweep();
        assert!(pool.shelves[0].lock().places.is_empty(), "no place is remembered for nothing");
    }

    #[tokio::test]
    async fn another_thread_finds_it_too() {
        let provider = Provider::start().await;
        let pool = Arc::new(idle(4, 8));
        let (session, mut theirs) = provider.used().await;
        pool.keep(session, &provider.peer).await;
        let (there, peer) = (pool.clone(), provider.peer.clone());
        let runtime = tokio::runtime::Handle::current();
        let taken = std::thread::spawn(move || {
            let _here = runtime.enter();
            there.take(&peer)
        });
        assert!(leads_to(taken.join().unwrap().unwrap(), &mut theirs).await);
    }
}
