//! The operations, as a gateway asks for them.

mod forms;
mod golden;
mod properties;
mod requests;

use std::time::Duration;

use serde_json::Value;

use crate::providers;
use crate::rejection::Rejection;
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

/// `type place` of every fault.
fn faults(refused: &Rejection) -> Vec<String> {
    let fault = |fault: &Value| {
        let place: Vec<String> = fault["loc"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
            .collect();
        format!("{} {}", fault["type"].as_str().unwrap(), place.join("."))
    };
    refused.detail.as_ref().unwrap().as_array().unwrap().iter().map(fault).collect()
}
