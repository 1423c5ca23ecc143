//! What `/v1/settings` lists. Secrets and what may hold one (URLs, headers) are not among it.

use std::time::Duration;

use otari_filters::validate::{self, Bounds, Field};
use serde_json::{Value, json};

use crate::config::{Config, MissingUsage, VisionStrategy};
use crate::control::settings::Settings;

/// What a setting may hold.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Whole {
        least: u32,
    },
    Choice(&'static [&'static str]),
    Seconds,
    /// A number of seconds above zero, or from zero on.
    Time {
        above_zero: bool,
    },
    Text,
}

impl Kind {
    /// As `type` names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "boolean",
            Self::Whole { .. } => "integer",
            Self::Choice(_) => "enum",
            Self::Seconds | Self::Time { .. } => "number",
            Self::Text => "string",
        }
    }
}

/// What a whole number may be.
pub(super) const fn bounds(least: u32) -> Bounds<i64> {
    // Beyond this no estimate means anything.
    Bounds { at_least: Some(least as i64), above: None, at_most: Some(u32::MAX as i64) }
}

/// What a request may change, as fields of its body.
pub(super) static SETTABLE: [Field; 14] = {
    let mut fields = [Field::new("", validate::Kind::Flag, ""); 14];
    let (mut at, mut next) = (0, 0);
    while next < SETTINGS.len() {
        let setting = &SETTINGS[next];
        next += 1;
        if setting.is_settable {
            let kind = match setting.kind {
                Kind::Flag => validate::Kind::Flag,
                Kind::Whole { least } => validate::Kind::Whole(bounds(least)),
                Kind::Choice(words) => validate::Kind::Choice(words),
                Kind::Time { .. } => validate::Kind::Number,
                Kind::Seconds | Kind::Text => validate::Kind::Text,
            };
            fields[at] = Field::new(setting.key, kind, setting.description);
            at += 1;
        }
    }
    // Holds at compile time: as many as there is room for.
    assert!(at == fields.len());
    fields
};

/// One row of the list.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    pub(super) description: &'static str,
    /// Whether it can be changed while the gateway runs.
    pub(super) is_settable: bool,
    /// Its value in force.
    pub(super) value: fn(&Config, &Settings) -> Value,
}

type Read = fn(&Config, &Settings) -> Value;

/// Changed through the API, and kept in the store.
const fn live(
    key: &'static str,
    kind: Kind,
    group: &'static str,
    description: &'static str,
    value: Read,
) -> Setting {
    Setting { key, kind, group, description, is_settable: true, value }
}

/// Of the configuration: a change needs a restart.
const fn fixed(
    key: &'static str,
    kind: Kind,
    group: &'static str,
    description: &'static str,
    value: Read,
) -> Setting {
    Setting { key, kind, group, description, is_settable: false, value }
}

/// Known, and without effect. A switch is off, because what it would switch on is not there.
const fn unused(key: &'static str, kind: Kind, group: &'static str) -> Setting {
    let value: Read = match kind {
        Kind::Flag => |_, _| Value::Bool(false),
        _ => |_, _| Value::Null,
    };
    Setting { key, kind, group, description: "Not used by this version", is_settable: false, value }
}

fn seconds(time: Duration) -> Value {
    json!(time.as_secs_f64())
}

/// All of them, by group.
pub(super) static SETTINGS: &[Setting] = &[
    live(
        "require_pricing",
        Kind::Flag,
        "pricing",
        "Refuse models without a price with 402",
        |_, now| now.require_pricing.into(),
    ),
    live(
        "default_pricing",
        Kind::Flag,
        "pricing",
        "Bill models without a price at public list prices",
        |_, now| now.default_pricing.into(),
    ),
    live(
        "reject_user_mismatch",
        Kind::Flag,
        "access",
        "Refuse a request that names an existing user other than the key's; a key may say otherwise for itself",
        |_, now| now.reject_user_mismatch.into(),
    ),
    fixed(
        "rate_limit_rpm",
        Kind::Whole { least: 1 },
        "access",
        "Requests per minute and user; null: no limit",
        |config, _| json!(config.rate_limit_rpm),
    ),
    live(
        "budget_estimate_default_output_tokens",
        Kind::Whole { least: 0 },
        "budgets",
        "Output tokens held for a request that declares none",
        |_, now| now.budget_estimate_default_output_tokens.into(),
    ),
    fixed(
        "stream_hold_output_tokens",
        Kind::Whole { least: 1 },
        "budgets",
        "Output tokens a stream holds at first, and again whenever they are used up",
        |config, _| config.stream_hold_output_tokens.into(),
    ),
    live(
        "stream_missing_usage_policy",
        Kind::Choice(&MissingUsage::WORDS),
        "budgets",
        "What a stream without usage costs: the estimate, the estimate and an error row, or nothing",
        |_, now| now.stream_missing_usage_policy.as_str().into(),
    ),
    live(
        "model_discovery",
        Kind::Flag,
        "models",
        "Ask providers for the lists of their models",
        |_, now| now.model_discovery.into(),
    ),
    live(
        "model_cache_ttl_seconds",
        Kind::Whole { least: 0 },
        "models",
        "How long such a list is kept; 0: not at all",
        |_, now| now.model_cache_ttl.as_secs().into(),
    ),
    live(
        "model_discovery_timeout_seconds",
        Kind::Time { above_zero: true },
        "models",
        "How long a provider has for its list",
        |_, now| seconds(now.model_discovery_timeout),
    ),
    live(
        "model_discovery_negative_ttl_seconds",
        Kind::Time { above_zero: false },
        "models",
        "How long a provider that gave no list is left alone",
        |_, now| seconds(now.model_discovery_negative_ttl),
    ),
    live(
        "models_dev_metadata",
        Kind::Flag,
        "models",
        "Show what the lists say about models under /v1/models/metadata",
        |_, now| now.models_dev_metadata.into(),
    ),
    unused("models_dev_cache_ttl_seconds", Kind::Seconds, "models"),
    live(
        "file_understanding_enabled",
        Kind::Flag,
        "files",
        "Put stored files into requests, and text in the place of what the model cannot take",
        |_, now| now.file_understanding_enabled.into(),
    ),
    live(
        "vision_strategy",
        Kind::Choice(&VisionStrategy::WORDS),
        "files",
        "An image that the model cannot take is described by vision_describe_model, or left out with a note",
        |_, now| now.vision_strategy.as_str().into(),
    ),
    live(
        "vision_describe_model",
        Kind::Text,
        "files",
        "The model that describes images, such as openai:gpt-4o-mini; empty: none",
        |_, now| json!(now.vision_describe_model),
    ),
    live(
        "vision_describe_max_tokens",
        Kind::Whole { least: 1 },
        "files",
        "Output tokens of a description",
        |_, now| now.vision_describe_max_tokens.into(),
    ),
    fixed(
        "max_request_bytes",
        Kind::Whole { least: 1 },
        "limits",
        "Largest request body",
        |config, _| json!(config.limits.max_request_bytes),
    ),
    fixed(
        "first_byte_timeout_s",
        Kind::Seconds,
        "limits",
        "From the sent request to the first byte of the answer",
        |config, _| seconds(config.limits.first_byte_timeout),
    ),
    fixed(
        "idle_timeout_s",
        Kind::Seconds,
        "limits",
        "Silence between two pieces of an answer",
        |config, _| seconds(config.limits.idle_timeout),
    ),
    fixed(
        "request_timeout_s",
        Kind::Seconds,
        "limits",
        "From arrival to the end of the answer",
        |config, _| seconds(config.limits.request_timeout),
    ),
    fixed(
        "retry_after_sent",
        Kind::Flag,
        "limits",
        "Repeat also a call that was sent whole and may have been billed",
        |config, _| config.retry_after_sent.into(),
    ),
    fixed("enable_metrics", Kind::Flag, "server", "Serve /metrics", |config, _| {
        config.enable_metrics.into()
    }),
    fixed("threads", Kind::Whole { least: 1 }, "server", "Worker threads", |config, _| {
        json!(config.threads)
    }),
];
