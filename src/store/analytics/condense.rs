//! How rows become sums of hours, and hours sums of days; and how old rows go.

use super::sql::{COLUMNS, Dialect, MOST, NOT_LEFT_OUT, REQUESTS, joined, sum};
use super::{Bucket, Dimension};

/// The newest marked hour before parameter 1.
pub(in crate::store) fn next_hour(dialect: &Dialect) -> String {
    let before = dialect.instant(1);
    format!("-- usage_condense\nSELECT max(hour) FROM usage_rollup_marks WHERE hour < {before}")
}

/// The newest day that is over at parameter 1, has hours, no mark, and no sums.
pub(in crate::store) fn next_day(dialect: &Dialect) -> String {
    let day = dialect.start_of(Bucket::Day, "r.bucket");
    let marked = dialect.start_of(Bucket::Day, "m.hour");
    format!(
        "-- usage_condense
        SELECT max(h.day) FROM (
            SELECT DISTINCT {day} AS day FROM usage_rollups r WHERE r.grain = 'hour' AND r.bucket < {}
        ) h
        WHERE NOT EXISTS (SELECT 1 FROM usage_rollups d WHERE d.grain = 'day' AND d.bucket = h.day)
          AND NOT EXISTS (SELECT 1 FROM usage_rollup_marks m WHERE {marked} = h.day)",
        dialect.instant(1)
    )
}

/// Takes away what was known of an hour (parameter 1) of a day (parameter 2), mark included.
pub(in crate::store) fn forget_hour(dialect: &Dialect) -> [String; 3] {
    let (hour, day) = (dialect.instant(1), dialect.instant(2));
    let stale =
        format!("(grain = 'hour' AND bucket = {hour}) OR (grain = 'day' AND bucket = {day})");
    [
        // Both parameters stand in every text, so that the three are called alike.
        format!(
            "-- usage_condense\nDELETE FROM usage_rollup_marks WHERE hour = {hour} AND {day} IS NOT NULL"
        ),
        format!("-- usage_condense\nDELETE FROM usage_rollups WHERE {stale}"),
        format!("-- usage_condense\nDELETE FROM usage_rollup_groups WHERE {stale}"),
    ]
}

/// Sums up the rows from parameter 1 until parameter 2, an hour.
pub(in crate::store) fn sum_hour(dialect: &Dialect) -> [String; 2] {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let names = Dimension::ALL.map(|dimension| format!("('{}')", dimension.as_str())).join(", ");
    let (key, cost, tokens) = (dialect.key(), dialect.cost(), sum("l.total_tokens", MOST, ""));
    [
        format!(
            "-- usage_condense
            INSERT INTO usage_rollups (grain, bucket, {})
            SELECT 'hour', {from}, {} FROM usage_logs l
            WHERE l.timestamp >= {from} AND l.timestamp < {until} HAVING count(*) > 0",
            COLUMNS.join(", "),
            dialect.of_rows()
        ),
        format!(
            "-- usage_condense
            INSERT INTO usage_rollup_groups (grain, bucket, dimension, key, row_count, requests, cost, tokens)
            WITH d (dimension) AS (VALUES {names})
            SELECT 'hour', {from}, d.dimension, {key}, count(*), {REQUESTS}, {cost}, {tokens}
            FROM usage_logs l CROSS JOIN d
            WHERE l.timestamp >= {from} AND l.timestamp < {until} AND {NOT_LEFT_OUT}
            GROUP BY 3, 4"
        ),
    ]
}

/// Sums up the hours from parameter 1 until parameter 2, a day.
pub(in crate::store) fn sum_day(dialect: &Dialect) -> [String; 2] {
    let (from, until) = (dialect.instant(1), dialect.instant(2));
    let hours = format!("r.grain = 'hour' AND r.bucket >= {from} AND r.bucket < {until}");
    [
        format!(
            "-- usage_condense
            INSERT INTO usage_rollups (grain, bucket, {})
            SELECT 'day', {from}, {} FROM usage_rollups r WHERE {hours} HAVING count(*) > 0",
            COLUMNS.join(", "),
            joined(|column| format!("sum(r.{column})"))
        ),
        format!(
            "-- usage_condense
            INSERT INTO usage_rollup_groups (grain, bucket, dimension, key, row_count, requests, cost, tokens)
            SELECT 'day', {from}, r.dimension, r.key, sum(r.row_count), sum(r.requests), sum(r.cost), sum(r.tokens)
            FROM usage_rollup_groups r WHERE {hours} GROUP BY r.dimension, r.key"
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
