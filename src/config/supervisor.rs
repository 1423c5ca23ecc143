//! What systemd tells a service through its environment.

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
}

impl Supervisor {
    /// What the environment says. `pid`: of this process; a watchdog may be meant for another one.
    pub fn read(env: &Env, pid: u32) -> Self {
        let is_for_us = |name| env.filled(name).map(|of| of.parse() == Ok(pid));
        let is_ours = is_for_us("WATCHDOG_PID").unwrap_or(true);
        let watchdog = env.filled("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        let watchdog = watchdog.filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        // A process that was started by the one they are meant for inherits the variables too.
        let has_sockets = is_for_us("LISTEN_PID").unwrap_or(false);
        let sockets = env.filled("LISTEN_FDS").filter(|_| has_sockets);
        let sockets = sockets.and_then(|count| count.parse().ok()).unwrap_or(0);
        Self { socket: env.filled("NOTIFY_SOCKET").map(str::to_owned), watchdog, sockets }
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
            Supervisor::read(&Env::from_pairs(env), 7)
        };
        assert_eq!(read("7").watchdog, Some(Duration::from_secs(30)));
        assert_eq!(read("8").watchdog, None);
        assert_eq!(read("").socket.as_deref(), Some("/run/n"));
        assert_eq!(Supervisor::read(&Env::default(), 7), Supervisor::default());
    }

    #[test]
    fn sockets_of_another_process_are_not_ours() {
        let read = |of: &str| {
            Supervisor::read(&Env::from_pairs([("LISTEN_FDS", "1"), ("LISTEN_PID", of)]), 7).sockets
        };
        assert_eq!((read("7"), read("8"), read("")), (1, 0, 0));
    }
}
