//! Facts about keys, users, budgets and prices.

use jiff::Timestamp;
use otari_filters::money::{MicroUsd, Rate};
use otari_filters::prices::{Prices, Tier};
use otari_filters::settle::{Entry, UsageRecord};

use super::rows::{START, all, at, budget, key, metadata, page, price, record, user};
use crate::store::{
    BudgetRow, KeyChange, KeyRow, PriceRow, Store, StoreError, UsageFilter, UserRow,
};

pub(super) async fn migrating_again_does_nothing(store: &dyn Store) {
    store.ping().await.unwrap();
    store.schema_check().await.unwrap();
    assert_eq!(store.migrate().await.unwrap(), 0);
    store.schema_check().await.unwrap();
}

pub(super) async fn an_empty_store_has_nothing(store: &dyn Store) {
    let everything = store.everything().await.unwrap();
    assert!(everything.keys.is_empty() && everything.users.is_empty());
    assert!(everything.budgets.is_empty() && everything.prices.is_empty());
    assert!(everything.aliases.is_empty() && everything.settings.is_empty());
    assert_eq!(store.key_get("k").await.unwrap(), None);
    assert_eq!(store.user_get("u").await.unwrap(), None);
    assert_eq!(store.budget_get("b").await.unwrap(), None);
    assert_eq!(store.key_update("k", &KeyChange::default()).await.unwrap(), None);
    assert!(!store.key_delete("k").await.unwrap());
    assert!(store.usage_list(&UsageFilter::default(), all()).await.unwrap().is_empty());
    assert_eq!(store.apply(&[]).await.unwrap().fresh, 0);
    store.key_touch(&[]).await.unwrap();
}

pub(super) async fn a_key_comes_back_as_it_was_written(store: &dyn Store) {
    let full = KeyRow { last_used_at: Some(at(1)), is_active: false, ..key("k1", None) };
    let bare = KeyRow {
        key_name: None,
        key_prefix: None,
        expires_at: None,
        allowed_models: None,
        exclude_from_budget: false,
        reject_user_mismatch: None,
        metadata: serde_json::Map::new(),
        ..key("k2", None)
    };
    for row in [full, bare] {
        store.key_create(&row, None).await.unwrap();
        assert_eq!(store.key_get(&row.id).await.unwrap(), Some(row));
    }
}

pub(super) async fn a_key_and_its_owner_are_created_together_or_not_at_all(store: &dyn Store) {
    store.key_create(&key("k1", Some("u1")), Some(&user("u1"))).await.unwrap();
    assert_eq!(store.user_get("u1").await.unwrap(), Some(user("u1")));

    let taken = store.key_create(&key("k1", Some("u2")), Some(&user("u2"))).await;
    assert!(matches!(taken, Err(StoreError::Conflict(id)) if id == "k1"));
    assert_eq!(store.user_get("u2").await.unwrap(), None, "the owner went with the key");

    let owned = store.key_create(&key("k2", Some("u1")), Some(&user("u1"))).await;
    assert!(matches!(owned, Err(StoreError::Conflict(id)) if id == "u1"));
    assert_eq!(store.key_get("k2").await.unwrap(), None, "the key went with the owner");
}

pub(super) async fn a_key_of_an_unknown_user_is_refused(store: &dyn Store) {
    let refused = store.key_create(&key("k1", Some("nobody")), None).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
}

pub(super) async fn a_taken_key_id_or_hash_is_a_conflict(store: &dyn Store) {
    store.key_create(&key("k1", None), None).await.unwrap();
    let same_id = KeyRow { key_hash: "other".into(), ..key("k1", None) };
    let same_hash = KeyRow { id: "k2".into(), ..key("k1", None) };
    for row in [same_id, same_hash] {
        let taken = store.key_create(&row, None).await;
        assert!(matches!(taken, Err(StoreError::Conflict(id)) if id == row.id));
    }
}

pub(super) async fn a_change_touches_only_what_it_names(store: &dyn Store) {
    let mut row = key("k1", None);
    store.key_create(&row, None).await.unwrap();
    let mut expect = async |change: KeyChange, edit: fn(&mut KeyRow)| {
        edit(&mut row);
        assert_eq!(store.key_update("k1", &change).await.unwrap(), Some(row.clone()), "{change:?}");
        assert_eq!(store.key_get("k1").await.unwrap(), Some(row.clone()));
    };
    expect(KeyChange::default(), |_| {}).await;
    let change = KeyChange { is_active: Some(false), ..KeyChange::default() };
    expect(change, |row| row.is_active = false).await;
    let change = KeyChange { key_name: Some(None), ..KeyChange::default() };
    expect(change, |row| row.key_name = None).await;
    let change = KeyChange { key_name: Some(Some("new".into())), ..KeyChange::default() };
    expect(change, |row| row.key_name = Some("new".into())).await;
    let change = KeyChange { expires_at: Some(None), ..KeyChange::default() };
    expect(change, |row| row.expires_at = None).await;
    let change = KeyChange { expires_at: Some(Some(at(7))), ..KeyChange::default() };
    expect(change, |row| row.expires_at = Some(at(7))).await;
    let change = KeyChange { metadata: Some(serde_json::Map::new()), ..KeyChange::default() };
    expect(change, |row| row.metadata.clear()).await;
}

pub(super) async fn pages_are_oldest_first_and_do_not_overlap(store: &dyn Store) {
    // Written newest first; two of the same instant, whose order is that of their ids, by code point.
    for (id, seconds) in [("d", 3), ("c", 2), ("b", 1), ("B", 1), ("a", 0)] {
        store.key_create(&KeyRow { created_at: at(seconds), ..key(id, None) }, None).await.unwrap();
        store.user_create(&UserRow { created_at: at(seconds), ..user(id) }).await.unwrap();
        store.budget_create(&BudgetRow { created_at: at(seconds), ..budget(id) }).await.unwrap();
    }
    for (skip, limit, expected) in
        [(0, 1000, "aBbcd"), (0, 2, "aB"), (2, 2, "bc"), (4, 2, "d"), (5, 1, ""), (i64::MAX, 1, "")]
    {
        let page = page(skip, limit);
        let keys = store.key_list(page).await.unwrap();
        assert_eq!(keys.iter().map(|row| &*row.id).collect::<String>(), expected);
        let users = store.user_list(page).await.unwrap();
        assert_eq!(users.iter().map(|row| &*row.user_id).collect::<String>(), expected);
        let budgets = store.budget_list(page).await.unwrap();
        assert_eq!(budgets.iter().map(|row| &*row.budget_id).collect::<String>(), expected);
    }
}

pub(super) async fn touching_keys_moves_last_use_forwards_and_ignores_unknown_ids(
    store: &dyn Store,
) {
    for id in ["k1", "k2", "k3"] {
        store.key_create(&key(id, None), None).await.unwrap();
    }
    let touch = |id: &str, seconds| (id.to_owned(), at(seconds));
    store
        .key_touch(&[touch("k1", 5), touch("nobody", 5), touch("k2", 6), touch("k1", 4)])
        .await
        .unwrap();
    store.key_touch(&[touch("k2", 1)]).await.unwrap();
    let keys = store.key_list(all()).await.unwrap();
    let used: Vec<_> = keys.iter().map(|row| row.last_used_at).collect();
    assert_eq!(used, [Some(at(5)), Some(at(6)), None]);
}

pub(super) async fn a_deleted_key_leaves_its_usage_without_it(store: &dyn Store) {
    store.key_create(&key("k1", Some("u1")), Some(&user("u1"))).await.unwrap();
    let entry = UsageRecord { api_key_id: Some("k1".into()), ..record("r1", "u1", 5, 0) };
    store.apply(&[Entry::Usage(entry)]).await.unwrap();
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!(rows[0].api_key_name.as_deref(), Some("name of k1"));

    assert!(store.key_delete("k1").await.unwrap());
    assert!(!store.key_delete("k1").await.unwrap());
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].api_key_id, &rows[0].api_key_name), (&None, &None));
    assert_eq!(rows[0].user_id.as_deref(), Some("u1"));
    assert!(store.user_get("u1").await.unwrap().is_some(), "the owner stays");
}

pub(super) async fn a_taken_user_id_is_a_conflict(store: &dyn Store) {
    let first = UserRow { blocked: true, spend: MicroUsd(7), reserved: MicroUsd(3), ..user("u1") };
    assert_eq!(store.user_create(&first).await.unwrap(), first);
    let again = store.user_create(&user("u1")).await;
    assert!(matches!(again, Err(StoreError::Conflict(id)) if id == "u1"));
    assert_eq!(store.user_get("u1").await.unwrap(), Some(first), "untouched");

    let broke = UserRow { budget_id: Some("nothing".into()), ..user("u2") };
    let refused = store.user_create(&broke).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
}

pub(super) async fn one_of_several_concurrent_creations_wins(store: &dyn Store) {
    let (u, k) = (user("u1"), key("k1", None));
    let (a, b, c, d) = tokio::join!(
        store.user_create(&u),
        store.user_create(&u),
        store.user_create(&u),
        store.user_create(&u)
    );
    let won = [&a, &b, &c, &d].iter().filter(|result| result.is_ok()).count();
    let lost =
        [&a, &b, &c, &d].iter().filter(|it| matches!(it, Err(StoreError::Conflict(_)))).count();
    assert_eq!((won, lost), (1, 3));
    let (a, b, c, d) = tokio::join!(
        store.key_create(&k, None),
        store.key_create(&k, None),
        store.key_create(&k, None),
        store.key_create(&k, None)
    );
    let won = [&a, &b, &c, &d].iter().filter(|result| result.is_ok()).count();
    let lost =
        [&a, &b, &c, &d].iter().filter(|it| matches!(it, Err(StoreError::Conflict(_)))).count();
    assert_eq!((won, lost), (1, 3));
}

pub(super) async fn a_budget_keeps_its_cap_to_the_micro_dollar(store: &dyn Store) {
    let caps = [None, Some(0), Some(1), Some(100_000), Some(999_999_999_999_999_999)];
    for (number, cap) in caps.into_iter().enumerate() {
        let row = BudgetRow {
            max_budget: cap.map(MicroUsd),
            budget_duration_sec: cap.map(|_| i64::from(i32::MAX) + 1),
            ..budget(&number.to_string())
        };
        store.budget_create(&row).await.unwrap();
        assert_eq!(store.budget_get(&row.budget_id).await.unwrap(), Some(row.clone()));
        let again = store.budget_create(&row).await;
        assert!(matches!(again, Err(StoreError::Conflict(id)) if id == row.budget_id));
    }
}

pub(super) async fn a_price_of_the_same_instant_replaces_the_rates_only(store: &dyn Store) {
    let first = price("openai:gpt", 0);
    assert_eq!(store.price_put(&first).await.unwrap(), first);
    let second = PriceRow {
        prices: Prices::new(Rate(999_999_999_999_999_999), Rate(0))
            .with_cache(Some(Rate(1)), Some(Rate(0)), Some(Rate(999_999_999_999_999_999)))
            .with_tiers(vec![
                Tier {
                    min_input_tokens: 200_001,
                    input: Some(Rate(600_000_001)),
                    ..Tier::default()
                },
                Tier {
                    min_input_tokens: 7,
                    output: Some(Rate(0)),
                    cache_read: Some(Rate(1)),
                    ..Tier::default()
                },
            ]),
        created_at: at(5),
        updated_at: at(5),
        ..price("openai:gpt", 0)
    };
    let stored = PriceRow { created_at: at(0), ..second.clone() };
    assert_eq!(store.price_put(&second).await.unwrap(), stored);
    assert_eq!(store.price_list(all()).await.unwrap(), [stored]);
    let bare = PriceRow { prices: Prices::new(Rate(2), Rate(3)), ..first };
    assert_eq!(store.price_put(&bare).await.unwrap(), bare, "what is not given is cleared");
}

pub(super) async fn prices_are_listed_by_key_and_newest_first(store: &dyn Store) {
    // `B` before `a` and `a-b` before `a:b`: by code point, whatever the database's language.
    for (model, seconds) in [("a:b", 0), ("B:x", 0), ("a:b", 2), ("a-b:c", 0), ("a:b", 1)] {
        store.price_put(&price(model, seconds)).await.unwrap();
    }
    let expected =
        [("B:x", at(0)), ("a-b:c", at(0)), ("a:b", at(2)), ("a:b", at(1)), ("a:b", at(0))];
    let list = store.price_list(all()).await.unwrap();
    let found: Vec<_> = list.iter().map(|row| (&*row.model_key, row.effective_at)).collect();
    assert_eq!(found, expected);
    let list = store.price_list(page(1, 2)).await.unwrap();
    let found: Vec<_> = list.iter().map(|row| (&*row.model_key, row.effective_at)).collect();
    assert_eq!(found, expected[1..3]);
}

pub(super) async fn everything_is_read_at_once(store: &dyn Store) {
    store.budget_create(&budget("b1")).await.unwrap();
    let owner = UserRow { budget_id: Some("b1".into()), ..user("u1") };
    store.key_create(&key("k1", Some("u1")), Some(&owner)).await.unwrap();
    store.price_put(&price("openai:gpt", 0)).await.unwrap();
    let everything = store.everything().await.unwrap();
    assert_eq!(everything.keys, [key("k1", Some("u1"))]);
    assert_eq!(everything.users, [owner]);
    assert_eq!(everything.budgets, [budget("b1")]);
    assert_eq!(everything.prices, [price("openai:gpt", 0)]);
    assert_eq!(everything.users[0].metadata, metadata());
}

pub(super) async fn instants_keep_their_microseconds(store: &dyn Store) {
    let instant = |microseconds| Timestamp::from_microsecond(microseconds).unwrap();
    let kept = [START + 123_456, 0, -1, 253_402_207_200_000_000];
    for (number, microseconds) in kept.into_iter().enumerate() {
        let row = KeyRow { created_at: instant(microseconds), ..key(&number.to_string(), None) };
        store.key_create(&row, None).await.unwrap();
        let found = store.key_get(&row.id).await.unwrap().unwrap();
        assert_eq!(found.created_at, row.created_at);
    }
    // Deadlines travel as `as_microsecond`, which cuts; a store that rounded would never find them again.
    let fine = Timestamp::from_nanosecond(i128::from(START) * 1000 + 999).unwrap();
    store.key_create(&KeyRow { created_at: fine, ..key("fine", None) }, None).await.unwrap();
    let found = store.key_get("fine").await.unwrap().unwrap();
    assert_eq!(found.created_at, instant(fine.as_microsecond()));
}
