//! Rows that the reference gateway allows and that do not fit as they are: kept in another form, or refused with a
//! sentence that names them. What is refused leaves the database as it was.

use otari_filters::money::MicroUsd;

use super::adoption::on_both;
use super::reference::Place;
use super::rows::page;
use crate::store::{StoreError, UsageFilter};

on_both! {
    amounts_that_are_none_are_named,
    a_cap_without_end_is_no_cap,
    rates_beyond_the_column_are_named,
}

const HEAD: usize = 8;

/// Checks that the database is refused with these words, and stays as it was.
async fn refused(place: &Place, words: &[&str]) {
    let before = place.everything();
    let store = place.open().await;
    for error in [store.upgrade().await.unwrap_err(), place.rehearse().await.unwrap_err()] {
        assert!(matches!(error, StoreError::Schema(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("Nothing was changed"), "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    }
    drop(store);
    assert_eq!(place.everything(), before);
}

/// Infinity as SQL.
fn infinity(place: &Place) -> &'static str {
    if place.is_sqlite() { "9e999" } else { "'Infinity'::double precision" }
}

async fn amounts_that_are_none_are_named(place: Place) {
    place.at_revision(HEAD);
    let infinity = infinity(&place);
    place.execute(&format!("UPDATE users SET spend = {infinity} WHERE user_id = 'u1'"));
    place.execute("UPDATE usage_logs SET cost = -1e300 WHERE id = 'l2'");
    let user = "table users, row 'u1', column spend: ";
    refused(&place, &[user, "set it to a number in range", "row 'l2', column cost: "]).await;
    place.execute(
        "UPDATE users SET spend = 0 WHERE user_id = 'u1'; UPDATE usage_logs SET cost = NULL",
    );
    place.open().await.upgrade().await.unwrap();
}

async fn a_cap_without_end_is_no_cap(place: Place) {
    place.at_revision(HEAD);
    let infinity = infinity(&place);
    place.execute(&format!("UPDATE budgets SET max_budget = {infinity} WHERE budget_id = 'b1'"));
    place.execute("UPDATE budgets SET max_budget = 1e15 WHERE budget_id = 'b2'");
    let store = place.open().await;
    let adoption = store.upgrade().await.unwrap().adoption.unwrap();
    assert!(
        adoption.notes.iter().any(|note| note.starts_with("2 budgets had a cap beyond")),
        "{adoption:?}"
    );
    for budget in ["b1", "b2"] {
        assert_eq!(store.budget_get(budget).await.unwrap().unwrap().max_budget, None);
    }
    let kept = store.budget_get("b3").await.unwrap().unwrap().max_budget;
    assert_eq!(kept, Some(MicroUsd(1_000_000)));
}

async fn rates_beyond_the_column_are_named(place: Place) {
    place.at_revision(HEAD);
    place.execute(
        "UPDATE model_pricing SET input_price_per_million = 1e10 WHERE model_key = 'openai:m'",
    );
    refused(
        &place,
        &["table model_pricing, row 'openai:m', '2026-01-02", "input_price_per_million"],
    )
    .await;
}

#[tokio::test]
async fn instants_and_numbers_of_any_form_are_kept_on_sqlite() {
    let place = Place::sqlite();
    place.at_revision(HEAD);
    place.execute(
        "UPDATE api_keys SET expires_at = '2030-01-01T02:00:00+02:00', last_used_at = '2026-01-01' WHERE id = 'k1';
        UPDATE users SET created_at = '2026-01-01 00:00:00' WHERE user_id = 'u1';
        UPDATE budgets SET budget_duration_sec = 4102444800000 WHERE budget_id = 'b1';
        UPDATE usage_logs SET total_tokens = 5000000000 WHERE id = 'l1'",
    );
    let store = place.open().await;
    store.upgrade().await.unwrap();
    let key = store.key_get("k1").await.unwrap().unwrap();
    assert_eq!(key.expires_at.unwrap().to_string(), "2030-01-01T00:00:00Z");
    assert_eq!(key.last_used_at.unwrap().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(
        place.value("SELECT created_at FROM users WHERE user_id = 'u1'"),
        "2026-01-01 00:00:00.000000",
        "the one form that compares as text"
    );
    let budget = store.budget_get("b1").await.unwrap().unwrap();
    assert_eq!(budget.budget_duration_sec, Some(4_102_444_800_000));
    let usage = store.usage_list(&UsageFilter::default(), page(0, 10)).await.unwrap();
    assert!(usage.iter().any(|row| row.total_tokens == Some(5_000_000_000)));
}

#[tokio::test]
async fn rows_that_name_what_is_gone_are_kept_on_sqlite() {
    let place = Place::sqlite();
    place.at_revision(HEAD);
    place.execute(
        "INSERT INTO budget_reset_logs VALUES (7, 'left', 'lost', 1.25, {now}, NULL);
        INSERT INTO usage_logs (id, api_key_id, user_id, timestamp, model, endpoint, status) VALUES ('l9', 'no-key', 'left',
        {now}, 'm', '/', 'success');
        INSERT INTO api_keys VALUES ('k9', 'hash9', NULL, 'left too', {now}, NULL, NULL, 1, '{}')",
    );
    let store = place.open().await;
    let adoption = store.upgrade().await.unwrap().adoption.unwrap();
    let notes = adoption.notes.join("; ");
    for note in ["1 budgets that", "2 users that", "1 usage rows named keys"] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    assert_eq!(place.rows("PRAGMA foreign_key_check"), [""; 0]);
    let logs = "SELECT user_id, budget_id, previous_spend FROM budget_reset_logs WHERE id = 7";
    assert_eq!(place.value(logs), "left|lost|1250000");
    assert_eq!(store.user_get("left").await.unwrap(), None, "kept as deleted");
    let key = store.key_get("k9").await.unwrap().unwrap();
    assert_eq!(key.user_id.as_deref(), Some("left too"), "whose user is deleted");
}

#[tokio::test]
async fn what_is_no_value_is_named_on_sqlite() {
    let place = Place::sqlite();
    place.at_revision(HEAD);
    place.execute(
        "UPDATE users SET metadata = '{\"a\": NaN}' WHERE user_id = 'u1';
        UPDATE api_keys SET created_at = 'yesterday' WHERE id = 'k1';
        INSERT INTO model_pricing VALUES ('openai:m', 1, 1, {now}, {now}, '2026-01-02T03:04:05.678901Z')",
    );
    let words = [
        "table users, row 'u1', column metadata: '{\"a\": NaN}' is no JSON",
        "table api_keys, row 'k1', column created_at: 'yesterday' is no date and time; set it to",
        "table model_pricing, row 'openai:m', '2026-01-02T03:04:05.678901Z': another row has the same key",
    ];
    refused(&place, &words).await;
}

#[tokio::test]
async fn what_the_operator_added_stays_on_sqlite() {
    let place = Place::sqlite();
    place.at_revision(HEAD);
    place.execute(
        "ALTER TABLE users ADD COLUMN department VARCHAR DEFAULT 'none';
        UPDATE users SET department = 'sales' WHERE user_id = 'u1';
        CREATE INDEX mine ON users (department);
        CREATE VIEW spenders AS SELECT user_id, spend FROM users;
        CREATE TABLE audit (what VARCHAR);
        CREATE TRIGGER watch AFTER INSERT ON users BEGIN INSERT INTO audit VALUES (new.user_id); END",
    );
    let store = place.open().await;
    store.upgrade().await.unwrap();
    let departments =
        place.rows("SELECT department FROM users WHERE user_id IN ('u1', 'gone') ORDER BY 1");
    assert_eq!(departments, ["none", "sales"]);
    let kept = "SELECT name FROM sqlite_master WHERE name IN ('mine', 'spenders', 'audit', 'watch') ORDER BY 1";
    assert_eq!(place.rows(kept), ["audit", "mine", "spenders", "watch"]);
    assert_eq!(place.value("SELECT spend FROM spenders WHERE user_id = 'u1'"), "6100000");
    assert_eq!(place.rows("SELECT * FROM audit"), [""; 0], "copying is not inserting");
}

#[tokio::test]
async fn what_is_no_value_is_named_on_postgres() {
    let place = Place::postgres();
    place.at_revision(HEAD);
    place.execute(
        "UPDATE users SET spend = 'NaN' WHERE user_id = 'u1';
        UPDATE users SET metadata = '{\"a\": \"\\ud800\"}' WHERE user_id = '';
        UPDATE api_keys SET expires_at = 'infinity' WHERE id = 'k1'",
    );
    let words = [
        "table users, row 'u1', column spend: NaN is no amount of dollars",
        "table users, row '', column metadata: ",
        "table api_keys, row 'k1', column expires_at: infinity is beyond the calendar",
    ];
    refused(&place, &words).await;
}

#[tokio::test]
async fn views_are_named_on_postgres() {
    let place = Place::postgres();
    place.at_revision(HEAD);
    place.execute("CREATE VIEW spenders AS SELECT user_id, spend FROM users");
    refused(&place, &["spenders reads users", "drop these views, try again, and create them anew"])
        .await;
    place.execute("DROP VIEW spenders");
    let store = place.open().await;
    store.upgrade().await.unwrap();
    assert!(store.user_get("u1").await.unwrap().is_some());
}
