//! Connected mode: a journal of reports and a client of the platform. No database.

use std::sync::Arc;

use pingora_core::server::configuration::ServerConf;

use super::{StartError, open_journal};
use crate::config::{Config, PlatformConfig};
use crate::control::platform::{Connected, Wires};
use crate::proxy::addresses::Addresses;
use crate::proxy::link::Link;
use crate::telemetry::metrics::Metrics;

/// Makes connected mode ready. The platform need not be there yet.
///
/// # Errors
/// When the journal cannot be opened or the platform's address is none; nothing is served then.
pub(super) fn start(
    config: &Arc<Config>,
    platform: &PlatformConfig,
    metrics: &Arc<Metrics>,
    server: &ServerConf,
    addresses: &Arc<Addresses>,
    beside: bool,
) -> Result<Arc<Connected>, StartError> {
    // Apart from the usage of standalone mode: whoever changes the mode loses neither.
    let journal = Arc::new(open_journal(&config.journal_dir.join("reports"), beside)?);
    // Names of the configured policies, which cannot be called in this mode.
    let policies = config.policies.iter().map(|policy| policy.name.clone()).collect();
    let link = || {
        let link = Link::new(&platform.base_url, config.limits.connect_timeout, server, addresses);
        link.map(Arc::new).map_err(StartError::Other)
    };
    let wires = Wires { asking: link()?, telling: link()? };
    let limits = &config.limits;
    Connected::new(platform.clone(), limits, policies, wires, journal, metrics.clone())
        .map(Arc::new)
        .map_err(StartError::Other)
}
