//! `database_url`, in every spelling of the reference.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::layers::Fields;
use super::problem::Report;
use super::{Database, PostgresTls, Secret};

/// The reference's default, so that an existing file in the working directory is found.
const DEFAULT_URL: &str = "sqlite:///./otari-gateway.db";

/// What PostgreSQL needs beside its URL.
struct Pool {
    max_connections: usize,
    timeout: Duration,
}

/// The database; the default after a problem.
pub(super) fn read(fields: &Fields, report: &mut Report) -> Database {
    fields.warn_of_outranked_url(report);
    let size = fields.whole("db_pool_size", 1..=10_000, 10, report);
    let overflow = fields.whole("db_max_overflow", 0..=10_000, 20, report);
    let pool = Pool {
        max_connections: usize::try_from(size + overflow).unwrap_or(usize::MAX),
        timeout: fields.seconds_or_zero("db_pool_timeout", 30, report),
    };
    let url = fields.text("database_url", report).unwrap_or(DEFAULT_URL).trim();
    match parse(url, pool) {
        Ok(database) => database,
        Err(what) => {
            if let Some(node) = fields.get("database_url") {
                node.wrong(report, &what);
            }
            Database::Sqlite { path: PathBuf::from("otari-gateway.db") }
        }
    }
}

/// `journal_dir`, or its default: beside the SQLite file, else in the working directory.
pub(super) fn journal_dir(fields: &Fields, database: &Database, report: &mut Report) -> PathBuf {
    let given = fields.text("journal_dir", report).filter(|dir| !dir.trim().is_empty());
    match (given, database) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Database::Sqlite { path }) => {
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
            folder.unwrap_or(Path::new(".")).join("otari-journal")
        }
        (None, Database::Postgres { .. }) => PathBuf::from("./otari-journal"),
    }
}

/// # Errors
/// What is wrong, without the URL: it may hold a password.
fn parse(url: &str, pool: Pool) -> Result<Database, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("not a database URL. Write sqlite:///./otari-gateway.db or postgresql://user:password@host:5432/name.".into());
    };
    match scheme.to_ascii_lowercase().as_str() {
        "sqlite" | "sqlite+aiosqlite" | "sqlite+pysqlite" => sqlite(rest),
        "postgresql"
        | "postgres"
        | "postgresql+psycopg2"
        | "postgresql+psycopg"
        | "postgresql+asyncpg" => postgres(rest, pool),
        // Not printed unless it looks like a name: whoever forgot the scheme wrote a password here.
        other if other.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
            Err(format!("{other}:// is not a supported database. Use sqlite:/// or postgresql://."))
        }
        _ => Err("not a database URL. Use sqlite:/// or postgresql://.".into()),
    }
}

fn sqlite(rest: &str) -> Result<Database, String> {
    let path = rest.split_once('?').map_or(rest, |(path, _)| path);
    match path.strip_prefix('/') {
        Some("" | ":memory:") => {
            Err("a database in memory forgets keys and spend at every restart. Name a file: sqlite:///./otari-gateway.db.".into())
        }
        None if path.is_empty() => {
            Err("names no file. Write sqlite:///relative.db or sqlite:////absolute.db.".into())
        }
        None => Err("takes no host: write three slashes for a relative file, four for an absolute one.".into()),
        Some(path) => Ok(Database::Sqlite { path: PathBuf::from(path) }),
    }
}

fn postgres(rest: &str, pool: Pool) -> Result<Database, String> {
    // A `?` before the `@` belongs to the password.
    let host_at = rest.find('@').map_or(0, |at| at + 1);
    let query_at = rest[host_at..].find('?').map_or(rest.len(), |at| host_at + at);
    let (address, query) = rest.split_at(query_at);
    let mut kept = Vec::new();
    let (mut tls, mut root_cert) = (PostgresTls::default(), None);
    for pair in query.trim_start_matches('?').split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            // asyncpg calls it `ssl`.
            "sslmode" | "ssl" => tls = tls_mode(name, value)?,
            "sslrootcert" => root_cert = Some(PathBuf::from(decode(value))),
            _ => kept.push(pair),
        }
    }
    let mut url = format!("postgresql://{address}");
    if !kept.is_empty() {
        url.push('?');
        url.push_str(&kept.join("&"));
    }
    let parsed = tokio_postgres::Config::from_str(&url).map_err(|error| {
        // The cause names the parameter, never its value.
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("not a PostgreSQL URL: {cause}. Write postgresql://user:password@host:5432/name.")
    })?;
    let Some(label) = label(&parsed) else {
        return Err("names no host. Write postgresql://user:password@host:5432/name.".into());
    };
    Ok(Database::Postgres {
        url: Secret::new(url),
        label,
        tls,
        root_cert,
        max_connections: pool.max_connections,
        pool_timeout: pool.timeout,
    })
}

/// `host:port/name`; the user and the password are not for messages.
fn label(config: &tokio_postgres::Config) -> Option<String> {
    use tokio_postgres::config::Host;
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(i, host)| {
            let name = match host {
                Host::Tcp(name) => name.clone(),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            };
            match ports.get(i).or(ports.first()) {
                Some(port) if *port != 5432 => format!("{name}:{port}"),
                _ => name,
            }
        })
        .collect();
    if hosts.is_empty() {
        return None;
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    Some(format!("{}/{database}", hosts.join(",")))
}

fn tls_mode(name: &str, value: &str) -> Result<PostgresTls, String> {
    Ok(match value {
        "disable" => PostgresTls::Disable,
        // `allow` tries without first; starting with TLS reaches the same servers.
        "allow" | "prefer" => PostgresTls::Prefer,
        "require" => PostgresTls::Require,
        "verify-ca" => PostgresTls::VerifyCa,
        "verify-full" => PostgresTls::VerifyFull,
        _ => {
            return Err(format!(
                "unknown {name}. Use disable, prefer, require, verify-ca or verify-full."
            ));
        }
    })
}

/// `%2F` and its kind; anything else with a percent sign stays.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Database, String> {
        parse(url, Pool { max_connections: 30, timeout: Duration::from_secs(30) })
    }

    #[test]
    fn sqlite_urls_name_a_file() {
        for (url, want) in [
            (DEFAULT_URL, "./otari-gateway.db"),
            ("sqlite:///relative.db", "relative.db"),
            ("sqlite:////var/lib/otari/otari.db", "/var/lib/otari/otari.db"),
            ("sqlite+aiosqlite:///a%b.db?cache=shared", "a%b.db"),
        ] {
            match read(url) {
                Ok(Database::Sqlite { path }) => assert_eq!(path, Path::new(want), "{url}"),
                other => panic!("{url}: {other:?}"),
            }
        }
        assert!(read("sqlite://").unwrap_err().contains("names no file"));
        assert!(read("sqlite:///:memory:").unwrap_err().contains("in memory"));
        assert!(read("sqlite://a.db").unwrap_err().contains("three slashes"));
    }

    #[test]
    fn postgres_urls_are_read_in_every_spelling() {
        for (url, want, mode, name) in [
            ("postgresql://u:p@h/db", "postgresql://u:p@h/db", PostgresTls::Prefer, "h/db"),
            (
                "postgres://u@h:6432/db",
                "postgresql://u@h:6432/db",
                PostgresTls::Prefer,
                "h:6432/db",
            ),
            (
                "postgresql+psycopg2://u:p%40%25x@h/db?sslmode=verify-full&connect_timeout=5",
                "postgresql://u:p%40%25x@h/db?connect_timeout=5",
                PostgresTls::VerifyFull,
                "h/db",
            ),
            (
                "postgresql+asyncpg://u:100%?x@h/db?ssl=require&sslrootcert=%2Fetc%2Fca.pem",
                "postgresql://u:100%?x@h/db",
                PostgresTls::Require,
                "h/db",
            ),
        ] {
            match read(url) {
                Ok(Database::Postgres { url: got, label, tls, .. }) => {
                    assert_eq!((got.expose(), tls, label.as_str()), (want, mode, name), "{url}");
                }
                other => panic!("{url}: {other:?}"),
            }
        }
        match read("postgresql://h/db?sslrootcert=%2Fetc%2Fca.pem") {
            Ok(Database::Postgres { root_cert, .. }) => {
                assert_eq!(root_cert, Some(PathBuf::from("/etc/ca.pem")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_are_told_without_the_password() {
        for (url, want) in [
            ("postgresql://u:hunter2@h/db?sslmode=maybe", "unknown sslmode"),
            ("postgresql://u:hunter2@h:port/db", "not a PostgreSQL URL"),
            ("postgresql://u:hunter2@h/db?colour=hunter2", "colour"),
            ("mysql://u:hunter2@h/db", "mysql:// is not a supported database"),
            ("u:hunter2://h/db", "not a database URL"),
            ("hunter2", "not a database URL"),
            ("postgresql:///db", "names no host"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(want), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
