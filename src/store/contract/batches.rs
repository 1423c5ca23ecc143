//! Facts about batches and their items.

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;

use super::rows::{all, at, metadata, record, spend, user};
use crate::store::{
    Accounted, BatchFilter, BatchHold, BatchItemRow, BatchRow, BatchState, ItemLease, ItemOutcome,
    NewItem, Store, StoreError, UsageFilter,
};

pub(super) fn batch(id: &str) -> BatchRow {
    BatchRow {
        provider: "p".into(),
        id: id.into(),
        upstream_id: None,
        user_id: Some("u1".into()),
        api_key_id: Some("k1".into()),
        selector: "p:m".into(),
        model: "m".into(),
        endpoint: "/v1/chat/completions".into(),
        completion_window: "24h".into(),
        metadata: Some(metadata()),
        input_file_id: None,
        status: "validating".into(),
        created_at: at(0),
        in_progress_at: None,
        cancelling_at: None,
        ended_at: None,
        expires_at: Some(at(1000)),
        total: 3,
        completed: 0,
        failed: 0,
        next_poll_at: None,
        accounted_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        cost: None,
    }
}

fn items(count: usize) -> Vec<NewItem> {
    let item = |at| NewItem { custom_id: format!("c{at}"), body: format!("{{\"n\":{at}}}") };
    (0..count).map(item).collect()
}

fn lease(owner: &str, now: i64, limit: i64) -> ItemLease {
    let owner = owner.into();
    ItemLease { owner, now: at(now), until: at(now + 10), limit, avoid: Vec::new() }
}

fn done() -> ItemOutcome {
    ItemOutcome { status_code: 200, result: Some("{}".into()), error: None }
}

async fn find(store: &dyn Store, id: &str) -> BatchRow {
    store.batch_find(id, None).await.unwrap().pop().unwrap()
}

fn places(items: &[BatchItemRow]) -> Vec<(&str, i64)> {
    let mut all: Vec<_> = items.iter().map(|it| (it.batch_id.as_str(), it.position)).collect();
    all.sort_unstable();
    all
}

pub(super) async fn a_batch_comes_back_as_it_was_written(store: &dyn Store) {
    let full = BatchRow {
        upstream_id: Some("b1".into()),
        input_file_id: Some("file-1".into()),
        in_progress_at: Some(at(1)),
        cancelling_at: Some(at(2)),
        ended_at: Some(at(3)),
        next_poll_at: Some(at(4)),
        accounted_at: Some(at(5)),
        prompt_tokens: Some(1),
        completion_tokens: Some(2),
        cost: Some(MicroUsd(3)),
        ..batch("b1")
    };
    let bare = BatchRow { user_id: None, api_key_id: None, metadata: None, ..batch("b2") };
    for row in [full, bare] {
        store.batch_create(&row, &[], &[]).await.unwrap();
        assert_eq!(store.batch_find(&row.id, None).await.unwrap(), std::slice::from_ref(&row));
        assert_eq!(store.batch_find(&row.id, Some("q")).await.unwrap(), []);
        let taken = store.batch_create(&row, &items(1), &[]).await;
        assert!(matches!(taken, Err(StoreError::Conflict(id)) if id == row.id));
    }
    let other = BatchRow { provider: "q".into(), ..batch("b2") };
    store.batch_create(&other, &[], &[]).await.unwrap();
    assert_eq!(store.batch_find("b2", None).await.unwrap().len(), 2, "an id is its provider's");
    let known = store.batch_known("p", &["b1".into(), "b2".into(), "x".into()]).await.unwrap();
    assert_eq!(known.len(), 2);
}

pub(super) async fn batches_are_listed_newest_first_by_owner(store: &dyn Store) {
    for (number, user) in [(1, "u1"), (2, "u2"), (3, "u1")] {
        let row = BatchRow {
            user_id: Some(user.into()),
            created_at: at(number),
            upstream_id: (number == 3).then(|| "x".into()),
            ..batch(&format!("b{number}"))
        };
        store.batch_create(&row, &[], &[]).await.unwrap();
    }
    let list = async |filter: BatchFilter| {
        let rows = store.batch_list(&BatchFilter { limit: 10, ..filter }).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let everything = BatchFilter::default();
    let of_u1 = BatchFilter { user_id: Some("u1".into()), ..everything.clone() };
    assert_eq!(list(everything.clone()).await, ["b3", "b2", "b1"]);
    assert_eq!(list(of_u1.clone()).await, ["b3", "b1"]);
    assert_eq!(list(BatchFilter { after: Some("b3".into()), ..of_u1 }).await, ["b1"]);
    assert_eq!(list(BatchFilter { ours_only: true, ..everything.clone() }).await, ["b2", "b1"]);
    assert_eq!(list(BatchFilter { provider: Some("q".into()), ..everything }).await, [""; 0]);
}

pub(super) async fn an_item_is_leased_by_one_and_ended_once(store: &dyn Store) {
    store.batch_create(&batch("b1"), &items(3), &[]).await.unwrap();
    let mine = store.batch_take(&lease("g1", 1, 2)).await.unwrap();
    assert_eq!(places(&mine), [("b1", 0), ("b1", 1)]);
    assert_eq!((mine[0].attempts, &mine[0].outcome), (1, &None));
    let row = find(store, "b1").await;
    assert_eq!((row.status.as_str(), row.in_progress_at), ("in_progress", Some(at(1))));
    let yours = store.batch_take(&lease("g2", 2, 9)).await.unwrap();
    assert_eq!(places(&yours), [("b1", 2)], "what is leased is somebody else's");

    assert!(!store.batch_item_end("g2", "b1", 0, &done()).await.unwrap(), "not its lease");
    assert!(store.batch_item_end("g1", "b1", 0, &done()).await.unwrap());
    assert!(!store.batch_item_end("g1", "b1", 0, &done()).await.unwrap(), "once");
    store.batch_renew("g2", at(50)).await.unwrap();
    let again = store.batch_take(&lease("g3", 20, 9)).await.unwrap();
    assert_eq!(places(&again), [("b1", 1)], "the other lease was renewed");
    assert_eq!(again[0].attempts, 2);
    assert!(!store.batch_item_end("g1", "b1", 1, &done()).await.unwrap(), "it was taken over");
    let failed =
        ItemOutcome { status_code: 403, result: None, error: Some("{\"code\":\"x\"}".into()) };
    assert!(store.batch_item_end("g3", "b1", 1, &failed).await.unwrap());
    assert_eq!(store.batch_sweep(at(21)).await.unwrap(), 0, "one is under way");
    assert!(store.batch_item_end("g2", "b1", 2, &done()).await.unwrap());
    assert_eq!(store.batch_sweep(at(22)).await.unwrap(), 1);
    let row = find(store, "b1").await;
    assert_eq!((row.completed, row.failed, row.status.as_str()), (2, 1, "completed"));
    assert_eq!(row.ended_at, Some(at(22)));
    let ended = store.batch_items("b1", 0, 10).await.unwrap();
    assert_eq!(places(&ended), [("b1", 1), ("b1", 2)]);
    assert_eq!(ended[0].outcome, Some(failed));

    assert_eq!(store.batch_expire(at(22), 10).await.unwrap(), 0);
    assert_eq!(store.batch_expire(at(23), 10).await.unwrap(), 1);
    assert!(store.batch_items("b1", -1, 10).await.unwrap().is_empty());
}

pub(super) async fn batches_take_turns_and_providers_may_be_avoided(store: &dyn Store) {
    let other = BatchRow { provider: "q".into(), created_at: at(1), ..batch("b2") };
    store.batch_create(&batch("b1"), &items(3), &[]).await.unwrap();
    store.batch_create(&other, &items(3), &[]).await.unwrap();
    let taken = store.batch_take(&lease("g", 2, 2)).await.unwrap();
    assert_eq!(places(&taken), [("b1", 0), ("b2", 0)]);
    let avoid = ItemLease { avoid: vec!["p".into()], ..lease("g", 2, 2) };
    let taken = store.batch_take(&avoid).await.unwrap();
    assert_eq!(places(&taken), [("b2", 1), ("b2", 2)]);

    store.batch_item_later("g", "b1", 0, at(30)).await.unwrap();
    let taken = store.batch_take(&lease("g", 3, 9)).await.unwrap();
    assert_eq!(places(&taken), [("b1", 1), ("b1", 2)], "the first one waits");
    assert_eq!(places(&store.batch_take(&lease("h", 30, 1)).await.unwrap()), [("b1", 0)]);
}

pub(super) async fn cancelled_and_late_batches_end_with_what_they_have(store: &dyn Store) {
    for id in ["b1", "b2"] {
        store.batch_create(&batch(id), &items(3), &[]).await.unwrap();
    }
    let taken = store.batch_take(&lease("g", 1, 2)).await.unwrap();
    assert_eq!(places(&taken), [("b1", 0), ("b2", 0)]);
    assert!(store.batch_cancel("b1", at(2)).await.unwrap());
    assert!(!store.batch_cancel("b9", at(2)).await.unwrap());
    assert_eq!(find(store, "b1").await.status, "cancelling");
    assert_eq!(places(&store.batch_take(&lease("g", 3, 1)).await.unwrap()), [("b2", 1)]);
    assert_eq!(store.batch_sweep(at(3)).await.unwrap(), 0, "what is under way is waited for");
    assert!(store.batch_item_end("g", "b1", 0, &done()).await.unwrap());
    assert_eq!(store.batch_sweep(at(4)).await.unwrap(), 1);
    let row = find(store, "b1").await;
    assert_eq!((row.status.as_str(), row.completed), ("cancelled", 1));
    assert_eq!((row.cancelling_at, row.ended_at), (Some(at(2)), Some(at(4))));
    assert!(store.batch_cancel("b1", at(5)).await.unwrap());
    assert_eq!(find(store, "b1").await.status, "cancelled", "it stays as it ended");

    assert!(store.batch_take(&lease("g", 1000, 9)).await.unwrap().is_empty(), "its time is over");
    assert_eq!(store.batch_sweep(at(1000)).await.unwrap(), 1);
    assert_eq!(find(store, "b2").await.status, "expired");
}

pub(super) async fn a_provider_is_asked_by_one_gateway_at_a_time(store: &dyn Store) {
    let row = BatchRow { upstream_id: Some("b1".into()), next_poll_at: Some(at(5)), ..batch("b1") };
    store.batch_create(&row, &[], &[]).await.unwrap();
    assert!(store.batch_due(at(4), at(60), 9).await.unwrap().is_empty());
    let due = store.batch_due(at(5), at(60), 9).await.unwrap();
    assert_eq!(due.len(), 1);
    assert!(store.batch_due(at(6), at(60), 9).await.unwrap().is_empty(), "somebody asks");
    let state = BatchState { status: "completed".into(), total: 4, completed: 3, failed: 1 };
    store.batch_note("p", "b1", &state, Some(at(7))).await.unwrap();
    store.batch_note("p", "b1", &state, Some(at(9))).await.unwrap();
    let row = find(store, "b1").await;
    assert_eq!((row.total, row.completed, row.failed), (4, 3, 1));
    assert_eq!((row.status.as_str(), row.ended_at), ("completed", Some(at(7))));
    store.batch_poll_at("p", "b1", Some(at(8))).await.unwrap();
    assert_eq!(store.batch_due(at(8), at(60), 9).await.unwrap().len(), 1);
    assert_eq!(store.batch_sweep(at(9999)).await.unwrap(), 0, "it is its provider's");
    assert_eq!(store.batch_expire(at(9999), 9).await.unwrap(), 0);
    assert!(!store.batch_cancel("b1", at(9)).await.unwrap());
}

pub(super) async fn a_batch_is_charged_once(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let row = BatchRow { upstream_id: Some("b1".into()), next_poll_at: Some(at(1)), ..batch("b1") };
    store.batch_create(&row, &[], &[]).await.unwrap();
    let accounted = Accounted { prompt_tokens: 5, completion_tokens: 7, cost: MicroUsd(11) };
    let charge = async |id: &str| {
        let usage = record(id, "u1", 11, 7);
        store.batch_account("p", "b1", &accounted, &usage).await.unwrap().is_some()
    };
    let (one, two) = tokio::join!(charge("r1"), charge("r2"));
    assert!(one != two, "{one} {two}");
    assert!(!charge("r3").await);
    let row = find(store, "b1").await;
    assert_eq!((row.prompt_tokens, row.completion_tokens), (Some(5), Some(7)));
    assert_eq!((row.cost, row.next_poll_at), (Some(MicroUsd(11)), None));
    assert_eq!(row.accounted_at, Some(at(7)));
    assert_eq!(spend(store, "u1").await, 11);
    assert_eq!(store.usage_list(&UsageFilter::default(), all()).await.unwrap().len(), 1);
    let unknown = store.batch_account("p", "b9", &accounted, &record("r4", "u1", 1, 1)).await;
    assert_eq!(unknown.unwrap(), None);
}

pub(super) async fn what_a_batch_holds_is_kept_until_it_is_charged(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let hold = |scope, amount| BatchHold { scope, amount: MicroUsd(amount), leased: false };
    let user = hold(Scope::User("u1".into()), 30);
    let holds = [user.clone(), hold(Scope::Ceiling("c1".into()), 30)];
    for id in ["b1", "b2"] {
        let row = BatchRow { upstream_id: Some(id.into()), ..batch(id) };
        store.batch_create(&row, &[], &holds).await.unwrap();
    }
    let again = store.batch_create(&batch("b2"), &[], &holds).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    assert_eq!(store.batch_holds().await.unwrap().len(), 4);

    let sorted = |mut holds: Vec<BatchHold>| {
        holds.sort_by(|a, b| a.scope.cmp(&b.scope));
        holds
    };
    let accounted = Accounted { prompt_tokens: 5, completion_tokens: 7, cost: MicroUsd(11) };
    let charge = async |id: &str| {
        store.batch_account("p", "b1", &accounted, &record(id, "u1", 11, 7)).await.unwrap()
    };
    assert_eq!(charge("r1").await.map(sorted), Some(holds.to_vec()));
    assert_eq!(charge("r2").await, None, "once");
    assert_eq!(store.batch_holds().await.unwrap().len(), 2);
    assert_eq!(sorted(store.batch_release("p", "b2").await.unwrap()), holds);
    assert_eq!(store.batch_release("p", "b2").await.unwrap(), [], "once");
    assert_eq!(store.batch_holds().await.unwrap(), []);
}
