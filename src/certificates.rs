//! The certificate that callers are shown. Another takes its place while connections are open: they keep what they began
//! with, the next one sees the new one.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::Tls;
use crate::telemetry::metrics::Metrics;

/// See the module.
pub struct Certificates {
    current: ArcSwap<CertifiedKey>,
    metrics: Arc<Metrics>,
}

impl Certificates {
    /// Shows this one.
    pub fn new(tls: &Tls, metrics: Arc<Metrics>) -> Self {
        metrics.reload.certificate(tls.not_after);
        Self { current: ArcSwap::new(tls.certified.clone()), metrics }
    }

    /// Shows this one from the next connection on.
    pub fn replace(&self, tls: &Tls) {
        self.current.store(tls.certified.clone());
        self.metrics.reload.certificate(tls.not_after);
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}
