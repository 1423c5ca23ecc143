//! Limits that gateways have together: ten times a second each tells the database what was used and asks for what it
//! will need; beside it every gateway's requests under way.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use otari_filters::gcra::{Ask, Bucket, Rate};
use otari_filters::rates;

use super::{Counted, Rates, State};
use crate::store::{RateAsk, RatePlaces, Shared, StoreError};
use crate::telemetry::metrics::Metrics;

/// Between two exchanges, in the middle.
const EVERY_MS: u64 = 100;
/// An answer that takes longer is as good as none.
const AT_MOST: Duration = Duration::from_secs(1);
/// So long after the last answer every gateway goes on by itself.
const GOOD_NS: i64 = 3_000_000_000;
/// A subject that was used so lately is kept in step.
const ACTIVE_NS: i64 = 3_000_000_000;
/// Between two counts of the gateways.
const COUNT_EVERY: u32 = 10;
/// Counts between two times that what is over is forgotten.
const FORGET_EVERY: u32 = 60;
/// Subjects of one statement.
const AT_ONCE: usize = 1000;

/// What is known of the other gateways.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    good_until: AtomicI64,
    gateways: AtomicU32,
    /// By subject: what other gateways have under way, and how many of them.
    places: ArcSwap<HashMap<String, (u32, u32)>>,
    is_away: AtomicBool,
}

/// A bucket with what was asked for it.
struct Asked {
    state: Arc<State>,
    is_tokens: bool,
    ask: Ask,
}

impl Asked {
    fn bucket(&self) -> &Bucket {
        if self.is_tokens { &self.state.tokens } else { &self.state.requests }
    }
}

impl Sharing {
    pub(super) fn is_good(&self, now: i64) -> bool {
        now < self.good_until.load(Ordering::Acquire)
    }

    pub(super) fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed).max(1)
    }

    /// Says how many requests of a subject this gateway may have under way.
    pub(super) fn allow(&self, state: &State, limit: NonZeroU32, key: &str, now: i64) {
        let others = self.places.load().get(key).copied().unwrap_or_default();
        let is_active = state.is_active(now);
        let own = state.under_way.count();
        let allowed = rates::places(limit, own, is_active, others, self.gateways());
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
        let mut turns = 0_u32;
        loop {
            let rules = self.rules.load_full();
            if !rules.is_empty() {
                let is_count = turns.is_multiple_of(COUNT_EVERY);
                let forgets = turns.is_multiple_of(COUNT_EVERY * FORGET_EVERY);
                let step = self.step(shared, sharing, &rules, is_count.then_some(forgets));
                self.note(sharing, metrics, step.await);
                turns = turns.wrapping_add(1);
            }
            // Out of step with the others: whoever came right behind another would find nothing left each time.
            let odd = self.hash(turns) % (EVERY_MS / 2);
            tokio::time::sleep(Duration::from_millis(EVERY_MS * 3 / 4 + odd)).await;
        }
    }

    fn hash(&self, turns: u32) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, turns)
    }

    fn note(&self, sharing: &Sharing, metrics: &Metrics, done: Result<bool, StoreError>) {
        match done {
            // Nothing was asked.
            Ok(false) => {}
            Ok(true) => {
                sharing.good_until.store(self.now() + GOOD_NS, Ordering::Release);
                if sharing.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("rate limits are shared again");
                }
            }
            Err(error) => {
                metrics.rate_exchange_failures.inc();
                if !sharing.is_away.swap(true, Ordering::Relaxed) {
                    let parts = sharing.gateways();
                    tracing::warn!(
                        %error,
                        "the database does not answer: this gateway goes on with one of {parts} parts of each rate limit"
                    );
                }
            }
        }
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
            let gateways = within(shared.rate_gateways(forgets)).await?;
            sharing.gateways.store(gateways, Ordering::Relaxed);
        }
        let asked = self.buckets(rules);
        for chunk in asked.chunks(AT_ONCE) {
            self.exchange(shared, chunk, sharing.gateways()).await?;
        }
        if rules.iter().any(|counted| counted.rule.concurrent.is_some()) {
            self.places(shared, sharing, rules).await?;
            return Ok(true);
        }
        Ok(count.is_some() || !asked.is_empty())
    }

    /// Everything that was used lately.
    fn buckets(&self, rules: &[Arc<Counted>]) -> Vec<(String, Arc<State>, bool, Rate)> {
        let now = self.now();
        let mut all = Vec::new();
        for counted in rules {
            for (subject, state) in &counted.subjects.pin() {
                let is_active = state.is_active(now);
                let limits = [(counted.rule.requests, false), (counted.rule.tokens, true)];
                for (rate, is_tokens) in limits {
                    let bucket = if is_tokens { &state.tokens } else { &state.requests };
                    let Some(rate) = rate.filter(|_| is_active || bucket.has_news()) else {
                        continue;
                    };
                    let kind = if is_tokens { 't' } else { 'r' };
                    let key = format!("{}:{kind}", counted.key(subject));
                    all.push((key, state.clone(), is_tokens, rate));
                }
            }
        }
        // Gateways lock rows in one order.
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    async fn exchange(
        &self,
        shared: &dyn Shared,
        chunk: &[(String, Arc<State>, bool, Rate)],
        gateways: u32,
    ) -> Result<(), StoreError> {
        let (mut asked, mut asks) = (Vec::new(), Vec::new());
        for (key, state, is_tokens, rate) in chunk {
            let bucket = if *is_tokens { &state.tokens } else { &state.requests };
            let ask = bucket.ask(*rate, gateways);
            asks.push(RateAsk { subject: key.clone(), ask });
            asked.push(Asked { state: state.clone(), is_tokens: *is_tokens, ask });
        }
        match within(shared.rates(&asks)).await {
            Ok(granted) => {
                let now = self.now();
                for (asked, granted) in asked.iter().zip(granted) {
                    asked.bucket().told(granted, now);
                }
                Ok(())
            }
            Err(error) => {
                asked.iter().for_each(|asked| asked.bucket().not_told(&asked.ask));
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
            for (subject, state) in &counted.subjects.pin() {
                let count = state.under_way.count();
                if state.is_active(now) || count != state.told.load(Ordering::Relaxed) {
                    own.push(RatePlaces { subject: counted.key(subject), count });
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
            for (subject, state) in &counted.subjects.pin() {
                sharing.allow(state, limit, &counted.key(subject), now);
            }
        }
        Ok(())
    }
}

async fn within<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(AT_MOST, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable { message: "no answer within a second".into() })
    })
}
