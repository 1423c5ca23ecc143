//! Standalone or connected: whether this gateway or a platform knows keys, prices and budgets.

use super::env::Env;
use super::layers::Fields;
use super::node::{Node, Value};
use super::problem::{Place, Report};
use super::{Secret, policies};

/// Where the platform's token may stand, the first filled one wins. The last two are older names.
const TOKENS: [&str; 3] = ["OTARI_AI_TOKEN", "OTARI_PLATFORM_TOKEN", "ANY_LLM_PLATFORM_TOKEN"];

/// Keys that only standalone mode reads: a connected gateway has no database, no keys and no money of its own.
const STANDALONE_KEYS: &[&str] = &[
    "database_url",
    "auto_migrate",
    "db_pool_size",
    "db_max_overflow",
    "db_pool_timeout",
    "db_pool_recycle",
    "log_writer_strategy",
    "master_key",
    "bootstrap_api_key",
    "rate_limit_rpm",
    "reject_user_mismatch",
    "pricing",
    "default_pricing",
    "require_pricing",
    "aliases",
    "budget_strategy",
    "budget_estimate_default_output_tokens",
    "stream_hold_output_tokens",
    "budget_lease_ttl_s",
    "stream_missing_usage_policy",
    "usage_retention_days",
    "audit_retention_days",
    "files_enabled",
    "files_backend",
    "files_local_dir",
    "files_s3_bucket",
    "files_s3_endpoint_url",
    "files_s3_region",
    "files_s3_access_key_id",
    "files_s3_secret_access_key",
    "files_max_bytes",
    "files_retention_hours",
    "batch_concurrency",
    "batch_poll_interval_s",
    "file_understanding_enabled",
    "vision_strategy",
    "vision_describe_model",
    "vision_describe_max_tokens",
    "model_capabilities",
];

/// Who decides.
pub(super) enum Mode {
    /// This gateway, by its own configuration and database.
    Standalone,
    /// A platform, which knows this gateway by the token.
    Connected(Secret),
}

/// The variable that holds the platform's token; without one a gateway runs standalone.
pub fn token_variable(env: &Env) -> Option<&'static str> {
    TOKENS.into_iter().find(|name| env.filled(name).is_some())
}

/// What `mode` and the token in the environment say. After a problem, what would be checked if there were none.
pub(super) fn read(fields: &Fields, env: &Env, report: &mut Report) -> Mode {
    let token = token_variable(env).and_then(|name| Some((name, env.filled(name)?)));
    let node = fields.get("mode");
    let place = node.map_or_else(|| Place::named("environment"), |n| n.place.clone());
    let mode = node.and_then(|n| n.text(report)).unwrap_or_default().trim().to_lowercase();
    match (mode.as_str(), token) {
        ("" | "standalone", None) => Mode::Standalone,
        ("standalone", Some((name, _))) => {
            let text = format!(
                "Standalone mode conflicts with {name} being set. Unset {name}, or remove the mode."
            );
            report.problem(&place, text);
            Mode::Standalone
        }
        ("" | "hybrid" | "platform", Some((name, token))) => {
            Mode::Connected(checked_token(name, token, report))
        }
        ("hybrid" | "platform", None) => {
            let text = "Hybrid mode (legacy value 'platform') requires OTARI_AI_TOKEN to be set.";
            report.problem(&place, text);
            Mode::Connected(Secret::default())
        }
        (_, token) => {
            let text = "Invalid mode (set via OTARI_MODE or the config 'mode' field). Expected 'standalone' or 'hybrid'.";
            report.problem(&place, text);
            token.map_or(Mode::Standalone, |_| Mode::Connected(Secret::default()))
        }
    }
}

/// Its shape is the platform's business, but a header must be able to carry it.
fn checked_token(name: &str, token: &str, report: &mut Report) -> Secret {
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        let text = format!("{name}: has characters that no header can carry. Copy it again.");
        report.problem(&Place::named("environment"), text);
    }
    Secret::new(token)
}

/// Takes away what connected mode does not read, so that nothing complains about it, and says what was set in vain.
pub(super) fn leave_to_platform(fields: &mut Fields, report: &mut Report) {
    let taken: Vec<Node> = STANDALONE_KEYS.iter().filter_map(|key| fields.take(key)).collect();
    let mut vain: Vec<&Node> = taken.iter().filter(|node| says_something(node)).collect();
    if !policies::names(fields).is_empty() {
        vain.extend(fields.get("routing"));
    }
    let place = match vain.as_slice() {
        [] => return,
        [one] => one.key_place.clone(),
        _ => Place::named("configuration"),
    };
    let names: Vec<&str> = vain.iter().map(|node| node.path.as_str()).collect();
    let text =
        format!("no effect in connected mode, where the platform decides: {}", names.join(", "));
    report.warn(&place, text);
}

/// Not `null` and not empty.
fn says_something(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Broken => false,
        Value::Text(text) => !text.trim().is_empty(),
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => true,
    }
}
