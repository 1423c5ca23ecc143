//! Rate limits as an operator writes them: of what, of whose, and what a caller who is over one is told.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;

use crate::allow::AllowList;
use crate::gcra::Rate;
use crate::limit::Quota;
use crate::rejection::{Code, Rejection};

/// Whose calls are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// Those with one API key or one token of a platform.
    Key,
    /// Those that one user pays for.
    User,
    /// Those of one model, whoever calls.
    Model,
    /// All of them.
    All,
}

impl Per {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Key, Self::User, Self::Model, Self::All];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Model => "model",
            Self::All => "all",
        }
    }

    fn whose(self) -> &'static str {
        match self {
            Self::Key => " with this API key",
            Self::User => " of this user",
            Self::Model => " of this model",
            Self::All => "",
        }
    }
}

/// What a limit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests under way.
    Concurrent,
}

/// One entry of `rate_limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose calls.
    pub per: Per,
    /// Of these models only; `None`: of whichever.
    pub models: Option<AllowList>,
    /// Requests per minute.
    pub requests: Option<Rate>,
    /// Tokens per minute, prompt and output together.
    pub tokens: Option<Rate>,
    /// Requests under way.
    pub concurrent: Option<NonZeroU32>,
}

impl Rule {
    /// Whether it can be judged before it is known where a call goes.
    pub fn is_early(&self) -> bool {
        self.models.is_none() && self.per != Per::Model
    }

    /// Whether calls of `model` at `instance` count.
    pub fn covers(&self, instance: &str, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.permits(instance, model))
    }

    /// Says the same of two rules that mean the same, in every process.
    pub fn canonical(&self) -> String {
        let rate = |rate: Option<Rate>| rate.map(|rate| (rate.per_minute().get(), rate.burst_ns()));
        let models = self.models.as_ref().map(AllowList::entries);
        format!(
            "{} {models:?} {:?} {:?} {:?}",
            self.per.as_str(),
            rate(self.requests),
            rate(self.tokens),
            self.concurrent
        )
    }

    /// What a caller who is over the limit is told. Says nothing of anybody else.
    pub fn refusal(&self, what: What, wait: Duration) -> Rejection {
        let of = |rate: Option<Rate>| rate.map_or(0, |rate| rate.per_minute().get());
        let limit = match what {
            What::Requests => format!("{} requests per minute", of(self.requests)),
            What::Tokens => format!("{} tokens per minute", of(self.tokens)),
            What::Concurrent => {
                format!("{} requests at once", self.concurrent.map_or(0, NonZeroU32::get))
            }
        };
        let some = if self.models.is_some() { " for these models" } else { "" };
        let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        let message =
            format!("Rate limit exceeded: {limit}{}{some}. Try again later", self.per.whose());
        Rejection { retry_after_s: Some(seconds), ..Rejection::new(Code::RateLimited, message) }
    }
}

/// What a caller is told of the limits that they passed: of each kind the one that is nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Of requests per minute.
    pub requests: Option<Quota>,
    /// Of tokens per minute.
    pub tokens: Option<Quota>,
}

impl Told {
    /// Takes over what is said of one more limit.
    pub fn add(&mut self, what: What, quota: Quota) {
        let slot = match what {
            What::Requests => &mut self.requests,
            What::Tokens => &mut self.tokens,
            What::Concurrent => return,
        };
        if slot.is_none_or(|known| quota.remaining < known.remaining) {
            *slot = Some(quota);
        }
    }

    /// By the names that OpenAI's SDKs read. `has_requests`: somebody else says it of requests.
    pub fn headers(&self, has_requests: bool) -> Vec<(&'static str, HeaderValue)> {
        const REQUESTS: [&str; 3] = [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ];
        const TOKENS: [&str; 3] = [
            "x-ratelimit-limit-tokens",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
        ];
        let requests = self.requests.filter(|_| !has_requests);
        let mut headers = Vec::new();
        for (quota, names) in [(requests, REQUESTS), (self.tokens, TOKENS)] {
            let Some(quota) = quota else { continue };
            let wait = quota.resets_in;
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let reset = HeaderValue::from_str(&format!("{seconds}s"));
            headers.push((names[0], quota.limit.into()));
            headers.push((names[1], quota.remaining.into()));
            headers.push((names[2], reset.expect("digits and a letter")));
        }
        headers
    }
}

/// How many requests of a subject a gateway may have under way until it hears of the others again. It has `own`,
/// `others` so many on so many gateways. What is free is divided among those who use it. Who they are is known when it has
/// been used here for a while (`is_settled`); before, each of the gateways may have begun too, and has its part.
pub fn places(
    limit: NonZeroU32,
    own: u32,
    is_settled: bool,
    others: (u32, u32),
    gateways: u32,
) -> u32 {
    let (elsewhere, users) = others;
    let free = limit.get().saturating_sub(own.saturating_add(elsewhere));
    if is_settled {
        return own.saturating_add(free.div_ceil(users.saturating_add(1)));
    }
    let part = (limit.get() / gateways.max(1)).max(1);
    part.clamp(own, own.saturating_add(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_limit_and_the_wait() {
        let tokens = NonZeroU32::new(90_000).map(|n| Rate::new(n, Duration::from_secs(6)));
        let (requests, concurrent) = (None, NonZeroU32::new(3));
        let rule = Rule { per: Per::Key, models: None, requests, tokens, concurrent };
        let refused = rule.refusal(What::Tokens, Duration::from_millis(1_001));
        assert_eq!(
            refused.message,
            "Rate limit exceeded: 90000 tokens per minute with this API key. Try again later"
        );
        assert_eq!((refused.code, refused.retry_after_s), (Code::RateLimited, Some(2)));
        let refused = rule.refusal(What::Concurrent, Duration::ZERO);
        assert!(refused.message.contains("3 requests at once") && refused.retry_after_s == Some(1));
        assert!(rule.is_early() && !Rule { per: Per::Model, ..rule }.is_early());
    }

    #[test]
    fn free_places_are_divided() {
        let limit = NonZeroU32::new(9).unwrap();
        assert_eq!(places(limit, 0, false, (0, 0), 3), 3, "nobody has called yet");
        assert_eq!(places(limit, 3, true, (0, 0), 3), 9, "nobody else");
        assert_eq!(places(limit, 3, true, (2, 1), 3), 5);
        assert_eq!(places(limit, 3, false, (0, 0), 3), 3, "the others may have begun too");
        assert_eq!(places(limit, 1, false, (7, 1), 3), 2, "what is free");
        assert_eq!(places(limit, 0, false, (0, 0), 20), 1);
        assert_eq!(places(limit, 0, false, (9, 1), 3), 0);
        assert_eq!(places(limit, 4, true, (9, 2), 3), 4, "too many: nobody new");
    }

    #[test]
    fn the_nearest_limit_is_told() {
        let quota =
            |limit, remaining| Quota { limit, remaining, resets_in: Duration::from_millis(2_500) };
        let mut told = Told::default();
        told.add(What::Requests, quota(600, 50));
        told.add(What::Requests, quota(60, 5));
        told.add(What::Requests, quota(6_000, 500));
        told.add(What::Tokens, quota(90, 1));
        let headers = told.headers(false);
        assert_eq!(headers.len(), 6);
        assert_eq!(headers[0], ("x-ratelimit-limit-requests", 60.into()));
        assert_eq!(headers[2].1, "3s");
        assert_eq!(told.headers(true).len(), 3);
    }
}
