//! Rate limits: what each of them has let pass, of each key, user and model.
//!
//! No lock: a limit of a subject is a few atomics in a map that is read without one. Where gateways share their limits,
//! `exchange` tells the others ten times a second what was used here, and asks for what will be; requests never wait for
//! it. Without the database each gateway goes on with its part: the limit divided by the gateways that were alive.

mod exchange;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use otari_filters::control::Caller;
use otari_filters::gcra::{Bucket, Left, Rate, Source};
use otari_filters::limit::{Entered, Quota, UnderWay};
use otari_filters::rates::{Per, Rule, Told, What};
use otari_filters::rejection::Rejection;
use papaya::HashMap;

use crate::control::directory;
use crate::telemetry::metrics::{Limit, Metrics};
use exchange::Sharing;

/// Subjects of one rule. Beyond, all new ones are counted as one.
const MAX_SUBJECTS: usize = 65_536;
/// What nobody has used lately is forgotten when so many requests were counted.
const PRUNE_EVERY: u64 = 1000;
/// Lately.
const LATELY_NS: i64 = 10_000_000_000;
/// When requests under way may try again: nobody knows when one ends.
const A_MOMENT: Duration = Duration::from_secs(1);

/// All limits of this gateway.
pub struct Rates {
    begun: Instant,
    rules: ArcSwap<Vec<Arc<Counted>>>,
    hasher: RandomState,
    sharing: Option<Sharing>,
}

/// A rule with everything that it counts.
struct Counted {
    rule: Rule,
    /// The rule in the database: the same in every gateway that has it.
    tag: String,
    subjects: HashMap<Subject, Arc<State>>,
    counted: AtomicU64,
}

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// A key, a user or a model.
    Named(Arc<str>),
    /// A token of a platform, by a hash.
    Token(u64),
    /// Whoever calls.
    All,
    /// Those who found no place of their own.
    Others,
}

impl Subject {
    fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Token(_) | Self::All => "",
            Self::Others => "\u{1}others",
        }
    }
}

/// What one subject has used.
#[derive(Debug, Default)]
struct State {
    requests: Bucket,
    tokens: Bucket,
    under_way: UnderWay,
    /// Requests that this gateway may have under way, where gateways share.
    allowed: AtomicU32,
    /// What the others know of it.
    told: AtomicU32,
    used_at: AtomicI64,
}

/// How limits are judged now.
#[derive(Clone, Copy)]
enum Mode {
    /// By this gateway, which has one of so many parts.
    Alone(u32),
    /// By what the others let it take; there are so many with it.
    Shared(u32),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// By credential.
    pub caller: &'a Caller,
    /// Who pays; `None`: only a platform knows.
    pub user_id: Option<&'a Arc<str>>,
}

/// What a request has taken of its limits. Places are free again when it is dropped; so are tokens of which nobody has
/// said that they were used.
#[derive(Debug, Default)]
pub struct Taken {
    charges: Vec<Charge>,
    /// For the headers of the answer.
    pub told: Told,
}

#[derive(Debug)]
struct Charge {
    state: Arc<State>,
    requests: Option<Source>,
    tokens: Option<(Source, u64)>,
    _place: Option<Entered>,
}

impl Taken {
    /// The call has ended and used so many tokens; `None`: nobody knows, and the estimate stands. Counts once.
    pub fn used(&mut self, tokens: Option<u64>) {
        for charge in &mut self.charges {
            if let (Some((source, taken)), Some(used)) = (charge.tokens.take(), tokens) {
                charge.state.tokens.correct(source, taken, used);
            }
        }
    }

    /// Another limit refuses the call: it has taken nothing.
    fn undo(&mut self) {
        self.used(Some(0));
        for charge in self.charges.drain(..) {
            if let Some(source) = charge.requests {
                charge.state.requests.correct(source, 1, 0);
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.used(Some(0));
    }
}

impl Rates {
    /// Limits that nobody has used. `shares`: gateways on one database have them together.
    pub fn new(rules: &[Rule], shares: bool) -> Self {
        let new = Self {
            begun: Instant::now(),
            rules: ArcSwap::default(),
            hasher: RandomState::new(),
            sharing: shares.then(Sharing::default),
        };
        new.follow(rules);
        new
    }

    /// Puts these rules in the place of the old ones. A rule that stays keeps what was used of it.
    pub fn follow(&self, rules: &[Rule]) {
        let old = self.rules.load_full();
        let counted = |rule: &Rule| {
            let known = old.iter().find(|known| known.rule == *rule);
            known.cloned().unwrap_or_else(|| Arc::new(Counted::new(rule)))
        };
        self.rules.store(Arc::new(rules.iter().map(counted).collect()));
    }

    /// Takes a request and its estimated tokens out of every limit that it falls under. `model`: where it goes, its
    /// provider first; `None`: nobody knows yet, and the limits that ask for it are judged later.
    ///
    /// # Errors
    /// `rate_limited`. Then `taken` is empty.
    pub fn admit(
        &self,
        metrics: &Metrics,
        who: Who<'_>,
        model: Option<(&str, &str)>,
        tokens: u64,
        taken: &mut Taken,
    ) -> Result<(), Rejection> {
        let rules = self.rules.load();
        if rules.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let mode = self.mode(now);
        for counted in rules.iter() {
            let is_due = match model {
                None => counted.rule.is_early(),
                Some((instance, model)) => {
                    !counted.rule.is_early() && counted.rule.covers(instance, model)
                }
            };
            let subject = if is_due { self.subject(counted.rule.per, who, model) } else { None };
            let Some(subject) = subject else { continue };
            let state = counted.state(subject, now, self.sharing.as_ref());
            if let Err((what, wait)) = counted.take(state, mode, tokens, now, taken) {
                taken.undo();
                metrics.rate_limit_hits.inc();
                metrics.limit(match what {
                    What::Requests => Limit::RateRequests,
                    What::Tokens => Limit::RateTokens,
                    What::Concurrent => Limit::RateConcurrent,
                });
                return Err(counted.rule.refusal(what, wait));
            }
        }
        Ok(())
    }

    fn subject(&self, per: Per, who: Who<'_>, model: Option<(&str, &str)>) -> Option<Subject> {
        match (per, who.caller) {
            (Per::Key, Caller::Key { id, .. }) => Some(Subject::Named(id.clone())),
            (Per::Key, Caller::Bearer(token)) => {
                Some(Subject::Token(self.hasher.hash_one(token.expose())))
            }
            // The operator's own calls.
            (Per::Key, Caller::Master) => None,
            (Per::User, _) => who.user_id.cloned().map(Subject::Named),
            (Per::Model, _) => {
                model.map(|(instance, model)| Subject::Named(format!("{instance}:{model}").into()))
            }
            (Per::All, _) => Some(Subject::All),
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    fn mode(&self, now: i64) -> Mode {
        match &self.sharing {
            None => Mode::Alone(1),
            Some(sharing) if sharing.is_good(now) => Mode::Shared(sharing.gateways()),
            Some(sharing) => Mode::Alone(sharing.gateways()),
        }
    }
}

impl Counted {
    fn new(rule: &Rule) -> Self {
        let digest = directory::hex(&directory::digest(&rule.canonical()));
        let tag = digest[..16].to_owned();
        let (subjects, counted) = (HashMap::new(), AtomicU64::new(0));
        Self { rule: rule.clone(), tag, subjects, counted }
    }

    /// What the database calls a subject of this rule.
    fn key(&self, subject: &Subject) -> String {
        format!("{}:{}", self.tag, subject.name())
    }

    fn state(&self, subject: Subject, now: i64, sharing: Option<&Sharing>) -> Arc<State> {
        let subjects = self.subjects.pin();
        if self.counted.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            // Whoever has one under way will correct it.
            subjects.retain(|_, state| Arc::strong_count(state) > 1 || !state.is_idle(now));
        }
        let state = match subjects.get(&subject) {
            Some(state) => state.clone(),
            None => {
                let subject = if subjects.len() < MAX_SUBJECTS { subject } else { Subject::Others };
                let made = || {
                    let state = State::default();
                    if let (Some(sharing), Some(limit)) = (sharing, self.rule.concurrent) {
                        sharing.allow(&state, limit, &self.key(&subject), now);
                    }
                    Arc::new(state)
                };
                subjects.get_or_insert_with(subject.clone(), made).clone()
            }
        };
        state.used_at.store(now, Ordering::Relaxed);
        state
    }

    fn take(
        &self,
        state: Arc<State>,
        mode: Mode,
        tokens: u64,
        now: i64,
        taken: &mut Taken,
    ) -> Result<(), (What, Duration)> {
        let place = match self.rule.concurrent {
            Some(limit) => Some(state.enter(limit, mode).ok_or((What::Concurrent, A_MOMENT))?),
            None => None,
        };
        let bare = Charge { state, requests: None, tokens: None, _place: place };
        taken.charges.push(bare);
        let Some(charge) = taken.charges.last_mut() else { return Ok(()) };
        if let Some(rate) = self.rule.requests {
            let (source, left) = spend(&charge.state.requests, rate, 1, mode, now)
                .map_err(|wait| (What::Requests, wait))?;
            charge.requests = Some(source);
            taken.told.add(What::Requests, quota(rate, left));
        }
        if let Some(rate) = self.rule.tokens {
            let (source, left) = spend(&charge.state.tokens, rate, tokens, mode, now)
                .map_err(|wait| (What::Tokens, wait))?;
            charge.tokens = Some((source, tokens));
            taken.told.add(What::Tokens, quota(rate, left));
        }
        Ok(())
    }
}

fn spend(
    bucket: &Bucket,
    rate: Rate,
    amount: u64,
    mode: Mode,
    now: i64,
) -> Result<(Source, Left), Duration> {
    match mode {
        Mode::Alone(parts) => {
            let part = rate.part(parts);
            Ok((Source::Own(part), bucket.take(part, amount, now)?))
        }
        Mode::Shared(parts) => {
            Ok((Source::Shared(rate), bucket.take_shared(rate, amount, now, parts)?))
        }
    }
}

fn quota(rate: Rate, left: Left) -> Quota {
    Quota { limit: rate.per_minute().get(), remaining: left.amount, resets_in: left.full_in }
}

impl State {
    fn enter(&self, limit: NonZeroU32, mode: Mode) -> Option<Entered> {
        let most = match mode {
            Mode::Alone(parts) => limit.get().div_ceil(parts.max(1)),
            Mode::Shared(_) => self.allowed.load(Ordering::Relaxed),
        };
        self.under_way.enter(NonZeroU32::new(most)?)
    }

    fn is_idle(&self, now: i64) -> bool {
        now - self.used_at.load(Ordering::Relaxed) > LATELY_NS
            && self.under_way.count() == 0
            && self.told.load(Ordering::Relaxed) == 0
            && self.requests.is_idle(now)
            && self.tokens.is_idle(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(per: Per) -> Rule {
        let requests = NonZeroU32::new(10).map(|n| Rate::new(n, Duration::from_secs(12)));
        Rule { per, models: None, requests, tokens: None, concurrent: None }
    }

    fn admit(rates: &Rates, user: &str, taken: &mut Taken) -> Result<(), Rejection> {
        let user = Arc::from(user);
        let who = Who { caller: &Caller::Master, user_id: Some(&user) };
        rates.admit(&Metrics::new().unwrap(), who, None, 100, taken)
    }

    #[test]
    fn each_has_a_limit_of_their_own_and_what_one_limit_refuses_takes_nothing_of_another() {
        let tokens = NonZeroU32::new(3_000).map(|n| Rate::new(n, Duration::from_secs(6)));
        let all = Rule { requests: None, tokens, concurrent: NonZeroU32::new(3), ..rule(Per::All) };
        let rates = Rates::new(&[all, rule(Per::User)], false);
        let pass = |user: &str| {
            let mut taken = Taken::default();
            admit(&rates, user, &mut taken).map(|()| taken).map_err(|refused| refused.message)
        };
        let held = [pass("a").unwrap(), pass("a").unwrap()];
        assert_eq!(held[0].told.requests.map(|quota| quota.remaining), Some(1));
        assert!(pass("a").unwrap_err().contains("of this user"), "two at once, ten a minute");
        let third = pass("b").unwrap();
        assert!(pass("b").unwrap_err().contains("3 requests at once"));
        drop(third);
        // What was held is free, and what was estimated was not used.
        assert!(pass("b").is_ok() && pass("c").is_ok());
    }

    #[test]
    fn subjects_are_bounded_and_forgotten() {
        let counted = Counted::new(&rule(Per::User));
        let named = |n: usize| Subject::Named(n.to_string().into());
        for n in 0..MAX_SUBJECTS + 10 {
            counted.state(named(n), 0, None);
        }
        assert_eq!(counted.subjects.len(), MAX_SUBJECTS + 1);
        let others = counted.state(Subject::Others, 0, None);
        assert!(Arc::ptr_eq(&others, &counted.state(named(usize::MAX), 0, None)));
        drop(others);
        for _ in 0..=PRUNE_EVERY {
            counted.state(named(1), LATELY_NS * 2, None);
        }
        assert_eq!(counted.subjects.len(), 1);
    }

    #[test]
    fn a_rule_that_stays_keeps_what_was_used() {
        let rates = Rates::new(&[rule(Per::User)], false);
        let pass = || admit(&rates, "a", &mut Taken::default()).is_ok();
        assert!(pass() && pass() && !pass());
        rates.follow(&[rule(Per::All), rule(Per::User)]);
        assert!(!pass());
        rates.follow(&[rule(Per::All)]);
        rates.follow(&[rule(Per::User)]);
        assert!(pass(), "a new one begins anew");
    }
}
