//! The only place that asks the system what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Microseconds since 1970, UTC.
pub fn now_us() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Nanoseconds of a clock that is never set and that all processes of this machine share. It tells nobody what time it is.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let parts = u64::try_from(now.tv_sec).ok().zip(u64::try_from(now.tv_nsec).ok());
    parts.map_or(0, |(seconds, nanos)| seconds * 1_000_000_000 + nanos)
}

/// Now, to the microsecond: what the databases can hold.
pub fn now() -> Timestamp {
    timestamp(now_us())
}

/// The instant so many microseconds after 1970.
pub fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

/// Whether a file's time is at least so long ago.
pub fn is_past(at: SystemTime, by: std::time::Duration) -> bool {
    at.elapsed().is_ok_and(|age| age >= by)
}
