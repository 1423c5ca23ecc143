//! The callers of a soak, on one thread: an open loop, which sends when it is time and waits for nobody, and a closed one that
//! finds out how much is too much.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Outcome;
use crate::gateway::Gateway;
use crate::load::{Connection, Histogram, request};
use crate::mix::{End, KINDS, PROBE, Who, any_kind};
use crate::numbers::Dice;

/// No call here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls open at once. More are not sent, and counted: whoever cannot keep up shall not fill the memory.
const MAX_OPEN: usize = 4096;

/// The gateway closes idle connections after 75 s; nobody shall send a request at that moment.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// Answers are small; a connection that has read a larger one gives its buffer back.
const KEEP_BYTES: usize = 64 * 1024;

/// Whoever hangs up does it after so long.
const LEAVE_AFTER: Duration = Duration::from_millis(50);

/// What became of the calls of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    /// Ended as they must.
    pub(crate) ended: u64,
    /// Did not.
    pub(crate) failed: u64,
}

/// What was seen since somebody last looked.
pub(crate) struct Seen {
    pub(crate) calls: u64,
    /// Small plain calls: from when they were to be sent, and from when they were.
    pub(crate) wait: Histogram,
    pub(crate) answer: Histogram,
    /// How much later than intended calls were sent: the generator's own share.
    pub(crate) late: Histogram,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn new() -> Self {
        let histogram = Histogram::new;
        Self {
            calls: 0,
            wait: histogram(),
            answer: histogram(),
            late: histogram(),
            errors: BTreeMap::new(),
        }
    }
}

/// Everybody who calls, and what they have seen.
pub(crate) struct Callers {
    address: SocketAddr,
    /// By kind, then by key.
    requests: Vec<Vec<Rc<[u8]>>>,
    keys: Vec<String>,
    idle: RefCell<Vec<(Instant, Connection)>>,
    seen: RefCell<Seen>,
    counts: RefCell<Vec<Count>>,
    open: Cell<usize>,
    /// Set when no further call is to be made.
    pub(crate) ending: Cell<bool>,
}

/// Why a call did not end as it must.
type Failure = &'static str;

impl Callers {
    pub(crate) fn new(gateway: &Gateway) -> Rc<Self> {
        let master = [crate::gateway::master_key().to_owned()];
        let requests = KINDS.iter().map(|kind| {
            let keys = if kind.who == Who::Master { &master[..] } else { &gateway.keys[..] };
            keys.iter().map(|key| kind.request(key).into()).collect()
        });
        Rc::new(Self {
            address: gateway.process.address,
            requests: requests.collect(),
            keys: gateway.keys.clone(),
            idle: RefCell::default(),
            seen: RefCell::new(Seen::new()),
            counts: RefCell::new(vec![Count::default(); KINDS.len()]),
            open: Cell::new(0),
            ending: Cell::new(false),
        })
    }

    /// What was seen since the last look.
    pub(crate) fn take(&self) -> Seen {
        self.idle.borrow_mut().retain(|(since, _)| since.elapsed() < MAX_IDLE);
        self.seen.replace(Seen::new())
    }

    /// Calls under way.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// By kind, since the beginning.
    pub(crate) fn counts(&self) -> Vec<Count> {
        self.counts.borrow().clone()
    }

    /// One call of every kind; insists that each ends as it must.
    pub(crate) async fn try_each(&self) -> Outcome<()> {
        for (at, kind) in KINDS.iter().enumerate() {
            if let Err(failure) = self.call(at, 0, Instant::now()).await {
                return Err(format!("a call of the kind {}: {failure}", kind.name).into());
            }
        }
        Ok(())
    }

    /// Keeps so many callers busy with everything but faults and hang-ups; calls that were answered, and in what time.
    pub(crate) async fn closed_loop(
        self: &Rc<Self>,
        callers: usize,
        time: Duration,
        seed: u64,
    ) -> Outcome<(u64, Duration)> {
        let (begun, mut tasks) = (Instant::now(), JoinSet::new());
        let answered = Rc::new(Cell::new(0));
        for caller in 0..callers {
            let (this, answered) = (Rc::clone(self), Rc::clone(&answered));
            let mut dice = Dice::new(seed + caller as u64);
            tasks.spawn_local(async move {
                while begun.elapsed() < time && !this.ending.get() {
                    let kind = any_kind(&mut dice);
                    if KINDS[kind].is_plain() {
                        let key = dice.below(this.keys.len());
                        if this.call(kind, key, Instant::now()).await.is_ok() {
                            answered.set(answered.get() + 1);
                        }
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?;
        }
        Ok((answered.get(), begun.elapsed()))
    }

    /// Sends `rate` calls a second at moments that depend on nothing else, until `end`; then waits for the last.
    pub(crate) async fn open_loop(
        self: &Rc<Self>,
        rate: f64,
        end: Instant,
        seed: u64,
    ) -> Outcome<()> {
        let (mut dice, mut tasks) = (Dice::new(seed), JoinSet::new());
        let mut next = Instant::now();
        while next < end && !self.ending.get() {
            tokio::time::sleep_until(next.into()).await;
            let now = Instant::now();
            while next <= now {
                let (kind, key) = (any_kind(&mut dice), dice.below(self.keys.len()));
                if self.open.get() < MAX_OPEN {
                    let (this, intended) = (Rc::clone(self), next);
                    tasks.spawn_local(async move {
                        // What became of it is counted where it is made.
                        let _ = this.call(kind, key, intended).await;
                    });
                } else {
                    self.failed("not sent: too many were open");
                }
                // Poisson's arrivals, as of callers who know nothing of each other.
                next += Duration::from_secs_f64(dice.gap_s(rate));
            }
            while tasks.try_join_next().is_some() {}
        }
        while let Some(done) = tasks.join_next().await {
            done?;
        }
        Ok(())
    }

    fn failed(&self, failure: Failure) {
        *self.seen.borrow_mut().errors.entry(failure).or_default() += 1;
    }

    /// One call, counted.
    async fn call(&self, at: usize, key: usize, intended: Instant) -> Result<(), Failure> {
        self.open.set(self.open.get() + 1);
        self.counts.borrow_mut()[at].sent += 1;
        let sent = Instant::now();
        let result = match timeout(PATIENCE, self.make(at, key)).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the connection was closed"),
            Err(_) => Err("no answer within 30 s"),
        };
        self.open.set(self.open.get() - 1);
        let mut seen = self.seen.borrow_mut();
        seen.calls += 1;
        seen.late.add(sent - intended);
        if at == PROBE {
            seen.wait.add(intended.elapsed());
            seen.answer.add(sent.elapsed());
        }
        let count = &mut self.counts.borrow_mut()[at];
        match result {
            Ok(()) => count.ended += 1,
            Err(failure) => {
                count.failed += 1;
                *seen.errors.entry(failure).or_default() += 1;
            }
        }
        result
    }

    async fn make(&self, at: usize, key: usize) -> io::Result<Result<(), Failure>> {
        let requests = &self.requests[at];
        let request = &requests[key % requests.len()];
        let end = KINDS[at].end;
        let mut connection = self.connection().await?;
        if let End::LeftReading | End::LeftWaiting = end {
            return leave(connection, request, end == End::LeftReading).await;
        }
        let reply = connection.exchange(request).await?;
        let (head, body) = connection.buffer.split_at(reply.body.start);
        let is_kept = memmem::find(head, b"onnection: close").is_none();
        let has = |mark: &str| memmem::find(body, mark.as_bytes()).is_some();
        let result = match end {
            End::Told if reply.status >= 500 || has("\ndata: {\"error\":") => Ok(()),
            End::Told => Err("a fault of the provider was not told"),
            _ if reply.status != 200 => Err(refused(reply.status)),
            End::Whole(mark) if !has(mark) => Err("an answer without its end"),
            End::File => match file_id(&connection.body(&reply)) {
                Some(id) => self.read_and_delete(&mut connection, &id, key).await?,
                None => Err("an upload without an id"),
            },
            _ => Ok(()),
        };
        if connection.buffer.capacity() > KEEP_BYTES {
            connection.buffer = Vec::new();
        }
        if is_kept {
            self.idle.borrow_mut().push((Instant::now(), connection));
        }
        Ok(result)
    }

    async fn read_and_delete(
        &self,
        connection: &mut Connection,
        id: &str,
        key: usize,
    ) -> io::Result<Result<(), Failure>> {
        let key = &self.keys[key % self.keys.len()];
        let content = request("GET", &format!("/v1/files/{id}/content"), key, b"");
        let read = connection.exchange(&content).await?.status;
        let deletion = request("DELETE", &format!("/v1/files/{id}"), key, b"");
        let deleted = connection.exchange(&deletion).await?.status;
        let bad = [read, deleted].into_iter().find(|status| *status != 200);
        Ok(bad.map_or(Ok(()), |status| Err(refused(status))))
    }

    /// The connection that was used last, so that others may become too old.
    async fn connection(&self) -> io::Result<Connection> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some((since, connection)) if since.elapsed() < MAX_IDLE => Ok(connection),
            _ => Connection::open(self.address).await,
        }
    }
}

/// Sends a request and closes the connection, in the middle of the answer or before it has begun.
async fn leave(
    mut connection: Connection,
    request: &[u8],
    is_reading: bool,
) -> io::Result<Result<(), Failure>> {
    connection.stream.write_all(request).await?;
    if is_reading {
        connection.buffer.clear();
        if connection.stream.read_buf(&mut connection.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !connection.buffer.starts_with(b"HTTP/1.1 200") {
            return Ok(Err("a stream did not begin"));
        }
    }
    tokio::time::sleep(LEAVE_AFTER).await;
    Ok(Ok(()))
}

fn file_id(body: &[u8]) -> Option<String> {
    let file: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(file["id"].as_str()?.to_owned())
}

fn refused(status: u16) -> Failure {
    match status {
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        400..=499 => "another 4xx",
        501 | 505..=599 => "another 5xx",
        _ => "another status",
    }
}
