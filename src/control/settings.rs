//! What can be changed while the gateway runs: the configuration's values, overlaid by those in the store; and the
//! master key, which is in one of the two.

use std::time::Duration;

use otari_filters::control::Caller;
use subtle::ConstantTimeEq as _;

use crate::config::{Config, LONGEST_TTL_S, MissingUsage, VisionStrategy};
use crate::control::directory::{self, KeyDigest};
use crate::store::SettingRow;

/// Under this name the store keeps the SHA-256 of a generated master key.
pub const MASTER_KEY_HASH: &str = "master_key_hash";

/// The settings that requests read. Replaced as a whole by a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Refuse models without a price with 402.
    pub require_pricing: bool,
    /// Bill models without a price at public list prices.
    pub default_pricing: bool,
    /// Refuse a request whose user is an existing user other than the key's.
    pub reject_user_mismatch: bool,
    /// Output tokens assumed when a request declares none.
    pub budget_estimate_default_output_tokens: u64,
    /// What a stream without usage costs.
    pub stream_missing_usage_policy: MissingUsage,
    /// Ask providers for the lists of their models.
    pub model_discovery: bool,
    /// How long a list is kept; zero: not at all.
    pub model_cache_ttl: Duration,
    /// How long a provider has for its list.
    pub model_discovery_timeout: Duration,
    /// How long a provider that failed is left alone.
    pub model_discovery_negative_ttl: Duration,
    /// Show what the lists say about models.
    pub models_dev_metadata: bool,
    /// Look at images and documents of requests.
    pub file_understanding_enabled: bool,
    /// What becomes of an image that the model cannot take.
    pub vision_strategy: VisionStrategy,
    /// Who describes images, as callers name models.
    pub vision_describe_model: Option<String>,
    /// Output tokens of a description.
    pub vision_describe_max_tokens: u64,
}

impl Settings {
    /// The configuration's, overlaid by `stored`. What cannot be read there is passed over with a warning.
    pub fn new(config: &Config, stored: &[SettingRow]) -> Self {
        let mut settings = Self {
            require_pricing: config.require_pricing,
            default_pricing: config.default_pricing,
            reject_user_mismatch: config.reject_user_mismatch,
            budget_estimate_default_output_tokens: config.budget_estimate_default_output_tokens,
            stream_missing_usage_policy: config.stream_missing_usage_policy,
            model_discovery: config.models.is_on,
            model_cache_ttl: config.models.cache_ttl,
            model_discovery_timeout: config.models.timeout,
            model_discovery_negative_ttl: config.models.negative_ttl,
            models_dev_metadata: config.models.metadata,
            file_understanding_enabled: config.attachments.is_enabled,
            vision_strategy: config.attachments.strategy,
            vision_describe_model: config.attachments.describe_model.clone(),
            vision_describe_max_tokens: config.attachments.describe_max_tokens,
        };
        for row in stored.iter().filter(|row| row.key != MASTER_KEY_HASH) {
            if settings.set(&row.key, &row.value).is_none() {
                tracing::warn!(key = row.key, "a stored setting is not one of this version's");
            }
        }
        settings
    }

    /// Sets one, from the text that the store keeps; `None` when there is no such setting or value.
    fn set(&mut self, key: &str, text: &str) -> Option<()> {
        // Other software writes `True`, or a word as JSON.
        let text = text.trim_matches('"');
        if key == "vision_describe_model" {
            // Names of models have capitals.
            self.vision_describe_model = Some(text.to_owned()).filter(|name| !name.is_empty());
            return Some(());
        }
        let text = text.to_ascii_lowercase();
        match key {
            "require_pricing" => self.require_pricing = text.parse().ok()?,
            "default_pricing" => self.default_pricing = text.parse().ok()?,
            "reject_user_mismatch" => self.reject_user_mismatch = text.parse().ok()?,
            "budget_estimate_default_output_tokens" => {
                self.budget_estimate_default_output_tokens = text.parse().ok()?;
            }
            "stream_missing_usage_policy" => {
                self.stream_missing_usage_policy = MissingUsage::read(&text)?;
            }
            "model_discovery" => self.model_discovery = text.parse().ok()?,
            "models_dev_metadata" => self.models_dev_metadata = text.parse().ok()?,
            "model_cache_ttl_seconds" => {
                let seconds: u64 = text.parse().ok()?;
                self.model_cache_ttl = Duration::from_secs(seconds.min(LONGEST_TTL_S));
            }
            "model_discovery_timeout_seconds" => {
                self.model_discovery_timeout = seconds(&text).filter(|time| !time.is_zero())?;
            }
            "model_discovery_negative_ttl_seconds" => {
                self.model_discovery_negative_ttl = seconds(&text)?;
            }
            "file_understanding_enabled" => self.file_understanding_enabled = text.parse().ok()?,
            "vision_strategy" => self.vision_strategy = VisionStrategy::read(&text)?,
            "vision_describe_max_tokens" => {
                self.vision_describe_max_tokens = text.parse().ok().filter(|most| *most > 0)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether a request of this caller that names another existing user is refused.
    pub fn rejects_mismatch(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Key { rejects_mismatch: Some(own), .. } => *own,
            _ => self.reject_user_mismatch,
        }
    }
}

/// Seconds, with a fraction if need be. Every finite number from zero on is a time, as it is where it was set: one that is
/// too long to be told apart from ever is the longest, and one above zero stays above it.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    if !seconds.is_finite() || seconds < 0.0 {
        return None;
    }
    let longest = Duration::from_secs(LONGEST_TTL_S);
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(longest).min(longest);
    Some(if seconds > 0.0 { time.max(Duration::from_nanos(1)) } else { time })
}

/// The master key, as far as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterKey {
    /// None can be known: the digest in the store is damaged. Management is off.
    Unknown,
    /// The configuration's.
    Configured(KeyDigest),
    /// Made at the first start, or by a rotation.
    Generated(KeyDigest),
}

impl MasterKey {
    /// The key whose digest the store keeps as `hash`.
    pub fn stored(hash: &str) -> Self {
        directory::unhex(hash).map_or(Self::Unknown, Self::Generated)
    }

    /// Whether the token of this digest is the key: digests are of equal lengths, and comparing them takes equal time.
    pub fn is(&self, presented: &KeyDigest) -> bool {
        match self {
            Self::Unknown => false,
            Self::Configured(digest) | Self::Generated(digest) => digest.ct_eq(presented).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Env, Sources};

    fn rows(settings: &[(&str, &str)]) -> Vec<SettingRow> {
        let row = |(key, value): &(&str, &str)| SettingRow {
            key: (*key).into(),
            value: (*value).into(),
            updated_at: crate::clock::timestamp(0),
        };
        settings.iter().map(row).collect()
    }

    fn settings(stored: &[(&str, &str)]) -> Settings {
        let env = Env::from_pairs(vec![("OTARI_REQUIRE_PRICING", "false")]);
        let config = config::load(&Sources { env, ..Sources::default() }).unwrap();
        Settings::new(&config, &rows(stored))
    }

    #[test]
    fn the_store_wins_over_the_configuration_where_it_can_be_read() {
        let configured = settings(&[]);
        assert!(!configured.require_pricing && configured.reject_user_mismatch);
        let stored = settings(&[
            ("budget_estimate_default_output_tokens", "7"),
            ("reject_user_mismatch", "false"),
            ("require_pricing", "True"),
            ("default_pricing", "true"),
            ("stream_missing_usage_policy", "\"fail\""),
            ("file_understanding_enabled", "False"),
            ("vision_strategy", "\"OFF\""),
            ("vision_describe_model", "openai:Qwen-VL"),
            ("vision_describe_max_tokens", "9"),
        ]);
        let want = Settings {
            require_pricing: true,
            default_pricing: true,
            reject_user_mismatch: false,
            budget_estimate_default_output_tokens: 7,
            stream_missing_usage_policy: MissingUsage::Fail,
            file_understanding_enabled: false,
            vision_strategy: VisionStrategy::Off,
            vision_describe_model: Some("openai:Qwen-VL".into()),
            vision_describe_max_tokens: 9,
            ..configured.clone()
        };
        assert_eq!(stored, want);
        let damaged = settings(&[
            ("budget_estimate_default_output_tokens", "-1"),
            ("master_key_hash", "x"),
            ("require_pricing", "maybe"),
            ("vision_strategy", "guess"),
            ("vision_describe_max_tokens", "0"),
        ]);
        assert_eq!(damaged, configured);
    }

    #[test]
    fn a_damaged_digest_is_nobodys_key() {
        let digest = directory::digest("otari-mk-x");
        let key = MasterKey::stored(&directory::hex(&digest));
        assert_eq!(key, MasterKey::Generated(digest));
        assert!(key.is(&digest) && !key.is(&directory::digest("otari-mk-y")));
        assert_eq!(MasterKey::stored("abc"), MasterKey::Unknown);
        assert!(!MasterKey::Unknown.is(&[0; 32]));
    }
}
