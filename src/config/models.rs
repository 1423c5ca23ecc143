//! `model_discovery` and its times: what providers are asked for the lists of their models.

use std::time::Duration;

use super::layers::Fields;
use super::problem::Report;

/// When and for how long lists of models are asked for. All of it can be changed while the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelDiscovery {
    /// `model_discovery`.
    pub is_on: bool,
    /// `model_cache_ttl_seconds`; zero: every list is asked for anew.
    pub cache_ttl: Duration,
    /// `model_discovery_timeout_seconds`: for one provider, all pages of its list together. Never zero.
    pub timeout: Duration,
    /// `model_discovery_negative_ttl_seconds`: a provider that failed is left alone for so long.
    pub negative_ttl: Duration,
    /// `models_dev_metadata`: show what the lists say about models.
    pub metadata: bool,
}

/// A month: what is kept longer is not a cache any more.
pub const LONGEST_TTL_S: u64 = 86_400 * 30;

pub(super) fn read(fields: &Fields, report: &mut Report) -> ModelDiscovery {
    ModelDiscovery {
        is_on: fields.flag("model_discovery", true, report),
        // Providers add models by the week; what is taken away fails with a clear error.
        cache_ttl: Duration::from_secs(fields.whole(
            "model_cache_ttl_seconds",
            0..=LONGEST_TTL_S,
            300,
            report,
        )),
        // Long for a list, short for somebody who waits for it.
        timeout: fields.seconds("model_discovery_timeout_seconds", 10, report),
        // About what a provider needs to come back after a restart.
        negative_ttl: fields.seconds_or_zero("model_discovery_negative_ttl_seconds", 30, report),
        metadata: fields.flag("models_dev_metadata", true, report),
    }
}
