//! How much the gateway takes on at once, and from whom it takes nothing for a while.
//!
//! What is refused here costs nothing: no byte of the body was read, and neither database nor platform was asked. What
//! is under way goes on. Counters are atomics that authentication found; no lock is taken unless somebody is refused.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use otari_filters::control::Caller;
use otari_filters::limit::{Allowance, Entered, Pace, UnderWay};
use otari_filters::network;
use otari_filters::rejection::{Code, Rejection};
use papaya::HashMap;
use parking_lot::Mutex;
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::RequestContext;
use crate::telemetry::metrics::Limit;

/// Counters of tokens that have nothing under way are dropped when so many requests were counted.
const PRUNE_EVERY: u64 = 1000;
/// Places that are remembered for their failures. Beyond, all new ones share one allowance.
const MAX_PLACES: usize = 65_536;
/// Tokens that are remembered because a platform took them. Beyond, new ones are not.
const MAX_TAKEN: usize = 65_536;
/// So long after its last use a token may be forgotten, when there is no room.
const TAKEN_FOR: Duration = Duration::from_secs(3600);
/// A use is noted at most so often.
const TAKEN_EVERY: Duration = Duration::from_secs(60);
/// Between two searches for places that may be forgotten.
const PRUNE_AFTER: Duration = Duration::from_secs(1);
/// The place of those.
const ELSEWHERE: u128 = 0;

/// What is under way.
#[derive(Debug)]
pub struct Admission {
    /// Connections of callers.
    pub connections: UnderWay,
    requests: UnderWay,
    /// Of callers whom only a platform knows, by a hash of their token.
    tokens: HashMap<u64, UnderWay>,
    /// Those that it took, and when they were last used.
    taken: HashMap<u64, Instant>,
    hasher: RandomState,
    counted: AtomicU64,
    failures: Failures,
}

/// What a request occupies until it ends.
#[derive(Debug, Default)]
pub(super) struct Places {
    _places: [Option<Entered>; 3],
}

impl Admission {
    /// Nothing is under way. `failures`: refused credentials per minute and place; `None`: any number.
    pub fn new(failures: Option<NonZeroU32>) -> Self {
        Self {
            connections: UnderWay::default(),
            requests: UnderWay::default(),
            tokens: HashMap::new(),
            taken: HashMap::new(),
            hasher: RandomState::new(),
            counted: AtomicU64::new(0),
            failures: Failures::new(failures.map(Pace::per_minute)),
        }
    }

    /// Whether there is room for one more request, before anybody asks whose.
    pub(super) fn take(&self, app: &App) -> Result<Places, Rejection> {
        let limits = &app.live().limits;
        if app.journal_bytes() > limits.max_journal_bytes {
            app.metrics.limit(Limit::Journal);
            let message = "The gateway keeps as much usage as it may until its database or platform takes it \
                           (max_journal_bytes). Try again later";
            return Err(later(Code::Overloaded, message.to_owned(), Duration::from_secs(10)));
        }
        let max = limits.max_concurrent_requests;
        let Some(entered) = self.requests.enter(max) else {
            app.metrics.limit(Limit::Requests);
            let message = format!(
                "The gateway has {max} requests under way, which is as many as it takes \
                 (max_concurrent_requests). Try again in a moment"
            );
            return Err(later(Code::Overloaded, message, Duration::from_secs(1)));
        };
        Ok(Places { _places: [Some(entered), None, None] })
    }

    /// Whether there is room for one more of this caller's.
    pub(super) fn take_for(
        &self,
        app: &App,
        caller: &Caller,
        places: &mut Places,
    ) -> Result<(), Rejection> {
        let limits = &app.live().limits;
        let (key, user) = match caller {
            Caller::Master => return Ok(()),
            Caller::Key { calls, user_calls, .. } => (Some(calls.clone()), user_calls.clone()),
            Caller::Bearer(token) => {
                let counts = limits.max_concurrent_requests_per_key.is_some();
                (counts.then(|| self.token(token.expose())), None)
            }
        };
        let rules = [
            (key, limits.max_concurrent_requests_per_key, Limit::KeyRequests, "API key"),
            (user, limits.max_concurrent_requests_per_user, Limit::UserRequests, "user"),
        ];
        for ((counter, max, limit, whose), place) in rules.into_iter().zip(&mut places._places[1..])
        {
            let (Some(counter), Some(max)) = (counter, max) else { continue };
            *place = counter.enter(max);
            if place.is_none() {
                app.metrics.limit(limit);
                let message = format!(
                    "There are {max} requests under way with this {whose}, which is as many as it may have at once \
                     (max_concurrent_requests_per_{}). Try again when one has ended",
                    if whose == "user" { "user" } else { "key" }
                );
                return Err(later(Code::TooManyAtOnce, message, Duration::from_secs(1)));
            }
        }
        Ok(())
    }

    /// What a platform said of a caller's token, by how the request ended.
    pub(super) fn learn(
        &self,
        app: &App,
        s: &Session,
        ctx: &RequestContext,
        refused: Option<Code>,
    ) {
        let Some(Caller::Bearer(token)) = &ctx.caller else { return };
        let (token, now) = (self.hasher.hash_one(token.expose()), Instant::now());
        if refused == Some(Code::PlatformUnauthorized) {
            self.taken.pin().remove(&token);
            if let Some(address) = address(app, s) {
                self.failures.note(network::place(address), true, now);
            }
        } else if refused.is_none() && ctx.outcome.status == 200 {
            self.took(token, now);
        }
    }

    /// A platform took this token: everything that is answered has asked it.
    fn took(&self, token: u64, now: Instant) {
        let taken = self.taken.pin();
        if taken.get(&token).is_some_and(|at| now.saturating_duration_since(*at) < TAKEN_EVERY) {
            return;
        }
        if taken.len() >= MAX_TAKEN && self.failures.may_prune(now) {
            taken.retain(|_, at| now.saturating_duration_since(*at) < TAKEN_FOR);
        }
        if taken.len() < MAX_TAKEN || taken.contains_key(&token) {
            taken.insert(token, now);
        }
    }

    /// Whether a platform took this token before. Only asked while somebody guesses.
    fn has_taken(&self, token: &str) -> bool {
        self.failures.is_quiet() || self.taken.pin().contains_key(&self.hasher.hash_one(token))
    }

    fn token(&self, token: &str) -> UnderWay {
        let tokens = self.tokens.pin();
        if self.counted.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            tokens.retain(|_, calls| calls.count() > 0);
        }
        tokens.get_or_insert_with(self.hasher.hash_one(token), UnderWay::default).clone()
    }

    /// What authentication found, unless too many credentials from there were refused.
    ///
    /// A good API key always passes: it cannot be guessed, and somebody else behind the same address must not be able to
    /// keep its holder out. The master key may be a word that a person chose, so there even the right one waits. Whether
    /// a platform's token is good is only known once the platform has taken it: until then it waits too.
    pub(super) fn judge(
        &self,
        app: &App,
        s: &Session,
        found: Result<Option<Caller>, Rejection>,
    ) -> Result<Option<Caller>, Rejection> {
        let is_guess = match &found {
            Ok(Some(Caller::Master)) => false,
            Ok(Some(Caller::Bearer(token))) if !self.has_taken(token.expose()) => false,
            Ok(_) => return found,
            Err(refused) => matches!(
                refused.code,
                Code::InvalidFormat
                    | Code::InvalidApiKey
                    | Code::InvalidMasterKey
                    | Code::InactiveKey
                    | Code::ExpiredKey
            ),
        };
        if !is_guess && found.is_err() {
            return found;
        }
        let Some(address) = address(app, s) else { return found };
        match self.failures.note(network::place(address), is_guess, Instant::now()) {
            None => found,
            Some(wait) => {
                app.metrics.limit(Limit::AuthFailures);
                let message = "Too many credentials from your address were refused \
                               (auth_failures_per_minute). Try again later";
                Err(later(Code::TooManyFailures, message.to_owned(), wait))
            }
        }
    }
}

/// Whose request it is, by address.
pub(super) fn address(app: &App, s: &Session) -> Option<IpAddr> {
    let peer = s.downstream_session.client_addr()?.as_inet()?.ip();
    let forwarded = s.req_header().headers.get_all("x-forwarded-for");
    let lines: Vec<&str> = forwarded.iter().filter_map(|line| line.to_str().ok()).collect();
    Some(network::origin(peer, lines.into_iter(), &app.live().trusted_proxies))
}

fn later(code: Code, message: String, wait: Duration) -> Rejection {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Rejection { retry_after_s: Some(seconds.max(1)), ..Rejection::new(code, message) }
}

/// Refused credentials by the place they came from. Empty while nobody is refused.
#[derive(Debug)]
struct Failures {
    pace: Option<Pace>,
    places: HashMap<u128, Arc<Mutex<Allowance>>>,
    known: AtomicUsize,
    /// Looking through all of them takes time, and an attacker must not choose how often.
    pruned: Mutex<Option<Instant>>,
}

impl Failures {
    fn new(pace: Option<Pace>) -> Self {
        Self { pace, places: HashMap::new(), known: AtomicUsize::new(0), pruned: Mutex::new(None) }
    }

    /// Whether nobody failed anywhere.
    fn is_quiet(&self) -> bool {
        self.known.load(Ordering::Relaxed) == 0
    }

    /// How long whoever is there has to wait; notes one more failure if there is one.
    fn note(&self, place: u128, failed: bool, now: Instant) -> Option<Duration> {
        let pace = self.pace?;
        if !failed && self.is_quiet() {
            return None;
        }
        let places = self.places.pin();
        let allowance = match (places.get(&place), failed) {
            (Some(allowance), _) => allowance.clone(),
            (None, false) => return None,
            (None, true) => {
                if self.known.load(Ordering::Relaxed) >= MAX_PLACES && self.may_prune(now) {
                    places.retain(|_, allowance| !allowance.lock().is_full(now));
                }
                let place = if places.len() < MAX_PLACES { place } else { ELSEWHERE };
                let allowance = places.get_or_insert_with(place, Arc::default).clone();
                self.known.store(places.len(), Ordering::Relaxed);
                allowance
            }
        };
        let mut allowance = allowance.lock();
        let wait = allowance.wait(now, pace);
        if failed && wait.is_none() {
            allowance.take(now, pace);
        }
        wait
    }

    fn may_prune(&self, now: Instant) -> bool {
        let mut pruned = self.pruned.lock();
        let is_due = pruned.is_none_or(|at| now.saturating_duration_since(at) >= PRUNE_AFTER);
        if is_due {
            *pruned = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_fails_too_often_waits_and_others_do_not() {
        let failures = Failures::new(NonZeroU32::new(6).map(Pace::per_minute));
        let now = Instant::now();
        assert_eq!(failures.note(1, false, now), None);
        let refused = (0..20).filter(|_| failures.note(1, true, now).is_some()).count();
        assert_eq!(refused, 14);
        let wait = failures.note(1, false, now);
        assert_eq!(wait, Some(Duration::from_secs(10)), "also with the right one");
        assert_eq!(failures.note(2, true, now), None);
        assert_eq!(failures.note(1, false, now + Duration::from_secs(10)), None);
    }

    #[test]
    fn tokens_that_were_taken_are_remembered_and_bounded() {
        let admission = Admission::new(NonZeroU32::new(1));
        let now = Instant::now();
        assert!(admission.has_taken("any"), "nobody guesses: nobody is asked for");
        admission.failures.note(1, true, now);
        assert!(!admission.has_taken("tk"));
        admission.took(admission.hasher.hash_one("tk"), now);
        assert!(admission.has_taken("tk") && !admission.has_taken("other"));
        for token in 0..2 * MAX_TAKEN as u64 {
            admission.took(token, now);
        }
        assert_eq!(admission.taken.len(), MAX_TAKEN);
        admission.took(u64::MAX, now + TAKEN_FOR);
        assert_eq!(admission.taken.len(), 1, "what was not used for long makes room");
    }

    #[test]
    fn places_are_bounded() {
        let failures = Failures::new(NonZeroU32::new(1).map(Pace::per_minute));
        let now = Instant::now();
        for place in 1..=MAX_PLACES as u128 + 10 {
            failures.note(place, true, now);
        }
        assert_eq!(failures.places.len(), MAX_PLACES + 1);
        assert!(failures.note(u128::MAX, true, now).is_some(), "new ones share what is left");
        let later = now + Duration::from_secs(60);
        assert_eq!(failures.note(u128::MAX, true, later), None);
        assert_eq!(failures.places.len(), 1, "what is whole again is forgotten");
    }
}
