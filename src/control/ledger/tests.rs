//! Facts about holds, settlement and periods, as a process that has the database to itself sees them.

use otari_filters::limit::UnderWay;

use super::*;
use crate::clock::timestamp;
use crate::store::{Assignment, BatchHold, CeilingRow};

const DAY_US: i64 = 86_400_000_000;

fn ledger(max: Option<i64>, days: Option<i64>) -> (Ledger, Arc<str>) {
    let ledger = Ledger::new(true, false);
    ledger.put_budget(&BudgetRow {
        budget_id: "b".into(),
        max_budget: max.map(MicroUsd),
        created_at: timestamp(0),
        updated_at: timestamp(0),
        budget_duration_sec: days.map(|d| d * 86_400),
        name: None,
        reset_alignment: None,
    });
    ledger.put_user(&user(days.map(|d| d * DAY_US)));
    (ledger, "u".into())
}

fn user(next_reset_us: Option<i64>) -> UserRow {
    UserRow {
        user_id: "u".into(),
        alias: None,
        spend: MicroUsd::ZERO,
        reserved: MicroUsd::ZERO,
        budget_id: Some("b".into()),
        allowed_models: None,
        blocked: false,
        created_at: timestamp(0),
        updated_at: timestamp(0),
        metadata: serde_json::Map::new(),
        budget_started_at: None,
        next_budget_reset_at: next_reset_us.map(timestamp),
        deleted_at: None,
        spend_since: None,
    }
}

/// What the control plane does for a request of the master key.
fn reserve(
    ledger: &Ledger,
    user: &Arc<str>,
    estimate: i64,
    free: bool,
    now_us: i64,
) -> (Result<Reservation, Code>, Option<BudgetReset>) {
    reserve_for(ledger, &Caller::Master, user, estimate, free, now_us)
}

fn reserve_for(
    ledger: &Ledger,
    caller: &Caller,
    user: &Arc<str>,
    estimate: i64,
    free: bool,
    now_us: i64,
) -> (Result<Reservation, Code>, Option<BudgetReset>) {
    if let Err(refused) = ledger.admit(user) {
        return (Err(refused.code), None);
    }
    let held = MicroUsd(estimate);
    let mut reservation = Reservation {
        user_id: user.clone(),
        held,
        holds: Vec::new(),
        later: Vec::new(),
        counts: true,
    };
    let mut ended = None;
    for hold in ledger.scopes(caller, user, &[]) {
        let (decision, reset) = ledger.hold(&hold.scope, held, free, Rule::Alone, now_us);
        ended = reset.or(ended);
        match decision {
            Decision::Held { .. } => reservation.holds.push(hold),
            Decision::Open => {}
            Decision::Refused(refused) => {
                ledger.release(&reservation);
                return (Err(refused.code), ended);
            }
            Decision::Ask(_) => panic!("nobody shares this ledger"),
        }
    }
    if reservation.holds.is_empty() {
        reservation.held = MicroUsd::ZERO;
    }
    (Ok(reservation), ended)
}

fn hold(ledger: &Ledger, user: &Arc<str>, estimate: i64) -> Result<Reservation, Code> {
    reserve(ledger, user, estimate, false, 0).0
}

fn top_up(ledger: &Ledger, reservation: &mut Reservation, more: i64) -> Result<(), Code> {
    match ledger.top_up(&reservation.holds[0], MicroUsd(more)) {
        Decision::Refused(refused) => Err(refused.code),
        _ => {
            reservation.held += MicroUsd(more);
            Ok(())
        }
    }
}

fn settle(ledger: &Ledger, cost: i64, reservation: Option<Reservation>) {
    let mut record = record(cost);
    if let Some(reservation) = &reservation {
        ledger.charge(&mut record, reservation);
    }
    ledger.settle(&record, reservation.as_ref());
}

fn record(cost: i64) -> UsageRecord {
    let record = serde_json::json!({
        "id": "r", "request_group_id": "r", "user_id": "u", "timestamp_us": 0, "model": "m", "provider": "p",
        "endpoint": "e", "cost": cost, "status": "success", "latency_ms": 0, "attempt_position": 1,
        "attempt_count": 1, "counts_toward_budget": true,
    });
    serde_json::from_value(record).unwrap()
}

#[test]
fn concurrent_holds_never_pass_the_limit() {
    let (ledger, user) = ledger(Some(100), None);
    let granted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| hold(&ledger, &user, 40).is_ok())).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).map(usize::from).sum()
    });
    assert_eq!(granted, 2, "two holds of 40 fit in 100; the third must be refused");
}

#[test]
fn a_settled_hold_becomes_spend() {
    let (ledger, user) = ledger(Some(100), None);
    let held = hold(&ledger, &user, 60).unwrap();
    settle(&ledger, 25, Some(held));
    let now = ledger.counters("u").unwrap();
    assert_eq!((now.spend, now.held), (MicroUsd(25), MicroUsd::ZERO));
}

#[test]
fn a_user_at_the_cap_is_refused_even_a_free_estimate() {
    let (ledger, user) = ledger(Some(10), None);
    settle(&ledger, 10, None);
    assert_eq!(hold(&ledger, &user, 0).unwrap_err(), Code::BudgetExceeded);
    assert!(reserve(&ledger, &user, 5, true, 0).0.is_ok(), "free models stay open");
}

#[test]
fn a_budget_without_a_cap_holds_without_end() {
    let (ledger, user) = ledger(None, None);
    assert_eq!(hold(&ledger, &user, i64::MAX / 2).unwrap().held, MicroUsd(i64::MAX / 2));
}

#[test]
fn a_refused_top_up_leaves_the_hold() {
    let (ledger, user) = ledger(Some(100), None);
    let mut held = hold(&ledger, &user, 60).unwrap();
    assert!(top_up(&ledger, &mut held, 30).is_ok());
    assert!(top_up(&ledger, &mut held, 30).is_err());
    assert_eq!(held.held, MicroUsd(90));
    assert_eq!(ledger.total_held(), MicroUsd(90));
}

#[test]
fn a_period_that_is_over_starts_again_once() {
    let (ledger, user) = ledger(Some(100), Some(1));
    settle(&ledger, 100, None);
    assert_eq!(hold(&ledger, &user, 1).unwrap_err(), Code::BudgetExceeded);
    let (_, reset) = reserve(&ledger, &user, 1_000, false, DAY_US + 7);
    let reset = reset.expect("the period ended, although the hold was refused");
    assert_eq!(reset.reset_at_us, DAY_US + 7);
    assert_eq!(reset.next_reset_at_us, Some(2 * DAY_US + 7), "the window starts now");
    assert!(reserve(&ledger, &user, 1, false, DAY_US + 8).1.is_none());
}

#[test]
fn a_change_leaves_spend_and_holds_alone() {
    let (ledger, user_id) = ledger(Some(100), Some(1));
    settle(&ledger, 40, None);
    let held = hold(&ledger, &user_id, 30).unwrap();
    let stale = UserRow { spend: MicroUsd(1), ..user(Some(DAY_US)) };
    ledger.change_user(&stale, &UserChange { blocked: Some(true), ..UserChange::default() });
    assert_eq!(hold(&ledger, &user_id, 1).unwrap_err(), Code::UserBlocked);
    let restart = Assignment {
        budget_id: "b".into(),
        started_at: timestamp(5),
        ends_at: Some(timestamp(2 * DAY_US)),
    };
    let change =
        UserChange { blocked: Some(false), budget: Some(Some(restart)), ..UserChange::default() };
    ledger.change_user(&stale, &change);
    let expected = Counters {
        spend: MicroUsd(40),
        held: MicroUsd(30),
        started_us: Some(5),
        next_reset_us: Some(2 * DAY_US),
    };
    assert_eq!(ledger.counters("u"), Some(expected));
    assert_eq!(hold(&ledger, &user_id, 31).unwrap_err(), Code::BudgetExceeded);

    ledger.change_user(&stale, &UserChange { budget: Some(None), ..UserChange::default() });
    let detached = Counters { started_us: None, next_reset_us: None, ..expected };
    assert_eq!(ledger.counters("u"), Some(detached), "both dates go with the budget");
    assert_eq!(hold(&ledger, &user_id, 1_000).unwrap().held, MicroUsd::ZERO, "no cap, no hold");
    settle(&ledger, 25, Some(held));
    assert_eq!(ledger.total_held(), MicroUsd::ZERO);
}

#[test]
fn a_changed_cap_counts_at_once_also_for_what_is_held() {
    let (ledger, user_id) = ledger(Some(100), None);
    let mut held = hold(&ledger, &user_id, 60).unwrap();
    ledger.put_budget(&budget_row(70));
    assert!(top_up(&ledger, &mut held, 20).is_err(), "60 + 20 is over the new cap");
    assert_eq!(hold(&ledger, &user_id, 11).unwrap_err(), Code::BudgetExceeded);
    ledger.put_budget(&budget_row(200));
    assert!(top_up(&ledger, &mut held, 20).is_ok());
    ledger.remove_budget("b");
    assert!(top_up(&ledger, &mut held, 1_000_000).is_ok(), "no budget, no cap");
    settle(&ledger, 7, Some(held));
    let now = ledger.counters("u").unwrap();
    assert_eq!((now.spend, now.held), (MicroUsd(7), MicroUsd::ZERO));
}

#[test]
fn a_deleted_user_is_refused_until_revived_with_nothing_spent() {
    let (ledger, user_id) = ledger(Some(100), None);
    settle(&ledger, 40, None);
    let held = hold(&ledger, &user_id, 30).unwrap();
    ledger.delete_user("u");
    assert_eq!(hold(&ledger, &user_id, 1).unwrap_err(), Code::UserNotFound);
    assert!(!ledger.knows("u"));
    ledger.put_user(&user(None));
    let now = ledger.counters("u").unwrap();
    assert_eq!((now.spend, now.held), (MicroUsd::ZERO, MicroUsd(30)), "still in flight");
    settle(&ledger, 5, Some(held));
    let now = ledger.counters("u").unwrap();
    assert_eq!((now.spend, now.held), (MicroUsd(5), MicroUsd::ZERO));
}

#[test]
fn strangers_and_blocked_users_are_refused() {
    let (ledger, user_id) = ledger(None, None);
    assert_eq!(hold(&ledger, &"nobody".into(), 0).unwrap_err(), Code::UserNotFound);
    ledger.put_user(&UserRow { blocked: true, ..user(None) });
    assert_eq!(hold(&ledger, &user_id, 0).unwrap_err(), Code::UserBlocked);
}

fn ceiling(id: &str, provider: Option<&str>, budget_id: &str) -> CeilingRow {
    CeilingRow {
        id: id.into(),
        scope_type: "api_token".into(),
        scope_id: "k".into(),
        provider: provider.map(Into::into),
        budget_id: budget_id.into(),
        name: None,
        current_spend: MicroUsd::ZERO,
        period_start: None,
        period_end: None,
        created_at: timestamp(0),
        updated_at: timestamp(0),
        spend_since: None,
    }
}

#[test]
fn every_budget_a_key_falls_under_must_admit_the_estimate() {
    let (ledger, user) = ledger(Some(100), None);
    let small = BudgetRow { budget_id: "small".into(), ..budget_row(50) };
    ledger.put_budget(&small);
    ledger.put_ceilings(&[ceiling("c", None, "small"), ceiling("other", Some("q"), "small")]);
    let key = Caller::Key {
        id: "k".into(),
        user_id: Some(user.clone()),
        excluded: false,
        rejects_mismatch: None,
        allowed: None,
        calls: UnderWay::default(),
        user_calls: None,
    };
    let reserve = |estimate| reserve_for(&ledger, &key, &user, estimate, false, 0).0;

    let held = reserve(40).unwrap();
    assert_eq!(
        held.holds.len(),
        2,
        "the ceiling and the user; the other provider's does not apply"
    );
    assert_eq!(reserve(11).unwrap_err(), Code::BudgetExceeded, "40 + 11 is over the ceiling");
    assert_eq!(ledger.total_held(), MicroUsd(80), "nothing is left of what was refused");
    settle(&ledger, 20, Some(held));
    assert_eq!(ledger.ceiling("c").unwrap().spend, MicroUsd(20));
    assert_eq!(ledger.counters("u").unwrap().spend, MicroUsd(20));
    assert_eq!(ledger.ceiling("other").unwrap().spend, MicroUsd::ZERO);

    ledger.remove_ceilings_of("k");
    assert_eq!(reserve(80).unwrap().holds.len(), 1, "only the user's own is left");
    assert_eq!(reserve(1).unwrap_err(), Code::BudgetExceeded);
}

#[test]
fn a_ceiling_for_one_provider_counts_its_calls_only() {
    let (ledger, user) = ledger(None, None);
    ledger.put_ceilings(&[ceiling("c", Some("q"), "b")]);
    let scope = Scope::Ceiling("c".into());
    let hold = Hold { scope: scope.clone(), provider: Some("q".into()), leased: false };
    let held = MicroUsd(7);
    ledger.hold(&scope, held, false, Rule::Alone, 0);
    let reservation =
        Reservation { user_id: user, held, holds: vec![hold], later: Vec::new(), counts: true };
    let mut elsewhere = record(5);
    ledger.charge(&mut elsewhere, &reservation);
    assert_eq!(elsewhere.ceilings, [], "another provider answered");
    ledger.settle(&elsewhere, Some(&reservation));
    let now = ledger.ceiling("c").unwrap();
    assert_eq!((now.spend, now.held), (MicroUsd::ZERO, MicroUsd::ZERO));
}

#[test]
fn what_is_over_its_cap_is_counted() {
    let (ledger, user) = ledger(Some(100), None);
    let held = hold(&ledger, &user, 100).unwrap();
    assert_eq!(ledger.over_cap(), 0, "exactly at the cap");
    ledger.put_budget(&budget_row(99));
    assert_eq!(ledger.over_cap(), 1, "the cap was lowered");
    settle(&ledger, 99, Some(held));
    assert_eq!(ledger.over_cap(), 0);
}

fn budget_row(max: i64) -> BudgetRow {
    BudgetRow {
        budget_id: "b".into(),
        max_budget: Some(MicroUsd(max)),
        created_at: timestamp(0),
        updated_at: timestamp(0),
        budget_duration_sec: None,
        name: None,
        reset_alignment: None,
    }
}

#[test]
fn what_is_held_alone_is_paid_out_of_a_lease_once_another_process_comes() {
    let (ledger, user) = ledger(Some(100), None);
    let (first, second) = (hold(&ledger, &user, 30).unwrap(), hold(&ledger, &user, 20).unwrap());
    let scope = Scope::User(user.clone());
    // Ten of it are a batch's, which the database counts.
    let kept = BatchHold { scope: scope.clone(), amount: MicroUsd(10), leased: false };
    assert_eq!(ledger.share(std::slice::from_ref(&kept)), [(scope.clone(), MicroUsd(40))]);
    let (late, _) = ledger.hold(&scope, MicroUsd(1), false, Rule::Alone, 0);
    assert!(matches!(late, Decision::Ask(_)), "nobody is alone any more: {late:?}");
    assert!(matches!(ledger.top_up(&first.holds[0], MicroUsd(1)), Decision::Ask(MicroUsd(1))));

    let mut paid = record(25);
    ledger.charge(&mut paid, &first);
    assert!(paid.leased, "the database takes it off the lease");
    ledger.settle(&paid, Some(&first));
    let room = |estimate| ledger.hold(&scope, MicroUsd(estimate), false, Rule::Leased, 0).0;
    assert!(matches!(room(6), Decision::Ask(MicroUsd(1))), "40 less 25 spent less 10 held");
    ledger.release(&second);
    assert_eq!(ledger.take_room(&scope), MicroUsd(15), "all that is left goes back");
    assert_eq!(ledger.counters("u").unwrap().spend, MicroUsd(25));
}

#[test]
fn sharing_that_fails_leaves_all_as_it_was() {
    let (ledger, user) = ledger(Some(100), None);
    let first = hold(&ledger, &user, 60).unwrap();
    let kept =
        [BatchHold { scope: Scope::User(user.clone()), amount: MicroUsd(10), leased: false }];
    ledger.share(&kept);
    ledger.unshare(&kept);
    assert!(!ledger.is_shared());
    assert_eq!(hold(&ledger, &user, 41).unwrap_err(), Code::BudgetExceeded);
    settle(&ledger, 5, Some(first));
    assert!(hold(&ledger, &user, 95).is_ok(), "five are spent, nothing is held");
}
