//! Asking a provider which models it has, page by page.

use std::fmt;
use std::time::Duration;

use http::header::ACCEPT;
use otari_filters::providers::list::{self, Listed, MAX_MODELS, MAX_PAGES, NoList, Page};
use otari_filters::upstream::Upstream;
use tokio::time::{Instant, timeout_at};

use super::{Call, Error, Outbound};

/// The longest lists, of resellers, take a few MiB.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Why a provider has no list to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListError {
    /// Its API has no list to ask for.
    Unsupported,
    /// A setting of its client makes no path.
    Setting(&'static str),
    /// It did not take the credential: the status.
    Refused(u16),
    /// It answered that it has no such list, with this status.
    NoSuchList(u16),
    /// It wants fewer calls.
    Limited,
    /// It answered with another status.
    Status(u16),
    /// It answered, and not with a list.
    NotAList,
    /// It gave no whole answer.
    Failed(Error),
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("no list endpoint"),
            Self::Setting(name) => write!(f, "{name} cannot stand in an address"),
            Self::Refused(status) => write!(f, "credential refused ({status})"),
            Self::NoSuchList(status) => write!(f, "it lists no models ({status})"),
            Self::Limited => f.write_str("it limits the rate (429)"),
            Self::Status(status @ 300..=399) => {
                write!(f, "it leads elsewhere ({status}). Is api_base right?")
            }
            Self::Status(status) => write!(f, "it answers {status}"),
            Self::NotAList => f.write_str("the answer is no list of models. Is api_base right?"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListError {}

/// The provider's models, in its own order; `within` bounds all that it takes.
///
/// # Errors
/// When there is no list. A part of it that is only an addition may be missing from one.
pub async fn models(
    outbound: &Outbound,
    upstream: &Upstream,
    within: Duration,
) -> Result<Vec<Listed>, ListError> {
    let until = Instant::now() + within;
    let parts = list::pages(upstream).map_err(|none| match none {
        NoList::Unsupported => ListError::Unsupported,
        NoList::Setting(name) => ListError::Setting(name),
    })?;
    let mut models = Vec::new();
    for first in parts {
        let is_extra = first.is_extra;
        match part(outbound, upstream, first, until, &mut models).await {
            Err(error) if !is_extra => return Err(error),
            Err(error) => {
                let provider = &*upstream.instance;
                tracing::debug!(provider, %error, "a part of its list of models is missing");
            }
            Ok(()) => {}
        }
    }
    models.truncate(MAX_MODELS);
    Ok(models)
}

async fn part(
    outbound: &Outbound,
    upstream: &Upstream,
    first: Page,
    until: Instant,
    models: &mut Vec<Listed>,
) -> Result<(), ListError> {
    let mut next = Some(first);
    for _ in 0..MAX_PAGES {
        let Some(page) = next.take() else { break };
        let asked = timeout_at(until, one(outbound, upstream, &page, until));
        let (more, after) = asked.await.map_err(|_| ListError::Failed(Error::Timeout))??;
        models.extend(more);
        // A page that leads to itself would lead there for ever.
        next = after.filter(|after| *after != page && models.len() < MAX_MODELS);
    }
    Ok(())
}

async fn one(
    outbound: &Outbound,
    upstream: &Upstream,
    page: &Page,
    until: Instant,
) -> Result<(Vec<Listed>, Option<Page>), ListError> {
    let within = until.saturating_duration_since(Instant::now());
    let mut call = Call::get(page.path_and_query.clone(), within, MAX_ANSWER_BYTES);
    call.authority = page.authority.clone();
    if let Some(accept) = &page.accept {
        call.headers.insert(ACCEPT, accept.clone());
    }
    let answer = outbound.call(upstream, call).await.map_err(ListError::Failed)?;
    match answer.status {
        200..=299 => page.read(&answer.body).map_err(|_| ListError::NotAList),
        status @ (401 | 403) => Err(ListError::Refused(status)),
        status @ (404 | 405) => Err(ListError::NoSuchList(status)),
        429 => Err(ListError::Limited),
        status => Err(ListError::Status(status)),
    }
}
