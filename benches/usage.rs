//! Usage questions at size: how long an operator waits for a page, a count and a summary of 30 days.
//!
//! ```text
//! cargo bench --bench usage                     # 10 million rows on a PostgreSQL of its own: 15 minutes and 10 GB of disk
//! cargo bench --bench usage -- --rows 1000000
//! cargo bench --bench usage -- --sqlite --rows 1000000
//! cargo bench --bench usage -- --cost            # what a row costs with the indexes and marks, and without: a minute
//! cargo bench --bench usage -- --url postgresql://...   # a database that is kept; it is filled when it has no rows
//! ```
//!
//! The rows are written by the database itself; what is timed are the calls of `Store` that the routes make.

#![expect(clippy::print_stdout, reason = "its result is what it prints")]

#[path = "../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
mod postgres_server;
#[path = "usage/cost.rs"]
mod cost;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use otari::config::{PostgresTls, Secret};
use otari::store::analytics::{Bucket, Condensed, Dimension, Report, UsageFilter, UsageStatus};
use otari::store::{Page, Store, postgres, sqlite};
use tempfile::TempDir;

/// Times a question is asked.
const ROUNDS: usize = 7;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    if has("--cost") {
        return cost::run().await;
    }
    let rows: i64 = value("--rows").and_then(|rows| rows.parse().ok()).unwrap_or(10_000_000);
    if has("--sqlite") {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("otari.db");
        let store = sqlite::open(&file).await.expect("SQLite opens");
        store.migrate().await.expect("the schema");
        let begun = Instant::now();
        let db = rusqlite::Connection::open(&file).expect("the same file");
        db.execute_batch(&fill_sqlite(rows)).expect("the rows are written");
        say(&format!("{rows} rows written"), begun.elapsed());
        condense(&store).await;
        run(&store, rows).await;
    } else {
        let own = (!has("--url")).then(postgres_server::database);
        let given = value("--url").cloned().unwrap_or_default();
        let url = own.as_ref().map_or(given, |database| database.url.clone());
        let wait = Duration::from_secs(30);
        let store =
            postgres::open(&Secret::new(&url), "bench", PostgresTls::Prefer, None, 4, wait).await;
        let store = store.expect("PostgreSQL opens");
        store.migrate().await.expect("the schema");
        let execute = |sql: &str| postgres_server::execute(&url, sql).expect("the server does it");
        if store.usage_count(&UsageFilter::default()).await.expect("a number") == 0 {
            let begun = Instant::now();
            execute(&fill_postgres(rows));
            execute("VACUUM ANALYZE usage_logs");
            say(&format!("{rows} rows written and indexed"), begun.elapsed());
        }
        condense(&store).await;
        // What a server does by itself after a while.
        for table in ["usage_rollups", "usage_rollup_groups", "usage_rollup_marks"] {
            execute(&format!("VACUUM ANALYZE {table}"));
        }
        run(&store, rows).await;
    }
}

/// 30 days; 2000 keys of 1000 users, 40 models, 6 providers; a few of each have most of the calls. 3 % errors.
const COLUMNS: &str = "id, api_key_id, user_id, timestamp, model, provider, endpoint, prompt_tokens, completion_tokens,
    total_tokens, cost, status, error_message, cache_read_tokens, status_code, latency_ms, attempt_position,
    attempt_count, request_group_id, counts_toward_budget";

fn fill_postgres(rows: i64) -> String {
    // Indexes are built at the end, and marks written as the migration writes them: what is timed is reading.
    format!(
        "SET session_replication_role = replica; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off;
        CREATE TEMP TABLE kept AS SELECT indexname, indexdef FROM pg_indexes
            WHERE tablename = 'usage_logs' AND indexname NOT LIKE '%pkey';
        DO $$ DECLARE i record; BEGIN
            FOR i IN SELECT * FROM kept LOOP EXECUTE 'DROP INDEX ' || i.indexname; END LOOP;
        END $$;
        INSERT INTO users (user_id, alias, spend, blocked, created_at, updated_at, metadata)
            SELECT 'u' || n, 'User ' || n, 0, false, now(), now(), '{{}}' FROM generate_series(0, 999) n;
        INSERT INTO api_keys (id, key_hash, key_name, user_id, created_at, is_active, metadata)
            SELECT 'k' || n, 'h' || n, 'Key ' || n, 'u' || n % 1000, now(), true, '{{}}'
            FROM generate_series(0, 1999) n;
        INSERT INTO usage_logs ({COLUMNS})
            SELECT lpad(to_hex(n), 12, '0') || '-aaaa-7bbb-8ccc-dddddddddddd', 'k' || k, 'u' || k % 1000,
                now() - n * (interval '30 days' / {rows}), 'model-' || m, 'provider-' || m % 6,
                '/v1/chat/completions', 1000 + k, 300, 1300 + k,
                CASE WHEN n % 50 > 0 AND n % 33 > 0 THEN (n % 5000) * 0.000001 END,
                CASE WHEN n % 33 = 0 THEN 'error' ELSE 'success' END,
                CASE WHEN n % 33 = 0 THEN 'provider_error: it did not answer' END, 0,
                CASE WHEN n % 33 = 0 THEN (ARRAY[402, 403, 429, 502])[1 + n % 4] ELSE 200 END, 900 + k, 1, 1,
                lpad(to_hex(n), 12, '0') || '-aaaa-7bbb-8ccc-dddddddddddd', n % 100 > 0
            FROM (SELECT n, floor(random() * random() * 2000)::int k, floor(random() * random() * 40)::int m
                FROM generate_series(1, {rows}) n) s;
        INSERT INTO usage_rollup_marks SELECT DISTINCT date_trunc('hour', timestamp, 'UTC') FROM usage_logs;
        DO $$ DECLARE i record; BEGIN
            FOR i IN SELECT * FROM kept LOOP EXECUTE i.indexdef; END LOOP;
        END $$;
        ANALYZE"
    )
}

fn fill_sqlite(rows: i64) -> String {
    format!(
        "PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; BEGIN;
        WITH RECURSIVE s (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 999)
            INSERT INTO users (user_id, alias, spend, blocked, created_at, updated_at, metadata)
            SELECT 'u' || n, 'User ' || n, 0, 0, '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', '{{}}' FROM s;
        WITH RECURSIVE s (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 1999)
            INSERT INTO api_keys (id, key_hash, key_name, user_id, created_at, is_active, metadata)
            SELECT 'k' || n, 'h' || n, 'Key ' || n, 'u' || (n % 1000), '2026-01-01 00:00:00.000000', 1, '{{}}' FROM s;
        WITH RECURSIVE s (n, k, m) AS (SELECT 1, 0, 0 UNION ALL
                SELECT n + 1, (random() & 1023) * (random() & 1023) * 2000 >> 20,
                    (random() & 1023) * (random() & 1023) * 40 >> 20
                FROM s WHERE n < {rows})
            INSERT INTO usage_logs ({COLUMNS})
            SELECT printf('%012x-aaaa-7bbb-8ccc-dddddddddddd', n), 'k' || k, 'u' || (k % 1000),
                strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (n * 2592000.0 / {rows}) || ' seconds'),
                'model-' || m, 'provider-' || (m % 6), '/v1/chat/completions', 1000 + k, 300, 1300 + k,
                CASE WHEN n % 50 > 0 AND n % 33 > 0 THEN n % 5000 END,
                CASE WHEN n % 33 = 0 THEN 'error' ELSE 'success' END,
                CASE WHEN n % 33 = 0 THEN 'provider_error: it did not answer' END, 0,
                CASE WHEN n % 33 = 0 THEN 502 - 100 * (n % 2) ELSE 200 END, 900 + k, 1, 1,
                printf('%012x-aaaa-7bbb-8ccc-dddddddddddd', n), n % 100 > 0
            FROM s;
        COMMIT; ANALYZE"
    )
}

/// Sums up everything that is due, as the housekeeping does after an upgrade.
async fn condense(store: &dyn Store) {
    let now = Timestamp::now();
    let begun = Instant::now();
    let (mut steps, mut longest) = (0, Duration::ZERO);
    loop {
        let step = Instant::now();
        if store.usage_condense(now).await.expect("it sums up") != Condensed::One {
            break;
        }
        (steps, longest) = (steps + 1, longest.max(step.elapsed()));
    }
    say(&format!("{steps} hours and days summed up"), begun.elapsed());
    say("  the longest of them", longest);
}

fn filters() -> Vec<(&'static str, UsageFilter)> {
    let none = UsageFilter::default;
    let one = |id: &str| vec![id.to_owned()];
    vec![
        ("no filter", none()),
        ("a busy user", UsageFilter { user_ids: one("u1"), ..none() }),
        ("a quiet user", UsageFilter { user_ids: one("u998"), ..none() }),
        ("a user who has none", UsageFilter { user_ids: one("nobody"), ..none() }),
        ("an API key", UsageFilter { api_key_ids: one("k500"), ..none() }),
        ("a model", UsageFilter { models: one("model-1"), ..none() }),
        ("a quiet model", UsageFilter { models: one("model-39"), ..none() }),
        (
            "three models",
            UsageFilter {
                models: ["model-1", "model-38", "model-39"].map(Into::into).into(),
                ..none()
            },
        ),
        ("a provider", UsageFilter { provider: Some("provider-3".into()), ..none() }),
        ("status error", UsageFilter { status: Some(UsageStatus::Error), ..none() }),
        ("status absorbed", UsageFilter { status: Some(UsageStatus::Absorbed), ..none() }),
        ("status code 502", UsageFilter { status_code: Some(502), ..none() }),
        ("unpriced", UsageFilter { priced: Some(false), ..none() }),
        (
            "a user's errors",
            UsageFilter { user_ids: one("u1"), status: Some(UsageStatus::Error), ..none() },
        ),
        (
            "a user's successes",
            UsageFilter { user_ids: one("u1"), status: Some(UsageStatus::Success), ..none() },
        ),
        (
            "a key's errors",
            UsageFilter { api_key_ids: one("k1"), status: Some(UsageStatus::Error), ..none() },
        ),
        (
            "a model's errors",
            UsageFilter { models: one("model-1"), status: Some(UsageStatus::Error), ..none() },
        ),
        (
            "a model's successes",
            UsageFilter { models: one("model-1"), status: Some(UsageStatus::Success), ..none() },
        ),
    ]
}

async fn run(store: &dyn Store, rows: i64) {
    let now = Timestamp::now();
    let filters = filters();
    for (name, filter) in &filters {
        let page = Page { skip: 0, limit: 100 };
        time(&format!("page: {name}"), || store.usage_list(filter, page)).await;
    }
    let deep = Page { skip: rows / 2, limit: 100 };
    time("page: the middle of all", || store.usage_list(&filters[0].1, deep)).await;
    time("page: the middle of a model", || {
        store.usage_list(&filters[5].1, Page { skip: rows / 40, limit: 100 })
    })
    .await;
    for (name, filter) in &filters {
        time(&format!("count: {name}"), || store.usage_count(filter)).await;
    }
    let days =
        |days: i64| now.checked_sub(SignedDuration::from_hours(days * 24)).expect("30 days ago");
    let summary = Report {
        start: days(30),
        end: now,
        bucket: Bucket::Day,
        dimensions: Dimension::ALL.to_vec(),
        top: 100,
        top_labels: 250,
        is_split: false,
    };
    let hourly = Report { bucket: Bucket::Hour, ..summary.clone() };
    let series =
        Report { dimensions: vec![Dimension::Model], top: 8, is_split: true, ..summary.clone() };
    let users =
        Report { dimensions: vec![Dimension::User], top: 8, is_split: true, ..hourly.clone() };
    time("summary: 30 days", || store.usage_report(&filters[0].1, &summary)).await;
    time("summary: 30 days, hourly", || store.usage_report(&filters[0].1, &hourly)).await;
    time("series: 30 days by model", || store.usage_report(&filters[0].1, &series)).await;
    time("series: 720 hours by user", || store.usage_report(&filters[0].1, &users)).await;
    for at in [1, 2, 4, 9] {
        let (name, filter) = &filters[at];
        time(&format!("summary: 30 days of {name}"), || store.usage_report(filter, &summary)).await;
    }
}

async fn time<T, E: std::fmt::Debug>(name: &str, ask: impl AsyncFn() -> Result<T, E>) {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        ask().await.expect("an answer");
        took.push(begun.elapsed());
    }
    let first = took[0];
    took.sort_unstable();
    let median = took[ROUNDS / 2].as_secs_f64() * 1e3;
    println!("{name:<40} median {median:>9.1} ms   first {:>9.1} ms", first.as_secs_f64() * 1e3);
}

fn say(what: &str, took: Duration) {
    println!("{what:<40} {:>9.1} s", took.as_secs_f64());
}
