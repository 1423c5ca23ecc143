//! What the gateway's database holds, read without the gateway: its size, and at the end every row and every account.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::Outcome;
use crate::postgres_server;

/// Rows of one model, user and status.
pub(crate) struct Rows {
    pub(crate) model: String,
    pub(crate) user: String,
    pub(crate) status: String,
    pub(crate) count: u64,
    /// Micro-dollars.
    pub(crate) cost: i64,
}

/// Where the rows are.
pub(crate) enum Database {
    Sqlite(PathBuf),
    /// A server of our own, which ends with this process.
    Postgres(postgres_server::Database),
}

const ROWS: &str =
    "SELECT coalesce(model, ''), coalesce(user_id, ''), status, count(*), coalesce(sum(cost), 0)
    FROM usage_logs GROUP BY 1, 2, 3";

impl Database {
    /// A new one on a server of our own, which cleans up after itself as one in production does.
    pub(crate) fn postgres() -> Outcome<Self> {
        let database = postgres_server::database();
        for sql in ["ALTER SYSTEM SET autovacuum = on", "SELECT pg_reload_conf()"] {
            postgres_server::execute(&database.url, sql)?;
        }
        Ok(Self::Postgres(database))
    }

    /// Its URL, where it is not a file of the gateway's.
    pub(crate) fn url(&self) -> Option<&str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => Some(&database.url),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Bytes of tables and indexes, and of SQLite's write-ahead log.
    pub(crate) async fn size(&self) -> Outcome<(u64, u64)> {
        match self {
            Self::Sqlite(file) => Ok((size_of(file), size_of(&file.with_extension("db-wal")))),
            Self::Postgres(database) => {
                let sql = "SELECT pg_database_size(current_database())";
                let rows = query(&database.url, sql).await?;
                Ok((text(rows.first().ok_or("no size")?, 0).parse()?, 0))
            }
        }
    }

    /// All usage rows, counted, once the gateway has ended.
    pub(crate) async fn rows(&self) -> Outcome<Vec<Rows>> {
        match self {
            Self::Sqlite(file) => {
                let db = rusqlite::Connection::open(file)?;
                let mut statement = db.prepare(ROWS)?;
                let rows = statement.query_map([], |row| {
                    Ok(Rows {
                        model: row.get(0)?,
                        user: row.get(1)?,
                        status: row.get(2)?,
                        count: row.get::<_, i64>(3)?.cast_unsigned(),
                        cost: row.get(4)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Self::Postgres(database) => {
                let rows = query(&database.url, ROWS).await?;
                let read = |row: &SimpleQueryRow| {
                    Ok(Rows {
                        model: text(row, 0).to_owned(),
                        user: text(row, 1).to_owned(),
                        status: text(row, 2).to_owned(),
                        count: text(row, 3).parse()?,
                        cost: micro(text(row, 4))?,
                    })
                };
                rows.iter().map(read).collect()
            }
        }
    }

    /// What each user has spent, in micro-dollars, once the gateway has ended.
    pub(crate) async fn spend(&self) -> Outcome<BTreeMap<String, i64>> {
        const SPEND: &str = "SELECT user_id, spend FROM users";
        match self {
            Self::Sqlite(file) => {
                let db = rusqlite::Connection::open(file)?;
                let mut statement = db.prepare(SPEND)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Self::Postgres(database) => {
                let rows = query(&database.url, SPEND).await?;
                rows.iter().map(|row| Ok((text(row, 0).to_owned(), micro(text(row, 1))?))).collect()
            }
        }
    }
}

/// Bytes of a file; 0 when there is none.
pub(crate) fn size_of(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

/// Bytes of all files in a folder, not below; 0 when there is none.
pub(crate) fn folder_size(folder: &Path) -> u64 {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum()
}

/// Dollars as `1.234567`, in micro-dollars.
fn micro(usd: &str) -> Outcome<i64> {
    let (whole, part) = usd.split_once('.').unwrap_or((usd, ""));
    let part: i64 = format!("{part:0<6}").parse()?;
    Ok(whole.parse::<i64>()? * 1_000_000 + part)
}

fn text(row: &SimpleQueryRow, at: usize) -> &str {
    row.get(at).unwrap_or_default()
}

async fn query(url: &str, sql: &str) -> Outcome<Vec<SimpleQueryRow>> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let ask = async {
        let answer = client.simple_query(sql).await;
        drop(client);
        answer
    };
    let (answer, _) = tokio::join!(ask, connection);
    let rows = answer?.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}
