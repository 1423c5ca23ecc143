//! `usage_logs` in PostgreSQL, as it is read.

use deadpool_postgres::GenericClient;
use otari_filters::money::MicroUsd;
use tokio_postgres::Row;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{Page, StoreError, UsageFilter, UsageRow};

macro_rules! list {
    ($and:literal) => {
        concat!(
            "-- usage_list
             SELECT l.id, l.api_key_id, k.key_name, l.user_id, u.alias, l.\"timestamp\", l.model, l.provider,
                 l.endpoint, l.prompt_tokens, l.completion_tokens, l.total_tokens, l.cache_read_tokens,
                 (l.cost * 1000000)::int8, l.status, l.error_message, l.status_code, l.latency_ms,
                 l.attempt_position, l.attempt_count, l.request_group_id, l.counts_toward_budget
             FROM usage_logs l
             LEFT JOIN api_keys k ON k.id = l.api_key_id
             LEFT JOIN users u ON u.user_id = l.user_id
             WHERE l.\"timestamp\" >= coalesce($1, '-infinity'::timestamptz)
               AND l.\"timestamp\" < coalesce($2, 'infinity'::timestamptz)",
            $and,
            " ORDER BY l.\"timestamp\" DESC, l.id COLLATE \"C\" DESC LIMIT $4 OFFSET $5"
        )
    };
}

/// One text per index: with an optional user in one text, a cached plan could use neither.
pub(super) async fn usage_list(
    db: &impl GenericClient,
    filter: &UsageFilter,
    page: Page,
) -> Result<Vec<UsageRow>, StoreError> {
    let sql = if filter.user_id.is_some() {
        list!(" AND l.user_id = $3")
    } else {
        list!(" AND $3::text IS NULL")
    };
    let statement = db.prepare_cached(sql).await?;
    let rows = db
        .query(
            &statement,
            &[
                &filter.start.map(Instant::from),
                &filter.end.map(Instant::from),
                &filter.user_id,
                &page.limit,
                &page.skip,
            ],
        )
        .await;
    rows?.iter().map(read).collect()
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
        cost: get::<Option<i64>>(row, 13)?.map(MicroUsd),
        status: get(row, 14)?,
        error_message: get(row, 15)?,
        status_code: get(row, 16)?,
        latency_ms: get(row, 17)?,
        attempt_position: get(row, 18)?,
        attempt_count: get(row, 19)?,
        request_group_id: get(row, 20)?,
        counts_toward_budget: get(row, 21)?,
    })
}
