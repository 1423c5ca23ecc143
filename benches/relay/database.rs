//! A PostgreSQL of the bench's own, with the settings of one in production.

use std::fs;
use std::time::Duration;

use crate::Outcome;
use crate::postgres_server::{self, Cluster};
use crate::process::proc;

/// What the tests switch off for speed.
const SAFE: [&str; 3] = ["autovacuum", "fsync", "full_page_writes"];

/// A server with one empty database; it ends with this.
pub(crate) struct Postgres {
    database: postgres_server::Database,
    id: String,
    _cluster: Cluster,
}

impl Postgres {
    /// Starts it.
    pub(crate) fn start() -> Outcome<Self> {
        let cluster = Cluster::new();
        let database = cluster.database();
        for setting in SAFE {
            let sql = format!("ALTER SYSTEM SET {setting} = on");
            postgres_server::execute(&database.url, &sql)?;
        }
        postgres_server::execute(&database.url, "SELECT pg_reload_conf()")?;
        let file = fs::read_to_string(cluster.folder.join("data/postmaster.pid"))?;
        let id = file.lines().next().ok_or("an empty postmaster.pid")?.trim().to_owned();
        Ok(Self { database, id, _cluster: cluster })
    }

    pub(crate) fn url(&self) -> &str {
        &self.database.url
    }

    /// CPU of all its processes so far, to 10 ms each.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        proc::family_cpu(&self.id)
    }
}
