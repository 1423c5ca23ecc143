//! Circuit breakers: a provider and credential that keep failing are passed over for a while, so that a dead one is not
//! paid for on every request. When the while is over one call finds out whether they work again.
//!
//! Only failing ones are kept: while everything works there is nothing to look up.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use otari_filters::upstream::Upstream;
use papaya::HashMap;
use parking_lot::Mutex;

use crate::config::CircuitBreaker;

/// Failing places that are remembered; a platform may name any number of them.
const MAX_KEPT: usize = 10_000;

/// One place that fails.
#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Nothing is sent there before this; `None`: it has not failed often enough.
    closed_until: Option<Instant>,
}

/// All of them.
#[derive(Debug)]
pub struct Breakers {
    rule: ArcSwap<Option<CircuitBreaker>>,
    failing: HashMap<u64, Arc<Mutex<State>>>,
}

impl Breakers {
    /// `None`: nothing is ever passed over.
    pub fn new(rule: Option<CircuitBreaker>) -> Self {
        Self { rule: ArcSwap::from_pointee(rule), failing: HashMap::new() }
    }

    /// From now on by this rule. Without one, whatever was passed over is not any more.
    pub fn follow(&self, rule: Option<CircuitBreaker>) {
        self.rule.store(Arc::new(rule));
        if rule.is_none() {
            self.failing.pin().clear();
        }
    }

    /// Whether a call may go there now. After the cool-down it may once; the others wait for what becomes of it, at
    /// most for another cool-down.
    pub(super) fn admits(&self, upstream: &Upstream, now: Instant) -> bool {
        if self.failing.is_empty() {
            return true;
        }
        let Some(rule) = **self.rule.load() else { return true };
        let Some(state) = self.failing.pin().get(&upstream.fingerprint).cloned() else {
            return true;
        };
        let mut state = state.lock();
        match state.closed_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until = Some(now + rule.cooldown);
                true
            }
        }
    }

    /// Whether it has failed so often that it is passed over where there is another one.
    pub(super) fn is_open(&self, upstream: &Upstream) -> bool {
        !self.failing.is_empty()
            && self
                .failing
                .pin()
                .get(&upstream.fingerprint)
                .is_some_and(|state| state.lock().closed_until.is_some())
    }

    /// It answered. Says whether it had been passed over until now.
    pub(super) fn works(&self, upstream: &Upstream) -> bool {
        if self.failing.is_empty() {
            return false;
        }
        let failing = self.failing.pin();
        failing
            .remove(&upstream.fingerprint)
            .is_some_and(|state| state.lock().closed_until.is_some())
    }

    /// It failed, and not because of what it was asked. Says whether it is passed over from now on.
    pub(super) fn fails(&self, upstream: &Upstream, now: Instant) -> bool {
        let Some(rule) = **self.rule.load() else { return false };
        let failing = self.failing.pin();
        if failing.len() >= MAX_KEPT {
            // Whoever still fails comes back.
            failing.clear();
        }
        let state = failing.get_or_insert_with(upstream.fingerprint, Arc::default);
        let mut state = state.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures < rule.failures {
            return false;
        }
        state.closed_until.replace(now + rule.cooldown).is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use otari_filters::providers;
    use otari_filters::secret::Secret;
    use otari_filters::upstream::Draft;

    use super::*;

    fn upstream(key: &str) -> Upstream {
        Upstream::new(&Draft {
            instance: "p",
            kind: providers::find("openai").unwrap(),
            base_url: "http://127.0.0.1:1/v1",
            api_key: Some(&Secret::new(key)),
            headers: &[],
            client_settings: &[],
            max_retries: 0,
            first_byte_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            address: None,
        })
        .unwrap()
    }

    fn breakers() -> Breakers {
        Breakers::new(Some(CircuitBreaker { failures: 3, cooldown: Duration::from_secs(10) }))
    }

    #[test]
    fn what_fails_in_a_row_is_passed_over_and_tried_once_after_the_cool_down() {
        let (breakers, dead, now) = (breakers(), upstream("a"), Instant::now());
        let opened: Vec<bool> = (0..4).map(|_| breakers.fails(&dead, now)).collect();
        assert_eq!(opened, [false, false, true, false], "said once");
        assert!(!breakers.admits(&dead, now + Duration::from_secs(9)));
        let later = now + Duration::from_secs(10);
        assert!(breakers.admits(&dead, later), "one call finds out");
        assert!(!breakers.admits(&dead, later), "and no other");
        assert!(breakers.admits(&dead, later + Duration::from_secs(10)), "which may be lost");
        assert!(breakers.works(&dead) && breakers.admits(&dead, later) && !breakers.works(&dead));
    }

    #[test]
    fn a_success_in_between_starts_anew_and_another_key_is_another_place() {
        let (breakers, now) = (breakers(), Instant::now());
        let (one, other) = (upstream("a"), upstream("b"));
        for _ in 0..5 {
            assert!(!breakers.fails(&one, now) && !breakers.fails(&one, now));
            assert!(!breakers.works(&one), "it was never passed over");
        }
        let opened = (0..3).filter(|_| breakers.fails(&one, now)).count();
        assert_eq!(opened, 1);
        assert!(!breakers.admits(&one, now) && breakers.admits(&other, now));
    }

    #[test]
    fn without_a_rule_nothing_is_passed_over() {
        let (breakers, now) = (Breakers::new(None), Instant::now());
        let dead = upstream("a");
        assert!((0..100).all(|_| !breakers.fails(&dead, now)) && breakers.admits(&dead, now));
    }
}
