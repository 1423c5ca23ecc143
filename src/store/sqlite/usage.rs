//! `usage_logs` in SQLite, as it is read.

use std::collections::HashMap;
use std::mem;

use otari_filters::money::MicroUsd;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, Row, ToSql, params_from_iter};

use super::codec::{self, Read};
use crate::store::analytics::plan::{Descent, Grain, Known, Plan};
use crate::store::analytics::sql::{self, SQLITE, Statement};
use crate::store::analytics::{
    Dimension, Group, Param, Report, Reported, SEEK_FROM, Totals, UsageFilter,
};
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UsageRow};

impl ToSql for Param {
    /// Lists travel as JSON.
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Time(at) => return at.to_sql(),
            Self::Times(many) => {
                let texts = many.iter().map(|at| codec::text(*at));
                json(&texts.collect::<rusqlite::Result<Vec<_>>>()?)?
            }
            Self::Text(text) => return text.to_sql(),
            Self::Texts(many) => json(many)?,
            Self::Int(number) => return number.to_sql(),
            Self::Big(number) => return number.to_sql(),
        })
    }
}

fn json(texts: &[String]) -> rusqlite::Result<ToSqlOutput<'static>> {
    let text = serde_json::to_string(texts)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    Ok(ToSqlOutput::from(text))
}

/// Not kept prepared: the texts are as many as there are ways to ask.
fn ask<T>(
    db: &Connection,
    statement: &Statement,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut prepared = db.prepare(&statement.sql)?;
    let rows = prepared.query_map(params_from_iter(&statement.params), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn usage_list(
    db: &Connection,
    filter: &UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>, StoreError> {
    let (filter, skip) = match filter.single() {
        Some(single) if page.skip >= SEEK_FROM => seek(db, filter, single, page.skip)?,
        _ => (filter.clone(), page.skip),
    };
    ask(db, &sql::list(&SQLITE, &filter, skip, page.limit), read)
}

/// The same page, counted from the end of the hour in which it begins.
fn seek(
    db: &Connection,
    filter: &UsageFilter,
    single: Option<(Dimension, Vec<String>)>,
    mut skip: i64,
) -> Result<(UsageFilter, i64), StoreError> {
    let Some((start, end)) = span(db, filter)? else { return Ok((filter.clone(), skip)) };
    let mut plan = Plan::new(start, end, &known(db, start, end)?, Grain::Hour);
    let Some(descent) = Descent::new(&plan) else { return Ok((filter.clone(), skip)) };
    let hourly = sql::hourly(&SQLITE, mem::take(&mut plan.sums[0]), single);
    let rows: HashMap<i64, i64> =
        ask(db, &hourly, |row| Ok((row.get::<_, Instant>(0)?.0, row.get(1)?)))?
            .into_iter()
            .collect();
    for (from, until, has_sums) in descent.pieces() {
        let piece = UsageFilter {
            start: Some(codec::timestamp(*from)?),
            end: Some(codec::timestamp(*until)?),
            ..filter.clone()
        };
        let count = if *has_sums {
            rows.get(&from.0).copied().unwrap_or(0)
        } else {
            tally(db, &sql::count_rows(&SQLITE, &piece))?
        };
        if count > skip {
            return Ok((UsageFilter { end: piece.end, ..filter.clone() }, skip));
        }
        skip -= count;
    }
    // Behind the last row.
    Ok((UsageFilter { end: Some(codec::timestamp(start)?), ..filter.clone() }, 0))
}

/// The window of a filter, cut to the rows there are; `None` when there are none.
fn span(db: &Connection, filter: &UsageFilter) -> Result<Option<(Instant, Instant)>, StoreError> {
    // Two questions: SQLite finds one end of an index at once, but not both.
    let end = |order: &str| {
        let sql = format!("-- usage_count\nSELECT {order}(timestamp) FROM usage_logs");
        db.query_row(&sql, [], |row| row.get::<_, Option<Instant>>(0))
    };
    let (oldest, newest) = (end("min")?, end("max")?);
    Ok(oldest.zip(newest).map(|(oldest, newest)| filter.within(oldest, newest)))
}

pub(super) fn known(db: &Connection, start: Instant, end: Instant) -> Result<Known, StoreError> {
    let mut known = Known::default();
    let rows = ask(db, &sql::known(&SQLITE, start, end), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Instant>(1)?))
    })?;
    rows.iter().for_each(|(kind, at)| known.note(kind, *at));
    Ok(known)
}

fn tally(db: &Connection, statement: &Statement) -> Result<i64, StoreError> {
    Ok(ask(db, statement, |row| row.get::<_, i64>(0))?.into_iter().sum())
}

pub(super) fn usage_count(db: &Connection, filter: &UsageFilter) -> Result<i64, StoreError> {
    if let Some(rest) = filter.but_for_success() {
        let unusual = tally(db, &sql::count_unusual(&SQLITE, &rest))?;
        return Ok(count(db, &rest)? - unusual);
    }
    count(db, filter)
}

fn count(db: &Connection, filter: &UsageFilter) -> Result<i64, StoreError> {
    let Some(single) = filter.single() else {
        return tally(db, &sql::count_rows(&SQLITE, filter));
    };
    let Some((start, end)) = span(db, filter)? else { return Ok(0) };
    let plan = Plan::new(start, end, &known(db, start, end)?, Grain::Week);
    tally(db, &sql::count(&SQLITE, plan, filter, single))
}

pub(super) fn usage_report(
    db: &Connection,
    filter: &UsageFilter,
    report: &Report,
) -> Result<Reported, StoreError> {
    let (start, end) = (report.start.into(), report.end.into());
    // Sums are of all rows: what is filtered is summed up anew.
    let known = match filter.single() {
        Some(None) => Some(known(db, start, end)?),
        _ => None,
    };
    let plan = |coarsest: Grain| match &known {
        Some(known) => Plan::new(start, end, known, coarsest),
        None => Plan::rows(start, end),
    };
    let totals = sql::totals(&SQLITE, plan(report.bucket.into()), filter, report.bucket);
    let totals = ask(db, &totals, |row| Ok((row.get::<_, Read<_>>(0)?.0, read_totals(row)?)))?;
    let mut groups = Vec::new();
    if !report.dimensions.is_empty() {
        let coarsest = if report.is_split { report.bucket.into() } else { Grain::Week };
        let statement = sql::groups(&SQLITE, plan(coarsest), filter, report);
        groups = ask(db, &statement, read_group)?.into_iter().flatten().collect();
    }
    Ok(Reported { totals, groups })
}

fn read_totals(row: &Row<'_>) -> rusqlite::Result<Totals> {
    Ok(Totals {
        // Column 1 counts rows, which nobody asks of a report.
        requests: row.get(2)?,
        errors: row.get(3)?,
        cost: MicroUsd(row.get(4)?),
        prompt_tokens: row.get(5)?,
        completion_tokens: row.get(6)?,
        total_tokens: row.get(7)?,
        cache_read_tokens: row.get(8)?,
        cache_write_tokens: row.get(9)?,
        cache_write_1h_tokens: row.get(10)?,
        latency_ms: row.get(11)?,
        latency_count: row.get(12)?,
        unpriced: row.get(13)?,
        billed_input_tokens: row.get(14)?,
        billed_output_tokens: row.get(15)?,
    })
}

fn read_group(row: &Row<'_>) -> rusqlite::Result<Option<Group>> {
    let Some(dimension) = Dimension::named(&row.get::<_, String>(0)?) else { return Ok(None) };
    Ok(Some(Group {
        dimension,
        is_other: row.get(1)?,
        key: row.get(2)?,
        label: row.get(3)?,
        bucket: row.get::<_, Option<Read<_>>>(4)?.map(|at| at.0),
        cost: MicroUsd(row.get(5)?),
        tokens: row.get(6)?,
        requests: row.get(7)?,
    }))
}

fn read(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    Ok(UsageRow {
        id: row.get(0)?,
        api_key_id: row.get(1)?,
        api_key_name: row.get(2)?,
        user_id: row.get(3)?,
        user_alias: row.get(4)?,
        timestamp: row.get::<_, Read<_>>(5)?.0,
        model: row.get(6)?,
        provider: row.get(7)?,
        endpoint: row.get(8)?,
        prompt_tokens: row.get(9)?,
        completion_tokens: row.get(10)?,
        total_tokens: row.get(11)?,
        cache_read_tokens: row.get(12)?,
        cache_write_tokens: row.get(13)?,
        cache_write_1h_tokens: row.get(14)?,
        cost: row.get::<_, Option<Read<_>>>(15)?.map(|cost| cost.0),
        status: row.get(16)?,
        error_message: row.get(17)?,
        status_code: row.get(18)?,
        latency_ms: row.get(19)?,
        source: row.get(20)?,
        source_label: row.get(21)?,
        policy_name: row.get(22)?,
        selection_reason: row.get(23)?,
        attempt_position: row.get(24)?,
        attempt_count: row.get(25)?,
        request_group_id: row.get(26)?,
        counts_toward_budget: row.get(27)?,
    })
}
