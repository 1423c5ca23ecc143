//! `usage_logs` in PostgreSQL, as it is read.

use std::collections::HashMap;
use std::mem;

use jiff::Timestamp;
use otari_filters::money::MicroUsd;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::codec::{get, instant, maybe_time, time};
use crate::store::analytics::plan::{Descent, Grain, Known, Plan};
use crate::store::analytics::sql::{self, POSTGRES, Statement};
use crate::store::analytics::{
    Dimension, Group, Param, Report, Reported, SEEK_FROM, Totals, UsageFilter,
};
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UsageRow};

impl Param {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Time(at) => at,
            Self::Times(many) => many,
            Self::Text(text) => text,
            Self::Texts(many) => many,
            Self::Int(number) => number,
            Self::Big(number) => number,
        }
    }
}

/// Not prepared for later: the texts are many, and a plan that does not know the values would use the wrong index.
async fn ask(db: &Transaction<'_>, statement: &Statement) -> Result<Vec<Row>, StoreError> {
    let params: Vec<_> = statement.params.iter().map(Param::as_sql).collect();
    Ok(db.query(&statement.sql, &params).await?)
}

/// One snapshot for marks, sums and rows: sums hold as long as their mark is not seen.
async fn snapshot(db: &mut Client) -> Result<Transaction<'_>, StoreError> {
    let begin = db.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let snapshot = begin.read_only(true).start().await?;
    snapshot.batch_execute(SETTINGS).await?;
    Ok(snapshot)
}

/// Compiling a report takes longer than running it; and its groups fit into memory.
pub(super) const SETTINGS: &str =
    "-- usage_report\nSET LOCAL jit = off; SET LOCAL work_mem = '64MB'";

/// Some ten thousand sums: to start workers would take longer, and to read the whole table for them, as the default costs
/// of random reads suggest, would too.
const OF_SUMS: &str = "-- usage_report\nSET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL enable_seqscan = off";

pub(super) async fn usage_list(
    db: &mut Client,
    filter: &UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>, StoreError> {
    let db = snapshot(db).await?;
    let (filter, skip) = match filter.single() {
        Some(single) if page.skip >= SEEK_FROM => seek(&db, filter, single, page.skip).await?,
        _ => (filter.clone(), page.skip),
    };
    let rows = ask(&db, &sql::list(&POSTGRES, &filter, skip, page.limit)).await?;
    rows.iter().map(read).collect()
}

/// The same page, counted from the end of the hour in which it begins.
async fn seek(
    db: &Transaction<'_>,
    filter: &UsageFilter,
    single: Option<(Dimension, Vec<String>)>,
    mut skip: i64,
) -> Result<(UsageFilter, i64), StoreError> {
    let Some((start, end)) = span(db, filter).await? else { return Ok((filter.clone(), skip)) };
    let mut plan = Plan::new(start, end, &known(db, start, end).await?, Grain::Hour);
    let Some(descent) = Descent::new(&plan) else { return Ok((filter.clone(), skip)) };
    let mut rows = HashMap::new();
    for row in ask(db, &sql::hourly(&POSTGRES, mem::take(&mut plan.sums[0]), single)).await? {
        rows.insert(get::<Instant>(&row, 0)?.0, get::<i64>(&row, 1)?);
    }
    for (from, until, has_sums) in descent.pieces() {
        let piece = UsageFilter {
            start: Some(instant(*from)?),
            end: Some(instant(*until)?),
            ..filter.clone()
        };
        let count = if *has_sums {
            rows.get(&from.0).copied().unwrap_or(0)
        } else {
            first(&ask(db, &sql::count_rows(&POSTGRES, &piece)).await?)?
        };
        if count > skip {
            return Ok((UsageFilter { end: piece.end, ..filter.clone() }, skip));
        }
        skip -= count;
    }
    // Behind the last row.
    Ok((UsageFilter { end: Some(instant(start)?), ..filter.clone() }, 0))
}

/// The window of a filter, cut to the rows there are; `None` when there are none.
async fn span(
    db: &Transaction<'_>,
    filter: &UsageFilter,
) -> Result<Option<(Instant, Instant)>, StoreError> {
    let row = db.query_one(sql::SPAN, &[]).await?;
    let (oldest, newest): (Option<Instant>, Option<Instant>) = (get(&row, 0)?, get(&row, 1)?);
    Ok(oldest.zip(newest).map(|(oldest, newest)| filter.within(oldest, newest)))
}

pub(super) async fn known(
    db: &Transaction<'_>,
    start: Instant,
    end: Instant,
) -> Result<Known, StoreError> {
    let mut known = Known::default();
    for row in ask(db, &sql::known(&POSTGRES, start, end)).await? {
        known.note(get(&row, 0)?, get(&row, 1)?);
    }
    Ok(known)
}

fn first(rows: &[Row]) -> Result<i64, StoreError> {
    rows.first().map_or(Ok(0), |row| get(row, 0))
}

pub(super) async fn usage_count(db: &mut Client, filter: &UsageFilter) -> Result<i64, StoreError> {
    let db = snapshot(db).await?;
    if let Some(rest) = filter.but_for_success() {
        let unusual = first(&ask(&db, &sql::count_unusual(&POSTGRES, &rest)).await?)?;
        return Ok(count(&db, &rest).await? - unusual);
    }
    count(&db, filter).await
}

async fn count(db: &Transaction<'_>, filter: &UsageFilter) -> Result<i64, StoreError> {
    let Some(single) = filter.single() else {
        return first(&ask(db, &sql::count_rows(&POSTGRES, filter)).await?);
    };
    let Some((start, end)) = span(db, filter).await? else { return Ok(0) };
    let plan = Plan::new(start, end, &known(db, start, end).await?, Grain::Week);
    first(&ask(db, &sql::count(&POSTGRES, plan, filter, single)).await?)
}

pub(super) async fn usage_report(
    db: &mut Client,
    filter: &UsageFilter,
    report: &Report,
) -> Result<Reported, StoreError> {
    let db = snapshot(db).await?;
    let (start, end) = (report.start.into(), report.end.into());
    // Sums are of all rows: what is filtered is summed up anew.
    let known = match filter.single() {
        Some(None) => {
            db.batch_execute(OF_SUMS).await?;
            Some(known(&db, start, end).await?)
        }
        _ => None,
    };
    let plan = |coarsest: Grain| match &known {
        Some(known) => Plan::new(start, end, known, coarsest),
        None => Plan::rows(start, end),
    };
    let mut reported = Reported::default();
    let totals = sql::totals(&POSTGRES, plan(report.bucket.into()), filter, report.bucket);
    for row in ask(&db, &totals).await? {
        reported.totals.push((time(&row, 0)?, read_totals(&row)?));
    }
    if !report.dimensions.is_empty() {
        let coarsest = if report.is_split { report.bucket.into() } else { Grain::Week };
        let groups = sql::groups(&POSTGRES, plan(coarsest), filter, report);
        for row in ask(&db, &groups).await? {
            reported.groups.extend(read_group(&row)?);
        }
    }
    Ok(reported)
}

fn read_totals(row: &Row) -> Result<Totals, StoreError> {
    Ok(Totals {
        // Column 1 counts rows, which nobody asks of a report.
        requests: get(row, 2)?,
        errors: get(row, 3)?,
        cost: MicroUsd(get(row, 4)?),
        prompt_tokens: get(row, 5)?,
        completion_tokens: get(row, 6)?,
        total_tokens: get(row, 7)?,
        cache_read_tokens: get(row, 8)?,
        cache_write_tokens: get(row, 9)?,
        cache_write_1h_tokens: get(row, 10)?,
        latency_ms: get(row, 11)?,
        latency_count: get(row, 12)?,
        unpriced: get(row, 13)?,
        billed_input_tokens: get(row, 14)?,
        billed_output_tokens: get(row, 15)?,
    })
}

fn read_group(row: &Row) -> Result<Option<Group>, StoreError> {
    let Some(dimension) = Dimension::named(get(row, 0)?) else { return Ok(None) };
    let bucket: Option<Timestamp> = maybe_time(row, 4)?;
    Ok(Some(Group {
        dimension,
        is_other: get(row, 1)?,
        key: get(row, 2)?,
        label: get(row, 3)?,
        bucket,
        cost: MicroUsd(get(row, 5)?),
        tokens: get(row, 6)?,
        requests: get(row, 7)?,
    }))
}

fn read(row: &Row) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        id: get(row, 0)?,
        api_key_id: get(row, 1)?,
        api_key_name: get(row, 2)?,
        user_id: get(row, 3)?,
        user_alias: get(row, 4)?,
        timestamp: time(row, 5)?,
        model: get(row, 6)?,
        provider: get(row, 7)?,
        endpoint: get(row, 8)?,
        prompt_tokens: get(row, 9)?,
        completion_tokens: get(row, 10)?,
        total_tokens: get(row, 11)?,
        cache_read_tokens: get(row, 12)?,
        cache_write_tokens: get(row, 13)?,
        cache_write_1h_tokens: get(row, 14)?,
        cost: get::<Option<i64>>(row, 15)?.map(MicroUsd),
        status: get(row, 16)?,
        error_message: get(row, 17)?,
        status_code: get(row, 18)?,
        latency_ms: get(row, 19)?,
        source: get(row, 20)?,
        source_label: get(row, 21)?,
        policy_name: get(row, 22)?,
        selection_reason: get(row, 23)?,
        attempt_position: get(row, 24)?,
        attempt_count: get(row, 25)?,
        request_group_id: get(row, 26)?,
        counts_toward_budget: get(row, 27)?,
    })
}
