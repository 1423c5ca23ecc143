//! Rows and entries to write, with a value in every field.

use std::sync::Arc;

use jiff::Timestamp;
use otari_filters::control::Scope;
use otari_filters::money::{MicroUsd, Rate};
use otari_filters::prices::Prices;
use otari_filters::settle::{BudgetReset, Entry, Status, UsageRecord};
use serde_json::{Map, Value, json};

use crate::store::{BudgetRow, CeilingRow, KeyRow, Page, PriceRow, Store, UserRow};

/// 2026-01-01 00:00:00.000001 UTC, in microseconds.
pub(super) const START: i64 = 1_767_225_600_000_001;

/// So many seconds after [`START`].
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_microsecond(START + seconds * 1_000_000).unwrap()
}

pub(super) fn page(skip: i64, limit: i64) -> Page {
    Page { skip, limit }
}

/// The first thousand rows.
pub(super) fn all() -> Page {
    page(0, 1000)
}

pub(super) fn metadata() -> Map<String, Value> {
    let value =
        json!({"zebra": 1, "name": "Zoë 名前 🦦 \u{0} \" \\", "list": [null, true, 0.1], "a": {}});
    value.as_object().unwrap().clone()
}

pub(super) fn key(id: &str, user_id: Option<&str>) -> KeyRow {
    KeyRow {
        id: id.into(),
        key_hash: format!("hash of {id}"),
        key_prefix: Some(format!("prefix of {id}")),
        key_name: Some(format!("name of {id}")),
        user_id: user_id.map(Into::into),
        created_at: at(0),
        last_used_at: None,
        expires_at: Some(at(3600)),
        is_active: true,
        allowed_models: Some(vec!["openai:gpt*".into(), "a:\u{0} \"名".into()]),
        exclude_from_budget: true,
        reject_user_mismatch: Some(false),
        metadata: metadata(),
    }
}

pub(super) fn user(user_id: &str) -> UserRow {
    UserRow {
        user_id: user_id.into(),
        alias: Some(format!("alias of {user_id}")),
        spend: MicroUsd(0),
        reserved: MicroUsd(0),
        budget_id: None,
        allowed_models: Some(vec!["openai:gpt-5".into()]),
        blocked: false,
        created_at: at(0),
        updated_at: at(0),
        metadata: metadata(),
        budget_started_at: None,
        next_budget_reset_at: None,
        deleted_at: None,
        spend_since: None,
    }
}

pub(super) fn budget(id: &str) -> BudgetRow {
    BudgetRow {
        budget_id: id.into(),
        max_budget: Some(MicroUsd(10_000_000)),
        created_at: at(0),
        updated_at: at(0),
        budget_duration_sec: Some(86_400),
        name: Some("name".into()),
        reset_alignment: None,
    }
}

pub(super) fn price(model_key: &str, seconds: i64) -> PriceRow {
    PriceRow {
        model_key: model_key.into(),
        effective_at: at(seconds),
        prices: Prices::new(Rate(7_500_000), Rate(1)),
        created_at: at(0),
        updated_at: at(0),
    }
}

/// Usage that costs `micros` of `user`'s money, ended so many seconds after [`START`].
pub(super) fn record(id: &str, user: &str, micros: i64, seconds: i64) -> UsageRecord {
    UsageRecord {
        id: id.into(),
        request_group_id: "group".into(),
        api_key_id: None,
        user_id: Some(user.into()),
        timestamp_us: START + seconds * 1_000_000,
        model: "gpt".into(),
        provider: Some("openai".into()),
        endpoint: "/v1/chat/completions".into(),
        prompt_tokens: Some(3_000_000_000),
        completion_tokens: Some(2),
        total_tokens: Some(3_000_000_002),
        cache_read_tokens: Some(1),
        cache_write_tokens: Some(3),
        cache_write_1h_tokens: None,
        cost: Some(MicroUsd(micros)),
        status: Status::Success,
        error_message: None,
        status_code: Some(200),
        latency_ms: 4_000_000_000,
        attempt_position: 1,
        attempt_count: 2,
        counts_toward_budget: true,
        leased: false,
        ceilings: Vec::new(),
        policy_name: None,
        selection_reason: None,
    }
}

pub(super) fn usage(id: &str, user: &str, micros: i64, seconds: i64) -> Entry {
    Entry::Usage(record(id, user, micros, seconds))
}

/// A reset of `user`'s period that ended at `due`; the next one ends at `next`.
pub(super) fn reset(user: &str, due: i64, next: Option<i64>) -> Entry {
    let microseconds = |seconds| START + seconds * 1_000_000;
    Entry::Reset(BudgetReset {
        scope: Scope::User(Arc::from(user)),
        budget_id: Arc::from("b1"),
        due_at_us: microseconds(due),
        reset_at_us: microseconds(due + 1),
        next_reset_at_us: next.map(microseconds),
    })
}

/// A ceiling under budget `b1` whose period ends at 100.
pub(super) fn ceiling(id: &str, key_id: &str, provider: Option<&str>) -> CeilingRow {
    CeilingRow {
        id: id.into(),
        scope_type: "api_token".into(),
        scope_id: key_id.into(),
        provider: provider.map(Into::into),
        budget_id: "b1".into(),
        name: None,
        current_spend: MicroUsd::ZERO,
        period_start: Some(at(0)),
        period_end: Some(at(100)),
        created_at: at(0),
        updated_at: at(0),
        spend_since: None,
    }
}

/// A user with budget `b1`, which is made, whose period ends at `due`.
pub(super) async fn with_period(store: &dyn Store, user_id: &str, due: i64) {
    store.budget_create(&budget("b1")).await.unwrap();
    with_budget(store, user_id, due).await;
}

/// A user with budget `b1` whose period ends at `due`.
pub(super) async fn with_budget(store: &dyn Store, user_id: &str, due: i64) {
    let row = UserRow {
        budget_id: Some("b1".into()),
        budget_started_at: Some(at(0)),
        next_budget_reset_at: Some(at(due)),
        ..user(user_id)
    };
    store.user_create(&row).await.unwrap();
}

/// The settled spend of `user`, in micro-dollars.
pub(super) async fn spend(store: &dyn Store, user: &str) -> i64 {
    store.user_get(user).await.unwrap().unwrap().spend.0
}
