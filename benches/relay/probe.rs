//! Small calls on one connection in an open loop: at moments that do not depend on answers, on a thread of its own that
//! waits to the microsecond (a runtime's timers count milliseconds).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::load::{Histogram, answered};
use crate::numbers::Dice;

/// No answer here takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The last part of a wait is spent looking at the clock: a sleep may end so much too late.
const SPIN: Duration = Duration::from_micros(150);

/// Between two calls there is at least this: a call that takes longer makes the next one late, and that counts; arrivals
/// that merely overlap would measure the queue of one connection.
const MIN_GAP: Duration = Duration::from_millis(2);

/// Calls before anything is timed.
const WARM_UP: usize = 20;

/// Failed calls after which it gives up.
const MAX_ERRORS: u64 = 20;

/// Calls to be made.
pub(crate) struct Probe {
    pub(crate) address: SocketAddr,
    pub(crate) request: Vec<u8>,
    /// A second.
    pub(crate) rate: f64,
    pub(crate) time: Duration,
    /// The same seed calls at the same moments.
    pub(crate) seed: u64,
}

/// What they came to.
pub(crate) struct Probed {
    /// From the moment at which a call was to be sent to the end of its answer.
    pub(crate) wait: Histogram,
    /// How late it was sent.
    pub(crate) late: Histogram,
    /// Answers, those of the warm-up too.
    pub(crate) answered: u64,
    pub(crate) errors: u64,
}

impl Probe {
    /// Calls on a thread of its own.
    pub(crate) async fn run(self) -> Outcome<Probed> {
        tokio::task::spawn_blocking(move || self.call()).await?
    }

    fn call(&self) -> Outcome<Probed> {
        let mut line = Line::open(self.address)?;
        let mut seen =
            Probed { wait: Histogram::new(), late: Histogram::new(), answered: 0, errors: 0 };
        for _ in 0..WARM_UP {
            line.exchange(&self.request)?;
            seen.answered += 1;
        }
        let mut dice = Dice::new(self.seed);
        let mean = 1.0 / self.rate - MIN_GAP.as_secs_f64();
        let (begun, mut due) = (Instant::now(), Instant::now() + MIN_GAP);
        while due < begun + self.time {
            wait_until(due);
            let sent = Instant::now();
            match line.exchange(&self.request) {
                Ok(()) => {
                    seen.wait.add(due.elapsed());
                    seen.late.add(sent - due);
                    seen.answered += 1;
                }
                Err(error) if seen.errors >= MAX_ERRORS => return Err(error.into()),
                Err(_) => {
                    seen.errors += 1;
                    line = Line::open(self.address)?;
                }
            }
            due += MIN_GAP + Duration::from_secs_f64(dice.gap_s(1.0 / mean.max(1e-6)));
        }
        Ok(seen)
    }
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > SPIN {
        std::thread::sleep(left - SPIN);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

/// A kept connection that blocks.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.stream.write_all(request)?;
        let mut scratch = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut scratch)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.extend_from_slice(&scratch[..read]),
            }
            match answered(&self.buffer)? {
                Some(200) => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("status {status}"))),
                None => {}
            }
        }
    }
}
