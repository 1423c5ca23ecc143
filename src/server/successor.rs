//! The new one's part, when a gateway takes the place of another that still serves.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::handover::{GO, Name, READY, SERVING, YOURS, receive_named};
use crate::app::StartError;
use crate::config::Predecessor;

/// The old one's next word may take so long: it writes everything down before [`GO`].
const WORD_WITHIN: Duration = Duration::from_secs(60);

/// The gateway whose place this one takes.
pub(super) struct Successor {
    stream: BufReader<UnixStream>,
    sockets: Vec<(Name, TcpListener)>,
    pid: u32,
}

impl Successor {
    /// Goes to it and takes the listening sockets.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn meet(predecessor: &Predecessor) -> Result<Self, StartError> {
        let meet = || {
            let stream = UnixStream::connect(&predecessor.socket)?;
            stream.set_read_timeout(Some(WORD_WITHIN))?;
            let sockets = receive_named(&stream)?;
            Ok(Self { stream: BufReader::new(stream), sockets, pid: predecessor.pid })
        };
        meet().map_err(|error: std::io::Error| failed(&error))
    }

    /// The socket of this name, if the old one has it.
    pub(super) fn take(&mut self, name: &Name) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|(known, _)| known == name)?;
        Some(self.sockets.swap_remove(at).1)
    }

    /// Says that this one could serve, and waits until it may.
    ///
    /// # Errors
    /// When the old one does not want it any more. One that has died is no reason not to serve.
    pub(super) fn ready(&mut self) -> Result<(), StartError> {
        // What the new configuration does not name is nobody's.
        self.sockets.clear();
        if self.says(READY).and_then(|()| self.hears(GO)).is_ok() || self.is_alone() {
            return Ok(());
        }
        Err(failed(&"it has not let this one go on"))
    }

    /// Says that this one serves, and waits until it is alone in that. What goes wrong here changes nothing.
    pub(super) fn serving(mut self) {
        if let Err(error) = self.says(SERVING).and_then(|()| self.hears(YOURS))
            && !self.is_alone()
        {
            tracing::warn!(%error, "the old process has not said that it leaves");
        }
    }

    fn is_alone(&self) -> bool {
        std::os::unix::process::parent_id() != self.pid
    }

    fn says(&mut self, word: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(word.as_bytes())
    }

    fn hears(&mut self, word: &str) -> std::io::Result<()> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line == word { Ok(()) } else { Err(std::io::Error::other("it broke off")) }
    }
}

fn failed(error: &dyn std::fmt::Display) -> StartError {
    StartError::Other(format!("the gateway whose place this one was to take: {error}"))
}
