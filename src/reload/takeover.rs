//! Which keys can be taken over while the gateway runs. Whatever is not named here needs a restart.

use crate::config::{BatchConfig, Config, Limits, ProviderConfig};

/// Keys that are put into effect at once, in both modes.
const LIVE: &[&str] = &[
    "rate_limit_rpm",
    "rate_limits",
    "enable_metrics",
    "enable_docs",
    "log_level",
    "stream_hold_output_tokens",
    "retry_after_sent",
    "batch_poll_interval_s",
    "cors_allow_origins",
    "trusted_proxies",
    "max_connections",
    "max_header_bytes",
    "max_header_count",
    "header_timeout_s",
    "max_concurrent_requests",
    "max_concurrent_requests_per_key",
    "max_concurrent_requests_per_user",
    "max_journal_bytes",
    "max_request_bytes",
    "request_body_timeout_s",
    "request_body_min_bytes_per_s",
    "connect_timeout_s",
    "first_byte_timeout_s",
    "idle_timeout_s",
    "request_timeout_s",
    "downstream_write_timeout_s",
    "downstream_keepalive_s",
    "streaming_keepalive_interval_ms",
    "drain_s",
    "upgrade_timeout_s",
    "reload_interval_s",
    "circuit_breaker_failures",
    "circuit_breaker_cooldown_s",
    "model_capabilities",
];

/// Keys that standalone mode puts into effect besides: those of the settings that the management API can change too, and
/// where calls may lead. In connected mode they have no effect.
const LIVE_STANDALONE: &[&str] = &[
    "master_key",
    "providers",
    "pricing",
    "aliases",
    "routing",
    "search_tools",
    "default_pricing",
    "require_pricing",
    "reject_user_mismatch",
    "budget_estimate_default_output_tokens",
    "stream_missing_usage_policy",
    "usage_retention_days",
    "audit_retention_days",
    "model_discovery",
    "model_cache_ttl_seconds",
    "model_discovery_timeout_seconds",
    "model_discovery_negative_ttl_seconds",
    "models_dev_metadata",
    "file_understanding_enabled",
    "vision_strategy",
    "vision_describe_model",
    "vision_describe_max_tokens",
];

/// Whether a change of this key takes effect without a restart.
pub(super) fn is_live(key: &str, new: &Config, old: &Config) -> bool {
    if key == "master_key" && new.master_key.is_none() && old.master_key.is_some() {
        // Who would be let in then is in the database, and is found out at start.
        return false;
    }
    if ["tls_cert_path", "tls_key_path"].contains(&key) {
        // Whether a listener speaks TLS is decided when it is made.
        return new.tls.is_some() && old.tls.is_some();
    }
    LIVE.contains(&key) || (new.platform.is_none() && LIVE_STANDALONE.contains(&key))
}

/// The configuration that is in force after `new` was read: `old` where only a restart would change it.
pub(super) fn next(old: &Config, new: &Config) -> Config {
    let mut next = Config {
        warnings: new.warnings.clone(),
        rate_limit_rpm: new.rate_limit_rpm,
        rate_limits: new.rate_limits.clone(),
        cors_allow_origins: new.cors_allow_origins.clone(),
        trusted_proxies: new.trusted_proxies.clone(),
        enable_metrics: new.enable_metrics,
        enable_docs: new.enable_docs,
        log_level: new.log_level,
        stream_hold_output_tokens: new.stream_hold_output_tokens,
        retry_after_sent: new.retry_after_sent,
        batches: BatchConfig { poll_interval: new.batches.poll_interval, ..old.batches },
        limits: Limits {
            lame_duck: old.limits.lame_duck,
            upstream_pool_size: old.limits.upstream_pool_size,
            ..new.limits.clone()
        },
        circuit_breaker: new.circuit_breaker,
        attachments: new.attachments.clone(),
        tls: old.tls.as_ref().and(new.tls.as_ref()).or(old.tls.as_ref()).cloned(),
        ..old.clone()
    };
    if new.platform.is_none() {
        next.master_key = new.master_key.clone().or(next.master_key);
        next.providers = new.providers.clone();
        next.pricing = new.pricing.clone();
        next.aliases = new.aliases.clone();
        next.policies = new.policies.clone();
        next.search_tools = new.search_tools.clone();
        next.default_pricing = new.default_pricing;
        next.require_pricing = new.require_pricing;
        next.reject_user_mismatch = new.reject_user_mismatch;
        next.budget_estimate_default_output_tokens = new.budget_estimate_default_output_tokens;
        next.stream_missing_usage_policy = new.stream_missing_usage_policy;
        next.usage_retention_days = new.usage_retention_days;
        next.audit_retention_days = new.audit_retention_days;
        next.models = new.models;
    }
    next
}

/// Whether a provider is as it was.
pub(super) fn is_same(one: &ProviderConfig, other: &ProviderConfig) -> bool {
    // Taken apart, so that a new field is not forgotten. What is declared of its models is not of its upstream.
    let ProviderConfig {
        instance,
        kind,
        api_key,
        settings,
        credential,
        base_url,
        timeout,
        max_retries,
        headers,
        models: _,
        from_environment: _,
    } = one;
    *instance == other.instance
        && kind.name == other.kind.name
        && *api_key == other.api_key
        && *settings == other.settings
        && *credential == other.credential
        && *base_url == other.base_url
        && *timeout == other.timeout
        && *max_retries == other.max_retries
        && *headers == other.headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Sources, load};

    fn config(yaml: &str) -> Config {
        let env = Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]);
        load(&Sources { env, ..Sources::default() }).unwrap()
    }

    #[test]
    fn what_needs_a_restart_stays() {
        let old = config(
            "port: 1\nmaster_key: otari-mk-one-1234567890\nlame_duck_s: 1\nrequest_timeout_s: 5",
        );
        let new = config(
            "port: 2\nthreads: 77\nlame_duck_s: 2\nrequest_timeout_s: 6\nproviders: {openai: {api_key: k}}",
        );
        let next = next(&old, &new);
        assert_eq!((next.listen.port, next.threads), (1, old.threads));
        assert_eq!(next.master_key, old.master_key);
        assert_eq!(
            (next.limits.lame_duck.as_secs(), next.limits.request_timeout.as_secs()),
            (1, 6)
        );
        assert_eq!(next.providers.len(), 1);
        assert!(is_live("providers", &new, &old) && is_live("request_timeout_s", &new, &old));
        assert!(!is_live("port", &new, &old) && !is_live("master_key", &new, &old));
        assert!(is_live("master_key", &old, &new));
    }

    #[test]
    fn every_live_key_is_one() {
        let text = include_str!("../../conf/otari.yml");
        for key in LIVE.iter().chain(LIVE_STANDALONE) {
            assert!(text.contains(&format!("\n{key}:")), "{key} is no key of the configuration");
        }
    }

    #[test]
    fn a_provider_with_another_key_is_another() {
        let of =
            |key: &str| config(&format!("providers: {{openai: {{api_key: {key}}}}}")).providers;
        assert!(is_same(&of("a")[0], &of("a")[0]) && !is_same(&of("a")[0], &of("b")[0]));
    }
}
