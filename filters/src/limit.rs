//! Requests per minute: a sliding window of 60 seconds. Beside it: requests at once, and allowances that come back.
//!
//! As in the reference gateway: a refused call takes no slot; a call that passes keeps its slot even if a later
//! filter refuses it.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::rejection::{Code, Rejection};

/// Length of the window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The calls of one user within the last minute, oldest first; never longer than the limit.
#[derive(Debug, Default)]
pub struct Window(VecDeque<Instant>);

/// What the caller is told about their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests per minute.
    pub limit: u32,
    /// Left after this one.
    pub remaining: u32,
    /// Until the oldest call leaves the window.
    pub resets_in: Duration,
}

impl Window {
    /// Takes a slot.
    ///
    /// # Errors
    /// `rate_limited`, with the seconds until a slot is free.
    pub fn admit(&mut self, now: Instant, limit: NonZeroU32) -> Result<Quota, Rejection> {
        while self.0.front().is_some_and(|oldest| now.duration_since(*oldest) >= WINDOW) {
            self.0.pop_front();
        }
        let used = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let resets_in =
            self.0.front().map_or(WINDOW, |oldest| WINDOW - now.duration_since(*oldest));
        if used >= limit.get() {
            let seconds = resets_in.as_secs() + u64::from(resets_in.subsec_nanos() > 0);
            return Err(Rejection {
                retry_after_s: Some(seconds),
                ..Rejection::new(Code::RateLimited, "Rate limit exceeded")
            });
        }
        self.0.push_back(now);
        Ok(Quota { limit: limit.get(), remaining: limit.get() - used - 1, resets_in })
    }

    /// Whether no call is left in the window.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.0.back().is_none_or(|newest| now.duration_since(*newest) >= WINDOW)
    }
}

/// Requests under way of one key or one user. Clones count together; whoever holds one counts without a lock.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Arc<AtomicU32>);

/// One request that is counted; counts down when dropped, also by a panic.
#[derive(Debug)]
pub struct Entered(UnderWay);

impl UnderWay {
    /// Counts a request in; `None`: there are `limit` already.
    pub fn enter(&self, limit: NonZeroU32) -> Option<Entered> {
        if self.0.fetch_add(1, Ordering::AcqRel) >= limit.get() {
            self.0.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Entered(self.clone()))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

/// Counters say nothing of who somebody is.
impl PartialEq for UnderWay {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for UnderWay {}

impl Drop for Entered {
    fn drop(&mut self) {
        (self.0).0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Things that may happen so many times at once, and once more every so often after that.
#[derive(Debug, Default)]
pub struct Allowance {
    /// When all of it is there again; `None`: it is now.
    full_at: Option<Instant>,
}

/// How large an allowance is, and how fast it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// An allowance that was not used.
    pub burst: u32,
    /// What brings one back.
    pub refill: Duration,
}

/// Rows that refusals may leave.
pub const ROWS: Pace = Pace { burst: 30, refill: Duration::from_secs(10) };

impl Pace {
    /// So many within any minute, roughly.
    pub fn per_minute(count: NonZeroU32) -> Self {
        Self { burst: count.get(), refill: WINDOW / count.get() }
    }
}

impl Allowance {
    /// Takes one, if there is any.
    pub fn take(&mut self, now: Instant, pace: Pace) -> bool {
        if self.wait(now, pace).is_some() {
            return false;
        }
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now);
        self.full_at = Some(full_at + pace.refill);
        true
    }

    /// Until there is one; `None`: there is one now.
    pub fn wait(&self, now: Instant, pace: Pace) -> Option<Duration> {
        let missing = self.full_at?.saturating_duration_since(now);
        (missing + pace.refill).checked_sub(pace.refill * pace.burst).filter(|wait| !wait.is_zero())
    }

    /// Whether nothing is missing: it might as well be forgotten.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_comes_back_slowly() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut allowance = Allowance::default();
        assert!(allowance.is_full(at(0)));
        assert_eq!((0..100).filter(|_| allowance.take(at(0), ROWS)).count(), 30);
        assert!(!allowance.take(at(9), ROWS));
        assert_eq!((0..100).filter(|_| allowance.take(at(25), ROWS)).count(), 2);
        assert_eq!(allowance.wait(at(25), ROWS), Some(Duration::from_secs(5)));
        assert!(!allowance.is_full(at(300)));
        assert!(allowance.is_full(at(320)));
        assert_eq!((0..100).filter(|_| allowance.take(at(9000), ROWS)).count(), 30, "never more");
    }

    #[test]
    fn whoever_leaves_makes_room() {
        let limit = NonZeroU32::new(2).unwrap();
        let calls = UnderWay::default();
        let also = calls.clone();
        let first = calls.enter(limit);
        let second = also.enter(limit);
        assert!(first.is_some() && second.is_some());
        assert!(calls.enter(limit).is_none());
        drop(first);
        let panicked = std::panic::catch_unwind(|| {
            let _third = calls.enter(limit).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert_eq!(calls.count(), 1, "a panic leaves too, and a refused one never was there");
    }

    #[test]
    fn the_limit_holds_within_any_minute() {
        let limit = NonZeroU32::new(2).unwrap();
        let start = Instant::now();
        let at = |s: f32| start + Duration::from_secs_f32(s);
        let mut window = Window::default();
        assert_eq!(window.admit(at(0.0), limit).unwrap().remaining, 1);
        assert_eq!(window.admit(at(10.0), limit).unwrap().remaining, 0);
        let refused = window.admit(at(10.5), limit).unwrap_err();
        assert_eq!(refused.retry_after_s, Some(50), "49.5 s, rounded up");
        assert!(window.admit(at(60.0), limit).is_ok(), "the first call has left the window");
        assert!(window.admit(at(61.0), limit).is_err(), "refused calls took no slot");
        assert!(!window.is_idle(at(100.0)));
        assert!(window.is_idle(at(120.0)));
    }
}
