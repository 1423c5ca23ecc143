//! Databases as the reference gateway makes them, revision by revision, with rows; and a look at any database that goes
//! round the store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::connect;
use super::postgres_server::{self, Database};
use crate::store::adopt::{LATER_HEAD, REVISIONS};
use crate::store::{Store, StoreError, Upgrade, sqlite};

/// A database of its own, of either kind.
pub(super) enum Place {
    Sqlite(TempDir),
    Postgres(Database),
}

impl Place {
    pub(super) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(super) fn postgres() -> Self {
        Self::Postgres(postgres_server::database())
    }

    pub(super) fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("otari.db")
    }

    pub(super) async fn open(&self) -> Box<dyn Store> {
        match self {
            Self::Sqlite(folder) => {
                Box::new(sqlite::open(&Self::file(folder.path())).await.unwrap())
            }
            Self::Postgres(database) => {
                Box::new(connect(&database.url, Duration::from_secs(30)).await.unwrap())
            }
        }
    }

    pub(super) async fn rehearse(&self) -> Result<Upgrade, StoreError> {
        match self {
            Self::Sqlite(folder) => sqlite::rehearse(&Self::file(folder.path())),
            Self::Postgres(database) => {
                connect(&database.url, Duration::from_secs(30)).await.unwrap().rehearse().await
            }
        }
    }

    /// Runs statements in which the reference's types are those of this dialect.
    pub(super) fn execute(&self, sql: &str) {
        let sql = self.dialect(sql);
        match self {
            Self::Sqlite(folder) => {
                let db = Connection::open(Self::file(folder.path())).unwrap();
                db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
                db.execute_batch(&sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
            }
            Self::Postgres(database) => postgres_server::execute(&database.url, &sql)
                .unwrap_or_else(|error| panic!("{error:?}: {sql}")),
        }
    }

    fn dialect(&self, sql: &str) -> String {
        let types = [
            ("{float}", "FLOAT", "double precision"),
            ("{time}", "DATETIME", "timestamptz"),
            ("{serial}", "INTEGER", "serial"),
            ("{bool}", "BOOLEAN", "boolean"),
            ("{now}", "'2026-01-02 03:04:05.678901'", "'2026-01-02 03:04:05.678901+00'"),
            ("{yes}", "1", "true"),
            ("{no}", "0", "false"),
        ];
        types.iter().fold(sql.to_owned(), |sql, (name, lite, postgres)| {
            sql.replace(name, if self.is_sqlite() { lite } else { postgres })
        })
    }

    /// The rows of a query, their columns as text with `|` between them.
    pub(super) fn rows(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(folder) => {
                let db = Connection::open(Self::file(folder.path())).unwrap();
                let mut statement =
                    db.prepare(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
                let columns = statement.column_count();
                let text = |value: ValueRef<'_>| match value {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => format!("{number:?}"),
                    ValueRef::Text(text) | ValueRef::Blob(text) => {
                        String::from_utf8_lossy(text).into_owned()
                    }
                };
                let rows = statement.query_map([], |row| {
                    let texts: Result<Vec<_>, _> =
                        (0..columns).map(|at| row.get_ref(at).map(text)).collect();
                    Ok(texts?.join("|"))
                });
                rows.unwrap().collect::<Result<_, _>>().unwrap()
            }
            Self::Postgres(database) => query(&database.url, sql),
        }
    }

    /// The only value of a query.
    pub(super) fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// Every table with its columns and rows; SQLite's own statistics, which closing refreshes, are no part of it.
    pub(super) fn everything(&self) -> Vec<String> {
        let (tables, columns) = if self.is_sqlite() {
            (
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1",
                "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY 1",
            )
        } else {
            (
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
                "SELECT table_name, column_name, data_type, numeric_scale, is_nullable, column_default FROM \
                 information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
            )
        };
        let mut all = self.rows(columns);
        for table in self.rows(tables) {
            all.push(format!("-- {table}"));
            let mut rows = self.rows(&format!("SELECT * FROM {table}"));
            rows.sort();
            all.extend(rows);
        }
        all
    }

    /// A database at this revision of the reference's chain, with rows from every time.
    pub(super) fn at_revision(&self, revision: usize) {
        self.execute(INITIAL);
        for at in 1..=revision {
            let (both, lite, postgres) = CHAIN[at - 1];
            self.execute(both);
            self.execute(if self.is_sqlite() { lite } else { postgres });
        }
        self.execute(&format!("INSERT INTO alembic_version VALUES ('{}')", REVISIONS[revision]));
    }

    /// A database as the later version may leave it: exact columns, columns and tables that we do not know.
    pub(super) fn at_the_later_head(&self) {
        self.at_revision(REVISIONS.len() - 1);
        self.execute(LATER);
        if !self.is_sqlite() {
            self.execute(LATER_POSTGRES);
        }
        self.execute(&format!("UPDATE alembic_version SET version_num = '{LATER_HEAD}'"));
    }
}

/// Asks on a thread of its own, because the caller is inside a runtime.
fn query(url: &str, sql: &str) -> Vec<String> {
    let work = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let talk = async {
            let answer = client.simple_query(sql).await;
            drop(client);
            answer
        };
        let (answer, _) = tokio::join!(talk, connection);
        let messages = answer.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|at| row.get(at).unwrap_or_default())
                    .collect::<Vec<_>>()
                    .join("|"),
            ),
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work)
        });
        thread.join().unwrap()
    })
}

/// The first revision, and rows.
const INITIAL: &str = "
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
CREATE TABLE budgets (budget_id VARCHAR NOT NULL PRIMARY KEY, max_budget {float}, budget_duration VARCHAR,
    budget_reset_at {time}, created_at {time} NOT NULL, updated_at {time} NOT NULL);
CREATE TABLE model_pricing (model_key VARCHAR NOT NULL, input_price_per_million {float} NOT NULL,
    output_price_per_million {float} NOT NULL, created_at {time} NOT NULL, updated_at {time} NOT NULL,
    CONSTRAINT model_pricing_pkey PRIMARY KEY (model_key));
CREATE TABLE users (user_id VARCHAR NOT NULL PRIMARY KEY, alias VARCHAR, spend {float} NOT NULL, budget_id VARCHAR,
    blocked {bool} NOT NULL, created_at {time} NOT NULL, updated_at {time} NOT NULL, metadata JSON NOT NULL,
    CONSTRAINT users_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets (budget_id));
CREATE TABLE api_keys (id VARCHAR NOT NULL PRIMARY KEY, key_hash VARCHAR NOT NULL, key_name VARCHAR, user_id VARCHAR,
    created_at {time} NOT NULL, last_used_at {time}, expires_at {time}, is_active {bool} NOT NULL, metadata JSON NOT NULL,
    UNIQUE (key_hash), CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id));
CREATE UNIQUE INDEX ix_api_keys_key_hash ON api_keys (key_hash);
CREATE INDEX ix_api_keys_user_id ON api_keys (user_id);
CREATE TABLE usage_logs (id VARCHAR NOT NULL PRIMARY KEY, api_key_id VARCHAR, user_id VARCHAR, timestamp {time} NOT NULL,
    model VARCHAR NOT NULL, provider VARCHAR, endpoint VARCHAR NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
    total_tokens INTEGER, cost {float}, status VARCHAR NOT NULL, error_message VARCHAR,
    CONSTRAINT usage_logs_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id),
    CONSTRAINT usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id));
CREATE INDEX ix_usage_logs_api_key_id ON usage_logs (api_key_id);
CREATE INDEX ix_usage_logs_timestamp ON usage_logs (timestamp);
CREATE INDEX ix_usage_logs_user_id ON usage_logs (user_id);
INSERT INTO budgets VALUES ('b1', 10.5, '30d', '2030-01-01 00:00:00.000000', {now}, {now}), ('b2', NULL, NULL, NULL, {now}, {now}),
    ('b3', 1, 'now and then', NULL, {now}, {now});
INSERT INTO users VALUES ('u1', 'Ü', 6.1, 'b1', {no}, {now}, {now}, '{\"a\": [1, 2.50]}'),
    ('', NULL, 0.30000000000000004, NULL, {yes}, {now}, {now}, '{}');
INSERT INTO api_keys VALUES ('k1', 'hash', 'main', 'u1', {now}, NULL, NULL, {yes}, '{}'),
    ('k2', 'hash2', NULL, '', {now}, {now}, {now}, {no}, '{}');
INSERT INTO model_pricing VALUES ('openai:m', 0.075, 1.25, {now}, {now}), ('openai/m', 1e-9, 2e6, {now}, {now});
INSERT INTO usage_logs VALUES ('l1', 'k1', 'u1', {now}, 'm', 'openai', '/v1/chat/completions', 10, 3, 13,
    0.0000015, 'success', NULL), ('l2', NULL, NULL, {now}, 'm', NULL, '/v1/chat/completions', NULL, NULL, NULL, NULL,
    'error', 'no');
";

/// What each later revision does: to both, to SQLite, to PostgreSQL; and what was written when it was the head.
const CHAIN: [(&str, &str, &str); 8] = [
    (
        "ALTER TABLE budgets DROP COLUMN budget_reset_at; ALTER TABLE users ADD COLUMN budget_started_at {time};
        ALTER TABLE users ADD COLUMN next_budget_reset_at {time};
        CREATE TABLE budget_reset_logs (id {serial} NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL, budget_id VARCHAR NOT NULL,
        previous_spend {float} NOT NULL, reset_at {time} NOT NULL, next_reset_at {time},
        CONSTRAINT budget_reset_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
        CONSTRAINT budget_reset_logs_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets (budget_id));
        CREATE INDEX ix_budget_reset_logs_user_id ON budget_reset_logs (user_id);
        INSERT INTO budget_reset_logs (user_id, budget_id, previous_spend, reset_at) VALUES ('u1', 'b1', 0.7, {now});
        UPDATE users SET budget_started_at = {now} WHERE user_id = 'u1'",
        "",
        "",
    ),
    (
        "ALTER TABLE budgets ADD COLUMN budget_duration_sec INTEGER; ALTER TABLE budgets DROP COLUMN budget_duration;
        UPDATE budgets SET budget_duration_sec = 86400 WHERE budget_id = 'b1'",
        "",
        "",
    ),
    (
        "",
        "",
        "ALTER TABLE usage_logs DROP CONSTRAINT usage_logs_api_key_id_fkey, DROP CONSTRAINT usage_logs_user_id_fkey,
        ADD CONSTRAINT usage_logs_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL,
        ADD CONSTRAINT usage_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE SET NULL;
        ALTER TABLE budget_reset_logs ALTER COLUMN user_id DROP NOT NULL, DROP CONSTRAINT budget_reset_logs_user_id_fkey,
        ADD CONSTRAINT budget_reset_logs_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE SET NULL",
    ),
    (
        "ALTER TABLE users ADD COLUMN deleted_at {time}; CREATE INDEX ix_users_deleted_at ON users (deleted_at);
        INSERT INTO users (user_id, spend, blocked, created_at, updated_at, metadata, deleted_at) VALUES
        ('gone', 1, {no}, {now}, {now}, '{}', {now})",
        "",
        "ALTER TABLE api_keys DROP CONSTRAINT api_keys_user_id_fkey, ADD CONSTRAINT api_keys_user_id_fkey
        FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE CASCADE",
    ),
    ("CREATE INDEX ix_usage_logs_user_id_timestamp ON usage_logs (user_id, timestamp)", "", ""),
    (
        "",
        "CREATE TABLE new_pricing (model_key VARCHAR NOT NULL, input_price_per_million FLOAT NOT NULL,
        output_price_per_million FLOAT NOT NULL, created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL,
        effective_at DATETIME NOT NULL, CONSTRAINT model_pricing_pkey PRIMARY KEY (model_key, effective_at));
        INSERT INTO new_pricing SELECT *, created_at FROM model_pricing; DROP TABLE model_pricing;
        ALTER TABLE new_pricing RENAME TO model_pricing",
        "ALTER TABLE model_pricing ADD COLUMN effective_at timestamptz; UPDATE model_pricing SET effective_at = created_at;
        ALTER TABLE model_pricing ALTER COLUMN effective_at SET NOT NULL, DROP CONSTRAINT model_pricing_pkey,
        ADD CONSTRAINT model_pricing_pkey PRIMARY KEY (model_key, effective_at)",
    ),
    (
        "ALTER TABLE users ADD COLUMN reserved {float} DEFAULT '0' NOT NULL;
        UPDATE users SET reserved = 1.5 WHERE user_id = 'u1'",
        "",
        "",
    ),
    (
        "CREATE TABLE file_objects (id VARCHAR NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL, filename VARCHAR NOT NULL,
        mime_type VARCHAR NOT NULL, bytes INTEGER NOT NULL, purpose VARCHAR NOT NULL, storage_ref VARCHAR NOT NULL,
        created_at {time} NOT NULL, expires_at {time}, deleted_at {time}, metadata JSON NOT NULL,
        CONSTRAINT file_objects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (user_id) ON DELETE CASCADE);
        CREATE INDEX ix_file_objects_user_id ON file_objects (user_id);
        CREATE INDEX ix_file_objects_created_at ON file_objects (created_at);
        CREATE INDEX ix_file_objects_deleted_at ON file_objects (deleted_at);
        INSERT INTO file_objects VALUES ('file-1', 'u1', 'f.txt', 'text/plain', 10, 'user_data', 'fi/file-1', {now}, NULL,
        NULL, '{}')",
        "",
        "",
    ),
];

/// What the later version is known to add, as far as we share it, and some of what only it has.
const LATER: &str = "
CREATE TABLE workspaces (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL);
INSERT INTO workspaces VALUES ('w1', 'Default');
ALTER TABLE api_keys ADD COLUMN key_prefix VARCHAR;
ALTER TABLE api_keys ADD COLUMN allowed_models JSON;
ALTER TABLE api_keys ADD COLUMN exclude_from_budget BOOLEAN DEFAULT {no} NOT NULL;
ALTER TABLE api_keys ADD COLUMN reject_user_mismatch BOOLEAN;
ALTER TABLE api_keys ADD COLUMN capture_agent_telemetry BOOLEAN;
ALTER TABLE api_keys ADD COLUMN workspace_id VARCHAR DEFAULT 'w1' NOT NULL;
UPDATE api_keys SET allowed_models = '[\"openai:*\"]', key_prefix = 'gw-abc', exclude_from_budget = {yes} WHERE id = 'k1';
UPDATE api_keys SET allowed_models = 'null' WHERE id = 'k2';
ALTER TABLE users ADD COLUMN allowed_models JSON;
ALTER TABLE budgets ADD COLUMN name VARCHAR;
ALTER TABLE budgets ADD COLUMN reset_alignment VARCHAR;
UPDATE budgets SET name = 'team', reset_alignment = 'calendar_month', budget_duration_sec = NULL WHERE budget_id = 'b1';
ALTER TABLE model_pricing ADD COLUMN cache_read_price_per_million NUMERIC(18, 8);
ALTER TABLE model_pricing ADD COLUMN cache_write_price_per_million NUMERIC(18, 8);
ALTER TABLE model_pricing ADD COLUMN cache_write_1h_price_per_million NUMERIC(18, 8);
ALTER TABLE model_pricing ADD COLUMN pricing_tiers JSON DEFAULT '[]' NOT NULL;
UPDATE model_pricing SET cache_read_price_per_million = 0.01, pricing_tiers = '[{\"min_input_tokens\": 200000, \"input_price_per_million\": 2.5}]'
    WHERE model_key = 'openai:m';
ALTER TABLE usage_logs ADD COLUMN workspace_id VARCHAR DEFAULT 'w1' NOT NULL;
ALTER TABLE usage_logs ADD COLUMN source VARCHAR(32) DEFAULT 'gateway' NOT NULL;
ALTER TABLE usage_logs ADD COLUMN source_event_id VARCHAR;
ALTER TABLE usage_logs ADD COLUMN source_label VARCHAR;
ALTER TABLE usage_logs ADD COLUMN counts_toward_budget BOOLEAN DEFAULT {yes} NOT NULL;
ALTER TABLE usage_logs ADD COLUMN cache_read_tokens INTEGER;
ALTER TABLE usage_logs ADD COLUMN billing_meters JSON;
ALTER TABLE usage_logs ADD COLUMN status_code INTEGER;
ALTER TABLE usage_logs ADD COLUMN latency_ms INTEGER;
CREATE UNIQUE INDEX uq_usage_logs_source_event ON usage_logs (source, source_event_id);
UPDATE usage_logs SET source_event_id = 'e1', billing_meters = '{\"input\": 10}', latency_ms = 42 WHERE id = 'l1';
CREATE TABLE model_aliases (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, target VARCHAR NOT NULL, user_id VARCHAR
    REFERENCES users (user_id), workspace_id VARCHAR NOT NULL REFERENCES workspaces (id), created_at {time} NOT NULL,
    updated_at {time} NOT NULL, CONSTRAINT uq_model_aliases_name_user UNIQUE (name, user_id));
INSERT INTO model_aliases VALUES ('a1', 'fast', 'openai:m', NULL, 'w1', {now}, {now});
CREATE TABLE scoped_budgets (id VARCHAR NOT NULL PRIMARY KEY, scope_type VARCHAR NOT NULL, scope_id VARCHAR NOT NULL,
    provider_key_id VARCHAR, budget_id VARCHAR NOT NULL REFERENCES budgets (budget_id), name VARCHAR,
    current_spend NUMERIC(18, 6) DEFAULT 0 NOT NULL, reserved_spend NUMERIC(18, 6) DEFAULT 0 NOT NULL, period_start {time},
    period_end {time}, created_at {time} NOT NULL, updated_at {time} NOT NULL);
INSERT INTO scoped_budgets VALUES ('s1', 'api_token', 'k1', NULL, 'b1', NULL, 2.5, 0.75, {now}, NULL, {now}, {now});
CREATE TABLE runtime_settings (key VARCHAR NOT NULL PRIMARY KEY, value VARCHAR NOT NULL, updated_at {time} NOT NULL);
INSERT INTO runtime_settings VALUES ('require_pricing', 'false', {now});
CREATE TABLE changes (id INTEGER NOT NULL PRIMARY KEY);
";

/// On PostgreSQL the later version's dollars are exact too.
const LATER_POSTGRES: &str = "
ALTER TABLE users ALTER COLUMN spend TYPE numeric(18, 6) USING spend::text::numeric;
ALTER TABLE users ALTER COLUMN reserved DROP DEFAULT;
ALTER TABLE users ALTER COLUMN reserved TYPE numeric(18, 6) USING reserved::text::numeric;
ALTER TABLE usage_logs ALTER COLUMN cost TYPE numeric(18, 6) USING cost::text::numeric;
ALTER TABLE usage_logs ADD CONSTRAINT fk_usage_logs_workspace FOREIGN KEY (workspace_id) REFERENCES workspaces (id);
";
