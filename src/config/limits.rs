//! Sizes and times, and whom the gateway believes. A default stands beside the reason for its number.

use std::num::NonZeroU32;
use std::time::Duration;

use otari_filters::network::Network;

use super::Limits;
use super::layers::Fields;
use super::problem::Report;

/// When a provider that fails is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Failures in a row; at least 1.
    pub failures: u32,
    /// For how long it is left out; at least a second.
    pub cooldown: Duration,
}

impl Limits {
    /// How long the process may live on after it was told to end.
    pub fn longest_end(&self) -> Duration {
        self.lame_duck + self.drain + END_MARGIN
    }
}

/// On top of draining: for streams to be told, and for the journal to reach the store.
const END_MARGIN: Duration = Duration::from_secs(15);

/// Of anything at once.
const MOST: u64 = 10_000_000;

fn count(n: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(n).ok()?)
}

/// `trusted_proxies`.
pub(super) fn trusted_proxies(fields: &Fields, report: &mut Report) -> Vec<Network> {
    let Some(node) = fields.get("trusted_proxies") else { return Vec::new() };
    let texts = node.texts(report);
    let read = |text: &String| {
        let network = Network::read(text);
        if network.is_none() {
            node.wrong(report, "no address or network. Write 192.0.2.7, 10.0.0.0/8 or fd00::/8.");
        }
        network
    };
    texts.iter().filter_map(read).collect()
}

/// `rate_limit_rpm`.
pub(super) fn requests_per_minute(fields: &Fields, report: &mut Report) -> Option<NonZeroU32> {
    fields.some_whole("rate_limit_rpm", 1..=u64::from(u32::MAX), report).and_then(count)
}

/// `auth_failures_per_minute`.
pub(super) fn auth_failures(fields: &Fields, report: &mut Report) -> Option<NonZeroU32> {
    // Far more than people mistype, and far fewer than guessing takes.
    count(fields.whole("auth_failures_per_minute", 0..=1_000_000, 120, report))
}

/// Sizes and times.
pub(super) fn read(fields: &Fields, report: &mut Report) -> Limits {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let some_count = |key: &str, report: &mut Report| {
        fields.some_whole(key, 1..=MOST, report).map(|n| count(n).unwrap_or(NonZeroU32::MAX))
    };
    let at_once = |key: &str, default: u32, report: &mut Report| {
        let n = fields.whole(key, 1..=MOST, default.into(), report);
        count(n).unwrap_or(NonZeroU32::MAX)
    };
    Limits {
        // An idle connection costs about 40 KB.
        max_connections: at_once("max_connections", 20_000, report),
        // Ten times what agents with long lists of betas and traces send.
        max_header_bytes: size(fields.whole("max_header_bytes", 1024..=1 << 20, 64 * 1024, report)),
        // Browsers and agents send thirty; the parser takes 256.
        max_header_count: size(fields.whole("max_header_count", 8..=256, 100, report)),
        // A head is a packet or two.
        header_timeout: fields.seconds("header_timeout_s", 10, report),
        // A running stream costs about 80 KB.
        max_concurrent_requests: at_once("max_concurrent_requests", 10_000, report),
        max_concurrent_requests_per_key: some_count("max_concurrent_requests_per_key", report),
        max_concurrent_requests_per_user: some_count("max_concurrent_requests_per_user", report),
        // About two million requests that a database has missed.
        max_journal_bytes: fields.whole("max_journal_bytes", 1..=1 << 50, 1 << 30, report),
        // Conversations with images in base64 reach tens of MiB.
        max_request_bytes: size(fields.whole(
            "max_request_bytes",
            1..=1 << 40,
            100 * 1024 * 1024,
            report,
        )),
        // A large journal may have to be written first.
        upgrade: fields.seconds("upgrade_timeout_s", 60, report),
        request_body_timeout: fields.seconds("request_body_timeout_s", 60, report),
        // A tenth of the slowest modem: whoever is slower does it on purpose.
        request_body_min_bytes_per_s: u32::try_from(fields.whole(
            "request_body_min_bytes_per_s",
            0..=1 << 20,
            500,
            report,
        ))
        .unwrap_or(500),
        // A provider that takes longer to accept a connection is down.
        connect_timeout: fields.seconds("connect_timeout_s", 5, report),
        // Reasoning models may think for minutes before the first byte.
        first_byte_timeout: fields.seconds("first_byte_timeout_s", 600, report),
        idle_timeout: fields.seconds("idle_timeout_s", 300, report),
        request_timeout: fields.seconds("request_timeout_s", 3600, report),
        downstream_write_timeout: fields.seconds("downstream_write_timeout_s", 60, report),
        // Above the 60 s after which common load balancers give up, so that they close first.
        downstream_keepalive: fields.seconds_or_zero("downstream_keepalive_s", 75, report),
        streaming_keepalive_interval: Duration::from_millis(fields.whole(
            "streaming_keepalive_interval_ms",
            0..=86_400_000,
            15_000,
            report,
        )),
        lame_duck: fields.seconds_or_zero("lame_duck_s", 0, report),
        drain: fields.seconds_or_zero("drain_s", 30, report),
        // Short enough not to be waited for, and a look is one `stat` a file.
        reload_interval: fields.seconds_or_zero("reload_interval_s", 5, report),
        upstream_pool_size: size(fields.whole("upstream_pool_size", 1..=65_536, 512, report)),
    }
}
