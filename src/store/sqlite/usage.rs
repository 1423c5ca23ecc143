//! `usage_logs` in SQLite, as it is read.

use rusqlite::{Connection, Row, params};

use super::codec::Read;
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UsageFilter, UsageRow};

macro_rules! list {
    ($and:literal) => {
        concat!(
            "-- usage_list
             SELECT l.id, l.api_key_id, k.key_name, l.user_id, u.alias, l.timestamp, l.model, l.provider, l.endpoint,
                 l.prompt_tokens, l.completion_tokens, l.total_tokens, l.cache_read_tokens, l.cost, l.status,
                 l.error_message, l.status_code, l.latency_ms, l.attempt_position, l.attempt_count,
                 l.request_group_id, l.counts_toward_budget
             FROM usage_logs l
             LEFT JOIN api_keys k ON k.id = l.api_key_id
             LEFT JOIN users u ON u.user_id = l.user_id
             WHERE l.timestamp >= coalesce(?1, '') AND l.timestamp < coalesce(?2, ':')",
            $and,
            " ORDER BY l.timestamp DESC, l.id DESC LIMIT ?4 OFFSET ?5"
        )
    };
}

/// One text per index: with an optional user in one text, neither index would be sure to be used.
pub(super) fn usage_list(
    db: &Connection,
    filter: &UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>, StoreError> {
    let sql = if filter.user_id.is_some() {
        list!(" AND l.user_id = ?3")
    } else {
        list!(" AND ?3 IS NULL")
    };
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(
        params![
            filter.start.map(Instant::from),
            filter.end.map(Instant::from),
            filter.user_id,
            page.limit,
            page.skip
        ],
        read,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
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
        cost: row.get::<_, Option<Read<_>>>(13)?.map(|cost| cost.0),
        status: row.get(14)?,
        error_message: row.get(15)?,
        status_code: row.get(16)?,
        latency_ms: row.get(17)?,
        attempt_position: row.get(18)?,
        attempt_count: row.get(19)?,
        request_group_id: row.get(20)?,
        counts_toward_budget: row.get(21)?,
    })
}
