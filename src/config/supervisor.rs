//! What whoever started the process tells it through its environment: systemd, or the gateway whose place it takes.

use std::path::PathBuf;
use std::time::Duration;

use super::env::Env;

/// Whoever started the process and wants to hear of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supervisor {
    /// `NOTIFY_SOCKET`: where to say so; a path, or `@` and an abstract name.
    pub socket: Option<String>,
    /// `WATCHDOG_USEC`: how long it may hear nothing; `None`: it does not mind.
    pub watchdog: Option<Duration>,
    /// `LISTEN_FDS`: how many listening sockets it has opened for us.
    pub sockets: usize,
    /// The gateway whose place this one takes.
    pub predecessor: Option<Predecessor>,
}

/// A gateway that still serves, and has started this process to take its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// [`UPGRADE_SOCKET`]: where it hands over.
    pub socket: PathBuf,
    /// [`UPGRADE_PID`]: its process.
    pub pid: u32,
}

/// Variable by which a gateway tells the one that takes its place where it hands over.
pub const UPGRADE_SOCKET: &str = "OTARI_UPGRADE_SOCKET";
/// Variable by which it says who it is: programs that the new one starts inherit both, and are not meant.
pub const UPGRADE_PID: &str = "OTARI_UPGRADE_PID";
/// Variables of systemd that name the process they are meant for, or what only that one has.
pub const OF_ONE_PROCESS: [&str; 4] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

impl Supervisor {
    /// What the environment says. `pid`: of this process; a watchdog may be meant for another one. `parent`: of whoever
    /// started it.
    pub fn read(env: &Env, pid: u32, parent: u32) -> Self {
        let is_for_us = |name| env.filled(name).map(|of| of.parse() == Ok(pid));
        let is_ours = is_for_us("WATCHDOG_PID").unwrap_or(true);
        let watchdog = env.filled("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        let watchdog = watchdog.filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        // A process that was started by the one they are meant for inherits the variables too.
        let has_sockets = is_for_us("LISTEN_PID").unwrap_or(false);
        let sockets = env.filled("LISTEN_FDS").filter(|_| has_sockets);
        let sockets = sockets.and_then(|count| count.parse().ok()).unwrap_or(0);
        let is_successor = env.filled(UPGRADE_PID).is_some_and(|of| of.parse() == Ok(parent));
        let handover = env.filled(UPGRADE_SOCKET).filter(|_| is_successor);
        let predecessor = handover.map(|path| Predecessor { socket: path.into(), pid: parent });
        let socket = env.filled("NOTIFY_SOCKET").map(str::to_owned);
        Self { socket, watchdog, sockets, predecessor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let read = |of: &str| {
            let env =
                [("NOTIFY_SOCKET", "/run/n"), ("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", of)];
            Supervisor::read(&Env::from_pairs(env), 7, 1)
        };
        assert_eq!(read("7").watchdog, Some(Duration::from_secs(30)));
        assert_eq!(read("8").watchdog, None);
        assert_eq!(read("").socket.as_deref(), Some("/run/n"));
        assert_eq!(Supervisor::read(&Env::default(), 7, 1), Supervisor::default());
    }

    #[test]
    fn sockets_of_another_process_are_not_ours() {
        let read = |of: &str| {
            let env = [("LISTEN_FDS", "1"), ("LISTEN_PID", of)];
            Supervisor::read(&Env::from_pairs(env), 7, 1).sockets
        };
        assert_eq!((read("7"), read("8"), read("")), (1, 0, 0));
    }

    #[test]
    fn who_takes_the_place_of_a_gateway_was_started_by_it() {
        let read = |parent: u32| {
            let env = [(UPGRADE_SOCKET, "/run/u"), (UPGRADE_PID, "7")];
            Supervisor::read(&Env::from_pairs(env), 9, parent).predecessor
        };
        assert_eq!(read(7), Some(Predecessor { socket: "/run/u".into(), pid: 7 }));
        assert_eq!(read(8), None, "a grandchild");
    }
}
