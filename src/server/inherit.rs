//! A listening socket that systemd holds: it is there before the gateway starts and after it has left, so a restart refuses
//! no connection. Whoever connects in between waits in the socket's queue.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;

use pingora_core::server::Fds;

use super::handover::{Meeting, receive_one};
use crate::app::StartError;

/// Where systemd puts the first socket.
const FIRST: i32 = 3;

/// The first socket of systemd as our own. It comes by way of a socket at `path`: safe code has no other way to a number
/// that somebody else opened.
///
/// # Errors
/// Says what to do.
pub(super) fn first(path: &Path) -> Result<TcpListener, StartError> {
    let failed = |what: String| StartError::Other(format!("the socket of systemd: {what}"));
    let meeting = Meeting::open(path).map_err(failed)?;
    let path = meeting.path.display().to_string();
    let send = move || {
        let mut fds = Fds::new();
        fds.add("socket".into(), FIRST);
        let sent = fds.send_to_sock(path.as_str());
        if sent.is_ok() {
            // We have our own then; this one would go on to programs that we start.
            fds.close_unclaimed(&HashSet::new());
        }
        sent
    };
    let sending = std::thread::Builder::new().name("handover".into()).spawn(send);
    let sending = sending.map_err(|error| failed(format!("cannot start a thread: {error}")))?;
    // The connection waits in the queue by then: the meeting point was there before.
    let sent = sending.join().map_err(|_| failed("it could not be taken".into()))?;
    sent.map_err(|error| failed(format!("it is not there: {error}")))?;
    let taken = meeting.listener.accept().and_then(|(stream, _)| receive_one(stream));
    let taken = taken.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    taken.map_err(|error| failed(error.to_string()))
}
