//! One provider's list: as it was last heard, how old it is, and whether it is being asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use otari_filters::providers::Operation;
use otari_filters::providers::list::Listed;
use otari_filters::upstream::Upstream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::STALE_AT_MOST;
use crate::clock;
use crate::control::settings::Settings;
use crate::outbound::ListError;

/// The models of a provider.
#[derive(Debug, Default)]
pub struct Known {
    models: Vec<Arc<Listed>>,
    /// Places in `models`.
    by_id: HashMap<Box<str>, usize>,
}

impl Known {
    /// Of two models of one name the first is kept.
    pub(super) fn new(listed: Vec<Listed>) -> Self {
        let mut known = Self::default();
        for model in listed {
            if !known.by_id.contains_key(&model.id) {
                known.by_id.insert(model.id.clone(), known.models.len());
                known.models.push(Arc::new(model));
            }
        }
        known
    }

    /// All of them, in the provider's order.
    pub fn models(&self) -> &[Arc<Listed>] {
        &self.models
    }

    /// The one of this name.
    pub fn model(&self, id: &str) -> Option<&Arc<Listed>> {
        self.by_id.get(id).and_then(|at| self.models.get(*at))
    }
}

/// Why a list was not got.
#[derive(Clone, Debug)]
pub struct Failed {
    at: Instant,
    /// The reason.
    pub error: ListError,
}

/// What was last heard.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    known: Option<(Arc<Known>, Instant)>,
    /// Since then.
    pub(super) failed: Option<Failed>,
    /// Microseconds since 1970.
    pub(super) checked_at_us: i64,
}

/// What must be done before a list can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It is known, or known not to be had.
    Nothing,
    /// It is old: good enough for now.
    Renewal,
    /// There is none.
    Wait,
}

/// One provider's list.
pub(super) struct Entry {
    pub(super) upstream: Arc<Upstream>,
    /// There is something to ask it with.
    pub(super) has_credential: bool,
    state: ArcSwap<State>,
    is_asked: AtomicBool,
    /// When somebody last wanted to see it.
    wanted: Mutex<Option<Instant>>,
    /// Counts outcomes.
    rounds: watch::Sender<u64>,
}

impl Entry {
    pub(super) fn new(upstream: Arc<Upstream>, has_credential: bool) -> Self {
        Self {
            upstream,
            has_credential,
            state: ArcSwap::default(),
            is_asked: AtomicBool::new(false),
            wanted: Mutex::new(None),
            rounds: watch::Sender::new(0),
        }
    }

    /// Whether its API has one.
    pub(super) fn has_list(&self) -> bool {
        self.upstream.kind.offers(Operation::ListModels)
    }

    fn can_be_asked(&self) -> bool {
        self.has_credential && self.has_list()
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// The newest list, whatever its age.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.state.load().known.as_ref().map(|(known, _)| known.clone())
    }

    /// The list to show: not one that could not be renewed for very long.
    pub(super) fn shown(&self, settings: &Settings, now: Instant) -> Option<Arc<Known>> {
        let state = self.state.load();
        let (known, since) = state.known.as_ref()?;
        let age = now.saturating_duration_since(*since);
        let is_good = match settings.model_cache_ttl.is_zero() {
            // Nothing is kept: what came with the last question, or nothing.
            true => state.failed.is_none(),
            false => age < settings.model_cache_ttl + STALE_AT_MOST,
        };
        is_good.then(|| known.clone())
    }

    pub(super) fn need(&self, settings: &Settings, now: Instant) -> Need {
        if !self.can_be_asked() {
            return Need::Nothing;
        }
        let state = self.state.load();
        let since = |then: Instant| now.saturating_duration_since(then);
        let failed_lately = state
            .failed
            .as_ref()
            .is_some_and(|failed| since(failed.at) < settings.model_discovery_negative_ttl);
        let age = state.known.as_ref().map(|(_, then)| since(*then));
        let ttl = settings.model_cache_ttl;
        match age {
            Some(age) if age < ttl => Need::Nothing,
            _ if failed_lately => Need::Nothing,
            Some(age) if !ttl.is_zero() && age < ttl + STALE_AT_MOST => Need::Renewal,
            _ => Need::Wait,
        }
    }

    /// Whether it is to be renewed although nobody waits: it was asked for since it came, and a fifth of its time is
    /// left.
    pub(super) fn is_due(&self, settings: &Settings, now: Instant) -> bool {
        let state = self.state.load();
        let Some((_, since)) = &state.known else { return false };
        let (ttl, wanted) = (settings.model_cache_ttl, *self.wanted.lock());
        let is_wanted = wanted.is_some_and(|wanted| wanted > *since);
        let is_old = now.saturating_duration_since(*since) >= ttl - ttl / 5;
        let failed_lately = state.failed.as_ref().is_some_and(|failed| {
            now.saturating_duration_since(failed.at) < settings.model_discovery_negative_ttl
        });
        self.can_be_asked() && !ttl.is_zero() && is_wanted && is_old && !failed_lately
    }

    /// Somebody wants to see it.
    pub(super) fn touch(&self, now: Instant) {
        *self.wanted.lock() = Some(now);
    }

    /// Tells of outcomes from now on.
    pub(super) fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Whether the caller is the one who has it asked for; then `end` must follow.
    pub(super) fn begin(&self) -> bool {
        self.can_be_asked() && !self.is_asked.swap(true, Ordering::AcqRel)
    }

    /// Whether this is not the reason that was there before.
    pub(super) fn is_news(&self, error: &ListError) -> bool {
        self.state.load().failed.as_ref().is_none_or(|failed| failed.error != *error)
    }

    pub(super) fn end(&self, outcome: Result<Known, ListError>) {
        let checked_at_us = clock::now_us();
        let now = Instant::now();
        let next = match outcome {
            Ok(known) => State { known: Some((Arc::new(known), now)), failed: None, checked_at_us },
            Err(error) => {
                let before = self.state.load();
                // A credential that is refused sees nothing any more.
                let known = match &error {
                    ListError::Refused(_) => None,
                    _ => before.known.clone(),
                };
                State { known, failed: Some(Failed { at: now, error }), checked_at_us }
            }
        };
        self.state.store(Arc::new(next));
        self.is_asked.store(false, Ordering::Release);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}
