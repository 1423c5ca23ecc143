//! A listening socket that systemd holds: it is there before the gateway starts and after it has left, so a restart refuses
//! no connection. Whoever connects in between waits in the socket's queue.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use pingora_core::server::Fds;

use crate::app::StartError;

/// Where systemd puts the first socket.
const FIRST: i32 = 3;
/// Nobody else may hand us sockets.
const PRIVATE: u32 = 0o700;
/// The longest path of a socket, less one for its end.
const LONGEST: usize = 107;
/// `O_NONBLOCK` of Linux, as `/proc` writes it.
const NONBLOCK: u32 = 0o4000;

/// The way of the socket into Pingora, which takes sockets from the process before it only: here that is ourselves.
pub(super) struct Handover {
    path: PathBuf,
    address: String,
}

impl Handover {
    /// Hands over the first socket as that of `address`, by way of a private folder under `folder`.
    ///
    /// # Errors
    /// Says what to do.
    pub(super) fn new(folder: &Path, address: String) -> Result<Self, StartError> {
        let failed = |what: String| StartError::Other(format!("the socket of systemd: {what}"));
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{FIRST}"));
        let about = about.map_err(|error| failed(format!("it is not there: {error}")))?;
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_none_or(|flags| flags & NONBLOCK == 0) {
            return Err(failed("it blocks; set NonBlocking=yes in the service".into()));
        }
        let folder = folder.join("handover");
        let made = fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(&folder);
        made.and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(PRIVATE)))
            .map_err(|error| failed(format!("{}: {error}", folder.display())))?;
        let path = folder.join("socket");
        if path.as_os_str().len() > LONGEST || path.to_str().is_none() {
            return Err(failed("the path of journal_dir is too long, or no UTF-8".into()));
        }
        Ok(Self { path, address })
    }

    /// The path that Pingora listens on.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Sends it, as soon as Pingora listens: that is up to whoever calls this, next of all.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn send(self) -> Result<JoinHandle<()>, StartError> {
        let send = move || {
            let mut fds = Fds::new();
            fds.add(self.address.clone(), FIRST);
            if let Err(error) = fds.send_to_sock(self.path.as_path().to_string_lossy().as_ref()) {
                // Pingora ends the process when nothing comes.
                tracing::error!(%error, "the socket of systemd could not be handed over");
            }
            // Pingora has its own now; this one would go on to programs that we start.
            fds.close_unclaimed(&std::collections::HashSet::new());
        };
        std::thread::Builder::new()
            .name("handover".into())
            .spawn(send)
            .map_err(|error| StartError::Other(format!("cannot start a thread: {error}")))
    }
}
