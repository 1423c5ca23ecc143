//! Batches that exist: found for whoever may see them, shown, listed, cancelled, read.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use otari_filters::batches::{Api, Document, has_ended};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::Upstream;
use otari_filters::validate::Faults;
use serde_json::{Map, Value};

use super::remote::Remote;
use super::{
    Asker, Lines, Results, known_document, not_complete, not_found, output, own_document, shown,
    state_of, upstream,
};
use crate::app::Standalone;
use crate::clock;
use crate::store::{BatchFilter, BatchRow};

/// Batches on a page, at most.
const MAX_PAGE: i64 = 100;
/// Pages of a provider that are read to fill one of ours: others' batches are left out of it.
const MAX_PAGES: i64 = 10;

/// A batch, as far as it is known without asking its provider.
pub struct Found {
    row: Option<BatchRow>,
    upstream: Arc<Upstream>,
    /// The provider as it was named.
    provider: String,
}

impl Found {
    fn remote<'a>(&'a self, app: &'a Standalone) -> Option<Remote<'a>> {
        let is_own = self.row.as_ref().is_some_and(|row| row.upstream_id.is_none());
        let api = Api::of(self.upstream.kind).filter(|_| !is_own)?;
        Some(Remote { outbound: &app.outbound, upstream: &self.upstream, api })
    }

    fn model(&self) -> Option<&str> {
        self.row.as_ref().map(|row| row.model.as_str())
    }

    /// What the provider says of it now. A batch that nobody here has made is its owner's if it says who that is.
    async fn ask(
        &self,
        app: &Standalone,
        remote: Remote<'_>,
        asker: &Asker,
        id: &str,
    ) -> Result<Document, Rejection> {
        let document = remote.get(id, self.model()).await?;
        match &self.row {
            Some(row) => note(app, row, &document).await?,
            None if !asker.may_see(document.owner()) => return Err(not_found(id)),
            None => {}
        }
        Ok(document)
    }
}

/// Keeps what a provider says of a batch.
pub(super) async fn note(
    app: &Standalone,
    row: &BatchRow,
    document: &Document,
) -> Result<(), Rejection> {
    let mut state = state_of(document);
    // Some tell no total before they have looked at all.
    state.total = state.total.max(row.total);
    let known = (&row.status, row.total, row.completed, row.failed);
    if known != (&state.status, state.total, state.completed, state.failed) {
        let ended = has_ended(&state.status).then(clock::now);
        app.store.batch_note(&row.provider, &row.id, &state, ended).await?;
    }
    Ok(())
}

/// Finds a batch. `provider`: as the caller names it; it may be left out where the batch is known here.
///
/// # Errors
/// `not_found` for other users' batches, as for those there are none of; `invalid_fields` when the provider must be said;
/// `invalid_value` when there is no such provider.
pub async fn find(
    app: &Standalone,
    asker: &Asker,
    id: &str,
    provider: Option<&str>,
) -> Result<Found, Rejection> {
    let Some(named) = provider else {
        let mut rows = app.store.batch_find(id, None).await?;
        rows.retain(|row| asker.may_see(row.user_id.as_deref()));
        return match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => {
                let upstream = upstream(app, &row.provider)?;
                Ok(Found { provider: row.provider.clone(), row: Some(row), upstream })
            }
            _ => Err(provider_missing()),
        };
    };
    let upstream = upstream(app, named)?;
    let row = app.store.batch_find(id, Some(&upstream.instance)).await?.pop();
    let is_foreign = row.as_ref().is_some_and(|row| !asker.may_see(row.user_id.as_deref()));
    let found = Found { row, upstream, provider: named.to_owned() };
    if is_foreign || (found.row.is_none() && found.remote(app).is_none()) {
        return Err(not_found(id));
    }
    Ok(found)
}

fn provider_missing() -> Rejection {
    let mut faults = Faults::default();
    let loc = ["query".into(), "provider".into()];
    faults.add("missing", &loc, "Field required", Value::Null, Value::Null);
    faults.into_rejection(Code::InvalidFields)
}

/// A batch as it is now.
///
/// # Errors
/// What the provider or the store says.
pub async fn get(
    app: &Standalone,
    asker: &Asker,
    id: &str,
    found: &Found,
) -> Result<Map<String, Value>, Rejection> {
    let document = match (found.remote(app), &found.row) {
        (Some(remote), _) => found.ask(app, remote, asker, id).await?,
        (None, Some(row)) => {
            let mut document = own_document(row);
            output::name(app, row, true, &mut document).await;
            document
        }
        (None, None) => return Err(not_found(id)),
    };
    Ok(shown(document, &found.provider, found.row.as_ref()))
}

/// Cancels a batch.
///
/// # Errors
/// As [`get`].
pub async fn cancel(
    app: &Standalone,
    asker: &Asker,
    id: &str,
    found: &Found,
) -> Result<Map<String, Value>, Rejection> {
    let document = match (found.remote(app), &found.row) {
        (Some(remote), row) => {
            if row.is_none() {
                found.ask(app, remote, asker, id).await?;
            }
            let document = remote.cancel(id, found.model()).await?;
            if let Some(row) = row {
                note(app, row, &document).await?;
            }
            document
        }
        (None, Some(row)) => {
            app.store.batch_cancel(id, clock::now()).await?;
            app.store.batch_sweep(clock::now()).await?;
            let now = app.store.batch_find(id, Some(&row.provider)).await?.pop();
            let now = now.as_ref().unwrap_or(row);
            let mut document = own_document(now);
            output::name(app, now, true, &mut document).await;
            document
        }
        (None, None) => return Err(not_found(id)),
    };
    Ok(shown(document, &found.provider, found.row.as_ref()))
}

/// The results of a batch that has ended, however it has.
///
/// # Errors
/// `conflict` while it has not; what the provider or the store says.
pub async fn results(
    app: &Standalone,
    asker: &Asker,
    id: &str,
    found: Found,
) -> Result<Results, Rejection> {
    let lines = match (found.remote(app), &found.row) {
        (Some(remote), row) => {
            let document = found.ask(app, remote, asker, id).await?;
            if !has_ended(document.status()) {
                return Err(not_complete(id, document.status(), &found.provider));
            }
            Lines::remote(remote, &document, row.as_ref()).await?
        }
        (None, Some(row)) if !has_ended(&row.status) => {
            return Err(not_complete(id, &row.status, &found.provider));
        }
        (None, Some(row)) => Lines::Own { batch: row.id.clone(), after: -1, page: VecDeque::new() },
        (None, None) => return Err(not_found(id)),
    };
    Ok(Results { row: found.row, upstream: found.upstream, lines })
}

/// A page of batches.
pub struct Listed {
    /// Newest first.
    pub batches: Vec<Map<String, Value>>,
    /// There are older ones.
    pub has_more: bool,
}

/// The asker's batches, of one provider or of all.
///
/// # Errors
/// What the provider or the store says.
pub async fn list(
    app: &Standalone,
    asker: &Asker,
    provider: Option<&str>,
    after: Option<&str>,
    limit: Option<i64>,
) -> Result<Listed, Rejection> {
    let limit = limit.unwrap_or(20).clamp(1, MAX_PAGE);
    let Some(named) = provider else { return known(app, asker, None, after, limit).await };
    let upstream = upstream(app, named)?;
    let Some(api) = Api::of(upstream.kind) else {
        return known(app, asker, Some((named, &upstream)), after, limit).await;
    };
    let remote = Remote { outbound: &app.outbound, upstream: &upstream, api };
    // Where the provider turned out to have no such API, its batches are all here.
    let own = known(app, asker, Some((named, &upstream)), after, limit);
    match theirs(app, asker, named, remote, after, limit).await {
        Err(refused) if refused.code == Code::ProviderNotFound => own.await,
        listed => listed,
    }
}

/// Batches as the store knows them.
async fn known(
    app: &Standalone,
    asker: &Asker,
    provider: Option<(&str, &Upstream)>,
    after: Option<&str>,
    limit: i64,
) -> Result<Listed, Rejection> {
    let filter = BatchFilter {
        user_id: asker.user().map(ToString::to_string),
        provider: provider.map(|(_, upstream)| upstream.instance.to_string()),
        ours_only: false,
        after: after.map(str::to_owned),
        limit: limit + 1,
    };
    let mut rows = app.store.batch_list(&filter).await?;
    let has_more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut batches = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut document = known_document(row);
        output::name(app, row, false, &mut document).await;
        let named = provider.map_or(row.provider.as_str(), |(named, _)| named);
        batches.push(shown(document, named, Some(row)));
    }
    Ok(Listed { batches, has_more })
}

/// Batches as their provider lists them, without those of others.
async fn theirs(
    app: &Standalone,
    asker: &Asker,
    named: &str,
    remote: Remote<'_>,
    after: Option<&str>,
    limit: i64,
) -> Result<Listed, Rejection> {
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut batches = Vec::new();
    let mut cursor = after.map(str::to_owned);
    // Where pages have numbers, what is before the cursor is passed over.
    let mut is_before = after.is_some() && !remote.has_cursor();
    for page in 0..MAX_PAGES {
        let list = remote.list(cursor.as_deref(), page, MAX_PAGE).await?;
        let ids: Vec<String> = list.batches.iter().map(|it| it.id().to_owned()).collect();
        let rows = app.store.batch_known(&remote.upstream.instance, &ids).await?;
        let rows: HashMap<&str, &BatchRow> = rows.iter().map(|row| (&*row.id, row)).collect();
        for document in list.batches {
            if is_before {
                is_before = Some(document.id()) != after;
                continue;
            }
            let row = rows.get(document.id()).copied();
            let owner = row.map_or(document.owner(), |row| row.user_id.as_deref());
            if !asker.may_see(owner) {
                continue;
            }
            if batches.len() == room {
                return Ok(Listed { batches, has_more: true });
            }
            batches.push(shown(document, named, row));
        }
        cursor = ids.last().cloned();
        if !list.has_more || ids.is_empty() {
            return Ok(Listed { batches, has_more: false });
        }
    }
    Ok(Listed { batches, has_more: true })
}
