//! What a gateway and the one that takes its place say to each other, and the sockets that go from one to the other.
//!
//! The old one opens a meeting point, starts the new one, and gives it the listening sockets. The new one reads
//! everything and says [`READY`]; the old one says [`GO`]; the new one accepts connections and says [`SERVING`]; the old
//! one accepts no more, says [`YOURS`], and ends its calls. Up to there whatever goes wrong leaves the old one serving.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::config::Listen;
use crate::routes::Side;

/// Everything is read: it could serve.
pub(super) const READY: &str = "ready\n";
/// Now it may.
pub(super) const GO: &str = "go\n";
/// It does.
pub(super) const SERVING: &str = "serving\n";
/// It alone, from now on.
pub(super) const YOURS: &str = "yours\n";

/// Nobody else may hand us sockets, or take them.
const PRIVATE: u32 = 0o700;
/// The longest path of a socket, less one for its end.
const LONGEST: usize = 107;
/// Listening sockets of one gateway.
const SOCKETS: usize = 2;
/// What is said with them.
const HELLO_BYTES: usize = 4096;

/// Which listening socket it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    is_management: bool,
    /// As it is configured: where this is changed the old socket is of no use.
    host: String,
    port: u16,
}

impl Name {
    pub(super) fn new(side: Side, listen: &Listen) -> Self {
        let Listen { host, port } = listen.clone();
        Self { is_management: side == Side::Management, host, port }
    }
}

/// The listening sockets of this process, to be handed over.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Vec<(Name, TcpListener)>>);

impl Sockets {
    pub(super) fn add(&self, name: Name, socket: TcpListener) {
        self.0.lock().push((name, socket));
    }

    /// No connection waits for this process any more, as soon as Pingora closes its own.
    pub(super) fn close(&self) {
        self.0.lock().clear();
    }

    /// Sends them all.
    ///
    /// # Errors
    /// When nobody is there to take them.
    pub(super) fn send(&self, to: impl AsFd) -> io::Result<()> {
        let sockets = self.0.lock();
        let names: Vec<&Name> = sockets.iter().map(|(name, _)| name).collect();
        let hello = serde_json::to_vec(&names)?;
        let fds: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if hello.len() > HELLO_BYTES || !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many listening sockets"));
        }
        sendmsg(to, &[IoSlice::new(&hello)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Takes sockets, with what was said of them.
fn receive(from: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut hello = vec![0; HELLO_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut hello)];
    let got = recvmsg(from, into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    hello.truncate(got);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    Ok((hello, fds))
}

/// Takes the sockets that [`Sockets::send`] sends.
///
/// # Errors
/// When they do not come, or are none.
pub(super) fn receive_named(from: impl AsFd) -> io::Result<Vec<(Name, TcpListener)>> {
    let (hello, fds) = receive(from)?;
    let names: Vec<Name> = serde_json::from_slice(&hello)?;
    if names.len() != fds.len() {
        return Err(io::Error::other("not every listening socket came"));
    }
    Ok(names.into_iter().zip(fds.into_iter().map(TcpListener::from)).collect())
}

/// Takes one socket of which nothing is said.
///
/// # Errors
/// When it does not come.
pub(super) fn receive_one(from: impl AsFd) -> io::Result<TcpListener> {
    let (_, fds) = receive(from)?;
    let first = fds.into_iter().next();
    first.map(TcpListener::from).ok_or_else(|| io::Error::other("no socket came"))
}

/// A socket in the file system, for this process's user alone; taken away when it is dropped.
pub(super) struct Meeting {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
}

impl Meeting {
    /// Opens one at `path`. A folder that is missing is made.
    ///
    /// # Errors
    /// Says what to do.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        if path.as_os_str().len() > LONGEST {
            return Err(format!("the path {} is too long for a socket", path.display()));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            let made = fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(folder);
            made.map_err(failed)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let new = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)).map_err(failed)?;
        Ok(new)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // Whoever comes next takes it away too.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sockets_arrive_with_their_names() {
        let listen = |port| Listen { host: "127.0.0.1".into(), port };
        let sockets = Sockets::default();
        let made = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = made.local_addr().unwrap();
        sockets.add(Name::new(Side::Only, &listen(0)), made);
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.add(Name::new(Side::Management, &listen(8001)), second);
        let (from, to) = UnixStream::pair().unwrap();
        sockets.send(&from).unwrap();
        let got = receive_named(&to).unwrap();
        assert_eq!(
            got[0].0,
            Name::new(Side::Public, &listen(0)),
            "the same, with a side beside it"
        );
        assert_eq!(got[0].1.local_addr().unwrap(), address);
        assert_ne!(got[1].0, Name::new(Side::Public, &listen(8001)));
    }

    #[test]
    fn a_meeting_point_is_private_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/socket");
        let first = Meeting::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "what a crash left").unwrap();
        assert!(Meeting::open(&path).is_ok());
        assert!(Meeting::open(&folder.path().join("x".repeat(200))).is_err());
    }
}
