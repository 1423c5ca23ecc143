//! How much is measured: the sizes of the full form, and the smallest ones that still pass through everything.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Sizes of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) is_smoke: bool,
    /// Worker threads of the gateway and of the bare pass-through.
    pub(crate) threads: usize,
    /// Connections of the closed loop.
    pub(crate) connections: usize,
    /// Rounds of the two rows that everything else is compared with, and of the others.
    pub(crate) rounds: u32,
    pub(crate) few_rounds: u32,
    /// One measurement, and the load before it.
    pub(crate) time: Duration,
    pub(crate) warm_up: Duration,
    /// Small calls a second in an open loop, and how long.
    pub(crate) rate: f64,
    pub(crate) open_time: Duration,
    /// Paced streams at once, of how many deltas, and how many a connection reads one after the other.
    pub(crate) streams: usize,
    pub(crate) crowd: usize,
    pub(crate) streams_each: usize,
    /// Connections that send large bodies.
    pub(crate) senders: usize,
    /// Streams that are held open.
    pub(crate) held: usize,
    /// Keys, users and prices of the larger database.
    pub(crate) grown: usize,
    /// Starts that are timed.
    pub(crate) starts: u32,
    /// Everything has ended after so long; what was not measured by then is not measured.
    pub(crate) limit: Duration,
    /// Where reports go.
    pub(crate) out: PathBuf,
}

impl Plan {
    /// A quarter of an hour at most.
    pub(crate) fn full(out: PathBuf) -> Self {
        Self {
            is_smoke: false,
            threads: 1,
            connections: 32,
            rounds: 5,
            few_rounds: 3,
            time: Duration::from_secs(3),
            warm_up: Duration::from_millis(200),
            rate: 200.0,
            open_time: Duration::from_secs(4),
            streams: 32,
            crowd: 2000,
            streams_each: 3,
            senders: 4,
            held: 1000,
            grown: 1_000_000,
            starts: 7,
            limit: Duration::from_secs(15 * 60),
            out,
        }
    }

    /// A minute, whatever the profile.
    pub(crate) fn smoke(out: PathBuf) -> Self {
        Self {
            is_smoke: true,
            connections: 4,
            rounds: 1,
            few_rounds: 1,
            time: Duration::from_millis(250),
            warm_up: Duration::from_millis(50),
            rate: 50.0,
            open_time: Duration::from_millis(500),
            streams: 4,
            crowd: 20,
            streams_each: 1,
            senders: 1,
            held: 20,
            grown: 1000,
            starts: 1,
            limit: Duration::from_secs(5 * 60),
            ..Self::full(out)
        }
    }
}
