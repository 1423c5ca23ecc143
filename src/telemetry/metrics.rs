//! Prometheus series, named as the reference's (contract management 9). Labels come from closed sets only.

use std::time::Duration;

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

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
    /// Budget refusals.
    pub budget_exceeded: IntCounter,
    auth_failures: IntCounterVec,
    attempts: IntCounterVec,
    first_byte: Histogram,
    stream_aborts: IntCounterVec,
    /// Usage records that the store does not have yet.
    pub queue_depth: IntGauge,
    /// The same in bytes.
    pub journal_backlog_bytes: IntGauge,
    /// Dollars held for requests in flight.
    pub budget_held: Gauge,
    batch_size: HistogramVec,
    flush_seconds: HistogramVec,
    rows: IntCounterVec,
}

impl Metrics {
    /// Registers every series.
    ///
    /// # Errors
    /// When two series have one name: a fault of this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(series.clone()))?;
            Ok::<_, prometheus::Error>(series)
        };
        let counter = |name: &str, help: &str| {
            let series = IntCounter::new(name, help)?;
            registry.register(Box::new(series.clone()))?;
            Ok::<_, prometheus::Error>(series)
        };
        let gauge = |name: &str, help: &str| {
            let series = IntGauge::new(name, help)?;
            registry.register(Box::new(series.clone()))?;
            Ok::<_, prometheus::Error>(series)
        };
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let series = HistogramVec::new(options, labels)?;
            registry.register(Box::new(series.clone()))?;
            Ok::<_, prometheus::Error>(series)
        };
        let build = counters("gateway_build_info", "Version of the gateway", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).inc();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let held = Gauge::new("gateway_budget_held_dollars", "Dollars held for requests in flight")?;
        registry.register(Box::new(held.clone()))?;
        let first_byte = Histogram::with_opts(
            HistogramOpts::new(
                "gateway_time_to_first_token_seconds",
                "Time from the arrival of a request to the first byte of its answer",
            )
            .buckets(BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(first_byte.clone()))?;
        Ok(Self {
            requests: counters(
                "gateway_requests_total",
                "Total number of HTTP requests",
                &["endpoint", "method", "status"],
            )?,
            duration: histograms(
                "gateway_request_duration_seconds",
                "HTTP request duration in seconds",
                &["endpoint", "method"],
            )?,
            active: gauge("gateway_active_requests", "Number of currently in-flight requests")?,
            tokens: counters(
                "gateway_tokens_total",
                "Total number of tokens processed",
                &["model", "provider", "type"],
            )?,
            cost: histograms(
                "gateway_request_cost_dollars",
                "Request cost in USD",
                &["model", "provider"],
            )?,
            rate_limit_hits: counter(
                "gateway_rate_limit_hits_total",
                "Total number of rate limit hits",
            )?,
            budget_exceeded: counter(
                "gateway_budget_exceeded_total",
                "Total number of budget exceeded events",
            )?,
            auth_failures: counters(
                "gateway_auth_failures_total",
                "Total number of authentication failures",
                &["reason"],
            )?,
            attempts: counters(
                "gateway_upstream_attempts_total",
                "Calls to providers by outcome",
                &["outcome", "provider"],
            )?,
            first_byte,
            stream_aborts: counters(
                "gateway_stream_aborts_total",
                "Streams that ended early, by the side that ended them",
                &["side"],
            )?,
            queue_depth: gauge(
                "gateway_usage_log_queue_depth",
                "Number of usage log entries waiting to be written",
            )?,
            journal_backlog_bytes: gauge(
                "gateway_journal_backlog_bytes",
                "Bytes of usage records waiting to be written to the database",
            )?,
            budget_held: held,
            batch_size: histograms(
                "gateway_usage_log_batch_size",
                "Number of rows per flush batch",
                &["writer"],
            )?,
            flush_seconds: histograms(
                "gateway_usage_log_flush_duration_seconds",
                "Time spent flushing usage log batches",
                &["result", "writer"],
            )?,
            rows: counters(
                "gateway_usage_log_rows_total",
                "Total usage log rows by outcome",
                &["result", "writer"],
            )?,
            registry,
        })
    }

    /// One finished request. `endpoint` is the route's template.
    pub fn request(&self, method: &str, endpoint: &str, status: u16, took: Duration) {
        let mut digits = itoa::Buffer::new();
        self.requests.with_label_values(&[endpoint, method, digits.format(status)]).inc();
        self.duration.with_label_values(&[endpoint, method]).observe(took.as_secs_f64());
    }

    /// A refused credential.
    pub fn auth_failure(&self, reason: &str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// One call to a provider. `outcome` is `success` or the reason of a failure.
    pub fn attempt(&self, provider: &str, outcome: &str) {
        self.attempts.with_label_values(&[outcome, provider]).inc();
    }

    /// The first byte of an answer has come.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte.observe(after.as_secs_f64());
    }

    /// A stream that ended early: `caller`, `provider` or `gateway`.
    pub fn stream_abort(&self, side: &str) {
        self.stream_aborts.with_label_values(&[side]).inc();
    }

    /// Tokens and cost of an answer. `model` must be one that has a price, or `other`.
    pub fn usage(&self, provider: &str, model: &str, input: u64, output: u64, cost_usd: Option<f64>) {
        for (kind, count) in [("input", input), ("output", output)] {
            if count > 0 {
                self.tokens.with_label_values(&[model, provider, kind]).inc_by(count);
            }
        }
        if let Some(cost) = cost_usd {
            self.cost.with_label_values(&[model, provider]).observe(cost);
        }
    }

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

    /// The page for the scraper, text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(16 << 10);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "the metrics page could not be written");
        }
        page
    }
}
