//! `changes`, which triggers fill, and the connection that listens for news of them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use deadpool_postgres::GenericClient;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Row};

use super::codec::get;
use crate::store::{Change, Kind, Notice, StoreError, values};

/// Changes older than this are forgotten; whoever was away for longer reads everything again.
const KEPT: &str = "1 hour";
/// Well before that.
const AWAY: Duration = Duration::from_secs(50 * 60);
/// More than this at once is read as everything.
const MANY: i64 = 10_000;

/// How far changes have been read.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The oldest transaction that was under way at the last look: whatever it changes comes from here on.
    xmin: Option<String>,
    /// Numbers seen from there on.
    seen: HashSet<i64>,
    /// When changes were last read.
    at: Option<Instant>,
}

/// What was changed since the last call; the first one starts the count.
pub(super) async fn changes(
    db: &impl GenericClient,
    cursor: &mut Cursor,
) -> Result<Option<Vec<Change>>, StoreError> {
    let Some(xmin) = &cursor.xmin else {
        let sql = "-- changes\nSELECT pg_snapshot_xmin(pg_current_snapshot())::text";
        cursor.xmin = Some(get(&db.query_one(&db.prepare_cached(sql).await?, &[]).await?, 0)?);
        return Ok(Some(Vec::new()));
    };
    if cursor.at.is_some_and(|at| at.elapsed() > AWAY) {
        *cursor = Cursor::default();
        return Ok(None);
    }
    let sql = "-- changes
        SELECT seq, kind, id, pg_snapshot_xmin(pg_current_snapshot())::text FROM changes
        WHERE xid >= $1::text::xid8 ORDER BY seq LIMIT $2";
    let rows = db.query(&db.prepare_cached(sql).await?, &[xmin, &(MANY + 1)]).await?;
    if rows.len() as i64 > MANY {
        *cursor = Cursor::default();
        return Ok(None);
    }
    cursor.at = Some(Instant::now());
    let Some(first) = rows.first() else { return Ok(Some(Vec::new())) };
    let xmin: String = get(first, 3)?;
    let mut seen = HashSet::with_capacity(rows.len());
    let mut changes = Vec::new();
    for row in &rows {
        let seq: i64 = get(row, 0)?;
        seen.insert(seq);
        if !cursor.seen.contains(&seq) {
            changes.extend(change(row)?);
        }
    }
    *cursor = Cursor { xmin: Some(xmin), seen, at: cursor.at };
    Ok(Some(changes))
}

fn change(row: &Row) -> Result<Option<Change>, StoreError> {
    let kind = match get::<&str>(row, 1)? {
        "api_keys" => Kind::Key,
        "users" => Kind::User,
        "budgets" => Kind::Budget,
        "model_pricing" => Kind::Price,
        "model_aliases" => Kind::Alias,
        "scoped_budgets" => Kind::Ceiling,
        "runtime_settings" => Kind::Setting,
        // Of a newer binary.
        _ => return Ok(None),
    };
    Ok(Some(Change { kind, id: get(row, 2)? }))
}

/// Lets go of what every gateway has read long ago.
pub(super) async fn forget(db: &impl GenericClient) -> Result<(), StoreError> {
    let sql = format!("-- forget\nDELETE FROM changes WHERE at < now() - interval '{KEPT}'");
    db.execute(&db.prepare_cached(&sql).await?, &[]).await?;
    Ok(())
}

/// What a message of the server means; `me` is not told of its own recalls.
fn notice(message: &AsyncMessage, me: &str) -> Option<Notice> {
    let AsyncMessage::Notification(notification) = message else { return None };
    if notification.channel() == "otari_changes" {
        return Some(Notice::Changed);
    }
    let (gateway, word, id): (String, String, String) =
        serde_json::from_str(notification.payload()).ok()?;
    let scope = values::scope(&word, &id)?;
    (gateway != me).then_some(Notice::Recall(scope))
}

/// Listens on a connection of its own until it breaks.
pub(super) async fn listen(
    config: &tokio_postgres::Config,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
    me: &str,
    notices: mpsc::Sender<Notice>,
) -> Result<(), StoreError> {
    let (client, mut connection) = config.connect(tls).await?;
    let listen = client.batch_execute("LISTEN otari_changes; LISTEN otari_leases");
    let pump = async {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let Some(notice) = notice(&message?, me) {
                // A full queue loses it: the poll finds changes, and whoever recalls asks again.
                let _ = notices.try_send(notice);
            }
        }
        Ok::<(), StoreError>(())
    };
    // The statement is answered by the pump; when it is done, the pump goes on.
    let listening = async {
        listen.await?;
        std::future::pending::<Result<(), StoreError>>().await
    };
    tokio::select! {
        ended = pump => ended,
        failed = listening => failed,
    }
}
