//! Prometheus series, named as the reference's. Labels come from closed sets only.

mod limits;
mod reload;

use std::time::Duration;

use otari_filters::guardrails::Judged;
use otari_filters::rejection::{Code, Rejection};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder,
};

pub use limits::Limit;
pub use reload::ReloadMetrics;

/// The reference's buckets, in seconds; also used for dollars and rows.
const BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The reference labels its batch writer so; ours always works in batches.
const WRITER: &str = "batch";

/// All series of one gateway.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    /// Requests in flight.
    pub active: IntGauge,
    tokens: IntCounterVec,
    cost: HistogramVec,
    /// 429s of our own.
    pub rate_limit_hits: IntCounter,
    /// Times that shared rate limits could not be brought into step.
    pub rate_exchange_failures: IntCounter,
    /// Budget refusals.
    pub budget_exceeded: IntCounter,
    auth_failures: IntCounterVec,
    calls: CallMetrics,
    /// What the platform is told.
    pub platform: PlatformMetrics,
    /// Dollars held for requests in flight.
    pub budget_held: Gauge,
    /// Scopes whose spend and holds are above their cap.
    pub budgets_over_cap: IntGauge,
    /// Times that changes of other gateways could not be read.
    pub follow_failures: IntCounter,
    tools: ToolMetrics,
    /// Connections of callers.
    pub connections: IntGauge,
    limits: IntCounterVec,
    /// Files that callers upload.
    pub files: FileMetrics,
    /// Readings of the configuration while the gateway runs.
    pub reload: ReloadMetrics,
    /// The way of usage records to the store.
    pub journal: JournalMetrics,
}

/// Files that callers upload.
pub struct FileMetrics {
    /// Bytes of files that were taken.
    pub uploaded: IntCounter,
    /// Bytes of files that callers got.
    pub downloaded: IntCounter,
    /// Files whose bytes were removed.
    pub reclaimed: IntCounter,
}

impl FileMetrics {
    fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        let bytes = add.counters(
            "gateway_file_bytes_total",
            "Bytes of uploaded files that came in and went out",
            &["direction"],
        )?;
        Ok(Self {
            uploaded: bytes.with_label_values(&["upload"]),
            downloaded: bytes.with_label_values(&["download"]),
            reclaimed: add.counter(
                "gateway_files_reclaimed_total",
                "Uploaded files whose bytes were removed, because they were deleted or expired",
            )?,
        })
    }
}

/// The way of usage records to the store.
pub struct JournalMetrics {
    /// Records that the store does not have yet.
    pub queue_depth: IntGauge,
    /// The same in bytes.
    pub backlog_bytes: IntGauge,
    /// Refusals beyond what a caller may leave rows for.
    pub refusal_rows_dropped: IntCounter,
    /// Usage rows removed because of their age.
    pub usage_rows_expired: IntCounter,
    batch_size: HistogramVec,
    flush_seconds: HistogramVec,
    rows: IntCounterVec,
}

/// What the gateway runs for requests itself.
struct ToolMetrics {
    calls: IntCounterVec,
    checks: IntCounterVec,
}

impl ToolMetrics {
    fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            calls: add.counters(
                "gateway_tool_calls_total",
                "Calls of tools that the gateway runs",
                &["tool", "outcome"],
            )?,
            checks: add.counters(
                "gateway_guardrail_checks_total",
                "Checks of what is asked and answered, by what they say",
                &["moment", "mode", "verdict"],
            )?,
        })
    }
}

/// Calls to providers.
struct CallMetrics {
    attempts: IntCounterVec,
    abandoned: IntCounterVec,
    passed_over: IntCounterVec,
    first_byte: Histogram,
    stream_aborts: IntCounterVec,
}

impl CallMetrics {
    fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            attempts: add.counters(
                "gateway_upstream_attempts_total",
                "Calls to providers by outcome",
                &["outcome", "provider"],
            )?,
            abandoned: add.counters(
                "gateway_abandoned_attempts_total",
                "Calls to providers that failed before anything of them reached a caller",
                &["provider", "model", "reason", "position"],
            )?,
            passed_over: add.counters(
                "gateway_circuit_breaker_skips_total",
                "Times a failing provider was passed over for another one",
                &["provider"],
            )?,
            first_byte: add.histogram(
                "gateway_time_to_first_token_seconds",
                "Time from the arrival of a request to the first byte of its answer",
            )?,
            stream_aborts: add.counters(
                "gateway_stream_aborts_total",
                "Streams that ended early, by the side that ended them",
                &["side"],
            )?,
        })
    }
}

/// What a platform is told.
pub struct PlatformMetrics {
    /// Reports on their way.
    pub waiting: IntGauge,
    reports: IntCounterVec,
    settlements: IntCounterVec,
}

impl PlatformMetrics {
    fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            waiting: add.gauge(
                "gateway_platform_reports_waiting",
                "Reports that the platform does not have yet, as far as they were read from the journal",
            )?,
            reports: add.counters(
                "gateway_platform_reports_total",
                "Tries to report an attempt to the platform, by what became of them",
                &["outcome"],
            )?,
            settlements: add.counters(
                "gateway_inline_cost_settlements_total",
                "Answers by whether the platform's cost could be put into them",
                &["outcome"],
            )?,
        })
    }
}

/// Registers series as it makes them.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, series: C) -> prometheus::Result<C> {
        self.0.register(Box::new(series.clone()))?;
        Ok(series)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.add(Histogram::with_opts(options)?)
    }
}

impl JournalMetrics {
    /// A batch went to the store, or failed to.
    pub fn flushed(&self, rows: usize, took: Duration, written: bool) {
        let result = if written { "ok" } else { "error" };
        self.flush_seconds.with_label_values(&[result, WRITER]).observe(took.as_secs_f64());
        if written {
            self.batch_size.with_label_values(&[WRITER]).observe(rows as f64);
            self.rows.with_label_values(&["written", WRITER]).inc_by(rows as u64);
        }
    }

    /// A record could not be kept where it belongs.
    pub fn dropped(&self) {
        self.rows.with_label_values(&["dropped", WRITER]).inc();
    }

    fn new(add: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            queue_depth: add.gauge(
                "gateway_usage_log_queue_depth",
                "Number of usage log entries waiting to be written",
            )?,
            backlog_bytes: add.gauge(
                "gateway_journal_backlog_bytes",
                "Bytes of usage records waiting to be written to the database",
            )?,
            refusal_rows_dropped: add.counter(
                "gateway_refusal_rows_dropped_total",
                "Refused calls that left no usage row, because their caller had left too many",
            )?,
            usage_rows_expired: add.counter(
                "gateway_usage_rows_expired_total",
                "Usage rows removed because they were older than usage_retention_days",
            )?,
            batch_size: add.histograms(
                "gateway_usage_log_batch_size",
                "Number of rows per flush batch",
                &["writer"],
            )?,
            flush_seconds: add.histograms(
                "gateway_usage_log_flush_duration_seconds",
                "Time spent flushing usage log batches",
                &["result", "writer"],
            )?,
            rows: add.counters(
                "gateway_usage_log_rows_total",
                "Total usage log rows by outcome",
                &["result", "writer"],
            )?,
        })
    }
}

impl Metrics {
    /// Registers every series.
    ///
    /// # Errors
    /// When two series have one name: a fault of this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let add = Registrar(&registry);
        add.counters("gateway_build_info", "Version of the gateway", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .inc();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            requests: add.counters(
                "gateway_requests_total",
                "Total number of HTTP requests",
                &["endpoint", "method", "status"],
            )?,
            duration: add.histograms(
                "gateway_request_duration_seconds",
                "HTTP request duration in seconds",
                &["endpoint", "method"],
            )?,
            active: add
                .gauge("gateway_active_requests", "Number of currently in-flight requests")?,
            tokens: add.counters(
                "gateway_tokens_total",
                "Total number of tokens processed",
                &["model", "provider", "type"],
            )?,
            cost: add.histograms(
                "gateway_request_cost_dollars",
                "Request cost in USD",
                &["model", "provider"],
            )?,
            rate_limit_hits: add
                .counter("gateway_rate_limit_hits_total", "Total number of rate limit hits")?,
            rate_exchange_failures: add.counter(
                "gateway_rate_limit_exchange_failures_total",
                "Times that shared rate limits could not be brought into step with the other gateways",
            )?,
            budget_exceeded: add.counter(
                "gateway_budget_exceeded_total",
                "Total number of budget exceeded events",
            )?,
            auth_failures: add.counters(
                "gateway_auth_failures_total",
                "Total number of authentication failures",
                &["reason"],
            )?,
            calls: CallMetrics::new(&add)?,
            platform: PlatformMetrics::new(&add)?,
            budget_held: add.add(Gauge::new(
                "gateway_budget_held_dollars",
                "Dollars held for requests in flight",
            )?)?,
            budgets_over_cap: add.gauge(
                "gateway_budgets_over_cap",
                "Users and API keys whose spend and holds are above their budget: a cap that was lowered, or calls that \
                 cost more than they held",
            )?,
            follow_failures: add.counter(
                "gateway_follow_failures_total",
                "Times that changes made by other gateways could not be read",
            )?,
            tools: ToolMetrics::new(&add)?,
            connections: add.gauge("gateway_connections", "Open connections of callers")?,
            limits: limits::series(&add)?,
            files: FileMetrics::new(&add)?,
            reload: ReloadMetrics::new(&add)?,
            journal: JournalMetrics::new(&add)?,
            registry,
        })
    }

    /// One finished request. `endpoint` is the route's template.
    pub fn request(&self, method: &str, endpoint: &str, status: u16, took: Duration) {
        let mut digits = itoa::Buffer::new();
        self.requests.with_label_values(&[endpoint, method, digits.format(status)]).inc();
        self.duration.with_label_values(&[endpoint, method]).observe(took.as_secs_f64());
    }

    /// A tool of the gateway's was called: `code_execution`, `web_search`, `mcp`.
    pub fn tool_called(&self, tool: &str, failed: bool) {
        let outcome = if failed { "error" } else { "success" };
        self.tools.calls.with_label_values(&[tool, outcome]).inc();
    }

    /// The checks of a request were made, or one of them ended it.
    pub fn checked(&self, moment: &str, judged: Result<&[Judged], &Rejection>) {
        let count = |mode: &str, verdict: &str| {
            self.tools.checks.with_label_values(&[moment, mode, verdict]).inc();
        };
        match judged {
            Ok(judged) => judged.iter().for_each(|one| {
                let verdict = match one.verdict.valid {
                    Some(true) => "valid",
                    Some(false) => "invalid",
                    None => "unknown",
                };
                count(one.mode.as_str(), verdict);
            }),
            Err(refused) if refused.code == Code::GuardrailViolation => count("block", "invalid"),
            Err(_) => count("block", "unknown"),
        }
    }

    /// A refused credential.
    pub fn auth_failure(&self, reason: &str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Something was refused because of a limit.
    pub fn limit(&self, limit: Limit) {
        self.limits.with_label_values(&[limit.as_str()]).inc();
    }

    /// One call to a provider. `outcome` is `success` or the reason of a failure.
    pub fn attempt(&self, provider: &str, outcome: &str) {
        self.calls.attempts.with_label_values(&[outcome, provider]).inc();
    }

    /// One attempt that failed before anything of it reached the caller. `position`: in the plan.
    pub fn abandoned(&self, provider: &str, model: &str, reason: &str, position: u32) {
        let mut digits = itoa::Buffer::new();
        // Plans are short; a platform's numbers need not be.
        let position = digits.format(position.min(99));
        self.calls.abandoned.with_label_values(&[provider, model, reason, position]).inc();
    }

    /// A failing provider was passed over.
    pub fn passed_over(&self, provider: &str) {
        self.calls.passed_over.with_label_values(&[provider]).inc();
    }

    /// An answer's cost was `attached`, `unattached` or not there in time: `timeout`.
    pub fn settled(&self, outcome: &str) {
        self.platform.settlements.with_label_values(&[outcome]).inc();
    }

    /// One try to report: `accepted`, `refused`, `failed`, or `given_up` after too many.
    pub fn report(&self, outcome: &str) {
        self.platform.reports.with_label_values(&[outcome]).inc();
    }

    /// The first byte of an answer has come.
    pub fn first_byte(&self, after: Duration) {
        self.calls.first_byte.observe(after.as_secs_f64());
    }

    /// A stream that ended early: `caller`, `provider` or `gateway`.
    pub fn stream_abort(&self, side: &str) {
        self.calls.stream_aborts.with_label_values(&[side]).inc();
    }

    /// Tokens and cost of an answer. `model` must be one that has a price, or `other`.
    pub fn usage(
        &self,
        provider: &str,
        model: &str,
        input: u64,
        output: u64,
        cost_usd: Option<f64>,
    ) {
        for (kind, count) in [("input", input), ("output", output)] {
            if count > 0 {
                self.tokens.with_label_values(&[model, provider, kind]).inc_by(count);
            }
        }
        if let Some(cost) = cost_usd {
            self.cost.with_label_values(&[model, provider]).observe(cost);
        }
    }

    /// The page for the scraper, text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(16 << 10);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "the metrics page could not be written");
        }
        page
    }
}
