//! Rate limits: what each of them has let pass, of each key, user and model.
//!
//! No lock: a limit of a subject is a few atomics in a map that is read without one. Where gateways share their limits,
//! `exchange` tells the others ten times a second what was used here, and takes ahead what will be. A call that finds
//! nothing taken waits, not long, for an exchange of its own. Without the database each gateway goes on with its part:
//! the limit divided by the gateways that were alive.

mod exchange;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use otari_filters::control::Caller;
use otari_filters::gcra::{Bucket, Left, Rate, Short, Source};
use otari_filters::limit::{Entered, Quota, UnderWay};
use otari_filters::rates::{Per, Rule, Told, What};
use otari_filters::rejection::Rejection;
use papaya::HashMap;

use crate::control::directory;
use crate::store::Shared;
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
/// Longest that a request waits to hear from the other gateways: an exchange that has begun and its own, of a second each
/// at most. One that fails or takes longer is over too, and says that the database is away.
const HEAR_AT_MOST: Duration = Duration::from_millis(2500);
/// How often it asks: others may be quicker each time, but then there is hardly anything left.
const ASK_AT_MOST: u32 = 8;

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
    /// What the database calls it.
    key: Box<str>,
    requests: Bucket,
    tokens: Bucket,
    under_way: UnderWay,
    /// Requests that this gateway may have under way, where gateways share.
    allowed: AtomicU32,
    /// What the others know of it.
    told: AtomicU32,
    used_at: AtomicI64,
    /// When it was used for the first time after a silence.
    since: AtomicI64,
}

/// How limits are judged now.
#[derive(Clone, Copy)]
enum Mode<'a> {
    /// By this gateway, which has all of it.
    Alone,
    /// By this gateway, which has one of so many parts: nothing is heard of the others.
    Part(u32),
    /// By what the others let it take.
    Shared(&'a Sharing),
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

/// Why a call does not pass at once.
#[derive(Clone, Copy, Debug)]
enum Denied {
    /// There is too little of it for so long.
    Over(What, Duration),
    /// To be tried again when this exchange is over.
    Unheard(u64),
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

    /// Gives back all but the first `kept` charges: the call has not passed, or not yet.
    fn undo(&mut self, kept: usize, told: Told) {
        for mut charge in self.charges.drain(kept..) {
            if let Some((source, taken)) = charge.tokens.take() {
                charge.state.tokens.correct(source, taken, 0);
            }
            if let Some(source) = charge.requests {
                charge.state.requests.correct(source, 1, 0);
            }
        }
        self.told = told;
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

    /// Hears how many gateways there are, before the first call. If the database does not answer, the first exchange will
    /// tell.
    pub async fn begin(&self, shared: &dyn Shared) {
        if let Some(sharing) = &self.sharing
            && let Err(error) = sharing.count(shared, false).await
        {
            tracing::debug!(%error, "nobody knows yet how many gateways there are");
        }
    }

    /// Takes a request and its estimated tokens out of every limit that it falls under. `model`: where it goes, its
    /// provider first; `None`: nobody knows yet, and the limits that ask for it are judged later. Where gateways share
    /// limits it may have to ask the others, for 2.5 seconds at most.
    ///
    /// # Errors
    /// `rate_limited`. Then `taken` is empty.
    pub async fn admit(
        &self,
        metrics: &Metrics,
        who: Who<'_>,
        model: Option<(&str, &str)>,
        tokens: u64,
        taken: &mut Taken,
    ) -> Result<(), Rejection> {
        if self.rules.load().is_empty() {
            return Ok(());
        }
        let (kept, told) = (taken.charges.len(), taken.told);
        let mut wait = Wait::default();
        loop {
            let mode = self.mode(wait.is_over);
            let (counted, denied) = match self.attempt(mode, who, model, tokens, taken) {
                Ok(()) => return Ok(()),
                Err(denied) => denied,
            };
            let (what, after) = match (denied, &self.sharing) {
                (Denied::Unheard(round), Some(sharing)) if wait.asked < ASK_AT_MOST => {
                    taken.undo(kept, told);
                    wait.hear(sharing, round).await;
                    continue;
                }
                (Denied::Over(what, after), _) => (what, after),
                // The others were quicker each time.
                (Denied::Unheard(_), _) => (counted.what(), A_MOMENT),
            };
            taken.undo(0, Told::default());
            metrics.rate_limit_hits.inc();
            metrics.limit(match what {
                What::Requests => Limit::RateRequests,
                What::Tokens => Limit::RateTokens,
                What::Concurrent => Limit::RateConcurrent,
            });
            return Err(counted.rule.refusal(what, after));
        }
    }

    /// Takes it out of every limit, by what is known here. A limit that has to ask does not keep the others from asking
    /// at the same time.
    fn attempt(
        &self,
        mode: Mode<'_>,
        who: Who<'_>,
        model: Option<(&str, &str)>,
        tokens: u64,
        taken: &mut Taken,
    ) -> Result<(), (Arc<Counted>, Denied)> {
        let now = self.now();
        let mut unheard = None;
        for counted in self.rules.load().iter() {
            let is_due = match model {
                None => counted.rule.is_early(),
                Some((instance, model)) => {
                    !counted.rule.is_early() && counted.rule.covers(instance, model)
                }
            };
            let subject = if is_due { self.subject(counted.rule.per, who, model) } else { None };
            let Some(subject) = subject else { continue };
            let state = counted.state(subject, now, self.sharing.as_ref());
            match counted.take(state, mode, tokens, now, taken) {
                Ok(()) => {}
                Err(denied @ Denied::Over(..)) => return Err((counted.clone(), denied)),
                Err(denied) => unheard = Some((counted.clone(), denied)),
            }
        }
        unheard.map_or(Ok(()), Err)
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

    /// `is_unheard`: the others were asked, and have not answered in time.
    fn mode(&self, is_unheard: bool) -> Mode<'_> {
        match &self.sharing {
            None => Mode::Alone,
            Some(sharing) if is_unheard || sharing.is_away() => Mode::Part(sharing.parts()),
            Some(sharing) => Mode::Shared(sharing),
        }
    }
}

/// How long a request has waited for the others.
#[derive(Default)]
struct Wait {
    until: Option<tokio::time::Instant>,
    asked: u32,
    is_over: bool,
}

impl Wait {
    async fn hear(&mut self, sharing: &Sharing, round: u64) {
        let in_time = || tokio::time::Instant::now() + HEAR_AT_MOST;
        let until = *self.until.get_or_insert_with(in_time);
        self.asked += 1;
        self.is_over = tokio::time::timeout_at(until, sharing.over(round)).await.is_err();
    }
}

impl Counted {
    fn new(rule: &Rule) -> Self {
        let digest = directory::hex(&directory::digest(&rule.canonical()));
        let tag = digest[..16].to_owned();
        let (subjects, counted) = (HashMap::new(), AtomicU64::new(0));
        Self { rule: rule.clone(), tag, subjects, counted }
    }

    /// Which limit is named when nobody knows which.
    fn what(&self) -> What {
        if self.rule.requests.is_some() { What::Requests } else { What::Tokens }
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
                    let state = State { key: self.key(&subject).into(), ..State::default() };
                    if let (Some(sharing), Some(limit)) = (sharing, self.rule.concurrent) {
                        sharing.allow(&state, limit, now);
                    }
                    Arc::new(state)
                };
                subjects.get_or_insert_with(subject.clone(), made).clone()
            }
        };
        let used_at = state.used_at.swap(now, Ordering::Relaxed);
        if used_at == 0 || now - used_at > LATELY_NS {
            state.since.store(now, Ordering::Relaxed);
        }
        state
    }

    fn take(
        &self,
        state: Arc<State>,
        mode: Mode<'_>,
        tokens: u64,
        now: i64,
        taken: &mut Taken,
    ) -> Result<(), Denied> {
        let place = match self.rule.concurrent {
            Some(limit) => {
                Some(state.enter(limit, mode).ok_or(Denied::Over(What::Concurrent, A_MOMENT))?)
            }
            None => None,
        };
        let mut charge = Charge { state, requests: None, tokens: None, _place: place };
        let mut denied = None;
        for (what, rate, amount) in
            [(What::Requests, self.rule.requests, 1), (What::Tokens, self.rule.tokens, tokens)]
        {
            let Some(rate) = rate else { continue };
            match spend(&charge.state, what, (rate, amount), mode, now) {
                Ok((source, left)) => {
                    match what {
                        What::Tokens => charge.tokens = Some((source, amount)),
                        _ => charge.requests = Some(source),
                    }
                    taken.told.add(what, quota(rate, left));
                }
                Err(over @ Denied::Over(..)) => {
                    denied = Some(over);
                    break;
                }
                Err(unheard) => denied = Some(unheard),
            }
        }
        taken.charges.push(charge);
        denied.map_or(Ok(()), Err)
    }
}

fn spend(
    state: &Arc<State>,
    what: What,
    (rate, amount): (Rate, u64),
    mode: Mode<'_>,
    now: i64,
) -> Result<(Source, Left), Denied> {
    let is_tokens = what == What::Tokens;
    let bucket = state.bucket(is_tokens);
    match mode {
        Mode::Alone => {
            let left = bucket.take(rate, amount, now).map_err(|wait| Denied::Over(what, wait))?;
            Ok((Source::Own(rate), left))
        }
        Mode::Part(parts) => {
            bucket.take_part(rate, parts, amount, now).map_err(|wait| Denied::Over(what, wait))
        }
        Mode::Shared(sharing) => match bucket.take_shared(rate, amount, now, sharing.gateways()) {
            Ok(left) => Ok((Source::Shared(rate), left)),
            Err(Short::For(wait)) => Err(Denied::Over(what, wait)),
            Err(Short::Unknown) => Err(Denied::Unheard(sharing.hurry(state, is_tokens, rate))),
        },
    }
}

fn quota(rate: Rate, left: Left) -> Quota {
    Quota { limit: rate.per_minute().get(), remaining: left.amount, resets_in: left.full_in }
}

impl State {
    fn bucket(&self, is_tokens: bool) -> &Bucket {
        if is_tokens { &self.tokens } else { &self.requests }
    }

    fn enter(&self, limit: NonZeroU32, mode: Mode<'_>) -> Option<Entered> {
        let most = match mode {
            Mode::Alone => limit.get(),
            Mode::Part(parts) => limit.get().div_ceil(parts.max(1)),
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

    async fn admit(rates: &Rates, user: &str, taken: &mut Taken) -> Result<(), Rejection> {
        let user = Arc::from(user);
        let who = Who { caller: &Caller::Master, user_id: Some(&user) };
        rates.admit(&Metrics::new().unwrap(), who, None, 100, taken).await
    }

    #[tokio::test]
    async fn each_has_a_limit_of_their_own_and_what_one_limit_refuses_takes_nothing_of_another() {
        let tokens = NonZeroU32::new(3_000).map(|n| Rate::new(n, Duration::from_secs(6)));
        let all = Rule { requests: None, tokens, concurrent: NonZeroU32::new(3), ..rule(Per::All) };
        let rates = Rates::new(&[all, rule(Per::User)], false);
        let pass = async |user: &str| {
            let mut taken = Taken::default();
            let passed = admit(&rates, user, &mut taken).await;
            passed.map(|()| taken).map_err(|refused| refused.message)
        };
        let held = [pass("a").await.unwrap(), pass("a").await.unwrap()];
        assert_eq!(held[0].told.requests.map(|quota| quota.remaining), Some(1));
        let refused = pass("a").await.unwrap_err();
        assert!(refused.contains("of this user"), "two at once, ten a minute");
        let third = pass("b").await.unwrap();
        assert!(pass("b").await.unwrap_err().contains("3 requests at once"));
        drop(third);
        // What was held is free, and what was estimated was not used.
        assert!(pass("b").await.is_ok() && pass("c").await.is_ok());
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

    #[tokio::test]
    async fn a_rule_that_stays_keeps_what_was_used() {
        let rates = Rates::new(&[rule(Per::User)], false);
        let pass = async || admit(&rates, "a", &mut Taken::default()).await.is_ok();
        assert!(pass().await && pass().await && !pass().await);
        rates.follow(&[rule(Per::All), rule(Per::User)]);
        assert!(!pass().await);
        rates.follow(&[rule(Per::All)]);
        rates.follow(&[rule(Per::User)]);
        assert!(pass().await, "a new one begins anew");
    }
}
