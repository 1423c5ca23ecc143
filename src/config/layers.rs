//! The sources laid over each other: flags, `OTARI_*`, the file, `GATEWAY_*`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::env::Env;
use super::node::{Node, Value, is_secret};
use super::problem::{Place, Report, nearest, suggestion};
use super::yaml;

/// What the command line said; `None` where it said nothing.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--host`.
    pub host: Option<String>,
    /// `--pingora-conf`.
    pub pingora_conf: Option<PathBuf>,
    /// `--port`; 0 lets the system choose.
    pub port: Option<u16>,
    /// `--database-url`.
    pub database_url: Option<super::Secret>,
    /// `--master-key`.
    pub master_key: Option<super::Secret>,
    /// `--auto-migrate` or `--no-auto-migrate`.
    pub auto_migrate: Option<bool>,
    /// `--workers`: threads do that work here, so more than one is only noted.
    pub workers: Option<u32>,
    /// `--log-level`.
    pub log_level: Option<super::LogLevel>,
    /// `--log-format`.
    pub log_format: Option<super::LogFormat>,
}

/// Everything a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file given with `--config`.
    pub file: Option<PathBuf>,
    /// Highest.
    pub flags: Flags,
    /// `OTARI_*`, `GATEWAY_*`, the platform's and the providers' own variables.
    pub env: Env,
}

impl Sources {
    /// `file` and `flags`, with the environment of this process and the `.env` files.
    pub fn from_process(file: Option<PathBuf>, flags: Flags) -> Self {
        let env = Env::from_process(file.as_deref());
        Self { file, flags, env }
    }
}

/// What a key holds, as far as variables can give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text, number or switch: any variable.
    Scalar,
    /// List or mapping: `GATEWAY_*` as JSON.
    Tree,
}

/// Every key of the file.
pub(super) const KEYS: &[(&str, Shape)] = {
    use Shape::{Scalar, Tree};
    &[
        ("host", Scalar),
        ("port", Scalar),
        ("tls_cert_path", Scalar),
        ("tls_key_path", Scalar),
        ("management_address", Scalar),
        ("management_client_ca_path", Scalar),
        ("threads", Scalar),
        ("pingora_conf", Scalar),
        ("database_url", Scalar),
        ("auto_migrate", Scalar),
        ("db_pool_size", Scalar),
        ("db_max_overflow", Scalar),
        ("db_pool_timeout", Scalar),
        ("db_pool_recycle", Scalar),
        ("journal_dir", Scalar),
        ("master_key", Scalar),
        ("bootstrap_api_key", Scalar),
        ("rate_limit_rpm", Scalar),
        ("rate_limits", Tree),
        ("rate_limit_store", Scalar),
        ("cors_allow_origins", Tree),
        ("trusted_proxies", Tree),
        ("auth_failures_per_minute", Scalar),
        ("enable_metrics", Scalar),
        ("enable_docs", Scalar),
        ("log_level", Scalar),
        ("log_format", Scalar),
        ("providers", Tree),
        ("pricing", Tree),
        ("default_pricing", Scalar),
        ("require_pricing", Scalar),
        ("reject_user_mismatch", Scalar),
        ("budget_strategy", Scalar),
        ("log_writer_strategy", Scalar),
        ("budget_estimate_default_output_tokens", Scalar),
        ("stream_hold_output_tokens", Scalar),
        ("budget_lease_ttl_s", Scalar),
        ("stream_missing_usage_policy", Scalar),
        ("retry_after_sent", Scalar),
        ("usage_retention_days", Scalar),
        ("audit_retention_days", Scalar),
        ("batch_concurrency", Scalar),
        ("batch_poll_interval_s", Scalar),
        ("max_connections", Scalar),
        ("max_header_bytes", Scalar),
        ("max_header_count", Scalar),
        ("header_timeout_s", Scalar),
        ("max_concurrent_requests", Scalar),
        ("max_concurrent_requests_per_key", Scalar),
        ("max_concurrent_requests_per_user", Scalar),
        ("max_journal_bytes", Scalar),
        ("max_request_bytes", Scalar),
        ("request_body_timeout_s", Scalar),
        ("request_body_min_bytes_per_s", Scalar),
        ("connect_timeout_s", Scalar),
        ("first_byte_timeout_s", Scalar),
        ("idle_timeout_s", Scalar),
        ("request_timeout_s", Scalar),
        ("downstream_write_timeout_s", Scalar),
        ("downstream_keepalive_s", Scalar),
        ("streaming_keepalive_interval_ms", Scalar),
        ("lame_duck_s", Scalar),
        ("drain_s", Scalar),
        ("upgrade_timeout_s", Scalar),
        ("reload_interval_s", Scalar),
        ("upstream_pool_size", Scalar),
        ("circuit_breaker_failures", Scalar),
        ("circuit_breaker_cooldown_s", Scalar),
        ("mode", Scalar),
        ("platform", Tree),
        ("aliases", Tree),
        ("routing", Tree),
        ("search_tools", Tree),
        ("model_capabilities", Tree),
        ("model_discovery", Scalar),
        ("model_cache_ttl_seconds", Scalar),
        ("model_discovery_timeout_seconds", Scalar),
        ("model_discovery_negative_ttl_seconds", Scalar),
        ("models_dev_metadata", Scalar),
        ("models_dev_cache_ttl_seconds", Scalar),
        ("files_enabled", Scalar),
        ("files_backend", Scalar),
        ("files_local_dir", Scalar),
        ("files_s3_bucket", Scalar),
        ("files_s3_endpoint_url", Scalar),
        ("files_s3_region", Scalar),
        ("files_s3_access_key_id", Scalar),
        ("files_s3_secret_access_key", Scalar),
        ("files_max_bytes", Scalar),
        ("files_retention_hours", Scalar),
        ("file_understanding_enabled", Scalar),
        ("vision_strategy", Scalar),
        ("vision_describe_model", Scalar),
        ("vision_describe_max_tokens", Scalar),
        ("sandbox_url", Scalar),
        ("sandbox_local", Scalar),
        ("sandbox_purpose_hint", Scalar),
        ("web_search_url", Scalar),
        ("web_search_tool", Scalar),
        ("web_search_engines", Scalar),
        ("web_search_max_results", Scalar),
        ("web_search_extract", Scalar),
        ("web_search_purpose_hint", Scalar),
        ("web_search_intercept", Scalar),
        ("web_search_allow_private_hosts", Scalar),
        ("guardrails_url", Scalar),
        ("tools_header", Scalar),
        ("mcp_allow_loopback", Scalar),
        ("mcp_allow_private_hosts", Scalar),
        ("secret_key", Scalar),
    ]
};

/// The winning value of each key that was given.
#[derive(Debug, Default)]
pub(super) struct Fields {
    nodes: BTreeMap<&'static str, Node>,
    /// A `database_url` that the variable `DATABASE_URL` outranks.
    outranked_url: Option<Node>,
}

impl Fields {
    /// Lays the sources over each other.
    pub(super) fn collect(sources: &Sources, report: &mut Report) -> Self {
        let mut file = written(sources, report);
        let mut fields = Self::default();
        for &(key, shape) in KEYS {
            let node = from_flag(key, &sources.flags)
                .or_else(|| from_otari(key, shape, &sources.env, report))
                .or_else(|| {
                    file.remove(key).filter(Node::is_set).filter(|n| !is_blank_mode(key, n))
                })
                .or_else(|| from_gateway(key, shape, &sources.env, report));
            if let Some(node) = node {
                fields.nodes.insert(key, node);
            }
        }
        fields.database_variable(sources);
        if sources.flags.workers.is_some_and(|n| n > 1) {
            let note = "--workers: one process serves with threads; see the key `threads`.";
            report.warn(&Place::named("command line"), note);
        }
        fields
    }

    /// `DATABASE_URL` outranks everything but the flag.
    fn database_variable(&mut self, sources: &Sources) {
        let Some(url) = sources.env.filled("DATABASE_URL") else { return };
        if sources.flags.database_url.as_ref().is_some_and(|url| !url.expose().is_empty()) {
            return;
        }
        let winner = Node::outside("environment", "DATABASE_URL", Value::Text(url.to_owned()));
        let loser = self.nodes.insert("database_url", winner);
        self.outranked_url = loser.filter(|l| !matches!(&l.value, Value::Text(t) if t == url));
    }

    /// Whoever wrote a `database_url` that lost should hear of it, where there is a database at all.
    pub(super) fn warn_of_outranked_url(&self, report: &mut Report) {
        if let Some(loser) = &self.outranked_url {
            loser.warn(report, "not used: the environment variable DATABASE_URL outranks it.");
        }
    }

    /// Takes away what was given for `key`, as if nothing had been.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        if key == "database_url" {
            self.outranked_url = None;
        }
        self.nodes.remove(key)
    }

    /// Everything that was given.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &Node)> {
        self.nodes.iter().map(|(key, node)| (*key, node))
    }

    /// What was given for `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// Text, or `None`.
    pub(super) fn text(&self, key: &str, report: &mut Report) -> Option<&str> {
        self.get(key)?.text(report)
    }

    /// Text without blanks around it; `None` for one that says nothing.
    pub(super) fn words(&self, key: &str, report: &mut Report) -> Option<String> {
        self.get(key)?.words(report)
    }

    /// A whole number in `range`.
    pub(super) fn whole(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        default: u64,
        report: &mut Report,
    ) -> u64 {
        self.some_whole(key, range, report).unwrap_or(default)
    }

    /// A whole number in `range`, or `None`.
    pub(super) fn some_whole(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        report: &mut Report,
    ) -> Option<u64> {
        let high = if *range.end() == u64::MAX { i128::MAX } else { (*range.end()).into() };
        let whole = self.get(key)?.whole(&((*range.start()).into()..=high), report)?;
        u64::try_from(whole).ok()
    }

    /// A switch.
    pub(super) fn flag(&self, key: &str, default: bool, report: &mut Report) -> bool {
        self.get(key).and_then(|node| node.flag(report)).unwrap_or(default)
    }

    /// A time above zero, in seconds.
    pub(super) fn seconds(&self, key: &str, default: u64, report: &mut Report) -> Duration {
        self.duration(key, true, default, report)
    }

    /// A time in seconds; zero is allowed.
    pub(super) fn seconds_or_zero(&self, key: &str, default: u64, report: &mut Report) -> Duration {
        self.duration(key, false, default, report)
    }

    fn duration(&self, key: &str, positive: bool, default: u64, report: &mut Report) -> Duration {
        self.get(key)
            .and_then(|node| node.number(positive, LONGEST_S, report))
            .map_or(Duration::from_secs(default), Duration::from_secs_f64)
    }
}

/// A year: longer waits are mistakes, and clocks overflow on `1e300`.
pub(super) const LONGEST_S: f64 = 31_536_000.0;

/// The file, and `OTARI_CONFIG_YAML` or `OTARI_CONFIG_B64` over it, by top-level key.
fn written(sources: &Sources, report: &mut Report) -> BTreeMap<String, Node> {
    let mut entries = Vec::new();
    if let Some(path) = &sources.file {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => entries.extend(yaml::read(&text, &name, &sources.env, report)),
            Err(error) => report.problem(
                &Place::named(&name),
                format!("cannot be read: {error}. Check the path given with --config."),
            ),
        }
    }
    if let Some(text) = sources.env.filled("OTARI_CONFIG_YAML") {
        entries.extend(yaml::read(text, "OTARI_CONFIG_YAML", &sources.env, report));
    } else if let Some(text) = sources.env.filled("OTARI_CONFIG_B64") {
        let packed: String = text.split_whitespace().collect();
        match STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(text) => {
                entries.extend(yaml::read(&text, "OTARI_CONFIG_B64", &sources.env, report))
            }
            None => report.problem(
                &Place::named("environment"),
                "OTARI_CONFIG_B64: not base64 of a text. Encode the file with `base64 -w0`.",
            ),
        }
    }
    for (key, node) in &entries {
        if !KEYS.iter().any(|(known, _)| known == key) {
            let hint = suggestion(key, KEYS.iter().map(|(name, _)| *name));
            node.warn(report, &format!("unknown key, ignored.{hint}"));
        }
    }
    entries.into_iter().collect()
}

/// Blank leaves the mode to the token, or to a lower source.
fn is_blank_mode(key: &str, node: &Node) -> bool {
    key == "mode" && matches!(&node.value, Value::Text(text) if text.trim().is_empty())
}

fn from_flag(key: &str, flags: &Flags) -> Option<Node> {
    let text = |text: &str| Some(text).filter(|t| !t.is_empty()).map(|t| Value::Text(t.into()));
    let value = match key {
        "host" => text(flags.host.as_deref()?),
        "pingora_conf" => text(flags.pingora_conf.as_deref()?.to_str()?),
        "port" => flags.port.map(|port| Value::Int(port.into())),
        "database_url" => text(flags.database_url.as_ref()?.expose()),
        "master_key" => text(flags.master_key.as_ref()?.expose()),
        "auto_migrate" => flags.auto_migrate.map(Value::Bool),
        "log_level" => text(flags.log_level?.as_str()),
        "log_format" => text(flags.log_format?.as_str()),
        _ => None,
    }?;
    Some(Node::outside("command line", &format!("--{}", key.replace('_', "-")), value))
}

fn from_otari(key: &str, shape: Shape, env: &Env, report: &mut Report) -> Option<Node> {
    let name = format!("OTARI_{}", key.to_uppercase());
    let value = env.filled(&name)?;
    if shape == Shape::Tree {
        let text = format!(
            "{name}: not read. Put lists and mappings into the file or into OTARI_CONFIG_YAML."
        );
        report.warn(&Place::named("environment"), text);
        return None;
    }
    from_variable(key, &name, value, report)
}

fn from_gateway(key: &str, shape: Shape, env: &Env, report: &mut Report) -> Option<Node> {
    let (name, value) = env.filled_any_case(&format!("GATEWAY_{}", key.to_uppercase()))?;
    if shape == Shape::Scalar {
        return from_variable(key, name, value, report);
    }
    match serde_json::from_str(value) {
        Ok(json) => Some(Node::from_json("environment", name, json)),
        Err(error) => {
            let text = format!(
                "{name}: not JSON: {error}. Write a list as [\"a\"], a mapping as {{\"a\": \"b\"}}."
            );
            report.problem(&Place::named("environment"), text);
            None
        }
    }
}

fn from_variable(key: &str, name: &str, value: &str, report: &mut Report) -> Option<Node> {
    // Kubernetes sets <SERVICE>_PORT=tcp://… for a service called `otari` or `gateway`.
    if key == "port" && value.starts_with("tcp://") {
        let text =
            format!("{name}: a Kubernetes service link, ignored. Set enableServiceLinks: false.");
        report.warn(&Place::named("environment"), text);
        return None;
    }
    // Quotes and blanks around a secret may belong to it.
    let value = if is_secret(key) { value } else { value.trim() };
    Some(Node::outside("environment", name, Value::Text(value.to_owned())))
}

/// Warns about every entry whose key is not in `known`; `effect` says what becomes of it.
pub(super) fn warn_unknown(
    entries: &[(String, Node)],
    known: &[&str],
    effect: &str,
    report: &mut Report,
) {
    for (key, node) in entries.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        match nearest(key, known.iter().copied()) {
            Some(name) => {
                node.warn(report, &format!("unknown key, {effect}. Did you mean \"{name}\"?"));
            }
            None => node.warn(report, &format!("unknown key, {effect}.")),
        }
    }
}
