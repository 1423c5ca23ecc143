//! What writing a row costs: once as it is, once without what makes usage readable at size.

use std::path::Path;
use std::time::{Duration, Instant};

use otari::config::{PostgresTls, Secret};
use otari::store::{Store, postgres, sqlite};
use otari_filters::settle::{Entry, UsageRecord};
use serde_json::json;
use tempfile::TempDir;

use super::postgres_server;

const ROWS: u64 = 100_000;
const BATCH: u64 = 500;
const USERS: u64 = 1000;

/// The indexes that came with the sums.
const INDEXES: [&str; 14] = [
    "api_key_id_timestamp",
    "model_timestamp",
    "provider_timestamp",
    "endpoint_timestamp",
    "request_group_id",
    "unusual_status",
    "unusual_user_id",
    "unusual_api_key_id",
    "unusual_model",
    "error_code",
    "unpriced",
    "uncounted",
    "imported",
    "source_label",
];

fn before(on: &str) -> String {
    let indexes =
        INDEXES.map(|index| format!("DROP INDEX IF EXISTS ix_usage_logs_{index};")).concat();
    let triggers = ["inserted", "deleted", "changed"]
        .map(|name| format!("DROP TRIGGER otari_usage_{name}{on};"))
        .concat();
    format!(
        "{indexes}{triggers} CREATE INDEX ix_usage_logs_api_key_id ON usage_logs (api_key_id);
        CREATE INDEX ix_usage_logs_user_id ON usage_logs (user_id);"
    )
}

/// Users and keys. How the databases write truth is given.
fn owners(yes: &str, no: &str) -> String {
    let at = "'2026-01-01 00:00:00.000000'";
    let users = (0..USERS).map(|n| format!("('u{n}', 0, {no}, {at}, {at}, '{{}}')"));
    let keys =
        (0..2 * USERS).map(|n| format!("('k{n}', 'h{n}', 'u{}', {at}, {yes}, '{{}}')", n % USERS));
    format!(
        "INSERT INTO users (user_id, spend, blocked, created_at, updated_at, metadata) VALUES {};
        INSERT INTO api_keys (id, key_hash, user_id, created_at, is_active, metadata) VALUES {};",
        users.collect::<Vec<_>>().join(", "),
        keys.collect::<Vec<_>>().join(", ")
    )
}

pub(super) async fn run() {
    let folder = TempDir::new().expect("a temporary folder");
    let files = ["before.db", "after.db"].map(|name| folder.path().join(name));
    let change = before("");
    let before_store = sqlite_store(&files[0], &change).await;
    let after_store = sqlite_store(&files[1], "").await;
    compare("SQLite", &before_store, &after_store).await;

    let databases = [postgres_server::database(), postgres_server::database()];
    let change = before(" ON usage_logs");
    let before_store = postgres_store(&databases[0].url, &change).await;
    let after_store = postgres_store(&databases[1].url, "").await;
    compare("PostgreSQL", &before_store, &after_store).await;
}

async fn sqlite_store(file: &Path, change: &str) -> impl Store {
    let store = sqlite::open(file).await.expect("SQLite opens");
    store.migrate().await.expect("the schema");
    let db = rusqlite::Connection::open(file).expect("the same file");
    db.execute_batch(&format!("{}{change}", owners("1", "0"))).expect("it is prepared");
    store
}

async fn postgres_store(url: &str, change: &str) -> impl Store {
    let wait = Duration::from_secs(30);
    let store =
        postgres::open(&Secret::new(url), "bench", PostgresTls::Prefer, None, 2, wait).await;
    let store = store.expect("PostgreSQL opens");
    store.migrate().await.expect("the schema");
    let change = format!("{}{change} ANALYZE;", owners("true", "false"));
    postgres_server::execute(url, &change).expect("it is prepared");
    store
}

/// Batch by batch in turn, so that a slow minute hits both.
async fn compare(name: &str, before: &impl Store, after: &impl Store) {
    let mut took = [Duration::ZERO; 2];
    for batch in 0..ROWS / BATCH {
        let entries: Vec<Entry> =
            (batch * BATCH..(batch + 1) * BATCH).map(|n| Entry::Usage(record(n))).collect();
        let begun = Instant::now();
        before.apply(&entries).await.expect("they are written");
        took[0] += begun.elapsed();
        let begun = Instant::now();
        after.apply(&entries).await.expect("they are written");
        took[1] += begun.elapsed();
    }
    let micros = |took: Duration| took.as_secs_f64() * 1e6 / ROWS as f64;
    println!(
        "{name:<12} {:>6.1} us a row without, {:>6.1} us with: ratio {:.2}",
        micros(took[0]),
        micros(took[1]),
        took[1].as_secs_f64() / took[0].as_secs_f64()
    );
}

/// The same every time. A thousand a second, a few users and models with most of the calls, 3 % errors.
fn record(n: u64) -> UsageRecord {
    let dice = |sides: u64, salt: u64| {
        let mut mixed =
            (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 33) % sides
    };
    let (key, model) =
        (dice(2 * USERS, 1) * dice(1000, 2) / 1000, dice(40, 3) * dice(1000, 4) / 1000);
    let is_error = n.is_multiple_of(33);
    let at = 1_790_000_000_000 + n;
    let id = |salt| {
        format!(
            "{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}",
            at >> 16,
            at & 0xffff,
            dice(4096, salt),
            dice(4096, salt + 1),
            dice(1 << 30, salt + 2)
        )
    };
    serde_json::from_value(json!({
        "id": id(5), "request_group_id": id(8), "api_key_id": format!("k{key}"),
        "user_id": format!("u{}", key % USERS), "timestamp_us": at * 1000, "model": format!("model-{model}"),
        "provider": format!("provider-{}", model % 6), "endpoint": "/v1/chat/completions", "prompt_tokens": 1000,
        "completion_tokens": 300, "total_tokens": 1300, "cache_read_tokens": 0, "cost": n % 5000,
        "status": if is_error { "error" } else { "success" },
        "error_message": is_error.then_some("provider_error: it did not answer"),
        "status_code": if is_error { 502 } else { 200 }, "latency_ms": 900, "attempt_position": 1,
        "attempt_count": 1, "counts_toward_budget": true
    }))
    .expect("a record")
}
