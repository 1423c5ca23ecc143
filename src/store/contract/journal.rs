//! Facts about what the journal brings: usage and resets.

use otari_filters::control::Scope;
use otari_filters::money::MicroUsd;
use otari_filters::settle::{BudgetReset, Charge, Entry, Status, UsageRecord};

use super::rows::{
    all, at, ceiling, key, page, record, reset, spend, usage, user, with_budget, with_period,
};
use crate::store::{Applied, Store, UsageFilter, UsageRow, UserRow};

pub(super) async fn an_entry_applied_twice_counts_once(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let entries = [usage("r1", "u1", 5, 0), usage("r2", "u1", 7, 60)];
    let applied = store.apply(&entries).await.unwrap();
    assert_eq!(applied, Applied { fresh: 2, repeated: 0 });
    let applied = store.apply(&entries).await.unwrap();
    assert_eq!(applied, Applied { fresh: 0, repeated: 2 });
    assert_eq!(store.usage_list(&UsageFilter::default(), all()).await.unwrap().len(), 2);
    let row = store.user_get("u1").await.unwrap().unwrap();
    assert_eq!(row.spend, MicroUsd(12));
    assert_eq!(row.updated_at, at(60), "moves with the spend");
}

pub(super) async fn repeats_inside_one_batch_count_once(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let entries = [usage("r1", "u1", 5, 0), usage("r1", "u1", 5, 0), usage("r2", "u1", 1, 0)];
    assert_eq!(store.apply(&entries).await.unwrap(), Applied { fresh: 2, repeated: 1 });
    assert_eq!(spend(store, "u1").await, 6);
}

/// After a crash the journal begins somewhere in what was applied.
pub(super) async fn of_a_batch_that_is_there_in_part_the_rest_counts(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    let row = |n: i64| usage(&format!("r{n}"), "u1", 1, 50 + n);
    let before: Vec<_> = (0..10).map(row).collect();
    assert_eq!(store.apply(&before).await.unwrap(), Applied { fresh: 10, repeated: 0 });

    // The first is new, so that something is written before what is there already; rows from 51 on come after the reset.
    let rest = (60..61).chain(5..100);
    let again: Vec<_> = rest.map(row).chain([reset("u1", 100, Some(200))]).collect();
    assert_eq!(store.apply(&again).await.unwrap(), Applied { fresh: 91, repeated: 6 });
    assert_eq!(spend(store, "u1").await, 49, "51 to 99 are of the new period");
    let logs = store.budget_resets("b1", all()).await.unwrap();
    let spent: Vec<_> = logs.iter().map(|log| log.previous_spend).collect();
    assert_eq!(spent, [MicroUsd(51)], "one reset, of 0 to 50");
    assert_eq!(store.usage_count(&UsageFilter::default()).await.unwrap(), 100);
}

/// The row of the full record below.
fn kept() -> UsageRow {
    UsageRow {
        id: "r1".into(),
        api_key_id: Some("k1".into()),
        api_key_name: Some("name of k1".into()),
        user_id: Some("u1".into()),
        user_alias: Some("alias of u1".into()),
        timestamp: at(1),
        model: "gpt".into(),
        provider: Some("openai".into()),
        endpoint: "/v1/chat/completions".into(),
        prompt_tokens: Some(3_000_000_000),
        completion_tokens: Some(2),
        total_tokens: Some(3_000_000_002),
        cache_read_tokens: Some(1),
        cache_write_tokens: Some(3),
        cache_write_1h_tokens: None,
        cost: Some(MicroUsd(5)),
        status: "absorbed".into(),
        error_message: Some("stream_error: Zoë 🦦".into()),
        status_code: Some(200),
        latency_ms: Some(4_000_000_000),
        source: "gateway".into(),
        source_label: None,
        policy_name: Some("cheap".into()),
        selection_reason: Some("on_failure".into()),
        attempt_position: Some(1),
        attempt_count: Some(2),
        request_group_id: Some("group".into()),
        counts_toward_budget: true,
    }
}

pub(super) async fn every_column_of_a_record_is_kept(store: &dyn Store) {
    store.key_create(&key("k1", Some("u1")), Some(&user("u1"))).await.unwrap();
    let full = UsageRecord {
        api_key_id: Some("k1".into()),
        error_message: Some("stream_error: Zoë 🦦".into()),
        status: Status::Absorbed,
        policy_name: Some("cheap".into()),
        selection_reason: Some("on_failure".into()),
        ..record("r1", "u1", 5, 1)
    };
    let bare = UsageRecord {
        user_id: None,
        provider: None,
        prompt_tokens: None,
        completion_tokens: None,
        total_tokens: None,
        cache_read_tokens: None,
        cost: None,
        status: Status::Error,
        status_code: None,
        counts_toward_budget: false,
        ..record("r2", "u1", 0, 0)
    };
    store.apply(&[Entry::Usage(full), Entry::Usage(bare)]).await.unwrap();
    let first = kept();
    let second = UsageRow {
        id: "r2".into(),
        api_key_id: None,
        api_key_name: None,
        user_id: None,
        user_alias: None,
        timestamp: at(0),
        provider: None,
        prompt_tokens: None,
        completion_tokens: None,
        total_tokens: None,
        cache_read_tokens: None,
        cost: None,
        status: "error".into(),
        error_message: None,
        status_code: None,
        counts_toward_budget: false,
        policy_name: None,
        selection_reason: None,
        ..first.clone()
    };
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!(rows, [first, second]);
}

pub(super) async fn unknown_keys_and_users_are_written_as_null(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let keyless = UsageRecord { api_key_id: Some("gone".into()), ..record("r1", "u1", 5, 1) };
    let entries = [Entry::Usage(keyless), usage("r2", "gone", 7, 0), reset("gone", 0, None)];
    assert_eq!(store.apply(&entries).await.unwrap(), Applied { fresh: 2, repeated: 1 });
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!((&rows[0].api_key_id, rows[0].user_id.as_deref()), (&None, Some("u1")));
    assert_eq!((&rows[1].api_key_id, &rows[1].user_id), (&None, &None));
    assert_eq!(spend(store, "u1").await, 5);
}

pub(super) async fn only_costs_that_count_are_added(store: &dyn Store) {
    for id in ["u1", "u2"] {
        store.user_create(&user(id)).await.unwrap();
    }
    let outside = UsageRecord { counts_toward_budget: false, ..record("r1", "u1", 5, 0) };
    let unpriced = UsageRecord { cost: None, ..record("r2", "u1", 0, 0) };
    let entries = [
        Entry::Usage(outside),
        Entry::Usage(unpriced),
        usage("r3", "u1", 1, 0),
        usage("r4", "u2", 2, 0),
        usage("r5", "u1", 4, 0),
    ];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 5);
    assert_eq!((spend(store, "u1").await, spend(store, "u2").await), (5, 2));
}

pub(super) async fn ten_thousand_small_costs_add_up_exactly(store: &dyn Store) {
    for id in ["u1", "u2"] {
        store.user_create(&user(id)).await.unwrap();
    }
    let entries: Vec<Entry> = (0..10_000)
        .flat_map(|n| {
            [usage(&format!("a{n}"), "u1", 1, n), usage(&format!("b{n}"), "u2", 100_000, n)]
        })
        .collect();
    for batch in entries.chunks(500) {
        assert_eq!(store.apply(batch).await.unwrap().fresh, 500);
    }
    assert_eq!(spend(store, "u1").await, 10_000, "10 000 times 0.000001 is 0.01");
    assert_eq!(spend(store, "u2").await, 1_000_000_000, "10 000 times 0.1 is 1000");
}

pub(super) async fn absurd_numbers_do_not_block_the_journal(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let absurd = |id| UsageRecord {
        prompt_tokens: Some(u64::MAX),
        timestamp_us: i64::MAX,
        latency_ms: u32::MAX,
        attempt_count: u16::MAX,
        ..record(id, "u1", i64::MAX, 0)
    };
    let credit = usage("r3", "u1", i64::MIN, 0);
    let entries = [Entry::Usage(absurd("r1")), Entry::Usage(absurd("r2")), credit];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 3);
    assert_eq!(spend(store, "u1").await, 999_999_999_999_999_999, "the most the column holds");
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!(rows[0].cost, Some(MicroUsd(0)), "nobody is credited");
    assert_eq!(rows[1].prompt_tokens, Some(i64::MAX));
}

pub(super) async fn nul_characters_are_dropped(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let poison = UsageRecord {
        model: "g\0pt".into(),
        error_message: Some("\0bad\0".into()),
        ..record("r1", "u1", 5, 0)
    };
    let entries = [Entry::Usage(poison), usage("r2", "u\0", 1, 1)];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 2);
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    assert_eq!((&*rows[1].model, rows[1].error_message.as_deref()), ("gpt", Some("bad")));
}

pub(super) async fn a_reset_zeroes_the_spend_once_and_only_at_its_deadline(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    store.apply(&[usage("r1", "u1", 5, 0)]).await.unwrap();

    let early = store.apply(&[reset("u1", 99, Some(200))]).await.unwrap();
    assert_eq!((early.fresh, spend(store, "u1").await), (0, 5), "another deadline");

    let due = store.apply(&[reset("u1", 100, Some(200))]).await.unwrap();
    assert_eq!((due.fresh, spend(store, "u1").await), (1, 0));
    let row = store.user_get("u1").await.unwrap().unwrap();
    assert_eq!(row.budget_started_at, Some(at(101)));
    assert_eq!(row.next_budget_reset_at, Some(at(200)));
    assert_eq!(row.updated_at, at(101));

    store.apply(&[usage("r2", "u1", 7, 150)]).await.unwrap();
    let again = store.apply(&[reset("u1", 100, Some(200))]).await.unwrap();
    assert_eq!((again.fresh, spend(store, "u1").await), (0, 7), "replayed");

    // The budget lost its duration: the next period never ends.
    let last = store.apply(&[reset("u1", 200, None), reset("u1", 200, None)]).await.unwrap();
    assert_eq!(last, Applied { fresh: 1, repeated: 1 });
    assert_eq!(store.user_get("u1").await.unwrap().unwrap().next_budget_reset_at, None);
}

pub(super) async fn a_reset_stands_between_the_usage_before_and_after_it(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    let entries = [
        usage("r1", "u1", 1, 98),
        usage("r2", "u1", 4, 99),
        reset("u1", 100, Some(200)),
        usage("r3", "u1", 4, 101),
        usage("r4", "u1", 8, 102),
    ];
    assert_eq!(store.apply(&entries).await.unwrap(), Applied { fresh: 5, repeated: 0 });
    assert_eq!(spend(store, "u1").await, 12);
    assert_eq!(store.apply(&entries).await.unwrap(), Applied { fresh: 0, repeated: 5 });
    assert_eq!(spend(store, "u1").await, 12);

    // A reset whose budget is gone still takes effect.
    let orphan = BudgetReset {
        scope: Scope::User("u1".into()),
        budget_id: "gone".into(),
        due_at_us: at(200).as_microsecond(),
        reset_at_us: at(201).as_microsecond(),
        next_reset_at_us: None,
    };
    assert_eq!(store.apply(&[Entry::Reset(orphan)]).await.unwrap().fresh, 1);
    assert_eq!(spend(store, "u1").await, 0);
}

pub(super) async fn a_late_record_belongs_to_the_period_it_was_spent_in(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    store.apply(&[usage("r1", "u1", 5, 50), reset("u1", 100, Some(200))]).await.unwrap();
    let late = [usage("r2", "u1", 7, 99), usage("r3", "u1", 1, 101)];
    assert_eq!(store.apply(&late).await.unwrap().fresh, 2);
    assert_eq!(spend(store, "u1").await, 1, "the reset was at 101");
    let logs = store.budget_resets("b1", all()).await.unwrap();
    assert_eq!(logs.len(), 1);
    assert_eq!((logs[0].previous_spend, logs[0].reset_at), (MicroUsd(12), at(101)));
    assert_eq!((logs[0].user_id.as_deref(), logs[0].next_reset_at), (Some("u1"), Some(at(200))));

    // The same records in one batch, in another order, come to the same.
    with_budget(store, "u2", 100).await;
    let mixed = [
        usage("s3", "u2", 1, 101),
        usage("s1", "u2", 5, 50),
        reset("u2", 100, Some(200)),
        usage("s2", "u2", 7, 99),
    ];
    store.apply(&mixed).await.unwrap();
    assert_eq!(spend(store, "u2").await, 1);
    let logs = store.budget_resets("b1", all()).await.unwrap();
    assert_eq!(logs[0].previous_spend, MicroUsd(12), "newest first");
    assert_eq!(store.budget_resets("b1", page(1, 10)).await.unwrap().len(), 1);
}

pub(super) async fn ceilings_are_charged_and_reset_like_users(store: &dyn Store) {
    with_period(store, "u1", 100).await;
    store.key_create(&key("k1", Some("u1")), None).await.unwrap();
    for (id, provider) in [("c1", None), ("c2", Some("openai"))] {
        store.ceiling_create(&ceiling(id, "k1", provider)).await.unwrap();
    }
    let charge = |id: &str| Charge { id: id.into(), leased: false };
    let both =
        UsageRecord { ceilings: vec![charge("c1"), charge("c2")], ..record("r1", "u1", 5, 0) };
    let one = UsageRecord { ceilings: vec![charge("c1")], ..record("r2", "u1", 2, 0) };
    let gone = UsageRecord { ceilings: vec![charge("gone")], ..record("r3", "u1", 1, 0) };
    let entries = [Entry::Usage(both), Entry::Usage(one), Entry::Usage(gone)];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 3);
    assert_eq!(store.apply(&entries).await.unwrap().repeated, 3);
    let spent = async |id: &str| store.ceiling_get(id).await.unwrap().unwrap().current_spend.0;
    assert_eq!((spent("c1").await, spent("c2").await, spend(store, "u1").await), (7, 5, 8));

    let reset = BudgetReset {
        scope: Scope::Ceiling("c1".into()),
        budget_id: "b1".into(),
        due_at_us: at(100).as_microsecond(),
        reset_at_us: at(101).as_microsecond(),
        next_reset_at_us: Some(at(200).as_microsecond()),
    };
    let late = UsageRecord { ceilings: vec![charge("c1")], ..record("r4", "u1", 9, 100) };
    let entries = [Entry::Reset(reset), Entry::Usage(late)];
    assert_eq!(store.apply(&entries).await.unwrap().fresh, 2);
    let row = store.ceiling_get("c1").await.unwrap().unwrap();
    assert_eq!((row.current_spend, row.period_start), (MicroUsd::ZERO, Some(at(101))));
    assert_eq!((row.period_end, row.spend_since), (Some(at(200)), Some(at(101))));
    assert_eq!(store.apply(&entries).await.unwrap().repeated, 2);
}

pub(super) async fn concurrent_batches_of_the_same_entries_count_once(store: &dyn Store) {
    for number in 0..4 {
        store.user_create(&user(&format!("u{number}"))).await.unwrap();
    }
    let entries: Vec<Entry> =
        (0..200).map(|n| usage(&format!("r{n}"), &format!("u{}", n % 4), 1, n)).collect();
    let backwards: Vec<Entry> = entries.iter().rev().cloned().collect();
    let (a, b, c) =
        tokio::join!(store.apply(&entries), store.apply(&backwards), store.apply(&entries));
    assert_eq!(a.unwrap().fresh + b.unwrap().fresh + c.unwrap().fresh, 200);
    for number in 0..4 {
        assert_eq!(spend(store, &format!("u{number}")).await, 50);
    }
}

pub(super) async fn usage_is_listed_newest_first_and_filtered(store: &dyn Store) {
    for id in ["u1", "u2"] {
        store.user_create(&UserRow { alias: None, ..user(id) }).await.unwrap();
    }
    let entries: Vec<Entry> = [("a", "u1", 0), ("b", "u2", 1), ("d", "u1", 2), ("c", "u2", 2)]
        .map(|(id, user, seconds)| usage(id, user, 0, seconds))
        .into();
    store.apply(&entries).await.unwrap();
    let list = async |start: Option<i64>, end: Option<i64>, user: Option<&str>, skip, limit| {
        let filter = UsageFilter {
            start: start.map(at),
            end: end.map(at),
            user_ids: user.into_iter().map(str::to_owned).collect(),
            ..UsageFilter::default()
        };
        let rows = store.usage_list(&filter, page(skip, limit)).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<String>()
    };
    assert_eq!(list(None, None, None, 0, 1000).await, "dcba", "ties: the larger id first");
    assert_eq!(list(None, None, None, 1, 2).await, "cb");
    assert_eq!(list(None, None, None, 4, 2).await, "");
    assert_eq!(list(Some(1), None, None, 0, 10).await, "dcb", "start is inclusive");
    assert_eq!(list(None, Some(2), None, 0, 10).await, "ba", "end is exclusive");
    assert_eq!(list(Some(1), Some(2), None, 0, 10).await, "b");
    assert_eq!(list(None, None, Some("u1"), 0, 10).await, "da");
    assert_eq!(list(Some(1), None, Some("u1"), 0, 10).await, "d");
    assert_eq!(list(None, None, Some("nobody"), 0, 10).await, "");
}
