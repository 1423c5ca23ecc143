//! Facts about the notes of who changed what.

use std::net::{IpAddr, Ipv4Addr};

use otari_filters::money::{MicroUsd, Rate};
use otari_filters::prices::Prices;
use serde_json::{Value, json};

use super::rows::{all, at, budget, ceiling, key, page, price, user};
use crate::store::{
    AliasRow, AuditFilter, AuditRow, Author, BudgetChange, KeyChange, PriceRow, Shapes, Store,
    UserChange,
};

/// Enough of each row to tell it from another.
static SHAPES: Shapes = Shapes {
    key: |row| json!({"name": row.key_name, "on": row.is_active, "metadata": row.metadata}),
    user: |row| json!({"alias": row.alias}),
    budget: |row| json!({"max": row.max_budget.map(|max| max.0)}),
    ceiling: |row| json!({"name": row.name}),
    price: |row| json!({"input": row.prices.input.0}),
    alias: |row| json!({"target": row.target}),
    setting: |row| (row.key != "secret").then(|| json!(row.value)),
};

pub(super) fn author(request_id: &str, seconds: i64) -> Author {
    Author {
        actor: "master_key",
        actor_id: None,
        address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        request_id: request_id.into(),
        at: at(seconds),
        shapes: &SHAPES,
    }
}

/// What is noted, oldest first.
async fn noted(store: &dyn Store) -> Vec<AuditRow> {
    let mut rows = store.audit_list(&AuditFilter::default(), all()).await.unwrap();
    rows.reverse();
    rows
}

/// What was done to what, as it was and as it is.
fn short(row: &AuditRow) -> (String, Option<Value>, Option<Value>) {
    (format!("{} {}", row.action, row.object_id), row.before.clone(), row.after.clone())
}

fn renamed(alias: &str) -> UserChange {
    UserChange { alias: Some(Some(alias.into())), ..UserChange::default() }
}

fn costing(seconds: i64, input: i64) -> PriceRow {
    PriceRow { prices: Prices::new(Rate(input), Rate(1)), ..price("p:m", seconds) }
}

pub(super) async fn every_change_is_noted_with_its_author(store: &dyn Store) {
    let by = store.by(author("r", 1));
    by.key_create(&key("k", Some("u")), Some(&user("u"))).await.unwrap();
    by.user_update("u", &renamed("new")).await.unwrap();
    by.key_rotate("k", "hash", "prefix").await.unwrap();
    let change = KeyChange { key_name: Some(None), ..KeyChange::default() };
    by.key_update("k", &change).await.unwrap();
    by.budget_create(&budget("b1")).await.unwrap();
    let change = BudgetChange { max_budget: Some(Some(MicroUsd(1))), ..BudgetChange::default() };
    by.budget_update("b1", &change).await.unwrap();
    by.ceiling_create(&ceiling("c", "k", None)).await.unwrap();
    by.key_delete("k").await.unwrap();
    by.budget_delete("b1", at(2)).await.unwrap();
    by.price_put(&costing(0, 1)).await.unwrap();
    by.price_put(&costing(0, 2)).await.unwrap();
    by.price_put(&costing(1, 3)).await.unwrap();
    by.price_delete("p:m", Some(at(0))).await.unwrap();
    by.price_delete("p:m", None).await.unwrap();
    let alias = |target: &str| AliasRow {
        id: "a".into(),
        name: "fast".into(),
        target: target.into(),
        user_id: None,
        created_at: at(0),
        updated_at: at(0),
    };
    by.alias_put(&alias("p:m")).await.unwrap();
    by.alias_put(&AliasRow { id: "b".into(), ..alias("p:n") }).await.unwrap();
    by.alias_delete("fast", None).await.unwrap();
    let text = |value: &str| Some(value.to_owned());
    by.setting_put(&[("s".into(), text("1")), ("secret".into(), text("x"))], at(3)).await.unwrap();
    by.setting_put(&[("s".into(), None), ("t".into(), None)], at(3)).await.unwrap();
    by.key_create(&key("k2", Some("u")), None).await.unwrap();
    by.user_delete("u", at(4)).await.unwrap();

    let rows = noted(store).await;
    for row in &rows {
        assert_eq!((row.actor.as_str(), row.actor_id.as_deref()), ("master_key", None));
        assert_eq!((row.at, row.request_id.as_str()), (at(1), "r"));
        assert_eq!(row.address.as_deref(), Some("192.0.2.7"));
        assert_eq!(row.action.split_once('.').unwrap().0, row.object_kind);
    }
    assert_eq!(rows.iter().map(short).collect::<Vec<_>>(), expected());
}

/// What all of that comes to.
fn expected() -> Vec<(String, Option<Value>, Option<Value>)> {
    let metadata = json!(super::rows::metadata());
    let shown = |name: Value, on: bool| Some(json!({"name": name, "on": on, "metadata": metadata}));
    let (k, k2) = (json!("name of k"), json!("name of k2"));
    let expected = [
        ("user.create u", None, Some(json!({"alias": "alias of u"}))),
        ("key.create k", None, shown(k.clone(), true)),
        ("user.update u", Some(json!({"alias": "alias of u"})), Some(json!({"alias": "new"}))),
        ("key.rotate k", shown(k.clone(), true), shown(k.clone(), true)),
        ("key.update k", shown(k, true), shown(Value::Null, true)),
        ("budget.create b1", None, Some(json!({"max": 10_000_000}))),
        ("budget.update b1", Some(json!({"max": 10_000_000})), Some(json!({"max": 1}))),
        ("scoped_budget.create c", None, Some(json!({"name": null}))),
        ("key.delete k", shown(Value::Null, true), None),
        ("scoped_budget.delete c", Some(json!({"name": null})), None),
        ("budget.delete b1", Some(json!({"max": 1})), None),
        ("price.create p:m", None, Some(json!({"input": 1}))),
        ("price.update p:m", Some(json!({"input": 1})), Some(json!({"input": 2}))),
        ("price.create p:m", None, Some(json!({"input": 3}))),
        ("price.delete p:m", Some(json!({"input": 2})), None),
        ("price.delete p:m", Some(json!({"input": 3})), None),
        ("alias.create fast", None, Some(json!({"target": "p:m"}))),
        ("alias.update fast", Some(json!({"target": "p:m"})), Some(json!({"target": "p:n"}))),
        ("alias.delete fast", Some(json!({"target": "p:n"})), None),
        ("setting.create s", None, Some(json!("1"))),
        ("master_key.rotate master_key", None, None),
        ("setting.delete s", Some(json!("1")), None),
        ("key.create k2", None, shown(k2.clone(), true)),
        ("user.delete u", Some(json!({"alias": "new"})), None),
        ("key.update k2", shown(k2.clone(), true), shown(k2, false)),
    ];
    expected.into_iter().map(|(what, old, new)| (what.to_owned(), old, new)).collect()
}

pub(super) async fn a_refused_change_is_not_noted(store: &dyn Store) {
    store.user_create(&user("u")).await.unwrap();
    store.key_create(&key("k", None), None).await.unwrap();
    assert!(noted(store).await.is_empty(), "nobody's change");
    let by = store.by(author("r", 1));
    by.user_create(&user("u")).await.unwrap_err();
    by.key_create(&key("k", Some("v")), Some(&user("v"))).await.unwrap_err();
    by.ceiling_create(&ceiling("c", "k", None)).await.unwrap_err();
    assert_eq!(by.user_update("none", &renamed("x")).await.unwrap(), None);
    assert_eq!(by.key_update("none", &KeyChange::default()).await.unwrap(), None);
    assert_eq!(by.key_rotate("none", "h", "p").await.unwrap(), None);
    assert!(!by.key_delete("none").await.unwrap());
    assert!(!by.user_delete("none", at(1)).await.unwrap());
    assert!(!by.budget_delete("none", at(1)).await.unwrap());
    assert!(!by.ceiling_delete("none").await.unwrap());
    assert!(!by.price_delete("none", None).await.unwrap());
    assert!(!by.alias_delete("none", None).await.unwrap());
    assert_eq!(noted(store).await, []);
}

pub(super) async fn changes_at_once_are_noted_one_after_the_other(store: &dyn Store) {
    store.user_create(&user("u")).await.unwrap();
    let change = async |n: usize| {
        let by = store.by(author("r", 1));
        by.user_update("u", &renamed(&n.to_string())).await.unwrap();
    };
    tokio::join!(change(1), change(2), change(3), change(4), change(5), change(6));
    let rows = noted(store).await;
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0].before, Some(json!({"alias": "alias of u"})));
    for pair in rows.windows(2) {
        assert_eq!(pair[0].after, pair[1].before, "what was there is what the one before made");
    }
}

pub(super) async fn what_is_noted_is_filtered_paged_and_removed(store: &dyn Store) {
    for (seconds, id) in [(0, "a"), (10, "b"), (20, "c")] {
        let by = store.by(author(&format!("request {id}"), seconds));
        by.user_create(&user(id)).await.unwrap();
        by.user_update(id, &renamed("x")).await.unwrap();
    }
    let by = Author { actor: "api_key", actor_id: Some("k".into()), ..author("other", 30) };
    store.by(by).budget_create(&budget("a")).await.unwrap();
    let ids = async |filter: AuditFilter, page| {
        let rows = store.audit_list(&filter, page).await.unwrap();
        rows.iter().map(|row| format!("{} {}", row.action, row.object_id)).collect::<Vec<_>>()
    };
    let none = AuditFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let b = ["user.update b", "user.create b"];
    for (filter, expected) in [
        (AuditFilter { start: Some(at(10)), end: Some(at(20)), ..none() }, &b[..]),
        (AuditFilter { request_id: text("request b"), ..none() }, &b[..]),
        (
            AuditFilter { object_id: text("a"), object_kind: text("budget"), ..none() },
            &["budget.create a"],
        ),
        (AuditFilter { actor: text("api_key"), ..none() }, &["budget.create a"]),
        (AuditFilter { actor_id: text("k"), ..none() }, &["budget.create a"]),
        (
            AuditFilter { action: text("user.create"), start: Some(at(11)), ..none() },
            &["user.create c"],
        ),
        (AuditFilter { actor_id: text("other"), ..none() }, &[]),
    ] {
        assert_eq!(ids(filter.clone(), all()).await, expected, "{filter:?}");
    }
    assert_eq!(ids(none(), page(1, 2)).await, ["user.update c", "user.create c"]);
    assert_eq!(store.audit_expire(at(20), 3).await.unwrap(), 3);
    assert_eq!(store.audit_expire(at(20), 3).await.unwrap(), 1);
    assert_eq!(store.audit_expire(at(20), 3).await.unwrap(), 0);
    assert_eq!(ids(none(), all()).await, ["budget.create a", "user.update c", "user.create c"]);
}
