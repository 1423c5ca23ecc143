//! Batches of calls: those of providers that have such an API are passed on to it, the others are run here, item by item,
//! at low priority.
//!
//! A batch is its maker's: nobody else sees it, the operator apart. One that is passed on holds what all its items may
//! cost from its creation on; the items of the others hold it one by one. What it used is charged once, when its results
//! are first read to their end, by a caller or by the service that asks after batches nobody asks after.

mod accounts;
mod held;
mod lines;
mod make;
mod manage;
mod output;
mod remote;
mod runner;
mod watcher;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use jiff::SignedDuration;
use otari_filters::batches::{Counts, Document, has_ended};
use otari_filters::control::Caller;
use otari_filters::providers::{self, PROVIDERS};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::Upstream;
use serde_json::{Map, Value, json};

use crate::app::Standalone;
use crate::store::BatchRow;

pub use accounts::{CREATED, FETCHED, Tally, record};
pub use held::Held;
pub use lines::{Lines, Results};
pub use make::{Order, make};
pub use manage::{cancel, find, get, list, results};
pub use runner::Runner;
pub use watcher::Watcher;

/// Most items in one batch.
pub const MAX_ITEMS: usize = 10_000;
/// Batches that ended so long ago are removed with their items.
const KEEP: SignedDuration = SignedDuration::from_hours(24 * 30);

/// What the room needs of the proxy.
#[async_trait]
pub trait Inner: Send + Sync {
    /// Makes a chat completion as if `caller` had asked for it.
    async fn complete(&self, caller: Caller, body: Bytes) -> InnerAnswer;
    /// Whether callers keep the gateway busy. `own`: how many of its calls in flight are the room's.
    fn is_busy(&self, own: usize) -> bool;
}

/// What a call of the gateway's own got.
#[derive(Clone, Debug)]
pub struct InnerAnswer {
    /// HTTP status.
    pub status: u16,
    /// As a caller would see them.
    pub headers: HeaderMap,
    /// Whole.
    pub body: Bytes,
}

/// Who asks for a batch that exists.
#[derive(Clone, Debug)]
pub enum Asker {
    /// The operator: sees all.
    Operator,
    /// A user: sees their own, and those that nobody is known to own.
    User(Arc<str>),
}

impl Asker {
    /// Who a caller is here.
    ///
    /// # Errors
    /// `key_without_user`.
    pub fn of(caller: &Caller) -> Result<Self, Rejection> {
        match caller {
            Caller::Master => Ok(Self::Operator),
            Caller::Key { user_id: Some(user), .. } => Ok(Self::User(user.clone())),
            Caller::Key { user_id: None, .. } | Caller::Bearer(_) => {
                Err(Rejection::new(Code::KeyWithoutUser, "API key has no associated user"))
            }
        }
    }

    /// Whether a batch of this owner is theirs to see.
    fn may_see(&self, owner: Option<&str>) -> bool {
        match self {
            Self::Operator => true,
            Self::User(user) => owner.is_none_or(|owner| *owner == **user),
        }
    }

    /// The user; `None` for the operator.
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Operator => None,
            Self::User(user) => Some(user),
        }
    }
}

/// The refusal of a batch that is not there, or not theirs.
fn not_found(id: &str) -> Rejection {
    Rejection::new(Code::NotFound, format!("Batch '{id}' not found"))
}

/// The configured provider that `name` stands for, however it is spelled.
///
/// # Errors
/// `invalid_value`: the gateway knows no such provider, or has no credentials for it.
fn upstream(app: &Standalone, name: &str) -> Result<Arc<Upstream>, Rejection> {
    let asked = name.trim();
    let lower = asked.to_ascii_lowercase();
    let table = app.local.table.load();
    if let Some(found) = table.provider(asked).or_else(|| table.provider(&lower)) {
        return Ok(found.upstream.clone());
    }
    let message = if providers::find(&lower).is_some() {
        format!("Provider '{name}' is not configured: add it under providers in config.yml")
    } else {
        let known: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
        format!("'{name}' is not a supported provider. Supported providers: {}", known.join(", "))
    };
    Err(Rejection::new(Code::InvalidValue, message))
}

/// A batch that the gateway runs, as OpenAI's API would show it.
fn own_document(row: &BatchRow) -> Document {
    let epoch = |at: Option<jiff::Timestamp>| at.map(|at| at.as_second());
    let ended_as = |status: &str| epoch(row.ended_at).filter(|_| row.status == status);
    let document = json!({
        "id": row.id,
        "completion_window": row.completion_window,
        "created_at": row.created_at.as_second(),
        "endpoint": row.endpoint,
        "input_file_id": row.input_file_id.as_deref().unwrap_or_default(),
        "object": "batch",
        "status": row.status,
        "cancelled_at": ended_as("cancelled"),
        "cancelling_at": epoch(row.cancelling_at),
        "completed_at": ended_as("completed"),
        "expired_at": ended_as("expired"),
        "expires_at": epoch(row.expires_at),
        "finalizing_at": ended_as("completed"),
        "in_progress_at": epoch(row.in_progress_at),
        "metadata": row.metadata,
        "model": row.selector,
        "request_counts": {"completed": row.completed, "failed": row.failed, "total": row.total},
    });
    match document {
        Value::Object(document) => Document(document),
        _ => Document::default(),
    }
}

/// A batch that is its provider's, as far as the gateway knows by itself.
fn known_document(row: &BatchRow) -> Document {
    own_document(row)
}

/// A batch as its asker sees it. `provider`: as they named it.
fn shown(document: Document, provider: &str, row: Option<&BatchRow>) -> Map<String, Value> {
    document.shown(provider, row.and_then(|row| row.metadata.as_ref()))
}

/// The state of a batch, for the store.
fn state_of(document: &Document) -> crate::store::BatchState {
    let Counts { total, completed, failed } = document.counts();
    crate::store::BatchState { status: document.status().to_owned(), total, completed, failed }
}

/// The refusal of results that are not there yet.
fn not_complete(id: &str, status: &str, provider: &str) -> Rejection {
    debug_assert!(!has_ended(status));
    let message = format!(
        "Batch '{id}' is not yet complete (status: {status}). Call GET /v1/batches/{id}?provider={provider} to check \
         the current status."
    );
    Rejection::new(Code::Conflict, message)
}
