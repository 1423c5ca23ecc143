//! The old one's part: at `SIGUSR2` the gateway starts its own program anew, hands its listening sockets to it, and ends
//! its calls while the new one serves. Until the new one serves, whatever goes wrong leaves this one as it was.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::Signal;
use tokio::sync::Notify as Bell;

use super::Leaving;
use super::handover::{GO, Meeting, READY, SERVING, YOURS};
use crate::app::{App, Mode};
use crate::config::{OF_ONE_PROCESS, Program, UPGRADE_PID, UPGRADE_SOCKET};

/// Between two looks whether the new process still lives.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The first process of a container takes the container along when it ends.
const INIT: u32 = 1;

/// Whether another process serves in this one's place.
#[derive(Debug, Default)]
pub(super) struct Handed {
    is_done: AtomicBool,
    bell: Bell,
}

impl Handed {
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Until it does.
    pub(super) async fn done(&self) {
        self.bell.notified().await;
    }

    fn set(&self) {
        self.is_done.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

/// Hands over when it is told to.
pub(super) struct Upgrade {
    app: Arc<App>,
    /// Or why it cannot be started anew.
    program: Result<Program, String>,
    leaving: Leaving,
    /// Where both meet.
    path: PathBuf,
    signal: Mutex<Option<Signal>>,
}

#[async_trait]
impl BackgroundService for Upgrade {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Some(mut signal) = self.signal.lock().take() else { return };
        tokio::select! {
            () = self.run(&mut signal) => {}
            _ = shutdown.changed() => {}
        }
        loop {
            signal.recv().await;
            tracing::warn!("no upgrade: this process is leaving");
        }
    }
}

impl Upgrade {
    /// Starts this program anew when the signal comes. `path`: where both processes meet.
    pub(super) fn new(
        app: &Arc<App>,
        program: Result<Program, String>,
        leaving: &Leaving,
        path: PathBuf,
        signal: Signal,
    ) -> Self {
        let signal = Mutex::new(Some(signal));
        Self { app: app.clone(), program, leaving: leaving.clone(), path, signal }
    }

    async fn run(&self, signal: &mut Signal) {
        while !self.leaving.handed.is_done() {
            signal.recv().await;
            let begun = Instant::now();
            let hand_over = self.hand_over();
            tokio::pin!(hand_over);
            let done = loop {
                tokio::select! {
                    done = &mut hand_over => break done,
                    _ = signal.recv() => tracing::warn!("no second upgrade: one is under way"),
                }
            };
            match done {
                Ok(pid) => {
                    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(pid, ms, "another process serves; open calls may end here");
                    self.leaving.handed.set();
                }
                Err(why) => {
                    tracing::error!("no upgrade: {why}. This process serves on as before");
                }
            }
        }
    }

    /// Says which process serves now.
    async fn hand_over(&self) -> Result<u32, String> {
        let program = self.program.as_ref().map_err(Clone::clone)?;
        if self.app.life.is_draining() {
            return Err("this process is leaving".into());
        }
        if std::process::id() == INIT {
            return Err("the first process of a container cannot leave it; start a new one".into());
        }
        let meeting = Meeting::open(&self.path)?;
        let accepts = meeting.listener.set_nonblocking(true);
        let accepts = accepts.and_then(|()| UnixListener::from_std(meeting.listener.try_clone()?));
        let accepts = accepts.map_err(|error| error.to_string())?;
        let mut started = Started::new(program, &meeting)?;
        let (pid, within) = (started.pid(), self.app.live().limits.upgrade);
        tracing::info!(pid, program = %program.path.display(), "upgrade: a new process was started");
        let ended = tokio::select! {
            said = tokio::time::timeout(within, self.talk(&accepts, pid)) => match said {
                Ok(said) => said,
                Err(_) => Err(format!(
                    "the new process did not serve within {} s (upgrade_timeout_s)",
                    within.as_secs_f64()
                )),
            },
            ended = started.ended() => Err(format!("the new process ended with {ended} instead of serving")),
        };
        ended?;
        started.let_go();
        Ok(pid)
    }

    /// Takes the new process from its start to where it serves.
    async fn talk(&self, accepts: &UnixListener, pid: u32) -> Result<(), String> {
        let stream = meet(accepts, pid).await.map_err(|error| error.to_string())?;
        self.leaving.sockets.send(&stream).map_err(|error| error.to_string())?;
        let mut stream = BufReader::new(stream);
        hear(&mut stream, READY).await?;
        if let Mode::Standalone(mode) = &self.app.mode {
            mode.share().await.map_err(|error| error.to_string())?;
        }
        say(&mut stream, GO).await?;
        hear(&mut stream, SERVING).await?;
        // Whoever the supervisor listens to is the new one from here on: it is told before that one speaks.
        self.leaving.notify.is_now(pid);
        let said = say(&mut stream, YOURS).await;
        if said.is_err() {
            self.leaving.notify.is_now(std::process::id());
        }
        said
    }
}

/// The new process, and nobody else.
async fn meet(accepts: &UnixListener, pid: u32) -> std::io::Result<UnixStream> {
    loop {
        let (stream, _) = accepts.accept().await?;
        let peer = stream.peer_cred()?.pid().and_then(|peer| u32::try_from(peer).ok());
        if peer == Some(pid) {
            return Ok(stream);
        }
        tracing::warn!(?peer, "somebody else came to the meeting point of an upgrade");
    }
}

async fn say(stream: &mut BufReader<UnixStream>, word: &str) -> Result<(), String> {
    stream.write_all(word.as_bytes()).await.map_err(|error| format!("the new process: {error}"))
}

async fn hear(stream: &mut BufReader<UnixStream>, word: &str) -> Result<(), String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await;
    read.map_err(|error| format!("the new process: {error}"))?;
    if line == word {
        return Ok(());
    }
    // Why it ended is said by whoever waits for that.
    tokio::time::sleep(10 * LOOK_EVERY).await;
    Err(format!("the new process said '{}' and not '{}'", line.trim(), word.trim()))
}

/// A process that was started; ended when it is dropped, unless it was let go.
struct Started(Option<Child>);

impl Started {
    fn new(program: &Program, meeting: &Meeting) -> Result<Self, String> {
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).stdin(Stdio::null());
        for name in OF_ONE_PROCESS {
            command.env_remove(name);
        }
        command.env(UPGRADE_SOCKET, &meeting.path);
        command.env(UPGRADE_PID, std::process::id().to_string());
        let child = command.spawn();
        let child = child.map_err(|error| format!("{}: {error}", program.path.display()))?;
        Ok(Self(Some(child)))
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Until it ends, and how.
    async fn ended(&mut self) -> String {
        let Some(child) = &mut self.0 else { return std::future::pending().await };
        loop {
            match child.try_wait() {
                Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
                Ok(Some(status)) => return status.to_string(),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended cannot be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
