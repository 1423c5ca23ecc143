//! A PostgreSQL with a synchronous standby: what is acknowledged is on both, so that nothing is lost when the first dies.

use std::net::TcpListener;

use crate::support::postgres::{self, Cluster};

/// A primary and its standby. The cluster's own watchdog ends both.
pub(crate) struct Pair {
    pub(crate) primary: Cluster,
    port: u16,
}

impl Pair {
    /// Makes and starts both; blocks for a second or two.
    pub(crate) fn start() -> Self {
        let primary = Cluster::new();
        let port = primary.port.to_string();
        let second = primary.folder.join("data-2");
        let mut copy = postgres::as_owner(primary.owner, &primary.programs.join("pg_basebackup"));
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-h", "127.0.0.1"]);
        postgres::run(copy.args(["-U", "postgres", "-p", &port, "-D"]).arg(&second));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let pair = Self { port: free.expect("a free port").port(), primary };
        let settings = format!("-p {}", pair.port);
        let log = pair.primary.folder.join("log-2");
        let mut start = pair.pg_ctl("start");
        postgres::run(start.args(["-w", "-t", "60", "-o", &settings, "-l"]).arg(log));
        // From here on every commit waits for the standby. After the copy: the standby waits for nobody once it is alone.
        let admin = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        for sql in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
            postgres::execute(&admin, sql).expect("the primary takes it");
        }
        pair
    }

    /// The primary is gone at once; returns when the standby has taken over, with the port of that.
    pub(crate) fn fail_over(&self) -> u16 {
        self.primary.stop();
        postgres::run(self.pg_ctl("promote").args(["-w", "-t", "60"]));
        self.port
    }

    fn pg_ctl(&self, what: &str) -> std::process::Command {
        let program = self.primary.programs.join("pg_ctl");
        let mut command = postgres::as_owner(self.primary.owner, &program);
        command.args([what, "-s", "-D"]).arg(self.primary.folder.join("data-2"));
        command
    }
}

/// Ends a server as an operator does: sessions are told, the books are closed.
pub(crate) fn stop_politely(cluster: &Cluster) {
    let mut stop = postgres::as_owner(cluster.owner, &cluster.programs.join("pg_ctl"));
    postgres::run(stop.args(["stop", "-s", "-m", "fast", "-D"]).arg(cluster.folder.join("data")));
}
