//! The operations, as a gateway asks for them.

mod golden;
mod properties;
mod requests;

use std::time::Duration;

use crate::providers;
use crate::secret::Secret;
use crate::upstream::{Draft, Upstream};

/// A provider as it is configured.
fn upstream(provider: &str, base: Option<&str>, settings: &[(String, Secret)]) -> Upstream {
    let kind = providers::find(provider).unwrap_or_else(|| panic!("{provider}: no such provider"));
    let own = kind.base(settings).unwrap_or("https://api.example/v1".into());
    let draft = Draft {
        instance: provider,
        kind,
        base_url: base.unwrap_or(&own),
        api_key: None,
        headers: &[],
        client_settings: settings,
        max_retries: 0,
        first_byte_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        address: None,
    };
    Upstream::new(&draft).unwrap()
}
