//! Readings of the configuration while the gateway runs, and the certificate that comes with it.

use prometheus::{IntCounterVec, IntGauge};

use super::Registrar;
use crate::clock;

/// Readings of the configuration while the gateway runs.
pub struct ReloadMetrics {
    success: IntGauge,
    timestamp: IntGauge,
    outcomes: IntCounterVec,
    expiry: IntGauge,
}

impl ReloadMetrics {
    pub(super) fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        let new = Self {
            success: add.gauge(
                "gateway_config_reload_success",
                "Whether the last reading of the configuration could be put into effect",
            )?,
            timestamp: add.gauge(
                "gateway_config_reload_timestamp_seconds",
                "When the configuration was last read and put into effect",
            )?,
            outcomes: add.counters(
                "gateway_config_reloads_total",
                "Readings of the configuration while the gateway runs, by outcome",
                &["outcome"],
            )?,
            expiry: add.gauge(
                "gateway_tls_certificate_expiry_seconds",
                "When the certificate that callers are shown ends, in seconds since 1970; 0: there is none",
            )?,
        };
        new.started();
        Ok(new)
    }

    /// The configuration of the start is in effect.
    fn started(&self) {
        self.success.set(1);
        self.timestamp.set(clock::now().as_second());
        for outcome in ["success", "failure"] {
            self.outcomes.with_label_values(&[outcome]);
        }
    }

    /// Another certificate is shown, which ends then.
    pub fn certificate(&self, not_after: i64) {
        self.expiry.set(not_after);
    }

    /// What became of a reading.
    pub fn ended(&self, succeeded: bool) {
        self.success.set(i64::from(succeeded));
        let outcome = if succeeded { "success" } else { "failure" };
        self.outcomes.with_label_values(&[outcome]).inc();
        if succeeded {
            self.timestamp.set(clock::now().as_second());
        }
    }
}
