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
}

impl Supervisor {
    /// What the environment says. `pid`: of this process; a watchdog may be meant for another one.
    pub fn read(env: &Env, pid: u32) -> Self {
        let is_ours = env.filled("WATCHDOG_PID").is_none_or(|of| of.parse() == Ok(pid));
        let watchdog = env.filled("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        let watchdog = watchdog.filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        Self { socket: env.filled("NOTIFY_SOCKET").map(str::to_owned), watchdog }
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
}
