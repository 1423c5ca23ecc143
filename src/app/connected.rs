//! Connected mode: a journal of reports and a client of the platform. No database.

use std::sync::Arc;

use super::StartError;
use crate::config::{Config, PlatformConfig};
use crate::control::journal::Journal;
use crate::control::platform::Connected;
use crate::telemetry::metrics::Metrics;

/// Makes connected mode ready. The platform need not be there yet.
///
/// # Errors
/// When the journal cannot be opened; nothing is served then.
pub(super) fn start(
    config: &Arc<Config>,
    platform: &PlatformConfig,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Connected>, StartError> {
    // Apart from the usage of standalone mode: whoever changes the mode loses neither.
    let journal = Arc::new(Journal::open(&config.journal_dir.join("reports"))?);
    // Names of the configured policies, which cannot be called in this mode.
    let policies = config.policies.iter().map(|policy| policy.name.clone()).collect();
    let connected =
        Connected::new(platform.clone(), &config.limits, policies, journal, metrics.clone())
            .map_err(StartError::Other)?;
    Ok(Arc::new(connected))
}
