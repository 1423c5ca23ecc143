//! Databases of the reference gateway become ours, whole, once, and with every row.

use otari_filters::money::{MicroUsd, Rate};
use rusqlite::Connection;

use super::STEPS;
use super::reference::Place;
use super::rows::page;
use crate::store::adopt::tables::{Kind, OURS_ALONE, TABLES};
use crate::store::adopt::{LATER_HEAD, Origin, REVISIONS, mark};
use crate::store::{Store, StoreError, UsageFilter};

/// Runs a fact on both backends.
macro_rules! on_both {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                Box::pin(super::$fact(super::Place::sqlite())).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                Box::pin(super::$fact(super::Place::postgres())).await;
            }
        }
    )+};
}
pub(super) use on_both;

on_both! {
    the_list_of_tables_is_that_of_the_steps,
    a_rehearsal_says_the_same_and_changes_nothing,
    the_later_head_keeps_what_only_it_has,
    a_database_that_is_not_whole_is_refused,
}

/// A test per revision and backend.
macro_rules! every_revision {
    ($($name:ident: $at:expr,)+) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                Box::pin(super::opens(super::Place::sqlite(), $at)).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                Box::pin(super::opens(super::Place::postgres(), $at)).await;
            }
        }
    )+};
}

every_revision! {
    the_first_revision_opens: 0,
    the_revision_with_periods_opens: 1,
    the_revision_with_durations_opens: 2,
    the_revision_with_kept_usage_opens: 3,
    the_revision_with_deleted_users_opens: 4,
    the_revision_with_the_compound_index_opens: 5,
    the_revision_with_price_history_opens: 6,
    the_revision_with_holds_opens: 7,
    the_head_opens: 8,
}

/// Columns that only old revisions have.
const OLD: [&str; 2] = ["budget_duration", "budget_reset_at"];

async fn opens(place: Place, revision: usize) {
    place.at_revision(revision);
    let store = place.open().await;
    let refused = store.schema_check().await.unwrap_err().to_string();
    assert!(
        refused.contains(REVISIONS[revision]) && refused.contains("otari migrate"),
        "{refused}"
    );

    let upgrade = store.upgrade().await.unwrap();
    assert_eq!(upgrade.origin, Origin::Reference(REVISIONS[revision].into()));
    let chain = &REVISIONS[revision + 1..];
    assert_eq!(upgrade.steps[..chain.len()], *chain);
    assert_eq!((upgrade.applied(), upgrade.steps.len()), (STEPS, chain.len() + STEPS));
    let adoption = upgrade.adoption.unwrap();
    let users = 2 + u64::from(revision >= 4);
    let resets = u64::from(revision >= 1);
    let rows = [
        ("budgets", 3),
        ("users", users),
        ("api_keys", 2),
        ("model_pricing", 2),
        ("usage_logs", 2),
    ];
    assert_eq!(adoption.rows[..5], rows);
    assert_eq!(adoption.rows[5], ("budget_reset_logs", resets));
    assert_eq!(adoption.holds, u64::from(revision >= 7));
    let files = adoption.rows.iter().find(|(table, _)| *table == "file_objects");
    assert_eq!(files, Some(&("file_objects", u64::from(revision >= 8))));

    store.schema_check().await.unwrap();
    rows_are_there(store.as_ref(), revision).await;
    assert_eq!(place.value("SELECT version_num FROM alembic_version"), mark(STEPS));
    if revision >= 1 {
        let text = place.value("SELECT user_id, budget_id, previous_spend FROM budget_reset_logs");
        assert_eq!(text, if place.is_sqlite() { "u1|b1|700000" } else { "u1|b1|0.700000" });
    }
    if revision == 0 {
        let text = place.value("SELECT budget_reset_at FROM budgets WHERE budget_id = 'b1'");
        assert!(text.starts_with("2030-01-01 00:00:00"), "what a revision drops is kept: {text}");
    }
    if revision < 2 {
        let note = "budget b3: its budget_duration \"now and then\" is no length of time";
        assert!(adoption.notes.iter().any(|text| text.contains(note)), "{:?}", adoption.notes);
    }

    let before = place.everything();
    let again = store.upgrade().await.unwrap();
    assert_eq!((again.applied(), again.adoption), (0, None), "once");
    assert_eq!(place.everything(), before);
    same_schema(&place).await;
}

async fn rows_are_there(store: &dyn Store, revision: usize) {
    let file = store.file_find("file-1").await.unwrap();
    assert_eq!(file.is_some(), revision >= 8);
    if let Some(file) = file {
        assert_eq!((file.storage_ref.as_str(), file.bytes, file.sha256), ("fi/file-1", 10, None));
        assert_eq!((file.user_id.as_str(), file.filename.as_str()), ("u1", "f.txt"));
    }
    let key = store.key_get("k1").await.unwrap().unwrap();
    assert_eq!((key.key_hash.as_str(), key.key_name.as_deref()), ("hash", Some("main")));
    assert_eq!((key.user_id.as_deref(), key.is_active), (Some("u1"), true));
    assert_eq!(key.created_at.to_string(), "2026-01-02T03:04:05.678901Z");
    let key = store.key_get("k2").await.unwrap().unwrap();
    assert_eq!((key.user_id.as_deref(), key.is_active), (Some(""), false));
    assert_eq!(key.expires_at, Some(key.created_at));

    let user = store.user_get("u1").await.unwrap().unwrap();
    assert_eq!((user.spend, user.reserved), (MicroUsd(6_100_000), MicroUsd(0)));
    assert_eq!((user.alias.as_deref(), user.budget_id.as_deref()), (Some("Ü"), Some("b1")));
    assert_eq!(serde_json::to_string(&user.metadata).unwrap(), r#"{"a":[1,2.5]}"#);
    assert_eq!(user.budget_started_at.is_some(), revision >= 1);
    assert_eq!(user.next_budget_reset_at.is_some(), revision == 0, "of the budget's own date");
    let user = store.user_get("").await.unwrap().unwrap();
    assert_eq!((user.spend, user.blocked), (MicroUsd(300_000), true), "through the decimal text");
    let everything = store.everything().await.unwrap();
    assert_eq!(everything.users.iter().any(|user| user.deleted_at.is_some()), revision >= 4);

    let budget = store.budget_get("b1").await.unwrap().unwrap();
    assert_eq!(budget.max_budget, Some(MicroUsd(10_500_000)));
    let seconds = if revision < 2 { 2_592_000 } else { 86_400 };
    assert_eq!(budget.budget_duration_sec, Some(seconds));
    assert_eq!(store.budget_get("b2").await.unwrap().unwrap().max_budget, None);

    let price = store.price_history("openai:m").await.unwrap().remove(0);
    assert_eq!((price.prices.input, price.prices.output), (Rate(7_500_000), Rate(125_000_000)));
    assert_eq!(price.effective_at, price.created_at);
    let price = store.price_history("openai/m").await.unwrap().remove(0);
    assert_eq!((price.prices.input, price.prices.output), (Rate(0), Rate(200_000_000_000_000)));

    let usage = store.usage_list(&UsageFilter::default(), page(0, 10)).await.unwrap();
    let row = usage.iter().find(|row| row.id == "l1").unwrap();
    assert_eq!((row.cost, row.total_tokens), (Some(MicroUsd(2)), Some(13)), "half up");
    assert_eq!((row.user_id.as_deref(), row.api_key_id.as_deref()), (Some("u1"), Some("k1")));
    assert!(row.counts_toward_budget);
    let row = usage.iter().find(|row| row.id == "l2").unwrap();
    assert_eq!((row.cost, row.error_message.as_deref()), (None, Some("no")));
}

/// What the schema says of our tables and their columns, constraints, indexes and triggers.
fn schema(place: &Place) -> Vec<String> {
    let mut all = Vec::new();
    for table in TABLES.iter().map(|table| table.name).chain(OURS_ALONE) {
        let queries: &[&str] = if place.is_sqlite() {
            &[
                "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{}')",
                "SELECT \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list('{}')",
                "SELECT name, sql FROM sqlite_master WHERE tbl_name = '{}' AND type <> 'table'",
            ]
        } else {
            &[
                "SELECT column_name, data_type, numeric_precision, numeric_scale, is_nullable, column_default FROM \
                 information_schema.columns WHERE table_name = '{}'",
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass('{}')",
                "SELECT indexdef FROM pg_indexes WHERE tablename = '{}'",
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = to_regclass('{}') AND NOT tgisinternal",
            ]
        };
        for query in queries {
            let rows = place.rows(&query.replace("{}", table));
            let ours = rows
                .into_iter()
                .filter(|row| !OLD.iter().any(|old| row.starts_with(&format!("{old}|"))));
            all.extend(ours.map(|row| format!("{table}: {row}")));
        }
    }
    all.sort();
    all
}

/// The schema of an adopted database is that of a new one, where both have it.
async fn same_schema(place: &Place) {
    let new = if place.is_sqlite() { Place::sqlite() } else { Place::postgres() };
    new.open().await.migrate().await.unwrap();
    assert_eq!(schema(place), schema(&new));
}

async fn the_list_of_tables_is_that_of_the_steps(place: Place) {
    place.open().await.migrate().await.unwrap();
    let advice = "tell src/store/adopt/tables.rs what the steps make";
    let tables = if place.is_sqlite() {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    } else {
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    };
    let mut found = place.rows(tables);
    found.retain(|name| name != "refinery_schema_history" && !OURS_ALONE.contains(&name.as_str()));
    found.sort();
    let mut listed: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    listed.sort_unstable();
    assert_eq!(found, listed, "{advice}");
    for table in TABLES {
        let columns = if place.is_sqlite() {
            format!("SELECT name, type FROM pragma_table_info('{}')", table.name)
        } else {
            format!(
                "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute WHERE attrelid = \
                 to_regclass('{}') AND attnum > 0 AND NOT attisdropped",
                table.name
            )
        };
        let mut found = place.rows(&columns);
        let listed = table.columns.iter().map(|column| {
            let name = column.name;
            if place.is_sqlite() {
                let text = matches!(column.kind, Kind::Text | Kind::Instant | Kind::Json);
                return format!("{name}|{}", if text { "TEXT" } else { "INTEGER" });
            }
            let kind = match column.kind {
                Kind::Text => "character varying",
                Kind::Count => "bigint",
                Kind::Small => "integer",
                Kind::Flag => "boolean",
                Kind::Money | Kind::Cap => "numeric(18,6)",
                Kind::Rate => "numeric(18,8)",
                Kind::Instant => "timestamp with time zone",
                Kind::Json => "json",
            };
            format!("{name}|{kind}|{}", if column.required { "t" } else { "f" })
        });
        let mut listed: Vec<String> = listed.collect();
        listed.sort();
        found.sort();
        assert_eq!(found, listed, "{}: {advice}", table.name);
    }
}

async fn a_rehearsal_says_the_same_and_changes_nothing(place: Place) {
    let empty = place.rehearse().await.unwrap();
    assert_eq!((&empty.origin, empty.applied()), (&Origin::Empty, STEPS));
    place.at_revision(3);
    let before = place.everything();
    let rehearsed = place.rehearse().await.unwrap();
    assert_eq!(place.everything(), before, "taken back");
    let text = rehearsed.to_string();
    let words = [
        "revision 5911f4bbf98d",
        "10a6a8ead0e7",
        "V3__management",
        "users 2",
        "users.spend",
        "file_objects",
    ];
    words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));

    let store = place.open().await;
    assert_eq!(store.upgrade().await.unwrap(), rehearsed);
    let done = place.rehearse().await.unwrap();
    assert_eq!((done.origin, done.steps.len()), (Origin::Otari(STEPS as i32), 0));
    place.execute("UPDATE refinery_schema_history SET checksum = '1' WHERE version = 1");
    let error = place.rehearse().await.unwrap_err();
    assert!(error.to_string().contains("another build of otari: its step 1"), "{error}");
}

async fn the_later_head_keeps_what_only_it_has(place: Place) {
    place.at_the_later_head();
    let store = place.open().await;
    let upgrade = store.upgrade().await.unwrap();
    assert_eq!(upgrade.origin, Origin::Reference(LATER_HEAD.into()));
    assert_eq!(upgrade.steps.len(), STEPS);
    let adoption = upgrade.adoption.unwrap();
    for kept in ["workspaces", "api_keys.workspace_id", "usage_logs.billing_meters"] {
        assert!(adoption.kept.contains(&kept.into()), "{kept}: {:?}", adoption.kept);
    }
    assert_eq!(adoption.holds, 2, "a user's and a ceiling's");

    let key = store.key_get("k1").await.unwrap().unwrap();
    assert_eq!((key.key_hash.as_str(), key.key_prefix.as_deref()), ("hash", Some("gw-abc")));
    assert_eq!(store.user_get("u1").await.unwrap().unwrap().spend, MicroUsd(6_100_000));
    let lite = place.is_sqlite();
    let either = |sql: &str, on_sqlite: &str, on_postgres: &str| {
        assert_eq!(place.value(sql), if lite { on_sqlite } else { on_postgres }, "{sql}");
    };
    let both = |sql: &str, expected: &str| assert_eq!(place.value(sql), expected, "{sql}");
    both("SELECT allowed_models, workspace_id FROM api_keys WHERE id = 'k1'", "[\"openai:*\"]|w1");
    both("SELECT id FROM api_keys WHERE allowed_models IS NULL", "k2");
    either("SELECT exclude_from_budget FROM api_keys WHERE id = 'k1'", "1", "t");
    both("SELECT name, reset_alignment FROM budgets WHERE budget_id = 'b1'", "team|calendar_month");
    let sql = "SELECT cache_read_price_per_million FROM model_pricing WHERE model_key = 'openai:m'";
    either(sql, "1000000", "0.01000000");
    let sql = "SELECT source_event_id, billing_meters, latency_ms FROM usage_logs WHERE id = 'l1'";
    both(sql, "e1|{\"input\": 10}|42");
    both("SELECT name, target, workspace_id FROM model_aliases", "fast|openai:m|w1");
    let sql = "SELECT current_spend, reserved_spend FROM scoped_budgets";
    either(sql, "2500000|0", "2.500000|0.000000");
    both("SELECT key, value FROM runtime_settings", "require_pricing|false");
    both("SELECT name FROM workspaces", "Default");

    // Writers that name our columns alone.
    place.execute(
        "INSERT INTO model_aliases (id, name, target, created_at, updated_at) VALUES ('a2', 'slow', 'openai:m', {now}, {now});
        INSERT INTO usage_logs (id, timestamp, model, endpoint, status) VALUES ('l3', {now}, 'm', '/', 'success');
        INSERT INTO users (user_id, spend, blocked, created_at, updated_at, metadata) VALUES ('u9', 0, {no}, {now}, {now}, '{}')",
    );
    both("SELECT source, workspace_id FROM usage_logs WHERE id = 'l3'", "gateway|w1");
    let index = if lite {
        "SELECT count(*) FROM sqlite_master WHERE name = 'uq_usage_logs_source_event'"
    } else {
        "SELECT count(*) FROM pg_indexes WHERE indexname = 'uq_usage_logs_source_event'"
    };
    both(index, "1");
    if !lite {
        both("SELECT count(*) FROM reference_changes", "0");
    }
}

async fn a_database_that_is_not_whole_is_refused(place: Place) {
    place.at_revision(8);
    place.execute("DROP TABLE usage_logs");
    let before = place.everything();
    let error = place.open().await.upgrade().await.unwrap_err();
    assert!(error.to_string().contains("has no table usage_logs; nothing was changed"), "{error}");
    assert_eq!(place.everything(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_start_together_adopt_once() {
    let place = Place::postgres();
    place.at_revision(0);
    let (a, b) = (place.open().await, place.open().await);
    let (a, b) = tokio::join!(a.upgrade(), b.upgrade());
    let adopted = [a.unwrap(), b.unwrap()].map(|upgrade| upgrade.adoption.is_some());
    assert_eq!(adopted.iter().filter(|adopted| **adopted).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_use_is_named_on_sqlite() {
    let place = Place::sqlite();
    place.at_revision(8);
    let Place::Sqlite(folder) = &place else { unreachable!("made above") };
    let other = Connection::open(folder.path().join("otari.db")).unwrap();
    let store = place.open().await;
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.upgrade().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(store.upgrade().await.unwrap().adoption.is_some(), "nothing stayed behind");
}
