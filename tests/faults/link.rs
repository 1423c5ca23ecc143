//! A TCP proxy between two of the players, on which things go wrong: slow, cut, cut within an answer, half-open.
//!
//! Whoever connects talks to whoever is behind, byte for byte, as long as nothing is wrong. A connection that was silent
//! is reset when the silence ends, as a firewall does that has forgotten it; one that is cut is reset at once.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How it is on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    /// Before every piece.
    delay: Duration,
    /// Nothing passes, and nobody is told.
    silent: bool,
    /// Whoever connects is reset.
    refuses: bool,
    /// Raised at every cut: what was open before is reset.
    cuts: u64,
    /// Raised at the end of every silence.
    silences: u64,
    /// Bytes of answers that a connection still gets.
    answers: Option<usize>,
}

/// From when to when, as far as it has ended.
type Times = Mutex<Vec<(Instant, Option<Instant>)>>;

struct State {
    target: Mutex<SocketAddr>,
    weather: watch::Sender<Weather>,
    /// When frames may have broken here: from, to.
    breaks: Times,
    /// The same for whatever went wrong, slowness too.
    troubles: Times,
    open: AtomicUsize,
}

/// A link; ends with all its connections when dropped.
pub(crate) struct Link {
    addr: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

impl Link {
    /// A link to `target` on a free port of loopback.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            target: Mutex::new(target),
            weather: watch::Sender::new(Weather::default()),
            breaks: Mutex::default(),
            troubles: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, state.clone()));
        Self { addr, state, _accepting: accepting }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on new connections lead there.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Whether something may have broken here between these instants.
    pub(crate) fn broke(&self, from: Instant, to: Instant) -> bool {
        overlaps(&self.state.breaks, from, to)
    }

    /// Whether anything was wrong here between these instants.
    pub(crate) fn was_troubled(&self, from: Instant, to: Instant) -> bool {
        overlaps(&self.state.troubles, from, to)
    }

    /// So often something broke here: a connection from before is of no use any more.
    pub(crate) fn age(&self) -> usize {
        self.state.breaks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.state.weather.send_modify(change);
    }

    /// Every piece takes so much longer, for so long.
    pub(crate) async fn slow(&self, delay: Duration, lasts: Duration) {
        begin(&self.state.troubles);
        self.change(|weather| weather.delay = delay);
        tokio::time::sleep(lasts).await;
        self.change(|weather| weather.delay = Duration::ZERO);
        end(&self.state.troubles);
    }

    /// Everything is reset, and whoever connects is reset, for so long.
    pub(crate) async fn cut(&self, lasts: Duration) {
        self.cut_off();
        tokio::time::sleep(lasts).await;
        self.mend();
    }

    /// The beginning of [`Self::cut`].
    pub(crate) fn cut_off(&self) {
        self.note(begin);
        self.change(|weather| {
            weather.cuts += 1;
            weather.refuses = true;
        });
    }

    /// The end of [`Self::cut`].
    pub(crate) fn mend(&self) {
        self.change(|weather| weather.refuses = false);
        self.note(end);
    }

    /// Every connection is reset within an answer, after so many bytes of them, for so long.
    pub(crate) async fn cut_answers(&self, after: usize, lasts: Duration) {
        self.note(begin);
        self.change(|weather| weather.answers = Some(after));
        tokio::time::sleep(lasts).await;
        self.change(|weather| weather.answers = None);
        self.note(end);
    }

    /// Nothing passes and nobody is told, for so long.
    pub(crate) async fn silence(&self, lasts: Duration) {
        self.note(begin);
        self.change(|weather| weather.silent = true);
        tokio::time::sleep(lasts).await;
        self.change(|weather| {
            weather.silent = false;
            weather.silences += 1;
        });
        self.note(end);
    }

    fn note(&self, how: fn(&Times)) {
        how(&self.state.breaks);
        how(&self.state.troubles);
    }
}

fn begin(times: &Times) {
    times.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), None));
}

fn end(times: &Times) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = times.iter_mut().find(|time| time.1.is_none()) {
        last.1 = Some(Instant::now());
    }
}

fn overlaps(times: &Times, from: Instant, to: Instant) -> bool {
    let times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.iter().any(|(began, ended)| *began <= to && ended.is_none_or(|ended| ended >= from))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { return };
                let state = state.clone();
                connections.spawn(async move {
                    let _open = Open::new(&state.open);
                    carry(socket, &state).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Carries one connection to its end.
async fn carry(mut near: TcpStream, state: &State) {
    let began = *state.weather.borrow();
    let mut weather = state.weather.subscribe();
    if began.refuses {
        let _ = near.set_zero_linger();
        return;
    }
    if began.silent {
        // Nobody is there, and it is not said.
        doomed(&mut weather, began).await;
        let _ = near.set_zero_linger();
        return;
    }
    let target = *state.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut far) = TcpStream::connect(target).await else {
        let _ = near.set_zero_linger();
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ended = {
        let (near_in, near_out) = near.split();
        let (far_in, far_out) = far.split();
        let asked = pump(near_in, far_out, state.weather.subscribe(), false);
        let answered = pump(far_in, near_out, state.weather.subscribe(), true);
        tokio::select! {
            both = async { tokio::try_join!(asked, answered) } => both.map(drop),
            () = doomed(&mut weather, began) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if ended.is_err() {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Returns when a connection that began in this weather must be reset.
async fn doomed(weather: &mut watch::Receiver<Weather>, began: Weather) {
    let is_over = |now: &Weather| now.cuts != began.cuts || now.silences != began.silences;
    if weather.wait_for(is_over).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Passes bytes on in one direction, until their end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    is_answer: bool,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    let mut counted = 0;
    loop {
        let mut read = from.read(&mut piece).await?;
        // Held for ever, unless the connection is reset meanwhile.
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let now = *weather.wait_for(|now| !now.silent).await.map_err(closed)?;
        if now.delay > Duration::ZERO {
            tokio::time::sleep(now.delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let mut is_cut = false;
        match now.answers.filter(|_| is_answer) {
            Some(left) => {
                is_cut = counted + read >= left;
                read = read.min(left.saturating_sub(counted));
                counted += read;
            }
            None => counted = 0,
        }
        to.write_all(&piece[..read]).await?;
        if is_cut {
            // What was written should get there before the reset does.
            tokio::time::sleep(Duration::from_millis(5)).await;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}
