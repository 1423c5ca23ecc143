//! How rows become sums of hours, and those the sums of days and weeks; and how old rows go.

use super::Dimension;
use super::plan::Grain;
use super::sql::{COLUMNS, Dialect, joined};
use crate::store::values::Instant;

/// What is known of each key of a dimension.
pub(in crate::store) const GROUP_COLUMNS: [&str; 4] = ["row_count", "requests", "cost", "tokens"];

/// Before all rows: 1 January of the year 1.
pub(in crate::store) const EVER: Instant = Instant(-62_135_596_800_000_000);

/// The newest marked hour before parameter 1.
pub(in crate::store) fn next_hour(dialect: &Dialect) -> String {
    let before = dialect.instant(1);
    format!("-- usage_condense\nSELECT max(hour) FROM usage_rollup_marks WHERE hour < {before}")
}

/// Takes away what was known of an hour: the mark (parameter 1), and the sums of each grain that it is in (parameters in
/// the order of [`Grain::ALL`]).
pub(in crate::store) fn forget_hour(dialect: &Dialect) -> [String; 3] {
    let is_stale = Grain::ALL
        .iter()
        .enumerate()
        .map(|(n, grain)| {
            format!("(grain = '{}' AND bucket = {})", grain.as_str(), dialect.instant(n + 1))
        })
        .collect::<Vec<_>>()
        .join(" OR ");
    [
        format!(
            "-- usage_condense\nDELETE FROM usage_rollup_marks WHERE hour = {}",
            dialect.instant(1)
        ),
        format!("-- usage_condense\nDELETE FROM usage_rollups WHERE {is_stale}"),
        format!("-- usage_condense\nDELETE FROM usage_rollup_groups WHERE {is_stale}"),
    ]
}

/// The sums of the rows from parameter 1 until parameter 2: [`COLUMNS`] of all of them, and [`GROUP_COLUMNS`] by dimension
/// and key.
pub(in crate::store) fn sums_of_rows(dialect: &Dialect) -> [String; 2] {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let within = format!("l.timestamp >= {from} AND l.timestamp < {until}");
    let split = dialect.split(&Dimension::ALL, None, "usage_logs l", &within);
    let of_groups = GROUP_COLUMNS.map(|column| format!("g.{column}")).join(", ");
    [
        format!("-- usage_condense\nSELECT {} FROM usage_logs l WHERE {within}", dialect.of_rows()),
        format!("-- usage_condense\nSELECT g.dimension, g.key, {of_groups} FROM ({split}) g"),
    ]
}

/// Writes sums of an hour: its beginning, then what [`sums_of_rows`] finds.
pub(in crate::store) fn insert_hour(dialect: &Dialect) -> [String; 2] {
    let marks = |count: usize| {
        let marks = (1..=count).map(|number| format!("{}{number}", dialect.mark));
        marks.collect::<Vec<_>>().join(", ")
    };
    [
        format!(
            "-- usage_condense\nINSERT INTO usage_rollups (grain, bucket, {}) VALUES ('hour', {})",
            COLUMNS.join(", "),
            marks(1 + COLUMNS.len())
        ),
        format!(
            "-- usage_condense
            INSERT INTO usage_rollup_groups (grain, bucket, dimension, key, {}) VALUES ('hour', {})",
            GROUP_COLUMNS.join(", "),
            marks(3 + GROUP_COLUMNS.len())
        ),
    ]
}

/// Sums up the rows from parameter 1 until parameter 2, an hour, and writes what they come to.
pub(in crate::store) fn sum_hour(dialect: &Dialect) -> [String; 2] {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let within = format!("l.timestamp >= {from} AND l.timestamp < {until}");
    let split = dialect.split(&Dimension::ALL, None, "usage_logs l", &within);
    [
        format!(
            "-- usage_condense
            INSERT INTO usage_rollups (grain, bucket, {})
            SELECT 'hour', {from}, {} FROM usage_logs l WHERE {within} HAVING count(*) > 0",
            COLUMNS.join(", "),
            dialect.of_rows()
        ),
        // In the order of the index, so that what a report reads together lies together.
        format!(
            "-- usage_condense
            INSERT INTO usage_rollup_groups (grain, bucket, dimension, key, row_count, requests, cost, tokens)
            SELECT 'hour', {from}, g.dimension, g.key, g.row_count, g.requests, g.cost, g.tokens
            FROM ({split}) g ORDER BY g.dimension"
        ),
    ]
}

/// Adds up the sums of the finer grain from parameter 1 until parameter 2.
pub(in crate::store) fn sum_finer(dialect: &Dialect, grain: Grain, finer: Grain) -> [String; 2] {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let (grain, finer) = (grain.as_str(), finer.as_str());
    let pieces = format!("r.grain = '{finer}' AND r.bucket >= {from} AND r.bucket < {until}");
    // Named, because a range of buckets alone would not use the index.
    let names = Dimension::ALL.map(|dimension| format!("'{}'", dimension.as_str())).join(", ");
    [
        format!(
            "-- usage_condense
            INSERT INTO usage_rollups (grain, bucket, {})
            SELECT '{grain}', {from}, {} FROM usage_rollups r WHERE {pieces} HAVING count(*) > 0",
            COLUMNS.join(", "),
            joined(|column| format!("sum(r.{column})"))
        ),
        format!(
            "-- usage_condense
            INSERT INTO usage_rollup_groups (grain, bucket, dimension, key, row_count, requests, cost, tokens)
            SELECT '{grain}', {from}, r.dimension, r.key, sum(r.row_count), sum(r.requests), sum(r.cost), sum(r.tokens)
            FROM usage_rollup_groups r WHERE {pieces} AND r.dimension IN ({names})
            GROUP BY r.dimension, r.key ORDER BY r.dimension"
        ),
    ]
}

/// Removes the oldest rows before parameter 1, at most parameter 2 of them.
pub(in crate::store) fn expire(dialect: &Dialect) -> String {
    let mark = dialect.mark;
    format!(
        "-- usage_expire
        DELETE FROM usage_logs WHERE id IN (
            SELECT id FROM usage_logs WHERE timestamp < {mark}1 ORDER BY timestamp LIMIT {mark}2)"
    )
}
