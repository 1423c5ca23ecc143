//! A throwaway PostgreSQL: one server per test process, one database per call.
//!
//! `TEST_DATABASE_URL` names a server to use instead. Otherwise the installed programs make a cluster in a temporary
//! folder. A shell that reads from a pipe of ours stops the server and removes the folder when the pipe closes, which
//! the kernel does however the test process ends.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::NoTls;

/// What to do when there is no PostgreSQL to start.
const MISSING: &str = "these tests need PostgreSQL: run `apt-get install postgresql` (or `make deps`), or set \
                       TEST_DATABASE_URL to the URL of a server on which they may create databases";

/// What the watchdog runs, as the owner of the cluster: `$0` is the folder of the programs, `$1` that of the cluster.
const WATCHDOG: &str = r#"read -r _
for data in "$1"/data*; do "$0/pg_ctl" stop -D "$data" -m immediate -s; done
rm -rf "$1""#;

/// No fsync: nothing here outlives the machine. Commits stay synchronous, because `stop` must not lose any.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nmax_connections = 200\nshared_buffers = 32MB\n\
                        autovacuum = off\n";

/// A fresh, empty database.
pub(crate) struct Database {
    /// `postgresql://…`, with everything that is needed to connect.
    pub(crate) url: String,
    name: String,
    /// Set when the server is not ours and must be left clean.
    admin: Option<String>,
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(admin) = &self.admin {
            // The server is somebody else's; a leftover database there is not worth a second panic.
            let _ = execute(admin, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// Creates a database on the server that all tests of this process share.
pub(crate) fn database() -> Database {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    match environment("TEST_DATABASE_URL") {
        Some(admin) => create(&admin, true),
        None => SHARED.get_or_init(Cluster::new).database(),
    }
}

/// A server of our own, for tests that stop it. Dropping it removes it.
pub(crate) struct Cluster {
    /// Every folder in it whose name begins with `data` is that of a server, which ends with this one.
    pub(crate) folder: PathBuf,
    pub(crate) programs: PathBuf,
    pub(crate) owner: Option<&'static str>,
    pub(crate) port: u16,
    /// Alive as long as its stdin is open.
    watchdog: Child,
}

impl Cluster {
    /// Makes and starts a cluster on a free port of 127.0.0.1.
    pub(crate) fn new() -> Self {
        let programs = programs();
        let (folder, owner) = folder();
        let data = folder.join("data");
        // The watchdog comes first: whatever fails below, it cleans up.
        let mut watchdog = as_owner(owner, Path::new("sh"));
        watchdog.args(["-c", WATCHDOG]).arg(&programs).arg(&folder);
        // A group of its own: Ctrl-C in the terminal is for the tests, and must not reach it.
        watchdog.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = watchdog.spawn().expect("the watchdog shell starts");

        let mut initdb = as_owner(owner, &programs.join("initdb"));
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ]);
        run(initdb.arg(&data));
        let mut cluster = Self { folder, programs, owner, port: 0, watchdog };
        // A port that was free a moment ago may be taken by the time the server binds it.
        let started = (0..5).map(|_| {
            cluster.configure();
            cluster.try_start()
        });
        if let Some(error) = started.take_while(Result::is_err).nth(4) {
            panic!("PostgreSQL does not start: {error:?}");
        }
        cluster
    }

    /// Creates a database on this server.
    pub(crate) fn database(&self) -> Database {
        create(&format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port), false)
    }

    /// Stops the server at once, as a crash would: no checkpoint, no goodbye that waits for anybody.
    pub(crate) fn stop(&self) {
        run(self.pg_ctl("stop").args(["-m", "immediate"]));
    }

    /// Starts it again, on the same port, and returns when it answers.
    pub(crate) fn start(&self) {
        self.try_start().expect("PostgreSQL starts again");
    }

    fn configure(&mut self) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        self.port = free.expect("a free port").port();
        let settings = format!(
            "{SETTINGS}listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.folder.display()
        );
        let file = self.folder.join("data/postgresql.conf");
        std::fs::write(file, settings).expect("postgresql.conf is written");
    }

    fn try_start(&self) -> Result<(), String> {
        let log = self.folder.join("log");
        let mut start = self.pg_ctl("start");
        start.args(["-w", "-t", "60", "-l"]).arg(&log);
        attempt(&mut start).map_err(|error| {
            format!("{error}\n{}", std::fs::read_to_string(log).unwrap_or_default())
        })
    }

    fn pg_ctl(&self, what: &str) -> Command {
        let mut command = as_owner(self.owner, &self.programs.join("pg_ctl"));
        command.arg(what).arg("-s").arg("-D").arg(self.folder.join("data"));
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The folder with `initdb`, `pg_ctl` and `postgres`: Debian's newest, else that of the one in `PATH`.
fn programs() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter(|version| version.path().join("bin/initdb").is_file())
        .max_by_key(|version| version.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    if let Some(version) = newest {
        return version.path().join("bin");
    }
    let path = environment("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter_map(|folder| folder.join("initdb").canonicalize().ok())
        .find_map(|initdb| Some(initdb.parent()?.to_owned()))
        .expect(MISSING)
}

/// A new folder, and the user who must own it: PostgreSQL refuses to run as root.
fn folder() -> (PathBuf, Option<&'static str>) {
    let name = |number: u32| format!("otari-pg-{}-{number}", std::process::id());
    // A number may be taken: by another cluster of this process, or by one of long ago with the same process id.
    let folder = (0..1000)
        .map(|number| std::env::temp_dir().join(name(number)))
        .find(|folder| std::fs::create_dir(folder).is_ok())
        .expect("a temporary folder");
    let root = std::fs::metadata(&folder).expect("its metadata").uid() == 0;
    if root {
        run(Command::new("chown").arg("postgres:postgres").arg(&folder));
    }
    (folder, root.then_some("postgres"))
}

pub(crate) fn as_owner(owner: Option<&str>, program: &Path) -> Command {
    let mut command = match owner {
        None => Command::new(program),
        Some(owner) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={owner}")).arg(format!("--regid={owner}"));
            command.args(["--init-groups", "--"]).arg(program);
            command
        }
    };
    // The current folder may be closed to that user, and PostgreSQL's programs want to read it.
    command.current_dir("/");
    command
}

pub(crate) fn run(command: &mut Command) {
    if let Err(error) = attempt(command) {
        panic!("{error}");
    }
}

fn attempt(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    // No pipes: the server inherits them from pg_ctl and would hold them open. Errors go where the test's go.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{shown}: {error}; {MISSING}"))
        }
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn create(admin: &str, external: bool) -> Database {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("otari_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    if let Err(error) = execute(admin, &format!("CREATE DATABASE {name}")) {
        panic!("cannot create a database on the test server: {error}");
    }
    Database { url: with_database(admin, &name), name, admin: external.then(|| admin.to_owned()) }
}

/// `url` with another database name; parameters stay.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    let parameters = parameters.map(|text| format!("?{text}")).unwrap_or_default();
    format!("{}/{name}{parameters}", &base[..end])
}

/// Runs one statement. On a thread of its own, because the caller may be inside a runtime.
pub(crate) fn execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let work = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let talk = async {
            let result = client.batch_execute(sql).await;
            drop(client);
            result
        };
        let (result, _) = tokio::join!(talk, connection);
        result
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work)
        });
        thread.join().expect("the thread does not panic")
    })
}

#[expect(clippy::disallowed_methods, reason = "tests have no configuration; this is theirs")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
