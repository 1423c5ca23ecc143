//! Facts about who may call what: rules of keys and users, aliases; and about settings.

use otari_filters::money::MicroUsd;

use super::rows::{at, key, user};
use crate::store::{
    AliasRow, KeyChange, KeyRow, SettingRow, Store, StoreError, UserChange, UserRow,
};

pub(super) async fn a_key_changes_its_rules_one_by_one(store: &dyn Store) {
    let mut row = key("k1", None);
    store.key_create(&row, None).await.unwrap();
    let mut expect = async |change: KeyChange, edit: fn(&mut KeyRow)| {
        edit(&mut row);
        assert_eq!(store.key_update("k1", &change).await.unwrap(), Some(row.clone()), "{change:?}");
        assert_eq!(store.key_get("k1").await.unwrap(), Some(row.clone()));
    };
    let change = KeyChange { allowed_models: Some(None), ..KeyChange::default() };
    expect(change, |row| row.allowed_models = None).await;
    let change = KeyChange { allowed_models: Some(Some(Vec::new())), ..KeyChange::default() };
    expect(change, |row| row.allowed_models = Some(Vec::new())).await;
    let change = KeyChange { reject_user_mismatch: Some(None), ..KeyChange::default() };
    expect(change, |row| row.reject_user_mismatch = None).await;
    let change = KeyChange { reject_user_mismatch: Some(Some(true)), ..KeyChange::default() };
    expect(change, |row| row.reject_user_mismatch = Some(true)).await;
    expect(KeyChange::default(), |_| {}).await;
}

pub(super) async fn a_users_list_is_kept_changed_and_replaced_at_a_revival(store: &dyn Store) {
    let mut row = user("u1");
    assert_eq!(store.user_create(&row).await.unwrap(), row);
    let change = UserChange { allowed_models: Some(Some(Vec::new())), ..UserChange::default() };
    row.allowed_models = Some(Vec::new());
    assert_eq!(store.user_update("u1", &change).await.unwrap(), Some(row.clone()));
    let change = UserChange { allowed_models: Some(None), ..UserChange::default() };
    row.allowed_models = None;
    assert_eq!(store.user_update("u1", &change).await.unwrap(), Some(row.clone()));
    assert_eq!(store.user_update("u1", &UserChange::default()).await.unwrap(), Some(row));
    assert!(store.user_delete("u1", at(1)).await.unwrap());
    let back = UserRow { allowed_models: Some(vec!["a:b".into()]), ..user("u1") };
    let revived = store.user_create(&back).await.unwrap();
    let back = UserRow { spend_since: Some(back.updated_at), ..back };
    assert_eq!(revived, back);
    assert_eq!(store.everything().await.unwrap().users, [back]);
    assert_eq!(store.user_get("u1").await.unwrap().unwrap().spend, MicroUsd(0));
}

fn alias(id: &str, name: &str, user_id: Option<&str>, target: &str, seconds: i64) -> AliasRow {
    AliasRow {
        id: id.into(),
        name: name.into(),
        target: target.into(),
        user_id: user_id.map(Into::into),
        created_at: at(seconds),
        updated_at: at(seconds),
    }
}

pub(super) async fn an_alias_is_one_of_its_name_and_user(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    store.user_create(&user("u2")).await.unwrap();
    let all = [
        alias("1", "Zoë", None, "p:z", 0),
        alias("2", "a", None, "p:a", 0),
        alias("3", "a", Some("u1"), "p:b", 0),
        alias("4", "a", Some("u2"), "p:b", 0),
    ];
    for row in all.iter().rev() {
        assert_eq!(store.alias_put(row).await.unwrap(), *row);
    }
    assert_eq!(store.alias_all().await.unwrap(), all, "by code point, everybody's first");
    assert_eq!(store.everything().await.unwrap().aliases, all);

    let other = store.alias_put(&alias("5", "a", None, "p:c", 9)).await.unwrap();
    assert_eq!(other, AliasRow { updated_at: at(9), ..alias("2", "a", None, "p:c", 0) });
    let other = store.alias_put(&alias("6", "a", Some("u1"), "p:d", 9)).await.unwrap();
    assert_eq!(other, AliasRow { updated_at: at(9), ..alias("3", "a", Some("u1"), "p:d", 0) });
    assert_eq!(store.alias_all().await.unwrap().len(), 4, "no second one");

    assert!(!store.alias_delete("Zoë", Some("u1")).await.unwrap(), "that is everybody's");
    assert!(store.alias_delete("a", None).await.unwrap());
    assert!(!store.alias_delete("a", None).await.unwrap());
    assert!(store.alias_delete("a", Some("u2")).await.unwrap());
    let left: Vec<String> =
        store.alias_all().await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(left, ["1", "3"]);
}

pub(super) async fn an_alias_of_an_unknown_user_is_refused(store: &dyn Store) {
    let refused = store.alias_put(&alias("1", "a", Some("nobody"), "p:a", 0)).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
}

fn setting(key: &str, value: &str, seconds: i64) -> SettingRow {
    SettingRow { key: key.into(), value: value.into(), updated_at: at(seconds) }
}

pub(super) async fn settings_are_set_and_removed_together(store: &dyn Store) {
    let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    store.setting_put(&[change("b", Some("1")), change("a", Some("x"))], at(1)).await.unwrap();
    assert_eq!(store.setting_all().await.unwrap(), [setting("a", "x", 1), setting("b", "1", 1)]);
    let changes = [change("b", Some("2")), change("a", None), change("c", None)];
    store.setting_put(&changes, at(2)).await.unwrap();
    assert_eq!(store.setting_all().await.unwrap(), [setting("b", "2", 2)]);
    assert_eq!(store.everything().await.unwrap().settings, [setting("b", "2", 2)]);
    store.setting_put(&[], at(3)).await.unwrap();
}

pub(super) async fn a_setting_is_added_once(store: &dyn Store) {
    assert!(store.setting_add(&setting("a", "first", 1)).await.unwrap());
    assert!(!store.setting_add(&setting("a", "second", 2)).await.unwrap());
    assert_eq!(store.setting_all().await.unwrap(), [setting("a", "first", 1)]);
}
