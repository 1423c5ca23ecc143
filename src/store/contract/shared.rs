//! Facts about gateways that share a PostgreSQL database, and about two processes that share a SQLite file.

use std::time::Duration;

use otari_filters::control::Scope;
use otari_filters::gcra;
use otari_filters::money::MicroUsd;
use otari_filters::settle::{Entry, UsageRecord};
use tokio::sync::mpsc;

use super::batches::batch;
use super::postgres_server::{self, Database};
use super::rows::{at, budget, ceiling, key, record, spend, user, with_period};
use super::{Postgres, Sqlite, connect, sqlite};
use crate::store::{
    Accounted, AuditLog as _, BatchHold, BatchRow, Beat, BudgetChange, Change, Kind, Notice,
    RateAsk, RatePlaces, Shared, Store, Take, Taken, UserChange, UserRow,
};

/// The cap of budget `b1`, in micro-dollars.
const CAP: i64 = 10_000_000;

/// Facts on two gateways on PostgreSQL, and on two processes on a SQLite file.
macro_rules! on_both {
    ($($fact:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $fact() {
                    let (a, b, _folder) = super::two_processes().await;
                    super::$fact(a, b).await;
                }
            )*
        }
        mod on_postgres {
            $(
                #[tokio::test]
                async fn $fact() {
                    let (a, b, _database) = super::two().await;
                    super::$fact(a, b).await;
                }
            )*
        }
    };
}

on_both! {
    leases_and_spend_stay_within_the_cap,
    a_step_that_is_repeated_is_taken_once,
    a_gateway_that_is_alone_gets_everything,
    others_are_asked_before_anybody_is_refused,
    a_period_that_is_over_starts_again_when_a_lease_is_asked_for,
    ceilings_have_leases_of_their_own,
    what_a_batch_holds_is_nobodys_lease_until_it_is_charged,
    what_a_batch_holds_goes_back_to_all_when_no_lease_pays,
}

/// The same on a SQLite file.
async fn two_processes() -> (Sqlite, Sqlite, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("otari.db");
    let (a, b) = (sqlite::open(&file).await.unwrap(), sqlite::open(&file).await.unwrap());
    a.migrate().await.unwrap();
    assert!(a.shared().is_none(), "it has the file to itself");
    a.join("a").await.unwrap();
    b.join("b").await.unwrap();
    assert!(a.shared().is_some());
    with_period(&a, "u1", 100).await;
    (a, b, folder)
}

/// Two gateways and user `u1` under budget `b1`.
async fn two() -> (Postgres, Postgres, Database) {
    let database = postgres_server::database();
    let a = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    let b = connect(&database.url, Duration::from_secs(5)).await.unwrap();
    a.migrate().await.unwrap();
    a.join("a").await.unwrap();
    b.join("b").await.unwrap();
    with_period(&a, "u1", 100).await;
    (a, b, database)
}

fn take(serial: i64, needed: i64) -> Take {
    Take {
        scope: Scope::User("u1".into()),
        serial,
        needed: MicroUsd(needed),
        queued: MicroUsd::ZERO,
        typical: MicroUsd(needed),
        now_us: at(0).as_microsecond(),
        recalled_at_us: None,
    }
}

async fn granted(store: &impl Shared, take: &Take) -> i64 {
    match store.take(take).await.unwrap() {
        Taken::Granted { amount, .. } => amount.0,
        other => panic!("{take:?} was answered with {other:?}"),
    }
}

async fn refused(store: &impl Shared, take: &Take) -> (i64, bool, i64) {
    match store.take(take).await.unwrap() {
        Taken::Refused { room, others, at_us, .. } => (room.0, others, at_us),
        other => panic!("{take:?} was answered with {other:?}"),
    }
}

/// A call that was paid out of the lease.
fn paid(id: &str, micros: i64) -> Entry {
    Entry::Usage(UsageRecord { leased: true, ..record(id, "u1", micros, 0) })
}

async fn leases_and_spend_stay_within_the_cap<S: Store + Shared>(a: S, b: S) {
    assert_eq!(granted(&a, &take(1, 1_000)).await, CAP / 4, "half of its half");
    assert_eq!(granted(&b, &take(1, 1_000)).await, (CAP - CAP / 4) / 4);
    let left = CAP - CAP / 4 - (CAP - CAP / 4) / 4;
    assert_eq!(granted(&a, &take(2, left)).await, left, "near the cap: what is needed");
    assert_eq!(refused(&b, &take(2, 1)).await.0, 0);
    assert_eq!(a.over_cap().await.unwrap(), 0);

    let costs = [paid("r1", 600), paid("r2", 400)];
    a.apply(&costs).await.unwrap();
    a.apply(&costs).await.unwrap();
    assert_eq!(spend(&a, "u1").await, 1_000);
    assert_eq!(refused(&b, &take(3, 1)).await.0, 0, "what the lease paid for is spend now");
    a.give(&Scope::User("u1".into()), 1, MicroUsd(5_000)).await.unwrap();
    a.give(&Scope::User("u1".into()), 1, MicroUsd(5_000)).await.unwrap();
    assert_eq!(granted(&b, &take(4, 5_000)).await, 5_000, "given back once");
    assert_eq!(refused(&b, &take(5, 1)).await.0, 0);
}

async fn a_step_that_is_repeated_is_taken_once<S: Store + Shared>(a: S, _b: S) {
    let first = granted(&a, &take(1, 1_000)).await;
    assert_eq!(granted(&a, &take(1, 1_000)).await, first, "the answer was lost");
    assert_eq!(granted(&a, &take(2, CAP - first)).await, CAP - first, "nothing else is gone");
}

#[tokio::test]
async fn a_rate_is_taken_from_by_all_and_places_are_known_to_all() {
    const S: i64 = 1_000_000_000;
    let (a, b, _database) = two().await;
    let ask = |spent_ns, ahead_ns| {
        let ask = gcra::Ask {
            burst_ns: 60 * S,
            spent_ns,
            ahead_ns,
            least_ns: S,
            parts: 1,
            ..gcra::Ask::default()
        };
        [RateAsk { subject: "r:u1".into(), ask }]
    };
    let granted = a.rates(&ask(10 * S, 20 * S)).await.unwrap();
    assert_eq!((granted[0].ahead_ns, granted[0].room_ns), (20 * S, 30 * S));
    let granted = b.rates(&ask(0, 60 * S)).await.unwrap()[0];
    assert_eq!(granted.ahead_ns, 30 * S, "whole calls, and no more than there is");
    assert!((0..20 * S).contains(&granted.room_ns), "{granted:?}");
    let granted = a.rates(&ask(-20 * S, 0)).await.unwrap()[0];
    assert!(granted.room_ns >= 20 * S, "given back: {granted:?}");
    // Both at once, on the same rows.
    let many: Vec<RateAsk> = (0..100)
        .map(|n| RateAsk { subject: format!("r:v{n:03}"), ask: ask(S, 0)[0].ask })
        .collect();
    let (one, other) = tokio::join!(a.rates(&many), b.rates(&many));
    assert_eq!((one.unwrap().len(), other.unwrap().len()), (100, 100));

    let own = |count| [RatePlaces { subject: "u1".into(), count }];
    assert!(a.rate_places(&own(3)).await.unwrap().is_empty());
    assert_eq!(b.rate_places(&own(0)).await.unwrap()["u1"], (3, 1));
    assert_eq!(a.rate_places(&[]).await.unwrap()["u1"], (0, 1));
    assert_eq!(a.rate_gateways(true).await.unwrap(), 2);
    b.leave().await.unwrap();
    assert_eq!(a.rate_gateways(false).await.unwrap(), 1);
}

async fn a_gateway_that_is_alone_gets_everything<S: Store + Shared>(a: S, b: S) {
    b.leave().await.unwrap();
    assert_eq!(granted(&a, &take(1, 1)).await, CAP);
    let window = match a.take(&take(2, 1)).await.unwrap() {
        Taken::Refused { others: false, window, .. } => window,
        other => panic!("{other:?}"),
    };
    assert_eq!(window.next_reset_us, Some(at(100).as_microsecond()));
}

async fn others_are_asked_before_anybody_is_refused<S: Store + Shared>(a: S, b: S) {
    let scope = Scope::User("u1".into());
    let first = granted(&a, &take(1, 1_000)).await;
    let (room, others, at_us) = refused(&b, &take(1, CAP)).await;
    assert_eq!((room, others), (CAP - first, true), "nobody has been asked");

    let (sender, mut notices) = mpsc::channel(8);
    let (own, mut own_notices) = mpsc::channel(8);
    let exchange = async {
        // Until both listen.
        tokio::time::sleep(Duration::from_millis(300)).await;
        b.recall(&scope).await.unwrap();
        let word = tokio::time::timeout(Duration::from_secs(5), notices.recv()).await;
        assert_eq!(word.unwrap(), Some(Notice::Recall(scope.clone())));
    };
    tokio::select! {
        ended = a.listen(sender) => panic!("{ended:?}"),
        ended = b.listen(own) => panic!("{ended:?}"),
        () = exchange => {}
    }
    assert!(own_notices.try_recv().is_err(), "nobody is told of their own recall");

    let asked = Take { recalled_at_us: Some(at_us), ..take(2, CAP) };
    assert!(refused(&b, &asked).await.1, "the other one has not answered");
    a.give(&scope, 1, MicroUsd(first - 300)).await.unwrap();
    let asked = Take { serial: 3, ..asked };
    let (room, others, _) = refused(&b, &asked).await;
    assert_eq!((room, others), (CAP - 300, false), "it has answered: that is all there is");
    assert_eq!(granted(&b, &take(4, CAP - 300)).await, CAP - 300);
}

#[tokio::test]
async fn a_silent_gateway_loses_its_leases() {
    let (a, b, database) = two().await;
    granted(&a, &take(1, CAP)).await;
    let silence = |seconds: i64| {
        format!("UPDATE gateways SET seen_at = now() - interval '{seconds} s' WHERE id = 'a'")
    };
    postgres_server::execute(&database.url, &silence(60)).unwrap();
    assert_eq!(b.beat(120).await.unwrap(), Beat::Alive);
    let (_, others, _) = refused(&b, &take(1, 1)).await;
    assert!(!others, "it is not asked, but its lease is its own");
    // The server of the tests has not run for long: silence counts from its own start.
    postgres_server::execute(&database.url, &silence(7_000_000)).unwrap();
    while b.beat(1).await.is_ok() && matches!(b.take(&take(2, 1)).await, Ok(Taken::Refused { .. }))
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(granted(&b, &take(2, 1)).await, CAP);
    assert_eq!(a.beat(120).await.unwrap(), Beat::Lost);
    assert_eq!(a.beat(120).await.unwrap(), Beat::Alive, "it has joined again");
}

async fn a_period_that_is_over_starts_again_when_a_lease_is_asked_for<S: Store + Shared>(
    a: S,
    b: S,
) {
    granted(&a, &take(1, CAP)).await;
    a.apply(&[paid("r1", CAP)]).await.unwrap();
    let due = Take { now_us: at(100).as_microsecond(), ..take(1, CAP) };
    let window = match b.take(&due).await.unwrap() {
        Taken::Granted { window, .. } => window,
        other => panic!("{other:?}"),
    };
    let in_a_day = at(100 + 86_400).as_microsecond();
    assert_eq!(window.started_us, Some(at(100).as_microsecond()));
    assert_eq!((window.since_us, window.next_reset_us), (window.started_us, Some(in_a_day)));
    let row = a.user_get("u1").await.unwrap().unwrap();
    assert_eq!((row.spend, row.spend_since), (MicroUsd::ZERO, Some(at(100))));
    let logs = a.budget_resets("b1", super::rows::all()).await.unwrap();
    assert_eq!((logs.len(), logs[0].previous_spend), (1, MicroUsd(CAP)));
    // A call of the old period whose record comes late: it used its lease up, and counts into the old period.
    a.apply(&[paid("r2", 5)]).await.unwrap();
    assert_eq!(spend(&a, "u1").await, 0);
    let logs = a.budget_resets("b1", super::rows::all()).await.unwrap();
    assert_eq!(logs[0].previous_spend, MicroUsd(CAP + 5));
}

async fn ceilings_have_leases_of_their_own<S: Store + Shared>(a: S, b: S) {
    a.key_create(&key("k1", Some("u1")), None).await.unwrap();
    a.ceiling_create(&ceiling("c1", "k1", None)).await.unwrap();
    let scope = Scope::Ceiling("c1".into());
    let of = |serial, needed| Take { scope: scope.clone(), ..take(serial, needed) };
    assert_eq!(granted(&a, &of(1, CAP)).await, CAP);
    assert_eq!(refused(&b, &of(1, 1)).await.0, 0);
    assert_eq!(granted(&b, &take(1, CAP)).await, CAP, "the user's own budget is another one");
    a.publish(&[(scope.clone(), MicroUsd(7))]).await.unwrap();
    assert_eq!(b.held_elsewhere(&scope).await.unwrap(), MicroUsd(7));
    assert_eq!(a.held_elsewhere(&scope).await.unwrap(), MicroUsd::ZERO);

    assert_eq!(a.over_cap().await.unwrap(), 0);
    let change = BudgetChange { max_budget: Some(Some(MicroUsd(1))), ..BudgetChange::default() };
    a.budget_update("b1", &change).await.unwrap();
    assert_eq!(a.over_cap().await.unwrap(), 2, "the cap was lowered below what is leased");
    let change = BudgetChange { max_budget: Some(None), ..BudgetChange::default() };
    a.budget_update("b1", &change).await.unwrap();
    assert_eq!(a.take(&of(2, 1)).await.unwrap(), Taken::Uncapped);
    let gone = Take { scope: Scope::User("gone".into()), ..take(9, 1) };
    assert_eq!(a.take(&gone).await.unwrap(), Taken::Uncapped);
}

/// A batch that holds so much of the budget of `u1`, out of a lease.
async fn batch_holding(store: &impl Store, id: &str, micros: i64) -> bool {
    let row = BatchRow { upstream_id: Some(id.into()), ..batch(id) };
    let scope = Scope::User("u1".into());
    let hold = BatchHold { scope, amount: MicroUsd(micros), leased: true };
    store.batch_create(&row, &[], &[hold]).await.unwrap()
}

async fn what_a_batch_holds_is_nobodys_lease_until_it_is_charged<S: Store + Shared>(a: S, b: S) {
    let scope = Scope::User("u1".into());
    granted(&a, &take(1, CAP)).await;
    assert!(batch_holding(&a, "b1", 1_000).await);
    a.give(&scope, 1, MicroUsd(CAP - 3_000)).await.unwrap();
    assert_eq!(refused(&b, &take(1, CAP)).await.0, CAP - 3_000, "2000 are leased, 1000 held");
    for store in [&a, &b] {
        assert_eq!(store.held_elsewhere(&scope).await.unwrap(), MicroUsd(1_000));
        let totals = store.budget_totals(&["b1".into()]).await.unwrap();
        assert_eq!(totals[0].held, MicroUsd(1_000), "everybody's to see");
    }
    assert!(!batch_holding(&b, "b2", 500).await, "it has no lease");
    assert!(b.batch_find("b2", None).await.unwrap().is_empty(), "all or nothing");

    // The gateway that made it is gone, and what it leased with it; what the batch holds is not.
    a.leave().await.unwrap();
    assert_eq!(granted(&b, &take(2, CAP - 1_000)).await, CAP - 1_000);
    assert_eq!((refused(&b, &take(3, 1)).await.0, b.over_cap().await.unwrap()), (0, 0));

    // Its hold goes into the lease that pays for it.
    let usage = UsageRecord { leased: true, ..record("r1", "u1", 700, 7) };
    let accounted = Accounted { prompt_tokens: 1, completion_tokens: 1, cost: MicroUsd(700) };
    let back = b.batch_account("p", "b1", &accounted, &usage).await.unwrap().unwrap();
    assert_eq!((back[0].amount, back[0].leased), (MicroUsd(1_000), true));
    assert_eq!(spend(&b, "u1").await, 700);
    b.give(&scope, 1, MicroUsd(CAP - 700)).await.unwrap();
    assert_eq!(refused(&b, &take(4, CAP)).await.0, CAP - 700, "nothing is leased, nothing held");
    assert_eq!(b.held_elsewhere(&scope).await.unwrap(), MicroUsd::ZERO);
}

async fn what_a_batch_holds_goes_back_to_all_when_no_lease_pays<S: Store + Shared>(a: S, b: S) {
    granted(&a, &take(1, CAP)).await;
    for id in ["b1", "b2"] {
        assert!(batch_holding(&a, id, CAP / 2).await);
    }
    assert_eq!(refused(&b, &take(1, 1)).await.0, 0);
    let accounted = Accounted { prompt_tokens: 1, completion_tokens: 1, cost: MicroUsd(700) };
    let charged = b.batch_account("p", "b1", &accounted, &record("r1", "u1", 700, 7)).await;
    assert!(!charged.unwrap().unwrap()[0].leased);
    assert_eq!(refused(&b, &take(2, CAP)).await.0, CAP / 2 - 700);
    assert_eq!(b.batch_release("p", "b2").await.unwrap().len(), 1);
    assert_eq!(granted(&b, &take(3, CAP - 700)).await, CAP - 700);
    assert_eq!(b.over_cap().await.unwrap(), 0);
}

#[tokio::test]
async fn what_anybody_changes_is_heard_of() {
    let (a, b, database) = two().await;
    assert_eq!(b.changes().await.unwrap().unwrap().len(), 2, "u1 and b1 of this test");
    a.key_create(&key("k1", Some("u2")), Some(&user("u2"))).await.unwrap();
    a.apply(&[paid("r1", 5)]).await.unwrap();
    a.key_touch(&[("k1".into(), at(5))]).await.unwrap();
    let change = |kind, id: &str| Change { kind, id: id.into() };
    let heard = b.changes().await.unwrap().unwrap();
    assert_eq!(heard, [change(Kind::User, "u2"), change(Kind::Key, "k1")], "spend is no change");
    assert_eq!(b.changes().await.unwrap(), Some(Vec::new()));

    postgres_server::execute(&database.url, "UPDATE users SET blocked = true WHERE user_id = 'u1'")
        .unwrap();
    a.budget_create(&budget("b2")).await.unwrap();
    a.user_update("u2", &UserChange { alias: Some(None), ..UserChange::default() }).await.unwrap();
    a.key_delete("k1").await.unwrap();
    let heard = b.changes().await.unwrap().unwrap();
    assert!(heard.contains(&change(Kind::User, "u1")), "also when it is done by hand");
    assert!(heard.contains(&change(Kind::Budget, "b2")));
    assert!(heard.contains(&change(Kind::Key, "k1")), "gone");
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_missed() {
    let (a, b, database) = two().await;
    b.changes().await.unwrap();
    let (mut slow, driver) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    let slow = async move {
        let transaction = slow.transaction().await.unwrap();
        transaction
            .batch_execute("UPDATE users SET blocked = true WHERE user_id = 'u1'")
            .await
            .unwrap();
        a.user_create(&UserRow { budget_id: None, ..user("u2") }).await.unwrap();
        let change = |id: &str| Change { kind: Kind::User, id: id.into() };
        assert_eq!(b.changes().await.unwrap(), Some(vec![change("u2")]));
        transaction.commit().await.unwrap();
        assert_eq!(b.changes().await.unwrap(), Some(vec![change("u1")]), "its number is smaller");
        assert_eq!(b.changes().await.unwrap(), Some(Vec::new()));
    };
    tokio::select! {
        ended = driver => panic!("{ended:?}"),
        () = slow => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_silent_loses_its_leases_and_what_it_left_is_void() {
    let (a, b, folder) = two_processes().await;
    granted(&a, &take(1, CAP)).await;
    let db = rusqlite::Connection::open(folder.path().join("otari.db")).unwrap();
    db.execute_batch("UPDATE gateways SET seen_at_us = seen_at_us - 60000000 WHERE id = 'a'")
        .unwrap();
    assert_eq!(b.beat(120).await.unwrap(), Beat::Alive);
    assert!(!refused(&b, &take(1, 1)).await.1, "it is not asked, but its lease is its own");
    assert_eq!(b.beat(30).await.unwrap(), Beat::Alive);
    assert_eq!(granted(&b, &take(2, CAP)).await, CAP);
    assert_eq!(a.beat(120).await.unwrap(), Beat::Lost);
    assert_eq!(a.beat(120).await.unwrap(), Beat::Alive, "it has joined again");
    // Whoever brings on what `b` left pays out of its lease.
    let heir = a.heir_of("b");
    heir.apply(&[paid("r1", 400)]).await.unwrap();
    assert_eq!(refused(&a, &take(9, 1)).await.0, 0, "spent, and out of the lease");
    heir.shared().unwrap().leave().await.unwrap();
    assert_eq!(granted(&a, &take(10, CAP - 400)).await, CAP - 400);
    a.forget_all().await.unwrap();
    a.join("a").await.unwrap();
    assert_eq!(a.over_cap().await.unwrap(), 0);
    assert_eq!(granted(&a, &take(1, CAP - 400)).await, CAP - 400, "as if nobody had been there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_alone_becomes_leases() {
    let (a, b, _folder) = two_processes().await;
    let held = [(Scope::User("u1".into()), MicroUsd(CAP - 10))];
    a.hold(&held).await.unwrap();
    a.hold(&held).await.unwrap();
    assert_eq!(refused(&b, &take(1, 11)).await.0, 10);
    a.apply(&[paid("r1", 100)]).await.unwrap();
    assert_eq!((refused(&b, &take(1, 11)).await.0, spend(&b, "u1").await), (10, 100));
    a.leave().await.unwrap();
    assert!(a.shared().is_none());
    assert_eq!(granted(&b, &take(1, CAP - 100)).await, CAP - 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_something_was_changed_is_heard_of_on_a_file_too() {
    let (a, b, _folder) = two_processes().await;
    assert_eq!(b.changes().await.unwrap(), Some(Vec::new()));
    a.apply(&[paid("r1", 5)]).await.unwrap();
    assert_eq!(b.changes().await.unwrap(), Some(Vec::new()), "spend is no change");
    let managed = a.by(super::audit::author("r", 5));
    managed.key_create(&key("k1", Some("u1")), None).await.unwrap();
    assert_eq!(b.changes().await.unwrap(), None, "everything is to be read again");
    assert_eq!(b.changes().await.unwrap(), Some(Vec::new()));
}
