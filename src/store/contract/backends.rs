//! Facts that need to look behind the trait: schemas of others and of earlier versions, servers that go away.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::postgres_server::{self, Cluster};
use super::rows::{at, budget, page, user};
use super::{STEPS, connect, sqlite};
use crate::store::analytics::{Bucket, Condensed, Dimension, Report, UsageFilter};
use crate::store::{Store, StoreError, migrations, sqlite as backend};

#[tokio::test]
async fn schemas_of_others_are_refused_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("otari.db");
    let store = backend::open(&file).await.unwrap();
    let execute = |sql: &str| Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    schemas(&store, execute).await;
}

#[tokio::test]
async fn schemas_of_others_are_refused_on_postgres() {
    let database = postgres_server::database();
    let store = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    schemas(&store, |sql| postgres_server::execute(&database.url, sql).unwrap()).await;
}

async fn schemas(store: &dyn Store, execute: impl Fn(&str)) {
    let refusal = |result: Result<(), StoreError>| match result {
        Err(StoreError::Schema(text)) => text,
        other => panic!("expected a refused schema, got {other:?}"),
    };
    assert!(refusal(store.schema_check().await).contains("run `otari migrate --config FILE`"));

    execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)");
    execute("INSERT INTO alembic_version VALUES ('feedfacecafe')");
    let text = refusal(store.migrate().await.map(drop));
    assert!(text.contains("at revision feedfacecafe, which this otari does not know"), "{text}");
    assert_eq!(refusal(store.schema_check().await), text);
    execute("UPDATE alembic_version SET version_num = 'c3d5e7f9a1b3'");
    let text = refusal(store.schema_check().await);
    assert!(text.contains("(revision c3d5e7f9a1b3) and is not upgraded yet"), "{text}");
    let text = refusal(store.migrate().await.map(drop));
    assert!(text.contains("(revision c3d5e7f9a1b3) and has no table budgets"), "{text}");

    execute("DROP TABLE alembic_version");
    assert_eq!(store.migrate().await.unwrap(), STEPS);
    execute("UPDATE refinery_schema_history SET checksum = '1'");
    assert!(refusal(store.migrate().await.map(drop)).contains("another build of otari"));
    execute(
        "UPDATE refinery_schema_history SET version = version + 99 - (SELECT max(version) FROM refinery_schema_history)",
    );
    let text = refusal(store.migrate().await.map(drop));
    let words = format!("newer otari (schema 99, this binary knows {STEPS})");
    assert!(text.contains(&words), "{text}");
    assert_eq!(refusal(store.schema_check().await), text);
}

/// A key as the first version wrote it.
const FIRST_KEY: &str = "INSERT INTO api_keys (id, key_hash, created_at, is_active, metadata)
    VALUES ('k1', 'h', '2026-01-01 00:00:00.000000+00', '1', '{}')";

#[tokio::test]
async fn a_database_of_the_first_version_is_upgraded_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("otari.db");
    let mut first = Connection::open(&file).unwrap();
    migrations::runner(&migrations::SQLITE[..1]).run(&mut first).unwrap();
    first.execute_batch(&FIRST_KEY.replace("+00", "")).unwrap();
    first_version(&backend::open(&file).await.unwrap()).await;
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the driver of one connection, which ends with the test"
)]
async fn a_database_of_the_first_version_is_upgraded_on_postgres() {
    let database = postgres_server::database();
    let (mut first, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    migrations::runner(&migrations::POSTGRES[..1]).run_async(&mut first).await.unwrap();
    first.batch_execute(FIRST_KEY).await.unwrap();
    first_version(&connect(&database.url, Duration::from_secs(5)).await.unwrap()).await;
}

async fn first_version(store: &dyn Store) {
    let Err(StoreError::Schema(text)) = store.schema_check().await else {
        panic!("a schema that is too old was taken");
    };
    assert!(text.contains("has schema 1 and this binary needs"), "{text}");
    assert_eq!(store.migrate().await.unwrap(), STEPS - 1);
    let kept = store.key_get("k1").await.unwrap().unwrap();
    assert_eq!((kept.key_hash.as_str(), kept.key_prefix), ("h", None), "never written");
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let database = postgres_server::database();
    let store = connect(&database.url, Duration::from_secs(30)).await.unwrap();
    let other = connect(&database.url, Duration::from_secs(30)).await.unwrap();
    let (a, b, c) = tokio::join!(store.migrate(), other.migrate(), other.migrate());
    assert_eq!(a.unwrap() + b.unwrap() + c.unwrap(), STEPS);
}

#[tokio::test]
async fn a_sqlite_folder_that_is_missing_is_named() {
    let Err(error) = backend::open(Path::new("/nowhere/otari.db")).await else {
        panic!("opened a file in a folder that does not exist");
    };
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert!(error.to_string().contains("the folder /nowhere does not exist"), "{error}");
}

#[tokio::test]
async fn a_sqlite_store_survives_being_reopened() {
    let (store, folder) = sqlite().await;
    store.user_create(&user("u1")).await.unwrap();
    drop(store);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "closing folds the write-ahead log into the file: {left:?}");
    let store = backend::open(&folder.path().join("otari.db")).await.unwrap();
    store.schema_check().await.unwrap();
    assert!(store.user_get("u1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_at_once_and_without_the_password() {
    let url = "postgresql://otari:hunter2@127.0.0.1:1/otari";
    let begun = Instant::now();
    let Err(error) = connect(url, Duration::from_secs(5)).await else {
        panic!("connected to nothing");
    };
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");

    let Err(error) = connect("postgresql://otari:a?hunter2=b@host/otari", Duration::ZERO).await
    else {
        panic!("parsed nonsense");
    };
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_store_whose_server_was_away_works_again() {
    let cluster = Cluster::new();
    let database = cluster.database();
    let store = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.label(), "postgresql test/otari");
    store.migrate().await.unwrap();
    store.budget_create(&budget("b1")).await.unwrap();

    cluster.stop();
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let error = store.budget_create(&budget("b2")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");

    cluster.start();
    store.ping().await.unwrap();
    store.budget_create(&budget("b2")).await.unwrap();
    assert_eq!(store.budget_list(page(0, 10)).await.unwrap().len(), 2);
}

/// The one way in which sums could miss a row: it is written while its hour is summed up, and committed later.
#[tokio::test]
async fn a_row_that_is_committed_after_its_hour_was_summed_up_is_not_missed() {
    let database = postgres_server::database();
    let store = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    let other = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    store.migrate().await.unwrap();
    let closed = at(48 * 3600);
    let row = |id: &str| {
        format!(
            "INSERT INTO usage_logs (id, timestamp, model, endpoint, cost, status)
             VALUES ('{id}', '2026-01-01 10:30:00+00', 'm', 'e', 0.000001, 'success')"
        )
    };
    let cost = async || {
        let (start, end) = (at(-1), at(48 * 3600));
        let report = Report {
            start,
            end,
            bucket: Bucket::Day,
            dimensions: Dimension::ALL.to_vec(),
            top: 100,
            top_labels: 100,
            is_split: false,
        };
        let reported = store.usage_report(&UsageFilter::default(), &report).await.unwrap();
        reported.totals.iter().map(|(_, totals)| totals.cost.0).sum::<i64>()
    };
    let condense = async || while store.usage_condense(closed).await.unwrap() == Condensed::One {};
    postgres_server::execute(&database.url, &row("first")).unwrap();
    let (writer, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    let work = async {
        writer.batch_execute(&format!("BEGIN; {}", row("second"))).await.unwrap();
        condense().await;
        assert_eq!(cost().await, 1, "what is not committed is not there");
        writer.batch_execute("COMMIT").await.unwrap();
        assert_eq!(cost().await, 2, "its own mark speaks for the row");
        condense().await;
        assert_eq!(cost().await, 2);
        // Two gateways at it at once: one steps back, and nothing is counted twice.
        writer.batch_execute(&row("third")).await.unwrap();
        for _ in 0..20 {
            let (a, b) = tokio::join!(store.usage_condense(closed), other.usage_condense(closed));
            let gave_way = |result: &Result<Condensed, StoreError>| {
                matches!(result, Ok(_) | Err(StoreError::Unavailable { .. }))
            };
            assert!(gave_way(&a) && gave_way(&b), "{a:?} {b:?}");
        }
        condense().await;
        assert_eq!(cost().await, 3);
    };
    tokio::select! {
        () = work => {}
        ended = connection => panic!("the writer lost its connection: {ended:?}"),
    }
}

#[tokio::test]
async fn waiting_for_a_connection_has_an_end() {
    let database = postgres_server::database();
    let store = connect(&database.url, Duration::from_millis(50)).await.unwrap();
    store.migrate().await.unwrap();
    let (holder, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    let list = || store.budget_list(page(0, 1));
    let work = async {
        let lock = "BEGIN; LOCK TABLE budgets IN ACCESS EXCLUSIVE MODE";
        holder.batch_execute(lock).await.unwrap();
        // The pool holds four connections: four calls wait for the lock, and the fifth for one of theirs.
        let fifth = async {
            let error = list().await.unwrap_err();
            holder.batch_execute("ROLLBACK").await.unwrap();
            error
        };
        tokio::join!(list(), list(), list(), list(), fifth)
    };
    let (a, b, c, d, error) = tokio::select! {
        done = work => done,
        ended = connection => panic!("the holder lost its connection: {ended:?}"),
    };
    assert!(error.to_string().contains("no free connection"), "{error}");
    for list in [a, b, c, d] {
        list.unwrap();
    }
}
