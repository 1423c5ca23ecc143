//! From fields to meaning. A default stands beside the reason for its number.

use std::str::FromStr;
use std::time::Duration;

use otari_filters::route::Policy;

use super::env::Env;
use super::layers::{Fields, Sources};
use super::mode::{self, Mode};
use super::problem::Report;
use super::{
    Ambient, BatchConfig, CircuitBreaker, Config, Files, Listen, LogFormat, LogLevel, MissingUsage,
    PlatformConfig, PriceSeed, ProviderConfig, SearchTool, Secret, aliases, attachments, database,
    files, limits, models, platform, policies, prices, providers, rates, search, serverconf, tls,
    tools, unused,
};

/// Checks everything; what is wrong is in `report`, and then the result is worth nothing.
pub(super) fn check(mut fields: Fields, sources: &Sources, report: &mut Report) -> Config {
    let platform = platform(&mut fields, &sources.env, report);
    let fields = &fields;
    let database = database::read(fields, report);
    let journal_dir = database::journal_dir(fields, &database, report);
    let Targets { providers, ambient, pricing, aliases, policies, files, search_tools } =
        match &platform {
            None => own_targets(fields, &sources.env, report),
            Some(_) => names_alone(fields, report),
        };
    unused::check(fields, report);
    let listen = listen(fields, report);
    let tls = tls::read(fields, report);
    let has_own = platform.is_none();
    let file = serverconf::read(fields, &sources.env, report);
    let rate_limits = rates::read(fields, has_own.then_some(&providers[..]), report);
    let rate_limit_store = rates::store(fields, has_own.then_some(&database), report);
    Config {
        platform,
        file: sources.file.clone(),
        warnings: Vec::new(),
        management: tls::management(fields, &listen, tls.as_ref(), report),
        tls,
        listen,
        threads: file.threads().unwrap_or_else(|| threads(fields, report)),
        database,
        auto_migrate: fields.flag("auto_migrate", true, report),
        journal_dir,
        master_key: fields.text("master_key", report).filter(|k| !k.is_empty()).map(Secret::new),
        bootstrap_api_key: fields.flag("bootstrap_api_key", true, report),
        rate_limit_rpm: limits::requests_per_minute(fields, report),
        rate_limits,
        rate_limit_store,
        cors_allow_origins: cors_allow_origins(fields, report),
        trusted_proxies: limits::trusted_proxies(fields, report),
        auth_failures_per_minute: limits::auth_failures(fields, report),
        enable_metrics: fields.flag("enable_metrics", false, report),
        enable_docs: fields.flag("enable_docs", true, report),
        log_level: word::<LogLevel>(fields, "log_level", report),
        log_format: word::<LogFormat>(fields, "log_format", report),
        providers,
        ambient,
        pricing,
        // Whether a list price is what a provider charges here is the operator's to say.
        default_pricing: fields.flag("default_pricing", false, report),
        aliases,
        policies,
        models: models::read(fields, report),
        tools: tools::read(fields, &search_tools, report),
        search_tools,
        circuit_breaker: circuit_breaker(fields, report),
        // An unpriced model would be free of charge and outside every budget.
        require_pricing: fields.flag("require_pricing", true, report),
        reject_user_mismatch: fields.flag("reject_user_mismatch", true, report),
        budgets_enabled: budgets_enabled(fields, report),
        budget_estimate_default_output_tokens: fields.whole(
            "budget_estimate_default_output_tokens",
            0..=u64::from(u32::MAX),
            1024,
            report,
        ),
        stream_hold_output_tokens: stream_hold(fields, report),
        budget_lease_ttl: budget_lease_ttl(fields, report),
        stream_missing_usage_policy: missing_usage(fields, report),
        // A call that was sent whole may have been billed.
        retry_after_sent: fields.flag("retry_after_sent", false, report),
        usage_retention_days: usage_retention_days(fields, report),
        audit_retention_days: audit_retention_days(fields, report),
        files,
        batches: batches(fields, report),
        attachments: attachments::read(fields, report),
        limits: file.limits(limits::read(fields, report), fields, report),
        pingora: file.pingora,
    }
}

fn budgets_enabled(fields: &Fields, report: &mut Report) -> bool {
    let strategy = fields.text("budget_strategy", report);
    strategy.is_none_or(|strategy| !strategy.trim().eq_ignore_ascii_case("disabled"))
}

fn cors_allow_origins(fields: &Fields, report: &mut Report) -> Vec<String> {
    fields.get("cors_allow_origins").map(|node| node.texts(report)).unwrap_or_default()
}

fn usage_retention_days(fields: &Fields, report: &mut Report) -> Option<u32> {
    // A hundred years: what is meant to be kept longer is kept for ever.
    let days = fields.some_whole("usage_retention_days", 1..=36_500, report)?;
    u32::try_from(days).ok()
}

fn audit_retention_days(fields: &Fields, report: &mut Report) -> Option<u32> {
    // What is asked of auditors is mostly a year. Nobody's usage grows it: there is a row for each change by an operator.
    let days = fields.whole("audit_retention_days", 0..=36_500, 365, report);
    u32::try_from(days).ok().filter(|days| *days > 0)
}

fn stream_hold(fields: &Fields, report: &mut Report) -> u64 {
    // A long answer: most streams end before the first top-up.
    fields.whole("stream_hold_output_tokens", 1..=u64::from(u32::MAX), 4096, report)
}

fn budget_lease_ttl(fields: &Fields, report: &mut Report) -> Duration {
    // Longer than a restart of the gateway or the database takes.
    Duration::from_secs(fields.whole("budget_lease_ttl_s", 5..=86_400, 120, report))
}

fn batches(fields: &Fields, report: &mut Report) -> BatchConfig {
    // Enough to be done overnight, and few enough not to be noticed by callers.
    let concurrency = fields.whole("batch_concurrency", 0..=1000, 4, report);
    BatchConfig {
        concurrency: usize::try_from(concurrency).unwrap_or(4),
        // Batches take hours.
        poll_interval: Duration::from_secs(fields.whole(
            "batch_poll_interval_s",
            1..=86_400,
            60,
            report,
        )),
    }
}

/// The platform of connected mode, and `fields` without what that mode does not read.
fn platform(fields: &mut Fields, env: &Env, report: &mut Report) -> Option<PlatformConfig> {
    match mode::read(fields, env, report) {
        Mode::Standalone => {
            platform::unused(fields, report);
            None
        }
        Mode::Connected(token) => {
            mode::leave_to_platform(fields, report);
            Some(platform::read(token, fields, env, report))
        }
    }
}

/// Where calls may lead, at which price, and what callers may leave here.
#[derive(Default)]
struct Targets {
    providers: Vec<ProviderConfig>,
    /// Not in connected mode: a platform's credentials are never mixed with this machine's.
    ambient: Option<Ambient>,
    pricing: Vec<PriceSeed>,
    aliases: Vec<(String, String)>,
    policies: Vec<Policy>,
    /// Whose they are is in the database, which connected mode has not.
    files: Option<Files>,
    search_tools: Vec<SearchTool>,
}

fn own_targets(fields: &Fields, env: &Env, report: &mut Report) -> Targets {
    let providers = providers::read(fields, env, report);
    let search_tools = search::read(fields, env, report);
    let pricing = prices::read(fields, &providers, &search_tools, report);
    let aliases = aliases::read(fields, &providers, report);
    let policies = policies::read(fields, &providers, &aliases, report);
    let files = files::read(fields, report);
    let ambient = Some(Ambient::read(env));
    Targets { providers, ambient, pricing, aliases, policies, files, search_tools }
}

/// Everything else is the platform's.
fn names_alone(fields: &Fields, report: &mut Report) -> Targets {
    platform::no_providers(fields, report);
    Targets { policies: policies::names(fields), ..Targets::default() }
}

fn circuit_breaker(fields: &Fields, report: &mut Report) -> Option<CircuitBreaker> {
    // Fewer would be tripped by an ordinary run of 429s, and 0 switches it off.
    let failures = fields.whole("circuit_breaker_failures", 0..=1_000_000, 5, report);
    // About what a provider needs to come back after a restart.
    let cooldown = fields.whole("circuit_breaker_cooldown_s", 1..=3600, 10, report);
    let failures = u32::try_from(failures).ok().filter(|n| *n > 0)?;
    Some(CircuitBreaker { failures, cooldown: Duration::from_secs(cooldown) })
}

fn listen(fields: &Fields, report: &mut Report) -> Listen {
    let host = fields.text("host", report).map_or("0.0.0.0", str::trim);
    // A name that cannot resolve is told at bind; blanks are told here, with their place.
    let fits = !host.is_empty() && !host.contains(char::is_whitespace);
    if let Some(node) = fields.get("host").filter(|_| !fits) {
        node.wrong(report, "not a host name or address. Use 0.0.0.0 for every interface.");
    }
    let port = fields.whole("port", 0..=u64::from(u16::MAX), 8000, report);
    Listen { host: host.to_owned(), port: u16::try_from(port).unwrap_or(8000) }
}

fn threads(fields: &Fields, report: &mut Report) -> usize {
    // More threads than this only cost memory.
    let threads = fields.some_whole("threads", 1..=1024, report);
    threads
        .and_then(|n| usize::try_from(n).ok())
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}

fn word<T: FromStr<Err = String> + Default>(fields: &Fields, key: &str, report: &mut Report) -> T {
    let Some(node) = fields.get(key) else { return T::default() };
    // `log_level: 20` is a number in YAML.
    let text = match &node.value {
        super::node::Value::Int(n) => n.to_string(),
        _ => node.text(report).unwrap_or_default().to_owned(),
    };
    if text.is_empty() {
        return T::default();
    }
    text.parse().unwrap_or_else(|what: String| {
        node.wrong(report, &format!("{what}."));
        T::default()
    })
}

fn missing_usage(fields: &Fields, report: &mut Report) -> MissingUsage {
    let key = "stream_missing_usage_policy";
    let Some(text) = fields.text(key, report) else { return MissingUsage::default() };
    MissingUsage::read(&text.trim().to_lowercase()).unwrap_or_else(|| {
        if let Some(node) = fields.get(key) {
            let got = if node.expanded { "…" } else { text };
            let words = MissingUsage::WORDS.join("', '");
            report.problem(&node.place, format!("{key} must be one of ['{words}'], got '{got}'"));
        }
        MissingUsage::default()
    })
}
