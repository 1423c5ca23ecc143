//! Facts about what usage adds up to: sums of hours and days say what the rows say, whatever comes late or goes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use otari_filters::settle::{Entry, Status, UsageRecord};

use super::rows::{all, at, key, page, record, user};
use crate::store::analytics::{
    Bucket, Condensed, Dimension, Group, Report, Reported, Totals, UsageFilter, UsageStatus,
};
use crate::store::{Store, UserRow};

/// The same numbers every time; good enough to mix rows.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn seconds(&mut self, most: u64) -> i64 {
        i64::try_from(self.roll(most)).unwrap()
    }
}

/// With a whole week in them, wherever they begin.
const DAYS: u64 = 16;

/// Any row of those days, and the row as the oracle counts it.
fn any(dice: &mut Dice, id: &str) -> UsageRecord {
    let status = match dice.roll(10) {
        0 | 1 => Status::Error,
        2 => Status::Absorbed,
        _ => Status::Success,
    };
    let maybe = |dice: &mut Dice, most| (dice.roll(5) > 0).then(|| dice.roll(most));
    let cost = maybe(dice, 1_000_000).map(|cost| MicroUsd(i64::try_from(cost).unwrap()));
    let seconds = dice.seconds(DAYS * 86_400);
    UsageRecord {
        api_key_id: (dice.roll(3) > 0).then(|| format!("k{}", dice.roll(3)).into()),
        user_id: (dice.roll(8) > 0).then(|| format!("u{}", dice.roll(4)).into()),
        model: format!("m{}", dice.roll(5)).into(),
        provider: (dice.roll(9) > 0).then(|| format!("p{}", dice.roll(2)).into()),
        prompt_tokens: maybe(dice, 1000),
        completion_tokens: maybe(dice, 100),
        total_tokens: maybe(dice, 1100),
        cache_read_tokens: maybe(dice, 10),
        cache_write_tokens: maybe(dice, 10),
        cache_write_1h_tokens: maybe(dice, 10),
        latency_ms: u32::try_from(dice.roll(5000)).unwrap(),
        status_code: maybe(dice, 3).map(|code| [200, 429, 502][usize::try_from(code).unwrap()]),
        status,
        cost,
        counts_toward_budget: dice.roll(4) > 0,
        ..record(id, "u0", 0, seconds)
    }
}

async fn entries(dice: &mut Dice, name: &str, count: usize) -> Vec<Entry> {
    (0..count).map(|n| Entry::Usage(any(dice, &format!("{name}{n}")))).collect()
}

async fn owners(store: &dyn Store) {
    for id in ["u0", "u1", "u2", "u3"] {
        store
            .user_create(&UserRow { alias: Some(format!("alias of {id}")), ..user(id) })
            .await
            .unwrap();
    }
    for id in ["k0", "k1", "k2"] {
        store.key_create(&key(id, Some("u0")), None).await.unwrap();
    }
}

/// Sums up what is due before the end: the last day is running. Says in how many steps.
async fn condense(store: &dyn Store) -> usize {
    let mut steps = 0;
    while store.usage_condense(at(15 * 86_400 + 7 * 3600)).await.unwrap() == Condensed::One {
        steps += 1;
        assert!(steps < 500, "it ends");
    }
    steps
}

fn window(dice: &mut Dice) -> Report {
    let (a, b) = (dice.seconds(DAYS * 86_400), dice.seconds(DAYS * 86_400));
    Report {
        start: at(a.min(b)),
        end: at(a.max(b) + 1),
        bucket: if dice.roll(2) == 0 { Bucket::Day } else { Bucket::Hour },
        dimensions: Dimension::ALL.to_vec(),
        top: [2, 100][usize::try_from(dice.roll(2)).unwrap()],
        top_labels: 250,
        is_split: dice.roll(3) == 0,
    }
}

async fn answers(store: &dyn Store, windows: &[Report]) -> Vec<(Reported, i64)> {
    let mut answers = Vec::new();
    for report in windows {
        let filter = UsageFilter {
            start: Some(report.start),
            end: Some(report.end),
            models: vec!["m1".into(), "m2".into()],
            ..UsageFilter::default()
        };
        let everything = UsageFilter::default();
        let reported = store.usage_report(&everything, report).await.unwrap();
        answers.push((reported, store.usage_count(&filter).await.unwrap()));
    }
    answers
}

/// What the rows of the pages add up to in a window.
async fn by_hand(store: &dyn Store, report: &Report) -> (Totals, BTreeMap<Option<String>, i64>) {
    let filter =
        UsageFilter { start: Some(report.start), end: Some(report.end), ..UsageFilter::default() };
    let (mut totals, mut models) = (Totals::default(), BTreeMap::new());
    for skip in (0..).step_by(1000) {
        let rows = store.usage_list(&filter, page(skip, 1000)).await.unwrap();
        for row in &rows {
            let is_request = row.status != "absorbed";
            let billed = |tokens: Option<i64>| row.cost.map_or(0, |_| tokens.unwrap_or(0));
            totals += Totals {
                requests: i64::from(is_request),
                errors: i64::from(row.status == "error"),
                cost: row.cost.unwrap_or_default(),
                prompt_tokens: row.prompt_tokens.unwrap_or(0),
                completion_tokens: row.completion_tokens.unwrap_or(0),
                total_tokens: row.total_tokens.unwrap_or(0),
                cache_read_tokens: row.cache_read_tokens.unwrap_or(0),
                cache_write_tokens: row.cache_write_tokens.unwrap_or(0),
                cache_write_1h_tokens: row.cache_write_1h_tokens.unwrap_or(0),
                latency_ms: if is_request { row.latency_ms.unwrap_or(0) } else { 0 },
                latency_count: i64::from(is_request && row.latency_ms.is_some()),
                unpriced: i64::from(row.status == "success" && row.cost.is_none()),
                billed_input_tokens: billed(row.prompt_tokens),
                billed_output_tokens: billed(row.completion_tokens),
            };
            *models.entry(Some(row.model.clone())).or_default() += i64::from(is_request);
        }
        if rows.len() < 1000 {
            break;
        }
    }
    (totals, models)
}

fn sum(reported: &Reported) -> Totals {
    let mut sum = Totals::default();
    reported.totals.iter().for_each(|(_, totals)| sum += *totals);
    sum
}

fn of(reported: &Reported, dimension: Dimension) -> Vec<&Group> {
    reported.groups.iter().filter(|group| group.dimension == dimension).collect()
}

pub(super) async fn sums_say_what_the_rows_say(store: &dyn Store) {
    owners(store).await;
    let dice = &mut Dice(7);
    for batch in entries(dice, "a", 3000).await.chunks(500) {
        store.apply(batch).await.unwrap();
    }
    let windows: Vec<Report> = (0..24).map(|_| window(dice)).collect();
    let from_rows = answers(store, &windows).await;
    for (report, (reported, _)) in windows.iter().zip(&from_rows) {
        let (totals, models) = by_hand(store, report).await;
        assert_eq!(sum(reported), totals, "{report:?}");
        if report.top == 100 && !report.is_split {
            let grouped: BTreeMap<_, _> = of(reported, Dimension::Model)
                .into_iter()
                .map(|group| (group.key.clone(), group.requests))
                .collect();
            assert_eq!(grouped, models, "{report:?}");
        }
        for dimension in [Dimension::User, Dimension::ApiKey, Dimension::Provider] {
            let cost: i64 = of(reported, dimension).iter().map(|group| group.cost.0).sum();
            assert_eq!(cost, totals.cost.0, "the fold leaves nothing out: {dimension:?}");
        }
        let errors: i64 =
            of(reported, Dimension::StatusCode).iter().map(|group| group.requests).sum();
        assert_eq!(errors, totals.errors, "codes are of errors alone, with or without one");
        assert!(of(reported, Dimension::SourceLabel).is_empty(), "no row has a label");
    }
    let steps = condense(store).await;
    assert!(steps > 340, "fifteen days of hours, and the longer sums: {steps}");
    assert_eq!(answers(store, &windows).await, from_rows, "from sums");
    assert_eq!(condense(store).await, 0, "nothing is done twice");

    // Late rows, a row of a day that is over, and a repeated one.
    let late = entries(dice, "b", 40).await;
    store.apply(&late).await.unwrap();
    store.apply(&late).await.unwrap();
    let mixed = answers(store, &windows).await;
    assert_ne!(mixed, from_rows);
    for (report, (reported, _)) in windows.iter().zip(&mixed) {
        assert_eq!(sum(reported), by_hand(store, report).await.0, "sums and late rows: {report:?}");
    }
    assert!(condense(store).await > 0);
    assert_eq!(answers(store, &windows).await, mixed, "late rows are in the sums");

    // A key that goes takes its name out of the sums too.
    store.key_delete("k1").await.unwrap();
    let without = answers(store, &windows).await;
    let whole = without.iter().flat_map(|(reported, _)| of(reported, Dimension::ApiKey));
    assert!(whole.clone().count() > 0);
    assert!(whole.into_iter().all(|group| group.key.as_deref() != Some("k1")));
    let gone = UsageFilter { api_key_ids: vec!["k1".into()], ..UsageFilter::default() };
    assert_eq!(store.usage_count(&gone).await.unwrap(), 0);
}

pub(super) async fn a_removed_row_leaves_the_sums(store: &dyn Store) {
    owners(store).await;
    let dice = &mut Dice(11);
    for batch in entries(dice, "a", 600).await.chunks(500) {
        store.apply(batch).await.unwrap();
    }
    condense(store).await;
    let whole = Report { start: at(-10), end: at(17 * 86_400), is_split: false, ..window(dice) };
    let before = at(6 * 86_400 + 1800);
    let mut gone = 0;
    loop {
        let step = store.usage_expire(before, 50).await.unwrap().expect("nobody else is here");
        let reported = store.usage_report(&UsageFilter::default(), &whole).await.unwrap();
        assert_eq!(sum(&reported), by_hand(store, &whole).await.0, "after {gone} rows");
        gone += step;
        if step < 50 {
            break;
        }
    }
    assert!((150..400).contains(&gone), "six of sixteen days: {gone}");
    condense(store).await;
    let reported = store.usage_report(&UsageFilter::default(), &whole).await.unwrap();
    assert_eq!(sum(&reported), by_hand(store, &whole).await.0);
    assert!(
        reported.totals.iter().all(|(bucket, _)| *bucket >= at(6 * 86_400 - 1)),
        "no old hour is left"
    );
    let left = store.usage_count(&UsageFilter::default()).await.unwrap();
    assert_eq!(left, 600 - i64::try_from(gone).unwrap());
}

pub(super) async fn deep_pages_are_the_pages_they_would_be(store: &dyn Store) {
    owners(store).await;
    let dice = &mut Dice(13);
    for batch in entries(dice, "a", 5000).await.chunks(500) {
        store.apply(batch).await.unwrap();
    }
    let filters = [
        UsageFilter::default(),
        UsageFilter {
            user_ids: vec!["u1".into(), "u2".into(), "u3".into()],
            ..UsageFilter::default()
        },
        UsageFilter {
            start: Some(at(7 * 3600)),
            end: Some(at(4 * 86_400)),
            ..UsageFilter::default()
        },
    ];
    let pages = async || {
        let mut pages = Vec::new();
        for filter in &filters {
            for skip in [1990, 2000, 2500, 3333, 4990, 5000, 1_000_000] {
                let rows = store.usage_list(filter, page(skip, 100)).await.unwrap();
                pages.push(rows.into_iter().map(|row| row.id).collect::<Vec<_>>());
            }
        }
        pages
    };
    let from_rows = pages().await;
    condense(store).await;
    assert_eq!(pages().await, from_rows);
    assert!(from_rows[3].len() == 100 && from_rows[4].len() == 10 && from_rows[5].is_empty());
}

/// Filters, and how many of the 400 rows each finds.
fn cases(rows: &[crate::store::UsageRow]) -> Vec<(UsageFilter, usize)> {
    let none = UsageFilter::default;
    let count = |keep: &dyn Fn(&crate::store::UsageRow) -> bool| {
        rows.iter().filter(|row| keep(row)).count()
    };
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    vec![
        (none(), 400),
        (
            UsageFilter { user_ids: ids(&["u1"]), ..none() },
            count(&|row| row.user_id.as_deref() == Some("u1")),
        ),
        (
            UsageFilter { user_ids: ids(&["u1", "u3"]), models: ids(&["m0", "m4"]), ..none() },
            count(&|row| {
                matches!(row.user_id.as_deref(), Some("u1" | "u3"))
                    && matches!(&*row.model, "m0" | "m4")
            }),
        ),
        (
            UsageFilter { api_key_ids: ids(&["k2"]), ..none() },
            count(&|row| row.api_key_id.as_deref() == Some("k2")),
        ),
        (
            UsageFilter { status: Some(UsageStatus::Error), ..none() },
            count(&|row| row.status == "error"),
        ),
        (
            UsageFilter { status: Some(UsageStatus::Absorbed), ..none() },
            count(&|row| row.status == "absorbed"),
        ),
        (
            UsageFilter { status_code: Some(502), ..none() },
            count(&|row| row.status == "error" && row.status_code == Some(502)),
        ),
        (
            UsageFilter { provider: Some("p1".into()), ..none() },
            count(&|row| row.provider.as_deref() == Some("p1")),
        ),
        (UsageFilter { priced: Some(false), ..none() }, count(&|row| row.cost.is_none())),
        (UsageFilter { priced: Some(true), ..none() }, count(&|row| row.cost.is_some())),
        (
            UsageFilter { counts_toward_budget: Some(false), ..none() },
            count(&|row| !row.counts_toward_budget),
        ),
        (
            UsageFilter { counts_toward_budget: Some(true), ..none() },
            count(&|row| row.counts_toward_budget),
        ),
        (UsageFilter { source: Some("gateway".into()), ..none() }, 400),
        (UsageFilter { source: Some("import".into()), ..none() }, 0),
        (UsageFilter { source_label: Some("x".into()), ..none() }, 0),
        (UsageFilter { endpoint: Some("/v1/chat/completions".into()), ..none() }, 400),
        (UsageFilter { request_group_ids: ids(&["group"]), ..none() }, 400),
        (UsageFilter { tool: Some(crate::store::analytics::Tool::Any), ..none() }, 0),
    ]
}

/// The same with a status beside another column, or for the many that succeed.
fn cases_of_status(rows: &[crate::store::UsageRow]) -> Vec<(UsageFilter, usize)> {
    let none = UsageFilter::default;
    let count = |keep: &dyn Fn(&crate::store::UsageRow) -> bool| {
        rows.iter().filter(|row| keep(row)).count()
    };
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    vec![
        (
            UsageFilter { status: Some(UsageStatus::Success), ..none() },
            count(&|row| row.status == "success"),
        ),
        (
            UsageFilter { user_ids: ids(&["u1"]), status: Some(UsageStatus::Success), ..none() },
            count(&|row| row.user_id.as_deref() == Some("u1") && row.status == "success"),
        ),
        (
            UsageFilter { api_key_ids: ids(&["k2"]), status: Some(UsageStatus::Error), ..none() },
            count(&|row| row.api_key_id.as_deref() == Some("k2") && row.status == "error"),
        ),
        (
            UsageFilter {
                models: ids(&["m0", "m4"]),
                status: Some(UsageStatus::Success),
                ..none()
            },
            count(&|row| matches!(&*row.model, "m0" | "m4") && row.status == "success"),
        ),
    ]
}

pub(super) async fn every_filter_says_the_same_of_pages_counts_and_reports(store: &dyn Store) {
    owners(store).await;
    let dice = &mut Dice(17);
    store.apply(&entries(dice, "a", 400).await).await.unwrap();
    condense(store).await;
    let rows = store.usage_list(&UsageFilter::default(), all()).await.unwrap();
    let whole = Report { start: at(-10), end: at(17 * 86_400), is_split: false, ..window(dice) };
    for (filter, expected) in cases(&rows).into_iter().chain(cases_of_status(&rows)) {
        let listed = store.usage_list(&filter, all()).await.unwrap();
        assert_eq!(listed.len(), expected, "{filter:?}");
        assert_eq!(
            store.usage_count(&filter).await.unwrap(),
            i64::try_from(expected).unwrap(),
            "{filter:?}"
        );
        let requests = listed.iter().filter(|row| row.status != "absorbed").count();
        let reported = store.usage_report(&filter, &whole).await.unwrap();
        assert_eq!(sum(&reported).requests, i64::try_from(requests).unwrap(), "{filter:?}");
    }
}

pub(super) async fn absurd_numbers_do_not_break_a_report(store: &dyn Store) {
    let absurd = |n: i32| {
        Entry::Usage(UsageRecord {
            prompt_tokens: Some(u64::MAX),
            total_tokens: Some(u64::MAX),
            ..record(&format!("r{n}"), "u1", i64::MAX, 0)
        })
    };
    store.apply(&(0..20).map(absurd).collect::<Vec<_>>()).await.unwrap();
    let whole = Report { start: at(-1), end: at(1), is_split: false, ..window(&mut Dice(1)) };
    let from_rows = store.usage_report(&UsageFilter::default(), &whole).await.unwrap();
    assert_eq!(
        sum(&from_rows).cost,
        MicroUsd(20 * 1_000_000_000_000_000),
        "a billion dollars each"
    );
    assert_eq!(sum(&from_rows).total_tokens, 20_000_000_000_000);
    condense(store).await;
    let day = Report { start: Timestamp::UNIX_EPOCH, end: at(86_400), ..whole };
    let from_sums = store.usage_report(&UsageFilter::default(), &day).await.unwrap();
    assert_eq!(sum(&from_sums), sum(&from_rows));
}
