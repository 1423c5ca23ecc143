//! Facts about ceilings over keys, and about what is spent under a budget.

use otari_filters::money::MicroUsd;

use super::rows::{all, at, budget, ceiling, key, page, usage, user, with_budget, with_period};
use crate::store::{
    Assignment, BudgetTotals, CeilingChange, CeilingFilter, CeilingRow, Store, StoreError, UserRow,
};

async fn with_keys(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    for id in ["k1", "k2"] {
        store.key_create(&key(id, Some("u1")), None).await.unwrap();
    }
}

pub(super) async fn a_ceiling_comes_back_as_it_was_written_and_changed(store: &dyn Store) {
    with_keys(store).await;
    let first = CeilingRow { name: Some("n".into()), ..ceiling("c1", "k1", Some("openai")) };
    let second = CeilingRow { created_at: at(1), ..ceiling("c2", "k2", None) };
    store.ceiling_create(&first).await.unwrap();
    store.ceiling_create(&second).await.unwrap();
    assert_eq!(store.ceiling_get("c1").await.unwrap().as_ref(), Some(&first));
    assert_eq!(store.ceiling_get("nothing").await.unwrap(), None);
    let list = async |filter: CeilingFilter, skip, limit| {
        store.ceiling_list(&filter, page(skip, limit)).await.unwrap()
    };
    let both = [first.clone(), second.clone()];
    assert_eq!(list(CeilingFilter::default(), 0, 10).await, both);
    assert_eq!(list(CeilingFilter::default(), 1, 1).await, std::slice::from_ref(&second));
    let of_k2 = CeilingFilter { scope_id: Some("k2".into()), ..CeilingFilter::default() };
    assert_eq!(list(of_k2, 0, 10).await, std::slice::from_ref(&second));
    let others = CeilingFilter { scope_type: Some("workspace".into()), scope_id: None };
    assert_eq!(list(others, 0, 10).await, []);
    let mut everything = store.everything().await.unwrap().ceilings;
    everything.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(everything, both);

    store.budget_create(&budget("b2")).await.unwrap();
    let moved = Assignment { budget_id: "b2".into(), started_at: at(5), ends_at: None };
    let change = CeilingChange { budget: Some(moved), name: Some(None), updated_at: Some(at(5)) };
    let expected = CeilingRow {
        budget_id: "b2".into(),
        name: None,
        period_start: Some(at(5)),
        period_end: None,
        updated_at: at(5),
        ..first
    };
    assert_eq!(store.ceiling_update("c1", &change).await.unwrap().as_ref(), Some(&expected));
    let nothing = CeilingChange::default();
    assert_eq!(store.ceiling_update("c1", &nothing).await.unwrap(), Some(expected));
    assert_eq!(store.ceiling_update("nothing", &nothing).await.unwrap(), None);
    assert!(store.ceiling_delete("c1").await.unwrap());
    assert!(!store.ceiling_delete("c1").await.unwrap());
}

pub(super) async fn a_scope_and_provider_has_one_ceiling(store: &dyn Store) {
    with_keys(store).await;
    for (id, key, provider) in
        [("c1", "k1", None), ("c2", "k1", Some("openai")), ("c3", "k2", None)]
    {
        store.ceiling_create(&ceiling(id, key, provider)).await.unwrap();
    }
    for provider in [None, Some("openai")] {
        let taken = store.ceiling_create(&ceiling("c4", "k1", provider)).await;
        assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    }
}

pub(super) async fn a_ceiling_goes_with_its_key_and_keeps_its_budget(store: &dyn Store) {
    with_keys(store).await;
    store.ceiling_create(&ceiling("c1", "k1", None)).await.unwrap();
    store.ceiling_create(&ceiling("c2", "k2", None)).await.unwrap();
    let used = store.budget_delete("b1", at(1)).await;
    assert!(matches!(used, Err(StoreError::Conflict(_))), "{used:?}");
    assert!(store.user_get("u1").await.unwrap().unwrap().budget_id.is_some(), "nothing was done");
    assert!(store.key_delete("k1").await.unwrap());
    assert_eq!(store.ceiling_get("c1").await.unwrap(), None);
    assert!(store.ceiling_get("c2").await.unwrap().is_some());
    assert!(store.ceiling_delete("c2").await.unwrap());
    assert!(store.budget_delete("b1", at(1)).await.unwrap());
}

pub(super) async fn the_users_of_a_budget_are_counted(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    with_budget(store, "u2", 100).await;
    with_budget(store, "u3", 100).await;
    store.user_create(&UserRow { budget_id: None, ..user("u4") }).await.unwrap();
    store.budget_create(&budget("b2")).await.unwrap();
    let costs = [usage("r1", "u1", 5, 0), usage("r2", "u2", 7, 0), usage("r3", "u3", 9, 0)];
    store.apply(&costs).await.unwrap();
    store.user_delete("u3", at(1)).await.unwrap();
    let ids = ["b2", "nothing", "b1"].map(String::from);
    let totals = store.budget_totals(&ids).await.unwrap();
    let two = BudgetTotals { users: 2, spend: MicroUsd(12), held: MicroUsd::ZERO };
    assert_eq!(totals, [BudgetTotals::default(), BudgetTotals::default(), two]);
    assert_eq!(store.budget_resets("b1", all()).await.unwrap(), []);
    assert_eq!(store.budget_totals(&[]).await.unwrap(), []);
}
