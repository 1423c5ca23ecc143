//! `model_aliases` in PostgreSQL.

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;

use super::codec::{get, time};
use crate::store::values::Instant;
use crate::store::{AliasRow, StoreError};

macro_rules! columns {
    () => {
        "id, name, target, user_id, created_at, updated_at"
    };
}

fn read(row: &Row) -> Result<AliasRow, StoreError> {
    Ok(AliasRow {
        id: get(row, 0)?,
        name: get(row, 1)?,
        target: get(row, 2)?,
        user_id: get(row, 3)?,
        created_at: time(row, 4)?,
        updated_at: time(row, 5)?,
    })
}

pub(super) async fn alias_all(db: &impl GenericClient) -> Result<Vec<AliasRow>, StoreError> {
    let sql = concat!(
        "-- alias_all\nSELECT ",
        columns!(),
        " FROM model_aliases ORDER BY name COLLATE \"C\", user_id COLLATE \"C\" NULLS FIRST"
    );
    let statement = db.prepare_cached(sql).await?;
    db.query(&statement, &[]).await?.iter().map(read).collect()
}

/// An alias of one user and one of everybody are kept apart by two unique indexes, and a statement can name one.
pub(super) async fn alias_put(
    db: &impl GenericClient,
    alias: &AliasRow,
) -> Result<AliasRow, StoreError> {
    macro_rules! upsert {
        ($index:literal) => {
            concat!(
                "-- alias_put\nINSERT INTO model_aliases (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT ",
                $index,
                " DO UPDATE SET target = excluded.target, updated_at = excluded.updated_at RETURNING ",
                columns!()
            )
        };
    }
    let sql = match alias.user_id {
        Some(_) => upsert!("(name, user_id)"),
        None => upsert!("(name) WHERE user_id IS NULL"),
    };
    let statement = db.prepare_cached(sql).await?;
    let (created_at, updated_at) =
        (Instant::from(alias.created_at), Instant::from(alias.updated_at));
    let row = db
        .query_one(
            &statement,
            &[&alias.id, &alias.name, &alias.target, &alias.user_id, &created_at, &updated_at],
        )
        .await?;
    read(&row)
}

pub(super) async fn alias_delete(
    db: &impl GenericClient,
    name: &str,
    user_id: Option<&str>,
) -> Result<bool, StoreError> {
    let sql = "-- alias_delete\nDELETE FROM model_aliases WHERE name = $1 AND user_id IS NOT DISTINCT FROM $2";
    let statement = db.prepare_cached(sql).await?;
    Ok(db.execute(&statement, &[&name, &user_id]).await? > 0)
}
