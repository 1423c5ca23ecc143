//! Limits that gateways have together: ten times a second each tells the database what was used and takes what it will
//! need; at once when a request waits for it. Beside it every gateway's requests under way.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use otari_filters::gcra::{Bucket, Rate};
use otari_filters::rates;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{Counted, Rates, State};
use crate::store::{RateAsk, RatePlaces, Shared, StoreError};
use crate::telemetry::metrics::Metrics;

/// Between two exchanges, in the middle.
const EVERY_MS: u64 = 100;
/// An answer that takes longer is as good as none.
const AT_MOST: Duration = Duration::from_secs(1);
/// Between two exchanges that requests wait for: what comes meanwhile goes together.
const GATHER: Duration = Duration::from_millis(5);
/// Limits that requests wait for; those of more are in the next exchange of all.
const MAX_HURRIED: usize = 10_000;
/// A subject that was used so lately is kept in step.
const ACTIVE_NS: i64 = 3_000_000_000;
/// After so long every other gateway that uses a subject has said so: two exchanges and what they take.
const SETTLED_NS: i64 = 400_000_000;
/// Between two counts of the gateways.
const COUNT_EVERY: u32 = 10;
/// Counts between two times that what is over is forgotten.
const FORGET_EVERY: u32 = 60;
/// Subjects of one statement.
const AT_ONCE: usize = 1000;

/// What is known of the other gateways.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// 0: nobody has counted them.
    gateways: AtomicU32,
    /// By subject: what other gateways have under way, and how many of them.
    places: ArcSwap<HashMap<String, (u32, u32)>>,
    /// The last exchange failed.
    is_away: AtomicBool,
    /// What requests wait for.
    hurried: Mutex<Vec<Limit>>,
    /// Rung when something was added.
    bell: Notify,
    /// The last exchange that requests wait for, and the last one that is over.
    begun: AtomicU64,
    over: watch::Sender<u64>,
}

/// One limit of one subject.
#[derive(Debug)]
struct Limit {
    /// What the database calls it.
    name: String,
    state: Arc<State>,
    is_tokens: bool,
    rate: Rate,
}

impl Limit {
    fn new(state: &Arc<State>, is_tokens: bool, rate: Rate) -> Self {
        let kind = if is_tokens { 't' } else { 'r' };
        Self { name: format!("{}:{kind}", state.key), state: state.clone(), is_tokens, rate }
    }

    fn bucket(&self) -> &Bucket {
        self.state.bucket(self.is_tokens)
    }
}

impl Sharing {
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// 0: nobody knows.
    pub(super) fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed)
    }

    /// Of how many parts of each limit this gateway has one when it hears nothing.
    pub(super) fn parts(&self) -> u32 {
        self.gateways().max(1)
    }

    pub(super) async fn count(&self, shared: &dyn Shared, forgets: bool) -> Result<(), StoreError> {
        let gateways = within(shared.rate_gateways(forgets)).await?;
        self.gateways.store(gateways, Ordering::Relaxed);
        Ok(())
    }

    /// Sees to it that there is an exchange about this limit soon; which one.
    pub(super) fn hurry(&self, state: &Arc<State>, is_tokens: bool, rate: Rate) -> u64 {
        if state.bucket(is_tokens).claim() {
            let mut hurried = self.hurried.lock();
            if hurried.len() < MAX_HURRIED {
                hurried.push(Limit::new(state, is_tokens, rate));
            }
        }
        // One that has begun may have looked before.
        let next = self.begun.load(Ordering::Acquire) + 1;
        self.bell.notify_one();
        next
    }

    /// Waits until that exchange is over, whatever became of it.
    pub(super) async fn over(&self, round: u64) {
        // The sender lives as long as this does.
        drop(self.over.subscribe().wait_for(|over| *over >= round).await);
    }

    /// Says how many requests of a subject this gateway may have under way.
    pub(super) fn allow(&self, state: &State, limit: NonZeroU32, now: i64) {
        let others = self.places.load().get(&*state.key).copied().unwrap_or_default();
        let is_settled = state.is_active(now)
            && now.saturating_sub(state.since.load(Ordering::Relaxed)) > SETTLED_NS;
        let own = state.under_way.count();
        let allowed = rates::places(limit, own, is_settled, others, self.parts());
        state.allowed.store(allowed, Ordering::Relaxed);
    }
}

impl State {
    fn is_active(&self, now: i64) -> bool {
        let used_at = self.used_at.load(Ordering::Relaxed);
        self.under_way.count() > 0 || (used_at > 0 && now - used_at < ACTIVE_NS)
    }
}

impl Rates {
    /// Keeps the limits in step with the other gateways, for as long as the process lives.
    pub async fn share(&self, shared: &dyn Shared, metrics: &Metrics) {
        let Some(sharing) = &self.sharing else { return };
        tokio::join!(
            self.keep_step(shared, sharing, metrics),
            self.answer_the_hurried(shared, sharing, metrics)
        );
    }

    async fn keep_step(&self, shared: &dyn Shared, sharing: &Sharing, metrics: &Metrics) {
        let mut turns = 0_u32;
        loop {
            let rules = self.rules.load_full();
            if !rules.is_empty() {
                let is_count = turns.is_multiple_of(COUNT_EVERY);
                let forgets = turns.is_multiple_of(COUNT_EVERY * FORGET_EVERY);
                let step = self.step(shared, sharing, &rules, is_count.then_some(forgets));
                note(sharing, metrics, step.await);
                turns = turns.wrapping_add(1);
            }
            // Out of step with the others: whoever came right behind another would find nothing left each time.
            let odd = self.hash(turns) % (EVERY_MS / 2);
            tokio::time::sleep(Duration::from_millis(EVERY_MS * 3 / 4 + odd)).await;
        }
    }

    async fn answer_the_hurried(&self, shared: &dyn Shared, sharing: &Sharing, metrics: &Metrics) {
        loop {
            sharing.bell.notified().await;
            let round = sharing.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let mut hurried = std::mem::take(&mut *sharing.hurried.lock());
            hurried.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            // Whatever was asked about in between is here twice.
            hurried.dedup_by(|one, other| one.name == other.name);
            let mut done = Ok(false);
            for chunk in hurried.chunks(AT_ONCE) {
                done = self.exchange(shared, chunk, sharing.parts(), true).await.map(|()| true);
                if done.is_err() {
                    break;
                }
            }
            note(sharing, metrics, done);
            sharing.over.send_replace(round);
            tokio::time::sleep(GATHER).await;
        }
    }

    fn hash(&self, turns: u32) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, turns)
    }

    /// One exchange. Says whether the database has answered anything. `count`: the gateways are counted too, and perhaps
    /// what is over is forgotten.
    async fn step(
        &self,
        shared: &dyn Shared,
        sharing: &Sharing,
        rules: &[Arc<Counted>],
        count: Option<bool>,
    ) -> Result<bool, StoreError> {
        if let Some(forgets) = count {
            sharing.count(shared, forgets).await?;
        }
        let used = self.used(rules);
        for chunk in used.chunks(AT_ONCE) {
            self.exchange(shared, chunk, sharing.parts(), false).await?;
        }
        if rules.iter().any(|counted| counted.rule.concurrent.is_some()) {
            self.places(shared, sharing, rules).await?;
            return Ok(true);
        }
        Ok(count.is_some() || !used.is_empty())
    }

    /// Everything that was used lately.
    fn used(&self, rules: &[Arc<Counted>]) -> Vec<Limit> {
        let now = self.now();
        let mut all = Vec::new();
        for counted in rules {
            for state in counted.subjects.pin().values() {
                let is_active = state.is_active(now);
                let limits = [(counted.rule.requests, false), (counted.rule.tokens, true)];
                for (rate, is_tokens) in limits {
                    let has_news = state.bucket(is_tokens).has_news();
                    if let Some(rate) = rate.filter(|_| is_active || has_news) {
                        all.push(Limit::new(state, is_tokens, rate));
                    }
                }
            }
        }
        // Gateways lock rows in one order.
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    async fn exchange(
        &self,
        shared: &dyn Shared,
        chunk: &[Limit],
        gateways: u32,
        waits: bool,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let ask = |limit: &Limit| {
            let is_active = limit.state.is_active(now);
            let ask = limit.bucket().ask(limit.rate, gateways, is_active, waits, now);
            RateAsk { subject: limit.name.clone(), ask }
        };
        let asks: Vec<RateAsk> = chunk.iter().map(ask).collect();
        let asked = chunk.iter().zip(&asks);
        match within(shared.rates(&asks)).await {
            Ok(granted) => {
                let now = self.now();
                for ((limit, _), granted) in asked.zip(granted) {
                    limit.bucket().told(granted, now);
                }
                Ok(())
            }
            Err(error) => {
                for (limit, RateAsk { ask, .. }) in asked {
                    limit.bucket().not_told(ask);
                }
                Err(error)
            }
        }
    }

    /// Tells what is under way here, and learns what is elsewhere.
    async fn places(
        &self,
        shared: &dyn Shared,
        sharing: &Sharing,
        rules: &[Arc<Counted>],
    ) -> Result<(), StoreError> {
        let now = self.now();
        let (mut own, mut told) = (Vec::new(), Vec::new());
        for counted in rules.iter().filter(|counted| counted.rule.concurrent.is_some()) {
            for state in counted.subjects.pin().values() {
                let count = state.under_way.count();
                if state.is_active(now) || count != state.told.load(Ordering::Relaxed) {
                    own.push(RatePlaces { subject: state.key.to_string(), count });
                    told.push((state.clone(), count));
                }
            }
        }
        own.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        let others = within(shared.rate_places(&own)).await?;
        told.iter().for_each(|(state, count)| state.told.store(*count, Ordering::Relaxed));
        sharing.places.store(Arc::new(others));
        for counted in rules {
            let Some(limit) = counted.rule.concurrent else { continue };
            for state in counted.subjects.pin().values() {
                sharing.allow(state, limit, now);
            }
        }
        Ok(())
    }
}

fn note(sharing: &Sharing, metrics: &Metrics, done: Result<bool, StoreError>) {
    match done {
        // Nothing was asked.
        Ok(false) => {}
        Ok(true) => {
            if sharing.is_away.swap(false, Ordering::AcqRel) {
                tracing::info!("rate limits are shared again");
            }
        }
        Err(error) => {
            metrics.rate_exchange_failures.inc();
            if !sharing.is_away.swap(true, Ordering::AcqRel) {
                let parts = sharing.parts();
                tracing::warn!(
                    %error,
                    "the database does not answer: this gateway goes on with one of {parts} parts of each rate limit"
                );
            }
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(AT_MOST, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable { message: "no answer within a second".into() })
    })
}
