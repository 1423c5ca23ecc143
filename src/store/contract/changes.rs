//! Facts about what changes and goes: keys rotated, users changed, deleted and revived, budgets, prices.

use otari_filters::money::{MicroUsd, Rate};
use otari_filters::prices::Prices;

use super::rows::{all, at, budget, key, page, price, reset, spend, usage, user, with_period};
use crate::store::{
    Assignment, BudgetChange, BudgetRow, KeyRow, PriceRow, Store, StoreError, UserChange, UserRow,
};

pub(super) async fn a_rotated_key_has_a_new_secret_that_was_never_used(store: &dyn Store) {
    let old = KeyRow { last_used_at: Some(at(1)), is_active: false, ..key("k1", None) };
    store.key_create(&old, None).await.unwrap();
    store.key_create(&key("k2", None), None).await.unwrap();
    let rotated = store.key_rotate("k1", "new hash", "gw-1234567").await.unwrap();
    let new = KeyRow {
        key_hash: "new hash".into(),
        key_prefix: Some("gw-1234567".into()),
        last_used_at: None,
        ..old
    };
    assert_eq!(rotated, Some(new.clone()), "and nothing else changes");
    let taken = store.key_rotate("k1", "hash of k2", "gw-1234567").await;
    assert!(matches!(taken, Err(StoreError::Conflict(id)) if id == "k1"));
    assert_eq!(store.key_get("k1").await.unwrap(), Some(new));
    assert_eq!(store.key_rotate("nobody", "x", "y").await.unwrap(), None);
}

pub(super) async fn a_user_change_touches_only_what_it_names(store: &dyn Store) {
    store.budget_create(&budget("b1")).await.unwrap();
    let mut row = UserRow { spend: MicroUsd(7), reserved: MicroUsd(3), ..user("u1") };
    store.user_create(&row).await.unwrap();
    let mut expect = async |change: UserChange, edit: fn(&mut UserRow)| {
        edit(&mut row);
        let changed = store.user_update("u1", &change).await.unwrap();
        assert_eq!(changed, Some(row.clone()), "{change:?}");
        assert_eq!(store.user_get("u1").await.unwrap(), Some(row.clone()));
    };
    expect(UserChange::default(), |_| {}).await;
    let at_9 = UserChange { updated_at: Some(at(9)), ..UserChange::default() };
    let change = UserChange { alias: Some(None), ..at_9.clone() };
    expect(change, |row| (row.alias, row.updated_at) = (None, at(9))).await;
    let change = UserChange { alias: Some(Some("new".into())), ..at_9.clone() };
    expect(change, |row| row.alias = Some("new".into())).await;
    let change = UserChange { blocked: Some(true), updated_at: Some(at(8)), ..at_9.clone() };
    expect(change, |row| row.blocked = true).await;
    let change = UserChange { metadata: Some(serde_json::Map::new()), ..at_9.clone() };
    expect(change, |row| row.metadata.clear()).await;
    let given = Assignment { budget_id: "b1".into(), started_at: at(9), ends_at: Some(at(99)) };
    let change = UserChange { budget: Some(Some(given.clone())), ..at_9.clone() };
    expect(change, |row| {
        row.budget_id = Some("b1".into());
        (row.budget_started_at, row.next_budget_reset_at) = (Some(at(9)), Some(at(99)));
    })
    .await;
    let endless = Assignment { ends_at: None, ..given.clone() };
    let change = UserChange { budget: Some(Some(endless)), ..at_9.clone() };
    expect(change, |row| row.next_budget_reset_at = None).await;
    let change = UserChange { budget: Some(None), ..at_9.clone() };
    expect(change, |row| (row.budget_id, row.budget_started_at) = (None, None)).await;

    assert_eq!(store.user_update("nobody", &at_9).await.unwrap(), None);
    let unknown = Assignment { budget_id: "nothing".into(), ..given };
    let change = UserChange { budget: Some(Some(unknown)), ..at_9 };
    let refused = store.user_update("u1", &change).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
}

pub(super) async fn a_deleted_user_is_hidden_unbilled_and_revivable(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    store.apply(&[usage("r1", "u1", 5, 0)]).await.unwrap();
    assert!(store.user_delete("u1", at(50)).await.unwrap());
    assert!(!store.user_delete("u1", at(51)).await.unwrap(), "only once");
    assert_eq!(store.user_get("u1").await.unwrap(), None);
    assert_eq!(store.user_update("u1", &UserChange::default()).await.unwrap(), None);
    assert!(store.user_list(page(0, 10)).await.unwrap().is_empty());
    let row = store.everything().await.unwrap().users.remove(0);
    assert_eq!((row.deleted_at, row.updated_at), (Some(at(50)), at(50)), "deleted ones included");
    let owned = store.key_create(&key("k1", Some("u1")), Some(&user("u1"))).await;
    assert!(matches!(owned, Err(StoreError::Conflict(id)) if id == "u1"));

    let late = [usage("r2", "u1", 7, 1), reset("u1", 100, None)];
    assert_eq!(store.apply(&late).await.unwrap().fresh, 1, "the row is kept, the reset is void");
    let row = store.everything().await.unwrap().users.remove(0);
    assert_eq!((row.spend, row.next_budget_reset_at), (MicroUsd(5), Some(at(100))));

    let request = UserRow {
        alias: None,
        blocked: true,
        reserved: MicroUsd(99),
        created_at: at(500),
        updated_at: at(500),
        ..user("u1")
    };
    let revived = store.user_create(&request).await.unwrap();
    let kept =
        UserRow { reserved: MicroUsd(0), created_at: at(0), spend_since: Some(at(500)), ..request };
    assert_eq!(revived, kept, "created_at and reserved are those of the old row");
    assert_eq!(spend(store, "u1").await, 0);
}

pub(super) async fn the_keys_of_a_deleted_user_are_off_and_stay_off(store: &dyn Store) {
    store.key_create(&key("k1", Some("u1")), Some(&user("u1"))).await.unwrap();
    store.key_create(&key("k2", Some("u1")), None).await.unwrap();
    store.key_create(&key("k3", Some("u2")), Some(&user("u2"))).await.unwrap();
    store.key_create(&key("k4", None), None).await.unwrap();
    let active = async || {
        let keys = store.key_list(all()).await.unwrap();
        keys.iter().map(|row| row.is_active).collect::<Vec<_>>()
    };
    assert!(!store.user_delete("nobody", at(1)).await.unwrap());
    assert_eq!(active().await, [true; 4]);
    assert!(store.user_delete("u1", at(1)).await.unwrap());
    assert_eq!(active().await, [false, false, true, true]);
    store.user_create(&user("u1")).await.unwrap();
    assert_eq!(active().await, [false, false, true, true], "a revived user needs new keys");
}

pub(super) async fn a_budget_change_touches_only_what_it_names(store: &dyn Store) {
    let mut row = budget("b1");
    store.budget_create(&row).await.unwrap();
    let mut expect = async |change: BudgetChange, edit: fn(&mut BudgetRow)| {
        edit(&mut row);
        let changed = store.budget_update("b1", &change).await.unwrap();
        assert_eq!(changed, Some(row.clone()), "{change:?}");
        assert_eq!(store.budget_get("b1").await.unwrap(), Some(row.clone()));
    };
    expect(BudgetChange::default(), |_| {}).await;
    let at_9 = || BudgetChange { updated_at: Some(at(9)), ..BudgetChange::default() };
    let change = BudgetChange { max_budget: Some(None), ..at_9() };
    expect(change, |row| (row.max_budget, row.updated_at) = (None, at(9))).await;
    let most = MicroUsd(999_999_999_999_999_999);
    let change = BudgetChange { max_budget: Some(Some(most)), ..at_9() };
    expect(change, |row| row.max_budget = Some(MicroUsd(999_999_999_999_999_999))).await;
    let change = BudgetChange { budget_duration_sec: Some(None), ..at_9() };
    expect(change, |row| row.budget_duration_sec = None).await;
    let change = BudgetChange { budget_duration_sec: Some(Some(60)), ..at_9() };
    expect(change, |row| row.budget_duration_sec = Some(60)).await;
    let change = BudgetChange { name: Some(None), ..at_9() };
    expect(change, |row| row.name = None).await;
    let change = BudgetChange { reset_alignment: Some(Some("calendar_day".into())), ..at_9() };
    expect(change, |row| row.reset_alignment = Some("calendar_day".into())).await;
    assert_eq!(store.budget_update("nothing", &at_9()).await.unwrap(), None);
}

pub(super) async fn a_deleted_budget_leaves_its_users_their_dates(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    let other = UserRow { budget_id: Some("b1".into()), ..user("u2") };
    store.user_create(&other).await.unwrap();
    store.user_delete("u2", at(1)).await.unwrap();
    let entries = [usage("r1", "u1", 5, 0), reset("u1", 100, Some(200))];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 2, "a log names the budget");

    assert!(store.budget_delete("b1", at(150)).await.unwrap());
    assert!(!store.budget_delete("b1", at(151)).await.unwrap());
    assert_eq!(store.budget_get("b1").await.unwrap(), None);
    let row = store.user_get("u1").await.unwrap().unwrap();
    assert_eq!((row.budget_id, row.updated_at), (None, at(150)));
    assert_eq!(row.budget_started_at, Some(at(101)));
    assert_eq!(row.next_budget_reset_at, Some(at(200)));
    let users = store.everything().await.unwrap().users;
    assert!(users.iter().all(|user| user.budget_id.is_none()), "also of deleted users");
}

pub(super) async fn a_budget_can_go_while_its_users_spend(store: &dyn Store) {
    with_period(store, "u0", 100).await;
    for number in 1..20 {
        let row = UserRow { budget_id: Some("b1".into()), ..user(&format!("u{number}")) };
        store.user_create(&row).await.unwrap();
    }
    let entries: Vec<_> =
        (0..200).map(|n| usage(&format!("r{n}"), &format!("u{}", 19 - n % 20), 1, n)).collect();
    let (applied, deleted) = tokio::join!(store.apply(&entries), store.budget_delete("b1", at(1)));
    assert_eq!(applied.unwrap().fresh, 200);
    assert!(deleted.unwrap());
}

pub(super) async fn the_price_of_an_instant_is_the_newest_before_it(store: &dyn Store) {
    for (model, seconds) in [("a:b", 10), ("a:b", 20), ("a:b", 30), ("a:bc", 0)] {
        store.price_put(&price(model, seconds)).await.unwrap();
    }
    let effective = async |model: &str, seconds| {
        let row = store.price_get(model, at(seconds)).await.unwrap();
        row.map(|row| row.effective_at)
    };
    assert_eq!(effective("a:b", 9).await, None);
    assert_eq!(effective("a:b", 10).await, Some(at(10)), "from that instant on");
    assert_eq!(effective("a:b", 29).await, Some(at(20)));
    assert_eq!(effective("a:b", 1_000).await, Some(at(30)));
    assert_eq!(effective("a", 1_000).await, None);
    let row = store.price_get("a:b", at(30)).await.unwrap();
    assert_eq!(row, Some(price("a:b", 30)));

    let history = store.price_history("a:b").await.unwrap();
    assert_eq!(history, [price("a:b", 30), price("a:b", 20), price("a:b", 10)]);
    assert!(store.price_history("a").await.unwrap().is_empty());
}

pub(super) async fn prices_are_deleted_one_or_all(store: &dyn Store) {
    for (model, seconds) in [("a:b", 10), ("a:b", 20), ("a:b", 30), ("a:bc", 10)] {
        let row = PriceRow { prices: Prices::new(Rate(seconds), Rate(1)), ..price(model, seconds) };
        store.price_put(&row).await.unwrap();
    }
    assert!(!store.price_delete("a:b", Some(at(11))).await.unwrap());
    assert!(store.price_delete("a:b", Some(at(20))).await.unwrap());
    assert!(!store.price_delete("a:b", Some(at(20))).await.unwrap());
    let left = store.price_history("a:b").await.unwrap();
    assert_eq!(left.iter().map(|row| row.prices.input.0).collect::<Vec<_>>(), [30, 10]);
    assert!(store.price_delete("a:b", None).await.unwrap());
    assert!(!store.price_delete("a:b", None).await.unwrap());
    assert_eq!(store.price_list(all()).await.unwrap().len(), 1, "others stay");
}
